//! Evaluation: the metrics of a data set under a model: loss, perplexities, accuracy, F1, confusion.
//!
//! Owns: what is reported and how it is computed. Never: changes a weight.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use headstart_engine::{Precision, Tape, Weights};

use crate::batch::{Batch, Examples, Label, TokenTargets, evaluation_mask_key};
use crate::config::Problem;
use crate::device::{Device, in_parts_that_fit};
use crate::error::Result;
use crate::event::{Event, Listener, Signal};
use crate::model::Model;
use crate::objective::{Denominators, Objective, Sums, probabilities, sums_of_ranks};
use crate::ranks::Ranks;

/// The size of the text behind a language-model split, for perplexities of words and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TextSize {
    /// Words as the tutorial counts them.
    pub words: u64,
    /// Bytes of UTF-8.
    pub bytes: u64,
    /// Tokens, the dropped tail included.
    pub tokens: u64,
}

/// An evaluation's result.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Evaluation {
    /// Which split was evaluated: "valid", "test", "train".
    pub split: String,
    /// Metrics by name.
    pub metrics: BTreeMap<String, f64>,
    /// Rows: true class; columns: predicted class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confusion: Option<Vec<Vec<u64>>>,
    /// Class names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
}

/// What is needed to run a model over examples.
#[derive(Clone, Copy, Debug)]
pub struct Evaluator<'a> {
    /// Where.
    pub device: &'a Device,
    /// The ranks that share the examples; every one of them has the metrics of all.
    pub ranks: &'a Ranks,
    /// The model.
    pub model: &'a Model,
    /// Its weights.
    pub weights: &'a Weights,
    /// f32 or bf16 products.
    pub precision: Precision,
    /// The losses and their weights.
    pub objective: &'a Objective,
    /// What the token loss predicts.
    pub targets: TokenTargets,
    /// Sequences at a time; does not change the result.
    pub batch_size: usize,
}

