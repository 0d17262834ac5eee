//! The rungs: which there are for a task, and the settings of each.
//!
//! Owns: their order, from the cheapest on. Never: runs one.

use serde::{Deserialize, Serialize};

use super::task::Task;
use crate::config::{AutoConfig, FinetuneConfig, Method, PeftConfig, Problem, TrainConfig};

/// With fewer training examples of each class than these, pairs of them say more than they do one by one.
const FEW: usize = 20;

/// A rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rung {
    /// A bag of words.
    Bow,
    /// A linear head on the model as it is.
    Features,
    /// The model tuned on pairs of few examples, then such a head.
    Contrastive,
    /// Low-rank updates of the model.
    Lora,
    /// All of the model.
    Full,
}

impl Rung {
    /// Its folder's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bow => "1-bow",
            Self::Features => "2-features",
            Self::Contrastive => "3-contrastive",
            Self::Lora => "3-lora",
            Self::Full => "4-full",
        }
    }

    /// How it trains.
    pub fn method(self) -> Method {
        match self {
            Self::Bow => Method::Bow,
            Self::Features => Method::Features,
            Self::Contrastive => Method::Contrastive,
            Self::Lora => Method::Lora,
            Self::Full => Method::Full,
        }
    }

    /// Whether it takes optimizer steps, which `max_time` ends cleanly.
    pub(super) fn takes_steps(self) -> bool {
        !matches!(self, Self::Bow | Self::Features)
    }

    /// An ordinary run's settings; its best checkpoint is the best by what decides between rungs.
    pub(super) fn settings(self, config: &AutoConfig, task: &Task, left_s: Option<f64>) -> FinetuneConfig {
        let AutoConfig { model, base, problem, num_classes, seed, precision, threads, .. } = config;
        let usual = FinetuneConfig::default();
        FinetuneConfig {
            model: model.clone().filter(|_| self != Self::Bow),
            data: task.data.clone(),
            method: self.method(),
            peft: PeftConfig { base: base.clone().filter(|_| self != Self::Bow), ..usual.peft },
            problem: *problem,
            num_classes: *num_classes,
            best_metric: config.best_metric.clone().filter(|_| self.takes_steps()),
            train: TrainConfig {
                seed: *seed,
                precision: *precision,
                threads: *threads,
                max_time: left_s.filter(|_| self.takes_steps()),
                ..usual.train
            },
            ..usual
        }
    }
}

/// The rungs of a task, and why some are not among them.
pub(super) fn ladder(config: &AutoConfig, task: &Task) -> (Vec<Rung>, Vec<String>) {
    let (mut rungs, mut skipped) = (Vec::new(), Vec::new());
    let single = config.problem == Problem::SingleLabel;
    rungs.push(Rung::Bow);
    if config.model.is_none() {
        let why = "no rung above the bag of words: no model is named, and none of `headstart models list` is in the Hugging Face \
                   cache; fetch one (headstart models pull minilm-l6), or name a run's folder with --model";
        skipped.push(why.into());
        return (rungs, skipped);
    }
    rungs.push(Rung::Features);
    match (single, task.is_few(), task.pairs) {
        (true, true, false) => rungs.push(Rung::Contrastive),
        (true, true, true) => {
            skipped.push(
                "no pairs of examples: each example is a pair of texts already; low-rank updates instead"
                    .into(),
            );
            rungs.push(Rung::Lora);
        }
        (true, false, _) | (false, ..) => rungs.push(Rung::Lora),
    }
    // An adapter's updates are of linears and a rank of their own.
    if rungs.contains(&Rung::Lora) && task.model.as_ref().is_some_and(|model| model.lora.is_some()) {
        rungs.retain(|rung| *rung != Rung::Lora);
        skipped.push("no low-rank updates: the model has some already, which the last rung trains on".into());
    }
    rungs.push(Rung::Full);
    (rungs, skipped)
}

impl Task {
    /// Whether its classes have few training examples, taken together.
    pub(super) fn is_few(&self) -> bool {
        self.examples < FEW * self.classes.max(1)
    }
}
