//! What a run is asked to do: plain structs that are read from and written to TOML, and checked.
//!
//! Owns: names, defaults, ranges. Never: reads files, knows flags (the command line maps one flag to one key).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The two block layouts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// The tutorial's: the residual leaves after each layer norm, ReLU, no final norm, eps 1e-12.
    #[default]
    Naacl2019,
    /// Pre-norm with a final norm, GELU (tanh form), eps 1e-5.
    Gpt2,
}

/// How positions are told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Positions {
    /// A trained table.
    #[default]
    Learned,
    /// A fixed table of sines and cosines (Vaswani et al. 2017); not trained.
    Sinusoidal,
}

/// The sizes and options of the one transformer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// Block layout.
    pub arch: Arch,
    /// V; 0 until the tokenizer is known.
    pub vocab_size: usize,
    /// C.
    pub embed_dim: usize,
    /// F, the width of the feed-forward.
    pub hidden_dim: usize,
    /// The longest sequence.
    pub num_max_positions: usize,
    /// H; divides `embed_dim`.
    pub num_heads: usize,
    /// L.
    pub num_layers: usize,
    /// Learned or sinusoidal.
    pub positions: Positions,
    /// Whether a token sees only itself and earlier ones (follows from the objective).
    pub causal: bool,
    /// Dropout after the embeddings and after each sublayer.
    pub dropout: f32,
    /// Dropout on attention probabilities; the same as `dropout` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention_dropout: Option<f32>,
    /// Standard deviation of the initial weights.
    pub initializer_range: f32,
    /// Width of the bottleneck adapters; absent for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapters_dim: Option<usize>,
    /// The classification head, when there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<HeadConfig>,
    /// The id whose embedding has a trained offset (head and adapter tuning of a frozen trunk).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset_token: Option<u32>,
}

/// The classification head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadConfig {
    /// K: classes, marks or numbers predicted.
    pub num_classes: usize,
    /// Which row of the sequence is classified.
    pub pooling: HeadPooling,
    /// What the outputs mean.
    pub problem: Problem,
}

/// Which row of a sequence the head sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadPooling {
    /// The final `[CLS]`, appended to every text.
    #[default]
    Cls,
    /// The last token of the text; no `[CLS]` is appended.
    Last,
    /// The mean over the tokens.
    Mean,
    /// The largest value over the tokens, column by column.
    Max,
}

/// What a head predicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Problem {
    /// One class of several.
    #[default]
    SingleLabel,
    /// Any number of marks.
    MultiLabel,
    /// A number.
    Regression,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            arch: Arch::Naacl2019,
            vocab_size: 0,
            embed_dim: 410,
            hidden_dim: 2100,
            num_max_positions: 256,
            num_heads: 10,
            num_layers: 16,
            positions: Positions::Learned,
            causal: true,
            dropout: 0.1,
            attention_dropout: None,
            initializer_range: 0.02,
            adapters_dim: None,
            head: None,
            offset_token: None,
        }
    }
}

/// The names [`ModelConfig::preset`] knows, with a line about each.
pub const PRESETS: [(&str, &str); 5] = [
    (
        "naacl2019",
        "the tutorial's model: 410 wide, 16 layers, 256 positions; 50 M parameters with bert-base-cased",
    ),
    (
        "gpt2",
        "GPT-2 small's sizes: 768 wide, 12 layers, 1,024 positions; 124 M parameters with GPT-2's vocabulary",
    ),
    ("small", "naacl2019 at 256 wide, 6 layers, 256 positions; 4 M parameters and the vocabulary's"),
    ("mini", "naacl2019 at 128 wide, 4 layers, 128 positions; under 1 M and the vocabulary's"),
    ("micro", "naacl2019 at 32 wide, 2 layers, 64 positions; for tests and first looks"),
];

impl ModelConfig {
    /// A named set of sizes.
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown name.
    pub fn preset(name: &str) -> Result<Self> {
        let sized = |embed_dim, hidden_dim, num_max_positions, num_heads, num_layers| Self {
            embed_dim,
            hidden_dim,
            num_max_positions,
            num_heads,
            num_layers,
            ..Self::default()
        };
        match name {
            "naacl2019" | "50m" => Ok(Self::default()),
            "gpt2" | "124m" => Ok(Self { arch: Arch::Gpt2, ..sized(768, 3072, 1024, 12, 12) }),
            "small" => Ok(sized(256, 1024, 256, 8, 6)),
            "mini" => Ok(sized(128, 512, 128, 4, 4)),
            "micro" => Ok(sized(32, 64, 64, 2, 2)),
            _ => Err(Error::Config {
                key: "preset".into(),
                what: format!("no preset is called `{name}`"),
                fix: format!("use one of {}", PRESETS.map(|p| p.0).join(", ")),
            }),
        }
    }

