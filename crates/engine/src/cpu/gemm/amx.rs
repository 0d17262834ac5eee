//! The matmul's innermost loop in the tile registers of AMX.
//!
//! Owns: the instructions, and a thread's tile configuration while it multiplies. Never: packs, cuts or bounds-checks.
//!
//! A tile register holds 16 rows of 64 bytes: 16 by 16 sums, or 16 rows of 16 cells of the left operand, or 16 steps of
//! 16 cells of the right. `tdpbf16ps` adds the products of two such tiles to a third: 16,384 operations in 16 cycles
//! ("Intel Architecture Instruction Set Extensions Programming Reference", chapter on AMX). With two tiles of rows and
//! three of columns there are six sums, which hides an instruction's 52 cycles; a tile of either operand is loaded for
//! every one or two products. Rust has no intrinsics for AMX in its stable part, so the loops are assembly.

use std::arch::asm;

use super::kernel::{Kernel, LeftTile};

/// Rows and cells of a tile.
const TILE: usize = 16;

/// Pairs of bf16, with `tdpbf16ps`.
pub(super) struct Amx;

/// What `ldtilecfg` reads: eight tiles of 16 rows, 64 bytes each.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static WHOLE_TILES: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Defines the multiplication of some rows and columns of tiles. `step` is one tile of K.
macro_rules! block_of_tiles {
    ($name:ident: zero $zero:literal, load $load:literal, step $step:literal, store $store:literal) => {
        /// # Safety
        /// As [`Kernel::multiply`], for this block's rows and columns, between [`Kernel::begin`] and [`Kernel::end`].
        unsafe fn $name(
            tiles: usize,
            a: LeftTile,
            b: *const u32,
            b_row_bytes: usize,
            c: *mut f32,
            c_row_bytes: usize,
            accumulate: bool,
        ) {
            // SAFETY: the caller's contract: tiles of 16 rows of 64 bytes are read from `a` and from `b`, and read from
            // and written to `c`. All tile registers are given up; nothing but this file uses any.
            unsafe {
                asm!(
                    "# {c_under} is for two rows of tiles",
                    "test {accumulate:e}, {accumulate:e}",
                    "jnz 2f",
                    $zero,
                    "jmp 3f",
                    "2:",
                    $load,
                    "3:",
                    "test {tiles}, {tiles}",
                    "jz 5f",
                    "4:",
                    $step,
                    "add {a}, 64",
                    "add {under}, 64",
                    "add {b}, {b_step}",
                    "dec {tiles}",
                    "jnz 4b",
                    "5:",
                    $store,
                    accumulate = in(reg) u32::from(accumulate),
                    tiles = inout(reg) tiles => _,
                    a = inout(reg) a.start => _,
                    under = inout(reg) a.start.wrapping_add(TILE * a.row_bytes) => _,
                    a_row = in(reg) a.row_bytes,
                    b = inout(reg) b => _,
                    b_row = in(reg) b_row_bytes,
                    b_step = in(reg) TILE * b_row_bytes,
                    c = in(reg) c,
                    c_under = in(reg) c.wrapping_byte_add(TILE * c_row_bytes),
                    c_row = in(reg) c_row_bytes,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

block_of_tiles!(two_by_three:
    zero "
        tilezero tmm0;
        tilezero tmm1;
        tilezero tmm2;
        tilezero tmm3;
        tilezero tmm4;
        tilezero tmm5;",
    load "
        tileloadd tmm0, [{c} + {c_row}];
        tileloadd tmm1, [{c} + {c_row} + 64];
        tileloadd tmm2, [{c} + {c_row} + 128];
        tileloadd tmm3, [{c_under} + {c_row}];
        tileloadd tmm4, [{c_under} + {c_row} + 64];
        tileloadd tmm5, [{c_under} + {c_row} + 128];",
    step "
        tileloadd tmm6, [{a} + {a_row}];
        tileloadd tmm7, [{b} + {b_row}];
        tdpbf16ps tmm0, tmm6, tmm7;
        tileloadd tmm7, [{b} + {b_row} + 64];
        tdpbf16ps tmm1, tmm6, tmm7;
        tileloadd tmm7, [{b} + {b_row} + 128];
        tdpbf16ps tmm2, tmm6, tmm7;
        tileloadd tmm6, [{under} + {a_row}];
        tileloadd tmm7, [{b} + {b_row}];
        tdpbf16ps tmm3, tmm6, tmm7;
        tileloadd tmm7, [{b} + {b_row} + 64];
        tdpbf16ps tmm4, tmm6, tmm7;
        tileloadd tmm7, [{b} + {b_row} + 128];
        tdpbf16ps tmm5, tmm6, tmm7;",
    store "
        tilestored [{c} + {c_row}], tmm0;
        tilestored [{c} + {c_row} + 64], tmm1;
        tilestored [{c} + {c_row} + 128], tmm2;
        tilestored [{c_under} + {c_row}], tmm3;
        tilestored [{c_under} + {c_row} + 64], tmm4;
        tilestored [{c_under} + {c_row} + 128], tmm5;");

block_of_tiles!(two_by_two:
    zero "
        tilezero tmm0;
        tilezero tmm1;
        tilezero tmm2;
        tilezero tmm3;",
    load "
        tileloadd tmm0, [{c} + {c_row}];
        tileloadd tmm1, [{c} + {c_row} + 64];
        tileloadd tmm2, [{c_under} + {c_row}];
        tileloadd tmm3, [{c_under} + {c_row} + 64];",
    step "
        tileloadd tmm4, [{a} + {a_row}];
        tileloadd tmm5, [{under} + {a_row}];
        tileloadd tmm6, [{b} + {b_row}];
        tdpbf16ps tmm0, tmm4, tmm6;
        tdpbf16ps tmm2, tmm5, tmm6;
        tileloadd tmm7, [{b} + {b_row} + 64];
        tdpbf16ps tmm1, tmm4, tmm7;
        tdpbf16ps tmm3, tmm5, tmm7;",
    store "
        tilestored [{c} + {c_row}], tmm0;
        tilestored [{c} + {c_row} + 64], tmm1;
        tilestored [{c_under} + {c_row}], tmm2;
        tilestored [{c_under} + {c_row} + 64], tmm3;");

block_of_tiles!(two_by_one:
    zero "
        tilezero tmm0;
        tilezero tmm1;",
    load "
        tileloadd tmm0, [{c} + {c_row}];
        tileloadd tmm1, [{c_under} + {c_row}];",
    step "
        tileloadd tmm2, [{a} + {a_row}];
        tileloadd tmm3, [{under} + {a_row}];
        tileloadd tmm4, [{b} + {b_row}];
        tdpbf16ps tmm0, tmm2, tmm4;
        tdpbf16ps tmm1, tmm3, tmm4;",
    store "
        tilestored [{c} + {c_row}], tmm0;
        tilestored [{c_under} + {c_row}], tmm1;");

block_of_tiles!(one_by_three:
    zero "
        tilezero tmm0;
        tilezero tmm1;
        tilezero tmm2;",
    load "
        tileloadd tmm0, [{c} + {c_row}];
        tileloadd tmm1, [{c} + {c_row} + 64];
        tileloadd tmm2, [{c} + {c_row} + 128];",
    step "
        tileloadd tmm3, [{a} + {a_row}];
        tileloadd tmm4, [{b} + {b_row}];
        tdpbf16ps tmm0, tmm3, tmm4;
        tileloadd tmm5, [{b} + {b_row} + 64];
        tdpbf16ps tmm1, tmm3, tmm5;
        tileloadd tmm6, [{b} + {b_row} + 128];
        tdpbf16ps tmm2, tmm3, tmm6;",
    store "
        tilestored [{c} + {c_row}], tmm0;
        tilestored [{c} + {c_row} + 64], tmm1;
        tilestored [{c} + {c_row} + 128], tmm2;");

block_of_tiles!(one_by_two:
    zero "
        tilezero tmm0;
        tilezero tmm1;",
    load "
        tileloadd tmm0, [{c} + {c_row}];
        tileloadd tmm1, [{c} + {c_row} + 64];",
    step "
        tileloadd tmm2, [{a} + {a_row}];
        tileloadd tmm3, [{b} + {b_row}];
        tdpbf16ps tmm0, tmm2, tmm3;
        tileloadd tmm4, [{b} + {b_row} + 64];
        tdpbf16ps tmm1, tmm2, tmm4;",
    store "
        tilestored [{c} + {c_row}], tmm0;
        tilestored [{c} + {c_row} + 64], tmm1;");

block_of_tiles!(one_by_one:
    zero "
        tilezero tmm0;",
    load "
        tileloadd tmm0, [{c} + {c_row}];",
    step "
        tileloadd tmm1, [{a} + {a_row}];
        tileloadd tmm2, [{b} + {b_row}];
        tdpbf16ps tmm0, tmm1, tmm2;",
    store "
        tilestored [{c} + {c_row}], tmm0;");

impl Kernel for Amx {
    const PAIR: bool = true;
    const TILES: bool = true;
    const ROWS: usize = 2 * TILE;

    fn begin() {
        // SAFETY: the level was detected; the instruction reads 64 bytes and sets this thread's tile registers up.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const WHOLE_TILES, options(nostack, preserves_flags, readonly));
        };
    }

    fn end() {
        // SAFETY: as above. (Registers in use would be saved with every switch of threads.)
        unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) };
    }

    unsafe fn multiply(
        steps: usize,
        a: LeftTile,
        b: *const u32,
        _next: *const u8,
        width: usize,
        c: *mut f32,
        c_stride: usize,
        accumulate: bool,
        _chain: usize,
    ) {
        let block = match (a.rows > TILE, width / TILE) {
            (true, 3) => two_by_three,
            (true, 2) => two_by_two,
            (true, _) => two_by_one,
            (false, 3) => one_by_three,
            (false, 2) => one_by_two,
            (false, _) => one_by_one,
        };
        // SAFETY: the same contract.
        unsafe { block(steps / TILE, a, b, 4 * width, c, 4 * c_stride, accumulate) };
    }
}

/// Floating-point operations of a round of [`register_peak_loop`].
pub(crate) const PEAK_ROUND: usize = 6 * TILE * TILE * 2 * TILE * 2;

/// `rounds` rounds of six independent products in registers: what the processor can do at most.
///
/// # Safety
/// The processor has AMX and the process may use it.
pub(crate) unsafe fn register_peak_loop(rounds: usize) {
    Amx::begin();
    // SAFETY: the caller's contract; registers only.
    unsafe {
        asm!(
            "2:",
            "tdpbf16ps tmm0, tmm6, tmm7",
            "tdpbf16ps tmm1, tmm6, tmm7",
            "tdpbf16ps tmm2, tmm6, tmm7",
            "tdpbf16ps tmm3, tmm6, tmm7",
            "tdpbf16ps tmm4, tmm6, tmm7",
            "tdpbf16ps tmm5, tmm6, tmm7",
            "dec {rounds}",
            "jnz 2b",
            rounds = inout(reg) rounds => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, nomem),
        );
    }
    Amx::end();
}
