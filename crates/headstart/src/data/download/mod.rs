//! Files from the network: one resumable download with its checksum (`transfer` over `connection`), small questions
//! (`ask`); unpacking is in [`unpack`].
//!
//! Owns: SHA-256 of files and folders. Never: which data sets exist or where a cache lies
//! (that is [`super::catalog`]), nor the terminal: progress is a function of the caller's.

mod ask;
mod connection;
mod lock;
mod retry;
mod room;
mod token;
mod transfer;
pub mod unpack;

#[cfg(test)]
pub(crate) mod test_server;
#[cfg(test)]
mod tests;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

pub use self::ask::{Answer, ask};
pub use self::connection::Method;
pub use self::lock::lock;
pub use self::room::check_room;
pub use self::token::Token;
use self::transfer::{Transfer, with_suffix};
use crate::error::{Error, Result};
use crate::event::Signal;
use crate::files;

/// What is being waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Another process is fetching the same data; this one waits for it.
    Waiting,
    /// Bytes are arriving.
    Downloading,
    /// The archive is being unpacked.
    Unpacking,
    /// Files are being compared with their checksums.
    Checking,
}

impl std::fmt::Display for Stage {
    /// As it is said before the name of a file.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Waiting => "waiting for another process to fetch",
            Self::Downloading => "downloading",
            Self::Unpacking => "unpacking",
            Self::Checking => "checking",
        })
    }
}

/// How far a download or an unpacking is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// What is being done.
    pub stage: Stage,
    /// The file's name.
    pub file: &'a str,
    /// Bytes done, those of an earlier, interrupted download included.
    pub done_bytes: u64,
    /// Bytes altogether, where known.
    pub total_bytes: Option<u64>,
}

/// Whom to tell about progress, several times a second; says whether to go on.
pub type OnProgress<'a> = dyn FnMut(Progress<'_>) -> Signal + 'a;

const BUFFER_BYTES: usize = 1 << 16;
/// 64 MiB.
const BUFFERS_BETWEEN_LOOKS: u64 = 1 << 10;
/// Files of a folder that are summed up between two looks at the watcher.
const FILES_BETWEEN_LOOKS: usize = 512;

/// A file to be fetched.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// Where it comes from.
    pub url: &'a str,
    /// For a server that asks who is there. It goes to the server of `url` and nowhere else, whatever the redirects.
    pub token: Option<&'a Token>,
    /// What progress calls it.
    pub name: &'a str,
    /// The file in which bytes collect until all are there, in a folder that exists.
    pub part: PathBuf,
    /// Its length, where that is known.
    pub bytes: Option<u64>,
    /// Its SHA-256 in hex, where that is known.
    pub sha256: Option<&'a str>,
}

/// Downloads `url` to the file `dest`, as [`fetch`] does; bytes collect in `dest` + `.part`.
///
/// # Errors
/// As for [`fetch`].
pub fn download(
    url: &str,
    dest: &Path,
    expected_sha256: Option<&str>,
    on_progress: &mut OnProgress<'_>,
) -> Result<String> {
    let name = dest.file_name().unwrap_or_default().to_string_lossy();
    let part = with_suffix(dest, ".part");
    let wanted = Wanted { url, token: None, name: &name, part, bytes: None, sha256: expected_sha256 };
    fetch(&wanted, dest, on_progress)
}

