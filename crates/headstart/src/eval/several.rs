//! Metrics of several labels at once, and of numbers.
//!
//! Owns: micro- and macro-F1 over labels, Pearson's and Spearman's correlations, their intervals. Never: single labels.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::eval::answers::Answers;
use crate::eval::intervals::{Interval, RESAMPLES, middle, stream};
use crate::eval::single::{ClassCounts, class_name, macro_f1, share};

/// Answers of a label of an example from here on are yes.
const YES: f32 = 0.5;
/// Draws of more numbers than these take seconds; nothing of so many is far off, and no interval is told.
const MOST_DRAWN: usize = 1 << 20;

/// Counts of one label: not there, missed, told wrongly, told rightly.
pub(super) type LabelCounts = [u64; 4];

/// Where an answer counts.
pub(super) fn place(told: f32, truth: f32) -> usize {
    place_of(told > YES, truth > 0.5)
}

/// The same of yes and no.
pub(super) fn place_of(told: bool, truth: bool) -> usize {
    usize::from(told) * 2 + usize::from(truth)
}

/// Accuracy and micro-F1 over all labels of all examples, macro-F1 over the labels that occur or are told; F1, precision and recall of
/// each label.
pub(super) fn of_labels(counts: &[LabelCounts], names: &[String], metrics: &mut BTreeMap<String, f64>) {
    let (accuracy, micro) = of_sums(counts);
    metrics.insert("accuracy".into(), accuracy);
    metrics.insert("micro_f1".into(), micro);
    let labels: Vec<ClassCounts> = counts.iter().map(class_counts).collect();
    metrics.insert("macro_f1".into(), macro_f1(&labels));
    for (label, counts) in labels.iter().enumerate() {
        counts.tell(&class_name(names, label), metrics);
    }
}

pub(super) fn class_counts(&[_, missed, wrong, hits]: &LabelCounts) -> ClassCounts {
    ClassCounts { hits, truths: hits + missed, guesses: hits + wrong }
}

/// Accuracy and micro-F1 over all labels.
pub(super) fn of_sums(counts: &[LabelCounts]) -> (f64, f64) {
    let sums = counts.iter().fold([0; 4], |mut sums: LabelCounts, label| {
        sums.iter_mut().zip(label).for_each(|(sum, n)| *sum += n);
        sums
    });
    let [no, missed, wrong, hits] = sums.map(|n| n as f64);
    let f1 = if hits > 0.0 { 2.0 * hits / (2.0 * hits + missed + wrong) } else { 0.0 };
    ((no + hits) / (no + missed + wrong + hits), f1)
}

/// The intervals of these three.
pub(super) fn label_intervals(answers: &Answers) -> BTreeMap<String, Interval> {
    let (labels, n) = (answers.outputs, answers.len());
    if n == 0 || n * labels > MOST_DRAWN {
        return BTreeMap::new();
    }
    // As for the metrics: in f32.
    let told = |z: &f32| 1.0 / (1.0 + (-z).exp());
    let places: Vec<u8> =
        answers.rows.iter().zip(&answers.values).map(|(z, t)| place(told(z), *t) as u8).collect();
    let mut drawn: [Vec<f64>; 3] = Default::default();
    for which in 0..RESAMPLES {
        let mut random = stream(which);
        let mut counts = vec![[0; 4]; labels];
        for _ in 0..n {
            let example = random.below(n);
            let row = &places[example * labels..(example + 1) * labels];
            counts.iter_mut().zip(row).for_each(|(counts, &place)| counts[usize::from(place)] += 1);
        }
        let mut metrics = BTreeMap::new();
        of_labels(&counts, &[], &mut metrics);
        for (drawn, name) in drawn.iter_mut().zip(["accuracy", "micro_f1", "macro_f1"]) {
            drawn.push(metrics[name]);
        }
    }
    let names = ["accuracy", "micro_f1", "macro_f1"];
    names
        .into_iter()
        .zip(&mut drawn)
        .filter_map(|(name, drawn)| Some((name.to_owned(), middle(drawn)?)))
        .collect()
}

/// What was told, and what is true, as pairs.
pub(super) fn pairs(answers: &Answers) -> Vec<(f64, f64)> {
    answers.rows.iter().zip(&answers.values).map(|(&v, &t)| (f64::from(v), f64::from(t))).collect()
}

/// Pearson's correlation, and Spearman's, which is that of the ranks. Neither is there where all that is told, or all that is true, is one
/// number: a correlation is not defined then.
pub(super) fn correlations(pairs: &[(f64, f64)], metrics: &mut BTreeMap<String, f64>) {
    let [predicted, truth] = [|p: &(f64, f64)| p.0, |p: &(f64, f64)| p.1]
        .map(|of| ranks(&pairs.iter().map(of).collect::<Vec<_>>()));
    let ranked: Vec<(f64, f64)> = predicted.into_iter().zip(truth).collect();
    for (name, value) in [("pearson", pearson(pairs)), ("spearman", pearson(&ranked))] {
        metrics.extend(value.map(|value| (name.to_owned(), value)));
    }
}

