//! Layer norm on the device.

use super::{
    DeviceDropout, THREADS, WARP, at, columns_by_blocks, dropout, dtype, int, row_blocks, row_warps,
};
use crate::buffers::Pool;
use crate::cuda::{Context, DevicePtr, Module};
use crate::dtype::DType;
use crate::tensor::Tensor;

const NORM: Module = Module { name: "norm", text: include_str!("../kernels/norm.cu") };

/// The backward for rows of which a lane keeps at most so many pairs.
const NORM_BACKWARD: [(usize, Module); 6] = {
    macro_rules! module {
        ($name:literal, $pairs:literal) => {{
            let text = concat!("#define PAIRS ", $pairs, "\n", include_str!("../kernels/norm_backward.cu"));
            ($pairs, Module { name: $name, text })
        }};
    }
    [
        module!("norm_backward_256", 4),
        module!("norm_backward_384", 6),
        module!("norm_backward_448", 7),
        module!("norm_backward_512", 8),
        module!("norm_backward_768", 12),
        module!("norm_backward_1024", 16),
    ]
};

/// The backward for wide rows, of which a thread has four columns.
const NORM_BACKWARD_WIDE: Module =
    Module { name: "norm_backward_wide", text: include_str!("../kernels/norm_backward_wide.cu") };

/// Columns from which on, and up to which, that one takes a row: fewer are faster in a warp's registers, and a block has
/// `MOST_THREADS` threads (`norm_backward_wide.cu`).
const WIDE: std::ops::RangeInclusive<usize> = 513..=2_048;

/// Rows of a block of all of those: `BLOCK_ROWS` in `norm_backward.cu` and `norm_backward_wide.cu`.
const BLOCK_ROWS: usize = 16;

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
    let sums = |blocks| trains.then(|| Tensor::uninit(pool, blocks, 2 * cols, DType::F32));
    if let Some((dx, adds)) = dx {
        let more = adds.then(|| dx.device_ptr());
        if let Some((module, kernel, threads, shared_floats)) = one_pass(x, dy) {
            let partial = sums(rows.div_ceil(BLOCK_ROWS));
            let [keys, site, threshold, scale] = dropout(drops);
            let arguments = [
                at(x),
                at(dy),
                weight.into(),
                at(statistics),
                more.into(),
                at(dx),
                partial.as_ref().map(Tensor::device_ptr).into(),
                int(rows),
                int(cols),
                keys,
                site,
                threshold,
                scale,
            ];
            let shared_bytes = if trains { shared_floats * DType::F32.size() } else { 0 };
            let grid = [rows.div_ceil(BLOCK_ROWS), 1, 1];
            cuda.launch(module, kernel, grid, threads, shared_bytes, &arguments);
            return partial;
        }
        input_gradient(cuda, x, dy, drops, weight, statistics, more, dx);
    }
    let partial = sums(row_blocks(rows))?;
    partial_sums(cuda, x, dy, drops, statistics, &partial);
    Some(partial)
}

/// What computes all of the backward in one pass over such rows: module, kernel, threads, and floats of shared memory where weight
/// and bias are trained.
fn one_pass(x: &Tensor, dy: &Tensor) -> Option<(Module, &'static str, usize, usize)> {
    let cols = x.cols();
    if x.dtype() != DType::F32 || dy.dtype() != DType::F32 || !cols.is_multiple_of(2) {
        return None;
    }
    if cols.is_multiple_of(4) && WIDE.contains(&cols) {
        let threads = cols.div_ceil(4).next_multiple_of(WARP);
        return Some((NORM_BACKWARD_WIDE, "norm_backward_wide", threads, 0));
    }
    let pairs = cols.div_ceil(2 * WARP);
    let (_, module) = NORM_BACKWARD.into_iter().find(|&(most, _)| pairs <= most)?;
    Some((module, "norm_backward_kept", THREADS, THREADS / WARP * 2 * cols))
}

/// Fills dx, with what is added to it.
fn input_gradient(
    cuda: &Context,
    x: &Tensor,
    dy: &Tensor,
    drops: Option<DeviceDropout>,
    weight: DevicePtr,
    statistics: &Tensor,
    more: Option<DevicePtr>,
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
        more.into(),
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
