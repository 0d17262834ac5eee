//! Cross-entropy against a teacher's logits, on the device.

use super::{THREADS, at, int, loss, row_warps};
use crate::cuda::{Context, DeviceBuffer, Module};
use crate::tensor::Tensor;

const SOFT_LABELS: Module = Module { name: "soft_labels", text: include_str!("../kernels/soft_labels.cu") };

/// Fills the gradient, and `outcomes` with a term a row; their sums, as two f64.
pub(crate) fn soft_labels(
    cuda: &Context,
    logits: &Tensor,
    targets: &Tensor,
    [temperature, scale]: [f32; 2],
    gradient: &Tensor,
    outcomes: &Tensor,
) -> DeviceBuffer {
    let rows = logits.rows();
    let arguments = [
        at(logits),
        at(targets),
        temperature.into(),
        scale.into(),
        at(gradient),
        at(outcomes),
        int(rows),
        int(logits.cols()),
    ];
    cuda.launch(SOFT_LABELS, "soft_labels", row_warps(rows), THREADS, 0, &arguments);
    loss::sum_outcomes(cuda, outcomes)
}
