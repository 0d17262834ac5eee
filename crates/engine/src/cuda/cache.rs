//! Compiled kernels: made by NVRTC at first use, kept on disk between runs.
//!
//! Owns: the compiler's options, the key and the layout of a cached file. Never: loads or launches anything.
//!
//! A file is named by the hash of all that decides its content and starts with the hash of the content itself, so
//! a damaged or truncated one is noticed and made again. It is written beside its place and renamed.

use std::ffi::{CStr, CString};
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::driver;
use crate::error::EngineError;

const MARK: &[u8; 8] = b"HSCUBIN1";

/// The compiler for one architecture, and where its results are kept.
#[derive(Debug)]
pub(super) struct Cubins {
    options: Vec<CString>,
    version: (i32, i32),
    folder: Option<PathBuf>,
}

impl Cubins {
    pub(super) fn new(capability: (i32, i32), folder: Option<PathBuf>) -> Result<Self, EngineError> {
        let (major, minor) = capability;
        // `a`: the instructions that only this architecture has.
        let suffix = if capability == (9, 0) { "a" } else { "" };
        let options = [format!("--gpu-architecture=sm_{major}{minor}{suffix}"), "--std=c++17".into()]
            .into_iter()
            .filter_map(|option| CString::new(option).ok())
            .collect();
        Ok(Self { options, version: driver::compiler_version()?, folder })
    }

    /// The machine code of a source, from disk or from the compiler.
    pub(super) fn get(&self, source: &CStr, name: &str) -> Result<Vec<u8>, EngineError> {
        let path = self.folder.as_ref().map(|folder| folder.join(self.file_name(source, name)));
        if let Some(cubin) = path.as_deref().and_then(read) {
            return Ok(cubin);
        }
        let file = CString::new(format!("{name}.cu")).unwrap_or_default();
        let cubin = driver::compile(source, &file, &self.options)?;
        if let Some(path) = path {
            // Without a cache the next run compiles again; nothing is lost.
            let _: std::io::Result<()> = write(&path, &cubin);
        }
        Ok(cubin)
    }

    fn file_name(&self, source: &CStr, name: &str) -> String {
        let mut hash = Sha256::new();
        hash.update(MARK);
        hash.update(self.version.0.to_le_bytes());
        hash.update(self.version.1.to_le_bytes());
        for option in &self.options {
            hash.update(option.as_bytes_with_nul());
        }
        hash.update(source.to_bytes());
        let key: String = hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        format!("{name}-{key}.cubin")
    }
}

/// A cached file's content; `None` when it is absent or damaged.
fn read(path: &Path) -> Option<Vec<u8>> {
    let bytes = fs::read(path).ok()?;
    let rest = bytes.strip_prefix(MARK)?;
    let (hash, cubin) = rest.split_at_checked(32)?;
    (Sha256::digest(cubin).as_slice() == hash).then(|| cubin.to_vec())
}

fn write(path: &Path, cubin: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let beside = path.with_extension(format!("{}.part", std::process::id()));
    let mut bytes = MARK.to_vec();
    bytes.extend_from_slice(&Sha256::digest(cubin));
    bytes.extend_from_slice(cubin);
    fs::write(&beside, bytes)?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_not_believed() {
        let folder = std::env::temp_dir().join(format!("headstart-cubins-{}", std::process::id()));
        let path = folder.join("deep").join("a.cubin");
        assert_eq!(read(&path), None);
        write(&path, b"machine code").unwrap();
        assert_eq!(read(&path).as_deref(), Some(b"machine code".as_slice()));
        let whole = fs::read(&path).unwrap();
        for damage in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[damage] ^= 1;
            fs::write(&path, &bytes).unwrap();
            assert_eq!(read(&path), None, "byte {damage}");
            fs::write(&path, &whole[..damage]).unwrap();
            assert_eq!(read(&path), None, "cut at {damage}");
        }
        fs::remove_dir_all(folder).unwrap();
    }
}
