//! Layer norm (Ba, Kiros, Hinton 2016): y = drop((x - mean) / sqrt(var + eps) * weight + bias), over each row. The bias may be
//! absent.
//!
//! Shapes: x, y `[N, C]`; weight, bias `[1, C]`. The variance is the biased one. Statistics are f32 and saved
//! (two numbers a row); x itself is kept, not copied.
//!
//! Backward, with dy already times the dropout factors, xhat the normalised row and g = dy * weight:
//! dx = rstd * (g - mean(g) - xhat * mean(g * xhat)); dweight = sum over rows of dy * xhat; dbias = sum of dy.

use crate::cpu::math;
use crate::cpu::rows::{ROWS_PER_TASK, apply_dropout};
use crate::cpu::scratch::with_rows;
use crate::cpu::shared::SharedSlice;
use crate::cpu::simd::simd;
use crate::cuda;
use crate::dtype::{DType, Precision};
use crate::matmul;
use crate::profile::Work;
use crate::tape::{ActiveDropout, Backward, Dropout, Tape, Value};
use crate::tensor::Tensor;
use crate::weights::View;

/// A layer norm over rows of C columns.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm {
    /// `[1, C]`.
    pub weight: View,
    /// `[1, C]`.
    pub bias: Option<View>,
    /// Added to the variance.
    pub eps: f32,
    /// On the output; the rows must be the packing's tokens.
    pub dropout: Option<Dropout>,
}

impl LayerNorm {
    /// Without dropout.
    pub fn new(weight: View, bias: Option<View>, eps: f32) -> Self {
        Self { weight, bias, eps, dropout: None }
    }

    fn trains(&self) -> bool {
        self.weight.grad.is_some() || self.bias.is_some_and(|b| b.grad.is_some())
    }
}

/// What the backward needs.
struct Saved {
    x: Value,
    norm: LayerNorm,
    dropout: Option<ActiveDropout>,
    /// (mean, 1 / standard deviation) per row.
    statistics: Tensor,
}

impl Tape<'_> {
    /// Layer norm over rows; the output is f32, on a GPU in bf16 training also as matmuls read it.
    ///
    /// # Panics
    /// When the shapes do not fit.
    pub fn norm(&mut self, x: &Value, norm: LayerNorm) -> Value {
        let LayerNorm { weight, bias, eps, .. } = norm;
        let device = self.device;
        let _timer = device.time(Work::Norm);
        let (rows, cols) = (x.tensor.rows(), x.tensor.cols());
        assert!(weight.len() == cols && bias.is_none_or(|b| b.len() == cols), "norm of {cols} columns");
        let dropout = self.active_dropout(norm.dropout);
        let mut y = self.uninit(rows, cols, DType::F32);
        let mut statistics = self.uninit(rows, 2, DType::F32);
        let operand = (device.is_cuda() && self.precision == Precision::Bf16).then(|| {
            let cols = matmul::columns_for_linears(device, self.precision, rows, cols);
            self.uninit(rows, cols, DType::Bf16)
        });
        if let Some(cuda) = device.cuda() {
            let values = |view| self.weights.device_f32(cuda, view);
            let (gain, shift) = (values(weight), bias.map(values));
            let drops = dropout.as_ref().and_then(ActiveDropout::on_device);
            let y = (&y, operand.as_ref());
            cuda::ops::norm::forward(cuda, &x.tensor, gain, shift, eps, drops, y, &statistics);
        } else {
            let zeros = if bias.is_none() { vec![0.0; cols] } else { Vec::new() };
            let (gain, shift) = (self.weights.get(weight), bias.map_or(&zeros[..], |b| self.weights.get(b)));
            let level = self.device.level();
            let (y, s) = (SharedSlice::new(y.f32_mut()), SharedSlice::new(statistics.f32_mut()));
            self.device.for_each(rows.div_ceil(ROWS_PER_TASK), |task| {
                with_rows(cols, |scratch, _| {
                    for r in task * ROWS_PER_TASK..rows.min((task + 1) * ROWS_PER_TASK) {
                        // SAFETY: every task has rows of its own.
                        let (y, s) = unsafe { (y.slice(r * cols, cols), s.slice(r * 2, 2)) };
                        norm_row(level, x.tensor.row(level, r, scratch), gain, shift, eps, y, s);
                        if let Some(d) = &dropout {
                            apply_dropout(level, y, d.key(r), 0, d.rate);
                        }
                    }
                });
            });
        }
        let needs = x.id.is_some() || norm.trains();
        let saved = Saved { x: x.clone(), norm, dropout, statistics };
        Value { operand, ..self.record(y, needs, move |back, dy| saved.backward(back, &dy)) }
    }
}

