//! Matmuls with a weight of the flat buffers, and into its gradient, on the processor or a GPU.
//!
//! Owns: which copy of a weight is multiplied. Never: an op's epilogue, or what an operand means.

use crate::cpu::gemm::{Destination, Operand, Right, gemm};
use crate::cpu::rows::add;
use crate::cpu::shared::{SharedSlice, SharedTensor};
use crate::cuda::Write;
use crate::cuda::ops::elementwise;
use crate::device::Device;
use crate::dtype::Precision;
use crate::tensor::Tensor;
use crate::weights::{Gradients, View, Weights};

/// Which way a weight `[out, in]` is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// a W^T, as a linear applies it.
    Forward,
    /// a W, as its backward does.
    Backward,
}

/// A weight with at least so many rows is kept packed for its backward, too: the vocabulary's, which a slab multiplies in
/// several chunks.
const DEEP_WEIGHT: usize = 8_192;

/// On the processor: a times the weight, each row segment of the result given to `store` (as [`gemm`] does). In bf16 a
/// packed copy is used where one pays: forward. For the backward a weight is packed by copying rows, as fast as a copy
/// would be read, and keeping them all would take 2 bytes a parameter.
pub(crate) fn multiply(
    device: &Device,
    weights: &Weights,
    precision: Precision,
    a: Operand<'_>,
    weight: View,
    direction: Direction,
    destination: Option<Destination>,
    store: impl Fn(usize, usize, &mut [f32]) + Sync + Send,
) {
    let transposed = direction == Direction::Forward;
    if precision == Precision::Bf16 && (transposed || weight.rows >= DEEP_WEIGHT) {
        let packed = weights.packed(device, weight, transposed);
        gemm(device, precision, a, Right::Packed(&packed), destination, store);
    } else {
        let plain = Operand::from_f32(weights.get(weight), weight.rows, weight.cols);
        let right = Right::Plain(if transposed { plain.transposed() } else { plain });
        gemm(device, precision, a, right, destination, store);
    }
}

/// On either device: `out` becomes a times the weight, or has it added (then it is f32).
pub(crate) fn multiply_into(
    device: &Device,
    weights: &Weights,
    precision: Precision,
    a: &Tensor,
    weight: View,
    direction: Direction,
    out: &mut Tensor,
    write: Write,
) {
    if let Some(cuda) = device.cuda() {
        let dtype = precision.activation();
        let a = elementwise::in_type(cuda, device.pool(), a, dtype);
        let plain = weights.device_matrix(cuda, weight, dtype);
        let b = match direction {
            Direction::Forward => plain.transposed(),
            Direction::Backward => plain,
        };
        return cuda.matmul(a.matrix(), b, out.matrix(), write);
    }
    let level = device.level();
    let destination = Some(Destination::of(out));
    let out = SharedTensor::new(out);
    // SAFETY: the matmul hands out every element once.
    let store = |row: usize, col: usize, z: &mut [f32]| unsafe {
        match write {
            Write::Replace => out.write(level, row, col, z),
            Write::Add => out.add(level, row, col, z),
        }
    };
    multiply(device, weights, precision, Operand::new(a), weight, direction, destination, store);
}

/// dW += dz^T x, into the weight's accumulator (nothing for a frozen weight), on either device.
pub(crate) fn accumulate_weight_gradient(
    device: &Device,
    precision: Precision,
    dz: &Tensor,
    x: &Tensor,
    weight: View,
    gradients: &mut Gradients,
) {
    let Some(cuda) = device.cuda() else {
        let dz = Operand::new(dz);
        return accumulate_from_operand(device, precision, dz, x, weight, gradients);
    };
    let Some(to) = gradients.device_matrix(cuda, weight) else { return };
    let dtype = precision.activation();
    let [dz, x] = [dz, x].map(|operand| elementwise::in_type(cuda, device.pool(), operand, dtype));
    cuda.matmul(dz.matrix().transposed(), x.matrix(), to, Write::Add);
}

/// As [`accumulate_weight_gradient`], on the processor, from a dz that need not be a whole tensor.
pub(crate) fn accumulate_from_operand(
    device: &Device,
    precision: Precision,
    dz: Operand<'_>,
    x: &Tensor,
    weight: View,
    gradients: &mut Gradients,
) {
    let Some(gradient) = gradients.get_mut(weight) else { return };
    let level = device.level();
    let destination = Some(Destination::new(gradient, weight.cols));
    let out = SharedSlice::new(gradient);
    let b = Right::Plain(Operand::new(x));
    gemm(device, precision, dz.transposed(), b, destination, |row, col, z| {
        // SAFETY: the matmul hands out every element once.
        add(level, unsafe { out.slice(row * weight.cols + col, z.len()) }, z);
    });
}
