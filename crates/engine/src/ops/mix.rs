//! A learned mix of several matrices (ELMo, Peters et al. 2018, equation 1): `y = scale * sum_j s_j x_j` with `s = softmax(weights)`.
//!
//! Shapes: n inputs x_j `[N, C]`, weights `[1, n]`, scale `[1, 1]`, y `[N, C]` in f32. The inputs are kept, not copied.
//! Backward, with d_j the sum over all elements of dy * x_j: dx_j = scale * s_j * dy; dscale = sum_j s_j d_j;
//! dweights_k = scale * s_k * (d_k - sum_j s_j d_j). Each row gives its part of the last two, and the rows' parts are summed.

use crate::cpu::rows::ROWS_PER_TASK;
use crate::cpu::scratch::with_rows;
use crate::cpu::shared::SharedSlice;
use crate::cpu::simd::simd;
use crate::cuda;
use crate::dtype::DType;
use crate::profile::Work;
use crate::tape::{Backward, Tape, Value};
use crate::tensor::Tensor;
use crate::weights::{View, Weights};

/// What inputs are mixed by.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// `[1, n]`.
    pub weights: View,
    /// `[1, 1]`.
    pub scale: View,
}

/// What the backward needs.
struct Saved {
    inputs: Vec<Value>,
    mix: Mix,
    shares: Shares,
}

/// The softmax of the weights, and the same times the scale.
enum Shares {
    Host {
        softmax: Vec<f32>,
        scaled: Vec<f32>,
    },
    /// `[2, n]`.
    Device(Tensor),
}

impl Tape<'_> {
    /// See the module's header.
    ///
    /// # Panics
    /// When there is no input, or shapes differ.
    pub fn mix(&mut self, inputs: &[Value], mix: Mix) -> Value {
        let device = self.device;
        let _timer = device.time(Work::Other);
        let (rows, cols) = (inputs[0].tensor.rows(), inputs[0].tensor.cols());
        for Value { tensor, .. } in inputs {
            assert_eq!((tensor.rows(), tensor.cols()), (rows, cols), "matrices of one shape are mixed");
        }
        assert_eq!((mix.weights.len(), mix.scale.len()), (inputs.len(), 1), "a weight for each, and a scale");
        let mut y = self.uninit(rows, cols, DType::F32);
        let shares = if let Some(cuda) = device.cuda() {
            let shares = self.uninit(2, inputs.len(), DType::F32);
            let [weights, scale] = [mix.weights, mix.scale].map(|view| self.weights.device_f32(cuda, view));
            cuda::ops::mix::shares(cuda, weights, scale, &shares);
            for (at, input) in inputs.iter().enumerate() {
                cuda::ops::mix::add_share(cuda, &input.tensor, &shares, at, at > 0, &y);
            }
            Shares::Device(shares)
        } else {
            let shares = Shares::of(self.weights, mix);
            let level = device.level();
            let out = SharedSlice::new(y.f32_mut());
            device.for_each(rows.div_ceil(ROWS_PER_TASK), |task| {
                with_rows(cols, |_, scratch| {
                    for r in task * ROWS_PER_TASK..rows.min((task + 1) * ROWS_PER_TASK) {
                        // SAFETY: every task has rows of its own.
                        let y = unsafe { out.slice(r * cols, cols) };
                        y.fill(0.0);
                        for (input, factor) in inputs.iter().zip(shares.scaled()) {
                            add_scaled(level, y, input.tensor.row(level, r, scratch), *factor);
                        }
                    }
                });
            });
            shares
        };
        let trains = mix.weights.grad.is_some() || mix.scale.grad.is_some();
        let needs = trains || inputs.iter().any(|input| input.id.is_some());
        let saved = Saved { inputs: inputs.to_vec(), mix, shares };
        self.record(y, needs, move |back, dy| saved.backward(back, &dy))
    }
}

impl Shares {
    fn of(values: &Weights, mix: Mix) -> Self {
        let (weights, scale) = (values.get(mix.weights), values.get(mix.scale)[0]);
        let highest = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let powers: Vec<f32> = weights.iter().map(|weight| (weight - highest).exp()).collect();
        let sum: f32 = powers.iter().sum();
        let softmax: Vec<f32> = powers.into_iter().map(|power| power / sum).collect();
        let scaled = softmax.iter().map(|share| scale * share).collect();
        Self::Host { softmax, scaled }
    }

    /// On the processor.
    fn scaled(&self) -> &[f32] {
        match self {
            Self::Host { scaled, .. } => scaled,
            Self::Device(_) => &[],
        }
    }
}

