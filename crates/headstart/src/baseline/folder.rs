//! A bag of words as a model folder.
//!
//! Owns: its files, their checking. Never: where the folder lies in a run.
//!
//! ```text
//! bag_of_words.json    the format's number, and the sums of the other two
//! vocabulary.json      labels, n-grams
//! model.safetensors    the n-grams' idf and weights
//! ```

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::BagOfWords;
use super::logistic::columns;
use super::vocabulary::Vocabulary;
use crate::error::{Error, Result};
use crate::files::{FileSum, FileSums, cannot_write, damaged, read_regular, write_atomic};
use crate::tensors::{TensorFile, all_finite, write_tensors};

const SEAL_FILE: &str = "bag_of_words.json";
const VOCABULARY_FILE: &str = "vocabulary.json";
const MODEL_FILE: &str = "model.safetensors";
const FINAL_FOLDER: &str = "final";
/// What this program writes and reads.
const FORMAT: u32 = 1;

/// A bag of words with what it needs to be used.
#[derive(Clone, Debug)]
pub struct BagModel {
    /// The classifier.
    pub bag: BagOfWords,
    /// The classes' names.
    pub labels: Vec<String>,
    /// Whether it reads pairs of texts.
    pub pairs: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seal {
    format: u32,
    files: FileSums,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    labels: Vec<String>,
    /// The classes that have weights.
    known: Vec<u32>,
    /// Whether the texts are pairs.
    text_pairs: bool,
    strength: f64,
    words: Vec<String>,
    pairs: Vec<(u32, u32)>,
    characters: Vec<String>,
}

impl BagModel {
    /// The folder of a bag of words that `path` means: itself, or the `final/` in it.
    pub fn folder(path: &Path) -> Option<PathBuf> {
        let of = |folder: PathBuf| folder.join(SEAL_FILE).is_file().then_some(folder);
        of(path.to_path_buf()).or_else(|| of(path.join(FINAL_FOLDER)))
    }

    /// What to say where a transformer is asked for and `folder` holds a bag of words; nothing where it does not.
    ///
    /// # Errors
    /// [`Error::Checkpoint`].
    pub fn refuse(folder: &Path) -> Result<()> {
        if Self::folder(folder).is_none() {
            return Ok(());
        }
        Err(Error::Checkpoint {
            path: folder.to_path_buf(),
            what: "is a bag of words, not a transformer".into(),
            fix: "use it with predict and eval; for the rest, fine-tune a model with another --method".into(),
        })
    }

    /// Writes its files into a folder.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming the file that the disk refused.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let BagOfWords { vocabulary, known, weights, strength, .. } = &self.bag;
        let (words, pairs, characters) = vocabulary.parts();
        let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
        let contents = Contents {
            labels: self.labels.clone(),
            known: known.clone(),
            text_pairs: self.pairs,
            strength: *strength,
            words: owned(words),
            pairs,
            characters: owned(characters),
        };
        let json =
            |value: serde_json::Result<Vec<u8>>, path: &Path| value.map_err(|e| cannot_write(path)(e.into()));
        let mut files = FileSums::new();
        let path = folder.join(VOCABULARY_FILE);
        let bytes = json(serde_json::to_vec(&contents), &path)?;
        write_atomic(&path, &bytes)?;
        files.insert(VOCABULARY_FILE.into(), FileSum::of(&bytes));
        let path = folder.join(MODEL_FILE);
        let count = vocabulary.count();
        let shape = [count + 1, columns(known.len())];
        let tensors = [
            ("idf".to_owned(), &[count][..], &vocabulary.idf[..]),
            ("weights".to_owned(), &shape[..], &weights[..]),
        ];
        files.insert(MODEL_FILE.into(), write_tensors(&path, &tensors).map_err(cannot_write(&path))?);
        let path = folder.join(SEAL_FILE);
        let bytes = json(serde_json::to_vec_pretty(&Seal { format: FORMAT, files }), &path)?;
        write_atomic(&path, &bytes)
    }

