//! The processes that train together: which of them this is, and what they say to each other.
//!
//! Owns: rank and world size, messages between ranks, the order in which ranks are added. Never: what a message means to
//! training, or the variables of a launcher.
//!
//! No library's reduction takes part: ranks exchange pieces of their gradients, and the owner of a piece adds them in the
//! order of a fixed binary tree, so that sums have the same bits on any number of ranks.

mod exchange;
mod groups;
mod reduce;
mod reduce_device;
mod shares;
pub mod tree;

mod handshake;
mod interfaces;
mod join;
#[cfg(feature = "mpi")]
mod mpi;
mod poll;
mod rendezvous;
mod tcp;
#[cfg(test)]
mod tests;
mod watch;

use std::sync::Arc;
use std::time::Duration;

pub use join::{Join, Over};
pub use rendezvous::Rendezvous;

use crate::error::EngineError;
use watch::Watch;

pub use exchange::{Completed, Exchange, Sums};
pub use groups::GroupSums;
pub use shares::Shares;

/// A handle to the other ranks; clones are the same handle.
#[derive(Clone, Debug, Default)]
pub struct Collective {
    /// `None`: this process is alone.
    others: Option<Arc<Others>>,
}

#[derive(Debug)]
struct Others {
    rank: usize,
    world_size: usize,
    local_rank: usize,
    /// As far as this rank sees.
    on_one_machine: bool,
    link: Box<dyn Link>,
    watch: Arc<Watch>,
}

/// How bytes travel between ranks.
pub(crate) trait Link: std::fmt::Debug + Send + Sync {
    /// Sends and receives, all at once, and returns when all is done. Messages between two ranks arrive in the order in
    /// which they were sent, and both sides know their lengths. One thread calls at a time.
    ///
    /// # Errors
    /// [`EngineError::Rank`] with the rank that is lost.
    fn exchange(
        &self,
        sends: &[(usize, &[u8])],
        receives: &mut [(usize, &mut [u8])],
    ) -> Result<(), EngineError>;

    /// A clean end, of the watch too; nothing is exchanged afterwards.
    fn leave(&self);
}

impl Collective {
    /// One process by itself.
    pub fn alone() -> Self {
        Self::default()
    }

    /// The number of this process, from 0.
    pub fn rank(&self) -> usize {
        self.others.as_ref().map_or(0, |others| others.rank)
    }

    /// The number of processes.
    pub fn world_size(&self) -> usize {
        self.others.as_ref().map_or(1, |others| others.world_size)
    }

    /// The number of this process among those of its machine, from 0.
    pub fn local_rank(&self) -> usize {
        self.others.as_ref().map_or(0, |others| others.local_rank)
    }

    /// Whether all processes this one is connected with are on its machine.
    pub(crate) fn on_one_machine(&self) -> bool {
        self.others.as_ref().is_none_or(|others| others.on_one_machine)
    }

    /// Whether there is no other process.
    pub fn is_alone(&self) -> bool {
        self.others.is_none()
    }

    /// Whether this is rank 0, which alone writes and speaks.
    pub fn leads(&self) -> bool {
        self.rank() == 0
    }

    /// Whether all ranks are there; asked between parts of long work.
    ///
    /// # Errors
    /// [`EngineError::Rank`] with the rank that was lost first, and what became of it.
    pub fn check(&self) -> Result<(), EngineError> {
        self.others.as_ref().map_or(Ok(()), |others| others.watch.check())
    }

    /// How long a rank may be silent.
    pub(crate) fn timeout(&self) -> Duration {
        self.others.as_ref().map_or(Duration::ZERO, |others| others.watch.timeout())
    }

    /// Lets all ranks know that one was asked to stop. They hear of it at different times, and must agree on when.
    pub fn ask_stop(&self) {
        if let Some(others) = &self.others {
            others.watch.ask_stop();
        }
    }

    /// Whether [`Self::ask_stop`] was called on any rank, as far as this one has heard.
    pub fn stop_asked(&self) -> bool {
        self.others.as_ref().is_some_and(|others| others.watch.stop_asked())
    }

    /// Tells the other ranks why this one ends, so that their errors say it; returns when they know, or after a short time.
    pub fn fail(&self, why: &str) {
        if let Some(others) = &self.others {
            others.watch.fail(why);
        }
    }

    /// A clean end, after the last exchange: that this process goes is no loss to the others. (Without it, it is.) Over MPI it
    /// waits for the others to leave, too.
    pub fn leave(&self) {
        if let Some(others) = &self.others {
            others.link.leave();
        }
    }

    /// See [`Link::exchange`].
    ///
    /// # Errors
    /// [`EngineError::Rank`] with the rank that is lost.
    pub(crate) fn exchange(
        &self,
        sends: &[(usize, &[u8])],
        receives: &mut [(usize, &mut [u8])],
    ) -> Result<(), EngineError> {
        self.others.as_ref().map_or(Ok(()), |others| others.link.exchange(sends, receives))
    }

    /// What each rank brings, in the order of ranks; every rank brings as many bytes.
    ///
    /// # Errors
    /// [`EngineError::Rank`] with the rank that is lost.
    pub fn gather_equal(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>, EngineError> {
        self.gather_into(mine, vec![vec![0; mine.len()]; self.world_size()])
    }

    /// What each rank brings, in the order of ranks, however long.
    ///
    /// # Errors
    /// [`EngineError::Rank`] with the rank that is lost.
    pub fn gather(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>, EngineError> {
        let lengths = self.gather_equal(&(mine.len() as u64).to_le_bytes())?;
        let length =
            |bytes: &Vec<u8>| bytes.iter().rev().fold(0_usize, |n, &byte| n << 8 | usize::from(byte));
        self.gather_into(mine, lengths.iter().map(|bytes| vec![0; length(bytes)]).collect())
    }

    /// Fills `all` with what each rank brings; they have its lengths.
    fn gather_into(&self, mine: &[u8], mut all: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, EngineError> {
        let rank = self.rank();
        all[rank].copy_from_slice(mine);
        let sends: Vec<_> = (0..self.world_size()).filter(|&to| to != rank).map(|to| (to, mine)).collect();
        let mut receives: Vec<_> = all
            .iter_mut()
            .enumerate()
            .filter(|(from, _)| *from != rank)
            .map(|(from, bytes)| (from, &mut bytes[..]))
            .collect();
        self.exchange(&sends, &mut receives)?;
        Ok(all)
    }

    /// Rank 0's bytes, which are as long on every rank.
    ///
    /// # Errors
    /// [`EngineError::Rank`] with the rank that is lost.
    pub fn broadcast_equal(&self, bytes: &mut [u8]) -> Result<(), EngineError> {
        if self.leads() {
            let sends: Vec<_> = (1..self.world_size()).map(|to| (to, &*bytes)).collect();
            return self.exchange(&sends, &mut []);
        }
        self.exchange(&[], &mut [(0, bytes)])
    }

    /// Rank 0's bytes, however long. What other ranks bring is not looked at.
    ///
    /// # Errors
    /// [`EngineError::Rank`] with the rank that is lost.
    pub fn broadcast(&self, mine: &[u8]) -> Result<Vec<u8>, EngineError> {
        let mut length = (mine.len() as u64).to_le_bytes();
        self.broadcast_equal(&mut length)?;
        let mut bytes =
            if self.leads() { mine.to_vec() } else { vec![0; u64::from_le_bytes(length) as usize] };
        self.broadcast_equal(&mut bytes)?;
        Ok(bytes)
    }
}
