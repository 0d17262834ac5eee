//! The table `[regularisation]` of `finetune`: what keeps a classifier from its training data's accidents.
//!
//! Owns: names, ranges, which of them go together. Never: how a loss or a draw is computed.

use serde::{Deserialize, Serialize};

use super::{ClassWeights, Problem, check};
use crate::error::Result;

/// Which examples a pass over the training data takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sampling {
    /// Each once.
    #[default]
    Natural,
    /// As many of each class: those of rare classes more than once, those of frequent ones in turn.
    Balanced,
}

/// What keeps a classifier from its training data's accidents.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegularisationConfig {
    /// This share of every target is spread evenly over all classes in training; absent: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_smoothing: Option<f32>,
    /// This power of what a class lacks of certainty weighs its example in training; absent: 0, cross-entropy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub focal_gamma: Option<f32>,
    /// Weight of how far two passes over each example, with other dropout, are from each other in training; absent: 0, one pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r_drop: Option<f64>,
    /// Which examples an epoch takes.
    pub sampling: Sampling,
    /// How strongly the model's own weights are pulled to where they began; absent: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub l2_sp: Option<f64>,
    /// The probability that a training step leaves out a block of the model; absent: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer_drop: Option<f32>,
}

/// Copies of the weights that a run keeps beside its moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copies {
    /// Where they began (`l2_sp`).
    pub start: bool,
    /// Their running mean (`ema`).
    pub mean: bool,
}

impl Copies {
    /// The numbers that one of so many ranks has in them at most: of `total` parameters and `trainable` ones. Both lie in shares; what is
    /// evaluated with the mean is a whole model.
    pub fn numbers(self, total: usize, trainable: usize, ranks: usize) -> u64 {
        let share = trainable.div_ceil(ranks.max(1)) as u64;
        let of = |on: bool, numbers: u64| if on { numbers } else { 0 };
        of(self.start, share) + of(self.mean, share + total as u64)
    }
}

impl RegularisationConfig {
    /// Whether a run keeps where its weights began.
    pub fn keeps_start(&self) -> bool {
        self.l2_sp.is_some_and(|pull| pull > 0.0)
    }

    /// Whether nothing is asked for.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Checks every range, and what goes together.
    ///
    /// # Errors
    /// [`crate::Error::Config`] naming the key.
    pub fn validate(
        &self,
        problem: Problem,
        class_weights: ClassWeights,
        is_from_scratch: bool,
    ) -> Result<()> {
        let Self { label_smoothing, focal_gamma, r_drop, sampling, l2_sp, layer_drop } = *self;
        for (key, given) in [
            ("label_smoothing", label_smoothing.is_some()),
            ("focal_gamma", focal_gamma.is_some()),
            ("r_drop", r_drop.is_some()),
            ("sampling", sampling != Sampling::Natural),
        ] {
            check(key, !given || problem == Problem::SingleLabel, || {
                (
                    "it is for one class of several".into(),
                    format!("leave {key} out for multi-label and regression"),
                )
            })?;
        }
        let share = label_smoothing.unwrap_or(0.0);
        check("label_smoothing", (0.0..1.0).contains(&share), || {
            (format!("{share} is no share below 1"), "use a number from 0 to 0.99, such as 0.1".into())
        })?;
        let gamma = focal_gamma.unwrap_or(0.0);
        check("focal_gamma", (0.0..=100.0).contains(&gamma), || {
            (format!("{gamma} is not possible"), "use a number from 0 to 100, such as 2".into())
        })?;
        check("focal_gamma", share <= 0.0 || gamma <= 0.0, || {
            (
                "the focal loss is not defined for smoothed labels".into(),
                "leave label_smoothing out, or this".into(),
            )
        })?;
        let both = sampling == Sampling::Balanced && class_weights == ClassWeights::Balanced;
        check("sampling", !both, || {
            ("rare classes would count twice".into(), "leave class_weights out, or this".into())
        })?;
        let weight = r_drop.unwrap_or(0.0);
        check("r_drop", weight >= 0.0 && weight.is_finite(), || {
            (format!("{weight} is not possible"), "use 0 (off) or a positive number, such as 1".into())
        })?;
        let left_out = layer_drop.unwrap_or(0.0);
        check("layer_drop", (0.0..1.0).contains(&left_out), || {
            (
                format!("{left_out} is not a probability below 1"),
                "use a number from 0 to 0.99, such as 0.1".into(),
            )
        })?;
        let pull = l2_sp.unwrap_or(0.0);
        check("l2_sp", pull >= 0.0 && pull.is_finite(), || {
            (format!("{pull} is not possible"), "use 0 (off) or a positive number, such as 0.01".into())
        })?;
        check("l2_sp", pull <= 0.0 || !is_from_scratch, || {
            ("random weights are nothing to be kept near".into(), "leave from_scratch out, or this".into())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused_by_its_key() {
        let plain = RegularisationConfig::default;
        let refused =
            |config: RegularisationConfig, problem, weights| match config.validate(problem, weights, false) {
                Err(crate::Error::Config { key, .. }) => Some(key),
                _ => None,
            };
        let single = |config| refused(config, Problem::SingleLabel, ClassWeights::None);
        let smoothed = |share| RegularisationConfig { label_smoothing: Some(share), ..plain() };
        let focal = |gamma| RegularisationConfig { focal_gamma: Some(gamma), ..plain() };
        assert_eq!([single(smoothed(0.1)), single(focal(2.0)), single(plain())], [None, None, None]);
        let is = |key: &str| Some(key.to_owned());
        for bad in [-0.1, 1.0, f32::NAN] {
            assert_eq!(single(smoothed(bad)), is("label_smoothing"), "{bad}");
        }
        assert_eq!([-1.0, f32::NAN, 1e9].map(|bad| single(focal(bad))), [(); 3].map(|()| is("focal_gamma")));
        let both = RegularisationConfig { label_smoothing: Some(0.1), ..focal(2.0) };
        assert_eq!(single(both), is("focal_gamma"));
        let balanced = RegularisationConfig { sampling: Sampling::Balanced, ..plain() };
        assert_eq!(refused(balanced.clone(), Problem::SingleLabel, ClassWeights::Balanced), is("sampling"));
        for problem in [Problem::MultiLabel, Problem::Regression] {
            let of = |config| refused(config, problem, ClassWeights::None);
            assert_eq!(of(balanced.clone()), is("sampling"));
            assert_eq!((of(smoothed(0.1)), of(focal(1.0))), (is("label_smoothing"), is("focal_gamma")));
        }
        let pulled = |pull| RegularisationConfig { l2_sp: Some(pull), ..plain() };
        assert_eq!([single(pulled(0.01)), single(pulled(f64::NAN))], [None, is("l2_sp")]);
        let left_out = |p| RegularisationConfig { layer_drop: Some(p), ..plain() };
        assert_eq!(
            [0.2, 1.0, -0.1, f32::NAN].map(|p| single(left_out(p))),
            [None, is("layer_drop"), is("layer_drop"), is("layer_drop")]
        );
        assert!(pulled(0.1).validate(Problem::Regression, ClassWeights::None, true).is_err());
    }
}
