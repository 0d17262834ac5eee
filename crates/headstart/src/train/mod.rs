//! THE loop: one loop for pretraining and fine-tuning.
//!
//! Owns: the order of things in a run: batches, steps, evaluations, checkpoints, how it stops and resumes.
//! Never: where data came from, what a model is made of, how a checkpoint lies on disk.
//!
//! Everything a step does follows from the configuration, the seed and the step's number, so a checkpoint is
//! weights, moments, the step and the best metric so far, and a resumed run computes the same bits.

mod about;
mod batches;
mod card;
mod fitted;
mod length;
mod measure;
mod outcome;
mod rates;
mod sampling;
mod saving;
mod step;
mod verdict;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use headstart_engine::collective::{Exchange, GroupSums};
use headstart_engine::{Collective, Gradients, Weights};

use crate::batch::{Examples, TokenTargets};
use crate::checkpoint::{BestCheckpoint, Checkpoint, ModelFiles, RunFolder, TrainerState};
use crate::config::{RegularisationConfig, TrainConfig};
use crate::device::{Device, DeviceChoice};
use crate::error::{Error, Result};
use crate::eval::{Evaluation, Evaluator, TextSize, is_better_low};
use crate::event::{Event, Listener, Signal, StepRecord};
use crate::model::Model;
use crate::objective::Objective;
use crate::optim::Optimizer;
use crate::ranks::Ranks;
use crate::rates::Row;
use crate::run_log::{Kind, Record, RunLog};
use crate::schedule::Curve;
use crate::train_log::TrainLog;

use batches::Batches;
use length::Estimate;
pub(crate) use length::span;
use outcome::not_finite;
use step::Ready;

pub(crate) use card::Finished;
pub(crate) use measure::{Measurement, StepTime};
pub use outcome::{Bar, BarMetric, FittedHead, Summary, fixed};
pub(crate) use outcome::{share, thousands, to_record, unix_seconds};
pub(crate) use step::Step;
pub(crate) use verdict::{OriginsOf, add_verdict, record_predictions, summarise, write_summary};

/// So many skipped steps in a row end a run. A skipped step changes no weight, so a strange example or a product that
/// overflowed is past with the next batch; when five batches fail on the same weights, these are to blame, and no
/// further batch mends them.
const MOST_SKIPPED_IN_A_ROW: u64 = 5;

/// Where a run writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A new run in this folder, which is not there or empty.
    New(PathBuf),
    /// A new run in this folder or, where it is taken, in the first free one of `-2`, `-3`, ... behind its name.
    Numbered(PathBuf),
    /// The run in this folder, continued.
    Continued(PathBuf),
}

/// What a run is started with besides its configuration.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The run folder.
    pub place: Place,
    /// The command line, for command.txt.
    pub command: String,
    /// Where to compute; a resumed run may continue on another device.
    pub device: DeviceChoice,
    /// The other ranks.
    pub collective: Collective,
    /// Whether a run may go on with a number of ranks that its groups cannot be shared among.
    pub allow_other_groups: bool,
}

/// A split that is evaluated.
#[derive(Clone, Debug)]
pub(crate) struct EvaluationSplit<'a> {
    pub(crate) examples: Examples<'a>,
    pub(crate) text: Option<TextSize>,
}

/// Which metric says that a checkpoint is better.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BestBy {
    /// The lowest value of it.
    Lowest(String),
    /// The highest value of it.
    Highest(String),
}

impl BestBy {
    /// By a metric of which it is known whether less of it is better.
    pub(crate) fn metric(name: &str) -> Self {
        if is_better_low(name) { Self::Lowest(name.to_owned()) } else { Self::Highest(name.to_owned()) }
    }

    /// The metric.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Lowest(name) | Self::Highest(name) => name,
        }
    }
}

/// The model that a run started from and leaves as it is, but for a little.
#[derive(Clone, Debug)]
pub(crate) struct Trunk {
    /// How the rest is trained.
    pub(crate) method: &'static str,
    /// Where it lies.
    pub(crate) model: PathBuf,
    /// What is below it, where it is an adapter itself.
    pub(crate) base: Option<PathBuf>,
}

