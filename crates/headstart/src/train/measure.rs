//! How long a run's steps take, before it begins.
//!
//! Owns: a few steps on weights that are thrown away. Never: anything of the run itself.

use std::time::{Duration, Instant};

use headstart_engine::collective::{Exchange, GroupSums};
use headstart_engine::{Gradients, Weights};

use super::batches::Batches;
use super::step::Step;
use crate::batch::{Examples, TokenTargets};
use crate::config::{Sampling, TrainConfig};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::event::Listener;
use crate::model::Model;
use crate::objective::Objective;
use crate::optim::Optimizer;
use crate::ranks::Ranks;

/// So many steps are timed at most.
const MOST_STEPS: u64 = 20;

/// What is timed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measurement<'a> {
    pub(crate) config: &'a TrainConfig,
    pub(crate) device: &'a Device,
    pub(crate) model: &'a Model,
    pub(crate) objective: &'a Objective,
    pub(crate) targets: TokenTargets,
    pub(crate) train: &'a Examples<'a>,
}

/// What a step is and takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepTime {
    pub(crate) seconds: f64,
    pub(crate) tokens: f64,
}

impl Measurement<'_> {
    /// Times the first steps of the run for about `at_most`, but one step at least.
    ///
    /// # Errors
    /// What goes wrong on the device.
    pub(crate) fn run(&self, at_most: Duration, listener: &mut Listener<'_>) -> Result<StepTime> {
        let Self { config, device, model, objective, targets, train } = *self;
        let mut weights = Weights::new(model.table().initial_values(config.seed));
        let mut gradients = Gradients::new(model.table().trainable_len());
        let (ranks, mut group_sums) = (Ranks::default(), GroupSums::default());
        let mut optimizer =
            Optimizer::new(model.table(), config, Exchange::alone(model.table().trainable_len()));
        let mut batches = Batches::new(train.clone(), targets, config, Sampling::Natural);
        let began = Instant::now();
        let mut timed = StepTime { seconds: 0.0, tokens: 0.0 };
        let mut steps = 0.0;
        for step in 1..=MOST_STEPS {
            let since = Instant::now();
            let mut work = Step {
                device,
                ranks: &ranks,
                model,
                objective,
                precision: config.precision(),
                seed: config.seed,
                weights: &mut weights,
                gradients: &mut gradients,
                group_sums: &mut group_sums,
                optimizer: &mut optimizer,
                summed: None,
            };
            let mut ready = work.ready(batches.of(step), step);
            let computed = work.forward_backward(&mut ready, || None, listener)?;
            if work.reduce(computed.as_ref(), &ready.batch)?.is_none() {
                return Err(Error::Interrupted {
                    what: "the run was stopped before its first step".into(),
                    fix: "start it again".into(),
                });
            }
            let norm = work.gradient_norm()?;
            if norm.is_finite() {
                work.update(norm, config.peak_lr(), step, step)?;
            } else {
                work.skip();
            }
            device.check()?;
            // The first one makes room for itself.
            if step > 1 {
                steps += 1.0;
                timed.seconds += since.elapsed().as_secs_f64();
                timed.tokens += ready.batch.tokens() as f64;
                if began.elapsed() >= at_most {
                    break;
                }
            }
        }
        Ok(StepTime { seconds: timed.seconds / steps, tokens: timed.tokens / steps })
    }
}
