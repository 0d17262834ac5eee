//! `--lr auto`: short runs choose the learning rate on validation data.
//!
//! Owns: which rates are tried, for how long, and which is chosen. Never: looks at test data.

use serde::{Deserialize, Serialize};

use super::state::State;
use super::task::Task;
use super::{Around, Ended, decides};
use crate::config::FinetuneConfig;
use crate::error::{Error, Result};
use crate::event::{Event, Listener};
use crate::setup::bar::Compared;

/// The part of a run's steps that a short one takes, and the least.
const PART: u64 = 3;
const LEAST_STEPS: u64 = 20;
/// Rates beside the recipe's, and one more behind an end that is best.
const AROUND: [f64; 3] = [1.0, 0.3, 3.0];
const BEHIND: (f64, f64) = (0.1, 10.0);

/// The search for the rate.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RateSearch {
    /// The metric of the validation data that decides.
    pub metric: String,
    /// Optimizer steps of each short run.
    pub steps: u64,
    /// The recipe's rate.
    pub usual: f64,
    /// What was tried, in order.
    pub tried: Vec<TriedRate>,
    /// The rate that was chosen.
    pub chosen: Option<f64>,
}

/// One rate.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TriedRate {
    /// The rate.
    pub lr: f64,
    /// The metric; `None` where the run did not end with numbers.
    pub value: Option<f64>,
    /// The validation loss, which decides between equal values.
    pub loss: Option<f64>,
}

/// How a short run ended.
enum Short {
    Tried(TriedRate),
    /// "signal" or "max_time".
    Stopped(String),
}

/// Tries what has not been tried and chooses; why it stopped before, if it did.
pub(super) fn search(
    around: &Around<'_>,
    config: &FinetuneConfig,
    task: &Task,
    state: &mut State,
    listener: &mut Listener<'_>,
) -> Result<Option<String>> {
    if state.search.as_ref().is_some_and(|search| search.chosen.is_some()) {
        return Ok(None);
    }
    let (_, more_is_better) = decides(config.problem);
    let mut search = match state.search.take() {
        Some(begun) => begun,
        None => RateSearch::begin(config, task)?,
    };
    let usual = search.usual;
    listener(Event::Message(&format!(
        "choosing the learning rate: runs of {} steps at rates around {usual:e}, judged by {}",
        search.steps, search.metric
    )));
    let mut rates: Vec<f64> = AROUND.iter().map(|factor| round(usual * factor)).collect();
    let mut at = 0;
    while at < rates.len() {
        let lr = rates[at];
        at += 1;
        if !search.tried.iter().any(|tried| same(tried.lr, lr)) {
            let short = around.short_run(config, task, &search, lr, listener)?;
            if let Short::Tried(tried) = &short {
                let value = tried.value.map_or("no numbers".into(), |value| format!("{value:.4}"));
                listener(Event::Message(&format!("learning rate {lr:e}: {} {value}", search.metric)));
                search.tried.push(tried.clone());
            }
            state.search = Some(search.clone());
            state.write(around)?;
            if let Short::Stopped(why) = short {
                return Ok(Some(why));
            }
        }
        if at == AROUND.len() {
            let best = search.best(more_is_better).map_or(usual, |tried| tried.lr);
            if same(best, rates[1]) {
                rates.push(round(usual * BEHIND.0));
            } else if same(best, rates[2]) {
                rates.push(round(usual * BEHIND.1));
            }
        }
    }
    let Some(best) = search.best(more_is_better).map(|tried| tried.lr) else {
        return Err(Error::Config {
            key: "lr_auto".into(),
            what: format!("no rate that was tried gives a {}", search.metric),
            fix: "give one with --lr, far below these; and look at the data with `headstart data lint`"
                .into(),
        });
    };
    search.chosen = Some(best);
    let edge = search.edge().map_or_else(String::new, |edge| format!("; {edge}"));
    listener(Event::Message(&format!("learning rate {best:e} is chosen; the recipe has {usual:e}{edge}")));
    state.search = Some(search);
    state.write(around)?;
    Ok(None)
}

