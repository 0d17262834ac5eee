//! A bag of words as a model folder.
//!
//! Owns: its files, their checking. Never: where the folder lies in a run.
//!
//! ```text
//! bag_of_words.json    the format's number, and the sums of the other two
//! vocabulary.json      what is told, labels, strengths, n-grams
//! model.safetensors    the n-grams' idf and weights
//! ```

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::logistic::columns;
use super::vocabulary::Vocabulary;
use super::{BagOfWords, LinearBag};
use crate::error::{Error, Result};
use crate::files::{FileSum, FileSums, cannot_write, damaged, read_regular, write_atomic};
use crate::tensors::{TensorFile, all_finite, write_tensors};

const SEAL_FILE: &str = "bag_of_words.json";
const VOCABULARY_FILE: &str = "vocabulary.json";
const MODEL_FILE: &str = "model.safetensors";
const FINAL_FOLDER: &str = "final";
/// What this program writes. It reads format 1, too, which knew single labels alone.
const FORMAT: u32 = 2;

/// A bag of words with what it needs to be used.
#[derive(Clone, Debug)]
pub struct BagModel {
    /// What was fitted.
    pub bag: Bag,
    /// The classes' names; none of numbers.
    pub labels: Vec<String>,
    /// Whether it reads pairs of texts.
    pub pairs: bool,
}

/// What was fitted, by what it tells of a text.
#[derive(Clone, Debug)]
pub enum Bag {
    /// One class of several.
    SingleLabel(BagOfWords),
    /// Any number of labels, each by a logistic regression of its own.
    MultiLabel(LinearBag),
    /// A number, by ridge regression.
    Regression(LinearBag),
}

