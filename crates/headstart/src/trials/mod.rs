//! `finetune` more than once: seeds, a curve over sizes, a search for the learning rate, a language model adapted beforehand.
//!
//! Owns: which runs there are, in which order, that each is done once, and what they come to. Never: a training step, or a
//! setting of a single run beyond those that tell the runs apart.
//!
//! All runs lie in the folder of the whole: `adapt/`, `lr-3e-5/`, `seed-42/`, `size-50-scratch/`, or `run/`. Each is an
//! ordinary run, with its own report. What is done stands in `trials.json`; so the whole goes on where it stopped.

mod adapt;
mod page;
mod rates;
mod state;
mod statistics;
mod task;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::checkpoint::RunFolder;
use crate::config::{
    AdaptConfig, FinetuneConfig, Method, PeftConfig, Problem, Size, Sizes, TrainConfig, TrialsConfig,
};
use crate::error::{Error, Result};
use crate::event::{Event, Listener, Signal};
use crate::files::write_atomic;
use crate::finetune::finetune_compared;
use crate::ranks::Ranks;
use crate::setup::bar::Compared;
use crate::setup::run::{OpenRun, ranks_of, to_toml};
use crate::train::{Place, RunOptions, Summary, thousands};

pub use rates::{RateSearch, TriedRate};
pub(crate) use state::finite;
pub use state::{AdaptedModel, Done};
pub use statistics::{Curve, CurvePoint, Statistic};

use state::State;
use task::Task;

/// What a run of several starts from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arm {
    /// The model.
    #[default]
    HeadStart,
    /// The same sizes with weights drawn afresh; everything trains.
    Scratch,
    /// No model: a bag of words on the same examples.
    BagOfWords,
}

impl Arm {
    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::HeadStart => "with the head start",
            Self::Scratch => "from scratch",
            Self::BagOfWords => "bag of words",
        }
    }
}

/// What the runs came to.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TrialsSummary {
    /// The folder of the whole.
    pub run_dir: PathBuf,
    /// Why it ended early: "signal", or "max_time", which single runs were stopped by.
    pub stopped: Option<String>,
    /// The model that is best on validation; none after a curve.
    pub final_dir: Option<PathBuf>,
    /// The metric that the runs are compared by: that of the test data, where there is some.
    pub metric: String,
    /// The language model that was adapted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapted: Option<AdaptedModel>,
    /// The search for the learning rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr_search: Option<RateSearch>,
    /// The whole runs, in order.
    pub runs: Vec<Done>,
    /// The runs that are not.
    pub unfinished: Vec<String>,
    /// Each metric over the seeds; of a curve none.
    pub statistics: Vec<Statistic>,
    /// The run that is best on validation, by name.
    pub best: Option<String>,
    /// The curve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub curve: Option<Curve>,
}

/// One of the runs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Trial {
    /// Its folder's name.
    name: String,
    arm: Arm,
    seed: u64,
    /// Training examples, where a curve says how many.
    size: Option<usize>,
}

/// How a run ended.
enum Ended {
    Whole(Box<Summary>),
    /// "signal" or "max_time".
    Stopped(String),
}

/// Where the runs lie, and what they share.
struct Around<'a> {
    dir: PathBuf,
    config: &'a FinetuneConfig,
    options: &'a RunOptions,
    ranks: &'a Ranks,
}

