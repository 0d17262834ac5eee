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
        let device = self.device;
        let _timer = device.time(Work::Other);
        let (cols, level) = (x.tensor.cols(), device.level());
        let mut y = self.uninit(rows.len(), cols, DType::F32);
        if let Some(cuda) = device.cuda() {
            cuda::ops::select_rows::forward(cuda, &x.tensor, rows, &y);
        } else {
            let mut scratch = vec![0.0; cols];
            for (to, &from) in y.f32_mut().chunks_exact_mut(cols).zip(rows) {
                to.copy_from_slice(x.tensor.row(level, from as usize, &mut scratch));
            }
        }
        let (x, rows) = (x.clone(), rows.to_vec());
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
}
