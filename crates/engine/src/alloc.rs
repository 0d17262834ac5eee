//! The process's allocator: the system's, counted, with huge pages under large blocks. And the sizes of pooled buffers.
//!
//! Owns: the count, the advice to the kernel, the rounding of sizes. Never: memory of its own.
//!
//! A program opts in with `#[global_allocator]`. A training step walks through hundreds of megabytes of weights,
//! moments and activations; with pages of 2 MiB instead of 4 KiB the processor translates their addresses from its
//! cache (Linux gives them where `transparent_hugepage` is `madvise` or `always`, and ignores the advice elsewhere).

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

/// Blocks from this size on are worth a huge page.
#[cfg(target_os = "linux")]
const HUGE: usize = 4 << 20;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// The system's allocator, counted, with huge pages under large blocks.
#[derive(Debug, Default)]
pub struct Allocator;

/// Blocks that have been asked for in this process so far; 0 where [`Allocator`] is not in use.
pub fn allocations() -> u64 {
    ALLOCATIONS.load(Ordering::Relaxed)
}

// SAFETY: every call goes to the system's allocator unchanged; counting and advice touch no memory of a block.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract.
        counted(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract.
        counted(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's contract.
        counted(unsafe { System.realloc(block, layout, size) }, size)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(block, layout) }
    }
}

fn counted(block: *mut u8, size: usize) -> *mut u8 {
    ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    #[cfg(target_os = "linux")]
    if size >= HUGE && !block.is_null() {
        advise_huge_pages(block, size);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = size;
    block
}

/// Asks for huge pages under the whole pages of a block.
#[cfg(target_os = "linux")]
fn advise_huge_pages(block: *mut u8, size: usize) {
    const PAGE: usize = 4096;
    let skipped = block.align_offset(PAGE);
    let whole = (size - skipped) / PAGE * PAGE;
    // SAFETY: the range lies inside the block; the advice changes how it is backed, not what it holds. Where it
    // cannot be followed the call fails and nothing changes.
    unsafe { libc::madvise(block.add(skipped).cast(), whole, libc::MADV_HUGEPAGE) };
}

/// Rounds up to a multiple of an eighth of the next lower power of two.
pub(crate) fn size_class(lines: usize) -> usize {
    let lines = lines.max(1);
    let step = (1_usize << lines.ilog2()) / 8;
    if step <= 1 { lines } else { lines.next_multiple_of(step) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_the_systems_and_counted() {
        let before = allocations();
        for size in [1, 5 << 20] {
            let layout = Layout::from_size_align(size, 64).unwrap();
            // SAFETY: the layout has a size, the block is used within it and given back once.
            unsafe {
                let block = Allocator.alloc_zeroed(layout);
                assert!(!block.is_null() && *block == 0 && *block.add(size - 1) == 0);
                *block.add(size - 1) = 7;
                let block = Allocator.realloc(block, layout, 2 * size);
                assert_eq!(*block.add(size - 1), 7);
                Allocator.dealloc(block, Layout::from_size_align(2 * size, 64).unwrap());
            }
        }
        assert!(allocations() >= before + 4);
    }

    #[test]
    fn size_classes_waste_little() {
        for lines in 1..5_000 {
            let class = size_class(lines);
            assert!(class >= lines && class * 8 <= lines * 9 + 8, "{lines} -> {class}");
        }
    }
}
