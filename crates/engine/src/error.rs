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
    /// A file could not be mapped into memory.
    #[error("cannot map {}: {source}", path.display())]
    Map {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
}
