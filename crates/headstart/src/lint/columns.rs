//! Columns of a table that are ids, or that give the label away.
//!
//! Owns: what tells them. Never: reads a table.

use super::{Findings, Kind, Row, Severity, Shown, counted};
use crate::data::classification::placed::PlacedTexts;
use crate::data::classification::{LabelKind, UnreadColumn};
use crate::data::split::Split;

/// Fewer rows than this say nothing of a column.
const LEAST_ROWS: u64 = 20;
/// The share of rows whose label a column guesses right.
const TELLS: f64 = 0.98;
/// The share of texts without a letter.
const NO_LETTERS: f64 = 0.9;

pub(super) fn look(data: &PlacedTexts, rows: &[Row<'_>], found: &mut Findings) {
    let training: Vec<&Row<'_>> = rows.iter().filter(|row| row.split == Split::Train).collect();
    let bare: Vec<&&Row<'_>> = training
        .iter()
        .filter(|row| !row.is_empty() && !row.text.text.chars().any(char::is_alphabetic))
        .collect();
    if training.len() as u64 >= LEAST_ROWS && bare.len() as f64 >= NO_LETTERS * training.len() as f64 {
        let what = format!("{} of {} have no letter", bare.len(), counted(training.len(), "training text"));
        let fix = "name the right column with --text_column";
        let examples = bare.iter().map(|row| row.shown(""));
        found.add((Kind::TextIds, Severity::Error), bare.len(), (what, fix), examples);
    }
    let count = training.len() as u64;
    if count < LEAST_ROWS {
        return;
    }
    let named = |column: &&UnreadColumn, note: String| Shown {
        places: Vec::new(),
        text: format!("`{}`", column.name.escape_debug()),
        note,
    };
    let ids: Vec<&UnreadColumn> = data
        .unread
        .iter()
        .filter(|column| column.filled == count && column.distinct == count)
        .filter(|column| column.numbers || id_name(&column.name))
        .collect();
    let what = format!("{} with another number in every row", counted(ids.len(), "column"));
    let fix = "nothing, as long as it is not read: it tells rows apart and nothing else";
    let examples = ids.iter().map(|column| named(column, format!("{} values", column.distinct)));
    found.add((Kind::IdColumn, Severity::Note), ids.len(), (what, fix), examples);
    if data.label_kind != LabelKind::Single {
        return;
    }
    let mut of_label = std::collections::HashMap::new();
    for row in &training {
        *of_label.entry(row.text.labels.first()).or_insert(0_u64) += 1;
    }
    let commonest = of_label.values().copied().max().unwrap_or(0);
    let telling: Vec<&UnreadColumn> = data
        .unread
        .iter()
        .filter(|column| {
            column.distinct > 1 && 5 * column.distinct <= count && 10 * column.filled >= 9 * count
        })
        .filter(|column| {
            column.guessed.is_some_and(|guessed| {
                guessed as f64 >= TELLS * column.filled as f64 && (commonest as f64) < 0.9 * count as f64
            })
        })
        .collect();
    let what = format!("{} that gives the label away", counted(telling.len(), "column"));
    let fix =
        "leave it out of the texts: it is not read, and where the model will be used it may not be there";
    let examples = telling.iter().map(|column| {
        let right = column.guessed.unwrap_or(0) as f64 * 100.0 / column.filled as f64;
        named(column, format!("{} values guess {right:.1} % of the labels", column.distinct))
    });
    found.add((Kind::TellingColumn, Severity::Note), telling.len(), (what, fix), examples);
}

/// Whether a column is called like an id; then other signs than digits count as well.
fn id_name(name: &str) -> bool {
    let name = name.trim().to_lowercase();
    ["id", "uuid", "guid", "uid"]
        .iter()
        .any(|id| name == *id || name.ends_with(&format!("_{id}")) || name.starts_with(&format!("{id}_")))
}
