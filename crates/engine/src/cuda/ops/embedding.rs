//! Embedding on the device, and the sums of rows by where they go, which row selection needs too.

use super::{THREADS, array, at, dropout, dtype, int, row_blocks, single_rows};
use crate::cuda::{Context, DeviceBuffer, DevicePtr, Module};
use crate::ops::embedding::{Embedding, EmbeddingNode};
use crate::tape::{ActiveDropout, Backward, Tape};
use crate::tensor::Tensor;

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

/// Rows by the row of another matrix that they are added to, each group in the order of its rows: so every sum is
/// made by one thread in a fixed order.
pub(super) struct Groups {
    /// Distinct.
    targets: DeviceBuffer,
    count: usize,
    /// Where each group's rows start; one more at the end.
    starts: DeviceBuffer,
    sources: DeviceBuffer,
}

impl Groups {
    /// From (target, source) pairs. Another time there may be other numbers of them, up to `most`.
    pub(super) fn new(cuda: &Context, pairs: impl Iterator<Item = (u32, u32)>, most: usize) -> Self {
        let mut pairs: Vec<(u32, u32)> = pairs.collect();
        pairs.sort_unstable();
        let (mut targets, mut starts) = (Vec::new(), Vec::new());
        for (i, &(target, _)) in pairs.iter().enumerate() {
            if targets.last() != Some(&target) {
                targets.push(target);
                starts.push(i as u32);
            }
        }
        starts.push(pairs.len() as u32);
        let sources: Vec<u32> = pairs.into_iter().map(|(_, source)| source).collect();
        Self {
            targets: cuda.upload_within(&targets, most),
            count: targets.len(),
            starts: cuda.upload_within(&starts, most + 1),
            sources: cuda.upload_within(&sources, most),
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
        let [keys, site, threshold, scale] = dropout(drops);
        let arguments = [
            at(from),
            dtype(from.dtype()),
            array(&self.targets),
            array(&self.starts),
            array(&self.sources),
            int(self.count),
            to.into(),
            int(from.cols()),
            keys,
            site,
            threshold,
            scale,
        ];
        // Never without a block, so that a graph has the kernel whether there are pairs this time or not.
        let grid = single_rows(self.count.max(1), from.cols());
        cuda.launch(Module::Embedding, "scatter_rows", grid, THREADS, 0, &arguments);
    }
}
