//! How a run ends: the metrics of the finished model, its folder, its report.
//!
//! Owns: what is done after the last step. Never: a step.

use std::collections::BTreeMap;
use std::path::PathBuf;

use headstart_engine::{Gradients, Tape, Weights};
use serde::{Deserialize, Serialize};

use crate::batch::Batch;
use crate::checkpoint::{Adapter, Checkpoint, LoadedModel, ModelPath, RunFolder, TrainerState, load_model};
use crate::error::{Error, Result};
use crate::eval::{Bin, Calibration, Evaluation, Interval};
use crate::event::{Event, Listener, Signal};
use crate::objective::Sums;
use crate::predictions::{Evaluated, Line};
use crate::report::Report;
use crate::run_log::{Kind, Record, read_metrics};
use crate::train::verdict::{add_verdict, summarise, write_summary};
use crate::train::{Running, Stop, Training, Trunk};

/// What a bag of words achieves on the examples of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bar {
    /// Its accuracy on the validation examples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid_accuracy: Option<f64>,
    /// Its accuracy on the test examples, which like the model's is told at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test_accuracy: Option<f64>,
    /// What is told in place of accuracy of several labels at once, or of numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<BarMetric>,
    /// That on the validation examples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid: Option<f64>,
    /// That on the test examples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test: Option<f64>,
    /// What an example counted beside the penalty, chosen by cross-validation; of several labels the middle one's.
    pub strength: f64,
    /// Seconds of reading, choosing and fitting.
    pub seconds: f64,
}

/// What a bag of words is measured by where its labels are not single ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BarMetric {
    /// F1 over all labels of all examples.
    MicroF1,
    /// The correlation of numbers.
    Pearson,
}

impl BarMetric {
    /// Its name among an evaluation's metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::MicroF1 => "micro_f1",
            Self::Pearson => "pearson",
        }
    }
}

impl std::fmt::Display for Bar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let of = |name: &str, value: Option<f64>| value.map(|value| format!("{name} {}", fixed(value, 4)));
        let [valid, test] = [self.valid_accuracy.or(self.valid), self.test_accuracy.or(self.test)];
        let name = match self.metric {
            None => "accuracy",
            Some(BarMetric::MicroF1) => "micro-F1",
            Some(BarMetric::Pearson) => "Pearson",
        };
        let parts: Vec<String> = [of("valid", valid), of("test", test)].into_iter().flatten().collect();
        let accuracy =
            if parts.is_empty() { "is fitted".into() } else { format!("{name} {}", parts.join(", ")) };
        write!(f, "{accuracy}, in {:.1} s", self.seconds)
    }
}

/// A head that was fitted in one go to the vectors of the training examples, and what that took.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FittedHead {
    /// Numbers to a vector.
    pub width: usize,
    /// Vectors it was fitted to.
    pub examples: usize,
    /// What an example counted beside the penalty, chosen by cross-validation; of several outputs the lowest and the highest.
    pub strengths: (f64, f64),
    /// Seconds of the trunk's pass over all examples; absent where the vectors were on disk already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vectors_s: Option<f64>,
    /// Seconds of choosing and fitting.
    pub fit_s: f64,
    /// Bytes of weights and vectors.
    pub memory_bytes: u64,
    /// What fine-tuning everything would take beside it, reckoned from this pass: seconds, where they are known, and bytes of weights,
    /// gradients and moments. Absent where everything was fine-tuned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full: Option<(Option<f64>, u64)>,
}

impl std::fmt::Display for FittedHead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { width, examples, strengths: (low, high), vectors_s, fit_s, memory_bytes, full } = self;
        let strength = if low < high { format!("{low} to {high}") } else { low.to_string() };
        let vectors = vectors_s.map_or("from the cache".to_owned(), |seconds| format!("in {seconds:.1} s"));
        let mib = |bytes: u64| format!("{} MiB", thousands((bytes >> 20).max(1) as usize));
        write!(
            f,
            "{} vectors of {width} numbers {vectors}, fitted in {fit_s:.1} s with strength {strength}; {} of weights and vectors",
            thousands(*examples),
            mib(*memory_bytes),
        )?;
        let Some((seconds, bytes)) = full else { return Ok(()) };
        let seconds = seconds.map_or_else(String::new, |seconds| {
            format!("about {} s and ", thousands(seconds.round() as usize))
        });
        write!(f, " (fine-tuning everything: {seconds}{})", mib(*bytes))
    }
}

