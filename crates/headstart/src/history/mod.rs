//! Runs there are: which, what became of them, how good they are, and two of them beside each other.
//!
//! Owns: reading runs that others wrote. Never: writes to one, or trains.

mod compare;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::Serialize;
use serde_json::Value;

use crate::checkpoint::RunFolder;
use crate::config::{FinetuneConfig, PretrainConfig};
use crate::error::{Error, Result};
use crate::run_log::{Kind, read_metrics};

pub use compare::{Compared, Differing, compare};

/// Folders below the one that is listed in which runs are looked for.
const DEPTH: usize = 3;
/// Metrics that say the most of a run, the first that is there.
const TELLING: [&str; 5] = ["accuracy", "pearson", "ppl", "nll", "loss"];

/// What became of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// A process works on it.
    Running,
    /// Its model is there.
    Finished,
    /// It was stopped, saved what it had, and can go on.
    Stopped,
    /// It ended without a word: an error, or it was killed.
    Failed,
}

impl State {
    /// The word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

/// A metric of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Metric {
    /// With its split: "test/accuracy".
    pub name: String,
    /// It.
    pub value: f64,
    /// Its 95 % interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
}

/// A run in a line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Run {
    /// Its folder.
    pub dir: PathBuf,
    /// What became of it.
    pub state: State,
    /// When it was started, in seconds since 1970.
    pub started_s: Option<f64>,
    /// How it trains: "full", "lora", ...; "pretrain", "distill".
    pub method: String,
    /// The model it began with; a preset's or none's name is empty.
    pub model: String,
    /// The data.
    pub data: String,
    /// What says the most of it, of the test data if there are some.
    pub metric: Option<Metric>,
    /// Seconds of work.
    pub seconds: Option<f64>,
}

/// Everything that is told of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shown {
    /// It in a line.
    #[serde(flatten)]
    pub run: Run,
    /// The settings that are not the defaults, and the data, by key.
    pub settings: Vec<(String, String)>,
    /// All metrics but those of single classes.
    pub metrics: Vec<Metric>,
    /// The whole summary, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<Value>,
    /// Where its parts are.
    pub places: Vec<(&'static str, PathBuf)>,
}

/// The runs in a folder and the folders in it, the oldest first. One whose settings cannot be read is left out, and counted.
///
/// # Errors
/// [`Error::Missing`] when there is no such folder.
pub fn list(dir: &Path) -> Result<(Vec<Run>, usize)> {
    if !dir.is_dir() {
        return Err(Error::Missing {
            what: format!("there is no folder {}", dir.display()),
            fix: "name the folder that your runs are in: headstart runs ls DIR".into(),
        });
    }
    let mut found = Vec::new();
    find(dir, DEPTH, &mut found);
    let all = found.len();
    let mut runs: Vec<Run> = found.iter().filter_map(|dir| overview(dir).ok()).collect();
    let left_out = all - runs.len();
    runs.sort_by(|a, b| {
        let started = |run: &Run| run.started_s.unwrap_or(0.0);
        started(a).total_cmp(&started(b)).then_with(|| a.dir.cmp(&b.dir))
    });
    Ok((runs, left_out))
}

fn find(dir: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    if RunFolder::is_run(dir) {
        found.push(dir.to_path_buf());
    }
    if depth == 0 {
        return;
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        // A link may lead anywhere, back included.
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder && !entry.file_name().to_string_lossy().starts_with('.') {
            find(&entry.path(), depth - 1, found);
        }
    }
}

/// The run's folder of what a user may name: it, or its finished model.
///
/// # Errors
/// [`Error::Missing`] where neither is one.
pub fn folder_of(path: &Path) -> Result<PathBuf> {
    let absolute = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let parent = absolute.parent().filter(|parent| RunFolder::is_run(parent));
    match parent {
        _ if RunFolder::is_run(path) => Ok(path.to_path_buf()),
        Some(parent) => Ok(parent.to_path_buf()),
        None => Err(Error::Missing {
            what: format!("there is no run in {}", path.display()),
            fix: "name a run's folder; headstart runs ls lists them".into(),
        }),
    }
}

