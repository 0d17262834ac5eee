//! The register tile of the AVX-512 matmul.
//!
//! Owns: the innermost loop. Never: packs, cuts or bounds-checks (its callers do).
//!
//! Operands come in *cells* of 32 bits, one per step along K: an f32, or a pair of bf16 that are neighbours in K.
//! One step multiplies `R` cells of the left operand with `16 V` cells of the right. With R = 8 and V = 3 there
//! are 24 sums, 3 vectors of the right operand and a broadcast in the 32 registers, and 11 loads for 24 products.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _MM_HINT_ET0, _MM_HINT_T1, _mm_prefetch, _mm512_add_ps, _mm512_castps_si512,
    _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_reduce_add_ps, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
};
use std::mem::MaybeUninit;

/// Columns of a whole panel of the right operand.
pub(super) const PANEL: usize = 48;

/// A kernel of the matmul: what its operands look like, and its innermost loop.
pub(super) trait Kernel {
    /// A cell is a pair of bf16 that are neighbours in K; else it is one f32.
    const PAIR: bool;
    /// The left operand is read in whole tiles of 16 rows by 16 steps, the cells of a row one after the other.
    const TILES: bool;
    /// Rows of a call, at most.
    const ROWS: usize;

    /// Comes before the calls of a thread, and [`Kernel::end`] after them.
    fn begin() {}

    /// Gives up what [`Kernel::begin`] took.
    fn end() {}

    /// c (+)= a b for `a.rows` rows, rounded up to what the kernel multiplies at once, and `width` columns (16, 32 or 48).
    /// At most `chain` steps are added one by one; such sums are added up, and their sum to c. On the way some cache lines
    /// from `next` may be brought closer.
    ///
    /// # Safety
    /// The processor has what the kernel needs. `a` has `steps` cells in each of its rows, `b` has `steps * width` cells,
    /// `c` the rounded number of rows of `width` floats, `c_stride` apart. For tiles, `steps` is a multiple of 16 and `a`
    /// has memory for the rounded number of rows.
    unsafe fn multiply(
        steps: usize,
        a: LeftTile,
        b: *const u32,
        next: *const u8,
        width: usize,
        c: *mut f32,
        c_stride: usize,
        accumulate: bool,
        chain: usize,
    );
}

/// f32, with fused multiply-add.
pub(super) struct Singles;

/// Pairs of bf16, with `vdpbf16ps`.
pub(super) struct Pairs;

macro_rules! vector_kernel {
    ($kernel:ty, $pair:literal) => {
        impl Kernel for $kernel {
            const PAIR: bool = $pair;
            const TILES: bool = false;
            const ROWS: usize = 8;

            unsafe fn multiply(
                steps: usize,
                a: LeftTile,
                b: *const u32,
                next: *const u8,
                width: usize,
                c: *mut f32,
                c_stride: usize,
                accumulate: bool,
                chain: usize,
            ) {
                // SAFETY: the same contract.
                unsafe { multiply::<$pair>(steps, a, b, next, width, c, c_stride, accumulate, chain) };
            }
        }
    };
}

vector_kernel!(Singles, false);
vector_kernel!(Pairs, true);

/// Rows of the left operand for one register tile.
#[derive(Clone, Copy)]
pub(super) struct LeftTile {
    /// The first cell of the first row.
    pub(super) start: *const u8,
    /// Bytes from a row to the next.
    pub(super) row_bytes: usize,
    /// Bytes from a step to the next.
    pub(super) step_bytes: usize,
    /// Rows there are; where the kernel takes more (their results land in unused rows of `c`) it repeats them, unless it
    /// reads whole tiles.
    pub(super) rows: usize,
}

impl LeftTile {
    /// Without the first steps.
    pub(super) fn skip(self, step: usize) -> Self {
        Self { start: self.start.wrapping_add(step * self.step_bytes), ..self }
    }
}

/// [`Kernel::multiply`] in vector registers: the rows are rounded up to 1, 2, 4 or 8, and `steps` cache lines from `next` are
/// brought to the second-level cache.
///
/// # Safety
/// As there; the processor has AVX-512 F and, for `PAIR`, BF16.
#[target_feature(enable = "avx512f")]
unsafe fn multiply<const PAIR: bool>(
    steps: usize,
    a: LeftTile,
    b: *const u32,
    next: *const u8,
    width: usize,
    c: *mut f32,
    c_stride: usize,
    accumulate: bool,
    chain: usize,
) {
    macro_rules! pick {
        ($rows:literal) => {
            // SAFETY: the caller's contract.
            unsafe {
                match (PAIR, width) {
                    (true, PANEL) => pairs::<$rows, 3>(steps, a, b, next, c, c_stride, accumulate, chain),
                    (true, 32) => pairs::<$rows, 2>(steps, a, b, next, c, c_stride, accumulate, chain),
                    (true, _) => pairs::<$rows, 1>(steps, a, b, next, c, c_stride, accumulate, chain),
                    (false, PANEL) => singles::<$rows, 3>(steps, a, b, next, c, c_stride, accumulate, chain),
                    (false, 32) => singles::<$rows, 2>(steps, a, b, next, c, c_stride, accumulate, chain),
                    (false, _) => singles::<$rows, 1>(steps, a, b, next, c, c_stride, accumulate, chain),
                }
            }
        };
    }
    match a.rows {
        1 => pick!(1),
        2 => pick!(2),
        3 | 4 => pick!(4),
        _ => pick!(8),
    }
}

