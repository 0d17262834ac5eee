//! THE loop: one loop for pretraining and fine-tuning.
//!
//! Owns: the order of things in a run: batches, steps, evaluations, checkpoints, how it stops and resumes.
//! Never: where data came from, what a model is made of, how a checkpoint lies on disk.
//!
//! Everything a step does follows from the configuration, the seed and the step's number, so a checkpoint is
//! weights, moments, the step and the best figure so far, and a resumed run computes the same bits.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use headstart_engine::ops::adam::{SquaredNorm, squared_norm};
use headstart_engine::{Device, Gradients, Precision, Prepared, Tape, Weights, make_resident};
use serde::Serialize;

use crate::batch::{Batch, TokenTargets, epoch_order, training_mask_key};
use crate::checkpoint::{Best as BestSoFar, Checkpoint, ModelFiles, RunFolder, Snapshot, TrainerState};
use crate::config::TrainConfig;
use crate::device::{DeviceChoice, in_parts_that_fit};
use crate::error::{Error, Result};
use crate::eval::{Evaluation, Evaluator, Examples, TextSize};
use crate::event::{Event, Listener, Signal, StepRecord};
use crate::model::Model;
use crate::objective::{Objective, Sums};
use crate::optim::Optimizer;
use crate::report::{Confusion, Report};
use crate::run_log::{Kind, Record, RunLog, read_metrics};
use crate::schedule;
use crate::train_log::TrainLog;

/// The key under which the trainer state keeps the loss of the best evaluation.
const BEST_LOSS: &str = "best_loss";
/// The key under which it keeps the size of a GPU's slabs, which the bits depend on.
const SLAB_TOKENS: &str = "slab_tokens";
/// The keys under which it counts skipped steps: all of them, and those since the last update.
const SKIPPED: &str = "skipped";
const SKIPPED_IN_A_ROW: &str = "skipped_in_a_row";

/// So many skipped steps in a row end a run. A skipped step changes no weight, so a strange example or a product that
/// overflowed is past with the next batch; when five batches fail on the same weights, these are to blame, and no
/// further batch mends them.
const MOST_SKIPPED_IN_A_ROW: u64 = 5;

/// Where a run writes and whether it continues.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The run folder.
    pub dir: PathBuf,
    /// Continue the run that is there.
    pub resume: bool,
    /// The command line, for command.txt.
    pub command: String,
    /// Where to compute; a resumed run may continue on another device.
    pub device: DeviceChoice,
}

/// How a run ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
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
    /// Last figures by name: "valid/nll", "test/accuracy".
    pub metrics: BTreeMap<String, f64>,
    /// The test (or else validation) set's confusion matrix, rows: true class.
    pub confusion: Option<Vec<Vec<u64>>>,
    /// Class names.
    pub labels: Vec<String>,
}

/// A split that is evaluated.
#[derive(Clone, Debug)]
pub(crate) struct EvaluatedSplit<'a> {
    pub(crate) examples: Examples<'a>,
    pub(crate) text: Option<TextSize>,
}

/// Which figure says that a checkpoint is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Best {
    /// The lowest.
    Lowest(&'static str),
    /// The highest.
    Highest(&'static str),
}

/// Everything a run needs; `pretrain` and `finetune` put it together.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    pub(crate) config: &'a TrainConfig,
    pub(crate) device: Device,
    pub(crate) model: Model,
    pub(crate) weights: Weights,
    pub(crate) objective: Objective,
    pub(crate) targets: TokenTargets,
    pub(crate) train: Examples<'a>,
    pub(crate) valid: Option<EvaluatedSplit<'a>>,
    /// Looked at once, at the end.
    pub(crate) test: Option<EvaluatedSplit<'a>>,
    pub(crate) best: Best,
    /// Finish with the best checkpoint's weights rather than the last.
    pub(crate) keep_best: bool,
    /// Evaluations without a better one after which to stop; 0: never.
    pub(crate) early_stopping: u64,
    pub(crate) files: ModelFiles,
    pub(crate) readme: String,
    /// What was said before there was a folder.
    pub(crate) notes: Vec<String>,
    pub(crate) folder: RunFolder,
    /// Where a resumed run goes on.
    pub(crate) checkpoint: Option<Checkpoint>,
}

