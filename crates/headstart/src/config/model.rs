//! The table `[model]`: family, sizes and options of the one transformer, and the named presets of sizes.
//!
//! Owns: names, defaults, ranges. Never: builds a model.

use serde::{Deserialize, Serialize};

use super::adapters::AdapterLayout;
use super::head::HeadShape;
use super::ia3::Ia3Config;
use super::layout::LayoutChanges;
use super::lora::LoraConfig;
use super::{check, check_positive};
use crate::error::{Error, Result};

/// The families of models: each is a set of layout options, written down in `model/families.rs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// The tutorial's: the residual leaves after each layer norm, ReLU, no final norm, eps 1e-12.
    #[default]
    Naacl2019,
    /// Pre-norm with a final norm, GELU (tanh form), eps 1e-5.
    Gpt2,
    /// Post-norm, a norm after the embeddings, GELU, token types, eps 1e-12.
    Bert,
    /// BERT's with one token type, positions that begin at the third row, eps 1e-5.
    Roberta,
    /// BERT's without token types.
    Distilbert,
    /// BERT's, its embeddings possibly narrower than its blocks.
    Electra,
    /// Pre-norm without biases, rotary positions, gated GELU, windows in two of three layers.
    Modernbert,
}

impl Arch {
    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Naacl2019 => "naacl2019",
            Self::Gpt2 => "gpt2",
            Self::Bert => "bert",
            Self::Roberta => "roberta",
            Self::Distilbert => "distilbert",
            Self::Electra => "electra",
            Self::Modernbert => "modernbert",
        }
    }

    /// Whether it reads in both directions, with a `[CLS]` that was pretrained in the first place.
    pub fn is_encoder(self) -> bool {
        !matches!(self, Self::Naacl2019 | Self::Gpt2)
    }

    /// What a classifier of the family reads.
    pub fn pooling(self) -> HeadPooling {
        match self {
            Self::Naacl2019 | Self::Gpt2 => HeadPooling::Cls,
            Self::Bert | Self::Roberta | Self::Distilbert | Self::Electra => HeadPooling::Pooler,
            Self::Modernbert => HeadPooling::Mean,
        }
    }
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
    /// No table: queries and keys are turned by their positions (Su et al. 2021). See `rotary_theta` of the layout.
    Rotary,
}

/// The sizes and options of the one transformer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// The family, which gives every option of the layout that `layout` leaves out.
    pub arch: Arch,
    /// The number of ids of the tokenizer; 0 until it is known.
    pub vocab_size: usize,
    /// The width of the hidden states.
    pub embed_dim: usize,
    /// The width of the embeddings, where a linear widens them to `embed_dim` (ELECTRA); absent: they have that width.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedding_size: Option<usize>,
    /// The width inside the feed-forward.
    pub hidden_dim: usize,
    /// The longest sequence.
    pub num_max_positions: usize,
    /// Attention heads; their number divides `embed_dim`.
    pub num_heads: usize,
    /// Blocks.
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
    /// Where they stand and what they compute.
    #[serde(skip_serializing_if = "AdapterLayout::is_usual")]
    pub adapters: AdapterLayout,
    /// Low-rank updates of the linears; absent for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// Learned scales of activations; absent for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ia3: Option<Ia3Config>,
    /// The classification head, when there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<HeadConfig>,
    /// What that has beside its pooling and its last linear.
    #[serde(skip_serializing_if = "HeadShape::is_plain")]
    pub head_shape: HeadShape,
    /// What a student renders of its teacher's hidden states while it learns; absent otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher_heads: Option<TeacherHeads>,
    /// The id whose embedding has a trained offset (head and adapter tuning of a frozen trunk).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset_token: Option<u32>,
    /// What differs from the family's layout.
    #[serde(skip_serializing_if = "LayoutChanges::is_empty")]
    pub layout: LayoutChanges,
}

/// The linears from a student's hidden states to its teacher's. The finished model has none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeacherHeads {
    /// Columns of the teacher's hidden states.
    pub width: usize,
    /// The layers, from 1, whose hidden states are compared token by token.
    pub layers: Vec<usize>,
    /// Whether vectors of whole inputs are compared.
    pub sentences: bool,
}

