//! What stands between the fields of a table, and whether quotes hold a field together.
//!
//! Owns: finding that out. Never: the content of a field.

use std::path::Path;

use super::{ClassificationOptions, Header};

/// What may stand between fields.
const DELIMITERS: [u8; 4] = *b",\t;|";
/// Rows by which a separator is found.
const SAMPLE_ROWS: usize = 50;

/// How a table is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dialect {
    /// What stands between fields.
    pub delimiter: u8,
    /// Whether quotes hold fields together that contain separators, line ends or quotes.
    pub quoting: bool,
}

impl Dialect {
    /// That of a file: its separator is the one asked for, else the usual one, else whichever gives every row as many fields
    /// as the first.
    pub fn of(content: &str, usual: u8, options: &ClassificationOptions) -> Self {
        let fits = |&delimiter: &u8| {
            let even = |quoting| Self { delimiter, quoting }.is_even(content, SAMPLE_ROWS, 2);
            even(true) || (delimiter == b'\t' && even(false))
        };
        let candidates = std::iter::once(usual).chain(DELIMITERS);
        let delimiter = options.delimiter.or_else(|| candidates.into_iter().find(fits)).unwrap_or(usual);
        Self { delimiter, quoting: delimiter != b'\t' || tabs_are_quoted(content) }
    }

    /// A reader of rows.
    pub fn reader(self, text: &str, header: Header) -> csv::Reader<&[u8]> {
        let Self { delimiter, quoting } = self;
        csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .quoting(quoting)
            .has_headers(header == Header::Present)
            .from_reader(text.as_bytes())
    }

    /// Whether the first rows have equally many fields, and at least so many.
    fn is_even(self, content: &str, rows: usize, fields: usize) -> bool {
        let mut reader = self.reader(content, Header::Absent);
        let mut records = reader.records().take(rows);
        let enough = |r: &csv::Result<csv::StringRecord>| r.as_ref().is_ok_and(|r| r.len() >= fields);
        records.next().is_some_and(|first| enough(&first)) && records.all(|r| r.is_ok())
    }

    /// What to tell where the separator is not the one that the file's name promises.
    pub fn note(self, path: &Path, usual: u8) -> Option<String> {
        let name = |delimiter: u8| match delimiter {
            b'\t' => "tabs".to_owned(),
            other => format!("`{}`", char::from(other)),
        };
        let quoted = self.delimiter == b'\t' && self.quoting;
        let path = path.display();
        match (self.delimiter == usual, quoted) {
            (true, false) => None,
            (true, true) => Some(format!("{path}: quotes hold fields together")),
            (false, _) => {
                Some(format!("{path}: the columns are read with {} between them", name(self.delimiter)))
            }
        }
    }
}

/// Tab-separated text is usually not quoted, and quotes in it are text. It is quoted where only that makes it a table, or
/// where its quotes are as programs write them (pandas).
fn tabs_are_quoted(content: &str) -> bool {
    let plain = Dialect { delimiter: b'\t', quoting: false };
    let quoted = Dialect { quoting: true, ..plain };
    if plain.is_even(content, usize::MAX, 1) {
        return quotes_are_doubled(content);
    }
    quoted.is_even(content, usize::MAX, 1)
}

/// Whether each field with quotes in it begins and ends with one and has only doubled ones inside, and there are such.
fn quotes_are_doubled(content: &str) -> bool {
    let mut doubled = false;
    for field in content.split(['\t', '\n']).filter(|field| field.contains('"')) {
        let Some(inside) = field.strip_prefix('"').and_then(|f| f.strip_suffix('"')) else { return false };
        if inside.replace("\"\"", "").contains('"') {
            return false;
        }
        doubled |= inside.contains("\"\"");
    }
    doubled
}
