//! Linear and cross-entropy in one: `loss = scale * sum over i of -log softmax(x[rows[i]] W^T)[targets[i]]`.
//!
//! Shapes: x `[N, C]`, rows and targets `[R]`, W `[V, C]`. The logits `[R, V]` never exist at once: they are made
//! some rows at a time, turned into their own gradient in place, and used up, so forward and backward are one
//! pass. That needs `scale` (coefficient over the global count) beforehand; callers know it.
//!
//! Gradients: `dlogits = scale * (softmax - onehot)`; `dx[rows[i]] += dlogits W`; `dW += dlogits^T x[rows]`.

use std::sync::Arc;

use half::bf16;

use crate::cpu::convert;
use crate::cpu::gemm::{Operand, Source};
use crate::cpu::math;
use crate::cpu::shared::SharedSlice;
use crate::cpu::simd::simd;
use crate::cuda::{self, DeviceBuffer};
use crate::ops::linear::{SharedOut, accumulate_weight_gradient, add, destination_of, multiply_weight};
use crate::profile::Work;
use crate::tape::{Backward, Node, Tape, Value};
use crate::tensor::{DType, Precision, Tensor};
use crate::weights::View;

/// Logits that exist at once, at most (32 MiB of f32); their number of rows follows from V alone.
const CHUNK_ELEMENTS: usize = 8 << 20;

/// Elements of a row that are rounded at a time.
const PART: usize = 1_024;

/// A loss summed over rows, not yet divided by anything.
///
/// On a GPU the terms stay there until [`LossSum::settle`]; before it, `sum` and `correct` are what was settled.
#[derive(Clone, Debug, Default)]
pub struct LossSum {
    /// Sum of negative log likelihoods (nats), or of the loss's own terms.
    pub sum: f64,
    /// Rows whose best class is the target.
    pub correct: u64,
    /// Both, as f64, where a GPU still computes them.
    pending: Vec<Arc<DeviceBuffer>>,
}

impl LossSum {
    /// A loss that is still being computed: two f64 on a GPU, the sum and the number of correct ones.
    pub(crate) fn pending(sums: DeviceBuffer) -> Self {
        Self { pending: vec![Arc::new(sums)], ..Self::default() }
    }

    /// Adds another sum, in this order.
    pub fn add(&mut self, other: &Self) {
        self.sum += other.sum;
        self.correct += other.correct;
        self.pending.extend(other.pending.iter().cloned());
    }

    /// Waits for what is still being computed and adds it.
    pub fn settle(&mut self) {
        for there in self.pending.drain(..) {
            let mut sums = [0.0_f64; 2];
            there.context().download(&mut sums, there.ptr());
            self.sum += sums[0];
            self.correct += sums[1] as u64;
        }
    }
}

#[derive(Debug)]
pub(crate) struct LinearCrossEntropyNode {
    x: Value,
    dx: Tensor,
}

