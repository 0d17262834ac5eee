//! A safe, read-only file map. Owns the one `unsafe` that mapping needs. Never: parses what it maps.

use std::fs::File;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use crate::error::EngineError;

/// The bytes of a file, mapped read-only; cheap to clone.
///
/// The caller keeps the file from changing underneath (Headstart only maps files it wrote itself under a
/// content-addressed name and renamed into place, and model weights).
#[derive(Clone, Debug)]
pub struct FileMap(Option<Arc<memmap2::Mmap>>);

impl FileMap {
    /// Maps the whole of `path`. An empty file maps to no bytes.
    ///
    /// # Errors
    /// [`EngineError::Map`] when the file cannot be opened or mapped.
    pub fn open(path: &Path) -> Result<Self, EngineError> {
        let fail = |source| EngineError::Map { path: path.to_path_buf(), source };
        let file = File::open(path).map_err(fail)?;
        if file.metadata().map_err(fail)?.len() == 0 {
            return Ok(Self(None));
        }
        // SAFETY: the map is read-only and private to this process; see the type's note on who may write.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(fail)?;
        Ok(Self(Some(Arc::new(map))))
    }
}

impl Deref for FileMap {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |map| &map[..])
    }
}
