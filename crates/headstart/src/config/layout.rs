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
    /// GELU in its tanh form (Hendrycks and Gimpel 2016).
    GeluTanh,
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
    /// Whether the linears of the blocks have a bias.
    pub bias: bool,
    /// Rows of the position table before that of a sequence's first token (RoBERTa: 2).
    pub position_offset: usize,
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
    /// See [`Layout::bias`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bias: Option<bool>,
    /// See [`Layout::position_offset`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position_offset: Option<usize>,
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
            bias,
            position_offset,
            init,
        } = *changes;
        Self {
            norm: norm.unwrap_or(self.norm),
            norm_eps: norm_eps.unwrap_or(self.norm_eps),
            embedding_norm: embedding_norm.unwrap_or(self.embedding_norm),
            final_norm: final_norm.unwrap_or(self.final_norm),
            activation: activation.unwrap_or(self.activation),
            bias: bias.unwrap_or(self.bias),
            position_offset: position_offset.unwrap_or(self.position_offset),
            init: init.unwrap_or(self.init),
        }
    }
}

impl LayoutChanges {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks the ranges.
    pub(super) fn validate(&self) -> Result<()> {
        check_positive("layout.norm_eps", f64::from(self.norm_eps.unwrap_or(1.0)))?;
        let offset = self.position_offset.unwrap_or(0);
        check("layout.position_offset", offset <= 1 << 20, || {
            (format!("{offset} rows are not possible"), format!("use a number from 0 to {}", 1 << 20))
        })
    }
}
