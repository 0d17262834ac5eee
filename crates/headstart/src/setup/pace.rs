//! The settings of a run that were left open, settled once when it begins.
//!
//! Owns: their order: what the recipe says, then the length that fits the budget, then the warm-up. Never: the values
//! (`config`), a step (`train`).

use std::time::{Duration, Instant};

use crate::batch::Examples;
use crate::config::{Amount, Method, ModelConfig, Recipe, Task, TrainConfig};
use crate::error::Result;
use crate::event::{Event, Listener};
use crate::params::Kind;
use crate::ranks::Ranks;
use crate::rates::Length;
use crate::setup::pace_by_phase::{StepSeconds, Unfreezing, most_steps};
use crate::setup::run::OpenRun;
use crate::train::{EvaluationSplit, Measurement, StepTime, thousands};

/// The share of a budget that is kept for what is not measured: saving, and a machine that slows down.
const RESERVE: f64 = 0.05;
/// An evaluation takes a third of a training step of as many tokens: backward is twice the work of forward.
const FORWARD_SHARE: f64 = 1.0 / 3.0;

/// A run about to begin.
#[derive(Debug)]
pub(crate) struct Beginning<'a> {
    pub(crate) task: Task,
    pub(crate) model: &'a ModelConfig,
    /// What there is to train on.
    pub(crate) amount: Amount,
    /// Tokens of an evaluation on validation data, and of the one on test data.
    pub(crate) evaluated: [usize; 2],
    /// That parts begin to train one after the other, where they do.
    pub(crate) unfreezing: Option<Unfreezing<'a>>,
    /// When the work for this run began.
    pub(crate) since: Instant,
}

/// What there is to read in an epoch.
pub(crate) fn amount_of(examples: &Examples<'_>) -> Amount {
    Amount { examples: examples.items(), tokens: examples.item_tokens() }
}

