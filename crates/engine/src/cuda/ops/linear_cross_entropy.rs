//! Linear and cross-entropy in one, on the device.

use super::linear::{accumulate_weight_gradient, multiply_weight};
use super::loss::sum_outcomes;
use super::select_rows::NO_ROW;
use super::{THREADS, array, at, dtype, int, select_rows, single_rows};
use crate::cuda::{Context, Module, Write};
use crate::ops::linear_cross_entropy::LossSum;
use crate::tape::{Tape, Value};
use crate::tensor::{DType, Precision, Tensor};
use crate::weights::View;

/// Logits that exist at once, at most (256 MiB of f32): more than on the processor, as a GPU needs many rows to be
/// busy. Tests have few rows, and should meet the seam between two parts all the same.
const CHUNK_ELEMENTS: usize = if cfg!(test) { 1 << 10 } else { 64 << 20 };

/// What the number of rows is filled up to a multiple of, so that the numbers of masked tokens, which differ from batch to
/// batch, lead to few shapes of products, and to graphs that can be replayed.
const ROW_UNIT: usize = if cfg!(test) { 16 } else { 128 };

/// Threads that share a row of logits.
const ROW_THREADS: usize = if cfg!(test) { 64 } else { 512 };

/// The loss, and the gradient of x where it has one. That of the weight is added at once on a training tape.
pub(crate) fn forward(
    cuda: &Context,
    tape: &mut Tape<'_>,
    x: &Value,
    (rows, targets): (&[u32], &[u32]),
    weight: View,
    scale: f32,
) -> (LossSum, Option<Tensor>) {
    let (device, weights, precision) = (tape.device, tape.weights, tape.precision);
    let (cols, classes, kept) = (weight.cols, weight.rows, precision.activation());
    let training = tape.is_training();
    let dx =
        (training && x.id.is_some()).then(|| Tensor::zeros(device.pool(), x.tensor.rows(), cols, DType::F32));
    let filled = |values: &[u32]| {
        let mut values = values.to_vec();
        values.resize(values.len().next_multiple_of(ROW_UNIT), NO_ROW);
        values
    };
    let (rows, targets) = (filled(rows), filled(targets));
    let chunk_rows = (CHUNK_ELEMENTS / classes / ROW_UNIT * ROW_UNIT).max(ROW_UNIT);
    let outcomes = tape.uninit(rows.len(), 2, DType::F32);
    let chunks = rows.chunks(chunk_rows).zip(targets.chunks(chunk_rows));
    for (i, (rows, targets)) in chunks.enumerate() {
        // Rounded here, as the products would.
        let picked = tape.uninit(rows.len(), cols, kept);
        let on_device = select_rows::forward(cuda, &x.tensor, rows, &picked);
        let logits = tape.uninit(rows.len(), classes, DType::F32);
        multiply_weight(cuda, device, weights, precision, &picked, weight, true, &logits, Write::Replace);
        let gradient = training.then(|| match precision {
            Precision::F32 => logits.clone(),
            Precision::Bf16 => tape.uninit(rows.len(), classes, DType::Bf16),
        });
        let targets = cuda.upload(targets);
        let outcome = outcomes.device_ptr().offset(i * chunk_rows * 2 * DType::F32.size());
        let arguments = [
            at(&logits),
            array(&targets),
            scale.into(),
            gradient.as_ref().map(Tensor::device_ptr).into(),
            dtype(kept),
            outcome.into(),
            int(rows.len()),
            int(classes),
        ];
        let grid = [rows.len(), 1, 1];
        cuda.launch(Module::CrossEntropy, "cross_entropy", grid, ROW_THREADS, 0, &arguments);
        let Some(gradient) = gradient else { continue };
        if let Some(dx) = &dx {
            let part = tape.uninit(rows.len(), cols, DType::F32);
            multiply_weight(
                cuda,
                device,
                weights,
                precision,
                &gradient,
                weight,
                false,
                &part,
                Write::Replace,
            );
            let arguments = [at(&part), array(&on_device), int(rows.len()), at(dx), int(cols)];
            let grid = single_rows(rows.len(), cols);
            cuda.launch(Module::CrossEntropy, "add_to_rows", grid, THREADS, 0, &arguments);
        }
        if let Some(gradients) = tape.gradients() {
            accumulate_weight_gradient(cuda, device, precision, &gradient, &picked, weight, gradients);
        }
    }
    (LossSum::pending(sum_outcomes(cuda, &outcomes)), dx)
}
