//! Two classifiers on the same examples: is one better, or was it luck?
//!
//! Owns: McNemar's test, and the bootstrap of the difference with both drawn together. Never: reads what they said.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::eval::intervals::{Interval, RESAMPLES, draw_cells, middle, stream};
use crate::eval::single::{ClassCounts, macro_f1, share};

/// With fewer examples that one alone has right, the test is exact.
const FEW: u64 = 25;

/// What two classifiers said of the same examples, by class.
#[derive(Clone, Copy, Debug)]
pub struct Outcomes<'a> {
    /// The true classes.
    pub truths: &'a [u32],
    /// What the first said.
    pub first: &'a [u32],
    /// What the second said.
    pub second: &'a [u32],
    /// Classes in all.
    pub classes: usize,
}

/// A metric of both, and what lies between them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Of the first.
    pub first: f64,
    /// Of the second.
    pub second: f64,
    /// The second's less the first's.
    pub difference: f64,
    /// Its 95 % interval: the examples drawn again, for both together.
    pub interval: Option<Interval>,
    /// The share of the draws in which the second is better; where they are equal, half.
    pub second_better: f64,
}

/// McNemar's test (1947): do both err equally often?
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct McNemar {
    /// Examples that only the first has right.
    pub only_first: u64,
    /// Examples that only the second has right.
    pub only_second: u64,
    /// Whether the probability is the binomial's; else it is that of chi-square, corrected for continuity.
    pub exact: bool,
    /// How likely a difference as large is between two that are equally good.
    pub p: f64,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The examples.
    pub examples: u64,
    /// Shares that are right.
    pub accuracy: Difference,
    /// Means of F1.
    pub macro_f1: Difference,
    /// Whether that may be luck.
    pub mcnemar: McNemar,
}

/// Compares them.
///
/// # Panics
/// When they are not equally many, or a class is not below `classes`.
pub fn compare(outcomes: Outcomes<'_>) -> Comparison {
    let Outcomes { truths, first, second, classes } = outcomes;
    assert!(truths.len() == first.len() && truths.len() == second.len(), "answers to the same examples");
    let mut cells: BTreeMap<[u32; 3], u64> = BTreeMap::new();
    for ((&truth, &a), &b) in truths.iter().zip(first).zip(second) {
        *cells.entry([truth, a, b]).or_default() += 1;
    }
    let (cells, counts): (Vec<[u32; 3]>, Vec<u64>) = cells.into_iter().unzip();
    let scores = |counts: &[u64]| {
        let mut of = [vec![ClassCounts::default(); classes], vec![ClassCounts::default(); classes]];
        for ([truth, answers @ ..], &n) in cells.iter().zip(counts) {
            for (of, answer) in of.iter_mut().zip(answers) {
                of[*truth as usize].truths += n;
                of[*answer as usize].guesses += n;
                of[*truth as usize].hits += if truth == answer { n } else { 0 };
            }
        }
        of.map(|of| {
            let right = of.iter().map(|class| class.hits).sum();
            [share(right, truths.len() as u64), macro_f1(&of)]
        })
    };
    let [of_first, of_second] = scores(&counts);
    let mut drawn = vec![0; counts.len()];
    let mut differences = [Vec::new(), Vec::new()];
    for which in 0..RESAMPLES {
        draw_cells(&counts, &mut stream(which), &mut drawn);
        let [a, b] = scores(&drawn);
        differences.iter_mut().zip(a.iter().zip(b)).for_each(|(all, (a, b))| all.push(b - a));
    }
    let [mut accuracies, mut f1s] = differences;
    let difference = |metric: usize, drawn: &mut Vec<f64>| Difference {
        first: of_first[metric],
        second: of_second[metric],
        difference: of_second[metric] - of_first[metric],
        second_better: drawn
            .iter()
            .map(|d| {
                if *d > 0.0 {
                    1.0
                } else if *d < 0.0 {
                    0.0
                } else {
                    0.5
                }
            })
            .sum::<f64>()
            / drawn.len().max(1) as f64,
        interval: middle(drawn),
    };
    let only = |one: usize, other: usize| {
        let alone = |(cell, n): (&[u32; 3], &u64)| {
            if cell[one] == cell[0] && cell[other] != cell[0] { *n } else { 0 }
        };
        cells.iter().zip(&counts).map(alone).sum::<u64>()
    };
    Comparison {
        examples: truths.len() as u64,
        accuracy: difference(0, &mut accuracies),
        macro_f1: difference(1, &mut f1s),
        mcnemar: mcnemar(only(1, 2), only(2, 1)),
    }
}

