//! Row selection: `y[i] = x[rows[i]]`. Picks the classified or the masked positions.
//!
//! Shapes: x `[N, C]`, rows `[R]`, y `[R, C]` in f32. Backward: `dx[rows[i]] += dy[i]`; other rows are zero.

use crate::cuda;
use crate::profile::Work;
use crate::tape::{Backward, Node, Tape, Value};
use crate::tensor::{DType, Tensor};

#[derive(Debug)]
pub(crate) struct SelectRowsNode {
    out: usize,
    x: Value,
    rows: Vec<u32>,
}

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
        self.record(y, x.id.is_some(), |out| Node::SelectRows(SelectRowsNode { out, x, rows }))
    }
}

impl SelectRowsNode {
    pub(crate) fn backward(self, back: &mut Backward<'_>) {
        let device = back.device;
        let _timer = device.time(Work::Other);
        let Some(dy) = back.take(self.out) else { return };
        let (cols, level) = (dy.cols(), device.level());
        let mut dx = Tensor::zeros(back.device.pool(), self.x.tensor.rows(), cols, DType::F32);
        if let Some(cuda) = device.cuda() {
            cuda::ops::select_rows::backward(cuda, &self.rows, &dy, &dx);
            return back.add(self.x.id, dx);
        }
        let mut scratch = vec![0.0; cols];
        let sums = dx.f32_mut();
        for (i, &to) in self.rows.iter().enumerate() {
            let to = to as usize * cols;
            sums[to..to + cols].iter_mut().zip(dy.row(level, i, &mut scratch)).for_each(|(s, d)| *s += d);
        }
        back.add(self.x.id, dx);
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
