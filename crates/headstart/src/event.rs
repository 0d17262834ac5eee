//! What a long piece of work tells whoever watches it, and how the watcher stops it.
//!
//! Owns: the vocabulary between library and terminal. Never: prints.

use std::path::Path;

use crate::error::{Error, Result};
use crate::run_log::Record;

/// Something happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// A line for people: what was found, discarded, added; a warning.
    Message(&'a str),
    /// Work of known size: tokenising, downloading, evaluating.
    Progress {
        /// Which work.
        what: &'a str,
        /// Units done.
        done: u64,
        /// Units in all; 0 when unknown.
        total: u64,
    },
    /// An optimizer step.
    Step(&'a StepRecord),
    /// An evaluation's metrics, and what they mean for the choice among checkpoints.
    Evaluation {
        /// All of them.
        record: &'a Record,
        /// The name of the one that decides: "accuracy", "mse", "nll".
        metric: &'a str,
        /// Whether the run, its part before a continuation included, had no better evaluation; `false` for test data,
        /// which decide nothing.
        best_so_far: bool,
    },
    /// Nothing to tell. It comes often during long work, so that a *stop* is heard soon.
    Waiting,
    /// A checkpoint was written.
    Saved(&'a Path),
}

/// One optimizer step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepRecord {
    /// Counted from 1.
    pub step: u64,
    /// The run's last step.
    pub total_steps: u64,
    /// Passes over the data, with its fraction.
    pub epoch: f64,
    /// The step's training loss.
    pub loss: f64,
    /// Learning rate used.
    pub lr: f64,
    /// Global gradient norm before clipping.
    pub grad_norm: f64,
    /// Speed since the last step.
    pub tokens_per_s: f64,
    /// Seconds since the work began, of this process.
    pub elapsed_s: f64,
}

/// The watcher's answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Signal {
    /// Go on.
    #[default]
    Continue,
    /// Save and stop as soon as that is clean.
    Stop,
}

impl Signal {
    /// Ends `work` where a stop is asked for. What it has done so far must be worth keeping, or cost nothing to do again.
    ///
    /// # Errors
    /// [`Error::Interrupted`] naming it.
    pub fn or_interrupted(self, work: &str) -> Result<()> {
        match self {
            Self::Continue => Ok(()),
            Self::Stop => Err(Error::Interrupted {
                what: format!("{work} was stopped before it was done"),
                fix: "run the same command again".into(),
            }),
        }
    }
}

/// Who watches.
pub type Listener<'a> = dyn FnMut(Event<'_>) -> Signal + 'a;
