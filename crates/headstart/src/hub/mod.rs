//! Published models by name: finds one on this machine, or brings it into the Hugging Face cache.
//!
//! Owns: what a name means, the order of the places that are searched, the policy on sums. Never: reads a model (what
//! comes of a name is a folder), the environment, a terminal.
//!
//! The policy on sums. Weights of the catalogue must be the published ones, or they are not downloaded. What is downloaded
//! is compared with the sum that the hub states, where it states one (for all large files). What was seen once is recorded
//! in this program's cache, and may not change. Files that another program has put into the cache, or the user into a mirror,
//! are theirs: one that differs from the published one is a note, one that differs from its own name is damaged.

mod cache;
mod catalogue;
mod choose;
mod fetch;
mod name;
mod record;
mod remote;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use self::catalogue::{ENTRIES, Entry, Golden, Pin, find};
pub use crate::data::download::Token;

use self::cache::{RepoFolder, etag_of, usable_files};
use self::choose::is_weights;
use self::name::{Name, Reference, is_commit};
use self::record::{Record, is_sha256};
use crate::data::download;
use crate::error::{Error, Result};
use crate::event::Signal;
use crate::shipped;

impl Model {
    /// What is known to come of it, where it is a model of the catalogue whose every known file is here with its known sum. Files
    /// that were never summed up are now.
    pub fn golden(&self) -> Option<&'static Golden> {
        let entry = find(self.repo.as_deref()?)?;
        let sum = |file: &ModelFile| match &file.sha256 {
            Some(sum) => Some(sum.clone()),
            None => download::sha256_file(&self.folder.join(&file.name), &mut |_| Signal::Continue).ok(),
        };
        let same = |pin: &Pin| {
            let file = self.files.iter().find(|file| file.name == pin.file);
            file.and_then(sum).as_deref() == Some(pin.sha256)
        };
        entry.golden.as_ref().filter(|_| entry.pins.iter().all(same))
    }
}

/// Where the hub is when nobody says otherwise.
pub const ENDPOINT: &str = "https://huggingface.co";

/// Where models come from and where they are kept.
#[derive(Debug, Clone)]
pub struct HubOptions {
    /// The hub's address, without `/` at its end.
    pub endpoint: String,
    /// The Hugging Face cache, which other programs use as well.
    pub cache_dir: PathBuf,
    /// This program's own folder for the sums of what it has seen.
    pub records_dir: PathBuf,
    /// For models that not everybody may read. Sent to the hub only, and never written down.
    pub token: Option<Token>,
    /// Whether the network must not be used.
    pub offline: bool,
    /// A folder with `models/OWNER/NAME/` for some models, searched first; never written to.
    pub mirror: Option<PathBuf>,
}

/// What is told on the way.
#[derive(Debug)]
pub enum Report<'a> {
    /// A line for people.
    Line(&'a str),
    /// How far a file is.
    Progress(download::Progress<'a>),
}

/// Whom to tell; says whether to go on.
pub type OnReport<'a> = dyn FnMut(Report<'_>) -> Signal + 'a;

/// Where a model was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// It was named by its folder.
    Folder,
    /// In this program.
    Program,
    /// In the mirror.
    Mirror,
    /// In the cache.
    Cache,
    /// Just downloaded.
    Download,
}

/// A model that is on this machine.
#[derive(Debug, Clone)]
pub struct Model {
    /// Its folder.
    pub folder: PathBuf,
    /// How it comes to be there.
    pub origin: Origin,
    /// Its place on the hub, `owner/name`; `None` for a folder.
    pub repo: Option<String>,
    /// The commit its files are of, where that is known.
    pub commit: Option<String>,
    /// Its files; none for a folder.
    pub files: Vec<ModelFile>,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// A file of a model.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ModelFile {
    /// Its path in the model's folder.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256 in hex, where that is known.
    pub sha256: Option<String>,
}

