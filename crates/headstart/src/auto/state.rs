//! What is climbed: `auto.json`.
//!
//! Owns: that file. Never: decides what comes next.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::choice::Gain;
use super::rung::Rung;
use crate::error::{Error, Result};
use crate::eval::{Calibration, Interval};
use crate::trials::write_json;

/// Its name.
const FILE: &str = "auto.json";

/// What is done.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct State {
    pub rungs: Vec<Climbed>,
    pub tested: Option<Tested>,
    /// Rungs that did not fit into `max_time` and keep nothing of what they did: each start would begin them anew.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub given_up: Vec<Rung>,
    /// Seconds of all starts so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

/// A rung that is whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Climbed {
    /// Which.
    pub rung: Rung,
    /// Its folder's name.
    pub name: String,
    /// Its metrics on validation data: "valid/accuracy".
    pub metrics: BTreeMap<String, f64>,
    /// 95 % intervals of some.
    pub intervals: BTreeMap<String, Interval>,
    /// Its temperature, and the calibration error before and after; a bag of words has none.
    pub calibration: Option<Calibration>,
    /// Seconds of training.
    pub seconds: f64,
    /// How many were expected.
    pub estimated_s: Option<f64>,
    /// Milliseconds of prediction to a text, many at a time.
    pub ms_per_text: Option<f64>,
    /// Bytes of its finished model.
    pub model_bytes: u64,
    /// What it was better by than what was chosen of those before it.
    pub gain: Option<Gain>,
}

/// What the chosen rung was measured to be on test data.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Tested {
    pub name: String,
    pub metrics: BTreeMap<String, f64>,
    pub intervals: BTreeMap<String, Interval>,
}

impl State {
    /// That of the folder; nothing in a new one.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        if !path.is_file() {
            return Ok(Self::default());
        }
        let text = std::fs::read(&path).map_err(Error::io("read", &path))?;
        serde_json::from_slice(&text).map_err(|e| Error::Checkpoint {
            path: path.clone(),
            what: format!("does not say which rungs are done: {e}"),
            fix: "remove it, and the rungs are gone through again; whole ones are only evaluated".into(),
        })
    }

    /// Whether a rung is whole.
    pub(super) fn has(&self, rung: Rung) -> bool {
        self.rungs.iter().any(|climbed| climbed.rung == rung)
    }

    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        write_json(&dir.join(FILE), self)
    }
}
