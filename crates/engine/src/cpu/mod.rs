//! The CPU side: instruction sets, conversions, vectorisable mathematics, matmuls, threads, parallel writes.

pub(crate) mod convert;
pub(crate) mod gemm;
pub(crate) mod math;
pub(crate) mod rows;
pub(crate) mod scratch;
pub(crate) mod shared;
pub(crate) mod simd;
pub(crate) mod thread_pool;
