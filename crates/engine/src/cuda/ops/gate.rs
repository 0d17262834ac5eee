//! Gated activations on the device.

use super::{THREADS, at, dtype, int, single_rows};
use crate::activation::Activation;
use crate::cuda::{Context, Module};
use crate::tensor::Tensor;

const GATE: Module = Module { name: "gate", text: include_str!("../kernels/gate.cu") };

/// Fills y.
pub(crate) fn forward(cuda: &Context, x: &Tensor, activation: Activation, y: &Tensor) {
    let (rows, cols) = (y.rows(), y.cols());
    let arguments =
        [at(x), dtype(x.dtype()), (activation as i32).into(), at(y), dtype(y.dtype()), int(rows), int(cols)];
    cuda.launch(GATE, "gate_forward", single_rows(rows, cols), THREADS, 0, &arguments);
}

/// Fills dx.
pub(crate) fn backward(cuda: &Context, x: &Tensor, activation: Activation, dy: &Tensor, dx: &Tensor) {
    let (rows, cols) = (dy.rows(), dy.cols());
    let arguments = [
        at(x),
        dtype(x.dtype()),
        (activation as i32).into(),
        at(dy),
        dtype(dy.dtype()),
        at(dx),
        dtype(dx.dtype()),
        int(rows),
        int(cols),
    ];
    cuda.launch(GATE, "gate_backward", single_rows(rows, cols), THREADS, 0, &arguments);
}
