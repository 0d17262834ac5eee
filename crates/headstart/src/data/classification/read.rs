//! Files with labelled texts become texts and label names, every one with the line it came from.
//!
//! Owns: what all formats share, and the syntax of those of one text a line or file (`table` and `json_lines` have their own). Never: numbers labels or tokenises.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::columns::Columns;
use super::sources::{self, Format, Source};
use super::{ClassificationOptions, LabelKind, json_lines, table};
use crate::data::encoding::{self, bad, read_text};
use crate::data::split::Split;
use crate::error::{Error, Result};

const LABEL_PREFIX: &str = "__label__";

/// The texts of one split.
#[derive(Debug)]
pub(super) struct Texts {
    /// The files they came from.
    pub files: Vec<PathBuf>,
    /// How they lay there.
    pub format: Format,
    /// The texts, in order; never none.
    pub examples: Vec<TextExample>,
    /// Where they stood in a table.
    pub columns: Option<Columns>,
    /// Labels that exist even where no text has them, in their order.
    pub declared: Vec<String>,
    /// Whether they have labels; only what is not training data may have none.
    pub labelled: bool,
    /// What people should be told.
    pub notes: Vec<String>,
}

/// What a file gave.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// The texts.
    pub examples: Vec<TextExample>,
    /// The columns of a table.
    pub columns: Option<Columns>,
    /// Labels that exist even where no text has them, in their order.
    pub declared: Vec<String>,
    /// The first row without a label, where there is one.
    pub unlabelled: Option<u64>,
    /// What people should be told.
    pub notes: Vec<String>,
}

impl Rows {
    /// Rows without columns.
    fn plain(examples: Vec<TextExample>) -> Self {
        Self { examples, ..Self::default() }
    }

    /// Whether the rows have labels.
    ///
    /// # Errors
    /// [`Error::BadInput`] where some have and some have not, or where none of the training data has.
    fn labelled(&self, path: &Path, training: Option<&Columns>) -> Result<bool> {
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
    /// Index into [`Texts::files`].
    pub file: usize,
    /// Counted from 1; `None` where the file is the text.
    pub line: Option<u64>,
}

impl TextExample {
    /// Its one text, or both.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.text.as_str()).chain(self.second.as_deref())
    }

    /// As it is shown to people: a tab stands between two texts.
    pub fn shown(&self) -> String {
        self.texts().collect::<Vec<_>>().join("\t")
    }
}

impl Texts {
    /// Texts that are in memory already: pairs of label and text.
    pub fn in_memory(name: &str, pairs: &[(&str, &str)]) -> Self {
        let example = |(at, &(label, text)): (usize, &(&str, &str))| TextExample {
            text: text.to_owned(),
            second: None,
            labels: vec![label.to_owned()],
            file: 0,
            line: Some(at as u64 + 1),
        };
        Self {
            files: vec![PathBuf::from(name)],
            format: Format::LabelPrefix,
            examples: pairs.iter().enumerate().map(example).collect(),
            columns: None,
            declared: Vec::new(),
            labelled: true,
            notes: Vec::new(),
        }
    }
}

impl Texts {
    /// Texts to an example: 2 where they are pairs.
    pub fn per_example(&self) -> usize {
        self.examples.first().map_or(1, |example| example.texts().count())
    }

    /// All texts, those of a pair one behind the other.
    pub fn each(&self) -> impl Iterator<Item = &str> {
        self.examples.iter().flat_map(TextExample::texts)
    }

    /// What was read, for people: how many rows of which file, and which columns.
    pub fn description(&self, split: Split) -> String {
        let (count, file) = (self.examples.len(), self.files[0].display());
        let source = match self.format {
            Format::ClassFolders => format!("{split}: {count} texts, one a file, like {file}"),
            _ => format!("{split}: {count} rows of {file}, none refused"),
        };
        let Some(Columns { text, label }) = &self.columns else { return source };
        let texts = match &text[..] {
            [first, second] => format!("pairs of texts in columns `{first}` and `{second}`"),
            other => format!("text in column `{}`", other.join("` and `")),
        };
        match label {
            Some(label) if self.labelled => format!("{source}; {texts}, label in `{label}`"),
            _ => format!("{source}; {texts}; they have no labels, so nothing is measured on them"),
        }
    }
}

