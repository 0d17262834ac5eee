//! Data by name: finds a named set in a mirror or in the cache, or downloads it, and says what it found.
//!
//! Owns: the layout of cache and mirror, the order they are searched in, checksum policy, provenance. Never:
//! reads text (that is [`super::corpus`] and [`super::classification`]), replaces a file of the user's, prints.
//!
//! The policy on checksums. A download is compared with its published sum, where there is one, and refused if it
//! differs. What arrived is recorded in `ROOT.provenance.json` beside the data and compared from then on, so
//! that a set without a published sum cannot change unnoticed either. Files a user has put into a mirror or
//! into the cache are theirs: an unknown or differing sum is a warning.

mod entries;
mod fetch;
mod provenance;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use entries::{ENTRIES, Entry, FileRole, Kind, Member, Source};
pub use provenance::{Compared, FileSum};

use self::provenance::{FetchedSource, Manifest};
use super::download::unpack::Format;
use super::download::{OnProgress, sha256_bytes, sha256_file, sha256_folder};
use crate::error::{Error, Result};

/// Where named data may come from.
#[derive(Debug, Clone)]
pub struct Locations {
    /// The folder that downloads go to; created when needed.
    pub cache_dir: PathBuf,
    /// Whether the network must not be used.
    pub offline: bool,
    /// A folder of unpacked data sets, searched before the cache; never written to.
    pub mirror: Option<PathBuf>,
}

/// Where a set was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// In the mirror.
    Mirror,
    /// In the cache, from an earlier download or put there by hand.
    Cache,
    /// Just downloaded.
    Download,
}

/// One file (or folder of labelled files) of a resolved set.
#[derive(Debug, Clone)]
pub struct DataFile {
    /// What it is for.
    pub role: FileRole,
    /// Where it is.
    pub path: PathBuf,
}

/// A set that is on this machine.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// Its name, or its address.
    pub name: String,
    /// What the catalogue knows of it; `None` for an address.
    pub entry: Option<&'static Entry>,
    /// Where it was found.
    pub origin: Origin,
    /// The folder of its files.
    pub folder: PathBuf,
    /// Its files by role. For an address: one path with [`FileRole::Everything`], the file or the unpacked folder, to
    /// be read like a path of the user's.
    pub files: Vec<DataFile>,
    /// What the files were, for the record of the run.
    pub provenance: Vec<FileSum>,
    /// What the user should know: sums that are unknown or differ, splits that are not there.
    pub warnings: Vec<String>,
}

impl Resolved {
    /// The file or folder for `role`, if the set has one.
    pub fn file(&self, role: FileRole) -> Option<&Path> {
        self.files.iter().find(|file| file.role == role).map(|file| file.path.as_path())
    }
}

/// A line of `data list`.
#[derive(Debug, Clone)]
pub struct Listing {
    /// What the catalogue knows.
    pub entry: &'static Entry,
    /// Where it is on this machine: mirror or cache; `None` when it would have to be downloaded.
    pub found: Option<(Origin, PathBuf)>,
}

/// Every named set and whether it is here. Touches neither the network nor a checksum.
pub fn list(locations: &Locations) -> Vec<Listing> {
    ENTRIES
        .iter()
        .map(|entry| {
            let package = Package::of(entry);
            let mirror = locations.mirror.iter().map(|dir| (Origin::Mirror, dir));
            let found = mirror
                .chain([(Origin::Cache, &locations.cache_dir)])
                .map(|(origin, dir)| (origin, dir.join(package.root)))
                .find(|(_, root)| package.missing_in(root).is_empty());
            Listing { entry, found }
        })
        .collect()
}

/// The entry of this name.
pub fn find(name: &str) -> Option<&'static Entry> {
    ENTRIES.iter().find(|entry| entry.name == name)
}

/// Whether [`resolve`] is the one to ask: `name` stands in the catalogue or is an http(s) address.
pub fn is_named(name: &str) -> bool {
    find(name).is_some() || is_url(name)
}

