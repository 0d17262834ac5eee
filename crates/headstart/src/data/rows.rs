//! Texts without labels, row by row: lines, tables and JSON objects of any length, from a file or a stream.
//!
//! Owns: which field of a row is the text, or which two are a pair of texts, and that a row that cannot be read is told apart from the rest. Never: holds
//! more than the rows it was asked for, or decides what becomes of a bad one.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::classification::{Dialect, Header, distinct, listed, separator_line, text_column, text_columns};
use super::content::{Content, plain_name};
use super::encoding::{TextEncoding, encoding_fix};
use super::json_list::{JsonList, JsonValue};
use crate::config::TextColumns;
use crate::error::{Error, Result, bad};

/// Bytes read at a time.
const BUFFER_BYTES: usize = 1 << 16;
/// The most lines of one quoted field. A quote that is never closed would otherwise swallow all rows behind it.
const MOST_LINES: usize = 1_000;

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RowFormat {
    /// A line is a text.
    Text,
    /// Commas between fields, a header first.
    Csv,
    /// Tabs between fields, a header first.
    Tsv,
    /// JSON objects: one a line, or a list of them.
    Jsonl,
}

impl RowFormat {
    /// What the end of a file's name says; lines where it says nothing.
    pub fn of_name(path: &Path) -> Self {
        let ending = plain_name(path).extension().unwrap_or_default().to_string_lossy().to_lowercase();
        match ending.as_str() {
            "csv" => Self::Csv,
            "tsv" | "tab" => Self::Tsv,
            // A row of a Parquet file is read as an object of JSON.
            "jsonl" | "ndjson" | "json" | "parquet" => Self::Jsonl,
            _ => Self::Text,
        }
    }

    /// What stands between the columns of a table of this format.
    fn delimiter(self) -> Option<u8> {
        match self {
            Self::Csv => Some(b','),
            Self::Tsv => Some(b'\t'),
            Self::Text | Self::Jsonl => None,
        }
    }
}

/// A row.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Where it begins, counted from 1.
    pub line: u64,
    /// Its text and all its fields, or why it cannot be read.
    pub content: std::result::Result<RowContent, BadRow>,
}

/// A row that cannot be read, or has no text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BadRow {
    /// What is wrong with it.
    pub what: String,
    /// Its names and values, where only its text is missing: it is still known by its id.
    pub fields: Vec<(String, Value)>,
}

impl From<String> for BadRow {
    fn from(what: String) -> Self {
        Self { what, fields: Vec::new() }
    }
}

/// What a row holds.
#[derive(Clone, Debug, PartialEq)]
pub struct RowContent {
    /// What is to be classified.
    pub input: TextInput,
    /// Names and values in their order, the texts among them; none for plain lines.
    pub fields: Vec<(String, Value)>,
}

/// A text, or a pair of texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextInput {
    /// The text, or the first of a pair.
    pub first: String,
    /// The second text of a pair.
    pub second: Option<String>,
}

impl TextInput {
    /// The text, or both of a pair with a tab between.
    pub fn shown(&self) -> String {
        self.second.as_ref().map_or_else(|| self.first.clone(), |second| format!("{}\t{second}", self.first))
    }
}

impl From<&str> for TextInput {
    fn from(text: &str) -> Self {
        Self { first: text.to_owned(), second: None }
    }
}

/// Which fields of a row are its text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TextFields {
    /// The two that are called like a pair, or else the one that is called like a text, or the only one.
    #[default]
    Detect,
    /// The one that is called like a text, or the only one.
    DetectOne,
    /// The two that are called like a pair; a tab stands between the two texts of a plain line.
    DetectPair,
    /// Those of these names. Where two are named, plain lines are as those of a pair.
    Named(TextColumns),
}

/// A file of rows, unpacked where it is compressed; what is no file (a pipe) as it comes.
///
/// # Errors
/// [`Error::Io`] when it cannot be opened; [`Error::BadInput`] when it is a folder or a file that is no text.
pub fn open(path: &Path) -> Result<Box<dyn Read>> {
    if path.is_file() || path.is_dir() {
        return Ok(Box::new(Content::open(path)?));
    }
    Ok(Box::new(File::open(path).map_err(Error::io("read", path))?))
}

/// The bytes of a row.
struct Record {
    line: u64,
    bytes: Vec<u8>,
    /// Whether all its quotes are.
    closed: bool,
}

