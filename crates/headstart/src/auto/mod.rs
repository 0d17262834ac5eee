//! `auto`: from a bag of words up to fine-tuning everything, as far as it is worth it.
//!
//! Owns: the order of the rungs, the time they have, and which one is kept. Never: a training step or a metric; each rung is an
//! ordinary run in a folder of its own, and what is done stands in `auto.json`, so that the whole goes on where it stopped.

mod choice;
mod outcome;
mod rung;
mod state;
mod table;
mod task;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;

use crate::checkpoint::RunFolder;
use crate::config::{AutoConfig, Problem};
use crate::error::{Error, Result};
use crate::eval::Interval;
use crate::event::{Event, Listener, Signal};
use crate::finetune::finetune_compared;
use crate::infer::Predictor;
use crate::ranks::Ranks;
use crate::setup::bar::Compared;
use crate::setup::run::{OpenRun, to_toml};
use crate::train::{Place, RunOptions, Summary};
use crate::trials::{begun_with, finite};

use choice::Deciding;
pub use choice::Gain;
pub use rung::Rung;
pub use state::Climbed;
pub use table::{lines, rows};

use state::State;
use task::Task;

/// Validation texts that predictions are timed on.
const TIMED: usize = 256;
/// Why it ends that a signal stopped, or its time.
const SIGNAL: &str = "signal";
const MAX_TIME: &str = "max_time";

/// What climbing came to.
#[derive(Debug, Clone, Default, Serialize)]
pub struct AutoSummary {
    /// The folder of the whole.
    pub run_dir: PathBuf,
    /// Why it ended before it was over: "signal", "`max_time`".
    pub stopped: Option<String>,
    /// The chosen rung's model.
    pub final_dir: Option<PathBuf>,
    /// The model that the rungs above the bag of words start from.
    pub model: Option<PathBuf>,
    /// What the labels are.
    pub problem: Problem,
    /// The metric that decides.
    pub metric: String,
    /// The whole rungs, in their order.
    pub rungs: Vec<Climbed>,
    /// Which rungs there are not, and why.
    pub skipped: Vec<String>,
    /// Why no further rung was climbed: a sentence.
    pub why_stopped: Option<String>,
    /// The chosen rung, by name.
    pub chosen: Option<String>,
    /// Why it was: a sentence.
    pub why_chosen: Option<String>,
    /// The folder of the best rung so far, where a signal stopped it and none is chosen yet.
    pub best_so_far: Option<PathBuf>,
    /// The chosen rung's metrics: on validation data, and on test data.
    pub metrics: BTreeMap<String, f64>,
    /// 95 % intervals of some.
    pub intervals: BTreeMap<String, Interval>,
    /// Its temperature.
    pub temperature: Option<f64>,
    /// Seconds of work, of the start and of all continuations.
    pub seconds: f64,
}

/// How a rung ended.
enum Ended {
    Whole(Box<Summary>),
    /// "signal" or "`max_time`".
    Stopped(&'static str),
}

/// Why the climb ended.
struct End {
    stopped: Option<&'static str>,
    why: String,
}

/// Where the rungs lie, and what they share.
struct Climb<'a> {
    dir: PathBuf,
    config: &'a AutoConfig,
    deciding: Deciding,
    options: &'a RunOptions,
    task: &'a Task,
    since: Instant,
    /// Seconds of the starts before this one.
    earlier_s: f64,
}

