//! `--adapt_on`: language modelling on the text of the task or its domain before the classifier (Gururangan et al. 2020).
//!
//! Owns: which text that is. Never: the loop; it is `pretrain`'s.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::state::{AdaptedModel, State, finite};
use super::task::Task;
use super::{Around, SIGNAL};
use crate::checkpoint::RunFolder;
use crate::config::{
    Arch, DataConfig, FinetuneConfig, HeadPooling, PretrainConfig, Problem, TASK_TEXTS, TextUnit, TrainConfig,
};
use crate::data::classification::placed::PlacedText;
use crate::data::rows::TextInput;
use crate::data::running_text::{self, Reading};
use crate::data::split::Split;
use crate::error::{Error, Result};
use crate::event::{Event, Listener, Signal};
use crate::files::write_atomic;
use crate::pretrain::pretrain;
use crate::setup::labelled::DataRequest;
use crate::train::{Place, RunOptions, thousands};

/// The folder of that run, and of the task's texts.
pub(super) const FOLDER: &str = "adapt";
const TEXTS: &str = "adapt-text";
/// Words of the text that is held out, at least; with fewer there is none.
const LEAST_HELD_OUT: usize = 64;

/// Adapts the model, or goes on with it; why it stopped before its end, if it did.
pub(super) fn adapt(
    around: &Around<'_>,
    task: &Task,
    state: &mut State,
    listener: &mut Listener<'_>,
) -> Result<Option<String>> {
    let config = around.config;
    let Some(text) = config.adapt.adapt_on.as_ref().filter(|_| state.adapted.is_none()) else {
        return Ok(None);
    };
    let clock = Instant::now();
    let (path, inputs) = match text.as_str() {
        // An encoder reads both texts of a pair as it will when it is fine-tuned.
        TASK_TEXTS if task.pairs && task.arch.is_encoder() => {
            (task_texts(around, TextUnit::Pairs, listener)?, TextUnit::Pairs)
        }
        TASK_TEXTS => (task_texts(around, TextUnit::Lines, listener)?, TextUnit::Lines),
        text => (PathBuf::from(text), TextUnit::Blocks),
    };
    listener(Event::Message(&format!("adapting the model to {text} before it is fine-tuned")));
    let dir = around.dir.join(FOLDER);
    let wanted = settings(config, path.display().to_string(), inputs);
    let begun =
        around.ranks.of_leader(|| RunFolder::is_run(&dir).then(|| RunFolder::settings(&dir)).transpose())?;
    let (settings, place) = match begun {
        None => (wanted, Place::New(dir)),
        Some(saved) => (continued(&dir, &saved, &wanted)?, Place::Continued(dir)),
    };
    let summary = pretrain(&settings, &RunOptions { place, ..around.options.clone() }, listener)?;
    if summary.final_dir.is_none() {
        return Ok(Some(summary.stopped.unwrap_or_else(|| SIGNAL.into())));
    }
    state.adapted = Some(AdaptedModel {
        text: text.clone(),
        steps: summary.steps,
        metrics: finite(&summary.metrics),
        seconds: clock.elapsed().as_secs_f64(),
    });
    state.write(around)?;
    Ok(None)
}

/// The settings of the language model's run: the model's own, the recipe of continued pretraining, and from the task what is no
/// matter of the task.
fn settings(config: &FinetuneConfig, path: String, inputs: TextUnit) -> PretrainConfig {
    let (data, train) = (&config.data, &config.train);
    let task = config.adapt.adapt_on.as_deref() == Some(TASK_TEXTS);
    // The task's columns, where the text is a table that has them.
    let reading = Reading { text_column: data.text_column.clone(), ..Reading::default() };
    let has_columns = !task
        && running_text::text_columns(&[PathBuf::from(&path)], &reading).is_ok_and(|found| found.is_some());
    PretrainConfig {
        from: config.model.clone(),
        inputs,
        data: DataConfig {
            path,
            encoding: data.encoding.clone().filter(|_| !task),
            text_column: data.text_column.clone().filter(|_| has_columns),
            cache_dir: data.cache_dir.clone(),
            mirror: data.mirror.clone(),
            offline: data.offline,
            ..DataConfig::default()
        },
        train: TrainConfig {
            recipe: train.recipe,
            reduction_groups: train.reduction_groups,
            n_epochs: config.adapt.adapt_epochs,
            max_steps: config.adapt.adapt_steps,
            valid_batch_size: train.valid_batch_size,
            save_every: train.save_every,
            keep: 1,
            max_time: train.max_time,
            seed: train.seed,
            precision: train.precision,
            threads: train.threads,
            ..TrainConfig::default()
        },
        ..PretrainConfig::default()
    }
}

