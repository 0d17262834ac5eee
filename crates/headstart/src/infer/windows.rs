//! Texts that are longer than a classifier's inputs, read in windows that overlap.
//!
//! Owns: what becomes of the windows' logits. Never: where a window begins (`data/template.rs`).

use headstart_engine::{Precision, Tape};

use crate::batch::{Batch, Examples, TokenTargets};
use crate::config::Problem;
use crate::device::in_parts_that_fit;
use crate::error::Result;
use crate::event::{Event, Listener, Signal};
use crate::infer::Loaded;
use crate::objective::{inputs, mean_probabilities};

/// What becomes of texts that are too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LongTexts {
    /// They are cut as in training.
    #[default]
    Cut,
    /// They are read in windows, and the probabilities (or numbers) of these are averaged.
    Windows,
}

/// Examples at a time; does not change the result.
const CHUNK: usize = 32;

/// What was computed window by window.
pub(crate) struct Windowed {
    /// A row for each example, of logits whose probabilities are the averages.
    pub(crate) logits: Vec<f32>,
    /// Examples that were longer than an input, and the windows of all of them.
    pub(crate) long: (usize, usize),
}

/// The classifier's logits of a batch, a row for each sequence.
pub(crate) fn logits(loaded: &Loaded, batch: &Batch, precision: Precision) -> Vec<f32> {
    let Loaded { device, weights, model, .. } = loaded;
    let mut rows = Vec::new();
    for slab in batch.slabs(device.slab_tokens()) {
        let mut tape = Tape::inference(device, weights, &slab.packing, precision);
        let read = model.trunk_for_classifier(&mut tape, inputs(model, &slab));
        rows.extend(model.classify(&mut tape, &read).iter().flat_map(|logits| logits.tensor().to_f32_vec()));
    }
    rows
}

/// The examples under a model with a head, window by window; `None` when the listener asked to stop.
///
/// # Errors
/// What goes wrong on the device.
pub(crate) fn by_windows(
    loaded: &Loaded,
    examples: &Examples<'_>,
    precision: Precision,
    listener: &mut Listener<'_>,
) -> Result<Option<Windowed>> {
    let (Some(head), Some(template)) = (&loaded.files.config.head, &examples.template) else {
        return Ok(None);
    };
    let mut all = Windowed { logits: Vec::new(), long: (0, 0) };
    for first in (0..examples.len()).step_by(CHUNK) {
        let (mut batch, mut parts) = (Batch::default(), Vec::new());
        for at in first..examples.len().min(first + CHUNK) {
            let windows = template.windows(examples.ids[at], examples.second(at));
            parts.push(windows.len());
            let sequence = |(first, second): (&[u32], Option<&[u32]>)| {
                TokenTargets::None.sequence_of(&template.encode(first, second), None, 0)
            };
            batch.sequences.extend(windows.into_iter().map(sequence));
        }
        let rows = in_parts_that_fit(&loaded.device, listener, |_| logits(loaded, &batch, precision))?;
        let mut rows = rows.chunks_exact(head.num_classes);
        for parts in parts {
            if parts > 1 {
                all.long = (all.long.0 + 1, all.long.1 + parts);
            }
            let rows: Vec<&[f32]> = rows.by_ref().take(parts).collect();
            all.logits.extend(averaged(&rows, head.problem));
        }
        let done = examples.len().min(first + CHUNK) as u64;
        let event = Event::Progress { what: "evaluating", done, total: examples.len() as u64 };
        if listener(event) == Signal::Stop && done < examples.len() as u64 {
            return Ok(None);
        }
    }
    Ok(Some(all))
}

/// Logits whose probabilities are the average of those of some rows.
fn averaged(rows: &[&[f32]], problem: Problem) -> Vec<f32> {
    if let [row] = rows {
        return row.to_vec();
    }
    let least = f32::MIN_POSITIVE;
    let (values, _) = mean_probabilities(rows, problem);
    let logit = |p: f32| match problem {
        Problem::SingleLabel => p.max(least).ln(),
        Problem::MultiLabel => p.max(least).ln() - (1.0 - p).max(least).ln(),
        Problem::Regression => p,
    };
    values.into_iter().map(logit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objective::probabilities;

    #[test]
    fn averaged_logits_have_the_averages_as_their_probabilities() {
        let rows = [&[1.0_f32, -2.0, 0.5][..], &[0.0, 3.0, -1.0], &[2.0, 0.1, 0.2]];
        for problem in [Problem::SingleLabel, Problem::MultiLabel, Problem::Regression] {
            let (found, _) = probabilities(&averaged(&rows, problem), problem);
            for (at, found) in found.iter().enumerate() {
                let mean = rows.iter().map(|row| probabilities(row, problem).0[at]).sum::<f32>() / 3.0;
                assert!((found - mean).abs() < 1e-6, "{problem:?}");
            }
            assert_eq!(averaged(&rows[..1], problem), rows[0]);
        }
    }
}
