//! What surrounds a linear's matmul on the device: its epilogue, and the way back through it.

use super::elementwise::{add, add_column_sums};
use super::{DeviceDropout, THREADS, at, columns_by_blocks, dropout, dtype, int, optional, row_blocks};
use crate::activation::Activation;
use crate::buffers::Pool;
use crate::cuda::{Context, DevicePtr, Module};
use crate::dtype::DType;
use crate::tensor::Tensor;

const LINEAR: Module = Module { name: "linear", text: include_str!("../kernels/linear.cu") };

/// What is done to the matmul's result, in this order.
pub(crate) struct Epilogue<'a> {
    /// Where it lies, and its columns.
    pub(crate) bias: Option<(DevicePtr, usize)>,
    /// Forward: takes the pre-activation. Backward: what the derivative is computed from.
    pub(crate) saved: Option<&'a Tensor>,
    pub(crate) activation: Activation,
    pub(crate) scale: f32,
    pub(crate) dropout: Option<DeviceDropout>,
}

/// Fills y from z, which may be the same tensor, or have further columns; the residuals are added last.
pub(crate) fn epilogue<'a>(
    cuda: &Context,
    z: &Tensor,
    epilogue: &Epilogue<'_>,
    mut residuals: impl Iterator<Item = &'a Tensor>,
    y: &Tensor,
) {
    let [keys, site, threshold, keep_scale] = dropout(epilogue.dropout);
    let [saved, saved_type] = optional(epilogue.saved);
    let [residual1, type1] = optional(residuals.next());
    let [residual2, type2] = optional(residuals.next());
    let arguments = [
        at(z),
        int(z.cols()),
        epilogue.bias.map(|(bias, _)| bias).into(),
        int(epilogue.bias.map_or(0, |(_, cols)| cols)),
        (epilogue.activation as i32).into(),
        saved,
        saved_type,
        epilogue.scale.into(),
        keys,
        site,
        threshold,
        keep_scale,
        residual1,
        type1,
        residual2,
        type2,
        at(y),
        dtype(y.dtype()),
        int(y.rows()),
        int(y.cols()),
    ];
    let grid = columns_by_blocks(y.rows(), y.cols().div_ceil(2));
    cuda.launch(LINEAR, "linear_epilogue", grid, THREADS, 0, &arguments);
    for residual in residuals {
        add(cuda, y, residual);
    }
}

/// Fills dz, its further columns with zeros, and the sums of its columns over each block of rows, where they are given. (The bias
/// is of no matter.)
pub(crate) fn epilogue_backward(
    cuda: &Context,
    dy: &Tensor,
    epilogue: &Epilogue<'_>,
    dz: Option<&Tensor>,
    partial: Option<&Tensor>,
) {
    let [keys, site, threshold, keep_scale] = dropout(epilogue.dropout);
    let [saved, saved_type] = optional(epilogue.saved);
    let [out, out_type] = optional(dz);
    let [sums, _] = optional(partial);
    let dz_cols = dz.map_or(dy.cols(), Tensor::cols);
    let narrow = |tensor: Option<&Tensor>| tensor.is_none_or(|tensor| tensor.dtype() == DType::Bf16);
    let derives = matches!(epilogue.activation, Activation::Relu | Activation::Gelu | Activation::GeluExact);
    let known = epilogue.saved.is_none() || (derives && dy.dtype() == DType::Bf16);
    let wide = (dy.cols() | dz_cols).is_multiple_of(4) && narrow(dz) && narrow(epilogue.saved) && known;
    let of_thread = if wide { 4 } else { 2 };
    let arguments = [
        at(dy),
        dtype(dy.dtype()),
        (epilogue.activation as i32).into(),
        saved,
        saved_type,
        epilogue.scale.into(),
        keys,
        site,
        threshold,
        keep_scale,
        out,
        out_type,
        int(dz_cols),
        sums,
        int(dy.rows()),
        int(dy.cols()),
        int(of_thread),
    ];
    let grid = columns_by_blocks(dy.rows(), dz_cols.div_ceil(of_thread));
    cuda.launch(LINEAR, "linear_epilogue_backward", grid, THREADS, 0, &arguments);
}

/// to += the sums of the first `cols` columns of z.
pub(crate) fn add_sums_of_columns(cuda: &Context, pool: &Pool, z: &Tensor, to: DevicePtr, cols: usize) {
    let partial = Tensor::uninit(pool, row_blocks(z.rows()), z.cols(), DType::F32);
    let (activation, bias, saved, dropout) = (Activation::Identity, None, None, None);
    let nothing = Epilogue { bias, saved, activation, scale: 1.0, dropout };
    epilogue_backward(cuda, z, &nothing, None, Some(&partial));
    add_column_sums(cuda, &partial, 0, to, cols);
}