/// Everything a run needs; `pretrain` and `finetune` put it together.
#[derive(Debug)]
pub(crate) struct Training<'a> {
    pub(crate) config: &'a TrainConfig,
    pub(crate) device: Device,
    pub(crate) ranks: Ranks,
    pub(crate) model: Model,
    pub(crate) weights: Weights,
    pub(crate) objective: Objective,
    pub(crate) targets: TokenTargets,
    pub(crate) train: Examples<'a>,
    pub(crate) valid: Option<EvaluationSplit<'a>>,
    /// Looked at once, at the end.
    pub(crate) test: Option<EvaluationSplit<'a>>,
    pub(crate) best_by: BestBy,
    /// Finish with the best checkpoint's weights rather than the last.
    pub(crate) keep_best: bool,
    /// What a bag of words achieves on the same examples, for the summary.
    pub(crate) bar: Option<Bar>,
    /// What trains when at which rate; none where everything does at the run's.
    pub(crate) rates: Vec<Row>,
    /// Which examples an epoch takes, and what weights are pulled to.
    pub(crate) regularisation: RegularisationConfig,
    /// Evaluations without a better one after which to stop; 0: never.
    pub(crate) early_stopping: u64,
    /// Seconds of `max_time` that were gone before the first step: those of the bag of words.
    pub(crate) before_s: f64,
    pub(crate) files: ModelFiles,
    /// What the model was before, where most of it stays that: what is not is saved alone, too.
    pub(crate) trunk: Option<Trunk>,
    /// What was said before there was a folder.
    pub(crate) notes: Vec<String>,
    pub(crate) folder: RunFolder,
    /// What the data is called.
    pub(crate) data: String,
    /// Reads where the examples of a split stand; `None` for running text.
    pub(crate) origins: Option<OriginsOf<'a>>,
    /// Where a resumed run goes on.
    pub(crate) checkpoint: Option<Checkpoint>,
}

/// The part of a run that changes from step to step, besides the weights.
struct Running<'a> {
    optimizer: Optimizer,
    gradients: Gradients,
    group_sums: GroupSums,
    state: TrainerState,
    /// Rank 0 keeps it.
    log: Option<RunLog>,
    /// When the last step will be done.
    estimate: Estimate,
    /// When this process began.
    started: Instant,
    /// Seconds of work of the processes before this one.
    elapsed_before_s: f64,
    /// The step of the newest checkpoint; 0: none.
    saved: u64,
    steps_per_epoch: u64,
    total_steps: u64,
    batches: Batches<'a>,
    /// The step that comes next, once the one before has prepared it.
    ready: Option<Ready>,
    /// With the step it was made after.
    last_valid: Option<(u64, Evaluation)>,
    last_test: Option<(u64, Evaluation)>,
}

/// Why a run ends before its last step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Signal,
    MaxTime,
    EarlyStopping,
}

impl Stop {
    /// The word in a [`Summary`].
    fn name(self) -> &'static str {
        match self {
            Self::Signal => "signal",
            Self::MaxTime => "max_time",
            Self::EarlyStopping => "early_stopping",
        }
    }
}

