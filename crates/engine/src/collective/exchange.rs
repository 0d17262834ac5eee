//! What ranks exchange in a step: gradients become sums, updated weights come back.
//!
//! Owns: which way they go: over NCCL between GPUs, else over the link between hosts. Never: what is added in which order
//! (`reduce`, `reduce_device`), who owns what (`shares`).

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::mpsc::{SyncSender, sync_channel};

use super::reduce::{Packed, Received, Sum};
use super::shares::UNIT;
use super::{Collective, Shares, reduce, reduce_device};
use crate::cuda::Nccl;
use crate::device::Device;
use crate::error::EngineError;
use crate::ops::adam::{self, squared_norm};
use crate::weights::{Gradients, Weights};

/// Pieces that may wait to be sent: some 2 MiB of each rank's share.
const PIECES_BETWEEN: usize = 4;

/// Sums of all pieces of this rank's share.
#[derive(Debug)]
pub struct Sums(Vec<Sum>);

/// How far gradients are complete, from their end on.
#[derive(Debug)]
pub struct Completed<'a> {
    shares: &'a Shares,
    /// Those that are not.
    pieces: VecDeque<Range<usize>>,
    on_its_way: SyncSender<Packed>,
}

impl Completed<'_> {
    /// All elements from here on are complete; they may wait here for the other ranks.
    pub fn from(&mut self, first: usize, gradients: &Gradients) {
        while let Some(piece) = self.pieces.front().filter(|piece| piece.start * UNIT >= first) {
            // Where nobody takes it, an error waits.
            let _ = self.on_its_way.send(Packed::of(self.shares, gradients, piece.clone()));
            self.pieces.pop_front();
        }
    }
}

/// The exchange of one run's gradients and weights.
#[derive(Debug)]
pub struct Exchange {
    collective: Collective,
    shares: Shares,
    /// Between GPUs; `None` where the host is between.
    nccl: Option<Nccl>,
    detour: Option<String>,
    /// Whether bytes of some rank pass a network, which takes no time of a processor.
    over_network: bool,
}

impl Exchange {
    /// For `len` elements of gradient on this device; all ranks call it.
    ///
    /// # Errors
    /// [`EngineError::Rank`] with the rank that is lost; what goes wrong on the device.
    pub fn new(device: &Device, collective: &Collective, len: usize) -> Result<Self, EngineError> {
        let shares = Shares::new(collective, len);
        let here = collective.gather_equal(&[u8::from(collective.on_one_machine())])?;
        let over_network = here.iter().any(|here| here == &[0]);
        let collective = collective.clone();
        let mut exchange = Self { collective, shares, nccl: None, detour: None, over_network };
        let collective = &exchange.collective;
        if let Some(cuda) = device.cuda().filter(|_| !collective.is_alone()) {
            let most = crate::cuda::ops::parts::MOST_PARTS;
            if collective.world_size() > most {
                exchange.detour = Some(format!("more than {most} ranks"));
                return Ok(exchange);
            }
            match Nccl::join(cuda, collective, collective.timeout()) {
                Ok(nccl) => exchange.nccl = Some(nccl),
                // On one rank, hence on all.
                Err(why @ EngineError::Gpu { .. }) => exchange.detour = Some(why.to_string()),
                Err(other) => return Err(other),
            }
        }
        Ok(exchange)
    }

    /// For one process by itself.
    pub fn alone(len: usize) -> Self {
        let collective = Collective::alone();
        let shares = Shares::new(&collective, len);
        Self { shares, collective, nccl: None, detour: None, over_network: false }
    }

    /// What this rank owns.
    pub fn shares(&self) -> Shares {
        self.shares
    }

    /// Why GPUs exchange by way of the hosts, where they do.
    pub fn detour(&self) -> Option<&str> {
        self.detour.as_deref()
    }

    /// Whether all ranks have a whole batch's gradients, or are about to; each says so of itself before the sum is made.
    ///
    /// # Errors
    /// [`EngineError::Rank`] with the rank that is lost.
    pub fn all_go_on(&self, this_one: bool) -> Result<bool, EngineError> {
        let all = self.collective.gather_equal(&[u8::from(this_one)])?;
        Ok(all.iter().all(|one| one == &[1]))
    }

