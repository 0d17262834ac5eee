//! How far two passes over the same sequences, with other dropout, are from each other (R-Drop, Liang et al. 2021).
//!
//! Logits `[2B, K]` in f32: row r and row B + r are of one sequence. With p and q their softmaxes the term of a pair is
//! `weight (KL(p|q) + KL(q|p)) / 2 = weight / 2 sum over c of (p - q)(log p - log q)`; with d = log p - log q
//! `dz = scale weight / 2 (p (d - KL(p|q)) + p - q)`, and for the other row with p and q exchanged. `scale` only enters the
//! gradient.

use crate::cuda;
use crate::dtype::DType;
use crate::loss_sum::LossSum;
use crate::profile::Work;
use crate::tape::{Tape, Value};

impl Tape<'_> {
    /// See the module's header.
    ///
    /// # Panics
    /// When the number of rows is odd.
    pub fn agreement(&mut self, logits: &Value, weight: f32, scale: f32) -> LossSum {
        let device = self.device;
        let _timer = device.time(Work::Other);
        let (rows, classes) = (logits.tensor.rows(), logits.tensor.cols());
        assert!(rows.is_multiple_of(2), "{rows} rows are no pairs");
        let pairs = rows / 2;
        let mut gradient = self.uninit(rows, classes, DType::F32);
        if let Some(cuda) = device.cuda() {
            let outcomes = self.uninit(pairs, 2, DType::F32);
            cuda::ops::loss::agreement(cuda, &logits.tensor, [weight, scale], &gradient, &outcomes);
            let sums = cuda::ops::loss::sum_outcomes(cuda, &outcomes);
            self.record_loss(logits, gradient);
            return LossSum::pending(sums);
        }
        let z = logits.tensor.f32();
        let (first, second) = gradient.f32_mut().split_at_mut(pairs * classes);
        let mut total = LossSum::default();
        for r in 0..pairs {
            let own = r * classes..(r + 1) * classes;
            let [p, q] = [r, pairs + r].map(|row| log_softmax(&z[row * classes..(row + 1) * classes]));
            let divergence = |of: &[f32], from: &[f32]| -> f32 {
                of.iter().zip(from).map(|(of, from)| of.exp() * (of - from)).sum()
            };
            let (forward, back) = (divergence(&p, &q), divergence(&q, &p));
            let half = 0.5 * scale * weight;
            for (c, (dp, dq)) in first[own.clone()].iter_mut().zip(&mut second[own]).enumerate() {
                let (d, ep, eq) = (p[c] - q[c], p[c].exp(), q[c].exp());
                *dp = half * (ep * (d - forward) + ep - eq);
                *dq = half * (eq * (-d - back) + eq - ep);
            }
            total.sum += f64::from(0.5 * weight * (forward + back));
        }
        self.record_loss(logits, gradient);
        total
    }
}

fn log_softmax(row: &[f32]) -> Vec<f32> {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let log_sum = row.iter().map(|z| (z - largest).exp()).sum::<f32>().ln() + largest;
    row.iter().map(|z| z - log_sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::loss::Targets;
    use crate::tensor::Tensor;
    use crate::testing::{close, shared_gpu};
    use crate::{CodePath, Device, Gradients, Packing, Precision, Weights, rng::Stream};

    /// The plain reference.
    fn reference(z: &[f64], classes: usize) -> f64 {
        let softmax = |row: &[f64]| {
            let sum: f64 = row.iter().map(|z| z.exp()).sum();
            row.iter().map(|z| z.exp() / sum).collect::<Vec<_>>()
        };
        let (first, second) = z.split_at(z.len() / 2);
        let pair = |(a, b): (&[f64], &[f64])| -> f64 {
            let (p, q) = (softmax(a), softmax(b));
            p.iter().zip(&q).map(|(p, q)| 0.5 * (p * (p / q).ln() + q * (q / p).ln())).sum()
        };
        first.chunks(classes).zip(second.chunks(classes)).map(pair).sum()
    }

    #[test]
    fn gradcheck() {
        let mut stream = Stream::new(9);
        for classes in [2, 6, 41] {
            let rows = 10;
            let z: Vec<f32> = (0..rows * classes).map(|_| stream.normal() as f32).collect();
            let z64: Vec<f64> = z.iter().map(|&z| f64::from(z)).collect();
            let slope = |i: usize| {
                let at = |h: f64| {
                    let mut z = z64.clone();
                    z[i] += h;
                    0.5 * 3.0 * reference(&z, classes)
                };
                (at(1e-5) - at(-1e-5)) / 2e-5
            };
            let slopes: Vec<f64> = (0..z.len()).map(slope).collect();
            let processor = Device::cpu(None, CodePath::Auto).unwrap();
            for device in [&processor].into_iter().chain(shared_gpu()) {
                let (nothing, packing) = (Weights::new(Vec::new()), Packing::new(&[rows], &[0]));
                let mut gradients = Gradients::new(0);
                let run = |gradients: &mut Gradients, with_loss: bool| {
                    let mut tape =
                        Tape::training(device, &nothing, gradients, &packing, Precision::F32, 0, 0);
                    let logits = tape.leaf(Tensor::from_f32(device.pool(), rows, classes, &z));
                    if with_loss {
                        tape.loss(&logits, Targets::Classes(&vec![1; rows], None), 1.0);
                    }
                    let mut out = tape.agreement(&logits, 3.0, 0.5);
                    out.wait();
                    (out.sum, tape.backward_from(Vec::new(), None)[0].as_ref().unwrap().to_f32_vec())
                };
                let (sum, found) = run(&mut gradients, false);
                close(&[sum as f32], &[3.0 * reference(&z64, classes)], 5e-6, "agreement");
                close(&found, &slopes, 5e-6, "agreement gradient");
                // Beside another loss of the same logits the gradients add up.
                let (_, both) = run(&mut gradients, true);
                let mut tape =
                    Tape::training(device, &nothing, &mut gradients, &packing, Precision::F32, 0, 0);
                let logits = tape.leaf(Tensor::from_f32(device.pool(), rows, classes, &z));
                tape.loss(&logits, Targets::Classes(&vec![1; rows], None), 1.0);
                let alone = tape.backward_from(Vec::new(), None)[0].as_ref().unwrap().to_f32_vec();
                let sums: Vec<f64> =
                    found.iter().zip(&alone).map(|(a, b)| f64::from(*a) + f64::from(*b)).collect();
                close(&both, &sums, 1e-6, "two losses");
            }
        }
    }
}
