//! The global batches of a run, each a function of seed and step.
//!
//! Owns: which examples a step takes. Never: slabs, devices.

use crate::batch::{Batch, Examples, Label, TokenTargets, epoch_order, training_mask_key};
use crate::config::{Sampling, TrainConfig};
use crate::train::sampling::Classes;

/// The batches of a run.
pub(super) struct Batches<'a> {
    train: Examples<'a>,
    targets: TokenTargets,
    /// Sequences to a global batch.
    size: usize,
    seed: u64,
    /// Where each epoch takes as many examples of each class.
    classes: Option<Classes>,
    /// The epoch whose order is at hand.
    epoch: Option<u64>,
    order: Vec<u32>,
}

/// How far a run has come in its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DataPosition {
    /// Passes over the data completed.
    pub(super) epoch: u64,
    /// Sequences already used of the pass that is going on.
    pub(super) sequences_in_epoch: u64,
    /// Sequences used in all.
    pub(super) sequences: u64,
    /// Tokens used in all.
    pub(super) tokens: u64,
}

impl<'a> Batches<'a> {
    /// Balanced sampling is for examples with a class.
    pub(super) fn new(
        train: Examples<'a>,
        targets: TokenTargets,
        config: &TrainConfig,
        sampling: Sampling,
    ) -> Self {
        let (size, seed) = (config.global_batch(), config.seed);
        let class = |label: &Label| match label {
            Label::Class(class) => *class,
            Label::Values(_) => 0,
        };
        let classes = (sampling == Sampling::Balanced && !train.labels.is_empty())
            .then(|| Classes::new(train.labels.iter().map(class), seed));
        Self { train, targets, size, seed, classes, epoch: None, order: Vec::new() }
    }

    /// The training examples.
    pub(super) fn train(&self) -> &Examples<'a> {
        &self.train
    }

    /// Whether examples are compared pair by pair, and not classified.
    pub(super) fn are_pairs(&self) -> bool {
        !self.train.pairs.is_empty()
    }

    /// Number of training examples, or of pairs of them.
    pub(super) fn examples(&self) -> usize {
        self.train.items()
    }

    /// Tokens to a pass over the training data.
    pub(super) fn tokens(&self) -> usize {
        self.train.item_tokens()
    }

    pub(super) fn steps_per_epoch(&self) -> u64 {
        self.train.items().div_ceil(self.size).max(1) as u64
    }

    /// The sequences of optimizer step `step`, counted from 1.
    pub(super) fn of(&mut self, step: u64) -> Batch {
        let steps_per_epoch = self.steps_per_epoch();
        let (epoch, within) = ((step - 1) / steps_per_epoch, (step - 1) % steps_per_epoch);
        self.arrange(epoch);
        let first = within as usize * self.size;
        let picked = &self.order[first..self.train.items().min(first + self.size)];
        let sequence = |(i, &example): (usize, &u32)| {
            let (example, key) = (example as usize, training_mask_key(self.seed, step, i));
            self.train.item(example, &self.targets, key)
        };
        Batch { sequences: picked.iter().enumerate().flat_map(sequence).collect() }
    }

    /// How far a run is after step `steps`.
    pub(super) fn position(&mut self, steps: u64) -> DataPosition {
        let (epoch, within) = (steps / self.steps_per_epoch(), steps % self.steps_per_epoch());
        let all = self.train.items() as u64;
        let sequences_in_epoch = all.min(within * self.size as u64);
        let mut tokens = 0;
        if self.classes.is_some() {
            for before in 0..epoch {
                self.arrange(before);
                tokens += self.tokens_of(self.train.items());
            }
        } else if epoch > 0 {
            tokens += epoch * self.tokens() as u64;
        }
        if sequences_in_epoch > 0 {
            self.arrange(epoch);
            tokens += self.tokens_of(sequences_in_epoch as usize);
        }
        DataPosition { epoch, sequences_in_epoch, sequences: epoch * all + sequences_in_epoch, tokens }
    }

    /// Tokens of the first examples of the epoch that is at hand.
    fn tokens_of(&self, examples: usize) -> u64 {
        self.order[..examples].iter().map(|&i| self.train.item_len(i as usize) as u64).sum()
    }

    /// Puts the order of an epoch at hand.
    fn arrange(&mut self, epoch: u64) {
        if self.epoch != Some(epoch) {
            self.order = match &self.classes {
                Some(classes) => classes.order(epoch),
                None => epoch_order(self.train.items(), self.seed, epoch),
            };
            self.epoch = Some(epoch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_counts_what_the_batches_held() {
        for sampling in [Sampling::Natural, Sampling::Balanced] {
            counts_what_the_batches_held(sampling);
        }
    }

    fn counts_what_the_batches_held(sampling: Sampling) {
        let ids: Vec<Vec<u32>> = (1..=11).map(|n| vec![7; n]).collect();
        let train = || Examples {
            ids: ids.iter().map(Vec::as_slice).collect(),
            labels: (0..11).map(|i| Label::Class(u32::from(i > 7))).collect(),
            ..Examples::default()
        };
        let config = TrainConfig { train_batch_size: Some(2), grad_accum_steps: 2, ..TrainConfig::default() };
        let mut batches = Batches::new(train(), TokenTargets::None, &config, sampling);
        assert_eq!(batches.steps_per_epoch(), 3);
        let (mut sequences, mut tokens) = (0, 0);
        for step in 1..=8 {
            let batch = batches.of(step);
            sequences += batch.sequences.len() as u64;
            tokens += batch.tokens() as u64;
            // Asked of other batches, whose order is not at hand.
            let at = Batches::new(train(), TokenTargets::None, &config, sampling).position(step);
            assert_eq!((at.sequences, at.tokens), (sequences, tokens), "step {step}");
            assert_eq!((at.epoch, at.sequences_in_epoch), (step / 3, [0, 4, 8][step as usize % 3]));
        }
        assert_eq!(batches.position(0), DataPosition::default());
    }
}
