//! The fused operations, one file each: equation, shapes, CPU path, backward, plain f64 reference, gradcheck.
//!
//! Every op is a method on [`crate::Tape`] that computes at once and, if a gradient is needed, records its backward.
//! A linear's epilogue order is: accumulator + addends, bias, activation, scale, dropout, residuals.
//!
//! An op knows its launchers in `crate::cuda::ops`, and what ops share: `crate::matmul`, `crate::cpu::rows`. Neither those nor
//! the tape know an op.

pub mod adam;
pub mod agreement;
pub mod attention;
pub mod blend;
pub mod column_scale;
pub mod cosine;
pub mod distance;
pub mod dropout;
pub mod embedding;
pub mod gate;
pub mod linear;
pub mod linear_cross_entropy;
pub mod loss;
pub mod mix;
pub mod norm;
pub mod own_columns;
pub mod pool;
pub mod relation;
pub mod rotary;
pub mod select_rows;
pub mod soft_labels;
