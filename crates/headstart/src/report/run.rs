//! The report of one run, from its log.
//!
//! Owns: which metrics make a chart or a table. Never: how they look.

use super::axis::number;
use super::{Chart, Curve, Report, Table};
use crate::run_log::{Kind, Record, is_timing};

/// Classes up to this number get their curves; with more, the table has to do.
const MOST_CLASSES: usize = 12;
/// Steps whose mean is the training loss at the end.
const LAST_STEPS: usize = 50;
/// Metrics of a class: `precision/NAME`, `recall/NAME`, `f1/NAME`.
const BY_CLASS: [&str; 3] = ["precision", "recall", "f1"];

/// Metrics that say over the steps what the accuracy's curve says.
const WITHOUT_CURVE: [&str; 4] = ["auc", "brier", "mcc", "exact_match"];

impl Report {
    /// The report of a run with these records: its curves, and the metrics of the model after `model_step`, which need
    /// not be the last step. `summary`: the paragraphs below the title.
    pub fn of_run(
        records: &[Record],
        model_step: Option<u64>,
        title: impl Into<String>,
        summary: Vec<String>,
    ) -> Self {
        let evaluations = evaluations(records, model_step);
        let mut tables = vec![training(records), metrics(&evaluations), classes(&evaluations)];
        tables.retain(|table| !table.rows.is_empty());
        Self { title: title.into(), summary, tables, charts: charts(records), ..Self::default() }
    }
}

fn points(records: &[Record], kind: Kind, name: &str) -> Vec<(f64, f64)> {
    let records = records.iter().filter(|record| record.kind == kind);
    records.filter_map(|record| Some((record.step as f64, record.value(name)?))).collect()
}

/// The names of the values of these records, each once, in the order they come in.
fn names(records: &[Record], kind: Kind) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in records.iter().filter(|record| record.kind == kind).flat_map(|record| &record.values) {
        if !is_timing(name) && !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    names
}

fn of_class(name: &str) -> Option<(&str, &str)> {
    name.split_once('/').filter(|(metric, _)| BY_CLASS.contains(metric))
}

fn chart(title: &str, y_label: &str, curves: Vec<Curve>) -> Chart {
    let (title, x_label, y_label) = (title.into(), "optimizer step".into(), y_label.into());
    Chart { title, x_label, y_label, curves, ..Chart::default() }
}

fn charts(records: &[Record]) -> Vec<Chart> {
    let curve = |name: &str, points: Vec<(f64, f64)>| Curve { name: name.into(), dashed: false, points };
    let mut charts = Vec::new();
    let (train, valid) = (points(records, Kind::Train, "loss"), points(records, Kind::Valid, "loss"));
    if !train.is_empty() {
        let mut curves = vec![curve("training", train)];
        if !valid.is_empty() {
            curves.push(curve("validation", valid.clone()));
        }
        let unit = if names(records, Kind::Valid).contains(&"mse") { "" } else { "nats" };
        charts.push(chart("Loss", unit, curves));
    }
    for (name, title) in [("lr", "Learning rate"), ("grad_norm", "Gradient norm before clipping")] {
        let points = points(records, Kind::Train, name);
        if !points.is_empty() {
            charts.push(chart(title, "", vec![curve("", points)]));
        }
    }
    let names = names(records, Kind::Valid);
    let curves = |name: &&&str| of_class(name).is_none() && !WITHOUT_CURVE.contains(*name);
    for name in names.iter().filter(curves) {
        let points = points(records, Kind::Valid, name);
        // The loss is above, and where there is only one objective another metric says the same again.
        if points.len() > 1 && points != valid {
            let (title, y_label) = words(name);
            charts.push(chart(&format!("Validation: {title}"), y_label, vec![curve("", points)]));
        }
    }
    for metric in BY_CLASS {
        let of_figure =
            names.iter().filter_map(|name| Some((*name, of_class(name).filter(|f| f.0 == metric)?.1)));
        let curves: Vec<Curve> =
            of_figure.map(|(name, class)| curve(class, points(records, Kind::Valid, name))).collect();
        if curves.len() <= MOST_CLASSES && curves.iter().any(|curve| curve.points.len() > 1) {
            charts.push(chart(&format!("Validation: {metric} by class"), "share", curves));
        }
    }
    charts
}