/// What is known of a model without asking anybody.
#[derive(Debug, Clone)]
pub struct Description {
    /// Its place on the hub.
    pub repo: String,
    /// The branch, tag or commit that is meant.
    pub revision: String,
    /// What the catalogue knows.
    pub entry: Option<&'static Entry>,
    /// Where it is on this machine; nothing is summed up for it.
    pub found: Option<Model>,
}

/// Which files are summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Checking {
    /// Those whose length or time of change is another than before.
    Changed,
    /// All.
    All,
}

/// A model in the cache.
#[derive(Debug)]
struct Cached {
    repo: String,
    commit: String,
    folder: PathBuf,
    files: Vec<String>,
    record: Record,
}

/// The folder of a model: `name` itself where it is a path, that of the model in the program, unpacked, otherwise what is in the mirror or the cache, otherwise what
/// is downloaded. What is in the cache whole is used without asking the hub for something newer.
///
/// # Errors
/// [`Error::Missing`] when there is no such model, or none here and the network must not be used; [`Error::Download`] when
/// the hub refuses or cannot be reached; [`Error::BadInput`] when a file is damaged; [`Error::Config`] when the mirror is no
/// folder; [`Error::Interrupted`] with what has arrived kept.
pub fn resolve(name: &str, options: &HubOptions, report: &mut OnReport<'_>) -> Result<Model> {
    let reference = match Name::parse(name)? {
        Name::Folder(folder) => return Ok(Model::of_folder(folder)),
        Name::Shipped => return Model::shipped(options),
        Name::Hub(reference) => reference,
    };
    if let Some(model) = in_mirror(&reference, options)? {
        return Ok(model);
    }
    let cached = in_cache(&reference, options)?;
    match cached {
        Some(cached) if options.offline || cached.is_whole() => {
            cached.checked(&reference, options, Checking::Changed, Origin::Cache, report)
        }
        None if options.offline => Err(not_here(&reference, options)),
        cached => {
            let error = match download(&reference, cached.as_ref(), options, Checking::Changed, report) {
                Err(error @ (Error::Download { .. } | Error::Missing { .. } | Error::Io { .. })) => error,
                result => return result,
            };
            // What another program has put there is as good as it was before the hub was out of reach.
            let Some(cached) = cached else { return Err(error) };
            let mut model = cached.checked(&reference, options, Checking::Changed, Origin::Cache, report)?;
            model.notes.push(format!(
                "the cached files are used, some of what goes with them may be missing ({})",
                error.to_string().lines().next().unwrap_or_default()
            ));
            Ok(model)
        }
    }
}

/// Brings a model into the cache as the hub has it now, and compares all its files with their sums. A model that is named
/// by its commit, as short names do, and is here whole is not asked for.
///
/// # Errors
/// As for [`resolve`].
pub fn pull(name: &str, options: &HubOptions, report: &mut OnReport<'_>) -> Result<Model> {
    let reference = match Name::parse(name)? {
        Name::Folder(folder) => return Ok(Model::of_folder(folder)),
        Name::Shipped => return Model::shipped(options),
        Name::Hub(reference) => reference,
    };
    if let Some(model) = in_mirror(&reference, options)? {
        return Ok(model);
    }
    match in_cache(&reference, options)? {
        Some(cached) if options.offline || (is_commit(&reference.revision) && cached.is_whole()) => {
            cached.checked(&reference, options, Checking::All, Origin::Cache, report)
        }
        None if options.offline => Err(not_here(&reference, options)),
        cached => download(&reference, cached.as_ref(), options, Checking::All, report),
    }
}

/// What is known of a model without the network: `None` where the name is a folder's, or that of the model in the program.
///
/// # Errors
/// [`Error::Missing`] when no model can be called so; [`Error::BadInput`] when the record of its sums is damaged;
/// [`Error::Config`] when the mirror is no folder.
pub fn describe(name: &str, options: &HubOptions) -> Result<Option<Description>> {
    let Name::Hub(reference) = Name::parse(name)? else { return Ok(None) };
    let found = match in_mirror(&reference, options)? {
        Some(model) => Some(model),
        None => in_cache(&reference, options)?.map(Cached::recorded),
    };
    let repo = reference.repo().to_owned();
    let Reference { revision, entry, .. } = reference;
    Ok(Some(Description { repo, revision, entry, found }))
}

