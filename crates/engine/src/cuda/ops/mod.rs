//! The ops' kernels on the device: each function launches them for an equation of `crate::ops`, where the mathematics
//! is explained: same order of operands, same places where numbers are rounded.
//!
//! Owns: grids, and how common arguments are written. Never: arithmetic (`kernels/*.cu`); a tape, or which gradient goes
//! where (`crate::ops`). A launcher takes tensors, addresses and sizes.

pub(crate) mod adam;
pub(crate) mod attention;
pub(crate) mod column_scale;
pub(crate) mod cosine;
pub(crate) mod distance;
pub(crate) mod dropout;
pub(crate) mod elementwise;
pub(crate) mod embedding;
pub(crate) mod gate;
pub(crate) mod linear;
pub(crate) mod linear_cross_entropy;
pub(crate) mod loss;
pub(crate) mod mix;
pub(crate) mod norm;
pub(crate) mod parts;
pub(crate) mod pool;
pub(crate) mod relation;
pub(crate) mod rotary;
pub(crate) mod scatter;
pub(crate) mod select_rows;
pub(crate) mod soft_labels;

#[cfg(test)]
mod tests;

use super::buffer::{DeviceBuffer, DevicePtr};
use super::launch::Argument;
use crate::dtype::DType;
use crate::rng::DropRate;
use crate::tensor::Tensor;

/// Threads of a block whose threads take a column, or an element, each.
const THREADS: usize = 128;

/// Threads that run in step: `WARP` in `common.cuh`.
const WARP: usize = 32;

/// Rows that a block of an element-wise pass handles: `ROWS_PER_BLOCK` in `common.cuh`.
const ROWS_PER_BLOCK: usize = 32;

/// The most blocks that a grid has in its second and third dimension.
const MOST_BLOCKS: usize = 65_535;

/// Dropout that is on: the tokens' keys before the site is mixed in, the site, the rate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeviceDropout {
    pub(crate) row_keys: DevicePtr,
    pub(crate) site: u32,
    pub(crate) rate: DropRate,
}

/// Blocks of rows of an element-wise pass: the rows of its partial sums.
pub(crate) fn row_blocks(rows: usize) -> usize {
    rows.div_ceil(ROWS_PER_BLOCK)
}

/// A thread per column, a block per [`ROWS_PER_BLOCK`] rows.
fn columns_by_blocks(rows: usize, cols: usize) -> [usize; 3] {
    [cols.div_ceil(THREADS), row_blocks(rows), 1]
}

/// A thread per column, a block per row, or for as many rows as the grid's size leaves it.
fn single_rows(rows: usize, cols: usize) -> [usize; 3] {
    [cols.div_ceil(THREADS), rows.min(MOST_BLOCKS), 1]
}

/// A warp per row.
fn row_warps(rows: usize) -> [usize; 3] {
    [rows.div_ceil(THREADS / WARP), 1, 1]
}

/// A thread per element.
fn elements(count: usize) -> [usize; 3] {
    [count.div_ceil(THREADS), 1, 1]
}

/// A count or a size as kernels take it.
fn int(value: usize) -> Argument {
    assert!(i32::try_from(value).is_ok(), "{value} is more than a kernel counts");
    (value as i32).into()
}

/// A tensor's address.
fn at(tensor: &Tensor) -> Argument {
    tensor.device_ptr().into()
}

/// An uploaded array's address.
fn array(buffer: &DeviceBuffer) -> Argument {
    buffer.ptr().into()
}

/// An element type's number: `F32` and `BF16` in `common.cuh`.
fn dtype(dtype: DType) -> Argument {
    match dtype {
        DType::F32 => 0_i32.into(),
        DType::Bf16 => 1_i32.into(),
    }
}

/// Address and type, or null.
fn optional(tensor: Option<&Tensor>) -> [Argument; 2] {
    [tensor.map(Tensor::device_ptr).into(), dtype(tensor.map_or(DType::F32, Tensor::dtype))]
}

/// The tokens' keys, the site, the threshold, the factor of what is kept; null keys where nothing is dropped.
fn dropout(dropout: Option<DeviceDropout>) -> [Argument; 4] {
    [
        dropout.map(|d| d.row_keys).into(),
        dropout.map_or(0, |d| d.site).into(),
        dropout.map_or(0, |d| d.rate.threshold).into(),
        dropout.map_or(1.0, |d| d.rate.scale).into(),
    ]
}
