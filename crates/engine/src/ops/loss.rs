//! Losses on small logits: softmax cross-entropy, binary cross-entropy per class, squared error.
//!
//! Shapes: logits `[B, K]` in f32. Each returns the sum of its terms; `scale` (coefficient over the global count)
//! only enters the gradient.
//! - classes: `-w[t] log softmax(z)[t]`, `dz = scale * w[t] * (softmax(z) - onehot(t))`
//! - smoothed classes (Szegedy et al. 2016, as PyTorch weighs them): `-sum over c of a[c] log softmax(z)[c]` with
//!   `a = (1 - e) w[t] onehot(t) + e / K w`, `dz = scale * (sum(a) softmax(z) - a)`
//! - focal (Lin et al. 2017, over a softmax): with `p = softmax(z)[t]` and `q = 1 - p` `-w[t] q^g log p`,
//!   `dz = scale * w[t] (q^g - g p q^(g - 1) log p) (softmax(z) - onehot(t))`
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
    /// The same, with this share of each target spread evenly over all classes.
    Smoothed(&'a [u32], Option<&'a [f32]>, f32),
    /// The same, where this power of what a class lacks of certainty weighs its term.
    Focal(&'a [u32], Option<&'a [f32]>, f32),
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
            let terms = match targets {
                Targets::Classes(..) | Targets::Smoothed(..) | Targets::Focal(..) => rows,
                Targets::MultiLabel(_) | Targets::Regression(_) => rows * classes,
            };
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
            Targets::Smoothed(targets, weights, share) => {
                assert_eq!(targets.len(), rows);
                for (r, &target) in targets.iter().enumerate() {
                    let (row, d) =
                        (&z[r * classes..(r + 1) * classes], &mut d[r * classes..(r + 1) * classes]);
                    total.sum += smoothed(row, target as usize, weights, share, scale, d);
                    total.correct += u64::from(best_class(row) == target as usize);
                }
            }
            Targets::Focal(targets, weights, gamma) => {
                assert_eq!(targets.len(), rows);
                for (r, &target) in targets.iter().enumerate() {
                    let (row, d) =
                        (&z[r * classes..(r + 1) * classes], &mut d[r * classes..(r + 1) * classes]);
                    let weight = weights.map_or(1.0, |w| w[target as usize]);
                    total.sum += focal(row, target as usize, weight, gamma, scale, d);
                    total.correct += u64::from(best_class(row) == target as usize);
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

    pub(super) fn record_loss(&mut self, logits: &Value, gradient: Tensor) {
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

/// The term of a row with a smoothed target; fills its gradient.
fn smoothed(
    row: &[f32],
    target: usize,
    weights: Option<&[f32]>,
    share: f32,
    scale: f32,
    gradient: &mut [f32],
) -> f64 {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = row.iter().map(|z| (z - largest).exp()).sum();
    let log_sum = sum.ln() + largest;
    let each = share / row.len() as f32;
    let weight = |class: usize| weights.map_or(1.0, |w| w[class]);
    let wanted = |class: usize| {
        let own = if class == target { (1.0 - share) * weight(class) } else { 0.0 };
        own + each * weight(class)
    };
    let all: f32 = (0..row.len()).map(wanted).sum();
    let mut term = 0.0;
    for (class, (d, &z)) in gradient.iter_mut().zip(row).enumerate() {
        *d = scale * (all * (z - largest).exp() / sum - wanted(class));
        term += wanted(class) * (log_sum - z);
    }
    f64::from(term)
}

/// The focal term of a row; fills its gradient.
fn focal(row: &[f32], target: usize, weight: f32, gamma: f32, scale: f32, gradient: &mut [f32]) -> f64 {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exp = |z: f32| (z - largest).exp();
    let sum: f32 = row.iter().map(|&z| exp(z)).sum();
    // Not 1 - p, which is 0 long before the others are.
    let others: f32 = row.iter().enumerate().filter(|(c, _)| *c != target).map(|(_, &z)| exp(z)).sum();
    let (p, lacking) = (exp(row[target]) / sum, others / sum);
    let log_p = row[target] - largest - sum.ln();
    let power = lacking.powf(gamma);
    // Where next to nothing is lacking there is no slope, whatever the power.
    let slope = if lacking > 1e-30 { power - gamma * p * (power / lacking) * log_p } else { 0.0 };
    for (class, (d, &z)) in gradient.iter_mut().zip(row).enumerate() {
        *d = scale * weight * slope * (exp(z) / sum);
        if class == target {
            *d = -scale * weight * slope * lacking;
        }
    }
    f64::from(-weight * power * log_p)
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
        Targets::Smoothed(targets, weights, share) => {
            assert!(targets.len() == rows && targets.iter().all(|&t| (t as usize) < classes));
            loss::smoothed(cuda, logits, targets, weights, [share, scale], gradient, outcomes);
        }
        Targets::Focal(targets, weights, gamma) => {
            assert!(targets.len() == rows && targets.iter().all(|&t| (t as usize) < classes));
            loss::focal(cuda, logits, targets, weights, [gamma, scale], gradient, outcomes);
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
            Targets::Smoothed(t, w, share) => {
                let weight = |c: usize| w.map_or(1.0, |w| f64::from(w[c]));
                let row = |r: usize| {
                    let row = per_row(r);
                    let log_sum = row.iter().map(|z| z.exp()).sum::<f64>().ln();
                    let nll = |c: usize| weight(c) * (log_sum - row[c]);
                    let share = f64::from(share);
                    let mean = (0..classes).map(nll).sum::<f64>() / classes as f64;
                    (1.0 - share) * nll(t[r] as usize) + share * mean
                };
                (0..t.len()).map(row).sum()
            }
            Targets::Focal(t, w, gamma) => {
                let row = |r: usize| {
                    let (row, target) = (per_row(r), t[r] as usize);
                    let log_p = row[target] - row.iter().map(|z| z.exp()).sum::<f64>().ln();
                    let weight = w.map_or(1.0, |w| f64::from(w[target]));
                    -weight * (1.0 - log_p.exp()).powf(f64::from(gamma)) * log_p
                };
                (0..t.len()).map(row).sum()
            }
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
                Targets::Smoothed(&ids, None, 0.1),
                Targets::Smoothed(&ids, Some(&weights), 0.3),
                Targets::Focal(&ids, None, 2.0),
                Targets::Focal(&ids, Some(&weights), 0.5),
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

    fn loss_and_gradient(
        device: &Device,
        z: &[f32],
        classes: usize,
        targets: Targets<'_>,
    ) -> (f64, Vec<f32>) {
        let rows = z.len() / classes;
        let (nothing, packing) = (Weights::new(Vec::new()), Packing::new(&[rows], &[0]));
        let mut gradients = Gradients::new(0);
        let mut tape = Tape::training(device, &nothing, &mut gradients, &packing, Precision::F32, 0, 0);
        let logits = tape.leaf(Tensor::from_f32(device.pool(), rows, classes, z));
        let mut out = tape.loss(&logits, targets, 1.0);
        out.wait();
        (out.sum, tape.backward_from(Vec::new(), None)[0].as_ref().unwrap().to_f32_vec())
    }

    #[test]
    fn what_is_certain_has_a_finite_focal_loss_and_no_slope() {
        let processor = Device::cpu(None, CodePath::Auto).unwrap();
        for device in [&processor].into_iter().chain(shared_gpu()) {
            for gamma in [0.0, 0.5, 2.0] {
                let (sum, d) = loss_and_gradient(device, &[200.0, 0.0], 2, Targets::Focal(&[0], None, gamma));
                assert!(sum.abs() < 1e-30 && d.iter().all(|d| d.abs() < 1e-30), "{gamma}: {sum} {d:?}");
                let (sum, d) = loss_and_gradient(device, &[200.0, 0.0], 2, Targets::Focal(&[1], None, gamma));
                close(&[sum as f32], &[200.0], 1e-5, "wrong for certain");
                close(&d, &[1.0, -1.0], 1e-5, "its slope");
            }
        }
    }

    #[test]
    fn no_smoothing_and_no_focus_are_cross_entropy() {
        let processor = Device::cpu(None, CodePath::Auto).unwrap();
        let z = [0.5, -1.0, 2.0, 1.0, 1.5, -0.3];
        let weights = [0.5, 1.0, 2.0];
        for device in [&processor].into_iter().chain(shared_gpu()) {
            let of = |targets| loss_and_gradient(device, &z, 3, targets);
            let plain = of(Targets::Classes(&[2, 0], Some(&weights)));
            let exact: Vec<f64> = plain.1.iter().map(|&d| f64::from(d)).collect();
            for (sum, d) in [
                of(Targets::Smoothed(&[2, 0], Some(&weights), 0.0)),
                of(Targets::Focal(&[2, 0], Some(&weights), 0.0)),
            ] {
                close(&[sum as f32], &[plain.0], 1e-6, "loss");
                close(&d, &exact, 1e-6, "gradient");
            }
        }
    }

    /// Of tools/losses.py; docs/goldens.md.
    #[test]
    fn smoothed_and_focal_losses_are_pytorchs() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/losses.txt");
        let golden = std::fs::read_to_string(path).unwrap();
        let lines: Vec<&str> = golden.lines().collect();
        assert_eq!(lines.len(), 12 * 6);
        let processor = Device::cpu(None, CodePath::Auto).unwrap();
        for case in lines.chunks(6) {
            let numbers =
                |i: usize| case[i].split(' ').filter_map(|n| n.parse::<f64>().ok()).collect::<Vec<_>>();
            let floats = |i: usize| numbers(i).into_iter().map(|n| n as f32).collect::<Vec<_>>();
            let (number, classes) = (numbers(0)[0] as f32, numbers(0)[1] as usize);
            let (z, weights) = (floats(1), Some(floats(3)).filter(|weights| !weights.is_empty()));
            let ids: Vec<u32> = numbers(2).into_iter().map(|n| n as u32).collect();
            let targets = match case[0].split(' ').next() {
                Some("smoothed") => Targets::Smoothed(&ids, weights.as_deref(), number),
                _ => Targets::Focal(&ids, weights.as_deref(), number),
            };
            let weight = |id: &u32| weights.as_ref().map_or(1.0, |weights| f64::from(weights[*id as usize]));
            let count: f64 = ids.iter().map(weight).sum();
            for device in [&processor].into_iter().chain(shared_gpu()) {
                let (sum, d) = loss_and_gradient(device, &z, classes, targets);
                close(&[(sum / count) as f32], &numbers(4), 2e-6, case[0]);
                let exact: Vec<f64> = numbers(5).iter().map(|d| d * count).collect();
                close(&d, &exact, 2e-6, case[0]);
            }
        }
    }
}