/// The classification head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadConfig {
    /// Classes, or numbers, that are predicted.
    pub num_classes: usize,
    /// Which row of the sequence is classified.
    pub pooling: HeadPooling,
    /// What the outputs mean.
    pub problem: Problem,
    /// The longest input, in tokens; absent: what the model has positions for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<usize>,
    /// What is kept of a text that is longer; absent: its beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncation: Option<Truncation>,
    /// Dropout on the pooled row, where the family has it; the model's own when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f32>,
}

/// Which row of a sequence the head sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadPooling {
    /// That of `[CLS]`: the last one in the tutorial, the first one in BERT.
    #[default]
    Cls,
    /// That of `[CLS]`, through a linear and an activation of its own (BERT's pooler).
    Pooler,
    /// The last token of the text; no `[CLS]` is appended.
    Last,
    /// The mean over the tokens.
    Mean,
    /// The largest value over the tokens, column by column.
    Max,
    /// Several of them, side by side.
    #[serde(rename = "cls+mean")]
    ClsMean,
    /// See `ClsMean`.
    #[serde(rename = "cls+max")]
    ClsMax,
    /// See `ClsMean`.
    #[serde(rename = "last+mean")]
    LastMean,
    /// See `ClsMean`.
    #[serde(rename = "last+max")]
    LastMax,
    /// See `ClsMean`.
    #[serde(rename = "mean+max")]
    MeanMax,
    /// See `ClsMean`.
    #[serde(rename = "cls+mean+max")]
    ClsMeanMax,
    /// See `ClsMean`.
    #[serde(rename = "last+mean+max")]
    LastMeanMax,
}

impl HeadPooling {
    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cls => "cls",
            Self::Pooler => "pooler",
            Self::Last => "last",
            Self::Mean => "mean",
            Self::Max => "max",
            Self::ClsMean => "cls+mean",
            Self::ClsMax => "cls+max",
            Self::LastMean => "last+mean",
            Self::LastMax => "last+max",
            Self::MeanMax => "mean+max",
            Self::ClsMeanMax => "cls+mean+max",
            Self::LastMeanMax => "last+mean+max",
        }
    }

    /// What it is, for people.
    pub fn in_words(self) -> String {
        let part = |part: &Self| match part {
            Self::Pooler => "the hidden state of [CLS] through the pooler",
            Self::Last => "the hidden state of the last token",
            Self::Mean => "the mean of the hidden states",
            Self::Max => "the largest of the hidden states",
            _ => "the hidden state of [CLS]",
        };
        self.parts().iter().map(part).collect::<Vec<_>>().join(", ")
    }

    /// The single rows that stand side by side in what the head sees.
    pub fn parts(self) -> &'static [Self] {
        match self {
            Self::Cls => &[Self::Cls],
            Self::Pooler => &[Self::Pooler],
            Self::Last => &[Self::Last],
            Self::Mean => &[Self::Mean],
            Self::Max => &[Self::Max],
            Self::ClsMean => &[Self::Cls, Self::Mean],
            Self::ClsMax => &[Self::Cls, Self::Max],
            Self::LastMean => &[Self::Last, Self::Mean],
            Self::LastMax => &[Self::Last, Self::Max],
            Self::MeanMax => &[Self::Mean, Self::Max],
            Self::ClsMeanMax => &[Self::Cls, Self::Mean, Self::Max],
            Self::LastMeanMax => &[Self::Last, Self::Mean, Self::Max],
        }
    }

    /// Whether `[CLS]` is among them.
    pub fn reads_cls(self) -> bool {
        self.parts().iter().any(|part| matches!(part, Self::Cls | Self::Pooler))
    }
}

/// What is kept of a text that is too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Truncation {
    /// Its beginning.
    #[default]
    Head,
    /// Its end.
    Tail,
    /// A quarter from its beginning and three quarters from its end (Sun et al. 2019).
    HeadTail,
}

impl Truncation {
    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Tail => "tail",
            Self::HeadTail => "head-tail",
        }
    }
}

