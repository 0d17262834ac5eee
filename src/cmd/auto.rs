//! `headstart auto`. Owns: how its result reads. Never: which rung is chosen.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use headstart::auto::{AutoSummary, lines, rows};

use crate::INTERRUPTED;
use crate::args::AutoArgs;
use crate::metrics::percent;
use crate::output::{self, duration, number};
use crate::progress::{self, Progress};
use crate::settings::{self, Run};

/// Runs it.
pub fn run(args: AutoArgs) -> Result<ExitCode> {
    progress::stop_on_signal()?;
    let Run { config, options, telling } = settings::auto(args)?;
    let mut progress = Progress::new(telling.verbosity);
    let summary = headstart::auto::run(&config, &options, &mut |event| progress.listen(&event));
    progress.finish();
    let summary = summary?;
    if telling.json {
        output::json_line(&summary)?;
    } else {
        output::text(&text(&summary))?;
    }
    let by_signal = summary.stopped.as_deref() == Some("signal");
    Ok(if by_signal { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
}

fn text(summary: &AutoSummary) -> String {
    let AutoSummary {
        run_dir,
        stopped,
        final_dir,
        model: _,
        problem: _,
        metric,
        rungs,
        skipped,
        why_stopped,
        chosen: _,
        why_chosen,
        best_so_far,
        metrics,
        intervals,
        temperature,
        seconds,
    } = summary;
    let mut text = String::from("on validation data\n");
    for line in lines(&rows(metric, rungs)) {
        let _ = writeln!(text, "{line}");
    }
    for why in skipped {
        let _ = writeln!(text, "left out: {why}");
    }
    for why in why_stopped.iter().chain(why_chosen) {
        let _ = writeln!(text, "{why}");
    }
    if let Some(best) = best_so_far {
        let name = best.file_name().unwrap_or_default().display();
        let _ = writeln!(text, "stopped before a model is chosen; best so far: {name} ({})", best.display());
    }
    let told = |(name, word, is_share): (&str, &str, bool)| {
        let key = format!("test/{name}");
        let value = *metrics.get(&key)?;
        let figure = |value: f64| if is_share { percent(value) } else { number(value) };
        let ends = intervals.get(&key);
        let ends = ends.map(|[low, high]| format!(" (95 %: {} to {})", figure(*low), figure(*high)));
        let unit = if is_share { " %" } else { "" };
        Some(format!("{word} {}{unit}{}", figure(value), ends.unwrap_or_default()))
    };
    let test: Vec<String> = [
        ("accuracy", "accuracy", true),
        ("macro_f1", "macro-F1", true),
        ("micro_f1", "micro-F1", true),
        ("exact_match", "exact matches", true),
        ("ece_calibrated", "ECE", true),
        ("mse", "mse", false),
        ("pearson", "Pearson", false),
        ("spearman", "Spearman", false),
    ]
    .into_iter()
    .filter_map(told)
    .collect();
    if !test.is_empty() {
        let _ = writeln!(text, "on test data, told once: {}", test.join(", "));
    }
    if let Some(temperature) = temperature {
        let _ = writeln!(text, "temperature {temperature:.2}, saved with the model");
    }
    let _ = writeln!(text, "time: {}", duration(*seconds));
    let (dir, report) = (run_dir.display(), run_dir.join("report.html"));
    let _ = writeln!(text, "report: {}", report.display());
    if final_dir.is_some() {
        let _ = writeln!(text, "model: {dir}/final\nnext: headstart predict {dir}");
    }
    if stopped.is_some() {
        let _ = writeln!(text, "to go on: headstart auto --resume {dir}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_chosen_and_why() {
        let summary = AutoSummary {
            run_dir: "runs/a".into(),
            final_dir: Some("runs/a/final".into()),
            why_stopped: Some("The top of the ladder is reached.".into()),
            why_chosen: Some("1-bow is chosen: it is the best.".into()),
            metrics: [("test/accuracy".to_owned(), 0.5), ("valid/accuracy".to_owned(), 0.25)].into(),
            intervals: [("test/accuracy".to_owned(), [0.4, 0.6])].into(),
            temperature: Some(1.5),
            ..AutoSummary::default()
        };
        let text = text(&summary);
        for part in [
            "ladder is reached.\n1-bow is chosen: it is the best.\n",
            "on test data, told once: accuracy 50.0 % (95 %: 40.0 to 60.0)\n",
            "temperature 1.50, saved with the model\n",
            "next: headstart predict runs/a\n",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        let stopped = AutoSummary { stopped: Some("max_time".into()), final_dir: None, ..summary };
        let cut = AutoSummary {
            stopped: Some("signal".into()),
            why_chosen: None,
            best_so_far: Some("runs/a/1-bow".into()),
            ..stopped.clone()
        };
        let told = super::text(&cut);
        let line = "stopped before a model is chosen; best so far: 1-bow (runs/a/1-bow)\n";
        assert!(told.contains(line), "{told}");
        assert!(!told.contains("is chosen:"), "{told}");
        let text = super::text(&stopped);
        assert!(text.ends_with("to go on: headstart auto --resume runs/a\n") && !text.contains("next:"));
    }
}
