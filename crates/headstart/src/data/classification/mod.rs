//! Classification data: texts with labels become examples of token ids, from whatever layout they come in.
//!
//! Owns: examples, the meaning of labels, truncation and the final classification token, the held-out validation
//! split. Never: batches or shuffles. `sources` finds the files, `read` takes them apart.

mod read;
mod sources;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub(in crate::data) use read::text_column;

use super::cache::{self, CacheKey, CacheUse, Progress, TokenStore};
use super::encoding::{TextEncoding, bad};
use super::split::Split;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// The part of the training data that becomes validation data where a data set has none.
pub const HELD_OUT_FRACTION: f64 = 0.1;

/// The question types of TREC-6 in their fixed order.
pub const TREC_LABELS: [&str; 6] = ["NUM", "LOC", "HUM", "DESC", "ENTY", "ABBR"];

/// What a label is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LabelKind {
    /// One class of several.
    #[default]
    Single,
    /// Any number of classes: several `__label__`, a JSON list, or names with `|` between them.
    Multi,
    /// A number.
    Regression,
}

/// The label of an example.
#[derive(Debug, Clone, PartialEq)]
pub enum Label {
    /// The class, an index into the labels ([`LabelKind::Single`]).
    Class(u32),
    /// The classes, ascending ([`LabelKind::Multi`]).
    Classes(Vec<u32>),
    /// The number ([`LabelKind::Regression`]).
    Value(f32),
}

/// One example.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Example<'a> {
    /// At most `max_positions` ids, the last of them the classification token.
    pub ids: &'a [u32],
    /// Its label.
    pub label: &'a Label,
}

/// How a data set is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassificationOptions {
    /// What the labels are.
    pub label_kind: LabelKind,
    /// The column with the text (CSV, TSV, JSONL); `None` finds it by its name.
    pub text_column: Option<String>,
    /// The column with the label; `None` finds it by its name.
    pub label_column: Option<String>,
    /// The file with the labels, line by line, where the data is a file with the texts alone.
    pub labels_file: Option<PathBuf>,
    /// The encoding of all files.
    pub encoding: TextEncoding,
    /// The longest example in tokens, the classification token included.
    pub max_positions: usize,
    /// The labels of a trained model, in its order: any other is an error. `None` takes them from the data.
    pub known_labels: Option<Vec<String>>,
}

impl ClassificationOptions {
    /// The usual options for a model with `max_positions` positions.
    pub fn new(max_positions: usize) -> Self {
        Self {
            label_kind: LabelKind::default(),
            text_column: None,
            label_column: None,
            labels_file: None,
            encoding: TextEncoding::default(),
            max_positions,
            known_labels: None,
        }
    }
}

/// A data set for classification.
#[derive(Debug, Clone)]
pub struct ClassificationData {
    /// The names of the classes by index; empty for [`LabelKind::Regression`].
    pub labels: Vec<String>,
    /// What the labels are.
    pub label_kind: LabelKind,
    /// The training examples. A file or folder that is not split stands here, too.
    pub train: Option<LabelledSplit>,
    /// The validation examples; see [`Self::hold_out_validation`].
    pub valid: Option<LabelledSplit>,
    /// The test examples.
    pub test: Option<LabelledSplit>,
    /// Whether the token ids came from the cache: [`CacheUse::Hit`] when all of them did.
    pub cache_use: CacheUse,
}

/// The examples of one split, in the order of the data.
#[derive(Debug, Clone)]
pub struct LabelledSplit {
    tokens: Arc<Tokens>,
    labels: Arc<Vec<Label>>,
    rows: Vec<u32>,
}

/// The ids of some texts, back to back.
#[derive(Debug)]
struct Tokens {
    store: TokenStore,
    starts: Vec<usize>,
    // Tokens of each text before it was truncated, without the classification token.
    full_lengths: Vec<u32>,
    max_positions: usize,
}

