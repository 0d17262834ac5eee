//! Files and folders that this process is writing under temporary names, and how a process ends without them.
//!
//! Owns: the list of them. Never: their content, or what a process that was killed has left.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::Result;

/// All of them.
static LIST: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// The list is whole between two statements, so one that a panic let go is as good as any.
fn list() -> MutexGuard<'static, Vec<PathBuf>> {
    LIST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What keeps everything unfinished so.
#[must_use = "dropped, it lets files be finished again"]
pub struct NothingUnfinished(
    #[expect(dead_code, reason = "it is held, not read")] MutexGuard<'static, Vec<PathBuf>>,
);

/// Removes what is not finished, for a process that ends now: while the result lives nothing new is begun, and nothing put in its
/// place, so that no file is there by half.
pub fn remove_unfinished() -> NothingUnfinished {
    let list = list();
    for path in &*list {
        let _ = remove(path);
    }
    NothingUnfinished(list)
}

/// A file or folder under a temporary name. Dropped before [`Unfinished::finish`] has succeeded it is removed.
#[derive(Debug)]
pub(crate) struct Unfinished {
    path: PathBuf,
}

impl Unfinished {
    /// Makes it by `make`.
    pub fn new<T>(path: PathBuf, make: impl FnOnce(&Path) -> Result<T>) -> Result<(Self, T)> {
        let mut list = list();
        let made = make(&path)?;
        list.push(path.clone());
        Ok((Self { path }, made))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its own name by `place`.
    pub fn finish(&self, place: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut list = list();
        place()?;
        list.retain(|path| *path != self.path);
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let mut list = list();
        if let Some(at) = list.iter().position(|path| *path == self.path) {
            list.swap_remove(at);
            let _ = remove(&self.path);
        }
    }
}

/// Removes a file, or a folder with all it has, if it is there.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}
