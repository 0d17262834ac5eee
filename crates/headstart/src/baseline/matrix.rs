//! Rows of numbers, and their products with a few columns, on all threads: what is fitted to them needs nothing else. Sparse ones are here,
//! dense ones in `dense.rs`.
//!
//! Owns: that each output is one sum in an order of its own, so that threads change no bit. Never: what the rows mean.

use rayon::prelude::*;

use super::vocabulary::Row;

/// Rows of numbers, with a column of ones behind them.
pub(super) trait Rows: Sync {
    /// Their number.
    fn rows(&self) -> usize;

    /// Numbers to a row, without the one.
    fn columns(&self) -> usize;

    /// `X W`: for each row the sums with `weights`, which has `k` for each column and `k` constants behind them.
    fn times(&self, weights: &[f64], k: usize, scores: &mut [f64]);

    /// The transposed product: for each column, and for the constants, the sums with `values`, `k` for each row.
    fn transposed_times(&self, values: &[f64], k: usize, sums: &mut [f64]);

    /// As [`Self::transposed_times`] with the squares of the numbers.
    fn squares_times(&self, values: &[f64], k: usize, sums: &mut [f64]);
}

/// Adds the constants to the scores of every row.
pub(super) fn add_constants(constants: &[f64], scores: &mut [f64]) {
    let k = constants.len();
    scores.par_chunks_mut(k * 4096).for_each(|scores| {
        for scores in scores.chunks_exact_mut(k) {
            scores.iter_mut().zip(constants).for_each(|(score, constant)| *score += constant);
        }
    });
}

/// The sums of the column of ones.
pub(super) fn sum_constants(values: &[f64], constants: &mut [f64]) {
    constants.fill(0.0);
    for values in values.chunks_exact(constants.len()) {
        constants.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
    }
}

/// Sparse rows, by row and by column.
#[derive(Debug)]
pub(super) struct Matrix {
    by_row: Lists,
    by_column: Lists,
}

/// Lists of numbers with places, back to back.
#[derive(Debug)]
struct Lists {
    starts: Vec<usize>,
    entries: Vec<(u32, f32)>,
}

impl Lists {
    fn get(&self, at: usize) -> &[(u32, f32)] {
        &self.entries[self.starts[at]..self.starts[at + 1]]
    }

    fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// For each list: the sum of its numbers, each times the `k` values at its place.
    fn times(&self, values: &[f64], k: usize, sums: &mut [f64]) {
        sums.par_chunks_mut(k * 256).enumerate().for_each(|(chunk, sums)| {
            for (at, sums) in sums.chunks_exact_mut(k).enumerate() {
                let list = self.get(chunk * 256 + at);
                if let [sum] = sums {
                    *sum = list.iter().map(|&(place, value)| f64::from(value) * values[place as usize]).sum();
                    continue;
                }
                sums.fill(0.0);
                for &(place, value) in list {
                    let value = f64::from(value);
                    let of_place = &values[place as usize * k..][..k];
                    sums.iter_mut().zip(of_place).for_each(|(sum, other)| *sum += value * other);
                }
            }
        });
    }
}

impl Matrix {
    /// Of rows whose places are below `columns`.
    pub fn new(rows: &[Row], columns: usize) -> Self {
        let mut starts = vec![0];
        let mut counts = vec![0_usize; columns + 1];
        let mut entries = Vec::with_capacity(rows.iter().map(Vec::len).sum());
        for row in rows {
            entries.extend_from_slice(row);
            starts.push(entries.len());
            for &(column, _) in row {
                counts[column as usize + 1] += 1;
            }
        }
        for column in 0..columns {
            counts[column + 1] += counts[column];
        }
        let mut next = counts.clone();
        let mut turned = vec![(0, 0.0); entries.len()];
        for (at, row) in rows.iter().enumerate() {
            for &(column, value) in row {
                turned[next[column as usize]] = (at as u32, value);
                next[column as usize] += 1;
            }
        }
        Self { by_row: Lists { starts, entries }, by_column: Lists { starts: counts, entries: turned } }
    }
}

impl Rows for Matrix {
    fn rows(&self) -> usize {
        self.by_row.len()
    }

    fn columns(&self) -> usize {
        self.by_column.len()
    }

    fn times(&self, weights: &[f64], k: usize, scores: &mut [f64]) {
        self.by_row.times(weights, k, scores);
        add_constants(&weights[self.columns() * k..], scores);
    }

    fn transposed_times(&self, values: &[f64], k: usize, sums: &mut [f64]) {
        let (of_columns, constants) = sums.split_at_mut(self.columns() * k);
        self.by_column.times(values, k, of_columns);
        sum_constants(values, constants);
    }

    fn squares_times(&self, values: &[f64], k: usize, sums: &mut [f64]) {
        let (of_columns, constants) = sums.split_at_mut(self.columns() * k);
        of_columns.par_chunks_mut(k).with_min_len(256).enumerate().for_each(|(column, sums)| {
            sums.fill(0.0);
            for &(row, value) in self.by_column.get(column) {
                let square = f64::from(value) * f64::from(value);
                let of_row = &values[row as usize * k..][..k];
                sums.iter_mut().zip(of_row).for_each(|(sum, other)| *sum += square * other);
            }
        });
        sum_constants(values, constants);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_those_of_the_written_out_matrix() {
        // [[1, 0, 2], [0, 0, 0], [0, 3, 0]], and a column of ones.
        let matrix = Matrix::new(&[vec![(0, 1.0), (2, 2.0)], vec![], vec![(1, 3.0)]], 3);
        assert_eq!((matrix.rows(), matrix.columns()), (3, 3));
        // Halves and whole numbers, which are exact.
        let doubled = |values: &[f64]| values.iter().map(|value| (2.0 * value) as i64).collect::<Vec<_>>();
        let mut scores = [0.0; 3];
        matrix.times(&[1.0, 10.0, 100.0, 0.5], 1, &mut scores);
        assert_eq!(doubled(&scores), [403, 1, 61]);
        let mut scores = [0.0; 6];
        matrix.times(&[1.0, 2.0, 10.0, 20.0, 100.0, 200.0, 0.5, 0.0], 2, &mut scores);
        assert_eq!(doubled(&scores), [403, 804, 1, 0, 61, 120]);
        let mut sums = [0.0; 4];
        matrix.transposed_times(&[1.0, 10.0, 100.0], 1, &mut sums);
        assert_eq!(doubled(&sums), [2, 600, 4, 222]);
        matrix.squares_times(&[1.0, 10.0, 100.0], 1, &mut sums);
        assert_eq!(doubled(&sums), [2, 1800, 8, 222]);
    }
}