    /// D.
    pub fn head_dim(&self) -> usize {
        self.embed_dim / self.num_heads.max(1)
    }

    /// The rate on attention probabilities.
    pub fn attention_dropout(&self) -> f32 {
        self.attention_dropout.unwrap_or(self.dropout)
    }

    /// Checks every size and range (the vocabulary's only once it is known).
    ///
    /// # Errors
    /// [`Error::Config`] naming the key.
    pub fn validate(&self) -> Result<()> {
        for (key, value, most) in [
            ("embed_dim", self.embed_dim, 65_536),
            ("hidden_dim", self.hidden_dim, 1 << 20),
            ("num_max_positions", self.num_max_positions, 1 << 20),
            ("num_heads", self.num_heads, 65_536),
            ("num_layers", self.num_layers, 4_096),
            ("adapters_dim", self.adapters_dim.unwrap_or(1), 65_536),
        ] {
            check(key, (1..=most).contains(&value), || {
                (format!("{value} is not a possible size"), format!("use a number from 1 to {most}"))
            })?;
        }
        check("num_max_positions", self.num_max_positions >= 2, || {
            ("1 position leaves nothing to predict".into(), "use at least 2".into())
        })?;
        check("num_heads", self.embed_dim.is_multiple_of(self.num_heads), || {
            (
                format!("{} heads do not divide embed_dim {}", self.num_heads, self.embed_dim),
                "choose num_heads so that embed_dim / num_heads is a whole number".into(),
            )
        })?;
        for (key, p) in [("dropout", self.dropout), ("attention_dropout", self.attention_dropout())] {
            check(key, (0.0..1.0).contains(&p), || {
                (format!("{p} is not a probability below 1"), "use a number from 0 to 0.99".into())
            })?;
        }
        check_positive("initializer_range", f64::from(self.initializer_range))
    }
}

/// What pretraining predicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// The next token; causal.
    #[default]
    Lm,
    /// Masked tokens; bidirectional.
    Mlm,
}

/// f32 or bf16 products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrecisionName {
    /// f32 everywhere.
    #[default]
    F32,
    /// bf16 inputs to products, f32 sums and master weights.
    Bf16,
}

impl From<PrecisionName> for headstart_engine::Precision {
    fn from(name: PrecisionName) -> Self {
        match name {
            PrecisionName::F32 => Self::F32,
            PrecisionName::Bf16 => Self::Bf16,
        }
    }
}

/// How the learning rate falls after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Half a cosine to 0.
    #[default]
    Cosine,
    /// A line to 0.
    Linear,
    /// Not at all.
    Constant,
    /// Flat, then a line to 0 over the last fifth of the run.
    Trapezoidal,
}

/// How weight decay enters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerName {
    /// Adam with coupled L2, as the tutorial; applies to every parameter.
    #[default]
    Adam,
    /// AdamW: decoupled, on matrices only.
    AdamW,
}

/// Everything the training loop needs, the same for pretraining and fine-tuning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Sequences a step takes at a time; with `grad_accum_steps` only the product matters to the result.
    pub train_batch_size: usize,
    /// Sequences an evaluation takes at a time; does not change the result.
    pub valid_batch_size: usize,
    /// Batches to one optimizer step.
    pub grad_accum_steps: usize,
    /// Largest learning rate.
    pub lr: f64,
    /// Gradients are scaled down to this global norm; 0 leaves them.
    pub max_norm: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Adam (coupled L2) or AdamW (decoupled).
    pub optimizer: OptimizerName,
    /// Passes over the training data; 0 evaluates only.
    pub n_epochs: usize,
    /// Ends the run (and its schedule) after this many optimizer steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    /// Steps over which the rate rises from 0; clamped to the run's length.
    pub warmup_steps: u64,
    /// How the rate falls.
    pub schedule: Schedule,
    /// Evaluate every so many optimizer steps; -1: at the end of each epoch only.
    pub eval_every: i64,
    /// Write a checkpoint every so many optimizer steps besides the one of each epoch; 0: none.
    pub save_every: u64,
    /// How many checkpoints stay, besides the best.
    pub keep: usize,
    /// Stop (saving first) after this many seconds; the schedule does not bend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_time: Option<f64>,
    /// Seeds initial weights, order, masks and dropout.
    pub seed: u64,
    /// f32 or bf16 products.
    pub precision: PrecisionName,
    /// Worker threads; 0: all.
    pub threads: usize,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            train_batch_size: 8,
            valid_batch_size: 8,
            grad_accum_steps: 1,
            lr: 2.5e-4,
            max_norm: 0.25,
            weight_decay: 0.0,
            optimizer: OptimizerName::Adam,
            n_epochs: 50,
            max_steps: None,
            warmup_steps: 1_000,
            schedule: Schedule::Cosine,
            eval_every: -1,
            save_every: 0,
            keep: 3,
            max_time: None,
            seed: 42,
            precision: PrecisionName::F32,
            threads: 0,
        }
    }
}

