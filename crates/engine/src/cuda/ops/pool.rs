//! Pooling on the device.

use super::{THREADS, at, dtype, int, single_rows};
use crate::cuda::{Context, Module, Slab};
use crate::ops::pool::Pooling;
use crate::tensor::Tensor;

/// Fills y, one row per sequence.
pub(crate) fn forward(cuda: &Context, slab: &Slab, x: &Tensor, pooling: Pooling, y: &Tensor) {
    let arguments = [
        at(x),
        dtype(x.dtype()),
        slab.offsets().into(),
        int(y.rows()),
        number(pooling).into(),
        at(y),
        int(y.cols()),
    ];
    let grid = single_rows(y.rows(), y.cols());
    cuda.launch(Module::Pool, "pool_forward", grid, THREADS, 0, &arguments);
}

/// Fills dx.
pub(crate) fn backward(cuda: &Context, slab: &Slab, x: &Tensor, dy: &Tensor, pooling: Pooling, dx: &Tensor) {
    let arguments = [
        at(x),
        dtype(x.dtype()),
        at(dy),
        dtype(dy.dtype()),
        slab.offsets().into(),
        int(dy.rows()),
        number(pooling).into(),
        at(dx),
        int(dx.cols()),
    ];
    let grid = single_rows(dy.rows(), dy.cols());
    cuda.launch(Module::Pool, "pool_backward", grid, THREADS, 0, &arguments);
}

/// The pooling's number in `pool.cu`.
fn number(pooling: Pooling) -> i32 {
    match pooling {
        Pooling::Mean => 0,
        Pooling::Max => 1,
    }
}
