//! Stub.

use std::path::PathBuf;

use crate::error::Result;
use crate::event::Listener;

/// What the quickstart is asked to do.
#[derive(Clone, Debug)]
pub struct QuickstartConfig {
    /// Where the run folders and the report go.
    pub out: PathBuf,
    /// Worker threads; 0: all.
    pub threads: usize,
    /// Seeds the trunk; fine-tuning takes the following ones.
    pub seed: u64,
}

/// One arm's result.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Arm {
    /// Mean test accuracy over the seeds.
    pub accuracy_mean: f64,
    /// Standard deviation over the seeds.
    pub accuracy_std: f64,
    /// Each seed's test accuracy.
    pub accuracies: Vec<f64>,
    /// The learning rate validation chose.
    pub lr: f64,
    /// Seconds of fine-tuning, all seeds.
    pub seconds: f64,
}

/// What the quickstart found.
#[derive(Clone, Debug, serde::Serialize)]
pub struct QuickstartSummary {
    /// With the head start.
    pub pretrained: Arm,
    /// Without.
    pub scratch: Arm,
    /// Seconds of pretraining.
    pub pretraining_seconds: f64,
    /// The report.
    pub report: PathBuf,
}

/// Runs it.
///
/// # Errors
/// Everything that can go wrong.
pub fn run(_config: &QuickstartConfig, _listener: &mut Listener<'_>) -> Result<QuickstartSummary> {
    unreachable!("stub")
}
