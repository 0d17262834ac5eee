//! A model's low-rank updates and scales merged into the weights they belong to, and how near its outputs stay.
//!
//! Owns: the fixed input that both models read. Never: the sum itself (`model/peft.rs`), files.

use headstart_engine::{CodePath, Device, Packing, Precision, Tape, Weights};

use crate::error::Result;
use crate::model::Inputs;
use crate::model::Model;

/// Tokens of the fixed input.
const TOKENS: usize = 64;

/// The model without updates and scales, its weights, and the largest absolute difference between an output of the two on a fixed input:
/// logits where there is a classifier or a language model's head, else hidden states. It is what rounding leaves.
///
/// # Errors
/// Those of [`Model::merged`], and of the processor that is computed on.
///
/// # Panics
/// When the weights are not the model's.
pub fn merge_updates(model: &Model, weights: Vec<f32>) -> Result<(Model, Vec<f32>, f32)> {
    let (merged, sum) = model.merged(&weights)?;
    let device = Device::cpu(None, CodePath::Auto)?;
    let (before, after) = (outputs(model, &device, weights), outputs(&merged, &device, sum.clone()));
    let differences = before.iter().zip(&after).map(|(a, b)| (a - b).abs());
    // What is not a number is a difference, too.
    let largest = differences.fold(0.0_f32, |most, d| if d.is_nan() { f32::INFINITY } else { most.max(d) });
    Ok((merged, sum, largest))
}

fn outputs(model: &Model, device: &Device, weights: Vec<f32>) -> Vec<f32> {
    let config = model.config();
    let length = TOKENS.min(config.max_length());
    let input_ids: Vec<u32> = (0..length).map(|i| ((i * 37 + 11) % config.vocab_size) as u32).collect();
    let (weights, packing) = (Weights::new(weights), Packing::new(&[length], &[0]));
    let mut tape = Tape::inference(device, &weights, &packing, Precision::F32);
    let (hidden, read) = model.trunk_for_head(&mut tape, Inputs::new(&input_ids), &mut |_| ());
    if let Some(logits) = model.classify(&mut tape, &read) {
        return logits.tensor().to_f32_vec();
    }
    if model.check_lm_head().is_err() {
        return hidden.tensor().to_f32_vec();
    }
    let rows: Vec<u32> = (0..length as u32).collect();
    model.lm_logits(&mut tape, &hidden, &rows).to_f32_vec()
}
