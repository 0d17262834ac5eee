//! `metrics.jsonl`: one JSON object per record and line.
//!
//! Owns: writing, reading and cutting that file. Never: changes a line that stands.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use super::{Extent, Kind, Record, not_as_logged, precedes};
use crate::error::{Error, Result};
use crate::files::cannot_write;

/// The file's name in a run folder.
pub(super) const FILE_NAME: &str = "metrics.jsonl";

/// The open file.
#[derive(Debug)]
pub(super) struct MetricsFile {
    file: File,
    path: PathBuf,
    sum: Extent,
}

impl MetricsFile {
    /// Opens the file for appending, without what comes after the checkpoint of `step`; creates it if it is not there.
    /// What stays must be what the checkpoint knows of it, `expected`.
    pub fn open_cut_back(path: &Path, step: u64, expected: Option<Extent>) -> Result<Self> {
        let is_there = path.exists();
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        let file = options.open(path).map_err(Error::io("open", path))?;
        let mut sum = Extent::default();
        scan(path, |record, line| {
            let keep = match expected {
                // An evaluation that was due after the checkpoint has its step, and is not of it.
                Some(expected) => sum.bytes + line.len() as u64 <= expected.bytes,
                None => precedes(step, record.step, record.kind == Kind::Test),
            };
            if keep {
                sum.add(line);
            }
            keep
        })?;
        // A file that was moved away is begun anew.
        if let Some(expected) = expected.filter(|_| is_there)
            && sum != expected
        {
            return Err(not_as_logged(path, step, "the run goes on without the metrics before that step"));
        }
        file.set_len(sum.bytes).map_err(Error::io("shorten", path))?;
        Ok(Self { file, path: path.to_path_buf(), sum })
    }

    /// One write call per line: another process never sees half of one.
    pub fn append(&mut self, record: &Record) -> Result<()> {
        let mut line =
            serde_json::to_vec(record).map_err(|e| Error::io("write", &self.path)(io::Error::from(e)))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(cannot_write(&self.path))?;
        self.sum.add(&line);
        Ok(())
    }

    /// Waits until everything is on the disk; returns what that is.
    pub fn sync(&self) -> Result<Extent> {
        self.file.sync_data().map_err(cannot_write(&self.path))?;
        Ok(self.sum)
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

/// Calls `visit` with every record and its line, until it returns false or the file ends, which it may do in the middle
/// of a line.
fn scan(path: &Path, mut visit: impl FnMut(Record, &[u8]) -> bool) -> Result<()> {
    let mut reader = BufReader::new(File::open(path).map_err(Error::io("read", path))?);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        reader.read_until(b'\n', &mut line).map_err(Error::io("read", path))?;
        if line.last() != Some(&b'\n') {
            break;
        }
        match parse(&line) {
            Ok(record) => {
                if !visit(record, &line) {
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