/// How objects of JSON lie in a file.
enum JsonLayout {
    /// It has not been looked at.
    Unknown,
    /// One a line.
    Lines,
    /// In a list.
    List(JsonList),
}

/// Rows as they come.
pub struct Rows {
    reader: BufReader<Box<dyn Read>>,
    path: PathBuf,
    format: RowFormat,
    encoding: TextEncoding,
    /// Whether the source was turned into UTF-8 on the way, with a mark where that failed.
    transcoded: bool,
    wanted: TextFields,
    /// Whether the first row of a table names its columns; where it does not, they have numbers from 1.
    names: Header,
    /// The names of the texts' fields, once they are known: of one, or of the two of a pair.
    text_fields: Vec<String>,
    header: Option<Vec<String>>,
    /// How a table is written, once its beginning has been looked at.
    dialect: Dialect,
    /// How a file of JSON is laid out.
    layout: JsonLayout,
    /// The lines before the next one.
    lines: u64,
    /// Lines that were read ahead of their turn.
    ahead: VecDeque<Vec<u8>>,
    /// The first row of a table without a header, which its columns were counted in.
    counted: Option<Record>,
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rows").field("path", &self.path).field("format", &self.format).finish_non_exhaustive()
    }
}

impl Rows {
    /// Rows of `source`, which is called `path` in errors.
    pub fn new(
        source: Box<dyn Read>,
        path: &Path,
        format: RowFormat,
        encoding: TextEncoding,
        wanted: TextFields,
    ) -> Self {
        let (source, encoding, transcoded): (Box<dyn Read>, _, _) = match encoding {
            TextEncoding::Other(other) if !encoding.cuts_at_line_ends() || format == RowFormat::Jsonl => {
                (Box::new(Transcoded::new(source, other)), TextEncoding::Utf8, true)
            }
            _ => (source, encoding, false),
        };
        Self {
            reader: BufReader::with_capacity(BUFFER_BYTES, source),
            path: path.to_path_buf(),
            format,
            encoding,
            transcoded,
            wanted,
            names: Header::Present,
            text_fields: Vec::new(),
            header: None,
            dialect: Dialect { delimiter: b',', quoting: false, backslashes: false },
            layout: JsonLayout::Unknown,
            lines: 0,
            ahead: VecDeque::new(),
            counted: None,
        }
    }

    /// The same rows, where the first one of a table may be like any other.
    #[must_use]
    pub fn with_header(self, header: Header) -> Self {
        Self { names: header, ..self }
    }

    /// The names of the texts' fields, once a row was read; none of plain lines.
    pub fn text_fields(&self) -> &[String] {
        &self.text_fields
    }

