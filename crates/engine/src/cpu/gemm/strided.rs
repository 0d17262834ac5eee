//! Matmuls of strided f32 operands through the `gemm` crate: the path of processors without AVX-512, and small
//! matmuls inside other kernels.
//!
//! Owns: tiling for it, conversion of operands to f32. Never: packs (the crate does).

use std::cell::RefCell;

use super::tiles::{TileShape, Tiles};
use super::{Operand, Source};
use crate::cpu::convert;
use crate::cpu::convert::round_bf16;
use crate::cpu::shared::SharedSlice;
use crate::cpu::simd::simd;
use crate::device::Device;

const TILE: TileShape = TileShape { tall: 128, wide: 384, least: 16 };
/// Elements that one task converts.
const CONVERT: usize = 1 << 14;

thread_local! {
    static SUMS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// An f32 operand.
#[derive(Clone, Copy)]
pub(super) struct Strided<'a> {
    pub(super) values: &'a [f32],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
}

impl<'a> Strided<'a> {
    /// The operand as it lies, or converted into `buffer` (element by element, strides kept).
    pub(super) fn new(device: &Device, x: Operand<'a>, round: bool, buffer: &'a mut Vec<f32>) -> Self {
        let Operand { data, rows, cols, row_stride, col_stride } = x;
        let values = match data {
            Source::F32(values) if !round => values,
            _ => {
                convert(device, data, round, buffer);
                &buffer[..]
            }
        };
        Self { values, rows, cols, row_stride, col_stride }
    }

    fn block(&self, row: usize, col: usize) -> (&'a [f32], usize, usize) {
        (&self.values[row * self.row_stride + col * self.col_stride..], self.row_stride, self.col_stride)
    }
}

/// All elements as f32, rounded to bf16 if asked.
pub(super) fn convert(device: &Device, from: Source<'_>, round: bool, to: &mut Vec<f32>) {
    let len = match from {
        Source::F32(from) => from.len(),
        Source::Bf16(from) => from.len(),
    };
    to.resize(len, 0.0);
    let out = SharedSlice::new(to);
    device.for_each(len.div_ceil(CONVERT), |task| {
        let at = task * CONVERT..len.min((task + 1) * CONVERT);
        // SAFETY: the tasks' parts do not overlap.
        let to = unsafe { out.slice(at.start, at.len()) };
        match from {
            Source::F32(from) if round => round_through_bf16(device.level(), &from[at], to),
            Source::F32(from) => to.copy_from_slice(&from[at]),
            Source::Bf16(from) => convert::widen(device.level(), &from[at], to),
        }
    });
}

simd! {
    fn round_through_bf16(from: &[f32], to: &mut [f32]) {
        for (to, &from) in to.iter_mut().zip(from) {
            *to = f32::from_bits(u32::from(round_bf16(from).to_bits()) << 16);
        }
    }
}

/// See [`super::gemm`].
pub(super) fn matmul(
    device: &Device,
    a: Strided<'_>,
    b: Strided<'_>,
    store: impl Fn(usize, usize, &mut [f32]) + Sync + Send,
) {
    let tiles = Tiles::new(a.rows, b.cols, TILE);
    device.for_each(tiles.count(), |tile| {
        let (rows, cols) = tiles.get(tile);
        SUMS.with_borrow_mut(|out| {
            let len = rows.len() * cols.len();
            if out.len() < len {
                out.resize(len, 0.0);
            }
            let out = &mut out[..len];
            if a.cols == 0 {
                out.fill(0.0);
            } else {
                let (left, right) = (a.block(rows.start, 0), b.block(0, cols.start));
                multiply_strided(rows.len(), cols.len(), a.cols, left, right, (out, cols.len()), false);
            }
            for (row, values) in rows.zip(out.chunks_exact_mut(cols.len())) {
                store(row, cols.start, values);
            }
        });
    });
}

/// A stride as the `gemm` crate wants it; a slice has at most `isize::MAX` bytes, so none of its strides wraps.
fn step(stride: usize) -> isize {
    stride.cast_signed()
}

/// c = a b (+ c), with (elements, row stride, column stride) operands, single-threaded.
pub(super) fn multiply_strided(
    m: usize,
    n: usize,
    k: usize,
    (a, a_row, a_col): (&[f32], usize, usize),
    (b, b_row, b_col): (&[f32], usize, usize),
    (c, c_row): (&mut [f32], usize),
    accumulate: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    let last = |rows: usize, cols: usize, row: usize, col: usize| {
        if rows == 0 || cols == 0 { 0 } else { (rows - 1) * row + (cols - 1) * col + 1 }
    };
    assert!(a.len() >= last(m, k, a_row, a_col));
    assert!(b.len() >= last(k, n, b_row, b_col));
    assert!(c.len() >= last(m, n, c_row, 1) && c_row >= n);
    // SAFETY: every element addressed lies inside the slices (asserted above) and `c` is borrowed mutably.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            step(c_row),
            accumulate,
            a.as_ptr(),
            step(a_col),
            step(a_row),
            b.as_ptr(),
            step(b_col),
            step(b_row),
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
