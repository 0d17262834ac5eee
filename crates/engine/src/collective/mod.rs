//! The processes that train together: which of them this is, and what they say to each other.
//!
//! Owns: rank and world size, messages between ranks, the order in which ranks are added. Never: what a message means to
//! training, or the variables of a launcher.
//!
//! No library's reduction takes part: ranks exchange pieces of their gradients, and the owner of a piece adds them in the
//! order of a fixed binary tree, so that sums have the same bits on any number of ranks.

pub mod tree;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::error::EngineError;

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
    link: Box<dyn Link>,
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

    /// Whether there is no other process.
    pub fn is_alone(&self) -> bool {
        self.others.is_none()
    }

    /// Whether this is rank 0, which alone writes and speaks.
    pub fn leads(&self) -> bool {
        self.rank() == 0
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
        let mut all = vec![vec![0; mine.len()]; self.world_size()];
        all[self.rank()].copy_from_slice(mine);
        let rank = self.rank();
        let sends: Vec<_> = (0..self.world_size()).filter(|&to| to != rank).map(|to| (to, mine)).collect();
        let mut receives: Vec<_> = all
            .iter_mut()
            .enumerate()
            .filter(|(from, _)| *from != rank)
            .map(|(from, b)| (from, &mut b[..]))
            .collect();
        self.exchange(&sends, &mut receives)?;
        Ok(all)
    }

    /// What each rank brings, in the order of ranks, however long.
    ///
    /// # Errors
    /// [`EngineError::Rank`] with the rank that is lost.
    pub fn gather(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>, EngineError> {
        let lengths = self.gather_equal(&(mine.len() as u64).to_le_bytes())?;
        let length =
            |bytes: &Vec<u8>| bytes.iter().rev().fold(0_usize, |n, &byte| n << 8 | usize::from(byte));
        let mut all: Vec<Vec<u8>> = lengths.iter().map(|bytes| vec![0; length(bytes)]).collect();
        let rank = self.rank();
        all[rank].copy_from_slice(mine);
        let sends: Vec<_> = (0..self.world_size()).filter(|&to| to != rank).map(|to| (to, mine)).collect();
        let mut receives: Vec<_> = all
            .iter_mut()
            .enumerate()
            .filter(|(from, _)| *from != rank)
            .map(|(from, b)| (from, &mut b[..]))
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

/// How a process joins the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// The number of this process, from 0.
    pub rank: usize,
    /// The number of processes.
    pub world_size: usize,
    /// The number of this process among those of its machine.
    pub local_rank: usize,
    /// How bytes travel.
    pub over: Over,
    /// A rank that is silent for longer is lost.
    pub timeout: Duration,
    /// The program's, which must be the same on all.
    pub version: String,
}

/// How bytes travel between ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Over {
    /// Connections of our own.
    Tcp {
        /// Where the ranks find each other.
        rendezvous: Rendezvous,
    },
    /// MPI, which knows rank and world size by itself.
    Mpi,
}

/// Where ranks find each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rendezvous {
    /// HOST:PORT, served by rank 0.
    Address(String),
    /// Rank 0 writes its address there.
    File(PathBuf),
}

impl Collective {
    /// Joins the others.
    ///
    /// # Errors
    /// [`EngineError::Rendezvous`].
    pub fn join(join: &Join) -> Result<Self, EngineError> {
        if join.world_size == 1 {
            return Ok(Self::alone());
        }
        Err(EngineError::Rendezvous { what: format!("{join:?}"), fix: "wait for the link".into() })
    }

    /// Tells all others why this rank ends.
    pub fn fail(&self, _why: &str) {}

    /// A clean end.
    pub fn leave(&self) {}
}
