//! Two models on the same examples: is one better, or was it luck?
//!
//! Owns: McNemar's test, and the bootstrap of the difference with both drawn together. Never: reads what they said.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::eval::intervals::{Interval, RESAMPLES, draw_cells, middle, stream};
use crate::eval::several::{Correlated, LabelCounts, class_counts, of_sums, place_of};
use crate::eval::single::{ClassCounts, macro_f1, share};

/// With fewer examples that one alone has right, the test is exact.
const FEW: u64 = 25;

/// What two models said of the same examples, and what is true.
#[derive(Clone, Copy, Debug)]
pub struct Outcomes<'a, T> {
    /// What is true.
    pub truths: &'a [T],
    /// What the first said.
    pub first: &'a [T],
    /// What the second said.
    pub second: &'a [T],
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
    /// By name: `accuracy` and `macro_f1` of classes; `exact_match`, `accuracy`, `micro_f1` and `macro_f1` of several labels at once; `pearson`, `spearman`
    /// and `mse` of numbers.
    #[serde(flatten)]
    pub metrics: BTreeMap<String, Difference>,
    /// Whether that may be luck: of classes, and of examples that have all of several labels right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mcnemar: Option<McNemar>,
}

/// Compares what was said of classes, each below `classes`.
///
/// # Panics
/// When they are not equally many, or a class is not below `classes`.
pub fn compare_classes(outcomes: Outcomes<'_, u32>, classes: usize) -> Comparison {
    let Outcomes { truths, first, second } = outcomes;
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
    let mut drawn = vec![0; counts.len()];
    let draws = (0..RESAMPLES).map(|which| {
        draw_cells(&counts, &mut stream(which), &mut drawn);
        scores(&drawn)
    });
    let only = |one: usize, other: usize| {
        let alone = |(cell, n): (&[u32; 3], &u64)| {
            if cell[one] == cell[0] && cell[other] != cell[0] { *n } else { 0 }
        };
        cells.iter().zip(&counts).map(alone).sum::<u64>()
    };
    Comparison {
        examples: truths.len() as u64,
        metrics: differences(["accuracy", "macro_f1"], scores(&counts), draws),
        mcnemar: Some(mcnemar(only(1, 2), only(2, 1))),
    }
}

/// Compares what was said of so many labels at once, of each example one after the other.
///
/// # Panics
/// When they are not equally many.
pub fn compare_labels(outcomes: Outcomes<'_, bool>, labels: usize) -> Comparison {
    let Outcomes { truths, first, second } = outcomes;
    assert!(truths.len() == first.len() && truths.len() == second.len(), "answers to the same examples");
    let n = truths.len() / labels.max(1);
    let places = [first, second]
        .map(|told| told.iter().zip(truths).map(|(&told, &truth)| place_of(told, truth)).collect::<Vec<_>>());
    let rows = |which: usize, example: usize| &places[which][example * labels..(example + 1) * labels];
    let right =
        |which: usize, example: usize| rows(which, example).iter().all(|place| [0, 3].contains(place));
    let scores = |examples: &mut dyn Iterator<Item = usize>| {
        let mut counts: [Vec<LabelCounts>; 2] = [vec![[0; 4]; labels], vec![[0; 4]; labels]];
        let mut exact = [0; 2];
        for example in examples {
            for which in 0..2 {
                let row = rows(which, example).iter();
                counts[which].iter_mut().zip(row).for_each(|(counts, &place)| counts[place] += 1);
                exact[which] += u64::from(right(which, example));
            }
        }
        [0, 1].map(|which| {
            let classes: Vec<ClassCounts> = counts[which].iter().map(class_counts).collect();
            let (accuracy, micro) = of_sums(&counts[which]);
            [share(exact[which], n as u64), accuracy, micro, macro_f1(&classes)]
        })
    };
    let draws = (0..RESAMPLES).map(|which| {
        let mut random = stream(which);
        scores(&mut (0..n).map(|_| random.below(n)))
    });
    let only =
        |one, other| (0..n).filter(|&example| right(one, example) && !right(other, example)).count() as u64;
    Comparison {
        examples: n as u64,
        metrics: differences(["exact_match", "accuracy", "micro_f1", "macro_f1"], scores(&mut (0..n)), draws),
        mcnemar: Some(mcnemar(only(0, 1), only(1, 0))),
    }
}

/// Compares numbers.
///
/// # Panics
/// When they are not equally many.
pub fn compare_numbers(outcomes: Outcomes<'_, f64>) -> Comparison {
    let Outcomes { truths, first, second } = outcomes;
    assert!(truths.len() == first.len() && truths.len() == second.len(), "answers to the same examples");
    let n = truths.len();
    let pairs =
        [first, second].map(|told| told.iter().copied().zip(truths.iter().copied()).collect::<Vec<_>>());
    let mut of = pairs.each_ref().map(|pairs| Correlated::new(pairs));
    let mut scores = |weights: &[u32]| {
        let error = |pairs: &[(f64, f64)]| {
            let squares =
                pairs.iter().zip(weights).map(|((told, truth), w)| f64::from(*w) * (told - truth).powi(2));
            squares.sum::<f64>() / n as f64
        };
        [0, 1].map(|which| {
            // What is not defined is no number, and left out below.
            let [pearson, spearman] = of[which].drawn(weights).map(|found| found.unwrap_or(f64::NAN));
            [pearson, spearman, error(&pairs[which])]
        })
    };
    let found = scores(&vec![1; n]);
    let mut weights = vec![0; n];
    let draws = (0..if n < 3 { 0 } else { RESAMPLES }).map(|which| {
        let mut random = stream(which);
        weights.fill(0);
        (0..n).for_each(|_| weights[random.below(n)] += 1);
        scores(&weights)
    });
    let metrics = differences(["pearson", "spearman", "mse"], found, draws);
    Comparison { examples: n as u64, metrics, mcnemar: None }
}