/// The settings a run was begun with, with what may be given anew.
fn continued(dir: &Path, saved: &str, wanted: &PretrainConfig) -> Result<PretrainConfig> {
    let mut config: PretrainConfig = toml::from_str(saved).map_err(|e| Error::Checkpoint {
        path: dir.to_path_buf(),
        what: format!("its settings cannot be read: {e}"),
        fix: "remove this folder; the model is then adapted again".into(),
    })?;
    config.data = DataConfig {
        path: wanted.data.path.clone(),
        cache_dir: wanted.data.cache_dir.clone(),
        mirror: wanted.data.mirror.clone(),
        offline: wanted.data.offline,
        ..config.data
    };
    let TrainConfig { valid_batch_size, save_every, max_time, threads, .. } = wanted.train;
    config.train = TrainConfig { valid_batch_size, save_every, max_time, threads, ..config.train };
    Ok(config)
}

/// Writes the task's training texts as lines, two for a pair where pairs are to be read, with every twentieth example for
/// validation. Test texts are never among them, nor are validation texts of the data. Returns where they are.
fn task_texts(around: &Around<'_>, inputs: TextUnit, listener: &mut Listener<'_>) -> Result<PathBuf> {
    let folder = around.dir.join(TEXTS);
    // Without messages: each run tells how the data was read.
    let mut quiet = |event: Event<'_>| match event {
        Event::Message(_) => Signal::Continue,
        other => listener(other),
    };
    let count = around.ranks.of_leader(|| {
        let texts = texts(around.config, &mut quiet)?;
        let examples: Vec<String> = texts.iter().filter_map(|text| lines(text, inputs)).collect();
        let (mut valid, mut train): (Vec<_>, Vec<_>) =
            examples.iter().enumerate().partition(|(at, _)| at % 20 == 19);
        let words = |examples: &[(usize, &String)]| -> usize {
            examples.iter().map(|(_, lines)| lines.split_whitespace().count()).sum()
        };
        if words(&valid) < LEAST_HELD_OUT {
            train.append(&mut valid);
        }
        std::fs::create_dir_all(&folder).map_err(Error::io("create the folder", &folder))?;
        for (name, examples) in [("train.txt", train), ("valid.txt", valid)] {
            let text: String = examples.iter().map(|(_, lines)| lines.as_str()).collect();
            if !text.is_empty() {
                write_atomic(&folder.join(name), text.as_bytes())?;
            }
        }
        Ok(examples.len())
    })?;
    let what = if inputs == TextUnit::Pairs { "pairs of training texts" } else { "training texts" };
    let line = format!("{} {what} of the task are text to adapt to", thousands(count));
    listener(Event::Message(&line));
    Ok(folder)
}

/// An example's lines, each with its end; `None` where it has no word. A pair is two lines, or one where lines are read.
fn lines(text: &TextInput, inputs: TextUnit) -> Option<String> {
    let one = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (first, second) = (one(&text.first), text.second.as_deref().map(one).unwrap_or_default());
    match inputs {
        _ if first.is_empty() && second.is_empty() => None,
        TextUnit::Pairs => Some(format!("{first}\n{second}\n")),
        _ => Some(format!("{}\n", format!("{first} {second}").trim())),
    }
}

/// The training texts, without what is held out for validation where labels are single ones.
fn texts(config: &FinetuneConfig, listener: &mut Listener<'_>) -> Result<Vec<TextInput>> {
    let request = DataRequest {
        config: &config.data,
        problem: config.problem,
        arch: Arch::Gpt2,
        pooling: HeadPooling::Cls,
        positions: usize::MAX,
        truncation: None,
    };
    if config.problem == Problem::SingleLabel {
        return Ok(request.read_texts(None, Some(config.train.seed), listener)?.0.train.texts);
    }
    let placed = request.read_placed(listener)?;
    let train = placed.splits.into_iter().filter(|split| split.split == Split::Train);
    let both = |text: PlacedText| TextInput { first: text.text, second: text.second };
    Ok(train.flat_map(|split| split.texts).map(both).collect())
}
