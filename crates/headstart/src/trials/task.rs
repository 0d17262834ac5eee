//! What has to be known of model and data before there are any runs.
//!
//! Owns: how many training examples there are, and what the recipe would choose for them. Never: trains.

use crate::checkpoint::{ModelPath, load_model};
use crate::config::{self, Amount, Arch, FinetuneConfig, TrainConfig};
use crate::data::split::Split;
use crate::error::{Error, Result};
use crate::event::Listener;
use crate::ranks::Ranks;
use crate::setup::classifier::check_numbers;
use crate::setup::labelled::DataRequest;

/// The task of all runs.
pub(super) struct Task {
    /// Training examples, without those that are held out for validation.
    pub examples: usize,
    /// The model's family.
    pub arch: Arch,
    /// Whether texts come in pairs.
    pub pairs: bool,
    /// Whether there is validation data.
    pub has_validation: bool,
    /// Whether it is a part of the training data, drawn with the seed.
    pub held_out: bool,
    /// The settings of the loop with what the recipe chooses for all examples.
    pub chosen: TrainConfig,
}

impl Task {
    pub(super) fn read(config: &FinetuneConfig, ranks: &Ranks, listener: &mut Listener<'_>) -> Result<Self> {
        let Some(path) = &config.model else {
            return Err(Error::Config {
                key: "model".into(),
                what: "fine-tuning starts from a model, and none is named".into(),
                fix: "name a run folder or a name of `headstart models list`: --model runs/trunk".into(),
            });
        };
        let base = load_model(ModelPath { path, base: config.peft.base.as_deref() })?;
        let (tokenizer, model) = (base.tokenizer()?, &base.files.config);
        let request = DataRequest {
            config: &config.data,
            problem: config.problem,
            arch: model.arch,
            pooling: model.arch.pooling(),
            positions: model.num_max_positions,
            truncation: None,
        };
        // What there is to say of the data is said by each run.
        let mut quiet = |event: crate::event::Event<'_>| match event {
            crate::event::Event::Message(_) => crate::event::Signal::Continue,
            other => listener(other),
        };
        let mut labelled = ranks.leader_first(|| request.load(&tokenizer, None, &mut quiet))?;
        let held_out = labelled.data.hold_out_validation(config.train.seed)? > 0;
        labelled.check_label_column(config.num_classes)?;
        let train = labelled.data.get(Split::Train)?;
        check_numbers(&config.data, train.iter().map(|example| example.label))?;
        let Amount { examples, tokens } = train.amount(model.num_max_positions);
        let used = config.data.max_train_examples.map_or(examples, |most| most.min(examples));
        let task = config::Task::Finetuning { method: config.method, from_scratch: config.from_scratch };
        let mut chosen = config.train.clone();
        chosen.choose(task, model, Amount { examples: used, tokens: tokens * used / examples.max(1) });
        let (arch, pairs) = (model.arch, train.texts_per_example() == 2);
        Ok(Self { examples, arch, pairs, has_validation: labelled.data.valid.is_some(), held_out, chosen })
    }

    /// Optimizer steps of a run on so many examples.
    pub(super) fn steps(&self, config: &FinetuneConfig) -> u64 {
        let used = config.data.max_train_examples.map_or(self.examples, |most| most.min(self.examples));
        self.chosen.total_steps(used)
    }
}
