//! `headstart data lint`. Owns: how findings read. Never: looks for anything itself.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use headstart::config::{Arch, HeadPooling};
use headstart::lint::{Finding, Lint, LintOptions, Reader, Severity, lint};
use headstart::setup::labelled::DataRequest;
use headstart::setup::reader;
use serde_json::json;

use crate::args::DataLintArgs;
use crate::output::{self, visible};
use crate::progress::{self, Progress, Verbosity};
use crate::settings;

/// Runs it.
pub fn run(args: DataLintArgs) -> Result<ExitCode> {
    let DataLintArgs {
        data,
        examples,
        strict,
        report,
        json,
        model,
        max_length,
        problem,
        tokenizer,
        reading,
        columns,
        places,
    } = args;
    let model = model.map(|name| settings::model_folder(name, places.clone())).transpose()?;
    let config = settings::data_config(data.clone(), Some(tokenizer), reading, columns, places)?;
    progress::stop_on_signal()?;
    let mut progress = Progress::new(Verbosity::Calm);
    let mut listener = |event: headstart::event::Event<'_>| progress.listen(&event);
    let reader: Option<Reader> = match &model {
        Some(model) => Some(reader::of_model(model, max_length)?),
        None if config.tokenizer.is_some() => Some(reader::of_tokenizer(&config, max_length, &mut listener)?),
        None => None,
    };
    // Which special tokens there are is the reader's business.
    let (arch, pooling) = (Arch::default(), HeadPooling::Cls);
    let request =
        DataRequest { config: &config, problem, arch, pooling, positions: usize::MAX, truncation: None };
    let texts = request.read_placed(&mut listener)?;
    let options = LintOptions { examples, reader: reader.as_ref() };
    let found = lint(&texts, options, &mut listener)?;
    progress.finish();
    if let Some(path) = &report {
        found.report(&data).write(path)?;
    }
    if json {
        let counts =
            |splits: &[(headstart::data::Split, u64)]| -> serde_json::Map<String, serde_json::Value> {
                splits.iter().map(|(split, count)| (split.to_string(), json!(count))).collect()
            };
        let Lint { splits, labels, findings, left_out, seconds } = &found;
        let labels: serde_json::Map<String, serde_json::Value> =
            labels.iter().map(|(label, count)| (label.clone(), json!(count))).collect();
        output::json_line(&json!({
            "data": data, "examples": counts(splits), "labels": labels, "findings": findings,
            "left_out": left_out, "worst": found.worst(), "report": report, "seconds": seconds,
        }))?;
    } else {
        output::text(&text(&data, &found))?;
    }
    let bad = found.worst().is_some_and(|worst| worst >= Severity::Warning);
    Ok(if strict && bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn text(data: &str, found: &Lint) -> String {
    let splits: Vec<String> = found.splits.iter().map(|(split, count)| format!("{split} {count}")).collect();
    let mut text = format!("{data}: {} examples\n", splits.join(", "));
    for finding in &found.findings {
        finding_text(&mut text, finding);
    }
    let count = |severity| found.findings.iter().filter(|finding| finding.severity == severity).count();
    let many = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let _ = writeln!(
        text,
        "{}, {}, {} in {:.1} s",
        many(count(Severity::Error), "error"),
        many(count(Severity::Warning), "warning"),
        many(count(Severity::Note), "note"),
        found.seconds
    );
    for left_out in &found.left_out {
        let _ = writeln!(text, "not looked for: {left_out}");
    }
    text
}

fn finding_text(text: &mut String, finding: &Finding) {
    let Finding { kind: _, severity, count: _, what, fix, examples } = finding;
    let _ = writeln!(text, "\n{}: {}", severity.name(), visible(what));
    for shown in examples {
        let note = if shown.note.is_empty() { String::new() } else { format!(" ({})", shown.note) };
        let places = shown.places();
        let (places, sign) = (visible(&places), if places.is_empty() { "" } else { ": " });
        let _ = writeln!(text, "  {places}{sign}{}{}", visible(&shown.text), visible(&note));
    }
    let _ = writeln!(text, "  fix: {fix}");
}
