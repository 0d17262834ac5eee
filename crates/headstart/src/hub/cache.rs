//! The Hugging Face cache: one folder a model, files under their ETags, snapshots of links to them, branches as text.
//!
//! Owns: that layout, which `huggingface_hub` and everything built on it share. Never: sums, or the network.
//!
//! ```text
//! models--owner--name/refs/main                     the commit that the branch pointed to
//! models--owner--name/blobs/ETAG                    a file's content
//! models--owner--name/snapshots/COMMIT/config.json  -> ../../blobs/ETAG
//! .locks/models--owner--name/ETAG.lock              held while the content is fetched
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::choose::{is_index, is_weights, needed};
use super::name::is_commit;
use crate::error::{Error, Result};
use crate::files;

/// The longest index of weights that is read: some tens of thousands of tensors.
const MAX_INDEX_BYTES: u64 = 1 << 26;

/// A model's folder in the cache, which need not be there.
#[derive(Debug, Clone)]
pub(super) struct RepoFolder {
    path: PathBuf,
    locks: PathBuf,
}

impl RepoFolder {
    pub fn new(cache: &Path, repo: &str) -> Self {
        let name = folder_name(repo);
        Self { path: cache.join(&name), locks: cache.join(".locks").join(name) }
    }

    /// The folder of a commit's files.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.path.join("snapshots").join(commit)
    }

    /// The commit of a branch, a tag or a commit, as far as it is known without the network.
    pub fn commit_of(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = fs::read_to_string(self.reference(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Writes down where a branch or a tag points to.
    pub fn point(&self, revision: &str, commit: &str) -> Result<()> {
        if is_commit(revision) || self.commit_of(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        // As huggingface_hub writes it: no end of line.
        files::write_atomic(&self.reference(revision), commit.as_bytes())
    }

    fn reference(&self, revision: &str) -> PathBuf {
        self.path.join("refs").join(revision)
    }

    /// Where the content with this ETag lies. Makes the folder.
    pub fn blob(&self, etag: &str) -> Result<PathBuf> {
        make_folder(&self.path.join("blobs")).map(|blobs| blobs.join(etag))
    }

    /// The file that is locked while that content is fetched, by `huggingface_hub`, too. Makes its folder.
    pub fn lock_file(&self, etag: &str) -> Result<PathBuf> {
        make_folder(&self.locks).map(|locks| locks.join(format!("{etag}.lock")))
    }

    /// Puts the content with this ETag into a commit's snapshot under its name.
    pub fn link(&self, etag: &str, commit: &str, file: &str) -> Result<()> {
        let pointer = self.snapshot(commit).join(file);
        // Out of the folders that the file's name has, of the commit's and of `snapshots`.
        let up = "../".repeat(2 + file.matches('/').count());
        place(Path::new(&format!("{up}blobs/{etag}")), &self.blob(etag)?, &pointer, symlink)
    }
}

/// `models--owner--name`.
pub(super) fn folder_name(repo: &str) -> String {
    format!("models--{}", repo.replace('/', "--"))
}

/// Makes `pointer` a link to `target`, or a copy of `blob` where links cannot be made.
fn place(
    target: &Path,
    blob: &Path,
    pointer: &Path,
    link: impl Fn(&Path, &Path) -> io::Result<()>,
) -> Result<()> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let folder = pointer.parent().unwrap_or(pointer);
    make_folder(folder)?;
    let unique = COUNTER.fetch_add(1, Ordering::Relaxed);
    let aside = folder.join(format!(".{}-{unique}.tmp", std::process::id()));
    link(target, &aside)
        .or_else(|_| fs::copy(blob, &aside).map(drop))
        .and_then(|()| fs::rename(&aside, pointer))
        .map_err(|e| {
            // What cannot be used is nobody's.
            let _ = fs::remove_file(&aside);
            Error::io("create", pointer)(e)
        })
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

fn make_folder(path: &Path) -> Result<&Path> {
    fs::create_dir_all(path).map_err(Error::io("create the folder", path))?;
    Ok(path)
}

/// The ETag under which the content of a snapshot's file lies, where that is a link.
pub(super) fn etag_of(pointer: &Path) -> Option<String> {
    let target = fs::read_link(pointer).ok()?;
    Some(target.file_name()?.to_str()?.to_owned())
}

/// The files in a model's folder that are needed, as paths with `/`; empty where configuration or weights are missing.
/// A link to nothing is no file.
pub(super) fn usable_files(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    collect(folder, "", &mut names);
    for module in fs::read_dir(folder).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        collect(&module.path(), &format!("{}/", module.file_name().to_string_lossy()), &mut names);
    }
    names.sort_unstable();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let needed = needed(&names);
    let has_weights = needed.iter().any(|name| is_weights(name));
    let config = needed.iter().any(|name| name.rsplit('/').next() == Some("config.json"));
    let whole = needed.iter().filter(|name| is_index(name)).all(|index| parts_are_there(folder, index));
    if !(has_weights && config && whole) {
        return Vec::new();
    }
    needed.iter().map(|name| (*name).to_owned()).collect()
}

fn collect(folder: &Path, prefix: &str, names: &mut Vec<String>) {
    let files = fs::read_dir(folder).into_iter().flatten().flatten().filter(|entry| entry.path().is_file());
    names.extend(files.map(|entry| format!("{prefix}{}", entry.file_name().to_string_lossy())));
}

/// Whether all parts of the weights that an index names are there.
fn parts_are_there(folder: &Path, index: &str) -> bool {
    let path = folder.join(index);
    if fs::metadata(&path).is_ok_and(|m| m.len() > MAX_INDEX_BYTES) {
        return false;
    }
    let Ok(text) = fs::read_to_string(&path) else { return false };
    let Ok(index) = serde_json::from_str::<serde_json::Value>(&text) else { return false };
    let Some(map) = index.get("weight_map").and_then(serde_json::Value::as_object) else { return false };
    let parts: BTreeSet<Option<&str>> = map.values().map(serde_json::Value::as_str).collect();
    let beside = path.parent().unwrap_or(folder);
    let is_name =
        |part: &&str| matches!(Path::new(part).components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
    !parts.is_empty()
        && parts.iter().all(|part| part.filter(is_name).is_some_and(|part| beside.join(part).is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_copied_where_links_cannot_be_made() {
        let dir = tempfile::tempdir().unwrap();
        let (blob, pointer) = (dir.path().join("blob"), dir.path().join("snapshots/x/file"));
        fs::write(&blob, "content").unwrap();
        let refuse = |_: &Path, _: &Path| Err(io::ErrorKind::PermissionDenied.into());
        place(Path::new("../../blob"), &blob, &pointer, refuse).unwrap();
        assert_eq!(fs::read_to_string(&pointer).unwrap(), "content");
        assert!(fs::read_link(&pointer).is_err());
        place(Path::new("../../blob"), &blob, &pointer, symlink).unwrap();
        assert_eq!(fs::read_to_string(&pointer).unwrap(), "content");
        assert_eq!(fs::read_dir(pointer.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn an_index_without_its_parts_is_no_model() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &str| fs::write(dir.path().join(name), content).unwrap();
        write("config.json", "{}");
        assert!(usable_files(dir.path()).is_empty());
        let index = r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;
        write("model.safetensors.index.json", index);
        write("model-1.safetensors", "");
        assert!(usable_files(dir.path()).is_empty());
        write("model-2.safetensors", "");
        assert_eq!(usable_files(dir.path()).len(), 4);
        for wrong in
            [r#"{"weight_map": {"a": "../model-1.safetensors"}}"#, "{}", "no JSON", r#"{"weight_map": {}}"#]
        {
            write("model.safetensors.index.json", wrong);
            assert!(usable_files(dir.path()).is_empty(), "{wrong}");
        }
    }
}
