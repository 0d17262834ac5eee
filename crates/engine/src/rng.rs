//! Counter-based randomness: a value is a pure function of a seed and a counter, so masks are recomputed
//! instead of stored, and the bits do not depend on threads, on how a batch is cut, or on the device.
//!
//! Owns: the mixing functions, the dropout mask. Never: holds state.
//!
//! A dropout decision is named by (seed, step, index in the global batch, position, site, logical column). The
//! first four make one 64-bit *row key* per token; a *site* (which layer, which place in it, which head) is mixed
//! into that; the column is hashed 32 at a time: hash `i` of a block of 32 columns decides column `i` with its
//! low 16 bits and column `i + 16` with its high 16 bits. The hash is a two-round xorshift-multiply over 32 bits,
//! which every SIMD set and every GPU has.

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection with full avalanche.
#[inline]
pub const fn mix64(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// Mixes `value` into `key`: the building block of every derived seed.
#[inline]
pub const fn derive(key: u64, value: u64) -> u64 {
    mix64(key.wrapping_add(GOLDEN) ^ mix64(value.wrapping_add(GOLDEN)))
}

/// The key of one token: `derive` of seed, step, index of its sequence in the global batch, position.
#[inline]
pub const fn row_key(seed: u64, step: u64, sequence: u64, position: u64) -> u64 {
    derive(derive(derive(derive(0, seed), step), sequence), position)
}

/// A dropout rate in the form the masks use: drop where a 16-bit hash is below `threshold`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DropRate {
    /// `p` in units of 1 / 65,536.
    pub threshold: u32,
    /// What kept values are multiplied by: exactly 1 / (1 - threshold / 65,536), so the mean is unbiased.
    pub scale: f32,
}

impl DropRate {
    /// The rate nearest to `p`, which lies in `[0, 1)`.
    pub fn new(p: f32) -> Self {
        let threshold = (f64::from(p) * 65_536.0).round().clamp(0.0, 65_535.0);
        Self { threshold: threshold as u32, scale: (65_536.0 / (65_536.0 - threshold)) as f32 }
    }
}

/// The 32-bit hash that decides two columns.
#[inline(always)]
pub const fn column_hash(key: u64, index: u32) -> u32 {
    let mut x = index.wrapping_mul(0x9E37_79B9) ^ key as u32;
    x = (x ^ (x >> 16)).wrapping_mul(0x21F0_AAAD);
    x ^= (key >> 32) as u32;
    x = (x ^ (x >> 15)).wrapping_mul(0x735A_2D97);
    x ^ (x >> 15)
}

/// The factors (0 or `rate.scale`) of the 32 columns `32 * block ..`, for one token and site.
#[inline(always)]
pub fn dropout_block(key: u64, block: u32, rate: DropRate) -> [f32; 32] {
    let mut out = [0.0; 32];
    for i in 0..16 {
        let hash = column_hash(key, block * 16 + i as u32);
        out[i] = if (hash & 0xFFFF) < rate.threshold { 0.0 } else { rate.scale };
        out[i + 16] = if (hash >> 16) < rate.threshold { 0.0 } else { rate.scale };
    }
    out
}

/// The factor of one column: the plain reference of [`dropout_block`].
#[inline]
pub fn dropout_factor(key: u64, column: usize, rate: DropRate) -> f32 {
    let (block, within) = (column / 32, column % 32);
    let hash = column_hash(key, (block * 16 + within % 16) as u32);
    let lane = if within < 16 { hash & 0xFFFF } else { hash >> 16 };
    if lane < rate.threshold { 0.0 } else { rate.scale }
}

/// What decides whether a part of a model is left out of a whole optimizer step.
#[inline]
pub const fn part_key(seed: u64, step: u64, part: u64) -> u64 {
    derive(derive(derive(1, seed), step), part)
}

/// The key of a row at a site; `site` numbers the places of a model where something is dropped.
#[inline]
pub const fn site_key(row_key: u64, site: u32) -> u64 {
    derive(row_key, site as u64)
}

/// A stream of random numbers from a seed: SplitMix64 over a counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    key: u64,
    counter: u64,
}

impl Stream {
    /// The stream of `seed`.
    pub const fn new(seed: u64) -> Self {
        Self { key: derive(0, seed), counter: 0 }
    }

    /// The stream of `seed` after so many draws of [`Stream::next_u64`].
    pub const fn after(seed: u64, draws: u64) -> Self {
        Self { key: derive(0, seed), counter: draws }
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(1);
        mix64(self.key.wrapping_add(self.counter.wrapping_mul(GOLDEN)))
    }

    /// A number in `[0, 1)` with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A standard normal number (Box and Muller 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// A number in `0..n` (multiply-shift; the bias is below n / 2^64). `n` is at least 1.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }

    /// Shuffles in place (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_and_single_columns_agree() {
        let rate = DropRate::new(0.3);
        for key in [0, 1, row_key(1, 2, 3, 4), u64::MAX] {
            for block in 0..7 {
                let factors = dropout_block(key, block, rate);
                for (i, &f) in factors.iter().enumerate() {
                    assert_eq!(f.to_bits(), dropout_factor(key, block as usize * 32 + i, rate).to_bits());
                }
            }
        }
    }

    #[test]
    #[allow(clippy::float_cmp)] // exact by construction
    fn the_rate_is_kept_and_neighbours_are_uncorrelated() {
        let rate = DropRate::new(0.1);
        let (rows, columns) = (400, 512);
        let (mut dropped, mut beside, mut below, mut across_steps) = (0.0, 0.0, 0.0, 0.0);
        let is_zero = |r: u64, c: usize, step: u64| {
            f64::from(u8::from(dropout_factor(site_key(row_key(7, step, r / 20, r % 20), 3), c, rate) == 0.0))
        };
        for r in 0..rows {
            for c in 0..columns {
                let here = is_zero(r, c, 5);
                dropped += here;
                beside += here * is_zero(r, c + 1, 5);
                below += here * is_zero(r + 1, c, 5);
                across_steps += here * is_zero(r, c, 6);
            }
        }
        let n = (rows as usize * columns) as f64;
        assert!((dropped / n - 0.1).abs() < 0.003, "dropped {}", dropped / n);
        for pair in [beside, below, across_steps] {
            assert!((pair / n - 0.01).abs() < 0.0015, "joint {}", pair / n);
        }
        assert_eq!(DropRate::new(0.0).scale, 1.0);
    }

    #[test]
    fn a_stream_can_be_entered_anywhere() {
        let mut whole = Stream::new(9);
        for draws in 0..5 {
            assert_eq!(whole, Stream::after(9, draws));
            whole.next_u64();
        }
        whole.normal();
        assert_eq!(whole, Stream::after(9, 7), "a normal number takes two draws");
        whole.uniform();
        assert_eq!(whole, Stream::after(9, 8), "a uniform one takes one");
    }

    #[test]
    fn streams_are_uniform_and_normal_enough() {
        let mut stream = Stream::new(3);
        let n = 100_000;
        let (mut sum, mut squares) = (0.0, 0.0);
        for _ in 0..n {
            let x = stream.normal();
            sum += x;
            squares += x * x;
        }
        assert!((sum / n as f64).abs() < 0.01 && (squares / n as f64 - 1.0).abs() < 0.02);
        let mut counts = [0; 7];
        for _ in 0..70_000 {
            counts[stream.below(7)] += 1;
        }
        assert!(counts.iter().all(|&c| (9_600..10_400).contains(&c)), "{counts:?}");
    }
}