/// Does what `config` asks for around single runs, or goes on with it.
///
/// # Errors
/// Those of a run; [`Error::Config`] for sizes beyond the data, and where validation data are needed and missing.
pub fn run(
    config: &FinetuneConfig,
    options: &RunOptions,
    listener: &mut Listener<'_>,
) -> Result<TrialsSummary> {
    config.validate()?;
    let seeds = config.trials.seeds(config.train.seed)?;
    let ranks = ranks_of(options, config, &config.train, listener)?;
    let open = OpenRun::open(&options.place, &ranks, listener)?;
    // Whatever is wrong with model and data is found before there is a folder.
    let task = Task::read(config, &ranks, listener)?;
    check_seeds(config, &task)?;
    let config = &with_sizes(config, &task)?;
    let trials = trials(config, &seeds, task.examples);
    // So that the whole goes on with any number of ranks that divides them, as each of its runs does.
    let groups = (ranks.groups() > 1).then_some(ranks.groups());
    let train = TrainConfig { reduction_groups: groups, ..config.train.clone() };
    let config = &FinetuneConfig { train, ..config.clone() };
    let mut folder = None;
    let dir = ranks.of_leader(|| {
        let provenance = json!({"data": config.data.path});
        let made =
            open.begin_without_model(&to_toml(config)?, &options.command, options.device.name, &provenance)?;
        let dir = made.dir().to_path_buf();
        folder = Some(made);
        Ok(dir)
    })?;
    let around = Around { dir, config, options, ranks: &ranks };
    let mut state = State::read(&around)?;
    let stopped = around.all(&task, &trials, &mut state, listener)?;
    let mut summary = summary(&around, &trials, state, stopped);
    summary.final_dir = around.finish(&summary, folder.as_ref())?;
    Ok(summary)
}

/// Refuses seeds where each of them gives the same model: a fit has none, and no example is drawn.
fn check_seeds(config: &FinetuneConfig, task: &Task) -> Result<()> {
    let drawn = task.held_out
        || config.shots.is_some()
        || config.data.max_train_examples.is_some_and(|most| most < task.examples)
        || config.trials.curve.is_some();
    if config.trials.seeds.is_none() || config.method != Method::Features || drawn || config.from_scratch {
        return Ok(());
    }
    Err(Error::Config {
        key: "seeds".into(),
        what: "the method `features` has no seed where no examples are drawn: every run would be the same"
            .into(),
        fix: "leave seeds out, or draw examples with them: --shots 8, --max_train_examples, --curve".into(),
    })
}

/// The runs that are asked for, the small ones first.
fn trials(config: &FinetuneConfig, seeds: &[u64], examples: usize) -> Vec<Trial> {
    let behind =
        |seed: u64| if config.trials.seeds.is_some() { format!("-seed-{seed}") } else { String::new() };
    if config.trials.curve.is_none() {
        let name = |seed: u64| match config.trials.seeds {
            Some(_) => format!("seed-{seed}"),
            None => "run".into(),
        };
        let trial = |&seed: &u64| Trial { name: name(seed), arm: Arm::HeadStart, seed, size: None };
        return seeds.iter().map(trial).collect();
    }
    let mut all = Vec::new();
    for size in config.trials.sizes(examples) {
        for (arm, of_arm) in [(Arm::HeadStart, ""), (Arm::Scratch, "-scratch")] {
            all.extend(seeds.iter().map(|&seed| Trial {
                name: format!("size-{size}{of_arm}{}", behind(seed)),
                arm,
                seed,
                size: Some(size),
            }));
        }
    }
    all
}

/// With the number of all examples in place of the word.
fn with_sizes(config: &FinetuneConfig, task: &Task) -> Result<FinetuneConfig> {
    let mut config = config.clone();
    if config.trials.curve.is_none() {
        return Ok(config);
    }
    let sizes = config.trials.sizes(task.examples);
    if let Some(most) = sizes.last().filter(|most| **most > task.examples) {
        return Err(Error::Config {
            key: "curve".into(),
            what: format!(
                "{most} training examples are asked for, and the data has {}",
                thousands(task.examples)
            ),
            fix: format!("use sizes up to {}, or all", task.examples),
        });
    }
    config.trials.curve = Some(Sizes(sizes.into_iter().map(Size::Count).collect()));
    // `all` may be a size that is listed, too.
    config.validate()?;
    Ok(config)
}

