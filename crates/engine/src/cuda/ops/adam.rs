//! Adam on the device: the norm of the gradients, and one step over the flat buffers. The equations: `ops/adam.rs`.

use bytemuck::{Pod, Zeroable};

use crate::cuda::{Context, DeviceBuffer, DevicePtr, Module};

/// The optimizer's kernels.
pub(crate) const OPTIMIZER: Module =
    Module { name: "optimizer", text: include_str!("../kernels/optimizer.cu") };

/// Elements whose squares one block sums.
const SQUARES_PER_BLOCK: usize = 1 << 16;

/// Elements that one block updates: some dozens for each thread, and blocks enough for every multiprocessor in all but
/// the smallest models.
pub(crate) const ELEMENTS_PER_BLOCK: usize = 1 << 13;

/// Threads of an element-wise block.
const THREADS: usize = 256;

/// A range as the kernel reads it: `Range` in `optimizer.cu`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct DeviceRange {
    start: u64,
    grad: u64,
    moment: u64,
    len: u64,
    /// The first of the blocks that share its elements.
    first_block: u64,
    step_size: f32,
    root: f32,
    coupled: f32,
    shrink: f32,
}

impl DeviceRange {
    /// `len` elements, from `start` on in the weights, `grad` in the gradients and `moment` in the moments, with what Adam
    /// multiplies by: step size, root, coupled decay, shrink.
    pub(crate) fn new([start, grad, moment]: [usize; 3], len: usize, rates: [f32; 4]) -> Self {
        let [start, grad, moment, len] = [start, grad, moment, len].map(|n| n as u64);
        let [step_size, root, coupled, shrink] = rates;
        Self { start, grad, moment, len, first_block: 0, step_size, root, coupled, shrink }
    }
}

/// Where a step's values lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buffers {
    pub(crate) values: DevicePtr,
    /// The weights in bf16, to be kept up to date.
    pub(crate) rounded: Option<DevicePtr>,
    pub(crate) gradients: DevicePtr,
    pub(crate) first_moment: DevicePtr,
    pub(crate) second_moment: DevicePtr,
}

/// The sum of squares of `len` values as partial sums, in f64, and how many of them there are.
pub(crate) fn squared_norm(cuda: &Context, values: DevicePtr, len: usize) -> (DeviceBuffer, usize) {
    let count = len.div_ceil(SQUARES_PER_BLOCK);
    let sums = cuda.allocate(count * size_of::<f64>());
    let arguments =
        [values.into(), sums.ptr().into(), (len as u64).into(), (SQUARES_PER_BLOCK as i32).into()];
    cuda.launch(OPTIMIZER, "sum_of_squares", [count, 1, 1], THREADS, 0, &arguments);
    (sums, count)
}

/// x += rate (y - x) over `len` values.
pub(crate) fn blend(cuda: &Context, x: DevicePtr, y: DevicePtr, len: usize, rate: f32) {
    let arguments = [x.into(), y.into(), (len as u64).into(), rate.into()];
    cuda.launch(OPTIMIZER, "blend", [len.div_ceil(ELEMENTS_PER_BLOCK), 1, 1], THREADS, 0, &arguments);
}

/// One step over all ranges, in one launch; `constants` are clip, beta1, beta2, eps.
///
/// Both tables are made and uploaded anew each time, which is simpler than keeping them: the rates change with every
/// step, and which range a block works on is 4 bytes beside the 270 KiB that it moves.
pub(crate) fn step(cuda: &Context, mut ranges: Vec<DeviceRange>, buffers: &Buffers, constants: [f32; 4]) {
    let mut range_of_block = Vec::new();
    for (number, range) in ranges.iter_mut().enumerate() {
        range.first_block = range_of_block.len() as u64;
        let blocks = (range.len as usize).div_ceil(ELEMENTS_PER_BLOCK);
        range_of_block.resize(range_of_block.len() + blocks, number as u32);
    }
    let blocks = range_of_block.len();
    let (ranges, range_of_block) = (cuda.upload(&ranges), cuda.upload(&range_of_block));
    let [clip, beta1, beta2, eps] = constants;
    let arguments = [
        buffers.values.into(),
        buffers.rounded.into(),
        buffers.gradients.into(),
        buffers.first_moment.into(),
        buffers.second_moment.into(),
        ranges.ptr().into(),
        range_of_block.ptr().into(),
        (ELEMENTS_PER_BLOCK as i32).into(),
        clip.into(),
        beta1.into(),
        beta2.into(),
        eps.into(),
    ];
    cuda.launch(OPTIMIZER, "adam_step", [blocks, 1, 1], THREADS, 0, &arguments);
}