/// A figure with so many digits behind the point. What rounds to nothing has no sign.
pub fn fixed(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let nothing = |rest: &&str| rest.bytes().all(|digit| matches!(digit, b'0' | b'.'));
    match text.strip_prefix('-').filter(nothing) {
        Some(rest) => rest.to_owned(),
        None => text,
    }
}

/// How a run ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// The run folder.
    pub run_dir: PathBuf,
    /// Optimizer steps done.
    pub steps: u64,
    /// Those of them that changed nothing, because their loss or gradients were not finite.
    pub skipped: u64,
    /// Optimizer steps the run was to have.
    pub total_steps: u64,
    /// Why it ended before its last step: "signal", "max_time", "early_stopping".
    pub stopped: Option<String>,
    /// The final model folder, when the run is complete.
    pub final_dir: Option<PathBuf>,
    /// The optimizer step that the metrics are of: the finished model's, or of a stopped run its last evaluation's.
    pub metrics_step: Option<u64>,
    /// Those metrics by name: "valid/nll", "test/accuracy".
    pub metrics: BTreeMap<String, f64>,
    /// What the model has to beat: a bag of words on the same examples, where one was fitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bow: Option<Bar>,
    /// The head, where it was fitted and not trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fitted: Option<FittedHead>,
    /// The test (or else validation) set's confusion matrix, rows: true class.
    pub confusion: Option<Vec<Vec<u64>>>,
    /// Class names.
    pub labels: Vec<String>,
    /// Examples of each split that was evaluated: "valid", "test".
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub examples: BTreeMap<String, u64>,
    /// Examples of each class of the split of `confusion`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub support: Vec<u64>,
    /// 95 % intervals of metrics: "test/accuracy".
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub intervals: BTreeMap<String, Interval>,
    /// The temperature of the finished model, found on validation data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// The reliability diagram of that split, at that temperature.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reliability: Vec<Bin>,
    /// Which examples predictions.jsonl is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluated: Option<Evaluated>,
}

/// A signal is answered within seconds: validation data that take longer than this are not evaluated then.
const SHORT_EVALUATION_S: f64 = 1.0;

