//! Memory for packed operands and sums.
//!
//! Owns: growth and alignment. Never: knows what a cell holds.

use bytemuck::Zeroable;

use crate::buffers::CacheLine;

/// Cells of 32 bits in memory that starts on a cache line; grows, and is reused.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    lines: Vec<CacheLine>,
}

impl Buffer {
    /// Without memory yet.
    #[cfg(target_arch = "x86_64")]
    pub(super) const fn new() -> Self {
        Self { lines: Vec::new() }
    }

    /// At least `cells` cells, with whatever they held.
    pub(super) fn room(&mut self, cells: usize) -> &mut [u32] {
        let lines = cells.div_ceil(16);
        if self.lines.len() < lines {
            self.lines.resize(lines, CacheLine::zeroed());
        }
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..cells]
    }

    /// All there is.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn cells(&self) -> &[u32] {
        bytemuck::cast_slice(&self.lines)
    }
}