/// What an optimizer step reads and changes.
#[derive(Debug)]
pub(crate) struct Step<'a> {
    pub(crate) device: &'a Device,
    pub(crate) model: &'a Model,
    pub(crate) objective: &'a Objective,
    pub(crate) precision: Precision,
    pub(crate) seed: u64,
    pub(crate) weights: &'a mut Weights,
    pub(crate) gradients: &'a mut Gradients,
    pub(crate) optimizer: &'a mut Optimizer,
}

/// The batch of a step, with what could be done for it before its turn.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) batch: Batch,
    pub(crate) step: u64,
    prepared: Option<Prepared<(Sums, SquaredNorm)>>,
}

/// What forward and backward found.
#[derive(Debug)]
pub(crate) struct Computed {
    pub(crate) loss: f64,
    /// Of the gradients, which are left in place.
    pub(crate) norm: f64,
    /// The batch after this one.
    pub(crate) next: Option<Ready>,
}

impl Step<'_> {
    /// Prepares a step as far as the device allows; not before the step before has been queued.
    pub(crate) fn ready(&mut self, batch: Batch, step: u64) -> Ready {
        let prepared = self.device.prepare(batch.shape(), || self.gradients_of(&batch, step));
        Ready { batch, step, prepared }
    }

    /// Forward and backward over the batch's slabs. `next` gives the batch after this one, which is prepared while a GPU
    /// computes.
    ///
    /// # Errors
    /// What goes wrong on the device; memory that is full only when smaller slabs do not help.
    pub(crate) fn forward_backward(
        &mut self,
        ready: &mut Ready,
        next: impl FnOnce() -> Option<Batch>,
        say: &mut dyn FnMut(&str),
    ) -> Result<Computed> {
        // Before anything that smaller slabs could make room for.
        let moments = [&self.optimizer.first_moment, &self.optimizer.second_moment];
        make_resident(self.device, self.weights, self.gradients, moments, self.precision)?;
        let mut next = Some(next);
        let mut after = None;
        let mut again = false;
        let device = self.device;
        let (loss, norm) = in_parts_that_fit(device, say, || {
            if again {
                self.gradients.clear();
            }
            again = true;
            let (batch, step) = (&ready.batch, ready.step);
            let started = ready.prepared.take().and_then(|prepared| device.start(prepared));
            let (mut sums, norm) =
                started.unwrap_or_else(|| device.run(batch.shape(), || self.gradients_of(batch, step)));
            if let Some(next) = next.take() {
                after = next().map(|batch| self.ready(batch, step + 1));
            }
            let norm = norm.wait().sqrt();
            sums.settle();
            (self.objective.loss(&sums, self.objective.denominators(batch)), norm)
        })?;
        Ok(Computed { loss, norm, next: after })
    }

    /// All slabs of a batch, forward and backward, one after the other; then the norm of the gradients.
    fn gradients_of(&mut self, batch: &Batch, step: u64) -> (Sums, SquaredNorm) {
        let denominators = self.objective.denominators(batch);
        let mut sums = Sums::default();
        for slab in batch.slabs(self.device.slab_tokens()) {
            let (weights, gradients) = (&*self.weights, &mut *self.gradients);
            let mut tape = Tape::training(
                self.device,
                weights,
                gradients,
                &slab.packing,
                self.precision,
                self.seed,
                step,
            );
            let (part, _) = self.objective.forward(self.model, &mut tape, &slab, denominators);
            tape.backward();
            sums.add(&part);
        }
        (sums, squared_norm(self.device, self.gradients))
    }

    /// Clips, makes update number `update` (from 1) of the weights at rate `lr` and leaves the gradients zero.
    ///
    /// # Errors
    /// What goes wrong on the device.
    pub(crate) fn update(&mut self, norm: f64, lr: f64, update: u64) -> Result<()> {
        self.optimizer.step(self.device, self.weights, self.gradients, norm, lr, update);
        Ok(self.device.check_queued()?)
    }

    /// Leaves the gradients zero without an update.
    fn skip(&mut self) {
        self.gradients.clear();
    }
}

