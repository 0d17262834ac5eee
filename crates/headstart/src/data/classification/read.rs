//! Files with labelled texts become texts and label names, every one with the line it came from.
//!
//! Owns: the formats' syntax and its errors. Never: numbers labels or tokenises.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::{Map, Value};

use super::sources::{self, Format, Source};
use super::{ClassificationOptions, LabelKind};
use crate::data::encoding::{self, bad, read_text};
use crate::error::{Error, Result};

/// Names of a text column, the likeliest first.
const TEXT_COLUMNS: [&str; 13] = [
    "text",
    "sentence",
    "review",
    "question",
    "content",
    "comment",
    "tweet",
    "message",
    "body",
    "document",
    "utterance",
    "query",
    "title",
];
/// Names of a label column, the likeliest first.
const LABEL_COLUMNS: [&str; 13] = [
    "label",
    "labels",
    "class",
    "category",
    "target",
    "sentiment",
    "intent",
    "topic",
    "polarity",
    "rating",
    "score",
    "stars",
    "type",
];
const LABEL_PREFIX: &str = "__label__";

/// The labelled texts of one split.
#[derive(Debug)]
pub(super) struct Texts {
    /// The files they came from.
    pub files: Vec<PathBuf>,
    /// How they lay there.
    pub format: Format,
    /// The texts, in order; never none.
    pub examples: Vec<TextExample>,
}

/// A text with the names of its labels.
#[derive(Debug)]
pub(super) struct TextExample {
    pub text: String,
    pub labels: Vec<String>,
    /// Index into [`Texts::files`].
    pub file: usize,
    /// Counted from 1; `None` where the file is the text.
    pub line: Option<u64>,
}

impl Texts {
    /// Texts that are in memory already: pairs of label and text.
    pub fn in_memory(name: &str, pairs: &[(&str, &str)]) -> Self {
        let example = |(at, &(label, text)): (usize, &(&str, &str))| TextExample {
            text: text.to_owned(),
            labels: vec![label.to_owned()],
            file: 0,
            line: Some(at as u64 + 1),
        };
        let examples = pairs.iter().enumerate().map(example).collect();
        Self { files: vec![PathBuf::from(name)], format: Format::LabelPrefix, examples }
    }
}

/// Reads one split.
pub(super) fn read(source: &Source, options: &ClassificationOptions) -> Result<Texts> {
    let path = source.path.as_path();
    let mut files = vec![source.path.clone()];
    let examples = match &source.format {
        Format::Csv => read_table(path, b',', options)?,
        Format::Tsv => read_table(path, b'\t', options)?,
        Format::JsonLines => read_json_lines(path, options)?,
        Format::LabelPrefix => read_lines(path, options, prefixed)?,
        Format::Trec => read_lines(path, options, trec)?,
        Format::LabelsBeside(labels) => {
            // A wrong label is an error in the labels file, so that is the file the lines belong to.
            files = vec![labels.clone()];
            read_pair(path, labels, options)?
        }
        Format::ClassFolders => {
            let (paths, examples) = read_class_folders(path, options)?;
            files = paths;
            examples
        }
    };
    if examples.is_empty() {
        return Err(bad(path, None, "there are no examples in it".into(), "give at least one labelled text"));
    }
    Ok(Texts { files, format: source.format.clone(), examples })
}

fn no_label(path: &Path, line: u64) -> Error {
    bad(path, Some(line), "the label is missing".into(), "give this text a label, or remove the line")
}

/// The label names in one field, by the kind of label.
fn split_labels(field: &str, kind: LabelKind) -> Vec<String> {
    let field = field.trim();
    match kind {
        LabelKind::Multi => {
            field.split('|').map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect()
        }
        _ if field.is_empty() => Vec::new(),
        _ => vec![field.to_owned()],
    }
}

/// A column by its name, or by the names such columns have.
fn column<'a>(
    columns: &'a [String],
    wanted: Option<&str>,
    usual: &[&str],
    other: Option<&str>,
) -> Option<&'a str> {
    let find = |name: &str| columns.iter().map(String::as_str).find(|c| c.trim().eq_ignore_ascii_case(name));
    match wanted {
        Some(name) => columns.iter().map(String::as_str).find(|c| *c == name).or_else(|| find(name)),
        None => usual.iter().find_map(|&name| find(name).filter(|c| Some(*c) != other)),
    }
}

/// The name of the text column: the one that is asked for, or else one that is called like a text.
pub(in crate::data) fn text_column<'a>(all: &'a [String], wanted: Option<&str>) -> Option<&'a str> {
    column(all, wanted, &TEXT_COLUMNS, None)
}

/// The names of the text and the label column.
fn columns<'a>(
    path: &Path,
    all: &'a [String],
    options: &ClassificationOptions,
) -> Result<(&'a str, &'a str)> {
    let text = column(all, options.text_column.as_deref(), &TEXT_COLUMNS, options.label_column.as_deref());
    let label = column(all, options.label_column.as_deref(), &LABEL_COLUMNS, text);
    // Of two columns, the one that is not the one is the other.
    let rest = |known: Option<&str>| match all {
        [a, b] if Some(a.as_str()) == known => Some(b.as_str()),
        [a, b] if Some(b.as_str()) == known => Some(a.as_str()),
        _ => None,
    };
    let text_or_rest = text.or_else(|| rest(label).filter(|_| options.text_column.is_none()));
    let label_or_rest = label.or_else(|| rest(text).filter(|_| options.label_column.is_none()));
    match (text_or_rest, label_or_rest) {
        (Some(text), Some(label)) if text != label => Ok((text, label)),
        (found, _) => {
            let (missing, flag, wanted) = match found {
                None => ("text", "--text-column", &options.text_column),
                Some(_) => ("label", "--label-column", &options.label_column),
            };
            let what = match wanted {
                Some(name) => format!("no {missing} column `{name}`; the columns are {}", all.join(", ")),
                None => format!("no column looks like the {missing}; the columns are {}", all.join(", ")),
            };
            Err(bad(path, Some(1), what, format!("name the column with `{flag}`")))
        }
    }
}

