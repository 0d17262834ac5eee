//! The table `[train]`: everything the training loop needs, the same for pretraining and fine-tuning.
//!
//! Owns: names, defaults, ranges. Never: trains.

use serde::{Deserialize, Serialize};

use super::{Budget, Recipe, check, check_positive};
use crate::error::Result;

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

impl PrecisionName {
    /// The one that a device is faster with.
    pub fn faster(bf16_is_faster: bool) -> Self {
        if bf16_is_faster { Self::Bf16 } else { Self::F32 }
    }

    /// "f32".
    pub fn name(self) -> &'static str {
        headstart_engine::Precision::from(self).name()
    }
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
    /// A line up over the first tenth of the run and one down over the rest, from and to a 32nd (Howard and Ruder 2018).
    #[serde(rename = "slanted-triangular")]
    SlantedTriangular,
    /// The tutorial's pretraining: the first step at 0, half a cosine as long as the whole run, cut off at the run's end.
    #[serde(rename = "tutorial-cosine")]
    TutorialCosine,
    /// The tutorial's fine-tuning: the first step at 0, a line to 0 one step behind the last.
    #[serde(rename = "tutorial-linear")]
    TutorialLinear,
}

impl Schedule {
    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cosine => "cosine",
            Self::Linear => "linear",
            Self::Constant => "constant",
            Self::Trapezoidal => "trapezoidal",
            Self::SlantedTriangular => "slanted-triangular",
            Self::TutorialCosine => "tutorial-cosine",
            Self::TutorialLinear => "tutorial-linear",
        }
    }
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

/// Everything the training loop needs, the same for pretraining and fine-tuning. A setting that may be left out is chosen
/// once, when the run begins ([`TrainConfig::choose`]), and saved with the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Who chooses what is left out.
    pub recipe: Recipe,
    /// Sequences a step takes at a time; with `grad_accum_steps` only the product matters to the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_batch_size: Option<usize>,
    /// Sequences an evaluation takes at a time; does not change the result.
    pub valid_batch_size: usize,
    /// Batches to one optimizer step.
    pub grad_accum_steps: usize,
    /// Groups in which the gradients of a batch are added, a power of two that the number of ranks divides; on it, and not on
    /// the ranks, the bits depend. Absent: as many as there are ranks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reduction_groups: Option<usize>,
    /// Largest learning rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Gradients are scaled down to this global norm; 0 leaves them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_norm: Option<f64>,
    /// Weight decay.
    pub weight_decay: f64,
    /// Adam (coupled L2) or AdamW (decoupled).
    pub optimizer: OptimizerName,
    /// Passes over the training data; 0 evaluates only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_epochs: Option<usize>,
    /// Ends the run (and its schedule) after this many optimizer steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    /// As many steps as fit into this time, counted once from a short measurement when the run begins, which becomes
    /// `max_steps`: "90s", "10m", "2h".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// Steps over which the rate rises from 0; clamped to the run's length.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<u64>,
    /// The same as a share of the run, counted once when it begins, which becomes `warmup_steps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_ratio: Option<f64>,
    /// How the rate falls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// The share of the largest rate that it falls to; absent: 0, of slanted triangles a 32nd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr_floor: Option<f64>,
    /// Decay of the running mean of the weights that is evaluated and kept in place of the last ones; absent: none is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// Evaluate every so many optimizer steps; -1: at the end of each epoch only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_every: Option<i64>,
    /// Write a checkpoint every so many optimizer steps besides the one of each epoch; 0: none.
    pub save_every: u64,
    /// How many checkpoints stay, besides the best.
    pub keep: usize,
    /// Stop (saving first) after this many seconds; the schedule does not bend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_time: Option<f64>,
    /// Seeds initial weights, order, masks and dropout.
    pub seed: u64,
    /// f32 or bf16 products; absent: the faster ones of the device, chosen when the run begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<PrecisionName>,
    /// Worker threads; 0: all.
    pub threads: usize,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            recipe: Recipe::Auto,
            train_batch_size: None,
            valid_batch_size: 8,
            grad_accum_steps: 1,
            reduction_groups: None,
            lr: None,
            max_norm: None,
            weight_decay: 0.0,
            optimizer: OptimizerName::Adam,
            n_epochs: None,
            max_steps: None,
            budget: None,
            warmup_steps: None,
            warmup_ratio: None,
            schedule: None,
            lr_floor: None,
            ema: None,
            eval_every: None,
            save_every: 0,
            keep: 3,
            max_time: None,
            seed: 42,
            precision: None,
            threads: 0,
        }
    }
}

impl TrainConfig {
    /// The products; f32 where none were chosen.
    pub fn precision(&self) -> headstart_engine::Precision {
        self.precision.unwrap_or_default().into()
    }

    /// With the products chosen, where they are not: bf16 where the device is faster with it. The tutorial's recipe stays in f32, as
    /// the tutorial trained.
    pub(crate) fn with_precision(&self, bf16_is_faster: bool) -> Self {
        let chosen = PrecisionName::faster(bf16_is_faster && self.recipe != Recipe::Tutorial);
        Self { precision: self.precision.or(Some(chosen)), ..self.clone() }
    }