/// What a head predicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Problem {
    /// One class of several.
    #[default]
    SingleLabel,
    /// Any number of classes at once.
    MultiLabel,
    /// A number.
    Regression,
}

impl Problem {
    /// The metric that decides where none is named. Of several labels at once the F1 over all of them: their accuracy is high where
    /// nothing is answered.
    pub const fn judged_by(self) -> &'static str {
        match self {
            Self::SingleLabel => "accuracy",
            Self::MultiLabel => "micro_f1",
            Self::Regression => "mse",
        }
    }
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            arch: Arch::Naacl2019,
            layout: LayoutChanges::default(),
            vocab_size: 0,
            embed_dim: 410,
            embedding_size: None,
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
            adapters: AdapterLayout::default(),
            lora: None,
            teacher_heads: None,
            ia3: None,
            head: None,
            head_shape: HeadShape::default(),
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
    ("small", "gpt2's layout at 256 wide, 6 layers, 256 positions; 5 M parameters and the vocabulary's"),
    ("mini", "gpt2's layout at 128 wide, 4 layers, 128 positions; under 1 M and the vocabulary's"),
    ("micro", "gpt2's layout at 32 wide, 2 layers, 64 positions; for tests and first looks"),
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
            // The tutorial's layout needs far longer than a small model is trained to leave its first weights behind.
            "small" => Ok(Self { arch: Arch::Gpt2, ..sized(256, 1024, 256, 8, 6) }),
            "mini" => Ok(Self { arch: Arch::Gpt2, ..sized(128, 512, 128, 4, 4) }),
            "micro" => Ok(Self { arch: Arch::Gpt2, ..sized(32, 64, 64, 2, 2) }),
            _ => Err(Error::Config {
                key: "preset".into(),
                what: format!("no preset is called `{name}`"),
                fix: format!("use one of {}", PRESETS.map(|p| p.0).join(", ")),
            }),
        }
    }

    /// The width of a head.
    pub fn head_dim(&self) -> usize {
        self.embed_dim / self.num_heads.max(1)
    }

    /// The width of the tables of tokens, positions and token types.
    pub fn embedding_size(&self) -> usize {
        self.embedding_size.unwrap_or(self.embed_dim)
    }

    /// The longest input of a classifier, in tokens.
    pub fn max_length(&self) -> usize {
        let of_head = self.head.as_ref().and_then(|head| head.max_length);
        of_head.unwrap_or(self.num_max_positions).min(self.num_max_positions)
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
            ("embedding_size", self.embedding_size(), 65_536),
            ("hidden_dim", self.hidden_dim, 1 << 20),
            ("num_max_positions", self.num_max_positions, 1 << 20),
            ("num_heads", self.num_heads, 65_536),
            ("num_layers", self.num_layers, 4_096),
            ("adapters_dim", self.adapters_dim.unwrap_or(1), 65_536),
            ("head_width", self.head_shape.hidden.map_or(1, |hidden| hidden.width), 65_536),
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
        let of_head = self.head.as_ref().and_then(|head| head.dropout).unwrap_or(0.0);
        for (key, p) in [
            ("dropout", self.dropout),
            ("attention_dropout", self.attention_dropout()),
            ("head.dropout", of_head),
        ] {
            check(key, (0.0..1.0).contains(&p), || {
                (format!("{p} is not a probability below 1"), "use a number from 0 to 0.99".into())
            })?;
        }
        if let Some(lora) = &self.lora {
            lora.check_width(self.embed_dim)?;
        }
        if let Some(heads) = &self.teacher_heads {
            let last = heads.layers.last().copied().unwrap_or(1);
            let possible = (1..=65_536).contains(&heads.width)
                && heads.layers.is_sorted_by(|a, b| a < b)
                && heads.layers.first().is_none_or(|&first| first > 0)
                && last <= self.num_layers;
            check("teacher_heads", possible, || {
                (
                    format!("layer {last} of a model with {} cannot be compared", self.num_layers),
                    "use others".into(),
                )
            })?;
        }
        self.adapters.validate()?;
        self.layout.validate()?;
        check_positive("initializer_range", f64::from(self.initializer_range))
    }
}
