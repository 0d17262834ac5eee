//! What is written down about downloaded data: addresses and checksums, beside the data.
//!
//! Owns: `ROOT.provenance.json`. Never: decides what a difference means (that is [`super`]).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files;

/// What a file's checksum was compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Compared {
    /// It is the published one.
    Published,
    /// It is the one recorded at the first download; none is published.
    Recorded,
    /// It is not the published one: a file of the user's own.
    Differs,
    /// Nothing is known to compare it with.
    NotCompared,
}

/// One file and what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileSum {
    /// Its path inside the data set, or the address it came from.
    pub file: String,
    /// SHA-256 in hex; of a folder: [`crate::data::download::sha256_folder`].
    pub sha256: String,
    /// What the sum was compared with.
    pub compared: Compared,
}

/// The record of one download.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    /// What was downloaded.
    pub sources: Vec<FetchedSource>,
    /// Path below the root -> SHA-256 of what was unpacked.
    pub files: BTreeMap<String, String>,
}

/// One downloaded file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FetchedSource {
    /// The name it was stored under.
    pub file: String,
    /// Where it came from; the path of a file that was put there by hand.
    pub from: String,
    /// Its SHA-256.
    pub sha256: String,
    /// Whether that is the published one.
    pub published: bool,
}

impl FetchedSource {
    pub fn sum(&self) -> FileSum {
        let compared = if self.published { Compared::Published } else { Compared::Recorded };
        FileSum { file: self.from.clone(), sha256: self.sha256.clone(), compared }
    }
}

impl Manifest {
    /// Where the record of the data in the folder `root` stands: beside it, so that it outlives it.
    pub fn path_for(root: &Path) -> PathBuf {
        let mut name = root.as_os_str().to_owned();
        name.push(".provenance.json");
        PathBuf::from(name)
    }

    /// Reads a record; `None` when there is none.
    pub fn load(path: &Path) -> Result<Option<Self>> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("read", path)(e)),
        };
        serde_json::from_str(&text).map(Some).map_err(|e| Error::BadInput {
            path: path.to_path_buf(),
            line: Some(e.line() as u64),
            what: format!("is not a record of a download: {e}"),
            fix: "delete it; the data beside it then counts as put there by hand".into(),
        })
    }

    /// Writes the record whole or not at all.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::io("write", path)(e.into()))?;
        files::write_atomic(path, (text + "\n").as_bytes())
    }
}
