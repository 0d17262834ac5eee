//! JSON objects: one a line, or a list of them.
//!
//! Owns: which JSON values are labels, and the errors about all others. Never: which keys are read (`columns`).

use std::path::Path;

use serde_json::{Map, Value};

use super::columns::{Called, Columns, listed};
use super::parsed::{Rows, TextExample, marked, parsing, split_labels};
use super::{ClassificationOptions, LabelKind};
use crate::data::encoding::read_text_watched;
use crate::data::json_list::{JsonValue, JsonValues};
use crate::error::{Result, bad};
use crate::event::Listener;

/// Reads a file of one object a line, or of a list of objects.
pub(super) fn read(
    path: &Path,
    options: &ClassificationOptions,
    training: Option<&Columns>,
    listener: &mut Listener<'_>,
) -> Result<Rows> {
    let content = read_text_watched(path, options.encoding, listener)?;
    let mut watch = parsing(path, &content, listener);
    let mut rows = Rows::default();
    let mut columns: Option<Columns> = None;
    let mut values = JsonValues::of(&content);
    while let Some(value) = values.next() {
        watch.at((content.len() - values.left()) as u64)?;
        let number = value.line;
        let object = object_of(path, &value, &content)?;
        let columns = match &mut columns {
            Some(columns) => columns,
            none => {
                let keys: Vec<String> = object.keys().cloned().collect();
                let mut chosen = Columns::choose(path, (&keys, Called::Keys), options, training)?;
                // An object may lack a key that another has.
                if let Some(training) = training.filter(|_| chosen.label.is_empty()) {
                    chosen.label.clone_from(&training.label);
                }
                chosen.group = chosen.group.or_else(|| training?.group.clone());
                none.insert(chosen)
            }
        };
        let texts = columns
            .text
            .iter()
            .map(|name| text_under(name, &object).map_err(|(what, fix)| bad(path, Some(number), what, fix)));
        let mut texts = texts.collect::<Result<Vec<_>>>()?.into_iter();
        let (text, second) = (texts.next().unwrap_or_default(), texts.next());
        let labels = match &columns.label[..] {
            [] => None,
            [name] => match object.get(name).filter(|label| !label.is_null()) {
                None => None,
                Some(value) => {
                    let found = labels_of(value, options.label_kind, &mut rows.declared);
                    let found = found
                        .map_err(|(what, fix)| bad(path, Some(number), format!("`{name}` {what}"), fix))?;
                    Some(found).filter(|found| !found.is_empty() || options.label_kind == LabelKind::Multi)
                }
            },
            several => {
                let values: Vec<Option<String>> =
                    several.iter().map(|name| object.get(name).and_then(mark)).collect();
                let values = several.iter().map(String::as_str).zip(values.iter().map(Option::as_deref));
                marked(values).map_err(|(what, fix)| bad(path, Some(number), what, fix))?
            }
        };
        if labels.is_none() {
            rows.unlabelled.get_or_insert(number);
        }
        let labels = labels.unwrap_or_default();
        rows.groups.extend(columns.group.as_ref().map(|name| match object.get(name) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(group)) => group.trim().to_owned(),
            Some(other) => other.to_string(),
        }));
        rows.examples.push(TextExample { text, second, labels, file: 0, line: Some(number) });
    }
    let classes = columns.as_ref().map(Columns::classes).filter(|classes| !classes.is_empty());
    Ok(Rows { declared: classes.unwrap_or(rows.declared), columns, ..rows })
}

/// What stands under the key of a class, as a column has it.
fn mark(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.trim().to_owned()),
        other => Some(other.to_string()),
    }
}

/// The object that a value of the file is.
fn object_of(path: &Path, value: &JsonValue, content: &str) -> Result<Map<String, Value>> {
    let wrong = |what, fix| Err(bad(path, Some(value.line), what, fix));
    if !value.whole {
        let fix = "a file is one JSON object on each line, or one list of objects and nothing else; get it anew if it was cut off";
        return wrong("the list of objects does not end where the file does".to_owned(), fix);
    }
    let error = match serde_json::from_slice(&value.bytes) {
        Ok(object) => return Ok(object),
        Err(error) => error,
    };
    if let Ok(whole) = serde_json::from_str::<Map<String, Value>>(content) {
        let keys: Vec<String> = whole.keys().cloned().collect();
        let fix = "write the rows as one list of objects, or an object on each line: jq -c '.KEY[]' takes a list out of an object";
        return wrong(format!("is one object over many lines, with the keys {}", listed(&keys)), fix);
    }
    let fix = "write one JSON object on each line, or one list of objects (pandas: to_json(..., orient=\"records\", lines=True))";
    wrong(format!("is not a JSON object (column {}): {error}", error.column()), fix)
}

/// The text under a key.
fn text_under(name: &str, object: &Map<String, Value>) -> Result<String, Wrong> {
    match object.get(name) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Object(fields)) if fields.keys().any(|key| key.parse::<u64>().is_err()) => Err((
            format!("there is an object under `{name}`, with the keys {}", nested_keys(fields)),
            "nested fields are not read: give every object its text under a key of its own, as with jq -c '. + {text: .KEY.FIELD}'",
        )),
        Some(Value::Array(_) | Value::Object(_)) => Err((
            format!("there are many values under `{name}`, and not one text"),
            "write an object for each row, not one for each column (pandas: to_json(..., orient=\"records\", lines=True))",
        )),
        _ => Err((format!("there is no text under `{name}`"), "give every object its text")),
    }
}

/// The keys of an object below another.
fn nested_keys(fields: &Map<String, Value>) -> String {
    listed(&fields.keys().cloned().collect::<Vec<_>>())
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