    /// The rows that are there: at least one, unless the input ends; up to `most` while no waiting is needed.
    ///
    /// # Errors
    /// [`Error::Io`] when reading fails; [`Error::BadInput`] when the header of a table cannot be read or no field is
    /// the text.
    pub fn next_rows(&mut self, most: usize) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        while rows.len() < most && (rows.is_empty() || self.has_line()) {
            match self.next_row()? {
                Some(row) => rows.push(row),
                None => break,
            }
        }
        Ok(rows)
    }

    fn has_line(&self) -> bool {
        let end = if matches!(self.layout, JsonLayout::List(_)) { b'}' } else { b'\n' };
        self.counted.is_some() || !self.ahead.is_empty() || self.reader.buffer().contains(&end)
    }

    fn next_row(&mut self) -> Result<Option<Row>> {
        if let (Some(_), None) = (self.format.delimiter(), &self.header) {
            let Some(header) = self.read_header()? else { return Ok(None) };
            self.text_fields = self.find_text(&header, self.lines)?;
            self.header = Some(header);
        }
        loop {
            let Some(Record { line, bytes, closed }) = self.next_record()? else { return Ok(None) };
            let blank = bytes.iter().all(u8::is_ascii_whitespace);
            if blank && closed && self.format != RowFormat::Text {
                continue;
            }
            let content = match self.format {
                RowFormat::Jsonl if !closed => {
                    Err("the list of objects does not end where the file does".to_owned().into())
                }
                _ if !closed => Err("a quoted field that begins here does not end".to_owned().into()),
                RowFormat::Text => self.of_line(&bytes).map_err(BadRow::from),
                RowFormat::Csv | RowFormat::Tsv => self.of_table(&bytes).map_err(BadRow::from),
                RowFormat::Jsonl => match self.object(&bytes) {
                    Ok(object) => self.of_object(object, line)?,
                    Err(what) => Err(what.into()),
                },
            };
            return Ok(Some(Row { line, content }));
        }
    }

    /// How the table is written, by as much of it as is there without waiting for more.
    fn find_dialect(&mut self) -> Result<()> {
        let Some(usual) = self.format.delimiter() else { return Ok(()) };
        let there = self.reader.fill_buf().map_err(Error::io("read", &self.path))?;
        let whole_lines = there.iter().rposition(|&b| b == b'\n').map_or(there.len(), |last| last + 1);
        let beginning = String::from_utf8_lossy(&there[..whole_lines]);
        let beginning = beginning.strip_prefix('\u{feff}').unwrap_or(&beginning);
        self.dialect = match separator_line(beginning) {
            Some((delimiter, end)) => {
                Dialect { delimiter, ..Dialect::of_beginning(&beginning[end..], delimiter) }
            }
            None => Dialect::of_beginning(beginning, usual),
        };
        Ok(())
    }

    fn read_header(&mut self) -> Result<Option<Vec<String>>> {
        self.find_dialect()?;
        loop {
            let Some(Record { line, bytes, closed }) = self.next_record()? else { return Ok(None) };
            let names_separator = line == 1 && separator_line(&String::from_utf8_lossy(&bytes)).is_some();
            if names_separator || bytes.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let fields = self.fields(&bytes).map_err(|what| self.no_header(line, &bytes, what))?;
            if self.names == Header::Present {
                return Ok(Some(distinct(fields)));
            }
            self.counted = Some(Record { line, bytes, closed });
            return Ok(Some((1..=fields.len()).map(|number| number.to_string()).collect()));
        }
    }

    /// A first row of a table that cannot be read.
    fn no_header(&self, line: u64, bytes: &[u8], what: String) -> Error {
        let is_other = !self.transcoded && self.encoding == TextEncoding::Utf8;
        let fix = match self.names {
            _ if is_other && std::str::from_utf8(bytes).is_err() => encoding_fix(bytes, self.encoding, true),
            Header::Absent => "mend the row: it says how many columns there are",
            Header::Present => "give the table a first row with the names of its columns",
        };
        bad(&self.path, Some(line), what, fix)
    }

    fn find_text(&self, names: &[String], line: u64) -> Result<Vec<String>> {
        let found = match &self.wanted {
            TextFields::Detect => text_columns(names, None, None),
            TextFields::DetectPair => {
                text_columns(names, None, None).map(|found| found.filter(|columns| columns.len() == 2))
            }
            TextFields::DetectOne => Ok(text_column(names, None).map(|column| vec![column])),
            TextFields::Named(columns) => text_columns(names, Some(columns), None),
        };
        let what = match (found, names) {
            (Ok(Some(columns)), _) => return Ok(columns.into_iter().map(str::to_owned).collect()),
            (Ok(None), _) if self.wanted == TextFields::DetectPair => {
                format!("no two columns look like a pair of texts; the columns are {}", listed(names))
            }
            (Ok(None), [only]) => return Ok(vec![only.clone()]),
            (Ok(None), _) => format!("no column looks like the text; the columns are {}", listed(names)),
            (Err(what), _) => what,
        };
        let fix = match self.names {
            Header::Absent if self.format.delimiter().is_some() => {
                "name the column with `--text_column` by its number, counted from 1, or the two of a pair with a comma \
                 between"
            }
            _ => "name the column with `--text_column`, or the two of a pair with a comma between",
        };
        Err(bad(&self.path, Some(line), what, fix))
    }

    fn of_line(&self, bytes: &[u8]) -> std::result::Result<RowContent, String> {
        let first = self.decode(trimmed(bytes))?;
        let pair = match &self.wanted {
            TextFields::Detect | TextFields::DetectOne => false,
            TextFields::DetectPair => true,
            TextFields::Named(columns) => columns.are_pair(),
        };
        if !pair {
            return Ok(RowContent { input: TextInput { first, second: None }, fields: Vec::new() });
        }
        match first.split('\t').collect::<Vec<_>>()[..] {
            [first, second] => {
                let input = TextInput { second: Some(second.to_owned()), ..TextInput::from(first) };
                Ok(RowContent { input, fields: Vec::new() })
            }
            ref texts => {
                Err(format!("has {} tabs, and one stands between the two texts of a pair", texts.len() - 1))
            }
        }
    }

    fn of_table(&self, bytes: &[u8]) -> std::result::Result<RowContent, String> {
        let values = self.fields(bytes)?;
        let header = self.header.as_deref().unwrap_or_default();
        if values.len() != header.len() {
            let first = match self.names {
                Header::Present => "header",
                Header::Absent => "first row",
            };
            return Err(format!("{} fields where the {first} has {}", values.len(), header.len()));
        }
        let at = |name: &String| header.iter().position(|column| column == name);
        let mut texts = self.text_fields.iter().map(|name| values.get(at(name)?).cloned());
        let first = texts.next().flatten().unwrap_or_default();
        let input = TextInput { first, second: texts.next().flatten() };
        let fields = header.iter().cloned().zip(values.into_iter().map(Value::String)).collect();
        Ok(RowContent { input, fields })
    }

    /// The fields of one record of a table.
    fn fields(&self, bytes: &[u8]) -> std::result::Result<Vec<String>, String> {
        let mut reader = self
            .dialect
            .builder()
            .has_headers(false)
            .flexible(true)
            .buffer_capacity(bytes.len() + 1)
            .from_reader(bytes);
        let mut record = csv::ByteRecord::new();
        match reader.read_byte_record(&mut record) {
            Ok(_) => record.iter().map(|field| self.decode(field)).collect(),
            Err(e) => Err(format!("is not a row of a table: {e}")),
        }
    }

    fn object(&self, bytes: &[u8]) -> std::result::Result<Map<String, Value>, String> {
        let line = self.decode(trimmed(bytes))?;
        serde_json::from_str(&line).map_err(|e| format!("is not a JSON object (column {}): {e}", e.column()))
    }

    fn of_object(
        &mut self,
        object: Map<String, Value>,
        line: u64,
    ) -> Result<std::result::Result<RowContent, BadRow>> {
        if self.text_fields.is_empty() {
            let names: Vec<String> = object.keys().cloned().collect();
            self.text_fields = self.find_text(&names, line)?;
        }
        let text = |name: &String| match object.get(name) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(Value::Object(_)) => {
                Err(format!("there is an object under `{name}`, and nested fields are not read"))
            }
            _ => Err(format!("there is no text under `{name}`")),
        };
        let texts: std::result::Result<Vec<_>, _> = self.text_fields.iter().map(text).collect();
        let fields = object.into_iter().collect();
        Ok(match texts {
            Ok(texts) => {
                let mut texts = texts.into_iter();
                let input = TextInput { first: texts.next().unwrap_or_default(), second: texts.next() };
                Ok(RowContent { input, fields })
            }
            Err(what) => Err(BadRow { what, fields }),
        })
    }

    /// The next record with the number of its first line: a line, or in a table all lines up to the one that closes the
    /// quotes. Of a list, a value.
    fn next_record(&mut self) -> Result<Option<Record>> {
        if let Some(record) = self.counted.take() {
            return Ok(Some(record));
        }
        if self.format == RowFormat::Jsonl {
            if let JsonLayout::Unknown = self.layout {
                let list = JsonList::begin(&mut self.reader).map_err(Error::io("read", &self.path))?;
                self.layout = list.map_or(JsonLayout::Lines, JsonLayout::List);
            }
            if let JsonLayout::List(list) = &mut self.layout {
                let value = list.next(&mut self.reader).map_err(Error::io("read", &self.path))?;
                return Ok(value.map(|JsonValue { line, bytes, whole }| Record {
                    line,
                    bytes,
                    closed: whole,
                }));
            }
        }
        let Some(mut record) = self.next_line()? else { return Ok(None) };
        self.lines += 1;
        let first = self.lines;
        if first == 1 && record.starts_with(b"\xEF\xBB\xBF") && self.encoding == TextEncoding::Utf8 {
            record.drain(..3);
        }
        let dialect = self.dialect;
        if !dialect.is_open_behind(&record) {
            return Ok(Some(Record { line: first, bytes: record, closed: true }));
        }
        // The line that closes it has an odd number of quotes: of two rows with a quote too many each, neither is lost.
        let odd = |line: &[u8]| {
            let escaped = |at: usize| dialect.backslashes && at > 0 && line[at - 1] == b'\\';
            (0..line.len()).filter(|&at| line[at] == b'"' && !escaped(at)).count() % 2 == 1
        };
        let mut more: Vec<Vec<u8>> = Vec::new();
        let mut so_far = record.clone();
        while let Some(line) = self.next_line()? {
            so_far.extend_from_slice(&line);
            let closed = odd(&line) && !dialect.is_open_behind(&so_far);
            more.push(line);
            if closed {
                self.lines += more.len() as u64;
                record.extend(more.concat());
                return Ok(Some(Record { line: first, bytes: record, closed: true }));
            }
            if more.len() == MOST_LINES {
                break;
            }
        }
        // Never closed: the other lines are rows again.
        more.into_iter().rev().for_each(|line| self.ahead.push_front(line));
        Ok(Some(Record { line: first, bytes: record, closed: false }))
    }

    /// The next line with its end.
    fn next_line(&mut self) -> Result<Option<Vec<u8>>> {
        if let Some(line) = self.ahead.pop_front() {
            return Ok(Some(line));
        }
        let mut bytes = Vec::new();
        let read = self.reader.read_until(b'\n', &mut bytes).map_err(Error::io("read", &self.path))?;
        Ok((read > 0).then_some(bytes))
    }

    fn decode(&self, bytes: &[u8]) -> std::result::Result<String, String> {
        let invalid = |encoding: TextEncoding| {
            format!("is not valid {}; `--encoding` names another", encoding.name().to_ascii_uppercase())
        };
        match self.encoding {
            TextEncoding::Utf8 => match std::str::from_utf8(bytes) {
                Ok(text) if self.transcoded && text.contains('\u{fffd}') => {
                    Err("is not valid in its encoding; `--encoding` names another".into())
                }
                Ok(text) => Ok(text.to_owned()),
                Err(e) => Err(format!("byte {}: {}", e.valid_up_to() + 1, invalid(self.encoding))),
            },
            TextEncoding::Latin1 => Ok(encoding_rs::mem::decode_latin1(bytes).into_owned()),
            TextEncoding::Other(encoding) => encoding
                .decode_without_bom_handling_and_without_replacement(bytes)
                .map(std::borrow::Cow::into_owned)
                .ok_or_else(|| invalid(self.encoding)),
        }
    }
}

