//! `headstart quickstart`. Owns: how its result reads. Never: the experiment.

use std::process::ExitCode;

use anyhow::Result;
use headstart::quickstart::{Arm, QuickstartConfig, QuickstartSummary};

use crate::args::QuickstartArgs;
use crate::output;
use crate::progress::{self, Progress};
use crate::settings;

/// Runs it.
pub fn run(args: QuickstartArgs) -> Result<ExitCode> {
    let QuickstartArgs { out, threads, device, seed, json, verbose } = args;
    let out = match out {
        Some(out) => out,
        None => settings::new_folder(&settings::default_out("quickstart"))?,
    };
    progress::stop_on_signal()?;
    progress::say(&format!("runs and report: {}", out.display()));
    let mut progress = Progress::new(settings::verbosity(verbose));
    let config = QuickstartConfig { out, threads, device: settings::devices::choice(device), seed };
    let summary = headstart::quickstart::run(&config, &mut |event| progress.listen(&event));
    progress.finish();
    let summary = summary?;
    if json {
        output::json_line(&summary)?;
    } else {
        output::text(&text(&summary))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(summary: &QuickstartSummary) -> String {
    let QuickstartSummary { pretrained, scratch, pretraining_ppl, pretraining_seconds, out: _, report } =
        summary;
    let verdict = match pretrained.accuracy_mean.total_cmp(&scratch.accuracy_mean) {
        std::cmp::Ordering::Greater => "the head start wins",
        std::cmp::Ordering::Less => "the head start loses",
        std::cmp::Ordering::Equal => "a draw",
    };
    format!(
        "\nvalidation accuracy after each epoch of fine-tuning (mean over the seeds)\n{}{}\n\
         test accuracy               mean +- spread   each seed\n{}{}\n\
         {verdict}; pretraining took {} and reached a validation perplexity of {pretraining_ppl:.1}\n\
         report: {}\n",
        curve("with the head start", pretrained),
        curve("without", scratch),
        row("with the head start", pretrained),
        row("without", scratch),
        output::duration(*pretraining_seconds),
        report.display()
    )
}

fn row(name: &str, arm: &Arm) -> String {
    let Arm { accuracy_mean, accuracy_std, accuracies, lr, validation_curve: _, seconds } = arm;
    let each: Vec<String> = accuracies.iter().map(|a| percent(*a)).collect();
    format!(
        "{name:<24} {:>7} +- {:<7}  {}   (lr {lr:.1e}, {})\n",
        percent(*accuracy_mean),
        percent(*accuracy_std),
        each.join(" "),
        output::duration(*seconds)
    )
}

fn curve(name: &str, arm: &Arm) -> String {
    let each: Vec<String> = arm.validation_curve.iter().map(|a| format!("{:>3.0}", a * 100.0)).collect();
    format!("{name:<24} {}\n", each.join(" "))
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arm(accuracy: f64) -> Arm {
        Arm {
            accuracy_mean: accuracy,
            accuracy_std: 0.01,
            accuracies: vec![accuracy; 3],
            lr: 1e-3,
            validation_curve: vec![0.25, accuracy],
            seconds: 20.0,
        }
    }

    #[test]
    fn a_loss_is_called_one() {
        let summary = |pretrained, scratch| QuickstartSummary {
            pretrained: arm(pretrained),
            scratch: arm(scratch),
            pretraining_ppl: 8.0,
            pretraining_seconds: 30.0,
            out: "runs/q".into(),
            report: "runs/q/report.html".into(),
        };
        assert!(text(&summary(0.5, 0.6)).contains("the head start loses; pretraining took 30s"));
        let won = text(&summary(0.7, 0.6));
        assert!(won.contains("the head start wins") && won.contains("70.0 % +- 1.0 %"), "{won}");
    }
}
