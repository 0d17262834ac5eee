//! Dropout by itself (Srivastava et al. 2014): y = m * x, m the factors 0 or 1 / (1 - p) of each row's key. For what no
//! other op's epilogue can drop: pooled rows, and the input of a single linear.
//!
//! Shapes: x, y `[R, C]`; y in the activation type of the precision (it feeds matmuls). Rows are the packing's tokens, or
//! its sequences: a sequence's key is that of its first token, so it depends on the sequence's number in the global batch
//! alone, and not on how that was cut.
//!
//! Backward: dx = m * dy.

use crate::cuda;
use crate::profile::Work;
use crate::tape::{Dropout, Tape, Value};

/// What the rows of a matrix are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropoutRows {
    /// One for each of the packing's tokens.
    Tokens,
    /// One for each of the packing's sequences.
    Sequences,
}

impl Tape<'_> {
    /// See the module's header. In inference and for p = 0 it is x itself.
    ///
    /// # Panics
    /// When x has other rows.
    pub fn dropout(&mut self, x: &Value, dropout: Dropout, rows: DropoutRows) -> Value {
        let device = self.device;
        let _timer = device.time(Work::Other);
        let expected = match rows {
            DropoutRows::Tokens => self.packing.tokens(),
            DropoutRows::Sequences => self.packing.sequences(),
        };
        assert_eq!(x.tensor.rows(), expected, "dropout of {rows:?}");
        let Some(active) = self.active_dropout_of(rows, Some(dropout)) else { return x.clone() };
        let mut y = self.uninit(expected, x.tensor.cols(), self.precision.activation());
        if let (Some(cuda), Some(drops)) = (device.cuda(), active.on_device()) {
            cuda::ops::dropout::apply(cuda, &x.tensor, drops, &y);
        } else {
            active.mask(device, &x.tensor, &mut y);
        }
        let (id, dtype) = (x.id, x.tensor.dtype());
        self.record(y, id.is_some(), move |back, dy| {
            let device = back.device;
            let _timer = device.time(Work::Other);
            let mut dx = back.uninit(dy.rows(), dy.cols(), dtype);
            if let (Some(cuda), Some(drops)) = (device.cuda(), active.on_device()) {
                cuda::ops::dropout::apply(cuda, &dy, drops, &dx);
            } else {
                active.mask(device, &dy, &mut dx);
            }
            back.add(id, dx);
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{DropRate, dropout_factor, row_key, site_key};
    use crate::testing::{Gradcheck, ODD_SIZES, SEED, STEP, shared_gpu};
    use crate::{CodePath, Device, Gradients, Packing, Precision, Tensor, Weights};
    use std::num::NonZeroUsize;

    /// x times the factors of rows with these (sequence, position).
    fn reference(x: &[f64], names: &[(u64, u64)], dropout: Dropout) -> Vec<f64> {
        let cols = x.len() / names.len();
        let factor = |i: usize| {
            let (sequence, position) = names[i / cols];
            let key = site_key(row_key(SEED, STEP, sequence, position), dropout.site);
            f64::from(dropout_factor(key, i % cols, DropRate::new(dropout.p)))
        };
        x.iter().enumerate().map(|(i, x)| x * factor(i)).collect()
    }

    #[test]
    fn gradcheck() {
        let dropout = Dropout { p: 0.3, site: 6 };
        for cols in ODD_SIZES {
            let tokens = [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (2, 1)];
            Gradcheck::new("dropout", &[("x", 6, cols)], &[]).lengths(&[3, 1, 2]).run(
                |tape, x, _| tape.dropout(&x[0], dropout, DropoutRows::Tokens),
                |x, _| reference(&x[0], &tokens, dropout),
            );
            let sequences: Vec<_> = (0..35).map(|sequence| (sequence, 0)).collect();
            Gradcheck::new("dropout", &[("x", 35, cols)], &[]).lengths(&[2; 35]).run(
                |tape, x, _| tape.dropout(&x[0], dropout, DropoutRows::Sequences),
                |x, _| reference(&x[0], &sequences, dropout),
            );
        }
    }

    #[test]
    fn what_is_not_dropped_is_passed_on() {
        Gradcheck::new("dropout", &[("x", 5, 7)], &[]).run(
            |tape, x, _| {
                let y = tape.dropout(&x[0], Dropout { p: 0.0, site: 6 }, DropoutRows::Tokens);
                assert_eq!(tape.recorded(), 0);
                tape.dropout(&y, Dropout { p: 0.5, site: 6 }, DropoutRows::Tokens)
            },
            |x, _| {
                let tokens: Vec<_> = (0..5).map(|position| (0, position)).collect();
                reference(&x[0], &tokens, Dropout { p: 0.5, site: 6 })
            },
        );
    }

    /// Four sequences at once, or two and two under their numbers in the global batch: the same rows are the same.
    #[test]
    fn how_a_batch_is_cut_changes_no_bit() {
        let (lengths, cols) = ([4, 1, 3, 2], 37);
        let processor = Device::cpu(NonZeroUsize::new(1), CodePath::Auto).unwrap();
        for device in [&processor].into_iter().chain(shared_gpu()) {
            let run = |sequences: std::ops::Range<usize>| -> Vec<f32> {
                let ids: Vec<u64> = sequences.clone().map(|sequence| sequence as u64).collect();
                let packing = Packing::new(&lengths[sequences.clone()], &ids);
                let (weights, mut gradients) = (Weights::new(Vec::new()), Gradients::new(0));
                let mut tape =
                    Tape::training(device, &weights, &mut gradients, &packing, Precision::F32, SEED, STEP);
                let ones = vec![1.0; sequences.len() * cols];
                let x = tape.leaf(Tensor::from_f32(device.pool(), sequences.len(), cols, &ones));
                let y = tape.dropout(&x, Dropout { p: 0.5, site: 2 }, DropoutRows::Sequences);
                y.tensor().to_f32_vec()
            };
            let whole = run(0..4);
            assert_eq!(whole, [run(0..2), run(2..4)].concat());
            assert_ne!(whole[..cols], whole[cols..2 * cols]);
        }
    }
}
