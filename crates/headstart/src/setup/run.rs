//! A run's folder, its newest checkpoint, and the files that every model folder has.
//!
//! Owns: the order in which a run is opened. Never: the layout of the folder (`checkpoint`).

use headstart_engine::Device;
use serde_json::json;

use crate::checkpoint::{Checkpoint, ModelFiles, RunFolder};
use crate::config::{ModelConfig, Objective as Predicts};
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;
use crate::train::RunOptions;

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

/// A configuration as the text of config.toml.
fn to_toml(config: &impl serde::Serialize) -> Result<String> {
    toml::to_string(config).map_err(|e| Error::Config {
        key: "config".into(),
        what: format!("cannot be written as TOML: {e}"),
        fix: "use plain numbers and text in the settings".into(),
    })
}
