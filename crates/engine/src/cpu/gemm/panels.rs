//! The AVX-512 matmul: which tile, which panel, which part of K comes when.
//!
//! Owns: the loops around the register tile, the memory they need. Never: an intrinsic.
//!
//! The right operand is packed once, into panels of 48 columns that all rows share. A task takes a tile of the
//! output and goes through K in blocks, and per block through the panels; a panel's block is read by all rows of
//! the tile while it is in cache. The rows of the left operand are converted once per block, if at all.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use super::buffer::Buffer;
use super::kernel::{self, Kernel, PANEL};
use super::packing::{self, per_cell, row_group, step_unit, steps_of};
use super::tiles::{TileShape, Tiles};
use super::{DEEP, Destination, Operand};
use crate::cpu::shared::SharedSlice;
use crate::device::Device;

/// Tiles of most matmuls: the rows' cells and a panel fit the second-level cache.
const TILE: TileShape = TileShape { tall: 64, wide: WIDE, least: 16 };
/// Columns of a tile, at most.
const WIDE: usize = 480;
/// So few rows make one tile high; the tiles are narrow then, for every thread to have some, and a right operand that
/// is not packed yet is packed a panel's block at a time, by the only tile that will read it.
const FEW: usize = 32;
const FEW_TILE: TileShape = TileShape { tall: 64, wide: 96, least: 0 };
/// Steps of a block of K, at most.
const BLOCK: usize = 1_100;
/// From [`DEEP`] steps on both operands come from memory again for every tile: a tile is then nearly square, and
/// its blocks are shorter to make room.
const DEEP_TILE: TileShape = TileShape { tall: 128, wide: 288, least: 0 };
const DEEP_BLOCK: usize = 550;
/// Bytes of a cache line.
const LINE: usize = 64;
/// Steps of one packing task, where a panel is packed at a time and where rows are.
const PACK_STEPS: usize = 512;
const PACK_ROWS: usize = 16;
/// Cells of a right operand that are packed at once (16 MiB), unless it is narrow.
const PACK_CELLS: usize = 4 << 20;

/// What a task needs to itself.
#[derive(Default)]
struct Scratch {
    left: Buffer,
    sums: Buffer,
    panel: Buffer,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
    /// The packed right operand, kept by the thread that asks for matmuls.
    static RIGHT: Cell<Buffer> = const { Cell::new(Buffer::new()) };
}

/// Packs a right operand: panels of 48 columns, the last of 16, 32 or 48; each is `[steps, width]` cells. With `LATER`
/// it is written past the caches, for there is much else to do before it is read.
pub(super) fn pack_right<K: Kernel, const LATER: bool>(device: &Device, b: Operand<'_>, to: &mut Buffer) {
    let steps = steps_of::<K>(b.rows);
    let out = SharedSlice::new(to.room(steps * b.cols.next_multiple_of(16)));
    if b.col_stride == 1 {
        // Whole rows, in the order in which they lie; they are parts of all panels.
        device.for_each(steps.div_ceil(PACK_ROWS), |task| {
            let part = task * PACK_ROWS..steps.min((task + 1) * PACK_ROWS);
            // SAFETY: the tasks' steps do not overlap; the caller checked the operand; the level was detected.
            unsafe { packing::pack_rows::<K, LATER>(b, part, steps, &out) };
            if LATER {
                packing::written();
            }
        });
        return;
    }
    let blocks = steps.div_ceil(PACK_STEPS);
    device.for_each(b.cols.div_ceil(PANEL) * blocks, |task| {
        let (panel, block) = (task / blocks, task % blocks);
        let cols = panel * PANEL..b.cols.min((panel + 1) * PANEL);
        let part = block * PACK_STEPS..steps.min((block + 1) * PACK_STEPS);
        let width = cols.len().next_multiple_of(16);
        let start = cols.start * steps + part.start * width;
        // SAFETY: the tasks' parts do not overlap; the caller checked the operand; the level was detected.
        unsafe {
            let to = out.slice(start, part.len() * width);
            packing::pack_panel::<K, LATER>(b, part, cols, to);
        }
        if LATER {
            packing::written();
        }
    });
}

