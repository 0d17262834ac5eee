//! `pretrain`: text, tokenizer and sizes become a `Run` of the one loop.
//!
//! Owns: putting a pretraining run together. Never: the loop (`train`), the figures (`eval`).

use headstart_engine::{Device, Weights};
use serde_json::json;

use crate::batch::TokenTargets;
use crate::checkpoint::{Checkpoint, ModelFiles, RunFolder};
use crate::config::{ModelConfig, Objective as Predicts, PretrainConfig};
use crate::data::corpus::TokenStream;
use crate::data::source;
use crate::data::split::Split;
use crate::error::{Error, Result};
use crate::eval::{Examples, TextSize};
use crate::event::{Event, Listener};
use crate::masking::Masking;
use crate::model::Model;
use crate::objective::Objective;
use crate::tokenizer::{RoleIds, Tokenizer};
use crate::train::{Best, EvaluatedSplit, Run, RunOptions, Summary, thousands};

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
    config.validate()?;
    let device = options.device.open(config.train.threads)?;
    if let Some(note) = options.device.note(&device) {
        listener(Event::Message(&note));
    }
    let folder = open_folder(options)?;
    let corpus = source::corpus(&config.data, listener)?;
    let checkpoint = newest_checkpoint(folder.as_ref())?;
    let stored = checkpoint.as_ref().map(Checkpoint::model).transpose()?;
    let tokenizer = match &stored {
        Some(stored) => stored.tokenizer()?,
        None => source::tokenizer(&config.data, listener)?,
    };
    let mut model_config = config.model.clone();
    model_config.vocab_size = tokenizer.vocab_size();
    model_config.causal = config.objective == Predicts::Lm;

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
    let weights = match &stored {
        Some(stored) => stored.mapped_weights(model.table())?,
        None => Weights::new(model.table().initial_values(config.train.seed)),
    };
    let files = model_files(&model_config, config.objective, Vec::new(), &tokenizer);
    let folder = begin_folder(folder, config, options, &device, &corpus.provenance)?;
    let run = Run {
        config: &config.train,
        device,
        model,
        weights,
        objective: Objective { lm: 1.0, clf: 0.0, class_weights: None },
        targets: token_targets(
            config.objective,
            config.mlm_probability,
            tokenizer.roles(),
            tokenizer.vocab_size(),
            None,
        ),
        train,
        valid,
        test,
        best: Best::Lowest("nll"),
        keep_best: false,
        early_stopping: 0,
        readme: readme(config),
        notes,
        files,
        folder,
        checkpoint,
    };
    run.run(options.resume, listener)
}

/// The run to resume; for a new run, a check that its folder is free.
pub(crate) fn open_folder(options: &RunOptions) -> Result<Option<RunFolder>> {
    if options.resume {
        return Ok(Some(RunFolder::open(&options.dir)?.0));
    }
    RunFolder::check_free(&options.dir)?;
    Ok(None)
}

/// The run to resume as it is; a new run's folder set up.
pub(crate) fn begin_folder(
    resumed: Option<RunFolder>,
    config: &impl serde::Serialize,
    options: &RunOptions,
    device: &Device,
    provenance: &serde_json::Value,
) -> Result<RunFolder> {
    if let Some(folder) = resumed {
        return Ok(folder);
    }
    let environment = json!({"headstart": env!("CARGO_PKG_VERSION"), "data": provenance,
        "threads": device.threads(), "code_path": device.code_path(), "device": device.name()});
    RunFolder::create(&options.dir, &to_toml(config)?, &options.command, &environment)
}

/// A resumed run's newest checkpoint; `None` for a run that has none yet.
pub(crate) fn newest_checkpoint(folder: Option<&RunFolder>) -> Result<Option<Checkpoint>> {
    Ok(folder.map(RunFolder::latest).transpose()?.flatten())
}

/// Everything of a model but its weights.
pub(crate) fn model_files(
    config: &ModelConfig,
    objective: Predicts,
    labels: Vec<String>,
    tokenizer: &Tokenizer,
) -> ModelFiles {
    ModelFiles {
        config: config.clone(),
        objective: Some(objective),
        labels,
        special_ids: tokenizer.roles(),
        tokenizer_json: tokenizer.to_json().as_bytes().to_vec(),
    }
}

/// The token targets of an objective; `never` is an id that is never masked.
pub(crate) fn token_targets(
    objective: Predicts,
    probability: f64,
    roles: RoleIds,
    vocab_size: usize,
    never: Option<u32>,
) -> TokenTargets {
    match objective {
        Predicts::Lm => TokenTargets::Next,
        Predicts::Mlm => {
            TokenTargets::Masked(Masking { probability, mask_id: roles.mask, vocab_size }, never)
        }
    }
}

/// A stream as blocks; the tail that fills none is dropped.
pub(crate) fn examples(stream: &TokenStream, positions: usize) -> Result<Examples<'_>> {
    let blocks = stream.blocks(positions)?;
    Ok(Examples { ids: (0..blocks.count()).map(|i| blocks.get(i)).collect(), labels: Vec::new() })
}

pub(crate) fn evaluated(
    stream: Option<&TokenStream>,
    positions: usize,
) -> Result<Option<EvaluatedSplit<'_>>> {
    let Some(stream) = stream else { return Ok(None) };
    let counts = stream.counts();
    let text = TextSize { words: counts.words, bytes: counts.bytes, tokens: stream.ids().len() as u64 };
    Ok(Some(EvaluatedSplit { examples: examples(stream, positions)?, text: Some(text) }))
}

/// A configuration as the text of config.toml.
fn to_toml(config: &impl serde::Serialize) -> Result<String> {
    toml::to_string(config).map_err(|e| Error::Config {
        key: "config".into(),
        what: format!("cannot be written as TOML: {e}"),
        fix: "use plain numbers and text in the settings".into(),
    })
}

fn readme(config: &PretrainConfig) -> String {
    let objective = match config.objective {
        Predicts::Lm => "language model (next token)",
        Predicts::Mlm => "masked language model",
    };
    format!(
        "# A Headstart {objective}\n\nPretrained on `{}`. `headstart finetune --model THIS_FOLDER --data ...` fine-tunes it, \
         `headstart eval THIS_FOLDER` evaluates it.\n",
        config.data.path
    )
}
