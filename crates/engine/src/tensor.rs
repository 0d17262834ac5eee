//! `Tensor`: a matrix in a reference-counted buffer.
//!
//! Owns: shape, element type, access. Never: arithmetic, nor where buffers come from (`buffers`).

use std::sync::Arc;

use half::bf16;

use crate::buffers::{Buffer, CacheLine, Pool};
use crate::cpu::convert;
use crate::cpu::simd::Level;
use crate::cuda::{DeviceBuffer, DevicePtr, Matrix};
use crate::dtype::DType;

/// A row-major matrix `[rows, cols]`; cloning shares the buffer.
#[derive(Clone, Debug)]
pub struct Tensor {
    rows: usize,
    cols: usize,
    dtype: DType,
    buffer: Arc<Buffer>,
}

impl Tensor {
    /// A matrix with unspecified content (whatever its buffer held before).
    pub(crate) fn uninit(pool: &Pool, rows: usize, cols: usize, dtype: DType) -> Self {
        Self { rows, cols, dtype, buffer: Arc::new(pool.take(rows * cols * dtype.size())) }
    }

    /// A matrix of zeros.
    pub(crate) fn zeros(pool: &Pool, rows: usize, cols: usize, dtype: DType) -> Self {
        let mut tensor = Self::uninit(pool, rows, cols, dtype);
        if let Buffer::Device(buffer) = &*tensor.buffer {
            buffer.context().zero(buffer.ptr(), rows * cols * dtype.size());
        } else {
            tensor.bytes_mut().fill(0);
        }
        tensor
    }

    /// An f32 matrix with the given content, row by row.
    ///
    /// # Panics
    /// When the number of values is not that of the matrix.
    pub fn from_f32(pool: &Pool, rows: usize, cols: usize, values: &[f32]) -> Self {
        let mut tensor = Self::uninit(pool, rows, cols, DType::F32);
        if let Buffer::Device(buffer) = &*tensor.buffer {
            assert_eq!(values.len(), rows * cols);
            buffer.context().write(buffer.ptr(), values);
        } else {
            tensor.f32_mut().copy_from_slice(values);
        }
        tensor
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The content as f32, row by row; waits for the device it lies on.
    pub fn to_f32_vec(&self) -> Vec<f32> {
        if let Buffer::Device(buffer) = &*self.buffer {
            return self.download(buffer);
        }
        match self.dtype {
            DType::F32 => self.f32().to_vec(),
            DType::Bf16 => self.bf16().iter().map(|x| x.to_f32()).collect(),
        }
    }

    fn download(&self, buffer: &DeviceBuffer) -> Vec<f32> {
        let n = self.rows * self.cols;
        let mut values = vec![0.0; n];
        match self.dtype {
            DType::F32 => buffer.context().download(&mut values, buffer.ptr()),
            DType::Bf16 => {
                let mut narrow = vec![bf16::ZERO; n];
                buffer.context().download(&mut narrow, buffer.ptr());
                convert::widen_plain(&narrow, &mut values);
            }
        }
        values
    }

    /// Where the content lies on the GPU, for kernels to read, or to write where the caller made the tensor or
    /// asked [`Tensor::is_unique`].
    pub(crate) fn device_ptr(&self) -> DevicePtr {
        match &*self.buffer {
            Buffer::Device(buffer) => buffer.ptr(),
            Buffer::Host(_) => unreachable!("a GPU does not read the processor's memory"),
        }
    }

    /// The content on the GPU as an operand or the output of a matmul.
    pub(crate) fn matrix(&self) -> Matrix {
        Matrix::new(self.device_ptr(), self.rows, self.cols, self.dtype)
    }

    /// Whether this handle is the buffer's only one, so that writing through it is seen by no one else.
    pub(crate) fn is_unique(&mut self) -> bool {
        Arc::get_mut(&mut self.buffer).is_some()
    }

    pub(crate) fn f32(&self) -> &[f32] {
        assert_eq!(self.dtype, DType::F32);
        &bytemuck::cast_slice(self.lines())[..self.rows * self.cols]
    }

    pub(crate) fn bf16(&self) -> &[bf16] {
        assert_eq!(self.dtype, DType::Bf16);
        &bytemuck::cast_slice(self.lines())[..self.rows * self.cols]
    }

    /// The elements for writing; the caller made the tensor or asked [`Tensor::is_unique`].
    pub(crate) fn f32_mut(&mut self) -> &mut [f32] {
        assert_eq!(self.dtype, DType::F32);
        let n = self.rows * self.cols;
        &mut bytemuck::cast_slice_mut(self.lines_mut())[..n]
    }

    /// As [`Tensor::f32_mut`], in bf16.
    pub(crate) fn bf16_mut(&mut self) -> &mut [bf16] {
        assert_eq!(self.dtype, DType::Bf16);
        let n = self.rows * self.cols;
        &mut bytemuck::cast_slice_mut(self.lines_mut())[..n]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        let n = self.rows * self.cols * self.dtype.size();
        &mut bytemuck::cast_slice_mut(self.lines_mut())[..n]
    }

    /// The host's memory. Only ops that run on the processor ask.
    fn lines(&self) -> &[CacheLine] {
        match &*self.buffer {
            Buffer::Host(host) => host.lines(),
            Buffer::Device(_) => unreachable!("the processor does not read a GPU's memory"),
        }
    }

    fn lines_mut(&mut self) -> &mut [CacheLine] {
        match Arc::get_mut(&mut self.buffer) {
            Some(Buffer::Host(host)) => host.lines_mut(),
            Some(Buffer::Device(_)) => unreachable!("the processor does not write a GPU's memory"),
            None => unreachable!("a shared buffer is never written"),
        }
    }

    /// One row as f32: borrowed where it already is, converted into `scratch` otherwise.
    #[inline]
    pub(crate) fn row<'a>(&'a self, level: Level, row: usize, scratch: &'a mut [f32]) -> &'a [f32] {
        let range = row * self.cols..(row + 1) * self.cols;
        match self.dtype {
            DType::F32 => &self.f32()[range],
            DType::Bf16 => {
                convert::widen(level, &self.bf16()[range], &mut scratch[..self.cols]);
                &scratch[..self.cols]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_a_buffer_that_the_next_tensor_finds() {
        let pool = Pool::default();
        let a = Tensor::zeros(&pool, 10, 100, DType::F32);
        let bytes = pool.bytes();
        let mut b = a.clone();
        assert!(!b.is_unique());
        drop(a);
        assert!(b.is_unique());
        let c = Tensor::zeros(&pool, 10, 100, DType::F32);
        assert_eq!(pool.bytes(), 2 * bytes);
        drop((b, c));
        let _d = Tensor::uninit(&pool, 10, 99, DType::F32);
        let _e = Tensor::uninit(&pool, 20, 99, DType::Bf16);
        assert_eq!(pool.bytes(), 2 * bytes);
    }
}
