//! Unpacks zip and tar.gz archives into a folder.
//!
//! Owns: the rule that nothing an archive says can reach outside that folder: no `..`, no absolute path, no link.
//! Never: decides where the folder lies, or replaces anything.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use flate2::read::GzDecoder;

use super::{OnProgress, Progress, Stage};
use crate::error::{Error, Result};
use crate::files;

/// What an archive may unpack to, whatever its size, and for each of its own bytes. Text shrinks to a fifth, at times to
/// a twentieth; what shrinks to a thousandth is made to fill disks.
const UNPACKED_BYTES: u64 = 16 << 20;
const UNPACKED_RATIO: u64 = 100;

/// How a downloaded file holds its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A zip archive.
    Zip,
    /// A gzip-compressed tar archive.
    TarGz,
    /// The file is the content.
    Plain,
}

impl Format {
    /// What the end of a file's name says.
    pub fn of_name(name: &str) -> Self {
        let name = name.to_ascii_lowercase();
        let ends_with = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
        if ends_with(&[".zip"]) {
            Self::Zip
        } else if ends_with(&[".tar.gz", ".tgz"]) {
            Self::TarGz
        } else {
            Self::Plain
        }
    }
}

/// Unpacks `archive` into the folder `into`, which exists and is the caller's to throw away on failure; a
/// [`Format::Plain`] file is copied there under its own name.
///
/// # Errors
/// [`Error::BadInput`] when the archive is damaged or holds a path that leads out of the folder, a link or
/// something else that is no file; [`Error::Io`] when the disk refuses.
pub fn unpack(archive: &Path, format: Format, into: &Path, on_progress: &mut OnProgress<'_>) -> Result<()> {
    let mut writer = Writer {
        archive,
        into,
        name: archive.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
        done_bytes: 0,
        total_bytes: None,
        most_bytes: UNPACKED_BYTES,
        seen: HashSet::new(),
        on_progress,
    };
    let file = files::open_regular(archive)?;
    let size = file.metadata().map_err(Error::io("read", archive))?.len();
    writer.most_bytes = size.saturating_mul(UNPACKED_RATIO).saturating_add(UNPACKED_BYTES);
    match format {
        Format::Zip => unpack_zip(file, &mut writer),
        Format::TarGz => unpack_tar(GzDecoder::new(BufReader::new(file)), &mut writer),
        Format::Plain => {
            let name = writer.name.clone();
            writer.write_file(&name, file)
        }
    }
}

fn unpack_zip(file: File, writer: &mut Writer<'_, '_>) -> Result<()> {
    let damaged =
        |archive: &Path, e: &dyn std::fmt::Display| bad_archive(archive, format!("damaged zip: {e}"));
    let archive = writer.archive;
    let mut directory = BufReader::new(file.try_clone().map_err(Error::io("read", archive))?);
    let mut zip = zip::ZipArchive::new(BufReader::new(file)).map_err(|e| damaged(archive, &e))?;
    // The library takes the last of several entries of one name, others take the first.
    let entries = count_entries(&mut directory, zip.central_directory_start());
    if entries.map_err(|e| damaged(archive, &e))? > zip.len() {
        return Err(bad_archive(archive, "two of its entries have the same name".into()));
    }
    writer.total_bytes = zip.decompressed_size().and_then(|size| u64::try_from(size).ok());
    for index in 0..zip.len() {
        let item = zip.by_index(index).map_err(|e| damaged(archive, &e))?;
        let name = item.name().map_err(|e| damaged(archive, &e))?.into_owned();
        if item.is_symlink() {
            return Err(bad_archive(archive, format!("`{name}` is a link")));
        }
        if item.is_dir() {
            writer.make_folder(&name)?;
        } else {
            writer.write_file(&name, item)?;
        }
    }
    Ok(())
}

/// The entries of a zip's central directory, which begins at byte `start`.
fn count_entries(zip: &mut BufReader<File>, start: u64) -> io::Result<usize> {
    let mut entries = 0;
    zip.seek(SeekFrom::Start(start))?;
    loop {
        let mut head = [0; 46];
        if zip.read_exact(&mut head).is_err() || !head.starts_with(b"PK\x01\x02") {
            return Ok(entries);
        }
        let length = |at: usize| i64::from(u16::from_le_bytes([head[at], head[at + 1]]));
        zip.seek_relative(length(28) + length(30) + length(32))?;
        entries += 1;
    }
}

