//! The options of the one trunk, each one thing and independent of the others: the table `[model.layout]`.
//!
//! Owns: their names and ranges. Never: which family has which (`model/families.rs`), what they do (`model/block.rs`).

use serde::{Deserialize, Serialize};

use super::{check, check_positive};
use crate::error::Result;

/// Where a block's layer norms stand. x is the stream of hidden states, f a sublayer with its dropout and adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NormPlace {
    /// x + f(LN(x)): pre-norm (Radford et al. 2019).
    Before,
    /// LN(x + f(x)): post-norm (Vaswani et al. 2017; Devlin et al. 2019).
    After,
    /// y + f(y) with y = LN(x): the norm stands on the stream itself, and the residual leaves after it (the tutorial).
    Stream,
}

/// What stands between the two linears of a feed-forward and of an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// max(x, 0).
    Relu,
    /// GELU in its tanh form (Hendrycks and Gimpel 2016), as GPT-2 has it.
    GeluTanh,
    /// GELU itself, x Phi(x), as BERT has it.
    Gelu,
    /// x sigmoid(x) (Elfwing, Uchibe and Doya 2017), also known as Swish.
    Silu,
    /// tanh(x), as BERT's pooler has it.
    Tanh,
}

/// Where a classifier drops out its pooled row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadDropout {
    /// Nowhere (the tutorial, GPT-2).
    None,
    /// Before the last linear (BERT).
    After,
    /// Before the last linear, and before the pooler's (RoBERTa).
    Around,
}

/// How weights start; biases start at 0. The deviation is `initializer_range`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InitScheme {
    /// Normal, but norms at 1 (Devlin et al. 2019).
    Normal,
    /// As `Normal`, and what is added to the stream is shrunk by the square root of the number of additions (Radford et
    /// al. 2019).
    Shrunk,
    /// Normal, norms included, but the in-projections xavier-uniform (the tutorial).
    Xavier,
}

/// What a trunk is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(clippy::struct_excessive_bools)] // each is an option of its own
pub struct Layout {
    /// Where a block's norms stand.
    pub norm: NormPlace,
    /// Added to the variance in every norm.
    pub norm_eps: f32,
    /// Whether there is a norm after the embeddings.
    pub embedding_norm: bool,
    /// Whether there is a norm after the last block.
    pub final_norm: bool,
    /// In feed-forwards and adapters.
    pub activation: Activation,
    /// Whether the first linear of a feed-forward is twice as wide, and the activation of its first half is multiplied by its
    /// second (Shazeer 2020): GeGLU with `gelu`, SwiGLU with `silu`.
    pub gated: bool,
    /// Whether the linears of the blocks have a bias.
    pub bias: bool,
    /// Whether the norms have a bias.
    pub norm_bias: bool,
    /// Rows of the table of token types, which tell the texts of a pair apart (BERT: 2); 0 for no table.
    pub token_types: usize,
    /// Rows of the position table before that of a sequence's first token (RoBERTa: 2).
    pub position_offset: usize,
    /// The base of the angles of rotary positions, where a layer sees whole sequences.
    pub rotary_theta: f32,
    /// The same, in layers with a window.
    pub local_rotary_theta: f32,
    /// The distance to the furthest tokens that a layer sees (ModernBERT: 64); 0: every layer sees whole sequences.
    pub window: usize,
    /// With a window, every so many layers one sees whole sequences, beginning with the first (ModernBERT: 3); 0: none does.
    pub global_every: usize,
    /// Whether the first block has a norm before its attention, too (ModernBERT: no, for one follows the embeddings).
    pub first_norm: bool,
    /// Whether `[CLS]` is the first token of a sequence (BERT) or the last (the tutorial).
    pub cls_first: bool,
    /// The activation of the pooler: the linear that a head with the pooling `pooler` has below its own.
    pub pooler: Activation,
    /// Whether a classifier, whatever its pooling, has a linear, the feed-forward's activation and a norm below its own linear
    /// (ModernBERT).
    pub prediction_head: bool,
    /// Where a classifier drops out its pooled row.
    pub head_dropout: HeadDropout,
    /// Whether the classifier's last linear has a bias.
    pub head_bias: bool,
    /// Whether the language model's head has a linear, the feed-forward's activation and a norm below the tied table (BERT).
    pub lm_transform: bool,
    /// Whether the logits of the language model have a bias (BERT).
    pub lm_bias: bool,
    /// How weights start.
    pub init: InitScheme,
}

