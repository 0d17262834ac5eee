//! Files and folders that are there completely or not at all, and know when they were altered.
//!
//! Owns: temporary names, flushing to disk, renames, putting interruptions right. Never: knows what is in them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files::{self, FileSum, SummedFile, Unfinished, cannot_write, damaged, parent, sync_folder};

/// Before the name of what is being written or removed.
const PARTIAL: &str = ".partial-";
/// Before the name of what is being replaced.
const OLD: &str = ".old-";

/// Reads a small file; a missing one is a damaged folder.
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => damaged(path, "is missing"),
        _ => Error::io("read", path)(source),
    })
}

/// Writes a whole file and waits until it is on the disk.
pub(super) fn write_file(path: &Path, content: &[u8]) -> Result<FileSum> {
    let write = || {
        let mut file = SummedFile::create(path)?;
        file.write(content)?;
        file.finish()
    };
    write().map_err(cannot_write(path))
}

/// Writes a file so that a reader sees all of the old one or all of the new one.
pub(super) fn replace_file(path: &Path, content: &[u8]) -> Result<()> {
    let partial = beside(PARTIAL, path);
    write_file(&partial, content)?;
    fs::rename(&partial, path).map_err(cannot_write(path))?;
    sync_folder(parent(path))
}

/// A folder being written under a temporary name. Dropped without [`NewFolder::commit`] it is removed.
pub(super) struct NewFolder {
    partial: Unfinished,
    target: PathBuf,
}

impl NewFolder {
    /// Starts the folder `target`; its parent exists.
    pub fn create(target: &Path) -> Result<Self> {
        let partial = beside(PARTIAL, target);
        remove(&partial)?;
        let (partial, ()) =
            Unfinished::new(partial, |path| fs::create_dir(path).map_err(cannot_write(path)))?;
        Ok(Self { partial, target: target.to_path_buf() })
    }

    /// Where the files go.
    pub fn path(&self) -> &Path {
        self.partial.path()
    }

    /// Puts the folder in its place, instead of an older one of its name.
    pub fn commit(self) -> Result<()> {
        sync_folder(self.path())?;
        let old = beside(OLD, &self.target);
        let replaces = self.target.is_dir();
        if replaces {
            remove(&old)?;
        }
        self.partial.finish(|| {
            if replaces {
                fs::rename(&self.target, &old).map_err(cannot_write(&self.target))?;
            }
            fs::rename(self.path(), &self.target).map_err(|source| {
                if replaces {
                    // As good as it gets: the next start tries the same.
                    let _ = fs::rename(&old, &self.target);
                }
                cannot_write(&self.target)(source)
            })
        })?;
        sync_folder(parent(&self.target))?;
        remove(&old)
    }
}

/// Removes a folder such that an interruption leaves no half of it under its own name.
pub(super) fn remove_folder(path: &Path) -> Result<()> {
    let partial = beside(PARTIAL, path);
    remove(&partial)?;
    fs::rename(path, &partial).map_err(Error::io("remove", path))?;
    remove(&partial)
}

/// Puts right what interruptions left in `folder` of the files and folders whose name is `ours`.
pub(super) fn recover(folder: &Path, ours: impl Fn(&str) -> bool) -> Result<()> {
    for name in names(folder)? {
        let path = folder.join(&name);
        if name.strip_prefix(PARTIAL).is_some_and(&ours) {
            remove(&path)?;
        }
        if let Some(target) = name.strip_prefix(OLD).filter(|name| ours(name)).map(|name| folder.join(name)) {
            if target.exists() {
                remove(&path)?;
            } else {
                fs::rename(&path, &target).map_err(Error::io("restore", &target))?;
            }
        }
    }
    Ok(())
}

/// The names in a folder, sorted; none when there is no such folder. Names that are not Unicode are not ours.
pub(super) fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io("list", folder))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io("list", folder))?;
        names.extend(entry.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

/// Removes a file or a folder with all it has, if it is there.
fn remove(path: &Path) -> Result<()> {
    files::remove(path).map_err(Error::io("remove", path))
}

fn beside(prefix: &str, path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(prefix);
    name.push(path.file_name().unwrap_or_default());
    path.with_file_name(name)
}