/// Tokens of the splits that are evaluated.
pub(crate) fn tokens_of(splits: [Option<&EvaluationSplit<'_>>; 2]) -> [usize; 2] {
    splits.map(|split| split.map_or(0, |split| split.examples.tokens()))
}

impl Beginning<'_> {
    /// The settings `measurement` comes with, as they are for a run that continues, and with nothing left open for a new
    /// one; what is said of them is added to `notes`.
    ///
    /// # Errors
    /// What goes wrong on the device while steps are timed.
    pub(crate) fn settings(
        &self,
        run: &OpenRun,
        ranks: &Ranks,
        measurement: &Measurement<'_>,
        notes: &mut Vec<String>,
        listener: &mut Listener<'_>,
    ) -> Result<TrainConfig> {
        if run.is_continued() {
            return Ok(measurement.config.clone());
        }
        let mut settled = ranks.of_leader(|| self.settled(ranks, measurement, notes, listener))?;
        settled.reduction_groups = (ranks.groups() > 1).then_some(ranks.groups());
        Ok(settled)
    }

    fn settled(
        &self,
        ranks: &Ranks,
        measurement: &Measurement<'_>,
        notes: &mut Vec<String>,
        listener: &mut Listener<'_>,
    ) -> Result<TrainConfig> {
        let mut noting = |event: Event<'_>| {
            if let Event::Message(line) = event {
                notes.push(line.to_owned());
            }
            listener(event)
        };
        let time_steps = |draft: &TrainConfig, at_most: Duration, listener: &mut Listener<'_>| {
            let mut step = Measurement { config: draft, ..*measurement }.run(at_most, listener)?;
            let mut head = step.seconds;
            if self.unfreezing.is_some() {
                let mut model = measurement.model.clone();
                model.set_phases(&[1], |param, _| f64::from(u8::from(param.kind == Kind::Head)));
                let measured = Measurement { config: draft, model: &model, ..*measurement };
                head = measured.run(at_most, listener)?.seconds.min(head);
            }
            // One rank is measured, with the whole batch.
            let ranks = ranks.collective().world_size() as f64;
            step.seconds /= ranks;
            Ok((step, head / ranks))
        };
        self.settle(measurement.config, time_steps, &mut noting)
    }

    /// `config` with nothing left open. `time_steps` times steps with the settings so far, for about as long as it is
    /// told, with everything and, where parts begin one after the other, with the head alone; it is only asked where there is a
    /// budget.
    ///
    /// # Errors
    /// Those of `time_steps`.
    fn settle(
        &self,
        config: &TrainConfig,
        time_steps: impl FnOnce(&TrainConfig, Duration, &mut Listener<'_>) -> Result<(StepTime, f64)>,
        listener: &mut Listener<'_>,
    ) -> Result<TrainConfig> {
        let mut settled = config.clone();
        match (config.budget, config.max_steps) {
            (Some(budget), Some(most)) => {
                let line =
                    format!("max_steps {most} is given, so nothing is fitted to the budget of {budget}");
                listener(Event::Message(&line));
            }
            (Some(budget), None) => {
                let mut draft = config.clone();
                draft.choose(self.task, self.model, self.amount);
                let at_most = Duration::from_secs_f64((0.03 * budget.seconds()).clamp(0.2, 3.0));
                let (step, head) = time_steps(&draft, at_most, listener)?;
                let left_s = budget.seconds() * (1.0 - RESERVE) - self.since.elapsed().as_secs_f64();
                let fitting = self.fitting(&draft, step, head, left_s);
                let steps =
                    config.n_epochs.map_or(fitting, |_| fitting.min(draft.total_steps(self.amount.examples)));
                settled.max_steps = Some(steps);
                let first =
                    self.unfreezing.as_ref().map_or(String::new(), |_| format!("{head:.3} s at first and "));
                let line = format!(
                    "budget {budget}: {} steps of {first}{:.3} s are taken ({} tokens at {} tokens/s)",
                    thousands(steps as usize),
                    step.seconds,
                    thousands((steps as f64 * step.tokens) as usize),
                    thousands((step.tokens / step.seconds) as usize),
                );
                listener(Event::Message(&line));
            }
            (None, _) => {}
        }
        let mut chosen = settled.choose(self.task, self.model, self.amount);
        chosen.extend(settled.choose_warmup(self.task, self.model, self.amount));
        if !chosen.is_empty() {
            listener(Event::Message(&format!("{}: {}", self.why(config.recipe), chosen.join(", "))));
        }
        Ok(settled)
    }

    /// How many steps fit into so many seconds, with their evaluations. At least one.
    fn fitting(&self, config: &TrainConfig, step: StepTime, head: f64, left_s: f64) -> u64 {
        let [valid_s, test_s] =
            self.evaluated.map(|tokens| tokens as f64 * FORWARD_SHARE * step.seconds / step.tokens.max(1.0));
        let each_epoch = 1.0 / config.steps_per_epoch(self.amount.examples) as f64;
        let between = config.steps_between_evaluations().map_or(0.0, |every| 1.0 / every as f64);
        let evaluations = valid_s * (each_epoch + between);
        let left_s = left_s - valid_s - test_s;
        let Some(unfreezing) = &self.unfreezing else {
            return ((left_s / (step.seconds + evaluations)) as u64).max(1);
        };
        let steps_per_epoch = config.steps_per_epoch(self.amount.examples);
        let seconds = StepSeconds { whole: step.seconds, head };
        most_steps(left_s, |total_steps| {
            let length = Length { steps_per_epoch, total_steps };
            unfreezing.seconds(length, seconds) + total_steps as f64 * evaluations
        })
    }

    /// What the chosen settings were chosen for.
    fn why(&self, recipe: Recipe) -> String {
        let work = match self.task {
            Task::Pretraining => "pretraining",
            Task::Continuing { .. } => "continued pretraining",
            Task::Finetuning { from_scratch: true, .. } => "training from scratch",
            Task::Finetuning { method: Method::Full, .. } => "fine-tuning everything",
            Task::Finetuning { method: Method::Head, .. } => "fine-tuning the head",
            Task::Finetuning { method: Method::Adapters, .. } => "fine-tuning adapters",
            Task::Finetuning { method: Method::Lora, .. } => "fine-tuning low-rank updates",
            Task::Finetuning { method: Method::Ia3, .. } => "fine-tuning scales",
            Task::Finetuning { method: Method::Bitfit, .. } => "fine-tuning biases",
            Task::Finetuning { method: Method::Features, .. } => "fitting a head",
            Task::Finetuning { method: Method::Contrastive, .. } => "tuning on pairs",
            Task::Finetuning { method: Method::Bow, .. } => "a bag of words",
        };
        match recipe {
            Recipe::Tutorial => format!("the tutorial's settings for {work}"),
            Recipe::Auto => {
                let (arch, width) = (self.model.arch.name(), self.model.embed_dim);
                format!("chosen for {work}, {arch} layout, {width} wide, unless flags say otherwise")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Signal;

    fn settled(config: &TrainConfig, task: Task) -> (TrainConfig, Vec<String>) {
        let model = ModelConfig::preset("mini").unwrap();
        let beginning = Beginning {
            task,
            model: &model,
            amount: Amount { examples: 800, tokens: 100_000 },
            evaluated: [6_000, 3_000],
            unfreezing: None,
            since: Instant::now(),
        };
        let mut said = Vec::new();
        let settled = beginning
            .settle(
                config,
                |draft, _, _| {
                    assert!(draft.lr.is_some() && draft.train_batch_size.is_some(), "{draft:?}");
                    Ok((StepTime { seconds: 0.1, tokens: 2_000.0 }, 0.1))
                },
                &mut |event| {
                    if let Event::Message(line) = event {
                        said.push(line.to_owned());
                    }
                    Signal::Continue
                },
            )
            .unwrap();
        (settled, said)
    }

    #[test]
    fn a_budget_becomes_steps_once() {
        let config = TrainConfig { budget: Some("100s".parse().unwrap()), ..TrainConfig::default() };
        let (first, said) = settled(&config, Task::Pretraining);
        // 95 s less 0.1 s and 0.05 s of evaluations; steps of 0.1 s and a fiftieth of 0.1 s.
        assert_eq!((first.max_steps, first.n_epochs, first.warmup_steps), (Some(929), Some(19), Some(92)));
        assert!(said[0].starts_with("budget 100s: 929 steps"), "{said:?}");
        // What is settled stays.
        let (again, said) = settled(&first, Task::Pretraining);
        assert_eq!(again, first);
        assert_eq!(said, ["max_steps 929 is given, so nothing is fitted to the budget of 100s"]);
        // A budget that is too small, and one that is larger than the epochs that were asked for.
        let tiny = TrainConfig { budget: Some("1s".parse().unwrap()), ..TrainConfig::default() };
        assert!(settled(&tiny, Task::Pretraining).0.max_steps.is_some_and(|n| (1..10).contains(&n)));
        let short = TrainConfig { n_epochs: Some(2), ..config };
        assert_eq!(settled(&short, Task::Pretraining).0.max_steps, Some(100));
    }

    #[test]
    fn what_is_given_stays_and_what_is_chosen_is_said() {
        let task = Task::Finetuning { method: Method::Adapters, from_scratch: false };
        let given = TrainConfig { lr: Some(0.5), warmup_steps: Some(7), ..TrainConfig::default() };
        let (config, said) = settled(&given, task);
        assert_eq!((config.lr, config.warmup_steps), (Some(0.5), Some(7)));
        assert!(
            said[0].starts_with("chosen for fine-tuning adapters") && !said[0].contains("lr "),
            "{said:?}"
        );
        let tutorial = TrainConfig { recipe: Recipe::Tutorial, ..TrainConfig::default() };
        let (config, said) = settled(&tutorial, task);
        assert_eq!((config.lr, config.max_norm, config.warmup_steps), (Some(6e-5), Some(0.25), Some(500)));
        assert_eq!((config.n_epochs, config.train_batch_size), (Some(3), Some(16)));
        assert!(said[0].contains("the tutorial's") && said[0].contains("500 warm-up steps"), "{said:?}");
    }
}
