//! What stands between the fields of a table, and whether quotes hold a field together.
//!
//! Owns: finding that out. Never: the content of a field.

use std::path::Path;

use super::Header;

/// What may stand between fields.
const DELIMITERS: [u8; 4] = *b",\t;|";
/// Rows by which a separator is found.
const SAMPLE_ROWS: usize = 50;

/// How a table is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::data) struct Dialect {
    /// What stands between fields.
    pub delimiter: u8,
    /// Whether quotes hold fields together that contain separators, line ends or quotes.
    pub quoting: bool,
    /// Whether a backslash takes the meaning from the quote behind it (MySQL's exports); a doubled quote is one in any case.
    pub backslashes: bool,
}

impl Dialect {
    /// That of a file: its separator is the one asked for, else the usual one, else whichever gives every row as many fields
    /// as the first.
    pub fn of(content: &str, usual: u8, wanted: Option<u8>) -> Self {
        let backslashes = |delimiter| quotes_have_backslashes(content, delimiter);
        let fits = |&delimiter: &u8| {
            let even = |quoting| {
                Self { delimiter, quoting, backslashes: backslashes(delimiter) }.is_even(
                    content,
                    SAMPLE_ROWS,
                    2,
                )
            };
            even(true) || (delimiter == b'\t' && even(false))
        };
        let candidates = std::iter::once(usual).chain(DELIMITERS);
        let delimiter = wanted.or_else(|| candidates.into_iter().find(fits)).unwrap_or(usual);
        let quoting = delimiter != b'\t' || tabs_are_quoted(content);
        Self { delimiter, quoting, backslashes: quoting && backslashes(delimiter) }
    }

    /// That of rows of which only some are there yet: where they do not say it, the header alone does.
    pub fn of_beginning(beginning: &str, usual: u8) -> Self {
        let dialect = Self::of(beginning, usual, None);
        let header = beginning.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let fields = |delimiter: u8| header.split(char::from(delimiter)).count();
        let other = DELIMITERS.into_iter().find(|&delimiter| fields(delimiter) > 1);
        match other.filter(|_| fields(dialect.delimiter) == 1) {
            Some(delimiter) => Self { delimiter, quoting: delimiter != b'\t', ..dialect },
            None => dialect,
        }
    }

    /// A reader of rows.
    pub fn reader(self, text: &str, header: Header) -> csv::Reader<&[u8]> {
        self.builder().has_headers(header == Header::Present).from_reader(text.as_bytes())
    }

    /// What such a reader is made with.
    pub fn builder(self) -> csv::ReaderBuilder {
        let Self { delimiter, quoting, backslashes } = self;
        let mut builder = csv::ReaderBuilder::new();
        builder.delimiter(delimiter).quoting(quoting).escape(backslashes.then_some(b'\\'));
        builder
    }

    /// Whether a quoted field is still open behind the beginning of a record.
    pub fn is_open_behind(self, record: &[u8]) -> bool {
        #[derive(Clone, Copy, PartialEq)]
        enum At {
            Start,
            Plain,
            Quoted,
            /// Behind a backslash.
            Escaped,
            /// Behind a quote that ends the field, or is the first of a doubled one.
            Closed,
        }
        let mut at = At::Start;
        for &byte in record {
            at = match (at, byte) {
                (At::Start, b'"') if self.quoting => At::Quoted,
                (At::Quoted, b'\\') if self.backslashes => At::Escaped,
                (At::Quoted, b'"') => At::Closed,
                (At::Quoted | At::Escaped, _) | (At::Closed, b'"') => At::Quoted,
                (_, byte) if byte == self.delimiter || byte == b'\n' || byte == b'\r' => At::Start,
                _ => At::Plain,
            };
        }
        matches!(at, At::Quoted | At::Escaped)
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
        if self.backslashes {
            let between = name(self.delimiter);
            return Some(format!(
                "{path}: read with {between} between columns and backslashes before quotes"
            ));
        }
        match (self.delimiter == usual, quoted) {
            (true, false) => None,
            (true, true) => Some(format!("{path}: quotes hold fields together")),
            (false, _) => {
                Some(format!("{path}: the columns are read with {} between them", name(self.delimiter)))
            }
        }
    }
}

/// The separator that a first line `sep=;` names, as Excel writes and reads it, and where that line ends.
pub(in crate::data) fn separator_line(content: &str) -> Option<(u8, usize)> {
    let line = content.split(['\n', '\r']).next()?;
    match line.strip_prefix("sep=")?.trim_end_matches(',').as_bytes() {
        [] if line.starts_with("sep=,") => Some((b',', line.len())),
        &[separator] if separator.is_ascii() && separator != b'"' => Some((separator, line.len())),
        _ => None,
    }
}

/// Whether quotes inside of fields have a backslash before them. One that ends its field may stand behind a backslash of the text.
fn quotes_have_backslashes(content: &str, delimiter: u8) -> bool {
    let ends = [delimiter, b'\n', b'\r', b'"'];
    content.match_indices("\\\"").any(|(at, found)| {
        let behind = content.as_bytes().get(at + found.len());
        behind.is_some_and(|byte| !ends.contains(byte))
    })
}

/// Tab-separated text is usually not quoted, and quotes in it are text. It is quoted where only that makes it a table, or
/// where its quotes are as programs write them (pandas).
fn tabs_are_quoted(content: &str) -> bool {
    let plain = Dialect { delimiter: b'\t', quoting: false, backslashes: false };
    let quoted = Dialect { quoting: true, backslashes: quotes_have_backslashes(content, b'\t'), ..plain };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_opens_a_field_only_where_one_begins() {
        let dialect = Dialect { delimiter: b',', quoting: true, backslashes: false };
        for (record, open) in [
            ("a,\"b", true),
            ("5\" wide,b", false),
            ("\"a \"\"b", true),
            ("\"a \"\"b\"\"\"", false),
            ("\"a\"b\",c", false),
            ("\"a\\\"", false),
            ("a\n\"b", true),
        ] {
            assert_eq!(dialect.is_open_behind(record.as_bytes()), open, "{record}");
        }
        let mysql = Dialect { backslashes: true, ..dialect };
        assert!(mysql.is_open_behind(b"\"a\\\"") && !mysql.is_open_behind(b"\"a\\\\\""));
        assert!(!Dialect { quoting: false, ..dialect }.is_open_behind(b"\"a"));
    }

    #[test]
    fn what_is_there_of_a_table_says_how_it_is_written() {
        let of = |text| Dialect::of_beginning(text, b',');
        assert_eq!(of("a;b\n1;2,5\n").delimiter, b';');
        assert_eq!(of("text\none, two\n").delimiter, b',');
        // A row that is no row leaves the header.
        assert_eq!(of("a;b\n1;2\n3\n").delimiter, b';');
        assert!(of("a,b\n\"so \\\"they\\\" say\",2\n").backslashes);
        assert!(!of("a,b\n\"C:\\dir\\\",2\n\"x \\\"\"y\\\"\" z\",2\n").backslashes);
        assert_eq!(separator_line("sep=;\r\na;b\n"), Some((b';', 5)));
        assert_eq!(separator_line("sep=\t\na\tb\n"), Some((b'\t', 5)));
        assert_eq!(separator_line("sep=,\na,b\n"), Some((b',', 5)));
        assert_eq!((separator_line("separate\n"), separator_line("sep=ab\n")), (None, None));
    }
}
