//! Which files make a corpus: those of its splits by their names, or all texts of a folder.
//!
//! Owns: layouts and names. Never: reads a file.

use std::path::{Path, PathBuf};

use super::content::plain_name;
use super::rows::RowFormat;
use super::shards;
use super::split::Split;
use crate::error::{Error, Result};
use crate::files;

/// The files of a corpus: for each split none, one, or shards in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CorpusFiles {
    /// The training text.
    pub train: Vec<PathBuf>,
    /// The validation text.
    pub valid: Vec<PathBuf>,
    /// The test text.
    pub test: Vec<PathBuf>,
    /// What people should be told where the training text is whatever texts a folder has.
    pub note: Option<String>,
}

/// What the files of splits are called.
const TEXT_NAMES: [&str; 5] = ["{}.txt", "wiki.{}.tokens", "wiki.{}.raw", "{}.tokens", "{}.raw"];
const TABLE_NAMES: [&str; 5] = ["{}.csv", "{}.tsv", "{}.jsonl", "{}.json", "{}.parquet"];
/// How the names of texts end, where no name says what is training text.
const TEXT_ENDINGS: [&str; 4] = ["txt", "text", "md", "markdown"];
/// How the names of files begin that stand beside texts and are none of them.
const NO_TEXTS: [&str; 4] = ["readme", "license", "licence", "changelog"];

impl CorpusFiles {
    /// Finds the splits in a folder: `train.txt`, `wiki.train.tokens`, `wiki.train.raw`, `train.tokens` or
    /// `train.raw`, and so for `valid` (or `validation`, `val`, `dev`) and `test`; each may be compressed (`.gz`, `.zst`), and be in shards
    /// (`train-00000-of-00002.txt`, `train_1.txt`). Where there is none of these, `train.csv`, `train.tsv`, `train.jsonl`, `train.parquet` and so
    /// on. Where there is none of those either, all texts (.txt, .md) of the folder and the folders below it are training text, in the order of their
    /// paths. A file is a training text alone.
    ///
    /// # Errors
    /// [`Error::Missing`] when there is nothing; [`Error::BadInput`] when a split has two files, a shard is missing, or the path is a pipe or device.
    pub fn find(path: &Path) -> Result<Self> {
        if path.exists() && !path.is_dir() {
            files::open_regular(path)?;
            return Ok(Self { train: vec![path.to_path_buf()], ..Self::default() });
        }
        if !path.is_dir() {
            return Err(nothing(format!("no such path: {}", path.display())));
        }
        let entries = files::entries(path)?;
        let mut files = Self::default();
        for names in [&TEXT_NAMES[..], &TABLE_NAMES] {
            for split in Split::ALL {
                *files.slot(split) = find_split(&entries, split, names)?;
            }
            if files != Self::default() {
                return Ok(files);
            }
        }
        let mut skipped = 0;
        texts_below(path, &mut files.train, &mut skipped)?;
        if files.train.is_empty() {
            return Err(nothing(format!("no train.txt and no other text in {}", path.display())));
        }
        let (count, path) = (files.train.len(), path.display());
        let others =
            if skipped > 0 { format!("; {skipped} other files are not read") } else { String::new() };
        files.note = Some(format!("all {count} texts (.txt, .md) in {path} are training text{others}"));
        Ok(files)
    }

    /// Those that there are.
    pub fn all(&self) -> impl Iterator<Item = &Path> {
        [&self.train, &self.valid, &self.test].into_iter().flatten().map(PathBuf::as_path)
    }

    /// Whether any of them is a table.
    pub fn are_tables(&self) -> bool {
        self.all().any(|path| RowFormat::of_name(path) != RowFormat::Text)
    }

    /// The files of a split; none where the corpus has no such text.
    pub fn of(&self, split: Split) -> &[PathBuf] {
        match split {
            Split::Train => &self.train,
            Split::Valid => &self.valid,
            Split::Test => &self.test,
        }
    }

    /// The files of a split.
    ///
    /// # Errors
    /// [`Error::Missing`] when the corpus has none.
    pub fn get(&self, split: Split) -> Result<&[PathBuf]> {
        let found = self.of(split);
        if found.is_empty() {
            return Err(Error::Missing {
                what: format!("the corpus has no {split} text"),
                fix: format!("put a {split}.txt beside the other files"),
            });
        }
        Ok(found)
    }

    fn slot(&mut self, split: Split) -> &mut Vec<PathBuf> {
        match split {
            Split::Train => &mut self.train,
            Split::Valid => &mut self.valid,
            Split::Test => &mut self.test,
        }
    }
}

