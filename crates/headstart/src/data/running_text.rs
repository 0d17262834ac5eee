//! What is read as running text: text files as they are, and of tables their texts, a line each.
//!
//! Owns: which files are tables, and what of a row is text. Never: tokens.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};

use super::encoding::{TextBlocks, TextEncoding};
use super::rows::{self, RowFormat, Rows, TextFields};
use crate::config::TextColumns;
use crate::error::{Error, Result, bad};

/// Rows that are asked for at once, and bytes of text that are given at once, about.
const ROWS: usize = 256;
const BLOCK_BYTES: usize = 1 << 20;

/// How files are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The encoding of all files.
    pub encoding: TextEncoding,
    /// The column of a table with the text, or the two of a pair; `None` finds them by their names.
    pub text_column: Option<TextColumns>,
}

/// Running text of one file or of several, one behind the other, block by block.
#[derive(Debug)]
pub struct RunningText {
    /// The files behind the one that is being read.
    rest: VecDeque<PathBuf>,
    reading: Reading,
    /// The columns with the text of the tables so far.
    columns: Option<TextColumns>,
    /// The one that is being read; `None` behind the last.
    open: Option<Source>,
    total_bytes: u64,
}

#[derive(Debug)]
enum Source {
    Text(TextBlocks),
    Table(Table),
}

/// The texts of a table.
#[derive(Debug)]
struct Table {
    path: PathBuf,
    rows: Rows,
    /// The file's length, where it is not compressed.
    bytes: u64,
    /// Bytes of text that were given so far.
    given: u64,
}

impl RunningText {
    /// Opens files, each a text or a table (CSV, TSV, JSONL, Parquet), compressed or not. Tables have their texts in the columns of the first.
    ///
    /// # Errors
    /// As [`TextBlocks::open`]; [`Error::Config`] where a column is named and a file is no table.
    pub fn open(files: &[PathBuf], reading: &Reading) -> Result<Self> {
        let mut rest: VecDeque<PathBuf> = files.iter().cloned().collect();
        let open =
            rest.pop_front().map(|first| Source::open(&first, reading, files.len() == 1)).transpose()?;
        let mut total_bytes = 0;
        for path in files {
            total_bytes += fs::metadata(path).map_err(Error::io("read", path))?.len();
        }
        // Of one file it is known whether its length is that of its text.
        if let (Some(Source::Text(blocks)), []) = (&open, rest.make_contiguous()) {
            total_bytes = blocks.total_bytes();
        }
        Ok(Self { rest, reading: reading.clone(), columns: None, open, total_bytes })
    }

    /// The length in bytes, for progress, of several files as they lie there; 0 where the only file does not tell.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// The next whole lines, and about how many bytes of the files they were; `None` at the end.
    ///
    /// # Errors
    /// As [`TextBlocks::next_block`] and [`TextBlocks::open`]; [`Error::BadInput`] for a row that cannot be read, and where no column is the text.
    pub fn next_block(&mut self) -> Result<Option<(String, u64)>> {
        while let Some(open) = &mut self.open {
            if let Some((mut text, bytes)) = open.next_block()? {
                // A file may end without the end of a line.
                if !self.rest.is_empty() && !text.ends_with('\n') {
                    text.push('\n');
                }
                return Ok(Some((text, bytes)));
            }
            if let Source::Table(table) = open
                && !table.rows.text_fields().is_empty()
            {
                self.columns = Some(TextColumns::Listed(table.rows.text_fields().to_vec()));
            }
            self.open = self.rest.pop_front().map(|next| self.open_next(&next)).transpose()?;
        }
        Ok(None)
    }

    fn open_next(&self, path: &Path) -> Result<Source> {
        let mut reading = self.reading.clone();
        if RowFormat::of_name(path) != RowFormat::Text {
            reading.text_column = reading.text_column.or_else(|| self.columns.clone());
        }
        Source::open(path, &reading, false)
    }
}

impl Source {
    /// Opens a file, which may be empty where it is not the `only` one.
    fn open(path: &Path, reading: &Reading, only: bool) -> Result<Self> {
        let format = RowFormat::of_name(path);
        if format != RowFormat::Text {
            let wanted = reading.text_column.clone().map_or(TextFields::Detect, TextFields::Named);
            let rows = Rows::new(rows::open(path)?, path, format, reading.encoding, wanted);
            let bytes = fs::metadata(path).map_err(Error::io("read", path))?.len();
            return Ok(Self::Table(Table { path: path.to_path_buf(), rows, bytes, given: 0 }));
        }
        if reading.text_column.is_some() {
            return Err(Error::Config {
                key: "text_column".into(),
                what: format!("{} is a text, which has no columns", path.display()),
                fix: "leave text_column out, or end the name of a table in .csv, .tsv, .jsonl or .parquet"
                    .into(),
            });
        }
        let open = if only { TextBlocks::open } else { TextBlocks::open_any };
        Ok(Self::Text(open(path, reading.encoding)?))
    }