/// Steps that are added one by one, at most, for a K of `steps`. What rounding to bf16 costs is far more than what a chain
/// of sums loses, and a block bounds that.
fn chain<K: Kernel>(steps: usize) -> usize {
    if K::PAIR { usize::MAX } else { super::chain(steps) }
}

/// See [`super::gemm`]; operands are rounded to bf16 for `PAIR`.
pub(super) fn matmul<K: Kernel>(
    device: &Device,
    a: Operand<'_>,
    b: Operand<'_>,
    destination: Option<Destination>,
    store: impl Fn(usize, usize, &mut [f32]) + Sync + Send,
) {
    if a.rows <= FEW {
        return multiply::<K>(device, a, Panels::Plain(b), destination, store);
    }
    let steps = steps_of::<K>(b.rows);
    let at_once = (PACK_CELLS / steps.max(1) / WIDE * WIDE).max(2 * WIDE);
    // Taken, not borrowed: a nested matmul on this thread finds an empty buffer, nothing worse.
    let mut right = RIGHT.take();
    for first in (0..b.cols).step_by(at_once) {
        let block = b.block(0..b.rows, first..b.cols.min(first + at_once));
        pack_right::<K, false>(device, block, &mut right);
        let destination = destination.map(|d| d.skip_columns(first));
        let panels = Panels::Packed(Packed { cells: right.cells(), steps, cols: block.cols });
        multiply::<K>(device, a, panels, destination, |row, col, z: &mut [f32]| {
            store(row, first + col, z);
        });
    }
    RIGHT.set(right);
}

/// See [`super::gemm`], for a right operand of `cols` columns that is packed for this kernel.
pub(super) fn matmul_packed<K: Kernel>(
    device: &Device,
    a: Operand<'_>,
    b: &Buffer,
    cols: usize,
    destination: Option<Destination>,
    store: impl Fn(usize, usize, &mut [f32]) + Sync + Send,
) {
    let steps = steps_of::<K>(a.cols);
    multiply::<K>(device, a, Panels::Packed(Packed { cells: b.cells(), steps, cols }), destination, store);
}

fn multiply<K: Kernel>(
    device: &Device,
    a: Operand<'_>,
    b: Panels<'_>,
    destination: Option<Destination>,
    store: impl Fn(usize, usize, &mut [f32]) + Sync + Send,
) {
    let steps = steps_of::<K>(a.cols);
    let shape = match () {
        () if a.rows <= FEW => FEW_TILE,
        () if steps < DEEP => TILE,
        () => DEEP_TILE,
    };
    let cols = match b {
        Panels::Packed(b) => {
            assert!(b.cells.len() >= steps * b.cols.next_multiple_of(16), "a packed operand is too small");
            b.cols
        }
        Panels::Plain(b) => b.cols,
    };
    let tiles = Tiles::new(a.rows, cols, K::ROWS, shape);
    device.for_each(tiles.count(), |tile| {
        let (rows, cols) = tiles.get(tile);
        SCRATCH.with_borrow_mut(|scratch| {
            multiply_tile::<K>(a, b, rows, cols, scratch, destination, &store);
        });
    });
}

impl Destination {
    /// The part from a column on.
    fn skip_columns(self, col: usize) -> Self {
        Self { start: self.start + col * self.element_bytes, ..self }
    }

    /// The cache lines of some rows and columns.
    fn block(self, rows: &Range<usize>, cols: &Range<usize>) -> Lines {
        let row = self.start + rows.start * self.row_bytes + cols.start * self.element_bytes;
        let of_row = (cols.len() * self.element_bytes).div_ceil(LINE) + 1;
        Lines { row, row_bytes: self.row_bytes, of_row, line: 0, rows: rows.len() }
    }
}

/// Cache lines that will be written.
struct Lines {
    /// Where the next line's row begins.
    row: usize,
    row_bytes: usize,
    /// Lines of a row's part, at most.
    of_row: usize,
    line: usize,
    rows: usize,
}

impl Lines {
    fn count(&self) -> usize {
        self.rows * self.of_row
    }

