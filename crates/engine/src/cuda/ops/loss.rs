//! Losses on small logits, on the device.

use super::{THREADS, array, at, elements, int, row_warps};
use crate::cuda::{Context, DeviceBuffer, Module};
use crate::ops::loss::Targets;
use crate::tape::Tape;
use crate::tensor::{DType, Tensor};

/// Fills the gradient; the sum of the loss's terms and the number of correct ones, as [`sum_outcomes`] makes them.
pub(crate) fn forward(
    cuda: &Context,
    tape: &Tape<'_>,
    logits: &Tensor,
    targets: Targets<'_>,
    scale: f32,
    gradient: &Tensor,
) -> DeviceBuffer {
    let (rows, classes) = (logits.rows(), logits.cols());
    let outcomes = match targets {
        Targets::Classes(targets, weights) => {
            assert!(targets.len() == rows && targets.iter().all(|&t| (t as usize) < classes));
            let (targets, weights) = (cuda.upload(targets), weights.map(|w| cuda.upload(w)));
            let outcomes = tape.uninit(rows, 2, DType::F32);
            let arguments = [
                at(logits),
                array(&targets),
                weights.as_ref().map(DeviceBuffer::ptr).into(),
                scale.into(),
                at(gradient),
                at(&outcomes),
                int(rows),
                int(classes),
            ];
            cuda.launch(Module::Loss, "loss_classes", row_warps(rows), THREADS, 0, &arguments);
            outcomes
        }
        Targets::MultiLabel(values) => each(cuda, tape, "loss_multi_label", logits, values, scale, gradient),
        Targets::Regression(values) => each(cuda, tape, "loss_regression", logits, values, scale, gradient),
    };
    sum_outcomes(cuda, &outcomes)
}

/// The sums of the two columns of `[terms, 2]` (a term, 1 or 0 for correct), as two f64.
pub(super) fn sum_outcomes(cuda: &Context, outcomes: &Tensor) -> DeviceBuffer {
    let sums = cuda.allocate(2 * size_of::<f64>());
    let arguments = [at(outcomes), int(outcomes.rows()), array(&sums)];
    cuda.launch(Module::Loss, "sum_outcomes", [1, 1, 1], 256, 0, &arguments);
    sums
}

/// A loss with a term per element: `[terms, 2]`.
fn each(
    cuda: &Context,
    tape: &Tape<'_>,
    kernel: &'static str,
    logits: &Tensor,
    targets: &[f32],
    scale: f32,
    gradient: &Tensor,
) -> Tensor {
    let count = logits.rows() * logits.cols();
    assert_eq!(targets.len(), count);
    let targets = cuda.upload(targets);
    let outcomes = tape.uninit(count, 2, DType::F32);
    let arguments = [at(logits), array(&targets), scale.into(), at(gradient), at(&outcomes), int(count)];
    cuda.launch(Module::Loss, kernel, elements(count), THREADS, 0, &arguments);
    outcomes
}
