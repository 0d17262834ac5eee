//! Layer norm on the device.

use super::{
    DeviceDropout, THREADS, WARP, at, columns_by_blocks, dropout, dtype, int, row_blocks, row_warps,
};
use crate::cuda::{Context, DevicePtr, Module};
use crate::dtype::DType;
use crate::tensor::{Pool, Tensor};

const NORM: Module = Module { name: "norm", text: include_str!("../kernels/norm.cu") };

/// Fills y, its bf16 copy with zeros behind its columns where one is wanted, and the statistics, from x, weight and bias.
pub(crate) fn forward(
    cuda: &Context,
    x: &Tensor,
    weight: DevicePtr,
    bias: Option<DevicePtr>,
    eps: f32,
    drops: Option<DeviceDropout>,
    (y, operand): (&Tensor, Option<&Tensor>),
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
        operand.map(Tensor::device_ptr).into(),
        int(operand.map_or(0, Tensor::cols)),
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

/// The most columns, if they are even, of a row that the kernels keep in registers: 2 * WARP * KEPT of `norm.cu`.
const KEPT_COLUMNS: usize = 1_024;

/// Rows of a block: `BACKWARD_ROWS` of `norm.cu`.
const BACKWARD_ROWS: usize = 16;

/// Partial sums over blocks of rows, a row for each: of dy * xhat, then of dy. On the way to dx where one is wanted, which takes part
/// in the sum where it is there already.
pub(crate) fn backward(
    cuda: &Context,
    pool: &Pool,
    x: &Tensor,
    dy: &Tensor,
    drops: Option<DeviceDropout>,
    weight: DevicePtr,
    statistics: &Tensor,
    dx: Option<(&Tensor, bool)>,
    trains: bool,
) -> Option<Tensor> {
    let (rows, cols) = (x.rows(), x.cols());
    let all_f32 = x.dtype() == DType::F32 && dy.dtype() == DType::F32;
    let at_once = dx.is_some() && all_f32 && cols.is_multiple_of(2) && cols <= KEPT_COLUMNS;
    let blocks = if at_once { rows.div_ceil(BACKWARD_ROWS) } else { row_blocks(rows) };
    let partial = trains.then(|| Tensor::uninit(pool, blocks, 2 * cols, DType::F32));
    if let Some(dx) = dx {
        input_gradient(cuda, x, dy, drops, weight, statistics, dx, partial.as_ref().filter(|_| at_once));
    }
    if let Some(partial) = partial.as_ref().filter(|_| !at_once) {
        partial_sums(cuda, x, dy, drops, statistics, partial);
    }
    partial
}

/// Fills dx, or adds to it, and the sums where rows are kept.
fn input_gradient(
    cuda: &Context,
    x: &Tensor,
    dy: &Tensor,
    drops: Option<DeviceDropout>,
    weight: DevicePtr,
    statistics: &Tensor,
    (dx, adds): (&Tensor, bool),
    partial: Option<&Tensor>,
) {
    let [keys, site, threshold, scale] = dropout(drops);
    let arguments = [
        at(x),
        dtype(x.dtype()),
        at(dy),
        dtype(dy.dtype()),
        weight.into(),
        at(statistics),
        adds.then(|| dx.device_ptr()).into(),
        at(dx),
        partial.map(Tensor::device_ptr).into(),
        int(x.rows()),
        int(x.cols()),
        keys,
        site,
        threshold,
        scale,
    ];
    let grid = [x.rows().div_ceil(BACKWARD_ROWS), 1, 1];
    let shared = partial.map_or(0, |partial| THREADS / WARP * partial.cols() * DType::F32.size());
    cuda.launch(NORM, "norm_backward", grid, THREADS, shared, &arguments);
}

/// Fills a row per block of rows: the sums over it of dy * xhat, then of dy.
fn partial_sums(
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