/// Climbs the ladder, or goes on with it.
///
/// # Errors
/// Those of a run; [`Error::Config`] where the data has nothing that a rung could be judged on.
pub fn run(config: &AutoConfig, options: &RunOptions, listener: &mut Listener<'_>) -> Result<AutoSummary> {
    let since = Instant::now();
    config.validate()?;
    let deciding = Deciding::of(config)?;
    if !options.collective.is_alone() {
        return Err(Error::Config {
            key: "world_size".into(),
            what: "the ladder is climbed by one process".into(),
            fix: "start it without a launcher, or fine-tune with several processes: headstart launch".into(),
        });
    }
    let ranks = Ranks::without_groups(&options.collective);
    let open = OpenRun::open(&options.place, &ranks, listener)?;
    // Whatever is wrong with model and data is found before there is a folder.
    let task = Task::read(config, TIMED, listener)?;
    let (rungs, mut skipped) = rung::ladder(config, &task);
    let config = &AutoConfig { data: task.data.clone(), ..config.clone() };
    let provenance = json!({"data": config.data.path});
    let folder =
        open.begin_without_model(&to_toml(config)?, &options.command, options.device.name, &provenance)?;
    let mut state = State::read(folder.dir())?;
    // Ladders of older versions have their time in the summary alone.
    let told = || RunFolder::summary(folder.dir()).and_then(|summary| summary["seconds"].as_f64());
    let earlier_s = state.seconds.or_else(told).unwrap_or_default();
    let climb =
        Climb { dir: folder.dir().to_path_buf(), config, deciding, options, task: &task, since, earlier_s };
    let before = (state.rungs.len(), state.tested.clone());
    for why in &skipped {
        listener(Event::Message(why));
    }
    let end = climb.up(&rungs, &mut state, &mut skipped, listener)?;
    let mut summary = AutoSummary { skipped, ..climb.summary(&state, &end)? };
    climb.finish(&mut summary, &mut state, &folder, listener)?;
    // A start that finds everything done adds nothing.
    let idle = summary.stopped.is_none() && before == (state.rungs.len(), state.tested.clone());
    summary.seconds = if idle { climb.earlier_s } else { climb.seconds() };
    climb.write(&summary, &mut state, &folder)?;
    Ok(summary)
}