/// The models of the cache that have no short name here, by name, as far as the branch `main` of them is on this machine. What they
/// are is not looked at; one that [`describe`] refuses is left out.
///
/// # Errors
/// [`Error::Io`] when the cache is there and cannot be read.
pub fn others(options: &HubOptions) -> Result<Vec<Model>> {
    let cache = &options.cache_dir;
    if !cache.is_dir() {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in std::fs::read_dir(cache).map_err(Error::io("read", cache))? {
        let name = entry.map_err(Error::io("read", cache))?.file_name();
        // `models--OWNER--NAME`, as huggingface_hub calls them.
        let parts = name.to_str().and_then(|name| name.strip_prefix("models--")?.split_once("--"));
        names.extend(parts.map(|(owner, name)| format!("{owner}/{name}@main")));
    }
    names.sort();
    let mut models = Vec::new();
    for name in names {
        // What no model of the hub can be called is another program's.
        let Ok(Some(Description { entry: None, found: Some(model), .. })) = describe(&name, options) else {
            continue;
        };
        models.push(model);
    }
    Ok(models)
}

impl Model {
    fn of_folder(folder: PathBuf) -> Self {
        let (origin, repo, commit) = (Origin::Folder, None, None);
        Self { folder, origin, repo, commit, files: Vec::new(), notes: Vec::new() }
    }

    fn shipped(options: &HubOptions) -> Result<Self> {
        let model = Self::of_folder(shipped::unpack(&options.records_dir)?);
        Ok(Self { origin: Origin::Program, repo: Some(shipped::NAME.to_owned()), ..model })
    }
}

impl Cached {
    /// Whether everything is here that the hub has of what is needed.
    fn is_whole(&self) -> bool {
        self.record.whole && self.record.files.keys().all(|file| self.files.contains(file))
    }

    /// Whether the weights lie under the sums that the catalogue knows.
    fn has_weights_of(&self, entry: &Entry) -> bool {
        self.files.iter().filter(|file| is_weights(file)).all(|file| {
            let etag = etag_of(&self.folder.join(file)).filter(|etag| is_sha256(etag));
            entry.pin(file).is_some_and(|pin| etag.as_deref() == Some(pin.sha256))
        })
    }

    /// The model, its files compared with what is known of them.
    fn checked(
        mut self,
        reference: &Reference,
        options: &HubOptions,
        checking: Checking,
        origin: Origin,
        report: &mut OnReport<'_>,
    ) -> Result<Model> {
        let before = self.record.clone();
        let mut on_progress = |progress: download::Progress<'_>| report(Report::Progress(progress));
        let (files, mut notes) = self.record.check(
            &self.folder,
            &self.files,
            reference.pins(&self.commit),
            checking,
            &mut on_progress,
        )?;
        if self.record != before {
            let path = Record::path_for(&options.records_dir, &self.repo, &self.commit);
            // Without it the files are summed up again next time, and that is all.
            if let Err(error) = self.record.save(&path) {
                notes.push(format!("the sums of the model's files are not kept: {error}"));
            }
        }
        let Self { repo, commit, folder, .. } = self;
        Ok(Model { folder, origin, repo: Some(repo), commit: Some(commit), files, notes })
    }

    /// The model with the sums that are known.
    fn recorded(self) -> Model {
        let Self { repo, commit, folder, files, record } = self;
        let sum = |name: &str| record.files.get(name).map(|file| file.sha256.clone());
        let file =
            |name: String| ModelFile { bytes: size_bytes(&folder.join(&name)), sha256: sum(&name), name };
        let files = files.into_iter().map(file).collect();
        let (repo, commit) = (Some(repo), Some(commit));
        Model { folder, origin: Origin::Cache, repo, commit, files, notes: Vec::new() }
    }
}

/// Downloads what is missing, to where the model is cached already.
fn download(
    reference: &Reference,
    cached: Option<&Cached>,
    options: &HubOptions,
    checking: Checking,
    report: &mut OnReport<'_>,
) -> Result<Model> {
    let repo = cached.map_or(reference.repo(), |cached| &cached.repo);
    let fetched = fetch::fetch(reference, repo, options, report)?;
    let commit = &fetched.commit;
    let here = open(repo, commit, options)?.ok_or_else(|| Error::Missing {
        what: format!("{repo} has weights in parts, and not all that its index names are on the hub"),
        fix: "name another revision, as in owner/name@main".into(),
    })?;
    let origin = if fetched.downloaded { Origin::Download } else { Origin::Cache };
    here.checked(reference, options, checking, origin, report)
}

/// The model in the mirror.
fn in_mirror(reference: &Reference, options: &HubOptions) -> Result<Option<Model>> {
    let Some(mirror) = &options.mirror else { return Ok(None) };
    if !mirror.is_dir() {
        return Err(Error::Config {
            key: "mirror".into(),
            what: format!("{} is not a folder", mirror.display()),
            fix: "name the folder that holds models/OWNER/NAME; another server than huggingface.co is HF_ENDPOINT".into(),
        });
    }
    for repo in &reference.repos {
        let folder = mirror.join("models").join(repo);
        let files = usable_files(&folder);
        if !files.is_empty() {
            let file =
                |name: String| ModelFile { bytes: size_bytes(&folder.join(&name)), sha256: None, name };
            let files = files.into_iter().map(file).collect();
            let repo = Some(repo.clone());
            let (origin, notes) = (Origin::Mirror, Vec::new());
            return Ok(Some(Model { folder, origin, repo, commit: None, files, notes }));
        }
    }
    Ok(None)
}

/// The model in the cache: the revision that is meant, or else, for a short name, its branch `main` where that has the
/// same weights (or the network must not be asked for them).
fn in_cache(reference: &Reference, options: &HubOptions) -> Result<Option<Cached>> {
    let find = |revision: &str| {
        reference.repos.iter().find_map(|repo| {
            let commit = RepoFolder::new(&options.cache_dir, repo).commit_of(revision)?;
            open(repo, &commit, options).transpose()
        })
    };
    if let Some(found) = find(&reference.revision).transpose()? {
        return Ok(Some(found));
    }
    let Some(entry) = reference.entry.filter(|entry| entry.commit == Some(&reference.revision)) else {
        return Ok(None);
    };
    let found = find("main").transpose()?;
    Ok(found.filter(|cached| options.offline || cached.has_weights_of(entry)))
}

/// A commit's files in the cache, where they are a model.
fn open(repo: &str, commit: &str, options: &HubOptions) -> Result<Option<Cached>> {
    let folder = RepoFolder::new(&options.cache_dir, repo).snapshot(commit);
    let files = usable_files(&folder);
    if files.is_empty() {
        return Ok(None);
    }
    let record = Record::load(&Record::path_for(&options.records_dir, repo, commit))?;
    Ok(Some(Cached { repo: repo.to_owned(), commit: commit.to_owned(), folder, files, record }))
}

fn not_here(reference: &Reference, options: &HubOptions) -> Error {
    let places = reference.repos.iter().map(|repo| {
        let folder = RepoFolder::new(&options.cache_dir, repo);
        let commit = folder.commit_of(&reference.revision).unwrap_or_else(|| reference.revision.clone());
        folder.snapshot(&commit).display().to_string()
    });
    let mirrored = options
        .mirror
        .iter()
        .map(|mirror| mirror.join("models").join(reference.repo()).display().to_string());
    let places: Vec<String> = mirrored.chain(places).collect();
    Error::Missing {
        what: format!(
            "`{}` is not on this machine (looked for config.json and weights in {}), and the network must not be used",
            reference.repo(),
            places.join(" and ")
        ),
        fix: "call without --offline and HF_HUB_OFFLINE, or name a folder that holds the model's files"
            .into(),
    }
}

fn size_bytes(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// As people read it.
fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