impl Around<'_> {
    /// Everything that is not done yet; why it ended early, if it did.
    fn all(
        &self,
        task: &Task,
        trials: &[Trial],
        state: &mut State,
        listener: &mut Listener<'_>,
    ) -> Result<Option<String>> {
        let mut config = FinetuneConfig {
            adapt: AdaptConfig::default(),
            trials: TrialsConfig::default(),
            ..self.config.clone()
        };
        if self.config.adapt.adapt_on.is_some() {
            if let Some(why) = adapt::adapt(self, task, state, listener)? {
                return Ok(Some(why));
            }
            config.model = Some(self.dir.join(adapt::FOLDER));
        }
        if self.config.trials.searches_rate() {
            if let Some(why) = rates::search(self, &config, task, state, listener)? {
                return Ok(Some(why));
            }
            config.train.lr = state.search.as_ref().and_then(|search| search.chosen);
        }
        let mut why = None;
        for (at, trial) in trials.iter().enumerate() {
            if state.has(&trial.name) {
                continue;
            }
            let [asked] = self.ranks.any([listener(Event::Waiting) == Signal::Stop])?;
            if asked {
                return Ok(Some(SIGNAL.into()));
            }
            if trials.len() > 1 {
                let line = format!("{} of {}: {}", at + 1, trials.len(), trial.told());
                listener(Event::Message(&line));
            }
            let clock = Instant::now();
            let beside =
                if trial.arm == Arm::HeadStart { Compared::WithBagOfWords } else { Compared::ByCaller };
            match self.one(&trial.name, &trial.settings(&config), beside, listener)? {
                Ended::Whole(summary) => {
                    let seconds = clock.elapsed().as_secs_f64();
                    state.runs.push(Done::of(trial, &summary, seconds));
                    state.write(self)?;
                    // Of a curve only the metrics matter, and there are many models.
                    if trial.size.is_some() {
                        self.forget(&trial.name)?;
                    }
                }
                Ended::Stopped(reason) => {
                    let by_signal = reason == SIGNAL;
                    why = Some(reason);
                    if by_signal {
                        break;
                    }
                }
            }
        }
        Ok(why)
    }

    /// One run, from its beginning or from where it stopped.
    fn one(
        &self,
        name: &str,
        config: &FinetuneConfig,
        beside: Compared,
        listener: &mut Listener<'_>,
    ) -> Result<Ended> {
        let (config, place) = self.place_of(name, config)?;
        let options = RunOptions { place, ..self.options.clone() };
        let summary = finetune_compared(&config, &options, beside, listener)?;
        Ok(match summary.stopped.clone() {
            Some(reason) if summary.final_dir.is_none() => Ended::Stopped(reason),
            _ => Ended::Whole(Box::new(summary)),
        })
    }

    /// The settings of a run and where it writes: those it was begun with, if it was.
    fn place_of(&self, name: &str, config: &FinetuneConfig) -> Result<(FinetuneConfig, Place)> {
        let dir = self.dir.join(name);
        let begun = self
            .ranks
            .of_leader(|| RunFolder::is_run(&dir).then(|| RunFolder::settings(&dir)).transpose())?;
        let Some(text) = begun else { return Ok((config.clone(), Place::New(dir))) };
        Ok((begun_with(&dir, &text, config)?, Place::Continued(dir)))
    }

    /// Removes the weights of a run of which the metrics are known.
    fn forget(&self, name: &str) -> Result<()> {
        self.ranks.of_leader(|| {
            let run = RunFolder::open(&self.dir.join(name))?;
            run.remove_checkpoints()?;
            run.remove_final()
        })
    }

    /// Writes what it came to, and copies the best model. Returns where that is.
    fn finish(&self, summary: &TrialsSummary, folder: Option<&RunFolder>) -> Result<Option<PathBuf>> {
        self.ranks.of_leader(|| {
            let Some(folder) = folder else { return Ok(None) };
            let best =
                summary.best.as_ref().filter(|_| summary.curve.is_none() && summary.unfinished.is_empty());
            let copied = |name: &String| {
                let why =
                    format!("This is the model of `{name}`, the best on validation of the runs beside it.");
                copy_final(&self.dir.join(name), folder, &why)
            };
            let made = best.map(copied).transpose()?;
            page::page(self.config, summary, &self.dir)?.write(&folder.report_html())?;
            let whole = TrialsSummary { final_dir: made.clone(), ..summary.clone() };
            write_json(&self.dir.join("summary.json"), &whole)?;
            if let Some(curve) = &summary.curve {
                write_json(&self.dir.join("curve.json"), curve)?;
            }
            Ok(made)
        })
    }
}

/// Why a run ends that a signal stopped.
const SIGNAL: &str = "signal";

