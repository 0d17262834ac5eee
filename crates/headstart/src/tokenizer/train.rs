//! Learning a vocabulary from text: byte-pair merges (Sennrich et al. 2016) over the words of the corpus, kept as a
//! WordPiece vocabulary or as a byte-level BPE.
//!
//! Owns: word counts and merges. Never: reads files. The trainer of the `tokenizers` crate is not used because its
//! ids follow the iteration order of a randomly seeded hash map: the same text must give the same tokenizer.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::path::Path;

use rayon::prelude::*;
use serde_json::{Map, Value, json};
use tokenizers::normalizers::{BertNormalizer, Lowercase};
use tokenizers::pre_tokenizers::{bert::BertPreTokenizer, byte_level::ByteLevel};
use tokenizers::{
    NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
};

use super::{Case, Tokenizer, UNKNOWN_WORD, batches, load, pieces_of_long_text};
use crate::error::{Error, Result};

/// The special pieces of a trained tokenizer: the first rows, in this order.
const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// Characters a WordPiece alphabet begins with at most; rarer ones come in where merges leave room, or are unknown.
const MAX_ALPHABET: usize = 1000;

/// A pair seen only once is not worth a piece.
const MIN_FREQUENCY: u64 = 2;

/// Characters of the longest word that WordPiece spells; longer ones are unknown as a whole.
const MAX_WORD_CHARS: usize = 100;

/// Words counted, and merges learned, between two questions whether to go on.
const WORDS_BETWEEN_LOOKS: usize = 1 << 14;
const MERGES_BETWEEN_LOOKS: usize = 16;

/// The kind of vocabulary to learn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenizerKind {
    /// BERT's: words split at spaces and punctuation, longest piece first, `##` on pieces inside a word.
    #[default]
    WordPiece,
    /// GPT-2's: every byte can be spelled, so nothing is ever unknown and text comes back as it was.
    ByteLevelBpe,
}

/// What to learn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainOptions {
    /// The kind of vocabulary.
    pub kind: TokenizerKind,
    /// The number of pieces wanted, special ones included; a small text may yield fewer.
    pub vocab_size: usize,
    /// Whether text is lower-cased first.
    pub case: Case,
}

/// A tokenizer with what is to be known of it.
#[derive(Debug)]
pub struct Trained {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// What people should be told: a vocabulary that is not full, words it cannot spell.
    pub notes: Vec<String>,
}

/// Counts words, then learns merges. The result depends on the text and the options alone, not on threads.
#[derive(Debug)]
pub struct TokenizerTrainer {
    options: TrainOptions,
    words: BTreeMap<String, u64>,
    /// Words that WordPiece will not spell, because they are too long.
    too_long: u64,
}

/// Words with how often they stand there, and how many were too long to count.
type WordCounts = (HashMap<String, u64>, u64);

impl TokenizerTrainer {
    /// A trainer that has seen nothing yet.
    ///
    /// # Errors
    /// [`Error::Config`] when `vocab_size` has no room for the special pieces and the alphabet.
    pub fn new(options: TrainOptions) -> Result<Self> {
        let least = match options.kind {
            TokenizerKind::WordPiece => SPECIAL.len() + 2,
            TokenizerKind::ByteLevelBpe => SPECIAL.len() + 256,
        };
        if options.vocab_size < least {
            return Err(Error::Config {
                key: "vocab_size".into(),
                what: format!("{} is too small for this kind of tokenizer", options.vocab_size),
                fix: format!("use at least {least}; a few thousand is usual"),
            });
        }
        Ok(Self { options, words: BTreeMap::new(), too_long: 0 })
    }

    /// Counts the words of `text`, line by line on all threads.
    ///
    /// # Errors
    /// [`Error::Config`] when a line cannot be split into words, which does not happen with these kinds.
    pub fn feed(&mut self, text: &str) -> Result<()> {
        self.feed_watched(text, &mut || Ok(()))
    }

