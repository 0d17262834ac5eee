//! Writing files so that a reader sees the whole new file or none of it.
//!
//! Owns: the temporary name, the flush to disk, the rename; that only files are read as files; sums (`sums`); an end with
//! nothing half written (`unfinished`). Never: decides what is written or where.

mod sums;
mod unfinished;

use std::fmt::Write as _;
use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::error::{Error, Result};

pub use sums::{FileSum, FileSums};
pub(crate) use sums::{SummedFile, damaged};
pub use unfinished::{NothingUnfinished, remove_unfinished};
pub(crate) use unfinished::{Unfinished, remove};

/// A file of a writer that is alive is locked by then.
const LOCKED_AFTER: Duration = Duration::from_mins(1);
/// Where there are no locks, a file that nobody has touched for so long is nobody's.
const ABANDONED_AFTER: Duration = Duration::from_hours(24);

/// A file being written under a temporary name beside its destination.
///
/// Dropped without [`AtomicFile::commit`] it leaves nothing behind.
#[derive(Debug)]
pub struct AtomicFile {
    // `None` only after `commit` has taken it.
    writer: Option<BufWriter<File>>,
    temporary: Unfinished,
    destination: PathBuf,
}

impl AtomicFile {
    /// Creates the destination's folder where it is missing, and the temporary file in it.
    ///
    /// # Errors
    /// [`Error::Io`] naming the folder or file that cannot be created.
    pub fn create(destination: &Path) -> Result<Self> {
        // Two runs, or two threads of one, may write the same destination at the same time.
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let folder = parent(destination);
        fs::create_dir_all(folder).map_err(Error::io("create the folder", folder))?;
        let name = destination.file_name().unwrap_or_default().to_string_lossy();
        let unique = COUNTER.fetch_add(1, Ordering::Relaxed);
        let temporary = folder.join(format!(".{name}.{}-{unique}.tmp", std::process::id()));
        let (temporary, file) =
            Unfinished::new(temporary, |path| File::create(path).map_err(Error::io("create", path)))?;
        // Held while this process lives, which is how `remove_abandoned` knows. Some file systems have no locks.
        let _ = file.try_lock();
        Ok(Self { writer: Some(BufWriter::new(file)), temporary, destination: destination.to_path_buf() })
    }

