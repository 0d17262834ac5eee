//! Settings of the methods that train little of a model, beside those of low-rank updates.
//!
//! Owns: names, defaults, which method a key belongs to. Never: what a method trains (`method`).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::adapters::{AdapterKind, AdapterLayout};
use super::ia3::{Ia3Config, Ia3Targets};
use super::{Activation, Method, check};
use crate::error::Result;

/// Keys of `finetune`, beside the others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeftConfig {
    /// The model below `model`, where that is the folder of an adapter alone; absent: the one that the folder names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<PathBuf>,
    /// Where adapters stand; absent: behind both sublayers (Houlsby).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapters_kind: Option<AdapterKind>,
    /// Their width, as the model's divided by this; absent: `adapters_dim` says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapters_reduction: Option<usize>,
    /// Between their two linears; absent: the model's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapters_activation: Option<Activation>,
    /// What parallel ones are multiplied by; absent: 4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapters_scale: Option<f64>,
    /// What `method = "ia3"` scales; absent: keys, values and the feed-forward's inner activations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ia3_targets: Option<Ia3Targets>,
}

impl PeftConfig {
    /// The scales that a method trains; `None` for none.
    pub fn ia3(&self, method: Method) -> Option<Ia3Config> {
        (method == Method::Ia3)
            .then(|| self.ia3_targets.map_or_else(Ia3Config::default, |targets| Ia3Config { targets }))
    }

    /// The adapters that are added.
    pub fn adapters(&self) -> AdapterLayout {
        let kind = self.adapters_kind.unwrap_or_default();
        let usual = if kind == AdapterKind::Parallel { AdapterLayout::USUAL_SCALE } else { 1.0 };
        AdapterLayout {
            kind,
            activation: self.adapters_activation,
            scale: self.adapters_scale.unwrap_or(usual),
        }
    }

    /// Checks the keys of adapters: `added` says whether there are any, `width` what else gives their width.
    fn check_adapters(&self, added: bool, width: i64) -> Result<()> {
        for (key, given) in [
            ("adapters_kind", self.adapters_kind.is_some()),
            ("adapters_activation", self.adapters_activation.is_some()),
            ("adapters_scale", self.adapters_scale.is_some()),
        ] {
            check(key, !given || added, || {
                ("no adapters are added".into(), format!("use --method adapters, or leave {key} out"))
            })?;
        }
        check("adapters_reduction", self.adapters_reduction.is_none() || width == -1, || {
            let what = format!("the width is given twice, by it and as adapters_dim {width}");
            (what, "leave one of the two out".into())
        })?;
        check("adapters_reduction", self.adapters_reduction != Some(0), || {
            ("no width is divided by 0".into(), "use a number from 1 on; 16 is usual".into())
        })?;
        let scales = self.adapters_scale.is_none() || self.adapters_kind == Some(AdapterKind::Parallel);
        check("adapters_scale", scales, || {
            (
                "parallel adapters alone have a scale".into(),
                "add --adapters_kind parallel, or leave it out".into(),
            )
        })?;
        self.adapters().validate()
    }

    /// Checks that each key is the method's; `adapters_dim` is the width that was given otherwise.
    pub(super) fn validate(&self, method: Method, adapters_dim: i64) -> Result<()> {
        let adapts = matches!(method, Method::Full | Method::Adapters);
        check("adapters_reduction", adapts || self.adapters_reduction.is_none(), || {
            (
                format!("the method `{}` trains no adapters", method.name()),
                "use --method adapters, or leave adapters_reduction out".into(),
            )
        })?;
        let added = method == Method::Adapters || adapters_dim > 0 || self.adapters_reduction.is_some();
        self.check_adapters(added, adapters_dim)?;
        check("ia3_targets", self.ia3_targets.is_none() || method == Method::Ia3, || {
            (
                format!("the method `{}` has no scales", method.name()),
                "use --method ia3, or leave ia3_targets out".into(),
            )
        })
    }
}
