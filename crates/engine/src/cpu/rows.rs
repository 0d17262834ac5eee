//! What several ops do to rows of f32: sums of rows and columns, a part of another tensor added, dropout.
//!
//! Owns: these loops, and how many rows one task takes. Never: an op.

use half::bf16;

use crate::cpu::scratch::with_rows;
use crate::cpu::simd::{Level, simd};
use crate::dtype::DType;
use crate::rng::{DropRate, dropout_block};
use crate::tensor::Tensor;

/// Rows that one task of an element-wise pass handles; fixed, so that partial sums do not depend on threads.
pub(crate) const ROWS_PER_TASK: usize = 32;

/// z += the segment of a tensor's row that starts at column `col`.
pub(crate) fn add_segment(level: Level, z: &mut [f32], tensor: &Tensor, row: usize, col: usize) {
    let range = row * tensor.cols() + col..row * tensor.cols() + col + z.len();
    match tensor.dtype() {
        DType::F32 => add(level, z, &tensor.f32()[range]),
        DType::Bf16 => add_bf16(level, z, &tensor.bf16()[range]),
    }
}

/// to += the sum of the rows of an f32 matrix, in row order, from column `first` on.
pub(crate) fn add_column_sums(level: Level, partial: &Tensor, first: usize, to: &mut [f32]) {
    with_rows(to.len(), |sums, _| {
        sums.fill(0.0);
        for row in partial.f32().chunks_exact(partial.cols()) {
            add(level, sums, &row[first..first + sums.len()]);
        }
        add(level, to, sums);
    });
}

simd! {
    /// a += b.
    pub(crate) fn add(a: &mut [f32], b: &[f32]) {
        a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
    }
}

simd! {
    /// z *= factor.
    pub(crate) fn multiply_by(z: &mut [f32], factor: f32) {
        for z in z.iter_mut() {
            *z *= factor;
        }
    }
}

simd! {
    /// a *= b.
    pub(crate) fn multiply(a: &mut [f32], b: &[f32]) {
        a.iter_mut().zip(b).for_each(|(a, b)| *a *= b);
    }
}

simd! {
    /// sums += a * b.
    pub(crate) fn add_products(sums: &mut [f32], a: &[f32], b: &[f32]) {
        sums.iter_mut().zip(a).zip(b).for_each(|((sum, a), b)| *sum += a * b);
    }
}

simd! {
    /// a += b.
    pub(crate) fn add_bf16(a: &mut [f32], b: &[bf16]) {
        a.iter_mut().zip(b).for_each(|(a, b)| *a += f32::from_bits(u32::from(b.to_bits()) << 16));
    }
}

simd! {
    /// z *= the dropout factors of columns `first ..`.
    pub(crate) fn apply_dropout(z: &mut [f32], key: u64, first: usize, rate: DropRate) {
        let mut column = first;
        let mut rest = z;
        while !rest.is_empty() {
            let within = column % 32;
            let (now, later) = rest.split_at_mut((32 - within).min(rest.len()));
            let factors = dropout_block(key, (column / 32) as u32, rate);
            if now.len() == 32 {
                for i in 0..32 {
                    now[i] *= factors[i];
                }
            } else {
                now.iter_mut().zip(&factors[within..]).for_each(|(z, f)| *z *= f);
            }
            column += now.len();
            rest = later;
        }
    }
}
