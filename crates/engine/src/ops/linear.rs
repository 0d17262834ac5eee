//! Linear with its epilogue: y = drop(act(x W^T + b)) + residuals.
//!
//! Shapes: x `[N, in]`, W `[out, in]` (as PyTorch keeps it), b `[1, out]`, residuals and y `[N, out]`.
//! The epilogue order is bias, activation, dropout, residuals; it runs on each row segment while the product's
//! tile is in cache. Without residuals y is kept in the activation type of the precision (it feeds products),
//! with residuals, or where asked, in f32.
//!
//! Backward, with m the dropout factors and z the pre-activation: dz = dy * m * act'(z);
//! db = column sums of dz; dW = dz^T x; dx = dz W; each residual's gradient is dy.

use half::bf16;

use crate::cpu::convert;
use crate::cpu::gemm::{Destination, Operand, Right, gemm};
use crate::cpu::math;
use crate::cpu::scratch::with_rows;
use crate::cpu::shared::SharedSlice;
use crate::cpu::simd::{Level, simd};
use crate::cuda;
use crate::profile::Work;
use crate::rng::{DropRate, dropout_block};
use crate::tape::{ActiveDropout, Backward, Dropout, Node, Tape, Value};
use crate::tensor::{DType, Precision, Tensor};
use crate::weights::{View, Weights};

/// Rows that one task of an element-wise pass handles; fixed, so that partial sums do not depend on threads.
pub(crate) const ROWS_PER_TASK: usize = 32;

/// Activation functions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    /// None.
    #[default]
    Identity,
    /// max(x, 0).
    Relu,
    /// GELU in its tanh form (Hendrycks and Gimpel 2016), as GPT-2 has it.
    Gelu,
}

/// A linear and its epilogue.
#[derive(Clone, Copy, Debug, Default)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Option<View>,
    /// `[1, out]`.
    pub bias: Option<View>,
    /// After the bias.
    pub activation: Activation,
    /// After the activation; the rows must be the packing's tokens.
    pub dropout: Option<Dropout>,
    /// Keep the output in f32 whatever the precision: logits.
    pub f32_output: bool,
}

#[derive(Debug)]
pub(crate) struct LinearNode {
    out: usize,
    pub(crate) x: Value,
    pub(crate) weight: View,
    pub(crate) bias: Option<View>,
    pub(crate) activation: Activation,
    pub(crate) dropout: Option<ActiveDropout>,
    /// What the activation's derivative is computed from: its output for ReLU, its input for GELU.
    pub(crate) saved: Option<Tensor>,
    residuals: Vec<usize>,
}

impl Linear {
    /// y = x W^T + b.
    pub fn new(weight: View, bias: Option<View>) -> Self {
        Self { weight: Some(weight), bias, ..Self::default() }
    }
}

impl Tape<'_> {
    /// See the module's header.
    ///
    /// # Panics
    /// When the shapes do not fit.
    pub fn linear(&mut self, x: &Value, linear: Linear, residuals: &[&Value]) -> Value {
        let device = self.device;
        let _timer = device.time(Work::Linear);
        let Some(weight) = linear.weight else { unreachable!("a linear has a weight") };
        let (rows, cols) = (x.tensor.rows(), weight.rows);
        assert_eq!(x.tensor.cols(), weight.cols, "linear: columns of x and of the weight");
        let dropout = self.active_dropout(linear.dropout);
        let trainable = weight.grad.is_some() || linear.bias.is_some_and(|b| b.grad.is_some());
        let through = x.id.is_some() || trainable;
        let needs = self.is_training() && (through || residuals.iter().any(|r| r.id.is_some()));
        let as_f32 = linear.f32_output || !residuals.is_empty();
        let mut y = self.uninit(rows, cols, if as_f32 { DType::F32 } else { self.precision.activation() });
        // ReLU's derivative can be read off its output unless something was added to or dropped from that.
        let from_output = linear.activation == Activation::Relu && dropout.is_none() && residuals.is_empty();
        let mut saved = (needs && through && linear.activation != Activation::Identity && !from_output)
            .then(|| self.uninit(rows, cols, self.precision.activation()));
        if let Some(cuda) = device.cuda() {
            let (with, drops) = ((weight, &linear), dropout.as_ref());
            cuda::ops::linear::forward(cuda, self, &x.tensor, with, drops, residuals, saved.as_ref(), &y);
        } else {
            let bias = linear.bias.map(|b| self.weights.get(b));
            let level = self.device.level();
            let destination = destination_of(&y);
            let out = SharedOut::new(&mut y);
            let keep = saved.as_mut().map(SharedOut::new);
            let store = |row: usize, col: usize, z: &mut [f32]| {
                if let Some(bias) = bias {
                    add(level, z, &bias[col..col + z.len()]);
                }
                // SAFETY: the product hands out every element of the output once.
                unsafe {
                    if let Some(keep) = &keep {
                        keep.write(level, row, col, z);
                    }
                    activate(level, linear.activation, z);
                    if let Some(d) = &dropout {
                        apply_dropout(level, z, d.key(row), col, d.rate);
                    }
                    for residual in residuals {
                        add_part(level, z, &residual.tensor, row, col);
                    }
                    out.write(level, row, col, z);
                }
            };
            multiply_weight(
                self.device,
                self.weights,
                self.precision,
                Operand::new(&x.tensor),
                weight,
                true,
                Some(destination),
                store,
            );
        }
        if needs && through && from_output {
            saved = Some(y.clone());
        }
        let (x, bias, activation) = (x.clone(), linear.bias, linear.activation);
        let residuals = residuals.iter().filter_map(|r| r.id).collect();
        self.record(y, needs, |out| {
            Node::Linear(LinearNode { out, x, weight, bias, activation, dropout, saved, residuals })
        })
    }
}

