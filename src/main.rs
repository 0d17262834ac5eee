//! The binary `headstart`: parses, dispatches, prints one error chain, chooses the exit code.
//!
//! Owns: the process (arguments, environment, signals, exit codes 0, 1, 2 and 130). Never: touches a tensor.

mod advice;
mod answers;
mod args;
mod cmd;
mod launched;
mod metrics;
mod output;
mod progress;
mod ranks;
mod settings;
mod vectors;

use std::process::ExitCode;

use args::Command;

/// Counts blocks for `bench`, and puts huge pages under large ones.
#[global_allocator]
static ALLOCATOR: headstart::Allocator = headstart::Allocator;

/// The work went wrong.
const FAILURE: u8 = 1;
/// The program was called wrongly.
const USAGE: u8 = 2;
/// Stopped by Ctrl-C or SIGTERM, with everything saved; the shell's number for an interrupted program.
pub const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    headstart::signals::report_writes_beyond_limit();
    let command = match args::parse(std::env::args_os()) {
        Ok(command) => command,
        Err(error) => {
            // Help and version come this way too, with exit code 0. A closed pipe is not worth a word.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE));
        }
    };
    let result = match command {
        Command::Quickstart(args) => cmd::quickstart::run(args),
        Command::Data(command) => cmd::data::run(command),
        Command::Models(command) => cmd::models::run(command),
        Command::Runs(command) => cmd::runs::run(command),
        Command::Tokenizer(command) => cmd::tokenizer::run(command),
        Command::Pretrain(args) => cmd::pretrain::run(*args),
        Command::Distill(args) => cmd::pretrain::distill(*args),
        Command::Finetune(args) => cmd::finetune::run(*args),
        Command::Auto(args) => cmd::auto::run(*args),
        Command::Eval(args) => cmd::eval::run(args),
        Command::Launch(args) => cmd::launch::run(args),
        Command::Plan(command) => cmd::plan::run(command),
        Command::Predict(args) => cmd::predict::run(args),
        Command::Features(args) => cmd::features::run(args),
        Command::Export(args) => cmd::export::run(args),
        Command::Generate(args) => cmd::generate::run(args),
        Command::Doctor(args) => cmd::doctor::run(&args),
        Command::Bench(args) => cmd::bench::run(*args),
    };
    match result {
        Ok(code) => code,
        Err(error) if error.is::<output::Closed>() => ExitCode::SUCCESS,
        Err(error) => {
            progress::complain(&chain(&error));
            ExitCode::from(exit_code(&error))
        }
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    let usage = error.chain().any(|cause| {
        cause.is::<settings::Usage>()
            || cause.downcast_ref::<headstart::Error>().is_some_and(headstart::Error::is_usage)
    });
    match (usage, progress::interrupted()) {
        (true, _) => USAGE,
        (false, true) => INTERRUPTED,
        (false, false) => FAILURE,
    }
}

/// The error and its causes, one a line; a cause that the line above quotes already is left out.
pub fn chain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str("\n  because: ");
            text.push_str(&cause);
        }
    }
    if let Some(flags) = error.chain().find_map(advice::flags) {
        text.push_str("\n  flags: ");
        text.push_str(flags);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_not_said_twice() {
        let error = anyhow::anyhow!("no such file").context("cannot read x: no such file");
        assert_eq!(chain(&error), "cannot read x: no such file");
        let error = anyhow::anyhow!("no such file").context("cannot predict");
        assert_eq!(chain(&error), "cannot predict\n  because: no such file");
    }

    #[test]
    fn usage_and_failure_have_their_codes() {
        let config = headstart::Error::Config { key: "lr".into(), what: "no".into(), fix: "yes".into() };
        assert_eq!(exit_code(&anyhow::Error::new(config).context("in a file")), USAGE);
        assert_eq!(exit_code(&settings::Usage("no".into()).into()), USAGE);
        assert_eq!(exit_code(&anyhow::anyhow!("disk full")), FAILURE);
    }
}