/// Asks for a cache line that will be written.
#[inline]
pub(super) fn prefetch_for_write(line: *const i8) {
    // SAFETY: nothing is read or written, any address will do; SSE is part of every x86-64.
    unsafe { _mm_prefetch::<_MM_HINT_ET0>(line) };
}

/// Defines the loop for one kind of cell.
macro_rules! register_tile {
    ($name:ident, $features:literal, |$sum:ident, $x:ident, $y:ident| $step:expr) => {
        #[target_feature(enable = $features)]
        unsafe fn $name<const R: usize, const V: usize>(
            steps: usize,
            a: LeftTile,
            mut b: *const u32,
            mut next: *const u8,
            c: *mut f32,
            c_stride: usize,
            accumulate: bool,
            chain: usize,
        ) {
            // SAFETY: the contract of `multiply`; loads make no assumption on alignment.
            unsafe {
                let mut rows = [a.start; R];
                for r in 0..R {
                    rows[r] = a.start.add(r.min(a.rows - 1) * a.row_bytes);
                }
                let mut at = 0;
                let chains = steps.div_ceil(chain).max(1);
                // The sum of the finished chains.
                let mut finished = [[MaybeUninit::<__m512>::uninit(); V]; R];
                for i in 0..chains {
                    let mut sums = [[_mm512_setzero_ps(); V]; R];
                    for _ in steps * i / chains..steps * (i + 1) / chains {
                        let mut $y = [_mm512_setzero_ps(); V];
                        for v in 0..V {
                            $y[v] = _mm512_loadu_ps(b.add(16 * v).cast());
                        }
                        for r in 0..R {
                            let $x = rows[r].add(at);
                            let $x = _mm512_set1_epi32($x.cast::<i32>().read_unaligned());
                            for v in 0..V {
                                let ($sum, $y) = (sums[r][v], _mm512_castps_si512($y[v]));
                                sums[r][v] = $step;
                            }
                        }
                        _mm_prefetch::<_MM_HINT_T1>(next.cast());
                        next = next.wrapping_add(64);
                        b = b.add(16 * V);
                        at += a.step_bytes;
                    }
                    for r in 0..R {
                        for v in 0..V {
                            let mut sum = sums[r][v];
                            if i > 0 {
                                // Written by the chain before.
                                sum = _mm512_add_ps(finished[r][v].assume_init(), sum);
                            }
                            if i + 1 < chains {
                                finished[r][v].write(sum);
                                continue;
                            }
                            let c = c.add(r * c_stride + 16 * v);
                            if accumulate {
                                sum = _mm512_add_ps(_mm512_loadu_ps(c), sum);
                            }
                            _mm512_storeu_ps(c, sum);
                        }
                    }
                }
            }
        }
    };
}

register_tile!(pairs, "avx512f,avx512bf16", |sum, x, y| _mm512_dpbf16_ps(sum, bf16(x), bf16(y)));
register_tile!(singles, "avx512f", |sum, x, y| _mm512_fmadd_ps(f32s(x), f32s(y), sum));

#[inline]
#[target_feature(enable = "avx512f")]
fn bf16(cells: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes of plain bits.
    unsafe { std::mem::transmute(cells) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn f32s(cells: __m512i) -> __m512 {
    std::arch::x86_64::_mm512_castsi512_ps(cells)
}

/// `rounds` rounds of 24 independent products in registers: what the processor can do at most. Returns a value
/// that depends on all of them.
///
/// # Safety
/// The processor has AVX-512 F and, for `PAIR`, BF16.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(crate) unsafe fn register_peak_loop<const PAIR: bool>(rounds: usize, x: f32) -> f32 {
    let mut sums = [_mm512_set1_ps(x); 24];
    let (a, b) = (_mm512_set1_ps(x), _mm512_set1_ps(1.0 - x));
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = if PAIR {
                _mm512_dpbf16_ps(*sum, bf16(_mm512_castps_si512(a)), bf16(_mm512_castps_si512(b)))
            } else {
                _mm512_fmadd_ps(a, b, *sum)
            };
        }
    }
    let mut total = _mm512_setzero_ps();
    for sum in sums {
        total = _mm512_add_ps(total, sum);
    }
    _mm512_reduce_add_ps(total)
}