/// Finds `name`, a name of the catalogue or an http(s) address of a zip, tar.gz or plain file: in the mirror,
/// in the cache, and otherwise on the network.
///
/// # Errors
/// [`Error::Missing`] when it is nowhere to be had, or the name is unknown; [`Error::Download`] when the network
/// fails; [`Error::BadInput`] when a file is not what was recorded or a download is no proper archive;
/// [`Error::Config`] when the mirror is no folder. Each says where the file may be put by hand.
pub fn resolve(name: &str, locations: &Locations, on_progress: &mut OnProgress<'_>) -> Result<Resolved> {
    if let Some(entry) = find(name) {
        return Package::of(entry).resolve(locations, on_progress);
    }
    if !is_url(name) {
        let names: Vec<_> = ENTRIES.iter().map(|entry| entry.name).collect();
        return Err(Error::Missing {
            what: format!("there is no data set called `{name}`, and no file or folder of that path"),
            fix: format!(
                "the names are {}, and starter and starter-questions, which are built in; paths and http(s) addresses \
                 work too",
                names.join(", ")
            ),
        });
    }
    let address = Address::of(name);
    let urls = [name];
    let source = Source { file: &address.file, urls: &urls, format: address.format, sha256: None };
    let whole = address.format == Format::Plain;
    let path = if whole { &*address.file } else { "" };
    let member = Member { role: FileRole::Everything, path, subfolders: &[], sha256: None };
    let package = Package { name, entry: None, root: &address.root, sources: &[source], members: &[member] };
    package.resolve(locations, on_progress)
}

fn is_url(name: &str) -> bool {
    name.starts_with("http://") || name.starts_with("https://")
}

/// Where the data behind an address is kept.
struct Address {
    file: String,
    format: Format,
    root: String,
}

impl Address {
    fn of(url: &str) -> Self {
        let path = url.split(['?', '#']).next().unwrap_or(url);
        let name = path.rsplit('/').next().unwrap_or_default();
        let keep = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
        let name: String = name.chars().map(keep).collect();
        let file = if name.trim_matches('.').is_empty() { "data".to_owned() } else { name };
        // The name alone could stand for many addresses.
        let root = format!("urls/{}-{file}", &sha256_bytes(url.as_bytes())[..12]);
        Self { format: Format::of_name(&file), file, root }
    }
}

/// What is to be found: an entry of the catalogue or an address, in one form.
struct Package<'a> {
    name: &'a str,
    entry: Option<&'static Entry>,
    root: &'a str,
    sources: &'a [Source<'a>],
    members: &'a [Member<'a>],
}

