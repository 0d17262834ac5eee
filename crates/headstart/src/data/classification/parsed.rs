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

/// Taking the text of a file apart, watched.
pub(super) fn parsing<'a, 'b>(path: &Path, content: &str, listener: &'a mut Listener<'b>) -> Watch<'a, 'b> {
    Watch::new(listener, format!("parsing {}", path.display()), content.len() as u64)
}