    /// As [`Self::feed`]; `go_on` is asked several times a second, and its error ends the work.
    ///
    /// # Errors
    /// As for [`Self::feed`], and those of `go_on`.
    pub fn feed_watched(&mut self, text: &str, go_on: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let lines = text.split_inclusive('\n').flat_map(|line| line.split(UNKNOWN_WORD));
        let parts: Vec<&str> = lines.flat_map(pieces_of_long_text).collect();
        let options = self.options;
        for batch in batches(parts.iter().map(|part| part.len())) {
            go_on()?;
            let counts: Vec<WordCounts> = parts[batch]
                .par_chunks(256)
                .map(|parts| count_words(parts, options))
                .collect::<tokenizers::Result<_>>()
                .map_err(|e| Error::Config {
                    key: "tokenizer".into(),
                    what: format!("the text cannot be split into words: {e}"),
                    fix: "try the other kind of tokenizer".into(),
                })?;
            for (words, too_long) in counts {
                self.too_long += too_long;
                for (word, count) in words {
                    *self.words.entry(word).or_default() += count;
                }
            }
        }
        Ok(())
    }

    /// Learns the vocabulary from everything fed.
    ///
    /// # Errors
    /// [`Error::Missing`] when no text was fed, or none that such a tokenizer can spell.
    pub fn finish(self) -> Result<Trained> {
        self.finish_watched(&mut || Ok(()))
    }

    /// As [`Self::finish`]; `go_on` is asked several times a second, and its error ends the work.
    ///
    /// # Errors
    /// As for [`Self::finish`], and those of `go_on`.
    pub fn finish_watched(self, go_on: &mut dyn FnMut() -> Result<()>) -> Result<Trained> {
        if self.words.is_empty() {
            let (what, fix) = if self.too_long > 0 {
                let what = format!(
                    "all {} words are longer than {MAX_WORD_CHARS} characters, which WordPiece does not spell",
                    self.too_long
                );
                (what, "learn a byte-level BPE (`--kind bpe`), which spells everything")
            } else {
                ("there is no text to train a tokenizer on".into(), "give files with text in them")
            };
            return Err(Error::Missing { what, fix: fix.into() });
        }
        let TrainOptions { kind, vocab_size, case } = self.options;
        let name = Path::new("the trained tokenizer");
        let (value, unknown) = match kind {
            TokenizerKind::WordPiece => {
                let learner = learn_word_piece(&self.words, vocab_size, go_on)?;
                let unknown = self.words.iter().filter(|(word, _)| learner.spell(word).is_empty());
                let unknown = unknown.map(|(_, n)| n).sum::<u64>() + self.too_long;
                (load::word_piece(&learner.pieces, case), unknown)
            }
            TokenizerKind::ByteLevelBpe => {
                let mut learner = Learner::new("");
                for c in ByteLevel::alphabet().into_iter().collect::<BTreeSet<char>>() {
                    learner.add(c.to_string());
                }
                let merges = learner.learn(&self.words, vocab_size, go_on)?;
                let vocab: Map<String, Value> =
                    learner.pieces.iter().enumerate().map(|(id, p)| (p.clone(), json!(id))).collect();
                let merges: Vec<Value> = merges.into_iter().map(|(a, b)| json!([a, b])).collect();
                (load::byte_level_bpe(&Value::Object(vocab), &merges, case), 0)
            }
        };
        let tokenizer = load::from_value(value, name)?;
        let mut notes = Vec::new();
        if tokenizer.vocab_size() < vocab_size {
            notes.push(format!(
                "{} pieces of the {vocab_size} asked for: the text has no other pairs that occur twice",
                tokenizer.vocab_size()
            ));
        }
        if unknown > 0 {
            let all = self.words.values().sum::<u64>() + self.too_long;
            let share = 100.0 * unknown as f64 / all as f64;
            notes.push(format!(
                "{unknown} of {all} words ({share:.2} %) cannot be spelled and will be unknown: rare characters, or longer \
                 than {MAX_WORD_CHARS}; a larger --vocab_size has room for more, `--kind bpe` spells everything"
            ));
        }
        Ok(Trained { tokenizer, notes })
    }
}

