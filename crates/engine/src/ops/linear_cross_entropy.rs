//! Linear and cross-entropy in one: `loss = scale * sum over i of -log softmax(x[rows[i]] W^T + b)[targets[i]]`.
//!
//! Shapes: x `[N, C]`, rows and targets `[R]`, W `[V, C]`, b `[1, V]` (it may be absent). The logits `[R, V]` never exist at once: they are made
//! some rows at a time, turned into their own gradient in place, and used up, so forward and backward are one
//! pass. That needs `scale` (coefficient over the global count) beforehand; callers know it.
//!
//! Gradients: `dlogits = scale * (softmax - onehot)`; `dx[rows[i]] += dlogits W`; `dW += dlogits^T x[rows]`; db is the column
//! sums of dlogits.

use half::bf16;

use crate::cpu::convert;
use crate::cpu::gemm::{Operand, Source};
use crate::cpu::math;
use crate::cpu::rows::{add, add_bf16};
use crate::cpu::shared::SharedSlice;
use crate::cpu::simd::simd;
use crate::cuda::{self, Context, Write};
use crate::device::Device;
use crate::dtype::{DType, Precision};
use crate::loss_sum::LossSum;
use crate::matmul::{self, Direction, RoomBehind};
use crate::profile::Work;
use crate::tape::{Tape, Value};
use crate::tensor::Tensor;
use crate::weights::View;

/// Logits that exist at once, at most (32 MiB of f32); their number of rows follows from V alone.
const CHUNK_ELEMENTS: usize = 8 << 20;

/// Elements of a row that are rounded at a time, and columns whose sums are one task.
const BLOCK: usize = 1_024;

/// The rows of x that predict, and what each should predict; some of them in a chunk.
#[derive(Clone, Copy)]
struct Picked<'a> {
    rows: &'a [u32],
    targets: &'a [u32],
}

/// The linear, and what the summed loss is multiplied by.
#[derive(Clone, Copy)]
struct Head {
    weight: View,
    bias: Option<View>,
    scale: f32,
}

