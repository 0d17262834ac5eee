//! Buffers that tensors live in, kept for the next tensor when the last user of one is gone.
//!
//! Owns: alignment, reuse, how much is kept. Never: what a buffer holds.
//!
//! Batches differ in their tokens, and with them all sizes of a step. So a tensor takes any waiting buffer that is not
//! far too large for it, and where a new one is needed, others are given back to the system until no more is held than
//! was ever in use at once: the largest batch decides how much memory a run needs, not how many sizes there were.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytemuck::{Pod, Zeroable};

use crate::alloc::size_class;
use crate::cuda::{Context, DeviceBuffer};

/// How many times as large as what was asked for a buffer may be. With more, small tensors take what the large ones of the
/// same step need (at 4, a quarter more memory for lines of text); with less, more is asked for anew.
const LEEWAY: usize = 2;

/// One cache line; buffers are made of these so that every buffer starts on a line.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct CacheLine([u8; 64]);

impl std::fmt::Debug for CacheLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CacheLine")
    }
}

/// Where the buffers of tensors come from and go back to.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    shelf: Arc<Mutex<Shelf>>,
    /// Where buffers lie when they are not the host's.
    cuda: Option<Context>,
}

impl Pool {
    /// Buffers in a GPU's memory.
    pub(crate) fn on(cuda: Context) -> Self {
        Self { shelf: Arc::default(), cuda: Some(cuda) }
    }

    /// Bytes that are held: in use, or waiting for reuse.
    pub fn bytes(&self) -> usize {
        let lines = |shelf: &Shelf| shelf.in_use + shelf.waiting();
        self.cuda.as_ref().map_or_else(|| lines(&locked(&self.shelf)) * 64, |cuda| cuda.bytes().0)
    }

    /// A buffer of so many bytes or more, content unspecified.
    pub(crate) fn take(&self, bytes: usize) -> Buffer {
        match &self.cuda {
            Some(cuda) => Buffer::Device(cuda.allocate(bytes)),
            None => Buffer::Host(self.take_host(bytes)),
        }
    }

    fn take_host(&self, bytes: usize) -> HostBuffer {
        let lines = size_class(bytes.div_ceil(64));
        let mut shelf = locked(&self.shelf);
        let found = shelf.take(lines);
        let given_up = if found.is_some() { Vec::new() } else { shelf.make_room(lines) };
        drop(shelf);
        // The system takes them back without anyone waiting for the lock.
        drop(given_up);
        let memory = found.unwrap_or_else(|| vec![CacheLine([0; 64]); lines]);
        HostBuffer { memory, shelf: Arc::clone(&self.shelf) }
    }
}

/// Host buffers that wait, by size, and what is in use; all sizes in lines.
#[derive(Debug, Default)]
struct Shelf {
    free: BTreeMap<usize, Vec<Vec<CacheLine>>>,
    in_use: usize,
    /// The most that were in use at once. No more than these are held.
    most: usize,
}

impl Shelf {
    fn waiting(&self) -> usize {
        self.free.iter().map(|(lines, buffers)| lines * buffers.len()).sum()
    }

    /// The smallest waiting buffer that will do.
    fn take(&mut self, lines: usize) -> Option<Vec<CacheLine>> {
        let size = *self.free.range(lines..=lines.saturating_mul(LEEWAY)).next()?.0;
        let buffer = self.remove(size)?;
        self.use_more(buffer.len());
        Some(buffer)
    }

    /// Counts a new buffer, and gives up waiting ones for it: those of smaller batches first.
    fn make_room(&mut self, lines: usize) -> Vec<Vec<CacheLine>> {
        self.use_more(lines);
        let mut given_up = Vec::new();
        let mut surplus = (self.in_use + self.waiting()).saturating_sub(self.most);
        while surplus > 0 {
            let smaller = self.free.range(..lines).next_back();
            let Some(size) = smaller.or_else(|| self.free.last_key_value()).map(|(&size, _)| size) else {
                break;
            };
            given_up.extend(self.remove(size));
            surplus = surplus.saturating_sub(size);
        }
        given_up
    }