fn trimmed(line: &[u8]) -> &[u8] {
    let end = line.iter().rposition(|b| !matches!(b, b'\n' | b'\r')).map_or(0, |last| last + 1);
    &line[..end]
}

/// A source whose lines cannot be found in its bytes (UTF-16), as UTF-8.
struct Transcoded {
    source: Box<dyn Read>,
    decoder: encoding_rs::Decoder,
    text: Vec<u8>,
    given: usize,
    ended: bool,
}

impl Transcoded {
    fn new(source: Box<dyn Read>, encoding: &'static encoding_rs::Encoding) -> Self {
        let decoder = encoding.new_decoder_with_bom_removal();
        Self { source, decoder, text: Vec::new(), given: 0, ended: false }
    }
}

impl Read for Transcoded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.text.len() && !self.ended {
            let mut bytes = vec![0; BUFFER_BYTES];
            let read = self.source.read(&mut bytes)?;
            self.ended = read == 0;
            let most = self.decoder.max_utf8_buffer_length(read).unwrap_or(4 * BUFFER_BYTES);
            self.text.resize(most, 0);
            let (_, _, written, _) = self.decoder.decode_to_utf8(&bytes[..read], &mut self.text, self.ended);
            self.text.truncate(written);
            self.given = 0;
        }
        let read = (&self.text[self.given..]).read(buffer)?;
        self.given += read;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows_in(bytes: &[u8], format: RowFormat, encoding: &str, column: Option<&str>) -> Result<Vec<Row>> {
        let encoding = TextEncoding::from_label(encoding).unwrap();
        let source = Box::new(io::Cursor::new(bytes.to_vec()));
        let wanted =
            column.map_or(TextFields::Detect, |name| TextFields::Named(TextColumns::Typed(name.to_owned())));
        let mut rows = Rows::new(source, Path::new("in"), format, encoding, wanted);
        let mut all = Vec::new();
        loop {
            let some = rows.next_rows(2)?;
            assert!(some.len() <= 2);
            if some.is_empty() {
                return Ok(all);
            }
            all.extend(some);
        }
    }

    /// The texts of rows, or what is wrong with them behind a `!`.
    fn texts(rows: &[Row]) -> Vec<(u64, String)> {
        let text = |row: &Row| match &row.content {
            Ok(RowContent { input: TextInput { first, second: None }, .. }) => first.clone(),
            Ok(RowContent { input: TextInput { first, second: Some(second) }, .. }) => {
                format!("{first} | {second}")
            }
            Err(BadRow { what, .. }) => format!("!{what}"),
        };
        rows.iter().map(|row| (row.line, text(row))).collect()
    }

    fn check(bytes: &[u8], format: RowFormat, expected: &[(u64, &str)]) {
        let rows = rows_in(bytes, format, "utf-8", None).unwrap();
        let expected: Vec<(u64, String)> = expected.iter().map(|(n, t)| (*n, (*t).to_owned())).collect();
        assert_eq!(texts(&rows), expected);
    }

    #[test]
    fn every_line_is_a_text_and_a_bad_one_is_no_end() {
        let bytes = "\u{feff}one\r\n\n three\nfour".as_bytes();
        check(bytes, RowFormat::Text, &[(1, "one"), (2, ""), (3, " three"), (4, "four")]);
        let bad = "!byte 5: is not valid UTF-8; `--encoding` names another";
        check(b"fine\nbad \xff\nfine", RowFormat::Text, &[(1, "fine"), (2, bad), (3, "fine")]);
    }

    #[test]
    fn tables_keep_their_columns_and_their_lines() {
        let csv = b"id,review\n\n1,calm\n2,\"two\nlines, \"\"quoted\"\"\"\n3\n4,last";
        let expected = [
            (3, "calm"),
            (4, "two\nlines, \"quoted\""),
            (6, "!1 fields where the header has 2"),
            (7, "last"),
        ];
        check(csv, RowFormat::Csv, &expected);
        let rows = rows_in(csv, RowFormat::Csv, "utf-8", None).unwrap();
        let fields = &rows[0].content.as_ref().unwrap().fields;
        assert_eq!(fields, &[("id".to_owned(), "1".into()), ("review".to_owned(), "calm".into())]);
        check(b"text\n\"a\" b\n", RowFormat::Tsv, &[(2, "\"a\" b")]);
        check(b"", RowFormat::Csv, &[]);
    }

    #[test]
    fn tables_are_read_as_training_reads_them() {
        // A separator that the name does not promise, one that the first line names, quotes as pandas and as MySQL write them.
        check(b"id;text\n1;a, b\n2;\"c; d\"\n", RowFormat::Csv, &[(2, "a, b"), (3, "c; d")]);
        check(b"sep=;\r\nid;text\r\n1;a\r\n", RowFormat::Csv, &[(3, "a")]);
        check(b"id\ttext\n1\t\"a\n\"\"b\"\"\"\n", RowFormat::Tsv, &[(2, "a\n\"b\"")]);
        let mysql = b"id,text\n1,\"so \\\"they\\\", say\"\n2,\"a \\\"\nb\"\n3,c\n";
        check(mysql, RowFormat::Csv, &[(2, "so \"they\", say"), (3, "a \"\nb"), (5, "c")]);
        // A quote inside of a field is text.
        check(
            b"id,text\n1,5\" wide\n2,6\" wide\n3,c\n",
            RowFormat::Csv,
            &[(2, "5\" wide"), (3, "6\" wide"), (4, "c")],
        );
        let twice = b"id,text\n1,\"open\n2,\"calm\"\n3,old\n";
        let open = "!a quoted field that begins here does not end";
        check(twice, RowFormat::Csv, &[(2, open), (3, "calm"), (4, "old")]);
        assert_eq!(RowFormat::of_name(Path::new("a.tsv.gz")), RowFormat::Tsv);
        // Two columns of one name stay two, and the first is the text.
        let rows = rows_in(b"text,text,text\na,b,c\n", RowFormat::Csv, "utf-8", None).unwrap();
        let RowContent { input, fields } = rows[0].content.clone().unwrap();
        let names: Vec<_> = fields.into_iter().map(|(name, _)| name).collect();
        assert_eq!((&*input.first, names), ("a", vec!["text".into(), "text.1".into(), "text.2".into()]));
    }

    #[test]
    fn a_quote_that_is_never_closed_takes_one_row() {
        let csv = b"id,text\n1,\"open\n2,calm\n3,old\n";
        let rows = texts(&rows_in(csv, RowFormat::Csv, "utf-8", None).unwrap());
        assert_eq!(rows[1..], [(3, "calm".to_owned()), (4, "old".to_owned())]);
        assert_eq!(rows[0], (2, "!a quoted field that begins here does not end".to_owned()));
    }

    #[test]
    fn objects_have_their_text_under_one_name() {
        let lines = b"{\"id\":1,\"text\":\"a\"}\n\n{\"text\":2}\nnothing\n{\"text\":\"b\",\"more\":[1]}\n";
        let rows = rows_in(lines, RowFormat::Jsonl, "utf-8", None).unwrap();
        let texts = texts(&rows);
        assert_eq!((&texts[0], &texts[1]), (&(1, "a".into()), &(3, "!there is no text under `text`".into())));
        assert!(texts[2].1.starts_with("!is not a JSON object (column "), "{texts:?}");
        assert_eq!(texts[3], (5, "b".to_owned()));
        // What has no text is still known by its other fields; what is no object has none.
        let lines = b"{\"text\":\"a\"}\n{\"id\":7,\"text\":null}\n{\"text\":{\"en\":\"b\"}}\nno\n";
        let rows = rows_in(lines, RowFormat::Jsonl, "utf-8", None).unwrap();
        let bad: Vec<&BadRow> = rows.iter().filter_map(|row| row.content.as_ref().err()).collect();
        assert_eq!(bad[0].fields, [("id".to_owned(), 7.into()), ("text".to_owned(), Value::Null)]);
        assert_eq!(bad[1].what, "there is an object under `text`, and nested fields are not read");
        assert_eq!((bad.len(), &bad[2].fields[..]), (3, &[][..]));
    }

    #[test]
    fn a_table_without_a_header_has_numbers_for_its_columns() {
        let read = |bytes: &[u8], column: &str| {
            let source = Box::new(io::Cursor::new(bytes.to_vec()));
            let wanted = match column {
                "" => TextFields::Detect,
                name => TextFields::Named(TextColumns::Typed(name.into())),
            };
            let rows = Rows::new(source, Path::new("in"), RowFormat::Csv, TextEncoding::Utf8, wanted);
            let mut rows = rows.with_header(Header::Absent);
            let mut all = rows.next_rows(1)?;
            all.extend(rows.next_rows(9)?);
            Ok::<_, Error>(all)
        };
        let csv = b"\n7,\"two\nlines\"\n8,b\n9\n";
        let rows = read(csv, "2").unwrap();
        let short = "!1 fields where the first row has 2";
        assert_eq!(texts(&rows), [(2, "two\nlines".into()), (4, "b".into()), (5, short.to_owned())]);
        let first = rows[0].content.as_ref().unwrap();
        assert_eq!(first.fields[0], ("1".to_owned(), "7".into()));
        assert_eq!(texts(&read(b"alone\nagain\n", "").unwrap())[0], (1, "alone".to_owned()));
        let error = read(csv, "").unwrap_err().to_string();
        assert!(error.contains("the columns are 1, 2") && error.contains("by its number"), "{error}");
    }

    #[test]
    fn a_header_in_another_encoding_is_told_as_training_tells_it() {
        let wide: Vec<u8> = "\u{feff}text\na\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let error = rows_in(&wide, RowFormat::Csv, "utf-8", None).unwrap_err().to_string();
        assert!(error.contains("UTF-16") && error.contains("--encoding utf-16le"), "{error}");
        let error = rows_in(b"text \x93a\x94\nb\n", RowFormat::Csv, "utf-8", None).unwrap_err().to_string();
        assert!(error.contains("--encoding windows-1252"), "{error}");
    }

    #[test]
    fn a_list_of_objects_is_read_one_by_one() {
        let list = b"\n[{\"text\":\"a\"},\n {\"text\": 2},{\n\"text\":\"]b\"\n}\n]\n";
        check(list, RowFormat::Jsonl, &[(2, "a"), (3, "!there is no text under `text`"), (3, "]b")]);
        let cut_off = "!the list of objects does not end where the file does";
        check(b"[{\"text\":\"a\"},\n{\"te", RowFormat::Jsonl, &[(1, "a"), (2, cut_off)]);
        check(b"[{\"text\":\"a\"}", RowFormat::Jsonl, &[(1, cut_off)]);
        check(b"[{\"text\":\"a\"},", RowFormat::Jsonl, &[(1, "a"), (1, cut_off)]);
        let utf16: Vec<u8> = "[{\"text\":\"h\u{e9}\"}]".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let rows = rows_in(&utf16, RowFormat::Jsonl, "utf-16le", None).unwrap();
        assert_eq!(texts(&rows), [(1, "h\u{e9}".to_owned())]);
    }

    #[test]
    fn the_text_is_named_or_known_by_its_name() {
        let csv = b"a,b\n1,2\n";
        let error = rows_in(csv, RowFormat::Csv, "utf-8", None).unwrap_err().to_string();
        assert!(error.contains("the columns are a, b") && error.contains("--text_column"), "{error}");
        assert_eq!(texts(&rows_in(csv, RowFormat::Csv, "utf-8", Some("b")).unwrap()), [(2, "2".into())]);
        let error = rows_in(csv, RowFormat::Csv, "utf-8", Some("c")).unwrap_err().to_string();
        assert!(error.contains("no text column `c`"), "{error}");
    }

    #[test]
    fn pairs_are_two_columns_or_stand_on_both_sides_of_a_tab() {
        let csv = b"premise,id,hypothesis\na,1,b\nc,2,\n";
        let both = [(2, "a | b".to_owned()), (3, "c | ".to_owned())];
        assert_eq!(texts(&rows_in(csv, RowFormat::Csv, "utf-8", None).unwrap()), both);
        assert_eq!(texts(&rows_in(csv, RowFormat::Csv, "utf-8", Some("premise, hypothesis")).unwrap()), both);
        let named = rows_in(csv, RowFormat::Csv, "utf-8", Some("hypothesis,id")).unwrap();
        assert_eq!(texts(&named)[0].1, "b | 1");
        for (columns, what) in [
            ("premise,premise", "`premise` is named twice"),
            ("premise,id,hypothesis", "3 text columns are named"),
            ("premise,text", "no text column `text`; the columns are premise, id, hypothesis"),
        ] {
            let error = rows_in(csv, RowFormat::Csv, "utf-8", Some(columns)).unwrap_err().to_string();
            assert!(error.contains(what) && error.contains("--text_column"), "{error}");
        }
        let json = b"{\"text_a\":\"a\",\"text_b\":\"b\"}\n{\"text_a\":\"a\"}\n";
        let rows = texts(&rows_in(json, RowFormat::Jsonl, "utf-8", None).unwrap());
        assert_eq!(rows[..], [(1, "a | b".to_owned()), (2, "!there is no text under `text_b`".to_owned())]);
        let lines = b"a\tb\none\na\tb\tc\n\tb\n";
        assert_eq!(texts(&rows_in(lines, RowFormat::Text, "utf-8", None).unwrap())[0].1, "a\tb");
        let rows = texts(&rows_in(lines, RowFormat::Text, "utf-8", Some("a,b")).unwrap());
        let tabs = |n: u32| format!("!has {n} tabs, and one stands between the two texts of a pair");
        assert_eq!(
            rows.into_iter().map(|(_, text)| text).collect::<Vec<_>>(),
            ["a | b".into(), tabs(0), tabs(2), " | b".into()]
        );
        let source = || Box::new(io::Cursor::new(csv.to_vec()));
        let of = |bytes: &[u8], format| {
            let source = Box::new(io::Cursor::new(bytes.to_vec()));
            Rows::new(source, Path::new("in"), format, TextEncoding::Utf8, TextFields::DetectPair)
                .next_rows(9)
        };
        assert_eq!(texts(&of(csv, RowFormat::Csv).unwrap()), both);
        assert_eq!(texts(&of(b"a\tb\n", RowFormat::Text).unwrap()), [(1, "a | b".to_owned())]);
        let error = of(b"text\na\n", RowFormat::Csv).unwrap_err().to_string();
        assert!(error.contains("no two columns look like a pair of texts; the columns are text"), "{error}");
        let one =
            Rows::new(source(), Path::new("in"), RowFormat::Csv, TextEncoding::Utf8, TextFields::DetectOne)
                .next_rows(1)
                .unwrap_err();
        assert!(one.to_string().contains("no column looks like the text"), "{one}");
    }

    #[test]
    fn encodings_are_those_of_training() {
        let read = |bytes: &[u8], encoding: &str| {
            texts(&rows_in(bytes, RowFormat::Csv, encoding, None).unwrap()).remove(0).1
        };
        assert_eq!(read(b"text\ncaf\xe9\n", "latin1"), "caf\u{e9}");
        assert_eq!(read(b"text\n\x80\n", "windows-1252"), "\u{20ac}");
        let wide: Vec<u8> = "\u{feff}text\ncaf\u{e9}\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(read(&wide, "utf-16le"), "caf\u{e9}");
    }
}
