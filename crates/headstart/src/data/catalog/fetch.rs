//! Brings a set into the cache: lock, download, unpack aside, record, rename into place.
//!
//! Owns: the steps and their order. A run killed at any point leaves either nothing or everything, and several
//! runs at once wait for one another. Never: replaces a folder that is already there.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::provenance::{FetchedSource, Manifest};
use super::{ENTRIES, Locations, Package, Source, member_sum};
use crate::data::content::Content;
use crate::data::download::unpack::{Format, unpack};
use crate::data::download::{OnProgress, download, lock, sha256_file};
use crate::error::{Error, Result};
use crate::files;

impl Package<'_> {
    /// Downloads and unpacks into the cache, and returns the record of it.
    pub(super) fn fetch(&self, locations: &Locations, on_progress: &mut OnProgress<'_>) -> Result<Manifest> {
        let root = locations.cache_dir.join(self.root);
        let downloads = locations.cache_dir.join("downloads").join(self.root);
        make_folder(&downloads)?;
        let _lock = lock(&downloads.join(".lock"), self.name, on_progress)?;
        let record = Manifest::path_for(&root);
        let before = Manifest::load(&record)?;
        if self.missing_in(&root).is_empty() {
            // Another run has brought it while this one waited.
            return Ok(before.unwrap_or_default());
        }
        if root.exists() {
            return Err(self.incomplete(&root, locations));
        }
        let mut arrived = Vec::new();
        let fetched =
            self.fetch_into(&root, &downloads, before.as_ref(), locations, &mut arrived, on_progress);
        // What is done with, and what cannot be used: every later call would meet it again.
        if matches!(fetched, Ok(_) | Err(Error::BadInput { .. })) {
            for path in arrived {
                fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            }
        }
        fetched
    }

    /// Downloads what is not there yet (`arrived`), unpacks it aside and puts it into its place.
    fn fetch_into(
        &self,
        root: &Path,
        downloads: &Path,
        before: Option<&Manifest>,
        locations: &Locations,
        arrived: &mut Vec<PathBuf>,
        on_progress: &mut OnProgress<'_>,
    ) -> Result<Manifest> {
        let record = Manifest::path_for(root);
        let aside = Aside::new(downloads)?;
        let mut manifest = Manifest::default();
        for source in self.sources {
            let path = downloads.join(source.file);
            let fetched = if path.exists() {
                take_by_hand(source, &path, on_progress)?
            } else {
                let fetched = self.download_source(source, &path, locations, on_progress)?;
                arrived.push(path.clone());
                fetched
            };
            self.same_as_before(&fetched, before, &record, &path)?;
            manifest.sources.push(fetched);
            self.refuse_no_text(source, &path)?;
            unpack(&path, source.format, &self.unpack_into(source, &aside.path)?, on_progress)?;
        }
        let unpacked = aside.path.join(self.root_name());
        if let Some(missing) = self.missing_in(&unpacked).first() {
            return Err(Error::BadInput {
                path: downloads.join(self.sources.first().map_or("", |source| source.file)),
                line: None,
                what: format!("unpacks without {}/{missing}", self.root),
                fix: self.by_hand(locations),
            });
        }
        manifest.files = self.sums_of(&unpacked, on_progress)?;
        make_folder(root.parent().unwrap_or(root))?;
        manifest.save(&record)?;
        fs::rename(&unpacked, root).map_err(Error::io("create the folder", root))?;
        Ok(manifest)
    }

    /// A file behind an address that is no archive is text; a server may have sent anything.
    fn refuse_no_text(&self, source: &Source<'_>, path: &Path) -> Result<()> {
        if self.entry.is_none() && source.format == Format::Plain {
            Content::open(path)?;
            refuse_web_page(path)?;
        }
        Ok(())
    }

    /// The last part of the root, which is the top folder of the catalogue's archives.
    fn root_name(&self) -> &str {
        self.root.rsplit('/').next().unwrap_or(self.root)
    }

    /// Plain files, and archives behind an address, have no top folder of our naming: it is made for them.
    fn unpack_into(&self, source: &Source<'_>, aside: &Path) -> Result<PathBuf> {
        if self.entry.is_some() && source.format != Format::Plain {
            return Ok(aside.to_path_buf());
        }
        let into = aside.join(self.root_name());
        make_folder(&into)?;
        Ok(into)
    }

    fn download_source(
        &self,
        source: &Source<'_>,
        path: &Path,
        locations: &Locations,
        on_progress: &mut OnProgress<'_>,
    ) -> Result<FetchedSource> {
        if locations.offline {
            let cached = locations.cache_dir.join(self.root).display().to_string();
            let mirrored = locations.mirror.iter().map(|dir| dir.join(self.root).display().to_string());
            return Err(Error::Missing {
                what: format!(
                    "`{}` is not on this machine (looked for {}), and --offline forbids to download `{}`",
                    self.name,
                    mirrored.chain([cached]).collect::<Vec<_>>().join(" and "),
                    source.file
                ),
                fix: format!("{}, or call without --offline", self.by_hand(locations)),
            });
        }
        let mut failure = None;
        for url in source.urls {
            match download(url, path, source.sha256, on_progress) {
                Ok(sha256) => {
                    return Ok(FetchedSource {
                        file: source.file.to_owned(),
                        from: (*url).to_owned(),
                        sha256,
                        published: source.sha256.is_some(),
                    });
                }
                // The first address is the one to report.
                Err(error @ Error::Download { .. }) => failure = failure.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        match failure {
            Some(Error::Download { url, what, fix }) => {
                Err(Error::Download { url, what, fix: format!("{fix}; or {}", self.by_hand(locations)) })
            }
            _ => Err(Error::Missing {
                what: format!("there is no address for `{}`", source.file),
                fix: self.by_hand(locations),
            }),
        }
    }

    /// A set without a published sum must not change between two downloads without anybody noticing.
    fn same_as_before(
        &self,
        fetched: &FetchedSource,
        before: Option<&Manifest>,
        record: &Path,
        path: &Path,
    ) -> Result<()> {
        let same_file = |source: &&FetchedSource| source.file == fetched.file;
        match before.and_then(|manifest| manifest.sources.iter().find(same_file)) {
            Some(earlier) if earlier.sha256 != fetched.sha256 => Err(Error::BadInput {
                path: path.to_path_buf(),
                line: None,
                what: format!(
                    "`{}` has changed: SHA-256 {}, but {} was recorded at the first download",
                    self.name, fetched.sha256, earlier.sha256
                ),
                fix: format!("delete {} to accept the new file", record.display()),
            }),
            _ => Ok(()),
        }
    }

    /// The sums of everything the archive is known to hold, other entries' files included: the next of them to
    /// be asked for is then compared with what arrived today.
    fn sums_of(
        &self,
        unpacked: &Path,
        on_progress: &mut OnProgress<'_>,
    ) -> Result<std::collections::BTreeMap<String, String>> {
        let siblings = ENTRIES.iter().filter(|entry| self.entry.is_some() && entry.root == self.root);
        let members = self.members.iter().chain(siblings.flat_map(|entry| entry.members));
        let mut sums = std::collections::BTreeMap::new();
        for member in members {
            let path = unpacked.join(member.path);
            if path.exists() && !sums.contains_key(member.path) {
                sums.insert(member.path.to_owned(), member_sum(member, &path, on_progress)?);
            }
        }
        Ok(sums)
    }

    fn incomplete(&self, root: &Path, locations: &Locations) -> Error {
        let missing = self.missing_in(root);
        Error::Missing {
            what: format!(
                "{} is there but lacks {}; it is not replaced, because it may be yours",
                root.display(),
                missing.join(", ")
            ),
            fix: format!("add what is missing, or move the folder away, or {}", self.by_hand(locations)),
        }
    }
}

fn take_by_hand(source: &Source<'_>, path: &Path, on_progress: &mut OnProgress<'_>) -> Result<FetchedSource> {
    let sha256 = sha256_file(path, on_progress)?;
    match source.sha256 {
        Some(published) if published != sha256 => Err(Error::BadInput {
            path: path.to_path_buf(),
            line: None,
            what: format!("has SHA-256 {sha256}, but the published file has {published}"),
            fix: "fetch it again (it may be incomplete), or unpack it yourself and name that folder with --mirror"
                .into(),
        }),
        published => Ok(FetchedSource {
            file: source.file.to_owned(),
            from: path.display().to_string(),
            sha256,
            published: published.is_some(),
        }),
    }
}

/// A server that wants somebody to sign in, or has nothing under an address, often answers with a page that says so.
fn refuse_web_page(path: &Path) -> Result<()> {
    const LOOKED_AT: u64 = 512;
    let mut start = Vec::new();
    let file = File::open(path).map_err(Error::io("read", path))?;
    file.take(LOOKED_AT).read_to_end(&mut start).map_err(Error::io("read", path))?;
    let start = String::from_utf8_lossy(&start).trim_start_matches('\u{feff}').trim_start().to_lowercase();
    if !(start.starts_with("<!doctype html") || start.starts_with("<html")) {
        return Ok(());
    }
    Err(Error::BadInput {
        path: path.to_path_buf(),
        line: Some(1),
        what: "is a web page, not data: the server sent a page in place of the file".into(),
        fix: "open the address in a browser, and name the address of the file itself; what needs signing in is downloaded \
              there, and its path is named here"
            .into(),
    })
}

/// A folder to unpack in, beside the downloads (so on the same disk), that goes away with this value.
struct Aside {
    path: PathBuf,
}

impl Aside {
    /// The lock is held, so whatever stands there was left by a run that was killed.
    fn new(downloads: &Path) -> Result<Self> {
        let path = downloads.join(".unpacking");
        if path.exists() {
            fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
        }
        make_folder(&path)?;
        Ok(Self { path })
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // Nothing depends on it: the next run clears it away too.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes what runs that were killed have left in the cache: folders that were being unpacked, records half written.
pub(super) fn remove_abandoned(cache: &Path) {
    let downloads = cache.join("downloads");
    let inside = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect::<Vec<_>>()
    };
    let sets = inside(&downloads);
    for set in sets.iter().flat_map(|set| inside(set)).chain(sets.clone()) {
        let unpacking = set.join(".unpacking");
        // Whoever unpacks holds the lock.
        let free = |lock: &File| lock.try_lock().is_ok();
        if unpacking.is_dir() && File::open(set.join(".lock")).is_ok_and(|lock| free(&lock)) {
            // Whether it works is not this run's concern.
            let _ = fs::remove_dir_all(&unpacking);
        }
    }
    for folder in inside(cache).iter().map(PathBuf::as_path).chain([cache]) {
        files::remove_abandoned(folder, |name| name.ends_with(".provenance.json"));
    }
}

fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::io("create the folder", path))
}
