//! `pretrain`: text, tokenizer and sizes, or a model to go on with, become a `Run` of the one loop.
//!
//! Owns: putting a pretraining run together. Never: the loop (`train`), the metrics (`eval`).

use std::time::Instant;

use headstart_engine::Weights;

use crate::checkpoint::{Checkpoint, LoadedModel, ModelFiles, load_model, with_lm_head};
use crate::config::{ModelConfig, ObjectiveName, PretrainConfig, Task};
use crate::data::source;
use crate::data::split::Split;
use crate::error::{Error, Result};
use crate::event::{Event, Listener};
use crate::model::Model;
use crate::objective::Objective;
use crate::setup::base::Base;
use crate::setup::pace::{Beginning, tokens_of};
use crate::setup::run::{OpenRun, check_memory, model_files};
use crate::setup::text::{TextInputs, never_in_text, token_targets};
use crate::train::{BestBy, Measurement, RunOptions, Summary, Training, thousands};

/// Pretrains a model as configured, or resumes the run in the folder.
///
/// # Errors
/// Bad settings, data that is missing or unusable, a run folder that exists, losses that stay not finite, a disk
/// that is full: each as its own [`Error`].
pub fn pretrain(
    config: &PretrainConfig,
    options: &RunOptions,
    listener: &mut Listener<'_>,
) -> Result<Summary> {
    let since = Instant::now();
    config.validate()?;
    let run = OpenRun::open(&options.place, listener)?;
    let device = options.device.open(config.train.threads)?;
    if let Some(note) = options.device.note(&device) {
        listener(Event::Message(&note));
    }
    let corpus = source::corpus(&config.data, listener)?;
    let checkpoint = run.newest_checkpoint()?;
    let stored = checkpoint.as_ref().map(Checkpoint::model).transpose()?;
    // A run that goes on has its own weights; the model it came from is only needed before its first checkpoint.
    let base = match (&stored, &config.from) {
        (None, Some(from)) => Some(load_model(from)?),
        _ => None,
    };
    let known = stored.as_ref().or(base.as_ref());
    let tokenizer = match known {
        Some(model) => model.tokenizer()?,
        None => source::tokenizer(&config.data, listener)?,
    };
    let mut model_config = match (&stored, &base) {
        (Some(stored), _) if config.from.is_some() => stored.files.config.clone(),
        (_, Some(base)) => continued(config, base)?,
        _ => ModelConfig { vocab_size: tokenizer.vocab_size(), ..config.model.clone() },
    };
    let predicts = config.objective_of(&model_config);
    model_config.causal = predicts == ObjectiveName::Lm;
    let inputs = TextInputs::of(&model_config, config.block_size, tokenizer.roles())?;

    let train = corpus.stream(Split::Train, &tokenizer, listener)?;
    let Some(train) = train else {
        return Err(Error::Missing {
            what: "the corpus has no training text".into(),
            fix: "add a train.txt".into(),
        });
    };
    let valid = corpus.stream(Split::Valid, &tokenizer, listener)?;
    let test = corpus.stream(Split::Test, &tokenizer, listener)?;
    let mut notes = Vec::new();
    for (split, stream) in [("train", Some(&train)), ("valid", valid.as_ref()), ("test", test.as_ref())] {
        let line = match stream {
            Some(s) => format!(
                "{split}: {} words, {} tokens{}",
                thousands(s.counts().words as usize),
                thousands(s.ids().len()),
                s.cache_use().note(),
            ),
            None => format!("{split}: none"),
        };
        listener(Event::Message(&line));
        notes.push(line);
    }

    // Before the folder is made, for a text may be too short.
    let train = inputs.examples(&train)?;
    let [valid, test] = [inputs.evaluated(valid.as_ref())?, inputs.evaluated(test.as_ref())?];
    let model = Model::new(&model_config)?;
    model.check_lm_head()?;
    check_memory(&model, &device, |_| true)?;
    let weights = match (&stored, &base) {
        (Some(stored), _) => stored.mapped_weights(model.table())?,
        (None, Some(loaded)) => {
            let max_length = (0..train.len()).map(|index| train.input_len(index)).max().unwrap_or(0);
            let start = Base { loaded, seed: config.train.seed, max_length, pooling: None };
            Weights::new(start.weights(&model, &mut notes, listener)?)
        }
        (None, None) => Weights::new(model.table().initial_values(config.train.seed)),
    };
    let objective = Objective { lm: 1.0, clf: 0.0, class_weights: None };
    let never = never_in_text(model_config.arch, tokenizer.roles());
    let targets =
        token_targets(predicts, config.mlm_probability, tokenizer.roles(), tokenizer.vocab_size(), never);
    let beginning = Beginning {
        task: if config.from.is_some() { Task::Continuing } else { Task::Pretraining },
        model: &model_config,
        examples: train.len(),
        evaluated: tokens_of([valid.as_ref(), test.as_ref()]),
        since,
    };
    let measurement = Measurement {
        config: &config.train,
        device: &device,
        model: &model,
        objective: &objective,
        targets,
        train: &train,
    };
    let settled = beginning.settings(&run, &measurement, &mut notes, listener)?;
    let as_settings = ModelConfig { vocab_size: config.model.vocab_size, ..model_config.clone() };
    let config =
        &PretrainConfig { objective: Some(predicts), model: as_settings, train: settled, ..config.clone() };
    let files = ModelFiles {
        mlm_probability: (predicts == ObjectiveName::Mlm).then_some(config.mlm_probability),
        block_size: config.block_size,
        head_defaults: known.and_then(|model| model.files.head_defaults),
        ..model_files(&model_config, predicts, Vec::new(), &tokenizer)
    };
    let folder = run.begin(config, &options.command, &device, &corpus.provenance)?;
    let training = Training {
        config: &config.train,
        device,
        model,
        weights,
        objective,
        targets,
        train,
        valid,
        test,
        best_by: BestBy::Lowest("nll"),
        keep_best: false,
        early_stopping: 0,
        notes,
        files,
        folder,
        data: config.data.path.clone(),
        checkpoint,
    };
    training.run(listener)
}