/// The part of a run that changes.
struct Progress<'a> {
    optimizer: Optimizer,
    gradients: Gradients,
    state: TrainerState,
    log: RunLog,
    started: Instant,
    steps_per_epoch: u64,
    total_steps: u64,
    batches: Batches<'a>,
    /// The step that comes next, once the one before has prepared it.
    ready: Option<Ready>,
    last_valid: Option<Evaluation>,
}

/// The batches of a run, each a function of its step.
struct Batches<'a> {
    train: Examples<'a>,
    targets: TokenTargets,
    size: usize,
    seed: u64,
    steps_per_epoch: u64,
    /// The epoch whose order is at hand.
    epoch: Option<u64>,
    order: Vec<u32>,
}

impl Batches<'_> {
    /// The sequences of optimizer step `step`, counted from 1.
    fn of(&mut self, step: u64) -> Batch {
        let (epoch, within) = ((step - 1) / self.steps_per_epoch, (step - 1) % self.steps_per_epoch);
        if self.epoch != Some(epoch) {
            self.order = epoch_order(self.train.len(), self.seed, epoch);
            self.epoch = Some(epoch);
        }
        let first = within as usize * self.size;
        let picked = &self.order[first..self.train.len().min(first + self.size)];
        let sequence = |(i, &example): (usize, &u32)| {
            let (example, key) = (example as usize, training_mask_key(self.seed, step, i));
            self.targets.sequence(self.train.ids[example], self.train.label(example), key)
        };
        Batch { sequences: picked.iter().enumerate().map(sequence).collect() }
    }
}

impl<'a> Run<'a> {
    /// Runs (or resumes) to the end, a stop, or an error.
    pub(crate) fn run(self, resume: bool, listener: &mut Listener<'_>) -> Result<Summary> {
        let mut log = TrainLog::open(&self.folder.train_log(), &self.notes)?;
        self.run_loop(resume, &mut |event| {
            log.event(&event);
            listener(event)
        })
    }

    fn run_loop(mut self, resume: bool, listener: &mut Listener<'_>) -> Result<Summary> {
        let mut progress = self.start(resume, listener)?;
        if progress.total_steps == 0 {
            return self.evaluate_only(&mut progress, listener);
        }
        let patience = self.early_stopping;
        let out_of_patience = |state: &TrainerState| patience > 0 && state.evaluations_since_best >= patience;
        // A run that was interrupted after its early stop, while it finished, takes no further step.
        let mut stopped = out_of_patience(&progress.state).then_some("early_stopping");
        while progress.state.step < progress.total_steps && stopped.is_none() {
            let record = self.step(&mut progress, listener)?;
            let mut stop = listener(Event::Step(&record)) == Signal::Stop;
            let step = progress.state.step;
            let epoch_ends = step.is_multiple_of(progress.steps_per_epoch) || step == progress.total_steps;
            let every = self.config.eval_every;
            let mut improved = false;
            if epoch_ends || (every > 0 && step.is_multiple_of(every as u64)) {
                improved = self.evaluate(&mut progress, listener)?;
            }
            stop |= listener(Event::Progress { what: "training", done: step, total: progress.total_steps })
                == Signal::Stop;
            if step == progress.total_steps {
                // Whole, whatever was asked meanwhile.
            } else if stop {
                stopped = Some("signal");
            } else if self.config.max_time.is_some_and(|t| progress.started.elapsed().as_secs_f64() >= t) {
                stopped = Some("max_time");
            } else if out_of_patience(&progress.state) {
                stopped = Some("early_stopping");
            }
            let due = self.config.save_every > 0 && step.is_multiple_of(self.config.save_every);
            if epoch_ends || improved || due || stopped.is_some() {
                self.save(&mut progress, listener)?;
            }
        }
        let complete = progress.state.step >= progress.total_steps || stopped == Some("early_stopping");
        self.finish(progress, stopped, complete, listener)
    }

