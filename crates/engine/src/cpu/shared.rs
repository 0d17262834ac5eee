//! Writing one slice, or one tensor, from many tasks: every task writes a part of its own.
//!
//! Owns: that. Never: which task writes what, for which its caller vouches.

use std::marker::PhantomData;

use half::bf16;

use crate::cpu::convert;
use crate::cpu::rows::add;
use crate::cpu::simd::Level;
use crate::dtype::DType;
use crate::tensor::Tensor;

/// A mutable slice that tasks may cut into disjoint parts.
pub(crate) struct SharedSlice<'a, T> {
    start: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: the parts handed out are disjoint (the contract of `slice`), so tasks never touch the same element.
unsafe impl<T: Send> Sync for SharedSlice<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for SharedSlice<'_, T> {}

impl<'a, T> SharedSlice<'a, T> {
    /// Takes the whole slice for the time of the parallel section.
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), owner: PhantomData }
    }

    /// `len` elements from `start`.
    ///
    /// # Safety
    /// No two parts that are alive at the same time overlap.
    #[allow(clippy::mut_from_ref)] // that is the point: disjointness is the caller's contract
    #[inline(always)]
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "slice {start}+{len} of {}", self.len);
        // SAFETY: in bounds by the assertion; disjoint by the contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}

/// A tensor that many tasks write, each its own part.
pub(crate) enum SharedTensor<'a> {
    F32(SharedSlice<'a, f32>, usize),
    Bf16(SharedSlice<'a, bf16>, usize),
}

impl<'a> SharedTensor<'a> {
    pub(crate) fn new(tensor: &'a mut Tensor) -> Self {
        let cols = tensor.cols();
        match tensor.dtype() {
            DType::F32 => Self::F32(SharedSlice::new(tensor.f32_mut()), cols),
            DType::Bf16 => Self::Bf16(SharedSlice::new(tensor.bf16_mut()), cols),
        }
    }

    /// Writes a row segment, rounding if the tensor is bf16.
    ///
    /// # Safety
    /// No other task touches the same elements.
    #[inline]
    pub(crate) unsafe fn write(&self, level: Level, row: usize, col: usize, z: &[f32]) {
        match self {
            // SAFETY: the caller's contract.
            Self::F32(out, cols) => unsafe { out.slice(row * cols + col, z.len()) }.copy_from_slice(z),
            Self::Bf16(out, cols) => {
                // SAFETY: the caller's contract.
                let to = unsafe { out.slice(row * cols + col, z.len()) };
                convert::narrow(level, z, to);
            }
        }
    }

    /// Adds a row segment to an f32 tensor.
    ///
    /// # Safety
    /// As [`SharedTensor::write`].
    pub(crate) unsafe fn add(&self, level: Level, row: usize, col: usize, z: &[f32]) {
        match self {
            // SAFETY: the caller's contract.
            Self::F32(out, cols) => add(level, unsafe { out.slice(row * cols + col, z.len()) }, z),
            Self::Bf16(..) => unreachable!("sums are kept in f32"),
        }
    }
}
