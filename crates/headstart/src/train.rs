//! Stub of THE loop.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::config::{FinetuneConfig, PretrainConfig};
use crate::error::Result;
use crate::event::Listener;

/// Where a run writes and whether it continues.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The run folder.
    pub dir: PathBuf,
    /// Continue the run that is there.
    pub resume: bool,
    /// The command line, for command.txt.
    pub command: String,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Summary {
    /// Optimizer steps done.
    pub steps: u64,
    /// Optimizer steps the run was to have.
    pub total_steps: u64,
    /// Why it ended before its last step ("signal", "max_time", "early_stopping").
    pub stopped: Option<String>,
    /// The final model folder, when the run is complete.
    pub final_dir: Option<PathBuf>,
    /// Last figures by name: "valid/nll", "test/accuracy".
    pub metrics: BTreeMap<String, f64>,
    /// The test (or else validation) set's confusion matrix, rows = true class.
    pub confusion: Option<Vec<Vec<u64>>>,
    /// Class names.
    pub labels: Vec<String>,
}

/// Pretrains.
///
/// # Errors
/// Everything that can go wrong.
pub fn pretrain(
    _config: &PretrainConfig,
    _run: &RunOptions,
    _listener: &mut Listener<'_>,
) -> Result<Summary> {
    unreachable!("stub")
}

/// Fine-tunes.
///
/// # Errors
/// Everything that can go wrong.
pub fn finetune(
    _config: &FinetuneConfig,
    _run: &RunOptions,
    _listener: &mut Listener<'_>,
) -> Result<Summary> {
    unreachable!("stub")
}