fn mcnemar(only_first: u64, only_second: u64) -> McNemar {
    let (all, less) = (only_first + only_second, only_first.min(only_second));
    let exact = all < FEW;
    let p = if exact {
        // Both tails of the binomial with one half.
        let mut chance = 0.5_f64.powi(all as i32);
        let mut tail = chance;
        for k in 0..less {
            chance *= (all - k) as f64 / (k + 1) as f64;
            tail += chance;
        }
        (2.0 * tail).min(1.0)
    } else {
        let apart = only_first.abs_diff(only_second) as f64 - 1.0;
        upper_tail_of_chi_square(apart.powi(2) / all as f64)
    };
    McNemar { only_first, only_second, exact, p }
}

/// That of one degree of freedom: `erfc(sqrt(x / 2))`, by the series of the incomplete gamma function or its continued fraction.
fn upper_tail_of_chi_square(x: f64) -> f64 {
    let half = x / 2.0;
    if half <= 0.0 {
        return 1.0;
    }
    // exp(-h) h^(1/2) / gamma(1/2)
    let front = (-half).exp() * half.sqrt() / std::f64::consts::PI.sqrt();
    if half < 1.5 {
        let (mut term, mut sum) = (2.0, 2.0);
        let mut place = 0.5;
        while term > sum * 1e-17 {
            place += 1.0;
            term *= half / place;
            sum += term;
        }
        return 1.0 - front * sum;
    }
    // Lentz's method.
    let mut b = half + 0.5;
    let mut c = 1e300;
    let mut d = 1.0 / b;
    let mut fraction = d;
    for i in 1..500 {
        let a = -f64::from(i) * (f64::from(i) - 0.5);
        b += 2.0;
        d = 1.0 / (a * d + b);
        c = b + a / c;
        fraction *= c * d;
        if (c * d - 1.0).abs() < 1e-16 {
            break;
        }
    }
    front * fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The oracle: `chi2.sf(x, 1)` of SciPy.
    #[test]
    fn the_tail_of_chi_square() {
        let known = [
            (0.01, 0.920_344_325_445_942),
            (1.0, 0.317_310_507_862_914_1),
            (2.9, 0.088_579_552_577_796_22),
            (3.1, 0.078_292_294_146_409_66),
            (3.841_458_820_694_124, 0.05),
            (30.0, 4.320_463_057_827_496e-8),
            (200.0, 2.088_487_583_762_546e-45),
        ];
        for (x, expected) in known {
            let found = upper_tail_of_chi_square(x);
            assert!((found / expected - 1.0).abs() < 1e-9, "{x}: {found} {expected}");
        }
    }

    /// The oracle: `mcnemar` of statsmodels, exact and corrected.
    #[test]
    fn mcnemars_test() {
        for ((b, c), exact, expected) in [
            ((0, 0), true, 1.0),
            ((1, 5), true, 0.21875),
            ((10, 14), true, 0.541_256_189_346_313_5),
            ((0, 6), true, 0.03125),
            ((10, 15), false, 0.423_710_797_166_793_2),
            ((40, 80), false, 0.000_370_577_214_714_587),
        ] {
            let found = mcnemar(b, c);
            assert_eq!((found.only_first, found.only_second, found.exact), (b, c, exact));
            assert!((found.p - expected).abs() < 1e-9, "{b} {c}: {} {expected}", found.p);
        }
    }

    #[test]
    fn a_classifier_is_no_better_than_itself_and_worse_than_the_truth() {
        let truths: Vec<u32> = (0..200).map(|i| i % 3).collect();
        let wrong: Vec<u32> =
            truths.iter().enumerate().map(|(i, t)| if i % 4 == 0 { (t + 1) % 3 } else { *t }).collect();
        let same = compare(Outcomes { truths: &truths, first: &wrong, second: &wrong, classes: 3 });
        assert_eq!((same.mcnemar.p, same.accuracy.difference, same.accuracy.second_better), (1.0, 0.0, 0.5));
        assert_eq!(same.macro_f1.interval, Some([0.0, 0.0]));
        let better = compare(Outcomes { truths: &truths, first: &wrong, second: &truths, classes: 3 });
        assert!(better.mcnemar.p < 1e-9 && better.accuracy.second_better > 0.999, "{better:?}");
        assert_eq!((better.mcnemar.only_first, better.mcnemar.only_second), (0, 50));
        let [low, high] = better.accuracy.interval.unwrap();
        // The binomial's: 0.25 with a deviation of 0.031.
        assert!((low - 0.19).abs() < 0.012 && (high - 0.31).abs() < 0.012, "{low} {high}");
    }
}