impl Evaluator<'_> {
    /// The metrics of `examples`; `None` when the listener asked to stop before they were whole.
    ///
    /// # Errors
    /// What goes wrong on the device.
    pub fn run(
        &self,
        split: &str,
        examples: &Examples<'_>,
        text: Option<TextSize>,
        class_names: &[String],
        listener: &mut Listener<'_>,
    ) -> Result<Option<Evaluation>> {
        let problem = self.model.config().head.as_ref().map(|h| h.problem);
        let classes = self.model.config().head.as_ref().map_or(0, |h| h.num_classes);
        let mut scores = Scores::new(if problem == Some(Problem::SingleLabel) { classes } else { 0 });
        let own = self.own_part(examples, problem, classes, &mut scores, listener)?;
        let counts = own.as_ref().map(|(_, counts)| &counts[..]);
        let (Some(parts), Some(counts)) = (
            sums_of_ranks(own.as_ref().map(|(parts, _)| &parts[..]), self.ranks)?,
            Denominators::of_ranks(counts, self.ranks)?,
        ) else {
            return Ok(None);
        };
        scores.add_other_ranks(self.ranks)?;
        // Slab by slab and batch by batch in the order of the examples, whoever computed them.
        let (mut sums, mut totals) = (Sums::default(), Denominators { lm: 0.0, clf: 0.0 });
        for part in &parts {
            sums.add(part);
        }
        for count in &counts {
            totals.lm += count.lm;
            totals.clf += count.clf;
        }
        let mut metrics = BTreeMap::new();
        metrics.insert("loss".to_owned(), self.objective.loss(&sums, totals));
        if self.objective.lm > 0.0 && totals.lm > 0.0 {
            self.token_metrics(&sums, totals, examples, text, &mut metrics);
        }
        let mut confusion = None;
        match problem.filter(|_| totals.clf > 0.0) {
            None => {}
            Some(Problem::SingleLabel) => {
                metrics.insert("nll_clf".into(), sums.clf.sum / totals.clf);
                scores.class_metrics(class_names, &mut metrics);
                confusion = Some(scores.confusion);
            }
            Some(Problem::MultiLabel) => scores.multi_label_metrics(&mut metrics),
            Some(Problem::Regression) => {
                metrics.insert("mse".into(), sums.clf.sum / totals.clf);
                scores.correlations(&mut metrics);
            }
        }
        Ok(Some(Evaluation { split: split.into(), metrics, confusion, labels: class_names.to_vec() }))
    }

    /// The sums of this rank's slabs and the denominators of its batches; counts its predictions. `None` when the listener
    /// asked to stop before they were whole.
    fn own_part(
        &self,
        examples: &Examples<'_>,
        problem: Option<Problem>,
        classes: usize,
        scores: &mut Scores,
        listener: &mut Listener<'_>,
    ) -> Result<Option<(Vec<Sums>, Vec<Denominators>)>> {
        let (mut sums, mut counts) = (Vec::new(), Vec::new());
        let own = self.ranks.share_of(examples.len().div_ceil(self.batch_size));
        let begin = own.start * self.batch_size;
        let total = examples.len().min(own.end * self.batch_size).saturating_sub(begin);
        for batch in own {
            let first = batch * self.batch_size;
            let batch = self.batch(examples, first);
            let denominators = self.objective.denominators(&batch);
            counts.push(denominators);
            let forward = |listener: &mut Listener<'_>| self.forward(&batch, denominators, listener);
            let Some((parts, rows)) = in_parts_that_fit(self.device, listener, forward)? else {
                return Ok(None);
            };
            sums.extend(parts);
            if let Some(problem) = problem {
                for (sequence, row) in batch.sequences.iter().zip(rows.chunks_exact(classes.max(1))) {
                    scores.count(row, sequence.label.as_ref(), problem);
                }
            }
            let done = first - begin + batch.sequences.len();
            let event = Event::Progress { what: "evaluating", done: done as u64, total: total as u64 };
            if listener(event) == Signal::Stop && done < total {
                return Ok(None);
            }
        }
        Ok(Some((sums, counts)))
    }

    /// The sums of each slab, and the logits of its sequences where there is a head; `None` when the listener asked to
    /// stop.
    fn forward(
        &self,
        batch: &Batch,
        denominators: Denominators,
        listener: &mut Listener<'_>,
    ) -> Option<(Vec<Sums>, Vec<f32>)> {
        let (mut parts, mut rows) = (Vec::new(), Vec::new());
        for slab in batch.slabs(self.device.slab_tokens()) {
            if listener(Event::Waiting) == Signal::Stop {
                return None;
            }
            let mut tape = Tape::inference(self.device, self.weights, &slab.packing, self.precision);
            let (mut part, logits) = self.objective.forward(self.model, &mut tape, &slab, denominators);
            part.wait();
            parts.push(part);
            rows.extend(logits.iter().flat_map(headstart_engine::Tensor::to_f32_vec));
        }
        Some((parts, rows))
    }

    fn batch(&self, examples: &Examples<'_>, first: usize) -> Batch {
        let last = examples.len().min(first + self.batch_size);
        let sequence = |i: usize| examples.sequence(i, &self.targets, evaluation_mask_key(i));
        Batch { sequences: (first..last).map(sequence).collect() }
    }

    /// nll, perplexity and, for next-token prediction of a text, word perplexity and bits per byte.
    fn token_metrics(
        &self,
        sums: &Sums,
        totals: Denominators,
        examples: &Examples<'_>,
        text: Option<TextSize>,
        metrics: &mut BTreeMap<String, f64>,
    ) {
        let nll = sums.lm.sum / totals.lm;
        metrics.insert("nll".into(), nll);
        metrics.insert("ppl".into(), nll.exp());
        metrics.insert("token_accuracy".into(), sums.lm.correct as f64 / totals.lm);
        if let (Some(text), TokenTargets::Next) = (text, self.targets) {
            // The tutorial's definition: the mean nll times the tokens of all blocks, over all words.
            let block_tokens: usize = examples.ids.iter().map(|ids| ids.len()).sum();
            metrics.insert("word_ppl".into(), (nll * block_tokens as f64 / text.words as f64).exp());
            let bits = nll * text.tokens as f64 / std::f64::consts::LN_2;
            metrics.insert("bits_per_byte".into(), bits / text.bytes as f64);
        }
    }
}