impl TrainConfig {
    /// Sequences to one optimizer step.
    pub fn global_batch(&self) -> usize {
        self.train_batch_size * self.grad_accum_steps
    }

    /// Checks every range.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key.
    pub fn validate(&self) -> Result<()> {
        for (key, value) in [
            ("train_batch_size", self.train_batch_size),
            ("valid_batch_size", self.valid_batch_size),
            ("grad_accum_steps", self.grad_accum_steps),
            ("keep", self.keep),
        ] {
            check(key, (1..=1 << 20).contains(&value), || {
                (format!("{value} is not possible"), "use a number from 1 to 1,048,576".into())
            })?;
        }
        check_positive("lr", self.lr)?;
        for (key, value) in [("max_norm", self.max_norm), ("weight_decay", self.weight_decay)] {
            check(key, value >= 0.0 && value.is_finite(), || {
                (format!("{value} is not possible"), "use 0 (off) or a positive number".into())
            })?;
        }
        check("eval_every", self.eval_every == -1 || self.eval_every > 0, || {
            (
                format!("{} is not a number of steps", self.eval_every),
                "use a positive number, or -1 for the end of each epoch".into(),
            )
        })?;
        check("threads", self.threads <= 4_096, || {
            (format!("{} threads are too many", self.threads), "use 0 for all the machine has".into())
        })?;
        if let Some(time) = self.max_time {
            check_positive("max_time", time)?;
        }
        check("max_steps", self.max_steps != Some(0), || {
            ("0 steps train nothing".into(), "use n_epochs = 0 to evaluate only".into())
        })
    }
}

/// Where text and tokenizer come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// A named data set, a file, a folder or an address.
    pub path: String,
    /// A tokenizer.json, a vocab.txt, a folder with one, or a name of the catalogue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// Lower-case the text (only for a bare vocab.txt; a tokenizer.json says so itself).
    pub lowercase: bool,
    /// The files' encoding; absent: UTF-8, or what the catalogue says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// Where downloads and token caches live.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_dir: Option<PathBuf>,
    /// A folder with unpacked data sets, for machines without a network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<PathBuf>,
    /// Never touch the network.
    pub offline: bool,
    /// The column with the text, by name; absent: detected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_column: Option<String>,
    /// The column with the label, by name; absent: detected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_column: Option<String>,
    /// Use only so many training examples, drawn evenly over the classes with the run's seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_train_examples: Option<usize>,
}

/// `headstart pretrain`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PretrainConfig {
    /// Next token or masked tokens.
    pub objective: Objective,
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
            objective: Objective::Lm,
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
    /// [`Error::Config`] naming the key.
    pub fn validate(&self) -> Result<()> {
        check("mlm_probability", self.mlm_probability > 0.0 && self.mlm_probability <= 1.0, || {
            (format!("{} is not a share of the tokens", self.mlm_probability), "use 0.15".into())
        })?;
        self.model.validate()?;
        self.train.validate()
    }
}

/// Which parameters fine-tuning changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// All of them.
    #[default]
    Full,
    /// The classification head and the `[CLS]` offset.
    Head,
    /// Adapters, the classification head and the `[CLS]` offset.
    Adapters,
}

/// Weights of the classes in the loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClassWeights {
    /// All 1.
    #[default]
    None,
    /// In inverse proportion to how often a class stands in the training data.
    Balanced,
}