/// What lies between two in each metric, by both of the examples as they are, and both of each draw.
fn differences<const N: usize>(
    names: [&str; N],
    [first, second]: [[f64; N]; 2],
    draws: impl Iterator<Item = [[f64; N]; 2]>,
) -> BTreeMap<String, Difference> {
    let mut drawn = [const { Vec::new() }; N];
    for [a, b] in draws {
        let apart = a.iter().zip(b).map(|(a, b)| b - a);
        drawn.iter_mut().zip(apart).filter(|(_, d)| !d.is_nan()).for_each(|(all, d)| all.push(d));
    }
    let difference = |(at, name): (usize, &str)| {
        let better = |d: f64| {
            let d = if name == "mse" { -d } else { d };
            if d > 0.0 {
                1.0
            } else if d < 0.0 {
                0.0
            } else {
                0.5
            }
        };
        let (drawn, apart) = (&mut drawn[at], second[at] - first[at]);
        let second_better = if drawn.is_empty() {
            better(apart)
        } else {
            drawn.iter().map(|d| better(*d)).sum::<f64>() / drawn.len() as f64
        };
        let found = Difference {
            first: first[at],
            second: second[at],
            difference: apart,
            interval: middle(drawn),
            second_better,
        };
        (name.to_owned(), found)
    };
    let defined = |(at, _): &(usize, &str)| !(first[*at].is_nan() || second[*at].is_nan());
    names.into_iter().enumerate().filter(defined).map(difference).collect()
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
        let against = |second| compare_classes(Outcomes { truths: &truths, first: &wrong, second }, 3);
        let same = against(&wrong);
        let (test, accuracy) = (same.mcnemar.unwrap(), same.metrics["accuracy"]);
        assert_eq!((test.p, accuracy.difference, accuracy.second_better), (1.0, 0.0, 0.5));
        assert_eq!(same.metrics["macro_f1"].interval, Some([0.0, 0.0]));
        let better = against(&truths);
        let (test, accuracy) = (better.mcnemar.unwrap(), better.metrics["accuracy"]);
        assert!(test.p < 1e-9 && accuracy.second_better > 0.999, "{better:?}");
        assert_eq!((test.only_first, test.only_second), (0, 50));
        let [low, high] = accuracy.interval.unwrap();
        // The binomial's: 0.25 with a deviation of 0.031.
        assert!((low - 0.19).abs() < 0.012 && (high - 0.31).abs() < 0.012, "{low} {high}");
    }

    #[test]
    fn several_labels_are_right_together() {
        // The second label is missed in every fifth example by the first, which has all others right, and always by the second.
        let truths: Vec<bool> = (0..300).map(|i| i % 3 != 0).collect();
        let first: Vec<bool> = truths.iter().enumerate().map(|(i, t)| *t && i % 15 != 1).collect();
        let second: Vec<bool> = truths.iter().enumerate().map(|(i, t)| *t && i % 3 != 1).collect();
        let found = compare_labels(Outcomes { truths: &truths, first: &first, second: &second }, 3);
        let [exact, micro, f1] = ["exact_match", "micro_f1", "macro_f1"].map(|name| found.metrics[name]);
        assert_eq!((found.examples, exact.first, exact.second), (100, 0.8, 0.0));
        // 180 hits and 20 misses; 100 and 100.
        assert!((micro.first - 360.0 / 380.0).abs() < 1e-12 && (micro.second - 200.0 / 300.0).abs() < 1e-12);
        assert!((found.metrics["accuracy"].second - 2.0 / 3.0).abs() < 1e-12);
        // The first label is nowhere.
        let of_second_label = 160.0 / 180.0;
        assert!((f1.first - f64::midpoint(of_second_label, 1.0)).abs() < 1e-12, "{f1:?}");
        let test = found.mcnemar.unwrap();
        assert_eq!((test.only_first, test.only_second), (80, 0));
        let [low, high] = exact.interval.unwrap();
        assert!(low < -0.8 && high > -0.8 && exact.second_better < 1e-9, "{exact:?}");
    }

    #[test]
    fn of_numbers_the_smaller_error_is_the_better_one() {
        let truths: Vec<f64> = (0..60).map(f64::from).collect();
        let near: Vec<f64> = truths.iter().map(|t| t + if t % 2.0 < 1.0 { 3.0 } else { -3.0 }).collect();
        let far: Vec<f64> = truths.iter().map(|t| t * 0.5).collect();
        let found = compare_numbers(Outcomes { truths: &truths, first: &far, second: &near });
        let [pearson, error] = ["pearson", "mse"].map(|name| found.metrics[name]);
        assert!((pearson.first - 1.0).abs() < 1e-12 && pearson.second < 0.99 && pearson.second_better < 1e-9);
        assert!((error.second - 9.0).abs() < 1e-12 && error.second_better > 0.999, "{error:?}");
        assert_eq!(found.mcnemar, None);
        let few = compare_numbers(Outcomes { truths: &[1.0, 2.0], first: &[1.0, 2.0], second: &[2.0, 1.0] });
        assert_eq!((few.metrics["mse"].interval, few.metrics["mse"].second_better), (None, 0.0));
    }
}
