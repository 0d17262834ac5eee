//! One optimizer step.
//!
//! Owns: forward and backward over the slabs of a batch, the update. Never: which batch comes next, when to stop.

use headstart_engine::ops::adam::squared_norm;
use headstart_engine::{Gradients, Precision, Prepared, Tape, Weights, make_resident};

use crate::batch::Batch;
use crate::device::{Device, in_parts_that_fit};
use crate::error::Result;
use crate::event::{Event, Listener, Signal};
use crate::model::Model;
use crate::objective::{Objective, Sums};
use crate::optim::Optimizer;

/// What an optimizer step reads and changes.
#[derive(Debug)]
pub(crate) struct Step<'a> {
    pub(crate) device: &'a Device,
    pub(crate) model: &'a Model,
    pub(crate) objective: &'a Objective,
    pub(crate) precision: Precision,
    pub(crate) seed: u64,
    pub(crate) weights: &'a mut Weights,
    pub(crate) gradients: &'a mut Gradients,
    pub(crate) optimizer: &'a mut Optimizer,
}

/// The batch of a step, with what could be done for it before its turn.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) batch: Batch,
    pub(crate) step: u64,
    prepared: Option<Prepared<Sums>>,
}

/// What forward and backward found, besides the gradients, which are left in place.
#[derive(Debug)]
pub(crate) struct Computed {
    pub(crate) loss: f64,
    /// The batch after this one.
    pub(crate) next: Option<Ready>,
}

impl Step<'_> {
    /// Prepares a step as far as the device allows; not before the step before has been queued.
    pub(crate) fn ready(&mut self, batch: Batch, step: u64) -> Ready {
        let device = self.device;
        let prepare = || self.gradients_of(&batch, step, &mut || true).unwrap_or_default();
        let prepared = device.prepare(batch.shape(), prepare);
        Ready { batch, step, prepared }
    }

    /// Forward and backward over the batch's slabs. `next` gives the batch after this one, which is prepared while a GPU
    /// computes. `None` when the listener asked to stop: the work is discarded, and the gradients are zero.
    ///
    /// # Errors
    /// What goes wrong on the device; memory that is full only when smaller slabs do not help.
    pub(crate) fn forward_backward(
        &mut self,
        ready: &mut Ready,
        next: impl FnOnce() -> Option<Batch>,
        listener: &mut Listener<'_>,
    ) -> Result<Option<Computed>> {
        // Before anything that smaller slabs could make room for.
        let moments = [&self.optimizer.first_moment, &self.optimizer.second_moment];
        make_resident(self.device, self.weights, self.gradients, moments, self.precision)?;
        let mut next = Some(next);
        let mut after = None;
        let mut again = false;
        let device = self.device;
        let loss = in_parts_that_fit(device, listener, |listener| {
            if again {
                self.gradients.clear();
            }
            again = true;
            let (batch, step) = (&ready.batch, ready.step);
            // What is queued for a GPU goes on whatever is asked, and is soon done.
            let mut go_on = || device.is_cuda() || listener(Event::Waiting) == Signal::Continue;
            let started = ready.prepared.take().and_then(|prepared| device.start(prepared).map(Some));
            let sums = started
                .unwrap_or_else(|| device.run(batch.shape(), || self.gradients_of(batch, step, &mut go_on)));
            let mut sums = sums?;
            if let Some(next) = next.take() {
                after = next().map(|batch| self.ready(batch, step + 1));
            }
            sums.wait();
            Some(self.objective.loss(&sums, self.objective.denominators(batch)))
        })?;
        if loss.is_none() {
            self.gradients.clear();
        }
        Ok(loss.map(|loss| Computed { loss, next: after }))
    }

    /// All slabs of a batch, forward and backward, one after the other, as long as it goes on.
    fn gradients_of(&mut self, batch: &Batch, step: u64, go_on: &mut dyn FnMut() -> bool) -> Option<Sums> {
        let denominators = self.objective.denominators(batch);
        let mut sums = Sums::default();
        for slab in batch.slabs(self.device.slab_tokens()) {
            if !go_on() {
                return None;
            }
            let (weights, gradients) = (&*self.weights, &mut *self.gradients);
            let mut tape = Tape::training(
                self.device,
                weights,
                gradients,
                &slab.packing,
                self.precision,
                self.seed,
                step,
            );
            let (part, _) = self.objective.forward(self.model, &mut tape, &slab, denominators);
            tape.backward();
            sums.add(&part);
        }
        Some(sums)
    }

    /// The global norm of the gradients.
    ///
    /// # Errors
    /// What goes wrong on the device.
    pub(crate) fn gradient_norm(&self) -> Result<f64> {
        let norm = squared_norm(self.device, self.gradients).wait().sqrt();
        self.device.check_queued()?;
        Ok(norm)
    }

    /// Clips, makes update number `update` (from 1) of the weights at rate `lr`, in optimizer step `step`, and leaves the
    /// gradients zero.
    ///
    /// # Errors
    /// What goes wrong on the device.
    pub(crate) fn update(&mut self, norm: f64, lr: f64, step: u64, update: u64) -> Result<()> {
        self.optimizer.step(self.device, self.weights, self.gradients, norm, lr, step, update);
        Ok(self.device.check_queued()?)
    }

    /// Leaves the gradients zero without an update.
    pub(super) fn skip(&mut self) {
        self.gradients.clear();
    }
}
