//! When climbing stops, and which rung is chosen.
//!
//! Owns: the rule, and the paired bootstrap of what two rungs told of the same validation examples. Never: runs anything.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::checkpoint::RunFolder;
use crate::config::Problem;
use crate::error::Result;
use crate::eval::{Interval, RESAMPLES, middle, stream};
use crate::history;
use crate::predictions::{self, Line, Told};

/// So many rungs in a row that are no better end the climb.
pub(super) const ENOUGH: usize = 2;

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
    pub(super) fn of(dir: &Path, than: &Path, over: &str, problem: Problem) -> Result<Self> {
        let over = over.to_owned();
        if problem == Problem::SingleLabel {
            let found = history::compare(than, dir)?.comparison.accuracy;
            return Ok(Self { over, gain: found.difference, interval: found.interval });
        }
        let labels = RunFolder::summary(dir).and_then(|summary| Some(summary["labels"].as_array()?.len()));
        let scores = |dir: &Path| -> Result<Vec<f64>> {
            let lines = predictions::read(&dir.join("predictions.jsonl"))?;
            Ok(lines.iter().map(|line| score(line, labels.unwrap_or(1))).collect())
        };
        let (own, other) = (scores(dir)?, scores(than)?);
        let differences: Vec<f64> = own.iter().zip(&other).map(|(own, other)| own - other).collect();
        Ok(Self { over, gain: mean(differences.iter().copied()), interval: interval(&differences) })
    }
}

/// What an answer adds to the metric: the share of labels that are right; of numbers, less what it is off, squared.
fn score(line: &Line, labels: usize) -> f64 {
    match (&line.label, &line.predicted) {
        (Told::Number(truth), Told::Number(told)) => -(truth - told).powi(2),
        (truth, told) => {
            let (truth, told) = (truth.to_string(), told.to_string());
            let set = |told: &str| -> BTreeSet<String> {
                told.split('|').filter(|name| !name.is_empty()).map(str::to_owned).collect()
            };
            let wrong = set(&truth).symmetric_difference(&set(&told)).count();
            1.0 - wrong as f64 / labels.max(1) as f64
        }
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len().max(1) as f64;
    values.sum::<f64>() / n
}

/// That of the mean, by drawing the examples again.
fn interval(differences: &[f64]) -> Option<Interval> {
    let n = differences.len();
    let drawn = |which: usize| {
        let mut random = stream(which);
        mean((0..n).map(|_| differences[((random.uniform() * n as f64) as usize).min(n - 1)]))
    };
    middle(&mut (0..RESAMPLES).map(drawn).collect::<Vec<f64>>()).filter(|_| n > 0)
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
    fn the_gain_of_numbers_and_of_several_labels() {
        let line = |label: Told, predicted: Told| Line {
            file: None,
            line: None,
            label,
            predicted,
            probabilities: serde_json::Map::new(),
            text: String::new(),
        };
        let classes = |a: &str, b: &str| score(&line(Told::Class(a.into()), Told::Class(b.into())), 4);
        assert!((classes("a|b", "a|b") - 1.0).abs() < 1e-12 && (classes("", "a|c") - 0.5).abs() < 1e-12);
        assert!((classes("a|b", "b") - 0.75).abs() < 1e-12);
        assert!((score(&line(Told::Number(1.0), Told::Number(3.0)), 1) + 4.0).abs() < 1e-12);
        // The normal deviation of the mean of 400 values 0 and 1 is 0.025.
        let values: Vec<f64> = (0..400).map(|at| f64::from(at % 2)).collect();
        let [low, high] = interval(&values).unwrap();
        assert!((low - 0.451).abs() < 0.006 && (high - 0.549).abs() < 0.006, "{low} {high}");
        assert_eq!(interval(&[]), None);
    }
}
