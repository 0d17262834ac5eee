//! One optimizer step.
//!
//! Owns: forward and backward over a rank's slabs of a batch, the sum over ranks, the update. Never: which batch comes next,
//! when to stop.

use headstart_engine::collective::{self, GroupSums};
use headstart_engine::{EngineError, Gradients, Precision, Prepared, Tape, Weights, make_resident};

use crate::batch::{Batch, Slab};
use crate::device::{Device, in_parts_that_fit};
use crate::error::Result;
use crate::event::{Event, Listener, Signal};
use crate::model::Model;
use crate::objective::{self, Denominators, Objective, Sums};
use crate::optim::Optimizer;
use crate::ranks::Ranks;

/// What an optimizer step reads and changes.
#[derive(Debug)]
pub(crate) struct Step<'a> {
    pub(crate) device: &'a Device,
    pub(crate) ranks: &'a Ranks,
    pub(crate) model: &'a Model,
    pub(crate) objective: &'a Objective,
    pub(crate) precision: Precision,
    pub(crate) seed: u64,
    pub(crate) weights: &'a mut Weights,
    pub(crate) gradients: &'a mut Gradients,
    pub(crate) group_sums: &'a mut GroupSums,
    pub(crate) optimizer: &'a mut Optimizer,
    /// What the ranks' gradients add up to, where that was done beside the last slab.
    pub(crate) summed: Option<Result<Option<collective::Sums>, EngineError>>,
}

/// The batch of a step, with what could be done for it before its turn.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) batch: Batch,
    pub(crate) step: u64,
    prepared: Option<Prepared<Vec<Sums>>>,
}

/// What forward and backward found on this rank, besides the gradients, which are left in place.
#[derive(Debug)]
pub(crate) struct Computed {
    /// Of each slab.
    sums: Vec<Sums>,
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

    /// Forward and backward over this rank's slabs of the batch. `next` gives the batch after this one, which is prepared while a GPU
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
        let sums = in_parts_that_fit(device, listener, |listener| {
            if again {
                self.clear();
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
            sums.iter_mut().for_each(Sums::wait);
            Some(sums)
        })?;
        if sums.is_none() {
            self.clear();
        }
        Ok(sums.map(|sums| Computed { sums, next: after }))
    }

    /// All slabs of this rank's groups, forward and backward, one after the other, as long as it goes on.
    fn gradients_of(
        &mut self,
        batch: &Batch,
        step: u64,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Option<Vec<Sums>> {
        let (model, objective) = (self.model, self.objective);
        let denominators = objective.training_denominators(batch);
        let mut sums = Vec::new();
        let own = self.ranks.own_groups();
        // With one group to a rank, what its last slab completes is on its way while the rest is computed.
        let beside = own.len() == 1 && self.optimizer.exchange.is_reduced_beside(self.device);
        for sequences in &batch.groups(self.ranks.groups())[own.clone()] {
            let slabs = objective.training_slabs(batch, sequences.clone(), self.device.slab_tokens());
            for (i, slab) in slabs.iter().enumerate() {
                if !go_on() {
                    return None;
                }
                sums.push(if beside && i + 1 == slabs.len() {
                    self.last_slab(slab, step, denominators)
                } else {
                    let mut tape = self.tape(slab, step);
                    let (part, _) = objective.forward(model, &mut tape, slab, denominators);
                    tape.backward();
                    part
                });
            }
            self.group_sums.add(self.device, self.gradients, own.len());
        }
        Some(sums)
    }

    /// The last slab of this rank, while its gradients are exchanged.
    fn last_slab(&mut self, slab: &Slab<'_>, step: u64, denominators: Denominators) -> Sums {
        let (model, objective) = (self.model, self.objective);
        let (device, precision, seed) = (self.device, self.precision, self.seed);
        let (weights, gradients) = (&*self.weights, &mut *self.gradients);
        let (part, summed) = self.optimizer.exchange.reduce_beside(|completed| {
            let tape = Tape::training(device, weights, gradients, &slab.packing, precision, seed, step);
            let mut tape = tape.telling();
            let (part, _) = objective.forward(model, &mut tape, slab, denominators);
            tape.backward_telling(&mut |first, gradients| completed.from(first, gradients));
            part
        });
        self.summed = Some(summed);
        part
    }

    fn tape<'b>(&'b mut self, slab: &'b Slab<'_>, step: u64) -> Tape<'b> {
        let (weights, gradients) = (&*self.weights, &mut *self.gradients);
        Tape::training(self.device, weights, gradients, &slab.packing, self.precision, self.seed, step)
    }

    /// Adds up the losses and gradients of all ranks; each is left with the gradients of its share. Gives the loss of the
    /// batch, or `None`, with all gradients zero, where any rank was stopped in its middle: `computed` is then `None` there.
    ///
    /// # Errors
    /// A rank that is lost.
    pub(crate) fn reduce(&mut self, computed: Option<&Computed>, batch: &Batch) -> Result<Option<f64>> {
        let exchange = &self.optimizer.exchange;
        let all_go_on = match self.summed.take().transpose()? {
            // Made beside the last slab.
            Some(Some(sums)) => {
                exchange.put(&sums, self.gradients);
                true
            }
            Some(None) => false,
            None => {
                let all_go_on = exchange.all_go_on(computed.is_some())?;
                if all_go_on {
                    exchange.reduce(self.device, self.gradients)?;
                }
                all_go_on
            }
        };
        if !all_go_on {
            self.clear();
            return Ok(None);
        }
        let own = computed.map(|computed| &computed.sums[..]);
        let Some(sums) = objective::sums_of_ranks(own, self.ranks)? else { return Ok(None) };
        let mut whole = Sums::default();
        for part in &sums {
            whole.add(part);
        }
        Ok(Some(self.objective.loss(&whole, self.objective.training_denominators(batch))))
    }

    /// Forgets what was computed of a step.
    fn clear(&mut self) {
        self.gradients.clear();
        self.group_sums.clear();
    }

    /// The global norm of the gradients.
    ///
    /// # Errors
    /// What goes wrong on the device.
    pub(crate) fn gradient_norm(&self) -> Result<f64> {
        let norm = self.optimizer.exchange.squared_norm(self.device, self.gradients)?.sqrt();
        self.device.check_queued()?;
        Ok(norm)
    }

    /// Clips, makes update number `update` (from 1) of the weights at rate `lr`, in optimizer step `step`, and leaves the
    /// gradients zero.
    ///
    /// # Errors
    /// What goes wrong on the device.
    pub(crate) fn update(&mut self, norm: f64, lr: f64, step: u64, update: u64) -> Result<()> {
        self.optimizer.step(self.device, self.weights, self.gradients, norm, lr, step, update)?;
        Ok(self.device.check_queued()?)
    }

    /// Leaves the gradients zero without an update.
    pub(super) fn skip(&mut self) {
        self.clear();
    }
}
