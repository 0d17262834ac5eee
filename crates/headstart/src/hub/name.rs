//! What a model's name means: a folder, or a place on the hub.
//!
//! Owns: how names are read, and which known ones are near an unknown one. Never: whether a model is there.

use std::path::{Path, PathBuf};

use super::catalogue::{ENTRIES, Entry, Pin, find};
use super::choose::is_weights;
use crate::error::{Error, Result};
use crate::shipped;

/// The branch that is meant where none is named.
const MAIN: &str = "main";
/// Names that are offered instead of an unknown one.
const NEAREST: usize = 3;

/// What a name means.
#[derive(Debug, Clone)]
pub(super) enum Name {
    /// A folder.
    Folder(PathBuf),
    /// The model in the program.
    Shipped,
    /// A place on the hub.
    Hub(Reference),
}

/// A model on the hub.
#[derive(Debug, Clone)]
pub(super) struct Reference {
    /// Where it is, `owner/name`; behind the first the places that it had before.
    pub repos: Vec<String>,
    /// A branch, a tag, or a commit.
    pub revision: String,
    /// What is known of it.
    pub entry: Option<&'static Entry>,
}

impl Reference {
    /// `owner/name`.
    pub fn repo(&self) -> &str {
        self.repos.first().map_or("", String::as_str)
    }

    /// What the catalogue knows of this commit's files.
    pub fn pins(&self, commit: &str) -> &'static [Pin] {
        let entry = self.entry.filter(|entry| entry.commit.is_none_or(|known| known == commit));
        entry.map_or(&[], |entry| entry.pins)
    }

    /// What this file must be, if it is to be downloaded: the weights of the commit that is known.
    pub fn promised(&self, commit: &str, file: &str) -> Option<&'static Pin> {
        let entry = self.entry.filter(|entry| entry.commit == Some(commit))?;
        entry.pin(file).filter(|_| is_weights(file))
    }
}

impl Name {
    /// Reads a name. What is there is a folder; so is what can be nothing else, and what would lie in a folder that is there.
    ///
    /// # Errors
    /// [`Error::Missing`] where it is nothing of all that, with the names that are nearest.
    pub fn parse(text: &str) -> Result<Self> {
        let path = Path::new(text);
        let folder = || Ok(Self::Folder(path.to_path_buf()));
        if path.exists() || path.is_absolute() || text.starts_with(['.', '~', '/']) || text.contains('\\') {
            return folder();
        }
        if text == shipped::NAME {
            return Ok(Self::Shipped);
        }
        let (name, revision) = text.split_once('@').map_or((text, None), |(name, rev)| (name, Some(rev)));
        if revision.is_some_and(|revision| !is_revision(revision)) {
            return Err(Error::Missing {
                what: format!("`{text}` names no revision that there can be"),
                fix: "name a branch, a tag or a commit, as in owner/name@main".into(),
            });
        }
        let entry = find(name);
        let as_owner_and_name = name.split_once('/').filter(|(owner, name)| is_part(owner) && is_part(name));
        let repos = match (entry, as_owner_and_name) {
            // Somebody has mistyped the name of a run.
            (_, Some((owner, _))) if revision.is_none() && Path::new(owner).is_dir() => return folder(),
            (Some(entry), _) => entry.repos.iter().map(|repo| (*repo).to_owned()).collect(),
            (None, Some(_)) => vec![name.to_owned()],
            (None, None) if name.contains('/') => return folder(),
            (None, None) => return Err(unknown(text)),
        };
        // A short name means the commit whose sums are known.
        let commit = entry.filter(|entry| entry.names.contains(&name)).and_then(|entry| entry.commit);
        let revision = revision.or(commit).unwrap_or(MAIN).to_owned();
        Ok(Self::Hub(Reference { repos, revision, entry }))
    }
}

/// Whether it is a commit, not a branch or a tag.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a branch, a tag or a commit can be called so; it becomes part of a path.
fn is_revision(text: &str) -> bool {
    let parts_are_names = text.split('/').all(is_part);
    parts_are_names && text.len() <= 200
}

/// Whether an owner, a model or a part of a branch can be called so.
fn is_part(text: &str) -> bool {
    let character = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let first = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.starts_with(first) && text.chars().all(character) && !text.contains("..") && text.len() <= 96
}

