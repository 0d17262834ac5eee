//! The table `[rates]` of `finetune`: what trains from when on, and how fast beside the run's own rate.
//!
//! Owns: names, ranges, which of them go with which method. Never: which parameters a layer has (`rates`).

use serde::{Deserialize, Serialize};

use super::{Method, check, check_positive};
use crate::error::Result;

/// In which order the layers begin to train.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unfreeze {
    /// All from the first step on.
    #[default]
    None,
    /// The head first, then one more layer at a time from the top, the embeddings last (Howard and Ruder 2018).
    Gradual,
    /// The head, then the embeddings and each layer by itself from below, then everything (Felbo et al. 2017).
    ChainThaw,
}

impl Unfreeze {
    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gradual => "gradual",
            Self::ChainThaw => "chain-thaw",
        }
    }
}

/// What trains from when on, and how fast.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RatesConfig {
    /// In which order the layers begin to train.
    pub unfreeze: Unfreeze,
    /// Epochs until the next of them does; absent: 1, or less where everything would not train for half of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unfreeze_every: Option<f64>,
    /// Each layer's rate is so many times that of the one above it, the embeddings' below the lowest; absent: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer_decay: Option<f64>,
    /// Largest rate of what is new beside the model's own weights: the head, adapters; of the methods that train only what is
    /// new, the head's. Absent: the run's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_lr: Option<f64>,
}

impl RatesConfig {
    /// Whether nothing is asked for.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Checks every range, and that the method has something that can be told apart.
    ///
    /// # Errors
    /// [`crate::Error::Config`] naming the key.
    pub fn validate(&self, method: Method) -> Result<()> {
        let Self { unfreeze, unfreeze_every, layer_decay, head_lr } = *self;
        let one_part = match method {
            Method::Head => Some("trains the head alone"),
            Method::Bow => Some("has no layers"),
            Method::Features | Method::Contrastive => Some("fits its head and trains it by no steps"),
            Method::Full | Method::Adapters | Method::Lora | Method::Ia3 | Method::Bitfit => None,
        };
        for (key, given) in [
            ("unfreeze", unfreeze != Unfreeze::None),
            ("unfreeze_every", unfreeze_every.is_some()),
            ("layer_decay", layer_decay.is_some()),
            ("head_lr", head_lr.is_some()),
        ] {
            check(key, !given || one_part.is_none(), || {
                let why = one_part.unwrap_or_default();
                (
                    format!("the method `{}` {why}", method.name()),
                    format!("use --method full, adapters, lora or bitfit, or leave {key} out"),
                )
            })?;
        }
        check("unfreeze_every", unfreeze_every.is_none() || unfreeze != Unfreeze::None, || {
            (
                "nothing is unfrozen on the way".into(),
                "use --unfreeze gradual or chain-thaw, or leave it out".into(),
            )
        })?;
        check_positive("unfreeze_every", unfreeze_every.unwrap_or(1.0))?;
        check_positive("head_lr", head_lr.unwrap_or(1.0))?;
        check("layer_decay", layer_decay.is_none_or(|decay| decay > 0.0 && decay <= 1.0), || {
            (
                format!("{} is no share of a rate", layer_decay.unwrap_or_default()),
                "use a number above 0, at most 1: 0.95, or 0.385 for a 2.6th".into(),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused_by_its_key() {
        let refused = |rates: RatesConfig, method| match rates.validate(method) {
            Err(crate::Error::Config { key, .. }) => Some(key),
            _ => None,
        };
        let is = |key: &str| Some(key.to_owned());
        let rates = RatesConfig::default;
        let gradual = RatesConfig { unfreeze: Unfreeze::Gradual, ..rates() };
        assert_eq!(refused(gradual.clone(), Method::Lora), None);
        assert_eq!(refused(gradual.clone(), Method::Head), is("unfreeze"));
        assert_eq!(refused(RatesConfig { head_lr: Some(1e-3), ..rates() }, Method::Bow), is("head_lr"));
        assert_eq!(
            refused(RatesConfig { unfreeze_every: Some(1.0), ..rates() }, Method::Full),
            is("unfreeze_every")
        );
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let every = RatesConfig { unfreeze_every: Some(bad), ..gradual.clone() };
            assert_eq!(refused(every, Method::Full), is("unfreeze_every"), "{bad}");
            assert_eq!(refused(RatesConfig { head_lr: Some(bad), ..rates() }, Method::Full), is("head_lr"));
            let decay = RatesConfig { layer_decay: Some(bad), ..rates() };
            assert_eq!(refused(decay, Method::Full), is("layer_decay"), "{bad}");
        }
        assert_eq!(
            refused(RatesConfig { layer_decay: Some(1.5), ..rates() }, Method::Full),
            is("layer_decay")
        );
    }
}