/// The intervals of both.
pub(super) fn correlation_intervals(pairs: &[(f64, f64)]) -> BTreeMap<String, Interval> {
    let n = pairs.len();
    if !(3..=MOST_DRAWN / 8).contains(&n) {
        return BTreeMap::new();
    }
    if pearson(pairs).is_none() {
        return BTreeMap::new();
    }
    let mut of = Correlated::new(pairs);
    let (mut linear, mut of_ranks) = (Vec::new(), Vec::new());
    let mut weights = vec![0_u32; n];
    for which in 0..RESAMPLES {
        let mut random = stream(which);
        weights.fill(0);
        (0..n).for_each(|_| weights[random.below(n)] += 1);
        // Of few examples a draw may have one alone.
        let [pearson, spearman] = of.drawn(&weights);
        linear.extend(pearson);
        of_ranks.extend(spearman);
    }
    let both = [("pearson", middle(&mut linear)), ("spearman", middle(&mut of_ranks))];
    both.into_iter().filter_map(|(name, interval)| Some((name.to_owned(), interval?))).collect()
}

/// Pairs of numbers whose correlations are asked for again and again.
pub(super) struct Correlated<'a> {
    pairs: &'a [(f64, f64)],
    columns: [Vec<f64>; 2],
    orders: [Vec<usize>; 2],
    ranked: Vec<(f64, f64)>,
}

impl<'a> Correlated<'a> {
    pub(super) fn new(pairs: &'a [(f64, f64)]) -> Self {
        let columns =
            [|p: &(f64, f64)| p.0, |p: &(f64, f64)| p.1].map(|of| pairs.iter().map(of).collect::<Vec<_>>());
        let orders = columns.each_ref().map(|column| order(column));
        Self { pairs, columns, orders, ranked: pairs.to_vec() }
    }

    /// Pearson's and Spearman's, each pair as often as its weight says; `None` where they are not defined.
    pub(super) fn drawn(&mut self, weights: &[u32]) -> [Option<f64>; 2] {
        let Self { pairs, columns, orders, ranked } = self;
        weighted_ranks(&columns[0], &orders[0], weights, |at, rank| ranked[at].0 = rank);
        weighted_ranks(&columns[1], &orders[1], weights, |at, rank| ranked[at].1 = rank);
        [weighted_pearson(pairs, weights), weighted_pearson(ranked, weights)]
    }
}

/// `None` where either side is one number everywhere. Asked of the numbers themselves: their variance is not exactly 0 then.
fn pearson(pairs: &[(f64, f64)]) -> Option<f64> {
    if is_constant(pairs.iter()) {
        return None;
    }
    let n = pairs.len() as f64;
    let mean = |f: &dyn Fn(&(f64, f64)) -> f64| pairs.iter().map(f).sum::<f64>() / n;
    let (mx, my) = (mean(&|p| p.0), mean(&|p| p.1));
    let (vx, vy) = (mean(&|p| (p.0 - mx).powi(2)), mean(&|p| (p.1 - my).powi(2)));
    let covariance = mean(&|p| (p.0 - mx) * (p.1 - my));
    (vx > 0.0 && vy > 0.0).then(|| covariance / (vx * vy).sqrt())
}

/// Whether all of the first numbers are one, or all of the second ones.
fn is_constant<'a>(pairs: impl Iterator<Item = &'a (f64, f64)>) -> bool {
    let mut pairs = pairs.peekable();
    let Some(&&(x, y)) = pairs.peek() else { return true };
    let same = |a: f64, b: f64| a.partial_cmp(&b) == Some(Ordering::Equal);
    let (mut xs, mut ys) = (true, true);
    for pair in pairs {
        (xs, ys) = (xs && same(pair.0, x), ys && same(pair.1, y));
        if !xs && !ys {
            return false;
        }
    }
    true
}

/// Each pair as often as its weight says.
fn weighted_pearson(pairs: &[(f64, f64)], weights: &[u32]) -> Option<f64> {
    if is_constant(pairs.iter().zip(weights).filter(|(_, w)| **w > 0).map(|(pair, _)| pair)) {
        return None;
    }
    let there = || pairs.iter().zip(weights).filter(|(_, w)| **w > 0).map(|(p, w)| (*p, f64::from(*w)));
    let n: f64 = there().map(|(_, w)| w).sum();
    let (mx, my) = there().fold((0.0, 0.0), |(x, y), (p, w)| (x + w * p.0 / n, y + w * p.1 / n));
    let (mut vx, mut vy, mut both) = (0.0, 0.0, 0.0);
    for ((x, y), w) in there() {
        vx += w * (x - mx).powi(2);
        vy += w * (y - my).powi(2);
        both += w * (x - mx) * (y - my);
    }
    (vx > 0.0 && vy > 0.0).then(|| both / (vx * vy).sqrt())
}

fn order(numbers: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..numbers.len()).collect();
    order.sort_by(|&a, &b| numbers[a].total_cmp(&numbers[b]));
    order
}

