//! Means, spreads and curves of whole runs.
//!
//! Owns: the formulas. Never: runs anything.

use crate::train::BarMetric;
use serde::Serialize;

use super::{Arm, Done};

/// One metric over several runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Statistic {
    /// Its name: "test/accuracy", "bow/test_accuracy".
    pub metric: String,
    /// The mean.
    pub mean: f64,
    /// The sample standard deviation; 0 of one run.
    pub std: f64,
    /// The least value.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// Each run's, in the order of the runs.
    pub each: Vec<f64>,
}

/// The metric over the sizes of the training data.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Curve {
    /// The metric.
    pub metric: String,
    /// A point for each size and arm, ascending.
    pub points: Vec<CurvePoint>,
}

/// One point of a curve.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CurvePoint {
    /// Training examples.
    pub size: usize,
    /// What it started from.
    pub arm: Arm,
    /// The metric over the seeds.
    #[serde(flatten)]
    pub values: Statistic,
}

impl Statistic {
    /// That of some values, of which there are any.
    pub(super) fn new(metric: &str, each: Vec<f64>) -> Self {
        let n = each.len() as f64;
        let mean = each.iter().sum::<f64>() / n;
        let variance = each.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        let (min, max) = each
            .iter()
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(min, max), value| (min.min(*value), max.max(*value)));
        Self { metric: metric.to_owned(), mean, std: variance.sqrt(), min, max, each }
    }
}

/// Every metric that all runs have.
pub(super) fn of(runs: &[Done]) -> Vec<Statistic> {
    let Some(first) = runs.first() else { return Vec::new() };
    let over = |name: &str, value: &dyn Fn(&Done) -> Option<f64>| {
        let each: Option<Vec<f64>> = runs.iter().map(value).collect();
        each.map(|each| Statistic::new(name, each))
    };
    let names = first.metrics.keys();
    let mut all: Vec<Statistic> =
        names.filter_map(|name| over(name, &|run| run.metrics.get(name).copied())).collect();
    let told = first.bow.and_then(|bar| bar.metric).map_or("accuracy", BarMetric::name);
    for split in ["valid", "test"] {
        all.extend(over(&format!("bow/{split}_{told}"), &|run| of_bow(run, split)));
    }
    all
}

fn of_bow(run: &Done, split: &str) -> Option<f64> {
    let bar = run.bow.as_ref()?;
    if split == "test" { bar.test_accuracy.or(bar.test) } else { bar.valid_accuracy.or(bar.valid) }
}

/// The run that is best by a metric; of equal ones the first.
pub(super) fn best<'a>(runs: &'a [Done], metric: &str, more_is_better: bool) -> Option<&'a Done> {
    let value = |run: &Done| run.metrics.get(metric).copied();
    let better = |a: f64, b: f64| if more_is_better { a > b } else { a < b };
    runs.iter().filter(|run| value(run).is_some()).reduce(|best, run| match (value(run), value(best)) {
        (Some(a), Some(b)) if better(a, b) => run,
        _ => best,
    })
}

impl Curve {
    pub(super) fn of(runs: &[Done], metric: &str) -> Self {
        let mut sizes: Vec<usize> = runs.iter().filter_map(|run| run.size).collect();
        sizes.sort_unstable();
        sizes.dedup();
        let mut points = Vec::new();
        let split = metric.split_once('/').map_or("test", |(split, _)| split);
        for size in sizes {
            let with = |arm: Arm| runs.iter().filter(move |run| run.size == Some(size) && run.arm == arm);
            for arm in [Arm::HeadStart, Arm::Scratch, Arm::BagOfWords] {
                let each: Vec<f64> = match arm {
                    Arm::BagOfWords => with(Arm::HeadStart).filter_map(|run| of_bow(run, split)).collect(),
                    arm => with(arm).filter_map(|run| run.metrics.get(metric).copied()).collect(),
                };
                if !each.is_empty() {
                    points.push(CurvePoint { size, arm, values: Statistic::new(metric, each) });
                }
            }
        }
        Self { metric: metric.to_owned(), points }
    }

    /// The points of one arm.
    pub fn of_arm(&self, arm: Arm) -> impl Iterator<Item = &CurvePoint> {
        self.points.iter().filter(move |point| point.arm == arm)
    }
}
