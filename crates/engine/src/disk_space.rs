//! What a file system has free.
//!
//! Owns: the system's call for it, which is unsafe. Never: decides what is enough.

use std::path::Path;

/// Bytes that a program without privileges can still write to the file system of an existing file or folder; `None` where the
/// system does not say.
pub fn available_bytes(path: &Path) -> Option<u64> {
    system::available_bytes(path)
}

#[cfg(unix)]
mod system {
    use std::ffi::CString;
    use std::mem::MaybeUninit;
    use std::os::unix::ffi::OsStrExt as _;
    use std::path::Path;

    #[allow(
        clippy::useless_conversion,
        clippy::unnecessary_cast,
        reason = "the fields have other types on other systems"
    )]
    pub fn available_bytes(path: &Path) -> Option<u64> {
        let path = CString::new(path.as_os_str().as_bytes()).ok()?;
        let mut found = MaybeUninit::<libc::statvfs>::zeroed();
        // SAFETY: the path ends with a zero and lives through the call, which writes nothing but the structure that is passed,
        // which is of its type; all zeros are one of its values.
        let found = unsafe {
            if libc::statvfs(path.as_ptr(), found.as_mut_ptr()) != 0 {
                return None;
            }
            found.assume_init()
        };
        // One without blocks does not count them (some that are mounted over a network).
        (found.f_blocks > 0).then(|| (found.f_bavail as u64).saturating_mul(found.f_frsize as u64))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_folder_has_room_and_nowhere_has_none() {
            assert!(
                available_bytes(Path::new(env!("CARGO_MANIFEST_DIR"))).is_some_and(|bytes| bytes < 1 << 60)
            );
            assert_eq!(available_bytes(Path::new("/nowhere at all")), None);
            assert_eq!(available_bytes(Path::new("a\0b")), None);
        }
    }
}

#[cfg(not(unix))]
mod system {
    use std::path::Path;

    pub fn available_bytes(_: &Path) -> Option<u64> {
        None
    }
}
