//! Evaluation: the metrics of a data set under a model, how far they might be off, and what its probabilities are worth.
//!
//! Owns: what is reported and how it is computed. Never: changes a weight.

mod answers;
mod calibration;
mod compare;
mod intervals;
mod several;
mod single;
#[cfg(test)]
mod tests;

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

pub use answers::Answers;
pub use calibration::{BINS, Bin, Calibration, Sureness};
pub use compare::{
    Comparison, Difference, McNemar, Outcomes, compare_classes, compare_labels, compare_numbers,
};
pub use intervals::Interval;

use several::LabelCounts;

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
    /// Examples.
    pub examples: u64,
    /// Examples of each class, or with each label.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub support: Vec<u64>,
    /// 95 % intervals of some of the metrics, once they were asked for ([`Evaluation::add_intervals`]).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub intervals: BTreeMap<String, Interval>,
    /// What the temperature was that the metrics in `..._calibrated` are at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// The reliability diagram's points, at that temperature if there is one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reliability: Vec<Bin>,
    /// What was told of each example; `None` where there is no classifier, or there are too many.
    #[serde(skip)]
    pub answers: Option<Answers>,
}

impl Evaluation {
    /// Adds what takes longer than a metric: the intervals of accuracy and F1, or of the correlations.
    pub fn add_intervals(&mut self) {
        self.intervals = match (&self.confusion, &self.answers) {
            (Some(confusion), _) => single::intervals(confusion),
            (None, Some(answers)) if answers.problem == Problem::MultiLabel => {
                several::label_intervals(answers)
            }
            (None, Some(answers)) => several::correlation_intervals(&several::pairs(answers)),
            (None, None) => BTreeMap::new(),
        };
    }