impl LinearNode {
    pub(crate) fn backward(self, back: &mut Backward<'_>) {
        let Some(dy) = back.take(self.out) else { return };
        let trains = self.weight.grad.is_some() || self.bias.is_some_and(|b| b.grad.is_some());
        let uses_product = self.x.id.is_some() || trains;
        if let Some(cuda) = back.device.cuda().filter(|_| uses_product) {
            cuda::ops::linear::backward(cuda, back, &self, &dy);
        } else if uses_product {
            let dz = self.pre_activation_gradient(back, &dy);
            self.weight_gradient(back, &dz);
            self.input_gradient(back, &dz);
        }
        for &residual in &self.residuals {
            back.add(Some(residual), dy.clone());
        }
    }

    /// dz, and the bias's gradient on the way.
    fn pre_activation_gradient(&self, back: &mut Backward<'_>, dy: &Tensor) -> Tensor {
        let device = back.device;
        let _timer = device.time(Work::LinearElementwise);
        let (rows, cols) = (dy.rows(), dy.cols());
        let level = back.device.level();
        let copies = self.dropout.is_some() || self.saved.is_some();
        let sums = self.bias.filter(|b| b.grad.is_some());
        if !copies && sums.is_none() {
            return dy.clone();
        }
        let mut dz = copies.then(|| back.uninit(rows, cols, back.precision.activation()));
        let tasks = rows.div_ceil(ROWS_PER_TASK);
        let mut partial = back.uninit(tasks, cols, DType::F32);
        {
            let out = dz.as_mut().map(SharedOut::new);
            let partial = SharedSlice::new(partial.f32_mut());
            back.device.for_each(tasks, |task| {
                // SAFETY: every task has a partial row, and rows of dz, of its own.
                let sums = unsafe { partial.part(task * cols, cols) };
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
                        if let Some(saved) = &self.saved {
                            derive(level, self.activation, z, saved.row(level, r, scratch));
                        }
                        add(level, sums, z);
                        // SAFETY: as above.
                        unsafe { out.write(level, r, 0, z) };
                    }
                });
            });
        }
        if let Some(gradient) = sums.and_then(|b| back.gradients.get_mut(b)) {
            add_column_sums(level, &partial, 0, gradient);
        }
        dz.unwrap_or_else(|| dy.clone())
    }

    fn weight_gradient(&self, back: &mut Backward<'_>, dz: &Tensor) {
        let device = back.device;
        let _timer = device.time(Work::LinearWeightGradient);
        accumulate_weight_gradient(
            back.device,
            back.precision,
            Operand::new(dz),
            &self.x.tensor,
            self.weight,
            back.gradients,
        );
    }

    fn input_gradient(&self, back: &mut Backward<'_>, dz: &Tensor) {
        let device = back.device;
        let _timer = device.time(Work::LinearInputGradient);
        let Some(id) = self.x.id else { return };
        let gathered = back.take_unique_f32(id);
        let adds = gathered.is_some();
        let mut dx =
            gathered.unwrap_or_else(|| back.uninit(dz.rows(), self.weight.cols, self.x.tensor.dtype()));
        let level = back.device.level();
        {
            let destination = destination_of(&dx);
            let out = SharedOut::new(&mut dx);
            // SAFETY: the product hands out every element once.
            let store = |row: usize, col: usize, z: &mut [f32]| unsafe {
                if adds { out.add(level, row, col, z) } else { out.write(level, row, col, z) }
            };
            multiply_weight(
                back.device,
                back.weights,
                back.precision,
                Operand::new(dz),
                self.weight,
                false,
                Some(destination),
                store,
            );
        }
        back.add(Some(id), dx);
    }
}

