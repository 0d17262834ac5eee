//! `pretrain`: text, tokenizer and sizes become a `Run` of the one loop.
//!
//! Owns: putting a pretraining run together. Never: the loop (`train`), the metrics (`eval`).

use std::time::Instant;

use headstart_engine::Weights;

use crate::checkpoint::{Checkpoint, ModelFiles};
use crate::config::{ObjectiveName, PretrainConfig, Task};
use crate::data::source;
use crate::data::split::Split;
use crate::error::{Error, Result};
use crate::event::{Event, Listener};
use crate::model::Model;
use crate::objective::Objective;
use crate::setup::pace::{Beginning, tokens_of};
use crate::setup::run::{OpenRun, check_memory, model_files};
use crate::setup::text::{evaluated, examples, token_targets};
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
    let tokenizer = match &stored {
        Some(stored) => stored.tokenizer()?,
        None => source::tokenizer(&config.data, listener)?,
    };
    let mut model_config = config.model.clone();
    model_config.vocab_size = tokenizer.vocab_size();
    model_config.causal = config.objective == ObjectiveName::Lm;

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
    let positions = model_config.num_max_positions;
    let train = examples(&train, positions)?;
    let [valid, test] = [evaluated(valid.as_ref(), positions)?, evaluated(test.as_ref(), positions)?];
    let model = Model::new(&model_config)?;
    model.check_lm_head()?;
    check_memory(&model, &device, |_| true)?;
    let weights = match &stored {
        Some(stored) => stored.mapped_weights(model.table())?,
        None => Weights::new(model.table().initial_values(config.train.seed)),
    };
    let objective = Objective { lm: 1.0, clf: 0.0, class_weights: None };
    let targets = token_targets(
        config.objective,
        config.mlm_probability,
        tokenizer.roles(),
        tokenizer.vocab_size(),
        None,
    );
    let beginning = Beginning {
        task: Task::Pretraining,
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
    let config = &PretrainConfig { train: settled, ..config.clone() };
    let files = ModelFiles {
        mlm_probability: (config.objective == ObjectiveName::Mlm).then_some(config.mlm_probability),
        ..model_files(&model_config, config.objective, Vec::new(), &tokenizer)
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
        readme: readme(config),
        notes,
        files,
        folder,
        data: config.data.path.clone(),
        checkpoint,
    };
    training.run(listener)
}

fn readme(config: &PretrainConfig) -> String {
    let objective = match config.objective {
        ObjectiveName::Lm => "language model (next token)",
        ObjectiveName::Mlm => "masked language model",
    };
    format!(
        "# A Headstart {objective}\n\nPretrained on `{}`. `headstart finetune --model THIS_FOLDER --data ...` fine-tunes it, \
         `headstart eval THIS_FOLDER` evaluates it.\n",
        source::short_name(&config.data)
    )
}
