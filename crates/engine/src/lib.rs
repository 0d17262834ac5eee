//! Headstart's engine: a small define-by-run tape over fused operations, for training transformers.
//!
//! It is not a tensor library: matrices `[rows, cols]`, about a dozen ops, flat buffers. It knows no
//! "transformer", "layer 3" or "adapter": buffers, shapes, sizes. It is the only crate with unsafe code, SIMD
//! and GPUs.
//!
//! - [`Device`] — where kernels run, and how work that comes again is replayed. [`Tensor`] — a matrix in a pooled buffer.
//!   [`Packing`] — sequences back to back.
//! - [`gpus`], [`CudaOptions`] — the GPUs of a machine, and how one is used. [`Flat`] — values on the host, a GPU, or both.
//! - [`Weights`], [`Gradients`], [`View`] — flat f32 buffers and the matrices inside them; [`make_resident`].
//! - [`Tape`] — forward and backward; its methods are the ops in [`ops`].
//! - [`Collective`] — the processes that train together.
//! - [`mod@bench`] — the processor's peak and single matmuls, for benchmarks.
//! - [`mod@alloc`], [`profile`] — counting allocations, timing kinds of work.
//! - [`rng`] — counter-based randomness. [`FileMap`] — a safe read-only file map. [`signals`] — which stay ignored.
//!   [`disk_space`] — what a file system has free.

pub mod alloc;
pub mod bench;
pub mod buffers;
pub mod collective;
pub mod device;
pub mod disk_space;
pub mod dtype;
pub mod error;
pub mod file_map;
pub mod flat;
pub mod loss_sum;
pub mod ops;
pub mod packing;
pub mod profile;
pub mod rng;
pub mod signals;
pub mod tape;
pub mod tensor;
pub mod weights;

mod activation;
mod cpu;
mod cuda;
#[cfg(test)]
#[path = "../tests/emulator/mod.rs"]
mod emulator;
#[cfg(test)]
#[path = "../tests/emulator/load.rs"]
mod load;
mod matmul;
#[cfg(test)]
mod testing;

pub use alloc::Allocator;
pub use collective::Collective;
pub use cuda::{CudaOptions, Gpu, GraphCounts, Replay, gpus};
pub use device::{CodePath, Device, Prepared};
pub use dtype::{DType, Precision};
pub use error::EngineError;
pub use file_map::FileMap;
pub use flat::Flat;
pub use loss_sum::LossSum;
pub use packing::{Packing, TokenOf};
pub use tape::{Dropout, Tape, Value};
pub use tensor::Tensor;
pub use weights::{Gradients, View, Weights, make_resident};
