//! One JSON object a line.
//!
//! Owns: which JSON values are labels, and the errors about all others. Never: which keys are read (`columns`).

use std::path::Path;

use serde_json::{Map, Value};

use super::columns::Columns;
use super::read::{Rows, TextExample, split_labels};
use super::{ClassificationOptions, LabelKind};
use crate::data::encoding::{bad, read_text};
use crate::error::Result;

/// Reads a file of one object a line.
pub(super) fn read(path: &Path, options: &ClassificationOptions, training: Option<&Columns>) -> Result<Rows> {
    let content = read_text(path, options.encoding)?;
    let mut rows = Rows::default();
    let mut columns: Option<Columns> = None;
    for (at, line) in content.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let number = at as u64 + 1;
        let object: Map<String, Value> = serde_json::from_str(line).map_err(|e| {
            let what = format!("is not a JSON object (column {}): {e}", e.column());
            bad(path, Some(number), what, "write one JSON object on each line, not a list over many lines")
        })?;
        let columns = match &mut columns {
            Some(columns) => columns,
            none => {
                let keys: Vec<String> = object.keys().cloned().collect();
                let mut chosen = Columns::choose(path, &keys, options, training)?;
                // An object may lack a key that another has.
                chosen.label = chosen.label.or_else(|| training?.label.clone());
                none.insert(chosen)
            }
        };
        let Some(Value::String(text)) = object.get(&columns.text) else {
            let what = format!("there is no text under `{}`", columns.text);
            return Err(bad(path, Some(number), what, "give every object its text"));
        };
        let label = columns.label.as_ref().and_then(|name| object.get(name)).filter(|l| !l.is_null());
        let labels = match label {
            None => {
                rows.unlabelled.get_or_insert(number);
                Vec::new()
            }
            Some(value) => {
                let found = labels_of(value, options.label_kind);
                found.map_err(|(what, fix)| {
                    let name = columns.label.as_deref().unwrap_or_default();
                    bad(path, Some(number), format!("`{name}` {what}"), fix)
                })?
            }
        };
        rows.examples.push(TextExample { text: text.clone(), labels, file: 0, line: Some(number) });
    }
    Ok(Rows { columns, ..rows })
}

/// The label names in a value, or what is wrong with it and the way out.
fn labels_of(value: &Value, kind: LabelKind) -> Result<Vec<String>, (&'static str, &'static str)> {
    let labels = match value {
        Value::Array(list) if kind == LabelKind::Multi => list.iter().filter_map(json_label).collect(),
        value => json_label(value).map(|label| split_labels(&label, kind)).unwrap_or_default(),
    };
    if labels.is_empty() && kind != LabelKind::Multi {
        return Err(("is not one label", "give one text or number, or use multi-label classification"));
    }
    Ok(labels)
}

fn json_label(value: &Value) -> Option<String> {
    match value {
        Value::String(label) => Some(label.trim().to_owned()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}
