//! What is done of several runs: `trials.json`.
//!
//! Owns: that file. Never: decides what comes next.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::rates::RateSearch;
use super::{Arm, Around, Trial, write_json};
use crate::error::{Error, Result};
use crate::train::{Bar, Summary};

/// Its name.
const FILE: &str = "trials.json";

/// What is done.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct State {
    pub adapted: Option<AdaptedModel>,
    pub search: Option<RateSearch>,
    pub runs: Vec<Done>,
}

/// A language model that was adapted to the text of the task.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AdaptedModel {
    /// The text: "task", or where it is.
    pub text: String,
    /// Optimizer steps.
    pub steps: u64,
    /// The metrics of the adapted model, where there was text to measure it on.
    pub metrics: BTreeMap<String, f64>,
    /// How long it took, from its last start on.
    pub seconds: f64,
}

/// A whole run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// Its folder's name.
    pub name: String,
    /// What it started from.
    pub arm: Arm,
    /// Its seed.
    pub seed: u64,
    /// Its training examples, where a curve says how many.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub size: Option<usize>,
    /// Optimizer steps.
    pub steps: u64,
    /// Its metrics by name.
    pub metrics: BTreeMap<String, f64>,
    /// A bag of words on the same examples.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bow: Option<Bar>,
    /// How long it took, from its last start on.
    pub seconds: f64,
}

impl Done {
    pub(super) fn of(trial: &Trial, summary: &Summary, seconds: f64) -> Self {
        Self {
            name: trial.name.clone(),
            arm: trial.arm,
            seed: trial.seed,
            size: trial.size,
            steps: summary.steps,
            metrics: finite(&summary.metrics),
            bow: summary.bow,
            seconds,
        }
    }
}

/// JSON has no word for the others.
pub(crate) fn finite(metrics: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    metrics
        .iter()
        .filter(|(_, value)| value.is_finite())
        .map(|(name, value)| (name.clone(), *value))
        .collect()
}

impl State {
    /// That of the folder; nothing in a new one.
    pub(super) fn read(around: &Around<'_>) -> Result<Self> {
        let path = around.dir.join(FILE);
        around.ranks.of_leader(|| {
            if !path.is_file() {
                return Ok(Self::default());
            }
            let text = std::fs::read(&path).map_err(Error::io("read", &path))?;
            serde_json::from_slice(&text).map_err(|e| Error::Checkpoint {
                path: path.clone(),
                what: format!("does not say which runs are done: {e}"),
                fix: "remove it, and the runs are gone through again; whole ones are only evaluated".into(),
            })
        })
    }

    /// Whether a run is whole.
    pub(super) fn has(&self, name: &str) -> bool {
        self.runs.iter().any(|run| run.name == name)
    }

    pub(super) fn write(&self, around: &Around<'_>) -> Result<()> {
        around.ranks.of_leader(|| write_json(&around.dir.join(FILE), self))
    }
}
