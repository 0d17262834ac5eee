//! Classification data: texts with labels become examples of plain token ids, from whatever layout they come in.
//!
//! Owns: the order of that work. `sources` finds the files, `read` takes them apart, `labels` numbers what they say,
//! `examples` are their tokens, `hold_out` makes a validation split. Never: special tokens, truncation (`template`),
//! batches, shuffles.

mod columns;
mod dialect;
mod examples;
mod hold_out;
mod json_lines;
mod label_place;
mod labels;
mod lookalikes;
mod origins;
mod parsed;
pub mod placed;
pub mod raw;
mod read;
mod several;
mod sources;
mod table;
mod texts;
mod unread;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub(in crate::data) use columns::{distinct, listed, text_column, text_columns};
pub(in crate::data) use dialect::{Dialect, separator_line};

use super::cache::CacheUse;
use super::encoding::TextEncoding;
use super::split::Split;
use crate::config::TextColumns;
use crate::error::{Error, Result};
use crate::event::{Event, Listener, Signal};
use crate::tokenizer::Tokenizer;

pub use examples::{Example, LabelledSplit};
pub use hold_out::HELD_OUT_FRACTION;
pub use lookalikes::{is_missing, key as look_alike_key};
pub use origins::{Origin, Origins};
pub(crate) use several::joined_names;
pub use sources::is_labelled;
pub use texts::{ClassTexts, TextSplit, joined};
pub use unread::UnreadColumn;

/// The question types of TREC-6 in their fixed order.
pub const TREC_LABELS: [&str; 6] = ["NUM", "LOC", "HUM", "DESC", "ENTY", "ABBR"];

/// What a label is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LabelKind {
    /// One class of several.
    #[default]
    Single,
    /// Any number of classes: several `__label__`, a JSON list, a column for each class, or names in one field with `|`
    /// between them, or, where names come back in other fields, with one of `,;#/`, or as Python prints lists.
    Multi,
    /// A number.
    Regression,
}

/// Whether the first row of a table names its columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Header {
    /// It does.
    #[default]
    Present,
    /// It is a row like any other.
    Absent,
}

/// The label of an example.
#[derive(Debug, Clone, PartialEq)]
pub enum Label {
    /// The class, an index into the labels ([`LabelKind::Single`]).
    Class(u32),
    /// The classes, ascending ([`LabelKind::Multi`]).
    Classes(Vec<u32>),
    /// The number ([`LabelKind::Regression`]).
    Value(f32),
}

impl Label {
    /// The classes; none for a number.
    pub fn classes(&self) -> &[u32] {
        match self {
            Self::Class(class) => std::slice::from_ref(class),
            Self::Classes(classes) => classes,
            Self::Value(_) => &[],
        }
    }
}

/// How a data set is read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClassificationOptions {
    /// What the labels are.
    pub label_kind: LabelKind,
    /// What stands between the columns of CSV and TSV; `None` finds it.
    pub delimiter: Option<u8>,
    /// Whether the first row of CSV and TSV names the columns.
    pub header: Header,
    /// The column with the text (CSV, TSV, JSONL), or the two of a pair; `None` finds them by their names. Without a header,
    /// columns have numbers from 1.
    pub text_column: Option<TextColumns>,
    /// The column with the label, or with several at once maybe a column of 0 and 1 for each class, with commas between; `None`
    /// finds it by its name.
    pub label_column: Option<String>,
    /// The column whose equal values, such as a speaker's or an author's name, keep examples on one side where validation data is held out.
    pub group_column: Option<String>,
    /// The file with the labels, line by line, where the data is a file with the texts alone.
    pub labels_file: Option<PathBuf>,
    /// The encoding of all files.
    pub encoding: TextEncoding,
    /// The labels of a trained model, in its order: any other is an error. `None` takes them from the data.
    pub known_labels: Option<Vec<String>>,
    /// The labels the catalogue states, in the order of their numbers; empty where it knows none. Where the data has
    /// numbers in their place, these are their names.
    pub stated_labels: Vec<String>,
    /// What a finished model is measured on; `None` where one is trained.
    pub measured: Option<Measured>,
}

/// What of a data set a finished model is measured on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Measured {
    /// The splits, the first that there is of which is measured. Labels of the others need not be the model's.
    pub order: Vec<Split>,
    /// The label column that the model was trained with, where it was one of a table.
    pub label_column: Option<String>,
}

