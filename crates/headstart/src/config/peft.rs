//! Settings of the methods that train little of a model, beside those of low-rank updates.
//!
//! Owns: names, defaults, which method a key belongs to. Never: what a method trains (`method`).

use serde::{Deserialize, Serialize};

use super::ia3::{Ia3Config, Ia3Targets};
use super::{Method, check};
use crate::error::Result;

/// Keys of `finetune`, beside the others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeftConfig {
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

    /// Checks that each key is the method's.
    pub(super) fn validate(&self, method: Method) -> Result<()> {
        check("ia3_targets", self.ia3_targets.is_none() || method == Method::Ia3, || {
            (
                format!("the method `{}` has no scales", method.name()),
                "use --method ia3, or leave ia3_targets out".into(),
            )
        })
    }
}
