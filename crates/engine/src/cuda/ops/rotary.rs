//! Rotary positions on the device.

use super::{THREADS, array, at, dtype, int, single_rows};
use crate::cuda::{Context, DeviceBuffer, Module};
use crate::tensor::Tensor;

const ROTARY: Module = Module { name: "rotary", text: include_str!("../kernels/rotary.cu") };

/// Fills y with qkv turned by the angles in `table`'s row `table_rows[r]`, the sines times `sign`; heads of `dim` columns.
pub(crate) fn turn(
    cuda: &Context,
    qkv: &Tensor,
    table_rows: &DeviceBuffer,
    table: &DeviceBuffer,
    dim: usize,
    sign: f32,
    y: &Tensor,
) {
    let (rows, cols) = (qkv.rows(), qkv.cols());
    let arguments = [
        at(qkv),
        dtype(qkv.dtype()),
        array(table_rows),
        array(table),
        int(dim),
        sign.into(),
        at(y),
        int(rows),
        int(cols / 3),
    ];
    cuda.launch(ROTARY, "rotary_turn", single_rows(rows, cols), THREADS, 0, &arguments);
}
