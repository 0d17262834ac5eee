//! From operands as they lie to the cells of the AVX-512 kernel.
//!
//! Owns: layouts, conversion, zero padding. Never: multiplies.
//!
//! A cell is 32 bits: one f32, or two bf16 that are neighbours along K (`PAIR`). Both operands are read either
//! *along* K (it is their contiguous direction; the right operand then needs a transpose of cells) or *across*.

use std::arch::x86_64::{
    __m512bh, __m512i, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch, _mm_sfence, _mm256_maskz_loadu_epi16,
    _mm512_castps_si512, _mm512_cvtepu16_epi32, _mm512_cvtne2ps_pbh, _mm512_loadu_si512,
    _mm512_maskz_loadu_epi16, _mm512_maskz_loadu_ps, _mm512_or_si512, _mm512_permutex2var_epi16,
    _mm512_permutexvar_epi16, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_shuffle_i32x4,
    _mm512_slli_epi32, _mm512_storeu_si512, _mm512_stream_si512, _mm512_unpackhi_epi32,
    _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};
use std::ops::Range;

use super::kernel::{LeftTile, PANEL};
use super::{Operand, Source};
use crate::cpu::shared::SharedSlice;

/// Steps along K of `len` elements.
pub(super) const fn steps_of<const PAIR: bool>(len: usize) -> usize {
    if PAIR { len.div_ceil(2) } else { len }
}

/// Elements of K in a cell.
pub(super) const fn per_cell<const PAIR: bool>() -> usize {
    if PAIR { 2 } else { 1 }
}

/// Rows of the left operand whose cells lie together when it is packed across K.
const BLOCK: usize = 16;

/// Some rows of the left operand as cells.
#[derive(Clone, Copy)]
pub(super) struct Left {
    start: *const u8,
    /// Bytes from a group of 16 rows to the next.
    block_bytes: usize,
    row_bytes: usize,
    step_bytes: usize,
    rows: usize,
}

impl Left {
    /// At most 8 rows from `row`, a multiple of 8.
    pub(super) fn tile(&self, row: usize) -> LeftTile {
        let offset = row / BLOCK * self.block_bytes + row % BLOCK * self.row_bytes;
        LeftTile {
            start: self.start.wrapping_add(offset),
            row_bytes: self.row_bytes,
            step_bytes: self.step_bytes,
            rows: (self.rows - row).min(8),
        }
    }
}

/// Cells that [`pack_left`] may need for `rows` and `steps`.
pub(super) fn left_room(rows: usize, steps: usize) -> usize {
    rows.next_multiple_of(BLOCK) * (steps.next_multiple_of(16) + 16)
}

/// The cells of some rows and steps of the left operand: where they lie if they are already what the kernel
/// reads, otherwise in `room`.
///
/// # Safety
/// The processor has the features; the operand is in bounds and so are the ranges; `room` has [`left_room`]
/// cells; the result is used while the operand and `room` are borrowed and unchanged.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn pack_left<const PAIR: bool>(
    a: Operand<'_>,
    rows: Range<usize>,
    steps: Range<usize>,
    room: &mut [u32],
) -> Left {
    assert!(room.len() >= left_room(rows.len(), steps.len()));
    let k = steps.start * per_cell::<PAIR>();
    if a.col_stride == 1 {
        let size = match (a.data, PAIR) {
            (Source::F32(_), false) => 4,
            (Source::Bf16(_), true) if a.cols.is_multiple_of(2) => 2,
            _ => 0,
        };
        if size > 0 {
            let start = match a.data {
                Source::F32(values) => values.as_ptr().cast::<u8>(),
                Source::Bf16(values) => values.as_ptr().cast::<u8>(),
            };
            let row_bytes = a.row_stride * size;
            return Left {
                start: start.wrapping_add(rows.start * row_bytes + k * size),
                block_bytes: BLOCK * row_bytes,
                row_bytes,
                step_bytes: 4,
                rows: rows.len(),
            };
        }
        // An odd number of cache lines, so that the rows of a tile do not compete for the same sets.
        let lines = steps.len().div_ceil(16);
        let stride = 16 * (lines + usize::from(lines.is_multiple_of(2)));
        for (row, to) in rows.clone().zip(room.chunks_exact_mut(stride)) {
            for (i, to) in to.chunks_exact_mut(16).take(lines).enumerate() {
                let k = k + 16 * i * per_cell::<PAIR>();
                // SAFETY: at most the row's remaining elements are read; `to` has 16 cells.
                unsafe {
                    let cells = along::<PAIR>(a.data, row * a.row_stride + k, a.cols - k);
                    _mm512_storeu_si512(to.as_mut_ptr().cast(), cells);
                }
            }
        }
        let (start, row_bytes) = (room.as_ptr().cast(), stride * 4);
        return Left { start, block_bytes: BLOCK * row_bytes, row_bytes, step_bytes: 4, rows: rows.len() };
    }
    let block = steps.len().max(1) * BLOCK;
    // SAFETY: the operand's transpose is in bounds as it is; `room` has a block for every 16 rows.
    unsafe { pack_across::<PAIR>(a.transposed(), steps, rows.clone(), room, block, BLOCK) };
    Left {
        start: room.as_ptr().cast(),
        block_bytes: block * 4,
        row_bytes: 4,
        step_bytes: BLOCK * 4,
        rows: rows.len(),
    }
}

