//! The cut of an output into tiles: by its shape alone, never by the number of threads.
//!
//! Owns: tile sizes and their balance. Never: touches an element.

use std::ops::Range;

/// Blocks of columns start at multiples of this: a multiple of the dropout blocks (32) and of the panels (48).
pub(super) const COL_UNIT: usize = 96;

/// What tiles should be like.
#[derive(Clone, Copy, Debug)]
pub(super) struct TileShape {
    /// Rows, about.
    pub(super) tall: usize,
    /// Columns, at most.
    pub(super) wide: usize,
    /// Tiles there should be, for many threads; tiles get up to half as tall for it.
    pub(super) least: usize,
}

/// A grid of tiles over an output.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiles {
    rows: usize,
    cols: usize,
    row_unit: usize,
    row_blocks: usize,
    col_blocks: usize,
}

impl Tiles {
    /// Cuts an output; blocks of rows start at multiples of `row_unit`, the micro-kernel's. The number of row blocks is a
    /// power of two: two, four, eight cores get equal shares.
    pub(super) fn new(rows: usize, cols: usize, row_unit: usize, shape: TileShape) -> Self {
        let col_blocks = cols.div_ceil(shape.wide).max(1);
        let mut row_blocks = rows.div_ceil(shape.tall).next_power_of_two();
        if row_blocks * col_blocks < shape.least && rows > row_blocks * shape.tall / 2 {
            row_blocks *= 2;
        }
        let row_blocks = row_blocks.clamp(1, rows.div_ceil(row_unit).max(1));
        Self { rows, cols, row_unit, row_blocks, col_blocks }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        if self.rows == 0 || self.cols == 0 { 0 } else { self.row_blocks * self.col_blocks }
    }

    /// The rows and columns of a tile. Neighbours in number share their columns, so that a wide right operand is
    /// read once; where it is narrow they share their rows, so that any run of tiles has its share of each width.
    pub(super) fn get(&self, tile: usize) -> (Range<usize>, Range<usize>) {
        let (row, col) = if self.col_blocks <= 2 {
            (tile / self.col_blocks, tile % self.col_blocks)
        } else {
            (tile % self.row_blocks, tile / self.row_blocks)
        };
        (
            share(self.rows, self.row_unit, self.row_blocks, row),
            share(self.cols, COL_UNIT, self.col_blocks, col),
        )
    }
}

/// Part `index` of `0..len` cut into `parts` of nearly equal size, at multiples of `unit`.
fn share(len: usize, unit: usize, parts: usize, index: usize) -> Range<usize> {
    let units = len.div_ceil(unit);
    let at = |i: usize| (units * i / parts * unit).min(len);
    at(index)..at(index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_element_once() {
        for (rows, cols) in
            [(0, 5), (5, 0), (1, 1), (7, 97), (64, 410), (507, 1230), (512, 2100), (2_100, 410)]
        {
            let tiles = Tiles::new(rows, cols, 8, TileShape { tall: 64, wide: 480, least: 16 });
            let mut seen = vec![0_u8; rows * cols];
            for (tile_rows, tile_cols) in (0..tiles.count()).map(|t| tiles.get(t)) {
                assert!(tile_rows.len() <= 72 && tile_cols.len() <= 480 && tile_cols.start % 32 == 0);
                for r in tile_rows {
                    tile_cols.clone().for_each(|c| seen[r * cols + c] += 1);
                }
            }
            assert!(seen.iter().all(|&s| s == 1), "{rows} x {cols}");
        }
    }
}
