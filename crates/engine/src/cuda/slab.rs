//! What all ops of one slab read: where its sequences lie, and their dropout keys. Uploaded once per slab.
//!
//! Owns: these arrays. Never: token ids or targets, which belong to single ops.

use super::buffer::{DeviceBuffer, DevicePtr};
use super::context::Context;
use crate::ops::dropout::DropoutRows;
use crate::packing::Packing;

/// The arrays, on the device.
#[derive(Debug)]
pub(crate) struct Slab {
    offsets: DeviceBuffer,
    positions: DeviceBuffer,
    /// Those of tokens, and of sequences.
    dropout_keys: Option<[DeviceBuffer; 2]>,
    sequences: usize,
    longest: usize,
}

impl Slab {
    /// The dropout keys of its tokens and of its sequences only where something may be dropped.
    pub(crate) fn new(cuda: &Context, packing: &Packing, dropout_keys: Option<[&[u64]; 2]>) -> Self {
        let mut offsets = vec![0_u32];
        offsets.extend((0..packing.sequences()).map(|s| packing.range(s).end as u32));
        let positions: Vec<u32> = packing.rows().map(|(_, position)| position as u32).collect();
        Self {
            offsets: cuda.upload(&offsets),
            positions: cuda.upload(&positions),
            dropout_keys: dropout_keys.map(|keys| keys.map(|keys| cuda.upload(keys))),
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

    /// u64, N or B: the dropout key of each token or sequence; `None` where nothing is dropped.
    pub(crate) fn dropout_keys(&self, rows: DropoutRows) -> Option<DevicePtr> {
        let [tokens, sequences] = self.dropout_keys.as_ref()?;
        Some(match rows {
            DropoutRows::Tokens => tokens.ptr(),
            DropoutRows::Sequences => sequences.ptr(),
        })
    }
}
