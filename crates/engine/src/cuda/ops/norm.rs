//! Layer norm on the device.

use super::{DeviceDropout, THREADS, at, columns_by_blocks, dropout, dtype, int, row_warps};
use crate::cuda::{Context, DevicePtr, Module};
use crate::tensor::Tensor;

const NORM: Module = Module { name: "norm", text: include_str!("../kernels/norm.cu") };

/// Fills y and the statistics, from x, weight and bias.
pub(crate) fn forward(
    cuda: &Context,
    x: &Tensor,
    weight: DevicePtr,
    bias: Option<DevicePtr>,
    eps: f32,
    drops: Option<DeviceDropout>,
    y: &Tensor,
    statistics: &Tensor,
) {
    let [keys, site, threshold, scale] = dropout(drops);
    let arguments = [
        at(x),
        dtype(x.dtype()),
        weight.into(),
        bias.into(),
        eps.into(),
        at(y),
        at(statistics),
        int(x.rows()),
        int(x.cols()),
        keys,
        site,
        threshold,
        scale,
    ];
    cuda.launch(NORM, "norm_forward", row_warps(x.rows()), THREADS, 0, &arguments);
}

/// Fills dx.
pub(crate) fn backward(
    cuda: &Context,
    x: &Tensor,
    dy: &Tensor,
    drops: Option<DeviceDropout>,
    weight: DevicePtr,
    statistics: &Tensor,
    dx: &Tensor,
) {
    let [keys, site, threshold, scale] = dropout(drops);
    let arguments = [
        at(x),
        dtype(x.dtype()),
        at(dy),
        dtype(dy.dtype()),
        weight.into(),
        at(statistics),
        at(dx),
        int(x.rows()),
        int(x.cols()),
        keys,
        site,
        threshold,
        scale,
    ];
    cuda.launch(NORM, "norm_backward", row_warps(x.rows()), THREADS, 0, &arguments);
}

/// Fills a row per block of rows: the sums over it of dy * xhat, then of dy.
pub(crate) fn partial_sums(
    cuda: &Context,
    x: &Tensor,
    dy: &Tensor,
    drops: Option<DeviceDropout>,
    statistics: &Tensor,
    partial: &Tensor,
) {
    let [keys, site, threshold, scale] = dropout(drops);
    let (rows, cols) = (x.rows(), x.cols());
    let arguments = [
        at(x),
        dtype(x.dtype()),
        at(dy),
        dtype(dy.dtype()),
        at(statistics),
        at(partial),
        int(rows),
        int(cols),
        keys,
        site,
        threshold,
        scale,
    ];
    let grid = columns_by_blocks(rows, cols.div_ceil(2));
    cuda.launch(NORM, "norm_partial_sums", grid, THREADS, 0, &arguments);
}
