//! `headstart quickstart`. Owns: how its result reads. Never: the experiment.

use std::process::ExitCode;

use anyhow::Result;
use headstart::quickstart::{Arm, QuickstartConfig, QuickstartSummary};

use crate::args::QuickstartArgs;
use crate::output;
use crate::progress::{self, Progress, Verbosity};
use crate::settings;

/// Runs it.
pub fn run(args: QuickstartArgs) -> Result<ExitCode> {
    let QuickstartArgs { out, threads, device, seed, json } = args;
    let out = match out {
        Some(out) => out,
        None => settings::new_folder(&settings::default_out("quickstart"))?,
    };
    progress::stop_on_signal()?;
    progress::say(&format!("runs and report: {}", out.display()));
    let mut progress = Progress::new(Verbosity::Calm);
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
    let QuickstartSummary { pretrained, scratch, shipped, words, report, model, .. } = summary;
    let by = (pretrained.accuracy_mean - scratch.accuracy_mean) * 100.0;
    let verdict = match pretrained.accuracy_mean.total_cmp(&scratch.accuracy_mean) {
        std::cmp::Ordering::Greater => format!("pretraining wins {by:.1} points"),
        std::cmp::Ordering::Less => format!("pretraining loses {:.1} points", -by),
        std::cmp::Ordering::Equal => "pretraining wins nothing".to_owned(),
    };
    let seeds = pretrained.accuracies.len();
    format!(
        "\n{:<26}  {:>16}  {:>10}  {:>6}  {:>6}\n{:<26}  {:>16}  {:>10}  {:>6}  {:>6}\n{}{}{}\n\
         {verdict} (test accuracy, mean and spread of {seeds} seeds);\n\
         the validation questions are few and near to training's: the report says more\n\
         report: {}\n\
         next:   echo 'Who built the old harbour ?' | \\\n        headstart predict {}\n",
        "",
        "test",
        "validation",
        "lr",
        "time",
        "words alone",
        percent(words.accuracy),
        percent(words.validation),
        "",
        output::duration(words.seconds),
        row("from random weights", scratch),
        row("after a minute's training", pretrained),
        row("from the model shipped", shipped),
        report.display(),
        model.display()
    )
}

fn row(name: &str, arm: &Arm) -> String {
    let test = format!("{} +- {}", percent(arm.accuracy_mean), percent(arm.accuracy_std));
    format!(
        "{name:<26}  {test:>16}  {:>10}  {:>6}  {:>6}\n",
        percent(arm.validation_mean),
        format!("{:e}", arm.lr),
        output::duration(arm.seconds)
    )
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use headstart::quickstart::Words;

    use super::*;

    fn arm(accuracy: f64) -> Arm {
        Arm {
            accuracy_mean: accuracy,
            accuracy_std: 0.015,
            accuracies: vec![accuracy; 3],
            validation_mean: 0.59,
            lr: 1e-3,
            seconds: 20.0,
            ..Arm::default()
        }
    }

    #[test]
    fn a_table_a_verdict_and_the_next_command() {
        let said = |pretrained, scratch| {
            text(&QuickstartSummary {
                pretrained: arm(pretrained),
                scratch: arm(scratch),
                shipped: arm(0.9),
                words: Words { accuracy: 0.526, validation: 0.6, strength: 10.0, seconds: 0.1 },
                report: "runs/q/report.html".into(),
                model: "runs/q/pretrained-lr1e-3-seed43".into(),
                ..QuickstartSummary::default()
            })
        };
        let expected = "\n                                        test  validation      lr    time\n\
                        words alone                           52.6 %      60.0 %              0s\n\
                        from random weights          60.0 % +- 1.5 %      59.0 %    1e-3     20s\n\
                        after a minute's training    70.0 % +- 1.5 %      59.0 %    1e-3     20s\n\
                        from the model shipped       90.0 % +- 1.5 %      59.0 %    1e-3     20s\n\n\
                        pretraining wins 10.0 points (test accuracy, mean and spread of 3 seeds);\n\
                        the validation questions are few and near to training's: the report says more\n\
                        report: runs/q/report.html\n\
                        next:   echo 'Who built the old harbour ?' | \\\n        \
                        headstart predict runs/q/pretrained-lr1e-3-seed43\n";
        assert_eq!(said(0.7, 0.6), expected);
        assert!(said(0.5, 0.6).contains("pretraining loses 10.0 points"));
        assert!(said(0.5, 0.5).contains("\npretraining wins nothing ("));
        assert!(said(0.7, 0.6).lines().all(|line| line.chars().count() <= 80));
    }
}