    /// Adds up the gradients of all ranks, which all go on. Each is left with the sum of its own share; what it has of the
    /// others' is zero once the weights are updated, and counts as zero until then.
    ///
    /// # Errors
    /// [`EngineError::Rank`] with the rank that is lost.
    pub fn reduce(&self, device: &Device, gradients: &mut Gradients) -> Result<(), EngineError> {
        match (&self.nccl, device.cuda()) {
            _ if self.collective.is_alone() => Ok(()),
            (Some(nccl), Some(cuda)) => {
                reduce_device::reduce(cuda, nccl, &self.shares, gradients);
                Ok(())
            }
            _ => reduce::reduce(&self.collective, &self.shares, gradients),
        }
    }

    /// Whether the sum is to be made beside the work that completes the gradients: over a network. On one machine the
    /// processors carry the bytes, and are busy with the work (BENCHMARKS.md).
    pub fn is_reduced_beside(&self, device: &Device) -> bool {
        self.over_network && !device.is_cuda()
    }

    /// Does `work`, which computes gradients and tells how far they are complete, and meanwhile adds up over the ranks what is.
    /// To be asked of all ranks is whether they go on, first. What is added up is to be put into the gradients afterwards;
    /// `None` where a rank does not go on.
    pub fn reduce_beside<T>(
        &self,
        work: impl FnOnce(&mut Completed<'_>) -> T,
    ) -> (T, Result<Option<Sums>, EngineError>) {
        std::thread::scope(|scope| {
            let (on_its_way, packed) = sync_channel(PIECES_BETWEEN);
            let sums = scope.spawn(move || {
                let all_go_on = self.all_go_on(true)?;
                let (mut sums, mut received) = (Vec::new(), Received::default());
                for piece in packed {
                    if all_go_on {
                        sums.push(reduce::add_up(&self.collective, &self.shares, piece, &mut received)?);
                    }
                }
                Ok(all_go_on.then_some(Sums(sums)))
            });
            let pieces = reduce::pieces(&self.shares).collect::<VecDeque<_>>();
            let mut completed = Completed { shares: &self.shares, pieces, on_its_way };
            let result = work(&mut completed);
            drop(completed);
            let panicked = || EngineError::Rank {
                rank: self.collective.rank(),
                what: "stopped exchanging gradients".into(),
                fix: "report this".into(),
            };
            (result, sums.join().unwrap_or_else(|_| Err(panicked())))
        })
    }

    /// Puts what was added up beside the work into the gradients, as [`Exchange::reduce`] leaves them.
    pub fn put(&self, sums: &Sums, gradients: &mut Gradients) {
        sums.0.iter().for_each(|sum| sum.put(&self.shares, gradients));
    }

    /// The square of the norm of all gradients: the same bits on all ranks, and as where one process has all.
    ///
    /// # Errors
    /// [`EngineError::Rank`] with the rank that is lost.
    pub fn squared_norm(&self, device: &Device, gradients: &Gradients) -> Result<f64, EngineError> {
        squared_norm(device, gradients).over_ranks(&self.collective, &self.shares)
    }

    /// Gives every rank the weights that the others have just updated. `ranges` are those of the update, whole, in the order of
    /// both their weights and their gradients.
    ///
    /// # Errors
    /// [`EngineError::Rank`] with the rank that is lost.
    pub fn gather_weights(
        &self,
        device: &Device,
        gradients: &Gradients,
        weights: &mut Weights,
        ranges: &[adam::Range],
    ) -> Result<(), EngineError> {
        match (&self.nccl, device.cuda()) {
            _ if self.collective.is_alone() => Ok(()),
            (Some(nccl), Some(cuda)) => {
                reduce_device::gather_weights(cuda, nccl, &self.shares, weights, ranges);
                Ok(())
            }
            _ => reduce::gather_weights(&self.collective, &self.shares, gradients, weights, ranges),
        }
    }
}
