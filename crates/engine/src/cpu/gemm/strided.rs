//! Matmuls of strided f32 operands through the `gemm` crate: the path of processors without AVX-512, and small
//! matmuls inside other kernels.
//!
//! Owns: tiling for it, conversion of operands to f32. Never: packs (the crate does).

use std::cell::RefCell;
use std::ops::Range;

use super::tiles::{TileShape, Tiles};
use super::{Operand, Source};
use crate::cpu::convert;
use crate::cpu::convert::round_bf16;
use crate::cpu::rows::add;
use crate::cpu::shared::SharedSlice;
use crate::cpu::simd::{Level, simd};
use crate::device::Device;

/// Blocks of rows start at multiples of this.
const ROW_UNIT: usize = 8;
const TILE: TileShape = TileShape { tall: 128, wide: 384, least: 16 };
/// Elements that one task converts.
const CONVERT: usize = 1 << 14;

thread_local! {
    /// A tile, and what is added to it next.
    static SUMS: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
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
    let tiles = Tiles::new(a.rows, b.cols, ROW_UNIT, TILE);
    device.for_each(tiles.count(), |tile| {
        let (rows, cols) = tiles.get(tile);
        SUMS.with_borrow_mut(|buffers| {
            let len = rows.len() * cols.len();
            let [out, group] = buffers.each_mut().map(|buffer| {
                buffer.resize(buffer.len().max(len), 0.0);
                &mut buffer[..len]
            });
            multiply_tile(device.level(), a, b, [&rows, &cols], out, group);
            for (row, values) in rows.zip(out.chunks_exact_mut(cols.len())) {
                store(row, cols.start, values);
            }
        });
    });
}

/// out = the tile of a b, summed in chains; about the square root of their number make a group, whose sum is added to `out`.
fn multiply_tile(
    level: Level,
    a: Strided<'_>,
    b: Strided<'_>,
    [rows, cols]: [&Range<usize>; 2],
    out: &mut [f32],
    group: &mut [f32],
) {
    if a.cols == 0 {
        return out.fill(0.0);
    }
    let chains = a.cols.div_ceil(super::chain(a.cols));
    let of_group = chains.isqrt();
    for i in 0..chains {
        let k = a.cols * i / chains..a.cols * (i + 1) / chains;
        let (left, right) = (a.block(rows.start, k.start), b.block(k.start, cols.start));
        let (is_first, continues) = (i < of_group, i % of_group > 0);
        let to = (if is_first { &mut *out } else { &mut *group }, cols.len());
        multiply_strided(rows.len(), cols.len(), k.len(), left, right, to, continues);
        if !is_first && (i % of_group + 1 == of_group || i + 1 == chains) {
            add(level, out, group);
        }
    }
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
