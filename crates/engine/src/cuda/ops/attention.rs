//! Attention on the device: grids and shared memory of the kernels, and the cache of keys and values.

use super::{
    Argument, DeviceDropout, MOST_BLOCKS, THREADS, WARP, at, dropout, dtype, elements, int, optional,
    row_warps, single_rows,
};
use crate::buffers::Pool;
use crate::cuda::{Context, DeviceBuffer, Module, Slab};
use crate::dtype::DType;
use crate::tensor::Tensor;

const ATTENTION: Module = Module { name: "attention", text: include_str!("../kernels/attention.cu") };

/// The kernels for bf16, for heads of up to 16, 32, .. 128 columns.
const ATTENTION_BF16: [Module; MOST_DIM / STEP] = {
    macro_rules! module {
        ($name:literal, $steps:literal) => {
            Module {
                name: $name,
                text: concat!("#define STEPS ", $steps, "\n", include_str!("../kernels/attention_bf16.cu")),
            }
        };
    }
    [
        module!("attention_bf16_16", 1),
        module!("attention_bf16_32", 2),
        module!("attention_bf16_48", 3),
        module!("attention_bf16_64", 4),
        module!("attention_bf16_80", 5),
        module!("attention_bf16_96", 6),
        module!("attention_bf16_112", 7),
        module!("attention_bf16_128", 8),
    ]
};

/// Columns that tensor cores multiply at a time.
const STEP: usize = 16;

/// Rows that a warp owns in bf16, and that a block's warps see at a time: `OWN` and `SEEN` in `attention_bf16.cu`.
const OWN: usize = 16;
const SEEN: usize = 64;

/// Rows that a warp owns in f32: `ROWS` in `common.cuh`.
const ROWS: usize = 4;

/// Columns of bf16 that are read at once.
const EIGHT: usize = 8;

/// The widest head.
const MOST_DIM: usize = 128;

/// A window that shows everything; sums with a position do not overflow.
const MOST_WINDOW: usize = 1 << 30;

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
    fn launch(self, cuda: &Context, kernel: &'static str, slab: &Slab, heads: usize, arguments: &[Argument]) {
        let grid = [slab.longest().div_ceil(self.warps * ROWS), heads, slab.sequences()];
        assert!(heads <= MOST_BLOCKS && slab.sequences() <= MOST_BLOCKS, "{grid:?} blocks of attention");
        cuda.launch(ATTENTION, kernel, grid, self.warps * WARP, self.shared_bytes, arguments);
    }
}

/// The module for such heads in bf16, and a launch of one of its kernels: as [`Block::launch`], with fewer warps where
/// all sequences are short.
fn launch_bf16(cuda: &Context, kernel: &'static str, slab: &Slab, heads: Heads, arguments: &[Argument]) {
    let steps = heads.dim.div_ceil(STEP);
    // Of keys, 32 share their random bits.
    let warps = if slab.longest() <= 2 * OWN { 2 } else { 4 };
    let grid = [slab.longest().div_ceil(warps * OWN), heads.count, slab.sequences()];
    assert!(heads.count <= MOST_BLOCKS && slab.sequences() <= MOST_BLOCKS, "{grid:?} blocks of attention");
    // Two tiles, and two more that are staged meanwhile.
    let shared_bytes = 4 * SEEN * (steps * STEP + 8) * DType::Bf16.size();
    cuda.launch(ATTENTION_BF16[steps - 1], kernel, grid, warps * WARP, shared_bytes, arguments);
}

/// How the heads attend.
#[derive(Clone, Copy)]
pub(crate) struct Heads {
    pub(crate) count: usize,
    /// D.
    pub(crate) dim: usize,
    pub(crate) causal: bool,
    /// The distance to the furthest keys that a query sees.
    pub(crate) window: Option<usize>,
    pub(crate) dropout: Option<DeviceDropout>,
}

