//! Whole tensors on the device: sums of gradients, conversion between types, ranges of columns, sums of columns.

use super::{THREADS, WARP, at, dtype, elements, int, single_rows};
use crate::buffers::Pool;
use crate::cuda::{Context, DevicePtr, Module};
use crate::dtype::DType;
use crate::tensor::Tensor;

pub(super) const ELEMENTWISE: Module =
    Module { name: "elementwise", text: include_str!("../kernels/elementwise.cu") };

/// Warps that share the rows of partial sums: `ROW_GROUPS` in `elementwise.cu`.
const ROW_GROUPS: usize = 16;

/// Rows that a thread reads at once: `AT_ONCE` in `elementwise.cu`.
const AT_ONCE: usize = 4;

/// cuBLASLt has fast kernels for bf16 where each matrix's columns are a multiple of so many.
const PAD: usize = 8;

/// The columns of a matrix with those zeros behind it that it takes for the fast kernels.
pub(crate) fn padded(cols: usize) -> usize {
    cols.next_multiple_of(PAD)
}

/// a += b; a is f32.
pub(crate) fn add(cuda: &Context, a: &Tensor, b: &Tensor) {
    let count = a.rows() * a.cols();
    let arguments = [at(a), at(b), dtype(b.dtype()), (count as u64).into()];
    cuda.launch(ELEMENTWISE, "add", elements(count.div_ceil(4)), THREADS, 0, &arguments);
}

/// The tensor in the given type: itself, or a rounded or widened copy.
pub(crate) fn in_type(cuda: &Context, pool: &Pool, tensor: &Tensor, wanted: DType) -> Tensor {
    if tensor.dtype() == wanted { tensor.clone() } else { copy(cuda, pool, tensor, wanted) }
}

/// A copy of the tensor in the given type.
pub(crate) fn copy(cuda: &Context, pool: &Pool, tensor: &Tensor, wanted: DType) -> Tensor {
    let copy = Tensor::uninit(pool, tensor.rows(), tensor.cols(), wanted);
    let (from, to) = (tensor.device_ptr(), copy.device_ptr());
    convert(cuda, (from, tensor.dtype()), (to, wanted), tensor.rows() * tensor.cols());
    copy
}

/// Rounds `count` f32 values to bf16.
pub(crate) fn narrow(cuda: &Context, from: DevicePtr, to: DevicePtr, count: usize) {
    convert(cuda, (from, DType::F32), (to, DType::Bf16), count);
}

fn convert(cuda: &Context, from: (DevicePtr, DType), to: (DevicePtr, DType), count: usize) {
    let arguments = [from.0.into(), dtype(from.1), to.0.into(), dtype(to.1), (count as u64).into()];
    cuda.launch(ELEMENTWISE, "convert", elements(count.div_ceil(4)), THREADS, 0, &arguments);
}

/// to = from in bf16, zeros behind its rows and columns; both are given by address, rows and columns.
pub(crate) fn pad(
    cuda: &Context,
    from: (DevicePtr, usize, usize),
    from_type: DType,
    to: (DevicePtr, usize, usize),
) {
    assert!(to.2.is_multiple_of(PAD), "{} columns", to.2);
    let arguments =
        [from.0.into(), dtype(from_type), int(from.1), int(from.2), to.0.into(), int(to.1), int(to.2)];
    cuda.launch(ELEMENTWISE, "pad", elements(to.1 * to.2 / PAD), THREADS, 0, &arguments);
}

/// The tensor in bf16 with columns of zeros behind its own, as many as [`padded`] says.
pub(crate) fn pad_columns(cuda: &Context, pool: &Pool, tensor: &Tensor) -> Tensor {
    let (rows, cols) = (tensor.rows(), tensor.cols());
    let to = Tensor::uninit(pool, rows, padded(cols), DType::Bf16);
    let whole = (to.device_ptr(), rows, to.cols());
    pad(cuda, (tensor.device_ptr(), rows, cols), tensor.dtype(), whole);
    to
}

/// to[:, first + c] += from[:, c], as far as `to` has columns; `to` is f32.
pub(crate) fn add_columns(cuda: &Context, to: &Tensor, first: usize, from: &Tensor) {
    assert_eq!(to.dtype(), DType::F32, "what is added to");
    let cols = from.cols().min(to.cols() - first);
    add_part(cuda, (to.device_ptr(), to.cols()), first, from, from.rows(), cols);
}

/// to[r, first + c] += from[r, c] for the first rows and columns of `from`; `to` is f32, given by its address and its columns.
pub(crate) fn add_part(
    cuda: &Context,
    (to, to_cols): (DevicePtr, usize),
    first: usize,
    from: &Tensor,
    rows: usize,
    cols: usize,
) {
    let arguments = [
        to.into(),
        int(to_cols),
        int(first),
        at(from),
        dtype(from.dtype()),
        int(from.cols()),
        int(rows),
        int(cols),
    ];
    let grid = single_rows(rows.div_ceil(AT_ONCE), cols.div_ceil(2));
    cuda.launch(ELEMENTWISE, "add_columns", grid, THREADS, 0, &arguments);
}

/// to[:, c] = from[:, first + c]; both are of one type.
pub(crate) fn copy_columns(cuda: &Context, from: &Tensor, first: usize, to: &Tensor) {
    let (rows, cols) = (to.rows(), to.cols());
    let arguments = [at(from), int(from.cols()), int(first), at(to), dtype(to.dtype()), int(rows), int(cols)];
    let grid = single_rows(rows.div_ceil(AT_ONCE), cols.div_ceil(2));
    cuda.launch(ELEMENTWISE, "copy_columns", grid, THREADS, 0, &arguments);
}

/// to += the sums of the columns `first .. first + cols` of partial sums.
pub(crate) fn add_column_sums(cuda: &Context, partial: &Tensor, first: usize, to: DevicePtr, cols: usize) {
    let arguments = [at(partial), int(partial.rows()), int(partial.cols()), int(first), to.into(), int(cols)];
    let grid = [cols.div_ceil(WARP), 1, 1];
    cuda.launch(ELEMENTWISE, "add_column_sums", grid, ROW_GROUPS * WARP, 0, &arguments);
}