/// Packs some columns of the right operand as `[steps, width]` cells, the width being the number of columns
/// rounded up to 16; what is beyond the operand becomes zero. With `LATER`, an operand read along K is written past
/// the caches.
///
/// # Safety
/// The processor has the features; the operand is in bounds and so are the ranges. For `LATER`, `to` starts on a cache
/// line, and the caller ends with [`written`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn pack_panel<const PAIR: bool, const LATER: bool>(
    b: Operand<'_>,
    steps: Range<usize>,
    cols: Range<usize>,
    to: &mut [u32],
) {
    // SAFETY: the caller's contract.
    unsafe {
        if b.col_stride == 1 {
            let width = cols.len().next_multiple_of(16);
            pack_across::<PAIR>(b, steps, cols, to, 16, width);
        } else {
            pack_along::<PAIR, LATER>(b, steps, cols, to);
        }
    }
}

/// Packs the cells of some steps into all panels of an operand of `all` steps that is read across K. With `LATER`, they
/// are written past the caches.
///
/// # Safety
/// As [`pack_panel`]; no other task packs the same steps.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn pack_rows<const PAIR: bool, const LATER: bool>(
    b: Operand<'_>,
    steps: Range<usize>,
    all: usize,
    to: &SharedSlice<'_, u32>,
) {
    assert_eq!(b.col_stride, 1, "an operand must be contiguous along its rows or its columns");
    for step in steps {
        let k = step * per_cell::<PAIR>();
        let at = k * b.row_stride;
        let next = (PAIR && k + 1 < b.rows).then_some(at + b.row_stride);
        for first in (0..b.cols).step_by(PANEL) {
            let width = (b.cols - first).min(PANEL).next_multiple_of(16);
            // SAFETY: this task's own steps of the panel.
            let to = unsafe { to.slice(first * all + step * width, width) };
            for (i, to) in to.chunks_exact_mut(16).enumerate() {
                let col = first + 16 * i;
                // SAFETY: at most the columns that exist are read; `to` has 16 cells.
                unsafe {
                    let next = next.map(|next| next + col);
                    let cells = across::<PAIR>(b.data, at + col, next, b.cols - col);
                    store::<LATER>(to.as_mut_ptr(), cells);
                }
            }
        }
    }
}

/// Stores a line of cells: where it will be read soon, or past the caches.
///
/// # Safety
/// There are 16 cells; for `LATER` they start on a cache line.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store<const LATER: bool>(to: *mut u32, cells: __m512i) {
    // SAFETY: the caller's contract.
    unsafe {
        if LATER {
            _mm512_stream_si512(to.cast(), cells);
        } else {
            _mm512_storeu_si512(to.cast(), cells);
        }
    }
}

/// Makes what was written past the caches visible to other threads before anything that follows.
pub(super) fn written() {
    // SAFETY: SSE is part of every x86-64.
    unsafe { _mm_sfence() };
}

/// Rows of an operand read across K that are asked for ahead of their use.
const AHEAD: usize = 12;

