//! Squared distance to the rows of another model: what a student has to learn of its teacher's vectors.
//!
//! Shapes: x `[R, C]` in f32; targets `[R, C]`, which have no gradient. A row t of the targets counts as t / rms(t), its direction at a
//! length of sqrt(C), so that neither a teacher's scale nor single long rows decide; a row of zeros stays.
//! - the sum over all elements of `(x - t / rms(t))^2`; `dx = scale * 2 (x - t / rms(t))`

use crate::cuda;
use crate::dtype::DType;
use crate::loss_sum::LossSum;
use crate::profile::Work;
use crate::tape::{Tape, Value};
use crate::tensor::Tensor;

impl Tape<'_> {
    /// See the module's header. `scale` (coefficient over the global count) only enters the gradient.
    ///
    /// # Panics
    /// When the shapes differ.
    pub fn distance(&mut self, x: &Value, targets: &Tensor, scale: f32) -> LossSum {
        let device = self.device;
        let _timer = device.time(Work::Other);
        let (rows, cols, level) = (x.tensor.rows(), x.tensor.cols(), device.level());
        assert_eq!((targets.rows(), targets.cols()), (rows, cols), "a target for each row");
        let mut gradient = self.uninit(rows, cols, DType::F32);
        let sum = if let Some(cuda) = device.cuda() {
            let outcomes = self.uninit(rows, 2, DType::F32);
            LossSum::pending(cuda::ops::distance::distance(
                cuda, &x.tensor, targets, scale, &gradient, &outcomes,
            ))
        } else {
            let mut scratch = vec![0.0; cols];
            let mut total = 0.0;
            let rows = x.tensor.f32().chunks_exact(cols).zip(gradient.f32_mut().chunks_exact_mut(cols));
            for (r, (x, d)) in rows.enumerate() {
                let target = targets.row(level, r, &mut scratch);
                let squares: f32 = target.iter().map(|t| t * t).sum();
                let shrink = if squares > 0.0 { (cols as f32 / squares).sqrt() } else { 0.0 };
                let mut term = 0.0;
                for ((d, x), t) in d.iter_mut().zip(x).zip(target) {
                    let apart = x - t * shrink;
                    *d = scale * 2.0 * apart;
                    term += apart * apart;
                }
                total += f64::from(term);
            }
            LossSum::of(total, 0)
        };
        self.record_loss(x, gradient);
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{close, shared_gpu};
    use crate::{CodePath, Device, Gradients, Packing, Precision, Weights, rng::Stream};

    fn reference(x: &[f64], targets: &[f32], cols: usize) -> f64 {
        let row = |(x, t): (&[f64], &[f32])| {
            let squares: f64 = t.iter().map(|&t| f64::from(t) * f64::from(t)).sum();
            let rms = (squares / cols as f64).sqrt();
            let apart = |(x, &t): (&f64, &f32)| {
                let t = if rms > 0.0 { f64::from(t) / rms } else { 0.0 };
                (x - t).powi(2)
            };
            x.iter().zip(t).map(apart).sum::<f64>()
        };
        x.chunks(cols).zip(targets.chunks(cols)).map(row).sum()
    }

    #[test]
    fn gradcheck() {
        let mut stream = Stream::new(9);
        for cols in [1, 3, 41, 130] {
            let rows = 7;
            let mut numbers = |factor: f64| -> Vec<f32> {
                (0..rows * cols).map(|_| (factor * stream.normal()) as f32).collect()
            };
            let (x, mut targets) = (numbers(1.0), numbers(30.0));
            targets[..cols].fill(0.0);
            let processor = Device::cpu(None, CodePath::Auto).unwrap();
            for device in [&processor].into_iter().chain(shared_gpu()) {
                let (nothing, packing) = (Weights::new(Vec::new()), Packing::new(&[rows], &[0]));
                let mut gradients = Gradients::new(0);
                let mut tape =
                    Tape::training(device, &nothing, &mut gradients, &packing, Precision::F32, 0, 0);
                let value = tape.leaf(Tensor::from_f32(device.pool(), rows, cols, &x));
                let there = Tensor::from_f32(device.pool(), rows, cols, &targets);
                let mut out = tape.distance(&value, &there, 0.5);
                out.wait();
                let found = tape.backward_from(Vec::new(), None);
                let x64: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
                close(&[out.sum as f32], &[reference(&x64, &targets, cols)], 5e-6, "distance");
                let slope = |i: usize| {
                    let at = |h: f64| {
                        let mut x = x64.clone();
                        x[i] += h;
                        0.5 * reference(&x, &targets, cols)
                    };
                    (at(1e-5) - at(-1e-5)) / 2e-5
                };
                let slopes: Vec<f64> = (0..x.len()).map(slope).collect();
                close(&found[0].as_ref().unwrap().to_f32_vec(), &slopes, 5e-6, "distance gradient");
            }
        }
    }

    #[test]
    fn a_teachers_scale_is_of_no_account() {
        let device = Device::cpu(None, CodePath::Auto).unwrap();
        let (nothing, packing) = (Weights::new(Vec::new()), Packing::new(&[2], &[0]));
        let sum = |factor: f32| {
            let mut tape = Tape::inference(&device, &nothing, &packing, Precision::F32);
            let x = tape.leaf(Tensor::from_f32(device.pool(), 2, 2, &[1.0, -1.0, 0.5, 2.0]));
            let targets = [3.0 * factor, -3.0 * factor, 4.0, -4.0];
            tape.distance(&x, &Tensor::from_f32(device.pool(), 2, 2, &targets), 1.0).sum
        };
        assert!((sum(1.0) - sum(100.0)).abs() < 1e-6);
        assert!((sum(1.0) - (0.25 + 9.0)).abs() < 1e-5, "{}", sum(1.0));
    }
}