impl Tape<'_> {
    /// See the module's header. `rows` are distinct. On a training tape the gradients of W and b are added at once.
    ///
    /// # Panics
    /// When a row or a target is out of range, or the shapes do not fit.
    pub fn linear_cross_entropy(
        &mut self,
        x: &Value,
        rows: &[u32],
        targets: &[u32],
        weight: View,
        bias: Option<View>,
        scale: f32,
    ) -> LossSum {
        let (cols, classes) = (weight.cols, weight.rows);
        assert!(x.tensor.cols() == cols && rows.len() == targets.len());
        assert!(bias.is_none_or(|bias| bias.len() == classes), "a bias for {classes} classes");
        assert!(targets.iter().all(|&t| (t as usize) < classes), "a target outside the {classes} classes");
        let trains_x = self.is_training() && x.id.is_some();
        let mut dx = trains_x.then(|| Tensor::zeros(self.device.pool(), x.tensor.rows(), cols, DType::F32));
        let (picked, head) = (Picked { rows, targets }, Head { weight, bias, scale });
        let total = if let Some(cuda) = self.device.cuda() {
            self.chunks_on_gpu(cuda, &x.tensor, picked, head, dx.as_ref())
        } else {
            self.chunks_on_cpu(&x.tensor, picked, head, dx.as_mut())
        };
        if let Some(dx) = dx {
            let id = x.id;
            self.record_root(move |back| back.add(id, dx));
        }
        total
    }

    /// The loss; adds to the gradients of x, of the weight and of the bias.
    fn chunks_on_cpu(
        &mut self,
        x: &Tensor,
        picked: Picked<'_>,
        head: Head,
        mut dx: Option<&mut Tensor>,
    ) -> LossSum {
        let (device, precision) = (self.device, self.precision);
        let weight = head.weight;
        let (cols, classes, level) = (weight.cols, weight.rows, device.level());
        let chunk_rows = (CHUNK_ELEMENTS / classes / 16 * 16).max(16);
        let mut total = LossSum::default();
        for (rows, targets) in picked.rows.chunks(chunk_rows).zip(picked.targets.chunks(chunk_rows)) {
            let hidden = self.pick(x, rows);
            let mut logits = self.uninit(rows.len(), classes, DType::F32);
            {
                let _timer = device.time(Work::HeadLogits);
                self.by_weight(weight, Direction::Forward).multiply_into(
                    &hidden,
                    &mut logits,
                    Write::Replace,
                );
            }
            let gradient = self.loss_of_rows(&mut logits, targets, head, &mut total);
            let _timer = device.time(Work::HeadGradients);
            if let Some(dx) = &mut dx {
                let out = SharedSlice::new(dx.f32_mut());
                let store = |r: usize, c: usize, z: &mut [f32]| {
                    // SAFETY: the rows are distinct and the matmul hands out every element once.
                    add(level, unsafe { out.slice(rows[r] as usize * cols + c, z.len()) }, z);
                };
                self.by_weight(weight, Direction::Backward).multiply(gradient, None, store);
            }
            if let Some(gradients) = self.gradients() {
                matmul::accumulate_from_operand(device, precision, gradient, &hidden, weight, gradients);
                if let Some(to) = head.bias.and_then(|bias| gradients.get_mut(bias)) {
                    add_sums_of_columns(device, gradient, to);
                }
            }
        }
        total
    }

    /// Adds a chunk's loss to the total and, on a training tape, turns its logits, which lack the bias, into their own
    /// gradient.
    fn loss_of_rows<'a>(
        &self,
        logits: &'a mut Tensor,
        targets: &[u32],
        head: Head,
        total: &mut LossSum,
    ) -> Operand<'a> {
        let (bias, scale) = (head.bias.map(|bias| self.weights.get(bias)), head.scale);
        let (count, classes, level) = (logits.rows(), logits.cols(), self.device.level());
        let training = self.is_training();
        let mut outcomes = vec![(0.0_f32, false); count];
        // What only feeds matmuls is rounded once, not in each of them: into the first half of its own row.
        let rounds = self.precision == Precision::Bf16;
        {
            let _timer = self.device.time(Work::HeadLoss);
            let logits = SharedSlice::new(logits.f32_mut());
            let outcomes = SharedSlice::new(&mut outcomes);
            self.device.for_each(count, |r| {
                // SAFETY: every task has a row of its own.
                let (row, outcome) = unsafe { (logits.slice(r * classes, classes), outcomes.slice(r, 1)) };
                if let Some(bias) = bias {
                    add(level, row, bias);
                }
                let (nll, correct, sum) = cross_entropy_row(level, row, targets[r] as usize);
                outcome[0] = (nll, correct);
                if !training {
                    return;
                }
                let (factor, target) = (scale / sum, targets[r] as usize);
                if !rounds {
                    return gradient_row(level, row, factor, target, scale);
                }
                let mut block = [0.0_f32; BLOCK];
                for first in (0..classes).step_by(BLOCK) {
                    let block = &mut block[..BLOCK.min(classes - first)];
                    block.copy_from_slice(&row[first..first + block.len()]);
                    gradient_row(level, block, factor, target.wrapping_sub(first), scale);
                    // What is written has been read: an element's half lies no further than the element.
                    let to: &mut [bf16] = bytemuck::cast_slice_mut(row);
                    convert::narrow(level, block, &mut to[first..first + block.len()]);
                }
            });
        }
        for (nll, correct) in outcomes {
            total.sum += f64::from(nll);
            total.correct += u64::from(correct);
        }
        if !rounds {
            return Operand::new(logits);
        }
        let data = Source::Bf16(bytemuck::cast_slice(logits.f32()));
        Operand { data, rows: count, cols: classes, row_stride: 2 * classes, col_stride: 1 }
    }

    /// As [`Tape::chunks_on_cpu`].
    fn chunks_on_gpu(
        &mut self,
        cuda: &Context,
        x: &Tensor,
        picked: Picked<'_>,
        head: Head,
        dx: Option<&Tensor>,
    ) -> LossSum {
        use cuda::ops::linear_cross_entropy::{CHUNK_ELEMENTS, add_to_rows, cross_entropy};
        use cuda::ops::select_rows::{ROW_UNIT, filled};
        let (device, weights, precision) = (self.device, self.weights, self.precision);
        let Head { weight, scale, .. } = head;
        let bias = head.bias.map(|bias| weights.device_f32(cuda, bias));
        let (cols, classes, dtype) = (weight.cols, weight.rows, precision.activation());
        let (rows, targets) = (filled(picked.rows), filled(picked.targets));
        let chunk_rows = (CHUNK_ELEMENTS / classes / ROW_UNIT * ROW_UNIT).max(ROW_UNIT);
        let outcomes = self.uninit(rows.len(), 2, DType::F32);
        let chunks = rows.chunks(chunk_rows).zip(targets.chunks(chunk_rows));
        for (i, (rows, targets)) in chunks.enumerate() {
            // Rounded here, as the matmuls would.
            let hidden = self.uninit(rows.len(), cols, dtype);
            let on_device = cuda::ops::select_rows::forward(cuda, x, rows, &hidden);
            let logits = self.by_weight(weight, Direction::Forward).product_on_gpu(cuda, &hidden, DType::F32);
            let gradient = self.is_training().then(|| match precision {
                Precision::F32 => logits.clone(),
                Precision::Bf16 => self.uninit(rows.len(), logits.cols(), DType::Bf16),
            });
            let (first, logits) = (i * chunk_rows, (&logits, classes));
            cross_entropy(cuda, logits, bias, targets, scale, gradient.as_ref(), &outcomes, first);
            let Some(gradient) = gradient else { continue };
            if let Some(dx) = dx {
                let back = self.by_weight(weight, Direction::Backward);
                let of_chunk = back.product_on_gpu(cuda, &gradient, DType::F32);
                add_to_rows(cuda, &of_chunk, &on_device, dx);
            }
            if let Some(gradients) = self.gradients() {
                // The forward pass comes before anything is complete.
                let free = RoomBehind::Free;
                matmul::accumulate_weight_gradient(
                    device, precision, &gradient, &hidden, weight, gradients, free,
                );
                let to = head.bias.and_then(|bias| gradients.device_mut(cuda, bias));
                if let Some(to) = to {
                    cuda::ops::linear::add_sums_of_columns(cuda, device.pool(), &gradient, to, classes);
                }
            }
        }
        LossSum::pending(cuda::ops::loss::sum_outcomes(cuda, &outcomes))
    }

    fn pick(&self, x: &Tensor, rows: &[u32]) -> Tensor {
        let (cols, level) = (x.cols(), self.device.level());
        let mut picked = self.uninit(rows.len(), cols, DType::F32);
        let mut scratch = vec![0.0; cols];
        for (to, &row) in picked.f32_mut().chunks_exact_mut(cols).zip(rows) {
            to.copy_from_slice(x.row(level, row as usize, &mut scratch));
        }
        picked
    }
}

