//! The optimizer: flat moments over the trainable parameters, one clip, one pass.
//!
//! Owns: moments, which range has which decay. Never: the schedule (a rate comes in) or the gradients' origin.

use headstart_engine::ops::adam::{Adam, Decay, Range};
use headstart_engine::{Device, Flat, Gradients, Weights};

use crate::config::{OptimizerName, TrainConfig};
use crate::params::ParamTable;

/// Adam or AdamW with its moments.
#[derive(Clone, Debug)]
pub struct Optimizer {
    adam: Adam,
    max_norm: f64,
    ranges: Vec<Range>,
    /// First moments, in the order of the trainable parameters.
    pub first_moment: Flat,
    /// Second moments.
    pub second_moment: Flat,
}

impl Optimizer {
    /// Fresh moments for a table's trainable parameters. Adam's coupled decay applies to all of them, as in the
    /// tutorial; AdamW's only to matrices.
    pub fn new(table: &ParamTable, config: &TrainConfig) -> Self {
        let decay = match config.optimizer {
            OptimizerName::Adam => Decay::Coupled,
            OptimizerName::AdamW => Decay::Decoupled,
        };
        let mut ranges: Vec<Range> = Vec::new();
        for param in table.params() {
            let Some(grad) = param.grad else { continue };
            let decays = decay == Decay::Coupled || param.decay;
            let weight_decay = if decays { config.weight_decay as f32 } else { 0.0 };
            match ranges.last_mut() {
                Some(last)
                    if last.start + last.len == param.offset
                        && last.grad + last.len == grad
                        && last.weight_decay.to_bits() == weight_decay.to_bits() =>
                {
                    last.len += param.len();
                }
                _ => ranges.push(Range {
                    start: param.offset,
                    grad,
                    len: param.len(),
                    lr: 0.0,
                    weight_decay,
                    step: 0,
                }),
            }
        }
        Self {
            adam: Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay },
            max_norm: config.max_norm,
            ranges,
            first_moment: Flat::zeros(table.trainable_len()),
            second_moment: Flat::zeros(table.trainable_len()),
        }
    }

    /// Update number `update` (from 1) at rate `lr`, with gradients of norm `norm` clipped to the maximum; gradients
    /// are left zero.
    pub fn step(
        &mut self,
        device: &Device,
        weights: &mut Weights,
        gradients: &mut Gradients,
        norm: f64,
        lr: f64,
        update: u64,
    ) {
        let clip = if self.max_norm > 0.0 { (self.max_norm / (norm + 1e-6)).min(1.0) } else { 1.0 };
        for range in &mut self.ranges {
            range.lr = lr as f32;
            range.step = update;
        }
        let (first, second) = (&mut self.first_moment, &mut self.second_moment);
        self.adam.step(device, weights, gradients, first, second, &self.ranges, clip as f32);
    }
}
