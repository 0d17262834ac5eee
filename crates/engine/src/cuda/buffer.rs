//! Device memory: buffers from a pool that stops asking the driver after the first step.
//!
//! Owns: sizes, reuse. Never: what lies in a buffer. All work of a context is one stream, so a buffer that is dropped
//! may be handed out again at once: whoever gets it is queued behind its last user.

use std::collections::HashMap;
use std::sync::Mutex;

use super::context::Context;
use super::driver;
use super::error::Failure;
use super::locked;
use crate::tensor::size_class;

/// What every address is a multiple of, and sizes are counted in.
const UNIT: usize = 256;

/// An address in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DevicePtr(pub(super) u64);

impl DevicePtr {
    /// So many bytes further on.
    pub(crate) fn offset(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

/// Device memory that goes back to its pool when it is dropped; empty after an error.
#[derive(Debug)]
pub(crate) struct DeviceBuffer {
    address: u64,
    bytes: usize,
    context: Context,
}

impl DeviceBuffer {
    pub(super) fn new(context: Context, address: u64, bytes: usize) -> Self {
        Self { address, bytes, context }
    }

    /// Where it starts.
    pub(crate) fn ptr(&self) -> DevicePtr {
        DevicePtr(self.address)
    }

    /// Its size; at least what was asked for, 0 after an error.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where it lies.
    pub(crate) fn context(&self) -> &Context {
        &self.context
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.context.pool().give(self.address, self.bytes);
        }
    }
}

/// Buffers waiting for reuse, by size.
#[derive(Debug, Default)]
pub(super) struct Pool {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    free: HashMap<usize, Vec<u64>>,
    /// Taken from the driver, in use or waiting.
    held: usize,
    most: usize,
}

impl Pool {
    /// The size that a request is rounded up to: eighths of powers of two, as for the host's buffers.
    pub(super) fn round(bytes: usize) -> usize {
        size_class(bytes.div_ceil(UNIT)) * UNIT
    }

    /// A buffer of exactly `bytes` (a rounded size); `None` when the device is full.
    pub(super) fn take(&self, bytes: usize) -> Result<Option<u64>, Failure> {
        let mut state = locked(&self.state);
        if let Some(address) = state.free.get_mut(&bytes).and_then(Vec::pop) {
            return Ok(Some(address));
        }
        let mut address = driver::allocate(bytes)?;
        if address.is_none() {
            state.release()?;
            address = driver::allocate(bytes)?;
        }
        if address.is_some() {
            state.held += bytes;
            state.most = state.most.max(state.held);
        }
        Ok(address)
    }

    fn give(&self, address: u64, bytes: usize) {
        locked(&self.state).free.entry(bytes).or_default().push(address);
    }

    /// Gives all waiting buffers back to the driver, which waits for the work that uses them.
    pub(super) fn release(&self) -> Result<(), Failure> {
        locked(&self.state).release()
    }

    /// Bytes held, and the most there were.
    pub(super) fn bytes(&self) -> (usize, usize) {
        let state = locked(&self.state);
        (state.held, state.most)
    }
}

impl State {
    fn release(&mut self) -> Result<(), Failure> {
        for (bytes, addresses) in self.free.drain() {
            for address in addresses {
                self.held -= bytes;
                driver::free(address)?;
            }
        }
        Ok(())
    }
}
