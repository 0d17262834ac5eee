//! The examples of a split: the plain token ids of whole texts, mapped from the cache, and their labels.
//!
//! Owns: ids and labels by row, the cache's key. Never: special tokens, truncation (`template`), the files' syntax.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{Label, parsed, read};
use crate::config::Amount;
use crate::data::cache::{self, CacheKey, CacheUse, Progress, TokenStore};
use crate::data::unknown::UnknownTokens;
use crate::error::Result;
use crate::tokenizer::{self, Tokenizer};

/// Bytes of text that go into a key between two questions whether to go on.
const HASHED_BYTES: usize = 64 << 20;

/// One example.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Example<'a> {
    /// The ids of the whole text, without special tokens.
    pub ids: &'a [u32],
    /// Those of the other text of a pair.
    pub second: Option<&'a [u32]>,
    /// Its label.
    pub label: &'a Label,
    /// The same for texts, or pairs, that are the same, spaces at their ends left out.
    pub fingerprint: u64,
    /// The same for examples that stand on one side where data is divided: of one text, or of one group.
    pub together: u64,
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
    /// Texts to an example: 1, or 2 where they are pairs, which lie one behind the other.
    per_example: usize,
    fingerprints: Vec<u64>,
    /// What each stands together by, where examples have groups; else the fingerprints say it.
    together: Option<Vec<u64>>,
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

    /// What there is to read in an epoch, where an input has so many tokens at most and the usual two special ones.
    pub fn amount(&self, positions: usize) -> Amount {
        let input =
            |(first, second): (usize, Option<usize>)| (first + second.unwrap_or(0) + 2).min(positions);
        Amount { examples: self.len(), tokens: self.lengths().map(input).sum() }
    }

    /// Whether there are none, which loading never returns.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Example `index`, or `None` past the last one.
    pub fn get(&self, index: usize) -> Option<Example<'_>> {
        let row = *self.rows.get(index)? as usize;
        let (ids, second) = match self.texts_per_example() {
            2 => (self.tokens.text(2 * row)?, Some(self.tokens.text(2 * row + 1)?)),
            _ => (self.tokens.text(row)?, None),
        };
        Some(Example {
            ids,
            second,
            label: self.labels.get(row)?,
            fingerprint: self.tokens.fingerprints[row],
            together: self.tokens.together.as_ref().unwrap_or(&self.tokens.fingerprints)[row],
        })
    }

    /// Whether examples have groups, which are not divided.
    pub fn has_groups(&self) -> bool {
        self.tokens.together.is_some()
    }

    /// What each example stands together by, where they have groups; else nothing.
    pub(crate) fn groups(&self) -> Vec<u64> {
        let of = |together: &Vec<u64>| self.rows.iter().map(|row| together[*row as usize]).collect();
        self.tokens.together.as_ref().map(of).unwrap_or_default()
    }

    /// All examples.
    pub fn iter(&self) -> impl Iterator<Item = Example<'_>> {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// 2 where the examples are pairs of texts, else 1.
    pub fn texts_per_example(&self) -> usize {
        self.tokens.per_example
    }

    /// Tokens of every text, and of the other text of its pair.
    pub fn lengths(&self) -> impl Iterator<Item = (usize, Option<usize>)> {
        self.iter().map(|example| (example.ids.len(), example.second.map(<[u32]>::len)))
    }

    /// How many examples have a text that is empty. They are kept.
    pub fn empty_texts(&self) -> usize {
        self.lengths().filter(|&(first, second)| first == 0 || second == Some(0)).count()
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
        let fingerprint = |e: &parsed::TextExample| {
            let mut sum = Sha256::new_with_prefix(e.text.trim());
            if let Some(second) = &e.second {
                // A byte that no text has.
                sum.update([0xFF]);
                sum.update(second.trim());
            }
            sum.finalize().iter().take(8).fold(0, |all, &byte| all << 8 | u64::from(byte))
        };
        let per_example = texts.per_example();
        let fingerprints: Vec<u64> = texts.examples.par_iter().map(fingerprint).collect();
        let together = (!texts.groups.is_empty()).then(|| components(&fingerprints, &texts.groups));
        Self { store, starts, per_example, fingerprints, together }
    }

    /// Which of them stand for what the vocabulary cannot spell.
    pub fn unknown(&self, texts: &read::Texts, tokenizer: &Tokenizer) -> UnknownTokens {
        let mut unknown = UnknownTokens::default();
        for (at, text) in texts.each().enumerate() {
            unknown.add(text, self.text(at).unwrap_or_default(), tokenizer);
        }
        unknown
    }

    /// The ids of a text.
    fn text(&self, at: usize) -> Option<&[u32]> {
        self.store.ids().get(*self.starts.get(at)?..*self.starts.get(at + 1)?)
    }
}

