//! Linear with its epilogue: y = drop(scale * act(x W^T + addends + b)) + residuals.
//!
//! Shapes: x `[N, in]`, W `[out, in]` (as PyTorch keeps it), b `[1, out]`, residuals and y `[N, out]`; an addend
//! `[N, width]` stands over the columns `first .. first + width` of the output.
//! The epilogue order is addends, bias, activation, scale, dropout, residuals; it runs on each row segment while the
//! matmul's tile is in cache. Without residuals y is kept in the activation type of the precision (it feeds matmuls),
//! with residuals, or where asked, in f32.
//!
//! Backward, with m the dropout factors and z the pre-activation: dz = dy * m * scale * act'(z); an addend's gradient
//! is its columns of dz; db = column sums of dz; dW = dz^T x; dx = dz W; each residual's gradient is dy.
//!
//! A range of a packed weight is a linear over [`View::row_range`] (and [`View::column_range`] of its bias). A low-rank
//! update of it (LoRA, Hu et al. 2021) is an addend: `scale` * (x A^T) B^T from two more linears.

use crate::activation::{activate, derive};
use crate::cpu::gemm::{Destination, Operand};
use crate::cpu::rows::{ROWS_PER_TASK, add, add_segment, apply_dropout, multiply_by};
use crate::cpu::scratch::with_rows;
use crate::cpu::shared::{SharedSlice, SharedTensor};
use crate::cuda::ops::linear::Epilogue;
use crate::cuda::{self, Context, Write};
use crate::dtype::DType;
use crate::matmul::{self, Direction, RoomBehind};
use crate::profile::Work;
use crate::tape::{ActiveDropout, Backward, Dropout, Tape, Value};
use crate::tensor::Tensor;
use crate::weights::View;

pub use crate::activation::Activation;

/// A linear and its epilogue.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: View,
    /// `[1, out]`.
    pub bias: Option<View>,
    /// After the bias.
    pub activation: Activation,
    /// What the activation's output is multiplied by.
    pub scale: f32,
    /// After the scale; the rows must be the packing's tokens.
    pub dropout: Option<Dropout>,
    /// Keep the output in f32 whatever the precision: logits.
    pub f32_output: bool,
    /// Nothing but linears reads the output, so it may have columns of zeros behind its own, which make matmuls on a GPU fast. Not
    /// with residuals or dropout.
    pub padded_output: bool,
}

impl Linear {
    /// y = x W^T + b.
    pub fn new(weight: View, bias: Option<View>) -> Self {
        let (activation, dropout) = (Activation::Identity, None);
        Self { weight, bias, activation, scale: 1.0, dropout, f32_output: false, padded_output: false }
    }

    fn scales(&self) -> bool {
        self.scale.to_bits() != 1.0_f32.to_bits()
    }
}

/// What is added to some columns of a linear's matmul, before bias and activation.
#[derive(Clone, Copy, Debug)]
pub struct Addend<'a> {
    /// `[N, width]`.
    pub value: &'a Value,
    /// The column of the output that its first column is added to.
    pub first: usize,
}

/// What the backward needs.
struct Saved {
    /// As the matmul took it.
    x: Tensor,
    /// Where x's gradient goes, its columns and its type.
    x_gradient: Option<(usize, usize, DType)>,
    linear: Linear,
    dropout: Option<ActiveDropout>,
    /// What the activation's derivative is computed from: its output for ReLU, its input for all others.
    activation: Option<Tensor>,
    /// Gradient, first column and width of each addend that has a gradient.
    addends: Vec<(usize, usize, usize)>,
    residuals: Vec<usize>,
}

