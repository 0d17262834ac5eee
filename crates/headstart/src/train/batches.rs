//! The global batches of a run, each a function of seed and step.
//!
//! Owns: which examples a step takes. Never: slabs, devices.

use crate::batch::{Batch, Examples, TokenTargets, epoch_order, training_mask_key};

/// The batches of a run, each a function of its step.
pub(super) struct Batches<'a> {
    pub(super) train: Examples<'a>,
    pub(super) targets: TokenTargets,
    pub(super) size: usize,
    pub(super) seed: u64,
    pub(super) steps_per_epoch: u64,
    /// The epoch whose order is at hand.
    pub(super) epoch: Option<u64>,
    pub(super) order: Vec<u32>,
}

impl Batches<'_> {
    /// The sequences of optimizer step `step`, counted from 1.
    pub(super) fn of(&mut self, step: u64) -> Batch {
        let (epoch, within) = ((step - 1) / self.steps_per_epoch, (step - 1) % self.steps_per_epoch);
        if self.epoch != Some(epoch) {
            self.order = epoch_order(self.train.len(), self.seed, epoch);
            self.epoch = Some(epoch);
        }
        let first = within as usize * self.size;
        let picked = &self.order[first..self.train.len().min(first + self.size)];
        let sequence = |(i, &example): (usize, &u32)| {
            let (example, key) = (example as usize, training_mask_key(self.seed, step, i));
            self.train.sequence(example, &self.targets, key)
        };
        Batch { sequences: picked.iter().enumerate().map(sequence).collect() }
    }
}
