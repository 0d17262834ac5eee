//! What `features` writes: a NumPy array, or JSON lines with the fields of the input kept.
//!
//! Owns: the form of both, and that a file is whole or not there. Never: the model.

use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use headstart::data::rows::{Row, RowContent};
use headstart::files::AtomicFile;
use headstart::infer::Features;
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::Value;

use crate::output;
use crate::settings::Usage;

/// Bytes before the numbers of an array; the shape in it is known last.
const HEADER_BYTES: usize = 128;

/// The vectors on their way out.
pub enum Vectors {
    /// An array `[rows, width]` of f32 in a file.
    Array {
        /// The file.
        file: AtomicFile,
        /// Numbers in a row.
        width: usize,
        /// Rows so far.
        rows: usize,
    },
    /// A JSON object a line, in a file or on standard output.
    Lines(Option<AtomicFile>),
}

impl Vectors {
    /// Vectors of `width` numbers into a file, which is there once [`Self::finish`] was called, or to standard output.
    pub fn new(path: Option<&Path>, width: usize) -> Result<Self> {
        let Some(path) = path else { return Ok(Self::Lines(None)) };
        let file = AtomicFile::create(path)?;
        if !is_array(path) {
            return Ok(Self::Lines(Some(file)));
        }
        let mut file = file;
        file.write_with(|writer| writer.write_all(&[0; HEADER_BYTES]))?;
        Ok(Self::Array { file, width, rows: 0 })
    }

    /// Writes the vectors of rows, in their order.
    pub fn write(&mut self, rows: &[Row], features: &Features) -> Result<()> {
        match self {
            Self::Array { file, rows: before, .. } => {
                let bytes: Vec<u8> = features.values.iter().flat_map(|value| value.to_le_bytes()).collect();
                file.write_with(|writer| writer.write_all(&bytes))?;
                *before += rows.len();
                Ok(())
            }
            Self::Lines(file) => {
                let text = lines(rows, features)?;
                match file {
                    Some(file) => Ok(file.write_with(|writer| writer.write_all(text.as_bytes()))?),
                    None => output::raw(&text),
                }
            }
        }
    }

    /// Puts a file in its place.
    pub fn finish(self) -> Result<()> {
        match self {
            Self::Array { mut file, width, rows } => {
                file.write_with(|writer| {
                    writer.seek(SeekFrom::Start(0))?;
                    writer.write_all(&header(rows, width))
                })?;
                Ok(file.commit()?)
            }
            Self::Lines(file) => Ok(file.map_or(Ok(()), AtomicFile::commit)?),
        }
    }
}

/// Refuses a file whose name asks for a form that there is not.
pub fn check_name(path: &Path) -> Result<()> {
    let known = ["npy", "jsonl", "ndjson", "json"];
    if known.contains(&ending(path).as_str()) {
        return Ok(());
    }
    let path = path.display();
    let what = format!(
        "--output {path}: vectors are written as a NumPy array (.npy) or as JSON lines (.jsonl)\n  fix: end the name with \
         one of these"
    );
    Err(Usage(what).into())
}

fn is_array(path: &Path) -> bool {
    ending(path) == "npy"
}

fn ending(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_lowercase()
}

/// Version 1.0 of NumPy's format, for numbers of four bytes, the lowest first.
fn header(rows: usize, width: usize) -> [u8; HEADER_BYTES] {
    const LENGTH: u16 = HEADER_BYTES as u16 - 10;
    let shape = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}");
    let mut bytes = [b' '; HEADER_BYTES];
    bytes[..8].copy_from_slice(b"\x93NUMPY\x01\x00");
    bytes[8..10].copy_from_slice(&LENGTH.to_le_bytes());
    bytes[10..10 + shape.len()].copy_from_slice(shape.as_bytes());
    bytes[HEADER_BYTES - 1] = b'\n';
    bytes
}

fn lines(rows: &[Row], features: &Features) -> Result<String> {
    let width = features.values.len() / rows.len().max(1);
    let vectors = features.values.chunks_exact(width.max(1)).zip(&features.truncated);
    let mut text = String::new();
    for (row, (vector, &truncated)) in rows.iter().zip(vectors) {
        let Ok(RowContent { fields, .. }) = &row.content else { continue };
        let line = serde_json::to_string(&Line { fields, vector, truncated });
        text.push_str(&line.context("cannot write a vector as JSON")?);
        text.push('\n');
    }
    Ok(text)
}

/// A row's own fields, then its vector.
struct Line<'a> {
    fields: &'a [(String, Value)],
    vector: &'a [f32],
    truncated: bool,
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in self.fields {
            map.serialize_entry(name, value)?;
        }
        map.serialize_entry(&self.free("embedding"), self.vector)?;
        if self.truncated {
            map.serialize_entry(&self.free("truncated"), &true)?;
        }
        map.end()
    }
}

impl Line<'_> {
    /// A name of ours that the row does not use.
    fn free(&self, name: &str) -> String {
        let mut name = name.to_owned();
        while self.fields.iter().any(|(own, _)| *own == name) {
            name.insert_str(0, "computed_");
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_keeps_its_fields_and_the_digits_of_an_f32() {
        let fields = vec![("embedding".to_owned(), json!("mine")), ("id".to_owned(), json!(7))];
        let row = Row { line: 1, content: Ok(RowContent { input: "a".into(), fields }) };
        let features = Features { values: vec![0.1, -2.0], truncated: vec![true] };
        let expected = r#"{"embedding":"mine","id":7,"computed_embedding":[0.1,-2.0],"truncated":true}"#;
        assert_eq!(lines(&[row], &features).unwrap(), expected.to_owned() + "\n");
    }

    #[test]
    fn the_header_of_an_array_has_room_for_any_shape() {
        let bytes = header(usize::MAX, usize::MAX);
        assert_eq!((bytes.len() % 64, bytes[HEADER_BYTES - 1]), (0, b'\n'));
        let text = String::from_utf8_lossy(&header(3, 8)[10..]).into_owned();
        assert_eq!(text.trim_end(), "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 8), }");
    }

    #[test]
    fn other_forms_than_the_two_are_refused() {
        for good in ["a.npy", "a.NPY", "b.jsonl", "c.json", "d.ndjson"] {
            check_name(Path::new(good)).unwrap();
        }
        for bad in ["a.csv", "a", "a.npz", "a.parquet"] {
            assert!(check_name(Path::new(bad)).is_err(), "{bad}");
        }
    }
}
