//! Softmax and cross-entropy over rows of logits on the device, and the gradient of some rows added to where they belong.

use super::{THREADS, array, at, dtype, int, single_rows};
use crate::cuda::{Context, DeviceBuffer, DevicePtr, Module};
use crate::dtype::DType;
use crate::tensor::Tensor;

const CROSS_ENTROPY: Module =
    Module { name: "cross_entropy", text: include_str!("../kernels/cross_entropy.cu") };

/// Logits that exist at once, at most (256 MiB of f32): more than on the processor, as a GPU needs many rows to be
/// busy. Tests have few rows, and should meet the seam between two chunks all the same.
pub(crate) const CHUNK_ELEMENTS: usize = if cfg!(test) { 1 << 10 } else { 64 << 20 };

/// Threads that share a row of logits.
const ROW_THREADS: usize = if cfg!(test) { 64 } else { 1024 };

/// Fills the rows of `outcomes` from `first` on with (loss, 1 or 0 for correct), from logits that lack their bias, and the
/// gradient of the logits where it is given; that may be the logits themselves. Both may have further columns than the `classes`.
pub(crate) fn cross_entropy(
    cuda: &Context,
    (logits, classes): (&Tensor, usize),
    bias: Option<DevicePtr>,
    targets: &[u32],
    scale: f32,
    gradient: Option<&Tensor>,
    outcomes: &Tensor,
    first: usize,
) {
    assert!(gradient.is_none_or(|gradient| gradient.cols() == logits.cols()), "logits and their gradient");
    let targets = cuda.upload(targets);
    let outcome = outcomes.device_ptr().offset(first * 2 * DType::F32.size());
    let arguments = [
        at(logits),
        int(logits.cols()),
        bias.into(),
        array(&targets),
        scale.into(),
        gradient.map(Tensor::device_ptr).into(),
        dtype(gradient.map_or(DType::F32, Tensor::dtype)),
        outcome.into(),
        int(logits.rows()),
        int(classes),
    ];
    cuda.launch(CROSS_ENTROPY, "cross_entropy", [logits.rows(), 1, 1], ROW_THREADS, 0, &arguments);
}

/// to[rows[i]] += from[i]; the rows are distinct, and some may be none; `from` may have further columns.
pub(crate) fn add_to_rows(cuda: &Context, from: &Tensor, rows: &DeviceBuffer, to: &Tensor) {
    let arguments = [at(from), int(from.cols()), array(rows), int(from.rows()), at(to), int(to.cols())];
    let grid = single_rows(from.rows(), to.cols());
    cuda.launch(CROSS_ENTROPY, "add_to_rows", grid, THREADS, 0, &arguments);
}
