//! Matmuls with a weight of the flat buffers, and into its gradient, on the processor or a GPU.
//!
//! Owns: which copy of a weight is multiplied. Never: an op's epilogue, or what an operand means.

use crate::activation::Activation;
use crate::cpu::gemm::{Destination, Operand, Right, gemm};
use crate::cpu::rows::add;
use crate::cpu::shared::{SharedSlice, SharedTensor};
use crate::cuda::ops::elementwise;
use crate::cuda::{Context, Finished, Write};
use crate::device::Device;
use crate::dtype::{DType, Precision};
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

/// A weight as a matmul's right factor.
#[derive(Clone, Copy)]
pub(crate) struct ByWeight<'a> {
    pub(crate) device: &'a Device,
    pub(crate) weights: &'a Weights,
    pub(crate) precision: Precision,
    pub(crate) weight: View,
    pub(crate) direction: Direction,
}

impl ByWeight<'_> {
    /// On the processor: a times the weight, each row segment of the result given to `store` (as [`gemm`] does). In bf16 a
    /// packed copy is used where one pays: forward. For the backward a weight is packed by copying rows, as fast as a copy
    /// would be read, and keeping them all would take 2 bytes a parameter.
    pub(crate) fn multiply(
        self,
        a: Operand<'_>,
        destination: Option<Destination>,
        store: impl Fn(usize, usize, &mut [f32]) + Sync + Send,
    ) {
        let Self { device, weights, precision, weight, direction } = self;
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
    pub(crate) fn multiply_into(self, a: &Tensor, out: &mut Tensor, write: Write) {
        if let Some(cuda) = self.device.cuda() {
            if out.cols() == self.columns(a.rows()) {
                return self.multiply_on_gpu(cuda, a, out, write);
            }
            let dtype = if write == Write::Add { DType::F32 } else { out.dtype() };
            let wide = self.product_on_gpu(cuda, a, dtype);
            if write == Write::Replace {
                elementwise::copy_columns(cuda, &wide, 0, out);
            } else {
                elementwise::add_columns(cuda, out, 0, &wide);
            }
            return;
        }
        let level = self.device.level();
        let destination = Some(Destination::of(out));
        let out = SharedTensor::new(out);
        // SAFETY: the matmul hands out every element once.
        let store = |row: usize, col: usize, z: &mut [f32]| unsafe {
            match write {
                Write::Replace => out.write(level, row, col, z),
                Write::Add => out.add(level, row, col, z),
            }
        };
        self.multiply(Operand::new(a), destination, store);
    }

    /// a times the weight on a GPU; zeros may stand behind its columns.
    pub(crate) fn product_on_gpu(self, cuda: &Context, a: &Tensor, dtype: DType) -> Tensor {
        let out = Tensor::uninit(self.device.pool(), a.rows(), self.columns(a.rows()), dtype);
        self.multiply_on_gpu(cuda, a, &out, Write::Replace);
        out
    }

    /// On a GPU, in bf16: out, and `kept` before the activation, become act(a W^T + bias), as far as cuBLASLt can do all of that at
    /// once; whether it can.
    pub(crate) fn finish_on_gpu(
        self,
        cuda: &Context,
        a: &Tensor,
        bias: View,
        activation: Activation,
        kept: Option<&Tensor>,
        out: &mut Tensor,
    ) -> bool {
        let Self { device, weights, precision, weight, .. } = self;
        if precision != Precision::Bf16 || out.dtype() != DType::Bf16 || weight.cols == 0 {
            return false;
        }
        let (pads, cols) = (pads(precision, a.rows(), weight), self.columns(a.rows()));
        // What is kept has the columns of `out`.
        let narrower = out.cols() != cols;
        if !Finished::computes(activation, kept.is_some(), cols) || (narrower && kept.is_some()) {
            return false;
        }
        let at = if pads { weights.device_padded(cuda, bias).ptr() } else { weights.device_bf16(cuda, bias) };
        if !Finished::takes(at) {
            return false;
        }
        let wide =
            if narrower { Tensor::uninit(device.pool(), a.rows(), cols, DType::Bf16) } else { out.clone() };
        let a = operand(cuda, device, precision, a, pads);
        let b = if pads {
            weights.device_padded(cuda, weight)
        } else {
            weights.device_matrix(cuda, weight, DType::Bf16)
        };
        cuda.matmul_finished(
            a.matrix(),
            b.transposed(),
            wide.matrix(),
            Finished { bias: at, activation, kept },
        );
        if narrower {
            elementwise::copy_columns(cuda, &wide, 0, out);
        }
        true
    }

    /// Into a tensor that has the columns of [`ByWeight::product_on_gpu`].
    fn multiply_on_gpu(self, cuda: &Context, a: &Tensor, out: &Tensor, write: Write) {
        let Self { device, weights, precision, weight, direction } = self;
        let pads = pads(precision, a.rows(), weight);
        let a = operand(cuda, device, precision, a, pads);
        let plain = if pads {
            weights.device_padded(cuda, weight)
        } else {
            weights.device_matrix(cuda, weight, precision.activation())
        };
        let b = match direction {
            Direction::Forward => plain.transposed(),
            Direction::Backward => plain,
        };
        cuda.matmul(a.matrix(), b, out.matrix(), write);
    }

    /// The columns that a product of so many rows has on a GPU, zeros behind them counted.
    fn columns(self, rows: usize) -> usize {
        let cols = match self.direction {
            Direction::Forward => self.weight.rows,
            Direction::Backward => self.weight.cols,
        };
        if pads(self.precision, rows, self.weight) { elementwise::padded(cols) } else { cols }
    }
}

