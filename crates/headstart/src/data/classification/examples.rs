//! The examples of a split: the plain token ids of whole texts, mapped from the cache, and their labels.
//!
//! Owns: ids and labels by row, the cache's key. Never: special tokens, truncation (`template`), the files' syntax.

use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{Label, read};
use crate::data::cache::{self, CacheKey, CacheUse, Progress, TokenStore};
use crate::data::unknown::UnknownTokens;
use crate::error::Result;
use crate::tokenizer::{self, Tokenizer};

/// One example.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Example<'a> {
    /// The ids of the whole text, without special tokens.
    pub ids: &'a [u32],
    /// Its label.
    pub label: &'a Label,
    /// The same for texts that are the same, spaces at their ends left out.
    pub fingerprint: u64,
}

/// The examples of one split, in the order of the data.
#[derive(Debug, Clone)]
pub struct LabelledSplit {
    tokens: Arc<Tokens>,
    pub(super) labels: Arc<Vec<Label>>,
    pub(super) rows: Vec<u32>,
}

/// The ids of some texts, back to back.
#[derive(Debug)]
pub(super) struct Tokens {
    store: TokenStore,
    starts: Vec<usize>,
    fingerprints: Vec<u64>,
}

impl LabelledSplit {
    pub(super) fn new(tokens: Tokens, labels: Vec<Label>) -> Self {
        let rows = (0..labels.len() as u32).collect();
        Self { tokens: Arc::new(tokens), labels: Arc::new(labels), rows }
    }

    /// The same texts and labels, of which only these rows count.
    pub(super) fn with_rows(&self, rows: Vec<u32>) -> Self {
        Self { rows, ..self.clone() }
    }

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
        Some(Example { ids, label: self.labels.get(row)?, fingerprint: self.tokens.fingerprints[row] })
    }

    /// All examples.
    pub fn iter(&self) -> impl Iterator<Item = Example<'_>> {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// Tokens of every text.
    pub fn lengths(&self) -> impl Iterator<Item = usize> {
        self.rows.iter().map(|&row| self.tokens.length(row as usize))
    }

    /// How many texts are empty. They are kept.
    pub fn empty_texts(&self) -> usize {
        self.lengths().filter(|&n| n == 0).count()
    }

    /// How many examples each class has, by class index. Regression has no classes.
    pub fn class_counts(&self, num_labels: usize) -> Vec<u64> {
        let mut counts = vec![0; num_labels];
        for example in self.iter() {
            for &class in example.label.classes() {
                if let Some(count) = counts.get_mut(class as usize) {
                    *count += 1;
                }
            }
        }
        counts
    }
}

impl Tokens {
    fn new(texts: &read::Texts, store: TokenStore, lengths: &[u32]) -> Self {
        let mut starts = vec![0];
        let mut end = 0;
        for &length in lengths {
            end += length as usize;
            starts.push(end);
        }
        // Not of the tokens: a small vocabulary gives different texts the same ones.
        let fingerprint = |e: &read::TextExample| {
            let digest = Sha256::digest(e.text.trim());
            digest.iter().take(8).fold(0, |all, &byte| all << 8 | u64::from(byte))
        };
        Self { store, starts, fingerprints: texts.examples.par_iter().map(fingerprint).collect() }
    }

    /// Which of them stand for what the vocabulary cannot spell.
    pub fn unknown(&self, texts: &read::Texts, tokenizer: &Tokenizer) -> UnknownTokens {
        let mut unknown = UnknownTokens::default();
        for (example, bounds) in texts.examples.iter().zip(self.starts.windows(2)) {
            let ids = self.store.ids().get(bounds[0]..bounds[1]).unwrap_or_default();
            unknown.add(&example.text, ids, tokenizer);
        }
        unknown
    }

    fn length(&self, row: usize) -> usize {
        self.starts[row + 1] - self.starts[row]
    }
}

/// The tokens of a split. The key is made of the texts as read, so a changed file, column or encoding is another
/// key; labels are read every time, so their errors show every time.
pub(super) fn cached_tokens(
    texts: &read::Texts,
    tokenizer: &Tokenizer,
    cache_folder: &Path,
    progress: Progress<'_>,
) -> Result<(Tokens, CacheUse)> {
    let mut key = CacheKey::new("texts").with(tokenizer.content_hash().as_bytes());
    for example in &texts.examples {
        key = key.with(example.text.as_bytes());
    }
    let build = |writer: &mut cache::CacheWriter| {
        let total = texts.examples.iter().map(|e| e.text.len() as u64).sum();
        let mut done = 0;
        let mut lengths: Vec<u32> = Vec::with_capacity(texts.examples.len());
        for batch in tokenizer::batches(texts.examples.iter().map(|e| e.text.len())) {
            let examples = &texts.examples[batch];
            for ids in tokenise(examples, tokenizer, &mut || cache::go_on(progress, done, total))? {
                writer.append(&ids)?;
                lengths.push(ids.len() as u32);
            }
            done += examples.iter().map(|e| e.text.len() as u64).sum::<u64>();
            cache::go_on(progress, done, total)?;
        }
        Ok(lengths)
    };
    let sound = |ids: &[u32], lengths: &Vec<u32>| {
        let tokens = lengths.iter().map(|&n| n as usize).sum::<usize>();
        tokenizer.knows(ids) && lengths.len() == texts.examples.len() && tokens == ids.len()
    };
    let (store, lengths, usage) = cache::load_or_build(cache_folder, &key, sound, build)?;
    Ok((Tokens::new(texts, store, &lengths), usage))
}

/// The tokens of texts in memory.
pub(super) fn tokens_in_memory(texts: &read::Texts, tokenizer: &Tokenizer) -> Result<Tokens> {
    let ids = tokenise(&texts.examples, tokenizer, &mut || Ok(()))?;
    let lengths: Vec<u32> = ids.iter().map(|ids| ids.len() as u32).collect();
    Ok(Tokens::new(texts, TokenStore::from_vec(ids.concat()), &lengths))
}

/// The tokens of texts, on all threads; of a single one, which may be long, piece by piece while `go_on` says so.
fn tokenise(
    examples: &[read::TextExample],
    tokenizer: &Tokenizer,
    go_on: &mut dyn FnMut() -> Result<()>,
) -> Result<Vec<Vec<u32>>> {
    match examples {
        [example] => Ok(vec![tokenizer.encode_watched(&example.text, go_on)?]),
        _ => examples.par_iter().map(|e| tokenizer.encode(&e.text)).collect(),
    }
}