/// The settings that the run in `dir` was begun with, whose text this is, with what may be given anew.
pub(crate) fn begun_with(dir: &Path, text: &str, config: &FinetuneConfig) -> Result<FinetuneConfig> {
    let mut saved: FinetuneConfig = toml::from_str(text).map_err(|e| Error::Checkpoint {
        path: dir.to_path_buf(),
        what: format!("its settings cannot be read: {e}"),
        fix: "remove this folder; the run is then done again".into(),
    })?;
    let (data, train) = (&config.data, &config.train);
    saved.data.path.clone_from(&data.path);
    saved.data.cache_dir.clone_from(&data.cache_dir);
    saved.data.mirror.clone_from(&data.mirror);
    saved.data.offline = data.offline;
    saved.train.valid_batch_size = train.valid_batch_size;
    saved.train.save_every = train.save_every;
    saved.train.keep = train.keep;
    saved.train.max_time = train.max_time;
    saved.train.threads = train.threads;
    Ok(saved)
}

/// Copies the finished model of the run in `from`; `why` is said in its card.
pub(crate) fn copy_final(from: &Path, folder: &RunFolder, why: &str) -> Result<PathBuf> {
    let model = from.join("final");
    let card = std::fs::read_to_string(model.join("README.md")).unwrap_or_default();
    let readme = format!("{card}\n{why}\n");
    folder.write_final_with(&readme, |to| {
        let entries = std::fs::read_dir(&model).map_err(Error::io("read", &model))?;
        for entry in entries {
            let path = entry.map_err(Error::io("read", &model))?.path();
            let name = path.file_name().unwrap_or_default();
            if path.is_file() && name != "README.md" {
                std::fs::copy(&path, to.join(name)).map_err(Error::io("copy", &path))?;
            }
        }
        Ok(())
    })
}

pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    write_atomic(path, format!("{:#}\n", json!(value)).as_bytes())
}

impl Trial {
    /// What it is, for people.
    fn told(&self) -> String {
        match self.size {
            None => format!("seed {}", self.seed),
            Some(size) => format!("{} examples {}, seed {}", thousands(size), self.arm.name(), self.seed),
        }
    }

    /// The settings that tell it apart.
    fn settings(&self, all: &FinetuneConfig) -> FinetuneConfig {
        let mut config = all.clone();
        config.train.seed = self.seed;
        config.data.max_train_examples = self.size.or(config.data.max_train_examples);
        if self.arm == Arm::Scratch {
            // What is frozen at random would stay at random.
            config.from_scratch = true;
            config.method = Method::Full;
            config.adapters_dim = -1;
            (config.lora_rank, config.lora_alpha, config.lora_dropout) = (None, None, None);
            (config.lora_targets, config.rslora) = (None, None);
            config.peft = PeftConfig { base: config.peft.base, ..PeftConfig::default() };
            config.regularisation.l2_sp = None;
            config.pairs_per_text = None;
        }
        config
    }
}

/// The metric that decides, and whether more of it is better.
fn decides(problem: Problem) -> (&'static str, bool) {
    (problem.judged_by(), problem != Problem::Regression)
}

fn summary(around: &Around<'_>, trials: &[Trial], state: State, stopped: Option<String>) -> TrialsSummary {
    let State { adapted, search, runs } = state;
    let mut runs = runs;
    let place = |done: &Done| trials.iter().position(|trial| trial.name == done.name);
    runs.sort_by_key(place);
    let (name, more) = decides(around.config.problem);
    let has_test = runs.iter().any(|run| run.metrics.contains_key(&format!("test/{name}")));
    let metric = format!("{}/{name}", if has_test { "test" } else { "valid" });
    let unfinished = trials.iter().filter(|trial| !runs.iter().any(|run| run.name == trial.name));
    let is_curve = around.config.trials.curve.is_some();
    TrialsSummary {
        run_dir: around.dir.clone(),
        stopped,
        final_dir: None,
        adapted,
        lr_search: search,
        unfinished: unfinished.map(|trial| trial.name.clone()).collect(),
        statistics: if is_curve { Vec::new() } else { statistics::of(&runs) },
        // One alone is the best also without validation data.
        best: statistics::best(&runs, &format!("valid/{name}"), more)
            .or(runs.first().filter(|_| trials.len() == 1))
            .map(|run| run.name.clone()),
        curve: is_curve.then(|| Curve::of(&runs, &metric)),
        metric,
        runs,
    }
}
