//! CSV and TSV.
//!
//! Owns: their syntax and its errors. Never: which columns are read (`columns`), what a label means.

use std::collections::HashSet;
use std::path::Path;

use super::columns::{Called, Columns, distinct};
use super::dialect::{Dialect, separator_line};
use super::parsed::{Rows, TextExample, marked, parsing, split_labels};
use super::{ClassificationOptions, Header, LabelKind};
use crate::data::encoding::read_text_watched;
use crate::error::{Error, Result, bad};
use crate::event::Listener;

/// Reads a table; `usual` is the separator that its name promises.
pub(super) fn read(
    path: &Path,
    usual: u8,
    options: &ClassificationOptions,
    training: Option<&Columns>,
    listener: &mut Listener<'_>,
) -> Result<Rows> {
    let mut content = read_text_watched(path, options.encoding, listener)?;
    let named = separator_line(&content).map(|(separator, end)| {
        // Its line stays, without anything in it.
        content.replace_range(..end, "");
        separator
    });
    let content = content;
    let dialect = Dialect::of(&content, usual, options.delimiter.or(named));
    let malformed = |e: &csv::Error| malformed(path, &content, dialect, e);
    let mut reader = dialect.reader(&content, options.header);
    let first = reader.headers().map_err(|e| malformed(&e))?;
    let header: Vec<String> = match options.header {
        Header::Present => distinct(first.iter().map(str::to_owned)),
        Header::Absent => (1..=first.len()).map(|number| number.to_string()).collect(),
    };
    let called = match options.header {
        Header::Present => Called::Names,
        Header::Absent => Called::Numbers,
    };
    let columns = Columns::choose(path, (&header, called), options, training)?;
    let at = |name: &String| header.iter().position(|c| c == name).unwrap_or_default();
    let texts_at: Vec<usize> = columns.text.iter().map(at).collect();
    let labels_at: Vec<usize> = columns.label.iter().map(at).collect();
    let group_at = columns.group.as_ref().map(at);
    let mut rows = Rows { notes: dialect.note(path, usual).into_iter().collect(), ..Rows::default() };
    let mut over_lines: Vec<(u64, String)> = Vec::new();
    let mut last_start = 0;
    let mut watch = parsing(path, &content, listener);
    for record in reader.records() {
        let record = record.map_err(|e| malformed(&e))?;
        let Some(position) = record.position() else { continue };
        last_start = position.byte() as usize;
        watch.at(position.byte())?;
        let line = first_line_of(&content, position);
        let labels = match &labels_at[..] {
            [] => None,
            [at] => {
                let labels = split_labels(&record[*at], options.label_kind);
                Some(labels).filter(|labels| !labels.is_empty() || options.label_kind == LabelKind::Multi)
            }
            several => {
                let values = several.iter().map(|&at| (header[at].as_str(), Some(record[at].trim())));
                marked(values).map_err(|(what, fix)| bad(path, Some(line), what, fix))?
            }
        };
        if labels.is_none() {
            rows.unlabelled.get_or_insert(line);
        }
        let labels = labels.unwrap_or_default();
        over_lines.extend(record.iter().filter(|f| f.contains('\n')).map(|f| (line, f.to_owned())));
        let mut texts = texts_at.iter().map(|&at| record[at].to_owned());
        let (text, second) = (texts.next().unwrap_or_default(), texts.next());
        rows.groups.extend(group_at.map(|at| record[at].trim().to_owned()));
        rows.examples.push(TextExample { text, second, labels, file: 0, line: Some(line) });
    }
    // The reader takes a quote that is never closed as a field up to the end of the file.
    let tail = content.get(last_start..).unwrap_or_default();
    if dialect.is_open_behind(tail.as_bytes()) {
        let line = content[..last_start].matches('\n').count() as u64 + 1;
        let fix = "close the quote, and double quotes inside a quoted field";
        return Err(bad(path, Some(line), "a quoted field that begins here never ends".into(), fix));
    }
    let known = rows.examples.iter().flat_map(|e| &e.labels).map(String::as_str).collect();
    let label_at = labels_at.first().copied().filter(|_| labels_at.len() == 1);
    let shape = Shape { dialect, fields: header.len(), label_at, known };
    for (line, field) in over_lines {
        rows.notes.extend(shape.swallowed(path, line, &field)?);
    }
    Ok(Rows { declared: columns.classes(), columns: Some(columns), ..rows })
}

fn malformed(path: &Path, content: &str, dialect: Dialect, error: &csv::Error) -> Error {
    let line = error.position().map(|p| first_line_of(content, p));
    let what = match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} fields where the header has {expected_len}")
        }
        _ => format!("is not a table: {error}"),
    };
    let fix = if dialect.quoting {
        "put quotes around fields that contain the separator, and double the quotes in them"
    } else {
        "take tabs and line ends out of the fields, or put quotes around all fields that have them, as pandas does"
    };
    bad(path, line, what, fix)
}

/// What a record of a table looks like.
struct Shape<'a> {
    dialect: Dialect,
    fields: usize,
    label_at: Option<usize>,
    /// The labels of the table.
    known: HashSet<&'a str>,
}

impl Shape<'_> {
    /// A warning about a field with line ends in it whose lines could be records: a quote was forgotten, or the text is
    /// one of tables.
    ///
    /// # Errors
    /// [`Error::BadInput`] where such a line has a label of the table as well: rows would be lost.
    fn swallowed(&self, path: &Path, line: u64, field: &str) -> Result<Option<String>> {
        let lines: Vec<&str> = field.split('\n').collect();
        let records: Vec<&str> = lines.iter().copied().filter(|l| self.fields_of(l).is_some()).collect();
        let labelled = records.iter().find(|l| {
            let fields = self.fields_of(l).unwrap_or_default();
            self.label_at.and_then(|at| fields.get(at)).is_some_and(|f| self.known.contains(f.trim()))
        });
        let what = |record: &str| {
            let record: String = record.chars().take(60).collect();
            format!(
                "a quoted field that begins here goes on over {} lines, and they look like rows: `{record}`",
                lines.len()
            )
        };
        let fix = "close the quote where the field ends, and double quotes inside a quoted field";
        match (labelled, records.len()) {
            (Some(record), _) => Err(bad(path, Some(line), what(record), fix)),
            // The last line may end with the quote.
            (None, n) if n >= 3 && n + 1 >= lines.len() => {
                Ok(Some(format!("warning: {}:{line}: {}; if so, {fix}", path.display(), what(records[0]))))
            }
            _ => Ok(None),
        }
    }

    /// The fields of a line that has as many as a record.
    fn fields_of(&self, line: &str) -> Option<Vec<String>> {
        let mut reader = self.dialect.reader(line, Header::Absent);
        let record = reader.records().next()?.ok()?;
        let fits = self.fields > 1 && record.len() == self.fields;
        fits.then(|| record.iter().map(str::to_owned).collect())
    }
}

/// The line of a record: the reader's count stands before the blank lines that it skips.
fn first_line_of(content: &str, position: &csv::Position) -> u64 {
    let rest = content.get(position.byte() as usize..).unwrap_or_default();
    let blank = rest.bytes().take_while(|b| matches!(b, b'\n' | b'\r'));
    position.line() + blank.filter(|&b| b == b'\n').count() as u64
}