/// The model of `base` with a language model's head and no other, where the settings do not speak against it.
fn continued(config: &PretrainConfig, base: &LoadedModel) -> Result<ModelConfig> {
    let mut model = ModelConfig { head: None, ..base.files.config.clone() };
    let fit = ObjectiveName::of(&model);
    if let Some(asked) = config.objective.filter(|&asked| asked != fit) {
        let (asked, fit, reads) = match asked {
            ObjectiveName::Lm => (asked.name(), fit.name(), "in both directions"),
            ObjectiveName::Mlm => (asked.name(), fit.name(), "from left to right"),
        };
        return Err(Error::Config {
            key: "objective".into(),
            what: format!(
                "{asked} is asked for, but the model that `from` names ({}) reads {reads}",
                model.arch.name()
            ),
            fix: format!("use {fit}, or leave it out"),
        });
    }
    if base.files.objective.is_none() {
        with_lm_head(&mut model);
    }
    check_sizes(&config.model, &model)?;
    Ok(model)
}

/// Refuses sizes that were asked for and are not the model's.
fn check_sizes(asked: &ModelConfig, model: &ModelConfig) -> Result<()> {
    let [asked, default, model] = [asked, &ModelConfig::default(), model]
        .map(|config| serde_json::to_value(config).unwrap_or_default());
    let free = ["causal", "vocab_size"];
    for (key, value) in asked.as_object().into_iter().flatten() {
        if free.contains(&key.as_str()) || default.get(key) == Some(value) || model.get(key) == Some(value) {
            continue;
        }
        let has = model.get(key).map_or("none".into(), ToString::to_string);
        return Err(Error::Config {
            key: key.clone(),
            what: format!("{value} is asked for, but the model that `from` names has {has}"),
            fix: "leave it out: family, sizes and options come from the model".into(),
        });
    }
    Ok(())
}
