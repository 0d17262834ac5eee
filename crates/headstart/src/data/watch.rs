//! Long work on the texts of a file: how far it is, and that it ends where a stop is asked for.
//!
//! Owns: how often is asked. Never: the work.

use crate::error::Result;
use crate::event::{Event, Listener};

/// Bytes between two questions: a tenth of a second or less.
const EVERY_BYTES: u64 = 1 << 20;

/// One piece of work and whoever watches it.
pub(super) struct Watch<'a, 'b> {
    listener: &'a mut Listener<'b>,
    what: String,
    total: u64,
    asked_at: u64,
}

impl<'a, 'b> Watch<'a, 'b> {
    /// Work of so many bytes, for people called `what`.
    pub fn new(listener: &'a mut Listener<'b>, what: String, total: u64) -> Self {
        Self { listener, what, total, asked_at: 0 }
    }

    /// So many bytes are done.
    ///
    /// # Errors
    /// [`Error::Interrupted`](crate::error::Error::Interrupted) where a stop is asked for.
    pub fn at(&mut self, done: u64) -> Result<()> {
        let due = done >= self.asked_at + EVERY_BYTES || done == self.total;
        if !due {
            return Ok(());
        }
        self.asked_at = done;
        let event = Event::Progress { what: &self.what, done, total: self.total };
        (self.listener)(event).or_interrupted("reading the data")
    }
}

/// Between two pieces of work of a moment each.
///
/// # Errors
/// As [`Watch::at`].
pub(super) fn go_on(listener: &mut Listener<'_>) -> Result<()> {
    listener(Event::Waiting).or_interrupted("reading the data")
}