    /// Writes with `action`, which may also seek; a full disk is reported under the destination's name.
    ///
    /// # Errors
    /// [`Error::Io`] when the operating system refuses.
    pub fn write_with(&mut self, action: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<()> {
        match &mut self.writer {
            Some(writer) => action(writer).map_err(Error::io("write", &self.destination)),
            None => Ok(()),
        }
    }

    /// Flushes to disk and puts the file in its place, over an older one of that name.
    ///
    /// # Errors
    /// [`Error::Io`] when flushing or renaming fails; the destination is then as it was.
    pub fn commit(mut self) -> Result<()> {
        let fail = |e| Error::io("write", &self.destination)(e);
        if let Some(writer) = self.writer.take() {
            let file = writer.into_inner().map_err(|e| fail(e.into_error()))?;
            file.sync_all().map_err(fail)?;
        }
        let rename = || fs::rename(self.temporary.path(), &self.destination).map_err(fail);
        self.temporary.finish(rename)?;
        // The rename itself is durable only once the folder is; some file systems refuse this, harmlessly.
        if let Ok(folder) = File::open(parent(&self.destination)) {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

/// Writes `bytes` to `destination` so that a reader sees the whole new file or none of it.
///
/// # Errors
/// [`Error::Io`] as for [`AtomicFile`].
pub fn write_atomic(destination: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = AtomicFile::create(destination)?;
    file.write_with(|w| w.write_all(bytes))?;
    file.commit()
}

/// Removes what processes that were killed have left half written in a folder: temporary files of [`AtomicFile`] whose
/// destination `is_ours` knows. Whether it works is not this run's concern.
pub fn remove_abandoned(folder: &Path, is_ours: impl Fn(&str) -> bool) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((destination, process)) = parts_of_temporary(&name) else { continue };
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
        let older_than = |least: Duration| age.is_some_and(|age| age > least);
        let abandoned = || match File::open(entry.path()).map(|file| file.try_lock()) {
            // Between making a file and locking it there is a moment.
            Ok(Ok(())) => is_gone(process) || older_than(LOCKED_AFTER),
            Ok(Err(TryLockError::WouldBlock)) | Err(_) => false,
            Ok(Err(TryLockError::Error(_))) => older_than(ABANDONED_AFTER),
        };
        if is_ours(destination) && abandoned() {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Removes such files from a folder that nobody else writes to. Whether it works is not this run's concern.
pub(crate) fn remove_temporary(folder: &Path, is_ours: impl Fn(&str) -> bool) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if parts_of_temporary(&name).is_some_and(|(destination, _)| is_ours(destination)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Removes what a process that was killed while it wrote this file has left beside it.
pub fn remove_abandoned_of(destination: &Path) {
    let name = destination.file_name().unwrap_or_default().to_string_lossy();
    remove_abandoned(parent(destination), |of| of == name);
}

/// Destination and process of a temporary file's name: `.NAME.PROCESS-NUMBER.tmp`.
fn parts_of_temporary(name: &str) -> Option<(&str, u32)> {
    let (destination, unique) = name.strip_prefix('.')?.strip_suffix(".tmp")?.rsplit_once('.')?;
    let (process, number) = unique.split_once('-')?;
    number.parse::<u64>().ok()?;
    Some((destination, process.parse().ok()?))
}

/// Whether the system says that there is no such process.
fn is_gone(process: u32) -> bool {
    Path::new("/proc/self").exists() && !Path::new("/proc").join(process.to_string()).exists()
}

/// Opens a file to be read. A pipe would be waited for without end, and a device has none.
///
/// # Errors
/// [`Error::Io`] when it cannot be opened; [`Error::BadInput`] when it is no file but something else.
pub fn open_regular(path: &Path) -> Result<File> {
    let kind = fs::metadata(path).map_err(Error::io("read", path))?.file_type();
    if kind.is_file() {
        return File::open(path).map_err(Error::io("read", path));
    }
    let (what, fix) = if kind.is_dir() {
        ("is a folder, not a file", "name a file in it")
    } else {
        ("is a pipe, a socket or a device, not a file", "save what it gives as a file, and name that")
    };
    Err(Error::BadInput { path: path.to_path_buf(), line: None, what: what.into(), fix: fix.into() })
}

/// The content of a file, as [`open_regular`] opens it.
///
/// # Errors
/// As for [`open_regular`].
pub fn read_regular(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?.read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    Ok(bytes)
}

/// Waits until a folder's entries are on the disk. Elsewhere than on Unix a folder cannot be opened for that.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(folder).and_then(|f| f.sync_all()).map_err(Error::io("flush", folder))?;
    }
    Ok(())
}

/// The error of a disk that refuses what a run saves.
pub(crate) fn cannot_write(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::Checkpoint {
        fix: format!(
            "make room on the disk of {} and see that it can be written to; \
             what was saved before is whole, so the run continues with --resume",
            parent(&path).display()
        ),
        what: format!("cannot be written: {source}"),
        path,
    }
}

/// Bytes as lower-case hexadecimal, as checksums are written.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The folder a path lies in.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// What is in a folder, in the order of the names.
///
/// # Errors
/// [`Error::Io`] when it cannot be read.
pub fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = fs::read_dir(folder).map_err(Error::io("read", folder))?;
    let paths: io::Result<Vec<PathBuf>> = read.map(|entry| entry.map(|e| e.path())).collect();
    let mut paths = paths.map_err(Error::io("read", folder))?;
    paths.sort_unstable();
    Ok(paths)
}

/// The name of a published model, `owner/name`, where a path is one in a Hugging Face cache
/// (`.../models--owner--name/snapshots/COMMIT`), or of the model in this program, where it is the one that was unpacked
/// (`.../shipped-SUM`).
pub fn published_name(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.split(['/', '\\']).filter(|part| !part.is_empty()).collect();
    let of_shipped = parts.last().and_then(|last| last.strip_prefix("shipped-"));
    if of_shipped.is_some_and(|sum| sum.len() == 12 && sum.bytes().all(|b| b.is_ascii_hexdigit())) {
        return Some("shipped".to_owned());
    }
    let [.., repo, "snapshots", _commit] = parts[..] else { return None };
    let name = repo.strip_prefix("models--")?;
    Some(name.replacen("--", "/", 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_the_cache_has_the_models_name() {
        let name = |path| published_name(path);
        let snapshot = "/cache/hub/models--sentence-transformers--all-MiniLM-L6-v2/snapshots/1110a2";
        assert_eq!(name(snapshot).as_deref(), Some("sentence-transformers/all-MiniLM-L6-v2"));
        assert_eq!(name("C:\\hub\\models--a--b--c\\snapshots\\0").as_deref(), Some("a/b--c"));
        assert_eq!(name("hub/models--gpt2/snapshots/0/").as_deref(), Some("gpt2"));
        assert_eq!(name("C:\\cache\\shipped-0123456789ab\\").as_deref(), Some("shipped"));
        assert_eq!(
            [name("shipped-1"), name("runs/shipped-0123456789ag"), name("shipped-0123456789ab/x")],
            [None, None, None]
        );
        assert_eq!([name("runs/trec"), name("x/snapshots/0"), name("")], [None, None, None]);
    }

    #[test]
    fn only_temporary_files_of_ours_that_nobody_writes_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let old = std::time::SystemTime::now() - 2 * LOCKED_AFTER;
        // A killed process's lock is gone with it; its number may be another's by now.
        let me = std::process::id();
        let names = [format!(".lm.tokens.{me}-77.tmp"), ".lm.txt.1-0.tmp".into(), "lm.tokens.1-0.tmp".into()];
        for name in &names {
            File::create(dir.path().join(name)).unwrap().set_modified(old).unwrap();
        }
        let new = dir.path().join(format!(".new.tokens.{me}-78.tmp"));
        fs::write(&new, "").unwrap();
        let writing = AtomicFile::create(&dir.path().join("b.tokens")).unwrap();
        File::open(writing.temporary.path()).unwrap().set_modified(old).ok();
        remove_abandoned(dir.path(), |name| name.ends_with(".tokens"));
        assert!(!dir.path().join(&names[0]).exists());
        assert!(new.exists() && writing.temporary.path().exists());
        assert!(names[1..].iter().all(|name| dir.path().join(name).exists()));
    }

    #[cfg(unix)]
    #[test]
    fn a_device_is_no_file() {
        let device = Path::new("/dev/zero");
        let text = read_regular(device).unwrap_err().to_string();
        assert!(text.contains("/dev/zero: is a pipe, a socket or a device, not a file"), "{text}");
        assert!(open_regular(Path::new("/")).unwrap_err().to_string().contains("is a folder"));
    }

    #[test]
    fn hexadecimal_keeps_leading_zeros() {
        assert_eq!(hex(&[0, 10, 255]), "000aff");
    }

    #[test]
    fn replaces_whole_files_and_leaves_nothing_behind_when_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new folder").join("file");
        write_atomic(&path, b"first").unwrap();
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_with(|w| w.write_all(b"half a seco")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"first");
        drop(file);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        write_atomic(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
    }
}
