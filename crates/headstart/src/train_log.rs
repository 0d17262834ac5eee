//! train.log: what a run said to people, kept beside its metrics.
//!
//! Owns: the lines' form. Never: metrics that are not said as well; metrics.jsonl has all of them.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use crate::error::{Error, Result};
use crate::event::Event;

/// An open train.log; lines are appended.
#[derive(Debug)]
pub(crate) struct TrainLog(File);

impl TrainLog {
    /// Opens the log for appending and writes the lines said before the run had a folder.
    pub(crate) fn open(path: &Path, notes: &[String]) -> Result<Self> {
        let file =
            OpenOptions::new().create(true).append(true).open(path).map_err(Error::io("open", path))?;
        let mut log = Self(file);
        for note in notes {
            log.line(note);
        }
        Ok(log)
    }

    /// Keeps a message, an evaluation or the name of a checkpoint; steps and progress stand elsewhere.
    pub(crate) fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Message(text) => self.line(text),
            Event::Evaluation { record, .. } => {
                let metrics: Vec<String> =
                    record.values.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
                self.line(&format!("step {} {}: {}", record.step, record.kind.as_str(), metrics.join("  ")));
            }
            Event::Saved(path) => self.line(&format!("saved {}", path.display())),
            Event::Progress { .. } | Event::Step(_) | Event::Waiting => {}
        }
    }

    fn line(&mut self, text: &str) {
        // A log for people never stops a run; a full disk shows at the next checkpoint.
        let _ = writeln!(self.0, "{text}");
    }
}