/// A WordPiece vocabulary: the usual characters and what merges make of them; where that leaves room, rarer characters, too.
fn learn_word_piece(
    words: &BTreeMap<String, u64>,
    vocab_size: usize,
    go_on: &mut dyn FnMut() -> Result<()>,
) -> Result<Learner> {
    let ranked = ranked_alphabet(words);
    let room = vocab_size - SPECIAL.len();
    let mut learner = Learner::new("##");
    learner.add_characters(ranked.iter().take(room.min(MAX_ALPHABET)));
    learner.learn(words, vocab_size, go_on)?;
    let left = vocab_size - learner.pieces.len();
    if left > 0 && ranked.len() > MAX_ALPHABET {
        learner.add_characters(ranked.iter().skip(MAX_ALPHABET).take(left));
        learner.learn(words, vocab_size, go_on)?;
    }
    Ok(learner)
}

impl Tokenizer {
    /// Learns a tokenizer from a text in memory; [`TokenizerTrainer`] does it block by block.
    ///
    /// # Errors
    /// As for [`TokenizerTrainer`].
    pub fn train(text: &str, options: TrainOptions) -> Result<Self> {
        let mut trainer = TokenizerTrainer::new(options)?;
        trainer.feed(text)?;
        Ok(trainer.finish()?.tokenizer)
    }
}

/// Splits lines into words exactly as the finished tokenizer will.
fn count_words(parts: &[&str], options: TrainOptions) -> tokenizers::Result<WordCounts> {
    let lower = options.case == Case::Lower;
    let bert = BertNormalizer::new(true, true, None, lower);
    let byte_level = ByteLevel::new(false, true, true);
    let (mut counts, mut too_long) = (HashMap::new(), 0);
    for part in parts {
        // The line end is a token of its own; the trainer must not see it as part of a word.
        let mut text = NormalizedString::from(part.trim_end_matches('\n'));
        let mut split;
        match options.kind {
            TokenizerKind::WordPiece => {
                bert.normalize(&mut text)?;
                split = PreTokenizedString::from(text);
                BertPreTokenizer.pre_tokenize(&mut split)?;
            }
            TokenizerKind::ByteLevelBpe => {
                if lower {
                    Lowercase.normalize(&mut text)?;
                }
                split = PreTokenizedString::from(text);
                byte_level.pre_tokenize(&mut split)?;
            }
        }
        for (word, _, _) in split.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
            let length = word.chars().count();
            if length > MAX_WORD_CHARS && options.kind == TokenizerKind::WordPiece {
                too_long += 1;
                continue;
            }
            // A text without spaces is one word; its pieces teach as much and take less time.
            let mut rest = word;
            while !rest.is_empty() {
                let end = rest.char_indices().nth(MAX_WORD_CHARS).map_or(rest.len(), |(at, _)| at);
                *counts.entry(rest[..end].to_owned()).or_default() += 1;
                rest = &rest[end..];
            }
        }
    }
    Ok((counts, too_long))
}

/// The characters of a text, each at the start of a word or (`true`) inside one, the most frequent first.
fn ranked_alphabet(words: &BTreeMap<String, u64>) -> Vec<(char, bool)> {
    let mut counts: BTreeMap<(char, bool), u64> = BTreeMap::new();
    for (word, count) in words {
        for (at, c) in word.chars().enumerate() {
            *counts.entry((c, at > 0)).or_default() += count;
            // A known letter or digit in a new place should not make a word unknown.
            if c.is_ascii_alphanumeric() {
                counts.entry((c, at == 0)).or_default();
            }
        }
    }
    let mut ranked: Vec<_> = counts.into_iter().map(|(character, n)| (Reverse(n), character)).collect();
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, character)| character).collect()
}

type Pair = (u32, u32);

/// The merge loop: again and again the most frequent pair of neighbours becomes one piece; ties go to the lower ids.
struct Learner {
    prefix: &'static str,
    pieces: Vec<String>,
    ids: HashMap<String, u32>,
}

impl Learner {
    fn new(prefix: &'static str) -> Self {
        let mut learner = Self { prefix, pieces: Vec::new(), ids: HashMap::new() };
        for piece in SPECIAL {
            learner.add(piece.to_owned());
        }
        learner
    }

    fn add(&mut self, piece: String) -> u32 {
        if let Some(&id) = self.ids.get(&piece) {
            return id;
        }
        let id = self.pieces.len() as u32;
        self.pieces.push(piece.clone());
        self.ids.insert(piece, id);
        id
    }

