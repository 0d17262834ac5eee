//! What a run leaves behind about its progress: `metrics.jsonl` and TensorBoard event files, one record a step.
//!
//! Owns: both formats, and cutting them back to a checkpoint. Never: looks at a clock (times come with the
//! records), decides what is measured, or draws anything.
//!
//! `metrics.jsonl` holds one JSON object per line: `step` first, then `kind`, `wall_time_s` and the values. Names
//! of measurements of time end in `_s` ([`is_timing`]); everything else is the same bits in a repeated run.

mod metrics;
pub mod tensorboard;
#[cfg(test)]
mod tests;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use metrics::{LogSum, read_metrics};

use self::metrics::MetricsFile;
use self::tensorboard::EventFile;
use crate::error::Result;

/// What a record measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One optimizer step.
    Train,
    /// An evaluation on validation data.
    Valid,
    /// The evaluation on test data.
    Test,
}

impl Kind {
    /// The word in `metrics.jsonl` and before the `/` of a TensorBoard tag.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Valid => "valid",
            Self::Test => "test",
        }
    }
}

/// What was measured at one step.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Optimizer steps done.
    pub step: u64,
    /// What was measured.
    pub kind: Kind,
    /// When, in seconds since 1970.
    pub wall_time_s: f64,
    /// Names and values, in the order they are written in. No name twice, none of the fields above, and times
    /// and rates under names ending in `_s` (`tokens_per_s`). A value that is not finite is written as `null`.
    pub values: Vec<(String, f64)>,
}

impl Record {
    /// A record without values.
    pub fn new(kind: Kind, step: u64, wall_time_s: f64) -> Self {
        Self { step, kind, wall_time_s, values: Vec::new() }
    }

    /// Adds a value.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: f64) -> Self {
        self.values.push((name.into(), value));
        self
    }

    /// The value of this name.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.values.iter().find(|(key, _)| key == name).map(|(_, value)| *value)
    }
}

/// Whether a checkpoint of `checkpoint` includes what was logged at `step`. The test data are evaluated after the last
/// checkpoint, and before the first step there is none.
fn precedes(checkpoint: u64, step: u64, is_test: bool) -> bool {
    checkpoint > 0 && step <= checkpoint && !is_test
}

/// Whether values of this name depend on the clock, so that two runs of the same bits may differ in them.
pub fn is_timing(name: &str) -> bool {
    name.ends_with("_s")
}

/// The logs of one run, open for appending. Every record goes to the operating system at once, so a killed
/// process loses none.
#[derive(Debug)]
pub struct RunLog {
    metrics: MetricsFile,
    events: EventFile,
}

impl RunLog {
    /// Opens the logs of the run in the existing folder `run_dir` behind a checkpoint of `step` (0: there is none): what
    /// was logged after it, and what a crash left half-written at the end, is cut off. A log that is not there is started.
    /// `expected` is what the checkpoint knows of metrics.jsonl, from [`RunLog::flush`].
    ///
    /// The evaluation on test data comes after a run's last checkpoint, so it is always cut off and made again.
    /// Records of one step have to be logged before its checkpoint is saved (see [`RunLog::flush`]).
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] when metrics.jsonl is not what is expected; [`crate::Error::BadInput`] or [`crate::Error::Checkpoint`] when
    /// a log is damaged elsewhere than at its end; [`crate::Error::Io`] when the disk refuses.
    pub fn open(run_dir: &Path, step: u64, expected: Option<&LogSum>, wall_time_s: f64) -> Result<Self> {
        let metrics = MetricsFile::open_cut_back(&run_dir.join(metrics::FILE_NAME), step, expected)?;
        let events = EventFile::open_cut_back(&run_dir.join(tensorboard::FOLDER), step, wall_time_s)?;
        Ok(Self { metrics, events })
    }

    /// Appends a record to both logs. Records come in the order of their steps.
    ///
    /// # Errors
    /// [`crate::Error::Io`] when the disk refuses.
    pub fn log(&mut self, record: &Record) -> Result<()> {
        self.metrics.append(record)?;
        self.events.append(record)
    }

    /// Waits until everything logged so far is on the disk; to be called before a checkpoint is saved, so that
    /// not even a power failure leaves a checkpoint that is ahead of its logs. Returns what metrics.jsonl holds.
    ///
    /// # Errors
    /// [`crate::Error::Io`] when the disk refuses.
    pub fn flush(&mut self) -> Result<LogSum> {
        self.events.sync()?;
        self.metrics.sync()
    }
}
