//! A packed batch: sequences back to back, no padding. Which rows belong together, where each stands.
//!
//! Owns: lengths, positions, identities. Never: token ids or what they mean.

/// One token of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenOf {
    /// The first.
    Start,
    /// The last.
    End,
}

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

    /// The row of that token of a sequence.
    pub(crate) fn row_of(&self, sequence: usize, token: TokenOf) -> usize {
        let range = self.range(sequence);
        match token {
            TokenOf::Start => range.start,
            TokenOf::End => range.end - 1,
        }
    }

    /// The row of that token of each sequence.
    pub fn rows_of(&self, token: TokenOf) -> Vec<u32> {
        (0..self.sequences()).map(|sequence| self.row_of(sequence, token) as u32).collect()
    }

    /// The same sequences with nothing but that token of each, at its position.
    pub(crate) fn of_one_token(&self, token: TokenOf) -> Self {
        let position = |s| self.first_positions[s] + self.row_of(s, token) - self.range(s).start;
        Self {
            offsets: (0..=self.sequences()).collect(),
            first_positions: (0..self.sequences()).map(position).collect(),
            sequence_ids: self.sequence_ids.clone(),
        }
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