/// Packs columns across K: the cells of step `s` and columns `16 i ..` go to `s * step_stride + i * chunk_stride`.
///
/// # Safety
/// As [`pack_panel`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn pack_across<const PAIR: bool>(
    b: Operand<'_>,
    steps: Range<usize>,
    cols: Range<usize>,
    to: &mut [u32],
    chunk_stride: usize,
    step_stride: usize,
) {
    assert_eq!(b.col_stride, 1, "an operand must be contiguous along its rows or its columns");
    if steps.is_empty() || cols.is_empty() {
        return;
    }
    let chunks = cols.len().div_ceil(16);
    assert!((steps.len() - 1) * step_stride + (chunks - 1) * chunk_stride + 16 <= to.len());
    for step in steps.clone() {
        let k = step * per_cell::<PAIR>();
        let at = k * b.row_stride + cols.start;
        let next = (PAIR && k + 1 < b.rows).then_some(at + b.row_stride);
        // A row is far from the one before it: nothing but the program itself knows which comes next.
        for i in 0..per_cell::<PAIR>() {
            prefetch_row::<_MM_HINT_T0>(b.data, at + (AHEAD + i) * b.row_stride, cols.len());
        }
        let to = to[(step - steps.start) * step_stride..].as_mut_ptr();
        let mut chunk = 0;
        if let (true, Source::Bf16(values), Some(next)) = (PAIR, b.data, next) {
            while 16 * (chunk + 2) <= cols.len() {
                let (low, high) = (at + 16 * chunk, next + 16 * chunk);
                // SAFETY: 32 columns exist in both rows; both chunks lie in `to` by the assertion.
                unsafe {
                    let low = _mm512_loadu_si512(values.as_ptr().add(low).cast());
                    let high = _mm512_loadu_si512(values.as_ptr().add(high).cast());
                    let [first, second] = INTERLEAVE.map(|order| {
                        let order = _mm512_loadu_si512(order.as_ptr().cast());
                        _mm512_permutex2var_epi16(low, order, high)
                    });
                    _mm512_storeu_si512(to.add(chunk * chunk_stride).cast(), first);
                    _mm512_storeu_si512(to.add((chunk + 1) * chunk_stride).cast(), second);
                }
                chunk += 2;
            }
        }
        for chunk in chunk..chunks {
            let col = 16 * chunk;
            // SAFETY: at most the columns that exist are read; the chunk lies in `to` by the assertion.
            unsafe {
                let cells = across::<PAIR>(b.data, at + col, next.map(|next| next + col), cols.len() - col);
                _mm512_storeu_si512(to.add(chunk * chunk_stride).cast(), cells);
            }
        }
    }
}

/// Brings `len` elements from `at` closer, wherever that is.
#[inline]
#[target_feature(enable = "avx512f")]
fn prefetch_row<const HINT: i32>(data: Source<'_>, at: usize, len: usize) {
    let (start, size) = match data {
        Source::F32(values) => (values.as_ptr().cast::<i8>(), 4),
        Source::Bf16(values) => (values.as_ptr().cast::<i8>(), 2),
    };
    for line in (0..len * size).step_by(64) {
        // Nothing is read: an address beyond the operand does no harm.
        _mm_prefetch::<HINT>(start.wrapping_add(at * size + line));
    }
}

/// Brings what [`pack_panel`] will read along K to the second-level cache, if nobody read it for a while: line after line it
/// comes faster than in the order of packing.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn prefetch_along<const PAIR: bool>(b: Operand<'_>, steps: &Range<usize>, cols: &Range<usize>) {
    if b.col_stride != 1 {
        let k = steps.start * per_cell::<PAIR>();
        for col in cols.clone() {
            prefetch_row::<{ _MM_HINT_T1 }>(b.data, col * b.col_stride + k, steps.len() * per_cell::<PAIR>());
        }
    }
}

/// # Safety
/// As [`pack_panel`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn pack_along<const PAIR: bool, const LATER: bool>(
    b: Operand<'_>,
    steps: Range<usize>,
    cols: Range<usize>,
    to: &mut [u32],
) {
    assert_eq!(b.row_stride, 1, "an operand must be contiguous along its rows or its columns");
    let width = cols.len().next_multiple_of(16);
    assert!(to.len() >= steps.len() * width);
    if LATER {
        prefetch_along::<PAIR>(b, &steps, &cols);
    }
    for first in steps.clone().step_by(16) {
        let k = first * per_cell::<PAIR>();
        let count = (steps.end - first).min(16);
        for col in cols.clone().step_by(16) {
            let mut cells = [_mm512_setzero_si512(); 16];
            for (cells, col) in cells.iter_mut().zip(col..cols.end) {
                // SAFETY: at most the column's remaining elements are read.
                *cells = unsafe { along::<PAIR>(b.data, col * b.col_stride + k, b.rows - k) };
            }
            let turned = transpose(&cells);
            let at = (first - steps.start) * width + (col - cols.start);
            for (i, cells) in turned.iter().enumerate().take(count) {
                // SAFETY: inside `to` by the assertion above.
                unsafe { store::<LATER>(to.as_mut_ptr().add(at + i * width), *cells) };
            }
        }
    }
}