impl Saved {
    fn backward(&self, back: &mut Backward<'_>, dy: &Tensor) {
        let device = back.device;
        let _timer = device.time(Work::NormBackward);
        let (rows, cols, x) = (dy.rows(), dy.cols(), &self.x.tensor);
        // On a GPU it is added to what has been gathered for x so far.
        let gathered = self.x.id.filter(|_| device.is_cuda()).and_then(|id| back.take_unique_f32(id));
        let adds = gathered.is_some();
        let mut dx = gathered.unwrap_or_else(|| back.uninit(rows, cols, DType::F32));
        let partial = if let Some(cuda) = device.cuda() {
            let drops = self.dropout.as_ref().and_then(ActiveDropout::on_device);
            let gain = back.weights.device_f32(cuda, self.norm.weight);
            let (pool, wanted) = (device.pool(), self.x.id.map(|_| (&dx, adds)));
            let trains = self.norm.trains();
            cuda::ops::norm::backward(cuda, pool, x, dy, drops, gain, &self.statistics, wanted, trains)
        } else if let Some(dropout) = &self.dropout {
            let dy = back.masked(dy, dropout);
            Some(self.backward_on_cpu(back, &dy, &mut dx))
        } else {
            Some(self.backward_on_cpu(back, dy, &mut dx))
        };
        if let Some(partial) = partial {
            back.add_column_sums(&partial, 0, Some(self.norm.weight));
            back.add_column_sums(&partial, cols, self.norm.bias);
        }
        back.add(self.x.id, dx);
    }

    /// Fills dx; a row per task with the sums over its rows of dy * xhat and of dy.
    fn backward_on_cpu(&self, back: &Backward<'_>, dy: &Tensor, dx: &mut Tensor) -> Tensor {
        let (rows, cols, level) = (dy.rows(), dy.cols(), back.device.level());
        let gain = back.weights.get(self.norm.weight);
        let tasks = rows.div_ceil(ROWS_PER_TASK);
        let mut partial = back.uninit(tasks, 2 * cols, DType::F32);
        let (dx, all_sums) = (SharedSlice::new(dx.f32_mut()), SharedSlice::new(partial.f32_mut()));
        back.device.for_each(tasks, |task| {
            // SAFETY: every task has a partial row and rows of dx of its own.
            let sums = unsafe { all_sums.slice(task * 2 * cols, 2 * cols) };
            sums.fill(0.0);
            with_rows(cols, |scratch, scratch_dy| {
                for r in task * ROWS_PER_TASK..rows.min((task + 1) * ROWS_PER_TASK) {
                    // SAFETY: as above.
                    let dx = unsafe { dx.slice(r * cols, cols) };
                    let statistics = &self.statistics.f32()[r * 2..r * 2 + 2];
                    let x = self.x.tensor.row(level, r, scratch);
                    let dy = dy.row(level, r, scratch_dy);
                    norm_row_backward(level, x, dy, gain, statistics, dx, sums);
                }
            });
        });
        partial
    }
}

simd! {
    fn norm_row(x: &[f32], gain: &[f32], shift: &[f32], eps: f32, y: &mut [f32], statistics: &mut [f32]) {
        let n = y.len();
        let (x, gain, shift) = (&x[..n], &gain[..n], &shift[..n]);
        let mean = math::sum([x], |[x]| x) / n as f32;
        let variance = math::sum([x], |[x]| (x - mean) * (x - mean)) / n as f32;
        let rstd = 1.0 / (variance + eps).sqrt();
        for i in 0..n {
            y[i] = (x[i] - mean) * rstd * gain[i] + shift[i];
        }
        statistics.copy_from_slice(&[mean, rstd]);
    }
}