impl Tape<'_> {
    /// See the module's header.
    ///
    /// # Panics
    /// When the shapes do not fit.
    pub fn linear(&mut self, x: &Value, linear: Linear, residuals: &[&Value]) -> Value {
        self.linear_with(x, linear, &[], residuals)
    }

    /// As [`Tape::linear`], with addends before bias and activation.
    ///
    /// # Panics
    /// When the shapes do not fit.
    pub fn linear_with(
        &mut self,
        x: &Value,
        linear: Linear,
        addends: &[Addend<'_>],
        residuals: &[&Value],
    ) -> Value {
        let device = self.device;
        let _timer = device.time(Work::Linear);
        let Linear { weight, bias, .. } = linear;
        let rows = x.tensor.rows();
        let cols = if linear.padded_output {
            assert!(residuals.is_empty() && linear.dropout.is_none(), "linear: a padded output");
            matmul::columns_for_linears(device, self.precision, rows, weight.rows)
        } else {
            weight.rows
        };
        let read = matmul::columns_for_linears(device, self.precision, rows, weight.cols);
        assert!([weight.cols, read].contains(&x.tensor.cols()), "linear: columns of x and of the weight");
        for Addend { value, first } in addends {
            let (height, width) = (value.tensor.rows(), value.tensor.cols());
            assert!(
                height == rows && first + width <= cols,
                "linear: an addend [{height}, {width}] at {first}"
            );
        }
        let dropout = self.active_dropout(linear.dropout);
        let trainable = weight.grad.is_some() || bias.is_some_and(|b| b.grad.is_some());
        let through = x.id.is_some() || trainable || addends.iter().any(|a| a.value.id.is_some());
        let needs = self.is_training() && (through || residuals.iter().any(|r| r.id.is_some()));
        let as_f32 = linear.f32_output || !residuals.is_empty();
        let mut y = self.uninit(rows, cols, if as_f32 { DType::F32 } else { self.precision.activation() });
        // ReLU's derivative can be read off its output unless something was made of that.
        let from_output = linear.activation == Activation::Relu
            && !linear.scales()
            && dropout.is_none()
            && residuals.is_empty();
        let mut saved = (needs && through && linear.activation != Activation::Identity && !from_output)
            .then(|| self.uninit(rows, cols, self.precision.activation()));
        if let Some(cuda) = device.cuda() {
            let kept = saved.as_ref();
            self.linear_on_gpu(cuda, x, &linear, dropout.as_ref(), addends, residuals, kept, &mut y);
        } else {
            let kept = saved.as_mut();
            self.linear_on_cpu(x, &linear, dropout.as_ref(), addends, residuals, kept, &mut y);
        }
        if needs && through && from_output {
            saved = Some(y.clone());
        }
        let saved = Saved {
            x: x.operand().clone(),
            x_gradient: x.id.map(|id| (id, x.tensor.cols(), x.tensor.dtype())),
            linear,
            dropout,
            activation: saved,
            addends: addends
                .iter()
                .filter_map(|a| Some((a.value.id?, a.first, a.value.tensor.cols())))
                .collect(),
            residuals: residuals.iter().filter_map(|r| r.id).collect(),
        };
        self.record(y, needs, move |back, dy| saved.backward(back, &dy))
    }

    /// Fills y, and `saved` with the pre-activation.
    fn linear_on_cpu(
        &self,
        x: &Value,
        linear: &Linear,
        dropout: Option<&ActiveDropout>,
        addends: &[Addend<'_>],
        residuals: &[&Value],
        saved: Option<&mut Tensor>,
        y: &mut Tensor,
    ) {
        let bias = linear.bias.map(|b| self.weights.get(b));
        let level = self.device.level();
        let destination = Some(Destination::of(y));
        let out = SharedTensor::new(y);
        let saved = saved.map(SharedTensor::new);
        let store = |row: usize, col: usize, z: &mut [f32]| {
            for Addend { value, first } in addends {
                let (from, to) = (col.max(*first), (col + z.len()).min(first + value.tensor.cols()));
                if from < to {
                    add_segment(level, &mut z[from - col..to - col], &value.tensor, row, from - first);
                }
            }
            if let Some(bias) = bias {
                add(level, z, &bias[col..col + z.len()]);
            }
            // SAFETY: the matmul hands out every element of the output once.
            unsafe {
                if let Some(saved) = &saved {
                    saved.write(level, row, col, z);
                }
                activate(level, linear.activation, z);
                if linear.scales() {
                    multiply_by(level, z, linear.scale);
                }
                if let Some(d) = dropout {
                    apply_dropout(level, z, d.key(row), col, d.rate);
                }
                for residual in residuals {
                    add_segment(level, z, &residual.tensor, row, col);
                }
                out.write(level, row, col, z);
            }
        };
        self.by_weight(linear.weight, Direction::Forward).multiply(
            Operand::new(&x.tensor),
            destination,
            store,
        );
    }

    /// As [`Tape::linear_on_cpu`]: a matmul, then one element-wise pass for all of the epilogue.
    fn linear_on_gpu(
        &self,
        cuda: &Context,
        x: &Value,
        linear: &Linear,
        dropout: Option<&ActiveDropout>,
        addends: &[Addend<'_>],
        residuals: &[&Value],
        saved: Option<&Tensor>,
        y: &mut Tensor,
    ) {
        let plain = linear.bias.is_none()
            && linear.activation == Activation::Identity
            && !linear.scales()
            && dropout.is_none()
            && addends.is_empty()
            && residuals.is_empty();
        let by_weight = self.by_weight(linear.weight, Direction::Forward);
        if plain {
            return by_weight.multiply_into(x.operand(), y, Write::Replace);
        }
        if let Some(bias) = linear.bias
            && !linear.scales()
            && dropout.is_none()
            && addends.is_empty()
            && residuals.is_empty()
            && by_weight.finish_on_gpu(cuda, x.operand(), bias, linear.activation, saved, y)
        {
            return;
        }
        // What the epilogue still works on is not rounded before it has.
        let z = if y.dtype() == DType::F32 && !matmul::pads(self.precision, y.rows(), linear.weight) {
            by_weight.multiply_into(x.operand(), y, Write::Replace);
            y.clone()
        } else {
            by_weight.product_on_gpu(cuda, x.operand(), DType::F32)
        };
        for Addend { value, first } in addends {
            cuda::ops::elementwise::add_columns(cuda, &z, *first, &value.tensor);
        }
        let epilogue = Epilogue {
            bias: linear.bias.map(|bias| (self.weights.device_f32(cuda, bias), bias.cols)),
            activation: linear.activation,
            scale: linear.scale,
            dropout: dropout.and_then(ActiveDropout::on_device),
            saved,
        };
        cuda::ops::linear::epilogue(cuda, &z, &epilogue, residuals.iter().map(|r| &r.tensor), y);
    }
}

impl Saved {
    fn backward(&self, back: &mut Backward<'_>, dy: &Tensor) {
        let Linear { weight, bias, .. } = self.linear;
        let trains = weight.grad.is_some() || bias.is_some_and(|b| b.grad.is_some());
        if self.x_gradient.is_some() || trains || !self.addends.is_empty() {
            let dz = self.pre_activation_gradient(back, dy);
            self.weight_gradient(back, &dz);
            self.input_gradient(back, &dz);
            self.addend_gradients(back, &dz);
        }
        for &residual in &self.residuals {
            back.add(Some(residual), dy.clone());
        }
    }

    /// dz, on a GPU perhaps with zeros behind its columns, and the bias's gradient on the way.
    fn pre_activation_gradient(&self, back: &mut Backward<'_>, dy: &Tensor) -> Tensor {
        let device = back.device;
        let _timer = device.time(Work::LinearElementwise);
        let (rows, cols, dtype) = (dy.rows(), dy.cols(), back.precision.activation());
        let mut changes = self.dropout.is_some() || self.activation.is_some() || self.linear.scales();
        // On a GPU matmuls take operands of one type, some with zeros behind their columns: it is made so here, once.
        let pads = device.is_cuda() && matmul::pads(back.precision, rows, self.linear.weight);
        let dz_cols = if pads { cuda::ops::elementwise::padded(cols) } else { cols };
        changes |= device.is_cuda() && (dy.dtype() != dtype || dz_cols != cols);
        let bias = self.linear.bias.filter(|b| b.grad.is_some());
        if !changes && bias.is_none() {
            return dy.clone();
        }
        let mut dz = changes.then(|| back.uninit(rows, dz_cols, dtype));
        if let Some(cuda) = device.cuda() {
            let partial = bias.map(|_| back.uninit(cuda::ops::row_blocks(rows), cols, DType::F32));
            let epilogue = Epilogue {
                bias: None,
                activation: self.linear.activation,
                scale: self.linear.scale,
                dropout: self.dropout.as_ref().and_then(ActiveDropout::on_device),
                saved: self.activation.as_ref(),
            };
            cuda::ops::linear::epilogue_backward(cuda, dy, &epilogue, dz.as_ref(), partial.as_ref());
            if let Some(partial) = &partial {
                back.add_column_sums(partial, 0, bias);
            }
        } else {
            let partial = self.pre_activation_gradient_on_cpu(back, dy, dz.as_mut());
            back.add_column_sums(&partial, 0, bias);
        }
        dz.unwrap_or_else(|| dy.clone())
    }

    /// Fills dz, where it is not simply dy; column sums of dz, a row of them per task.
    fn pre_activation_gradient_on_cpu(
        &self,
        back: &Backward<'_>,
        dy: &Tensor,
        dz: Option<&mut Tensor>,
    ) -> Tensor {
        let (rows, cols, level) = (dy.rows(), dy.cols(), back.device.level());
        let tasks = rows.div_ceil(ROWS_PER_TASK);
        let mut partial = back.uninit(tasks, cols, DType::F32);
        let out = dz.map(SharedTensor::new);
        let all_sums = SharedSlice::new(partial.f32_mut());
        back.device.for_each(tasks, |task| {
            // SAFETY: every task has a partial row, and rows of dz, of its own.
            let sums = unsafe { all_sums.slice(task * cols, cols) };
            sums.fill(0.0);
            with_rows(cols, |z, scratch| {
                for r in task * ROWS_PER_TASK..rows.min((task + 1) * ROWS_PER_TASK) {
                    let Some(out) = &out else {
                        add(level, sums, dy.row(level, r, scratch));
                        continue;
                    };
                    z.copy_from_slice(dy.row(level, r, scratch));
                    if let Some(d) = &self.dropout {
                        apply_dropout(level, z, d.key(r), 0, d.rate);
                    }
                    if self.linear.scales() {
                        multiply_by(level, z, self.linear.scale);
                    }
                    if let Some(saved) = &self.activation {
                        derive(level, self.linear.activation, z, saved.row(level, r, scratch));
                    }
                    add(level, sums, z);
                    // SAFETY: as above.
                    unsafe { out.write(level, r, 0, z) };
                }
            });
        });
        partial
    }

    fn weight_gradient(&self, back: &mut Backward<'_>, dz: &Tensor) {
        let device = back.device;
        let _timer = device.time(Work::LinearWeightGradient);
        let (x, weight, others) = (&self.x, self.linear.weight, RoomBehind::Complete);
        matmul::accumulate_weight_gradient(device, back.precision, dz, x, weight, back.gradients, others);
    }

    fn input_gradient(&self, back: &mut Backward<'_>, dz: &Tensor) {
        let device = back.device;
        let _timer = device.time(Work::LinearInputGradient);
        let Some((id, cols, dtype)) = self.x_gradient else { return };
        let gathered = back.take_unique_f32(id);
        let write = if gathered.is_some() { Write::Add } else { Write::Replace };
        let mut dx = gathered.unwrap_or_else(|| back.uninit(dz.rows(), cols, dtype));
        back.by_weight(self.linear.weight, Direction::Backward).multiply_into(dz, &mut dx, write);
        back.add(Some(id), dx);
    }

    fn addend_gradients(&self, back: &mut Backward<'_>, dz: &Tensor) {
        let device = back.device;
        let _timer = device.time(Work::LinearElementwise);
        for &(id, first, width) in &self.addends {
            // On a GPU dz may have further columns.
            let gradient = if width == dz.cols() { dz.clone() } else { columns_of(back, dz, first, width) };
            back.add(Some(id), gradient);
        }
    }
}

/// A copy of the columns `first .. first + width`.
fn columns_of(back: &Backward<'_>, from: &Tensor, first: usize, width: usize) -> Tensor {
    let mut to = back.uninit(from.rows(), width, from.dtype());
    if let Some(cuda) = back.device.cuda() {
        cuda::ops::elementwise::copy_columns(cuda, from, first, &to);
        return to;
    }
    let cols = from.cols();
    match from.dtype() {
        DType::F32 => {
            for (to, from) in to.f32_mut().chunks_exact_mut(width).zip(from.f32().chunks_exact(cols)) {
                to.copy_from_slice(&from[first..first + width]);
            }
        }
        DType::Bf16 => {
            for (to, from) in to.bf16_mut().chunks_exact_mut(width).zip(from.bf16().chunks_exact(cols)) {
                to.copy_from_slice(&from[first..first + width]);
            }
        }
    }
    to
}

/// The plain reference, in f64.
#[cfg(test)]
pub(crate) mod reference {
    use super::Activation;

    /// act(x W^T + b), x `[rows, inputs]`, W `[bias.len(), inputs]`.
    pub(crate) fn forward(x: &[f64], weight: &[f64], bias: &[f64], activation: Activation) -> Vec<f64> {
        let (outputs, inputs) = (bias.len(), weight.len() / bias.len());
        let mut y = Vec::new();
        for row in x.chunks(inputs) {
            for o in 0..outputs {
                let z = bias[o] + row.iter().zip(&weight[o * inputs..]).map(|(x, w)| x * w).sum::<f64>();
                y.push(activate(z, activation));
            }
        }
        y
    }

    /// By its series without cancellation: 2 / sqrt(pi) exp(-x^2) (x + 2 x^3 / 3 + 4 x^5 / 15 + ..).
    fn erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..300 {
            term *= 2.0 * x * x / f64::from(2 * n + 1);
            sum += term;
        }
        std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
    }

    pub(crate) fn activate(z: f64, activation: Activation) -> f64 {
        match activation {
            Activation::Identity => z,
            Activation::Relu => z.max(0.0),
            Activation::Gelu => {
                0.5 * z * (1.0 + (0.797_884_560_802_865_4 * (z + 0.044_715 * z.powi(3))).tanh())
            }
            Activation::GeluExact => 0.5 * z * (1.0 + erf(z * std::f64::consts::FRAC_1_SQRT_2)),
            Activation::Silu => z / (1.0 + (-z).exp()),
            Activation::Tanh => z.tanh(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{DropRate, dropout_factor, row_key, site_key};
    use crate::testing::{Gradcheck, ODD_SIZES, SEED, STEP};

    #[test]
    fn gradcheck_over_odd_sizes() {
        for (i, &size) in ODD_SIZES.iter().enumerate() {
            let (rows, inputs, outputs) =
                (size, ODD_SIZES[(i + 3) % ODD_SIZES.len()], ODD_SIZES[(i + 5) % ODD_SIZES.len()]);
            Gradcheck::new(
                "linear",
                &[("x", rows, inputs)],
                &[("weight", outputs, inputs), ("bias", 1, outputs)],
            )
            .run(
                |tape, x, w| tape.linear(&x[0], Linear::new(w[0], Some(w[1])), &[]),
                |x, w| reference::forward(&x[0], &w[0], &w[1], Activation::Identity),
            );
        }
    }

    /// Bias, activation, dropout and residuals of a linear of these (rows, inputs, outputs).
    fn check_epilogue(
        activation: Activation,
        (p, residuals): (f32, usize),
        (rows, inputs, outputs): (usize, usize, usize),
    ) {
        let mut inputs_of = vec![("x", rows, inputs)];
        inputs_of.extend((0..residuals).map(|_| ("residual", rows, outputs)));
        Gradcheck::new("linear", &inputs_of, &[("weight", outputs, inputs), ("bias", 1, outputs)]).run(
            |tape, x, w| {
                let dropout = Some(Dropout { p, site: 5 });
                let linear = Linear { activation, dropout, ..Linear::new(w[0], Some(w[1])) };
                tape.linear(&x[0], linear, &x[1..].iter().collect::<Vec<_>>())
            },
            |x, w| {
                let mut y = reference::forward(&x[0], &w[0], &w[1], activation);
                for (i, y) in y.iter_mut().enumerate() {
                    let key = site_key(row_key(SEED, STEP, 0, (i / outputs) as u64), 5);
                    if p > 0.0 {
                        *y *= f64::from(dropout_factor(key, i % outputs, DropRate::new(p)));
                    }
                    *y += x[1..].iter().map(|r| r[i]).sum::<f64>();
                }
                y
            },
        );
    }

    #[test]
    fn gradcheck_with_the_whole_epilogue() {
        let rare = [Activation::GeluExact, Activation::Silu, Activation::Tanh];
        let common = [Activation::Identity, Activation::Relu, Activation::Gelu];
        for (i, activation) in common.into_iter().chain(rare).enumerate() {
            for (p, residuals) in
                [(0.0, 0), (0.3, 1), (0.0, 2), (0.4, 0), (0.1, 3)].into_iter().take(if i < 3 { 5 } else { 2 })
            {
                check_epilogue(activation, (p, residuals), (13, 31, 41));
            }
        }
    }

    /// On a GPU in bf16: bias and activation in the matmul, four columns a thread on the way back.
    #[test]
    fn gradcheck_of_columns_in_fours() {
        let activations = [Activation::Identity, Activation::Relu, Activation::Gelu, Activation::GeluExact];
        for (i, activation) in activations.into_iter().enumerate() {
            for (p, residuals) in [(0.0, 0), (0.2, 0), (0.2, 1)] {
                check_epilogue(activation, (p, residuals), (37, 24, 48 + 4 * i));
            }
        }
    }

    #[test]
    fn gradcheck_with_addends_and_a_scale() {
        for (i, activation) in
            [Activation::Identity, Activation::Relu, Activation::Gelu].into_iter().enumerate()
        {
            for (scale, p, residuals) in [(1.0, 0.0, 0), (0.75, 0.0, 0), (-1.5, 0.3, 1)] {
                let (rows, inputs, outputs) = (13, ODD_SIZES[i + 2], 41);
                // All columns, the first of them, the last, some in the middle that overlap with both.
                let spans = [(0, outputs), (0, 7), (outputs - 8, 8), (5, 31)];
                let mut inputs_of = vec![("x", rows, inputs)];
                inputs_of.extend(spans.map(|(_, width)| ("addend", rows, width)));
                inputs_of.extend((0..residuals).map(|_| ("residual", rows, outputs)));
                let params = [("weight", outputs, inputs), ("bias", 1, outputs)];
                Gradcheck::new("linear", &inputs_of, &params).run(
                    |tape, x, w| {
                        let dropout = Some(Dropout { p, site: 5 });
                        let linear = Linear { activation, scale, dropout, ..Linear::new(w[0], Some(w[1])) };
                        let addends: Vec<_> = x[1..]
                            .iter()
                            .zip(spans)
                            .map(|(value, (first, _))| Addend { value, first })
                            .collect();
                        let residuals: Vec<_> = x[1 + spans.len()..].iter().collect();
                        tape.linear_with(&x[0], linear, &addends, &residuals)
                    },
                    |x, w| {
                        let mut z = reference::forward(&x[0], &w[0], &w[1], Activation::Identity);
                        for (r, z) in z.chunks_mut(outputs).enumerate() {
                            for (addend, (first, width)) in x[1..].iter().zip(spans) {
                                for c in 0..width {
                                    z[first + c] += addend[r * width + c];
                                }
                            }
                        }
                        let mut y: Vec<f64> = z
                            .into_iter()
                            .map(|z| reference::activate(z, activation) * f64::from(scale))
                            .collect();
                        for (i, y) in y.iter_mut().enumerate() {
                            let key = site_key(row_key(SEED, STEP, 0, (i / outputs) as u64), 5);
                            if p > 0.0 {
                                *y *= f64::from(dropout_factor(key, i % outputs, DropRate::new(p)));
                            }
                            *y += x[1 + spans.len()..].iter().map(|r| r[i]).sum::<f64>();
                        }
                        y
                    },
                );
            }
        }
    }

    /// Queries and values with a low-rank update each, over one packed weight and bias.
    #[test]
    fn gradcheck_of_low_rank_updates_of_a_packed_weight() {
        let (rows, cols, rank, scale) = (9, 7, 3, 0.5);
        let params = [
            ("weight", 3 * cols, cols),
            ("bias", 1, 3 * cols),
            ("a", rank, cols),
            ("b", cols, rank),
            ("d", cols, rank),
        ];
        Gradcheck::new("linear", &[("x", rows, cols)], &params).run(
            |tape, x, w| {
                let small = tape.linear(&x[0], Linear::new(w[2], None), &[]);
                let up = |weight| Linear { scale, f32_output: true, ..Linear::new(weight, None) };
                let (of_queries, of_values) =
                    (tape.linear(&small, up(w[3]), &[]), tape.linear(&small, up(w[4]), &[]));
                let addends =
                    [Addend { value: &of_queries, first: 0 }, Addend { value: &of_values, first: 2 * cols }];
                tape.linear_with(&x[0], Linear::new(w[0], Some(w[1])), &addends, &[])
            },
            |x, w| {
                let none = vec![0.0; cols];
                let small = reference::forward(&x[0], &w[2], &none[..rank], Activation::Identity);
                let mut y = reference::forward(&x[0], &w[0], &w[1], Activation::Identity);
                for (up, first) in [(&w[3], 0), (&w[4], 2 * cols)] {
                    let update = reference::forward(&small, up, &none, Activation::Identity);
                    for (i, update) in update.iter().enumerate() {
                        y[i / cols * 3 * cols + first + i % cols] += f64::from(scale) * update;
                    }
                }
                y
            },
        );
    }

    /// Queries, keys and values apart, over ranges of one packed weight and bias: what the packed linear computes.
    #[test]
    fn gradcheck_of_ranges_of_a_packed_weight() {
        for cols in [1, 7, 31] {
            for which in 0..3 {
                let params = [("weight", 3 * cols, cols), ("bias", 1, 3 * cols)];
                let range = which * cols..(which + 1) * cols;
                Gradcheck::new("linear", &[("x", 5, cols)], &params).run(
                    |tape, x, w| {
                        let (weight, bias) =
                            (w[0].row_range(range.clone()), w[1].column_range(range.clone()));
                        tape.linear(&x[0], Linear::new(weight, Some(bias)), &[])
                    },
                    |x, w| {
                        let weight = &w[0][range.start * cols..range.end * cols];
                        reference::forward(&x[0], weight, &w[1][range.clone()], Activation::Identity)
                    },
                );
            }
        }
    }
}
