//! Writing files so that a reader sees the whole new file or none of it.
//!
//! Owns: the temporary name, the flush to disk, the rename; how checksums are written. Never: decides what is written or where.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// A file being written under a temporary name beside its destination.
///
/// Dropped without [`AtomicFile::commit`] it leaves nothing behind.
#[derive(Debug)]
pub struct AtomicFile {
    // Both are `None` only after `commit` has taken them.
    writer: Option<BufWriter<File>>,
    temporary: PathBuf,
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
        let file = File::create(&temporary).map_err(Error::io("create", &temporary))?;
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
        fs::rename(&self.temporary, &self.destination).map_err(Error::io("write", &self.destination))?;
        // The rename itself is durable only once the folder is; some file systems refuse this, harmlessly.
        if let Ok(folder) = File::open(parent(&self.destination)) {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        // After a commit the temporary name no longer exists and this does nothing.
        let _ = fs::remove_file(&self.temporary);
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

/// Bytes as lower-case hexadecimal, as checksums are written.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
