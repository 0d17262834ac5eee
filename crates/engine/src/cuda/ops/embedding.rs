//! Embedding on the device: the look-up. (Its gradients: [`super::scatter`].)

use super::{DeviceDropout, THREADS, array, at, columns_by_blocks, dropout, int};
use crate::cuda::{Context, DeviceBuffer, DevicePtr, Module, Slab};
use crate::tensor::Tensor;

const EMBEDDING: Module = Module { name: "embedding", text: include_str!("../kernels/embedding.cu") };

/// Where the tables lie.
pub(crate) struct Tables<'a> {
    pub(crate) tokens: DevicePtr,
    pub(crate) positions: Option<DevicePtr>,
    /// Each token's type, and the table.
    pub(crate) token_types: Option<(&'a [u32], DevicePtr)>,
    /// A vector for the rows of one id.
    pub(crate) offset: Option<(u32, DevicePtr)>,
}

/// Fills h. Ids, types and the slab's positions lie inside the tables.
pub(crate) fn forward(
    cuda: &Context,
    slab: &Slab,
    ids: &[u32],
    tables: &Tables<'_>,
    drops: Option<DeviceDropout>,
    h: &Tensor,
) {
    let ids = cuda.upload(ids);
    let types = tables.token_types.map(|(types, _)| cuda.upload(types));
    let [keys, site, threshold, scale] = dropout(drops);
    let arguments = [
        array(&ids),
        slab.positions().into(),
        tables.tokens.into(),
        tables.positions.into(),
        types.as_ref().map(DeviceBuffer::ptr).into(),
        tables.token_types.map(|(_, at)| at).into(),
        tables.offset.map(|(_, at)| at).into(),
        tables.offset.map_or(0, |(id, _)| id).into(),
        at(h),
        int(h.rows()),
        int(h.cols()),
        keys,
        site,
        threshold,
        scale,
    ];
    let grid = columns_by_blocks(h.rows(), h.cols());
    cuda.launch(EMBEDDING, "embedding_forward", grid, THREADS, 0, &arguments);
}
