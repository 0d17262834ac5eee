//! A packed batch: sequences back to back, no padding. Which rows belong together, where each stands.
//!
//! Owns: lengths, positions, identities. Never: token ids or what they mean.

/// The layout of N packed tokens in B sequences.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packing {
    offsets: Vec<usize>,
    first_positions: Vec<usize>,
    sequence_ids: Vec<u64>,
}

impl Packing {
    /// Sequences of the given lengths (each at least 1) that start at position 0. `sequence_ids` number them
    /// within the *global* batch, so that dropout does not depend on how memory cut it.
    ///
    /// # Panics
    /// When the numbers of lengths and ids differ, or a length is 0.
    pub fn new(lengths: &[usize], sequence_ids: &[u64]) -> Self {
        assert_eq!(lengths.len(), sequence_ids.len());
        let mut offsets = Vec::with_capacity(lengths.len() + 1);
        offsets.push(0);
        let mut end = 0;
        for &length in lengths {
            assert!(length > 0, "an empty sequence has no place in a packing");
            end += length;
            offsets.push(end);
        }
        Self { offsets, first_positions: vec![0; lengths.len()], sequence_ids: sequence_ids.to_vec() }
    }

    /// One sequence of `length` new tokens that continues after `position` earlier ones: generation.
    ///
    /// # Panics
    /// When `length` is 0.
    pub fn continued(position: usize, length: usize) -> Self {
        assert!(length > 0);
        Self { offsets: vec![0, length], first_positions: vec![position], sequence_ids: vec![0] }
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.first_positions.len()
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.offsets[self.offsets.len() - 1]
    }

    /// The rows of one sequence.
    pub fn range(&self, sequence: usize) -> std::ops::Range<usize> {
        self.offsets[sequence]..self.offsets[sequence + 1]
    }

    /// The position of a sequence's first row.
    pub fn first_position(&self, sequence: usize) -> usize {
        self.first_positions[sequence]
    }

    /// The row of the first token of each sequence.
    pub fn first_rows(&self) -> impl Iterator<Item = u32> + '_ {
        self.offsets[..self.sequences()].iter().map(|&start| start as u32)
    }

    /// The row of the last token of each sequence.
    pub fn last_rows(&self) -> impl Iterator<Item = u32> + '_ {
        self.offsets[1..].iter().map(|&end| (end - 1) as u32)
    }

    /// (sequence id, position) of every row.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        (0..self.sequences()).flat_map(move |s| {
            let first = self.first_positions[s];
            let id = self.sequence_ids[s];
            (0..self.range(s).len()).map(move |i| (id, (first + i) as u64))
        })
    }
}