impl Saved {
    fn backward(&self, back: &mut Backward<'_>, dy: &Tensor) {
        let device = back.device;
        let _timer = device.time(Work::Other);
        let (rows, cols, n) = (dy.rows(), dy.cols(), self.inputs.len());
        // Of each row what it gives the weights, and behind those what it gives the scale.
        let mut slopes = back.uninit(rows, n + 1, DType::F32);
        let gradient = |input: &Value| input.id.map(|_| back.uninit(rows, cols, DType::F32));
        let mut gradients: Vec<Option<Tensor>> = self.inputs.iter().map(gradient).collect();
        match &self.shares {
            Shares::Host { softmax, scaled } => {
                self.on_cpu(back, dy, (softmax, scaled), &mut gradients, &mut slopes);
            }
            Shares::Device(shares) => {
                let Some(cuda) = device.cuda() else { return };
                for (at, (input, dx)) in self.inputs.iter().zip(&gradients).enumerate() {
                    cuda::ops::mix::dots(cuda, &input.tensor, dy, at, &slopes);
                    if let Some(dx) = dx {
                        cuda::ops::mix::add_share(cuda, dy, shares, at, false, dx);
                    }
                }
                cuda::ops::mix::slopes(cuda, shares, &slopes);
            }
        }
        back.add_column_sums(&slopes, 0, Some(self.mix.weights));
        back.add_column_sums(&slopes, n, Some(self.mix.scale));
        for (input, dx) in self.inputs.iter().zip(gradients) {
            if let Some(dx) = dx {
                back.add(input.id, dx);
            }
        }
    }

    /// Fills the gradients of the inputs that have one, and the slopes.
    fn on_cpu(
        &self,
        back: &Backward<'_>,
        dy: &Tensor,
        (softmax, scaled): (&[f32], &[f32]),
        gradients: &mut [Option<Tensor>],
        slopes: &mut Tensor,
    ) {
        let (rows, cols, level) = (dy.rows(), dy.cols(), back.device.level());
        let n = self.inputs.len();
        let all_slopes = SharedSlice::new(slopes.f32_mut());
        let out: Vec<Option<SharedSlice<'_, f32>>> =
            gradients.iter_mut().map(|dx| dx.as_mut().map(|dx| SharedSlice::new(dx.f32_mut()))).collect();
        back.device.for_each(rows.div_ceil(ROWS_PER_TASK), |task| {
            with_rows(cols, |z, scratch| {
                for r in task * ROWS_PER_TASK..rows.min((task + 1) * ROWS_PER_TASK) {
                    z.copy_from_slice(dy.row(level, r, scratch));
                    // SAFETY: every task has rows of its own.
                    let slopes = unsafe { all_slopes.slice(r * (n + 1), n + 1) };
                    for (at, (input, out)) in self.inputs.iter().zip(&out).enumerate() {
                        slopes[at] = dot(level, z, input.tensor.row(level, r, scratch));
                        if let Some(out) = out {
                            // SAFETY: as above.
                            let dx = unsafe { out.slice(r * cols, cols) };
                            dx.iter_mut().zip(&*z).for_each(|(dx, dy)| *dx = scaled[at] * dy);
                        }
                    }
                    let mean: f32 = softmax.iter().zip(&*slopes).map(|(share, slope)| share * slope).sum();
                    let of_weights = slopes.iter_mut().zip(scaled);
                    of_weights.for_each(|(slope, share)| *slope = share * (*slope - mean));
                    slopes[n] = mean;
                }
            });
        });
    }
}

simd! {
    fn add_scaled(y: &mut [f32], x: &[f32], factor: f32) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += factor * *x;
        }
    }
}

simd! {
    fn dot(a: &[f32], b: &[f32]) -> f32 {
        let mut lanes = [0.0_f32; 16];
        let ((a, rest_a), (b, rest_b)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
        for (a, b) in a.iter().zip(b) {
            for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
                *lane += a * b;
            }
        }
        let rest: f32 = rest_a.iter().zip(rest_b).map(|(a, b)| a * b).sum();
        lanes.iter().sum::<f32>() + rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Gradcheck, ODD_SIZES};

    fn reference(x: &[Vec<f64>], weights: &[f64], scale: f64) -> Vec<f64> {
        let sum: f64 = weights.iter().map(|weight| weight.exp()).sum();
        let mixed = |at: usize| {
            let terms = x.iter().zip(weights).map(|(x, weight)| weight.exp() / sum * x[at]);
            scale * terms.sum::<f64>()
        };
        (0..x[0].len()).map(mixed).collect()
    }

    #[test]
    fn gradcheck() {
        for (i, cols) in ODD_SIZES.into_iter().enumerate() {
            let rows = ODD_SIZES[(i + 3) % 8];
            let inputs = [("a", rows, cols), ("b", rows, cols), ("c", rows, cols)];
            Gradcheck::new("mix", &inputs, &[("weights", 1, 3), ("scale", 1, 1)]).run(
                |tape, x, w| tape.mix(x, Mix { weights: w[0], scale: w[1] }),
                |x, w| reference(x, &w[0], w[1][0]),
            );
        }
    }

    /// One input is itself, times the scale; a weight has no slope then.
    #[test]
    fn gradcheck_of_one() {
        Gradcheck::new("mix", &[("x", 33, 7)], &[("scale", 1, 1)]).run(
            |tape, x, w| {
                let nothing = View { offset: w[0].offset, rows: 1, cols: 1, grad: None };
                tape.mix(x, Mix { weights: nothing, scale: w[0] })
            },
            |x, w| reference(x, &[0.0], w[0][0]),
        );
    }
}