simd! {
    fn norm_row_backward(
        x: &[f32],
        dy: &[f32],
        gain: &[f32],
        statistics: &[f32],
        dx: &mut [f32],
        sums: &mut [f32],
    ) {
        let n = dx.len();
        let (x, dy, gain) = (&x[..n], &dy[..n], &gain[..n]);
        let (mean, rstd) = (statistics[0], statistics[1]);
        let (d_gain, d_shift) = sums.split_at_mut(n);
        for i in 0..n {
            d_gain[i] += dy[i] * ((x[i] - mean) * rstd);
            d_shift[i] += dy[i];
        }
        let mean_g = math::sum([dy, gain], |[dy, gain]| dy * gain) / n as f32;
        let mean_gx = math::sum([dy, gain, x], |[dy, gain, x]| dy * gain * ((x - mean) * rstd)) / n as f32;
        for i in 0..n {
            dx[i] = rstd * (dy[i] * gain[i] - mean_g - (x[i] - mean) * rstd * mean_gx);
        }
    }
}

/// The plain reference, in f64.
#[cfg(test)]
pub(crate) mod reference {
    /// y from x `[rows, gain.len()]`.
    pub(crate) fn forward(x: &[f64], gain: &[f64], shift: &[f64], eps: f64) -> Vec<f64> {
        let n = gain.len();
        let mut y = Vec::new();
        for row in x.chunks(n) {
            let mean = row.iter().sum::<f64>() / n as f64;
            let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
            y.extend((0..n).map(|i| (row[i] - mean) / (variance + eps).sqrt() * gain[i] + shift[i]));
        }
        y
    }
}

#[cfg(test)]
mod tests {
    use super::{Dropout, LayerNorm, reference};
    use crate::rng::{DropRate, dropout_factor, row_key, site_key};
    use crate::testing::{Gradcheck, ODD_SIZES, SEED, STEP};

    #[test]
    fn gradcheck() {
        let narrow =
            ODD_SIZES.into_iter().filter(|&c| c > 1).flat_map(|cols| [1, 5, 67].map(|rows| (rows, cols)));
        // On a GPU rows are kept in a warp's registers, in more of them, in a block's, or read again.
        for (rows, cols) in
            narrow.chain([(3, 514), (19, 520), (3, 1_022), (2, 1_024), (2, 1_026), (2, 2_052)])
        {
            Gradcheck::new("norm", &[("x", rows, cols)], &[("weight", 1, cols), ("bias", 1, cols)]).run(
                |tape, x, w| tape.norm(&x[0], LayerNorm::new(w[0], Some(w[1]), 1e-5)),
                |x, w| reference::forward(&x[0], &w[0], &w[1], 1e-5),
            );
        }
    }

    /// Parameters lie one behind the other, so that a weight may begin at any number.
    #[test]
    fn gradcheck_of_a_weight_at_an_odd_place() {
        for cols in [7, 64, 520] {
            let weights = [("other", 1, 3), ("weight", 1, cols), ("bias", 1, cols)];
            Gradcheck::new("norm", &[("x", 5, cols)], &weights).run(
                |tape, x, w| tape.norm(&x[0], LayerNorm::new(w[1], Some(w[2]), 1e-5)),
                |x, w| reference::forward(&x[0], &w[1], &w[2], 1e-5),
            );
        }
    }

    #[test]
    fn gradcheck_without_bias() {
        for cols in [7, 31, 65] {
            Gradcheck::new("norm", &[("x", 33, cols)], &[("weight", 1, cols)]).run(
                |tape, x, w| tape.norm(&x[0], LayerNorm::new(w[0], None, 1e-5)),
                |x, w| reference::forward(&x[0], &w[0], &vec![0.0; cols], 1e-5),
            );
        }
    }

    #[test]
    fn gradcheck_with_dropout() {
        for (rows, cols, p) in
            [(5, 7, 0.3), (67, 65, 0.1), (33, 41, 0.5), (7, 64, 0.2), (2, 520, 0.1), (2, 522, 0.1)]
        {
            Gradcheck::new("norm", &[("x", rows, cols)], &[("weight", 1, cols), ("bias", 1, cols)]).run(
                |tape, x, w| {
                    let dropout = Some(Dropout { p, site: 4 });
                    tape.norm(&x[0], LayerNorm { dropout, ..LayerNorm::new(w[0], Some(w[1]), 1e-5) })
                },
                |x, w| {
                    let mut y = reference::forward(&x[0], &w[0], &w[1], 1e-5);
                    for (i, y) in y.iter_mut().enumerate() {
                        let key = site_key(row_key(SEED, STEP, 0, (i / cols) as u64), 4);
                        *y *= f64::from(dropout_factor(key, i % cols, DropRate::new(p)));
                    }
                    y
                },
            );
        }
    }
}
