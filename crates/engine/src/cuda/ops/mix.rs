//! A learned mix of several matrices on the device.

use super::{THREADS, WARP, at, dtype, elements, int, row_warps};
use crate::cuda::{Context, DevicePtr, Module};
use crate::tensor::Tensor;

const MIX: Module = Module { name: "mix", text: include_str!("../kernels/mix.cu") };

/// Fills shares `[2, n]`: the softmax of the weights, and that times the scale.
pub(crate) fn shares(cuda: &Context, weights: DevicePtr, scale: DevicePtr, shares: &Tensor) {
    let arguments = [weights.into(), scale.into(), at(shares), int(shares.cols())];
    cuda.launch(MIX, "mix_shares", [1, 1, 1], WARP, 0, &arguments);
}

/// y is, or grows by (`adds`), x times the scaled share of the input `index`.
pub(crate) fn add_share(cuda: &Context, x: &Tensor, shares: &Tensor, index: usize, adds: bool, y: &Tensor) {
    let count = x.rows() * x.cols();
    let factor = shares.device_ptr().offset(4 * (shares.cols() + index));
    let arguments =
        [at(x), dtype(x.dtype()), factor.into(), int(usize::from(adds)), at(y), (count as u64).into()];
    cuda.launch(MIX, "mix_add_share", elements(count), THREADS, 0, &arguments);
}

/// slopes[:, index] = the sums over the rows of dy * x.
pub(crate) fn dots(cuda: &Context, x: &Tensor, dy: &Tensor, index: usize, slopes: &Tensor) {
    let arguments = [
        at(x),
        dtype(x.dtype()),
        at(dy),
        dtype(dy.dtype()),
        int(index),
        at(slopes),
        int(slopes.cols()),
        int(x.rows()),
        int(x.cols()),
    ];
    cuda.launch(MIX, "mix_dots", row_warps(x.rows()), THREADS, 0, &arguments);
}

/// Makes each row's sums its slopes: of the weights, and behind them of the scale.
pub(crate) fn slopes(cuda: &Context, shares: &Tensor, slopes: &Tensor) {
    let arguments = [at(shares), at(slopes), int(slopes.rows()), int(shares.cols())];
    cuda.launch(MIX, "mix_slopes", elements(slopes.rows()), THREADS, 0, &arguments);
}
