//! How long steps take while parts of a model are frozen, and how many fit a budget.
//!
//! Owns: the time of a phase by that of a step in which everything trains and that of one in which the head does. Never: what trains
//! when (`rates`), a clock.

use crate::config::{Method, RatesConfig, Unfreeze};
use crate::params::ParamTable;
use crate::rates::{Length, Plan};

/// That a run's parts begin to train one after the other.
#[derive(Debug)]
pub(crate) struct Unfreezing<'a> {
    rates: &'a RatesConfig,
    method: Method,
    table: &'a ParamTable,
}

/// Seconds of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct StepSeconds {
    /// In which everything trains that ever does.
    pub(crate) whole: f64,
    /// In which the head alone does.
    pub(crate) head: f64,
}

impl<'a> Unfreezing<'a> {
    /// `None` where everything trains from the first step on.
    pub(crate) fn of(rates: &'a RatesConfig, method: Method, table: &'a ParamTable) -> Option<Self> {
        (rates.unfreeze != Unfreeze::None).then_some(Self { rates, method, table })
    }

    /// The seconds of a run of this length, step by step as its phases have them, without evaluations.
    pub(crate) fn seconds(&self, length: Length, step: StepSeconds) -> f64 {
        let mut rates = self.rates.clone();
        rates.choose(self.table, length);
        // Rates are of no account here.
        let Some(plan) = Plan::of(&rates, self.method, 1.0, self.table, length) else {
            return length.total_steps as f64 * step.whole;
        };
        let work = plan.work();
        let ends = work.iter().skip(1).map(|(start, _)| *start).chain([u64::MAX]);
        let phases = work.iter().zip(ends).map(|(&(start, share), end)| {
            let steps = end.min(length.total_steps + 1).saturating_sub(start);
            steps as f64 * (step.head + share * (step.whole - step.head).max(0.0))
        });
        phases.sum()
    }
}

/// The most steps for which `seconds`, which grows with them, is no more than there are. At least one.
pub(crate) fn most_steps(left_s: f64, seconds: impl Fn(u64) -> f64) -> u64 {
    const MOST: u64 = 1 << 40;
    let mut above = 2;
    while above < MOST && seconds(above) <= left_s {
        above *= 2;
    }
    let mut fits = 1;
    while fits + 1 < above {
        let middle = u64::midpoint(fits, above);
        if seconds(middle) <= left_s {
            fits = middle;
        } else {
            above = middle;
        }
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ModelConfig;
    use crate::model::Model;

    fn table() -> ParamTable {
        let config = ModelConfig { num_layers: 4, vocab_size: 50, ..ModelConfig::preset("mini").unwrap() };
        let head = serde_json::json!({"num_classes": 2, "pooling": "cls", "problem": "single-label"});
        let config = ModelConfig { head: Some(serde_json::from_value(head).unwrap()), ..config };
        Model::new(&config).unwrap().table().clone()
    }

    fn rates(unfreeze: Unfreeze, every: Option<f64>) -> RatesConfig {
        RatesConfig { unfreeze, unfreeze_every: every, ..RatesConfig::default() }
    }

    fn seconds(rates: &RatesConfig, total_steps: u64) -> f64 {
        let (table, length) = (table(), Length { steps_per_epoch: 10, total_steps });
        let step = StepSeconds { whole: 3.0, head: 1.0 };
        Unfreezing::of(rates, Method::Full, &table).unwrap().seconds(length, step)
    }

    #[test]
    fn a_phase_takes_the_time_of_what_trains_in_it() {
        // The head, four layers and the embeddings, ten steps each: five equal steps from 1 s to 3 s.
        let gradual = rates(Unfreeze::Gradual, Some(1.0));
        let expected: f64 = (0..6).map(|n| 10.0 * (1.0 + 2.0 * f64::from(n) / 5.0)).sum();
        assert!((seconds(&gradual, 60) - expected).abs() < 1e-9);
        assert!((seconds(&gradual, 100) - expected - 40.0 * 3.0).abs() < 1e-9, "all of it trains at the end");
        assert!((seconds(&gradual, 10) - 10.0).abs() < 1e-9, "a run that ends before has the head alone");
        // One part at a time goes back through what is above it, and never costs what everything does.
        let thaw = rates(Unfreeze::ChainThaw, Some(1.0));
        assert!(seconds(&thaw, 60) > 60.0 && seconds(&thaw, 60) < 60.0 * 3.0);
        // Where the length says how often, half of the run has everything.
        let chosen = seconds(&rates(Unfreeze::Gradual, None), 60);
        assert!(chosen > 60.0 * 1.9 && chosen < 60.0 * 3.0, "{chosen}");
        assert!(Unfreezing::of(&rates(Unfreeze::None, None), Method::Full, &table()).is_none());
    }

    #[test]
    fn as_many_steps_as_fit() {
        for left_s in [0.5, 1.0, 2.0, 3.9, 100.0, 1e6] {
            let found = most_steps(left_s, |steps| steps as f64);
            assert_eq!(found, (left_s as u64).max(1), "{left_s}");
        }
    }
}
