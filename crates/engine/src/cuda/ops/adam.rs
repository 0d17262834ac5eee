//! Adam on the device: the norm of the gradients, and one step over the flat buffers. The equations: `ops/adam.rs`.

use bytemuck::{Pod, Zeroable};

use crate::cuda::{Context, DeviceBuffer, DevicePtr, Module};
use crate::flat::Flat;
use crate::ops::adam::{Adam, Range, Rates};
use crate::weights::{Gradients, Weights};

/// Elements whose squares one block sums.
const ELEMENTS_PER_BLOCK: usize = 1 << 16;

/// Elements that one block updates: some dozens for each thread, and blocks enough for every multiprocessor in all but
/// the smallest models.
pub(crate) const ELEMENTS_PER_PIECE: usize = 1 << 13;

/// Threads of an element-wise block.
const THREADS: usize = 256;

/// A range as the kernel reads it: `Range` in `optimizer.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct DeviceRange {
    start: u64,
    grad: u64,
    len: u64,
    /// The first of the blocks that share its elements.
    first_piece: u64,
    rates: Rates,
}

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

/// One step over all ranges, in one launch; writes the weights' bf16 copy too, where there is one.
///
/// Both tables are made and uploaded anew each time, which is simpler than keeping them: the rates change with every
/// step, and which range a piece belongs to is 4 bytes beside the 270 KiB that its update moves.
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
    let (mut table, mut range_of_piece) = (Vec::with_capacity(ranges.len()), Vec::new());
    for (number, range) in ranges.iter().enumerate() {
        table.push(DeviceRange {
            start: range.start as u64,
            grad: range.grad as u64,
            len: range.len as u64,
            first_piece: range_of_piece.len() as u64,
            rates: adam.rates(range),
        });
        let pieces = range.len.div_ceil(ELEMENTS_PER_PIECE);
        range_of_piece.resize(range_of_piece.len() + pieces, number as u32);
    }
    let pieces = range_of_piece.len();
    let (table, range_of_piece) = (cuda.upload(&table), cuda.upload(&range_of_piece));
    let (values, rounded) = weights.device_step(cuda);
    let arguments = [
        values.into(),
        rounded.into(),
        gradients.flat_mut().device_mut(cuda).into(),
        first_moment.device_mut(cuda).into(),
        second_moment.device_mut(cuda).into(),
        table.ptr().into(),
        range_of_piece.ptr().into(),
        (ELEMENTS_PER_PIECE as i32).into(),
        clip.into(),
        adam.beta1.into(),
        adam.beta2.into(),
        adam.eps.into(),
    ];
    cuda.launch(Module::Optimizer, "adam_step", [pieces, 1, 1], THREADS, 0, &arguments);
}

/// Rounds `n` values to bf16.
pub(crate) fn to_bf16(cuda: &Context, from: DevicePtr, to: DevicePtr, n: usize) {
    let arguments = [from.into(), to.into(), (n as u64).into()];
    cuda.launch(Module::Optimizer, "weights_to_bf16", [n.div_ceil(THREADS), 1, 1], THREADS, 0, &arguments);
}
