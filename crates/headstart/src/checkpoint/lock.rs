//! One writer to a run: a lock on a file that is never replaced or removed while the run is there.
//!
//! Owns: taking the lock. Never: what is written under it.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};

/// The file that is locked. It is empty; only its lock means something.
pub(super) const LOCK_FILE: &str = "run.lock";

/// A lock on a run's folder; it goes with the process, however that ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Locks an existing folder; on file systems without locks it goes unlocked.
    ///
    /// A lock can outlive its holder for a moment: in a process that was just killed, or in a copy of this one that is
    /// about to become another program. So it is tried for up to a second.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when another process holds it, with `busy` as what that process does.
    pub fn take(dir: &Path, busy: &str) -> Result<Self> {
        const TRIES: u32 = 20;
        let path = dir.join(LOCK_FILE);
        for _ in 0..TRIES {
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
            let file = file.map_err(Error::io("open", &path))?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => {}
                // The holder before may have removed the file between our opening it and locking it.
                _ if is_still(&file, &path) => return Ok(Self { _file: file }),
                _ => {}
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(Error::Checkpoint {
            path: dir.to_path_buf(),
            what: format!("another process is {busy}"),
            fix: "wait until it ends or stop it, or choose another folder with --out".into(),
        })
    }
}

/// Whether a process writes to the run in `dir`; `false` where a file system has no locks.
pub(super) fn is_held(dir: &Path) -> bool {
    let held = |file: File| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
    File::open(dir.join(LOCK_FILE)).is_ok_and(held)
}

/// Whether the path still names the open file.
#[cfg(unix)]
fn is_still(file: &File, path: &PathBuf) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |found: std::fs::Metadata| (found.dev(), found.ino());
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(there)) => identity(open) == identity(there),
        _ => false,
    }
}

/// Whether the path still names the open file: an open file cannot be removed there.
#[cfg(not(unix))]
fn is_still(_: &File, path: &PathBuf) -> bool {
    path.exists()
}
