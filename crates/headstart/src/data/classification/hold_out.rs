//! Validation data where a data set has none: a part of the training data. And which texts two splits share.
//!
//! Owns: which examples are held out. Never: looks at a text; a fingerprint says which are the same.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{ClassificationData, Example, Label, LabelledSplit};
use crate::error::{Error, Result};

/// The part of the training data that becomes validation data where a data set has none.
pub const HELD_OUT_FRACTION: f64 = 0.1;

impl ClassificationData {
    /// Where there is no validation data, takes [`HELD_OUT_FRACTION`] of the training data for it: of every class
    /// the same part, chosen by `seed`. The same text never stands on both sides, nor does a group where examples have some, and no class loses
    /// its last example:
    /// where that leaves nothing to take, there is no validation data. Returns how many examples moved; a note says so.
    ///
    /// # Errors
    /// [`Error::Missing`] when there is no training data.
    pub fn hold_out_validation(&mut self, seed: u64) -> Result<usize> {
        if self.valid.is_some() {
            return Ok(0);
        }
        let train = self.train.as_ref().ok_or_else(|| Error::Missing {
            what: "the data has no training examples".into(),
            fix: "add a train file, or a valid file beside it".into(),
        })?;
        let (held, all) = (choose(train, seed), train.len());
        if held.is_empty() {
            let why = if train.has_groups() {
                "no class has examples of two groups, so none is held out for it"
            } else {
                "no class has two different texts, so none is held out for it"
            };
            self.notes.push(format!("warning: there is no validation data, and {why}"));
            return Ok(0);
        }
        self.notes.push(format!(
            "there is no validation data: {} of {all} training examples are held out for it, {}{:.0} % of each class{}",
            held.len(),
            if train.has_groups() { "about " } else { "" },
            100.0 * HELD_OUT_FRACTION,
            if train.has_groups() { ", in whole groups" } else { "" },
        ));
        let (valid, rest) = train.rows.iter().partition(|&row| held.contains(row));
        self.valid = Some(train.with_rows(valid));
        self.train = Some(train.with_rows(rest));
        Ok(held.len())
    }
}

impl LabelledSplit {
    /// How many of these texts, or pairs, stand in `other`, too; empty ones do not count.
    pub fn shared_with(&self, other: &Self) -> usize {
        let theirs: HashSet<u64> = other.iter().map(|example| example.fingerprint).collect();
        let empty = |e: &Example<'_>| e.ids.is_empty() && e.second.is_none_or(<[u32]>::is_empty);
        self.iter().filter(|e| !empty(e) && theirs.contains(&e.fingerprint)).count()
    }
}

/// The rows of a split that are held out.
fn choose(train: &LabelledSplit, seed: u64) -> HashSet<u32> {
    // Rows with the same text, or of one group, go together.
    let mut together: HashMap<u64, Vec<usize>> = HashMap::new();
    let mut left: HashMap<u32, usize> = HashMap::new();
    let mut strata: BTreeMap<u32, Vec<(u64, usize)>> = BTreeMap::new();
    for (at, example) in train.iter().enumerate() {
        together.entry(example.together).or_default().push(at);
        for &class in example.label.classes() {
            *left.entry(class).or_default() += 1;
        }
        let key = (mix(seed, u64::from(train.rows[at])), at);
        strata.entry(stratum(example.label)).or_default().push(key);
    }
    for keys in strata.values_mut() {
        keys.sort_unstable();
    }
    let mut chosen = Chosen { train, together, left, held: BTreeMap::new(), rows: HashSet::new() };
    for (&class, keys) in &strata {
        let wanted = (keys.len() as f64 * HELD_OUT_FRACTION).round() as usize;
        for &(_, at) in keys {
            let missing = wanted.saturating_sub(chosen.held_of(class));
            if missing == 0 {
                break;
            }
            chosen.take(at, missing);
        }
        if wanted > 0 && chosen.held_of(class) == 0 {
            // Every text stands there more often than examples are wanted.
            keys.iter().find(|&&(_, at)| chosen.take(at, usize::MAX));
        }
    }
    if chosen.rows.is_empty() {
        // Very small classes only: one text, so that there is something to validate on.
        let mut keys: Vec<_> = strata.into_values().flatten().collect();
        keys.sort_unstable();
        keys.iter().find(|&&(_, at)| chosen.take(at, usize::MAX));
    }
    chosen.rows
}

struct Chosen<'a> {
    train: &'a LabelledSplit,
    /// Places in `train` by what stands together.
    together: HashMap<u64, Vec<usize>>,
    /// Examples that stay, by class.
    left: HashMap<u32, usize>,
    /// Examples that were taken, by stratum.
    held: BTreeMap<u32, usize>,
    rows: HashSet<u32>,
}

impl Chosen<'_> {
    fn held_of(&self, stratum: u32) -> usize {
        self.held.get(&stratum).copied().unwrap_or(0)
    }

    /// Takes the example at a place with all that it stands together with, if these are at most so many (of a group those of its class) and no
    /// class ends.
    fn take(&mut self, at: usize, at_most: usize) -> bool {
        let (train, Some(example)) = (self.train, self.train.get(at)) else { return false };
        let Some(places) = self.together.get(&example.together) else { return false };
        let examples = || places.iter().filter_map(|&place| train.get(place));
        let size = if train.has_groups() {
            examples().filter(|other| stratum(other.label) == stratum(example.label)).count()
        } else {
            places.len()
        };
        if size > at_most || self.rows.contains(&train.rows[at]) {
            return false;
        }
        let mut taken: HashMap<u32, usize> = HashMap::new();
        for &class in examples().flat_map(|e| e.label.classes()) {
            *taken.entry(class).or_default() += 1;
        }
        let ends_a_class = taken.iter().any(|(class, &n)| self.left.get(class).is_none_or(|&left| left <= n));
        // Without classes, what must not end is the training data.
        if ends_a_class || self.rows.len() + places.len() >= train.len() {
            return false;
        }
        for (class, n) in taken {
            self.left.entry(class).and_modify(|left| *left -= n);
        }
        for example in examples() {
            *self.held.entry(stratum(example.label)).or_default() += 1;
        }
        self.rows.extend(places.iter().map(|&place| train.rows[place]));
        true
    }
}

/// What the same part is taken of: of each class where an example has one, else of all.
fn stratum(label: &Label) -> u32 {
    if let Label::Class(class) = label { *class } else { 0 }
}

/// A number that looks random, from a seed and a counter (SplitMix64's output function).
fn mix(seed: u64, counter: u64) -> u64 {
    let mut z = seed.wrapping_add(counter.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
