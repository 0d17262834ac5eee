//! Matmuls with an epilogue: C = A B, where each finished row segment of C goes to a caller's `store`.
//!
//! Owns: operands, packed weights, the choice of the code path. Never: knows what an operand is.
//!
//! - `small` — matmuls on one thread, for ops that cut the work themselves.
//! - `tiles` — how an output is cut. `strided` — the `gemm` crate, for processors without AVX-512.
//! - `panels`, `packing` — our own matmul for AVX-512: driver, operand layouts. `kernel` — its innermost loops in vector
//!   registers, f32 and bf16; `amx` — in tile registers, bf16.
//!
//! The output is cut into tiles by the shape alone and each tile sums over K in one order, so the bits do not
//! depend on the number of threads. It sums chains of products, and then those sums (`chain`). The epilogue runs while the tile is in the cache of the core that made it.

#[cfg(target_arch = "x86_64")]
mod amx;
mod buffer;
#[cfg(target_arch = "x86_64")]
mod kernel;
#[cfg(target_arch = "x86_64")]
mod packing;
#[cfg(target_arch = "x86_64")]
mod panels;
mod small;
mod strided;
#[cfg(test)]
mod tests;
mod tiles;

use std::cell::Cell;
use std::ops::Range;

use half::bf16;

use crate::cpu::convert::round_bf16;
#[cfg(target_arch = "x86_64")]
use crate::cpu::simd::Level;
use crate::device::Device;
use crate::dtype::{DType, Precision};
use crate::tensor::Tensor;

#[cfg(target_arch = "x86_64")]
pub(crate) use amx::{PEAK_ROUND as AMX_PEAK_ROUND, register_peak_loop as amx_peak_loop};
#[cfg(target_arch = "x86_64")]
pub(crate) use kernel::register_peak_loop;
pub(crate) use small::{GRAIN, ROWS, SmallRight, output_room};

#[cfg(target_arch = "x86_64")]
use amx::Amx;
#[cfg(target_arch = "x86_64")]
use kernel::{Pairs, Singles};
use strided::Strided;

pub(crate) use buffer::Buffer;

/// A K that is called deep.
const DEEP: usize = 4_000;

/// Products that are summed one by one, at most, for a K of `inner`. Every addition to a sum may lose half a unit of its last
/// place; where the sums of such chains are added up instead, few additions lie between a product and the result.
fn chain(inner: usize) -> usize {
    if inner < DEEP { 512 } else { 128 }
}

/// The elements of an operand.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

impl Source<'_> {
    fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }
}

/// A strided matrix to be multiplied; its elements are contiguous along rows or along columns.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    pub(crate) data: Source<'a>,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) row_stride: usize,
    pub(crate) col_stride: usize,
}

impl<'a> Operand<'a> {
    /// A whole tensor.
    pub(crate) fn new(tensor: &'a Tensor) -> Self {
        let data = match tensor.dtype() {
            DType::F32 => Source::F32(tensor.f32()),
            DType::Bf16 => Source::Bf16(tensor.bf16()),
        };
        Self { data, rows: tensor.rows(), cols: tensor.cols(), row_stride: tensor.cols(), col_stride: 1 }
    }