impl Package<'_> {
    fn of(entry: &'static Entry) -> Package<'static> {
        Package {
            name: entry.name,
            entry: Some(entry),
            root: entry.root,
            sources: entry.sources,
            members: entry.members,
        }
    }

    fn resolve(&self, locations: &Locations, on_progress: &mut OnProgress<'_>) -> Result<Resolved> {
        let mut warnings = Vec::new();
        if let Some(mirror) = &locations.mirror {
            if !mirror.is_dir() {
                return Err(Error::Config {
                    key: "mirror".into(),
                    what: format!("{} is not a folder", mirror.display()),
                    fix: "name the folder that holds wikitext-2, trec, vocab and so on".into(),
                });
            }
            let root = mirror.join(self.root);
            let missing = self.missing_in(&root);
            if missing.is_empty() {
                return self.describe(Origin::Mirror, &root, None, warnings, on_progress);
            }
            warnings.push(format!(
                "the mirror lacks {}, so `{}` was taken from elsewhere",
                root.join(missing[0]).display(),
                self.name
            ));
        }
        fetch::remove_abandoned(&locations.cache_dir);
        let root = locations.cache_dir.join(self.root);
        if self.missing_in(&root).is_empty() {
            let manifest = Manifest::load(&Manifest::path_for(&root))?;
            return self.describe(Origin::Cache, &root, manifest.as_ref(), warnings, on_progress);
        }
        let manifest = self.fetch(locations, on_progress)?;
        self.describe(Origin::Download, &root, Some(&manifest), warnings, on_progress)
    }

    /// The members that `root` would need and does not have. A language model does without its test split.
    fn missing_in(&self, root: &Path) -> Vec<&str> {
        self.members
            .iter()
            .filter(|member| !self.is_optional(member))
            .flat_map(|member| {
                let folders =
                    member.subfolders.iter().filter(|sub| !root.join(member.path).join(sub).is_dir());
                let whole = (!root.join(member.path).exists()).then_some(member.path);
                whole.into_iter().chain(folders.map(|_| member.path))
            })
            .collect()
    }

    fn is_optional(&self, member: &Member<'_>) -> bool {
        member.role == FileRole::Test && self.entry.is_some_and(|entry| entry.kind == Kind::LanguageModel)
    }

    /// Sums up what stands in `root`, comparing every file with what is known of it.
    fn describe(
        &self,
        origin: Origin,
        root: &Path,
        manifest: Option<&Manifest>,
        mut warnings: Vec<String>,
        on_progress: &mut OnProgress<'_>,
    ) -> Result<Resolved> {
        let mut files = Vec::new();
        let mut provenance = Vec::new();
        for member in self.members {
            let path = root.join(member.path);
            if !path.exists() {
                warnings.push(format!("`{}` has no {} here; that split is left out", self.name, member.path));
                continue;
            }
            let sum = member_sum(member, &path, on_progress)?;
            let compared = match (manifest.and_then(|m| m.files.get(member.path)), member.sha256) {
                (Some(recorded), _) if *recorded != sum => return Err(changed(&path, root, recorded, &sum)),
                (_, Some(published)) if published == sum => Compared::Published,
                (Some(_), _) => Compared::Recorded,
                (None, Some(published)) => {
                    warnings.push(format!(
                        "{} is not the published file (SHA-256 {sum}, published {published}); used as it is",
                        path.display()
                    ));
                    Compared::Differs
                }
                (None, None) => {
                    warnings.push(format!(
                        "{} has SHA-256 {sum}; there is no published sum to compare it with",
                        path.display()
                    ));
                    Compared::NotCompared
                }
            };
            provenance.push(FileSum { file: member.path.to_owned(), sha256: sum, compared });
            files.push(DataFile { role: member.role, path });
        }
        if let Some(manifest) = manifest {
            provenance.extend(manifest.sources.iter().map(FetchedSource::sum));
        }
        // What an address leads to is found by looking: most archives hold a single folder.
        for file in files.iter_mut().filter(|file| file.role == FileRole::Everything) {
            file.path = only_subfolder(&file.path);
        }
        let folder = match files.first() {
            Some(file) if file.role == FileRole::Everything && file.path.is_dir() => file.path.clone(),
            Some(file) => file.path.parent().unwrap_or(root).to_path_buf(),
            None => root.to_path_buf(),
        };
        Ok(Resolved {
            name: self.name.to_owned(),
            entry: self.entry,
            origin,
            folder,
            files,
            provenance,
            warnings,
        })
    }

    /// What a user can do who has the data but not the network.
    fn by_hand(&self, locations: &Locations) -> String {
        let downloads = locations.cache_dir.join("downloads").join(self.root);
        let archives: Vec<_> = self.sources.iter().map(|source| format!("`{}`", source.file)).collect();
        let addresses: Vec<_> =
            self.sources.iter().filter_map(|source| source.urls.first().copied()).collect();
        let mut text = format!(
            "put {} (from {}) into the folder {}",
            archives.join(" and "),
            addresses.join(" and "),
            downloads.display()
        );
        if self.entry.is_some() {
            let members: Vec<_> =
                self.members.iter().map(|member| format!("DIR/{}/{}", self.root, member.path)).collect();
            text = format!("{text}, or call with `--mirror DIR` where {} is there", members.join(", "));
        }
        if self.entry.is_some_and(|entry| entry.kind == Kind::Tokenizer) {
            text.push_str(", or use another vocabulary: `--tokenizer FILE`, or one of your own made with ");
            text.push_str("`headstart tokenizer train`");
        }
        text
    }
}

fn member_sum(member: &Member<'_>, path: &Path, on_progress: &mut OnProgress<'_>) -> Result<String> {
    if path.is_dir() {
        sha256_folder(path, member.subfolders, on_progress)
    } else {
        sha256_file(path, on_progress)
    }
}

fn changed(path: &Path, root: &Path, recorded: &str, found: &str) -> Error {
    Error::BadInput {
        path: path.to_path_buf(),
        line: None,
        what: format!("has SHA-256 {found}, but {recorded} was recorded when it was downloaded"),
        fix: format!(
            "delete {} to download it again, or delete {} if the file was changed on purpose",
            root.display(),
            Manifest::path_for(root).display()
        ),
    }
}

/// Descends into a folder that holds nothing but one folder, as most archives have it.
fn only_subfolder(path: &Path) -> PathBuf {
    let mut items = std::fs::read_dir(path).into_iter().flatten().flatten();
    match (items.next(), items.next()) {
        (Some(only), None) if only.path().is_dir() => only_subfolder(&only.path()),
        _ => path.to_path_buf(),
    }
}