impl Tape<'_> {
    /// See the module's header. `rows` are distinct. On a training tape the gradient of W is added at once.
    ///
    /// # Panics
    /// When a row or a target is out of range.
    pub fn linear_cross_entropy(
        &mut self,
        x: &Value,
        rows: &[u32],
        targets: &[u32],
        weight: View,
        scale: f32,
    ) -> LossSum {
        let (cols, classes) = (weight.cols, weight.rows);
        assert!(x.tensor.cols() == cols && rows.len() == targets.len());
        assert!(targets.iter().all(|&t| (t as usize) < classes), "a target outside the {classes} classes");
        if let Some(cuda) = self.device.cuda() {
            let picked = (rows, targets);
            let (loss, dx) = cuda::ops::linear_cross_entropy::forward(cuda, self, x, picked, weight, scale);
            if let Some(dx) = dx {
                self.record_root(Node::LinearCrossEntropy(LinearCrossEntropyNode { x: x.clone(), dx }));
            }
            return loss;
        }
        let level = self.device.level();
        let trains_weight = self.is_training() && weight.grad.is_some();
        let trains_x = self.is_training() && x.id.is_some();
        let mut dx = trains_x.then(|| Tensor::zeros(self.device.pool(), x.tensor.rows(), cols, DType::F32));
        let chunk_rows = (CHUNK_ELEMENTS / classes / 16 * 16).max(16);
        let mut total = LossSum::default();
        for (rows, targets) in rows.chunks(chunk_rows).zip(targets.chunks(chunk_rows)) {
            let picked = self.pick(x, rows);
            let mut logits = self.uninit(rows.len(), classes, DType::F32);
            {
                let _timer = self.device.time(Work::HeadLogits);
                let destination = Some(destination_of(&logits));
                let out = SharedOut::new(&mut logits);
                multiply_weight(
                    self.device,
                    self.weights,
                    self.precision,
                    Operand::new(&picked),
                    weight,
                    true,
                    destination,
                    |r, c, z| {
                        // SAFETY: the product hands out every element once.
                        unsafe { out.write(level, r, c, z) };
                    },
                );
            }
            let training = self.is_training();
            let mut outcomes = vec![(0.0_f32, false); rows.len()];
            // What only feeds products is rounded once, not in each of them: into the first half of its own row.
            let rounds = self.precision == Precision::Bf16;
            {
                let _timer = self.device.time(Work::HeadLoss);
                let logits = SharedSlice::new(logits.f32_mut());
                let outcomes = SharedSlice::new(&mut outcomes);
                self.device.for_each(rows.len(), |r| {
                    // SAFETY: every task has a row of its own.
                    let (row, outcome) = unsafe { (logits.part(r * classes, classes), outcomes.part(r, 1)) };
                    let (nll, correct, sum) = cross_entropy_row(level, row, targets[r] as usize);
                    outcome[0] = (nll, correct);
                    if !training {
                        return;
                    }
                    let (factor, target) = (scale / sum, targets[r] as usize);
                    if !rounds {
                        return gradient_row(level, row, factor, target, scale);
                    }
                    let mut part = [0.0_f32; PART];
                    for first in (0..classes).step_by(PART) {
                        let part = &mut part[..PART.min(classes - first)];
                        part.copy_from_slice(&row[first..first + part.len()]);
                        gradient_row(level, part, factor, target.wrapping_sub(first), scale);
                        // What is written has been read: an element's half lies no further than the element.
                        let to: &mut [bf16] = bytemuck::cast_slice_mut(row);
                        convert::narrow(level, part, &mut to[first..first + part.len()]);
                    }
                });
            }
            for (nll, correct) in outcomes {
                total.sum += f64::from(nll);
                total.correct += u64::from(correct);
            }
            let gradient = if rounds {
                let halves: &[bf16] = bytemuck::cast_slice(logits.f32());
                let data = Source::Bf16(halves);
                Operand { data, rows: rows.len(), cols: classes, row_stride: 2 * classes, col_stride: 1 }
            } else {
                Operand::new(&logits)
            };
            let device = self.device;
            let _timer = device.time(Work::HeadGradients);
            if let Some(dx) = &mut dx {
                let out = SharedSlice::new(dx.f32_mut());
                multiply_weight(
                    self.device,
                    self.weights,
                    self.precision,
                    gradient,
                    weight,
                    false,
                    None,
                    |r, c, z| {
                        // SAFETY: the rows are distinct and the product hands out every element once.
                        add(level, unsafe { out.part(rows[r] as usize * cols + c, z.len()) }, z);
                    },
                );
            }
            if trains_weight {
                let (device, precision) = (self.device, self.precision);
                if let Some(gradients) = self.gradients() {
                    accumulate_weight_gradient(device, precision, gradient, &picked, weight, gradients);
                }
            }
        }
        if let Some(dx) = dx {
            self.record_root(Node::LinearCrossEntropy(LinearCrossEntropyNode { x: x.clone(), dx }));
        }
        total
    }

    fn pick(&self, x: &Value, rows: &[u32]) -> Tensor {
        let (cols, level) = (x.tensor.cols(), self.device.level());
        let mut picked = self.uninit(rows.len(), cols, DType::F32);
        let mut scratch = vec![0.0; cols];
        for (to, &row) in picked.f32_mut().chunks_exact_mut(cols).zip(rows) {
            to.copy_from_slice(x.tensor.row(level, row as usize, &mut scratch));
        }
        picked
    }
}

impl LinearCrossEntropyNode {
    pub(crate) fn backward(self, back: &mut Backward<'_>) {
        back.add(self.x.id, self.dx);
    }
}

simd! {
    /// Turns logits into exp(logits - the largest); returns the negative log likelihood, whether the target won, and
    /// the sum.
    fn cross_entropy_row(logits: &mut [f32], target: usize) -> (f32, bool, f32) {
        let largest = math::max(logits);
        let of_target = logits[target];
        let sum = math::map_and_sum(logits, |z| math::exp_nonpositive(z - largest));
        (sum.ln() + largest - of_target, of_target >= largest, sum)
    }
}

