//! Columns times learned factors on the device.

use super::{THREADS, at, columns_by_blocks, dtype, int, single_rows};
use crate::cuda::{Context, DevicePtr, Module};
use crate::tensor::Tensor;

const COLUMN_SCALE: Module =
    Module { name: "column_scale", text: include_str!("../kernels/column_scale.cu") };

/// y[:, first + c] = x[:, first + c] * factors[c] for `width` columns; x and y are of one shape.
pub(crate) fn scale(cuda: &Context, x: &Tensor, first: usize, factors: DevicePtr, width: usize, y: &Tensor) {
    let arguments = [
        at(x),
        dtype(x.dtype()),
        int(first),
        factors.into(),
        at(y),
        dtype(y.dtype()),
        int(x.rows()),
        int(x.cols()),
        int(width),
    ];
    cuda.launch(COLUMN_SCALE, "column_scale", single_rows(x.rows(), width), THREADS, 0, &arguments);
}

/// Fills a row per block of rows: the sums over it of dy * x, from column `first` on.
pub(crate) fn partial_sums(cuda: &Context, x: &Tensor, dy: &Tensor, first: usize, partial: &Tensor) {
    let (rows, width) = (x.rows(), partial.cols());
    let arguments = [
        at(x),
        dtype(x.dtype()),
        at(dy),
        dtype(dy.dtype()),
        int(first),
        at(partial),
        int(rows),
        int(x.cols()),
        int(width),
    ];
    let grid = columns_by_blocks(rows, width);
    cuda.launch(COLUMN_SCALE, "column_scale_partial_sums", grid, THREADS, 0, &arguments);
}