/// The metrics of a classifier that is no transformer: a row of probabilities for each example, and its class.
pub fn of_probabilities(split: &str, rows: &[Vec<f64>], classes: &[u32], labels: &[String]) -> Evaluation {
    let mut scores = Scores::new(labels.len());
    let mut nll = 0.0;
    for (row, &class) in rows.iter().zip(classes) {
        // Of equal ones the first.
        let best = (1..row.len()).fold(0, |best, other| if row[other] > row[best] { other } else { best });
        scores.confusion[class as usize][best] += 1;
        nll -= row[class as usize].max(f64::MIN_POSITIVE).ln();
    }
    let mean = nll / rows.len() as f64;
    let mut metrics = BTreeMap::from([("loss".to_owned(), mean), ("nll_clf".to_owned(), mean)]);
    scores.class_metrics(labels, &mut metrics);
    Evaluation { split: split.into(), metrics, confusion: Some(scores.confusion), labels: labels.to_vec() }
}

/// The names of the metrics that an evaluation of classes, or of numbers, has; `tokens`: whether it has the loss of tokens, too.
pub fn metric_names(problem: Problem, class_names: &[String], tokens: bool) -> Vec<String> {
    let mut metrics = BTreeMap::from([("loss".to_owned(), 0.0)]);
    if tokens {
        metrics.extend(["nll", "ppl", "token_accuracy"].map(|name| (name.to_owned(), 0.0)));
    }
    let mut scores = Scores::new(if problem == Problem::SingleLabel { class_names.len() } else { 0 });
    match problem {
        Problem::SingleLabel => {
            metrics.insert("nll_clf".into(), 0.0);
            // A class that is nowhere has no metrics.
            (0..class_names.len()).for_each(|class| scores.confusion[class][class] = 1);
            scores.class_metrics(class_names, &mut metrics);
        }
        Problem::MultiLabel => scores.multi_label_metrics(&mut metrics),
        Problem::Regression => {
            metrics.insert("mse".into(), 0.0);
            scores.correlations(&mut metrics);
        }
    }
    metrics.into_keys().collect()
}

/// Whether less of a metric is better.
pub fn is_better_low(metric: &str) -> bool {
    let low =
        ["loss", "nll", "nll_clf", "ppl", "word_ppl", "bits_per_byte", "mse", "mae", "rmse", "ece", "brier"];
    low.contains(&metric)
}

/// Predictions against truths.
#[derive(Debug)]
struct Scores {
    confusion: Vec<Vec<u64>>,
    multi_label: [u64; 4],
    pairs: Vec<(f64, f64)>,
}

impl Scores {
    fn new(classes: usize) -> Self {
        Self { confusion: vec![vec![0; classes]; classes], multi_label: [0; 4], pairs: Vec::new() }
    }

    /// Adds what other ranks counted, in the order of ranks.
    fn add_other_ranks(&mut self, ranks: &Ranks) -> Result<()> {
        if ranks.collective().is_alone() {
            return Ok(());
        }
        let counts = self.confusion.iter().flatten().chain(&self.multi_label).copied();
        let numbers = self.pairs.iter().flat_map(|(value, truth)| [value.to_bits(), truth.to_bits()]);
        let mine: Vec<u64> = counts.chain(numbers).collect();
        let classes = self.confusion.len();
        *self = Self::new(classes);
        for bytes in ranks.collective().gather(bytemuck::cast_slice(&mine))? {
            let numbers = bytemuck::pod_collect_to_vec::<u8, u64>(&bytes);
            let (counts, pairs) = numbers.split_at(classes * classes + self.multi_label.len());
            let places = self.confusion.iter_mut().flatten().chain(&mut self.multi_label);
            places.zip(counts).for_each(|(place, count)| *place += count);
            let pair = |[value, truth]: &[u64; 2]| (f64::from_bits(*value), f64::from_bits(*truth));
            self.pairs.extend(pairs.as_chunks().0.iter().map(pair));
        }
        Ok(())
    }

    fn count(&mut self, logits: &[f32], label: Option<&Label>, problem: Problem) {
        let (values, best) = probabilities(logits, problem);
        match (label, problem) {
            (Some(Label::Class(class)), Problem::SingleLabel) => self.confusion[*class as usize][best] += 1,
            (Some(Label::Values(truth)), Problem::MultiLabel) => {
                for (p, t) in values.iter().zip(truth) {
                    self.multi_label[usize::from(*p > 0.5) * 2 + usize::from(*t > 0.5)] += 1;
                }
            }
            (Some(Label::Values(truth)), Problem::Regression) => {
                self.pairs.extend(values.iter().zip(truth).map(|(&v, &t)| (f64::from(v), f64::from(t))));
            }
            _ => {}
        }
    }

