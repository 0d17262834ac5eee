//! A lock between processes that fetch the same thing.
//!
//! Owns: waiting for it so that the watcher can end the wait. Never: what is done under it.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::{OnProgress, Progress, Stage};
use crate::error::{Error, Result};

/// Between two tries to lock what another process fetches.
const WAIT_FOR_LOCK: Duration = Duration::from_millis(200);

/// Waits until no other process fetches what is called `name`. The operating system frees the lock of a killed process.
///
/// # Errors
/// [`Error::Io`] when the file cannot be made or locked; [`Error::Interrupted`] when the watcher ends the wait.
pub fn lock(path: &Path, name: &str, on_progress: &mut OnProgress<'_>) -> Result<File> {
    let file = File::create(path).map_err(Error::io("create", path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            // To be asked again and again is to hear a signal, which a call that waits does not.
            while let Err(TryLockError::WouldBlock) = file.try_lock() {
                let progress =
                    Progress { stage: Stage::Waiting, file: name, done_bytes: 0, total_bytes: None };
                on_progress(progress).or_interrupted(&format!("waiting for {name}"))?;
                thread::sleep(WAIT_FOR_LOCK);
            }
            Ok(file)
        }
        // Some network file systems have no locks; a single user does without.
        Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => Ok(file),
        Err(TryLockError::Error(e)) => Err(Error::io("lock", path)(e)),
    }
}
