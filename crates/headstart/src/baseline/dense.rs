//! Dense rows, standardised, and their products with a few columns, on all threads.
//!
//! Owns: that each output is one sum in an order of its own, so that threads change no bit. Never: what the rows mean.

use rayon::prelude::*;

use super::matrix::{Rows, add_constants, sum_constants};

/// Sums that go on beside each other in one product.
const LANES: usize = 8;

/// Dense rows, by row and by column.
#[derive(Debug)]
pub(super) struct Dense {
    rows: usize,
    columns: usize,
    by_row: Vec<f32>,
    by_column: Vec<f32>,
}

/// What was done to each column.
#[derive(Clone, Debug)]
pub(super) struct Standard {
    pub means: Vec<f64>,
    /// What the differences from the means are divided by; 1 where there are none.
    pub deviations: Vec<f64>,
}

impl Dense {
    /// Of rows of `columns` numbers each, of which every column is shifted and scaled to a mean of 0 and a deviation of 1.
    pub fn standardised(values: &[f32], columns: usize) -> (Self, Standard) {
        let rows = values.len() / columns.max(1);
        let count = rows.max(1) as f64;
        let of = |column: usize| (0..rows).map(move |row| f64::from(values[row * columns + column]));
        let measured = (0..columns).into_par_iter().map(|column| {
            let mean = of(column).sum::<f64>() / count;
            let variance = of(column).map(|value| (value - mean).powi(2)).sum::<f64>() / count;
            // What is the same in all rows differs by rounding at most.
            let same = variance.sqrt() <= 1e-9 * mean.abs();
            (mean, if same { 1.0 } else { variance.sqrt() })
        });
        let (means, deviations): (Vec<f64>, Vec<f64>) = measured.unzip();
        let mut by_column = vec![0.0_f32; rows * columns];
        by_column.par_chunks_mut(rows.max(1)).enumerate().for_each(|(column, there)| {
            let (mean, deviation) = (means[column], deviations[column]);
            there.iter_mut().zip(of(column)).for_each(|(to, from)| *to = ((from - mean) / deviation) as f32);
        });
        let mut by_row = vec![0.0_f32; rows * columns];
        by_row.par_chunks_mut(columns.max(1)).enumerate().for_each(|(row, there)| {
            there.iter_mut().enumerate().for_each(|(column, to)| *to = by_column[column * rows + row]);
        });
        (Self { rows, columns, by_row, by_column }, Standard { means, deviations })
    }
}

impl Rows for Dense {
    fn rows(&self) -> usize {
        self.rows
    }

    fn columns(&self) -> usize {
        self.columns
    }

    fn times(&self, weights: &[f64], k: usize, scores: &mut [f64]) {
        let turned = turned(&weights[..self.columns * k], k);
        scores.par_chunks_mut(k).with_min_len(64).enumerate().for_each(|(row, scores)| {
            let row = &self.by_row[row * self.columns..][..self.columns];
            let weights = turned.chunks_exact(self.columns.max(1));
            scores.iter_mut().zip(weights).for_each(|(score, weights)| *score = product(row, weights));
        });
        add_constants(&weights[self.columns * k..], scores);
    }

    fn transposed_times(&self, values: &[f64], k: usize, sums: &mut [f64]) {
        self.of_columns(values, k, sums, |value| value);
    }

    fn squares_times(&self, values: &[f64], k: usize, sums: &mut [f64]) {
        self.of_columns(values, k, sums, |value| value * value);
    }
}

impl Dense {
    /// For each column, and for the constants, the sums of what `of` makes of the numbers with `values`.
    fn of_columns(&self, values: &[f64], k: usize, sums: &mut [f64], of: impl Fn(f64) -> f64 + Sync) {
        let turned = turned(values, k);
        let (of_columns, constants) = sums.split_at_mut(self.columns * k);
        of_columns.par_chunks_mut(k).with_min_len(4).enumerate().for_each(|(column, sums)| {
            let column = &self.by_column[column * self.rows..][..self.rows];
            let values = turned.chunks_exact(self.rows.max(1));
            sums.iter_mut().zip(values).for_each(|(sum, values)| *sum = product_of(column, values, &of));
        });
        sum_constants(values, constants);
    }
}

/// Numbers that stand `k` to a row, column by column.
fn turned(values: &[f64], k: usize) -> Vec<f64> {
    (0..k).flat_map(|at| values.iter().skip(at).step_by(k).copied()).collect()
}

fn product(a: &[f32], b: &[f64]) -> f64 {
    product_of(a, b, &|value| value)
}

fn product_of(a: &[f32], b: &[f64], of: &impl Fn(f64) -> f64) -> f64 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut lanes = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += of(f64::from(*a)) * b;
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| of(f64::from(*a)) * b).sum();
    lanes.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baseline::matrix::Matrix;

    #[test]
    fn products_are_those_of_the_same_rows_as_sparse_ones() {
        let (rows, columns, k) = (19, 11, 3);
        let values: Vec<f32> = (0..rows * columns).map(|n| ((n * 37 % 23) as f32 - 11.0) / 7.0).collect();
        let (dense, _) = Dense::standardised(&values, columns);
        let lists: Vec<Vec<(u32, f32)>> = dense
            .by_row
            .chunks(columns)
            .map(|row| row.iter().enumerate().map(|(at, value)| (at as u32, *value)).collect())
            .collect();
        let sparse = Matrix::new(&lists, columns);
        let weights: Vec<f64> = (0..(columns + 1) * k).map(|n| (n * 13 % 17) as f64 / 9.0 - 1.0).collect();
        let by_row: Vec<f64> = (0..rows * k).map(|n| (n * 5 % 19) as f64 / 8.0 - 1.0).collect();
        let close = |found: &[f64], expected: &[f64]| {
            let far = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(far < 1e-12, "{far}");
        };
        let (mut found, mut expected) = (vec![0.0; rows * k], vec![0.0; rows * k]);
        dense.times(&weights, k, &mut found);
        sparse.times(&weights, k, &mut expected);
        close(&found, &expected);
        let (mut found, mut expected) = (vec![0.0; weights.len()], vec![0.0; weights.len()]);
        dense.transposed_times(&by_row, k, &mut found);
        sparse.transposed_times(&by_row, k, &mut expected);
        close(&found, &expected);
        dense.squares_times(&by_row, k, &mut found);
        sparse.squares_times(&by_row, k, &mut expected);
        close(&found, &expected);
    }

    #[test]
    fn columns_have_a_mean_of_0_and_a_deviation_of_1_and_constant_ones_are_nothing() {
        let values = [1.0, 5.1, 10.0, 3.0, 5.1, 10.5, 5.0, 5.1, 11.0];
        let (dense, standard) = Dense::standardised(&values, 3);
        assert!((standard.means[0] - 3.0).abs() < 1e-12 && (standard.deviations[1] - 1.0).abs() < 1e-12);
        assert_eq!(dense.by_column[3..6].iter().filter(|value| value.abs() < 1e-6).count(), 3);
        for column in [0, 2] {
            let column = &dense.by_column[column * 3..][..3];
            let (sum, squares) = column.iter().fold((0.0, 0.0), |(s, q), x| (s + x, q + x * x));
            assert!(sum.abs() < 1e-6 && (squares - 3.0).abs() < 1e-5, "{column:?}");
        }
    }
}
