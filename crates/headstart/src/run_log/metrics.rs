//! `metrics.jsonl`: one JSON object per record and line.
//!
//! Owns: writing, reading and cutting that file. Never: changes a line that stands.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use super::{Kind, Record, precedes};
use crate::error::{Error, Result};

/// The file's name in a run folder.
pub(super) const FILE_NAME: &str = "metrics.jsonl";

/// The open file.
#[derive(Debug)]
pub(super) struct MetricsFile {
    file: File,
    path: PathBuf,
}

impl MetricsFile {
    /// Opens the file for appending, without what comes after the checkpoint of `step`; creates it if it is not there.
    pub fn open_cut_back(path: &Path, step: u64) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        let file = options.open(path).map_err(Error::io("open", path))?;
        let mut keep_bytes = 0;
        scan(path, |record, end| {
            let keep = precedes(step, record.step, record.kind == Kind::Test);
            if keep {
                keep_bytes = end;
            }
            keep
        })?;
        file.set_len(keep_bytes).map_err(Error::io("shorten", path))?;
        Ok(Self { file, path: path.to_path_buf() })
    }

    /// One write call per line: another process never sees half of one.
    pub fn append(&mut self, record: &Record) -> Result<()> {
        let mut line =
            serde_json::to_vec(record).map_err(|e| Error::io("write", &self.path)(io::Error::from(e)))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(Error::io("write", &self.path))
    }

    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(Error::io("write", &self.path))
    }
}

/// The records of the run in `run_dir`, in order; `null` is read as NaN. A last line that is not finished (the
/// run is writing it, or was killed) is left out.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read; [`Error::BadInput`] with the line that is no record.
pub fn read_metrics(run_dir: &Path) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    scan(&run_dir.join(FILE_NAME), |record, _| {
        records.push(record);
        true
    })?;
    Ok(records)
}

/// Calls `visit` with every record and the offset of its end, until it returns false or the file ends, which it
/// may do in the middle of a line.
fn scan(path: &Path, mut visit: impl FnMut(Record, u64) -> bool) -> Result<()> {
    let mut reader = BufReader::new(File::open(path).map_err(Error::io("read", path))?);
    let mut line = Vec::new();
    let mut end = 0;
    for number in 1.. {
        line.clear();
        end += reader.read_until(b'\n', &mut line).map_err(Error::io("read", path))? as u64;
        if line.last() != Some(&b'\n') {
            break;
        }
        match parse(&line) {
            Ok(record) => {
                if !visit(record, end) {
                    break;
                }
            }
            // A crash of the machine can leave rubbish at the end, but only there.
            Err(_) if reader.fill_buf().map_err(Error::io("read", path))?.is_empty() => break,
            Err(what) => {
                return Err(Error::BadInput {
                    path: path.to_path_buf(),
                    line: Some(number),
                    what,
                    fix: "remove the line; it was not written by this program".into(),
                });
            }
        }
    }
    Ok(())
}

fn parse(line: &[u8]) -> Result<Record, String> {
    let fields: Map<String, Value> = serde_json::from_slice(line).map_err(|e| e.to_string())?;
    let number = |name: &str, value: &Value| match value {
        Value::Null => Ok(f64::NAN),
        _ => value.as_f64().ok_or_else(|| format!("`{name}` is not a number")),
    };
    let field = |name: &str| fields.get(name).ok_or_else(|| format!("has no `{name}`"));
    let mut record = Record {
        step: field("step")?.as_u64().ok_or("`step` is not a whole number")?,
        kind: Kind::deserialize(field("kind")?).map_err(|e| e.to_string())?,
        wall_time_s: number("wall_time_s", field("wall_time_s")?)?,
        values: Vec::new(),
    };
    for (name, value) in &fields {
        if !["step", "kind", "wall_time_s"].contains(&name.as_str()) {
            record.values.push((name.clone(), number(name, value)?));
        }
    }
    Ok(record)
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3 + self.values.len()))?;
        map.serialize_entry("step", &self.step)?;
        map.serialize_entry("kind", &self.kind)?;
        map.serialize_entry("wall_time_s", &self.wall_time_s)?;
        for (name, value) in &self.values {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}