impl Heads {
    /// What every kernel takes of them: `causal` to `scale`.
    fn arguments(self) -> [Argument; 8] {
        let [drop_keys, site, threshold, scale] = dropout(self.dropout);
        // Where there is no window, one that no sequence is long enough for.
        let window = self.window.map_or(MOST_WINDOW, |window| window.min(MOST_WINDOW));
        let score_scale = 1.0 / (self.dim as f32).sqrt();
        let causal = i32::from(self.causal);
        [causal.into(), int(window), score_scale.into(), int(self.dim), drop_keys, site, threshold, scale]
    }
}

/// A copy of qkv, which is bf16, with heads `pitch` columns apart, a multiple of [`EIGHT`], and zeros behind the columns of each.
fn spread(cuda: &Context, pool: &Pool, qkv: &Tensor, heads: Heads, pitch: usize) -> Tensor {
    let (rows, parts) = (qkv.rows(), 3 * heads.count);
    assert!(qkv.dtype() == DType::Bf16 && pitch.is_multiple_of(EIGHT), "heads {pitch} columns apart");
    let to = Tensor::uninit(pool, rows, parts * pitch, DType::Bf16);
    let arguments = [at(qkv), int(qkv.cols()), at(&to), int(rows), int(parts), int(heads.dim), int(pitch)];
    let grid = elements(rows * to.cols() / EIGHT);
    cuda.launch(ATTENTION, "spread_heads", grid, THREADS, 0, &arguments);
    to
}

/// Fills y and the log-sum-exps. With a cache, its rows of (k, v) and their offsets stand for the keys and values of qkv. The kernels
/// for bf16 read heads `pitch` columns apart: twice as fast where those are 16 bytes, a pass over qkv where they are not its own. Gives
/// back what the backward takes for qkv.
pub(crate) fn forward(
    cuda: &Context,
    pool: &Pool,
    slab: &Slab,
    qkv: &Tensor,
    cached: Option<&(Tensor, DeviceBuffer)>,
    heads: Heads,
    pitch: usize,
    (y, log_sums): (&Tensor, &Tensor),
) -> Tensor {
    let dim = heads.dim;
    assert!(dim <= MOST_DIM, "heads of {dim}, on a GPU at most {MOST_DIM}");
    let qkv = if pitch == dim { qkv.clone() } else { spread(cuda, pool, qkv, heads, pitch) };
    let width = heads.count * pitch;
    assert_eq!(qkv.cols(), 3 * width, "columns of queries, keys and values");
    // Without a cache the keys and values stand beside the queries.
    let (keys, key_offsets, key_column) = match cached {
        Some((rows, offsets)) => (rows, offsets.ptr(), 0),
        None => (&qkv, slab.offsets(), width),
    };
    let read =
        [at(&qkv), int(3 * width), at(keys), int(keys.cols()), int(key_column), int(key_column + width)];
    let offsets = [slab.offsets().into(), key_offsets.into()];
    let scores = heads.arguments();
    if qkv.dtype() == DType::Bf16 {
        assert_eq!(y.dtype(), DType::Bf16, "attention of bf16");
        let written = [int(pitch), at(y), int(y.cols()), at(log_sums)];
        let arguments = [&read[..], &offsets, &scores, &written].concat();
        launch_bf16(cuda, "attention_forward_bf16", slab, heads, &arguments);
        return qkv;
    }
    let written = [at(y), dtype(y.dtype()), at(log_sums)];
    let arguments = [&read[..], &[dtype(qkv.dtype())], &offsets, &scores, &written].concat();
    let block = Block::new(dim, ROWS * (dim + WARP));
    block.launch(cuda, "attention_forward", slab, heads.count, &arguments);
    qkv
}

