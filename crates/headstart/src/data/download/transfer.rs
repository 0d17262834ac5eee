//! One file from one address: what has arrived, which version of the file it belongs to, whether an answer fits it.
//!
//! Owns: `.part` files and how often a server is asked. Never: HTTP itself (`connection`), checksums.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::connection::{Arrival, Connection, Head, Method, Request};
use super::retry::{MAX_FRUITLESS_ATTEMPTS, asked_wait, busy, is_busy, wait};
use super::room::check_room;
use super::{OnProgress, Progress, Stage, Wanted};
use crate::error::{Error, Result};

/// Attempts at one file in all.
const MAX_ATTEMPTS: u32 = 100;

/// A file on its way.
pub(super) struct Transfer<'a> {
    wanted: &'a Wanted<'a>,
    version: PathBuf,
}

/// What tells one version of a file from another.
#[derive(Debug, Default, PartialEq, Eq)]
struct Version {
    /// A strong `ETag`, or `Last-Modified`.
    validator: Option<String>,
    /// The length of the whole file in bytes.
    total: Option<u64>,
}

enum Attempt {
    Complete,
    /// Another attempt may help.
    Failed {
        reason: String,
        /// How long the server asks to wait.
        wait: Option<Duration>,
    },
}

impl Attempt {
    fn failed(reason: impl Into<String>) -> Self {
        Self::Failed { reason: reason.into(), wait: None }
    }
}

impl<'a> Transfer<'a> {
    pub fn new(wanted: &'a Wanted<'a>) -> Self {
        Self { wanted, version: with_suffix(&wanted.part, ".validator") }
    }

    /// The file with everything that has arrived.
    fn part(&self) -> &Path {
        &self.wanted.part
    }

    /// Asks until all is there, or the server has been asked often enough.
    pub fn run(&self, on_progress: &mut OnProgress<'_>) -> Result<()> {
        let (mut most, mut fruitless) = (size_bytes(self.part()), 0);
        for _ in 0..MAX_ATTEMPTS {
            let Attempt::Failed { reason, wait: asked } = self.attempt(on_progress)? else { return Ok(()) };
            let have = size_bytes(self.part());
            // Bytes that had arrived once before are nothing new.
            fruitless = if have > most { 0 } else { fruitless + 1 };
            most = most.max(have);
            if fruitless >= MAX_FRUITLESS_ATTEMPTS {
                return Err(self.given_up(&reason));
            }
            if fruitless > 0 {
                wait(fruitless, asked, &mut || self.tell(size_bytes(self.part()), None, on_progress))?;
            }
        }
        Err(self.given_up("it was asked a hundred times"))
    }

    /// The name that the finished file gets.
    pub fn finish(&self, dest: &Path) -> Result<()> {
        fs::rename(self.part(), dest).map_err(Error::io("create", dest))?;
        remove_if_there(&self.version)
    }

    pub fn forget(&self) -> Result<()> {
        remove_if_there(self.part())?;
        remove_if_there(&self.version)
    }

    fn attempt(&self, on_progress: &mut OnProgress<'_>) -> Result<Attempt> {
        let known = self.known_version();
        if known.validator.is_none() && self.wanted.sha256.is_none() {
            self.forget()?;
        }
        let have = size_bytes(self.part());
        let mut headers = Vec::new();
        if have > 0 {
            headers.push(("Range", format!("bytes={have}-")));
            headers.extend(known.validator.clone().map(|validator| ("If-Range", validator)));
        }
        let Wanted { url, token, .. } = *self.wanted;
        let connection = Connection::open(Request { method: Method::Get, url, headers, token });
        let head = match connection.next(&mut || self.tell(have, known.total, on_progress))? {
            Arrival::Head(head) => head,
            // Without a single byte there is probably no such server, or no network.
            Arrival::Failed(reason) if have == 0 => {
                return Err(self.error(reason, "check the network connection and the address"));
            }
            Arrival::Failed(reason) => return Ok(Attempt::failed(reason)),
            Arrival::Bytes(_) | Arrival::End => return Ok(Attempt::failed("the server said nothing")),
        };
        match head.status {
            200 => {
                let version = head.version();
                if version.validator.is_some()
                    && version.validator == known.validator
                    && version.total < known.total
                {
                    self.forget()?;
                    return Ok(Attempt::failed("the server gives one version two lengths"));
                }
                self.remember(&version)?;
                self.receive(&connection, 0, version.total, on_progress)
            }
            206 => match head.continues(have, &known) {
                Ok(total) => self.receive(&connection, have, total, on_progress),
                Err(reason) => {
                    self.forget()?;
                    Ok(Attempt::failed(reason))
                }
            },
            // The partial file is already all of it: the run before was killed between the last byte and the renaming.
            416 if have > 0
                && head.range_total() == Some(have)
                && known.total.is_none_or(|total| total == have) =>
            {
                Ok(Attempt::Complete)
            }
            416 => {
                self.forget()?;
                Ok(Attempt::failed("the server refuses to send the rest of the file"))
            }
            status if is_busy(status) => {
                Ok(Attempt::Failed { reason: busy(&head), wait: asked_wait(url, &head)? })
            }
            status => {
                let what = format!("the server answered {status}");
                Err(self.error(what, "check the address, or try again later"))
            }
        }
    }

