//! `--adapt_on`: language modelling on the text of the task or its domain before the classifier (Gururangan et al. 2020).
//!
//! Owns: which text that is. Never: the loop; it is `pretrain`'s.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::state::{AdaptedModel, State, finite};
use super::{Around, SIGNAL};
use crate::checkpoint::{RunFolder, load_model};
use crate::config::{Arch, DataConfig, FinetuneConfig, HeadPooling, PretrainConfig, TASK_TEXTS, TrainConfig};
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
/// Tokens of a block of the task's texts.
const SMALLEST: usize = 32;
const LARGEST: usize = 512;

/// Adapts the model, or goes on with it; why it stopped before its end, if it did.
pub(super) fn adapt(
    around: &Around<'_>,
    state: &mut State,
    listener: &mut Listener<'_>,
) -> Result<Option<String>> {
    let config = around.config;
    let Some(text) = config.adapt.adapt_on.as_ref().filter(|_| state.adapted.is_none()) else {
        return Ok(None);
    };
    let clock = Instant::now();
    let (path, block_size) = match text.as_str() {
        TASK_TEXTS => task_texts(around, listener).map(|(path, size)| (path, Some(size)))?,
        text => (PathBuf::from(text), None),
    };
    listener(Event::Message(&format!("adapting the model to {text} before it is fine-tuned")));
    let dir = around.dir.join(FOLDER);
    let wanted = settings(config, path.display().to_string(), block_size);
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
fn settings(config: &FinetuneConfig, path: String, block_size: Option<usize>) -> PretrainConfig {
    let (data, train) = (&config.data, &config.train);
    PretrainConfig {
        from: config.model.clone(),
        block_size,
        data: DataConfig {
            path,
            encoding: data.encoding.clone().filter(|_| config.adapt.adapt_on.as_deref() != Some(TASK_TEXTS)),
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

/// Writes the task's training texts as running text, a line each, with every twentieth for validation. Test texts are never
/// among them, nor are validation texts of the data. Returns where they are, and the size of a block that suits them.
fn task_texts(around: &Around<'_>, listener: &mut Listener<'_>) -> Result<(PathBuf, usize)> {
    let folder = around.dir.join(TEXTS);
    // Without messages: each run tells how the data was read.
    let mut quiet = |event: Event<'_>| match event {
        Event::Message(_) => Signal::Continue,
        other => listener(other),
    };
    let positions = match &around.config.model {
        Some(model) => load_model(model)?.files.config.num_max_positions,
        None => LARGEST,
    };
    let (count, size) = around.ranks.of_leader(|| {
        let lines = lines(around.config, &mut quiet)?;
        let (mut valid, mut train): (Vec<_>, Vec<_>) =
            lines.iter().enumerate().partition(|(at, _)| at % 20 == 19);
        let words = |lines: &[(usize, &String)]| -> usize {
            lines.iter().map(|(_, line)| line.split(' ').count()).sum()
        };
        let mean = words(&train) / train.len().max(1);
        if words(&valid) < 2 * SMALLEST {
            train.append(&mut valid);
        }
        // Validation text is the smaller one, where there is some.
        let least = if valid.is_empty() { words(&train) } else { words(&valid) };
        let size = block_size(mean, least, positions);
        std::fs::create_dir_all(&folder).map_err(Error::io("create the folder", &folder))?;
        for (name, lines) in [("train.txt", train), ("valid.txt", valid)] {
            let text: String = lines.iter().map(|(_, line)| format!("{line}\n")).collect();
            if !text.is_empty() {
                write_atomic(&folder.join(name), text.as_bytes())?;
            }
        }
        Ok((lines.len(), size))
    })?;
    let line = format!("{} training texts of the task are text to adapt to", thousands(count));
    listener(Event::Message(&line));
    Ok((folder, size))
}

/// A few texts to a block, of powers of two; no more than the positions with special tokens, and than half of a text of so many
/// words, each of which is a token or more.
fn block_size(words_a_text: usize, words: usize, positions: usize) -> usize {
    let mut size = (4 * words_a_text).next_power_of_two().clamp(SMALLEST, LARGEST);
    while size > 2 && (size + 2 > positions || 2 * size > words) {
        size /= 2;
    }
    size
}

/// The training texts, those of a pair one behind the other, without what is held out for validation where labels are single
/// ones.
fn lines(config: &FinetuneConfig, listener: &mut Listener<'_>) -> Result<Vec<String>> {
    let request = DataRequest {
        config: &config.data,
        problem: config.problem,
        arch: Arch::Gpt2,
        pooling: HeadPooling::Cls,
        positions: usize::MAX,
        truncation: None,
    };
    let texts: Vec<String> = if config.problem == crate::config::Problem::SingleLabel {
        request.read_texts(None, Some(config.train.seed), listener)?.0.train.texts
    } else {
        let placed = request.read_placed(listener)?;
        let train = placed.splits.into_iter().filter(|split| split.split == Split::Train);
        let both = |text: crate::data::classification::placed::PlacedText| {
            crate::data::classification::joined(&text.text, text.second.as_deref())
        };
        train.flat_map(|split| split.texts).map(both).collect()
    };
    let line = |text: &String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    Ok(texts.iter().map(line).filter(|line| !line.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_suit_texts_positions_and_what_there_is() {
        assert_eq!(block_size(10, 100_000, 512), 64);
        assert_eq!(block_size(230, 100_000, 512), 256); // with two special tokens 512 are too many
        assert_eq!(block_size(3, 100_000, 512), 32);
        assert_eq!(block_size(10, 100_000, 64), 32);
        assert_eq!(block_size(10, 70, 512), 32);
        assert_eq!(block_size(1, 9, 512), 4);
    }
}
