//! `headstart generate`. Owns: writing text as it comes. Never: the model or the draws.

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use anyhow::Result;
use console::Term;
use headstart::checkpoint::ModelPath;
use headstart::infer::{GenerateConfig, Generator};
use serde_json::json;

use crate::args::{ComputeArgs, GenerateArgs};
use crate::output::{self, wrap::Wrapped};
use crate::{progress, settings};

/// Runs it.
pub fn run(args: GenerateArgs) -> Result<ExitCode> {
    let GenerateArgs {
        run,
        below,
        prompt,
        max_new_tokens,
        temperature,
        top_k,
        top_p,
        seed,
        compute,
        places,
        json,
    } = args;
    let ComputeArgs { precision, threads, device } = compute;
    let config = GenerateConfig { max_new_tokens, temperature, top_k, top_p, seed };
    config.validate()?;
    let (run, base) = settings::model_and_base(run, below.base, places)?;
    let choice = settings::devices::choice(device);
    let generator =
        Generator::load(ModelPath { path: &run, base: base.as_deref() }, precision, &choice, threads)?;
    if let Some(note) = choice.note(generator.device()) {
        progress::say(&note);
    }
    if json {
        let text = generator.generate(&prompt, &config, &mut |_| ())?;
        output::json_line(&json!({ "prompt": prompt, "text": text }))?;
        return Ok(ExitCode::SUCCESS);
    }
    // A piece has no way to report that the reader has gone, so it is kept until the end. The prompt comes with the
    // first piece, so that one that is refused leaves nothing on standard output.
    let mut writer = Writer::new();
    let mut written = Ok(());
    let mut begun = false;
    generator.generate(&prompt, &config, &mut |piece| {
        if written.is_ok() {
            written = if begun { writer.write(piece) } else { writer.write(&format!("{prompt}{piece}")) };
            begun = true;
        }
    })?;
    written?;
    if !begun {
        writer.write(&prompt)?;
    }
    writer.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// Standard output for running text.
enum Writer {
    /// A file or a pipe gets it as it is.
    Plain,
    /// A terminal gets it in lines, and nothing that it would obey.
    Terminal(Wrapped),
}

impl Writer {
    fn new() -> Self {
        match Term::stdout().size_checked() {
            Some((_, columns)) if io::stdout().is_terminal() => Self::Terminal(Wrapped::new(columns.into())),
            _ => Self::Plain,
        }
    }

    fn write(&mut self, piece: &str) -> Result<()> {
        match self {
            Self::Plain => output::raw(piece),
            Self::Terminal(lines) => output::raw(&lines.push(&output::visible(piece))),
        }
    }

    fn finish(self) -> Result<()> {
        match self {
            Self::Plain => output::raw("\n"),
            Self::Terminal(lines) => output::raw(&(lines.finish() + "\n")),
        }
    }
}