fn unpack_tar(reader: impl Read, writer: &mut Writer<'_, '_>) -> Result<()> {
    let archive = writer.archive;
    let damaged = |e: &io::Error| bad_archive(archive, format!("damaged tar.gz: {e}"));
    let mut tar = tar::Archive::new(reader);
    for item in tar.entries().map_err(|e| damaged(&e))? {
        let item = item.map_err(|e| damaged(&e))?;
        let name = String::from_utf8_lossy(&item.path_bytes()).into_owned();
        match item.header().entry_type() {
            tar::EntryType::Directory => writer.make_folder(&name)?,
            tar::EntryType::Regular | tar::EntryType::Continuous => writer.write_file(&name, item)?,
            // Global headers carry comments of the archiver's, nothing to unpack.
            tar::EntryType::XGlobalHeader => {}
            kind => return Err(bad_archive(archive, format!("`{name}` is no file or folder but {kind:?}"))),
        }
    }
    // The tar ends before the gzip stream does, whose last bytes are its checksum.
    let mut rest = tar.into_inner();
    let (mut buffer, mut behind) = (vec![0; super::BUFFER_BYTES], 0);
    loop {
        match rest.read(&mut buffer).map_err(|e| damaged(&e))? {
            0 => return Ok(()),
            n => behind += n as u64,
        }
        writer.tell(behind)?;
    }
}

struct Writer<'a, 'p> {
    archive: &'a Path,
    into: &'a Path,
    name: String,
    done_bytes: u64,
    total_bytes: Option<u64>,
    most_bytes: u64,
    /// The files that are there.
    seen: HashSet<PathBuf>,
    on_progress: &'a mut OnProgress<'p>,
}

impl Writer<'_, '_> {
    fn make_folder(&self, name: &str) -> Result<()> {
        let folder = self.into.join(self.checked(name)?);
        fs::create_dir_all(&folder).map_err(Error::io("create the folder", &folder))
    }

    fn write_file(&mut self, name: &str, mut content: impl Read) -> Result<()> {
        let path = self.into.join(self.checked(name)?);
        if !self.seen.insert(path.clone()) {
            return Err(bad_archive(self.archive, format!("two of its entries are called `{name}`")));
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(Error::io("create the folder", folder))?;
        }
        let mut file = File::create_new(&path).map_err(Error::io("create", &path))?;
        let mut buffer = vec![0; super::BUFFER_BYTES];
        loop {
            // Reading fails through the archive's fault, writing through the disk's.
            let n = content
                .read(&mut buffer)
                .map_err(|e| bad_archive(self.archive, format!("`{name}` is damaged: {e}")))?;
            if n == 0 {
                break;
            }
            self.done_bytes += n as u64;
            self.tell(0)?;
            io::Write::write_all(&mut file, &buffer[..n]).map_err(Error::io("write", &path))?;
        }
        Ok(())
    }

    /// Tells how far it is; stops where the watcher says so, or at too many bytes, those that are no file's among them.
    fn tell(&mut self, others: u64) -> Result<()> {
        if self.done_bytes + others > self.most_bytes {
            let most = self.most_bytes >> 20;
            return Err(Error::BadInput {
                path: self.archive.to_path_buf(),
                line: None,
                what: format!(
                    "unpacks to more than {most} MiB, far more than text shrinks to this size from"
                ),
                fix: "if you trust it, unpack it yourself and name that folder".into(),
            });
        }
        let progress = Progress {
            stage: Stage::Unpacking,
            file: &self.name,
            done_bytes: self.done_bytes,
            total_bytes: self.total_bytes,
        };
        (self.on_progress)(progress).or_interrupted(&format!("unpacking {}", self.name))
    }

    /// The path of a member inside the folder, if it stays there on every operating system.
    fn checked(&self, name: &str) -> Result<PathBuf> {
        let refused = || bad_archive(self.archive, format!("`{name}` would be unpacked outside its folder"));
        if name.contains(['\\', ':', '\0']) {
            return Err(refused());
        }
        let mut path = PathBuf::new();
        for component in Path::new(name).components() {
            match component {
                Component::Normal(part) => path.push(part),
                Component::CurDir => {}
                _ => return Err(refused()),
            }
        }
        Ok(path)
    }
}

fn bad_archive(archive: &Path, what: String) -> Error {
    Error::BadInput {
        path: archive.to_path_buf(),
        line: None,
        what,
        fix: "delete the archive and fetch it again from a source you trust; nothing of it was kept".into(),
    }
}
