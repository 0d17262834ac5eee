//! Brings a model into the Hugging Face cache: ask what it consists of, say how much that is, fetch, compare, link.
//!
//! Owns: the steps and their order. A run that is killed at any point leaves whole files, links to whole files, and
//! `.incomplete` ones that the next run goes on with. Never: replaces a file that is there.

use std::fs;
use std::path::{Path, PathBuf};

use super::cache::RepoFolder;
use super::choose::{is_weights, needed};
use super::name::Reference;
use super::record::{FileRecord, Record, is_sha256};
use super::remote::{FileHead, Remote};
use super::{HubOptions, OnReport, Report, megabytes};
use crate::data::download::{self, OnProgress, Wanted, lock};
use crate::error::{Error, Result};

/// What was brought.
pub(super) struct Fetched {
    pub commit: String,
    /// Whether anything had to be downloaded.
    pub downloaded: bool,
}

/// A file that has to be linked, and downloaded where its content is not there.
struct Missing<'a> {
    file: &'a str,
    head: FileHead,
    /// Whether the content is there under another name.
    is_here: bool,
}

/// Brings what the model's revision consists of today, and records it as whole.
pub(super) fn fetch(
    reference: &Reference,
    repo: &str,
    options: &HubOptions,
    report: &mut OnReport<'_>,
) -> Result<Fetched> {
    let remote = Remote { options, reference, repo };
    let listing = remote.listing(report)?;
    let names: Vec<&str> = listing.siblings.iter().map(|sibling| sibling.name.as_str()).collect();
    let files = needed(&names);
    let commit = listing.sha;
    refuse_what_is_no_model(repo, &files, &names)?;
    let folder = RepoFolder::new(&options.cache_dir, repo);
    let snapshot = folder.snapshot(&commit);
    let mut missing = Vec::new();
    for file in &files {
        if !snapshot.join(file).is_file() {
            let head = remote.head(&commit, file, report)?;
            refuse_another_content(&remote, &commit, file, &head)?;
            let is_here = folder.blob(&head.etag)?.is_file();
            missing.push(Missing { file, head, is_here });
        }
    }
    let to_come = || missing.iter().filter(|missing| !missing.is_here);
    if to_come().next().is_some() {
        let bytes: u64 = to_come().filter_map(|missing| missing.head.bytes).sum();
        let mut here = 0;
        for missing in to_come() {
            here += fs::metadata(part(&folder.blob(&missing.head.etag)?, &missing.head.etag))
                .map_or(0, |m| m.len());
        }
        download::check_room(&format!("{}/{repo}", options.endpoint), &snapshot, bytes.saturating_sub(here))?;
        report(Report::Line(&format!(
            "downloading {repo} (commit {}): {} files, {}, into {}",
            &commit[..12],
            to_come().count(),
            megabytes(bytes),
            snapshot.display()
        )))
        .or_interrupted(&format!("the download of {repo}"))?;
    }
    let path = Record::path_for(&options.records_dir, repo, &commit);
    let mut record = Record::load(&path)?;
    for missing in &missing {
        let Missing { file, head, .. } = missing;
        let mut on_progress = |progress: download::Progress<'_>| report(Report::Progress(progress));
        let sum = bring(&remote, &folder, &commit, missing, &mut on_progress)?;
        folder.link(&head.etag, &commit, file)?;
        if let Some(sum) = sum {
            record.files.insert((*file).to_owned(), FileRecord::now(&snapshot.join(file), sum)?);
        }
    }
    folder.point(&reference.revision, &commit)?;
    record.whole = true;
    record.save(&path)?;
    let downloaded = to_come().next().is_some();
    Ok(Fetched { commit, downloaded })
}

/// Downloads a file's content, unless it is there by now; its sum if it was downloaded.
fn bring(
    remote: &Remote<'_>,
    folder: &RepoFolder,
    commit: &str,
    missing: &Missing<'_>,
    on_progress: &mut OnProgress<'_>,
) -> Result<Option<String>> {
    let Missing { file, head, .. } = missing;
    let blob = folder.blob(&head.etag)?;
    if blob.is_file() {
        return Ok(None);
    }
    let _lock = lock(&folder.lock_file(&head.etag)?, file, on_progress)?;
    if blob.is_file() {
        // Another process has brought it while this one waited.
        return Ok(None);
    }
    let promised = remote.reference.promised(commit, file);
    let etag = Some(head.etag.as_str()).filter(|etag| is_sha256(etag));
    let wanted = Wanted {
        url: &remote.url_of(commit, file),
        token: remote.options.token.as_ref(),
        name: file,
        part: part(&blob, &head.etag),
        bytes: head.bytes,
        sha256: promised.map(|pin| pin.sha256).or(etag),
    };
    download::fetch(&wanted, &blob, on_progress).map(Some)
}

/// The file in which a blob's bytes collect, under the name that the hub's own library gives it.
fn part(blob: &Path, etag: &str) -> PathBuf {
    blob.with_file_name(format!("{etag}.incomplete"))
}

/// Before anything is downloaded: whether the hub has the weights that the catalogue knows.
fn refuse_another_content(remote: &Remote<'_>, commit: &str, file: &str, head: &FileHead) -> Result<()> {
    let Some(pin) = remote.reference.promised(commit, file) else { return Ok(()) };
    let etag = Some(&head.etag).filter(|etag| is_sha256(etag));
    let what = match (etag, pin.bytes.zip(head.bytes)) {
        (Some(sum), _) if sum != pin.sha256 => format!("SHA-256 {sum}, but {} was published", pin.sha256),
        (_, Some((known, said))) if known != said => format!("{said} bytes, but {known} were published"),
        _ => return Ok(()),
    };
    Err(Error::Download {
        url: remote.url_of(commit, file),
        what: format!("this server's file has {what}"),
        fix: "check the address (HF_ENDPOINT): these are not the weights that this name stands for".into(),
    })
}

/// Whether there is anything to be read.
fn refuse_what_is_no_model(repo: &str, files: &[&str], names: &[&str]) -> Result<()> {
    let has = |what: &dyn Fn(&str) -> bool| files.iter().any(|file| what(file));
    let missing = if !has(&|file| file.rsplit('/').next() == Some("config.json")) {
        "config.json"
    } else if !has(&is_weights) {
        "model.safetensors, pytorch_model.bin or an index of either"
    } else {
        return Ok(());
    };
    let (most, more) = (names.len().min(20), if names.len() > 20 { ", ..." } else { "" });
    Err(Error::Missing {
        what: format!("{repo} has no {missing}; it has {}{more}", names[..most].join(", ")),
        fix: "name a model with weights in one of these formats, or convert it with its own library first"
            .into(),
    })
}
