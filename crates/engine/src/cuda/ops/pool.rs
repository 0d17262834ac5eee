//! Pooling on the device.

use super::{THREADS, at, dtype, int, single_rows};
use crate::cuda::{Context, Module, Slab};
use crate::tensor::Tensor;

const POOL: Module = Module { name: "pool", text: include_str!("../kernels/pool.cu") };

/// Fills y, one row per sequence. `pooling` is a number of `pool.cu`.
pub(crate) fn forward(cuda: &Context, slab: &Slab, x: &Tensor, pooling: i32, y: &Tensor) {
    let arguments =
        [at(x), dtype(x.dtype()), slab.offsets().into(), int(y.rows()), pooling.into(), at(y), int(y.cols())];
    let grid = single_rows(y.rows(), y.cols());
    cuda.launch(POOL, "pool_forward", grid, THREADS, 0, &arguments);
}

/// Fills dx.
pub(crate) fn backward(cuda: &Context, slab: &Slab, x: &Tensor, dy: &Tensor, pooling: i32, dx: &Tensor) {
    let arguments = [
        at(x),
        dtype(x.dtype()),
        at(dy),
        dtype(dy.dtype()),
        slab.offsets().into(),
        int(dy.rows()),
        pooling.into(),
        at(dx),
        int(dx.cols()),
    ];
    let grid = single_rows(dy.rows(), dy.cols());
    cuda.launch(POOL, "pool_backward", grid, THREADS, 0, &arguments);
}