/// A metric's name for people, and what its axis says.
fn words(name: &str) -> (&str, &'static str) {
    match name {
        "nll" => ("negative log-likelihood", "nats per token"),
        "nll_clf" => ("negative log-likelihood of the classes", "nats per example"),
        "ppl" => ("perplexity", "per token"),
        "word_ppl" => ("word perplexity", "per word"),
        "bits_per_byte" => ("bits per byte", "bits"),
        "token_accuracy" => ("token accuracy", "share of the tokens"),
        "accuracy" => ("accuracy", "share"),
        "macro_f1" => ("macro-F1", ""),
        "micro_f1" => ("micro-F1", ""),
        "mcc" => ("Matthews\u{2019} correlation", ""),
        "auc" => ("area under the ROC curve", "share"),
        "ece" => ("calibration error", "share"),
        "brier" => ("Brier score", ""),
        "ece_calibrated" => ("calibration error at the temperature", "share"),
        "brier_calibrated" => ("Brier score at the temperature", ""),
        "nll_calibrated" => ("negative log-likelihood of the classes at the temperature", "nats per example"),
        "exact_match" => ("all labels right", "share"),
        "mse" => ("mean squared error", ""),
        "pearson" => ("Pearson\u{2019}s correlation", ""),
        "spearman" => ("Spearman\u{2019}s correlation of the ranks", ""),
        other => (other, ""),
    }
}

fn training(records: &[Record]) -> Table {
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    if let Some(last) = records.iter().rfind(|record| record.kind == Kind::Train) {
        row("optimizer steps", number(last.step as f64));
        if let Some(epoch) = last.value("epoch") {
            row("epochs", format!("{epoch:.2}"));
        }
        let mut losses = points(records, Kind::Train, "loss");
        losses.retain(|(_, loss)| loss.is_finite()); // those of skipped steps may not be
        if let Some((step, loss)) = losses.first() {
            row(&format!("loss at step {}", number(*step)), number(*loss));
            let end = &losses[losses.len().saturating_sub(LAST_STEPS)..];
            let mean = end.iter().map(|point| point.1).sum::<f64>() / end.len() as f64;
            row(&format!("loss, mean of the last {} steps", end.len()), number(mean));
        }
        let mut speeds = points(records, Kind::Train, "tokens_per_s");
        speeds.sort_by(|a, b| a.1.total_cmp(&b.1));
        if let Some((_, speed)) = speeds.get(speeds.len() / 2) {
            row("tokens per second (median)", number(speed.round()));
        }
    }
    Table { title: "Training".into(), rows, ..Table::default() }
}

/// An evaluation with its heading.
type Headed<'a> = (String, &'a Record);

/// The validation of the model after `model_step` and its test, which is logged when the run ends.
fn evaluations(records: &[Record], model_step: Option<u64>) -> Vec<Headed<'_>> {
    let last =
        |kind: Kind, until: u64| records.iter().rfind(|record| record.kind == kind && record.step <= until);
    let headed = |split: &str, step: u64| match step {
        0 => split.to_owned(),
        step => format!("{split}, step {}", number(step as f64)),
    };
    let valid = last(Kind::Valid, model_step.unwrap_or(u64::MAX));
    let valid = valid.map(|record| (headed("validation", record.step), record));
    let test = last(Kind::Test, u64::MAX);
    let test = test.map(|record| (headed("test", model_step.unwrap_or(record.step)), record));
    valid.into_iter().chain(test).collect()
}

fn metrics(evaluations: &[Headed<'_>]) -> Table {
    let mut all: Vec<&str> = Vec::new();
    for (name, _) in evaluations.iter().flat_map(|(_, record)| &record.values) {
        if !is_timing(name) && !all.contains(&name.as_str()) {
            all.push(name);
        }
    }
    let mut rows: Vec<Vec<String>> = Vec::new();
    for name in all.into_iter().filter(|name| of_class(name).is_none()) {
        let title = match words(name).0 {
            title if title == name => name.to_owned(),
            title => format!("{title} ({name})"),
        };
        if rows.iter().all(|row| row[0] != title) {
            let value = |(_, record): &(String, &Record)| record.value(name).map_or_else(String::new, number);
            rows.push([title].into_iter().chain(evaluations.iter().map(value)).collect());
        }
    }
    let headings = evaluations.iter().map(|(heading, _)| heading.clone());
    let header = [String::new()].into_iter().chain(headings).collect();
    Table { title: "Metrics".into(), header, rows, ..Table::default() }
}

fn classes(evaluations: &[Headed<'_>]) -> Table {
    let mut classes: Vec<&str> = Vec::new();
    for (_, class) in
        evaluations.iter().flat_map(|(_, record)| &record.values).filter_map(|(n, _)| of_class(n))
    {
        if !classes.contains(&class) {
            classes.push(class);
        }
    }
    let mut header = vec!["class".to_owned()];
    let mut rows: Vec<Vec<String>> = classes.iter().map(|class| vec![(*class).to_owned()]).collect();
    for (heading, record) in evaluations {
        for metric in BY_CLASS {
            header.push(format!("{metric}, {}", heading.split(',').next().unwrap_or(heading)));
            for (row, class) in rows.iter_mut().zip(&classes) {
                let value = record.value(&format!("{metric}/{class}"));
                row.push(value.map_or_else(|| "\u{2013}".into(), number));
            }
        }
    }
    let step = evaluations.first().and_then(|(heading, _)| heading.split_once(','));
    let title = step.map_or_else(|| "By class".to_owned(), |(_, step)| format!("By class,{step}"));
    Table { title, header, rows, ..Table::default() }
}
