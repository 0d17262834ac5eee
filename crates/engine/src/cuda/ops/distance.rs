//! The distance to a teacher's rows, on the device.

use super::{THREADS, at, dtype, int, loss, row_warps};
use crate::cuda::{Context, DeviceBuffer, Module};
use crate::tensor::Tensor;

const DISTANCE: Module = Module { name: "distance", text: include_str!("../kernels/distance.cu") };

/// Fills the gradient, and `outcomes` with a term a row; their sum, as two f64.
pub(crate) fn distance(
    cuda: &Context,
    x: &Tensor,
    targets: &Tensor,
    scale: f32,
    gradient: &Tensor,
    outcomes: &Tensor,
) -> DeviceBuffer {
    let rows = x.rows();
    let arguments = [
        at(x),
        at(targets),
        dtype(targets.dtype()),
        scale.into(),
        at(gradient),
        at(outcomes),
        int(rows),
        int(x.cols()),
    ];
    cuda.launch(DISTANCE, "distance", row_warps(rows), THREADS, 0, &arguments);
    loss::sum_outcomes(cuda, outcomes)
}
