//! Files with labelled texts become texts and label names, every one with the line it came from.
//!
//! Owns: which format is read how, and the syntax of those of one text a line or file (`table` and `json_lines` have their
//! own). Never: numbers labels or tokenises.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::columns::{Columns, listed};
use super::label_place::LabelPlace;
use super::parsed::{Rows, TextExample, no_label, parsing, split_labels};
use super::sources::{self, Format, Source};
use super::{ClassificationOptions, LabelKind, json_lines, table};
use crate::data::encoding::{self, read_text_watched};
use crate::data::split::Split;
use crate::data::watch;
use crate::error::{Result, bad};
use crate::event::Listener;

const LABEL_PREFIX: &str = "__label__";
/// Files of class folders that are read between two questions whether to go on.
const FILES_AT_ONCE: usize = 512;

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
    /// The group of each, as in [`Rows::groups`].
    pub groups: Vec<String>,
    /// Labels that exist even where no text has them, in their order.
    pub declared: Vec<String>,
    /// Whether they have labels; only what is not training data may have none.
    pub labelled: bool,
    /// What people should be told.
    pub notes: Vec<String>,
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
            groups: Vec::new(),
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

    /// Where an example stands, for people: its line, its file, or where there are several files with lines both.
    pub fn place(&self, example: &TextExample) -> String {
        let file = self.files[example.file].display();
        match example.line {
            Some(line) if self.files.len() > 1 => format!("line {line} of {file}"),
            Some(line) => format!("line {line}"),
            None => file.to_string(),
        }
    }

    /// What was read, for people: how many rows of which file, and which columns.
    pub fn description(&self, split: Split) -> String {
        let (count, file) = (self.examples.len(), self.files[0].display());
        let source = match self.format {
            Format::ClassFolders => format!("{split}: {count} texts, one a file, like {file}"),
            Format::FilePerClass => {
                let files = self.files.len();
                format!(
                    "{split}: {count} texts, one a line, of {files} files that are a class each, like {file}"
                )
            }
            _ if self.files.len() > 1 => {
                format!("{split}: {count} rows of {} files, {file} the first, none refused", self.files.len())
            }
            _ => format!("{split}: {count} rows of {file}, none refused"),
        };
        let Some(Columns { text, label, .. }) = &self.columns else { return source };
        let texts = match &text[..] {
            [first, second] => format!("pairs of texts in columns `{first}` and `{second}`"),
            other => format!("text in column `{}`", other.join("` and `")),
        };
        match &label[..] {
            [label] if self.labelled => format!("{source}; {texts}, label in `{label}`"),
            [_, _, ..] if self.labelled => {
                format!("{source}; {texts}, a column for each of {} classes: {}", label.len(), listed(label))
            }
            _ => format!("{source}; {texts}; they have no labels, so nothing is measured on them"),
        }
    }
}

/// Reads one split; `training` are the columns of the training data where this is another one.
pub(super) fn read(
    source: &Source,
    options: &ClassificationOptions,
    training: Option<&Columns>,
    listener: &mut Listener<'_>,
) -> Result<Texts> {
    let mut texts = read_file(source, options, training, listener)?;
    for source in &source.further {
        // The columns of the first file are those of all.
        let columns = training.or(texts.columns.as_ref());
        let more = read_file(source, options, columns, listener)?;
        if more.labelled != texts.labelled {
            let [has, has_not] =
                if more.labelled { [&source.path, &texts.files[0]] } else { [&texts.files[0], &source.path] };
            let what = format!("has no labels, where {} has them", has.display());
            return Err(bad(has_not, None, what, "give all parts of a split labels, or none of them"));
        }
        if more.per_example() != texts.per_example() {
            let what =
                format!("pairs of texts and single texts are mixed: {} differs", texts.files[0].display());
            return Err(bad(&source.path, None, what, "give all parts of a split the same columns"));
        }
        let behind = texts.files.len();
        let placed = more.examples.into_iter().map(|e| TextExample { file: e.file + behind, ..e });
        texts.examples.extend(placed);
        texts.groups.extend(more.groups);
        texts.files.extend(more.files);
        texts.notes.extend(more.notes);
        let new = more.declared.into_iter().filter(|label| !texts.declared.contains(label));
        let new: Vec<String> = new.collect();
        texts.declared.extend(new);
    }
    Ok(texts)
}