    fn use_more(&mut self, lines: usize) {
        self.in_use += lines;
        self.most = self.most.max(self.in_use);
    }

    fn remove(&mut self, size: usize) -> Option<Vec<CacheLine>> {
        let buffers = self.free.get_mut(&size)?;
        let buffer = buffers.pop();
        if buffers.is_empty() {
            self.free.remove(&size);
        }
        buffer
    }

    fn give_back(&mut self, buffer: Vec<CacheLine>) {
        self.in_use -= buffer.len();
        self.free.entry(buffer.len()).or_default().push(buffer);
    }
}

/// Memory that goes back to its pool when the last user is gone.
#[derive(Debug)]
pub(crate) enum Buffer {
    Host(HostBuffer),
    Device(DeviceBuffer),
}

#[derive(Debug)]
pub(crate) struct HostBuffer {
    memory: Vec<CacheLine>,
    shelf: Arc<Mutex<Shelf>>,
}

impl HostBuffer {
    pub(crate) fn lines(&self) -> &[CacheLine] {
        &self.memory
    }

    pub(crate) fn lines_mut(&mut self) -> &mut [CacheLine] {
        &mut self.memory
    }
}

impl Drop for HostBuffer {
    fn drop(&mut self) {
        locked(&self.shelf).give_back(std::mem::take(&mut self.memory));
    }
}

fn locked(shelf: &Mutex<Shelf>) -> MutexGuard<'_, Shelf> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: usize = 64;

    fn held(pool: &Pool) -> usize {
        pool.bytes() / LINE
    }

    fn take(pool: &Pool, lines: &[usize]) -> Vec<Buffer> {
        lines.iter().map(|&lines| pool.take(lines * LINE)).collect()
    }

    #[test]
    fn buffers_come_back_and_are_reused() {
        let pool = Pool::default();
        let both = take(&pool, &[64, 64]);
        assert_eq!(held(&pool), 128);
        drop(both);
        // A little smaller, and as small as half; what is smaller still has one of its own.
        let _smaller = take(&pool, &[63, 32]);
        assert_eq!(held(&pool), 128);
        let pool = Pool::default();
        drop(take(&pool, &[64, 64]));
        let _small = take(&pool, &[28]);
        assert_eq!(held(&pool), 64 + 28, "another one went for it");
    }

    #[test]
    fn no_more_is_held_than_was_in_use_at_once() {
        let pool = Pool::default();
        // Steps of ever other sizes, each with a few large and small tensors.
        let mut most = 0;
        for step in 0..200 {
            let rows = 300 + (step * 97) % 220;
            let of_step: Vec<usize> = [3, 1, 4, 4, 1].iter().map(|width| rows * width).collect();
            let alive = take(&pool, &of_step);
            let sizes: usize = alive
                .iter()
                .map(|buffer| match buffer {
                    Buffer::Host(host) => host.lines().len(),
                    Buffer::Device(_) => unreachable!(),
                })
                .sum();
            most = most.max(sizes);
            assert!(held(&pool) <= most, "step {step}: {} lines for {most}", held(&pool));
        }
        // What the largest needs, the rounding of sizes, and a little for those that are larger than they need be.
        assert!(most * 4 <= 13 * 519 * 5, "{most}");
        // Once the largest has been there, none is asked for anew.
        let before = held(&pool);
        drop(take(&pool, &[519, 3 * 519, 4 * 519]));
        assert_eq!(held(&pool), before);
    }

    #[test]
    fn what_a_small_batch_left_goes_when_a_larger_one_comes() {
        let pool = Pool::default();
        drop(take(&pool, &[8, 100, 100]));
        let larger = take(&pool, &[128, 128]);
        // With two of these in use there is room for nothing else.
        assert_eq!(held(&pool), 256);
        drop(larger);
        let _all = take(&pool, &[128, 128, 8]);
        assert_eq!(held(&pool), 264);
    }
}