/// A run in a line.
///
/// # Errors
/// [`Error::Missing`] where there is none; [`Error::Checkpoint`] where its settings are damaged.
pub fn overview(dir: &Path) -> Result<Run> {
    let settings = settings(dir)?;
    let summary = RunFolder::summary(dir);
    let word = |key: &str| settings.get(key).and_then(toml::Value::as_str).unwrap_or_default().to_owned();
    let data = settings.get("data").and_then(|data| data.get("path")).and_then(toml::Value::as_str);
    let began = fs::metadata(dir.join("config.toml")).and_then(|found| found.modified()).ok();
    let started_s =
        began.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map(|time| time.as_secs_f64());
    let from = if word("model").is_empty() { word("from") } else { word("model") };
    let metrics = metrics(dir, summary.as_ref());
    let splits = ["test", "valid"].into_iter().flat_map(|s| TELLING.map(|name| format!("{s}/{name}")));
    let telling = splits.into_iter().find_map(|name| metrics.iter().find(|metric| metric.name == name));
    Ok(Run {
        dir: dir.to_path_buf(),
        state: state(dir, summary.as_ref()),
        started_s,
        method: match word("method") {
            none if none.is_empty() => {
                if settings.contains_key("distill") {
                    "distill".into()
                } else {
                    "pretrain".into()
                }
            }
            method => method,
        },
        model: from,
        data: data.unwrap_or_default().to_owned(),
        metric: telling.cloned(),
        seconds: summary.as_ref().and_then(|summary| summary["seconds"].as_f64()),
    })
}

/// All that is told of a run.
///
/// # Errors
/// As for [`overview`].
pub fn show(dir: &Path) -> Result<Shown> {
    let run = overview(dir)?;
    let summary = RunFolder::summary(dir);
    let mut metrics = metrics(dir, summary.as_ref());
    metrics.retain(|metric| metric.name.matches('/').count() == 1);
    Ok(Shown { settings: changed(&settings(dir)?), metrics, summary, places: RunFolder::places(dir), run })
}

fn settings(dir: &Path) -> Result<toml::Table> {
    toml::from_str(&RunFolder::settings(dir)?).map_err(|e| Error::Checkpoint {
        path: dir.join("config.toml"),
        what: format!("is not TOML: {}", e.message()),
        fix: "bring back the file that was there".into(),
    })
}

fn state(dir: &Path, summary: Option<&Value>) -> State {
    if RunFolder::is_running(dir) {
        return State::Running;
    }
    let there = |what: &str| RunFolder::places(dir).into_iter().find(|place| place.0 == what);
    let stopped = summary.and_then(|summary| summary["stopped"].as_str());
    let evaluated = summary.is_some_and(|summary| summary["total_steps"] == 0);
    if there("model").is_some() || evaluated {
        return State::Finished;
    }
    // What went on after it had been stopped has logged since, and said nothing more.
    let time = |path: PathBuf| fs::metadata(path).and_then(|found| found.modified()).ok();
    let said = time(dir.join("summary.json"));
    let logged = there("metrics").and_then(|(_, path)| time(path));
    match (stopped, said >= logged) {
        (Some(_), true) => State::Stopped,
        _ => State::Failed,
    }
}

/// Those of the summary; where there is none, those that were logged last.
fn metrics(dir: &Path, summary: Option<&Value>) -> Vec<Metric> {
    if let Some(summary) = summary {
        let interval = |name: &str| {
            let ends = summary["intervals"].get(name)?;
            Some([ends[0].as_f64()?, ends[1].as_f64()?])
        };
        let all = summary["metrics"].as_object().into_iter().flatten();
        return all
            .filter_map(|(name, value)| {
                Some(Metric { name: name.clone(), value: value.as_f64()?, interval: interval(name) })
            })
            .collect();
    }
    let records = read_metrics(dir).unwrap_or_default();
    let last = |kind: Kind| records.iter().rfind(|record| record.kind == kind);
    let logged = [last(Kind::Valid), last(Kind::Test)].into_iter().flatten();
    logged
        .flat_map(|record| {
            let named = |name: &str| format!("{}/{name}", record.kind.as_str());
            record.values.iter().map(move |(name, value)| (named(name), *value))
        })
        .map(|(name, value)| Metric { name, value, interval: None })
        .collect()
}

/// The settings that are not the defaults, and the data.
fn changed(settings: &toml::Table) -> Vec<(String, String)> {
    let defaults = if settings.contains_key("method") {
        toml::Table::try_from(FinetuneConfig::default())
    } else {
        toml::Table::try_from(PretrainConfig::default())
    };
    let (mut own, mut usual) = (Vec::new(), Vec::new());
    flatten("", settings, &mut own);
    flatten("", &defaults.unwrap_or_default(), &mut usual);
    own.retain(|setting| setting.0 == "data.path" || !usual.contains(setting));
    own
}

fn flatten(prefix: &str, table: &toml::Table, into: &mut Vec<(String, String)>) {
    for (key, value) in table {
        let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            toml::Value::Table(inner) => flatten(&key, inner, into),
            other => into.push((key, other.to_string())),
        }
    }
}
