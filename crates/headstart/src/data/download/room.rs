//! Whether a disk has room for what is about to be downloaded, asked before the first byte.
//!
//! Owns: the question and its error. Never: downloads.

use std::path::Path;

use headstart_engine::disk_space::available_bytes;

use crate::error::{Error, Result};

/// Checks that the disk of a folder, or of the nearest one above it that exists, has room for so many bytes from `url`. Where the
/// system does not say how much is free, there is.
///
/// # Errors
/// [`Error::Download`] with both numbers.
pub fn check_room(url: &str, folder: &Path, bytes: u64) -> Result<()> {
    let is_there = |folder: &&Path| folder.as_os_str().is_empty() || folder.exists();
    let existing = folder.ancestors().find(is_there).unwrap_or(folder);
    let existing = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
    check(url, folder, bytes, available_bytes(existing))
}

fn check(url: &str, folder: &Path, bytes: u64, free: Option<u64>) -> Result<()> {
    let Some(free) = free.filter(|free| *free < bytes) else { return Ok(()) };
    let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    Err(Error::Download {
        url: url.to_owned(),
        what: format!(
            "it takes {}, and the disk of {} has {} free",
            megabytes(bytes),
            folder.display(),
            megabytes(free)
        ),
        fix: "make room there, or name a folder on another disk (data sets: --cache_dir; models: HF_HOME)"
            .into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_both_numbers() {
        let folder = Path::new("/models");
        check("http://a/b", folder, 90_868_376, Some(90_868_376)).unwrap();
        check("http://a/b", folder, u64::MAX, None).unwrap();
        let error = check("http://a/b", folder, 90_868_376, Some(1_250_000)).unwrap_err().to_string();
        assert!(
            error.contains("http://a/b: it takes 90.9 MB, and the disk of /models has 1.2 MB free"),
            "{error}"
        );
    }

    #[test]
    fn a_folder_that_is_yet_to_be_made_is_on_the_disk_of_those_above_it() {
        let dir = tempfile::tempdir().unwrap();
        for folder in [dir.path().join("a/b/c").as_path(), Path::new("not/here/yet")] {
            check_room("u", folder, 1).unwrap();
            let asked = check_room("u", folder, 1 << 62);
            assert_eq!(asked.is_err(), cfg!(unix));
        }
    }
}