impl LabelledSplit {
    /// The number of examples.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none, which loading never returns.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Example `index`, or `None` past the last one.
    pub fn get(&self, index: usize) -> Option<Example<'_>> {
        let row = *self.rows.get(index)? as usize;
        let ids = self.tokens.store.ids().get(self.tokens.starts[row]..self.tokens.starts[row + 1])?;
        Some(Example { ids, label: self.labels.get(row)? })
    }

    /// All examples.
    pub fn iter(&self) -> impl Iterator<Item = Example<'_>> {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// Tokens of every text before truncation, without the classification token.
    pub fn full_lengths(&self) -> impl Iterator<Item = u32> {
        self.rows.iter().map(|&row| self.tokens.full_lengths[row as usize])
    }

    /// How many texts were cut to fit the positions.
    pub fn truncated(&self) -> usize {
        self.full_lengths().filter(|&n| n as usize >= self.tokens.max_positions).count()
    }

    /// How many texts are empty. They are kept: the classification token alone.
    pub fn empty_texts(&self) -> usize {
        self.full_lengths().filter(|&n| n == 0).count()
    }

    /// How many examples each class has, by class index. Regression has no classes.
    pub fn class_counts(&self, num_labels: usize) -> Vec<u64> {
        let mut counts = vec![0; num_labels];
        for example in self.iter() {
            let classes = match example.label {
                Label::Class(class) => std::slice::from_ref(class),
                Label::Classes(classes) => classes,
                Label::Value(_) => &[],
            };
            for &class in classes {
                if let Some(count) = counts.get_mut(class as usize) {
                    *count += 1;
                }
            }
        }
        counts
    }
}

/// The input of a classification model: at most `max_positions - 1` ids of `text`, then the classification token.
/// Also says how many tokens the text had before it was cut.
///
/// # Errors
/// [`Error::BadInput`] when the tokenizer fails.
pub fn encode_text(tokenizer: &Tokenizer, text: &str, max_positions: usize) -> Result<(Vec<u32>, usize)> {
    let mut ids = tokenizer.encode(text)?;
    let full_length = ids.len();
    ids.truncate(max_positions.saturating_sub(1));
    ids.push(tokenizer.roles().classification);
    Ok((ids, full_length))
}

impl ClassificationData {
    /// Reads a data set: a file, or a folder with `train`, `valid` and `test` files or folders of classes.
    ///
    /// Formats: CSV, TSV (without quoting), JSONL, `__label__x text`, `LABEL:sub text` (the part before the colon
    /// is the label), a text file with a labels file beside it (`train.txt` + `train.labels`), one folder per
    /// class with a `.txt` file per text. Labels are numbered in order of first appearance in the training data;
    /// TREC's and `pos` / `neg` folders have their customary order, other folders the alphabet's.
    ///
    /// # Errors
    /// [`Error::Missing`] when there is no data; [`Error::BadInput`] naming file and line for what cannot be used,
    /// a label that is missing, unknown or the only one; [`Error::Config`] for impossible options; [`Error::Io`].
    pub fn load(
        path: &Path,
        options: &ClassificationOptions,
        tokenizer: &Tokenizer,
        cache_folder: &Path,
        progress: Progress<'_>,
    ) -> Result<Self> {
        if options.max_positions < 2 {
            return Err(Error::Config {
                key: "num_max_positions".into(),
                what: format!("{} positions leave no room for text and [CLS]", options.max_positions),
                fix: "use at least 2".into(),
            });
        }
        let mut texts = BTreeMap::new();
        for (split, source) in sources::find(path, options)? {
            texts.insert(split, read::read(&source, options)?);
        }
        let labels = match (&options.known_labels, options.label_kind) {
            (_, LabelKind::Regression) => Vec::new(),
            (Some(known), _) => known.clone(),
            (None, _) => discover_labels(&texts),
        };
        let mut data = Self::without_examples(labels, options.label_kind);
        for (&split, texts) in &texts {
            let resolved = texts.labels(&data.labels, options.label_kind)?;
            if split == Split::Train && options.known_labels.is_none() {
                refuse_one_class(texts, &resolved, &data.labels)?;
            }
            let (tokens, usage) = cached_tokens(texts, options, tokenizer, cache_folder, progress)?;
            // The whole was a hit only if every part was.
            if usage != CacheUse::Hit && data.cache_use != CacheUse::Rebuilt {
                data.cache_use = usage;
            }
            *data.slot(split) = Some(LabelledSplit::new(tokens, resolved));
        }
        Ok(data)
    }

    /// A data set of texts in memory, single-label: for each split, pairs of label and text.
    ///
    /// # Errors
    /// [`Error::BadInput`] when a label is not among `labels`, or the tokenizer fails.
    pub fn from_texts(
        splits: &[(Split, &[(&str, &str)])],
        labels: &[&str],
        tokenizer: &Tokenizer,
        max_positions: usize,
    ) -> Result<Self> {
        let names = labels.iter().map(|&l| l.to_owned()).collect();
        let mut data = Self::without_examples(names, LabelKind::Single);
        data.cache_use = CacheUse::Memory;
        for &(split, examples) in splits {
            let texts = read::Texts::in_memory(&split.to_string(), examples);
            let resolved = texts.labels(&data.labels, LabelKind::Single)?;
            let (mut ids, mut lengths) = (Vec::new(), Vec::new());
            for (part, full) in tokenise(&texts.examples, tokenizer, max_positions)? {
                ids.extend(part);
                lengths.push(full);
            }
            let tokens = Tokens::new(TokenStore::from_vec(ids), lengths, max_positions);
            *data.slot(split) = Some(LabelledSplit::new(tokens, resolved));
        }
        Ok(data)
    }