    /// Adds what probabilities are worth at a temperature: `ece_calibrated`, `brier_calibrated`, `nll_calibrated`. Everything else
    /// stays what the model itself says.
    pub fn calibrate(&mut self, temperature: Option<f64>) {
        let at = |temperature| self.answers.as_ref().and_then(|answers| Sureness::of(answers, temperature));
        if let Some((temperature, Sureness { ece, brier, nll, bins })) =
            temperature.and_then(|temperature| Some((temperature, at(temperature)?)))
        {
            let metrics = [("ece_calibrated", ece), ("brier_calibrated", brier), ("nll_calibrated", nll)];
            self.metrics.extend(metrics.map(|(name, value)| (name.to_owned(), value)));
            (self.temperature, self.reliability) = (Some(temperature), bins);
        }
    }
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
    /// A classifier, and what is learned of a teacher, are measured on the texts as they are, also where an auxiliary loss hides tokens of
    /// them: that one is then measured apart.
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
        let hides = matches!(self.targets, TokenTargets::Masked(_)) && self.objective.lm > 0.0;
        if !hides || self.objective.clf <= 0.0 && self.objective.teacher.is_none() {
            return self.measure(split, examples, text, class_names, listener);
        }
        let others = Objective { lm: 0.0, ..self.objective.clone() };
        let tokens = Objective { clf: 0.0, teacher: None, ..self.objective.clone() };
        let whole = Evaluator { objective: &others, targets: TokenTargets::None, ..*self };
        let Some(mut whole) = whole.measure(split, examples, text, class_names, listener)? else {
            return Ok(None);
        };
        let hidden = Evaluator { objective: &tokens, ..*self };
        let Some(hidden) = hidden.measure(split, examples, text, class_names, listener)? else {
            return Ok(None);
        };
        for (name, value) in hidden.metrics {
            // The loss is the sum of both.
            *whole.metrics.entry(name).or_default() += value;
        }
        Ok(Some(whole))
    }

    fn measure(
        &self,
        split: &str,
        examples: &Examples<'_>,
        text: Option<TextSize>,
        class_names: &[String],
        listener: &mut Listener<'_>,
    ) -> Result<Option<Evaluation>> {
        let problem = self.model.config().head.as_ref().map(|h| h.problem);
        let classes = self.model.config().head.as_ref().map_or(0, |h| h.num_classes);
        let mut scores = Scores::new(problem, classes, examples.len());
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
        let (mut sums, mut totals) = (Sums::default(), Denominators::default());
        for part in &parts {
            sums.add(part);
        }
        for count in &counts {
            totals.lm += count.lm;
            totals.clf += count.clf;
            totals.teacher.add(&count.teacher);
        }
        let mut metrics = BTreeMap::new();
        metrics.insert("loss".to_owned(), self.objective.loss(&sums, totals));
        if self.objective.lm > 0.0 && totals.lm > 0.0 {
            self.token_metrics(&sums, totals, examples, text, &mut metrics);
        }
        if let Some(teacher) = &self.objective.teacher {
            let distances = teacher.metrics(&sums.teacher, totals.teacher);
            metrics.extend(distances.into_iter().map(|(name, value)| (name.to_owned(), value)));
        }
        let there = problem.filter(|_| self.objective.clf > 0.0 && totals.clf > 0.0);
        metrics.extend(there.and_then(mean_name).map(|name| (name.to_owned(), sums.clf.sum / totals.clf)));
        let evaluation = Evaluation {
            split: split.into(),
            metrics,
            labels: class_names.to_vec(),
            examples: examples.len() as u64,
            ..Evaluation::default()
        };
        Ok(Some(if there.is_some() { scores.tell(evaluation) } else { evaluation }))
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

/// The metrics of logits that are there already, a row for each label; `coefficient` is the weight of the classification loss.
pub(crate) fn of_logits(
    split: &str,
    rows: &[f32],
    labels: &[Label],
    (problem, coefficient): (Problem, f64),
    class_names: &[String],
) -> Evaluation {
    let outputs = rows.len() / labels.len().max(1);
    let mut scores = Scores::new(Some(problem), outputs, labels.len());
    let (mut sum, mut count) = (0.0, 0.0);
    for (row, label) in rows.chunks_exact(outputs.max(1)).zip(labels) {
        let wide: Vec<f64> = row.iter().map(|z| f64::from(*z)).collect();
        match (label, problem) {
            (Label::Class(class), _) => {
                let highest = wide.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let all: f64 = wide.iter().map(|z| (z - highest).exp()).sum();
                sum += all.ln() + highest - wide[*class as usize];
                count += 1.0;
            }
            (Label::Values(truth), Problem::Regression) => {
                sum += wide.iter().zip(truth).map(|(z, t)| (z - f64::from(*t)).powi(2)).sum::<f64>();
                count += truth.len() as f64;
            }
            (Label::Values(truth), _) => {
                let term = |(z, t): (&f64, &f32)| z.max(0.0) - z * f64::from(*t) + (-z.abs()).exp().ln_1p();
                sum += wide.iter().zip(truth).map(term).sum::<f64>();
                count += truth.len() as f64;
            }
        }
        scores.count(row, Some(label), problem);
    }
    let mut metrics = BTreeMap::from([("loss".to_owned(), coefficient * sum / count)]);
    metrics.extend(mean_name(problem).map(|name| (name.to_owned(), sum / count)));
    scores.tell(Evaluation {
        split: split.into(),
        metrics,
        labels: class_names.to_vec(),
        examples: labels.len() as u64,
        ..Evaluation::default()
    })
}

/// What the mean of a classifier's loss is called, where it is not that of single outputs.
fn mean_name(problem: Problem) -> Option<&'static str> {
    match problem {
        Problem::SingleLabel => Some("nll_clf"),
        Problem::Regression => Some("mse"),
        Problem::MultiLabel => None,
    }
}

/// The metrics of a classifier that is no transformer: a row of probabilities for each example, and its class.
pub fn of_probabilities(split: &str, rows: &[Vec<f64>], classes: &[u32], labels: &[String]) -> Evaluation {
    let mut scores = Scores::new(Some(Problem::SingleLabel), labels.len(), 0);
    let (mut nll, mut told) = (0.0, Vec::new());
    for (row, &class) in rows.iter().zip(classes) {
        // Of equal ones the first.
        let best = (1..row.len()).fold(0, |best, other| if row[other] > row[best] { other } else { best });
        scores.confusion[class as usize][best] += 1;
        told.push(best as u32);
        nll -= row[class as usize].max(f64::MIN_POSITIVE).ln();
    }
    scores.answers = Answers::of_probabilities(rows, told, classes);
    let mean = nll / rows.len() as f64;
    let metrics = BTreeMap::from([("loss".to_owned(), mean), ("nll_clf".to_owned(), mean)]);
    scores.tell(Evaluation {
        split: split.into(),
        metrics,
        labels: labels.to_vec(),
        examples: rows.len() as u64,
        ..Evaluation::default()
    })
}

