//! The fused operations, one file each: equation, shapes, CPU path, backward, plain f64 reference, gradcheck.
//!
//! Every op is a method on [`crate::Tape`] that computes at once and records a node if a gradient is needed.
//! A linear's epilogue order is: accumulator + addend, bias, activation, scale, dropout, residual.

pub mod adam;
pub mod attention;
pub mod embedding;
pub mod linear;
pub mod linear_cross_entropy;
pub mod loss;
pub mod norm;
pub mod pool;
pub mod select_rows;
