//! The cosine of pairs of rows: of the first and the second, of the third and the fourth, and so on.
//!
//! Shapes: x `[2 P, C]`, y `[P, 1]` in f32: `y = a b / (|a| |b|)`, with lengths of at least `SHORTEST` (PyTorch's `cosine_similarity`).
//! Backward: `da = dy (b / (|a| |b|) - y a / |a|^2)`, and the same for b; the second term is 0 where a is shorter.

use crate::cuda;
use crate::dtype::DType;
use crate::profile::Work;
use crate::tape::{Tape, Value};
use crate::tensor::Tensor;

/// The least length that a row counts as having: `SHORTEST` in `cosine.cu`.
const SHORTEST: f64 = 1e-8;

impl Tape<'_> {
    /// See the module's header.
    ///
    /// # Panics
    /// When the number of rows is odd.
    pub fn cosine_of_pairs(&mut self, x: &Value) -> Value {
        let device = self.device;
        let _timer = device.time(Work::Other);
        let (rows, level) = (x.tensor.rows(), device.level());
        assert!(rows.is_multiple_of(2), "{rows} rows are no pairs");
        let mut y = self.uninit(rows / 2, 1, DType::F32);
        if let Some(cuda) = device.cuda() {
            cuda::ops::cosine::forward(cuda, &x.tensor, &y);
        } else {
            let (mut first, mut second) = (vec![0.0; x.tensor.cols()], vec![0.0; x.tensor.cols()]);
            for (pair, y) in y.f32_mut().iter_mut().enumerate() {
                let a = x.tensor.row(level, 2 * pair, &mut first);
                let b = x.tensor.row(level, 2 * pair + 1, &mut second);
                *y = (dot(a, b) / (length(a) * length(b))) as f32;
            }
        }
        let x = x.clone();
        self.record(y, x.id.is_some(), move |back, dy| {
            let device = back.device;
            let _timer = device.time(Work::Other);
            let (rows, cols) = (x.tensor.rows(), x.tensor.cols());
            let mut dx = Tensor::zeros(device.pool(), rows, cols, DType::F32);
            if let Some(cuda) = device.cuda() {
                cuda::ops::cosine::backward(cuda, &x.tensor, &dy, &dx);
            } else {
                let (mut first, mut second) = (vec![0.0; cols], vec![0.0; cols]);
                let mut slope = [0.0];
                for (pair, dx) in dx.f32_mut().chunks_exact_mut(2 * cols).enumerate() {
                    let a = x.tensor.row(device.level(), 2 * pair, &mut first);
                    let b = x.tensor.row(device.level(), 2 * pair + 1, &mut second);
                    let dy = f64::from(dy.row(device.level(), pair, &mut slope)[0]);
                    let (da, db) = dx.split_at_mut(cols);
                    gradient(a, b, dy, da);
                    gradient(b, a, dy, db);
                }
            }
            back.add(x.id, dx);
        })
    }
}

/// The gradient of the first of two rows.
fn gradient(a: &[f32], b: &[f32], dy: f64, da: &mut [f32]) {
    let (of_a, of_b) = (length(a), length(b));
    let across = dy / (of_a * of_b);
    let along = if of_a > SHORTEST { across * dot(a, b) / (of_a * of_a) } else { 0.0 };
    for ((da, a), b) in da.iter_mut().zip(a).zip(b) {
        *da = (across * f64::from(*b) - along * f64::from(*a)) as f32;
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn length(a: &[f32]) -> f64 {
    dot(a, a).sqrt().max(SHORTEST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Gradcheck, ODD_SIZES};

    #[test]
    fn gradcheck() {
        // Of single numbers the cosine is 1 or -1, which no number changes.
        for cols in ODD_SIZES.into_iter().filter(|cols| *cols > 1) {
            Gradcheck::new("cosine", &[("x", 6, cols)], &[]).run(
                |tape, x, _| tape.cosine_of_pairs(&x[0]),
                |x, _| {
                    let pairs = x[0].chunks_exact(2 * cols).map(|pair| pair.split_at(cols));
                    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
                    pairs.map(|(a, b)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()).collect()
                },
            );
        }
    }

    #[test]
    fn rows_of_zeros_are_like_nothing_and_have_no_infinite_slope() {
        let mut da = [1.0, 1.0];
        gradient(&[0.0, 0.0], &[3.0, 4.0], 0.0, &mut da);
        assert_eq!(da.map(f32::to_bits), [0; 2]);
        gradient(&[0.0, 0.0], &[3.0, 4.0], 1e-8, &mut da);
        assert!((da[0] - 0.6).abs() < 1e-6 && (da[1] - 0.8).abs() < 1e-6, "{da:?}");
    }
}
