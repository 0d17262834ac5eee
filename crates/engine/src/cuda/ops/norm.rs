//! Layer norm on the device.

use super::{ROWS_PER_BLOCK, THREADS, WARP, at, dtype, int, row_blocks, row_warps};
use crate::cuda::{Context, DevicePtr, Module};
use crate::ops::norm::NormNode;
use crate::tape::Backward;
use crate::tensor::{DType, Tensor};
use crate::weights::{View, Weights};

/// Warps that share the rows of partial sums: `ROW_GROUPS` in `norm.cu`.
const ROW_GROUPS: usize = 16;

/// Fills y and the statistics.
pub(crate) fn forward(
    cuda: &Context,
    weights: &Weights,
    x: &Tensor,
    (weight, bias): (View, View),
    eps: f32,
    y: &Tensor,
    statistics: &Tensor,
) {
    let arguments = [
        at(x),
        dtype(x.dtype()),
        weights.device_f32(cuda, weight).into(),
        weights.device_f32(cuda, bias).into(),
        eps.into(),
        at(y),
        at(statistics),
        int(x.rows()),
        int(x.cols()),
    ];
    cuda.launch(Module::Norm, "norm_forward", row_warps(x.rows()), THREADS, 0, &arguments);
}

/// Adds to the gradients of weight and bias and of x.
pub(crate) fn backward(cuda: &Context, back: &mut Backward<'_>, node: &NormNode, dy: &Tensor) {
    let x = &node.x.tensor;
    let (rows, cols) = (x.rows(), x.cols());
    let operands = [at(x), dtype(x.dtype()), at(dy), dtype(dy.dtype())];
    if node.weight.grad.is_some() || node.bias.grad.is_some() {
        let partial = back.uninit(rows.div_ceil(ROWS_PER_BLOCK), 2 * cols, DType::F32);
        let rest = [at(&node.statistics), at(&partial), int(rows), int(cols)];
        let arguments = [operands.as_slice(), &rest].concat();
        cuda.launch(Module::Norm, "norm_partial_sums", row_blocks(rows, cols), THREADS, 0, &arguments);
        for (view, first) in [(node.weight, 0), (node.bias, cols)] {
            if let Some(to) = back.gradients.device_mut(cuda, view) {
                add_column_sums(cuda, &partial, first, to, cols);
            }
        }
    }
    if node.x.id.is_some() {
        let dx = back.uninit(rows, cols, DType::F32);
        let gain = back.weights.device_f32(cuda, node.weight);
        let rest = [gain.into(), at(&node.statistics), at(&dx), int(rows), int(cols)];
        let arguments = [operands.as_slice(), &rest].concat();
        cuda.launch(Module::Norm, "norm_backward", row_warps(rows), THREADS, 0, &arguments);
        back.add(node.x.id, dx);
    }
}

/// to += the sums of the columns `first .. first + cols` of partial sums.
pub(super) fn add_column_sums(cuda: &Context, partial: &Tensor, first: usize, to: DevicePtr, cols: usize) {
    let arguments = [at(partial), int(partial.rows()), int(partial.cols()), int(first), to.into(), int(cols)];
    let grid = [cols.div_ceil(WARP), 1, 1];
    cuda.launch(Module::Norm, "add_column_sums", grid, ROW_GROUPS * WARP, 0, &arguments);
}
