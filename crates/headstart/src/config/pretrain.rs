//! What `pretrain` is asked to do. Owns: names, defaults, ranges. Never: the tables it is made of.

use serde::{Deserialize, Serialize};

use super::{DataConfig, ModelConfig, TrainConfig, check};
use crate::error::Result;

/// What pretraining predicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectiveName {
    /// The next token; causal.
    #[default]
    Lm,
    /// Masked tokens; bidirectional.
    Mlm,
}

impl ObjectiveName {
    /// What a model is fit for that was pretrained elsewhere, or not at all.
    pub fn of(model: &ModelConfig) -> Self {
        if model.causal { Self::Lm } else { Self::Mlm }
    }
}

/// `headstart pretrain`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PretrainConfig {
    /// Next token or masked tokens.
    pub objective: ObjectiveName,
    /// Share of tokens predicted in masked-LM.
    pub mlm_probability: f64,
    /// Text and tokenizer.
    pub data: DataConfig,
    /// Sizes.
    pub model: ModelConfig,
    /// The loop.
    pub train: TrainConfig,
}

impl Default for PretrainConfig {
    fn default() -> Self {
        Self {
            objective: ObjectiveName::Lm,
            mlm_probability: 0.15,
            data: DataConfig { path: "wikitext-103".into(), ..DataConfig::default() },
            model: ModelConfig::default(),
            train: TrainConfig::default(),
        }
    }
}

impl PretrainConfig {
    /// Checks every range.
    ///
    /// # Errors
    /// [`crate::Error::Config`] naming the key.
    pub fn validate(&self) -> Result<()> {
        check("mlm_probability", self.mlm_probability > 0.0 && self.mlm_probability <= 1.0, || {
            (format!("{} is not a share of the tokens", self.mlm_probability), "use 0.15".into())
        })?;
        self.model.validate()?;
        self.data.validate()?;
        self.train.validate()
    }
}
