//! Bottleneck adapters: where they stand, what they compute inside.
//!
//! Owns: names, ranges. Never: their width (`adapters_dim`), what trains (`method`), what they compute (`model/peft.rs`).

use serde::{Deserialize, Serialize};

use super::{Activation, check_positive};
use crate::error::Result;

/// Where adapters stand in a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdapterKind {
    /// Behind attention and behind the feed-forward (Houlsby et al. 2019).
    #[default]
    Houlsby,
    /// Behind the feed-forward alone (Pfeiffer et al. 2020).
    Pfeiffer,
    /// Behind the feed-forward, of what the norm behind it makes of the sum: AdapterHub's `seq_bn` (Pfeiffer et al. 2021).
    #[serde(rename = "seq_bn")]
    SeqBn,
    /// Beside the feed-forward: of what that reads, times a scale, added to what it gives (He et al. 2022).
    Parallel,
}

impl AdapterKind {
    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Houlsby => "houlsby",
            Self::Pfeiffer => "pfeiffer",
            Self::SeqBn => "seq_bn",
            Self::Parallel => "parallel",
        }
    }
}

/// The adapters of a model, beside their width.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdapterLayout {
    /// Where they stand.
    pub kind: AdapterKind,
    /// Between their two linears; absent: the model's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation: Option<Activation>,
    /// What those beside a feed-forward are multiplied by; 1 for the others.
    pub scale: f64,
}

impl Default for AdapterLayout {
    fn default() -> Self {
        Self { kind: AdapterKind::Houlsby, activation: None, scale: 1.0 }
    }
}

impl AdapterLayout {
    /// The scale of those beside a feed-forward where none is given.
    pub const USUAL_SCALE: f64 = 4.0;

    /// Whether it is what there was before there was a choice, and says nothing.
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }

    /// Checks every range.
    pub(super) fn validate(&self) -> Result<()> {
        check_positive("adapters_scale", self.scale)
    }
}
