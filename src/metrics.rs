//! Metrics as tables for people: a column a split, per-class metrics and the confusion matrix of the last split.
//!
//! Owns: how an evaluation reads at 80 columns. Never: computes a metric.

use std::collections::{BTreeMap, BTreeSet};

use headstart::train::fixed;

use crate::output::{number, shortened};

/// What a table may take of a terminal.
const COLUMNS: usize = 80;
/// The most of a label that is shown.
const LABEL_CHARS: usize = 24;
/// The splits, in the order of their columns.
const SPLITS: [&str; 3] = ["train", "valid", "test"];
/// The metrics that each class has, by the start of their names.
const PER_CLASS: [&str; 3] = ["precision", "recall", "f1"];

/// An evaluation's metrics. `metrics` are named `split/metric`; `confusion`, with the true classes as rows, is of the last
/// of the splits.
pub fn tables(metrics: &BTreeMap<String, f64>, confusion: Option<&[Vec<u64>]>, labels: &[String]) -> String {
    let splits: Vec<&str> =
        SPLITS.into_iter().filter(|split| metrics.keys().any(|key| of(key, split).is_some())).collect();
    let Some(last) = splits.last() else { return String::new() };
    let names: BTreeSet<&str> = metrics.keys().filter_map(|key| Some(key.split_once('/')?.1)).collect();
    let per_class = |name: &&str| name.split_once('/').is_some_and(|(kind, _)| PER_CLASS.contains(&kind));
    let value = |split: &str, name: &str| metrics.get(&format!("{split}/{name}")).map(|value| number(*value));
    let mut rows = vec![row("", splits.iter().map(|split| (*split).to_owned()))];
    for name in names.iter().filter(|name| !per_class(name)) {
        rows.push(row(name, splits.iter().map(|split| value(split, name).unwrap_or_default())));
    }
    let mut text = aligned(&rows);
    if names.iter().any(per_class) {
        // Logs of earlier versions have no F1 of each of more than two classes.
        let there =
            |kind: &&str| names.iter().any(|name| name.split_once('/').is_some_and(|(of, _)| of == *kind));
        let kinds: Vec<&str> = PER_CLASS.into_iter().filter(there).collect();
        let heads = kinds.iter().map(|&kind| kind.to_owned()).chain(confusion.map(|_| "examples".to_owned()));
        let mut rows = vec![row(&format!("{last}, by class"), heads)];
        for (class, label) in labels.iter().enumerate() {
            // A class that is nowhere has no metrics.
            let metric = |kind: &&str| value(last, &format!("{kind}/{label}")).unwrap_or("-".into());
            let examples = confusion.map(|matrix| matrix.get(class).map_or(0, |row| row.iter().sum::<u64>()));
            let cells = kinds.iter().map(metric).chain(examples.map(|n| n.to_string()));
            rows.push(row(&shortened(label, LABEL_CHARS), cells));
        }
        text = text + "\n" + &aligned(&rows);
    }
    match confusion {
        Some(matrix) => text + "\n" + &confusion_text(matrix, labels),
        None => text,
    }
}

/// The shares among the metrics that are told with their intervals, and their names.
const TOLD: [(&str, &str); 5] = [
    ("accuracy", "accuracy"),
    ("macro_f1", "macro-F1"),
    ("micro_f1", "micro-F1"),
    ("pearson", "Pearson"),
    ("spearman", "Spearman"),
];

/// How sure the metrics are: `accuracy 91.2 % (95 %: 88.6 - 93.4), 500 examples`. `None` without intervals.
pub fn sureness(
    metrics: &BTreeMap<String, f64>,
    intervals: &BTreeMap<String, [f64; 2]>,
    examples: u64,
) -> Option<String> {
    let part = |(name, word): (&str, &str)| {
        let ([low, high], value) = (intervals.get(name)?, metrics.get(name)?);
        // Correlations are no shares.
        let correlation = ["pearson", "spearman"].contains(&name);
        let number = |x: f64| if correlation { fixed(x, 3) } else { percent(x) };
        let unit = if correlation { "" } else { " %" };
        Some(format!("{word} {}{unit} (95 %: {} - {})", number(*value), number(*low), number(*high)))
    };
    let parts: Vec<String> = TOLD.into_iter().filter_map(part).collect();
    (!parts.is_empty()).then(|| format!("{}, {examples} examples", parts.join(", ")))
}

/// 0.9123 -> "91.2".
pub fn percent(share: f64) -> String {
    fixed(100.0 * share, 1)
}

/// The metric's name, if it is one of `split`.
fn of<'a>(key: &'a str, split: &str) -> Option<&'a str> {
    key.strip_prefix(split)?.strip_prefix('/')
}