/// Downloads a file to `dest` (whose folder exists) and returns the SHA-256 of what arrived, in hex.
///
/// An interrupted download continues where it stopped, in this call or in a later one,
/// when the server supports ranges and either its ETag / Last-Modified or the known sum can tell that both
/// halves belong to the same file; otherwise it starts again. `dest` appears only complete and verified.
///
/// # Errors
/// [`Error::Download`] when the server cannot be reached, refuses, keeps breaking off, announces more than the disk has room
/// for, or sends something with another checksum or length than is known; [`Error::Interrupted`], with everything that has arrived kept;
/// [`Error::Io`] when the disk refuses.
pub fn fetch(wanted: &Wanted<'_>, dest: &Path, on_progress: &mut OnProgress<'_>) -> Result<String> {
    let transfer = Transfer::new(wanted);
    transfer.run(on_progress)?;
    let wrong = |what: String| Error::Download {
        url: wanted.url.to_owned(),
        what: format!("what arrived has {what}; it was thrown away"),
        fix: "run the same command again; if it fails again, the publisher has changed the file".into(),
    };
    let arrived = fs::metadata(&wanted.part).map_err(Error::io("read", &wanted.part))?.len();
    if let Some(expected) = wanted.bytes.filter(|expected| *expected != arrived) {
        transfer.forget()?;
        return Err(wrong(format!("{arrived} bytes, expected {expected}")));
    }
    let sum = sum_of_file(&wanted.part, &mut || checking(wanted.name, on_progress))?;
    if let Some(expected) = wanted.sha256.filter(|expected| *expected != sum) {
        transfer.forget()?;
        return Err(wrong(format!("SHA-256 {sum}, expected {expected}")));
    }
    transfer.finish(dest)?;
    Ok(sum)
}

/// Tells that sums are computed, and ends the work where the watcher says so.
fn checking(file: &str, on_progress: &mut OnProgress<'_>) -> Result<()> {
    let progress = Progress { stage: Stage::Checking, file, done_bytes: 0, total_bytes: None };
    on_progress(progress).or_interrupted(&format!("checking {file}"))
}

/// The SHA-256 of a file, in lower-case hex.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read.
pub fn sha256_file(path: &Path, on_progress: &mut OnProgress<'_>) -> Result<String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    sum_of_file(path, &mut || checking(&name, on_progress))
}

fn sum_of_file(path: &Path, go_on: &mut dyn FnMut() -> Result<()>) -> Result<String> {
    let mut file = files::open_regular(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    for buffers in 1_u64.. {
        let n = file.read(&mut buffer).map_err(Error::io("read", path))?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
        if buffers % BUFFERS_BETWEEN_LOOKS == 0 {
            go_on()?;
        }
    }
    Ok(files::hex(&hasher.finalize()))
}

/// The SHA-256 of some bytes, in lower-case hex.
pub fn sha256_bytes(bytes: &[u8]) -> String {
    files::hex(&Sha256::digest(bytes))
}

/// One SHA-256 for all the files below `folder`: that of the lines `SUM␠␠PATH` sorted by path, as `sha256sum`
/// prints them. `only` names the subfolders that count; when empty, everything does.
///
/// # Errors
/// [`Error::Io`] when something cannot be read.
pub fn sha256_folder(folder: &Path, only: &[&str], on_progress: &mut OnProgress<'_>) -> Result<String> {
    let mut paths = Vec::new();
    if only.is_empty() {
        collect_files(folder, "", &mut paths)?;
    }
    for subfolder in only {
        collect_files(&folder.join(subfolder), subfolder, &mut paths)?;
    }
    paths.sort_unstable();
    // Tens of thousands of small files: waiting for the disk dominates, so it is waited for side by side.
    let mut lines = String::new();
    for paths in paths.chunks(FILES_BETWEEN_LOOKS) {
        checking(&folder.file_name().unwrap_or_default().to_string_lossy(), on_progress)?;
        let sums = paths.par_iter().map(|path| {
            let sum = sum_of_file(&folder.join(path), &mut || Ok(()))?;
            Ok(format!("{sum}  {path}\n"))
        });
        lines.extend(sums.collect::<Result<Vec<_>>>()?);
    }
    Ok(sha256_bytes(lines.as_bytes()))
}

fn collect_files(folder: &Path, prefix: &str, paths: &mut Vec<String>) -> Result<()> {
    for item in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let item = item.map_err(Error::io("read", folder))?;
        let name = item.file_name().to_string_lossy().into_owned();
        let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        if item.file_type().map_err(Error::io("read", folder))?.is_dir() {
            collect_files(&item.path(), &path, paths)?;
        } else {
            paths.push(path);
        }
    }
    Ok(())
}