impl Climb<'_> {
    /// Seconds of all starts up to now.
    fn seconds(&self) -> f64 {
        self.earlier_s + self.since.elapsed().as_secs_f64()
    }

    /// Every rung that is not climbed yet, as far as it is worth it.
    fn up(
        &self,
        rungs: &[Rung],
        state: &mut State,
        skipped: &mut Vec<String>,
        listener: &mut Listener<'_>,
    ) -> Result<End> {
        let stopped = |reason, why| Ok(End { stopped: Some(reason), why });
        let missing = rungs.iter().any(|rung| *rung != Rung::Bow && !state.has(*rung));
        let text_s = if missing { self.task.measured(self.config, &self.options.device) } else { None };
        self.tell_ladder(rungs, state, text_s, listener);
        for &rung in rungs {
            if state.has(rung) {
                continue;
            }
            if rungs.len() > 1 && state.given_up.contains(&rung) {
                let why = format!("no {}: it did not fit into the time that it had before", rung.name());
                listener(Event::Message(&why));
                skipped.push(why);
                continue;
            }
            if let Some(why) = self.worth_no_more(state) {
                return Ok(End { stopped: None, why });
            }
            if listener(Event::Waiting) == Signal::Stop {
                return stopped(SIGNAL, format!("A signal stopped it before {}.", rung.name()));
            }
            let left_s = self.config.max_time.map(|most| most - self.since.elapsed().as_secs_f64());
            let expected = self.expected(rung, state, text_s);
            if let Some(why) = does_not_fit(rung, expected, left_s) {
                // What lies above the bag of words need not take longer.
                let goes_on = rung == Rung::Bow && rungs.len() > 1 && left_s.is_some_and(|left| left > 0.0);
                if !goes_on {
                    return stopped(MAX_TIME, why);
                }
                self.give_up(rung, state)?;
                listener(Event::Message(&why));
                skipped.push(format!("no {}: {why}", rung.name()));
                continue;
            }
            let rough = expected.map_or(String::new(), |seconds| format!(": {}, roughly", about(seconds)));
            listener(Event::Message(&format!("{}{rough}", rung.name())));
            let clock = Instant::now();
            let ended = match self.one(rung, left_s, listener) {
                // What fails to learn is an answer, too; the others are there all the same.
                Err(error @ Error::NonFinite { .. }) => {
                    let error = error.to_string();
                    let why = format!("no {}: {}", rung.name(), error.lines().next().unwrap_or_default());
                    listener(Event::Message(&why));
                    skipped.push(why);
                    continue;
                }
                other => other?,
            };
            match ended {
                Ended::Stopped(SIGNAL) => {
                    return stopped(SIGNAL, format!("A signal stopped it in {}.", rung.name()));
                }
                Ended::Stopped(reason) => {
                    if rung == Rung::Bow {
                        self.give_up(rung, state)?;
                    }
                    return stopped(reason, format!("The time of max_time was over in {}.", rung.name()));
                }
                Ended::Whole(summary) => {
                    let climbed = self.climbed(rung, &summary, clock.elapsed(), (expected, state))?;
                    state.rungs.push(climbed);
                    self.write_state(state)?;
                    for line in lines(&rows(&self.metric(), &state.rungs)) {
                        listener(Event::Message(&line));
                    }
                }
            }
        }
        let why = match rungs {
            [Rung::Bow] => "There is no further rung without a model.",
            _ => "The top of the ladder is reached.",
        };
        Ok(End { stopped: None, why: why.into() })
    }

    /// Remembers that a rung did not fit into the time, so that the next start goes on without it.
    fn give_up(&self, rung: Rung, state: &mut State) -> Result<()> {
        if !state.given_up.contains(&rung) {
            state.given_up.push(rung);
        }
        self.write_state(state)
    }

    /// Writes what is done, and how long all of it has taken.
    fn write_state(&self, state: &mut State) -> Result<()> {
        state.seconds = Some(self.seconds());
        state.write(&self.dir)
    }

    /// Says what lies ahead.
    fn tell_ladder(&self, rungs: &[Rung], state: &State, text_s: Option<f64>, listener: &mut Listener<'_>) {
        let told = rungs.iter().map(|&rung| {
            let word = match self.task.estimated(rung, self.config, text_s) {
                _ if state.has(rung) => " (done)".into(),
                Some(seconds) => format!(" ({})", about(seconds)),
                None => String::new(),
            };
            format!("{}{word}", rung.name())
        });
        let told = told.collect::<Vec<_>>().join(", ");
        let line = format!("the ladder, with rough times: {told}; it ends where a rung brings no more");
        listener(Event::Message(&line));
    }

    /// Why no further rung is climbed, where the last ones were no better.
    fn worth_no_more(&self, state: &State) -> Option<String> {
        let gains: Vec<Option<Gain>> = state.rungs.iter().map(|climbed| climbed.gain.clone()).collect();
        if self.config.thorough || !choice::is_over(&gains) {
            return None;
        }
        let last = &state.rungs[state.rungs.len() - choice::ENOUGH..];
        let told = last.iter().filter_map(|climbed| Some((climbed, climbed.gain.as_ref()?)));
        let told = told.map(|(climbed, gain)| self.in_words(&climbed.name, gain)).collect::<Vec<_>>();
        Some(format!(
            "Two rungs in a row are not better beyond the noise: {}; --thorough climbs on.",
            told.join(", ")
        ))
    }

    /// `2-features by +0.4 points over 1-bow (95 %: -0.2 to +1.0)`.
    fn in_words(&self, name: &str, gain: &Gain) -> String {
        let metric = self.deciding.name();
        let unit = match metric {
            "accuracy" => " points".into(),
            share if table::is_share(share) => format!(" points of {share}"),
            _ => format!(" in valid/{metric}"),
        };
        // A correlation lies between -1 and 1, an error anywhere.
        let (scale, digits) = match metric {
            "mse" => (1.0, 1),
            "pearson" | "spearman" => (1.0, 3),
            _ => (100.0, 1),
        };
        let figure = |value: f64| table::signed(scale * value, digits);
        let ends = gain
            .interval
            .map_or("no interval".into(), |[low, high]| format!("95 %: {} to {}", figure(low), figure(high)));
        format!("{name} by {}{unit} over {} ({ends})", figure(gain.gain), gain.over)
    }

    /// The metric that decides.
    fn metric(&self) -> String {
        format!("valid/{}", self.deciding.name())
    }

    /// About how many seconds a rung takes: by the model's time for a text, and by how far the last one that trained was off.
    fn expected(&self, rung: Rung, state: &State, text_s: Option<f64>) -> Option<f64> {
        let trained = state.rungs.iter().rev().find(|climbed| climbed.rung.takes_steps());
        let off = trained.and_then(|climbed| Some(climbed.seconds / climbed.estimated_s?.max(1e-3)));
        let estimated = self.task.estimated(rung, self.config, text_s)?;
        Some(if rung.takes_steps() { estimated * off.unwrap_or(1.0) } else { estimated })
    }

    /// One rung, from its beginning or from where it stopped.
    fn one(&self, rung: Rung, left_s: Option<f64>, listener: &mut Listener<'_>) -> Result<Ended> {
        let dir = self.dir.join(rung.name());
        let config = rung.settings(self.config, self.task, left_s);
        let begun = RunFolder::is_run(&dir).then(|| RunFolder::settings(&dir)).transpose()?;
        let (config, place) = match begun {
            Some(text) => (begun_with(&dir, &text, &config)?, Place::Continued(dir)),
            None => (config, Place::New(dir)),
        };
        let options = RunOptions { place, ..self.options.clone() };
        let (clock, mut asked, mut late) = (Instant::now(), false, false);
        // What takes no steps knows no max_time.
        let mut timed = |event: Event<'_>| {
            let signal = listener(event);
            asked |= signal == Signal::Stop;
            late |= !rung.takes_steps() && left_s.is_some_and(|left| clock.elapsed().as_secs_f64() > left);
            if late { Signal::Stop } else { signal }
        };
        let ended = finetune_compared(&config, &options, Compared::OnValidation, &mut timed);
        match ended {
            Err(Error::Interrupted { .. }) if asked => Ok(Ended::Stopped(SIGNAL)),
            Err(Error::Interrupted { .. }) if late => Ok(Ended::Stopped(MAX_TIME)),
            Err(other) => Err(other),
            Ok(summary) if summary.final_dir.is_some() => Ok(Ended::Whole(Box::new(summary))),
            Ok(summary) => {
                let by_time = summary.stopped.as_deref() == Some(MAX_TIME);
                Ok(Ended::Stopped(if by_time { MAX_TIME } else { SIGNAL }))
            }
        }
    }

    /// What there is to say of a rung.
    fn climbed(
        &self,
        rung: Rung,
        summary: &Summary,
        took: Duration,
        (estimated_s, state): (Option<f64>, &State),
    ) -> Result<Climbed> {
        let dir = self.dir.join(rung.name());
        let gain = match self.chosen(state)? {
            Some(best) => {
                let best = &state.rungs[best];
                Some(Gain::of(&dir, &self.dir.join(&best.name), &best.name, self.deciding)?)
            }
            None => None,
        };
        let whole = RunFolder::summary(&dir).and_then(|summary| summary["seconds"].as_f64());
        let model = dir.join("final");
        Ok(Climbed {
            rung,
            name: rung.name().into(),
            metrics: finite(&summary.metrics),
            intervals: summary.intervals.clone(),
            calibration: summary.calibration,
            seconds: whole.unwrap_or(took.as_secs_f64()),
            estimated_s,
            ms_per_text: self.ms_per_text(&model),
            model_bytes: bytes_of(&model)?,
            gain,
        })
    }

    /// Milliseconds of a prediction, many at a time; `None` where there is nothing to time.
    fn ms_per_text(&self, model: &Path) -> Option<f64> {
        let AutoConfig { precision, threads, .. } = *self.config;
        let predictor = Predictor::load(model, precision, &self.options.device, threads).ok()?;
        let texts = &self.task.texts;
        // The first ones have memory to find.
        predictor.predict(&texts[..texts.len().min(8)]).ok()?;
        let clock = Instant::now();
        predictor.predict(texts).ok()?;
        (!texts.is_empty()).then(|| 1e3 * clock.elapsed().as_secs_f64() / texts.len() as f64)
    }
}

/// Why a rung is not begun in the time that is left.
fn does_not_fit(rung: Rung, expected: Option<f64>, left_s: Option<f64>) -> Option<String> {
    let left = left_s?;
    let name = rung.name();
    if left <= 0.0 {
        return Some(format!("The time of max_time was over before {name}."));
    }
    let expected = expected.filter(|expected| *expected > left)?;
    Some(format!("{name} would take {}, and of max_time {} are left.", about(expected), about(left)))
}

/// Seconds for people.
fn about(seconds: f64) -> String {
    match seconds {
        ..1.0 => "less than a second".into(),
        1.0..90.0 => format!("about {seconds:.0} s"),
        90.0..5_400.0 => format!("about {:.0} min", seconds / 60.0),
        _ => format!("about {:.1} h", seconds / 3_600.0),
    }
}

/// Bytes of the files in a folder.
fn bytes_of(folder: &Path) -> Result<u64> {
    let mut all = 0;
    for entry in std::fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let about = entry.and_then(|entry| entry.metadata()).map_err(Error::io("read", folder))?;
        all += if about.is_file() { about.len() } else { 0 };
    }
    Ok(all)
}
