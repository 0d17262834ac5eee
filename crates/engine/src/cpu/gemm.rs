//! Matrix products with an epilogue: C = A B, where each finished row segment of C goes to a caller's `store`.
//!
//! Owns: tiling, operand conversion and packing, the choice of micro-kernel. Never: knows what an operand is.
//!
//! The output is cut into tiles by the shape alone and each tile sums over K in one order, so the bits do not
//! depend on the number of threads. The epilogue runs while the tile is in the cache of the core that made it.

use std::cell::RefCell;

use half::bf16;

use crate::device::Device;
use crate::tensor::{DType, Precision, Tensor};

/// Rows of an output tile.
const TILE_ROWS: usize = 128;
/// Columns of an output tile, at most.
const TILE_COLS: usize = 512;

/// The elements of an operand.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

/// A strided matrix to be multiplied.
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
}

/// A right operand in the layout of the bf16 micro-kernel.
#[derive(Debug)]
pub(crate) struct PackedRight {
    rows: usize,
    cols: usize,
    values: Vec<f32>,
}

impl PackedRight {
    /// Converts and packs `b`.
    pub(crate) fn new(_device: &Device, b: Operand<'_>) -> Self {
        let mut values = Vec::new();
        load(b, 0..b.rows, 0..b.cols, Precision::Bf16, &mut values);
        Self { rows: b.rows, cols: b.cols, values }
    }
}

/// The right operand of a product.
#[derive(Clone, Copy)]
pub(crate) enum Right<'a> {
    Plain(Operand<'a>),
    Packed(&'a PackedRight),
}

/// C = A B with A `[m, k]`, B `[k, n]`. For each row segment of C, `store(row, first_column, values)` is called
/// exactly once, from the task that computed it; segments cover C and do not overlap.
///
/// In bf16 precision both operands are rounded to bf16 and the sums are f32.
pub(crate) fn gemm(
    device: &Device,
    precision: Precision,
    a: Operand<'_>,
    b: Right<'_>,
    store: impl Fn(usize, usize, &mut [f32]) + Sync + Send,
) {
    let (b, n) = match b {
        Right::Plain(b) => (b, b.cols),
        Right::Packed(p) => (Operand::from_f32(&p.values, p.rows, p.cols), p.cols),
    };
    let (m, k) = (a.rows, a.cols);
    assert_eq!(k, b.rows, "inner dimensions of a product");
    let col_tiles = n.div_ceil(TILE_COLS);
    let width = n.div_ceil(col_tiles.max(1)).next_multiple_of(32);
    let (row_tiles, col_tiles) = (m.div_ceil(TILE_ROWS), n.div_ceil(width.max(1)));
    device.for_each(row_tiles * col_tiles, |tile| {
        let row = tile % row_tiles * TILE_ROWS;
        let col = tile / row_tiles * width;
        let (rows, cols) = (TILE_ROWS.min(m - row), width.min(n - col));
        SCRATCH.with_borrow_mut(|[left, right, out]| {
            load(a, row..row + rows, 0..k, precision, left);
            load(b, 0..k, col..col + cols, precision, right);
            out.resize(rows * cols, 0.0);
            multiply(rows, cols, k, left, right, out);
            for r in 0..rows {
                store(row + r, col, &mut out[r * cols..(r + 1) * cols]);
            }
        });
    });
}

thread_local! {
    static SCRATCH: RefCell<[Vec<f32>; 3]> = const { RefCell::new([Vec::new(), Vec::new(), Vec::new()]) };
}

/// Copies a part of an operand, row-major, rounded to the precision.
fn load(
    x: Operand<'_>,
    rows: std::ops::Range<usize>,
    cols: std::ops::Range<usize>,
    precision: Precision,
    to: &mut Vec<f32>,
) {
    to.clear();
    for r in rows {
        for c in cols.clone() {
            let at = r * x.row_stride + c * x.col_stride;
            let value = match x.data {
                Source::F32(v) => v[at],
                Source::Bf16(v) => v[at].to_f32(),
            };
            to.push(if precision == Precision::Bf16 { bf16::from_f32(value).to_f32() } else { value });
        }
    }
}

/// c = a b, all row-major, single-threaded.
pub(crate) fn multiply(m: usize, n: usize, k: usize, a: &[f32], b: &[f32], c: &mut [f32]) {
    multiply_strided(m, n, k, (a, k, 1), (b, n, 1), (c, n), false);
}

/// c = a b (+ c), with (elements, row stride, column stride) operands, single-threaded.
pub(crate) fn multiply_strided(
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
            c_row as isize,
            accumulate,
            a.as_ptr(),
            a_col as isize,
            a_row as isize,
            b.as_ptr(),
            b_col as isize,
            b_row as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
