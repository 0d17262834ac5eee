//! Row selection on the device.

use super::scatter::Groups;
use super::{THREADS, array, at, dtype, int, single_rows};
use crate::cuda::{Context, DeviceBuffer, Module};
use crate::tensor::Tensor;

const SELECT_ROWS: Module = Module { name: "select_rows", text: include_str!("../kernels/select_rows.cu") };

/// What stands for no row: `NO_ROW` in `common.cuh`.
const NO_ROW: u32 = u32::MAX;

/// What the number of rows is filled up to a multiple of, so that the numbers of masked tokens, which differ from batch to
/// batch, lead to few shapes of matmuls, and to graphs that can be replayed.
pub(crate) const ROW_UNIT: usize = if cfg!(test) { 16 } else { 128 };

/// Rows or their targets, filled up to a multiple of [`ROW_UNIT`] with rows that are none.
pub(crate) fn filled(values: &[u32]) -> Vec<u32> {
    let mut values = values.to_vec();
    values.resize(values.len().next_multiple_of(ROW_UNIT), NO_ROW);
    values
}

/// to[i] = from[rows[i]], or zeros for [`NO_ROW`], rounded where `to` is bf16; the rows on the device, for who needs them
/// again.
pub(crate) fn forward(cuda: &Context, from: &Tensor, rows: &[u32], to: &Tensor) -> DeviceBuffer {
    let exists = |&r: &u32| (r as usize) < from.rows() || r == NO_ROW;
    assert!(rows.iter().all(exists), "a row outside the {} of x", from.rows());
    let picked = cuda.upload(rows);
    let arguments = [
        at(from),
        dtype(from.dtype()),
        array(&picked),
        int(rows.len()),
        at(to),
        dtype(to.dtype()),
        int(to.cols()),
    ];
    let grid = single_rows(rows.len(), to.cols());
    cuda.launch(SELECT_ROWS, "gather_rows", grid, THREADS, 0, &arguments);
    picked
}

/// dx[rows[i]] += dy[i]; a row may stand more than once, and [`NO_ROW`] is none.
pub(crate) fn backward(cuda: &Context, rows: &[u32], dy: &Tensor, dx: &Tensor) {
    let pairs = rows.iter().copied().zip(0_u32..).filter(|&(row, _)| row != NO_ROW);
    Groups::new(cuda, pairs, rows.len()).add_rows(cuda, dy, dx.device_ptr(), None);
}