/// A row is a true class, a column a predicted one.
fn confusion_text(matrix: &[Vec<u64>], labels: &[String]) -> String {
    let label = |at: usize| labels.get(at).map_or_else(|| at.to_string(), |l| shortened(l, LABEL_CHARS));
    let mut rows = vec![row("true \\ predicted", (0..matrix.len()).map(label))];
    for (at, counts) in matrix.iter().enumerate() {
        rows.push(row(&label(at), counts.iter().map(u64::to_string)));
    }
    if width(&rows) <= COLUMNS {
        aligned(&rows)
    } else {
        format!("the confusion matrix of {} classes is too wide to show; --json has it\n", matrix.len())
    }
}

fn row(first: &str, cells: impl IntoIterator<Item = String>) -> Vec<String> {
    std::iter::once(first.to_owned()).chain(cells).collect()
}

/// The columns of a table: the widest cell of each.
fn widths(rows: &[Vec<String>]) -> Vec<usize> {
    let columns = rows.first().map_or(0, Vec::len);
    let cell = |at: usize| move |row: &Vec<String>| row.get(at).map_or(0, |cell| cell.chars().count());
    (0..columns).map(|at| rows.iter().map(cell(at)).max().unwrap_or(0)).collect()
}

fn width(rows: &[Vec<String>]) -> usize {
    widths(rows).iter().map(|width| width + 2).sum::<usize>().saturating_sub(2)
}

/// Names to the left, metrics to the right, two spaces between.
pub fn aligned(rows: &[Vec<String>]) -> String {
    let widths = widths(rows);
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(at, (cell, width))| {
            if at == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(metrics: &[(&str, f64)]) -> BTreeMap<String, f64> {
        metrics.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    #[test]
    fn a_split_is_a_column_and_a_class_is_a_row() {
        let metrics = metrics(&[
            ("valid/accuracy", 0.5),
            ("valid/precision/pos", 0.1),
            ("test/accuracy", 0.75),
            ("test/loss", 12.0),
            ("test/precision/pos", 1.0),
            ("test/recall/pos", 0.25),
        ]);
        let labels = ["pos".to_owned(), "neg".to_owned()];
        let text = tables(&metrics, Some(&[vec![10, 2], vec![0, 7]]), &labels);
        let expected = "           valid     test\n\
                        accuracy  0.5000   0.7500\n\
                        loss              12.0000\n\
                        \n\
                        test, by class  precision  recall  examples\n\
                        pos                1.0000  0.2500        12\n\
                        neg                     -       -         7\n\
                        \n\
                        true \\ predicted  pos  neg\n\
                        pos                10    2\n\
                        neg                 0    7\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_line_says_how_sure_a_metric_is() {
        let of = metrics(&[("accuracy", 0.912), ("macro_f1", 0.9), ("pearson", 0.8765)]);
        let ends = |name: &str, ends: [f64; 2]| BTreeMap::from([(name.to_owned(), ends)]);
        let said = |intervals| sureness(&of, &intervals, 500);
        assert_eq!(
            said(ends("accuracy", [0.886, 0.9344])).unwrap(),
            "accuracy 91.2 % (95 %: 88.6 - 93.4), 500 examples"
        );
        assert_eq!(
            said(ends("pearson", [0.8, 0.9])).unwrap(),
            "Pearson 0.876 (95 %: 0.800 - 0.900), 500 examples"
        );
        assert_eq!(said(BTreeMap::new()), None);
        let nothing = metrics(&[("pearson", -2e-9)]);
        let line = sureness(&nothing, &ends("pearson", [-0.000_4, 0.000_1]), 9).unwrap();
        assert_eq!(line, "Pearson 0.000 (95 %: 0.000 - 0.000), 9 examples");
        assert_eq!((percent(-0.000_1), percent(-0.01)), ("0.0".to_owned(), "-1.0".to_owned()));
    }

    #[test]
    fn no_label_is_too_long_or_writes_to_the_terminal() {
        let labels = ["x".repeat(70_000), "red\u{1b}[31m\u{9b}5m\nline".to_owned()];
        let name = format!("test/precision/{}", labels[0]);
        let text = tables(&metrics(&[(&name, 1.0)]), Some(&[vec![1, 0], vec![0, 1]]), &labels);
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS), "{text}");
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        assert!(text.contains(r"red\u{1b}[31m\u{9b}5m..."), "{text}");
    }

    #[test]
    fn a_matrix_that_is_too_wide_is_named_instead() {
        let matrix = vec![vec![1; 40]; 40];
        let text = tables(&metrics(&[("test/accuracy", 1.0)]), Some(&matrix), &[]);
        assert!(text.ends_with("of 40 classes is too wide to show; --json has it\n"), "{text}");
    }
}
