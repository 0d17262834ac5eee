//! The page of several runs.
//!
//! Owns: its words, tables and charts. Never: a metric that no run has measured.

use std::path::Path;

use super::{Arm, Curve as SizeCurve, CurvePoint, Done, TrialsSummary, decides};
use crate::config::{FinetuneConfig, TASK_TEXTS};
use crate::error::Result;
use crate::report::{Along, Chart, Curve, Report, Table};
use crate::run_log::{Kind, read_metrics};
use crate::train::{fixed, thousands};

/// The page; `dir`: where the runs lie.
pub(super) fn page(config: &FinetuneConfig, summary: &TrialsSummary, dir: &Path) -> Result<Report> {
    let mut tables = Vec::new();
    let mut charts = Vec::new();
    match &summary.curve {
        Some(curve) => {
            tables.push(sizes(curve));
            charts.push(size_chart(curve));
        }
        None => tables.push(over_seeds(summary)),
    }
    tables.push(runs(summary));
    tables.extend(search(summary));
    if summary.curve.is_none() {
        charts.extend(validation(config, summary, dir)?);
    }
    tables.retain(|table| !table.rows.is_empty());
    let name = dir.file_name().unwrap_or_default().display();
    Ok(Report {
        title: format!("Headstart runs {name}"),
        summary: words(config, summary),
        tables,
        charts,
        ..Report::default()
    })
}

fn words(config: &FinetuneConfig, summary: &TrialsSummary) -> Vec<String> {
    let model = config.model.as_ref().map(|model| model.display().to_string()).unwrap_or_default();
    let count = summary.runs.len();
    let runs = if count == 1 { "1 whole run".into() } else { format!("{count} whole runs") };
    let mut all = vec![format!("{runs} on {}, starting from {model}.", config.data.path)];
    if let Some(adapted) = &summary.adapted {
        let measured =
            adapted.metrics.get("valid/ppl").map(|ppl| format!(", validation perplexity {ppl:.1}"));
        let text = if adapted.text == TASK_TEXTS { "the task's own training texts" } else { &adapted.text };
        all.push(format!(
            "The model was adapted first: language modelling on {text} for {} steps{}.",
            thousands(adapted.steps as usize),
            measured.unwrap_or_default()
        ));
    }
    if let Some(lr) = summary.lr_search.as_ref().and_then(|search| search.chosen) {
        all.push(format!("Short runs chose the learning rate {lr:e}, on validation data."));
    }
    if summary.curve.is_some() {
        all.push(
            "The examples of a smaller size are among those of each larger one of the same seed, all classes alike. From \
             scratch: the same sizes of the model with weights drawn afresh, everything trained. All are measured on the same \
             examples."
                .into(),
        );
    }
    if !summary.unfinished.is_empty() {
        all.push(format!("Not whole, and in no figure: {}.", summary.unfinished.join(", ")));
    }
    if let Some(best) = summary.best.as_ref().filter(|_| summary.curve.is_none()) {
        all.push(format!("Best on validation: {best}."));
    }
    all
}

/// Every metric over the seeds.
fn over_seeds(summary: &TrialsSummary) -> Table {
    let row = |of: &super::Statistic| {
        let mut cells = vec![of.metric.clone()];
        cells.extend([of.mean, of.std, of.min, of.max].map(figure));
        cells
    };
    let header = ["metric", "mean", "spread (std)", "least", "greatest"];
    Table {
        title: format!("Over {} runs", summary.runs.len()),
        header: header.map(str::to_owned).to_vec(),
        rows: summary.statistics.iter().filter(|of| !by_class(&of.metric)).map(row).collect(),
        ..Table::default()
    }
}

/// Whether a metric is one of a single class: `test/f1/NAME`.
fn by_class(metric: &str) -> bool {
    metric.matches('/').count() > 1
}

/// Every run with the way to its own page.
fn runs(summary: &TrialsSummary) -> Table {
    let other = summary.metric.replacen("test/", "valid/", 1);
    let value =
        |run: &Done, metric: &str| run.metrics.get(metric).map_or("\u{2013}".into(), |value| figure(*value));
    let row = |run: &Done| {
        vec![
            run.name.clone(),
            run.arm.name().to_owned(),
            run.seed.to_string(),
            run.steps.to_string(),
            value(run, &other),
            value(run, &summary.metric),
            format!("{:.0} s", run.seconds),
        ]
    };
    let header = ["run", "start", "seed", "steps", other.as_str(), summary.metric.as_str(), "time"];
    Table {
        title: "All runs".into(),
        header: header.map(str::to_owned).to_vec(),
        links: summary.runs.iter().map(|run| format!("{}/report.html", run.name)).collect(),
        rows: summary.runs.iter().map(row).collect(),
    }
}

