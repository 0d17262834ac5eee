//! A Parquet file as lines of JSON, an object for each row.
//!
//! Owns: that numbers of classes become their names where the file tells them, as those of Hugging Face data sets do. Never: which columns are read.

mod pages;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use serde_json::Value;

use crate::error::{Result, bad};
use crate::guard::guarded;
use pages::Checked;

/// What a Parquet file begins with.
pub(super) const MAGIC: &[u8] = b"PAR1";
/// Where the `datasets` library keeps what it knows of the columns.
const DATASETS_KEY: &str = "huggingface";

/// The rows of a file.
pub(super) struct Lines {
    rows: RowIter<'static>,
    /// Columns of class numbers, with the names of the classes.
    classes: HashMap<String, Vec<String>>,
    /// Of the line that is being given, what was not given yet.
    line: VecDeque<u8>,
}

impl Lines {
    /// Opens a file that begins as Parquet does.
    ///
    /// # Errors
    /// [`crate::Error::BadInput`] where it is damaged, or packed in a way that is not known.
    pub fn open(path: &Path, file: File) -> Result<Self> {
        let wrong = |e: ParquetError| {
            let fix = "get the file anew, or save it as CSV or JSONL, for example with pandas";
            bad(path, None, format!("cannot be read as a Parquet file: {e}"), fix)
        };
        let reader = read(|| SerializedFileReader::new(file)).map_err(wrong)?;
        let metadata = reader.metadata().file_metadata().key_value_metadata();
        let known = metadata.into_iter().flatten().find(|pair| pair.key == DATASETS_KEY);
        let classes = known.and_then(|pair| serde_json::from_str(pair.value.as_deref()?).ok());
        let classes = classes.map(|known: Value| class_names(&known)).unwrap_or_default();
        Ok(Self { rows: RowIter::from_file_into(Box::new(Checked(reader))), classes, line: VecDeque::new() })
    }
}

/// What the crate makes of a file, which is never read on behind an error.
fn read<T>(
    from: impl FnOnce() -> std::result::Result<T, ParquetError>,
) -> std::result::Result<T, ParquetError> {
    guarded("parquet", from).unwrap_or_else(|panic| Err(ParquetError::General(panic)))
}

/// The names of the classes in each column that holds their numbers, as `datasets` writes them.
fn class_names(known: &Value) -> HashMap<String, Vec<String>> {
    let columns = known["info"]["features"].as_object().into_iter().flatten();
    let classes = columns.filter(|(_, column)| column["_type"] == "ClassLabel");
    let names = |column: &Value| serde_json::from_value(column["names"].clone()).ok();
    classes.filter_map(|(name, column)| Some((name.clone(), names(column)?))).collect()
}

impl Read for Lines {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.line.is_empty() {
            let rows = &mut self.rows;
            let Some(row) = read(|| rows.next().transpose()).map_err(io::Error::from)? else { return Ok(0) };
            let mut row = row.to_json_value();
            for (column, names) in &self.classes {
                let number = row[column].as_u64().and_then(|number| usize::try_from(number).ok());
                if let Some(name) = number.and_then(|number| names.get(number)) {
                    row[column] = Value::String(name.clone());
                }
            }
            self.line.extend(row.to_string().into_bytes());
            self.line.push_back(b'\n');
        }
        self.line.read(buffer)
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").field("classes", &self.classes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::content::Content;
    use crate::data::encoding::TextEncoding;

    fn text_of(path: &Path) -> Result<String> {
        let mut text = String::new();
        Content::open(path)?.read_to_string(&mut text).map_err(crate::error::Error::io("read", path))?;
        Ok(text)
    }

    fn golden(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/parquet").join(name)
    }

    fn rows(name: &str) -> Vec<Value> {
        let text = text_of(&golden(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn files_of_other_libraries_are_read_row_by_row() {
        let texts = [
            "a \"good\" film, really",
            "two\nlines\tand a tab",
            "h\u{e9} \u{6620}\u{753b}",
            "",
            "bad",
            "so so",
        ];
        let numbers = [1, 0, 1, 2, 0, -1].map(|label: i64| Value::from(label));
        for name in ["pandas-snappy", "pandas-gzip", "pandas-zstd", "pandas-plain", "polars"] {
            let rows = rows(&format!("{name}.parquet"));
            let columns: Vec<_> = rows.iter().map(|row| (&row["id"], &row["text"], &row["label"])).collect();
            let ids: Vec<Value> = (0..6).map(Value::from).collect();
            let texts = texts.map(Value::from);
            let expected: Vec<_> =
                ids.iter().zip(&texts).zip(&numbers).map(|((id, text), label)| (id, text, label)).collect();
            assert_eq!(columns, expected, "{name}");
        }
        let named: Vec<Value> =
            rows("datasets.parquet").into_iter().map(|row| row["label"].clone()).collect();
        let names = ["pos", "neg", "pos", "none", "neg"].map(Value::from);
        assert_eq!((&named[..5], &named[5]), (&names[..], &Value::from(-1)), "-1 is no class");
        let groups =
            r#"[{"text":"a","label":["x","y"]},{"text":null,"label":[]},{"text":"c","label":["y"]}]"#;
        assert_eq!(Value::from(rows("groups.parquet")), serde_json::from_str::<Value>(groups).unwrap());
    }

    #[test]
    fn strings_are_utf_8_whatever_is_said_of_files() {
        let path = golden("polars.parquet");
        let [own, stated] = [TextEncoding::Utf8, TextEncoding::Latin1]
            .map(|encoding| crate::data::encoding::read_text(&path, encoding).unwrap());
        assert!(own.contains("h\u{e9} \u{6620}\u{753b}") && own == stated, "{stated}");
    }

    #[test]
    fn damage_is_an_error_and_never_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("train.parquet");
        let whole = std::fs::read(golden("pandas-snappy.parquet")).unwrap();
        for length in MAGIC.len()..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let message = text_of(&path).unwrap_err().to_string();
            assert!(message.contains("train.parquet") && message.contains("Parquet"), "{length}: {message}");
        }
        for at in MAGIC.len()..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            std::fs::write(&path, damaged).unwrap();
            // Some bytes mean nothing, and texts have no checksum here: it only has to end.
            let _ = text_of(&path);
        }
    }
}