    /// Sequences to one optimizer step.
    pub fn global_batch(&self) -> usize {
        self.train_batch_size.unwrap_or(8) * self.grad_accum_steps
    }

    /// Optimizer steps to a pass over the training data.
    pub fn steps_per_epoch(&self, examples: usize) -> u64 {
        examples.div_ceil(self.global_batch()).max(1) as u64
    }

    /// Optimizer steps in all, with what is chosen.
    pub fn total_steps(&self, examples: usize) -> u64 {
        let all = self.steps_per_epoch(examples).saturating_mul(self.epochs() as u64);
        self.max_steps.map_or(all, |most| most.min(all))
    }

    /// The largest learning rate; the tutorial's where none was chosen, as in all of these.
    pub fn peak_lr(&self) -> f64 {
        self.lr.unwrap_or(2.5e-4)
    }

    /// The norm that gradients are scaled down to; 0 leaves them.
    pub fn clip(&self) -> f64 {
        self.max_norm.unwrap_or(0.25)
    }

    /// Passes over the training data.
    pub fn epochs(&self) -> usize {
        self.n_epochs.unwrap_or(50)
    }

    /// Steps of warm-up.
    pub fn warmup(&self) -> u64 {
        self.warmup_steps.unwrap_or(1_000)
    }

    /// Steps between two evaluations; `None`: at the end of each epoch only.
    pub fn steps_between_evaluations(&self) -> Option<u64> {
        self.eval_every.and_then(|every| u64::try_from(every).ok()).filter(|every| *every > 0)
    }

    /// How the rate falls.
    pub fn curve(&self) -> Schedule {
        self.schedule.unwrap_or_default()
    }

    /// Checks every range.
    ///
    /// # Errors
    /// [`crate::Error::Config`] naming the key.
    pub fn validate(&self) -> Result<()> {
        for (key, value) in [
            ("train_batch_size", self.train_batch_size.unwrap_or(1)),
            ("valid_batch_size", self.valid_batch_size),
            ("grad_accum_steps", self.grad_accum_steps),
            ("keep", self.keep),
        ] {
            check(key, (1..=1 << 20).contains(&value), || {
                (format!("{value} is not possible"), "use a number from 1 to 1,048,576".into())
            })?;
        }
        check_positive("lr", self.lr.unwrap_or(1.0))?;
        for (key, value) in [("max_norm", self.max_norm.unwrap_or(0.0)), ("weight_decay", self.weight_decay)]
        {
            check(key, value >= 0.0 && value.is_finite(), || {
                (format!("{value} is not possible"), "use 0 (off) or a positive number".into())
            })?;
        }
        for (key, share) in [("warmup_ratio", self.warmup_ratio), ("lr_floor", self.lr_floor)] {
            check(key, share.is_none_or(|share| (0.0..=1.0).contains(&share)), || {
                (format!("{} is no share", share.unwrap_or_default()), "use a number from 0 to 1".into())
            })?;
        }
        check("ema", self.ema.is_none_or(|decay| (0.0..1.0).contains(&decay)), || {
            (
                format!("{} is no decay of a running mean", self.ema.unwrap_or_default()),
                "use a number from 0 to below 1, such as 0.99 or 0.999".into(),
            )
        })?;
        let curve = match self.recipe {
            Recipe::Tutorial => self.schedule.or(Some(Schedule::TutorialCosine)),
            Recipe::Auto => self.schedule,
        };
        let fixed = [Schedule::Constant, Schedule::TutorialCosine, Schedule::TutorialLinear];
        if let Some(curve) = curve.filter(|curve| self.lr_floor.is_some() && fixed.contains(curve)) {
            check("lr_floor", false, || {
                (
                    format!("the schedule `{}` does not fall to a floor", curve.name()),
                    "use --schedule cosine, linear, trapezoidal or slanted-triangular, or leave it out"
                        .into(),
                )
            })?;
        }
        check("eval_every", self.eval_every.is_none_or(|every| every == -1 || every > 0), || {
            (
                format!("{} is not a number of steps", self.eval_every.unwrap_or_default()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_the_faster_ones_but_for_what_is_said_and_the_tutorial() {
        let chosen = |precision, recipe, bf16_is_faster| {
            let train = TrainConfig { recipe, precision, ..TrainConfig::default() };
            train.with_precision(bf16_is_faster).precision
        };
        let (f32, bf16) = (Some(PrecisionName::F32), Some(PrecisionName::Bf16));
        assert_eq!(chosen(None, Recipe::Auto, true), bf16);
        assert_eq!(chosen(None, Recipe::Auto, false), f32);
        assert_eq!(chosen(None, Recipe::Tutorial, true), f32);
        assert_eq!(chosen(f32, Recipe::Auto, true), f32);
        assert_eq!(chosen(bf16, Recipe::Tutorial, false), bf16);
    }
}