fn read_table(path: &Path, delimiter: u8, options: &ClassificationOptions) -> Result<Vec<TextExample>> {
    let content = read_text(path, options.encoding)?;
    let quoting = delimiter == b',';
    let mut reader =
        csv::ReaderBuilder::new().delimiter(delimiter).quoting(quoting).from_reader(content.as_bytes());
    let malformed = |e: &csv::Error| {
        let line = e.position().map(|p| first_line_of(&content, p));
        let what = match e.kind() {
            csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                format!("{len} fields where the header has {expected_len}")
            }
            _ => format!("is not a table: {e}"),
        };
        bad(
            path,
            line,
            what,
            "put quotes around fields that contain the separator, and double the quotes in them",
        )
    };
    let header: Vec<String> =
        reader.headers().map_err(|e| malformed(&e))?.iter().map(str::to_owned).collect();
    let (text_name, label_name) = columns(path, &header, options)?;
    let at = |name: &str| header.iter().position(|c| c == name).unwrap_or_default();
    let (text_at, label_at) = (at(text_name), at(label_name));
    let mut examples = Vec::new();
    let mut last_start = 0;
    for record in reader.records() {
        let record = record.map_err(|e| malformed(&e))?;
        let Some(position) = record.position() else { continue };
        last_start = position.byte() as usize;
        let line = first_line_of(&content, position);
        let labels = split_labels(&record[label_at], options.label_kind);
        if labels.is_empty() && options.label_kind != LabelKind::Multi {
            return Err(no_label(path, line));
        }
        examples.push(TextExample { text: record[text_at].to_owned(), labels, file: 0, line: Some(line) });
    }
    // The reader takes a quote that is never closed as a field up to the end of the file.
    let tail = content.get(last_start..).unwrap_or_default();
    if quoting && tail.matches('"').count() % 2 == 1 {
        let line = content[..last_start].matches('\n').count() as u64 + 1;
        let fix = "close the quote, and double quotes inside a quoted field";
        return Err(bad(path, Some(line), "a quoted field that begins here never ends".into(), fix));
    }
    Ok(examples)
}

/// The line of a record: the reader's count stands before the blank lines that it skips.
fn first_line_of(content: &str, position: &csv::Position) -> u64 {
    let rest = content.get(position.byte() as usize..).unwrap_or_default();
    let blank = rest.bytes().take_while(|b| matches!(b, b'\n' | b'\r'));
    position.line() + blank.filter(|&b| b == b'\n').count() as u64
}

fn read_json_lines(path: &Path, options: &ClassificationOptions) -> Result<Vec<TextExample>> {
    let content = read_text(path, options.encoding)?;
    let mut examples = Vec::new();
    let mut names: Option<(String, String)> = None;
    for (at, line) in content.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let number = at as u64 + 1;
        let object: Map<String, Value> = serde_json::from_str(line).map_err(|e| {
            let what = format!("is not a JSON object (column {}): {e}", e.column());
            bad(path, Some(number), what, "write one JSON object on each line, not a list over many lines")
        })?;
        if names.is_none() {
            let keys: Vec<String> = object.keys().cloned().collect();
            let (text, label) = columns(path, &keys, options)?;
            names = Some((text.to_owned(), label.to_owned()));
        }
        let Some((text_name, label_name)) = &names else { continue };
        let Some(Value::String(text)) = object.get(text_name) else {
            let what = format!("there is no text under `{text_name}`");
            return Err(bad(path, Some(number), what, "give every object its text"));
        };
        let labels = match object.get(label_name) {
            None | Some(Value::Null) => return Err(no_label(path, number)),
            Some(Value::Array(list)) if options.label_kind == LabelKind::Multi => {
                list.iter().filter_map(json_label).collect()
            }
            Some(value) => {
                json_label(value).map(|l| split_labels(&l, options.label_kind)).unwrap_or_default()
            }
        };
        if labels.is_empty() && options.label_kind != LabelKind::Multi {
            let what = format!("`{label_name}` is not one label");
            return Err(bad(
                path,
                Some(number),
                what,
                "give one text or number, or use multi-label classification",
            ));
        }
        examples.push(TextExample { text: text.clone(), labels, file: 0, line: Some(number) });
    }
    Ok(examples)
}

fn json_label(value: &Value) -> Option<String> {
    match value {
        Value::String(label) => Some(label.trim().to_owned()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
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
        examples.push(TextExample { text: text.trim().to_owned(), labels, file: 0, line: Some(number) });
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
) -> Result<(Vec<PathBuf>, Vec<TextExample>)> {
    let mut files = Vec::new();
    let mut classes = Vec::new();
    for (class, path) in sources::class_folders(folder)? {
        let texts = sources::entries(&path)?;
        let before = files.len();
        files.extend(texts.into_iter().filter(|p| p.extension().is_some_and(|e| e == "txt")));
        if files.len() == before {
            let fix = "put the texts of this class there, one .txt file each, or remove the folder";
            return Err(bad(&path, None, "there is no .txt file in this class folder".into(), fix));
        }
        classes.resize(files.len(), class);
    }
    let examples = files.par_iter().zip(&classes).enumerate().map(|(file, (path, class))| {
        let text = encoding::read_any_text(path, options.encoding)?;
        Ok(TextExample { text: text.trim().to_owned(), labels: vec![class.clone()], file, line: None })
    });
    let examples = examples.collect::<Result<Vec<_>>>()?;
    Ok((files, examples))
}