/// to += the sums of the columns, each over the rows in their order.
fn add_sums_of_columns(device: &Device, values: Operand<'_>, to: &mut [f32]) {
    let (cols, level) = (to.len(), device.level());
    let to = SharedSlice::new(to);
    device.for_each(cols.div_ceil(BLOCK), |task| {
        let first = task * BLOCK;
        let mut sums = [0.0_f32; BLOCK];
        let sums = &mut sums[..BLOCK.min(cols - first)];
        for r in 0..values.rows {
            let range = r * values.row_stride + first..r * values.row_stride + first + sums.len();
            match values.data {
                Source::F32(values) => add(level, sums, &values[range]),
                Source::Bf16(values) => add_bf16(level, sums, &values[range]),
            }
        }
        // SAFETY: every task has columns of its own.
        add(level, unsafe { to.slice(first, sums.len()) }, sums);
    });
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
    use crate::testing::{ODD_SIZES, between_devices, close, shared_gpu};
    use crate::{CodePath, Device, Gradients, Packing, Precision, Weights, rng::Stream};
    use std::num::NonZeroUsize;

    /// The plain reference: loss, dx, dW, db in f64. `w` is the weight.
    fn reference(
        x: &[f32],
        rows: &[u32],
        targets: &[u32],
        (w, bias): (&[f32], &[f32]),
        cols: usize,
        scale: f64,
    ) -> (f64, Vec<f64>, Vec<f64>, Vec<f64>) {
        let classes = bias.len();
        let (mut loss, mut dx, mut dw) = (0.0, vec![0.0; x.len()], vec![0.0; w.len()]);
        let mut db = vec![0.0; classes];
        for (&r, &t) in rows.iter().zip(targets) {
            let row = &x[r as usize * cols..][..cols];
            let product = |v: usize, c: usize| f64::from(row[c]) * f64::from(w[v * cols + c]);
            let logit = |v: usize| f64::from(bias[v]) + (0..cols).map(|c| product(v, c)).sum::<f64>();
            let z: Vec<f64> = (0..classes).map(logit).collect();
            let norm = z.iter().map(|z| z.exp()).sum::<f64>();
            loss += norm.ln() - z[t as usize];
            for v in 0..classes {
                let d = scale * (z[v].exp() / norm - f64::from(u8::from(v == t as usize)));
                db[v] += d;
                for c in 0..cols {
                    dx[r as usize * cols + c] += d * f64::from(w[v * cols + c]);
                    dw[v * cols + c] += d * f64::from(row[c]);
                }
            }
        }
        (loss, dx, dw, db)
    }

    #[test]
    fn the_reference_has_the_slope_of_its_loss() {
        let (cols, rows, targets) = (3, [0, 2], [1, 4]);
        let mut stream = Stream::new(1);
        let x: Vec<f32> = (0..9).map(|_| stream.normal() as f32).collect();
        let w: Vec<f32> = (0..15).map(|_| stream.normal() as f32).collect();
        let bias: Vec<f32> = (0..5).map(|_| stream.normal() as f32).collect();
        let (_, dx, dw, db) = reference(&x, &rows, &targets, (&w, &bias), cols, 0.5);
        let loss = |x: &[f32], w: &[f32], b: &[f32]| 0.5 * reference(x, &rows, &targets, (w, b), cols, 0.5).0;
        for i in 0..15 {
            let step = |v: &[f32], h: f32| {
                v.iter().enumerate().map(|(j, v)| if j == i { v + h } else { *v }).collect::<Vec<_>>()
            };
            let slope = |f: &dyn Fn(f32) -> f64| (f(1.0 / 256.0) - f(-1.0 / 256.0)) * 128.0;
            assert!((slope(&|h| loss(&x, &step(&w, h), &bias)) - dw[i]).abs() < 1e-4);
            if i < 9 {
                assert!((slope(&|h| loss(&step(&x, h), &w, &bias)) - dx[i]).abs() < 1e-4);
            }
            if i < 5 {
                assert!((slope(&|h| loss(&x, &w, &step(&bias, h))) - db[i]).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn gradcheck() {
        for (i, &size) in ODD_SIZES.iter().enumerate() {
            let (classes, cols) = (ODD_SIZES[(i + 4) % 8] + 1, size);
            check(i as u64, classes, cols, None);
            check(i as u64, classes, cols, Some(classes * cols));
        }
        // More columns than one task sums up.
        check(9, BLOCK + 7, 5, Some((BLOCK + 7) * 5));
    }

    #[test]
    fn a_frozen_bias_is_added_and_has_no_gradient() {
        check(3, 33, 8, Some(usize::MAX));
    }

    /// 37 rows against the reference on all devices. `bias` is where the gradient of a bias lies, if there is one;
    /// `usize::MAX` for a frozen one.
    fn check(seed: u64, classes: usize, cols: usize, bias: Option<usize>) {
        let mut stream = Stream::new(seed);
        let mut draw = |n: usize| -> Vec<f32> {
            (0..n).map(|_| crate::cpu::convert::round_bf16(stream.normal() as f32 * 0.5).to_f32()).collect()
        };
        let (x, w) = (draw(37 * cols), draw(classes * cols));
        let b = if bias.is_some() { draw(classes) } else { vec![0.0; classes] };
        let rows: Vec<u32> = (0..37).filter(|r| r % 3 != 1).rev().collect();
        let targets: Vec<u32> = rows.iter().map(|r| r * 7 % classes as u32).collect();
        let (loss, dx, dw, mut db) = reference(&x, &rows, &targets, (&w, &b), cols, 0.25);
        let offset = w.len();
        let grad = bias.filter(|&bias| bias == offset);
        if grad.is_none() {
            db.fill(0.0);
        }
        let view = View { offset: 0, rows: classes, cols, grad: Some(0) };
        let bias = bias.map(|_| View { offset, rows: 1, cols: classes, grad });
        for (precision, limit) in [(Precision::F32, 1e-5), (Precision::Bf16, 1.5e-2)] {
            let processors = [CodePath::Auto, CodePath::Portable]
                .map(|path| Device::cpu(NonZeroUsize::new(2), path).unwrap());
            for device in processors.iter().chain(shared_gpu()) {
                let weights = Weights::new([&w[..], &b].concat());
                let mut gradients = Gradients::new(w.len() + b.len());
                let packing = Packing::new(&[37], &[0]);
                let mut tape = Tape::training(device, &weights, &mut gradients, &packing, precision, 0, 0);
                let leaf = tape.leaf(Tensor::from_f32(device.pool(), 37, cols, &x));
                let mut out = tape.linear_cross_entropy(&leaf, &rows, &targets, view, bias, 0.25);
                out.wait();
                let found = tape.backward_from(Vec::new(), None);
                let what = format!(
                    "linear_cross_entropy {classes} x {cols} {bias:?} {precision:?} {}",
                    device.name()
                );
                close(&[out.sum as f32], &[loss], limit, &what);
                close(&found[0].as_ref().unwrap().to_f32_vec(), &dx, limit, &what);
                close(&gradients.values()[..offset], &dw, limit, &what);
                close(&gradients.values()[offset..], &db, limit, &what);
            }
        }
    }

    /// PyTorch 2.15 is off by 7e-7 on numbers drawn like these, and by 2e-6 on those of a trained model. A single chain of
    /// 28,996 sums is off by 9e-6.
    #[test]
    fn gradients_of_a_full_vocabulary_are_exact_to_f32() {
        const LIMIT: f64 = 1e-6;
        let (classes, cols, count) = (28_996, 40, 33);
        let mut stream = Stream::new(7);
        // The rows of a trained table have a direction in common.
        let common: Vec<f64> = (0..cols).map(|_| stream.normal()).collect();
        let w: Vec<f32> =
            (0..classes * cols).map(|i| (0.1 * (stream.normal() + common[i % cols])) as f32).collect();
        let x: Vec<f32> = (0..count * cols).map(|_| stream.normal() as f32).collect();
        let rows: Vec<u32> = (0..count as u32).collect();
        let targets: Vec<u32> = rows.iter().map(|r| r * 877 % classes as u32).collect();
        let scale = 1.0 / count as f32;
        let bias = vec![0.0; classes];
        let (loss, dx, dw, _) = reference(&x, &rows, &targets, (&w, &bias), cols, f64::from(scale));
        let processors =
            [CodePath::Auto, CodePath::Portable].map(|path| Device::cpu(NonZeroUsize::new(2), path).unwrap());
        for device in processors.iter().chain(shared_gpu()) {
            let weights = Weights::new(w.clone());
            let view = View { offset: 0, rows: classes, cols, grad: Some(0) };
            let mut gradients = Gradients::new(w.len());
            let packing = Packing::new(&[count], &[0]);
            let mut tape = Tape::training(device, &weights, &mut gradients, &packing, Precision::F32, 0, 0);
            let leaf = tape.leaf(Tensor::from_f32(device.pool(), count, cols, &x));
            let mut out = tape.linear_cross_entropy(&leaf, &rows, &targets, view, None, scale);
            out.wait();
            let found = tape.backward_from(Vec::new(), None);
            let name = device.name();
            // A GPU's library has an order of its own.
            let limit = if device.is_cuda() { between_devices(Precision::F32) } else { LIMIT };
            close(&[out.sum as f32], &[loss], LIMIT, &format!("loss, {name}"));
            close(&found[0].as_ref().unwrap().to_f32_vec(), &dx, limit, &format!("dx, {name}"));
            close(gradients.values(), &dw, limit, &format!("dW, {name}"));
        }
    }
}