/// What differs from the family's [`Layout`]: only this is written to files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LayoutChanges {
    /// See [`Layout::norm`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub norm: Option<NormPlace>,
    /// See [`Layout::norm_eps`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub norm_eps: Option<f32>,
    /// See [`Layout::embedding_norm`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedding_norm: Option<bool>,
    /// See [`Layout::final_norm`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub final_norm: Option<bool>,
    /// See [`Layout::activation`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation: Option<Activation>,
    /// See [`Layout::gated`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gated: Option<bool>,
    /// See [`Layout::bias`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bias: Option<bool>,
    /// See [`Layout::norm_bias`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub norm_bias: Option<bool>,
    /// See [`Layout::token_types`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_types: Option<usize>,
    /// See [`Layout::position_offset`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position_offset: Option<usize>,
    /// See [`Layout::rotary_theta`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotary_theta: Option<f32>,
    /// See [`Layout::local_rotary_theta`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_rotary_theta: Option<f32>,
    /// See [`Layout::window`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
    /// See [`Layout::global_every`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global_every: Option<usize>,
    /// See [`Layout::first_norm`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_norm: Option<bool>,
    /// See [`Layout::cls_first`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cls_first: Option<bool>,
    /// See [`Layout::pooler`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pooler: Option<Activation>,
    /// See [`Layout::prediction_head`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prediction_head: Option<bool>,
    /// See [`Layout::head_dropout`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_dropout: Option<HeadDropout>,
    /// See [`Layout::head_bias`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_bias: Option<bool>,
    /// See [`Layout::lm_transform`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lm_transform: Option<bool>,
    /// See [`Layout::lm_bias`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lm_bias: Option<bool>,
    /// See [`Layout::init`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<InitScheme>,
}

impl Layout {
    /// With the changes made. Taken apart and built in full, so that a forgotten option does not compile.
    #[must_use]
    pub fn with(self, changes: &LayoutChanges) -> Self {
        let LayoutChanges {
            norm,
            norm_eps,
            embedding_norm,
            final_norm,
            activation,
            gated,
            bias,
            norm_bias,
            token_types,
            position_offset,
            rotary_theta,
            local_rotary_theta,
            window,
            global_every,
            first_norm,
            cls_first,
            pooler,
            prediction_head,
            head_dropout,
            head_bias,
            lm_transform,
            lm_bias,
            init,
        } = *changes;
        Self {
            norm: norm.unwrap_or(self.norm),
            norm_eps: norm_eps.unwrap_or(self.norm_eps),
            embedding_norm: embedding_norm.unwrap_or(self.embedding_norm),
            final_norm: final_norm.unwrap_or(self.final_norm),
            activation: activation.unwrap_or(self.activation),
            gated: gated.unwrap_or(self.gated),
            bias: bias.unwrap_or(self.bias),
            norm_bias: norm_bias.unwrap_or(self.norm_bias),
            token_types: token_types.unwrap_or(self.token_types),
            position_offset: position_offset.unwrap_or(self.position_offset),
            rotary_theta: rotary_theta.unwrap_or(self.rotary_theta),
            local_rotary_theta: local_rotary_theta.unwrap_or(self.local_rotary_theta),
            window: window.unwrap_or(self.window),
            global_every: global_every.unwrap_or(self.global_every),
            first_norm: first_norm.unwrap_or(self.first_norm),
            cls_first: cls_first.unwrap_or(self.cls_first),
            pooler: pooler.unwrap_or(self.pooler),
            prediction_head: prediction_head.unwrap_or(self.prediction_head),
            head_dropout: head_dropout.unwrap_or(self.head_dropout),
            head_bias: head_bias.unwrap_or(self.head_bias),
            lm_transform: lm_transform.unwrap_or(self.lm_transform),
            lm_bias: lm_bias.unwrap_or(self.lm_bias),
            init: init.unwrap_or(self.init),
        }
    }

    /// The window of a layer, counted from 0; `None` where it sees whole sequences.
    pub fn window_of(&self, layer: usize) -> Option<usize> {
        let is_global = self.global_every > 0 && layer.is_multiple_of(self.global_every);
        (self.window > 0 && !is_global).then_some(self.window)
    }
}

impl LayoutChanges {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks the ranges.
    pub(super) fn validate(&self) -> Result<()> {
        for (key, value) in [
            ("layout.norm_eps", self.norm_eps),
            ("layout.rotary_theta", self.rotary_theta),
            ("layout.local_rotary_theta", self.local_rotary_theta),
        ] {
            check_positive(key, f64::from(value.unwrap_or(1.0)))?;
        }
        for (key, count) in [
            ("layout.position_offset", self.position_offset),
            ("layout.token_types", self.token_types),
            ("layout.window", self.window),
            ("layout.global_every", self.global_every),
        ] {
            let count = count.unwrap_or(0);
            check(key, count <= 1 << 20, || {
                (format!("{count} is not possible"), format!("use a number from 0 to {}", 1 << 20))
            })?;
        }
        Ok(())
    }
}
