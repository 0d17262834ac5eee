//! The engine's error type: what can go wrong before the first kernel runs. Shape mistakes are programming
//! errors and assert; nothing a user types reaches a kernel unchecked.

use std::path::PathBuf;

/// What the engine can refuse.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A device could not be set up.
    #[error("cannot use the device: {what}\n  fix: {fix}")]
    Device {
        /// What went wrong.
        what: String,
        /// What the user can do.
        fix: String,
    },
    /// A GPU has too little memory for what was asked.
    #[error(
        "out of memory on {device}: {} MiB wanted, {} of {} MiB free\n  fix: a smaller --train-batch-size, \
         --precision bf16, or a GPU that nothing else uses", wanted >> 20, free >> 20, total >> 20
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
         fix: a smaller model, a GPU with more memory or that nothing else uses, or --device cpu; a smaller batch does \
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
        "{call} failed with code {code}: {text}\n  fix: `headstart doctor` shows the GPU and its driver; --device cpu works without"
    )]
    Cuda {
        /// The call.
        call: &'static str,
        /// Its code.
        code: i64,
        /// What the library says about it.
        text: String,
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
