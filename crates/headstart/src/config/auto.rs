//! What `headstart auto` is asked to do. Owns: names, defaults, ranges. Never: which rungs there are.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{DataConfig, PrecisionName, Problem, check_positive};
use crate::error::Result;

/// What stands as the method in its settings, by which its folder is known among runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AutoMethod {
    /// One after the other.
    #[default]
    Auto,
}

/// `headstart auto`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AutoConfig {
    /// Always the same.
    pub method: AutoMethod,
    /// The model that the rungs above the bag of words start from: a run folder, its `final/`, a published model's folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<PathBuf>,
    /// The model below `model`, where that is the folder of an adapter alone; absent: the one that the folder names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<PathBuf>,
    /// One class, any number of classes, or a number.
    pub problem: Problem,
    /// Classes the data must have; absent: found from the data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_classes: Option<usize>,
    /// The metric of the validation data that rungs are judged by, and their checkpoints; absent: accuracy, of numbers the mean
    /// squared error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best_metric: Option<String>,
    /// Whether it climbs on where a rung was no better.
    pub thorough: bool,
    /// Seed of every rung, and of the validation part where the data has none.
    pub seed: u64,
    /// f32 or bf16 products; absent: what each rung chooses, as a run alone does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<PrecisionName>,
    /// Worker threads; 0: all.
    pub threads: usize,
    /// Seconds in which it has to be done, from its start or its continuation on; absent: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_time: Option<f64>,
    /// Texts and labels.
    pub data: DataConfig,
}

impl Default for AutoConfig {
    fn default() -> Self {
        Self {
            method: AutoMethod::Auto,
            model: None,
            base: None,
            problem: Problem::SingleLabel,
            num_classes: None,
            best_metric: None,
            thorough: false,
            seed: 42,
            precision: None,
            threads: 0,
            max_time: None,
            data: DataConfig::default(),
        }
    }
}

impl AutoConfig {
    /// Checks every range.
    ///
    /// # Errors
    /// [`crate::Error::Config`] naming the key.
    pub fn validate(&self) -> Result<()> {
        if let Some(time) = self.max_time {
            check_positive("max_time", time)?;
        }
        self.data.validate()
    }
}
