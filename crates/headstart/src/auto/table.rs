//! The table of rungs, and the page.
//!
//! Owns: how they read. Never: a figure of its own.

use super::state::Climbed;
use super::{AutoSummary, about};
use crate::config::AutoConfig;
use crate::report::{Report, Table};
use crate::train::fixed;

/// What is not there.
const NONE: &str = "-";

/// A row for each rung below a header, for people: by the metric that decides, and by the one that stands beside it.
pub fn rows(metric: &str, rungs: &[Climbed]) -> Vec<Vec<String>> {
    let first = metric.strip_prefix("valid/").unwrap_or(metric);
    let second = beside(first);
    let header =
        ["rung", heading(first), "95 %", heading(second), "95 %", "ECE, %", "train", "ms/text", "MB"];
    let scale = if is_share(first) { Scale::Percent } else { Scale::Plain };
    let mut all = vec![header.map(str::to_owned).to_vec()];
    all.extend(rungs.iter().map(|climbed| {
        let value = |name: &str| climbed.metrics.get(&format!("valid/{name}")).copied();
        let ends = |name: &str| climbed.intervals.get(&format!("valid/{name}")).copied();
        let cell = |value: Option<f64>| value.map_or(NONE.into(), |value| scale.of(value));
        let range = |ends: Option<[f64; 2]>| {
            ends.map_or(NONE.into(), |[low, high]| format!("{}..{}", scale.of(low), scale.of(high)))
        };
        vec![
            climbed.name.clone(),
            cell(value(first)),
            range(ends(first)),
            cell(value(second)),
            range(ends(second)),
            calibration(climbed),
            format!("{:.1}s", climbed.seconds),
            climbed.ms_per_text.map_or(NONE.into(), |ms| format!("{ms:.2}")),
            format!("{:.1}", climbed.model_bytes as f64 / 1e6),
        ]
    }));
    all
}

/// The same as lines, the first column to the left and the others to the right.
pub fn lines(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(at, (cell, width))| {
            if at == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        cells.collect::<Vec<_>>().join("  ")
    };
    rows.iter().map(line).collect()
}

/// What something is better by, with its sign; what rounds to nothing has that of a gain.
pub(super) fn signed(value: f64, digits: usize) -> String {
    let text = fixed(value, digits);
    if text.starts_with('-') { text } else { format!("+{text}") }
}

/// What is shown beside the metric that decides.
fn beside(metric: &str) -> &'static str {
    match metric {
        "accuracy" => "macro_f1",
        "mse" => "pearson",
        "pearson" | "spearman" => "mse",
        _ => "accuracy",
    }
}

/// How a metric is called above a column.
fn heading(metric: &str) -> &str {
    match metric {
        "accuracy" => "acc. %",
        "macro_f1" => "F1 %",
        "micro_f1" => "micro-F1 %",
        "exact_match" => "exact %",
        "pearson" => "Pearson",
        "spearman" => "Spearman",
        other => other,
    }
}

/// Whether it is a share, which is told in per cent.
pub(super) fn is_share(metric: &str) -> bool {
    !matches!(metric, "mse" | "pearson" | "spearman")
}

#[derive(Clone, Copy)]
enum Scale {
    Plain,
    Percent,
}

impl Scale {
    fn of(self, value: f64) -> String {
        match self {
            Self::Plain if value.abs() >= 1e6 => format!("{value:.3e}"),
            Self::Plain => fixed(value, 4),
            Self::Percent => fixed(100.0 * value, 1),
        }
    }
}

/// The calibration error before and after temperature; of what has none, the one.
fn calibration(climbed: &Climbed) -> String {
    let percent = |share: f64| Scale::Percent.of(share);
    match (&climbed.calibration, climbed.metrics.get("valid/ece")) {
        (Some(found), _) => format!("{}>{}", percent(found.ece_before), percent(found.ece_after)),
        (None, Some(ece)) => percent(*ece),
        (None, None) => NONE.into(),
    }
}

/// The page.
pub(super) fn page(config: &AutoConfig, summary: &AutoSummary) -> Report {
    let mut words = vec![match &config.model {
        Some(model) => {
            format!("The ladder on {}, above the bag of words from {}.", config.data.path, model.display())
        }
        None => format!("The ladder on {}, without a model.", config.data.path),
    }];
    words.extend(summary.skipped.iter().map(|why| format!("Left out: {why}.")));
    words.extend(summary.why_stopped.iter().chain(&summary.why_chosen).cloned());
    words.extend(summary.best_so_far.iter().map(|dir| format!("Best so far: {}.", dir.display())));
    words.push(
        "All rungs are judged on the same validation examples, which also chose the checkpoints and the temperatures of those that \
         have some; test data are looked at once, for the chosen one. ECE is the expected calibration error, before and after \
         temperature. Milliseconds are those of many texts at a time."
            .into(),
    );
    let mut rows = rows(&summary.metric, &summary.rungs);
    let header = rows.remove(0);
    let links = summary.rungs.iter().map(|climbed| format!("{}/report.html", climbed.name)).collect();
    let mut tables =
        vec![Table { title: "Rungs, on validation data".into(), header, rows, links }, gains(summary)];
    tables.push(chosen(summary));
    tables.retain(|table| !table.rows.is_empty());
    let name = summary.run_dir.file_name().unwrap_or_default().display();
    Report { title: format!("Headstart auto {name}"), summary: words, tables, ..Report::default() }
}

fn gains(summary: &AutoSummary) -> Table {
    let figure = |value: f64| signed(value, 4);
    let row = |climbed: &Climbed| {
        let gain = climbed.gain.as_ref()?;
        let ends = gain.interval.map_or([NONE.into(), NONE.into()], |ends| ends.map(figure));
        let expected = climbed.estimated_s.map_or(NONE.into(), about);
        let [low, high] = ends;
        Some(vec![climbed.name.clone(), gain.over.clone(), figure(gain.gain), low, high, expected])
    };
    let header = ["rung", "over", "gain", "95 %: from", "to", "was expected to take"];
    Table {
        title: format!("Gains in {}, more is better", summary.metric),
        header: header.map(str::to_owned).to_vec(),
        rows: summary.rungs.iter().filter_map(row).collect(),
        ..Table::default()
    }
}

/// The chosen one's metrics, without those of single classes.
fn chosen(summary: &AutoSummary) -> Table {
    let whole = summary.metrics.iter().filter(|(name, _)| name.matches('/').count() == 1);
    let row = |(name, value): (&String, &f64)| {
        let ends = summary.intervals.get(name);
        let [low, high] = ends.map_or([NONE.into(), NONE.into()], |ends| ends.map(|end| fixed(end, 4)));
        vec![name.clone(), fixed(*value, 4), low, high]
    };
    let header = ["metric", "value", "95 %: from", "to"];
    Table {
        title: format!("The chosen rung: {}", summary.chosen.as_deref().unwrap_or(NONE)),
        header: header.map(str::to_owned).to_vec(),
        rows: whole.map(row).collect(),
        ..Table::default()
    }
}
