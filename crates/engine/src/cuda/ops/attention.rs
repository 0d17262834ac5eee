//! Attention on the device: grids and shared memory of the kernels, and the cache of keys and values.

use super::{MOST_BLOCKS, THREADS, WARP, at, dropout, dtype, int, row_warps, single_rows};
use crate::cuda::{Context, Module, Slab};
use crate::ops::attention::{Attention, AttentionNode};
use crate::packing::Packing;
use crate::tape::{ActiveDropout, Backward, Tape};
use crate::tensor::{DType, Tensor};

/// Rows that a warp owns: `ROWS` in `attention.cu`.
const ROWS: usize = 4;

/// The widest head.
const MOST_DIM: usize = 128;

/// Shared memory that every GPU gives a block without being asked in a special way.
const SHARED_BYTES: usize = 48 << 10;

/// Positions that a cache of keys and values has room for at first.
const FIRST_POSITIONS: usize = 64;

/// Warps and shared memory of a block in which each warp needs `per_warp` floats beside the two staged tiles.
#[derive(Clone, Copy)]
struct Block {
    warps: usize,
    shared_bytes: usize,
}

impl Block {
    fn new(dim: usize, per_warp: usize) -> Self {
        let bytes = |warps: usize| (2 * WARP * (dim | 1) + warps * per_warp) * size_of::<f32>();
        let warps = [8, 4, 2].into_iter().find(|&warps| bytes(warps) <= SHARED_BYTES).unwrap_or(1);
        Self { warps, shared_bytes: bytes(warps) }
    }

    /// A block per so many rows of the longest sequence, per head, per sequence.
    fn launch(
        self,
        cuda: &Context,
        kernel: &'static str,
        grid: (&Packing, usize),
        arguments: &[super::Argument],
    ) {
        let (packing, heads) = grid;
        let longest = (0..packing.sequences()).map(|s| packing.range(s).len()).max().unwrap_or(0);
        let grid = [longest.div_ceil(self.warps * ROWS), heads, packing.sequences()];
        assert!(heads <= MOST_BLOCKS && packing.sequences() <= MOST_BLOCKS, "{grid:?} blocks of attention");
        cuda.launch(Module::Attention, kernel, grid, self.warps * WARP, self.shared_bytes, arguments);
    }
}

/// Fills y and the log-sum-exps. The new keys and values are appended to a cache, behind the positions it holds.
pub(crate) fn forward(
    cuda: &Context,
    tape: &Tape<'_>,
    qkv: &Tensor,
    cache: Option<(&mut DeviceCache, usize)>,
    attention: Attention,
    drops: Option<&ActiveDropout>,
    y: &Tensor,
    log_sums: &Tensor,
) {
    let (width, dim) = (y.cols(), y.cols() / attention.heads);
    assert!(dim <= MOST_DIM, "heads of {dim}, on a GPU at most {MOST_DIM}");
    let slab = slab_of(tape.slab.as_deref());
    // Without a cache the keys and values stand beside the queries.
    let cached = cache.map(|(cache, past)| {
        let offsets = cuda.upload(&[0, (past + qkv.rows()) as u32]);
        (cache.append(cuda, tape, qkv, past), offsets)
    });
    let (keys, key_offsets, key_column) = match &cached {
        Some((rows, offsets)) => (rows, offsets.ptr(), 0),
        None => (qkv, slab.offsets(), width),
    };
    let [drop_keys, site, threshold, scale] = dropout(drops);
    let arguments = [
        at(qkv),
        int(3 * width),
        at(keys),
        int(keys.cols()),
        int(key_column),
        int(key_column + width),
        dtype(qkv.dtype()),
        slab.offsets().into(),
        key_offsets.into(),
        i32::from(attention.causal).into(),
        score_scale(dim).into(),
        int(dim),
        drop_keys,
        site,
        threshold,
        scale,
        at(y),
        dtype(y.dtype()),
        at(log_sums),
    ];
    let block = Block::new(dim, ROWS * (dim + WARP));
    block.launch(cuda, "attention_forward", (tape.packing, attention.heads), &arguments);
}

/// Adds to the gradient of qkv.
pub(crate) fn backward(cuda: &Context, back: &mut Backward<'_>, node: &AttentionNode, dy: &Tensor) {
    let (qkv, heads) = (&node.qkv.tensor, node.attention.heads);
    let (rows, width) = (dy.rows(), dy.cols());
    let dim = width / heads;
    let delta = back.uninit(rows, heads, DType::F32);
    let arguments = [
        at(&node.y),
        dtype(node.y.dtype()),
        at(dy),
        dtype(dy.dtype()),
        at(&delta),
        int(rows * heads),
        int(dim),
    ];
    cuda.launch(Module::Attention, "attention_delta", row_warps(rows * heads), THREADS, 0, &arguments);
    let gradient = back.uninit(rows, 3 * width, qkv.dtype());
    let slab = slab_of(back.slab.as_deref());
    let [drop_keys, site, threshold, scale] = dropout(node.dropout.as_ref());
    let arguments = [
        at(qkv),
        dtype(qkv.dtype()),
        at(dy),
        dtype(dy.dtype()),
        slab.offsets().into(),
        i32::from(node.attention.causal).into(),
        score_scale(dim).into(),
        int(dim),
        drop_keys,
        site,
        threshold,
        scale,
        at(&node.log_sums),
        at(&delta),
        at(&gradient),
    ];
    let grid = (back.packing, heads);
    Block::new(dim, ROWS * (2 * dim + WARP)).launch(cuda, "attention_backward_queries", grid, &arguments);
    Block::new(dim, ROWS * (2 * dim + 2 * WARP)).launch(cuda, "attention_backward_keys", grid, &arguments);
    back.add(node.qkv.id, gradient);
}

fn slab_of(slab: Option<&Slab>) -> &Slab {
    let Some(slab) = slab else { unreachable!("a GPU's tape has a slab") };
    slab
}

fn score_scale(dim: usize) -> f32 {
    1.0 / (dim as f32).sqrt()
}

/// The keys and values of one layer and one sequence on the device, with room for more.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeviceCache {
    /// `[positions there is room for, 2 C]`: rows of (k, v), in the type of what they came from.
    rows: Option<Tensor>,
}

impl DeviceCache {
    /// Takes over the keys and values of new rows, behind the `past` that are there; all of them.
    fn append(&mut self, cuda: &Context, tape: &Tape<'_>, qkv: &Tensor, past: usize) -> Tensor {
        let (new, width) = (qkv.rows(), qkv.cols() / 3);
        // A copy that shares its rows with another one grows in memory of its own.
        let fits = |rows: &mut Tensor| rows.rows() >= past + new && rows.is_unique();
        let rows = self.rows.take_if(fits).unwrap_or_else(|| {
            let room = (past + new).next_power_of_two().max(FIRST_POSITIONS);
            let larger = tape.uninit(room, 2 * width, qkv.dtype());
            if let Some(rows) = &self.rows {
                let bytes = past * 2 * width * qkv.dtype().size();
                cuda.copy(larger.device_ptr(), rows.device_ptr(), bytes);
            }
            larger
        });
        let arguments = [at(qkv), dtype(qkv.dtype()), at(&rows), int(past), int(new), int(width)];
        let grid = single_rows(new, 2 * width);
        cuda.launch(Module::Attention, "append_keys_values", grid, THREADS, 0, &arguments);
        self.rows = Some(rows.clone());
        rows
    }
}