/// From so many rows on a weight is kept packed for dX, too: the vocabulary's, which a slab multiplies in several parts.
const DEEP_WEIGHT: usize = 8_192;

/// a times the weight (transposed: as a linear applies it), through the packed copy where one pays: in bf16, as a linear
/// applies it. The other way round a weight is packed by copying rows, as fast as a copy would be read, and keeping them
/// all would take 2 bytes a parameter.
pub(crate) fn multiply_weight(
    device: &crate::Device,
    weights: &Weights,
    precision: Precision,
    a: Operand<'_>,
    weight: View,
    transposed: bool,
    destination: Option<Destination>,
    store: impl Fn(usize, usize, &mut [f32]) + Sync + Send,
) {
    if precision == Precision::Bf16 && (transposed || weight.rows >= DEEP_WEIGHT) {
        let packed = weights.packed(device, weight, transposed);
        gemm(device, precision, a, Right::Packed(&packed), destination, store);
    } else {
        let plain = Operand::from_f32(weights.get(weight), weight.rows, weight.cols);
        let right = Right::Plain(if transposed { plain.transposed() } else { plain });
        gemm(device, precision, a, right, destination, store);
    }
}

/// dW += dz^T x, into the weight's accumulator (nothing for a frozen weight).
pub(crate) fn accumulate_weight_gradient(
    device: &crate::Device,
    precision: Precision,
    dz: Operand<'_>,
    x: &Tensor,
    weight: View,
    gradients: &mut crate::Gradients,
) {
    let Some(gradient) = gradients.get_mut(weight) else { return };
    let level = device.level();
    let destination = Some(Destination::new(gradient, weight.cols));
    let out = SharedSlice::new(gradient);
    let b = Right::Plain(Operand::new(x));
    gemm(device, precision, dz.transposed(), b, destination, |row, col, z| {
        // SAFETY: the product hands out every element once.
        add(level, unsafe { out.part(row * weight.cols + col, z.len()) }, z);
    });
}

/// Where a product that fills a tensor writes.
pub(crate) fn destination_of(tensor: &Tensor) -> Destination {
    match tensor.dtype() {
        DType::F32 => Destination::new(tensor.f32(), tensor.cols()),
        DType::Bf16 => Destination::new(tensor.bf16(), tensor.cols()),
    }
}

