//! A run's folder, its newest checkpoint, and the files that every model folder has.
//!
//! Owns: the order in which a run is opened. Never: the layout of the folder (`checkpoint`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use headstart_engine::Device;
use serde_json::{Value, json};

use crate::batch::Examples;
use crate::checkpoint::{Checkpoint, FileSum, ModelFiles, NewRun, RunFolder};
use crate::config::{Copies, ModelConfig, ObjectiveName, PrecisionName, TrainConfig};
use crate::device::DeviceName;
use crate::error::{Error, Result};
use crate::event::{Event, Listener};
use crate::memory;
use crate::model::Model;
use crate::params::Param;
use crate::ranks::Ranks;
use crate::tokenizer::Tokenizer;
use crate::train::{Place, RunOptions, thousands};

/// A run that rank 0 of this one alone writes to.
#[derive(Debug)]
pub(crate) enum OpenRun {
    /// Its folder is claimed, and empty.
    New(NewRun),
    /// It goes on.
    Continued(RunFolder),
    /// Rank 0 has it.
    Followed {
        dir: PathBuf,
        /// The step of its newest checkpoint, where it goes on and has one.
        newest: Option<u64>,
        is_new: bool,
    },
}

impl OpenRun {
    /// Claims a new run's folder, or opens the run to continue: before any other work, so that of two processes that were
    /// started for one folder the second stops here. Rank 0 does so for all.
    pub(crate) fn open(place: &Place, ranks: &Ranks, listener: &mut Listener<'_>) -> Result<Self> {
        let mut opened = None;
        let (dir, newest) = ranks.of_leader(|| {
            let run = match place {
                Place::New(dir) => Self::New(NewRun::claim(dir)?),
                Place::Numbered(first) => Self::New(NewRun::claim_numbered(first)?),
                Place::Continued(dir) => Self::Continued(RunFolder::open(dir)?),
            };
            let (dir, newest) = match &run {
                Self::Continued(run) if !ranks.collective().is_alone() => {
                    (run.dir().to_path_buf(), run.latest()?.map(|checkpoint| checkpoint.state.step))
                }
                Self::Continued(run) => (run.dir().to_path_buf(), None),
                Self::New(run) => (run.dir().to_path_buf(), None),
                Self::Followed { dir, newest, .. } => (dir.clone(), *newest),
            };
            opened = Some(run);
            Ok((dir, newest))
        })?;
        let line = format!("run folder: {}", dir.display());
        listener(Event::Message(&line));
        let is_new = !matches!(place, Place::Continued(_));
        Ok(opened.unwrap_or(Self::Followed { dir, newest, is_new }))
    }

    /// Whether it goes on.
    pub(crate) fn is_continued(&self) -> bool {
        matches!(self, Self::Continued(_) | Self::Followed { is_new: false, .. })
    }

    /// The newest checkpoint; `None` for a run that has none yet.
    pub(crate) fn newest_checkpoint(&self) -> Result<Option<Checkpoint>> {
        match self {
            Self::New(_) => Ok(None),
            Self::Continued(run) => run.latest(),
            Self::Followed { dir, newest, .. } => {
                newest.map(|step| RunFolder::checkpoint_of(dir, step)).transpose()
            }
        }
    }

    /// As [`Self::begin`] for what is fitted in one go by this process alone: no device, nothing that ranks share.
    pub(crate) fn begin_without_model(
        self,
        config_toml: &str,
        command: &str,
        device: DeviceName,
        provenance: &Value,
    ) -> Result<RunFolder> {
        match self {
            Self::Continued(run) => Ok(run),
            Self::New(run) => {
                let environment = [
                    ("headstart", json!(env!("CARGO_PKG_VERSION"))),
                    ("data", provenance.clone()),
                    ("device", json!(device.to_string())),
                ];
                let environment = environment.map(|(name, value)| (name.to_owned(), value));
                run.set_up(config_toml, command, &environment.into_iter().collect())
            }
            Self::Followed { .. } => unreachable!("rank 0 alone begins it"),
        }
    }

    /// The run to continue as it is; a new run's folder set up.
    pub(crate) fn begin(
        self,
        config: &impl serde::Serialize,
        command: &str,
        device: &Device,
        ranks: &Ranks,
        identity: &Identity<'_>,
        provenance: &Value,
    ) -> Result<RunFolder> {
        // Before anything is written.
        if !ranks.collective().is_alone() {
            ranks.agree(&identity.values(device))?;
        }
        let rank = ranks.collective().rank();
        let folder = match self {
            Self::Continued(run) => run,
            Self::New(run) => {
                let environment = [
                    ("headstart", json!(env!("CARGO_PKG_VERSION"))),
                    ("data", provenance.clone()),
                    ("threads", json!(device.threads())),
                    ("ranks", json!(ranks.collective().world_size())),
                    ("code_path", json!(device.code_path())),
                    ("device", json!(device.name())),
                ];
                let environment =
                    environment.map(|(name, value)| (name.to_owned(), value)).into_iter().collect();
                run.set_up(&to_toml(config)?, command, &environment)?
            }
            Self::Followed { dir, is_new: true, .. } => RunFolder::followed(&dir, rank, &to_toml(config)?),
            Self::Followed { dir, .. } => RunFolder::followed_on(&dir, rank)?,
        };
        ranks.wait_for_all()?;
        Ok(folder)
    }
}