    /// Asks for the next one, if any is left.
    #[inline]
    fn prefetch_next(&mut self) {
        if self.rows == 0 {
            return;
        }
        kernel::prefetch_for_write(std::ptr::without_provenance(self.row + self.line * LINE));
        self.line += 1;
        if self.line == self.of_row {
            (self.line, self.row, self.rows) = (0, self.row + self.row_bytes, self.rows - 1);
        }
    }
}

/// A right operand: packed, or to be packed by the tile that reads it.
#[derive(Clone, Copy)]
enum Panels<'a> {
    Packed(Packed<'a>),
    Plain(Operand<'a>),
}

/// A packed right operand.
#[derive(Clone, Copy)]
pub(super) struct Packed<'a> {
    cells: &'a [u32],
    steps: usize,
    cols: usize,
}

impl<'a> Packed<'a> {
    /// Steps `steps` of the panel that starts at column `col`: where they start, and the panel's width.
    fn block(&self, col: usize, steps: &Range<usize>) -> (&'a [u32], usize) {
        let width = (self.cols - col).min(PANEL).next_multiple_of(16);
        let start = col * self.steps + steps.start * width;
        (&self.cells[start..start + steps.len() * width], width)
    }
}

fn multiply_tile<K: Kernel>(
    a: Operand<'_>,
    b: Panels<'_>,
    rows: Range<usize>,
    cols: Range<usize>,
    scratch: &mut Scratch,
    destination: Option<Destination>,
    store: &impl Fn(usize, usize, &mut [f32]),
) {
    let all = steps_of::<K>(a.cols);
    let blocks = all.div_ceil(if all < DEEP { BLOCK } else { DEEP_BLOCK }).max(1);
    let unit = step_unit::<K>();
    let start = |block: usize| all / unit * block / blocks * unit;
    // An odd number of cache lines, so that the rows of a tile do not compete for the same sets.
    let stride = cols.len().next_multiple_of(32) + 16;
    let sums = scratch.sums.room(rows.len().next_multiple_of(row_group::<K>()) * stride);
    let sums: &mut [f32] = bytemuck::cast_slice_mut(sums);
    // The lines that the results will be written to, a few after each matmul of the last block.
    let calls = rows.len().div_ceil(K::ROWS) * cols.len().div_ceil(PANEL);
    let mut ahead_of_stores = destination.map(|d| d.block(&rows, &cols));
    let at_once = ahead_of_stores.as_ref().map_or(0, |lines| lines.count().div_ceil(calls));
    K::begin();
    for block in 0..blocks {
        let steps = start(block)..start(block + 1);
        let room = scratch.left.room(packing::left_room(rows.len(), steps.len()));
        // SAFETY: the caller checked the operand, the ranges are inside it, and `room` is left alone until the
        // block is done. The level was detected.
        let left = unsafe { packing::pack_left::<K>(a, rows.clone(), steps.clone(), room) };
        for col in cols.clone().step_by(PANEL) {
            let (panel, width, next) = match b {
                Panels::Packed(b) => {
                    let (panel, width) = b.block(col, &steps);
                    // While a panel is multiplied the next one comes closer: of this block, else of the next.
                    let next = if col + PANEL < cols.end {
                        b.block(col + PANEL, &steps).0
                    } else if block + 1 < blocks {
                        b.block(cols.start, &(steps.end..start(block + 2))).0
                    } else {
                        panel
                    };
                    (panel, width, next)
                }
                Panels::Plain(b) => {
                    let panel = col..(col + PANEL).min(b.cols);
                    let width = panel.len().next_multiple_of(16);
                    let cells = scratch.panel.room(steps.len() * width);
                    // SAFETY: the caller checked the operand, the ranges are inside it; the level was detected.
                    unsafe {
                        packing::prefetch_along::<K>(b, &steps, &panel);
                        packing::pack_panel::<K, false>(b, steps.clone(), panel, cells);
                    }
                    (&*cells, width, &*cells)
                }
            };
            let mut ahead = next.chunks(16 * steps.len().max(1));
            for row in (0..rows.len()).step_by(K::ROWS) {
                let at = row * stride + (col - cols.start);
                let left = left.tile::<K>(row);
                let to =
                    &mut sums[at..at + (left.rows.next_multiple_of(row_group::<K>()) - 1) * stride + width];
                // SAFETY: `left` has the steps, `panel` was cut to size, `to` has the rows of `width`.
                unsafe {
                    K::multiply(
                        steps.len(),
                        left,
                        panel.as_ptr(),
                        ahead.next().unwrap_or(panel).as_ptr().cast(),
                        width,
                        to.as_mut_ptr(),
                        stride,
                        block > 0,
                        chain::<K>(all),
                    );
                }
                if let Some(lines) = ahead_of_stores.as_mut().filter(|_| block + 1 == blocks) {
                    (0..at_once).for_each(|_| lines.prefetch_next());
                }
            }
        }
    }
    K::end();
    for (row, sums) in rows.zip(sums.chunks_exact_mut(stride)) {
        store(row, cols.start, &mut sums[..cols.len()]);
    }
}

