//! Where the work is computed: the choice that a user makes, and what a full GPU leads to.
//!
//! Owns: the names of devices, the choice of `auto`, the size of slabs, work that is repeated in smaller ones. Never: what
//! the work is.

use std::fmt;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};

use headstart_engine::{CodePath, EngineError};

pub use headstart_engine::{CudaOptions, Gpu, Replay, gpus};

use crate::error::{Error, Result};
use crate::event::{Event, Listener};

/// Tokens of a slab on the processor.
pub(crate) const SLAB_TOKENS: usize = 512;
/// The same where bf16 matmuls run in tile registers: what a slab costs beside its arithmetic (weights read, their gradients
/// added to) is then a tenth of a step, and halves.
const TILED_SLAB_TOKENS: usize = 1_024;
/// Tokens of a slab on a GPU at first: enough rows to fill its multiprocessors.
const CUDA_SLAB_TOKENS: usize = 16_384;
/// The smallest slab, where halving ends.
const SMALLEST_SLAB_TOKENS: usize = 256;

/// The engine's device, and how much of a batch runs on it at once.
#[derive(Debug)]
pub struct Device {
    engine: headstart_engine::Device,
    slab_tokens: AtomicUsize,
}

impl Deref for Device {
    type Target = headstart_engine::Device;

    fn deref(&self) -> &headstart_engine::Device {
        &self.engine
    }
}

impl From<headstart_engine::Device> for Device {
    fn from(engine: headstart_engine::Device) -> Self {
        let slab_tokens = match () {
            () if engine.is_cuda() => CUDA_SLAB_TOKENS,
            () if engine.has_tiles() => TILED_SLAB_TOKENS,
            () => SLAB_TOKENS,
        };
        Self { engine, slab_tokens: AtomicUsize::new(slab_tokens) }
    }
}

impl Device {
    /// About how many tokens a slab has. The bits of a result depend on it.
    pub fn slab_tokens(&self) -> usize {
        self.slab_tokens.load(Ordering::Relaxed)
    }

    /// Takes over the slab size of an interrupted run, whose bits depend on it. The processor's never changes.
    pub fn set_slab_tokens(&self, tokens: usize) {
        if self.is_cuda() {
            self.slab_tokens.store(tokens.max(SMALLEST_SLAB_TOKENS), Ordering::Relaxed);
        }
    }

    /// Halves the slab after the device ran out of memory; `None` when it cannot become smaller.
    fn halve_slab(&self) -> Option<usize> {
        let smaller = self.slab_tokens() / 2;
        (self.is_cuda() && smaller >= SMALLEST_SLAB_TOKENS).then(|| {
            self.slab_tokens.store(smaller, Ordering::Relaxed);
            smaller
        })
    }
}

/// A device as a user names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceName {
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA GPU, numbered from 0; without a number this process's own.
    Cuda(Option<usize>),
    /// This process's own GPU if there is one, else the processor.
    Auto,
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(None) => f.write_str("cuda"),
            Self::Cuda(Some(ordinal)) => write!(f, "cuda:{ordinal}"),
            Self::Auto => f.write_str("auto"),
        }
    }
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let number = |rest: &str| rest.strip_prefix(':').and_then(|n| n.parse().ok());
        match name {
            "cpu" => Ok(Self::Cpu),
            "auto" => Ok(Self::Auto),
            "cuda" => Ok(Self::Cuda(None)),
            _ => name
                .strip_prefix("cuda")
                .and_then(number)
                .map(|ordinal| Self::Cuda(Some(ordinal)))
                .ok_or_else(|| format!("{name}: no such device; use cpu, cuda, cuda:N or auto")),
        }
    }
}

/// Where to compute, and where a GPU's libraries and compiled kernels may lie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceChoice {
    /// The device.
    pub name: DeviceName,
    /// For GPUs only.
    pub cuda: CudaOptions,
    /// The GPU of this process where none is numbered: the first, but for processes that share a machine.
    pub own_gpu: usize,
    /// How many threads "all" are; 0: as many as the machine has for this process. Fewer for processes that share it.
    pub own_threads: usize,
}

impl DeviceChoice {
    /// Opens it, with so many threads for what the processor does; 0: all of its own.
    ///
    /// # Errors
    /// [`Error::Engine`] that says what was looked for, when there is no such device.
    pub fn open(&self, threads: usize) -> Result<Device> {
        let threads = NonZeroUsize::new(threads).or(NonZeroUsize::new(self.own_threads));
        let cpu = || headstart_engine::Device::cpu(threads, CodePath::Auto);
        let gpu = |ordinal| headstart_engine::Device::gpu(ordinal, threads, &self.cuda);
        let engine = match self.name {
            DeviceName::Cpu => cpu()?,
            DeviceName::Cuda(ordinal) => gpu(ordinal.unwrap_or(self.own_gpu))?,
            DeviceName::Auto => gpu(self.own_gpu).or_else(|_| cpu())?,
        };
        Ok(engine.into())
    }

    /// What is to be said about the choice that was left to the program.
    pub fn note(&self, device: &Device) -> Option<String> {
        let says = if device.is_cuda() { "computing on" } else { "no GPU that can be used; computing on" };
        (self.name == DeviceName::Auto).then(|| format!("{says} {}", device.name()))
    }
}

/// Runs `work` until it fits into the device's memory: each time it does not, the slab is halved and the whole is done
/// again. The listener is told once for every halving; `work` may ask it whether to go on.
///
/// # Errors
/// [`Error::Engine`] when the slab cannot become smaller, or something else went wrong on the device.
pub(crate) fn in_parts_that_fit<T>(
    device: &Device,
    listener: &mut Listener<'_>,
    mut work: impl FnMut(&mut Listener<'_>) -> T,
) -> Result<T> {
    loop {
        let result = work(listener);
        match device.check() {
            Ok(()) => return Ok(result),
            Err(error @ EngineError::OutOfMemory { .. }) => match device.halve_slab() {
                None => return Err(Error::Engine(error)),
                Some(tokens) => {
                    let line = format!("the GPU's memory is full; going on with {tokens} tokens at a time");
                    listener(Event::Message(&line));
                }
            },
            Err(error) => return Err(Error::Engine(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_names() {
        let named =
            ["cpu", "auto", "cuda", "cuda:0", "cuda:3"].map(|name| name.parse::<DeviceName>().unwrap());
        let expected = [
            DeviceName::Cpu,
            DeviceName::Auto,
            DeviceName::Cuda(None),
            DeviceName::Cuda(Some(0)),
            DeviceName::Cuda(Some(3)),
        ];
        assert_eq!(named, expected);
        for unknown in ["", "gpu", "cuda:", "cuda:x", "cuda3", "cuda:-1"] {
            assert!(unknown.parse::<DeviceName>().is_err(), "{unknown}");
        }
    }
}
