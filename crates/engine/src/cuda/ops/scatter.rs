//! Rows added to other rows on the device, each sum in a fixed order: the gradients of look-ups and selections.

use super::{DeviceDropout, THREADS, array, at, dropout, dtype, int, single_rows};
use crate::cuda::{Context, DeviceBuffer, DevicePtr, Module};
use crate::dtype::DType;
use crate::tensor::Tensor;

const SCATTER: Module = Module { name: "scatter", text: include_str!("../kernels/scatter.cu") };

/// Rows that one segment of a group has at most. A frequent token, or the mask, has thousands of rows in a
/// batch; if one thread added them all, that would take longer than all other groups together.
const SEGMENT: usize = if cfg!(test) { 3 } else { 64 };

/// What marks the destination of a segment of a larger group: `IN_SEGMENTS` in `scatter.cu`.
const IN_SEGMENTS: u32 = 1 << 31;

/// Rows by the row of another matrix that they are added to, each group in the order of its rows and in segments of
/// [`SEGMENT`]: so every sum is made in a fixed order.
pub(crate) struct Groups {
    /// Where each segment goes: a row of the matrix, or of the sums of segments.
    destinations: DeviceBuffer,
    segments: usize,
    /// Where each segment's rows start; one more at the end.
    starts: DeviceBuffer,
    sources: DeviceBuffer,
    /// The groups of several segments: their rows of the matrix, and where their segments start; one more at the end.
    large_targets: DeviceBuffer,
    large_starts: DeviceBuffer,
    large: usize,
    /// How many segments of large groups there may be.
    most_partial: usize,
}

impl Groups {
    /// From (target, source) pairs. Another time there may be other numbers of them, up to `most`.
    pub(crate) fn new(cuda: &Context, pairs: impl Iterator<Item = (u32, u32)>, most: usize) -> Self {
        let mut pairs: Vec<(u32, u32)> = pairs.collect();
        pairs.sort_unstable();
        let (mut destinations, mut starts) = (Vec::new(), Vec::new());
        let (mut large_targets, mut large_starts) = (Vec::new(), vec![0_u32]);
        let (mut at, mut partial_rows) = (0, 0);
        for group in pairs.chunk_by(|a, b| a.0 == b.0) {
            let (target, in_segments) = (group[0].0, group.len() > SEGMENT);
            for segment in group.chunks(SEGMENT) {
                destinations.push(if in_segments { IN_SEGMENTS | partial_rows } else { target });
                starts.push(at);
                at += segment.len() as u32;
                partial_rows += u32::from(in_segments);
            }
            if in_segments {
                large_targets.push(target);
                large_starts.push(partial_rows);
            }
        }
        starts.push(at);
        let sources: Vec<u32> = pairs.iter().map(|&(_, source)| source).collect();
        // A group in several segments has more rows than one segment, so at most two segments for each SEGMENT of its rows.
        let most_partial = 2 * most.div_ceil(SEGMENT);
        Self {
            destinations: cuda.upload_within(&destinations, most),
            segments: destinations.len(),
            starts: cuda.upload_within(&starts, most + 1),
            sources: cuda.upload_within(&sources, most),
            large_targets: cuda.upload_within(&large_targets, most_partial),
            large_starts: cuda.upload_within(&large_starts, most_partial + 1),
            large: large_targets.len(),
            most_partial,
        }
    }

    /// to[target] += from[source] * dropout factors, for all pairs.
    pub(crate) fn add_rows(
        &self,
        cuda: &Context,
        from: &Tensor,
        to: DevicePtr,
        drops: Option<DeviceDropout>,
    ) {
        let cols = from.cols();
        let partial = cuda.allocate(self.most_partial * cols * DType::F32.size());
        let [keys, site, threshold, scale] = dropout(drops);
        let arguments = [
            at(from),
            dtype(from.dtype()),
            array(&self.destinations),
            array(&self.starts),
            array(&self.sources),
            int(self.segments),
            to.into(),
            array(&partial),
            int(cols),
            keys,
            site,
            threshold,
            scale,
        ];
        // Never without a block, so that a graph has the kernels whether there are pairs this time or not.
        let grid = single_rows(self.segments.max(1), cols);
        cuda.launch(SCATTER, "scatter_rows", grid, THREADS, 0, &arguments);
        let arguments = [
            array(&partial),
            array(&self.large_targets),
            array(&self.large_starts),
            int(self.large),
            to.into(),
            int(cols),
        ];
        let grid = single_rows(self.large.max(1), cols);
        cuda.launch(SCATTER, "add_partial_rows", grid, THREADS, 0, &arguments);
    }
}