/// Fills the gradient of qkv, and in bf16 its further columns with zeros, from what the forward gave back and made (qkv, y, the
/// log-sum-exps). `delta` is work space `[N, H]`.
pub(crate) fn backward(
    cuda: &Context,
    pool: &Pool,
    slab: &Slab,
    (qkv, y, log_sums): (&Tensor, &Tensor, &Tensor),
    heads: Heads,
    dy: &Tensor,
    delta: &Tensor,
    gradient: &Tensor,
) {
    let dim = heads.dim;
    let count = dy.rows() * heads.count;
    assert_eq!(y.cols(), dy.cols(), "attention: columns of the output and of its gradient");
    let scores = heads.arguments();
    let sums = [at(log_sums), at(delta), at(gradient)];
    if qkv.dtype() == DType::Bf16 {
        let pitch = qkv.cols() / 3 / heads.count;
        // Heads of dy are where those of qkv are.
        let wide = (pitch > dim).then(|| Tensor::uninit(pool, dy.rows(), heads.count * pitch, DType::Bf16));
        let [wide_at, _] = optional(wide.as_ref());
        let arguments = [
            at(y),
            at(dy),
            dtype(dy.dtype()),
            int(dy.cols()),
            at(delta),
            wide_at,
            int(heads.count),
            int(count),
            int(dim),
            int(pitch),
        ];
        cuda.launch(ATTENTION, "attention_delta_bf16", elements(EIGHT * count), THREADS, 0, &arguments);
        let dy = wide.as_ref().unwrap_or(dy);
        let rows = [at(qkv), at(dy), dtype(dy.dtype()), int(dy.cols()), slab.offsets().into()];
        let arguments = [&rows[..], &scores, &[int(pitch)], &sums, &[int(gradient.cols())]].concat();
        for kernel in ["attention_backward_queries_bf16", "attention_backward_keys_bf16"] {
            launch_bf16(cuda, kernel, slab, heads, &arguments);
        }
        return;
    }
    let arguments = [
        at(y),
        dtype(y.dtype()),
        at(dy),
        dtype(dy.dtype()),
        int(y.cols()),
        at(delta),
        int(heads.count),
        int(count),
        int(dim),
    ];
    cuda.launch(ATTENTION, "attention_delta", row_warps(count), THREADS, 0, &arguments);
    let rows = [at(qkv), dtype(qkv.dtype()), at(dy), dtype(dy.dtype()), slab.offsets().into()];
    let arguments = [&rows[..], &scores, &sums].concat();
    let of_queries = Block::new(dim, ROWS * (2 * dim + WARP));
    of_queries.launch(cuda, "attention_backward_queries", slab, heads.count, &arguments);
    let of_keys = Block::new(dim, ROWS * (2 * dim + 2 * WARP));
    of_keys.launch(cuda, "attention_backward_keys", slab, heads.count, &arguments);
}

/// The keys and values of one layer and one sequence on the device, with room for more.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeviceCache {
    /// `[positions there is room for, 2 C]`: rows of (k, v), in the type of what they came from.
    rows: Option<Tensor>,
}

impl DeviceCache {
    /// Takes over the keys and values of new rows, behind the `past` that are there; all of them.
    pub(crate) fn append(&mut self, cuda: &Context, pool: &Pool, qkv: &Tensor, past: usize) -> Tensor {
        let (new, width) = (qkv.rows(), qkv.cols() / 3);
        // A copy that shares its rows with another one grows in memory of its own.
        let fits = |rows: &mut Tensor| rows.rows() >= past + new && rows.is_unique();
        let rows = self.rows.take_if(fits).unwrap_or_else(|| {
            let room = (past + new).next_power_of_two().max(FIRST_POSITIONS);
            let larger = Tensor::uninit(pool, room, 2 * width, qkv.dtype());
            if let Some(rows) = &self.rows {
                let bytes = past * 2 * width * qkv.dtype().size();
                cuda.copy(larger.device_ptr(), rows.device_ptr(), bytes);
            }
            larger
        });
        let arguments = [at(qkv), dtype(qkv.dtype()), at(&rows), int(past), int(new), int(width)];
        let grid = single_rows(new, 2 * width);
        cuda.launch(ATTENTION, "append_keys_values", grid, THREADS, 0, &arguments);
        self.rows = Some(rows.clone());
        rows
    }
}
