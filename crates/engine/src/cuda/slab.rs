//! What all ops of one slab read: where its sequences lie, and each token's dropout key. Uploaded once per slab.
//!
//! Owns: these arrays. Never: token ids or targets, which belong to single ops.

use super::buffer::{DeviceBuffer, DevicePtr};
use super::context::Context;
use crate::packing::Packing;

/// The arrays, on the device.
#[derive(Debug)]
pub(crate) struct Slab {
    offsets: DeviceBuffer,
    positions: DeviceBuffer,
    row_keys: Option<DeviceBuffer>,
    sequences: usize,
    longest: usize,
}

impl Slab {
    /// `row_keys` only where something may be dropped.
    pub(crate) fn new(cuda: &Context, packing: &Packing, row_keys: Option<&[u64]>) -> Self {
        let mut offsets = vec![0_u32];
        offsets.extend((0..packing.sequences()).map(|s| packing.range(s).end as u32));
        let positions: Vec<u32> = packing.rows().map(|(_, position)| position as u32).collect();
        Self {
            offsets: cuda.upload(&offsets),
            positions: cuda.upload(&positions),
            row_keys: row_keys.map(|keys| cuda.upload(keys)),
            sequences: packing.sequences(),
            longest: (0..packing.sequences()).map(|s| packing.range(s).len()).max().unwrap_or(0),
        }
    }

    /// Number of sequences.
    pub(crate) fn sequences(&self) -> usize {
        self.sequences
    }

    /// Rows of the longest sequence.
    pub(crate) fn longest(&self) -> usize {
        self.longest
    }

    /// u32, B + 1: the first row of each sequence, and the number of rows.
    pub(crate) fn offsets(&self) -> DevicePtr {
        self.offsets.ptr()
    }

    /// u32, N: each row's position in its sequence.
    pub(crate) fn positions(&self) -> DevicePtr {
        self.positions.ptr()
    }

    /// u64, N: each row's dropout key; `None` where nothing is dropped.
    pub(crate) fn row_keys(&self) -> Option<DevicePtr> {
        self.row_keys.as_ref().map(DeviceBuffer::ptr)
    }
}