fn nothing(what: String) -> Error {
    let fix = "name a text file or a table, or a folder with train.txt and valid.txt (and test.txt), or with texts (.txt, .md)";
    Error::Missing { what, fix: fix.into() }
}

fn find_split(entries: &[PathBuf], split: Split, names: &[&str]) -> Result<Vec<PathBuf>> {
    shards::of_split(entries, split, |path, stem| {
        let plain = plain_name(path);
        let ending = plain.extension().unwrap_or_default().to_string_lossy();
        let name = format!("{stem}.{ending}");
        let is_name = |pattern: &&str| split.names().iter().any(|split| pattern.replace("{}", split) == name);
        path.is_file() && names.iter().any(is_name)
    })
}

/// The texts of a folder and of those below it, and how many files are none.
fn texts_below(folder: &Path, texts: &mut Vec<PathBuf>, skipped: &mut usize) -> Result<()> {
    for path in files::entries(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            texts_below(&path, texts, skipped)?;
            continue;
        }
        let plain = plain_name(&path);
        let ending = plain.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        let is_text = TEXT_ENDINGS.contains(&ending.as_str());
        if is_text && !NO_TEXTS.iter().any(|other| name.starts_with(other)) && path.is_file() {
            texts.push(path);
        } else {
            *skipped += 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "text\n").unwrap();
        }
        dir
    }

    fn names(dir: &tempfile::TempDir, files: &[PathBuf]) -> Vec<String> {
        let name = |path: &PathBuf| path.strip_prefix(dir.path()).unwrap().to_string_lossy().into_owned();
        files.iter().map(name).collect()
    }

    #[test]
    fn folders_are_searched_for_the_usual_names() {
        let dir = folder(&["wiki.train.tokens", "dev.txt", "books/a.txt"]);
        let files = CorpusFiles::find(dir.path()).unwrap();
        assert_eq!(names(&dir, files.get(Split::Train).unwrap()), ["wiki.train.tokens"]);
        assert_eq!(names(&dir, &files.valid), ["dev.txt"]);
        assert!(files.get(Split::Test).unwrap_err().to_string().contains("no test text"));
        assert_eq!(files.note, None);
        let alone = CorpusFiles::find(&dir.path().join("dev.txt")).unwrap();
        assert_eq!((names(&dir, &alone.train), alone.valid.len()), (vec!["dev.txt".into()], 0));
        fs::write(dir.path().join("test.raw.zst"), "text\n").unwrap();
        assert_eq!(names(&dir, &CorpusFiles::find(dir.path()).unwrap().test), ["test.raw.zst"]);
        fs::write(dir.path().join("valid.txt"), "text\n").unwrap();
        assert!(CorpusFiles::find(dir.path()).unwrap_err().to_string().contains("dev.txt"));
        let missing = CorpusFiles::find(&dir.path().join("nothing")).unwrap_err().to_string();
        assert!(missing.contains("no such path"), "{missing}");
    }

    #[test]
    fn splits_may_be_in_shards() {
        let dir = folder(&[
            "train-00001-of-00002.parquet",
            "train-00000-of-00002.parquet",
            "test-00000-of-00001.parquet",
        ]);
        let files = CorpusFiles::find(dir.path()).unwrap();
        assert_eq!(
            names(&dir, &files.train),
            ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
        );
        assert_eq!(names(&dir, &files.test), ["test-00000-of-00001.parquet"]);
        fs::remove_file(dir.path().join("train-00000-of-00002.parquet")).unwrap();
        let message = CorpusFiles::find(dir.path()).unwrap_err().to_string();
        assert!(message.contains("number 0 is not there"), "{message}");
    }

    #[test]
    fn a_folder_of_texts_is_a_corpus() {
        let dir =
            folder(&["b/c.md", "a.TXT", "README.md", "b/cover.jpg", ".git/x.txt", "b/a.txt.gz", "z.text"]);
        let files = CorpusFiles::find(dir.path()).unwrap();
        assert_eq!(names(&dir, &files.train), ["a.TXT", "b/a.txt.gz", "b/c.md", "z.text"]);
        let note = files.note.unwrap();
        assert!(note.contains("all 4 texts") && note.contains("2 other files"), "{note}");
        let nothing = CorpusFiles::find(folder(&["cover.jpg"]).path()).unwrap_err().to_string();
        assert!(nothing.contains("no train.txt") && nothing.contains("fix: "), "{nothing}");
    }
}
