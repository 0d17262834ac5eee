//! Token ids on disk: made once, mapped afterwards.
//!
//! Owns: the key (content of data and tokenizer, options), the file format, the checksum, the atomic write. Never:
//! knows what the ids mean. A damaged file is as good as none: it is made again.
//!
//! The format, in the machine's own byte order: magic `u64`, number of ids `u64`, length of the metadata `u64`,
//! CRC-32C of ids and metadata `u32`, zero `u32`, the key (32 bytes); the ids as `u32`; the metadata as JSON.

use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use headstart_engine::FileMap;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::event::Signal;
use crate::files::{self, AtomicFile};

/// Goes up with every change of the format or of how text becomes ids, so that older files are never used.
const FORMAT_VERSION: u32 = 1;
/// "HEADTOK" and a byte that a machine of the other byte order would see at the other end.
const MAGIC: u64 = u64::from_be_bytes(*b"HEADTOK\x01");
const HEADER_BYTES: usize = 64;
/// Blocks of 1 MiB between two looks at the watcher.
const HASHED_BLOCKS: u64 = 64;

/// Called with bytes done and bytes in all while text is read and tokenised, several times a second; says whether to go on.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> Signal;

/// Ends the work where the watcher says so.
pub(super) fn go_on(progress: Progress<'_>, done: u64, total: u64) -> Result<()> {
    progress(done, total).or_interrupted("preparing the text")
}

/// Whether the ids had to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheUse {
    /// They were in the cache.
    Hit,
    /// They were not, and are now.
    Built,
    /// They were there but damaged, and were made again.
    Rebuilt,
    /// They are in memory only.
    Memory,
}

impl CacheUse {
    /// What people are told of it behind a count of tokens; nothing where it is as expected.
    pub fn note(self) -> &'static str {
        match self {
            Self::Hit => " from the cache",
            Self::Rebuilt => ", made again: the cache was damaged",
            Self::Built | Self::Memory => "",
        }
    }
}

/// What a cache file is found by: equal keys mean equal ids.
#[derive(Debug, Clone)]
pub struct CacheKey {
    kind: &'static str,
    hash: Sha256,
}

impl CacheKey {
    /// A key for a kind of content; the kind is also the start of the file's name.
    pub fn new(kind: &'static str) -> Self {
        let key = Self { kind, hash: Sha256::new() };
        key.with(kind.as_bytes()).with(&FORMAT_VERSION.to_le_bytes())
    }

    /// The key with one more thing that the ids depend on.
    #[must_use]
    pub fn with(mut self, part: &[u8]) -> Self {
        // With its length, so that "ab" + "c" and "a" + "bc" differ.
        self.hash.update((part.len() as u64).to_le_bytes());
        self.hash.update(part);
        self
    }

    /// The key with the content of a file.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read, [`Error::BadInput`] when it is none, [`Error::Interrupted`].
    pub fn with_file(self, path: &Path, progress: Progress<'_>) -> Result<Self> {
        let mut file = files::open_regular(path)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        for blocks in 1_u64.. {
            match file.read(&mut buffer).map_err(Error::io("read", path))? {
                0 => break,
                n => hash.update(&buffer[..n]),
            }
            if blocks % HASHED_BLOCKS == 0 {
                go_on(progress, 0, 0)?;
            }
        }
        Ok(self.with(&hash.finalize()))
    }

    fn digest(&self) -> [u8; 32] {
        self.hash.clone().finalize().into()
    }

    fn file_name(&self) -> String {
        format!("{}-{}.tokens", self.kind, files::hex(&self.digest()[..16]))
    }
}

/// Token ids, in memory or mapped from a cache file.
#[derive(Debug)]
pub struct TokenStore(Ids);

#[derive(Debug)]
enum Ids {
    Memory(Vec<u32>),
    Mapped { map: FileMap, bytes: Range<usize> },
}

impl TokenStore {
    /// Ids in memory.
    pub fn from_vec(ids: Vec<u32>) -> Self {
        Self(Ids::Memory(ids))
    }

    /// The ids.
    pub fn ids(&self) -> &[u32] {
        match &self.0 {
            Ids::Memory(ids) => ids,
            // The map starts on a page and the header is 64 bytes, which `open` has made sure of.
            Ids::Mapped { map, bytes } => bytemuck::try_cast_slice(&map[bytes.clone()]).unwrap_or_default(),
        }
    }
}

