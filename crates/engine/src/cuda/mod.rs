//! The CUDA side: everything that runs on an NVIDIA GPU.
//!
//! Owns: finding NVIDIA's libraries, contexts, device memory, kernels, matmuls. Never: what the CPU computes, what a model
//! is, or (but for [`Slab`]) what an op means. Building needs no toolkit and no driver: [`libraries`] finds them at run time,
//! when a GPU is asked for.
//!
//! # How an op uses it
//! Forward and backward of an op (`crate::ops`) decide what is computed and which gradient goes where. Where they compute,
//! they ask `device.cuda()`; if there is a GPU, they call the launchers in [`ops`], which take tensors, addresses and sizes.
//! - [`Context`]: one device and one stream. Calls are queued in order, and nothing waits for the device except
//!   [`Context::download`], `Tensor::to_f32_vec`, `LossSum::wait`, `SquaredNorm::wait` and [`Context::check`].
//! - Memory: `tape.uninit(..)`, `back.uninit(..)`, `Tensor::zeros(device.pool(), ..)` give device tensors on a CUDA
//!   device; `tensor.device_ptr()` is the address. Anything else: `cuda.allocate(bytes)`,
//!   `cuda.upload(&[u32 | u64 | f32 | ..])` are [`DeviceBuffer`]s, which go back to the pool when dropped (safe at once:
//!   the stream keeps the order). Addresses are [`DevicePtr`]; `ptr.offset(bytes)`.
//! - What all ops of a slab share is uploaded once: `tape.slab` / `back.slab` is an `Arc<Slab>`; dropout that is on becomes
//!   an `ops::DeviceDropout`.
//! - Weights and gradients: `weights.device_f32(cuda, view)`, `weights.device_matrix(cuda, view, dtype)`,
//!   `gradients.device_mut(cuda, view) -> Option<DevicePtr>` (`None`: frozen).
//! - Kernels: a launcher names its file `kernels/NAME.cu` as a [`Module`] (the text of `kernels/common.cuh` stands before
//!   it) and calls `cuda.launch(MODULE, "linear_epilogue", [grid_x, grid_y, 1], block, shared_bytes, &[a.into(), 3_i32.into()])`.
//!   Arguments convert from `DevicePtr`, `Option<DevicePtr>` (null), `i32`, `u32`, `f32`, `u64`, and are checked against
//!   the parameters in the source.
//! - Matmuls, row-major: `cuda.matmul(x.matrix(), w.transposed(), y.matrix(), Write::Replace | Write::Add)`. Both operands
//!   are of one type; the output may be f32 or bf16.
//! - Losses: a `[terms, 2]` f32 tensor of (term, 1 or 0 for correct), summed into two f64: `LossSum::pending(sums)`.
//! - Captured graphs ([`graph`]): an op need not know whether its calls are queued, captured or compared. A step can be
//!   replayed if its ops wait for nothing, ask for the same buffers and launches each time, leave room for the longest upload
//!   where lengths differ from batch to batch (`cuda.upload_within`), and take memory that outlives the step with
//!   `allocate_lasting` / `upload_lasting`.
//! - Other ranks' GPUs: [`Nccl`] queues exchanges on the same stream, outside of what [`Context::run`] may capture.
//! - Errors stick, like CUDA's own: after the first one, allocations are empty and launches do nothing, until
//!   [`Context::check`] reports it, once per step.

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
mod nccl;
pub(crate) mod ops;
mod pinned;
mod slab;

pub(crate) use blas::{Finished, Matrix, Write};
pub(crate) use buffer::{DeviceBuffer, DevicePtr};
pub(crate) use context::Context;
pub use context::{CudaOptions, Gpu, gpus};
pub(crate) use graph::Prepared;
pub use graph::{GraphCounts, Replay};
pub(crate) use kernels::Module;
pub(crate) use nccl::Nccl;
pub(crate) use slab::Slab;

/// Locks; a thread that panicked while it held the lock left nothing half done that matters.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
