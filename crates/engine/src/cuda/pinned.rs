//! Memory of the host that the device reads by itself, while the host goes on.
//!
//! Owns: that memory, and what small uploads pass through. Never: when the device has read it, which callers know.

use super::driver::{self, CUstream};
use super::error::Failure;

/// Room for the uploads between two waits for the device; larger ones are copied by the driver.
const STAGING_BYTES: usize = 16 << 20;

/// What every upload's place is a multiple of.
const UNIT: usize = 64;

/// Pinned memory. Given back by [`Pinned::free`], while its context is there.
#[derive(Debug)]
pub(super) struct Pinned {
    memory: *mut u8,
    bytes: usize,
}

// SAFETY: it is memory like any other; whoever has the handle has it alone.
unsafe impl Send for Pinned {}

impl Pinned {
    /// Zeros; `None` where the system gives none.
    pub(super) fn new(bytes: usize) -> Result<Option<Self>, Failure> {
        let Some(memory) = driver::allocate_pinned(bytes)? else { return Ok(None) };
        // SAFETY: the driver gave so many bytes.
        unsafe { memory.write_bytes(0, bytes) };
        Ok(Some(Self { memory, bytes }))
    }

    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// Part of it, as the device may read it.
    pub(super) fn slice(&self, at: usize, bytes: usize) -> &[u8] {
        assert!(at <= self.bytes && bytes <= self.bytes - at);
        // SAFETY: inside the memory, which was filled when it was made.
        unsafe { std::slice::from_raw_parts(self.memory.add(at), bytes) }
    }

    /// Fills a range of it. The device has read what was there before, or was never asked to.
    pub(super) fn fill(&mut self, at: usize, from: &[u8]) {
        assert!(at <= self.bytes && from.len() <= self.bytes - at);
        // SAFETY: inside the memory, and `from` is not, because this handle is the only one.
        unsafe { self.memory.add(at).copy_from_nonoverlapping(from.as_ptr(), from.len()) };
    }

    pub(super) fn free(self) {
        let _: Result<(), Failure> = driver::free_pinned(self.memory);
    }
}

/// What small uploads are copied to first, so that the host need not wait until the device has read them.
#[derive(Debug, Default)]
pub(super) struct Staging {
    pinned: Option<Pinned>,
    /// The system had none, so it is not asked again.
    unavailable: bool,
    used: usize,
}

impl Staging {
    /// Queues a copy to the device.
    pub(super) fn upload(&mut self, to: u64, bytes: &[u8], stream: CUstream) -> Result<(), Failure> {
        if self.pinned.is_none() && !self.unavailable {
            self.pinned = Pinned::new(STAGING_BYTES)?;
            self.unavailable = self.pinned.is_none();
        }
        match &mut self.pinned {
            Some(pinned) if bytes.len() <= pinned.len() - self.used => {
                pinned.fill(self.used, bytes);
                let from = pinned.slice(self.used, bytes.len());
                self.used = (self.used + bytes.len()).next_multiple_of(UNIT).min(pinned.len());
                driver::upload(to, from, stream)
            }
            _ => driver::upload(to, bytes, stream),
        }
    }

    /// The device has done all it was given.
    pub(super) fn is_read(&mut self) {
        self.used = 0;
    }

    pub(super) fn free(&mut self) {
        if let Some(pinned) = self.pinned.take() {
            pinned.free();
        }
    }
}
