//! Row selection: `y[i] = x[rows[i]]`. Picks the classified or the masked positions.
//!
//! Shapes: x `[N, C]`, rows `[R]`, y `[R, C]` in f32. Backward: `dx[rows[i]] += dy[i]`; other rows are zero.

use crate::cuda;
use crate::dtype::DType;
use crate::profile::Work;
use crate::tape::{Tape, Value};
use crate::tensor::Tensor;

impl Tape<'_> {
    /// The given rows of x, in the given order; a row may stand more than once.
    ///
    /// # Panics
    /// When a row lies outside x.
    pub fn select_rows(&mut self, x: &Value, rows: &[u32]) -> Value {
        self.select(x, rows.to_vec())
    }

    /// As [`Tape::select_rows`], for a number of rows that differs from batch to batch, each row at most once: on a GPU rows of
    /// zeros follow the last, up to a multiple of 128, so that shapes come again and graphs can be replayed.
    ///
    /// # Panics
    /// When a row lies outside x.
    pub fn select_rows_padded(&mut self, x: &Value, rows: &[u32]) -> Value {
        let padded = self.device.cuda().map(|_| cuda::ops::select_rows::filled(rows));
        self.select(x, padded.unwrap_or_else(|| rows.to_vec()))
    }

    fn select(&mut self, x: &Value, rows: Vec<u32>) -> Value {
        let device = self.device;
        let _timer = device.time(Work::Other);
        let (cols, level) = (x.tensor.cols(), device.level());
        let mut y = self.uninit(rows.len(), cols, DType::F32);
        if let Some(cuda) = device.cuda() {
            cuda::ops::select_rows::forward(cuda, &x.tensor, &rows, &y);
        } else {
            let mut scratch = vec![0.0; cols];
            for (to, &from) in y.f32_mut().chunks_exact_mut(cols).zip(&rows) {
                to.copy_from_slice(x.tensor.row(level, from as usize, &mut scratch));
            }
        }
        let x = x.clone();
        self.record(y, x.id.is_some(), move |back, dy| {
            let device = back.device;
            let _timer = device.time(Work::Other);
            let (cols, level) = (dy.cols(), device.level());
            let mut dx = Tensor::zeros(device.pool(), x.tensor.rows(), cols, DType::F32);
            if let Some(cuda) = device.cuda() {
                cuda::ops::select_rows::backward(cuda, &rows, &dy, &dx);
            } else {
                let mut scratch = vec![0.0; cols];
                let sums = dx.f32_mut();
                for (i, &to) in rows.iter().enumerate() {
                    let sum = &mut sums[to as usize * cols..][..cols];
                    sum.iter_mut().zip(dy.row(level, i, &mut scratch)).for_each(|(s, d)| *s += d);
                }
            }
            back.add(x.id, dx);
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Gradcheck, ODD_SIZES};

    #[test]
    fn gradcheck() {
        for cols in ODD_SIZES {
            let rows = [4_u32, 0, 4, 2];
            Gradcheck::new("select_rows", &[("x", 6, cols)], &[]).run(
                |tape, x, _| tape.select_rows(&x[0], &rows),
                |x, _| rows.iter().flat_map(|&r| x[0][r as usize * cols..][..cols].to_vec()).collect(),
            );
        }
    }

    /// What is added on a GPU is zeros; so the chosen rows are multiplied and chosen again.
    #[test]
    fn gradcheck_of_padded_rows() {
        for cols in ODD_SIZES {
            let rows = [4_u32, 0, 5, 2, 1];
            Gradcheck::new("select_rows", &[("x", 6, cols)], &[]).run(
                |tape, x, _| {
                    let padded = tape.select_rows_padded(&x[0], &rows);
                    assert!(padded.tensor().to_f32_vec()[5 * cols..].iter().all(|&x| x == 0.0));
                    tape.select_rows(&padded, &[0, 1, 2, 3, 4, 0])
                },
                |x, _| {
                    let again = rows.iter().chain(&rows[..1]);
                    again.flat_map(|&r| x[0][r as usize * cols..][..cols].to_vec()).collect()
                },
            );
        }
    }
}
