//! One JSON object a line.
//!
//! Owns: which JSON values are labels, and the errors about all others. Never: which keys are read (`columns`).

use std::path::Path;

use serde_json::{Map, Value};

use super::columns::Columns;
use super::parsed::{Rows, TextExample, parsing, split_labels};
use super::{ClassificationOptions, LabelKind};
use crate::data::encoding::read_text_watched;
use crate::error::{Result, bad};
use crate::event::Listener;

/// Reads a file of one object a line.
pub(super) fn read(
    path: &Path,
    options: &ClassificationOptions,
    training: Option<&Columns>,
    listener: &mut Listener<'_>,
) -> Result<Rows> {
    let content = read_text_watched(path, options.encoding, listener)?;
    let mut watch = parsing(path, &content, listener);
    let mut done = 0;
    let mut rows = Rows::default();
    let mut columns: Option<Columns> = None;
    for (at, line) in content.lines().enumerate() {
        done += line.len() as u64 + 1;
        watch.at(done)?;
        if line.trim().is_empty() {
            continue;
        }
        let number = at as u64 + 1;
        let object: Map<String, Value> = serde_json::from_str(line).map_err(|e| {
            let (what, fix) = if line.trim_start().starts_with('[') {
                let fix = "write one JSON object on each line (pandas: to_json(..., orient=\"records\", lines=True); jq -c '.[]')";
                ("is a JSON list, and not one object a line".to_owned(), fix)
            } else {
                let what = format!("is not a JSON object (column {}): {e}", e.column());
                (what, "write one JSON object on each line, not a list over many lines")
            };
            bad(path, Some(number), what, fix)
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
        let texts = columns.text.iter().map(|name| {
            object.get(name).and_then(Value::as_str).map(str::to_owned).ok_or_else(|| {
                let what = format!("there is no text under `{name}`");
                bad(path, Some(number), what, "give every object its text")
            })
        });
        let mut texts = texts.collect::<Result<Vec<_>>>()?.into_iter();
        let (text, second) = (texts.next().unwrap_or_default(), texts.next());
        let label = columns.label.as_ref().and_then(|name| object.get(name)).filter(|l| !l.is_null());
        let labels = match label {
            None => {
                rows.unlabelled.get_or_insert(number);
                Vec::new()
            }
            Some(value) => {
                let found = labels_of(value, options.label_kind, &mut rows.declared);
                found.map_err(|(what, fix)| {
                    let name = columns.label.as_deref().unwrap_or_default();
                    bad(path, Some(number), format!("`{name}` {what}"), fix)
                })?
            }
        };
        if labels.is_empty() && label.is_some() && options.label_kind != LabelKind::Multi {
            rows.unlabelled.get_or_insert(number);
        }
        rows.examples.push(TextExample { text, second, labels, file: 0, line: Some(number) });
    }
    Ok(Rows { columns, ..rows })
}

/// What is wrong with a value, and the way out.
type Wrong = (String, &'static str);

/// The label names in a value. The keys of an object of marks count as labels of the data even where none is set.
fn labels_of(value: &Value, kind: LabelKind, declared: &mut Vec<String>) -> Result<Vec<String>, Wrong> {
    match (value, kind) {
        (Value::Object(marks), LabelKind::Multi) => {
            let mut on = Vec::new();
            for (name, mark) in marks {
                if !declared.contains(name) {
                    declared.push(name.clone());
                }
                if is_set(name, mark)? {
                    on.push(name.clone());
                }
            }
            Ok(on)
        }
        (Value::Object(_), _) => Err((
            "is an object of marks, not one label".into(),
            "use multi-label classification (`--problem multi-label`), or give one text or number",
        )),
        (Value::Array(list), LabelKind::Multi) => list.iter().map(one_label).collect(),
        (Value::Array(_), _) => Err((
            "is a list, not one label".into(),
            "give one text or number, or use multi-label classification (`--problem multi-label`)",
        )),
        (value, _) => Ok(split_labels(&one_label(value)?, kind)),
    }
}

/// Whether a mark of an object like `{"water": 1, "land": 0}` is set.
fn is_set(name: &str, mark: &Value) -> Result<bool, Wrong> {
    match mark.to_string().as_str() {
        "true" | "1" | "1.0" => Ok(true),
        "false" | "0" | "0.0" => Ok(false),
        _ => Err((format!("has {mark} for `{name}`"), "marks are 0 or 1, false or true")),
    }
}

fn one_label(value: &Value) -> Result<String, Wrong> {
    match value {
        Value::String(label) => Ok(label.trim().to_owned()),
        Value::Number(_) | Value::Bool(_) => Ok(value.to_string()),
        other => Err((format!("has {other} where a label is expected"), "a label is one text or number")),
    }
}