/// Where the ids of a cache file being made go.
#[derive(Debug)]
pub struct CacheWriter {
    file: AtomicFile,
    count: u64,
    crc: u32,
}

impl CacheWriter {
    /// Appends ids.
    ///
    /// # Errors
    /// [`Error::Io`] when they cannot be written (a full disk).
    pub fn append(&mut self, ids: &[u32]) -> Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(ids);
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.count += ids.len() as u64;
        self.file.write_with(|w| w.write_all(bytes))
    }

    fn finish(mut self, key: &CacheKey, metadata: &[u8]) -> Result<()> {
        let mut header = Vec::with_capacity(HEADER_BYTES);
        for number in [MAGIC, self.count, metadata.len() as u64] {
            header.extend_from_slice(&number.to_ne_bytes());
        }
        header.extend_from_slice(&crc32c::crc32c_append(self.crc, metadata).to_ne_bytes());
        header.extend_from_slice(&[0; 4]);
        header.extend_from_slice(&key.digest());
        self.file.write_with(|w| {
            w.write_all(metadata)?;
            w.seek(SeekFrom::Start(0))?;
            w.write_all(&header)
        })?;
        self.file.commit()
    }
}

/// The ids and metadata under `key`: from the cache folder where they are as `sound` wants them, or made by `build` and
/// put there.
///
/// Several runs may do this at the same time: each writes a file of its own and renames it into place.
///
/// # Errors
/// Whatever `build` reports; [`Error::Io`] when the cache folder cannot be written;
/// [`Error::Engine`] when the finished file cannot be mapped.
pub fn load_or_build<M: Serialize + DeserializeOwned>(
    folder: &Path,
    key: &CacheKey,
    sound: impl Fn(&[u32], &M) -> bool,
    build: impl FnOnce(&mut CacheWriter) -> Result<M>,
) -> Result<(TokenStore, M, CacheUse)> {
    let path = folder.join(key.file_name());
    files::remove_abandoned(folder, |name| name.ends_with(".tokens"));
    let existed = path.exists();
    if existed
        && let Some((store, metadata)) = open(&path, key)?
        && sound(store.ids(), &metadata)
    {
        return Ok((store, metadata, CacheUse::Hit));
    }
    let mut writer = CacheWriter { file: AtomicFile::create(&path)?, count: 0, crc: 0 };
    writer.file.write_with(|w| w.write_all(&[0; HEADER_BYTES]))?;
    let metadata = build(&mut writer)?;
    let metadata = serde_json::to_vec(&metadata).map_err(|e| Error::io("write", &path)(e.into()))?;
    writer.finish(key, &metadata)?;
    match open(&path, key)? {
        Some((store, metadata)) if existed => Ok((store, metadata, CacheUse::Rebuilt)),
        Some((store, metadata)) => Ok((store, metadata, CacheUse::Built)),
        None => Err(Error::BadInput {
            path,
            line: None,
            what: "the token cache reads back differently from how it was written".into(),
            fix: "check the disk, or put the cache on another one".into(),
        }),
    }
}

/// Opens a cache file; `None` when it is damaged or holds something else.
fn open<M: DeserializeOwned>(path: &Path, key: &CacheKey) -> Result<Option<(TokenStore, M)>> {
    let map = FileMap::open(path)?;
    let Some(bytes) = check(&map, key) else { return Ok(None) };
    let Ok(metadata) = serde_json::from_slice(&map[bytes.end..]) else { return Ok(None) };
    Ok(Some((TokenStore(Ids::Mapped { map, bytes }), metadata)))
}