/// The names of the metrics that an evaluation of classes, or of numbers, has; `tokens`: whether it has the loss of tokens, too.
pub fn metric_names(problem: Problem, class_names: &[String], tokens: bool) -> Vec<String> {
    let mut metrics = BTreeMap::from([("loss".to_owned(), 0.0)]);
    if tokens {
        metrics.extend(["nll", "ppl", "token_accuracy"].map(|name| (name.to_owned(), 0.0)));
    }
    metrics.extend(mean_name(problem).map(|name| (name.to_owned(), 0.0)));
    let outputs = if problem == Problem::Regression { 1 } else { class_names.len() };
    let mut scores = Scores::new(Some(problem), outputs, outputs.max(2));
    // What is nowhere has no metrics: an example of each class, or two numbers.
    for example in 0..outputs.max(2) {
        let mut logits = vec![0.0; outputs];
        logits[example % outputs.max(1)] = 1.0 + example as f32;
        let label = match problem {
            Problem::SingleLabel => Label::Class((example % outputs.max(1)) as u32),
            Problem::MultiLabel | Problem::Regression => {
                // Marks are 0 and 1; numbers that are all one have no correlation.
                let most = if problem == Problem::MultiLabel { 1.0 } else { f32::MAX };
                Label::Values(logits.iter().map(|z| z.min(most)).collect())
            }
        };
        scores.count(&logits, Some(&label), problem);
    }
    let labels = class_names.to_vec();
    scores.tell(Evaluation { metrics, labels, ..Evaluation::default() }).metrics.into_keys().collect()
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
    /// Of single labels; rows: true class.
    confusion: Vec<Vec<u64>>,
    /// Of several labels at once.
    labels: Vec<LabelCounts>,
    /// One by one, where they are not too many.
    answers: Option<Answers>,
}

impl Scores {
    fn new(problem: Option<Problem>, outputs: usize, examples: usize) -> Self {
        let classes = if problem == Some(Problem::SingleLabel) { outputs } else { 0 };
        let labels = if problem == Some(Problem::MultiLabel) { outputs } else { 0 };
        Self {
            confusion: vec![vec![0; classes]; classes],
            labels: vec![[0; 4]; labels],
            answers: problem.and_then(|problem| Answers::new(problem, outputs, examples)),
        }
    }

    /// Adds what other ranks counted, in the order of ranks.
    fn add_other_ranks(&mut self, ranks: &Ranks) -> Result<()> {
        if ranks.collective().is_alone() {
            return Ok(());
        }
        let mine: Vec<u64> =
            self.confusion.iter().flatten().chain(self.labels.iter().flatten()).copied().collect();
        let mut sums = vec![0; mine.len()];
        for bytes in ranks.collective().gather(bytemuck::cast_slice(&mine))? {
            let counts = bytemuck::pod_collect_to_vec::<u8, u64>(&bytes);
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        let places = self.confusion.iter_mut().flatten().chain(self.labels.iter_mut().flatten());
        places.zip(sums).for_each(|(place, sum)| *place = sum);
        self.answers.as_mut().map_or(Ok(()), |answers| answers.add_other_ranks(ranks))
    }

    fn count(&mut self, logits: &[f32], label: Option<&Label>, problem: Problem) {
        let Some(label) = label else { return };
        let (values, best) = probabilities(logits, problem);
        match (label, problem) {
            (Label::Class(class), Problem::SingleLabel) => self.confusion[*class as usize][best] += 1,
            (Label::Values(truth), Problem::MultiLabel) => {
                for ((counts, p), t) in self.labels.iter_mut().zip(&values).zip(truth) {
                    counts[several::place(*p, *t)] += 1;
                }
            }
            _ => {}
        }
        if let Some(answers) = &mut self.answers {
            answers.push(logits, label);
        }
    }

    /// The evaluation with all of their metrics.
    fn tell(self, mut evaluation: Evaluation) -> Evaluation {
        let Self { confusion, labels, answers } = self;
        let Evaluation { metrics, labels: names, .. } = &mut evaluation;
        if !confusion.is_empty() {
            single::of_confusion(&confusion, names, metrics);
            if let Some(answers) = &answers {
                metrics.extend(single::area_under_roc(answers).map(|area| ("auc".to_owned(), area)));
                if let Some(Sureness { ece, brier, bins, .. }) = Sureness::of(answers, 1.0) {
                    metrics.extend([("ece".to_owned(), ece), ("brier".to_owned(), brier)]);
                    evaluation.reliability = bins;
                }
            }
            evaluation.support = single::class_counts(&confusion).iter().map(|class| class.truths).collect();
            evaluation.confusion = Some(confusion);
        } else if !labels.is_empty() {
            several::of_labels(&labels, names, metrics);
            metrics
                .extend(answers.as_ref().map(|answers| ("exact_match".to_owned(), several::exact(answers))));
            evaluation.support = labels.iter().map(|label| several::class_counts(label).truths).collect();
        } else if let Some(answers) = &answers {
            several::correlations(&several::pairs(answers), metrics);
        }
        evaluation.answers = answers;
        evaluation
    }
}