impl Bag {
    /// What an example counted beside the penalty: one, or one for each of several labels.
    pub fn strengths(&self) -> &[f64] {
        match self {
            Self::SingleLabel(bag) => std::slice::from_ref(&bag.strength),
            Self::MultiLabel(bag) | Self::Regression(bag) => &bag.strengths,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seal {
    format: u32,
    files: FileSums,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Problem {
    SingleLabel,
    MultiLabel,
    Regression,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    problem: Problem,
    labels: Vec<String>,
    /// Of single labels the classes that have weights.
    known: Vec<u32>,
    /// Whether the texts are pairs.
    text_pairs: bool,
    strengths: Vec<f64>,
    words: Vec<String>,
    pairs: Vec<(u32, u32)>,
    characters: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FormatOne {
    labels: Vec<String>,
    known: Vec<u32>,
    text_pairs: bool,
    strength: f64,
    words: Vec<String>,
    pairs: Vec<(u32, u32)>,
    characters: Vec<String>,
}

impl From<FormatOne> for Contents {
    fn from(old: FormatOne) -> Self {
        let FormatOne { labels, known, text_pairs, strength, words, pairs, characters } = old;
        let (problem, strengths) = (Problem::SingleLabel, vec![strength]);
        Self { problem, labels, known, text_pairs, strengths, words, pairs, characters }
    }
}

impl Contents {
    /// Numbers that are told of a text; what is wrong where the parts do not hold together.
    fn outputs(&self) -> std::result::Result<usize, &'static str> {
        let Self { problem, labels, known, strengths, .. } = self;
        let rising = known.windows(2).all(|pair| pair[0] < pair[1]);
        let (outputs, fitted) = match problem {
            Problem::SingleLabel => {
                let beyond = known.last().is_none_or(|last| *last as usize >= labels.len());
                if beyond || !rising {
                    return Err("has no classes, or such as have no label");
                }
                (columns(known.len()), 1)
            }
            Problem::MultiLabel if labels.is_empty() => return Err("has no labels"),
            Problem::MultiLabel => (labels.len(), labels.len()),
            Problem::Regression if !labels.is_empty() => return Err("has labels, and tells numbers"),
            Problem::Regression => (1, 1),
        };
        if *problem != Problem::SingleLabel && !known.is_empty() {
            return Err("has single classes, and tells none");
        }
        if strengths.len() == fitted { Ok(outputs) } else { Err("has not as many strengths as were fitted") }
    }
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
        let (problem, vocabulary, weights) = match &self.bag {
            Bag::SingleLabel(bag) => (Problem::SingleLabel, &bag.vocabulary, &bag.weights),
            Bag::MultiLabel(bag) => (Problem::MultiLabel, &bag.vocabulary, &bag.weights),
            Bag::Regression(bag) => (Problem::Regression, &bag.vocabulary, &bag.weights),
        };
        let known = match &self.bag {
            Bag::SingleLabel(bag) => bag.known.clone(),
            Bag::MultiLabel(_) | Bag::Regression(_) => Vec::new(),
        };
        let (words, pairs, characters) = vocabulary.parts();
        let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
        let contents = Contents {
            problem,
            labels: self.labels.clone(),
            known,
            text_pairs: self.pairs,
            strengths: self.bag.strengths().to_vec(),
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
        let shape = [count + 1, weights.len() / (count + 1)];
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
        if !(1..=FORMAT).contains(&seal.format) {
            let what = format!("has format {}, where this program reads 1 to {FORMAT}", seal.format);
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
        let contents = match seal.format {
            1 => parsed::<FormatOne>(&path, &bytes)?.into(),
            _ => parsed::<Contents>(&path, &bytes)?,
        };
        let outputs = contents.outputs().map_err(|what| damaged(&path, what))?;
        let Contents { problem, labels, known, text_pairs, strengths, words, pairs, characters } = contents;
        let file = TensorFile::open(&folder.join(MODEL_FILE), Some(model_sum))?;
        let count = words.len() + pairs.len() + characters.len();
        let array = |name: &str, shape: &[usize]| {
            if !file.fits(name, shape) {
                let what = format!("`{name}`: expected {shape:?}, found {}", file.describe(name));
                return Err(damaged(file.path(), what));
            }
            let mut values = vec![0.0; shape.iter().product()];
            file.copy_to(name, &mut values)?;
            if all_finite(&values) { Ok(values) } else { Err(damaged(file.path(), "is not finite")) }
        };
        let (idf, weights) = (array("idf", &[count])?, array("weights", &[count + 1, outputs])?);
        let Some(vocabulary) = Vocabulary::stored(&words, &pairs, &characters, idf) else {
            return Err(damaged(&path, "names an n-gram twice, or a pair of words that are not there"));
        };
        let bag = match problem {
            Problem::SingleLabel => {
                let (count, strength) = (labels.len(), strengths[0]);
                Bag::SingleLabel(BagOfWords { vocabulary, known, count, weights, strength })
            }
            Problem::MultiLabel => Bag::MultiLabel(LinearBag { vocabulary, outputs, weights, strengths }),
            Problem::Regression => Bag::Regression(LinearBag { vocabulary, outputs, weights, strengths }),
        };
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
    use serde_json::{Value, json};

    use super::*;
    use crate::baseline::{Examples, NGrams, Targets};

    const TEXTS: [&str; 3] = ["calm sea", "old mill", "calm hill"];

    fn model() -> BagModel {
        let examples = Examples { texts: &TEXTS, classes: &[0, 2, 0], count: 3, groups: &[] };
        let bag = BagOfWords::fit(examples, NGrams::WordsAndCharacters, &mut || true).unwrap();
        BagModel { bag: Bag::SingleLabel(bag), labels: labels(&["a", "b", "c"]), pairs: false }
    }

    fn linear(texts: &[&str], targets: Targets<'_>) -> LinearBag {
        LinearBag::fit((texts, &[]), targets, NGrams::WordsAndCharacters, None, &mut || true).unwrap()
    }

    fn of_labels() -> BagModel {
        let targets = Targets::MultiLabel(&[1.0, 0.0, 0.0, 1.0, 1.0, 1.0], 2);
        BagModel { bag: Bag::MultiLabel(linear(&TEXTS, targets)), labels: labels(&["x", "y"]), pairs: true }
    }

    fn of_numbers() -> BagModel {
        let bag = Bag::Regression(linear(&TEXTS, Targets::Numbers(&[0.5, -2.0, 1.0])));
        BagModel { bag, labels: Vec::new(), pairs: false }
    }

    fn labels(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    /// The bits of what is told of a text.
    fn told(model: &BagModel, text: &str) -> Vec<u64> {
        let numbers: Vec<f64> = match &model.bag {
            Bag::SingleLabel(bag) => bag.probabilities(text),
            Bag::MultiLabel(bag) | Bag::Regression(bag) => {
                bag.outputs(text).into_iter().map(f64::from).collect()
            }
        };
        numbers.into_iter().map(f64::to_bits).collect()
    }

    /// Another vocabulary.json and format, sealed as if they had been written so.
    fn change(folder: &Path, format: u32, change: impl Fn(&mut Value)) {
        let path = folder.join(VOCABULARY_FILE);
        let mut contents: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut contents);
        let bytes = serde_json::to_vec(&contents).unwrap();
        std::fs::write(&path, &bytes).unwrap();
        let path = folder.join(SEAL_FILE);
        let mut seal: Seal = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        seal.format = format;
        seal.files.insert(VOCABULARY_FILE.into(), FileSum::of(&bytes));
        std::fs::write(&path, serde_json::to_vec(&seal).unwrap()).unwrap();
    }

    /// What `vocabulary.json` was in format 1.
    fn to_format_one(contents: &mut Value) {
        let fields = contents.as_object_mut().unwrap();
        fields.remove("problem");
        let strengths = fields.remove("strengths").unwrap();
        fields.insert("strength".into(), strengths[0].clone());
    }

    #[test]
    fn what_was_written_comes_back_to_the_bit() {
        // Of texts without a word the constants are left.
        let wordless = linear(&["", " "], Targets::Numbers(&[1.0, 2.0]));
        let wordless = BagModel { bag: Bag::Regression(wordless), ..of_numbers() };
        for model in [model(), of_labels(), of_numbers(), wordless] {
            let dir = tempfile::tempdir().unwrap();
            model.write(dir.path()).unwrap();
            let again = BagModel::open(&BagModel::folder(dir.path()).unwrap()).unwrap();
            assert_eq!(std::mem::discriminant(&again.bag), std::mem::discriminant(&model.bag));
            for text in ["calm", "mill mill", "", "unheard of"] {
                assert_eq!(told(&again, text), told(&model, text));
            }
            assert_eq!(again.bag.strengths(), model.bag.strengths());
            assert_eq!((again.labels, again.pairs), (model.labels, model.pairs));
            assert!(BagModel::folder(&dir.path().join("no")).is_none());
        }
    }

    #[test]
    fn a_folder_of_format_one_is_the_same_model() {
        let (dir, model) = (tempfile::tempdir().unwrap(), model());
        model.write(dir.path()).unwrap();
        change(dir.path(), 1, to_format_one);
        let again = BagModel::open(dir.path()).unwrap();
        assert!(matches!(again.bag, Bag::SingleLabel(_)));
        assert_eq!(again.bag.strengths(), model.bag.strengths());
        assert_eq!(told(&again, "calm mill"), told(&model, "calm mill"));
    }

    #[test]
    fn damage_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        for model in [model(), of_labels(), of_numbers()] {
            for name in [SEAL_FILE, VOCABULARY_FILE, MODEL_FILE] {
                model.write(dir.path()).unwrap();
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
    }

    #[test]
    fn files_that_do_not_belong_together_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |model: &BagModel, format: u32, fields: &[(&str, Value)], expected: &str| {
            model.write(dir.path()).unwrap();
            change(dir.path(), format, |contents| {
                for (name, value) in fields {
                    contents[*name] = value.clone();
                }
            });
            let error = BagModel::open(dir.path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{fields:?}: {error}");
        };
        let (single, several, number) = (model(), of_labels(), of_numbers());
        refused(&single, 2, &[("known", json!([0, 9]))], "no label");
        refused(&single, 2, &[("known", json!([2, 0]))], "no label");
        refused(&single, 2, &[("known", json!([]))], "no label");
        refused(&single, 2, &[("known", json!([0, 1, 2]))], "`weights`");
        refused(&single, 2, &[("strengths", json!([]))], "strengths");
        refused(&single, 2, &[("words", json!(["calm", "calm", "old", "mill", "hill"]))], "twice");
        refused(&several, 2, &[("labels", json!([])), ("strengths", json!([]))], "no labels");
        refused(&several, 2, &[("labels", json!(["x"]))], "strengths");
        refused(&several, 2, &[("labels", json!(["x"])), ("strengths", json!([1.0]))], "`weights`");
        refused(&several, 2, &[("known", json!([0, 1]))], "single classes");
        refused(&several, 2, &[("problem", json!("regression"))], "tells numbers");
        refused(&number, 2, &[("labels", json!(["x"]))], "tells numbers");
        refused(&number, 2, &[("strengths", json!([1.0, 1.0]))], "strengths");
        refused(&number, 2, &[("problem", json!("single-label"))], "no classes");
        refused(&number, 2, &[("problem", json!("ranking"))], "ranking");
        // What is of one format is none of the other, and a later one is not known.
        refused(&single, 1, &[], "is not what was written");
        refused(&single, 3, &[], "has format 3");
        refused(&single, 0, &[], "has format 0");
        single.write(dir.path()).unwrap();
        change(dir.path(), 2, to_format_one);
        assert!(BagModel::open(dir.path()).unwrap_err().to_string().contains("is not what was written"));
    }
}
