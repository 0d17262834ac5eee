//! The engine's error type: what a device, its memory or a file can refuse, in words of devices. (Flags are words of the
//! command line.) Shape mistakes are programming errors and assert; nothing a user types reaches a kernel unchecked.

use std::path::PathBuf;

/// What the engine can refuse.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The processor's threads could not be started.
    #[error(
        "cannot use the device: {wanted} threads could not be started: {source}\n  fix: ask for fewer threads"
    )]
    Threads {
        /// How many were asked for.
        wanted: usize,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A GPU, or what it needs, is not there.
    #[error("cannot use the device: {what}\n  fix: {fix}")]
    Gpu {
        /// What was looked for, and what was found.
        what: String,
        /// The way out.
        fix: &'static str,
    },
    /// A GPU has too little memory for what was asked.
    #[error(
        "out of memory on {device}: {} MiB wanted, {} of {} MiB free\n  fix: a smaller batch, bf16, or a GPU that nothing \
         else uses", wanted >> 20, free >> 20, total >> 20
    )]
    OutOfMemory {
        /// The GPU.
        device: String,
        /// Bytes.
        wanted: usize,
        /// Bytes.
        free: usize,
        /// Bytes.
        total: usize,
    },
    /// A GPU has too little memory to train a model, whatever the batch.
    #[error(
        "out of memory on {device}: weights, gradients and the optimizer's moments need {} MiB, {} of {} MiB are free\n  \
         fix: a smaller model, a GPU with more memory or that nothing else uses, or the processor; a smaller batch does \
         not help", needed.div_ceil(1 << 20), free >> 20, total >> 20
    )]
    ModelTooLarge {
        /// The GPU.
        device: String,
        /// Bytes.
        needed: usize,
        /// Bytes.
        free: usize,
        /// Bytes.
        total: usize,
    },
    /// A call into NVIDIA's libraries failed.
    #[error(
        "{call} failed with code {code}: {text}\n  fix: see whether the GPU and its driver work, or compute on the processor"
    )]
    Cuda {
        /// The call.
        call: &'static str,
        /// Its code.
        code: i64,
        /// What the library says about it.
        text: String,
    },
    /// Another of the processes that train together is gone, or says what went wrong on it.
    #[error("rank {rank} {what}\n  fix: {fix}")]
    Rank {
        /// Which.
        rank: usize,
        /// What became of it: "is gone: its connection was closed".
        what: String,
        /// The way out.
        fix: String,
    },
    /// The processes that are to train together did not find each other.
    #[error("the ranks did not come together: {what}\n  fix: {fix}")]
    Rendezvous {
        /// Who was waited for, and where.
        what: String,
        /// The way out.
        fix: String,
    },
    /// A file could not be mapped into memory.
    #[error("cannot map {}: {source}", path.display())]
    Map {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
}