/// Rows from which on it pays to pad the operands of a matmul on a GPU: copies, and a launch for each, for matmuls that are
/// three times as fast. Tests have few rows, and should meet both.
const ROWS_WORTH_PADDING: usize = if cfg!(test) { 8 } else { 1_024 };

/// Whether matmuls of so many rows with this weight, and with its gradient, are made on a GPU with zeros behind the rows and
/// columns of all matrices: cuBLASLt's bf16 kernels for widths that are no multiple of 8 reach a quarter of the others' speed.
pub(crate) fn pads(precision: Precision, rows: usize, weight: View) -> bool {
    let odd = |cols: usize| elementwise::padded(cols) != cols;
    precision == Precision::Bf16 && rows >= ROWS_WORTH_PADDING && (odd(weight.rows) || odd(weight.cols))
}

/// The columns of what only linears read, `rows` of it, where it may have zeros behind its own: as [`pads`] will have them.
pub(crate) fn columns_for_linears(device: &Device, precision: Precision, rows: usize, cols: usize) -> usize {
    let pads = device.is_cuda() && precision == Precision::Bf16 && rows >= ROWS_WORTH_PADDING;
    if pads { elementwise::padded(cols) } else { cols }
}

/// The tensor as a matmul on a GPU takes it: in the precision's type, with zeros behind its columns where it `pads`.
fn operand(cuda: &Context, device: &Device, precision: Precision, a: &Tensor, pads: bool) -> Tensor {
    if pads && elementwise::padded(a.cols()) != a.cols() {
        elementwise::pad_columns(cuda, device.pool(), a)
    } else {
        elementwise::in_type(cuda, device.pool(), a, precision.activation())
    }
}

/// What may happen to the accumulators behind a weight's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RoomBehind {
    /// Somebody may be reading or exchanging them: they are left alone.
    Complete,
    /// Nothing is complete yet: zeros may be added to them, which is what rows of zeros behind dz come to. (Where x has a NaN they
    /// are NaN, as the norm of all gradients then is anyway.)
    Free,
}

/// dW += dz^T x, into the weight's accumulator (nothing for a frozen weight), on either device.
pub(crate) fn accumulate_weight_gradient(
    device: &Device,
    precision: Precision,
    dz: &Tensor,
    x: &Tensor,
    weight: View,
    gradients: &mut Gradients,
    room_behind: RoomBehind,
) {
    let Some(cuda) = device.cuda() else {
        let dz = Operand::new(dz);
        return accumulate_from_operand(device, precision, dz, x, weight, gradients);
    };
    let Some(to) = gradients.device_matrix(cuda, weight) else { return };
    let pads = pads(precision, x.rows(), weight);
    let [dz, x] = [dz, x].map(|a| operand(cuda, device, precision, a, pads));
    if !pads {
        return cuda.matmul(dz.matrix().transposed(), x.matrix(), to, Write::Add);
    }
    if room_behind == RoomBehind::Free
        && let Some(to) = gradients.device_matrix_with_rows(cuda, weight, dz.cols())
        && x.cols() == weight.cols
    {
        return cuda.matmul(dz.matrix().transposed(), x.matrix(), to, Write::Add);
    }
    let wide = Tensor::uninit(device.pool(), dz.cols(), x.cols(), DType::F32);
    cuda.matmul(dz.matrix().transposed(), x.matrix(), wide.matrix(), Write::Replace);
    if let Some(to) = gradients.device_mut(cuda, weight) {
        elementwise::add_part(cuda, (to, weight.cols), 0, &wide, weight.rows, weight.cols);
    }
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
