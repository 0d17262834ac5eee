//! Losses on small logits: softmax cross-entropy, binary cross-entropy per class, squared error.
//!
//! Shapes: logits `[B, K]` in f32. Each returns the sum of its terms; `scale` (coefficient over the global count)
//! only enters the gradient.
//! - classes: `-w[t] log softmax(z)[t]`, `dz = scale * w[t] * (softmax(z) - onehot(t))`
//! - multi-label: sum over k of `softplus(z) - t z`, `dz = scale * (sigmoid(z) - t)`
//! - regression: sum over k of `(z - t)^2`, `dz = scale * 2 (z - t)`

use crate::cuda::{self, Context, DeviceBuffer};
use crate::dtype::DType;
use crate::loss_sum::LossSum;
use crate::profile::Work;
use crate::tape::{Tape, Value};
use crate::tensor::Tensor;

/// What the logits are compared with.
#[derive(Clone, Copy, Debug)]
pub enum Targets<'a> {
    /// One class per row, with a weight per class where given.
    Classes(&'a [u32], Option<&'a [f32]>),
    /// B x K zeros and ones.
    MultiLabel(&'a [f32]),
    /// B x K numbers.
    Regression(&'a [f32]),
}

impl Tape<'_> {
    /// See the module's header.
    ///
    /// # Panics
    /// When the number of targets does not fit, or a class is out of range.
    pub fn loss(&mut self, logits: &Value, targets: Targets<'_>, scale: f32) -> LossSum {
        let device = self.device;
        let _timer = device.time(Work::Other);
        let (rows, classes) = (logits.tensor.rows(), logits.tensor.cols());
        let mut gradient = self.uninit(rows, classes, DType::F32);
        if let Some(cuda) = device.cuda() {
            let terms = if let Targets::Classes(..) = targets { rows } else { rows * classes };
            let outcomes = self.uninit(terms, 2, DType::F32);
            let sums = loss_on_gpu(cuda, &logits.tensor, targets, scale, &gradient, &outcomes);
            self.record_loss(logits, gradient);
            return LossSum::pending(sums);
        }
        let z = logits.tensor.f32();
        let d = gradient.f32_mut();
        let mut total = LossSum::default();
        match targets {
            Targets::Classes(targets, weights) => {
                assert_eq!(targets.len(), rows);
                for (r, &target) in targets.iter().enumerate() {
                    let target = target as usize;
                    let weight = weights.map_or(1.0, |w| w[target]);
                    let row = &z[r * classes..(r + 1) * classes];
                    let d = &mut d[r * classes..(r + 1) * classes];
                    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    let sum: f32 = row.iter().map(|z| (z - largest).exp()).sum();
                    for (d, z) in d.iter_mut().zip(row) {
                        *d = scale * weight * (z - largest).exp() / sum;
                    }
                    d[target] -= scale * weight;
                    total.sum += f64::from(weight * (sum.ln() + largest - row[target]));
                    total.correct += u64::from(best_class(row) == target);
                }
            }
            Targets::MultiLabel(targets) => {
                assert_eq!(targets.len(), z.len());
                for ((d, &z), &t) in d.iter_mut().zip(z).zip(targets) {
                    *d = scale * (1.0 / (1.0 + (-z).exp()) - t);
                    total.sum += f64::from(z.max(0.0) - z * t + (-z.abs()).exp().ln_1p());
                    total.correct += u64::from((z > 0.0) == (t > 0.5));
                }
            }
            Targets::Regression(targets) => {
                assert_eq!(targets.len(), z.len());
                for ((d, &z), &t) in d.iter_mut().zip(z).zip(targets) {
                    *d = scale * 2.0 * (z - t);
                    total.sum += f64::from((z - t) * (z - t));
                }
            }
        }
        self.record_loss(logits, gradient);
        total
    }

    fn record_loss(&mut self, logits: &Value, gradient: Tensor) {
        if self.is_training() && logits.id.is_some() {
            let id = logits.id;
            self.record_root(move |back| {
                let device = back.device;
                let _timer = device.time(Work::Other);
                back.add(id, gradient);
            });
        }
    }
}

