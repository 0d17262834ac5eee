//! Validation data where a data set has none: a part of the training data.
//!
//! Owns: which examples that are. Never: looks at a text.

use std::collections::{BTreeMap, HashSet};

use super::{ClassificationData, Label};
use crate::error::{Error, Result};

/// The part of the training data that becomes validation data where a data set has none.
pub const HELD_OUT_FRACTION: f64 = 0.1;

impl ClassificationData {
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
        self.valid = Some(train.with_rows(valid));
        *train = train.with_rows(rest);
        Ok(held.len())
    }
}

/// A number that looks random, from a seed and a counter (SplitMix64's output function).
fn mix(seed: u64, counter: u64) -> u64 {
    let mut z = seed.wrapping_add(counter.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
