//! Stub.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::{DataConfig, PrecisionName};
use crate::error::Result;
use crate::event::Listener;

/// An evaluation's result.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Evaluation {
    /// Which split was evaluated ("test", else "valid").
    pub split: String,
    /// Figures by name.
    pub metrics: BTreeMap<String, f64>,
    /// Rows = true class.
    pub confusion: Option<Vec<Vec<u64>>>,
    /// Class names.
    pub labels: Vec<String>,
}

/// Evaluates a model folder on data.
///
/// # Errors
/// Everything that can go wrong.
pub fn evaluate(
    _model: &Path,
    _data: &DataConfig,
    _split: Option<&str>,
    _precision: PrecisionName,
    _threads: usize,
    _listener: &mut Listener<'_>,
) -> Result<Evaluation> {
    unreachable!("stub")
}