/// Fills the gradient; the loss and the number of correct terms, as two f64.
fn loss_on_gpu(
    cuda: &Context,
    logits: &Tensor,
    targets: Targets<'_>,
    scale: f32,
    gradient: &Tensor,
    outcomes: &Tensor,
) -> DeviceBuffer {
    use cuda::ops::loss;
    let (rows, classes) = (logits.rows(), logits.cols());
    match targets {
        Targets::Classes(targets, weights) => {
            assert!(targets.len() == rows && targets.iter().all(|&t| (t as usize) < classes));
            loss::classes(cuda, logits, targets, weights, scale, gradient, outcomes);
        }
        Targets::MultiLabel(targets) => loss::multi_label(cuda, logits, targets, scale, gradient, outcomes),
        Targets::Regression(targets) => loss::regression(cuda, logits, targets, scale, gradient, outcomes),
    }
    loss::sum_outcomes(cuda, outcomes)
}

/// The index of the largest value, the first among equals.
pub fn best_class(row: &[f32]) -> usize {
    row.iter().enumerate().fold(0, |best, (i, &z)| if z > row[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{close, shared_gpu};
    use crate::{CodePath, Device, Gradients, Packing, Precision, Weights, rng::Stream};

    /// The plain reference.
    fn reference(z: &[f64], classes: usize, targets: Targets<'_>) -> f64 {
        let per_row = |r: usize| &z[r * classes..(r + 1) * classes];
        match targets {
            Targets::Classes(t, w) => (0..t.len())
                .map(|r| {
                    let row = per_row(r);
                    let nll = row.iter().map(|z| z.exp()).sum::<f64>().ln() - row[t[r] as usize];
                    nll * w.map_or(1.0, |w| f64::from(w[t[r] as usize]))
                })
                .sum(),
            Targets::MultiLabel(t) => {
                z.iter().zip(t).map(|(z, &t)| (1.0 + z.exp()).ln() - z * f64::from(t)).sum()
            }
            Targets::Regression(t) => z.iter().zip(t).map(|(z, &t)| (z - f64::from(t)).powi(2)).sum(),
        }
    }

    #[test]
    fn gradcheck() {
        let mut stream = Stream::new(5);
        for classes in [2, 3, 6, 41] {
            let rows = 7;
            let z: Vec<f32> = (0..rows * classes).map(|_| 2.0 * stream.normal() as f32).collect();
            let ids: Vec<u32> = (0..rows).map(|r| (r * 5 % classes) as u32).collect();
            let weights: Vec<f32> = (0..classes).map(|c| 0.5 + c as f32).collect();
            let labels: Vec<f32> = (0..z.len()).map(|i| f32::from(u8::from(i % 3 == 0))).collect();
            let numbers: Vec<f32> = (0..z.len()).map(|_| stream.normal() as f32).collect();
            for targets in [
                Targets::Classes(&ids, None),
                Targets::Classes(&ids, Some(&weights)),
                Targets::MultiLabel(&labels),
                Targets::Regression(&numbers),
            ] {
                let processor = Device::cpu(None, CodePath::Auto).unwrap();
                for device in [&processor].into_iter().chain(shared_gpu()) {
                    let (nothing, packing) = (Weights::new(Vec::new()), Packing::new(&[rows], &[0]));
                    let mut gradients = Gradients::new(0);
                    let mut tape =
                        Tape::training(device, &nothing, &mut gradients, &packing, Precision::F32, 0, 0);
                    let logits = tape.leaf(Tensor::from_f32(device.pool(), rows, classes, &z));
                    let mut out = tape.loss(&logits, targets, 0.5);
                    out.wait();
                    let found = tape.backward_from(Vec::new(), None);
                    let z64: Vec<f64> = z.iter().map(|&z| f64::from(z)).collect();
                    close(&[out.sum as f32], &[reference(&z64, classes, targets)], 5e-6, "loss");
                    let slope = |i: usize| {
                        let at = |h: f64| {
                            let mut z = z64.clone();
                            z[i] += h;
                            0.5 * reference(&z, classes, targets)
                        };
                        (at(1e-5) - at(-1e-5)) / 2e-5
                    };
                    let slopes: Vec<f64> = (0..z.len()).map(slope).collect();
                    close(&found[0].as_ref().unwrap().to_f32_vec(), &slopes, 5e-6, "loss gradient");
                }
            }
        }
    }
}
