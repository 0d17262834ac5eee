//! Adam on the device: the norm of the gradients, and one step over the flat buffers. The equations: `ops/adam.rs`.

use crate::cuda::{Context, DeviceBuffer, DevicePtr, Module};
use crate::flat::Flat;
use crate::ops::adam::{Adam, Range, Rates};
use crate::weights::{Gradients, Weights};

/// Elements whose squares one block sums.
const ELEMENTS_PER_BLOCK: usize = 1 << 16;

/// Threads of an element-wise block.
const THREADS: usize = 256;

/// Partial sums of squares that are being computed.
#[derive(Debug)]
pub(crate) struct PartialSums {
    sums: DeviceBuffer,
    count: usize,
}

impl PartialSums {
    /// All of them; waits for the device.
    pub(crate) fn download(&self) -> Vec<f64> {
        let mut sums = vec![0.0; self.count];
        self.sums.context().download(&mut sums, self.sums.ptr());
        sums
    }
}

/// The sum of squares of all gradients, in parts.
pub(crate) fn squared_norm(cuda: &Context, gradients: &Gradients) -> PartialSums {
    let n = gradients.flat().len();
    let count = n.div_ceil(ELEMENTS_PER_BLOCK);
    let sums = cuda.allocate(count * size_of::<f64>());
    let x = gradients.flat().device(cuda);
    let arguments = [x.into(), sums.ptr().into(), (n as u64).into(), (ELEMENTS_PER_BLOCK as i32).into()];
    cuda.launch(Module::Optimizer, "sum_of_squares", [count, 1, 1], THREADS, 0, &arguments);
    PartialSums { sums, count }
}

/// One step over all ranges.
pub(crate) fn step(
    cuda: &Context,
    adam: &Adam,
    weights: &mut Weights,
    gradients: &mut Gradients,
    first_moment: &mut Flat,
    second_moment: &mut Flat,
    ranges: &[Range],
    clip: f32,
) {
    let (w, g) = (weights.device_all_mut(cuda), gradients.flat_mut().device_mut(cuda));
    let (m, v) = (first_moment.device_mut(cuda), second_moment.device_mut(cuda));
    for range in ranges {
        let Rates { step_size, root, coupled, shrink } = adam.rates(range);
        let at = |start: DevicePtr, element: usize| start.offset(element * size_of::<f32>());
        let arguments = [
            at(w, range.start).into(),
            at(g, range.grad).into(),
            at(m, range.grad).into(),
            at(v, range.grad).into(),
            (range.len as u64).into(),
            clip.into(),
            adam.beta1.into(),
            adam.beta2.into(),
            adam.eps.into(),
            step_size.into(),
            root.into(),
            coupled.into(),
            shrink.into(),
        ];
        let blocks = [range.len.div_ceil(THREADS), 1, 1];
        cuda.launch(Module::Optimizer, "adam_step", blocks, THREADS, 0, &arguments);
    }
}

/// Rounds `n` values to bf16.
pub(crate) fn to_bf16(cuda: &Context, from: DevicePtr, to: DevicePtr, n: usize) {
    let arguments = [from.into(), to.into(), (n as u64).into()];
    cuda.launch(Module::Optimizer, "weights_to_bf16", [n.div_ceil(THREADS), 1, 1], THREADS, 0, &arguments);
}
