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

pub use metrics::read_metrics;

use self::metrics::MetricsFile;
use self::tensorboard::EventFile;
use crate::error::{Error, Result};
use crate::files::sync_folder;

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

/// What both logs hold until a checkpoint, to notice when they were altered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSum {
    /// Length of metrics.jsonl.
    pub bytes: u64,
    /// CRC-32C of its content.
    pub crc32c: u32,
    /// The TensorBoard files; states of before they were summed have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensorboard: Option<Extent>,
}

/// Length and content of a log, or of several one behind the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extent {
    /// Length.
    pub bytes: u64,
    /// CRC-32C of the content.
    pub crc32c: u32,
}

impl Extent {
    fn add(&mut self, content: &[u8]) {
        self.bytes += content.len() as u64;
        self.crc32c = crc32c::crc32c_append(self.crc32c, content);
    }
}

/// The error of a log that is not what a checkpoint knows of it.
fn not_as_logged(path: &Path, step: u64, without: &str) -> Error {
    Error::Checkpoint {
        path: path.to_path_buf(),
        what: format!("is not what was logged until the checkpoint of step {step}: altered or cut"),
        fix: format!("bring back the file that was there; or move it away: {without}"),
    }
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
    /// `expected` is what the checkpoint knows of them, from [`RunLog::flush`].
    ///
    /// The evaluation on test data comes after a run's last checkpoint, so it is always cut off and made again.
    /// Records of one step have to be logged before its checkpoint is saved (see [`RunLog::flush`]).
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when a log is not what is expected; [`Error::BadInput`] or [`Error::Checkpoint`] when one is
    /// damaged elsewhere than at its end; [`Error::Io`] when the disk refuses.
    pub fn open(run_dir: &Path, step: u64, expected: Option<&LogSum>, wall_time_s: f64) -> Result<Self> {
        let known = expected.map(|known| Extent { bytes: known.bytes, crc32c: known.crc32c });
        let metrics = MetricsFile::open_cut_back(&run_dir.join(metrics::FILE_NAME), step, known)?;
        let known = expected.and_then(|known| known.tensorboard);
        let events = EventFile::open_cut_back(&run_dir.join(tensorboard::FOLDER), step, known, wall_time_s)?;
        // Without this a power failure could leave a checkpoint, and no log.
        sync_folder(&run_dir.join(tensorboard::FOLDER))?;
        sync_folder(run_dir)?;
        Ok(Self { metrics, events })
    }

    /// Appends a record to both logs. Records come in the order of their steps.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming the log when the disk refuses.
    pub fn log(&mut self, record: &Record) -> Result<()> {
        self.metrics.append(record)?;
        self.events.append(record)
    }

    /// Waits until everything logged so far is on the disk; to be called before a checkpoint is saved, so that
    /// not even a power failure leaves a checkpoint that is ahead of its logs. Returns what they hold.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming the log when the disk refuses.
    pub fn flush(&mut self) -> Result<LogSum> {
        let tensorboard = Some(self.events.sync()?);
        let Extent { bytes, crc32c } = self.metrics.sync()?;
        Ok(LogSum { bytes, crc32c, tensorboard })
    }
}
