//! When climbing stops, and which rung is chosen.
//!
//! Owns: the rule. Never: runs anything, the bootstrap of what two rungs told of the same validation examples (`history`).

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::{AutoConfig, Problem};
use crate::error::{Error, Result};
use crate::eval::{Comparison, Interval};
use crate::history;

/// So many rungs in a row that are no better end the climb.
pub(super) const ENOUGH: usize = 2;

/// The metrics that may decide, the usual one first: those that two runs are compared in.
fn known(problem: Problem) -> &'static [&'static str] {
    match problem {
        Problem::SingleLabel => &["accuracy", "macro_f1"],
        Problem::MultiLabel => &["micro_f1", "macro_f1", "accuracy", "exact_match"],
        Problem::Regression => &["mse", "pearson", "spearman"],
    }
}

/// The metric that decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deciding(&'static str);

impl Deciding {
    /// The settings' own, or the usual one of the problem.
    ///
    /// # Errors
    /// [`Error::Config`] with the names that there are.
    pub(super) fn of(config: &AutoConfig) -> Result<Self> {
        let known = known(config.problem);
        let Some(name) = &config.best_metric else { return Ok(Self(known[0])) };
        known.iter().find(|known| *known == name).map(|known| Self(known)).ok_or_else(|| Error::Config {
            key: "best_metric".into(),
            what: format!("rungs of this problem cannot be judged by `{name}`"),
            fix: format!("use one of {}", known.join(", ")),
        })
    }

    /// `accuracy`.
    pub(super) fn name(self) -> &'static str {
        self.0
    }

    /// A value of it, more being better.
    pub(super) fn gain(self, value: f64) -> f64 {
        if self.0 == "mse" { -value } else { value }
    }
}

/// What a rung is better by than another one, on validation data. More is better, whatever the metric is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gain {
    /// The other one's name.
    pub over: String,
    /// In the metric; of an error, how much less it is.
    pub gain: f64,
    /// Its 95 % interval: the examples drawn again, for both together.
    pub interval: Option<Interval>,
}

impl Gain {
    /// Whether all of the interval is above 0.
    pub fn is_told_apart(&self) -> bool {
        self.interval.is_some_and(|[low, _]| low > 0.0)
    }

    /// What the run in `dir` is better by than that in `than`.
    ///
    /// # Errors
    /// Predictions that are missing or damaged.
    pub(super) fn of(dir: &Path, than: &Path, over: &str, by: Deciding) -> Result<Self> {
        Ok(Self::told(&history::compare(than, dir)?.comparison, over, by))
    }

    fn told(comparison: &Comparison, over: &str, by: Deciding) -> Self {
        let found = comparison.metrics.get(by.name());
        Self {
            over: over.to_owned(),
            gain: found.map_or(0.0, |found| by.gain(found.difference)),
            interval: found.and_then(|found| found.interval).map(|ends| {
                let [low, high] = ends.map(|end| by.gain(end));
                [low.min(high), low.max(high)]
            }),
        }
    }
}

/// The rung to take, by number: of those that cannot be told apart from the best, the first and so the cheapest. `values`: the metric, more
/// is better; `apart(best, other)`: whether the best is told apart from another one.
///
/// # Errors
/// Those of `apart`.
pub(super) fn chosen(
    values: &[f64],
    mut apart: impl FnMut(usize, usize) -> Result<bool>,
) -> Result<Option<usize>> {
    // Of equal ones the first.
    let better = |best: usize, other: usize| if values[other] > values[best] { other } else { best };
    let Some(best) = (0..values.len()).reduce(better) else { return Ok(None) };
    for other in 0..best {
        if !apart(best, other)? {
            return Ok(Some(other));
        }
    }
    Ok(Some(best))
}

