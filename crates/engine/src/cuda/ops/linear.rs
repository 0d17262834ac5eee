//! Linear on the device: a product, then one element-wise pass for all of its epilogue.

use super::elementwise::{add, in_type};
use super::norm::add_column_sums;
use super::{ROWS_PER_BLOCK, THREADS, at, dropout, dtype, int, optional, row_blocks};
use crate::cuda::{Context, Matrix, Module, Write};
use crate::device::Device;
use crate::ops::linear::{Activation, Linear, LinearNode};
use crate::profile::Work;
use crate::tape::{ActiveDropout, Backward, Tape, Value};
use crate::tensor::{DType, Precision, Tensor};
use crate::weights::{Gradients, View, Weights};

/// Fills y, and `saved` with the pre-activation where it is given.
pub(crate) fn forward(
    cuda: &Context,
    tape: &Tape<'_>,
    x: &Tensor,
    (weight, linear): (View, &Linear),
    drops: Option<&ActiveDropout>,
    residuals: &[&Value],
    saved: Option<&Tensor>,
    y: &Tensor,
) {
    let plain = linear.bias.is_none()
        && linear.activation == Activation::Identity
        && drops.is_none()
        && residuals.is_empty();
    // What the epilogue still works on is not rounded before it has.
    let in_place = plain || y.dtype() == DType::F32;
    let z = if in_place { y.clone() } else { tape.uninit(y.rows(), y.cols(), DType::F32) };
    let (device, weights, precision) = (tape.device, tape.weights, tape.precision);
    multiply_weight(cuda, device, weights, precision, x, weight, true, &z, Write::Replace);
    if plain {
        return;
    }
    let mut residuals = residuals.iter().map(|r| &r.tensor);
    let [keys, site, threshold, scale] = dropout(drops);
    let [keep, keep_type] = optional(saved);
    let [residual1, type1] = optional(residuals.next());
    let [residual2, type2] = optional(residuals.next());
    let arguments = [
        at(&z),
        linear.bias.map(|bias| weights.device_f32(cuda, bias)).into(),
        number(linear.activation).into(),
        keep,
        keep_type,
        keys,
        site,
        threshold,
        scale,
        residual1,
        type1,
        residual2,
        type2,
        at(y),
        dtype(y.dtype()),
        int(y.rows()),
        int(y.cols()),
    ];
    let grid = row_blocks(y.rows(), y.cols());
    cuda.launch(Module::Linear, "linear_epilogue", grid, THREADS, 0, &arguments);
    for residual in residuals {
        add(cuda, y, residual);
    }
}

/// Adds to the gradients of weight, bias and x. (The residuals' are the caller's.)
pub(crate) fn backward(cuda: &Context, back: &mut Backward<'_>, node: &LinearNode, dy: &Tensor) {
    let device = back.device;
    let dz = pre_activation_gradient(cuda, back, node, dy);
    {
        let _timer = device.time(Work::LinearWeightGradient);
        let (precision, x) = (back.precision, &node.x.tensor);
        accumulate_weight_gradient(cuda, device, precision, &dz, x, node.weight, back.gradients);
    }
    let Some(id) = node.x.id else { return };
    let _timer = device.time(Work::LinearInputGradient);
    let gathered = back.take_unique_f32(id);
    let write = if gathered.is_some() { Write::Add } else { Write::Replace };
    let dx = gathered
        .unwrap_or_else(|| back.uninit(node.x.tensor.rows(), node.weight.cols, node.x.tensor.dtype()));
    multiply_weight(cuda, device, back.weights, back.precision, &dz, node.weight, false, &dx, write);
    back.add(Some(id), dx);
}

/// dz in the type that products take, and the bias's gradient on the way.
fn pre_activation_gradient(
    cuda: &Context,
    back: &mut Backward<'_>,
    node: &LinearNode,
    dy: &Tensor,
) -> Tensor {
    let device = back.device;
    let _timer = device.time(Work::LinearElementwise);
    let (rows, cols) = (dy.rows(), dy.cols());
    let wanted = back.precision.activation();
    let changes = node.dropout.is_some() || node.saved.is_some() || dy.dtype() != wanted;
    let bias = node.bias.and_then(|bias| back.gradients.device_mut(cuda, bias));
    if !changes && bias.is_none() {
        return dy.clone();
    }
    let dz = changes.then(|| back.uninit(rows, cols, wanted));
    let partial = bias.map(|_| back.uninit(rows.div_ceil(ROWS_PER_BLOCK), cols, DType::F32));
    let [keys, site, threshold, scale] = dropout(node.dropout.as_ref());
    let [saved, saved_type] = optional(node.saved.as_ref());
    let [out, out_type] = optional(dz.as_ref());
    let [sums, _] = optional(partial.as_ref());
    let arguments = [
        at(dy),
        dtype(dy.dtype()),
        number(node.activation).into(),
        saved,
        saved_type,
        keys,
        site,
        threshold,
        scale,
        out,
        out_type,
        sums,
        int(rows),
        int(cols),
    ];
    cuda.launch(Module::Linear, "linear_epilogue_backward", row_blocks(rows, cols), THREADS, 0, &arguments);
    if let (Some(partial), Some(to)) = (&partial, bias) {
        add_column_sums(cuda, partial, 0, to, cols);
    }
    dz.unwrap_or_else(|| dy.clone())
}

/// `out = a W`, or with the weight transposed as a linear applies it, or added to `out`.
pub(super) fn multiply_weight(
    cuda: &Context,
    device: &Device,
    weights: &Weights,
    precision: Precision,
    a: &Tensor,
    weight: View,
    transposed: bool,
    out: &Tensor,
    write: Write,
) {
    let kept = precision.activation();
    let a = in_type(cuda, device.pool(), a, kept);
    let values = match kept {
        DType::F32 => weights.device_f32(cuda, weight),
        DType::Bf16 => weights.device_bf16(cuda, weight),
    };
    let plain = Matrix::new(values, weight.rows, weight.cols, kept);
    let b = if transposed { plain.transposed() } else { plain };
    cuda.matmul(Matrix::of(&a), b, Matrix::of(out), write);
}

/// dW += dz^T x, into the weight's accumulator (nothing for a frozen weight).
pub(super) fn accumulate_weight_gradient(
    cuda: &Context,
    device: &Device,
    precision: Precision,
    dz: &Tensor,
    x: &Tensor,
    weight: View,
    gradients: &mut Gradients,
) {
    let Some(to) = gradients.device_mut(cuda, weight) else { return };
    let kept = precision.activation();
    let [dz, x] = [dz, x].map(|operand| in_type(cuda, device.pool(), operand, kept));
    let to = Matrix::new(to, weight.rows, weight.cols, DType::F32);
    cuda.matmul(Matrix::of(&dz).transposed(), Matrix::of(&x), to, Write::Add);
}

/// The activation's number in `linear.cu`.
fn number(activation: Activation) -> i32 {
    match activation {
        Activation::Identity => 0,
        Activation::Relu => 1,
        Activation::Gelu => 2,
    }
}