fn read_file(
    source: &Source,
    options: &ClassificationOptions,
    training: Option<&Columns>,
    listener: &mut Listener<'_>,
) -> Result<Texts> {
    let path = source.path.as_path();
    let mut files = vec![source.path.clone()];
    let rows = match &source.format {
        Format::Csv => table::read(path, b',', options, training, listener)?,
        Format::Tsv => table::read(path, b'\t', options, training, listener)?,
        Format::JsonLines => json_lines::read(path, options, training, listener)?,
        Format::LabelPrefix => Rows::plain(read_lines(path, options, prefixed, listener)?),
        Format::Trec => Rows::plain(read_lines(path, options, trec, listener)?),
        Format::LabelledLines(place) => {
            Rows::plain(read_lines(path, options, |line, kind| at(*place, line, kind), listener)?)
        }
        Format::LabelsBeside(labels) => {
            // A wrong label is an error in the labels file, so that is the file the lines belong to.
            files = vec![labels.clone()];
            Rows::plain(read_pair(path, labels, options, listener)?)
        }
        Format::ClassFolders => {
            let (paths, examples, notes) = read_class_folders(path, options, listener)?;
            files = paths;
            Rows { notes, ..Rows::plain(examples) }
        }
        Format::FilePerClass => {
            let (classes, paths): (Vec<_>, Vec<_>) = sources::files_of_classes(path)?.into_iter().unzip();
            let notes = sources::ClassFiles::others(path, &paths)?.skipped_note(path).into_iter().collect();
            let examples = read_files_of_classes(&paths, &classes, options, listener)?;
            files = paths;
            Rows { notes, ..Rows::plain(examples) }
        }
    };
    if rows.examples.is_empty() {
        return Err(bad(path, None, "there are no examples in it".into(), "give at least one labelled text"));
    }
    let labelled = rows.labelled(path, training)?;
    let Rows { examples, columns, groups, declared, notes, .. } = rows;
    Ok(Texts { files, format: source.format.clone(), examples, columns, groups, declared, labelled, notes })
}

/// Reads a format of one example a line; blank lines are skipped. `parse` takes labels and text out of a line, `None` where the labels are missing.
fn read_lines(
    path: &Path,
    options: &ClassificationOptions,
    parse: impl Fn(&str, LabelKind) -> Option<(Vec<String>, &str)>,
    listener: &mut Listener<'_>,
) -> Result<Vec<TextExample>> {
    let content = read_text_watched(path, options.encoding, listener)?;
    let mut watch = parsing(path, &content, listener);
    let mut examples = Vec::new();
    let mut done = 0;
    for (at, line) in content.lines().enumerate() {
        done += line.len() as u64 + 1;
        watch.at(done)?;
        if line.trim().is_empty() {
            continue;
        }
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

fn at(place: LabelPlace, line: &str, kind: LabelKind) -> Option<(Vec<String>, &str)> {
    place.split(line).map(|(label, text)| (split_labels(label, kind), text))
}

fn read_pair(
    texts: &Path,
    labels: &Path,
    options: &ClassificationOptions,
    listener: &mut Listener<'_>,
) -> Result<Vec<TextExample>> {
    let text_content = read_text_watched(texts, options.encoding, listener)?;
    let label_content = read_text_watched(labels, options.encoding, listener)?;
    let (text_count, label_count) = (text_content.lines().count(), label_content.lines().count());
    if text_count != label_count {
        let what = format!("has {label_count} labels, but {} has {text_count} texts", texts.display());
        return Err(bad(labels, None, what, "give every line of text one line with its label"));
    }
    let mut watch = parsing(texts, &text_content, listener);
    let mut examples = Vec::with_capacity(text_count);
    let mut done = 0;
    for (at, (text, label)) in text_content.lines().zip(label_content.lines()).enumerate() {
        done += text.len() as u64 + 1;
        watch.at(done)?;
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
    listener: &mut Listener<'_>,
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
    let one = |file: usize| {
        let (path, class): (&PathBuf, &String) = (&found.texts[file], &classes[file]);
        let text = encoding::read_any_text(path, options.encoding)?;
        let (text, labels) = (text.trim().to_owned(), vec![class.clone()]);
        Ok(TextExample { text, second: None, labels, file, line: None })
    };
    let mut examples = Vec::with_capacity(found.texts.len());
    while examples.len() < found.texts.len() {
        watch::go_on(listener)?;
        let files = examples.len()..found.texts.len().min(examples.len() + FILES_AT_ONCE);
        let some = files.into_par_iter().map(one);
        examples.extend(some.collect::<Result<Vec<_>>>()?);
    }
    let notes = found.skipped_note(folder).into_iter().collect();
    Ok((found.texts, examples, notes))
}

/// Files that are a class each, with a text a line; blank lines are skipped.
fn read_files_of_classes(
    files: &[PathBuf],
    classes: &[String],
    options: &ClassificationOptions,
    listener: &mut Listener<'_>,
) -> Result<Vec<TextExample>> {
    let mut examples = Vec::new();
    for (file, (path, class)) in files.iter().zip(classes).enumerate() {
        let content = read_text_watched(path, options.encoding, listener)?;
        for (at, line) in content.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let (text, labels) = (line.trim().to_owned(), vec![class.clone()]);
            examples.push(TextExample { text, second: None, labels, file, line: Some(at as u64 + 1) });
        }
    }
    Ok(examples)
}
