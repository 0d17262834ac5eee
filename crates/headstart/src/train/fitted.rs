//! The head of a run whose trunk was tuned on pairs: fitted at the end to what the trunk makes of the training examples by then.
//!
//! Owns: when that is, and that all ranks have the same. Never: the fit (`head_fit`).

use std::time::Instant;

use headstart_engine::Weights;

use crate::error::Result;
use crate::event::{Event, Listener, Signal};
use crate::head_fit::{Trunk, fitted, put, strengths};
use crate::train::{FittedHead, Running, Training};

impl Training<'_> {
    /// Fits the head and puts it in its place; rank 0 does so for all. `None` when the listener asked to stop.
    pub(super) fn fit_head(
        &mut self,
        running: &Running<'_>,
        listener: &mut Listener<'_>,
    ) -> Result<Option<FittedHead>> {
        let examples = running.batches.train();
        let mut values = self.weights.values().to_vec();
        let mut head = FittedHead::default();
        let whole = self.ranks.of_leader(|| {
            let trunk = Trunk {
                device: &self.device,
                model: &self.model,
                weights: &self.weights,
                precision: self.config.precision(),
            };
            let clock = Instant::now();
            let Some(vectors) = trunk.vectors(examples, 0..examples.len(), listener)? else {
                return Ok(false);
            };
            let vectors_s = clock.elapsed().as_secs_f64();
            let Some(config) = &self.model.config().head else { return Ok(false) };
            let clock = Instant::now();
            let mut done = 0;
            let mut go_on = || {
                done += 1;
                listener(Event::Progress { what: "fitting the head", done, total: 0 }) == Signal::Continue
            };
            let outputs = (config.problem, config.num_classes);
            let class_weights = self.objective.class_weights.as_deref();
            let Some(linear) = fitted(examples, &vectors, outputs, class_weights, &mut go_on) else {
                return Ok(false);
            };
            put(&linear, &self.model, &mut values);
            head = FittedHead {
                width: trunk.width(),
                examples: examples.len(),
                strengths: strengths(&linear),
                vectors_s: Some(vectors_s),
                fit_s: clock.elapsed().as_secs_f64(),
                memory_bytes: 4 * (values.len() + vectors.len()) as u64,
                full: None,
            };
            listener(Event::Message(&format!("the head: {head}")));
            Ok(true)
        })?;
        if !whole {
            return Ok(None);
        }
        self.ranks.broadcast(&mut values)?;
        self.weights = Weights::new(values);
        Ok(Some(head))
    }
}