/// Packs a right operand on this thread alone.
pub(super) fn pack_alone<'a, K: Kernel>(b: Operand<'_>, room: &'a mut Buffer) -> Packed<'a> {
    let steps = steps_of::<K>(b.rows);
    let cells = room.room(steps * b.cols.next_multiple_of(16));
    for first in (0..b.cols).step_by(PANEL) {
        let cols = first..b.cols.min(first + PANEL);
        let width = cols.len().next_multiple_of(16);
        let to = &mut cells[first * steps..first * steps + steps * width];
        // SAFETY: the caller checked the operand; the level was detected.
        unsafe { packing::pack_panel::<K, false>(b, 0..steps, cols, to) };
    }
    Packed { cells, steps, cols: b.cols }
}

/// c (+)= a b on this thread alone, with the first `a.cols` rows and the first `cols` columns of b, both whole
/// cells and whole panels or all there are. Of `a`, only the columns of `extent` count in the 8 rows from a row on. `c` has
/// room for whole groups of 16 rows of whole panels.
pub(super) fn multiply_alone<K: Kernel>(
    a: Operand<'_>,
    b: Packed<'_>,
    cols: usize,
    c: &mut [f32],
    stride: usize,
    accumulate: bool,
    extent: impl Fn(usize) -> Range<usize>,
    room: &mut Buffer,
) {
    let steps = 0..steps_of::<K>(a.cols);
    assert!(cols == b.cols || cols.is_multiple_of(PANEL), "{cols} columns of {}", b.cols);
    assert!(steps.end <= b.steps);
    assert!(steps.end == b.steps || !K::PAIR || a.cols.is_multiple_of(2), "half a cell");
    assert!(stride >= cols.next_multiple_of(16));
    let room = room.room(packing::left_room(a.rows, steps.len()));
    // SAFETY: the caller checked the operand; `room` is left alone until the end. The level was detected.
    let left = unsafe { packing::pack_left::<K>(a, 0..a.rows, steps.clone(), room) };
    K::begin();
    for col in (0..cols).step_by(PANEL) {
        let (panel, width) = b.block(col, &steps);
        for row in (0..a.rows).step_by(K::ROWS) {
            let at = row * stride + col;
            let left = left.tile::<K>(row);
            let to = &mut c[at..at + (left.rows.next_multiple_of(row_group::<K>()) - 1) * stride + width];
            let (mut from, mut until) = (steps.end, 0);
            for extent in (row..a.rows.min(row + K::ROWS)).step_by(8).map(&extent) {
                from = from.min(extent.start / per_cell::<K>() / step_unit::<K>() * step_unit::<K>());
                until = until.max(steps_of::<K>(extent.end));
            }
            let panel = &panel[from * width..until.min(steps.end) * width];
            let (panel, to) = (panel.as_ptr(), to.as_mut_ptr());
            // SAFETY: `left` has the steps, `panel` was cut to size, `to` has the rows of `width`.
            unsafe {
                K::multiply(
                    until.min(steps.end) - from,
                    left.skip(from),
                    panel,
                    panel.cast(),
                    width,
                    to,
                    stride,
                    accumulate,
                    chain::<K>(steps.end),
                );
            }
        }
    }
    K::end();
}
