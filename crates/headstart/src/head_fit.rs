//! A classifier's last linear that is fitted in one go to what a trunk makes of the training examples, instead of being trained step by
//! step.
//!
//! Owns: the vectors that it reads, and where the fitted numbers go. Never: how they are fitted (`baseline`), files.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::Range;

use headstart_engine::{Precision, Tape, Weights};

use crate::baseline::{LinearModel, Targets, Vectors};
use crate::batch::{Batch, Examples, Label, Sequence, TokenTargets};
use crate::config::Problem;
use crate::device::{Device, in_parts_that_fit};
use crate::error::Result;
use crate::event::{Event, Listener, Signal};
use crate::model::Model;
use crate::objective::inputs;

/// Examples at a time; does not change the result.
const CHUNK: usize = 256;

/// A model whose trunk makes vectors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trunk<'a> {
    pub(crate) device: &'a Device,
    pub(crate) model: &'a Model,
    pub(crate) weights: &'a Weights,
    pub(crate) precision: Precision,
}

impl Trunk<'_> {
    /// Numbers to a vector.
    pub(crate) fn width(&self) -> usize {
        self.model.last_linear().map_or(0, |(weights, _)| weights.iter().map(|weight| weight.cols).sum())
    }

    /// What the classifier's last linear reads of the examples at these places, one vector behind the other; `None` when the listener
    /// asked to stop. A vector does not depend on what stands beside its example.
    ///
    /// # Errors
    /// What goes wrong on the device.
    pub(crate) fn vectors(
        &self,
        examples: &Examples<'_>,
        places: Range<usize>,
        listener: &mut Listener<'_>,
    ) -> Result<Option<Vec<f32>>> {
        let (width, first, total) = (self.width(), places.start, examples.len() as u64);
        let mut values = vec![0.0; places.len() * width];
        for (chunk, values) in values.chunks_mut((CHUNK * width).max(1)).enumerate() {
            let begin = first + chunk * CHUNK;
            let sequences = (begin..places.end.min(begin + CHUNK)).map(|at| sequence(examples, at));
            let sequences: Vec<Sequence> = sequences.collect();
            // Inputs of about one length share a slab.
            let mut order: Vec<usize> = (0..sequences.len()).collect();
            order.sort_by_key(|&at| Reverse(sequences[at].input_ids.len()));
            let batch = Batch { sequences: order.iter().map(|&at| sequences[at].clone()).collect() };
            let Some(rows) =
                in_parts_that_fit(self.device, listener, |listener| self.rows(&batch, listener))?
            else {
                return Ok(None);
            };
            for (row, &at) in rows.chunks_exact(width).zip(&order) {
                values[at * width..][..width].copy_from_slice(row);
            }
            let done = (begin + sequences.len()) as u64;
            if listener(Event::Progress { what: "computing vectors", done, total }) == Signal::Stop {
                return Ok(None);
            }
        }
        Ok(Some(values))
    }

    /// A vector for each sequence; `None` when the listener asked to stop.
    fn rows(&self, batch: &Batch, listener: &mut Listener<'_>) -> Option<Vec<f32>> {
        let mut rows = Vec::new();
        for slab in batch.slabs(self.device.slab_tokens()) {
            if listener(Event::Waiting) == Signal::Stop {
                return None;
            }
            let mut tape = Tape::inference(self.device, self.weights, &slab.packing, self.precision);
            let read = self.model.trunk_for_classifier(&mut tape, inputs(self.model, &slab));
            let parts = self.model.classified_rows(&mut tape, &read);
            let parts: Vec<Vec<f32>> = parts.iter().map(|part| part.tensor().to_f32_vec()).collect();
            let width = self.model.config().embed_dim;
            for at in 0..slab.sequences.len() {
                for part in &parts {
                    rows.extend_from_slice(&part[at * width..][..width]);
                }
            }
        }
        Some(rows)
    }
}

/// An example as the trunk reads it.
pub(crate) fn sequence(examples: &Examples<'_>, at: usize) -> Sequence {
    examples.sequence(at, &TokenTargets::None, 0)
}

/// Fits the last linear to the vectors of labelled examples, of which those of each class count as much as `class_weights` say; `None`
/// when `go_on` said no.
pub(crate) fn fitted(
    examples: &Examples<'_>,
    values: &[f32],
    (problem, outputs): (Problem, usize),
    class_weights: Option<&[f32]>,
    go_on: &mut dyn FnMut() -> bool,
) -> Option<LinearModel> {
    let mut seen: HashMap<(&[u32], Option<&[u32]>), u64> = HashMap::new();
    let number = |at: usize| {
        let next = seen.len() as u64;
        *seen.entry((examples.ids[at], examples.second(at))).or_insert(next)
    };
    let texts: Vec<u64> = if examples.groups.is_empty() {
        (0..examples.len()).map(number).collect()
    } else {
        examples.groups.clone()
    };
    let vectors = Vectors { values, width: values.len() / texts.len().max(1), texts: &texts };
    let (mut classes, mut numbers) = (Vec::new(), Vec::new());
    for label in &examples.labels {
        match label {
            Label::Class(class) => classes.push(*class),
            Label::Values(values) => numbers.extend_from_slice(values),
        }
    }
    let class_weights: Option<Vec<f64>> =
        class_weights.map(|weights| weights.iter().map(|weight| f64::from(*weight)).collect());
    let targets = match (problem, &class_weights) {
        (Problem::SingleLabel, Some(weights)) => Targets::WeightedClasses(&classes, weights),
        (Problem::SingleLabel, None) => Targets::Classes(&classes, outputs),
        (Problem::MultiLabel, _) => Targets::MultiLabel(&numbers, outputs),
        (Problem::Regression, _) => Targets::Numbers(&numbers),
    };
    LinearModel::fit(vectors, targets, go_on)
}

/// Puts a fitted linear into the place of the model's own.
pub(crate) fn put(linear: &LinearModel, model: &Model, weights: &mut [f32]) {
    let Some((parts, bias)) = model.last_linear() else { return };
    let width: usize = parts.iter().map(|part| part.cols).sum();
    for (output, row) in linear.weights.chunks_exact(width).enumerate() {
        let mut first = 0;
        for part in &parts {
            let columns = &row[first..][..part.cols];
            weights[part.offset + output * part.cols..][..part.cols].copy_from_slice(columns);
            first += part.cols;
        }
    }
    if let Some(bias) = bias {
        weights[bias.offset..][..bias.cols].copy_from_slice(&linear.biases);
    }
}

/// The lowest and the highest strength of a fit.
pub(crate) fn strengths(linear: &LinearModel) -> (f64, f64) {
    let of = |pick: fn(f64, f64) -> f64| linear.strengths.iter().copied().reduce(pick).unwrap_or_default();
    (of(f64::min), of(f64::max))
}
