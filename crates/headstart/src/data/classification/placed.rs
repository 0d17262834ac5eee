//! A labelled data set as it is written: every text with its labels, its file and its line.
//!
//! Owns: that nothing is refused which can be read. Never: tokens, judges what stands there.

use std::path::{Path, PathBuf};

use super::unread::{self, UnreadColumn};
use super::{ClassificationOptions, LabelKind, labels, read, read_splits};
use crate::data::split::Split;
use crate::error::Result;
use crate::event::Listener;

/// A labelled data set as it is written.
#[derive(Debug, Clone, Default)]
pub struct PlacedTexts {
    /// What the labels are.
    pub label_kind: LabelKind,
    /// The names of the classes: those of the training data; none for numbers.
    pub labels: Vec<String>,
    /// The splits that have labels.
    pub splits: Vec<PlacedSplit>,
    /// The columns of the training table that are neither text nor label.
    pub unread: Vec<UnreadColumn>,
    /// How it was read.
    pub notes: Vec<String>,
}

/// One split.
#[derive(Debug, Clone)]
pub struct PlacedSplit {
    /// Which.
    pub split: Split,
    /// The files that its texts lie in.
    pub files: Vec<PathBuf>,
    /// The texts, in order.
    pub texts: Vec<PlacedText>,
}

/// A text, or a pair.
#[derive(Debug, Clone)]
pub struct PlacedText {
    /// The text.
    pub text: String,
    /// The other text of a pair.
    pub second: Option<String>,
    /// The names of its labels as they are written.
    pub labels: Vec<String>,
    /// An index into the split's files.
    pub file: usize,
    /// Counted from 1; `None` where the file is the text.
    pub line: Option<u64>,
}

impl PlacedTexts {
    /// Reads a data set as [`super::ClassificationData::load`] does; labels that this would refuse are kept.
    ///
    /// # Errors
    /// Files that cannot be read, rows without a label, no label at all; [`crate::Error::Interrupted`] where `listener` asks
    /// for a stop.
    pub fn read(path: &Path, options: &ClassificationOptions, listener: &mut Listener<'_>) -> Result<Self> {
        let (mut texts, notes) = read_splits(path, options, listener)?;
        labels::name_numbers(&mut texts, options);
        let label_kind = options.label_kind;
        let names = match label_kind {
            LabelKind::Regression => Vec::new(),
            _ if !options.stated_labels.is_empty() => options.stated_labels.clone(),
            _ => labels::discover(&texts, listener)?,
        };
        if label_kind != LabelKind::Regression {
            labels::refuse_no_class(&texts, &names)?;
        }
        let unread = unread::columns(path, options, texts.get(&Split::Train), listener)?;
        let splits = texts.into_iter().map(|(split, texts)| PlacedSplit::of(split, texts)).collect();
        Ok(Self { label_kind, labels: names, splits, unread, notes })
    }

    /// Of texts in memory: for each split, pairs of label and text.
    pub fn of_texts(splits: &[(Split, &[(&str, &str)])], labels: &[&str]) -> Self {
        let split = |&(split, pairs): &(Split, &[(&str, &str)])| {
            PlacedSplit::of(split, read::Texts::in_memory(split.names()[0], pairs))
        };
        Self {
            labels: labels.iter().map(|&label| label.to_owned()).collect(),
            splits: splits.iter().map(split).collect(),
            ..Self::default()
        }
    }
}

impl PlacedSplit {
    fn of(split: Split, texts: read::Texts) -> Self {
        let placed = |example: super::parsed::TextExample| {
            let super::parsed::TextExample { text, second, labels, file, line } = example;
            PlacedText { text, second, labels, file, line }
        };
        Self { split, files: texts.files, texts: texts.examples.into_iter().map(placed).collect() }
    }
}