impl<'a> Training<'a> {
    /// Runs (or resumes) to the end, a stop, or an error.
    pub(crate) fn run(mut self, listener: &mut Listener<'_>) -> Result<Summary> {
        let mut log = self.folder.train_log().map(|path| TrainLog::open(&path, &self.notes)).transpose()?;
        let collective = self.ranks.collective().clone();
        let listener: &mut Listener<'_> = &mut |event| {
            if let Some(log) = &mut log {
                log.event(&event);
            }
            // What one rank is asked, all hear soon; when to stop they agree on.
            if listener(event) == Signal::Stop {
                collective.ask_stop();
                return Signal::Stop;
            }
            if collective.stop_asked() { Signal::Stop } else { Signal::Continue }
        };
        let mut running = self.start(listener)?;
        if running.total_steps == 0 {
            return self.evaluate_only(&mut running, listener);
        }
        let stopped = self.steps(&mut running, listener)?;
        self.finish(running, stopped, listener)
    }

    /// THE loop: all that happens in a step, in order. Returns why it ended early, if it did.
    fn steps(&mut self, running: &mut Running<'a>, listener: &mut Listener<'_>) -> Result<Option<Stop>> {
        let total_steps = running.total_steps;
        // An evaluation that was stopped is made up for.
        if running.state.evaluation_is_due {
            match self.evaluate(running, listener)? {
                None => return Ok(Some(Stop::Signal)),
                Some(_) => self.save(running, listener)?,
            }
        }
        // A run that was interrupted after its early stop, while it finished, takes no further step.
        let mut stopped = self.out_of_patience(&running.state).then_some(Stop::EarlyStopping);
        while running.state.step < total_steps && stopped.is_none() {
            let began = Instant::now();
            let step = running.state.step + 1;
            let mut work = Step {
                device: &self.device,
                ranks: &self.ranks,
                model: &self.model,
                objective: &self.objective,
                precision: self.config.precision(),
                seed: self.config.seed,
                weights: &mut self.weights,
                gradients: &mut running.gradients,
                group_sums: &mut running.group_sums,
                optimizer: &mut running.optimizer,
                summed: None,
            };

            // The next batch: a GPU has prepared it during the step before.
            let batches = &mut running.batches;
            let mut ready = match running.ready.take() {
                Some(ready) => ready,
                None => work.ready(batches.of(step), step),
            };
            let next = || (step < total_steps).then(|| batches.of(step + 1));

            // Forward and backward over this rank's slabs, again in smaller ones where memory is full.
            let computed = work.forward_backward(&mut ready, next, listener)?;

            // Reduce: losses and gradients are added over the ranks.
            let Some(loss) = work.reduce(computed.as_ref(), &ready.batch)? else {
                // Stopped in its middle, on whichever rank, the step was not.
                if running.saved != running.state.step {
                    self.save(running, listener)?;
                }
                return Ok(Some(Stop::Signal));
            };
            running.ready = computed.and_then(|computed| computed.next);

            // The norm of the gradients.
            let grad_norm = work.gradient_norm()?;

            // Update the weights, or skip a step whose metrics are not finite.
            let lr = self.config.peak_lr() * Curve::of(self.config).factor(total_steps, step);
            let metrics = [("training loss", loss), ("gradient norm", grad_norm)];
            let failure = metrics.iter().find(|(_, value)| !value.is_finite()).map(|(what, _)| *what);
            match failure {
                // Adam's corrections are for the number of updates, as where PyTorch's GradScaler skips a step.
                None => work.update(grad_norm, lr, step, running.state.updates() + 1)?,
                Some(_) => work.skip(),
            }
            running.state.count_step(failure.is_some());

            // Log.
            let tokens_per_s = ready.batch.tokens() as f64 / began.elapsed().as_secs_f64().max(1e-9);
            let epoch = step as f64 / running.steps_per_epoch as f64;
            let elapsed_s = running.started.elapsed().as_secs_f64();
            let record =
                StepRecord { step, total_steps, epoch, loss, lr, grad_norm, tokens_per_s, elapsed_s };
            self.log_step(running, &record, failure, listener)?;
            let mut stop = listener(Event::Step(&record)) == Signal::Stop;
            self.announce_time(&mut running.estimate, (step, total_steps), ready.batch.tokens(), listener);

            // Evaluate.
            let epoch_ends = step.is_multiple_of(running.steps_per_epoch) || step == total_steps;
            let every = self.config.steps_between_evaluations();
            let mut improved = false;
            let evaluates = epoch_ends || every.is_some_and(|every| step.is_multiple_of(every));
            if evaluates {
                let Some(is_best) = self.evaluate(running, listener)? else {
                    self.save(running, listener)?;
                    return Ok(Some(Stop::Signal));
                };
                improved = is_best;
            }
            let done = Event::Progress { what: "training", done: step, total: total_steps };
            stop |= listener(done) == Signal::Stop;

            // Save. The last step ends the run whole, whatever was asked meanwhile.
            if step < total_steps {
                let elapsed_s = running.started.elapsed().as_secs_f64();
                let out_of_time = self.config.max_time.is_some_and(|most| self.before_s + elapsed_s >= most);
                let [stop, out_of_time] = self.ranks.any([stop, out_of_time])?;
                let reasons = [
                    (stop, Stop::Signal),
                    (out_of_time, Stop::MaxTime),
                    (self.out_of_patience(&running.state), Stop::EarlyStopping),
                ];
                stopped = reasons.into_iter().find(|(holds, _)| *holds).map(|(_, reason)| reason);
            }
            let due = self.config.save_every > 0 && step.is_multiple_of(self.config.save_every);
            if epoch_ends || improved || due || stopped.is_some() {
                self.save(running, listener)?;
            }
            if let Some(reason) = stopped.filter(|_| !evaluates) {
                self.evaluate_stopped(running, reason, tokens_per_s, listener)?;
            }
        }
        Ok(stopped)
    }

    fn out_of_patience(&self, state: &TrainerState) -> bool {
        self.early_stopping > 0 && state.evaluations_since_best >= self.early_stopping
    }

    fn start(&mut self, listener: &mut Listener<'_>) -> Result<Running<'a>> {
        let data = self.data_sums();
        let sampling = self.regularisation.sampling;
        let batches = Batches::new(std::mem::take(&mut self.train), self.targets, self.config, sampling);
        let steps_per_epoch = batches.steps_per_epoch();
        let total_steps = self.config.total_steps(batches.examples());
        let table = self.model.table();
        let exchange = Exchange::new(&self.device, self.ranks.collective(), table.trainable_len())?;
        if let Some(why) = exchange.detour() {
            let line = format!("the GPUs exchange gradients by way of the processors, which is slow: {why}");
            listener(Event::Message(&line));
        }
        let mut optimizer = Optimizer::new(table, self.config, exchange);
        let mut state = TrainerState::default();
        if let Some(checkpoint) = self.checkpoint.take() {
            self.same_run(&checkpoint, &data)?;
            self.weights = Weights::new(self.load(&checkpoint, &mut optimizer)?);
            state = checkpoint.state;
            if !optimizer.go_on_from(&state.phase_updates, state.updates()) {
                return Err(Error::Checkpoint {
                    path: checkpoint.folder,
                    what: "does not say how many updates each phase of the run has had".into(),
                    fix: "go on from another checkpoint, or start a new run with another --out".into(),
                });
            }
            if let Some(tokens) = state.slab_tokens {
                self.device.set_slab_tokens(tokens);
            }
            let at = format!("resuming after step {} of {total_steps}", state.step);
            listener(Event::Message(&at));
        } else {
            self.keep_from_here(&mut optimizer);
        }
        let settings = self.folder.settings_sum().to_owned();
        let state = TrainerState { seed: self.config.seed, settings, data, ..state };
        let (step, logged) = (state.step, state.logged.as_ref());
        let open = || RunLog::open(self.folder.dir(), step, logged, unix_seconds());
        let log = self.ranks.leads().then(open).transpose()?;
        self.announce_length(steps_per_epoch, total_steps, listener);
        let line = format!(
            "{} parameters, {} train{}; {} {}, {steps_per_epoch} steps an epoch, {total_steps} steps, {} tokens; {}{} threads, {}, {} products",
            thousands(table.len()),
            thousands(table.trainable_len()),
            share(table.trainable_len(), table.len()),
            thousands(batches.examples()),
            if batches.are_pairs() { "pairs of examples" } else { "examples" },
            thousands((batches.tokens() as f64 * total_steps as f64 / steps_per_epoch as f64) as usize),
            self.several_ranks(),
            self.device.threads(),
            self.device_name(),
            self.config.precision.unwrap_or_default().name(),
        );
        listener(Event::Message(&line));
        self.announce_rates(listener);
        Ok(Running {
            optimizer,
            gradients: Gradients::new(table.trainable_len()),
            group_sums: GroupSums::default(),
            elapsed_before_s: state.elapsed_s,
            saved: state.step,
            state,
            log,
            estimate: Estimate::new(),
            started: Instant::now(),
            steps_per_epoch,
            total_steps,
            batches,
            ready: None,
            last_valid: None,
            last_test: None,
        })
    }

    /// "4 ranks with ", where there are several.
    fn several_ranks(&self) -> String {
        match (self.ranks.collective().world_size(), self.ranks.groups()) {
            (1, 1) => String::new(),
            (1, groups) => format!("gradients added in {groups} groups, "),
            (ranks, groups) if ranks == groups => format!("{ranks} ranks with "),
            (ranks, groups) => format!("{ranks} ranks (gradients added in {groups} groups) with "),
        }
    }

    /// The sums of what the splits hold.
    fn data_sums(&self) -> BTreeMap<String, String> {
        let splits = [
            ("train", Some(&self.train)),
            ("valid", self.valid.as_ref().map(|split| &split.examples)),
            ("test", self.test.as_ref().map(|split| &split.examples)),
        ];
        splits.into_iter().filter_map(|(name, split)| Some((name.to_owned(), split?.content_sum()))).collect()
    }

    /// Refuses a checkpoint of other settings or other data. Version 1 kept neither.
    fn same_run(&self, checkpoint: &Checkpoint, data: &BTreeMap<String, String>) -> Result<()> {
        let state = &checkpoint.state;
        if !state.settings.is_empty() && state.settings != self.folder.settings_sum() {
            return Err(Error::Checkpoint {
                path: self.folder.config_toml(),
                what: format!(
                    "are not the settings of {}, and a continued run keeps its settings",
                    checkpoint.folder.display()
                ),
                fix: "bring back the file that was there, or start a new run with another --out".into(),
            });
        }
        let known = |name: &str| state.data.get(name);
        let names = ["train", "valid", "test"];
        let differs = names.into_iter().find(|name| !state.data.is_empty() && known(name) != data.get(*name));
        match differs {
            None => Ok(()),
            Some(split) => Err(Error::Config {
                key: "data".into(),
                what: format!(
                    "the {split} examples of {} are not those this run was started with: their content differs",
                    self.data
                ),
                fix: "bring the data back as it was, or start a new run with another --out".into(),
            }),
        }
    }

    /// Writes a step to the logs and says that it was skipped, if so; ends a run whose steps all are.
    fn log_step(
        &self,
        running: &mut Running<'_>,
        step: &StepRecord,
        failure: Option<&str>,
        listener: &mut Listener<'_>,
    ) -> Result<()> {
        let mut record = Record::new(Kind::Train, step.step, unix_seconds())
            .with("loss", step.loss)
            .with("lr", step.lr)
            .with("grad_norm", step.grad_norm)
            .with("epoch", step.epoch)
            .with("tokens_per_s", step.tokens_per_s);
        if let Some(what) = failure {
            record = record.with("skipped", running.state.skipped as f64);
            let line = format!("step {} is skipped: its {what} is not finite", step.step);
            listener(Event::Message(&line));
        }
        if let Some(log) = &mut running.log {
            log.log(&record)?;
        }
        let in_a_row = running.state.skipped_in_a_row;
        match failure.filter(|_| in_a_row >= MOST_SKIPPED_IN_A_ROW) {
            None => Ok(()),
            Some(what) => {
                let what = format!("the {what} is not finite; {in_a_row} steps in a row were skipped");
                Err(not_finite(&self.folder, &running.state, what))
            }
        }
    }

    /// Evaluates the validation split; whether it is the best so far. `None` when the listener asked to stop: then the
    /// evaluation stays due.
    fn evaluate(&self, running: &mut Running<'_>, listener: &mut Listener<'_>) -> Result<Option<bool>> {
        // Before the head is fitted there is nothing to evaluate.
        let split = self.valid.as_ref().filter(|_| !running.batches.are_pairs());
        let Some(split) = split else { return Ok(Some(false)) };
        let averaged = self.averaged(&running.optimizer)?;
        let weights = averaged.as_ref().unwrap_or(&self.weights);
        let evaluation = self.evaluation("valid", split, weights, listener)?;
        running.state.evaluation_is_due = evaluation.is_none();
        let Some(evaluation) = evaluation else { return Ok(None) };
        let step = running.state.step;
        let record = to_record(Kind::Valid, step, &evaluation);
        if let Some(log) = &mut running.log {
            log.log(&record)?;
        }
        let name = self.best_by.name();
        let sign = if matches!(self.best_by, BestBy::Lowest(_)) { -1.0 } else { 1.0 };
        let metric = |name| evaluation.metrics.get(name).copied().unwrap_or(f64::NAN);
        let (value, loss) = (metric(name), metric("loss"));
        // Equal accuracies are told apart by the loss, so that "best" does not depend on the first lucky one.
        let better = match running.state.best {
            // What is not finite is never the best.
            _ if !value.is_finite() || !loss.is_finite() => false,
            None => true,
            Some(best) => {
                let gain = sign * (value - best.value);
                gain > 0.0 || (gain == 0.0 && best.loss.is_some_and(|best| loss < best))
            }
        };
        listener(Event::Evaluation { record: &record, metric: name, best_so_far: better });
        running.last_valid = Some((step, evaluation));
        if better {
            running.state.best = Some(BestCheckpoint { step, value, loss: Some(loss) });
            running.state.evaluations_since_best = 0;
        } else {
            running.state.evaluations_since_best += 1;
        }
        Ok(Some(better))
    }

    fn evaluation(
        &self,
        name: &str,
        split: &EvaluationSplit<'_>,
        weights: &Weights,
        listener: &mut Listener<'_>,
    ) -> Result<Option<Evaluation>> {
        let evaluator = Evaluator {
            device: &self.device,
            ranks: &self.ranks,
            model: &self.model,
            weights,
            precision: self.config.precision(),
            objective: &self.objective,
            targets: self.targets,
            batch_size: self.config.valid_batch_size,
        };
        evaluator.run(name, &split.examples, split.text, &self.files.labels, listener)
    }
}