    /// Adds characters in the order of their code points.
    fn add_characters<'a>(&mut self, characters: impl Iterator<Item = &'a (char, bool)>) {
        for (c, inside) in characters.collect::<BTreeSet<_>>() {
            self.add(if *inside { format!("{}{c}", self.prefix) } else { c.to_string() });
        }
    }

    /// Fills the vocabulary up to `vocab_size` and returns the merges in the order in which they were learned.
    fn learn(
        &mut self,
        words: &BTreeMap<String, u64>,
        vocab_size: usize,
        go_on: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<(String, String)>> {
        let mut spelled: Vec<(Vec<u32>, u64)> = words.iter().map(|(w, &n)| (self.spell(w), n)).collect();
        let mut counts: HashMap<Pair, u64> = HashMap::new();
        let mut places: HashMap<Pair, Vec<u32>> = HashMap::new();
        for (at, (ids, count)) in spelled.iter().enumerate() {
            if at % WORDS_BETWEEN_LOOKS == 0 {
                go_on()?;
            }
            for pair in pairs(ids) {
                *counts.entry(pair).or_default() += count;
                note(&mut places, pair, at as u32);
            }
        }
        // Entries are not updated in place: one whose count is out of date is put back with the right one.
        let mut queue: BinaryHeap<(u64, Reverse<Pair>)> =
            counts.iter().map(|(&p, &n)| (n, Reverse(p))).collect();
        let mut merges = Vec::new();
        while self.pieces.len() < vocab_size {
            let Some((count, Reverse(pair))) = queue.pop() else { break };
            let current = counts.get(&pair).copied().unwrap_or(0);
            if current != count {
                if current > 0 {
                    queue.push((current, Reverse(pair)));
                }
                continue;
            }
            if count < MIN_FREQUENCY {
                break;
            }
            let (left, right) = (self.pieces[pair.0 as usize].clone(), self.pieces[pair.1 as usize].clone());
            let merged = self.add(format!("{left}{}", right.strip_prefix(self.prefix).unwrap_or(&right)));
            let mut grown = BTreeSet::new();
            for at in places.remove(&pair).unwrap_or_default() {
                let (ids, times) = &mut spelled[at as usize];
                for old in pairs(ids) {
                    if let Some(n) = counts.get_mut(&old) {
                        *n -= *times;
                    }
                }
                merge_in_place(ids, pair, merged);
                for new in pairs(ids) {
                    *counts.entry(new).or_default() += *times;
                    if new.0 == merged || new.1 == merged {
                        note(&mut places, new, at);
                        grown.insert(new);
                    }
                }
            }
            counts.remove(&pair);
            for pair in grown {
                if let Some(&n) = counts.get(&pair) {
                    queue.push((n, Reverse(pair)));
                }
            }
            merges.push((left, right));
            if merges.len() % MERGES_BETWEEN_LOOKS == 0 {
                go_on()?;
            }
        }
        Ok(merges)
    }

    /// The ids of a word's characters; nothing for a word with a character outside the alphabet, which will be
    /// an unknown word as a whole.
    fn spell(&self, word: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        for (at, c) in word.chars().enumerate() {
            let piece = if at == 0 { c.to_string() } else { format!("{}{c}", self.prefix) };
            match self.ids.get(&piece) {
                Some(&id) => ids.push(id),
                None => return Vec::new(),
            }
        }
        ids
    }
}

fn pairs(ids: &[u32]) -> impl Iterator<Item = Pair> {
    ids.windows(2).map(|w| (w[0], w[1]))
}

/// Notes that a word has a pair; words come one after the other, so a repetition is the last entry.
fn note(places: &mut HashMap<Pair, Vec<u32>>, pair: Pair, word: u32) {
    let words = places.entry(pair).or_default();
    if words.last() != Some(&word) {
        words.push(word);
    }
}

fn merge_in_place(ids: &mut Vec<u32>, pair: Pair, merged: u32) {
    let mut out = 0;
    let mut at = 0;
    while at < ids.len() {
        if at + 1 < ids.len() && (ids[at], ids[at + 1]) == pair {
            ids[out] = merged;
            at += 2;
        } else {
            ids[out] = ids[at];
            at += 1;
        }
        out += 1;
    }
    ids.truncate(out);
}
