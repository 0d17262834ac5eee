//! Files from the network: one resumable download with its checksum; unpacking is in [`unpack`].
//!
//! Owns: HTTP, `.part` files, SHA-256 of files and folders. Never: which data sets exist or where a cache lies
//! (that is [`super::catalog`]), nor the terminal: progress is a function of the caller's.

pub mod unpack;

#[cfg(test)]
pub(crate) mod test_server;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// What is being waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Another process is fetching the same data; this one waits for it.
    Waiting,
    /// Bytes are arriving.
    Downloading,
    /// The archive is being unpacked.
    Unpacking,
}

impl std::fmt::Display for Stage {
    /// As it is said before the name of a file.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Waiting => "waiting for another process to fetch",
            Self::Downloading => "downloading",
            Self::Unpacking => "unpacking",
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

/// Whom to tell about progress.
pub type OnProgress<'a> = dyn FnMut(Progress<'_>) + 'a;

/// A connection that yields nothing new this many times in a row is given up.
const MAX_FRUITLESS_ATTEMPTS: u32 = 3;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Silence, not slowness, ends an attempt: large files over slow lines may take hours.
const SILENCE_TIMEOUT: Duration = Duration::from_mins(1);
const BUFFER_BYTES: usize = 1 << 16;

/// Downloads `url` to the file `dest` (whose folder exists) and returns the SHA-256 of what arrived, in hex.
///
/// Bytes collect in `dest` + `.part`. An interrupted download continues there, in this call or in a later one,
/// when the server supports ranges and either its ETag / Last-Modified or `expected_sha256` can tell that both
/// halves belong to the same file; otherwise it starts again. `dest` appears only complete and verified.
///
/// # Errors
/// [`Error::Download`] when the server cannot be reached, refuses, keeps breaking off, or sends something with
/// another checksum than `expected_sha256`; [`Error::Io`] when the disk refuses.
pub fn download(
    url: &str,
    dest: &Path,
    expected_sha256: Option<&str>,
    on_progress: &mut OnProgress<'_>,
) -> Result<String> {
    let transfer = Transfer {
        agent: agent(url),
        url,
        file: dest.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
        part: with_suffix(dest, ".part"),
        validator: with_suffix(dest, ".part.validator"),
        sum_is_known: expected_sha256.is_some(),
    };
    let mut fruitless = 0;
    loop {
        let before = size_bytes(&transfer.part);
        let Attempt::Interrupted(reason) = transfer.attempt(on_progress)? else { break };
        let have = size_bytes(&transfer.part);
        fruitless = if have > before { 0 } else { fruitless + 1 };
        if fruitless >= MAX_FRUITLESS_ATTEMPTS {
            return Err(download_error(
                url,
                format!("the connection keeps breaking off, {have} bytes have arrived ({reason})"),
                "run the same command again: it continues where it stopped",
            ));
        }
    }
    let sum = sha256_file(&transfer.part)?;
    if let Some(expected) = expected_sha256
        && sum != expected
    {
        transfer.forget_part()?;
        return Err(download_error(
            url,
            format!("what arrived has SHA-256 {sum}, expected {expected}; it was thrown away"),
            "run the same command again; if it fails again, the publisher has changed the file",
        ));
    }
    fs::rename(&transfer.part, dest).map_err(Error::io("create", dest))?;
    remove_if_there(&transfer.validator)?;
    Ok(sum)
}

enum Attempt {
    Complete,
    /// The connection broke, or the partial file turned out to be useless; another attempt may help.
    Interrupted(String),
}

struct Transfer<'a> {
    agent: ureq::Agent,
    url: &'a str,
    file: String,
    part: PathBuf,
    validator: PathBuf,
    sum_is_known: bool,
}