    /// Accuracy, macro-F1 (over the classes that occur or are predicted), per-class precision and recall; of two classes F1, too,
    /// which is what such tasks report of the one that is looked for (GLUE's MRPC: `f1/1`).
    fn class_metrics(&self, names: &[String], metrics: &mut BTreeMap<String, f64>) {
        let total: u64 = self.confusion.iter().flatten().sum();
        let right: u64 = (0..self.confusion.len()).map(|k| self.confusion[k][k]).sum();
        metrics.insert("accuracy".into(), right as f64 / total as f64);
        let (mut f1_sum, mut present) = (0.0, 0.0);
        for (k, row) in self.confusion.iter().enumerate() {
            let hits = row[k] as f64;
            let truths: u64 = row.iter().sum();
            let guesses: u64 = self.confusion.iter().map(|row| row[k]).sum();
            if truths + guesses == 0 {
                continue;
            }
            let share = |of: u64| if of == 0 { 0.0 } else { hits / of as f64 };
            let f1 = 2.0 * hits / (truths + guesses) as f64;
            f1_sum += f1;
            present += 1.0;
            let name = names.get(k).map_or_else(|| k.to_string(), Clone::clone);
            if self.confusion.len() == 2 {
                metrics.insert(format!("f1/{name}"), f1);
            }
            metrics.insert(format!("precision/{name}"), share(guesses));
            metrics.insert(format!("recall/{name}"), share(truths));
        }
        metrics.insert("macro_f1".into(), f1_sum / f64::max(present, 1.0));
    }

    /// Accuracy and micro-F1 over all classes of all examples.
    fn multi_label_metrics(&self, metrics: &mut BTreeMap<String, f64>) {
        let [true_no, missed, false_yes, hits] = self.multi_label.map(|n| n as f64);
        metrics.insert("accuracy".into(), (true_no + hits) / (true_no + missed + false_yes + hits));
        let f1 = if hits > 0.0 { 2.0 * hits / (2.0 * hits + missed + false_yes) } else { 0.0 };
        metrics.insert("micro_f1".into(), f1);
    }

    /// Pearson's correlation, and Spearman's, which is that of the ranks.
    fn correlations(&self, metrics: &mut BTreeMap<String, f64>) {
        metrics.insert("pearson".into(), pearson(&self.pairs));
        let [predicted, truth] = [|p: &(f64, f64)| p.0, |p: &(f64, f64)| p.1]
            .map(|of| ranks(&self.pairs.iter().map(of).collect::<Vec<_>>()));
        metrics.insert("spearman".into(), pearson(&predicted.into_iter().zip(truth).collect::<Vec<_>>()));
    }
}

fn pearson(pairs: &[(f64, f64)]) -> f64 {
    let n = pairs.len() as f64;
    let mean = |f: &dyn Fn(&(f64, f64)) -> f64| pairs.iter().map(f).sum::<f64>() / n;
    let (mx, my) = (mean(&|p| p.0), mean(&|p| p.1));
    let (vx, vy) = (mean(&|p| (p.0 - mx).powi(2)), mean(&|p| (p.1 - my).powi(2)));
    let covariance = mean(&|p| (p.0 - mx) * (p.1 - my));
    if vx > 0.0 && vy > 0.0 { covariance / (vx * vy).sqrt() } else { 0.0 }
}

