//! Metrics of single labels: from the confusion matrix, and from probabilities.
//!
//! Owns: accuracy, F1, Matthews' correlation, the area under the ROC curve, their intervals. Never: calibration.

use std::collections::BTreeMap;

use crate::eval::answers::{Answers, softmax};
use crate::eval::intervals::{Interval, RESAMPLES, draw_cells, middle, of_no_exception, stream};

/// Counts of one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ClassCounts {
    pub(super) hits: u64,
    pub(super) truths: u64,
    pub(super) guesses: u64,
}

impl ClassCounts {
    /// Of a class that is nowhere, none.
    pub(super) fn f1(self) -> Option<f64> {
        let there = self.truths + self.guesses;
        (there > 0).then(|| 2.0 * self.hits as f64 / there as f64)
    }

    pub(super) fn precision(self) -> f64 {
        share(self.hits, self.guesses)
    }

    pub(super) fn recall(self) -> f64 {
        share(self.hits, self.truths)
    }

    /// Into `metrics`, unless it is nowhere.
    pub(super) fn tell(self, name: &str, metrics: &mut BTreeMap<String, f64>) {
        let Some(f1) = self.f1() else { return };
        metrics.insert(format!("f1/{name}"), f1);
        metrics.insert(format!("precision/{name}"), self.precision());
        metrics.insert(format!("recall/{name}"), self.recall());
    }
}

/// The mean F1 of the classes that occur or are predicted.
pub(super) fn macro_f1(counts: &[ClassCounts]) -> f64 {
    let (mut sum, mut present) = (0.0, 0.0);
    for f1 in counts.iter().filter_map(|counts| counts.f1()) {
        sum += f1;
        present += 1.0;
    }
    sum / f64::max(present, 1.0)
}

pub(super) fn share(of: u64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { of as f64 / all as f64 }
}

pub(super) fn class_name(names: &[String], class: usize) -> String {
    names.get(class).map_or_else(|| class.to_string(), Clone::clone)
}

/// The counts of each class; rows of `confusion` are true classes.
pub(super) fn class_counts(confusion: &[Vec<u64>]) -> Vec<ClassCounts> {
    let mut counts = vec![ClassCounts::default(); confusion.len()];
    for (truth, row) in confusion.iter().enumerate() {
        counts[truth].hits = row[truth];
        for (guess, &n) in row.iter().enumerate() {
            counts[truth].truths += n;
            counts[guess].guesses += n;
        }
    }
    counts
}

/// Accuracy, macro-F1, Matthews' correlation; F1, precision and recall of each class.
pub(super) fn of_confusion(confusion: &[Vec<u64>], names: &[String], metrics: &mut BTreeMap<String, f64>) {
    let counts = class_counts(confusion);
    let (all, right) = totals(&counts);
    metrics.insert("accuracy".into(), right as f64 / all as f64);
    for (class, counts) in counts.iter().enumerate() {
        counts.tell(&class_name(names, class), metrics);
    }
    metrics.insert("macro_f1".into(), macro_f1(&counts));
    metrics.insert("mcc".into(), matthews(&counts));
}

/// Examples, and those that are right.
fn totals(counts: &[ClassCounts]) -> (u64, u64) {
    counts.iter().fold((0, 0), |(all, right), class| (all + class.truths, right + class.hits))
}

/// Matthews' correlation of any number of classes (Gorodkin 2004); 0 where one side has one class only.
fn matthews(counts: &[ClassCounts]) -> f64 {
    let (all, right) = totals(counts);
    let (n, right) = (all as f64, right as f64);
    let sum = |of: &dyn Fn(&ClassCounts) -> f64| counts.iter().map(of).sum::<f64>();
    let both = sum(&|c| c.truths as f64 * c.guesses as f64);
    let guesses = n * n - sum(&|c| (c.guesses as f64).powi(2));
    let truths = n * n - sum(&|c| (c.truths as f64).powi(2));
    if guesses > 0.0 && truths > 0.0 { (right * n - both) / (guesses * truths).sqrt() } else { 0.0 }
}

/// The area under the ROC curve, of two classes; of more the mean over those of each class against all others. `None` where no class has
/// examples on both sides.
pub(super) fn area_under_roc(answers: &Answers) -> Option<f64> {
    let classes = if answers.outputs == 2 { 1..2 } else { 0..answers.outputs };
    let mut row = Vec::new();
    let mut scores = vec![Vec::with_capacity(answers.len()); classes.len()];
    for example in 0..answers.len() {
        softmax(answers.row(example), 1.0, &mut row);
        for (scores, class) in scores.iter_mut().zip(classes.clone()) {
            scores.push((row[class], answers.classes[example] as usize == class));
        }
    }
    let areas: Vec<f64> = scores.iter_mut().filter_map(|scores| area(scores)).collect();
    (!areas.is_empty()).then(|| areas.iter().sum::<f64>() / areas.len() as f64)
}

/// How often an example of the class has a higher score than one that is not (Mann and Whitney); equal ones count half.
pub(super) fn area(scores: &mut [(f64, bool)]) -> Option<f64> {
    let inside = scores.iter().filter(|(_, inside)| *inside).count() as f64;
    let outside = scores.len() as f64 - inside;
    if inside == 0.0 || outside == 0.0 || scores.iter().any(|(score, _)| score.is_nan()) {
        return None;
    }
    scores.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let (mut below, mut won) = (0.0, 0.0);
    for equal in scores.chunk_by(|a, b| a.0.total_cmp(&b.0).is_eq()) {
        let yes = equal.iter().filter(|(_, inside)| *inside).count() as f64;
        let no = equal.len() as f64 - yes;
        won += yes * (below + 0.5 * no);
        below += no;
    }
    Some(won / (inside * outside))
}

/// The intervals of accuracy and macro-F1. Where every answer is right, or wrong, drawing again learns nothing: then there is that of the
/// accuracy alone.
pub(super) fn intervals(confusion: &[Vec<u64>]) -> BTreeMap<String, Interval> {
    let (all, right) = totals(&class_counts(confusion));
    let accuracy = |interval| BTreeMap::from([("accuracy".to_owned(), interval)]);
    if all == 0 {
        return BTreeMap::new();
    }
    if right == 0 || right == all {
        return accuracy(of_no_exception(share(right, all), all));
    }
    let cells = confusion.iter().enumerate();
    let cells = cells.flat_map(|(t, row)| row.iter().enumerate().map(move |(g, &n)| (t, g, n)));
    let cells: Vec<(usize, usize, u64)> = cells.filter(|cell| cell.2 > 0).collect();
    let counts: Vec<u64> = cells.iter().map(|cell| cell.2).collect();
    let (mut accuracies, mut f1s, mut drawn) = (Vec::new(), Vec::new(), vec![0; cells.len()]);
    for which in 0..RESAMPLES {
        draw_cells(&counts, &mut stream(which), &mut drawn);
        let mut classes = vec![ClassCounts::default(); confusion.len()];
        for (&(truth, guess, _), &n) in cells.iter().zip(&drawn) {
            classes[truth].truths += n;
            classes[guess].guesses += n;
            classes[truth].hits += if truth == guess { n } else { 0 };
        }
        accuracies.push(share(totals(&classes).1, all));
        f1s.push(macro_f1(&classes));
    }
    let pairs = [("accuracy", middle(&mut accuracies)), ("macro_f1", middle(&mut f1s))];
    pairs.into_iter().filter_map(|(name, interval)| Some((name.to_owned(), interval?))).collect()
}