    /// Where there is no validation data, takes [`HELD_OUT_FRACTION`] of the training data for it: of every class
    /// the same part, chosen by `seed`. Returns how many examples moved.
    ///
    /// # Errors
    /// [`Error::Missing`] when there is no training data, or too little to share.
    pub fn hold_out_validation(&mut self, seed: u64) -> Result<usize> {
        if self.valid.is_some() {
            return Ok(0);
        }
        let short = |what: &str| Error::Missing {
            what: what.into(),
            fix: "add a train file, or a valid file beside it".into(),
        };
        let train = self.train.as_mut().ok_or_else(|| short("the data has no training examples"))?;
        let mut strata: BTreeMap<u32, Vec<(u64, u32)>> = BTreeMap::new();
        for &row in &train.rows {
            let class = if let Label::Class(class) = train.labels[row as usize] { class } else { 0 };
            strata.entry(class).or_default().push((mix(seed, u64::from(row)), row));
        }
        let mut held: HashSet<u32> = HashSet::new();
        for rows in strata.values_mut() {
            rows.sort_unstable();
            let count = (rows.len() as f64 * HELD_OUT_FRACTION).round() as usize;
            held.extend(rows.iter().take(count).map(|&(_, row)| row));
        }
        if held.is_empty() {
            // Very small classes only: one example, so that there is something to validate on.
            held.extend(strata.values().flatten().min().map(|&(_, row)| row));
        }
        if held.len() >= train.rows.len() {
            return Err(short("there is too little training data to hold out a validation split"));
        }
        let (valid, rest): (Vec<u32>, Vec<u32>) = train.rows.iter().partition(|&row| held.contains(row));
        self.valid = Some(LabelledSplit { rows: valid, ..train.clone() });
        train.rows = rest;
        Ok(held.len())
    }

    /// The examples of a split.
    ///
    /// # Errors
    /// [`Error::Missing`] when the data has no such split.
    pub fn get(&self, split: Split) -> Result<&LabelledSplit> {
        let found = match split {
            Split::Train => &self.train,
            Split::Valid => &self.valid,
            Split::Test => &self.test,
        };
        found.as_ref().ok_or_else(|| Error::Missing {
            what: format!("the data has no {split} examples"),
            fix: format!("add a {split} file to the folder"),
        })
    }

    fn without_examples(labels: Vec<String>, label_kind: LabelKind) -> Self {
        Self { labels, label_kind, train: None, valid: None, test: None, cache_use: CacheUse::Hit }
    }

    fn slot(&mut self, split: Split) -> &mut Option<LabelledSplit> {
        match split {
            Split::Train => &mut self.train,
            Split::Valid => &mut self.valid,
            Split::Test => &mut self.test,
        }
    }
}

impl LabelledSplit {
    fn new(tokens: Tokens, labels: Vec<Label>) -> Self {
        let rows = (0..labels.len() as u32).collect();
        Self { tokens: Arc::new(tokens), labels: Arc::new(labels), rows }
    }
}

impl Tokens {
    fn new(store: TokenStore, full_lengths: Vec<u32>, max_positions: usize) -> Self {
        let mut starts = vec![0];
        let mut end = 0;
        for &length in &full_lengths {
            end += (length as usize).min(max_positions.saturating_sub(1)) + 1;
            starts.push(end);
        }
        Self { store, starts, full_lengths, max_positions }
    }
}

/// The labels of a data set in order: the customary order where the format has one, else that of the training data,
/// else that of the first split there is.
fn discover_labels(texts: &BTreeMap<Split, read::Texts>) -> Vec<String> {
    let Some(first) = texts.values().next() else { return Vec::new() };
    let mut seen = HashSet::new();
    let all = first.examples.iter().flat_map(|e| &e.labels);
    let found: Vec<&str> = all.map(String::as_str).filter(|l| seen.insert(*l)).collect();
    let customary: &[&str] = match first.format {
        sources::Format::Trec => &TREC_LABELS,
        sources::Format::ClassFolders => &["pos", "neg"],
        _ => &[],
    };
    let names = if found.iter().all(|l| customary.contains(l)) { customary } else { &found };
    names.iter().map(|&l| l.to_owned()).collect()
}