impl Measured {
    /// Keeps the one split that is measured.
    fn keep(&self, texts: &mut BTreeMap<Split, read::Texts>) {
        let measured = self.order.iter().copied().find(|split| texts.contains_key(split));
        texts.retain(|split, _| Some(*split) == measured);
    }
}

/// A data set for classification.
#[derive(Debug, Clone)]
pub struct ClassificationData {
    /// The names of the classes by index; empty for [`LabelKind::Regression`].
    pub labels: Vec<String>,
    /// What the labels are.
    pub label_kind: LabelKind,
    /// The training examples. A file or folder that is not split stands here, too.
    pub train: Option<LabelledSplit>,
    /// The validation examples; see [`Self::hold_out_validation`].
    pub valid: Option<LabelledSplit>,
    /// The test examples.
    pub test: Option<LabelledSplit>,
    /// The columns of the training texts, where they stood in a table: one, or the two of a pair.
    pub text_columns: Vec<String>,
    /// The column of their labels, where they stood in a table.
    pub label_column: Option<String>,
    /// Whether the token ids came from the cache: [`CacheUse::Hit`] when all of them did.
    pub cache_use: CacheUse,
    /// What people should be told of how the data was read; a line that begins with `warning: ` needs their eyes.
    pub notes: Vec<String>,
}

impl ClassificationData {
    /// Reads a data set: a file, or a folder with `train`, `valid` and `test` files or folders of classes.
    ///
    /// Formats: CSV, TSV (quoted or not), JSONL, `__label__x text`, `LABEL:sub text` (the part before the colon
    /// is the label), a text file with a labels file beside it (`train.txt` + `train.labels`), one folder per
    /// class with a `.txt` file per text, one file per class with a text per line. Labels are numbered in order of first appearance in the training data;
    /// TREC's and `pos` / `neg` folders have their customary order, a set of the catalogue the one stated there, other
    /// folders the alphabet's.
    ///
    /// # Errors
    /// [`Error::Missing`] when there is no data; [`Error::BadInput`] naming file and line for what cannot be used,
    /// a label that is missing, unknown or the only one; [`Error::Config`] for impossible options; [`Error::Io`];
    /// [`Error::Interrupted`] where `listener` asks for a stop.
    pub fn load(
        path: &Path,
        options: &ClassificationOptions,
        tokenizer: &Tokenizer,
        cache_folder: &Path,
        listener: &mut Listener<'_>,
    ) -> Result<Self> {
        let (mut texts, mut notes) = read_splits(path, options, listener)?;
        labels::name_numbers(&mut texts, options);
        if let Some(measured) = &options.measured {
            measured.keep(&mut texts);
        }
        let labels = match (&options.known_labels, options.label_kind) {
            (_, LabelKind::Regression) => Vec::new(),
            (Some(known), _) => known.clone(),
            (None, _) if !options.stated_labels.is_empty() => options.stated_labels.clone(),
            (None, _) => labels::discover(&texts, listener)?,
        };
        if options.label_kind != LabelKind::Regression {
            labels::refuse_no_class(&texts, &labels)?;
            let first = texts.values().next().filter(|_| options.known_labels.is_none());
            if let Some(first) = first {
                notes.extend(lookalikes::warnings(first, listener)?);
            }
        }
        let mut data = Self { notes, ..Self::without_examples(labels, options.label_kind) };
        for (&split, texts) in &texts {
            let resolved = texts.labels(&data.labels, options.label_kind, listener)?;
            if split == Split::Train {
                if let Some(columns) = &texts.columns {
                    data.text_columns.clone_from(&columns.text);
                    data.label_column = columns.label_column();
                }
                if options.known_labels.is_none() {
                    labels::refuse_one_class(texts, &resolved, &data.labels)?;
                }
            }
            let mut progress = |done, total| listener(Event::Progress { what: "tokenising", done, total });
            let (tokens, usage) = examples::cached_tokens(texts, tokenizer, cache_folder, &mut progress)?;
            data.notes.extend(tokens.unknown(texts, tokenizer).warning(&format!("the {split} texts")));
            // The whole was a hit only if every part was.
            if usage != CacheUse::Hit && data.cache_use != CacheUse::Rebuilt {
                data.cache_use = usage;
            }
            *data.slot(split) = Some(LabelledSplit::new(tokens, resolved));
        }
        Ok(data)
    }

