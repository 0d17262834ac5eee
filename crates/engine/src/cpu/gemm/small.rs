//! Matmuls on one thread, for ops whose tasks are too small to be cut further: a head of attention.
//!
//! Owns: the choice of the code path, a right operand that several matmuls share. Never: starts a task.

use std::ops::Range;

use super::buffer::Buffer;
use super::strided::{Strided, multiply_strided};
use super::{Operand, Source};
#[cfg(target_arch = "x86_64")]
use super::{
    amx::Amx,
    kernel::{Pairs, Singles},
    panels::{self, Packed},
};
use crate::cpu::convert;
use crate::cpu::simd::Level;
use crate::dtype::Precision;

/// A matmul may use the first so many columns of a right operand, or a multiple, or all.
pub(crate) const GRAIN: usize = 48;
/// A matmul's output is written in groups of so many rows, or of half as many.
pub(crate) const ROWS: usize = 16;
/// With fewer rows in all, a right operand is not worth packing.
const PACKED_FROM: usize = 8;

/// Rows and row stride that an output of `rows` and `cols` needs.
pub(crate) fn output_room(rows: usize, cols: usize) -> (usize, usize) {
    // An odd number of cache lines, so that the rows do not compete for the same sets.
    (rows.next_multiple_of(ROWS), cols.next_multiple_of(32) + 16)
}

/// A right operand in the layout of the matmul that will read it.
pub(crate) struct SmallRight<'a>(Layout<'a>);

enum Layout<'a> {
    Strided(Level, Strided<'a>),
    #[cfg(target_arch = "x86_64")]
    Panels(Packed<'a>),
    #[cfg(target_arch = "x86_64")]
    PairPanels(Packed<'a>),
    #[cfg(target_arch = "x86_64")]
    AmxPanels(Packed<'a>),
}

impl<'a> SmallRight<'a> {
    /// Prepares `b` to be multiplied by `uses` rows in all, in `room` if it cannot stay as it lies.
    pub(crate) fn new(
        level: Level,
        precision: Precision,
        b: Operand<'a>,
        uses: usize,
        room: &'a mut Buffer,
    ) -> Self {
        b.assert_in_bounds();
        #[cfg(target_arch = "x86_64")]
        if level >= Level::Avx512 && uses >= PACKED_FROM {
            return Self(match (precision, level) {
                (Precision::Bf16, Level::Amx) => Layout::AmxPanels(panels::pack_alone::<Amx>(b, room)),
                (Precision::Bf16, Level::Avx512Bf16) => {
                    Layout::PairPanels(panels::pack_alone::<Pairs>(b, room))
                }
                _ => Layout::Panels(panels::pack_alone::<Singles>(b, room)),
            });
        }
        let _ = (precision, uses);
        Self(Layout::Strided(level, widened(level, b, room)))
    }

    /// c = a b, or c += a b, with the first `a.cols` rows and the first `cols` columns of b: multiples of [`GRAIN`]
    /// or all. `c` has the rows and the row stride of [`output_room`], what lies beyond the matmul is unspecified.
    ///
    /// Where the kernel multiplies bf16, `a` is rounded to it; elsewhere it is taken as it is. `extent` says which
    /// columns of `a` may hold anything but zeros in the 8 rows from a row on; the others may be left out.
    pub(crate) fn multiply(
        &self,
        a: Operand<'_>,
        cols: usize,
        c: &mut [f32],
        accumulate: bool,
        extent: impl Fn(usize) -> Range<usize>,
        room: &mut Buffer,
    ) {
        a.assert_in_bounds();
        let stride = output_room(a.rows, cols).1;
        match &self.0 {
            Layout::Strided(level, b) => {
                let _ = extent;
                let a = widened(*level, a, room);
                let left = (a.values, a.row_stride, a.col_stride);
                let right = (b.values, b.row_stride, b.col_stride);
                multiply_strided(a.rows, cols, a.cols, left, right, (c, stride), accumulate);
            }
            #[cfg(target_arch = "x86_64")]
            Layout::Panels(b) => {
                panels::multiply_alone::<Singles>(a, *b, cols, c, stride, accumulate, extent, room);
            }
            #[cfg(target_arch = "x86_64")]
            Layout::PairPanels(b) => {
                panels::multiply_alone::<Pairs>(a, *b, cols, c, stride, accumulate, extent, room);
            }
            #[cfg(target_arch = "x86_64")]
            Layout::AmxPanels(b) => {
                panels::multiply_alone::<Amx>(a, *b, cols, c, stride, accumulate, extent, room);
            }
        }
    }
}

/// The operand in f32: as it lies, or dense in `room` in the same order.
fn widened<'a>(level: Level, x: Operand<'a>, room: &'a mut Buffer) -> Strided<'a> {
    let Operand { data, rows, cols, row_stride, col_stride } = x;
    let from = match data {
        Source::F32(values) => return Strided { values, rows, cols, row_stride, col_stride },
        Source::Bf16(values) => values,
    };
    let to: &mut [f32] = bytemuck::cast_slice_mut(room.room(rows * cols));
    let (length, between) = if col_stride == 1 { (cols, row_stride) } else { (rows, col_stride) };
    assert!(
        col_stride == 1 || row_stride == 1,
        "an operand must be contiguous along its rows or its columns"
    );
    for (i, to) in to.chunks_exact_mut(length.max(1)).enumerate() {
        convert::widen(level, &from[i * between..i * between + length], to);
    }
    let (row_stride, col_stride) = if col_stride == 1 { (cols, 1) } else { (1, rows) };
    Strided { values: to, rows, cols, row_stride, col_stride }
}
