//! The CUDA side: everything that runs on an NVIDIA GPU.
//!
//! Owns: finding NVIDIA's libraries, contexts, device memory, kernels, matmuls. Never: what the CPU computes, or what
//! a model is. Building needs no toolkit and no driver; [`libraries`] finds them when a GPU is asked for.
//!
//! # How an op uses it
//! An op of the tape, and its backward, starts with `if let Some(cuda) = device.cuda() { return cuda::ops::NAME(..) }`.
//! - [`Context`]: one device and one stream. Work is queued in order, nothing waits for the device except
//!   [`Context::download`], `Tensor::to_f32_vec`, `LossSum::settle` and [`Context::check`].
//! - Memory: `tape.uninit(..)`, `back.uninit(..)`, `Tensor::zeros(device.pool(), ..)` give device tensors on a CUDA
//!   device; `tensor.device_ptr()` is the address. Anything else: `cuda.allocate(bytes)`,
//!   `cuda.upload(&[u32 | u64 | f32 | ..])` are [`DeviceBuffer`]s, which go back to the pool when dropped (safe at once:
//!   the stream keeps the order). Addresses are [`DevicePtr`]; `ptr.offset(bytes)`.
//! - What all ops of a slab share, uploaded once: `tape.slab` / `back.slab` / `dropout.slab` is an `Arc<Slab>` with
//!   `offsets()`, `positions()`, `row_keys()`.
//! - Weights and gradients: `weights.device_f32(cuda, view)`, `weights.device_bf16(cuda, view)`,
//!   `gradients.device_mut(cuda, view) -> Option<DevicePtr>` (`None`: frozen).
//! - Kernels: a file `kernels/NAME.cu` is a [`Module`] (the text of `kernels/common.cuh` stands before it);
//!   `cuda.launch(Module::Linear, "linear_epilogue", [grid_x, grid_y, 1], block, shared_bytes, &[a.into(), 3_i32.into()])`.
//!   Arguments convert from `DevicePtr`, `Option<DevicePtr>` (null), `i32`, `u32`, `f32`, `u64`, and are checked against
//!   the parameters in the source.
//! - Matmuls, row-major: `cuda.matmul(x.matrix(), Matrix::new(w, rows, cols, dtype).transposed(), y.matrix(),
//!   Write::Replace | Write::Add)`. Both operands are of one type; the output may be f32 or bf16.
//! - Losses: a `[terms, 2]` f32 tensor of (term, 1 or 0 for correct), summed into two f64: `LossSum::pending(sums)`.
//! - Graphs ([`section`]): an op need not know whether its work is queued, recorded or compared with a recording. It keeps a
//!   step replayable if it waits for nothing, asks for the same buffers and launches each time, gives uploads whose length
//!   differs from batch to batch room for the longest (`cuda.upload_within`), and takes what outlives the step with
//!   `allocate_lasting` / `upload_lasting`.
//! - Errors stick, as CUDA's own: after the first, allocations are empty and launches do nothing until
//!   [`Context::check`], once per step, reports it.

use std::sync::{Mutex, MutexGuard, PoisonError};

mod blas;
mod buffer;
mod cache;
mod context;
mod driver;
mod error;
mod graph;
mod kernels;
mod launch;
mod libraries;
pub(crate) mod ops;
mod pinned;
mod slab;

pub(crate) use blas::{Matrix, Write};
pub(crate) use buffer::{DeviceBuffer, DevicePtr};
pub(crate) use context::Context;
pub use context::{CudaOptions, Gpu, gpus};
pub(crate) use graph::Prepared;
pub use graph::{GraphCounts, Replay};
pub(crate) use kernels::Module;
pub(crate) use slab::Slab;

/// Locks; a thread that panicked while it held the lock left nothing half done that matters.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