/// Whether the places of two numbers are one. 0 and -0 are the same number.
fn tied(numbers: &[f64], a: usize, b: usize) -> bool {
    numbers[a].partial_cmp(&numbers[b]) == Some(Ordering::Equal)
}

/// The rank of each number, from 1; equal ones have the mean of their places.
fn ranks(numbers: &[f64]) -> Vec<f64> {
    let mut ranks = vec![0.0; numbers.len()];
    weighted_ranks(numbers, &order(numbers), &vec![1; numbers.len()], |at, rank| ranks[at] = rank);
    ranks
}

/// The same where each number stands there as often as its weight says.
fn weighted_ranks(numbers: &[f64], order: &[usize], weights: &[u32], mut tell: impl FnMut(usize, f64)) {
    let mut before = 0;
    for tied in order.chunk_by(|&a, &b| tied(numbers, a, b)) {
        let here: usize = tied.iter().map(|&at| weights[at] as usize).sum();
        let rank = before as f64 + f64::midpoint(1.0, here as f64);
        for &at in tied {
            tell(at, rank);
        }
        before += here;
    }
}

/// The share of the examples whose labels are all as they should be.
pub(super) fn exact(answers: &Answers) -> f64 {
    let told = |z: &f32| 1.0 / (1.0 + (-z).exp());
    let rows = answers.rows.chunks_exact(answers.outputs).zip(answers.values.chunks_exact(answers.outputs));
    let right =
        rows.filter(|(row, truth)| row.iter().zip(*truth).all(|(z, t)| [0, 3].contains(&place(told(z), *t))));
    share(right.count() as u64, answers.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The oracle: `spearmanr`, `pearsonr` and `rankdata` of SciPy.
    #[test]
    fn ties_share_the_mean_of_their_ranks() {
        let (x, y) = ([1.0, 2.0, 2.0, 4.0, 0.5, 2.0, -1.0], [2.0, 1.0, 3.0, 3.0, 0.0, 5.0, -0.0]);
        assert_eq!(ranks(&x), [3.0, 5.0, 5.0, 7.0, 2.0, 5.0, 1.0]);
        assert_eq!(ranks(&y), [4.0, 3.0, 5.5, 5.5, 1.5, 7.0, 1.5]);
        let mut metrics = BTreeMap::new();
        correlations(&x.into_iter().zip(y).collect::<Vec<_>>(), &mut metrics);
        assert!((metrics["spearman"] - 0.773_722_639_998_807_2).abs() < 1e-12, "{metrics:?}");
        assert!((metrics["pearson"] - 0.645_942_241_466_167_3).abs() < 1e-12, "{metrics:?}");
    }

    /// A weight is as good as so many copies.
    #[test]
    fn weights_are_copies() {
        let pairs = [(1.0, 2.0), (2.0, 1.0), (2.0, 3.0), (4.0, 3.0), (0.5, 0.0)];
        let weights = [2, 0, 3, 1, 1];
        let copies: Vec<(f64, f64)> =
            pairs.iter().zip(weights).flat_map(|(p, w)| vec![*p; w as usize]).collect();
        let [weighted, copied] = [weighted_pearson(&pairs, &weights), pearson(&copies)].map(Option::unwrap);
        assert!((weighted - copied).abs() < 1e-12);
        let column: Vec<f64> = pairs.iter().map(|p| p.0).collect();
        let mut found = [0.0; 5];
        weighted_ranks(&column, &order(&column), &weights, |at, rank| found[at] = rank);
        let all = ranks(&copies.iter().map(|p| p.0).collect::<Vec<_>>());
        // The copies of 1, of 2, of 4, of 0.5.
        for (found, all) in [(found[0], all[0]), (found[2], all[2]), (found[3], all[5]), (found[4], all[6])] {
            assert!((found - all).abs() < 1e-12, "{found} {all}");
        }
    }

    #[test]
    fn one_number_everywhere_has_no_correlation() {
        // The mean of so many 0.1 is not 0.1, and their variance not 0.
        let rising = (0..9).map(f64::from);
        let flat: Vec<(f64, f64)> = rising.map(|x| (x, 0.1)).collect();
        let turned: Vec<(f64, f64)> = flat.iter().map(|&(x, y)| (y, x)).collect();
        for pairs in [flat, turned, vec![(1.0, 2.0)], Vec::new()] {
            let mut metrics = BTreeMap::new();
            correlations(&pairs, &mut metrics);
            assert!(metrics.is_empty() && correlation_intervals(&pairs).is_empty(), "{metrics:?}");
        }
        // Some draws of few examples have one number alone; the interval is that of the others.
        let found = correlation_intervals(&[(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)]);
        assert!(found["pearson"].iter().all(|end| (end - 1.0).abs() < 1e-9), "{found:?}");
    }

    #[test]
    fn a_perfect_correlation_has_a_narrow_interval() {
        let exact: Vec<(f64, f64)> = (0..50).map(|i| (f64::from(i), f64::from(2 * i))).collect();
        let found = correlation_intervals(&exact);
        for name in ["pearson", "spearman"] {
            assert!(found[name].iter().all(|end| (end - 1.0).abs() < 1e-9), "{found:?}");
        }
    }
}
