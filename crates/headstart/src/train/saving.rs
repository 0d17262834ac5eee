//! What a checkpoint takes from the loop and gives back to it: weights, moments, where weights began, their running mean.
//!
//! Owns: which of these a run has, and how ranks bring them together. Never: how a checkpoint lies on disk, or when one is made.
//!
//! Of a run with a running mean of the weights, the model in a checkpoint is that mean: it is what was evaluated and what is used. The
//! weights that are trained stand beside the moments.

use headstart_engine::collective::Shares;
use headstart_engine::{Flat, Weights};

use super::batches::DataPosition;
use super::outcome::not_finite;
use super::{Running, Training};
use crate::checkpoint::{Checkpoint, Kept, Snapshot, TrainerState};
use crate::error::Result;
use crate::event::{Event, Listener};
use crate::optim::Optimizer;
use crate::run_log::RunLog;
use crate::tensors::all_finite;

impl Training<'_> {
    /// What is kept of each trainable parameter besides the model's weights.
    fn kept(&self) -> Vec<Kept> {
        let start = self.pull().map(|_| Kept::Start);
        let trained = self.config.ema.map(|_| Kept::Trained);
        Kept::MOMENTS.into_iter().chain(start).chain(trained).collect()
    }

    /// How strongly weights are pulled to where they began, if they are.
    fn pull(&self) -> Option<f64> {
        self.regularisation.l2_sp.filter(|pull| *pull > 0.0)
    }

    /// A new run begins where its weights are.
    pub(super) fn keep_from_here(&self, optimizer: &mut Optimizer) {
        let (table, weights) = (self.model.table(), self.weights.values());
        if let Some(pull) = self.pull() {
            let start = optimizer.own_values(table, weights);
            optimizer.keep_near(table, self.config, pull, start);
        }
        if let Some(decay) = self.config.ema {
            let values = optimizer.own_values(table, weights);
            optimizer.average(table, decay, values);
        }
    }

    /// Gives the optimizer back what a checkpoint kept of it; returns the weights that are trained.
    pub(super) fn load(&self, checkpoint: &Checkpoint, optimizer: &mut Optimizer) -> Result<Vec<f32>> {
        let table = self.model.table();
        let mut weights = checkpoint.model()?.exact_weights(table)?;
        checkpoint.check_kept(table, &self.kept())?;
        let places: Vec<_> = optimizer.exchange.shares().own().collect();
        let own = |which| checkpoint.load_kept(table, &places, which);
        optimizer.first_moment = own(Kept::FirstMoment)?.into();
        optimizer.second_moment = own(Kept::SecondMoment)?.into();
        if let Some(pull) = self.pull() {
            optimizer.keep_near(table, self.config, pull, own(Kept::Start)?);
        }
        if let Some(decay) = self.config.ema {
            let mean = optimizer.own_values(table, &weights);
            optimizer.average(table, decay, mean);
            let all = 0..table.trainable_len();
            let trained = checkpoint.load_kept(table, std::slice::from_ref(&all), Kept::Trained)?;
            self.spread(&trained, &mut weights);
        }
        Ok(weights)
    }

    /// The running mean of the weights, if one is made, with what never trains; all ranks take part.
    pub(super) fn averaged(&self, optimizer: &Optimizer) -> Result<Option<Weights>> {
        let Some(mean) = optimizer.mean() else { return Ok(None) };
        let (mut weights, mut values) = (self.weights.values().to_vec(), Vec::new());
        self.gather(&optimizer.exchange.shares(), mean, &mut |part| {
            values.extend_from_slice(part);
            Ok(())
        })?;
        if self.ranks.leads() {
            self.spread(&values, &mut weights);
        }
        if !self.ranks.collective().is_alone() {
            self.ranks.broadcast(&mut weights)?;
        }
        Ok(Some(Weights::new(weights)))
    }

    /// Puts values in the order of the trainable parameters where these lie among all.
    fn spread(&self, values: &[f32], weights: &mut [f32]) {
        for param in self.model.table().params() {
            if let Some(at) = param.grad {
                let (from, to) = (at..at + param.len(), param.offset..param.offset + param.len());
                weights[to].copy_from_slice(&values[from]);
            }
        }
    }

    /// The weights of the trainable parameters, in their order.
    fn trained(&self) -> impl Iterator<Item = &[f32]> {
        let weights = self.weights.values();
        let trained = self.model.table().params().iter().filter(|param| param.grad.is_some());
        trained.map(|param| &weights[param.offset..param.offset + param.len()])
    }

    pub(super) fn save(&self, running: &mut Running<'_>, listener: &mut Listener<'_>) -> Result<()> {
        let logged = running.log.as_mut().map(RunLog::flush).transpose()?;
        let DataPosition { epoch, sequences_in_epoch, sequences, tokens } =
            running.batches.position(running.state.step);
        running.state = TrainerState {
            epoch,
            sequences_in_epoch,
            sequences,
            tokens,
            elapsed_s: running.elapsed_before_s + running.started.elapsed().as_secs_f64(),
            slab_tokens: self.device.is_cuda().then(|| self.device.slab_tokens()),
            logged,
            phase_updates: running.optimizer.phase_updates(),
            ..std::mem::take(&mut running.state)
        };
        let (first, second) = (&running.optimizer.first_moment, &running.optimizer.second_moment);
        let finite = [self.weights.values(), first.values(), second.values()].map(all_finite);
        self.device.check()?; // what could not be read from the device is not saved
        // A rate can be so large that one update of finite gradients overflows.
        let [bad_weights, bad_moments] = self.ranks.any([!finite[0], !finite[1] || !finite[2]])?;
        let what = match (bad_weights, bad_moments) {
            (true, _) => Some("not all weights are finite after the update"),
            (_, true) => Some("not all of the optimizer's moments are finite after the update"),
            _ => None,
        };
        if let Some(what) = what {
            return Err(not_finite(&self.folder, &running.state, what.to_owned()));
        }
        let averaged = self.averaged(&running.optimizer)?;
        let optimizer = &running.optimizer;
        let shares = optimizer.exchange.shares();
        let values = |which: Kept, write: &mut dyn FnMut(&[f32]) -> Result<()>| match which {
            Kept::FirstMoment => self.gather(&shares, first, write),
            Kept::SecondMoment => self.gather(&shares, second, write),
            Kept::Start => optimizer.start().map_or(Ok(()), |start| self.gather(&shares, start, write)),
            // Every rank has them all.
            Kept::Trained => self.trained().try_for_each(write),
        };
        let kept = self.kept();
        running.saved = running.state.step;
        if !self.ranks.leads() {
            // In the order in which rank 0 writes them.
            for which in kept {
                values(which, &mut |_| Ok(()))?;
            }
            return Ok(());
        }
        let (state, table, files) = (&running.state, self.model.table(), &self.files);
        let weights = averaged.as_ref().unwrap_or(&self.weights).values();
        let snapshot = Snapshot { state, table, weights, kept: &kept, values: &values, files };
        let path = self.folder.save_checkpoint(&snapshot, self.config.keep)?;
        listener(Event::Saved(&path));
        Ok(())
    }

    /// Hands rank 0 the values of all ranks in order, unit by unit, each from the rank that has it.
    fn gather(&self, shares: &Shares, own: &Flat, write: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        if self.ranks.collective().is_alone() {
            return write(own.values());
        }
        shares.gather(self.ranks.collective(), own.values(), |unit| write(unit))
    }
}