    fn next_block(&mut self) -> Result<Option<(String, u64)>> {
        match self {
            Self::Text(blocks) => Ok(blocks.next_block()?.map(|block| (block.text, block.file_bytes))),
            Self::Table(table) => table.next_block(),
        }
    }
}

impl Table {
    fn next_block(&mut self) -> Result<Option<(String, u64)>> {
        let mut text = String::new();
        while text.len() < BLOCK_BYTES {
            let some = self.rows.next_rows(ROWS)?;
            if some.is_empty() {
                break;
            }
            for row in some {
                let content = row.content.map_err(|row_is| {
                    bad(&self.path, Some(row.line), row_is.what, "mend this row, or take it out")
                })?;
                let (first, second) = (content.input.first, content.input.second);
                let lines: Vec<String> = [Some(first), second]
                    .into_iter()
                    .flatten()
                    .map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "))
                    .collect();
                if lines.iter().any(|line| !line.is_empty()) {
                    text.extend(lines.iter().flat_map(|line| [line, "\n"]));
                }
            }
        }
        // What else stands in a row is not known here.
        let bytes = (text.len() as u64).min(self.bytes.saturating_sub(self.given));
        self.given += bytes;
        Ok((!text.is_empty()).then_some((text, bytes)))
    }
}

/// The columns of tables that are their text, by the first of them; `None` where that is no table, or has no row.
///
/// # Errors
/// As for reading it.
pub fn text_columns(files: &[PathBuf], reading: &Reading) -> Result<Option<Vec<String>>> {
    let Some(first) = files.first() else { return Ok(None) };
    let Source::Table(mut table) = Source::open(first, reading, files.len() == 1)? else { return Ok(None) };
    table.rows.next_rows(1)?;
    Ok(Some(table.rows.text_fields().to_vec()).filter(|fields| !fields.is_empty()))
}

/// What people should be told of files: which columns of tables are read, and how many files there are; `None` of one text.
///
/// # Errors
/// As for reading the first.
pub fn told(files: &[PathBuf], reading: &Reading) -> Result<Option<String>> {
    let Some(first) = files.first() else { return Ok(None) };
    let shown = match files.len() {
        1 => first.display().to_string(),
        count => format!("{count} files, {} the first", first.display()),
    };
    let listed = |columns: Vec<String>| {
        let names = columns.iter().map(|column| format!("`{column}`")).collect::<Vec<_>>().join(" and ");
        format!("the texts in {names} of {shown}")
    };
    let columns = text_columns(files, reading)?.map(listed);
    Ok(columns.or_else(|| (files.len() > 1).then_some(format!("the text of {shown}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(name: &str, content: &str, column: Option<&str>) -> Result<(String, Option<Vec<String>>)> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        let text_column = column.map(|name| TextColumns::Typed(name.into()));
        let reading = Reading { encoding: TextEncoding::default(), text_column };
        let files = [path];
        let (mut reader, mut text) = (RunningText::open(&files, &reading)?, String::new());
        while let Some((block, _)) = reader.next_block()? {
            text += &block;
        }
        Ok((text, text_columns(&files, &reading)?))
    }

    #[test]
    fn the_texts_of_a_table_are_lines_and_a_text_is_as_it_is() {
        let csv = "id,review,label\n1,\"good, really\n so\",1\n2,,0\n3,bad,0\n";
        let columns = |names: &[&str]| Some(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
        assert_eq!(all("a.csv", csv, None).unwrap(), ("good, really so\nbad\n".into(), columns(&["review"])));
        assert_eq!(all("a.txt", csv, None).unwrap(), (csv.into(), None));
        let json = "{\"text\": \"one\\ntwo\", \"x\": 1}\n{\"text\": \"three\"}\n";
        assert_eq!(all("a.jsonl", json, None).unwrap(), ("one two\nthree\n".into(), columns(&["text"])));
        // Both texts of a pair are lines; one of them may be empty, so that pairs stay pairs.
        let pairs = "sentence1\tsentence2\tscore\na\tb\t1\nc\t\t2\n\t\t3\n";
        let both = columns(&["sentence1", "sentence2"]);
        assert_eq!(all("a.tsv", pairs, None).unwrap(), ("a\nb\nc\n\n".into(), both));
        assert_eq!(all("a.tsv", pairs, Some("sentence2")).unwrap().0, "b\n");
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_line() {
        let told = |name: &str, content: &str, column: Option<&str>| {
            all(name, content, column).unwrap_err().to_string()
        };
        let rows = told("a.csv", "text,label\ngood,1\nbad\n", None);
        assert!(rows.contains("a.csv:3:") && rows.contains("1 fields"), "{rows}");
        let none = told("a.csv", "x,y\n1,2\n", None);
        assert!(none.contains("no column looks like the text") && none.contains("--text_column"), "{none}");
        let text = told("a.txt", "some text\n", Some("review"));
        assert!(text.contains("has no columns"), "{text}");
    }
}
