//! Stub.

use std::path::Path;

use crate::config::PrecisionName;
use crate::error::Result;

/// One text's prediction.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Prediction {
    /// The best class (single-label), all classes over 0.5 joined by `|` (multi-label), the number (regression).
    pub label: String,
    /// Class -> probability, in the model's order.
    pub probabilities: serde_json::Map<String, serde_json::Value>,
}

/// A loaded classifier.
#[derive(Debug)]
pub struct Predictor {}

impl Predictor {
    /// Loads a run folder, its `final/`, or a checkpoint.
    ///
    /// # Errors
    /// Everything that can go wrong.
    pub fn load(_model: &Path, _precision: PrecisionName, _threads: usize) -> Result<Self> {
        unreachable!("stub")
    }

    /// Predicts texts, in order.
    ///
    /// # Errors
    /// Everything that can go wrong.
    pub fn predict(&self, _texts: &[String]) -> Result<Vec<Prediction>> {
        unreachable!("stub")
    }
}

/// How text is generated.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateConfig {
    /// Tokens to add.
    pub max_new_tokens: usize,
    /// 0: the best token always.
    pub temperature: f64,
    /// Only the best k; 0: all.
    pub top_k: usize,
    /// Only the best that together have this probability; 1: all.
    pub top_p: f64,
    /// Seeds the draws.
    pub seed: u64,
}

/// A loaded language model.
#[derive(Debug)]
pub struct Generator {}

impl Generator {
    /// Loads a run folder, its `final/`, or a checkpoint.
    ///
    /// # Errors
    /// Everything that can go wrong.
    pub fn load(_model: &Path, _precision: PrecisionName, _threads: usize) -> Result<Self> {
        unreachable!("stub")
    }

    /// Continues the prompt; `piece` is called with each new piece of text. Returns the whole text.
    ///
    /// # Errors
    /// Everything that can go wrong.
    pub fn generate(
        &self,
        _prompt: &str,
        _config: &GenerateConfig,
        _piece: &mut dyn FnMut(&str),
    ) -> Result<String> {
        unreachable!("stub")
    }
}