impl Training<'_> {
    /// The metrics of a run that stops between two evaluations. They are told and stand in the summary, and are neither
    /// logged nor counted, so that the run goes on from here as if it had not stopped.
    pub(super) fn evaluate_stopped(
        &self,
        running: &mut Running<'_>,
        reason: Stop,
        tokens_per_s: f64,
        listener: &mut Listener<'_>,
    ) -> Result<()> {
        let Some(split) = self.valid.as_ref().filter(|_| !running.batches.are_pairs()) else { return Ok(()) };
        // Forward is a third of a step's work.
        let seconds = split.examples.tokens() as f64 / (3.0 * tokens_per_s);
        let [takes_long] = self.ranks.any([seconds > SHORT_EVALUATION_S])?;
        if reason == Stop::Signal && takes_long {
            return Ok(());
        }
        // A signal has been heard; one that comes now is another.
        let mut told = |event: Event<'_>| match (reason, listener(event)) {
            (Stop::Signal, _) => Signal::Continue,
            (Stop::MaxTime | Stop::EarlyStopping, signal) => signal,
        };
        let averaged = self.averaged(&running.optimizer)?;
        let weights = averaged.as_ref().unwrap_or(&self.weights);
        let Some(evaluation) = self.evaluation("valid", split, weights, &mut told)? else { return Ok(()) };
        let record = to_record(Kind::Valid, running.state.step, &evaluation);
        listener(Event::Evaluation { record: &record, metric: self.best_by.name(), best_so_far: false });
        running.last_valid = Some((running.state.step, evaluation));
        Ok(())
    }

    pub(super) fn finish(
        mut self,
        mut running: Running<'_>,
        stopped: Option<Stop>,
        listener: &mut Listener<'_>,
    ) -> Result<Summary> {
        let mut summary = Summary {
            run_dir: self.folder.dir().to_path_buf(),
            steps: running.state.step,
            skipped: running.state.skipped,
            total_steps: running.total_steps,
            stopped: stopped.map(|reason| reason.name().to_owned()),
            labels: self.files.labels.clone(),
            ..Summary::default()
        };
        let complete = match stopped {
            None | Some(Stop::EarlyStopping) => self.complete(&mut running, &mut summary, listener)?,
            Some(_) => {
                if running.batches.are_pairs() {
                    let line = "the head is fitted when the run ends: until then, the model in its folder answers by chance";
                    listener(Event::Message(line));
                }
                true
            }
        };
        if !complete {
            summary.stopped = Some(Stop::Signal.name().to_owned());
        }
        for (step, evaluation) in [&mut running.last_valid, &mut running.last_test].into_iter().flatten() {
            summary.metrics_step = Some(*step);
            evaluation.add_intervals();
            summarise(&mut summary, evaluation);
        }
        let tested = summary.final_dir.is_some();
        let untested = |bar: Bar| Bar {
            test_accuracy: bar.test_accuracy.filter(|_| tested),
            test: bar.test.filter(|_| tested),
            ..bar
        };
        summary.bow = self.bar.map(untested);
        self.close(&mut running, &mut summary, listener)?;
        Ok(summary)
    }

    /// The end of the logs, what was told of each example, the summary and the report; returns when rank 0 has written them.
    fn close(
        &self,
        running: &mut Running<'_>,
        summary: &mut Summary,
        listener: &mut Listener<'_>,
    ) -> Result<()> {
        if let Some(log) = &mut running.log {
            log.flush()?;
            let mistakes = self.record_predictions(running, summary, listener)?;
            self.report(summary, running, &mistakes)?;
            let seconds = running.elapsed_before_s + running.started.elapsed().as_secs_f64();
            write_summary(&self.folder, summary, seconds)?;
        }
        self.ranks.wait_for_all()
    }

    /// The finished model, evaluated and written; `false` when the listener asked to stop before that.
    fn complete(
        &mut self,
        running: &mut Running<'_>,
        summary: &mut Summary,
        listener: &mut Listener<'_>,
    ) -> Result<bool> {
        self.refuse_ruined_weights(running)?;
        let best = running.state.best.filter(|best| self.keep_best && best.step != running.state.step);
        let mut step = running.state.step;
        let averaged = self.averaged(&running.optimizer)?;
        // No step follows: what only steps need makes room for the best weights.
        running.gradients = Gradients::new(0);
        running.optimizer.let_go();
        if let Some(best) = best
            && self.take_best()?
        {
            listener(Event::Message(&format!("the best checkpoint is the one after step {}", best.step)));
            running.last_valid = None;
            step = best.step;
        } else if let Some(averaged) = averaged {
            self.weights = averaged;
        }
        if running.batches.are_pairs() {
            let Some(head) = self.fit_head(running, listener)? else { return Ok(false) };
            summary.fitted = Some(head).filter(|_| self.ranks.leads());
        }
        if let (None, Some(split)) = (&running.last_valid, &self.valid) {
            let Some(evaluation) = self.evaluation("valid", split, &self.weights, listener)? else {
                return Ok(false);
            };
            if running.batches.are_pairs() {
                let record = to_record(Kind::Valid, running.state.step, &evaluation);
                if let Some(log) = &mut running.log {
                    log.log(&record)?;
                }
                listener(Event::Evaluation {
                    record: &record,
                    metric: self.best_by.name(),
                    best_so_far: true,
                });
            }
            running.last_valid = Some((step, evaluation));
        }
        let loss = match &running.last_valid {
            Some((_, evaluation)) => evaluation.metrics.get("loss").copied().unwrap_or(f64::NAN),
            None => self.loss_of(&running.batches.of(running.state.step.max(1)))?,
        };
        if !loss.is_finite() {
            let what = "the loss of the finished model is not finite".to_owned();
            return Err(not_finite(&self.folder, &running.state, what));
        }
        summary.calibration = self.calibrate(&mut running.last_valid, listener);
        if let Some(split) = &self.test {
            let Some(mut evaluation) = self.evaluation("test", split, &self.weights, listener)? else {
                return Ok(false);
            };
            evaluation.calibrate(self.files.temperature);
            let record = to_record(Kind::Test, running.state.step, &evaluation);
            if let Some(log) = &mut running.log {
                log.log(&record)?;
            }
            listener(Event::Evaluation { record: &record, metric: self.best_by.name(), best_so_far: false });
            running.last_test = Some((step, evaluation));
        }
        self.device.check()?;
        if self.model.config().teacher_heads.is_some() {
            // What was learned of the teacher stays; what was needed for it does not.
            let (alone, weights) = self.model.without_teacher(self.weights.values())?;
            self.files.config = alone.config().clone();
            (self.model, self.weights) = (alone, Weights::new(weights));
        }
        let (table, weights) = (self.model.table(), self.weights.values());
        if !self.ranks.leads() {
            summary.final_dir = Some(self.folder.final_model());
            return Ok(true);
        }
        let (card, adapter) = (self.card(running)?, self.adapter(listener));
        let path =
            self.folder.write_final_and_adapter(&self.files, table, weights, &card, adapter.as_ref())?;
        listener(Event::Saved(&path));
        if let Some(adapter) = adapter {
            listener(Event::Message(&adapter.line(&path)));
        }
        summary.final_dir = Some(path);
        // An interruption between a save and its clearing up left one checkpoint too many.
        self.folder.prune(self.config.keep, running.state.best)?;
        Ok(true)
    }

    /// What of the finished model is not the trunk's, if it has one that can still be read.
    fn adapter(&self, listener: &mut Listener<'_>) -> Option<Adapter> {
        let Trunk { method, model, base } = self.trunk.as_ref()?;
        let base = load_model(ModelPath { path: model, base: base.as_deref() });
        let of = |base: LoadedModel| Adapter::of(method, &base, self.model.table(), self.weights.values());
        match base.and_then(of) {
            Ok(adapter) => Some(adapter),
            Err(error) => {
                let line =
                    format!("what was trained is not saved alone, for its trunk cannot be read: {error}");
                listener(Event::Message(&line));
                None
            }
        }
    }

    /// Goes back to the weights of the best checkpoint, which rank 0 reads; whether there is one.
    fn take_best(&mut self) -> Result<bool> {
        let table = self.model.table();
        let mut weights = None;
        let found = self.ranks.of_leader(|| {
            if let Some(folder) = self.folder.best()? {
                weights = Some(Checkpoint::open(&folder)?.model()?.exact_weights(table)?);
            }
            Ok(weights.is_some())
        })?;
        if found {
            let mut weights = weights.unwrap_or_else(|| vec![0.0; table.len()]);
            self.ranks.broadcast(&mut weights)?;
            self.weights = Weights::new(weights);
        }
        Ok(found)
    }

    /// A run that ends on skipped steps: where the batch of the last update has no finite loss any more, the weights are to
    /// blame.
    fn refuse_ruined_weights(&self, running: &mut Running<'_>) -> Result<()> {
        let in_a_row = running.state.skipped_in_a_row;
        let last_update = running.state.step - in_a_row.min(running.state.step);
        if in_a_row == 0 || (last_update > 0 && self.loss_of(&running.batches.of(last_update))?.is_finite()) {
            return Ok(());
        }
        let what = format!("the run ends on {in_a_row} skipped steps: nothing finite comes out any more");
        Err(not_finite(&self.folder, &running.state, what))
    }

    /// The loss of one batch without dropout: whether the model works at all, where there is nothing to evaluate it on.
    fn loss_of(&self, batch: &Batch) -> Result<f64> {
        let denominators = self.objective.denominators(batch);
        let mut sums = Sums::default();
        for slab in batch.slabs(self.device.slab_tokens()) {
            let precision = self.config.precision();
            let mut tape = Tape::inference(&self.device, &self.weights, &slab.packing, precision);
            let (mut part, _) = self.objective.forward(&self.model, &mut tape, &slab, denominators);
            part.wait();
            sums.add(&part);
        }
        self.device.check()?;
        Ok(self.objective.loss(&sums, denominators))
    }

    pub(super) fn evaluate_only(
        &mut self,
        running: &mut Running<'_>,
        listener: &mut Listener<'_>,
    ) -> Result<Summary> {
        let (run_dir, labels) = (self.folder.dir().to_path_buf(), self.files.labels.clone());
        let mut summary = Summary { run_dir, labels, ..Summary::default() };
        for (name, kind, split) in [("valid", Kind::Valid, &self.valid), ("test", Kind::Test, &self.test)] {
            if let Some(split) = split {
                let Some(mut evaluation) = self.evaluation(name, split, &self.weights, listener)? else {
                    summary.stopped = Some(Stop::Signal.name().to_owned());
                    break;
                };
                let record = to_record(kind, running.state.step, &evaluation);
                if let Some(log) = &mut running.log {
                    log.log(&record)?;
                }
                listener(Event::Evaluation {
                    record: &record,
                    metric: self.best_by.name(),
                    best_so_far: false,
                });
                evaluation.add_intervals();
                summarise(&mut summary, &evaluation);
            }
        }
        self.close(running, &mut summary, listener)?;
        Ok(summary)
    }

    /// report.html, from the logs and what only the summary has.
    fn report(&self, summary: &Summary, running: &Running<'_>, mistakes: &[Line]) -> Result<()> {
        let dir = self.folder.dir();
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let outcome = match (&summary.stopped, summary.total_steps) {
            (_, 0) => "Evaluated without training.".to_owned(),
            (None, total) => format!("All {total} optimizer steps are done."),
            (Some(why), total) => {
                format!("Stopped ({why}) after {} of {total} optimizer steps.", summary.steps)
            }
        };
        let outcome = match summary.skipped {
            0 => outcome,
            n => format!("{outcome} {n} of them were skipped: loss or gradients were not finite."),
        };
        let files = "The settings are in config.toml, all metrics in metrics.jsonl, beside this page.";
        let mut report = Report::of_run(
            &read_metrics(dir)?,
            summary.metrics_step,
            format!("Headstart run {name}"),
            vec![outcome, files.to_owned()],
        );
        report.tables.insert(0, self.about(running, summary)?);
        if let Some(rates) = self.rates_table() {
            report.tables.insert(1, rates);
        }
        add_verdict(&mut report, summary, mistakes);
        report.write(&self.folder.report_html())
    }
}