fn refuse_one_class(texts: &read::Texts, labels: &[Label], names: &[String]) -> Result<()> {
    let Some(Label::Class(first)) = labels.first() else { return Ok(()) };
    if labels.iter().any(|l| *l != Label::Class(*first)) {
        return Ok(());
    }
    let what = format!("all {} examples have the label `{}`", labels.len(), names[*first as usize]);
    Err(bad(&texts.files[0], None, what, "give examples of at least two classes"))
}

/// The tokens of a split. The key is made of the texts as read, so a changed file, column or encoding is another
/// key; labels are read every time, so their errors show every time.
fn cached_tokens(
    texts: &read::Texts,
    options: &ClassificationOptions,
    tokenizer: &Tokenizer,
    cache_folder: &Path,
    progress: Progress<'_>,
) -> Result<(Tokens, CacheUse)> {
    let mut key = CacheKey::new("classification")
        .with(tokenizer.content_hash().as_bytes())
        .with(&(options.max_positions as u64).to_le_bytes());
    for example in &texts.examples {
        key = key.with(example.text.as_bytes());
    }
    let build = |writer: &mut cache::CacheWriter| {
        let total = texts.examples.iter().map(|e| e.text.len() as u64).sum();
        let mut done = 0;
        let mut lengths: Vec<u32> = Vec::with_capacity(texts.examples.len());
        for examples in texts.examples.chunks(2048) {
            for (ids, full) in tokenise(examples, tokenizer, options.max_positions)? {
                writer.append(&ids)?;
                lengths.push(full);
            }
            done += examples.iter().map(|e| e.text.len() as u64).sum::<u64>();
            progress(done, total);
        }
        Ok(lengths)
    };
    let (store, lengths, usage) = cache::load_or_build(cache_folder, &key, build)?;
    Ok((Tokens::new(store, lengths, options.max_positions), usage))
}

fn tokenise(
    examples: &[read::TextExample],
    tokenizer: &Tokenizer,
    max_positions: usize,
) -> Result<Vec<(Vec<u32>, u32)>> {
    let encode = |e: &read::TextExample| {
        let (ids, full) = encode_text(tokenizer, &e.text, max_positions)?;
        Ok((ids, full as u32))
    };
    examples.par_iter().map(encode).collect()
}

/// A number that looks random, from a seed and a counter (SplitMix64's output function).
fn mix(seed: u64, counter: u64) -> u64 {
    let mut z = seed.wrapping_add(counter.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl read::Texts {
    /// The labels as numbers.
    fn labels(&self, names: &[String], kind: LabelKind) -> Result<Vec<Label>> {
        let by_name: HashMap<&str, u32> =
            names.iter().enumerate().map(|(id, n)| (n.as_str(), id as u32)).collect();
        self.examples.iter().map(|example| self.label(example, &by_name, names, kind)).collect()
    }

    fn label(
        &self,
        example: &read::TextExample,
        by_name: &HashMap<&str, u32>,
        names: &[String],
        kind: LabelKind,
    ) -> Result<Label> {
        let fail = |what: String, fix: String| Err(bad(&self.files[example.file], example.line, what, fix));
        if kind == LabelKind::Regression {
            return match example.labels.first().map(|l| l.parse::<f32>()) {
                Some(Ok(value)) if value.is_finite() => Ok(Label::Value(value)),
                _ => fail(
                    format!("the label `{}` is not a number", example.labels.join(" ")),
                    "give a number on every line, or leave regression out".into(),
                ),
            };
        }
        let mut classes = Vec::with_capacity(example.labels.len());
        for label in &example.labels {
            match by_name.get(label.as_str()) {
                Some(&class) => classes.push(class),
                None => {
                    return fail(
                        format!("unknown label `{label}`; the known labels are {}", names.join(", ")),
                        "correct the label, or train with data that has it".into(),
                    );
                }
            }
        }
        match (kind, classes.as_slice()) {
            (LabelKind::Multi, _) => {
                classes.sort_unstable();
                classes.dedup();
                Ok(Label::Classes(classes))
            }
            (_, [class]) => Ok(Label::Class(*class)),
            _ => fail(
                format!("{} labels where one is expected", classes.len()),
                "keep one label, or use multi-label classification".into(),
            ),
        }
    }
}

#[cfg(test)]
mod tests;
