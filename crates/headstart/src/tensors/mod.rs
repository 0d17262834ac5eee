//! Named tensors in files: of this program's own, and of others.
//!
//! [`TensorFile`] is a safetensors file of ours: F32, compared with its sum, used where it lies. [`Tensors`] is what a folder
//! or file of another program holds: safetensors or PyTorch pickles, in one file or several, in any floating-point type.
//!
//! Owns: reading both without trusting a byte or executing anything, writing safetensors. Never: knows models or run
//! folders.

mod dtype;
mod file;
mod foreign;
mod header;
mod pickle;
mod place;
mod shards;

pub use dtype::Dtype;
pub use file::{TensorFile, all_finite};
pub use foreign::Tensors;
pub use header::{TensorWriter, write_tensors};
pub use pickle::plain_values;

#[cfg(test)]
mod tests;
