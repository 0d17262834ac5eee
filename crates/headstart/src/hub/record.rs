//! What is written down about models in the cache: each file's sum, and what it looked like when it was summed up.
//!
//! Owns: those records, which lie in this program's cache and not in the Hugging Face cache, and when a file is summed up
//! anew. Never: downloads.
//!
//! Summing up half a gigabyte takes a second, and a model is opened often: a file whose length and time of change are as
//! they were is taken to be what it was.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use super::cache::{etag_of, folder_name};
use super::catalogue::Pin;
use super::{Checking, ModelFile};
use crate::data::download::{OnProgress, sha256_file};
use crate::error::{Error, Result};
use crate::files;

/// What is known of a commit's files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    /// Whether these are all that is needed of what the hub has.
    pub whole: bool,
    /// By their names.
    pub files: BTreeMap<String, FileRecord>,
}

/// What is known of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileRecord {
    /// In hex.
    pub sha256: String,
    /// Its length when it was summed up.
    pub bytes: u64,
    /// When it had been changed last by then, in nanoseconds since 1970.
    pub modified_ns: u64,
}

impl FileRecord {
    /// The record of a file with this sum, as it is now.
    pub fn now(path: &Path, sha256: String) -> Result<Self> {
        let (bytes, modified_ns) = looks(path)?;
        Ok(Self { sha256, bytes, modified_ns })
    }
}

/// A file's length and when it was changed last.
fn looks(path: &Path) -> Result<(u64, u64)> {
    let metadata = fs::metadata(path).map_err(Error::io("read", path))?;
    let since = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    Ok((metadata.len(), since.map_or(0, |time| time.as_nanos() as u64)))
}

impl Record {
    /// Where the record of a commit stands.
    pub fn path_for(records: &Path, repo: &str, commit: &str) -> PathBuf {
        records.join(folder_name(repo)).join(format!("{commit}.json"))
    }

    /// Reads a record; an empty one where there is none.
    pub fn load(path: &Path) -> Result<Self> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(Error::io("read", path)(e)),
        };
        serde_json::from_str(&text).map_err(|e| Error::BadInput {
            path: path.to_path_buf(),
            line: Some(e.line() as u64),
            what: format!("is not a record of a model's files: {e}"),
            fix: "delete it; the model's files then count as put there by another program".into(),
        })
    }

    pub fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::io("write", path)(e.into()))?;
        files::write_atomic(path, (text + "\n").as_bytes())
    }

    /// Sums up those of `names` in `folder` that are new or look changed, or all, and compares each with what is known of
    /// it: the sum recorded, the ETag it lies under, the sum published. Returns the files, and what the user should know.
    ///
    /// # Errors
    /// [`Error::BadInput`] when a file is not what it was; [`Error::Io`] when one cannot be read.
    pub fn check(
        &mut self,
        folder: &Path,
        names: &[String],
        pins: &[Pin],
        checking: Checking,
        on_progress: &mut OnProgress<'_>,
    ) -> Result<(Vec<ModelFile>, Vec<String>)> {
        let (mut found, mut notes) = (Vec::new(), Vec::new());
        for name in names {
            let path = folder.join(name);
            let (bytes, modified_ns) = looks(&path)?;
            let recorded = self.files.get(name);
            let known = recorded.filter(|known| {
                checking == Checking::Changed && (known.bytes, known.modified_ns) == (bytes, modified_ns)
            });
            let sha256 = match known {
                Some(known) => known.sha256.clone(),
                None => sha256_file(&path, on_progress)?,
            };
            if let Some(recorded) = recorded.filter(|recorded| recorded.sha256 != sha256) {
                return Err(changed(&path, &sha256, &recorded.sha256, "was recorded when it was seen first"));
            }
            if let Some(etag) = etag_of(&path).filter(|etag| is_sha256(etag) && *etag != sha256) {
                return Err(changed(&path, &sha256, &etag, "is what the hub has"));
            }
            if let Some(pin) = pins.iter().find(|pin| pin.file == name && pin.sha256 != sha256) {
                notes.push(format!(
                    "{} is not the published file (SHA-256 {sha256}, published {}); used as it is",
                    path.display(),
                    pin.sha256
                ));
            }
            found.push(ModelFile { name: name.clone(), bytes, sha256: Some(sha256.clone()) });
            self.files.insert(name.clone(), FileRecord { sha256, bytes, modified_ns });
        }
        Ok((found, notes))
    }
}

/// Whether an ETag is the sum of the file, as it is of all large ones.
pub(super) fn is_sha256(etag: &str) -> bool {
    etag.len() == 64 && etag.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn changed(path: &Path, found: &str, expected: &str, whence: &str) -> Error {
    let content = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    Error::BadInput {
        path: path.to_path_buf(),
        line: None,
        what: format!("has SHA-256 {found}, but {expected} {whence}"),
        fix: format!(
            "delete {} and call `headstart models pull`; if you changed it on purpose, copy the folder and name the copy",
            content.display()
        ),
    }
}