fn unknown(text: &str) -> Error {
    Error::Missing {
        what: format!("there is no folder `{text}`, and no model is known by this name"),
        fix: format!(
            "{}; `headstart models list` has all names; a folder, and owner/name of the Hugging Face hub work too",
            nearest(text)
        ),
    }
}

/// The known names that look most like this one, as a sentence without its end.
pub(super) fn nearest(text: &str) -> String {
    let text = text.rsplit('/').next().unwrap_or(text).to_lowercase();
    let distance = |entry: &Entry| {
        let names = entry.names.iter().chain(entry.repos);
        let last = |name: &str| name.rsplit('/').next().unwrap_or_default().to_lowercase();
        names.map(|name| changes(&text, &last(name))).min().unwrap_or(usize::MAX)
    };
    let known = ENTRIES.iter().map(|entry| (distance(entry), entry.name()));
    let shipped = (changes(&text, shipped::NAME), shipped::NAME);
    let mut names: Vec<(usize, &str)> = std::iter::once(shipped).chain(known).collect();
    names.sort_by_key(|(distance, _)| *distance);
    let names: Vec<&str> = names.iter().take(NEAREST).map(|(_, name)| *name).collect();
    format!("the nearest short names are {}", names.join(", "))
}

/// How many characters must be put in, taken out or replaced to make one text of another (Levenshtein's distance).
fn changes(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_folders_or_places() {
        let hub = |text: &str| match Name::parse(text).unwrap() {
            Name::Hub(reference) => (reference.repo().to_owned(), reference.revision),
            Name::Folder(path) => panic!("{text} is the folder {}", path.display()),
            Name::Shipped => panic!("{text} is the model in the program"),
        };
        let pinned = "1110a243fdf4706b3f48f1d95db1a4f5529b4d41";
        let minilm = "sentence-transformers/all-MiniLM-L6-v2";
        assert_eq!(hub("minilm-l6"), (minilm.into(), pinned.into()));
        assert_eq!(hub("minilm-l6@main"), (minilm.into(), "main".into()));
        assert_eq!(hub(minilm), (minilm.into(), "main".into()));
        assert_eq!(hub("bert-base-cased").0, "google-bert/bert-base-cased");
        assert_eq!(hub("a/b@refs/pr/1"), ("a/b".into(), "refs/pr/1".into()));
        assert!(matches!(Name::parse("shipped"), Ok(Name::Shipped)));
        for folder in ["./x", "../x/y", "/x", "~/x", "src", "src/nothing", "a/b/c", "x\\y", "a/", "a/.b"] {
            assert!(matches!(Name::parse(folder), Ok(Name::Folder(_))), "{folder}");
        }
        for bad in ["a/b@", "a/b@../c", "a/b@x/../y", "a/b@/x", "a/b@x y", "a/b@-x"] {
            assert!(Name::parse(bad).unwrap_err().to_string().contains("no revision"), "{bad}");
        }
    }

    #[test]
    fn an_unknown_name_gets_the_nearest_ones() {
        let text = Name::parse("bert-base-uncaesd").unwrap_err().to_string();
        assert!(text.contains("no folder `bert-base-uncaesd`"), "{text}");
        assert!(text.contains("the nearest short names are bert-base-uncased, "), "{text}");
        assert!(nearest("someone/all-MiniLM-L6").contains("are minilm-l6"), "{}", nearest("all-MiniLM-L6"));
        for near in ["Shipped", "shiped"] {
            let text = Name::parse(near).unwrap_err().to_string();
            assert!(text.contains("the nearest short names are shipped, "), "{text}");
        }
        assert_eq!([changes("", "abc"), changes("kitten", "sitting"), changes("same", "same")], [3, 3, 0]);
    }

    #[test]
    fn the_catalogue_is_in_order() {
        let mut seen = std::collections::HashSet::new();
        for entry in ENTRIES {
            let legacy = entry.repos.iter().filter(|repo| !entry.names.contains(repo));
            for name in entry.names.iter().chain(legacy) {
                assert!(seen.insert(*name), "{name} stands there twice");
            }
            assert!(entry.names.iter().all(|name| is_part(name)));
            assert!(entry.repo().split_once('/').is_some_and(|(a, b)| is_part(a) && is_part(b)));
            assert!(entry.commit.is_none_or(is_commit), "{}", entry.name());
            for pin in entry.pins {
                assert!(pin.sha256.len() == 64 && pin.sha256.bytes().all(|b| b.is_ascii_hexdigit()));
            }
        }
    }
}
