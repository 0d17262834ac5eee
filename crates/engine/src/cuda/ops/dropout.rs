//! Dropout by itself on the device.

use super::{DeviceDropout, THREADS, at, dropout, dtype, int, single_rows};
use crate::cuda::{Context, Module};
use crate::tensor::Tensor;

const DROPOUT: Module = Module { name: "dropout", text: include_str!("../kernels/dropout.cu") };

/// Fills y with x times the factors.
pub(crate) fn apply(cuda: &Context, x: &Tensor, drops: DeviceDropout, y: &Tensor) {
    let [keys, site, threshold, scale] = dropout(Some(drops));
    let arguments = [
        at(x),
        dtype(x.dtype()),
        keys,
        site,
        threshold,
        scale,
        at(y),
        dtype(y.dtype()),
        int(x.rows()),
        int(x.cols()),
    ];
    cuda.launch(DROPOUT, "apply_dropout", single_rows(x.rows(), x.cols()), THREADS, 0, &arguments);
}