    fn start(&mut self, resume: bool, listener: &mut Listener<'_>) -> Result<Progress<'a>> {
        let global_batch = self.config.global_batch();
        let steps_per_epoch = self.train.len().div_ceil(global_batch).max(1) as u64;
        let all = steps_per_epoch.saturating_mul(self.config.n_epochs as u64);
        let total_steps = self.config.max_steps.map_or(all, |most| most.min(all));
        let table = self.model.table();
        let mut optimizer = Optimizer::new(table, self.config);
        let mut state = TrainerState::default();
        if let Some(checkpoint) = self.checkpoint.take() {
            self.weights = Weights::new(checkpoint.model()?.exact_weights(table)?);
            let (first, second) = checkpoint.load_optimizer(table)?;
            (optimizer.first_moment, optimizer.second_moment) = (first.into(), second.into());
            state = checkpoint.state;
            if let Some(tokens) = state.extra.get(SLAB_TOKENS).and_then(serde_json::Value::as_u64) {
                self.device.set_slab_tokens(tokens as usize);
            }
            let at = format!("resuming after step {} of {total_steps}", state.step);
            listener(Event::Message(&at));
        }
        let now = unix_seconds();
        let log = if resume {
            RunLog::resume(self.folder.dir(), state.step, now)?
        } else {
            RunLog::create(self.folder.dir(), now)?
        };
        let (trainable, all) = (table.trainable_len(), table.len());
        let line = format!(
            "{} parameters, {} train; {} examples, {steps_per_epoch} steps an epoch, {total_steps} steps; {} threads, {}",
            thousands(all),
            thousands(trainable),
            thousands(self.train.len()),
            self.device.threads(),
            if self.device.is_cuda() { self.device.name() } else { self.device.code_path().to_owned() },
        );
        listener(Event::Message(&line));
        let gradients = Gradients::new(table.trainable_len());
        let batches = Batches {
            train: std::mem::take(&mut self.train),
            targets: self.targets,
            size: global_batch,
            seed: self.config.seed,
            steps_per_epoch,
            epoch: None,
            order: Vec::new(),
        };
        Ok(Progress {
            optimizer,
            gradients,
            state,
            log,
            started: Instant::now(),
            steps_per_epoch,
            total_steps,
            batches,
            ready: None,
            last_valid: None,
        })
    }

    /// Forward, backward, clip, update; without the update where loss or gradients are not finite.
    fn step(&mut self, progress: &mut Progress<'_>, listener: &mut Listener<'_>) -> Result<StepRecord> {
        let began = Instant::now();
        let step = progress.state.step + 1;
        let batches = &mut progress.batches;
        let mut work = Step {
            device: &self.device,
            model: &self.model,
            objective: &self.objective,
            precision: self.config.precision.into(),
            seed: self.config.seed,
            weights: &mut self.weights,
            gradients: &mut progress.gradients,
            optimizer: &mut progress.optimizer,
        };
        let mut say = |line: &str| {
            let _: Signal = listener(Event::Message(line));
        };
        let mut ready = match progress.ready.take() {
            Some(ready) => ready,
            None => work.ready(batches.of(step), step),
        };
        let next = || (step < progress.total_steps).then(|| batches.of(step + 1));
        let Computed { loss, norm, next } = work.forward_backward(&mut ready, next, &mut say)?;
        progress.ready = next;
        let factor =
            schedule::factor(self.config.schedule, self.config.warmup_steps, progress.total_steps, step);
        let lr = self.config.lr * factor;
        let state = &mut progress.state;
        let (mut skipped, mut in_a_row) = (counter(state, SKIPPED), counter(state, SKIPPED_IN_A_ROW));
        let figures = [("training loss", loss), ("gradient norm", norm)];
        let failed = figures.iter().find(|(_, value)| !value.is_finite()).map(|(what, _)| *what);
        if let Some(what) = failed {
            work.skip();
            (skipped, in_a_row) = (skipped + 1, in_a_row + 1);
            state.extra.insert(SKIPPED.into(), skipped.into());
            state.extra.insert(SKIPPED_IN_A_ROW.into(), in_a_row.into());
            say(&format!("step {step} is skipped: its {what} is not finite"));
        } else {
            // Adam's corrections are for the number of updates, as where PyTorch's GradScaler skips a step.
            work.update(norm, lr, step - skipped)?;
            state.extra.remove(SKIPPED_IN_A_ROW);
        }
        state.step = step;
        let seconds = began.elapsed().as_secs_f64();
        let tokens_per_s = ready.batch.tokens() as f64 / seconds.max(1e-9);
        let epoch = step as f64 / progress.steps_per_epoch as f64;
        let mut record = Record::new(Kind::Train, step, unix_seconds())
            .with("loss", loss)
            .with("lr", lr)
            .with("grad_norm", norm)
            .with("epoch", epoch)
            .with("tokens_per_s", tokens_per_s);
        if failed.is_some() {
            record = record.with("skipped", skipped as f64);
        }
        progress.log.log(&record)?;
        if let Some(what) = failed.filter(|_| in_a_row >= MOST_SKIPPED_IN_A_ROW) {
            let what = format!("the {what} is not finite; {in_a_row} steps in a row were skipped");
            return Err(not_finite(&self.folder, what, step));
        }
        let elapsed_s = progress.started.elapsed().as_secs_f64();
        let total_steps = progress.total_steps;
        Ok(StepRecord { step, total_steps, epoch, loss, lr, grad_norm: norm, tokens_per_s, elapsed_s })
    }

    /// Evaluates the validation split; whether it is the best so far.
    fn evaluate(&self, progress: &mut Progress<'_>, listener: &mut Listener<'_>) -> Result<bool> {
        let Some(split) = &self.valid else { return Ok(false) };
        let evaluation = self.evaluation("valid", split, listener)?;
        let record = to_record(Kind::Valid, progress.state.step, &evaluation);
        progress.log.log(&record)?;
        listener(Event::Evaluation(&record));
        let (name, sign) = match self.best {
            Best::Lowest(name) => (name, -1.0),
            Best::Highest(name) => (name, 1.0),
        };
        let score = evaluation.metrics.get(name).copied().unwrap_or(f64::NAN);
        // Equal accuracies are told apart by the loss, so that "best" does not depend on the first lucky one.
        let loss = evaluation.metrics.get("loss").copied().unwrap_or(f64::NAN);
        let best_loss = progress.state.extra.get(BEST_LOSS).and_then(serde_json::Value::as_f64);
        let better = match progress.state.best {
            None => score.is_finite(),
            Some(best) => {
                let gain = sign * (score - best.value);
                gain > 0.0 || (gain == 0.0 && best_loss.is_some_and(|best| loss < best))
            }
        };
        progress.last_valid = Some(evaluation);
        if better {
            progress.state.best = Some(BestSoFar { step: progress.state.step, value: score });
            progress.state.extra.insert(BEST_LOSS.into(), loss.into());
            progress.state.evaluations_since_best = 0;
        } else {
            progress.state.evaluations_since_best += 1;
        }
        Ok(better)
    }

    fn evaluation(
        &self,
        name: &str,
        split: &EvaluatedSplit<'_>,
        listener: &mut Listener<'_>,
    ) -> Result<Evaluation> {
        let evaluator = Evaluator {
            device: &self.device,
            model: &self.model,
            weights: &self.weights,
            precision: self.config.precision.into(),
            objective: &self.objective,
            targets: self.targets,
            batch_size: self.config.valid_batch_size,
        };
        evaluator.run(name, &split.examples, split.text, &self.files.labels, listener)
    }

    fn save(&self, progress: &mut Progress<'_>, listener: &mut Listener<'_>) -> Result<()> {
        progress.log.flush()?;
        if self.device.is_cuda() {
            progress.state.extra.insert(SLAB_TOKENS.into(), self.device.slab_tokens().into());
        }
        let snapshot = Snapshot {
            state: &progress.state,
            table: self.model.table(),
            weights: self.weights.values(),
            first_moment: progress.optimizer.first_moment.values(),
            second_moment: progress.optimizer.second_moment.values(),
            files: &self.files,
        };
        self.device.check()?; // what could not be read from the device is not saved
        // A rate can be so large that one update of finite gradients overflows.
        if !snapshot.weights.iter().all(|w| w.is_finite()) {
            let what = "not all weights are finite after the update".into();
            return Err(not_finite(&self.folder, what, progress.state.step));
        }
        let path = self.folder.save_checkpoint(&snapshot, self.config.keep)?;
        listener(Event::Saved(&path));
        Ok(())
    }

    fn finish(
        mut self,
        mut progress: Progress<'_>,
        stopped: Option<&str>,
        complete: bool,
        listener: &mut Listener<'_>,
    ) -> Result<Summary> {
        let mut summary = Summary {
            steps: progress.state.step,
            skipped: counter(&progress.state, SKIPPED),
            total_steps: progress.total_steps,
            stopped: stopped.map(str::to_owned),
            labels: self.files.labels.clone(),
            ..Summary::default()
        };
        if complete {
            let best = progress.state.best.filter(|best| self.keep_best && best.step != progress.state.step);
            if let (Some(best), Some(folder)) = (best, self.folder.best()?) {
                let weights = Checkpoint::open(&folder)?.model()?.exact_weights(self.model.table())?;
                self.weights = Weights::new(weights);
                listener(Event::Message(&format!("the best checkpoint is the one after step {}", best.step)));
                progress.last_valid = None;
            }
            if progress.last_valid.is_none() {
                progress.last_valid = match &self.valid {
                    Some(split) => Some(self.evaluation("valid", split, listener)?),
                    None => None,
                };
            }
        }
        if let Some(evaluation) = &progress.last_valid {
            summarise(&mut summary, "valid", evaluation);
        }
        if complete {
            if let Some(split) = &self.test {
                let evaluation = self.evaluation("test", split, listener)?;
                let record = to_record(Kind::Test, progress.state.step, &evaluation);
                progress.log.log(&record)?;
                listener(Event::Evaluation(&record));
                summarise(&mut summary, "test", &evaluation);
            }
            let (table, weights) = (self.model.table(), self.weights.values());
            self.device.check()?;
            let path = self.folder.write_final(&self.files, table, weights, &self.readme)?;
            listener(Event::Saved(&path));
            summary.final_dir = Some(path);
        }
        progress.log.flush()?;
        self.report(&summary)?;
        Ok(summary)
    }

    fn evaluate_only(&mut self, progress: &mut Progress<'_>, listener: &mut Listener<'_>) -> Result<Summary> {
        let mut summary = Summary { labels: self.files.labels.clone(), ..Summary::default() };
        for (name, kind, split) in [("valid", Kind::Valid, &self.valid), ("test", Kind::Test, &self.test)] {
            if let Some(split) = split {
                let evaluation = self.evaluation(name, split, listener)?;
                let record = to_record(kind, progress.state.step, &evaluation);
                progress.log.log(&record)?;
                listener(Event::Evaluation(&record));
                summarise(&mut summary, name, &evaluation);
            }
        }
        progress.log.flush()?;
        self.report(&summary)?;
        Ok(summary)
    }

    /// report.html, from the logs and what only the summary has.
    fn report(&self, summary: &Summary) -> Result<()> {
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
        let files = "The settings are in config.toml, all figures in metrics.jsonl, beside this page.";
        let mut report = Report::of_run(
            &read_metrics(dir)?,
            format!("Headstart run {name}"),
            vec![outcome, files.to_owned()],
        );
        if let Some(counts) = summary.confusion.clone() {
            let tested = summary.metrics.keys().any(|name| name.starts_with("test/"));
            let title = format!("Confusion matrix, {}", if tested { "test" } else { "validation" });
            report.confusions.push(Confusion { title, labels: summary.labels.clone(), counts });
        }
        report.write(&self.folder.report_html())
    }
}

/// A count that the trainer state keeps; 0 where it has none.
fn counter(state: &TrainerState, name: &str) -> u64 {
    state.extra.get(name).and_then(serde_json::Value::as_u64).unwrap_or(0)
}

fn not_finite(folder: &RunFolder, what: String, step: u64) -> Error {
    let last = match folder.latest() {
        Ok(Some(checkpoint)) => format!("the last good checkpoint is {}", checkpoint.folder.display()),
        _ => "there is no checkpoint yet".to_owned(),
    };
    let fix = format!("{last}; try a new run with a smaller --lr, a longer warm-up, or --precision f32");
    Error::NonFinite { what, step, fix }
}

fn to_record(kind: Kind, step: u64, evaluation: &Evaluation) -> Record {
    let record = Record::new(kind, step, unix_seconds());
    evaluation.metrics.iter().fold(record, |record, (name, value)| record.with(name.as_str(), *value))
}

fn summarise(summary: &mut Summary, split: &str, evaluation: &Evaluation) {
    for (name, value) in &evaluation.metrics {
        summary.metrics.insert(format!("{split}/{name}"), *value);
    }
    summary.confusion.clone_from(&evaluation.confusion);
}

/// Seconds since 1970; only ever written into logs.
pub(crate) fn unix_seconds() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
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
