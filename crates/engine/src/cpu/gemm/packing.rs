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

use super::kernel::{Kernel, LeftTile, PANEL};
use super::{Operand, Source};
use crate::cpu::shared::SharedSlice;

/// Elements of K in a cell.
pub(super) const fn per_cell<K: Kernel>() -> usize {
    if K::PAIR { 2 } else { 1 }
}

/// Steps come in multiples of so many.
pub(super) const fn step_unit<K: Kernel>() -> usize {
    if K::TILES { BLOCK } else { 1 }
}

/// Rows that the kernel may write at once, whether they exist or not.
pub(super) const fn row_group<K: Kernel>() -> usize {
    if K::TILES { BLOCK } else { 8 }
}

/// Steps along K of `len` elements; those beyond it are zeros.
pub(super) const fn steps_of<K: Kernel>(len: usize) -> usize {
    len.div_ceil(per_cell::<K>()).next_multiple_of(step_unit::<K>())
}

/// Rows of the left operand whose cells lie together when it is packed across K; rows and steps of a whole tile.
pub(super) const BLOCK: usize = 16;

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
    /// Rows whose cells lie one after the other, `stride` cells apart.
    fn along(room: &[u32], stride: usize, rows: usize) -> Self {
        let (start, row_bytes) = (room.as_ptr().cast(), stride * 4);
        Self { start, block_bytes: BLOCK * row_bytes, row_bytes, step_bytes: 4, rows }
    }

    /// At most the kernel's rows from `row`, a multiple of them.
    pub(super) fn tile<K: Kernel>(&self, row: usize) -> LeftTile {
        let offset = row / BLOCK * self.block_bytes + row % BLOCK * self.row_bytes;
        LeftTile {
            start: self.start.wrapping_add(offset),
            row_bytes: self.row_bytes,
            step_bytes: self.step_bytes,
            rows: (self.rows - row).min(K::ROWS),
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
pub(super) unsafe fn pack_left<K: Kernel>(
    a: Operand<'_>,
    rows: Range<usize>,
    steps: Range<usize>,
    room: &mut [u32],
) -> Left {
    assert!(room.len() >= left_room(rows.len(), steps.len()));
    let k = steps.start * per_cell::<K>();
    // An odd number of cache lines, so that the rows of a tile do not compete for the same sets.
    let lines = steps.len().div_ceil(16);
    let stride = 16 * (lines + usize::from(lines.is_multiple_of(2)));
    if a.col_stride == 1 {
        let whole = steps.end * per_cell::<K>() <= a.cols && (!K::TILES || rows.len().is_multiple_of(BLOCK));
        let size = match (a.data, K::PAIR) {
            (Source::F32(_), false) if whole => 4,
            (Source::Bf16(_), true) if whole => 2,
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
        for (row, to) in rows.clone().zip(room.chunks_exact_mut(stride)) {
            for (i, to) in to.chunks_exact_mut(16).take(lines).enumerate() {
                let k = k + 16 * i * per_cell::<K>();
                // SAFETY: at most the row's remaining elements are read; `to` has 16 cells.
                unsafe {
                    let cells = along::<K>(a.data, row * a.row_stride + k, a.cols.saturating_sub(k));
                    _mm512_storeu_si512(to.as_mut_ptr().cast(), cells);
                }
            }
        }
        return Left::along(room, stride, rows.len());
    }
    if K::TILES {
        // SAFETY: as below.
        unsafe { pack_turned::<K>(a.transposed(), steps, rows.clone(), room, stride) };
        return Left::along(room, stride, rows.len());
    }
    let block = steps.len().max(1) * BLOCK;
    // SAFETY: the operand's transpose is in bounds as it is; `room` has a block for every 16 rows.
    unsafe { pack_across::<K>(a.transposed(), steps, rows.clone(), room, block, BLOCK) };
    Left {
        start: room.as_ptr().cast(),
        block_bytes: block * 4,
        row_bytes: 4,
        step_bytes: BLOCK * 4,
        rows: rows.len(),
    }
}

/// Packs columns of `b`, which is read across K, as rows of cells that lie along it, `stride` apart.
///
/// # Safety
/// As [`pack_panel`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn pack_turned<K: Kernel>(
    b: Operand<'_>,
    steps: Range<usize>,
    cols: Range<usize>,
    to: &mut [u32],
    stride: usize,
) {
    assert_eq!(b.col_stride, 1, "an operand must be contiguous along its rows or its columns");
    assert!(to.len() >= cols.len().next_multiple_of(BLOCK) * stride && stride >= steps.len());
    for first in steps.clone().step_by(16) {
        for i in 0..16 * per_cell::<K>() {
            prefetch_row::<_MM_HINT_T0>(
                b.data,
                (first * per_cell::<K>() + 2 * AHEAD + i) * b.row_stride + cols.start,
                cols.len(),
            );
        }
        for col in cols.clone().step_by(BLOCK) {
            let mut cells = [_mm512_setzero_si512(); 16];
            for (cells, step) in cells.iter_mut().zip(first..steps.end) {
                // SAFETY: at most the elements that exist are read.
                *cells = unsafe { step_across::<K>(b, step, col) };
            }
            let at = (col - cols.start) * stride + (first - steps.start);
            for (i, cells) in transpose(&cells).iter().enumerate() {
                // SAFETY: inside `to` by the assertion above: steps come in multiples of 16.
                unsafe { store::<false>(to.as_mut_ptr().add(at + i * stride), *cells) };
            }
        }
    }
}

/// The cells of a step, 16 columns of `b` from `col` on; zeros beyond its rows.
///
/// # Safety
/// The operand is in bounds.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn step_across<K: Kernel>(b: Operand<'_>, step: usize, col: usize) -> __m512i {
    let k = step * per_cell::<K>();
    if k >= b.rows {
        return _mm512_setzero_si512();
    }
    let at = k * b.row_stride + col;
    let next = (K::PAIR && k + 1 < b.rows).then_some(at + b.row_stride);
    // SAFETY: the caller's contract; only columns that exist are read.
    unsafe { across::<K>(b.data, at, next, b.cols.saturating_sub(col)) }
}

/// Packs some columns of the right operand as `[steps, width]` cells, the width being the number of columns
/// rounded up to 16; what is beyond the operand becomes zero. With `LATER`, an operand read along K is written past
/// the caches.
///
/// # Safety
/// The processor has the features; the operand is in bounds and so are the ranges. For `LATER`, `to` starts on a cache
/// line, and the caller ends with [`written`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn pack_panel<K: Kernel, const LATER: bool>(
    b: Operand<'_>,
    steps: Range<usize>,
    cols: Range<usize>,
    to: &mut [u32],
) {
    // SAFETY: the caller's contract.
    unsafe {
        if b.col_stride == 1 {
            let width = cols.len().next_multiple_of(16);
            pack_across::<K>(b, steps, cols, to, 16, width);
        } else {
            pack_along::<K, LATER>(b, steps, cols, to);
        }
    }
}