fn search(summary: &TrialsSummary) -> Option<Table> {
    let search = summary.lr_search.as_ref()?;
    let row = |tried: &super::TriedRate| {
        let cell = |value: Option<f64>| value.map_or("\u{2013}".into(), figure);
        let mut name = format!("{:e}", tried.lr);
        for (rate, what) in [(search.chosen, " (chosen)"), (Some(search.usual), " (the recipe's)")] {
            name += if rate.is_some_and(|rate| rate.to_bits() == tried.lr.to_bits()) { what } else { "" };
        }
        vec![name, cell(tried.value), cell(tried.loss)]
    };
    let header = ["rate", search.metric.as_str(), "valid/loss"];
    Some(Table {
        title: format!("Learning rates, after {} steps", search.steps),
        header: header.map(str::to_owned).to_vec(),
        rows: search.tried.iter().map(row).collect(),
        ..Table::default()
    })
}

/// A row for each size, a column for each arm.
fn sizes(curve: &SizeCurve) -> Table {
    let arms: Vec<Arm> = [Arm::HeadStart, Arm::Scratch, Arm::BagOfWords]
        .into_iter()
        .filter(|arm| curve.of_arm(*arm).next().is_some())
        .collect();
    let mut sizes: Vec<usize> = curve.points.iter().map(|point| point.size).collect();
    sizes.dedup();
    let cell = |size: usize, arm: Arm| {
        let point = curve.of_arm(arm).find(|point| point.size == size);
        point.map_or("\u{2013}".into(), mean_and_spread)
    };
    let row = |&size: &usize| {
        let mut cells = vec![thousands(size)];
        cells.extend(arms.iter().map(|arm| cell(size, *arm)));
        cells
    };
    let mut header = vec!["training examples".to_owned()];
    header.extend(arms.iter().map(|arm| arm.name().to_owned()));
    let rows = sizes.iter().map(row).collect();
    Table { title: format!("{} by training examples", curve.metric), header, rows, ..Table::default() }
}

fn mean_and_spread(point: &CurvePoint) -> String {
    let of = &point.values;
    if of.each.len() > 1 { format!("{} \u{b1} {}", figure(of.mean), figure(of.std)) } else { figure(of.mean) }
}

fn size_chart(curve: &SizeCurve) -> Chart {
    let line = |arm: Arm| Curve {
        name: arm.name().into(),
        dashed: arm == Arm::BagOfWords,
        points: curve.of_arm(arm).map(|point| (point.size as f64, point.values.mean)).collect(),
    };
    let arms = [Arm::HeadStart, Arm::Scratch, Arm::BagOfWords];
    Chart {
        title: format!("{} by training examples", curve.metric),
        x_label: "training examples, logarithmic".into(),
        y_label: String::new(),
        along: Along::Logarithmic,
        curves: arms.into_iter().map(line).filter(|line| !line.points.is_empty()).collect(),
    }
}

/// The validation metric while each run trained.
fn validation(config: &FinetuneConfig, summary: &TrialsSummary, dir: &Path) -> Result<Option<Chart>> {
    let (name, _) = decides(config.problem);
    let mut curves = Vec::new();
    for run in &summary.runs {
        let records = read_metrics(&dir.join(&run.name))?;
        let valid = records.iter().filter(|record| record.kind == Kind::Valid);
        let points: Vec<(f64, f64)> =
            valid.filter_map(|record| Some((record.step as f64, record.value(name)?))).collect();
        curves.push(Curve { name: run.name.clone(), dashed: false, points });
    }
    let some = curves.iter().any(|curve| curve.points.len() > 1);
    Ok(some.then(|| Chart {
        title: format!("Validation: {name} while training"),
        x_label: "optimizer step".into(),
        y_label: String::new(),
        curves,
        ..Chart::default()
    }))
}

fn figure(value: f64) -> String {
    fixed(value, 4)
}