/// Whether the climb is over: the last rungs, in their order, were no better than what was chosen before them.
pub(super) fn is_over(gains: &[Option<Gain>]) -> bool {
    let no_better = |gain: &&Option<Gain>| gain.as_ref().is_some_and(|gain| !gain.is_told_apart());
    gains.iter().rev().take_while(no_better).count() >= ENOUGH
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::{Outcomes, compare_numbers};

    fn gain(low: f64, high: f64) -> Gain {
        Gain { over: "1-bow".into(), gain: f64::midpoint(low, high), interval: Some([low, high]) }
    }

    #[test]
    fn of_rungs_that_are_not_told_apart_the_cheaper_one_is_chosen() {
        let of = |values: &[f64], noise: f64| {
            chosen(values, |best, other| Ok(values[best] - values[other] > noise)).unwrap()
        };
        assert_eq!(of(&[], 0.1), None);
        assert_eq!(of(&[0.7], 0.1), Some(0));
        assert_eq!(of(&[0.7, 0.75, 0.9], 0.1), Some(2));
        // The best is the third; the second may be as good, the first is not.
        assert_eq!(of(&[0.7, 0.85, 0.9], 0.1), Some(1));
        assert_eq!(of(&[0.85, 0.7, 0.9], 0.1), Some(0));
        assert_eq!(of(&[0.9, 0.9], 0.0), Some(0));
        // What lies above the best costs more and is worse.
        assert_eq!(of(&[0.5, 0.9, 0.88], 0.1), Some(1));
        let failed =
            chosen(&[0.1, 0.2], |_, _| Err(crate::Error::Interrupted { what: "x".into(), fix: "y".into() }));
        assert!(failed.is_err());
    }

    #[test]
    fn a_metric_that_is_not_there_is_answered_with_those_that_are() {
        let of = |problem, name: &str| {
            let best_metric = Some(name.to_owned()).filter(|name| !name.is_empty());
            Deciding::of(&AutoConfig { problem, best_metric, ..AutoConfig::default() })
        };
        assert_eq!(of(Problem::SingleLabel, "").unwrap().name(), "accuracy");
        assert!(of(Problem::SingleLabel, "macro_f1").unwrap().gain(0.5) > 0.0);
        assert!(of(Problem::Regression, "").unwrap().gain(0.5) < 0.0);
        let error = of(Problem::Regression, "accuracy").unwrap_err().to_string();
        assert!(error.contains("best_metric") && error.contains("mse, pearson, spearman"), "{error}");
    }

    #[test]
    fn two_rungs_in_a_row_that_are_no_better_are_enough() {
        assert!(!is_over(&[]) && !is_over(&[None]));
        assert!(!is_over(&[None, Some(gain(-0.1, 0.1))]));
        assert!(is_over(&[None, Some(gain(-0.1, 0.1)), Some(gain(-0.01, 0.3))]));
        assert!(!is_over(&[None, Some(gain(-0.1, 0.1)), Some(gain(0.01, 0.3))]));
        assert!(!is_over(&[None, Some(gain(-0.1, 0.1)), Some(gain(0.01, 0.3)), Some(gain(-0.2, -0.1))]));
        // Worse without doubt is no better either; without an interval nothing is certain.
        assert!(is_over(&[
            None,
            Some(gain(-0.3, -0.1)),
            Some(Gain { over: String::new(), gain: 1.0, interval: None })
        ]));
        assert!(!gain(0.0, 0.0).is_told_apart());
    }

    #[test]
    fn of_numbers_a_smaller_error_is_a_gain() {
        let truths: Vec<f64> = (0..400).map(f64::from).collect();
        // Errors of 2, and of 1 and 3 in turn: 4 and 5 in the mean, whose difference has the deviation 4 / 20.
        let [even, uneven]: [Vec<f64>; 2] =
            [[2.0, 2.0], [1.0, 3.0]].map(|off| truths.iter().map(|t| t + off[*t as usize % 2]).collect());
        let gain = |first: &[f64], second: &[f64]| {
            let found = compare_numbers(Outcomes { truths: &truths, first, second });
            Gain::told(&found, "1-bow", Deciding("mse"))
        };
        let found = gain(&uneven, &even);
        let [low, high] = found.interval.unwrap();
        assert!((found.gain - 1.0).abs() < 1e-9 && found.is_told_apart(), "{found:?}");
        assert!((low - 0.608).abs() < 0.05 && (high - 1.392).abs() < 0.05, "{low} {high}");
        assert!(!gain(&even, &uneven).is_told_apart());
    }
}
