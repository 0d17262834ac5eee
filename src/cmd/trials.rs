//! What several runs of `finetune` came to. Owns: how it reads at 80 columns. Never: computes a metric.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use headstart::config::TASK_TEXTS;
use headstart::trials::{Arm, Curve, Done, RateSearch, TrialsSummary};

use crate::INTERRUPTED;
use crate::output::{self, duration, number};
use crate::ranks::Ranks;

/// Prints it once for all ranks; the exit code says whether a signal stopped it.
pub fn report(summary: &TrialsSummary, json: bool, ranks: &Ranks) -> Result<ExitCode> {
    match (ranks.collective.leads(), json) {
        (false, _) => {}
        (true, true) => output::json_line(summary)?,
        (true, false) => output::text(&text(summary))?,
    }
    let by_signal = summary.stopped.as_deref() == Some("signal");
    Ok(if by_signal { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
}

fn text(summary: &TrialsSummary) -> String {
    let TrialsSummary {
        run_dir,
        stopped,
        final_dir,
        metric,
        adapted,
        lr_search,
        runs,
        unfinished,
        statistics,
        best,
        curve,
    } = summary;
    let mut text = String::new();
    if let Some(adapted) = adapted {
        let on = if adapted.text == TASK_TEXTS { "the task's texts" } else { &adapted.text };
        let measured =
            adapted.metrics.get("valid/ppl").map(|ppl| format!(", validation perplexity {ppl:.1}"));
        let _ = writeln!(text, "adapted to {on} for {} steps{}", adapted.steps, measured.unwrap_or_default());
    }
    if let Some(search) = lr_search {
        search_text(&mut text, search);
    }
    if let Some(curve) = curve {
        curve_text(&mut text, curve);
    } else {
        runs_text(&mut text, runs, metric);
        if runs.len() > 1 {
            let _ = writeln!(
                text,
                "\n{:<28} {:>9} {:>9} {:>9} {:>9}",
                "over the seeds", "mean", "std", "least", "greatest"
            );
            for of in statistics.iter().filter(|of| of.metric.matches('/').count() < 2) {
                let [mean, std, min, max] = [of.mean, of.std, of.min, of.max].map(number);
                let name = of
                    .metric
                    .replace("bow/valid_", "bag of words valid/")
                    .replace("bow/test_", "bag of words test/");
                let _ = writeln!(text, "{name:<28} {mean:>9} {std:>9} {min:>9} {max:>9}");
            }
        }
    }
    if let Some(best) = best.as_ref().filter(|_| curve.is_none() && runs.len() > 1) {
        let _ = writeln!(text, "best on validation: {best}");
    }
    if !unfinished.is_empty() {
        let why = stopped.as_deref().unwrap_or("an end");
        let _ = writeln!(text, "stopped by {why}, not whole: {}", unfinished.join(", "));
    }
    if let Some(dir) = final_dir {
        let _ = writeln!(text, "model: {}", dir.display());
    }
    let _ = writeln!(text, "report: {}", run_dir.join("report.html").display());
    if stopped.is_some() {
        let _ = writeln!(text, "to go on: headstart finetune --resume {}", run_dir.display());
    }
    text
}

fn search_text(text: &mut String, search: &RateSearch) {
    let _ = writeln!(text, "learning rates after {} steps:   {}   valid/loss", search.steps, search.metric);
    for tried in &search.tried {
        let cell = |value: Option<f64>| value.map_or("-".into(), number);
        let is = |rate: f64| rate.to_bits() == tried.lr.to_bits();
        let mark = match (search.chosen.is_some_and(is), is(search.usual)) {
            (true, true) => "  chosen, the recipe's",
            (true, false) => "  chosen",
            (false, true) => "  the recipe's",
            (false, false) => "",
        };
        let _ = writeln!(text, "  {:<8e} {:>28} {:>14}{mark}", tried.lr, cell(tried.value), cell(tried.loss));
    }
    if let (Some(chosen), Some(edge)) = (search.chosen, search.edge()) {
        let _ = writeln!(text, "of {chosen:e}: {edge}");
    }
}

fn runs_text(text: &mut String, runs: &[Done], metric: &str) {
    let valid = metric.replacen("test/", "valid/", 1);
    let names: Vec<&str> = if valid == metric { vec![metric] } else { vec![valid.as_str(), metric] };
    let _ = write!(text, "{:<24}", "run");
    for name in &names {
        let _ = write!(text, " {name:>16}");
    }
    let _ = writeln!(text, " {:>10}", "time");
    for run in runs {
        let _ = write!(text, "{:<24}", run.name);
        for name in &names {
            let value = run.metrics.get(*name).map_or("-".into(), |value| number(*value));
            let _ = write!(text, " {value:>16}");
        }
        let _ = writeln!(text, " {:>10}", duration(run.seconds));
    }
    if let [run] = runs
        && let Some(bow) = &run.bow
    {
        let _ = writeln!(text, "a bag of words on the same examples: {bow}");
    }
}

fn curve_text(text: &mut String, curve: &Curve) {
    let arms = [Arm::HeadStart, Arm::Scratch, Arm::BagOfWords];
    let arms: Vec<Arm> = arms.into_iter().filter(|arm| curve.of_arm(*arm).next().is_some()).collect();
    let _ = write!(text, "{:<20}", curve.metric);
    for arm in &arms {
        let _ = write!(text, " {:>19}", arm.name());
    }
    text.push('\n');
    let mut sizes: Vec<usize> = curve.points.iter().map(|point| point.size).collect();
    sizes.dedup();
    for size in sizes {
        let _ = write!(text, "{:<20}", format!("{size} examples"));
        for arm in &arms {
            let point = curve.of_arm(*arm).find(|point| point.size == size);
            let cell = point.map_or("-".into(), |point| {
                let of = &point.values;
                let spread =
                    if of.each.len() > 1 { format!(" +- {}", number(of.std)) } else { String::new() };
                number(of.mean) + &spread
            });
            let _ = write!(text, " {cell:>19}");
        }
        text.push('\n');
    }
}
