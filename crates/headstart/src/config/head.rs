//! What a classifier has between the trunk and its last linear: a hidden layer, a learned mix of all layers.
//!
//! Owns: names, defaults, which keys go together. Never: what is computed (`model/heads.rs`).

use serde::{Deserialize, Serialize};

use super::{Activation, Method, check};
use crate::error::Result;

/// What a classification head has beside its pooling and its last linear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HeadShape {
    /// A layer between the pooled row and the last linear; absent for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden: Option<HiddenLayer>,
    /// Whether it reads a learned mix of all layers' hidden states, those of the embeddings first, in place of the last ones (Peters et
    /// al. 2018).
    pub layer_mix: bool,
}

/// A linear and an activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HiddenLayer {
    /// Its outputs.
    pub width: usize,
    /// Behind the linear.
    pub activation: Activation,
}

impl HeadShape {
    /// Whether there is nothing but the last linear.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    /// What it is more than a linear over one layer, for people; `None` where it is no more.
    pub fn beyond_linear(&self) -> Option<&'static str> {
        match self {
            Self { layer_mix: true, .. } => Some("a learned mix of all layers"),
            Self { hidden: Some(_), .. } => Some("a hidden layer"),
            _ => None,
        }
    }
}

/// The kinds of classification heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadKind {
    /// A linear over the pooled row (behind a pooler, where that is asked for).
    Linear,
    /// A hidden layer between the two.
    Mlp,
}

/// Keys of `finetune`, beside the others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HeadChoice {
    /// Which head is trained; absent: a linear, or what the model has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<HeadKind>,
    /// Width of the hidden layer of `head = "mlp"`; absent: the model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_width: Option<usize>,
    /// What stands behind it; absent: tanh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_activation: Option<Activation>,
    /// Whether the head reads a learned mix of all layers; absent: no, or as the model's does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer_mix: Option<bool>,
}

impl HeadChoice {
    /// The head of a model of this width, where the one that is there has the shape `own`.
    pub fn shape(&self, width: usize, own: HeadShape, method: Method) -> HeadShape {
        if method.fits_head() {
            return HeadShape::default();
        }
        let hidden = match self.head {
            Some(HeadKind::Linear) => None,
            Some(HeadKind::Mlp) => Some(HiddenLayer {
                width: self.head_width.unwrap_or(width),
                activation: self.head_activation.unwrap_or(Activation::Tanh),
            }),
            None => own.hidden,
        };
        HeadShape { hidden, layer_mix: self.layer_mix.unwrap_or(own.layer_mix) }
    }

    /// Checks ranges, and what goes with a method.
    ///
    /// # Errors
    /// [`crate::Error::Config`] naming the key.
    pub fn validate(&self, method: Method) -> Result<()> {
        let (mlp, mixes) = (self.head == Some(HeadKind::Mlp), self.layer_mix == Some(true));
        let fitted = method.fits_head() || method == Method::Bow;
        for (key, given) in [("head", mlp), ("layer_mix", mixes)] {
            check(key, !given || !fitted, || {
                (
                    format!("the head of the method `{}` is fitted: a linear over one layer", method.name()),
                    format!("leave {key} out, or train the head: --method head for a frozen model"),
                )
            })?;
        }
        for (key, given) in
            [("head_width", self.head_width.is_some()), ("head_activation", self.head_activation.is_some())]
        {
            check(key, !given || mlp, || {
                ("no hidden layer is asked for".into(), format!("use --head mlp, or leave {key} out"))
            })?;
        }
        let width = self.head_width.unwrap_or(1);
        check("head_width", (1..=65_536).contains(&width), || {
            (format!("{width} is not a possible size"), "use a number from 1 to 65536".into())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_as_the_model_has_it() {
        let hidden = Some(HiddenLayer { width: 5, activation: Activation::Gelu });
        let own = HeadShape { hidden, layer_mix: true };
        let plain = HeadChoice::default();
        assert_eq!(plain.shape(8, own, Method::Full), own);
        assert!(plain.shape(8, own, Method::Features).is_plain());
        let linear = HeadChoice { head: Some(HeadKind::Linear), layer_mix: Some(false), ..plain.clone() };
        assert!(linear.shape(8, own, Method::Full).is_plain());
        let mlp = HeadChoice { head: Some(HeadKind::Mlp), ..plain };
        let usual = HiddenLayer { width: 8, activation: Activation::Tanh };
        assert_eq!(mlp.shape(8, own, Method::Lora).hidden, Some(usual));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_its_key() {
        let plain = HeadChoice::default;
        let refused = |choice: HeadChoice, method| match choice.validate(method) {
            Err(crate::Error::Config { key, .. }) => key,
            other => panic!("{other:?}"),
        };
        let mlp = HeadChoice { head: Some(HeadKind::Mlp), ..plain() };
        let mix = HeadChoice { layer_mix: Some(true), ..plain() };
        for method in [Method::Features, Method::Contrastive, Method::Bow] {
            assert_eq!(refused(mlp.clone(), method), "head");
            assert_eq!(refused(mix.clone(), method), "layer_mix");
            assert!(plain().validate(method).is_ok());
        }
        assert!(mlp.validate(Method::Head).is_ok() && mix.validate(Method::Head).is_ok());
        assert_eq!(refused(HeadChoice { head_width: Some(3), ..plain() }, Method::Full), "head_width");
        let activation = Some(Activation::Gelu);
        assert_eq!(
            refused(HeadChoice { head_activation: activation, ..mix }, Method::Full),
            "head_activation"
        );
        assert_eq!(refused(HeadChoice { head_width: Some(0), ..mlp }, Method::Full), "head_width");
    }
}
