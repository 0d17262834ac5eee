//! Masked-LM corruption (Devlin et al. 2019): some tokens become targets; of those 80 % are replaced by the mask,
//! 10 % by a random token, 10 % stay. Owns: the draw. Never: sees a model.
//!
//! Every decision is a function of a key and the position, so masks do not depend on how a batch is cut.

use headstart_engine::rng;

/// What masking needs to know.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Masking {
    /// Share of tokens that become targets.
    pub probability: f64,
    /// The id that replaces.
    pub mask_id: u32,
    /// Random replacements are drawn from `0..vocab_size`.
    pub vocab_size: usize,
    /// Ids that are left alone: special tokens.
    pub never: Never,
}

/// Up to three ids that are never masked.
pub type Never = [Option<u32>; 3];

/// A masked sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Masked {
    /// The corrupted ids.
    pub input_ids: Vec<u32>,
    /// Positions that are predicted.
    pub rows: Vec<u32>,
    /// What stood there.
    pub targets: Vec<u32>,
}

impl Masking {
    /// Masks a sequence.
    pub fn apply(&self, ids: &[u32], key: u64) -> Masked {
        let mut masked = Masked { input_ids: ids.to_vec(), ..Masked::default() };
        for (position, &id) in ids.iter().enumerate() {
            let mut draw = rng::Stream::new(rng::derive(key, position as u64));
            if draw.uniform() >= self.probability || self.never.contains(&Some(id)) {
                continue;
            }
            masked.rows.push(position as u32);
            masked.targets.push(id);
            let kind = draw.uniform();
            if kind < 0.8 {
                masked.input_ids[position] = self.mask_id;
            } else if kind < 0.9 {
                masked.input_ids[position] = draw.below(self.vocab_size) as u32;
            }
        }
        masked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_as_stated() {
        let never = [Some(7), None, Some(9)];
        let masking = Masking { probability: 0.15, mask_id: 999, vocab_size: 1_000, never };
        let ids: Vec<u32> = (0..200_000).map(|i| i % 900).collect();
        let masked = masking.apply(&ids, 3);
        let n = masked.rows.len() as f64;
        assert!((n / ids.len() as f64 - 0.15).abs() < 0.005);
        let (mut replaced, mut kept) = (0.0, 0.0);
        for (&row, &target) in masked.rows.iter().zip(&masked.targets) {
            assert_eq!(ids[row as usize], target);
            assert!(target != 7 && target != 9);
            replaced += f64::from(u8::from(masked.input_ids[row as usize] == 999));
            kept += f64::from(u8::from(masked.input_ids[row as usize] == target));
        }
        assert!((replaced / n - 0.8).abs() < 0.01 && (kept / n - 0.1).abs() < 0.01, "{replaced} {kept} {n}");
        let changed = ids.iter().zip(&masked.input_ids).filter(|(a, b)| a != b).count();
        assert!(changed <= masked.rows.len());
        assert_eq!(masked, masking.apply(&ids, 3));
        assert_ne!(masked, masking.apply(&ids, 4));
    }
}
