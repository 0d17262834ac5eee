//! Sums of gradients, and conversion between types, on the device.

use super::{THREADS, at, dtype, elements};
use crate::cuda::{Context, Module};
use crate::tensor::{DType, Pool, Tensor};

/// a += b; a is f32.
pub(crate) fn add(cuda: &Context, a: &Tensor, b: &Tensor) {
    let count = a.rows() * a.cols();
    let arguments = [at(a), at(b), dtype(b.dtype()), (count as u64).into()];
    cuda.launch(Module::Elementwise, "add", elements(count), THREADS, 0, &arguments);
}

/// The tensor in the given type: itself, or a rounded or widened copy.
pub(crate) fn in_type(cuda: &Context, pool: &Pool, tensor: &Tensor, wanted: DType) -> Tensor {
    if tensor.dtype() == wanted { tensor.clone() } else { copy(cuda, pool, tensor, wanted) }
}

/// A copy of the tensor in the given type.
pub(crate) fn copy(cuda: &Context, pool: &Pool, tensor: &Tensor, wanted: DType) -> Tensor {
    let copy = Tensor::uninit(pool, tensor.rows(), tensor.cols(), wanted);
    let count = tensor.rows() * tensor.cols();
    let arguments = [at(tensor), dtype(tensor.dtype()), at(&copy), dtype(wanted), (count as u64).into()];
    cuda.launch(Module::Elementwise, "convert", elements(count), THREADS, 0, &arguments);
    copy
}