/// The first of those that stand together with one, on the way to which paths become shorter.
fn root(first: &mut [usize], mut at: usize) -> usize {
    while first[at] != at {
        first[at] = first[first[at]];
        at = first[at];
    }
    at
}

/// A number for each example, the same for all that are of one text or one group, directly or by way of others.
fn components(fingerprints: &[u64], groups: &[String]) -> Vec<u64> {
    // Each points to an earlier one that it stands together with, or to itself.
    let mut first: Vec<usize> = (0..fingerprints.len()).collect();
    let (mut of_text, mut of_group) = (HashMap::new(), HashMap::new());
    for (at, (text, group)) in fingerprints.iter().zip(groups).enumerate() {
        let same_text = *of_text.entry(*text).or_insert(at);
        // What has no group stands alone.
        let same_group = if group.is_empty() { at } else { *of_group.entry(group.as_str()).or_insert(at) };
        for other in [same_text, same_group] {
            let (a, b) = (root(&mut first, at), root(&mut first, other));
            first[a.max(b)] = a.min(b);
        }
    }
    (0..first.len()).map(|at| root(&mut first, at) as u64).collect()
}

/// The tokens of a split. The key is made of the texts as read, so a changed file, column or encoding is another
/// key; labels are read every time, so their errors show every time. Pairs are a kind of their own: `[a, b]` as one example is
/// not `a` and `b` as two.
pub(super) fn cached_tokens(
    texts: &read::Texts,
    tokenizer: &Tokenizer,
    cache_folder: &Path,
    progress: Progress<'_>,
) -> Result<(Tokens, CacheUse)> {
    let kind = if texts.per_example() == 2 { "pairs" } else { "texts" };
    let mut key = CacheKey::new(kind).with(tokenizer.content_hash().as_bytes());
    let all: Vec<&str> = texts.each().collect();
    let mut hashed = 0;
    for text in &all {
        key = key.with(text.as_bytes());
        hashed += text.len();
        if hashed >= HASHED_BYTES {
            hashed = 0;
            cache::go_on(progress, 0, 0)?;
        }
    }
    let build = |writer: &mut cache::CacheWriter| {
        let total = all.iter().map(|text| text.len() as u64).sum();
        let mut done = 0;
        let mut lengths: Vec<u32> = Vec::with_capacity(all.len());
        for batch in tokenizer::batches(all.iter().map(|text| text.len())) {
            let batch = &all[batch];
            for ids in tokenise(batch, tokenizer, &mut || cache::go_on(progress, done, total))? {
                writer.append(&ids)?;
                lengths.push(ids.len() as u32);
            }
            done += batch.iter().map(|text| text.len() as u64).sum::<u64>();
            cache::go_on(progress, done, total)?;
        }
        Ok(lengths)
    };
    let sound = |ids: &[u32], lengths: &Vec<u32>| {
        let tokens = lengths.iter().map(|&n| n as usize).sum::<usize>();
        tokenizer.knows(ids) && lengths.len() == all.len() && tokens == ids.len()
    };
    let (store, lengths, usage) = cache::load_or_build(cache_folder, &key, sound, build)?;
    Ok((Tokens::new(texts, store, &lengths), usage))
}

/// Texts whose tokens nobody asks for.
pub(super) fn without_tokens(texts: &read::Texts) -> Tokens {
    let none = vec![0; texts.examples.len() * texts.per_example()];
    Tokens::new(texts, TokenStore::from_vec(Vec::new()), &none)
}

/// The tokens of texts in memory.
pub(super) fn tokens_in_memory(texts: &read::Texts, tokenizer: &Tokenizer) -> Result<Tokens> {
    let ids = tokenise(&texts.each().collect::<Vec<_>>(), tokenizer, &mut || Ok(()))?;
    let lengths: Vec<u32> = ids.iter().map(|ids| ids.len() as u32).collect();
    Ok(Tokens::new(texts, TokenStore::from_vec(ids.concat()), &lengths))
}

/// The tokens of texts, on all threads; of a single one, which may be long, piece by piece while `go_on` says so.
fn tokenise(
    texts: &[&str],
    tokenizer: &Tokenizer,
    go_on: &mut dyn FnMut() -> Result<()>,
) -> Result<Vec<Vec<u32>>> {
    match texts {
        [text] => Ok(vec![tokenizer.encode_watched(text, go_on)?]),
        _ => texts.par_iter().map(|text| tokenizer.encode(text)).collect(),
    }
}