    /// A data set of texts in memory, single-label: for each split, pairs of label and text.
    ///
    /// # Errors
    /// [`Error::BadInput`] when a label is not among `labels`, or the tokenizer fails.
    pub fn from_texts(
        splits: &[(Split, &[(&str, &str)])],
        labels: &[&str],
        tokenizer: &Tokenizer,
    ) -> Result<Self> {
        let names = labels.iter().map(|&l| l.to_owned()).collect();
        let mut data = Self::without_examples(names, LabelKind::Single);
        data.cache_use = CacheUse::Memory;
        for &(split, examples) in splits {
            let texts = read::Texts::in_memory(&split.to_string(), examples);
            let resolved = texts.labels(&data.labels, LabelKind::Single, &mut |_| Signal::Continue)?;
            let tokens = examples::tokens_in_memory(&texts, tokenizer)?;
            *data.slot(split) = Some(LabelledSplit::new(tokens, resolved));
        }
        Ok(data)
    }

    /// The examples of a split.
    ///
    /// # Errors
    /// [`Error::Missing`] when the data has no such split.
    pub fn get(&self, split: Split) -> Result<&LabelledSplit> {
        let found = match split {
            Split::Train => &self.train,
            Split::Valid => &self.valid,
            Split::Test => &self.test,
        };
        found.as_ref().ok_or_else(|| Error::Missing {
            what: format!("the data has no {split} examples"),
            fix: format!("add a {split} file to the folder"),
        })
    }

    fn without_examples(labels: Vec<String>, label_kind: LabelKind) -> Self {
        Self {
            labels,
            label_kind,
            train: None,
            valid: None,
            test: None,
            text_columns: Vec::new(),
            label_column: None,
            cache_use: CacheUse::Hit,
            notes: Vec::new(),
        }
    }

    fn slot(&mut self, split: Split) -> &mut Option<LabelledSplit> {
        match split {
            Split::Train => &mut self.train,
            Split::Valid => &mut self.valid,
            Split::Test => &mut self.test,
        }
    }
}

/// Tables of a folder that are no split's and are named.
const LISTED_UNREAD: usize = 5;

/// The texts of all splits that have labels, and what to tell of them. The columns of the training data are those of all.
fn read_splits(
    path: &Path,
    options: &ClassificationOptions,
    listener: &mut Listener<'_>,
) -> Result<(BTreeMap<Split, read::Texts>, Vec<String>)> {
    let (mut all, mut notes) = (BTreeMap::new(), Vec::new());
    let mut training: Option<columns::Columns> = None;
    let found = sources::find(path, options)?;
    let unread = sources::unread_tables(path, &found)?;
    for (split, source) in found {
        let mut texts = read::read(&source, options, training.as_ref(), listener)?;
        notes.push(texts.description(split));
        notes.append(&mut texts.notes);
        if split == Split::Train {
            training.clone_from(&texts.columns);
        }
        if labels::are_withheld(&texts, all.get(&Split::Train)) {
            texts.labelled = false;
            notes.push(format!(
                "{split}: every label is -1, which stands for none; nothing is measured on it"
            ));
        }
        if texts.labelled {
            all.insert(split, texts);
        }
    }
    if let (Some(name), Some(train)) = (&options.group_column, all.get(&Split::Train))
        && train.groups.is_empty()
    {
        return Err(Error::Config {
            key: "group_column".into(),
            what: format!("there is no column `{name}` in the training data, which is no table"),
            fix: "leave it out, or give a CSV, TSV, JSON or Parquet file".into(),
        });
    }
    notes.extend(several::separate(&mut all, options));
    if let Some(first) = unread.first() {
        let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let names: Vec<String> = unread.iter().take(LISTED_UNREAD).map(name).collect();
        let more = if unread.len() > LISTED_UNREAD { ", ..." } else { "" };
        let folder = first.parent().unwrap_or(path).display();
        notes
            .push(format!("not read in {folder}, for they have no split's name: {}{more}", names.join(", ")));
    }
    Ok((all, notes))
}

#[cfg(test)]
mod tests;
