//! What `pretrain` is asked to do. Owns: names, defaults, ranges. Never: the tables it is made of.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Arch, DataConfig, DistillConfig, ModelConfig, Positions, TrainConfig, check};
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

impl ObjectiveName {
    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lm => "lm",
            Self::Mlm => "mlm",
        }
    }
}

/// What becomes one input of running text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextUnit {
    /// So many tokens as an input has, whatever they are of.
    #[default]
    Blocks,
    /// A line, cut where it is longer than an input; empty ones are passed over.
    Lines,
    /// Lines two by two, as the two texts of a pair; what has an empty line beside it stands alone.
    Pairs,
}

/// `headstart pretrain`, and with a teacher `headstart distill`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PretrainConfig {
    /// The model whose pretraining is continued: a run folder, its `final/`, a checkpoint or a published model's folder; absent:
    /// a model of `model`, from scratch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// Next token or masked tokens; absent: what the model is made for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objective: Option<ObjectiveName>,
    /// Share of tokens predicted in masked-LM.
    pub mlm_probability: f64,
    /// Tokens of a training input; absent: the model's positions, of an encoder up to 512.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_size: Option<usize>,
    /// Blocks of text, or lines.
    pub inputs: TextUnit,
    /// The model that is learned from, if one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distill: Option<DistillConfig>,
    /// Text and tokenizer.
    pub data: DataConfig,
    /// Sizes; those of `from` where that is given.
    pub model: ModelConfig,
    /// The loop.
    pub train: TrainConfig,
}

impl Default for PretrainConfig {
    fn default() -> Self {
        Self {
            from: None,
            objective: None,
            mlm_probability: 0.15,
            block_size: None,
            inputs: TextUnit::Blocks,
            distill: None,
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
        if let Some(size) = self.block_size {
            check("block_size", (2..=1 << 20).contains(&size), || {
                (format!("{size} tokens are no size of a block"), "use a number from 2 on".into())
            })?;
        }
        if let Some(distill) = &self.distill {
            distill.validate()?;
            // An older run may go on with what it was given for nothing.
            let is_new = distill.teacher_sha256.is_none() && distill.lm_loss <= 0.0;
            let usual = Self::default().mlm_probability;
            let is_idle = is_new && self.mlm_probability.total_cmp(&usual).is_ne();
            check("mlm_probability", !is_idle, || {
                let what = "nothing is masked but for lm_loss, which is 0";
                (what.into(), "leave mlm_probability out, or set lm_loss".into())
            })?;
        }
        // Beside a model that has sizes, those that are given are compared with its own.
        if self.from.is_none() {
            self.model.validate()?;
            self.check_family()?;
        }
        check("tokenizer", self.from.is_none() || self.data.tokenizer.is_none(), || {
            let what = "the model that `from` names has its own tokenizer, and its weights mean nothing with another";
            (what.into(), "leave it out".into())
        })?;
        self.data.validate()?;
        self.train.validate()
    }

    /// What a model of the family is trained to predict from scratch, unless it is told.
    pub fn objective_of(&self, model: &ModelConfig) -> ObjectiveName {
        match self.objective {
            Some(objective) => objective,
            None if self.from.is_some() => ObjectiveName::of(model),
            None if model.arch.is_encoder() => ObjectiveName::Mlm,
            None => ObjectiveName::Lm,
        }
    }

    /// Checks that a model from scratch is one of its family.
    fn check_family(&self) -> Result<()> {
        let ModelConfig { arch, positions, .. } = self.model;
        check("objective", !arch.is_encoder() || self.objective != Some(ObjectiveName::Lm), || {
            let what = format!("{} reads in both directions and cannot predict the next token", arch.name());
            (what, "use mlm, or leave it out; --arch gpt2 is a model that predicts the next token".into())
        })?;
        check("positions", arch != Arch::Modernbert || positions == Positions::Rotary, || {
            ("modernbert has rotary positions and no others".into(), "use rotary, or leave it out".into())
        })
    }
}