/// The rank of each number, from 1; equal ones have the mean of their places.
fn ranks(numbers: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..numbers.len()).collect();
    order.sort_by(|&a, &b| numbers[a].total_cmp(&numbers[b]));
    let mut ranks = vec![0.0; numbers.len()];
    let mut before = 0;
    // 0 and -0 are the same number.
    for tied in order.chunk_by(|&a, &b| numbers[a].partial_cmp(&numbers[b]) == Some(Ordering::Equal)) {
        let rank = before as f64 + f64::midpoint(1.0, tied.len() as f64);
        for &at in tied {
            ranks[at] = rank;
        }
        before += tied.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_figures_are_those_of_the_textbook() {
        let mut scores = Scores::new(3);
        for (truth, guess) in [(0, 0), (0, 0), (0, 1), (1, 1), (1, 0)] {
            let mut logits = [0.0; 3];
            logits[guess] = 1.0;
            scores.count(&logits, Some(&Label::Class(truth)), Problem::SingleLabel);
        }
        let mut metrics = BTreeMap::new();
        scores.class_metrics(&["a".into(), "b".into(), "c".into()], &mut metrics);
        let is = |name: &str, value: f64| assert!((metrics[name] - value).abs() < 1e-12, "{name}");
        is("accuracy", 0.6);
        is("precision/a", 2.0 / 3.0);
        is("recall/a", 2.0 / 3.0);
        is("precision/b", 0.5);
        is("recall/b", 0.5);
        is("macro_f1", f64::midpoint(2.0 / 3.0, 0.5));
        assert!(!metrics.contains_key("recall/c"), "a class that is nowhere has no metrics");
        assert!(!metrics.contains_key("f1/a"));
    }

    #[test]
    fn marks_and_numbers() {
        let mut scores = Scores::new(0);
        scores.count(&[2.0, -2.0, 2.0], Some(&Label::Values(vec![1.0, 1.0, 0.0])), Problem::MultiLabel);
        let mut metrics = BTreeMap::new();
        scores.multi_label_metrics(&mut metrics);
        assert!((metrics["accuracy"] - 1.0 / 3.0).abs() < 1e-12 && (metrics["micro_f1"] - 0.5).abs() < 1e-12);
        for x in [1.0, 2.0, 4.0] {
            scores.count(&[x], Some(&Label::Values(vec![3.0 - 2.0 * x])), Problem::Regression);
        }
        scores.correlations(&mut metrics);
        assert!((metrics["pearson"] + 1.0).abs() < 1e-12 && (metrics["spearman"] + 1.0).abs() < 1e-12);
    }

    /// The oracle: `spearmanr`, `pearsonr` and `rankdata` of SciPy.
    #[test]
    fn ties_share_the_mean_of_their_ranks() {
        let (x, y) = ([1.0, 2.0, 2.0, 4.0, 0.5, 2.0, -1.0], [2.0, 1.0, 3.0, 3.0, 0.0, 5.0, -0.0]);
        assert_eq!(ranks(&x), [3.0, 5.0, 5.0, 7.0, 2.0, 5.0, 1.0]);
        assert_eq!(ranks(&y), [4.0, 3.0, 5.5, 5.5, 1.5, 7.0, 1.5]);
        let scores = Scores { pairs: x.into_iter().zip(y).collect(), ..Scores::new(0) };
        let mut metrics = BTreeMap::new();
        scores.correlations(&mut metrics);
        assert!((metrics["spearman"] - 0.773_722_639_998_807_2).abs() < 1e-12, "{metrics:?}");
        assert!((metrics["pearson"] - 0.645_942_241_466_167_3).abs() < 1e-12, "{metrics:?}");
    }

    #[test]
    fn the_names_are_those_of_an_evaluation_and_each_has_a_direction() {
        let names = |problem, tokens| metric_names(problem, &["a".into(), "b".into()], tokens);
        let single = names(Problem::SingleLabel, false);
        for name in ["accuracy", "macro_f1", "loss", "nll_clf", "f1/b", "recall/a"] {
            assert!(single.iter().any(|known| known == name), "{name}: {single:?}");
        }
        assert_eq!(names(Problem::MultiLabel, false), ["accuracy", "loss", "micro_f1"]);
        assert_eq!(
            names(Problem::Regression, true),
            ["loss", "mse", "nll", "pearson", "ppl", "spearman", "token_accuracy"]
        );
        let low: Vec<String> = single.into_iter().filter(|name| is_better_low(name)).collect();
        assert_eq!(low, ["loss", "nll_clf"]);
    }

    #[test]
    fn two_classes_have_an_f1_each() {
        let mut scores = Scores::new(2);
        scores.confusion = vec![vec![3, 1], vec![2, 4]];
        let mut metrics = BTreeMap::new();
        scores.class_metrics(&["0".into(), "1".into()], &mut metrics);
        assert!((metrics["f1/1"] - 8.0 / 11.0).abs() < 1e-12 && (metrics["f1/0"] - 6.0 / 9.0).abs() < 1e-12);
    }
}
