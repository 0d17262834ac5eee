//! Softmax cross-entropy against another model's probabilities (Hinton et al. 2015): what a student has to learn of its teacher's answers.
//!
//! Shapes: z `[B, K]` in f32; targets t `[B, K]`, the teacher's logits in f32, which have no gradient. T is the temperature.
//! - the sum over rows of `T^2 * sum_k p_k (log p_k - log q_k)` with p = softmax(t / T), q = softmax(z / T): the divergence of the
//!   student's from the teacher's, 0 where they agree; `dz = scale * T (q - p)`

use crate::cuda;
use crate::dtype::DType;
use crate::loss_sum::LossSum;
use crate::ops::loss::best_class;
use crate::profile::Work;
use crate::tape::{Tape, Value};
use crate::tensor::Tensor;

impl Tape<'_> {
    /// See the module's header. `scale` (coefficient over the global count) only enters the gradient; correct are rows whose best class
    /// is the teacher's.
    ///
    /// # Panics
    /// When the shapes differ.
    pub fn soft_labels(&mut self, logits: &Value, targets: &Tensor, temperature: f32, scale: f32) -> LossSum {
        let device = self.device;
        let _timer = device.time(Work::Other);
        let (rows, classes) = (logits.tensor.rows(), logits.tensor.cols());
        assert_eq!((targets.rows(), targets.cols()), (rows, classes), "an answer for each row");
        let mut gradient = self.uninit(rows, classes, DType::F32);
        let sum = if let Some(cuda) = device.cuda() {
            let outcomes = self.uninit(rows, 2, DType::F32);
            let numbers = [temperature, scale];
            LossSum::pending(cuda::ops::soft_labels::soft_labels(
                cuda,
                &logits.tensor,
                targets,
                numbers,
                &gradient,
                &outcomes,
            ))
        } else {
            let mut total = LossSum::default();
            let rows = logits.tensor.f32().chunks_exact(classes).zip(targets.f32().chunks_exact(classes));
            for ((z, t), d) in rows.zip(gradient.f32_mut().chunks_exact_mut(classes)) {
                let (z_all, t_all) = (log_of_sum(z, temperature), log_of_sum(t, temperature));
                let mut term = 0.0;
                for ((d, z), t) in d.iter_mut().zip(z).zip(t) {
                    let (log_q, log_p) = (z / temperature - z_all, t / temperature - t_all);
                    let p = log_p.exp();
                    *d = scale * temperature * (log_q.exp() - p);
                    term += p * (log_p - log_q);
                }
                total.sum += f64::from(temperature * temperature * term);
                total.correct += u64::from(best_class(z) == best_class(t));
            }
            total
        };
        self.record_loss(logits, gradient);
        sum
    }
}

/// The logarithm of the sum of the exponentials of a row over the temperature.
fn log_of_sum(row: &[f32], temperature: f32) -> f32 {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max) / temperature;
    let sum: f32 = row.iter().map(|z| (z / temperature - largest).exp()).sum();
    sum.ln() + largest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{close, shared_gpu};
    use crate::{CodePath, Device, Gradients, Packing, Precision, Weights, rng::Stream};

    fn reference(z: &[f64], t: &[f32], classes: usize, temperature: f64) -> f64 {
        let log_softmax = |row: Vec<f64>| -> Vec<f64> {
            let all = row.iter().map(|z| z.exp()).sum::<f64>().ln();
            row.into_iter().map(|z| z - all).collect()
        };
        let row = |(z, t): (&[f64], &[f32])| -> f64 {
            let q = log_softmax(z.iter().map(|z| z / temperature).collect());
            let p = log_softmax(t.iter().map(|&t| f64::from(t) / temperature).collect());
            p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>()
        };
        temperature * temperature * z.chunks(classes).zip(t.chunks(classes)).map(row).sum::<f64>()
    }

    #[test]
    fn gradcheck() {
        let mut stream = Stream::new(6);
        for (classes, temperature) in [(2, 1.0), (3, 2.0), (41, 0.5), (6, 4.0)] {
            let rows = 7;
            let mut numbers =
                || -> Vec<f32> { (0..rows * classes).map(|_| 2.0 * stream.normal() as f32).collect() };
            let (z, t) = (numbers(), numbers());
            let processor = Device::cpu(None, CodePath::Auto).unwrap();
            for device in [&processor].into_iter().chain(shared_gpu()) {
                let (nothing, packing) = (Weights::new(Vec::new()), Packing::new(&[rows], &[0]));
                let mut gradients = Gradients::new(0);
                let mut tape =
                    Tape::training(device, &nothing, &mut gradients, &packing, Precision::F32, 0, 0);
                let logits = tape.leaf(Tensor::from_f32(device.pool(), rows, classes, &z));
                let there = Tensor::from_f32(device.pool(), rows, classes, &t);
                let mut out = tape.soft_labels(&logits, &there, temperature, 0.5);
                out.wait();
                let agreed =
                    z.chunks(classes).zip(t.chunks(classes)).filter(|(z, t)| best_class(z) == best_class(t));
                assert_eq!(out.correct, agreed.count() as u64);
                let found = tape.backward_from(Vec::new(), None);
                let z64: Vec<f64> = z.iter().map(|&z| f64::from(z)).collect();
                let exact = |z: &[f64]| reference(z, &t, classes, f64::from(temperature));
                close(&[out.sum as f32], &[exact(&z64)], 5e-6, "soft labels");
                let slope = |i: usize| {
                    let at = |h: f64| {
                        let mut z = z64.clone();
                        z[i] += h;
                        0.5 * exact(&z)
                    };
                    (at(1e-5) - at(-1e-5)) / 2e-5
                };
                let slopes: Vec<f64> = (0..z.len()).map(slope).collect();
                close(&found[0].as_ref().unwrap().to_f32_vec(), &slopes, 5e-6, "soft labels' gradient");
            }
        }
    }
}