/// Packs the cells of some steps into all panels of an operand of `all` steps that is read across K. With `LATER`, they
/// are written past the caches.
///
/// # Safety
/// As [`pack_panel`]; no other task packs the same steps.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn pack_rows<K: Kernel, const LATER: bool>(
    b: Operand<'_>,
    steps: Range<usize>,
    all: usize,
    to: &SharedSlice<'_, u32>,
) {
    assert_eq!(b.col_stride, 1, "an operand must be contiguous along its rows or its columns");
    for step in steps {
        for first in (0..b.cols).step_by(PANEL) {
            let width = (b.cols - first).min(PANEL).next_multiple_of(16);
            // SAFETY: this task's own steps of the panel.
            let to = unsafe { to.slice(first * all + step * width, width) };
            for (i, to) in to.chunks_exact_mut(16).enumerate() {
                // SAFETY: at most the elements that exist are read; `to` has 16 cells.
                unsafe { store::<LATER>(to.as_mut_ptr(), step_across::<K>(b, step, first + 16 * i)) };
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
unsafe fn pack_across<K: Kernel>(
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
        let k = step * per_cell::<K>();
        let at = k * b.row_stride + cols.start;
        let next = (K::PAIR && k + 1 < b.rows).then_some(at + b.row_stride);
        // A row is far from the one before it: nothing but the program itself knows which comes next.
        for i in 0..per_cell::<K>() {
            prefetch_row::<_MM_HINT_T0>(b.data, at + (AHEAD + i) * b.row_stride, cols.len());
        }
        let to = to[(step - steps.start) * step_stride..].as_mut_ptr();
        let mut chunk = 0;
        if let (true, Source::Bf16(values), Some(next)) = (K::PAIR, b.data, next) {
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
            // SAFETY: at most the elements that exist are read; the chunk lies in `to` by the assertion.
            unsafe {
                store::<false>(to.add(chunk * chunk_stride), step_across::<K>(b, step, cols.start + col));
            };
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
pub(super) fn prefetch_along<K: Kernel>(b: Operand<'_>, steps: &Range<usize>, cols: &Range<usize>) {
    if b.col_stride != 1 {
        let k = steps.start * per_cell::<K>();
        for col in cols.clone() {
            prefetch_row::<{ _MM_HINT_T1 }>(b.data, col * b.col_stride + k, steps.len() * per_cell::<K>());
        }
    }
}

/// # Safety
/// As [`pack_panel`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn pack_along<K: Kernel, const LATER: bool>(
    b: Operand<'_>,
    steps: Range<usize>,
    cols: Range<usize>,
    to: &mut [u32],
) {
    assert_eq!(b.row_stride, 1, "an operand must be contiguous along its rows or its columns");
    let width = cols.len().next_multiple_of(16);
    assert!(to.len() >= steps.len() * width);
    if LATER {
        prefetch_along::<K>(b, &steps, &cols);
    }
    for first in steps.clone().step_by(16) {
        let k = first * per_cell::<K>();
        let count = (steps.end - first).min(16);
        for col in cols.clone().step_by(16) {
            let mut cells = [_mm512_setzero_si512(); 16];
            for (cells, col) in cells.iter_mut().zip(col..cols.end) {
                // SAFETY: at most the column's remaining elements are read.
                *cells = unsafe { along::<K>(b.data, col * b.col_stride + k, b.rows.saturating_sub(k)) };
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
unsafe fn along<K: Kernel>(data: Source<'_>, at: usize, left: usize) -> __m512i {
    // SAFETY: masked-off elements are not touched, the others are in bounds.
    unsafe {
        match data {
            Source::F32(values) => {
                let from = values.as_ptr().wrapping_add(at);
                let low = _mm512_maskz_loadu_ps(mask(left), from);
                if K::PAIR {
                    let high = _mm512_maskz_loadu_ps(mask(left.saturating_sub(16)), from.wrapping_add(16));
                    std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low))
                } else {
                    _mm512_castps_si512(low)
                }
            }
            Source::Bf16(values) => {
                let from = values.as_ptr().wrapping_add(at).cast();
                if K::PAIR {
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
unsafe fn across<K: Kernel>(data: Source<'_>, at: usize, next: Option<usize>, left: usize) -> __m512i {
    // SAFETY: masked-off elements are not touched, the others are in bounds.
    unsafe {
        match data {
            Source::F32(values) => {
                let load = |at| _mm512_maskz_loadu_ps(mask(left), values.as_ptr().wrapping_add(at));
                let low = load(at);
                if K::PAIR {
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
                if K::PAIR {
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
