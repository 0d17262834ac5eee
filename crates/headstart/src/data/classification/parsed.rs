//! What a file with labelled texts is taken apart into, whatever its format: texts, and the names of their labels.
//!
//! Owns: these types, and how the labels of one field are told apart. Never: the syntax of a format, numbers labels.

use std::path::Path;

use super::LabelKind;
use super::columns::Columns;
use crate::data::rows::TextInput;
use crate::data::watch::Watch;
use crate::error::{Error, Result, bad};
use crate::event::Listener;

/// Examples that are looked at between two questions whether to go on.
pub(super) const EXAMPLES_AT_ONCE: usize = 1 << 17;

/// What a file gave.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// The texts.
    pub examples: Vec<TextExample>,
    /// The columns of a table.
    pub columns: Option<Columns>,
    /// The group of each example, which is nothing where it has none; empty where no column of groups is read.
    pub groups: Vec<String>,
    /// Labels that exist even where no text has them, in their order.
    pub declared: Vec<String>,
    /// The first row without a label, where there is one.
    pub unlabelled: Option<u64>,
    /// What people should be told.
    pub notes: Vec<String>,
}

impl Rows {
    /// Rows without columns.
    pub fn plain(examples: Vec<TextExample>) -> Self {
        Self { examples, ..Self::default() }
    }

    /// Whether the rows have labels.
    ///
    /// # Errors
    /// [`Error::BadInput`] where some have and some have not, or where none of the training data has.
    pub fn labelled(&self, path: &Path, training: Option<&Columns>) -> Result<bool> {
        match self.unlabelled {
            Some(_) if training.is_some() && self.examples.iter().all(|e| e.labels.is_empty()) => Ok(false),
            Some(line) => Err(no_label(path, line)),
            None => Ok(true),
        }
    }
}

/// A text, or a pair of them, with the names of its labels.
#[derive(Debug)]
pub(super) struct TextExample {
    pub text: String,
    /// The other text of a pair; there in all examples or in none.
    pub second: Option<String>,
    pub labels: Vec<String>,
    /// Index into [`super::read::Texts::files`].
    pub file: usize,
    /// Counted from 1; `None` where the file is the text.
    pub line: Option<u64>,
}

impl TextExample {
    /// Its one text, or both.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.text.as_str()).chain(self.second.as_deref())
    }

    /// Its text, or both of a pair.
    pub fn input(&self) -> TextInput {
        TextInput { first: self.text.clone(), second: self.second.clone() }
    }

    /// As it is shown to people: a tab stands between two texts.
    pub fn shown(&self) -> String {
        self.input().shown()
    }
}

pub(super) fn no_label(path: &Path, line: u64) -> Error {
    bad(path, Some(line), "the label is missing".into(), "give this text a label, or remove the line")
}

/// The label names in one field, by the kind of label.
pub(super) fn split_labels(field: &str, kind: LabelKind) -> Vec<String> {
    let field = field.trim();
    match kind {
        LabelKind::Multi => {
            field.split('|').map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect()
        }
        _ if field.is_empty() => Vec::new(),
        _ => vec![field.to_owned()],
    }
}

/// What a row says in the columns of marks, one for each class: those that are set; `None` where all of them are empty.
///
/// # Errors
/// What is wrong with a value, and the way out.
pub(super) fn marked<'a>(
    values: impl Iterator<Item = (&'a str, Option<&'a str>)> + Clone,
) -> std::result::Result<Option<Vec<String>>, (String, String)> {
    if values.clone().all(|(_, value)| value.is_none_or(str::is_empty)) {
        return Ok(None);
    }
    let mut set = Vec::new();
    for (name, value) in values.clone() {
        match is_set(value) {
            Some(true) => set.push(name.to_owned()),
            Some(false) => {}
            None => return Err(no_mark(name, value, values)),
        }
    }
    Ok(Some(set))
}

fn is_set(mark: Option<&str>) -> Option<bool> {
    match mark?.to_lowercase().as_str() {
        "1" | "1.0" | "true" => Some(true),
        "0" | "0.0" | "false" => Some(false),
        _ => None,
    }
}

/// What is wrong with a value where a mark is expected, and the way out: the columns of the row that do hold marks.
fn no_mark<'a>(
    name: &str,
    value: Option<&str>,
    all: impl Iterator<Item = (&'a str, Option<&'a str>)>,
) -> (String, String) {
    let what = match value.filter(|value| !value.is_empty()) {
        Some(value) => {
            let value: String = value.chars().take(40).collect();
            format!("`{value}` stands in column `{name}`, and a column of a class holds 0 and 1")
        }
        None => format!("there is nothing in column `{name}`, and a column of a class holds 0 and 1"),
    };
    let marks: Vec<&str> = all.filter(|(_, value)| is_set(*value).is_some()).map(|(name, _)| name).collect();
    let fix = match &marks[..] {
        [] | [_] => {
            "name the column of the labels, or the columns of the classes, with `--label_column`".into()
        }
        marks => format!(
            "name the columns of the classes; of those that hold 0 or 1 here: --label_column '{}'",
            marks.join(",")
        ),
    };
    (what, fix)
}

/// Taking the text of a file apart, watched.
pub(super) fn parsing<'a, 'b>(path: &Path, content: &str, listener: &'a mut Listener<'b>) -> Watch<'a, 'b> {
    Watch::new(listener, format!("parsing {}", path.display()), content.len() as u64)
}
