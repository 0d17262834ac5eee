//! The cosine of pairs of rows on the device.

use super::{THREADS, at, dtype, int, row_warps};
use crate::cuda::{Context, Module};
use crate::tensor::Tensor;

const COSINE: Module = Module { name: "cosine", text: include_str!("../kernels/cosine.cu") };

/// Fills y, a number for each pair of rows.
pub(crate) fn forward(cuda: &Context, x: &Tensor, y: &Tensor) {
    let arguments = [at(x), dtype(x.dtype()), at(y), int(y.rows()), int(x.cols())];
    cuda.launch(COSINE, "cosine_forward", row_warps(y.rows()), THREADS, 0, &arguments);
}

/// Fills dx.
pub(crate) fn backward(cuda: &Context, x: &Tensor, dy: &Tensor, dx: &Tensor) {
    let arguments =
        [at(x), dtype(x.dtype()), at(dy), dtype(dy.dtype()), at(dx), int(dy.rows()), int(x.cols())];
    cuda.launch(COSINE, "cosine_backward", row_warps(dy.rows()), THREADS, 0, &arguments);
}