    /// Appends the content to the partial file, of which the first `have` bytes stand.
    fn receive(
        &self,
        connection: &Connection,
        have: u64,
        total: Option<u64>,
        on_progress: &mut OnProgress<'_>,
    ) -> Result<Attempt> {
        if let (Some(total), Some(folder)) = (total.or(self.wanted.bytes), self.part().parent()) {
            // Where it starts again, what is there makes room for it.
            let there = size_bytes(self.part());
            check_room(self.wanted.url, folder, total.saturating_sub(there))?;
        }
        let mut part = OpenOptions::new()
            .create(true)
            .append(have > 0)
            .write(true)
            .truncate(have == 0)
            .open(self.part())
            .map_err(Error::io("create", self.part()))?;
        let mut done = have;
        loop {
            self.tell(done, total, on_progress)?;
            match connection.next(&mut || self.tell(done, total, on_progress))? {
                Arrival::Bytes(bytes) => {
                    part.write_all(&bytes).map_err(Error::io("write", self.part()))?;
                    done += bytes.len() as u64;
                }
                Arrival::End => break,
                Arrival::Failed(reason) => return Ok(Attempt::failed(reason)),
                Arrival::Head(_) => return Ok(Attempt::failed("the server answered twice")),
            }
        }
        match total {
            Some(total) if done < total => return Ok(Attempt::failed("the server closed the connection")),
            Some(total) if done > total => {
                self.forget()?;
                return Ok(Attempt::failed(format!("{done} bytes arrived of a file of {total}")));
            }
            _ if done == 0 => {
                self.forget()?;
                return Err(self.error("the server sent an empty file".into(), "check the address"));
            }
            _ => {}
        }
        part.sync_all().map_err(Error::io("write", self.part()))?;
        Ok(Attempt::Complete)
    }

    fn tell(&self, done: u64, total: Option<u64>, on_progress: &mut OnProgress<'_>) -> Result<()> {
        let progress = Progress {
            stage: Stage::Downloading,
            file: self.wanted.name,
            done_bytes: done,
            total_bytes: total,
        };
        on_progress(progress).or_interrupted(&format!("the download of {}", self.wanted.name))
    }

    /// The version that the partial file belongs to, as [`Self::remember`] keeps it.
    fn known_version(&self) -> Version {
        let text = fs::read_to_string(&self.version).unwrap_or_default();
        let mut lines = text.lines();
        Version {
            validator: lines.next().filter(|line| !line.is_empty()).map(str::to_owned),
            total: lines.next().and_then(|line| line.parse().ok()),
        }
    }

    fn remember(&self, version: &Version) -> Result<()> {
        if *version == Version::default() {
            return remove_if_there(&self.version);
        }
        let total = version.total.map(|total| total.to_string()).unwrap_or_default();
        let text = format!("{}\n{total}\n", version.validator.as_deref().unwrap_or_default());
        fs::write(&self.version, text).map_err(Error::io("write", &self.version))
    }

    fn given_up(&self, reason: &str) -> Error {
        let have = size_bytes(self.part());
        self.error(
            format!("the connection keeps breaking off, {have} bytes have arrived ({reason})"),
            "run the same command again: it continues where it stopped",
        )
    }

    fn error(&self, what: String, fix: &str) -> Error {
        Error::Download { url: self.wanted.url.to_owned(), what, fix: fix.to_owned() }
    }
}

impl Head {
    /// The version of the file that is sent whole. A weak `ETag` does not promise equal bytes.
    fn version(&self) -> Version {
        let strong = self.header("etag").filter(|tag| !tag.starts_with("W/"));
        let validator = strong.or_else(|| self.header("last-modified")).map(str::to_owned);
        Version { validator, total: self.content_length() }
    }

    /// The length of the whole file, where this answer is the rest of it behind `have` bytes of the known version.
    fn continues(&self, have: u64, known: &Version) -> std::result::Result<Option<u64>, String> {
        let range = self.header("content-range").unwrap_or_default();
        let fits = || {
            let (first, rest) = range.strip_prefix("bytes ")?.split_once('-')?;
            let (last, total) = rest.split_once('/')?;
            let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
            let total = if total == "*" { None } else { Some(total.parse::<u64>().ok()?) };
            let length = last.checked_add(1)?.checked_sub(first)?;
            let sent_as_said = self.content_length().is_none_or(|sent| sent == length);
            let same_file = total.zip(known.total).is_none_or(|(said, known)| said == known)
                && total.is_none_or(|total| last < total);
            (first == have && sent_as_said && same_file).then_some(total.or(known.total))
        };
        let Some(total) = fits() else {
            return Err(format!("the server's range `{range}` does not fit the {have} bytes that are there"));
        };
        let version = self.version();
        match (&version.validator, &known.validator) {
            (Some(now), Some(then)) if now != then => Err("the file has changed on the server".into()),
            _ => Ok(total),
        }
    }

    /// `bytes */200` -> 200.
    fn range_total(&self) -> Option<u64> {
        self.header("content-range")?.rsplit('/').next()?.parse().ok()
    }
}

/// The path with this at the end of its name.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
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
