//! What a foreign call answers when it fails.
//!
//! Owns: the name of the call, its code and text. Never: what to do about it.

use crate::error::EngineError;

/// A call that failed.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) call: &'static str,
    pub(super) code: i64,
    pub(super) text: String,
}

impl From<Failure> for EngineError {
    fn from(failure: Failure) -> Self {
        Self::Cuda { call: failure.call, code: failure.code, text: failure.text }
    }
}
