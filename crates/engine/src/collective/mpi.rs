//! Messages between ranks over MPI.

use super::{Collective, Join};
use crate::error::EngineError;

/// Joins the ranks that MPI has started.
pub fn join(_: &Join) -> Result<Collective, EngineError> {
    Err(EngineError::Rendezvous {
        what: "this program was built without MPI".to_owned(),
        fix: "build it with `cargo build --release --features mpi` (which needs an MPI and libclang)"
            .to_owned(),
    })
}