/// 16 cells from elements that are neighbours along K, starting at `at`, of which `left` exist.
///
/// # Safety
/// The elements that exist are in bounds.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn along<const PAIR: bool>(data: Source<'_>, at: usize, left: usize) -> __m512i {
    // SAFETY: masked-off elements are not touched, the others are in bounds.
    unsafe {
        match data {
            Source::F32(values) => {
                let from = values.as_ptr().wrapping_add(at);
                let low = _mm512_maskz_loadu_ps(mask(left), from);
                if PAIR {
                    let high = _mm512_maskz_loadu_ps(mask(left.saturating_sub(16)), from.wrapping_add(16));
                    std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low))
                } else {
                    _mm512_castps_si512(low)
                }
            }
            Source::Bf16(values) => {
                let from = values.as_ptr().wrapping_add(at).cast();
                if PAIR {
                    let mask = if left >= 32 { u32::MAX } else { (1 << left) - 1 };
                    _mm512_maskz_loadu_epi16(mask, from)
                } else {
                    let narrow = _mm256_maskz_loadu_epi16(mask(left), from);
                    _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(narrow))
                }
            }
        }
    }
}

/// 16 cells from elements that are neighbours across K: `left` of them exist at `at` and, the second halves of
/// pairs, at `next`.
///
/// # Safety
/// The elements that exist are in bounds.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn across<const PAIR: bool>(data: Source<'_>, at: usize, next: Option<usize>, left: usize) -> __m512i {
    // SAFETY: masked-off elements are not touched, the others are in bounds.
    unsafe {
        match data {
            Source::F32(values) => {
                let load = |at| _mm512_maskz_loadu_ps(mask(left), values.as_ptr().wrapping_add(at));
                let low = load(at);
                if PAIR {
                    let high = next.map_or(_mm512_setzero_ps(), load);
                    let both = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
                    _mm512_permutexvar_epi16(_mm512_loadu_si512(HALVES.as_ptr().cast()), both)
                } else {
                    _mm512_castps_si512(low)
                }
            }
            Source::Bf16(values) => {
                let load = |at| {
                    let from = values.as_ptr().wrapping_add(at).cast();
                    _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask(left), from))
                };
                let low = load(at);
                if PAIR {
                    let high = next.map_or(_mm512_setzero_si512(), load);
                    _mm512_or_si512(low, _mm512_slli_epi32::<16>(high))
                } else {
                    _mm512_slli_epi32::<16>(low)
                }
            }
        }
    }
}

/// Takes the lower and the upper half of one vector in turns.
const HALVES: [u16; 32] = in_turns(0, 16);

/// Take elements of two vectors in turns: of their lower halves, of their upper halves.
const INTERLEAVE: [[u16; 32]; 2] = [in_turns(0, 32), in_turns(16, 48)];

/// `first, second, first + 1, second + 1, ...`
const fn in_turns(first: u16, second: u16) -> [u16; 32] {
    let mut order = [0; 32];
    let mut i = 0;
    while i < 16 {
        order[2 * i] = first + i as u16;
        order[2 * i + 1] = second + i as u16;
        i += 1;
    }
    order
}

/// The mask of the first `left` of 16.
fn mask(left: usize) -> u16 {
    if left >= 16 { u16::MAX } else { (1 << left) - 1 }
}

/// The transpose of 16 x 16 cells: pairs of rows, pairs of pairs, then 128-bit blocks.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(x: &[__m512i; 16]) -> [__m512i; 16] {
    let mut pairs = *x;
    for i in 0..8 {
        pairs[2 * i] = _mm512_unpacklo_epi32(x[2 * i], x[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_epi32(x[2 * i], x[2 * i + 1]);
    }
    // fours[4 i + j] holds, in its 128-bit block b, the rows 4 i .. 4 i + 4 of column 4 b + j.
    let mut fours = pairs;
    for i in 0..4 {
        fours[4 * i] = _mm512_unpacklo_epi64(pairs[4 * i], pairs[4 * i + 2]);
        fours[4 * i + 1] = _mm512_unpackhi_epi64(pairs[4 * i], pairs[4 * i + 2]);
        fours[4 * i + 2] = _mm512_unpacklo_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
        fours[4 * i + 3] = _mm512_unpackhi_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
    }
    let mut turned = fours;
    for j in 0..4 {
        let low_even = _mm512_shuffle_i32x4::<0b10_00_10_00>(fours[j], fours[4 + j]);
        let low_odd = _mm512_shuffle_i32x4::<0b11_01_11_01>(fours[j], fours[4 + j]);
        let high_even = _mm512_shuffle_i32x4::<0b10_00_10_00>(fours[8 + j], fours[12 + j]);
        let high_odd = _mm512_shuffle_i32x4::<0b11_01_11_01>(fours[8 + j], fours[12 + j]);
        turned[j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(low_even, high_even);
        turned[4 + j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(low_odd, high_odd);
        turned[8 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(low_even, high_even);
        turned[12 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(low_odd, high_odd);
    }
    turned
}