/// What has to be the same on all ranks, besides the settings.
pub(crate) struct Identity<'a> {
    /// The training, validation and test examples.
    pub(crate) splits: [Option<&'a Examples<'a>>; 3],
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) weights: &'a [f32],
}

impl Identity<'_> {
    fn values(&self, device: &Device) -> BTreeMap<String, String> {
        let mut values = BTreeMap::new();
        for (name, split) in
            ["train examples", "valid examples", "test examples"].into_iter().zip(self.splits)
        {
            values.insert(name.into(), split.map_or("none".into(), Examples::content_sum));
        }
        let sum = |bytes: &[u8]| FileSum::of(bytes).sha256;
        values.insert("tokenizer".into(), sum(self.tokenizer.to_json().as_bytes()));
        values.insert("weights".into(), sum(bytemuck::cast_slice(self.weights)));
        values.insert("version".into(), env!("CARGO_PKG_VERSION").into());
        let kind = if device.is_cuda() { "a GPU" } else { "the processor" };
        values.insert("device".into(), kind.into());
        values.insert("code path".into(), device.code_path().to_string());
        values
    }
}

/// Settings that may differ from rank to rank.
const ELSEWHERE: [&str; 9] = [
    "model",
    "base",
    "from",
    "data.path",
    "data.cache_dir",
    "data.mirror",
    "data.offline",
    "train.threads",
    "train.max_time",
];

/// The settings that all ranks have alike: files may lie elsewhere on another machine, and what is in them is compared.
fn settings(config: &impl serde::Serialize) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    flatten("", &serde_json::to_value(config).unwrap_or_default(), &mut values);
    values.retain(|name, _| !ELSEWHERE.contains(&name.as_str()));
    values
}

/// The settings as text, each under its key with the tables it is in.
fn flatten(name: &str, value: &Value, into: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(table) => {
            for (key, value) in table {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                flatten(&name, value, into);
            }
        }
        Value::Null => {}
        other => {
            into.insert(name.to_owned(), other.to_string());
        }
    }
}

/// The ranks that a run is started with, and the groups it adds its gradients in: a new run's as its settings or the number
/// of ranks say, a continued one's as it began, unless others are allowed. All ranks have to have been given the same settings.
///
/// # Errors
/// [`Error::Config`] when ranks and groups do not go together, or settings differ.
pub(crate) fn ranks_of(
    options: &RunOptions,
    config: &impl serde::Serialize,
    train: &TrainConfig,
    listener: &mut Listener<'_>,
) -> Result<Ranks> {
    let collective = &options.collective;
    Ranks::without_groups(collective).agree(&settings(config))?;
    let continued = matches!(options.place, Place::Continued(_));
    let asked = train.reduction_groups.or(continued.then_some(1));
    let ranks = Ranks::new(collective, asked);
    if !(continued && options.allow_other_groups && ranks.is_err()) {
        return ranks;
    }
    let ranks = Ranks::new(collective, None)?;
    let line = format!(
        "gradients are added in {} groups from here on, not in {}: rounding differs from what the run would have had",
        ranks.groups(),
        asked.unwrap_or(1)
    );
    listener(Event::Message(&line));
    Ok(ranks)
}

/// Checks that the weights of a model fit into memory, with the gradients and moments of those that train and the copies that
/// the run keeps of them where the processor computes.
pub(crate) fn check_memory(
    model: &Model,
    device: &Device,
    copies: Copies,
    trains: impl Fn(&Param) -> bool,
) -> Result<()> {
    let table = model.table();
    let trained = table.params().iter().filter(|param| !device.is_cuda() && trains(param));
    let trained = trained.map(Param::len).sum::<usize>();
    let copies = if device.is_cuda() { 0 } else { copies.numbers(table.len(), trained, 1) };
    let numbers = table.len() as u64 + 3 * trained as u64 + copies;
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
        temperature: None,
        precision: PrecisionName::F32,
        special_ids: tokenizer.roles(),
        tokenizer_json: tokenizer.to_json().as_bytes().to_vec(),
    }
}

/// A configuration as the text of config.toml.
pub(crate) fn to_toml(config: &impl serde::Serialize) -> Result<String> {
    toml::to_string(config).map_err(|e| Error::Config {
        key: "config".into(),
        what: format!("cannot be written as TOML: {e}"),
        fix: "use plain numbers and text in the settings".into(),
    })
}