impl Around<'_> {
    /// A run of a part of the steps at a rate, of which the metrics are kept.
    fn short_run(
        &self,
        config: &FinetuneConfig,
        task: &Task,
        search: &RateSearch,
        lr: f64,
        listener: &mut Listener<'_>,
    ) -> Result<Short> {
        let mut short = config.clone();
        short.train.lr = Some(lr);
        short.train.max_steps = Some(search.steps);
        short.train.n_epochs = task.chosen.n_epochs;
        short.early_stopping = 0;
        let name = format!("lr-{lr:e}");
        match self.one(&name, &short, Compared::ByCaller, listener) {
            Ok(Ended::Stopped(why)) => Ok(Short::Stopped(why)),
            Ok(Ended::Whole(summary)) => {
                self.forget(&name)?;
                let value = |key: &str| summary.metrics.get(key).copied().filter(|value| value.is_finite());
                Ok(Short::Tried(TriedRate { lr, value: value(&search.metric), loss: value("valid/loss") }))
            }
            // Too high a rate is an answer, too.
            Err(Error::NonFinite { .. }) => Ok(Short::Tried(TriedRate { lr, value: None, loss: None })),
            Err(other) => Err(other),
        }
    }
}

impl RateSearch {
    /// One in which nothing is tried yet.
    fn begin(config: &FinetuneConfig, task: &Task) -> Result<Self> {
        if !task.has_validation {
            return Err(Error::Config {
                key: "lr_auto".into(),
                what: "there is no validation data, and none can be held out".into(),
                fix: "add a valid file beside the training data, or give a rate: --lr 5e-5".into(),
            });
        }
        let all = task.steps(config);
        Ok(Self {
            metric: format!("valid/{}", decides(config.problem).0),
            steps: all.div_ceil(PART).max(LEAST_STEPS).min(all),
            usual: round(task.chosen.peak_lr()),
            ..Self::default()
        })
    }

    /// What is not known where the chosen rate is at an end of what was tried: a sentence without its point.
    pub fn edge(&self) -> Option<&'static str> {
        let chosen = self.chosen?;
        if self.tried.iter().all(|tried| tried.lr >= chosen) {
            Some(
                "it is the lowest that was tried, and lower ones were not: a better one may lie there (--lr)",
            )
        } else if self.tried.iter().all(|tried| tried.lr <= chosen) {
            Some(
                "it is the highest that was tried, and higher ones were not: a better one may lie there (--lr)",
            )
        } else {
            None
        }
    }

    /// The best rate so far; of equal ones that with the lower loss, then the first.
    fn best(&self, more_is_better: bool) -> Option<&TriedRate> {
        let better = |a: &TriedRate, b: &TriedRate| {
            let (Some(x), Some(y)) = (a.value, b.value) else { return false };
            let equal = x.total_cmp(&y).is_eq();
            let lower_loss = a.loss.zip(b.loss).is_some_and(|(a, b)| a < b);
            if equal { lower_loss } else { (x > y) == more_is_better }
        };
        let judged = self.tried.iter().filter(|tried| tried.value.is_some());
        judged.reduce(|best, tried| if better(tried, best) { tried } else { best })
    }
}

/// Two digits, as a person would write it.
fn round(rate: f64) -> f64 {
    format!("{rate:.1e}").parse().unwrap_or(rate)
}

fn same(one: f64, other: f64) -> bool {
    one.to_bits() == other.to_bits()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_rate_is_chosen() {
        let tried = |lr, value, loss| TriedRate { lr, value, loss: Some(loss) };
        let search = |tried: Vec<TriedRate>| RateSearch { tried, ..RateSearch::default() };
        let some = search(vec![
            tried(1.0, Some(0.5), 0.4),
            tried(2.0, None, 0.1),
            tried(3.0, Some(0.7), 0.4),
            tried(4.0, Some(0.7), 0.3),
        ]);
        assert!(some.best(true).is_some_and(|best| same(best.lr, 4.0)));
        assert!(some.best(false).is_some_and(|best| same(best.lr, 1.0)));
        assert_eq!(search(vec![tried(2.0, None, 0.1)]).best(true), None);
        let edge = |chosen| RateSearch { chosen: Some(chosen), ..some.clone() }.edge().unwrap_or_default();
        assert!(edge(1.0).contains("the lowest") && edge(4.0).contains("the highest"));
        assert_eq!((edge(2.0), some.edge()), ("", None));
        assert!(same(round(1.5e-5 * 0.3), 4.5e-6) && same(round(3e-4 * 3.0), 9e-4));
        assert_eq!(format!("{:e}", round(2e-5)), "2e-5");
    }
}