/// A tensor that many tasks write, each its own part.
pub(crate) enum SharedOut<'a> {
    F32(SharedSlice<'a, f32>, usize),
    Bf16(SharedSlice<'a, bf16>, usize),
}

impl<'a> SharedOut<'a> {
    pub(crate) fn new(tensor: &'a mut Tensor) -> Self {
        let cols = tensor.cols();
        match tensor.dtype() {
            DType::F32 => Self::F32(SharedSlice::new(tensor.f32_mut()), cols),
            DType::Bf16 => Self::Bf16(SharedSlice::new(tensor.bf16_mut()), cols),
        }
    }

    /// Writes a row segment, rounding if the tensor is bf16.
    ///
    /// # Safety
    /// No other task touches the same elements.
    #[inline]
    pub(crate) unsafe fn write(&self, level: Level, row: usize, col: usize, z: &[f32]) {
        match self {
            // SAFETY: the caller's contract.
            Self::F32(out, cols) => unsafe { out.part(row * cols + col, z.len()) }.copy_from_slice(z),
            Self::Bf16(out, cols) => {
                // SAFETY: the caller's contract.
                let to = unsafe { out.part(row * cols + col, z.len()) };
                convert::narrow(level, z, to);
            }
        }
    }

    /// Adds a row segment to an f32 tensor.
    ///
    /// # Safety
    /// As [`SharedOut::write`].
    pub(crate) unsafe fn add(&self, level: Level, row: usize, col: usize, z: &[f32]) {
        match self {
            // SAFETY: the caller's contract.
            Self::F32(out, cols) => add(level, unsafe { out.part(row * cols + col, z.len()) }, z),
            Self::Bf16(..) => unreachable!("sums are kept in f32"),
        }
    }
}

/// z += the row segment of a tensor.
fn add_part(level: Level, z: &mut [f32], tensor: &Tensor, row: usize, col: usize) {
    let range = row * tensor.cols() + col..row * tensor.cols() + col + z.len();
    match tensor.dtype() {
        DType::F32 => add(level, z, &tensor.f32()[range]),
        DType::Bf16 => add_bf16(level, z, &tensor.bf16()[range]),
    }
}

/// to += the sum of the rows of an f32 matrix, in row order, from column `first` on.
pub(crate) fn add_column_sums(level: Level, partial: &Tensor, first: usize, to: &mut [f32]) {
    with_rows(to.len(), |sums, _| {
        sums.fill(0.0);
        for row in partial.f32().chunks_exact(partial.cols()) {
            add(level, sums, &row[first..first + sums.len()]);
        }
        add(level, to, sums);
    });
}

simd! {
    /// a += b.
    pub(crate) fn add(a: &mut [f32], b: &[f32]) {
        a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
    }
}

simd! {
    fn add_bf16(a: &mut [f32], b: &[bf16]) {
        a.iter_mut().zip(b).for_each(|(a, b)| *a += f32::from_bits(u32::from(b.to_bits()) << 16));
    }
}

simd! {
    fn activate(activation: Activation, z: &mut [f32]) {
        match activation {
            Activation::Identity => {}
            Activation::Relu => z.iter_mut().for_each(|z| *z = if *z > 0.0 { *z } else { 0.0 }),
            Activation::Gelu => z.iter_mut().for_each(|z| *z = math::gelu(*z)),
        }
    }
}

simd! {
    /// dz *= act'(saved).
    fn derive(activation: Activation, dz: &mut [f32], saved: &[f32]) {
        match activation {
            Activation::Identity => {}
            Activation::Relu => dz.iter_mut().zip(saved).for_each(|(d, &s)| *d = if s > 0.0 { *d } else { 0.0 }),
            Activation::Gelu => dz.iter_mut().zip(saved).for_each(|(d, &s)| *d *= math::gelu_derivative(s)),
        }
    }
}

simd! {
    /// z *= the dropout factors of columns `first ..`.
    pub(crate) fn apply_dropout(z: &mut [f32], key: u64, first: usize, rate: DropRate) {
        let mut column = first;
        let mut rest = z;
        while !rest.is_empty() {
            let within = column % 32;
            let (now, later) = rest.split_at_mut((32 - within).min(rest.len()));
            let factors = dropout_block(key, (column / 32) as u32, rate);
            if now.len() == 32 {
                for i in 0..32 {
                    now[i] *= factors[i];
                }
            } else {
                now.iter_mut().zip(&factors[within..]).for_each(|(z, f)| *z *= f);
            }
            column += now.len();
            rest = later;
        }
    }
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
                y.push(match activation {
                    Activation::Identity => z,
                    Activation::Relu => z.max(0.0),
                    Activation::Gelu => {
                        0.5 * z * (1.0 + (0.797_884_560_802_865_4 * (z + 0.044_715 * z.powi(3))).tanh())
                    }
                });
            }
        }
        y
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{dropout_factor, row_key, site_key};
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

    #[test]
    fn gradcheck_with_the_whole_epilogue() {
        for activation in [Activation::Identity, Activation::Relu, Activation::Gelu] {
            for (p, residuals) in [(0.0, 0), (0.3, 1), (0.0, 2), (0.4, 0), (0.1, 3)] {
                let (rows, inputs, outputs) = (13, 31, 41);
                let mut inputs_of = vec![("x", rows, inputs)];
                inputs_of.extend((0..residuals).map(|_| ("residual", rows, outputs)));
                Gradcheck::new("linear", &inputs_of, &[("weight", outputs, inputs), ("bias", 1, outputs)])
                    .run(
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
        }
    }
}