/// Where the ids lie, when header, lengths, key and checksum agree.
fn check(file: &[u8], key: &CacheKey) -> Option<Range<usize>> {
    let number = |at: usize| Some(u64::from_ne_bytes(file.get(at..at + 8)?.try_into().ok()?));
    let (count, metadata) = (number(8)?, number(16)?);
    let end = count.checked_mul(4)?.checked_add(HEADER_BYTES as u64)?;
    let right_length = end.checked_add(metadata)? == file.len() as u64;
    if number(0)? != MAGIC || !right_length || file.get(32..HEADER_BYTES)? != key.digest() {
        return None;
    }
    let crc = u32::from_ne_bytes(file.get(24..28)?.try_into().ok()?);
    let ids = HEADER_BYTES..end as usize;
    let sound = crc32c::crc32c(&file[HEADER_BYTES..]) == crc
        && bytemuck::try_cast_slice::<u8, u32>(&file[ids.clone()]).is_ok();
    sound.then_some(ids)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn load(folder: &Path, key: &CacheKey, ids: &[u32]) -> (Vec<u32>, String, CacheUse) {
        let build = |w: &mut CacheWriter| {
            for part in ids.chunks(3) {
                w.append(part)?;
            }
            Ok("made".to_owned())
        };
        let (store, metadata, usage) =
            load_or_build::<String>(folder, key, |ids, _| ids.iter().all(|&id| id < 1000), build).unwrap();
        (store.ids().to_vec(), metadata, usage)
    }

    #[test]
    fn the_second_time_nothing_is_built() {
        let dir = tempfile::tempdir().unwrap();
        let key = CacheKey::new("test").with(b"data");
        let ids: Vec<u32> = (0..1000).collect();
        assert_eq!(load(dir.path(), &key, &ids), (ids.clone(), "made".into(), CacheUse::Built));
        assert_eq!(load(dir.path(), &key, &[]), (ids, "made".into(), CacheUse::Hit));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn keys_differ_by_every_part() {
        let key = |a: &[u8], b: &[u8]| CacheKey::new("test").with(a).with(b).file_name();
        assert_ne!(key(b"ab", b"c"), key(b"a", b"bc"));
        assert_ne!(CacheKey::new("x").digest(), CacheKey::new("y").digest());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        fs::write(&path, "one").unwrap();
        let before = CacheKey::new("test").with_file(&path, &mut |_, _| Signal::Continue).unwrap().digest();
        fs::write(&path, "two").unwrap();
        assert_ne!(
            CacheKey::new("test").with_file(&path, &mut |_, _| Signal::Continue).unwrap().digest(),
            before
        );
    }

    #[test]
    fn damage_anywhere_is_noticed_and_mended() {
        let dir = tempfile::tempdir().unwrap();
        let key = CacheKey::new("test").with(b"data");
        let ids: Vec<u32> = (7..20).collect();
        load(dir.path(), &key, &ids);
        let path = dir.path().join(key.file_name());
        let sound = fs::read(&path).unwrap();
        for at in (0..sound.len()).filter(|at| !(28..32).contains(at)) {
            let mut bytes = sound.clone();
            bytes[at] ^= 0x10;
            fs::write(&path, bytes).unwrap();
            assert_eq!(load(dir.path(), &key, &ids).2, CacheUse::Rebuilt, "byte {at}");
        }
        for length in [0, 5, HEADER_BYTES, sound.len() - 1] {
            fs::write(&path, &sound[..length]).unwrap();
            assert_eq!(load(dir.path(), &key, &ids), (ids.clone(), "made".into(), CacheUse::Rebuilt));
        }
    }

    #[test]
    fn ids_that_nobody_can_use_are_made_again_whatever_their_sum() {
        let dir = tempfile::tempdir().unwrap();
        let key = CacheKey::new("test");
        let mut writer = CacheWriter {
            file: AtomicFile::create(&dir.path().join(key.file_name())).unwrap(),
            count: 0,
            crc: 0,
        };
        writer.file.write_with(|w| w.write_all(&[0; HEADER_BYTES])).unwrap();
        writer.append(&[1, 1000]).unwrap();
        writer.finish(&key, b"\"made\"").unwrap();
        assert_eq!(load(dir.path(), &key, &[1, 2]), (vec![1, 2], "made".into(), CacheUse::Rebuilt));
    }

    #[test]
    fn a_failed_build_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let key = CacheKey::new("test");
        let fail = |w: &mut CacheWriter| -> Result<()> {
            w.append(&[1, 2, 3])?;
            Err(crate::data::encoding::empty(Path::new("text.txt")))
        };
        assert!(load_or_build::<()>(dir.path(), &key, |_, ()| true, fail).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn runs_at_the_same_time_do_not_disturb_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let key = CacheKey::new("test").with(b"data");
        let ids: Vec<u32> = (0..50_000).collect();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert_eq!(load(dir.path(), &key, &ids).0, ids));
            }
        });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
