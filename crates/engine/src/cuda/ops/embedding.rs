//! Embedding on the device, and the sums of rows by where they go, which row selection needs too.

use super::{THREADS, array, at, dropout, dtype, int, row_blocks, single_rows};
use crate::cuda::{Context, DeviceBuffer, DevicePtr, Module};
use crate::ops::embedding::{Embedding, EmbeddingNode};
use crate::tape::{ActiveDropout, Backward, Tape};
use crate::tensor::{DType, Tensor};

/// Fills h.
pub(crate) fn forward(
    cuda: &Context,
    tape: &Tape<'_>,
    ids: &[u32],
    tables: &Embedding,
    drops: Option<&ActiveDropout>,
    h: &Tensor,
) {
    let Some(slab) = &tape.slab else { unreachable!("a GPU's tape has a slab") };
    let vocabulary = tables.tokens.rows;
    assert!(ids.iter().all(|&id| (id as usize) < vocabulary), "an id outside the table of {vocabulary}");
    let last = tape.packing.rows().map(|(_, position)| position as usize).max();
    assert!(last < Some(tables.positions.rows), "a position outside the table of {}", tables.positions.rows);
    let ids = cuda.upload(ids);
    let offset = tables.offset.map(|(_, view)| tape.weights.device_f32(cuda, view));
    let [keys, site, threshold, scale] = dropout(drops);
    let arguments = [
        array(&ids),
        slab.positions().into(),
        tape.weights.device_f32(cuda, tables.tokens).into(),
        tape.weights.device_f32(cuda, tables.positions).into(),
        offset.into(),
        tables.offset.map_or(0, |(id, _)| id).into(),
        at(h),
        int(h.rows()),
        int(h.cols()),
        keys,
        site,
        threshold,
        scale,
    ];
    let grid = row_blocks(h.rows(), h.cols());
    cuda.launch(Module::Embedding, "embedding_forward", grid, THREADS, 0, &arguments);
}

/// Adds to the gradients of the tables.
pub(crate) fn backward(cuda: &Context, back: &mut Backward<'_>, node: &EmbeddingNode, dh: &Tensor) {
    let (ids, tables, drops) = (&node.ids, &node.tables, node.dropout.as_ref());
    let by_id = || (0_u32..).zip(ids).map(|(row, &id)| (id, row));
    if let Some(to) = back.gradients.device_mut(cuda, tables.tokens) {
        Groups::new(cuda, by_id(), ids.len()).add_rows(cuda, dh, to, drops);
    }
    if let Some(to) = back.gradients.device_mut(cuda, tables.positions) {
        let by_position = (0_u32..).zip(back.packing.rows()).map(|(row, (_, at))| (at as u32, row));
        Groups::new(cuda, by_position, ids.len()).add_rows(cuda, dh, to, drops);
    }
    let Some((marked, view)) = tables.offset else { return };
    if let Some(to) = back.gradients.device_mut(cuda, view) {
        let of_marked = by_id().filter(|(id, _)| *id == marked).map(|(_, row)| (0, row));
        Groups::new(cuda, of_marked, ids.len()).add_rows(cuda, dh, to, drops);
    }
}

/// Rows that one piece of a group has at most. A token that comes often, or the mask, has thousands of rows in a batch: summed
/// by one thread after the other, they would take longer than all others together.
const PIECE: usize = if cfg!(test) { 3 } else { 64 };

/// What marks the destination of a piece of a larger group: `IN_PARTS` in `embedding.cu`.
const IN_PARTS: u32 = 1 << 31;

/// Rows by the row of another matrix that they are added to, each group in the order of its rows and in pieces of
/// [`PIECE`]: so every sum is made in a fixed order.
pub(super) struct Groups {
    /// Where each piece goes: a row of the matrix, or of the sums of pieces.
    destinations: DeviceBuffer,
    pieces: usize,
    /// Where each piece's rows start; one more at the end.
    starts: DeviceBuffer,
    sources: DeviceBuffer,
    /// The groups of several pieces: their rows of the matrix, and where their pieces start; one more at the end.
    large_targets: DeviceBuffer,
    large_starts: DeviceBuffer,
    large: usize,
    /// Pieces of large groups that there may be.
    most_parts: usize,
}

impl Groups {
    /// From (target, source) pairs. Another time there may be other numbers of them, up to `most`.
    pub(super) fn new(cuda: &Context, pairs: impl Iterator<Item = (u32, u32)>, most: usize) -> Self {
        let mut pairs: Vec<(u32, u32)> = pairs.collect();
        pairs.sort_unstable();
        let (mut destinations, mut starts) = (Vec::new(), Vec::new());
        let (mut large_targets, mut large_starts) = (Vec::new(), vec![0_u32]);
        let (mut at, mut parts) = (0, 0);
        for group in pairs.chunk_by(|a, b| a.0 == b.0) {
            let (target, in_parts) = (group[0].0, group.len() > PIECE);
            for piece in group.chunks(PIECE) {
                destinations.push(if in_parts { IN_PARTS | parts } else { target });
                starts.push(at);
                at += piece.len() as u32;
                parts += u32::from(in_parts);
            }
            if in_parts {
                large_targets.push(target);
                large_starts.push(parts);
            }
        }
        starts.push(at);
        let sources: Vec<u32> = pairs.iter().map(|&(_, source)| source).collect();
        // A group in parts has more rows than one piece, so at most two pieces for each PIECE of its rows.
        let most_parts = 2 * most.div_ceil(PIECE);
        Self {
            destinations: cuda.upload_within(&destinations, most),
            pieces: destinations.len(),
            starts: cuda.upload_within(&starts, most + 1),
            sources: cuda.upload_within(&sources, most),
            large_targets: cuda.upload_within(&large_targets, most_parts),
            large_starts: cuda.upload_within(&large_starts, most_parts + 1),
            large: large_targets.len(),
            most_parts,
        }
    }

    /// to[target] += from[source] * dropout factors, for all pairs.
    pub(super) fn add_rows(
        &self,
        cuda: &Context,
        from: &Tensor,
        to: DevicePtr,
        drops: Option<&ActiveDropout>,
    ) {
        let cols = from.cols();
        let partial = cuda.allocate(self.most_parts * cols * DType::F32.size());
        let [keys, site, threshold, scale] = dropout(drops);
        let arguments = [
            at(from),
            dtype(from.dtype()),
            array(&self.destinations),
            array(&self.starts),
            array(&self.sources),
            int(self.pieces),
            to.into(),
            array(&partial),
            int(cols),
            keys,
            site,
            threshold,
            scale,
        ];
        // Never without a block, so that a graph has the kernels whether there are pairs this time or not.
        let grid = single_rows(self.pieces.max(1), cols);
        cuda.launch(Module::Embedding, "scatter_rows", grid, THREADS, 0, &arguments);
        let arguments = [
            array(&partial),
            array(&self.large_targets),
            array(&self.large_starts),
            int(self.large),
            to.into(),
            int(cols),
        ];
        let grid = single_rows(self.large.max(1), cols);
        cuda.launch(Module::Embedding, "add_parts", grid, THREADS, 0, &arguments);
    }
}
