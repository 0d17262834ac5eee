//! Losses on small logits, on the device. Each fills the gradient and `outcomes`, `[terms, 2]`: a term, 1 or 0 for correct.

use super::{THREADS, array, at, elements, int, row_warps};
use crate::cuda::{Context, DeviceBuffer, Module};
use crate::tensor::Tensor;

const LOSS: Module = Module { name: "loss", text: include_str!("../kernels/loss.cu") };

/// Softmax cross-entropy: one class a row, with a weight per class where given.
pub(crate) fn classes(
    cuda: &Context,
    logits: &Tensor,
    targets: &[u32],
    weights: Option<&[f32]>,
    scale: f32,
    gradient: &Tensor,
    outcomes: &Tensor,
) {
    let (rows, classes) = (logits.rows(), logits.cols());
    let (targets, weights) = (cuda.upload(targets), weights.map(|w| cuda.upload(w)));
    let arguments = [
        at(logits),
        array(&targets),
        weights.as_ref().map(DeviceBuffer::ptr).into(),
        scale.into(),
        at(gradient),
        at(outcomes),
        int(rows),
        int(classes),
    ];
    cuda.launch(LOSS, "loss_classes", row_warps(rows), THREADS, 0, &arguments);
}

/// Softmax cross-entropy with smoothed targets; `numbers` are the share that is spread, and the scale.
pub(crate) fn smoothed(
    cuda: &Context,
    logits: &Tensor,
    targets: &[u32],
    weights: Option<&[f32]>,
    numbers: [f32; 2],
    gradient: &Tensor,
    outcomes: &Tensor,
) {
    rows_of(cuda, "loss_smoothed", logits, targets, weights, numbers, gradient, outcomes);
}

/// Focal loss over a softmax; `numbers` are the power, and the scale.
pub(crate) fn focal(
    cuda: &Context,
    logits: &Tensor,
    targets: &[u32],
    weights: Option<&[f32]>,
    numbers: [f32; 2],
    gradient: &Tensor,
    outcomes: &Tensor,
) {
    rows_of(cuda, "loss_focal", logits, targets, weights, numbers, gradient, outcomes);
}

/// A loss with a term per row and a number of its own.
fn rows_of(
    cuda: &Context,
    kernel: &'static str,
    logits: &Tensor,
    targets: &[u32],
    weights: Option<&[f32]>,
    [number, scale]: [f32; 2],
    gradient: &Tensor,
    outcomes: &Tensor,
) {
    let (rows, classes) = (logits.rows(), logits.cols());
    let (targets, weights) = (cuda.upload(targets), weights.map(|w| cuda.upload(w)));
    let arguments = [
        at(logits),
        array(&targets),
        weights.as_ref().map(DeviceBuffer::ptr).into(),
        number.into(),
        scale.into(),
        at(gradient),
        at(outcomes),
        int(rows),
        int(classes),
    ];
    cuda.launch(LOSS, kernel, row_warps(rows), THREADS, 0, &arguments);
}

/// How far the two halves of the rows are from each other; `numbers` are the weight, and the scale.
pub(crate) fn agreement(
    cuda: &Context,
    logits: &Tensor,
    [weight, scale]: [f32; 2],
    gradient: &Tensor,
    outcomes: &Tensor,
) {
    let (pairs, classes) = (logits.rows() / 2, logits.cols());
    let arguments =
        [at(logits), weight.into(), scale.into(), at(gradient), at(outcomes), int(pairs), int(classes)];
    cuda.launch(LOSS, "loss_agreement", row_warps(pairs), THREADS, 0, &arguments);
}

/// Binary cross-entropy of each element.
pub(crate) fn multi_label(
    cuda: &Context,
    logits: &Tensor,
    targets: &[f32],
    scale: f32,
    gradient: &Tensor,
    outcomes: &Tensor,
) {
    each(cuda, "loss_multi_label", logits, targets, scale, gradient, outcomes);
}

/// Squared error of each element.
pub(crate) fn regression(
    cuda: &Context,
    logits: &Tensor,
    targets: &[f32],
    scale: f32,
    gradient: &Tensor,
    outcomes: &Tensor,
) {
    each(cuda, "loss_regression", logits, targets, scale, gradient, outcomes);
}

/// The sums of the two columns, as two f64.
pub(crate) fn sum_outcomes(cuda: &Context, outcomes: &Tensor) -> DeviceBuffer {
    let sums = cuda.allocate(2 * size_of::<f64>());
    let arguments = [at(outcomes), int(outcomes.rows()), array(&sums)];
    cuda.launch(LOSS, "sum_outcomes", [1, 1, 1], 256, 0, &arguments);
    sums
}

/// A loss with a term per element.
fn each(
    cuda: &Context,
    kernel: &'static str,
    logits: &Tensor,
    targets: &[f32],
    scale: f32,
    gradient: &Tensor,
    outcomes: &Tensor,
) {
    let count = logits.rows() * logits.cols();
    assert_eq!(targets.len(), count);
    let targets = cuda.upload(targets);
    let arguments = [at(logits), array(&targets), scale.into(), at(gradient), at(outcomes), int(count)];
    cuda.launch(LOSS, kernel, elements(count), THREADS, 0, &arguments);
}