simd! {
    /// scale * (softmax - onehot) from exp(logits - the largest), with `factor` = scale / their sum. The target may
    /// lie elsewhere.
    fn gradient_row(exps: &mut [f32], factor: f32, target: usize, scale: f32) {
        for z in exps.iter_mut() {
            *z *= factor;
        }
        if let Some(z) = exps.get_mut(target) {
            *z -= scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ODD_SIZES, close, shared_gpu};
    use crate::{CodePath, Device, Gradients, Packing, Precision, Weights, rng::Stream};
    use std::num::NonZeroUsize;

    /// The plain reference: loss, dx, dW in f64.
    fn reference(
        x: &[f32],
        rows: &[u32],
        targets: &[u32],
        w: &[f32],
        cols: usize,
        scale: f64,
    ) -> (f64, Vec<f64>, Vec<f64>) {
        let classes = w.len() / cols;
        let (mut loss, mut dx, mut dw) = (0.0, vec![0.0; x.len()], vec![0.0; w.len()]);
        for (&r, &t) in rows.iter().zip(targets) {
            let row = &x[r as usize * cols..][..cols];
            let logit =
                |v: usize| (0..cols).map(|c| f64::from(row[c]) * f64::from(w[v * cols + c])).sum::<f64>();
            let z: Vec<f64> = (0..classes).map(logit).collect();
            let norm = z.iter().map(|z| z.exp()).sum::<f64>();
            loss += norm.ln() - z[t as usize];
            for v in 0..classes {
                let d = scale * (z[v].exp() / norm - f64::from(u8::from(v == t as usize)));
                for c in 0..cols {
                    dx[r as usize * cols + c] += d * f64::from(w[v * cols + c]);
                    dw[v * cols + c] += d * f64::from(row[c]);
                }
            }
        }
        (loss, dx, dw)
    }

    #[test]
    fn the_reference_has_the_slope_of_its_loss() {
        let (cols, rows, targets) = (3, [0, 2], [1, 4]);
        let mut stream = Stream::new(1);
        let x: Vec<f32> = (0..9).map(|_| stream.normal() as f32).collect();
        let w: Vec<f32> = (0..15).map(|_| stream.normal() as f32).collect();
        let (_, dx, dw) = reference(&x, &rows, &targets, &w, cols, 0.5);
        let loss = |x: &[f32], w: &[f32]| 0.5 * reference(x, &rows, &targets, w, cols, 0.5).0;
        for i in 0..15 {
            let step = |v: &[f32], h: f32| {
                v.iter().enumerate().map(|(j, v)| if j == i { v + h } else { *v }).collect::<Vec<_>>()
            };
            let slope = |f: &dyn Fn(f32) -> f64| (f(1.0 / 256.0) - f(-1.0 / 256.0)) * 128.0;
            assert!((slope(&|h| loss(&x, &step(&w, h))) - dw[i]).abs() < 1e-4);
            if i < 9 {
                assert!((slope(&|h| loss(&step(&x, h), &w)) - dx[i]).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn gradcheck() {
        for (i, &size) in ODD_SIZES.iter().enumerate() {
            let (classes, cols) = (ODD_SIZES[(i + 4) % 8] + 1, size);
            let mut stream = Stream::new(i as u64);
            let mut draw = |n: usize| -> Vec<f32> {
                (0..n).map(|_| crate::tensor::round_bf16(stream.normal() as f32 * 0.5).to_f32()).collect()
            };
            let (x, w) = (draw(37 * cols), draw(classes * cols));
            let rows: Vec<u32> = (0..37).filter(|r| r % 3 != 1).rev().collect();
            let targets: Vec<u32> = rows.iter().map(|r| r * 7 % classes as u32).collect();
            let (loss, dx, dw) = reference(&x, &rows, &targets, &w, cols, 0.25);
            for (precision, limit) in [(Precision::F32, 1e-5), (Precision::Bf16, 1.5e-2)] {
                let processors = [CodePath::Auto, CodePath::Portable]
                    .map(|path| Device::cpu(NonZeroUsize::new(2), path).unwrap());
                for device in processors.iter().chain(shared_gpu()) {
                    let weights = Weights::new(w.clone());
                    let view = View { offset: 0, rows: classes, cols, grad: Some(0) };
                    let mut gradients = Gradients::new(w.len());
                    let packing = Packing::new(&[37], &[0]);
                    let mut tape =
                        Tape::training(device, &weights, &mut gradients, &packing, precision, 0, 0);
                    let leaf = tape.leaf(Tensor::from_f32(device.pool(), 37, cols, &x));
                    let mut out = tape.linear_cross_entropy(&leaf, &rows, &targets, view, 0.25);
                    out.settle();
                    let found = tape.backward_from(Vec::new());
                    let what =
                        format!("linear_cross_entropy {classes} x {cols} {precision:?} {}", device.name());
                    close(&[out.sum as f32], &[loss], limit, &what);
                    close(&found[0].as_ref().unwrap().to_f32_vec(), &dx, limit, &what);
                    close(gradients.values(), &dw, limit, &what);
                }
            }
        }
    }
}