impl Transfer<'_> {
    fn attempt(&self, on_progress: &mut OnProgress<'_>) -> Result<Attempt> {
        let validator = fs::read_to_string(&self.validator).ok();
        if validator.is_none() && !self.sum_is_known {
            self.forget_part()?;
        }
        let have = size_bytes(&self.part);
        let mut request = self.agent.get(self.url);
        if have > 0 {
            request = request.header("Range", format!("bytes={have}-"));
            if let Some(validator) = validator {
                request = request.header("If-Range", validator);
            }
        }
        let response = request.call().map_err(|e| {
            let fix = "check the network connection and the address";
            download_error(self.url, e.to_string(), fix)
        })?;
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
        match response.status().as_u16() {
            200 => {
                self.remember_validator(header("etag"), header("last-modified"))?;
                self.receive(response, 0, on_progress)
            }
            206 if header("content-range").and_then(range_start) == Some(have) => {
                self.receive(response, have, on_progress)
            }
            // The partial file is already all of it: the run before was killed between the last byte and the
            // renaming. The checksum decides.
            416 if have > 0 && header("content-range").and_then(range_total) == Some(have) => {
                Ok(Attempt::Complete)
            }
            206 | 416 => {
                self.forget_part()?;
                Ok(Attempt::Interrupted("the server's range does not fit the partial file".into()))
            }
            _ => Err(download_error(
                self.url,
                format!("the server answered {}", response.status()),
                "check the address, or try again later",
            )),
        }
    }

    /// Appends the body to the partial file, of which the first `have` bytes stand.
    fn receive(
        &self,
        response: ureq::http::Response<ureq::Body>,
        have: u64,
        on_progress: &mut OnProgress<'_>,
    ) -> Result<Attempt> {
        let mut part = OpenOptions::new()
            .create(true)
            .append(have > 0)
            .write(true)
            .truncate(have == 0)
            .open(&self.part)
            .map_err(Error::io("create", &self.part))?;
        let total_bytes = response.body().content_length().map(|length| length + have);
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut done_bytes = have;
        loop {
            on_progress(Progress { stage: Stage::Downloading, file: &self.file, done_bytes, total_bytes });
            match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    part.write_all(&buffer[..n]).map_err(Error::io("write", &self.part))?;
                    done_bytes += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Ok(Attempt::Interrupted(e.to_string())),
            }
        }
        if total_bytes.is_some_and(|total| done_bytes < total) {
            return Ok(Attempt::Interrupted("the server closed the connection".into()));
        }
        part.sync_all().map_err(Error::io("write", &self.part))?;
        Ok(Attempt::Complete)
    }

    /// Keeps what identifies this version of the file, for `If-Range`. A weak ETag does not promise equal bytes.
    fn remember_validator(&self, etag: Option<&str>, last_modified: Option<&str>) -> Result<()> {
        match etag.filter(|tag| !tag.starts_with("W/")).or(last_modified) {
            Some(text) => fs::write(&self.validator, text).map_err(Error::io("write", &self.validator)),
            None => remove_if_there(&self.validator),
        }
    }

    fn forget_part(&self) -> Result<()> {
        remove_if_there(&self.part)?;
        remove_if_there(&self.validator)
    }
}

fn agent(url: &str) -> ureq::Agent {
    let mut config = ureq::Agent::config_builder();
    // A proxy of the environment's is honoured, but it cannot know this machine's own ports.
    if ["http://127.0.0.1", "http://localhost", "http://[::1]"].iter().any(|own| url.starts_with(own)) {
        config = config.proxy(None);
    }
    config
        .http_status_as_error(false)
        // Some mirrors refuse the user agents of libraries.
        .user_agent(concat!("headstart/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(SILENCE_TIMEOUT))
        .timeout_per_read(Some(SILENCE_TIMEOUT))
        .build()
        .new_agent()
}

/// `bytes 100-199/200` -> 100.
fn range_start(content_range: &str) -> Option<u64> {
    content_range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

/// `bytes */200` -> 200.
fn range_total(content_range: &str) -> Option<u64> {
    content_range.rsplit('/').next()?.parse().ok()
}

fn download_error(url: &str, what: String, fix: &str) -> Error {
    Error::Download { url: url.to_owned(), what, fix: fix.to_owned() }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

fn size_bytes(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |m| m.len())
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(e)),
        _ => Ok(()),
    }
}

/// The SHA-256 of a file, in lower-case hex.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read.
pub fn sha256_file(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let n = file.read(&mut buffer).map_err(Error::io("read", path))?;
        if n == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..n]);
    }
}

/// The SHA-256 of some bytes, in lower-case hex.
pub fn sha256_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// One SHA-256 for all the files below `folder`: that of the lines `SUM␠␠PATH` sorted by path, as `sha256sum`
/// prints them. `only` names the subfolders that count; when empty, everything does.
///
/// # Errors
/// [`Error::Io`] when something cannot be read.
pub fn sha256_folder(folder: &Path, only: &[&str]) -> Result<String> {
    let mut paths = Vec::new();
    if only.is_empty() {
        collect_files(folder, "", &mut paths)?;
    }
    for subfolder in only {
        collect_files(&folder.join(subfolder), subfolder, &mut paths)?;
    }
    paths.sort_unstable();
    // Tens of thousands of small files: waiting for the disk dominates, so it is waited for side by side.
    let lines = paths
        .par_iter()
        .map(|path| Ok(format!("{}  {path}\n", sha256_file(&folder.join(path))?)))
        .collect::<Result<Vec<_>>>()?;
    Ok(sha256_bytes(lines.concat().as_bytes()))
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

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
