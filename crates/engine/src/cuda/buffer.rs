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
use crate::alloc::size_class;

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

/// What memory is for, which decides who may have it next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Home {
    /// Anything.
    Plain,
    /// What graphs refer to by its address; they are told when it is given back.
    Lasting,
    /// Work that may be captured, and nothing else: a graph may use it in each of its launches.
    Capturable,
    /// Owned by a graph; nothing happens when a handle is dropped.
    Graph,
}

/// Device memory that goes back to its pool when it is dropped; empty after an error.
#[derive(Debug)]
pub(crate) struct DeviceBuffer {
    address: u64,
    bytes: usize,
    home: Home,
    context: Context,
}

impl DeviceBuffer {
    pub(super) fn new(context: Context, address: u64, bytes: usize, home: Home) -> Self {
        Self { address, bytes, home, context }
    }

    /// No memory: what there is after an error.
    pub(super) fn none(context: Context) -> Self {
        Self::new(context, 0, 0, Home::Graph)
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
        if self.bytes > 0 && self.home != Home::Graph {
            self.context.pool().give(self.address, self.bytes, self.home == Home::Capturable);
        }
        if self.bytes > 0 && self.home == Home::Lasting {
            self.context.lasting_memory_changed();
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
    /// For anyone.
    waiting: Waiting,
    /// For work that may be captured.
    capturable: Waiting,
    /// Taken from the driver, in use or waiting.
    held: usize,
    most: usize,
}

/// Addresses by size.
type Waiting = HashMap<usize, Vec<u64>>;

impl Pool {
    /// The size that a request is rounded up to: eighths of powers of two, as for the host's buffers.
    pub(super) fn round(bytes: usize) -> usize {
        size_class(bytes.div_ceil(UNIT)) * UNIT
    }

    /// A buffer of exactly `bytes` (a rounded size); `None` when the device is full.
    pub(super) fn take(&self, bytes: usize, for_capture: bool) -> Result<Option<u64>, Failure> {
        let mut state = locked(&self.state);
        if let Some(address) = state.take_waiting(bytes, for_capture) {
            return Ok(Some(address));
        }
        let address = driver::allocate(bytes)?;
        if address.is_some() {
            state.held += bytes;
            state.most = state.most.max(state.held);
        }
        Ok(address)
    }

    /// As [`Pool::take`] for work that is being captured, but only what is there already.
    pub(super) fn take_waiting(&self, bytes: usize) -> Option<u64> {
        locked(&self.state).take_waiting(bytes, true)
    }

    /// Takes a buffer back.
    pub(super) fn give(&self, address: u64, bytes: usize, to_capturable: bool) {
        let mut state = locked(&self.state);
        let waiting = if to_capturable { &mut state.capturable } else { &mut state.waiting };
        waiting.entry(bytes).or_default().push(address);
    }

    /// Gives all waiting buffers back to the driver, which waits for the work that uses them. The caller has no graph
    /// left that does.
    pub(super) fn release(&self) -> Result<(), Failure> {
        let mut state = locked(&self.state);
        let (waiting, capturable) =
            (std::mem::take(&mut state.waiting), std::mem::take(&mut state.capturable));
        for (bytes, addresses) in waiting.into_iter().chain(capturable) {
            for address in addresses {
                state.held -= bytes;
                driver::free(address)?;
            }
        }
        Ok(())
    }

    /// Bytes held, and the most there were.
    pub(super) fn bytes(&self) -> (usize, usize) {
        let state = locked(&self.state);
        (state.held, state.most)
    }
}

impl State {
    fn take_waiting(&mut self, bytes: usize, for_capture: bool) -> Option<u64> {
        let own = for_capture.then(|| self.capturable.get_mut(&bytes).and_then(Vec::pop)).flatten();
        own.or_else(|| self.waiting.get_mut(&bytes).and_then(Vec::pop))
    }
}