    /// Reads one from its folder.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming the file that is missing, altered or does not hold together.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(SEAL_FILE);
        let seal: Seal = parsed(&path, &read(&path)?)?;
        if seal.format != FORMAT {
            let what = format!("has format {}, where this program reads {FORMAT}", seal.format);
            return Err(damaged(&path, what));
        }
        let sum = |name: &str| {
            let missing = || damaged(&path, format!("does not name {name}"));
            seal.files.get(name).ok_or_else(missing)
        };
        let (vocabulary_sum, model_sum) = (sum(VOCABULARY_FILE)?, sum(MODEL_FILE)?);
        let path = folder.join(VOCABULARY_FILE);
        let bytes = read(&path)?;
        vocabulary_sum.check(&path, &bytes)?;
        let contents: Contents = parsed(&path, &bytes)?;
        let Contents { labels, known, text_pairs, strength, words, pairs, characters } = contents;
        let rising = known.windows(2).all(|pair| pair[0] < pair[1]);
        if known.is_empty() || !rising || known.last().is_some_and(|last| *last as usize >= labels.len()) {
            return Err(damaged(&path, "has no classes, or such as have no label"));
        }
        let file = TensorFile::open(&folder.join(MODEL_FILE), Some(model_sum))?;
        let (count, k) = (words.len() + pairs.len() + characters.len(), columns(known.len()));
        let array = |name: &str, shape: &[usize]| {
            if !file.fits(name, shape) {
                let what = format!("`{name}`: expected {shape:?}, found {}", file.describe(name));
                return Err(damaged(file.path(), what));
            }
            let mut values = vec![0.0; shape.iter().product()];
            file.copy_to(name, &mut values)?;
            if all_finite(&values) { Ok(values) } else { Err(damaged(file.path(), "is not finite")) }
        };
        let (idf, weights) = (array("idf", &[count])?, array("weights", &[count + 1, k])?);
        let Some(vocabulary) = Vocabulary::stored(&words, &pairs, &characters, idf) else {
            return Err(damaged(&path, "names an n-gram twice, or a pair of words that are not there"));
        };
        let bag = BagOfWords { vocabulary, known, count: labels.len(), weights, strength };
        Ok(Self { bag, labels, pairs: text_pairs })
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    if path.is_file() { read_regular(path) } else { Err(damaged(path, "is missing")) }
}

fn parsed<T: for<'a> Deserialize<'a>>(path: &Path, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|e| -> Error { damaged(path, format!("is not what was written: {e}")) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baseline::{Examples, NGrams};

    fn model() -> BagModel {
        let examples =
            Examples { texts: &["calm sea", "old mill", "calm hill"], classes: &[0, 2, 0], count: 3 };
        let bag = BagOfWords::fit(examples, NGrams::WordsAndCharacters, &mut || true).unwrap();
        BagModel { bag, labels: ["a", "b", "c"].map(str::to_owned).to_vec(), pairs: false }
    }

    #[test]
    fn what_was_written_comes_back_to_the_bit() {
        let dir = tempfile::tempdir().unwrap();
        let model = model();
        model.write(dir.path()).unwrap();
        let again = BagModel::open(&BagModel::folder(dir.path()).unwrap()).unwrap();
        for text in ["calm", "mill mill", "", "unheard of"] {
            assert_eq!(again.bag.probabilities(text), model.bag.probabilities(text));
        }
        assert_eq!((again.labels, again.pairs), (model.labels, false));
        assert!(BagModel::folder(&dir.path().join("no")).is_none());
    }

    #[test]
    fn damage_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        for name in [SEAL_FILE, VOCABULARY_FILE, MODEL_FILE] {
            model().write(dir.path()).unwrap();
            let path = dir.path().join(name);
            let whole = std::fs::read(&path).unwrap();
            let mut flipped = whole.clone();
            flipped[whole.len() / 2] ^= 1;
            for bytes in [&whole[..whole.len() / 2], &[], &flipped] {
                std::fs::write(&path, bytes).unwrap();
                let error = BagModel::open(dir.path()).unwrap_err().to_string();
                // What seals the others is believed, so the error may name one of them.
                assert!(name == SEAL_FILE || error.contains(name), "{name}: {error}");
            }
            std::fs::remove_file(&path).unwrap();
            assert!(BagModel::open(dir.path()).unwrap_err().to_string().contains("is missing"));
        }
    }

    #[test]
    fn files_that_do_not_belong_together_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        model().write(dir.path()).unwrap();
        let seal = |change: &dyn Fn(&mut serde_json::Value)| {
            let path = dir.path().join(VOCABULARY_FILE);
            let mut contents: serde_json::Value =
                serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            change(&mut contents);
            let bytes = serde_json::to_vec(&contents).unwrap();
            std::fs::write(&path, &bytes).unwrap();
            let path = dir.path().join(SEAL_FILE);
            let mut seal: Seal = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            seal.files.insert(VOCABULARY_FILE.into(), FileSum::of(&bytes));
            std::fs::write(&path, serde_json::to_vec(&seal).unwrap()).unwrap();
            BagModel::open(dir.path()).unwrap_err().to_string()
        };
        assert!(seal(&|c| c["known"] = serde_json::json!([0, 9])).contains("no label"));
        assert!(seal(&|c| c["known"] = serde_json::json!([0, 1, 2])).contains("`weights`"));
        assert!(
            seal(&|c| {
                c["known"] = serde_json::json!([0, 2]);
                c["words"][1] = c["words"][0].clone();
            })
            .contains("twice")
        );
    }
}