    /// A row-major f32 matrix.
    pub(crate) fn from_f32(values: &'a [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(values.len(), rows * cols);
        Self { data: Source::F32(values), rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// The transpose, without moving anything.
    pub(crate) fn transposed(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// Some rows and columns of it.
    pub(crate) fn block(self, rows: Range<usize>, cols: Range<usize>) -> Self {
        assert!(rows.end <= self.rows && cols.end <= self.cols);
        let start = rows.start * self.row_stride + cols.start * self.col_stride;
        let data = match self.data {
            Source::F32(values) => Source::F32(values.get(start..).unwrap_or_default()),
            Source::Bf16(values) => Source::Bf16(values.get(start..).unwrap_or_default()),
        };
        Self { data, rows: rows.len(), cols: cols.len(), ..self }
    }

    /// One element in f64, rounded as the precision has it: for plain references.
    pub(crate) fn element(&self, row: usize, col: usize, precision: Precision) -> f64 {
        let at = row * self.row_stride + col * self.col_stride;
        let value = match self.data {
            Source::F32(values) => values[at],
            Source::Bf16(values) => values[at].to_f32(),
        };
        f64::from(if precision == Precision::Bf16 { round_bf16(value).to_f32() } else { value })
    }

    /// Panics unless every element lies inside the data: what unsafe code relies on.
    fn assert_in_bounds(&self) {
        if self.rows > 0 && self.cols > 0 {
            let last = (self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride;
            assert!(last < self.data.len(), "an operand of {} elements reaches {last}", self.data.len());
        }
    }
}

/// A right operand rounded to bf16, in the layout of the matmul that will read it.
#[derive(Debug, Default)]
pub(crate) struct PackedRight {
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
    layout: Layout,
}

#[derive(Debug)]
enum Layout {
    /// As it lay, rounded, kept as f32.
    Strided(Vec<f32>),
    /// Panels of the bf16 micro-kernel.
    #[cfg(target_arch = "x86_64")]
    Panels(Buffer),
}

impl Default for Layout {
    fn default() -> Self {
        Self::Strided(Vec::new())
    }
}

impl PackedRight {
    /// Converts and packs `b`.
    pub(crate) fn new(device: &Device, b: Operand<'_>) -> Self {
        let mut packed = Self::default();
        packed.repack(device, b);
        packed
    }

    /// Takes over other values; at the same shape, in the memory of the old ones.
    pub(crate) fn repack(&mut self, device: &Device, b: Operand<'_>) {
        b.assert_in_bounds();
        (self.rows, self.cols) = (b.rows, b.cols);
        (self.row_stride, self.col_stride) = (b.row_stride, b.col_stride);
        #[cfg(target_arch = "x86_64")]
        if device.level() >= Level::Avx512Bf16 {
            if !matches!(self.layout, Layout::Panels(_)) {
                self.layout = Layout::Panels(Buffer::default());
            }
            if let Layout::Panels(buffer) = &mut self.layout {
                if device.level() == Level::Amx {
                    panels::pack_right::<Amx, true>(device, b, buffer);
                } else {
                    panels::pack_right::<Pairs, true>(device, b, buffer);
                }
            }
            return;
        }
        if !matches!(self.layout, Layout::Strided(_)) {
            self.layout = Layout::default();
        }
        #[allow(irrefutable_let_patterns)] // where there is no other layout
        if let Layout::Strided(values) = &mut self.layout {
            strided::convert(device, b.data, true, values);
        }
    }
}

/// Where the results of a matmul will be written: memory that can come closer while the matmul is computed.
#[derive(Clone, Copy)]
pub(crate) struct Destination {
    /// The address of the first element; never followed.
    start: usize,
    row_bytes: usize,
    element_bytes: usize,
}

impl Destination {
    /// A row-major matrix of `cols` columns.
    pub(crate) fn new<T>(values: &[T], cols: usize) -> Self {
        let element_bytes = size_of::<T>();
        Self { start: values.as_ptr().addr(), row_bytes: cols * element_bytes, element_bytes }
    }

    /// A whole tensor.
    pub(crate) fn of(tensor: &Tensor) -> Self {
        match tensor.dtype() {
            DType::F32 => Self::new(tensor.f32(), tensor.cols()),
            DType::Bf16 => Self::new(tensor.bf16(), tensor.cols()),
        }
    }
}

/// The right operand of a matmul.
#[derive(Clone, Copy)]
pub(crate) enum Right<'a> {
    Plain(Operand<'a>),
    Packed(&'a PackedRight),
}

thread_local! {
    /// Converted operands, kept by the thread that asks for matmuls.
    static CONVERTED: Cell<[Vec<f32>; 2]> = const { Cell::new([Vec::new(), Vec::new()]) };
}

/// C = A B with A `[m, k]`, B `[k, n]`. For each row segment of C, `store(row, first_column, values)` is called
/// exactly once, from the task that computed it; segments cover C, do not overlap, and start at multiples of 32
/// columns.
///
/// In bf16 precision both operands are rounded to bf16 and the sums are f32. A packed operand is always rounded.
/// `destination` says where `store` writes, if it does so in that order; it changes the speed, nothing else.
/// (The processor's bf16 instruction takes subnormal numbers, below 1.2e-38, for zero; the portable path does not.)
pub(crate) fn gemm(
    device: &Device,
    precision: Precision,
    a: Operand<'_>,
    b: Right<'_>,
    destination: Option<Destination>,
    store: impl Fn(usize, usize, &mut [f32]) + Sync + Send,
) {
    a.assert_in_bounds();
    let inner = match b {
        Right::Plain(b) => {
            b.assert_in_bounds();
            b.rows
        }
        Right::Packed(b) => b.rows,
    };
    assert_eq!(a.cols, inner, "inner dimensions of a matmul");
    #[cfg(target_arch = "x86_64")]
    match (precision, b, device.level()) {
        (Precision::Bf16, Right::Plain(b), Level::Amx) => {
            return panels::matmul::<Amx>(device, a, b, destination, store);
        }
        (Precision::Bf16, Right::Plain(b), Level::Avx512Bf16) => {
            return panels::matmul::<Pairs>(device, a, b, destination, store);
        }
        (Precision::F32, Right::Plain(b), Level::Avx512 | Level::Avx512Bf16 | Level::Amx) => {
            return panels::matmul::<Singles>(device, a, b, destination, store);
        }
        (_, Right::Packed(PackedRight { cols, layout: Layout::Panels(buffer), .. }), level) => {
            if level == Level::Amx {
                panels::matmul_packed::<Amx>(device, a, buffer, *cols, destination, store);
            } else {
                panels::matmul_packed::<Pairs>(device, a, buffer, *cols, destination, store);
            }
            return;
        }
        _ => {}
    }
    let _ = destination;
    let round = precision == Precision::Bf16;
    // Taken, not borrowed: a nested matmul on this thread finds empty buffers, nothing worse.
    let [mut left, mut right] = CONVERTED.take();
    let a = Strided::new(device, a, round, &mut left);
    let b = match b {
        Right::Plain(b) => Strided::new(device, b, round, &mut right),
        Right::Packed(PackedRight { rows, cols, row_stride, col_stride, layout }) => {
            let values = match layout {
                Layout::Strided(values) => values,
                #[cfg(target_arch = "x86_64")]
                Layout::Panels(_) => unreachable!("handled above"),
            };
            Strided { values, rows: *rows, cols: *cols, row_stride: *row_stride, col_stride: *col_stride }
        }
    };
    strided::matmul(device, a, b, store);
    CONVERTED.set([left, right]);
}