/// Reads one split; `training` are the columns of the training data where this is another one.
pub(super) fn read(
    source: &Source,
    options: &ClassificationOptions,
    training: Option<&Columns>,
) -> Result<Texts> {
    let path = source.path.as_path();
    let mut files = vec![source.path.clone()];
    let rows = match &source.format {
        Format::Csv => table::read(path, b',', options, training)?,
        Format::Tsv => table::read(path, b'\t', options, training)?,
        Format::JsonLines => json_lines::read(path, options, training)?,
        Format::LabelPrefix => Rows::plain(read_lines(path, options, prefixed)?),
        Format::Trec => Rows::plain(read_lines(path, options, trec)?),
        Format::LabelsBeside(labels) => {
            // A wrong label is an error in the labels file, so that is the file the lines belong to.
            files = vec![labels.clone()];
            Rows::plain(read_pair(path, labels, options)?)
        }
        Format::ClassFolders => {
            let (paths, examples, notes) = read_class_folders(path, options)?;
            files = paths;
            Rows { notes, ..Rows::plain(examples) }
        }
    };
    if rows.examples.is_empty() {
        return Err(bad(path, None, "there are no examples in it".into(), "give at least one labelled text"));
    }
    let labelled = rows.labelled(path, training)?;
    let Rows { examples, columns, declared, notes, .. } = rows;
    Ok(Texts { files, format: source.format.clone(), examples, columns, declared, labelled, notes })
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

/// Labels and text of a line, or `None` where the labels are missing.
type LineParser = fn(&str, LabelKind) -> Option<(Vec<String>, &str)>;

/// Reads a format of one example a line; blank lines are skipped.
fn read_lines(path: &Path, options: &ClassificationOptions, parse: LineParser) -> Result<Vec<TextExample>> {
    let content = read_text(path, options.encoding)?;
    let mut examples = Vec::new();
    for (at, line) in content.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let number = at as u64 + 1;
        let (labels, text) = parse(line, options.label_kind).ok_or_else(|| no_label(path, number))?;
        examples.push(TextExample {
            text: text.trim().to_owned(),
            second: None,
            labels,
            file: 0,
            line: Some(number),
        });
    }
    Ok(examples)
}

fn prefixed(line: &str, _: LabelKind) -> Option<(Vec<String>, &str)> {
    let mut labels = Vec::new();
    let mut rest = line.trim_start();
    while let Some(after) = rest.strip_prefix(LABEL_PREFIX) {
        let (label, text) = after.split_once(char::is_whitespace).unwrap_or((after, ""));
        labels.push(label.to_owned());
        rest = text.trim_start();
    }
    (!labels.is_empty() && labels.iter().all(|l| !l.is_empty())).then_some((labels, rest))
}

fn trec(line: &str, kind: LabelKind) -> Option<(Vec<String>, &str)> {
    sources::trec_label(line).map(|(label, text)| (split_labels(label, kind), text))
}

fn read_pair(texts: &Path, labels: &Path, options: &ClassificationOptions) -> Result<Vec<TextExample>> {
    let text_content = read_text(texts, options.encoding)?;
    let label_content = read_text(labels, options.encoding)?;
    let (text_count, label_count) = (text_content.lines().count(), label_content.lines().count());
    if text_count != label_count {
        let what = format!("has {label_count} labels, but {} has {text_count} texts", texts.display());
        return Err(bad(labels, None, what, "give every line of text one line with its label"));
    }
    let mut examples = Vec::with_capacity(text_count);
    for (at, (text, label)) in text_content.lines().zip(label_content.lines()).enumerate() {
        let labels_here = split_labels(label, options.label_kind);
        if labels_here.is_empty() && options.label_kind != LabelKind::Multi {
            return Err(no_label(labels, at as u64 + 1));
        }
        examples.push(TextExample {
            text: text.to_owned(),
            second: None,
            labels: labels_here,
            file: 0,
            line: Some(at as u64 + 1),
        });
    }
    Ok(examples)
}

fn read_class_folders(
    folder: &Path,
    options: &ClassificationOptions,
) -> Result<(Vec<PathBuf>, Vec<TextExample>, Vec<String>)> {
    let mut found = sources::ClassFiles::beside_classes(folder)?;
    let mut classes = Vec::new();
    for (class, path) in sources::class_folders(folder)? {
        let before = found.texts.len();
        found.add(&path)?;
        if found.texts.len() == before {
            let fix = "put the texts of this class there, one .txt file each, or remove the folder";
            return Err(bad(&path, None, "there is no text file in this class folder".into(), fix));
        }
        classes.resize(found.texts.len(), class);
    }
    let examples = found.texts.par_iter().zip(&classes).enumerate().map(|(file, (path, class))| {
        let text = encoding::read_any_text(path, options.encoding)?;
        let (text, labels) = (text.trim().to_owned(), vec![class.clone()]);
        Ok(TextExample { text, second: None, labels, file, line: None })
    });
    let examples = examples.collect::<Result<Vec<_>>>()?;
    let notes = found.skipped_note(folder).into_iter().collect();
    Ok((found.texts, examples, notes))
}
