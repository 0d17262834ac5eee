//! What ranks exchange in a step: gradients become sums, updated weights come back.
//!
//! Owns: which way they go: over NCCL between GPUs, else over the link between hosts. Never: what is added in which order
//! (`reduce`, `reduce_device`), who owns what (`shares`).

use super::{Collective, Shares, reduce, reduce_device};
use crate::cuda::Nccl;
use crate::device::Device;
use crate::error::EngineError;
use crate::ops::adam::{self, squared_norm};
use crate::weights::{Gradients, Weights};

/// The exchange of one run's gradients and weights.
#[derive(Debug)]
pub struct Exchange {
    collective: Collective,
    shares: Shares,
    /// Between GPUs; `None` where the host is between.
    nccl: Option<Nccl>,
    detour: Option<String>,
}

impl Exchange {
    /// For `len` elements of gradient on this device; all ranks call it.
    ///
    /// # Errors
    /// [`EngineError::Rank`] with the rank that is lost; what goes wrong on the device.
    pub fn new(device: &Device, collective: &Collective, len: usize) -> Result<Self, EngineError> {
        let shares = Shares::new(collective, len);
        let mut exchange = Self { collective: collective.clone(), shares, nccl: None, detour: None };
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
        Self { shares: Shares::new(&collective, len), collective, nccl: None, detour: None }
    }

    /// What this rank owns.
    pub fn shares(&self) -> Shares {
        self.shares
    }

    /// Why GPUs exchange by way of the hosts, where they do.
    pub fn detour(&self) -> Option<&str> {
        self.detour.as_deref()
    }

    /// Adds up the gradients of all ranks. Each is left with the sum of its own share; what it has of the others' is zero once
    /// the weights are updated, and counts as zero until then.
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
