//! A run's folder, its newest checkpoint, and the files that every model folder has.
//!
//! Owns: the order in which a run is opened. Never: the layout of the folder (`checkpoint`).

use headstart_engine::Device;
use serde_json::{Value, json};

use crate::checkpoint::{Checkpoint, ModelFiles, NewRun, RunFolder};
use crate::config::{ModelConfig, ObjectiveName};
use crate::error::{Error, Result};
use crate::event::{Event, Listener};
use crate::memory;
use crate::model::Model;
use crate::params::Param;
use crate::tokenizer::Tokenizer;
use crate::train::{Place, thousands};

/// A run that this process alone writes to.
#[derive(Debug)]
pub(crate) enum OpenRun {
    /// Its folder is claimed, and empty.
    New(NewRun),
    /// It goes on.
    Continued(RunFolder),
}

impl OpenRun {
    /// Claims a new run's folder, or opens the run to continue: before any other work, so that of two processes that were
    /// started for one folder the second stops here.
    pub(crate) fn open(place: &Place, listener: &mut Listener<'_>) -> Result<Self> {
        let run = match place {
            Place::New(dir) => Self::New(NewRun::claim(dir)?),
            Place::Numbered(first) => Self::New(NewRun::claim_numbered(first)?),
            Place::Continued(dir) => Self::Continued(RunFolder::open(dir)?),
        };
        let dir = match &run {
            Self::New(run) => run.dir(),
            Self::Continued(run) => run.dir(),
        };
        let line = format!("run folder: {}", dir.display());
        listener(Event::Message(&line));
        Ok(run)
    }

    /// The newest checkpoint; `None` for a run that has none yet.
    pub(crate) fn newest_checkpoint(&self) -> Result<Option<Checkpoint>> {
        match self {
            Self::New(_) => Ok(None),
            Self::Continued(run) => run.latest(),
        }
    }

    /// The run to continue as it is; a new run's folder set up.
    pub(crate) fn begin(
        self,
        config: &impl serde::Serialize,
        command: &str,
        device: &Device,
        provenance: &Value,
    ) -> Result<RunFolder> {
        match self {
            Self::Continued(run) => Ok(run),
            Self::New(run) => {
                let environment = [
                    ("headstart", json!(env!("CARGO_PKG_VERSION"))),
                    ("data", provenance.clone()),
                    ("threads", json!(device.threads())),
                    ("code_path", json!(device.code_path())),
                    ("device", json!(device.name())),
                ];
                let environment =
                    environment.map(|(name, value)| (name.to_owned(), value)).into_iter().collect();
                run.set_up(&to_toml(config)?, command, &environment)
            }
        }
    }
}

/// Checks that the weights of a model fit into memory, with the gradients and moments of those that train where the
/// processor computes.
pub(crate) fn check_memory(model: &Model, device: &Device, trains: impl Fn(&Param) -> bool) -> Result<()> {
    let table = model.table();
    let trained = table.params().iter().filter(|param| !device.is_cuda() && trains(param));
    let numbers = table.len() as u64 + 3 * trained.map(|param| param.len() as u64).sum::<u64>();
    let what =
        format!("a model of {} parameters, with what training keeps beside them,", thousands(table.len()));
    memory::check_fits(&what, numbers.saturating_mul(4))
}

/// Everything of a model but its weights.
pub(crate) fn model_files(
    config: &ModelConfig,
    objective: ObjectiveName,
    labels: Vec<String>,
    tokenizer: &Tokenizer,
) -> ModelFiles {
    ModelFiles {
        config: config.clone(),
        objective: Some(objective),
        mlm_probability: None,
        block_size: None,
        head_defaults: None,
        labels,
        pairs: false,
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