/// A run that cannot go on. The last good checkpoint is one whose weights a step has been computed with: those of the
/// last update, or of none, led here.
pub(super) fn not_finite(folder: &RunFolder, state: &TrainerState, what: String) -> Error {
    let last_update = state.step - state.skipped_in_a_row.min(state.step);
    let last = match folder.newest_before(last_update) {
        Ok(Some(checkpoint)) => format!("the last good checkpoint is {}", checkpoint.folder.display()),
        _ => "there is no good checkpoint".to_owned(),
    };
    let fix = format!("{last}; try a new run with a smaller --lr, a longer warm-up, or --precision f32");
    Error::NonFinite { what, step: state.step, fix }
}

pub(crate) fn to_record(kind: Kind, step: u64, evaluation: &Evaluation) -> Record {
    let record = Record::new(kind, step, unix_seconds());
    evaluation.metrics.iter().fold(record, |record, (name, value)| record.with(name.as_str(), *value))
}

/// Seconds since 1970; only ever written into logs.
pub(crate) fn unix_seconds() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// The share of parameters that train, for a line: nothing where all do.
pub(crate) fn share(trained: usize, all: usize) -> String {
    let percent = 100.0 * trained as f64 / all.max(1) as f64;
    if trained == all { String::new() } else { format!(" ({percent:.2} %)") }
}

/// 1234567 -> "1,234,567".
pub(crate) fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