/// `headstart finetune`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FinetuneConfig {
    /// A run folder, its `final/`, or a checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<PathBuf>,
    /// Keep the model's sizes and tokenizer, draw its weights afresh: what the head start is compared with.
    pub from_scratch: bool,
    /// Text, tokenizer (the model's own), columns.
    pub data: DataConfig,
    /// Which parameters change.
    pub method: Method,
    /// Width of the adapters; -1: none. Given without `method = "adapters"`, everything is trained.
    pub adapters_dim: i64,
    /// Whether head and adapter tuning also train the layer norms.
    pub train_norms: bool,
    /// Which row is classified.
    pub pooling: HeadPooling,
    /// Classes, marks or a number.
    pub problem: Problem,
    /// Classes the data must have; absent: found from the data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_classes: Option<usize>,
    /// Weight of the classification loss.
    pub clf_loss_coef: f64,
    /// Weight of the auxiliary language-model loss; 0 or less: off.
    pub lm_loss_coef: f64,
    /// Standard deviation of new weights.
    pub initializer_range: f32,
    /// Dropout; absent: the model's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f32>,
    /// Weights of the classes in the loss.
    pub class_weights: ClassWeights,
    /// Stop after this many evaluations without a better one; 0: never.
    pub early_stopping: u64,
    /// The loop.
    pub train: TrainConfig,
}

impl Default for FinetuneConfig {
    fn default() -> Self {
        Self {
            model: None,
            from_scratch: false,
            data: DataConfig { path: "trec".into(), ..DataConfig::default() },
            method: Method::Full,
            adapters_dim: -1,
            train_norms: false,
            pooling: HeadPooling::Cls,
            problem: Problem::SingleLabel,
            num_classes: None,
            clf_loss_coef: 1.0,
            lm_loss_coef: -1.0,
            initializer_range: 0.02,
            dropout: None,
            class_weights: ClassWeights::None,
            early_stopping: 0,
            train: TrainConfig {
                train_batch_size: 16,
                valid_batch_size: 32,
                lr: 6e-5,
                n_epochs: 3,
                warmup_steps: 500,
                schedule: Schedule::Linear,
                eval_every: 100,
                ..TrainConfig::default()
            },
        }
    }
}

impl FinetuneConfig {
    /// Width of the adapters; `None` for none.
    pub fn adapters(&self) -> Option<usize> {
        match (self.adapters_dim, self.method) {
            (1.., _) => Some(self.adapters_dim as usize),
            (_, Method::Adapters) => Some(32),
            _ => None,
        }
    }

    /// Checks every range.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key.
    pub fn validate(&self) -> Result<()> {
        check_positive("initializer_range", f64::from(self.initializer_range))?;
        check("adapters_dim", self.adapters_dim == -1 || (1..=65_536).contains(&self.adapters_dim), || {
            (format!("{} is not a width", self.adapters_dim), "use a positive number, or -1 for none".into())
        })?;
        check("adapters_dim", self.method != Method::Head || self.adapters_dim == -1, || {
            (
                "the method `head` trains no adapters".into(),
                "use --method adapters, or leave adapters_dim out".into(),
            )
        })?;
        check("clf_loss_coef", self.clf_loss_coef > 0.0 && self.clf_loss_coef.is_finite(), || {
            (format!("{} trains no classifier", self.clf_loss_coef), "use a positive number".into())
        })?;
        check("lm_loss_coef", self.lm_loss_coef.is_finite(), || {
            (format!("{} is not a weight", self.lm_loss_coef), "use a number; 0 or less is off".into())
        })?;
        let plain = self.problem == Problem::SingleLabel || self.class_weights == ClassWeights::None;
        check("class_weights", plain, || {
            ("only classes can be balanced".into(), "leave it out for multi-label and regression".into())
        })?;
        if let Some(p) = self.dropout {
            check("dropout", (0.0..1.0).contains(&p), || {
                (format!("{p} is not a probability below 1"), "use a number from 0 to 0.99".into())
            })?;
        }
        self.train.validate()
    }
}

fn check(key: &str, holds: bool, words: impl FnOnce() -> (String, String)) -> Result<()> {
    if holds {
        return Ok(());
    }
    let (what, fix) = words();
    Err(Error::Config { key: key.into(), what, fix })
}

fn check_positive(key: &str, value: f64) -> Result<()> {
    check(key, value > 0.0 && value.is_finite(), || {
        (format!("{value} is not possible"), "use a positive number".into())
    })
}
