//! Sums of files: written beside them, compared when they are read.
//!
//! Owns: length, SHA-256 and CRC-32C of a file, also while it is written; the error of a file that is not what was written.
//! Never: decides which files have a sum, or where it is kept.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::files::hex;

/// Size and content of a file, to notice when it was truncated or altered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSum {
    /// Length.
    pub bytes: u64,
    /// SHA-256, in lower-case hexadecimal digits.
    pub sha256: String,
    /// CRC-32C, in lower-case hexadecimal digits: tells an accident as well, in a tenth of the time. Files of before
    /// it was written have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc32c: Option<String>,
}

/// The sums of a folder's files, by file name.
pub type FileSums = BTreeMap<String, FileSum>;

impl FileSum {
    /// The sum of some bytes.
    pub fn of(content: &[u8]) -> Self {
        let mut sums = Sums::default();
        sums.update(content);
        sums.finish()
    }

    /// Compares with the content read from `path`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when it is not what was written.
    pub fn check(&self, path: &Path, content: &[u8]) -> Result<()> {
        let found = content.len() as u64;
        if found != self.bytes {
            let what = format!("is truncated or altered: expected {} bytes, found {found}", self.bytes);
            return Err(damaged(path, what));
        }
        let (name, same) = match &self.crc32c {
            Some(crc) => ("CRC-32C", hex(&crc32c(content).to_be_bytes()) == *crc),
            None => ("SHA-256", hex(&Sha256::digest(content)) == self.sha256),
        };
        if !same {
            let what = format!("is altered: its content is not what was written ({name} differs)");
            return Err(damaged(path, what));
        }
        Ok(())
    }
}

/// The sum of a content that comes in parts.
#[derive(Debug, Default)]
struct Sums {
    bytes: u64,
    sha256: Sha256,
    crc32c: u32,
}

impl Sums {
    fn update(&mut self, content: &[u8]) {
        self.bytes += content.len() as u64;
        self.sha256.update(content);
        self.crc32c = crc32c::crc32c_append(self.crc32c, content);
    }

    fn finish(self) -> FileSum {
        let crc32c = Some(hex(&self.crc32c.to_be_bytes()));
        FileSum { bytes: self.bytes, sha256: hex(&self.sha256.finalize()), crc32c }
    }
}

/// The CRC-32C of a content, in parts on all threads.
fn crc32c(content: &[u8]) -> u32 {
    const PART: usize = 4 << 20;
    let parts = content.par_chunks(PART).map(|part| (crc32c::crc32c(part), part.len()));
    let join = |(a, before): (u32, usize), (b, len)| (crc32c::crc32c_combine(a, b, len), before + len);
    parts.reduce(|| (0, 0), join).0
}

/// The error of a file that is not what this program wrote.
pub(crate) fn damaged(path: &Path, what: impl Into<String>) -> Error {
    Error::Checkpoint {
        path: path.to_path_buf(),
        what: what.into(),
        fix: "restore the folder from a copy, or use another checkpoint or model".into(),
    }
}

/// A file being written and summed; on the disk when [`SummedFile::finish`] returns.
#[derive(Debug)]
pub(crate) struct SummedFile {
    writer: BufWriter<File>,
    sums: Sums,
}

impl SummedFile {
    pub fn create(path: &Path) -> io::Result<Self> {
        let writer = BufWriter::with_capacity(1 << 20, File::create(path)?);
        Ok(Self { writer, sums: Sums::default() })
    }

    pub fn write(&mut self, content: &[u8]) -> io::Result<()> {
        self.writer.write_all(content)?;
        self.sums.update(content);
        Ok(())
    }

    pub fn finish(mut self) -> io::Result<FileSum> {
        self.writer.flush()?;
        self.writer.get_ref().sync_all()?;
        Ok(self.sums.finish())
    }
}
