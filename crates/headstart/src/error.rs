//! The library's one error type. Every variant says what went wrong, where, and what to do about it.
//!
//! Owns: the wording and the usage / failure distinction. Never: exits, prints or logs.

use std::io;
use std::path::{Path, PathBuf};

pub use headstart_engine::EngineError;

/// A result with the library's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong in the library.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused something: reading, writing, renaming, mapping.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done, as a verb: "read", "write", "create the folder".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A file of the user's has content that cannot be used.
    #[error("{}{}: {what}\n  fix: {fix}", path.display(), line.map(|l| format!(":{l}")).unwrap_or_default())]
    BadInput {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1, where there is one.
        line: Option<u64>,
        /// What is wrong with it.
        what: String,
        /// What the user can do.
        fix: String,
    },
    /// A setting has a value that cannot be used.
    #[error("setting `{key}`: {what}\n  fix: {fix}")]
    Config {
        /// The key as it stands in the configuration file and (with `--`) on the command line.
        key: String,
        /// What is wrong with it.
        what: String,
        /// What the user can do.
        fix: String,
    },
    /// Something the user named (data set, model, tokenizer) is not there.
    #[error("{what}\n  fix: {fix}")]
    Missing {
        /// What is missing and where it was looked for.
        what: String,
        /// What the user can do.
        fix: String,
    },
    /// A checkpoint or model folder is damaged, altered or does not fit.
    #[error("{}: {what}\n  fix: {fix}", path.display())]
    Checkpoint {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What the user can do.
        fix: String,
    },
    /// A download failed.
    #[error("cannot download {url}: {what}\n  fix: {fix}")]
    Download {
        /// The address.
        url: String,
        /// What went wrong.
        what: String,
        /// What the user can do.
        fix: String,
    },
    /// Loss, gradients or weights stopped being numbers, and going on would not mend it.
    #[error("step {step}: {what}\n  fix: {fix}")]
    NonFinite {
        /// What is not finite, and for how many steps.
        what: String,
        /// The optimizer step, counted from 1.
        step: u64,
        /// Where the last good checkpoint is and what to try.
        fix: String,
    },
    /// A stop was asked for before the work was whole.
    #[error("{what}\n  fix: {fix}")]
    Interrupted {
        /// What was stopped.
        what: String,
        /// How to go on.
        fix: String,
    },
    /// The engine refused: a device option, a buffer, a file map.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl Error {
    /// An [`Error::Io`] for `path`, to be used in `map_err`.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    /// Whether the mistake is in how the program was called (exit code 2) rather than in the work (1).
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Config { .. })
    }
}

/// An [`Error::BadInput`], in short.
pub(crate) fn bad(path: &Path, line: Option<u64>, what: String, fix: impl Into<String>) -> Error {
    Error::BadInput { path: path.to_path_buf(), line, what, fix: fix.into() }
}
