//! One file per command, each thin: settings in, library call, result out.
//!
//! Owns: what a command prints. Never: training, models, files of a run.

pub mod auto;
pub mod bench;
pub mod data;
pub mod doctor;
pub mod eval;
pub mod export;
pub mod features;
pub mod finetune;
pub mod generate;
pub mod launch;
mod lint;
pub mod models;
pub mod plan;
pub mod predict;
pub mod pretrain;
pub mod quickstart;
pub mod runs;
pub mod tokenizer;
mod trials;

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use headstart::checkpoint::{WayOut, way_to_transformers};
use headstart::train::Summary;

use crate::INTERRUPTED;
use crate::metrics::{percent, sureness, tables};
use crate::output;
use crate::ranks::Ranks;

/// Prints how a training run ended, once for all its ranks; the exit code says whether a signal stopped it.
fn report(summary: &Summary, json: bool, ranks: &Ranks) -> Result<ExitCode> {
    match (ranks.collective.leads(), json) {
        (false, _) => {}
        (true, true) => output::json_line(summary)?,
        (true, false) => output::text(&summary_text(summary))?,
    }
    let by_signal = summary.stopped.as_deref() == Some("signal");
    Ok(if by_signal { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
}

fn summary_text(summary: &Summary) -> String {
    let Summary {
        run_dir,
        steps,
        skipped,
        total_steps,
        stopped,
        final_dir,
        metrics_step,
        metrics,
        bow,
        fitted,
        confusion,
        labels,
        examples,
        support: _,
        intervals,
        calibration,
        reliability: _,
        evaluated: _,
    } = summary;
    let mut text = format!("{steps} of {total_steps} steps");
    if *skipped > 0 {
        let _ = write!(text, ", {skipped} skipped");
    }
    if let Some(why) = stopped {
        let _ = write!(text, ", stopped by {why}");
    }
    if let Some(step) = metrics_step {
        let which = match (step == steps, final_dir) {
            (true, _) => "the last",
            (false, Some(_)) => "the best on validation",
            (false, None) => "the last evaluation",
        };
        let _ = write!(text, "\nfigures of step {step}, {which}");
    }
    text.push('\n');
    let told = metrics.iter().filter(|(name, _)| !name.ends_with("_calibrated"));
    let told = told.map(|(name, value)| (name.clone(), *value)).collect();
    text.push_str(&tables(&told, confusion.as_deref(), labels));
    // Validation comes before test.
    for (split, count) in examples.iter().rev() {
        let of_split =
            |name: &String| name.strip_prefix(split.as_str())?.strip_prefix('/').map(str::to_owned);
        let own = metrics.iter().filter_map(|(name, value)| Some((of_split(name)?, *value))).collect();
        let ends = intervals.iter().filter_map(|(name, ends)| Some((of_split(name)?, *ends))).collect();
        if let Some(line) = sureness(&own, &ends, *count) {
            let _ = writeln!(text, "{split}: {line}");
        }
    }
    if let Some(calibration) = calibration {
        let (temperature, before, after) =
            (calibration.temperature, percent(calibration.ece_before), percent(calibration.ece_after));
        // What a temperature is fitted for is the likelihood; the error in parts may go the other way.
        let worse = if calibration.ece_after > calibration.ece_before {
            "; that is more, and yet the labels are likelier with it"
        } else {
            ""
        };
        let _ = writeln!(
            text,
            "temperature {temperature:.2}: the calibration error on validation data was {before} %, is {after} %{worse}"
        );
    }
    if let Some(head) = fitted {
        let _ = writeln!(text, "the head: {head}");
    }
    if let Some(bar) = bow {
        let _ = writeln!(text, "a bag of words on the same examples: {bar}");
    }
    match final_dir {
        Some(dir) => {
            let _ = writeln!(text, "model: {}", dir.display());
            let more = match way_to_transformers(dir) {
                Ok(Some(WayOut::Exported)) => "",
                Ok(Some(WayOut::ExportedWithCode)) => " --with-code",
                Ok(None) | Err(_) => return text,
            };
            let run = run_dir.display();
            let _ = writeln!(text, "for transformers: headstart export {run} --to hf{more} --output DIR");
        }
        None if stopped.is_some() => {
            let dir = run_dir.display();
            let _ = writeln!(text, "model so far: {dir} (to go on: --resume {dir})");
        }
        None => {}
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(metrics_step: u64, final_dir: Option<&str>) -> String {
        summary_text(&Summary {
            run_dir: "runs/a".into(),
            steps: 5,
            skipped: 1,
            total_steps: 10,
            stopped: Some("max_time".into()),
            metrics_step: Some(metrics_step),
            metrics: [("valid/nll".to_owned(), 4.0), ("valid/ppl".to_owned(), 54.5982)].into(),
            final_dir: final_dir.map(Into::into),
            ..Summary::default()
        })
    }

    #[test]
    fn a_summary_says_which_step_its_figures_are_of() {
        let so_far = "model so far: runs/a (to go on: --resume runs/a)\n";
        let table = "       valid\nnll   4.0000\nppl  54.5982\n";
        let start = "5 of 10 steps, 1 skipped, stopped by max_time\nfigures of";
        assert_eq!(summary(5, None), format!("{start} step 5, the last\n{table}{so_far}"));
        assert_eq!(summary(4, None), format!("{start} step 4, the last evaluation\n{table}{so_far}"));
        assert_eq!(
            summary(4, Some("runs/a/final")),
            format!("{start} step 4, the best on validation\n{table}model: runs/a/final\n")
        );
    }
}
