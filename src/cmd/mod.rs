//! One file per command, each thin: settings in, library call, result out.
//!
//! Owns: what a command prints. Never: training, models, files of a run.

pub mod bench;
pub mod data;
pub mod doctor;
pub mod eval;
pub mod finetune;
pub mod generate;
pub mod predict;
pub mod pretrain;
pub mod quickstart;
pub mod tokenizer;

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use headstart::train::Summary;

use crate::INTERRUPTED;
use crate::figures::tables;
use crate::output;

/// Prints how a training run ended; the exit code says whether a signal stopped it.
fn report(summary: &Summary, json: bool) -> Result<ExitCode> {
    if json {
        output::json_line(summary)?;
    } else {
        output::text(&summary_text(summary))?;
    }
    let by_signal = summary.stopped.as_deref() == Some("signal");
    Ok(if by_signal { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
}

fn summary_text(summary: &Summary) -> String {
    let Summary { run_dir, steps, skipped, total_steps, stopped, final_dir, metrics, confusion, labels } =
        summary;
    let mut text = format!("{steps} of {total_steps} steps");
    if *skipped > 0 {
        let _ = write!(text, ", {skipped} skipped");
    }
    if let Some(why) = stopped {
        let _ = write!(text, ", stopped by {why}");
    }
    text.push('\n');
    text.push_str(&tables(metrics, confusion.as_deref(), labels));
    match final_dir {
        Some(dir) => {
            let _ = writeln!(text, "model: {}", dir.display());
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

    #[test]
    fn a_summary_reads_like_one() {
        let summary = Summary {
            run_dir: "runs/x".into(),
            steps: 5,
            skipped: 1,
            total_steps: 10,
            stopped: Some("max_time".into()),
            metrics: [("valid/nll".to_owned(), 4.0), ("valid/perplexity".to_owned(), 54.5982)].into(),
            ..Summary::default()
        };
        let expected = "5 of 10 steps, 1 skipped, stopped by max_time\n              valid\nnll          4.0000\nperplexity  54.5982\nmodel so far: runs/x (to go on: --resume runs/x)\n";
        assert_eq!(summary_text(&summary), expected);
    }
}
