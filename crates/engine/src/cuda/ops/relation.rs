//! Token relations on the device: grids and shared memory of their kernels.

use super::{Argument, MOST_BLOCKS, WARP, at, dtype, int, loss};
use crate::cuda::{Context, DeviceBuffer, Module, Slab};
use crate::tensor::Tensor;

const RELATION: Module = Module { name: "relation", text: include_str!("../kernels/relation.cu") };

/// Rows that a warp owns: `ROWS` in `common.cuh`.
const ROWS: usize = 4;

/// The widest head: `GROUPS` times a warp in `common.cuh`.
pub(crate) const MOST_DIM: usize = 128;

/// Shared memory that every GPU gives a block without being asked in a special way.
const SHARED_BYTES: usize = 48 << 10;

/// Fills `outcomes` `[pairs * N * heads, 2]` with the terms of each pair of parts of the rows (q, k and v have the numbers 0 to 2), and the gradient of x, where one
/// is wanted; the sum of the terms, as two f64. `log_sums` are work space `[N, heads]`.
pub(crate) fn relation(
    cuda: &Context,
    slab: &Slab,
    [x, targets]: [&Tensor; 2],
    pairs: &[[usize; 2]],
    (heads, causal): (usize, bool),
    scale: f32,
    log_sums: [&Tensor; 2],
    outcomes: &Tensor,
    gradient: Option<&Tensor>,
) -> DeviceBuffer {
    let [dim, t_dim] = [x, targets].map(|rows| rows.cols() / 3 / heads);
    assert!(dim <= MOST_DIM && t_dim <= MOST_DIM, "heads of {dim} and {t_dim}, on a GPU at most {MOST_DIM}");
    let bytes = |warps: usize| {
        (WARP * ((dim | 1) + (t_dim | 1)) + warps * ROWS * (dim + t_dim + WARP)) * size_of::<f32>()
    };
    let warps = [8, 4, 2].into_iter().find(|&warps| bytes(warps) <= SHARED_BYTES).unwrap_or(1);
    let grid = [slab.longest().div_ceil(warps * ROWS), heads, slab.sequences()];
    assert!(heads <= MOST_BLOCKS && slab.sequences() <= MOST_BLOCKS, "{grid:?} blocks of relations");
    let launch = |kernel, arguments: &[Argument]| {
        cuda.launch(RELATION, kernel, grid, warps * WARP, bytes(warps), arguments);
    };
    let score_scale = |dim: usize| 1.0 / (dim as f32).sqrt();
    let slope = scale * score_scale(dim);
    let [own_sums, their_sums] = log_sums.map(at);
    for (number, &[a, b]) in pairs.iter().enumerate() {
        let side = |rows: &Tensor, dim: usize| {
            let width = rows.cols() / 3;
            let columns = [a, b].map(|part| int(part * width));
            [
                at(rows),
                dtype(rows.dtype()),
                int(rows.cols()),
                columns[0],
                columns[1],
                int(dim),
                score_scale(dim).into(),
            ]
        };
        let sides = [side(x, dim), side(targets, t_dim)].concat();
        let common = [slab.offsets().into(), i32::from(causal).into(), slope.into()];
        let first = int(number * x.rows() * heads);
        let of_rows = [at(outcomes), first, own_sums, their_sums, gradient.map(Tensor::device_ptr).into()];
        launch("relation_rows", &[&sides[..], &common, &of_rows].concat());
        if let Some(gradient) = gradient {
            let of_columns = [own_sums, their_sums, i32::from(a == b).into(), at(gradient)];
            launch("relation_columns", &[&sides[..], &common, &of_columns].concat());
        }
    }
    loss::sum_outcomes(cuda, outcomes)
}
