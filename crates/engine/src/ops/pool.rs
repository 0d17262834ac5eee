//! Pooling over the tokens of each packed sequence: the mean, or the largest value of each column.
//!
//! Shapes: x `[N, C]`, y `[B, C]` in f32. There is no padding, so nothing needs a mask.
//! Backward: mean spreads dy / length over the sequence's rows; max gives dy to the first row that has the largest.

use crate::cuda;
use crate::dtype::DType;
use crate::profile::Work;
use crate::tape::{Backward, Tape, Value};
use crate::tensor::Tensor;

/// How a sequence becomes one row. The numbers are those in `pool.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Pooling {
    /// The average over its tokens.
    Mean = 0,
    /// The largest value over its tokens, column by column.
    Max = 1,
}

impl Tape<'_> {
    /// One row per packed sequence.
    ///
    /// # Panics
    /// When the rows of x are not the packing's tokens.
    pub fn pool(&mut self, x: &Value, pooling: Pooling) -> Value {
        let device = self.device;
        let _timer = device.time(Work::Other);
        let (cols, level) = (x.tensor.cols(), device.level());
        assert_eq!(x.tensor.rows(), self.packing.tokens(), "pooling is over the packing's tokens");
        let mut y = self.uninit(self.packing.sequences(), cols, DType::F32);
        if let (Some(cuda), Some(slab)) = (device.cuda(), &self.slab) {
            cuda::ops::pool::forward(cuda, slab, &x.tensor, pooling as i32, &y);
        } else {
            let mut scratch = vec![0.0; cols];
            for (s, y) in y.f32_mut().chunks_exact_mut(cols).enumerate() {
                let range = self.packing.range(s);
                let length = range.len() as f32;
                y.copy_from_slice(x.tensor.row(level, range.start, &mut scratch));
                for r in range.skip(1) {
                    let row = x.tensor.row(level, r, &mut scratch);
                    match pooling {
                        Pooling::Mean => y.iter_mut().zip(row).for_each(|(y, x)| *y += x),
                        Pooling::Max => y.iter_mut().zip(row).for_each(|(y, x)| *y = y.max(*x)),
                    }
                }
                if pooling == Pooling::Mean {
                    for y in y.iter_mut() {
                        *y /= length;
                    }
                }
            }
        }
        let x = x.clone();
        self.record(y, x.id.is_some(), move |back, dy| {
            let device = back.device;
            let _timer = device.time(Work::Other);
            let mut dx = Tensor::zeros(device.pool(), x.tensor.rows(), dy.cols(), DType::F32);
            if let (Some(cuda), Some(slab)) = (device.cuda(), &back.slab) {
                cuda::ops::pool::backward(cuda, slab, &x.tensor, &dy, pooling as i32, &dx);
            } else {
                spread(back, &x.tensor, &dy, pooling, dx.f32_mut());
            }
            back.add(x.id, dx);
        })
    }
}

/// Fills dx, which is zeros, on the processor.
fn spread(back: &Backward<'_>, x: &Tensor, dy: &Tensor, pooling: Pooling, dx: &mut [f32]) {
    let (cols, level) = (dy.cols(), back.device.level());
    let (mut scratch, mut scratch_dy) = (vec![0.0; cols], vec![0.0; cols]);
    for s in 0..back.packing.sequences() {
        let range = back.packing.range(s);
        let dy = dy.row(level, s, &mut scratch_dy);
        match pooling {
            Pooling::Mean => {
                let share = 1.0 / range.len() as f32;
                for r in range {
                    dx[r * cols..(r + 1) * cols].iter_mut().zip(dy).for_each(|(x, d)| *x = d * share);
                }
            }
            Pooling::Max => {
                let mut best = x.row(level, range.start, &mut scratch).to_vec();
                let mut winner = vec![range.start; cols];
                for r in range.skip(1) {
                    for (c, &x) in x.row(level, r, &mut scratch).iter().enumerate() {
                        if x > best[c] {
                            (best[c], winner[c]) = (x, r);
                        }
                    }
                }
                for (c, &r) in winner.iter().enumerate() {
                    dx[r * cols + c] = dy[c];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Gradcheck, ODD_SIZES};

    #[test]
    fn gradcheck() {
        for cols in ODD_SIZES {
            let lengths = [3, 1, 7];
            for pooling in [Pooling::Mean, Pooling::Max] {
                Gradcheck::new("pool", &[("x", 11, cols)], &[]).lengths(&lengths).run(
                    |tape, x, _| tape.pool(&x[0], pooling),
                    |x, _| {
                        let mut y = Vec::new();
                        let mut start = 0;
                        for length in lengths {
                            for c in 0..cols {
                                let column = (start..start + length).map(|r| x[0][r * cols + c]);
                                y.push(match pooling {
                                    Pooling::Mean => column.sum::<f64>() / length as f64,
                                    Pooling::Max => column.fold(f64::NEG_INFINITY, f64::max),
                                });
                            }
                            start += length;
                        }
                        y
                    },
                );
            }
        }
    }
}
