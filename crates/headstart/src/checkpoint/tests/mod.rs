//! Tiny models through the disk and back.

mod damage;
mod model;
mod run;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::checkpoint::{
    BestCheckpoint, Checkpoint, HeadDefaults, Kept, ModelFiles, NewRun, RunFolder, Snapshot, TrainerState,
};
use crate::config::{HeadConfig, HeadPooling, ModelConfig, ObjectiveName, PrecisionName, Problem};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::params::ParamTable;
use crate::tokenizer::RoleIds;

/// A model of some hundred parameters.
fn config() -> ModelConfig {
    ModelConfig {
        vocab_size: 7,
        embed_dim: 4,
        hidden_dim: 6,
        num_max_positions: 5,
        num_heads: 2,
        num_layers: 1,
        ..ModelConfig::default()
    }
}

fn with_head(num_classes: usize) -> ModelConfig {
    let head = HeadConfig {
        num_classes,
        pooling: HeadPooling::Cls,
        problem: Problem::SingleLabel,
        max_length: None,
        truncation: None,
        dropout: None,
    };
    ModelConfig { head: Some(head), ..config() }
}

fn files(config: &ModelConfig) -> ModelFiles {
    let classes = config.head.as_ref().map_or(0, |head| head.num_classes);
    ModelFiles {
        mlm_probability: None,
        block_size: Some(9),
        head_defaults: Some(HeadDefaults {
            pooling: HeadPooling::Mean,
            dropout: Some(0.2),
            max_length: None,
        }),
        config: config.clone(),
        objective: Some(ObjectiveName::Mlm),
        labels: (0..classes).rev().map(|class| format!("class \"{class}\"")).collect(),
        pairs: classes > 0,
        temperature: (classes > 0).then_some(1.25),
        precision: if classes > 0 { PrecisionName::Bf16 } else { PrecisionName::F32 },
        special_ids: RoleIds { cls: 2, sep: 1, eos: 1, mask: 3, unk: 4, pad: None },
        tokenizer_json: b"{\"version\": \"1.0\"}".to_vec(),
    }
}

/// A run with what the loop would hold.
struct Setup {
    temp: TempDir,
    model: Model,
    files: ModelFiles,
    weights: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
}

impl Setup {
    fn new() -> Self {
        Self::of(&with_head(3))
    }

    fn of(config: &ModelConfig) -> Self {
        let model = Model::new(config).unwrap();
        let weights = model.table().initial_values(5);
        let numbers =
            |from: f32| (0..model.table().trainable_len()).map(|i| from + i as f32 * 0.37).collect();
        let (first, second) = (numbers(-3.1), numbers(0.25));
        Self { temp: tempfile::tempdir().unwrap(), files: files(config), model, weights, first, second }
    }

    fn table(&self) -> &ParamTable {
        self.model.table()
    }

    fn dir(&self) -> PathBuf {
        self.temp.path().join("run")
    }

    fn create(&self) -> RunFolder {
        let environment = Map::from_iter([("cores".to_owned(), json!(2))]);
        create_run(&self.dir(), "seed = 1\n", "headstart pretrain", &environment).unwrap()
    }

    /// Saves the state as a run does; the moments come in pieces that do not end where parameters do.
    fn save_as(&self, run: &RunFolder, state: &TrainerState, keep: usize) -> Result<PathBuf> {
        let values = |which, write: &mut dyn FnMut(&[f32]) -> Result<()>| {
            let values = if which == Kept::FirstMoment { &self.first } else { &self.second };
            values.chunks(7).try_for_each(write)
        };
        let (table, weights, files) = (self.table(), &self.weights[..], &self.files);
        let kept = &Kept::MOMENTS;
        run.save_checkpoint(&Snapshot { state, table, weights, kept, values: &values, files }, keep)
    }

    /// All moments of a checkpoint.
    fn moments_of(&self, checkpoint: &Checkpoint) -> Result<[Vec<f32>; 2]> {
        let all = 0..self.table().trainable_len();
        self.moments_at(checkpoint, &[all])
    }

    fn moments_at(
        &self,
        checkpoint: &Checkpoint,
        places: &[std::ops::Range<usize>],
    ) -> Result<[Vec<f32>; 2]> {
        checkpoint.check_kept(self.table(), &Kept::MOMENTS)?;
        let load = |which| checkpoint.load_kept(self.table(), places, which);
        Ok([load(Kept::FirstMoment)?, load(Kept::SecondMoment)?])
    }

    /// Saves step after step, keeping all; `best` is the best one's step.
    fn save(&self, run: &RunFolder, steps: &[u64], best: u64) {
        for step in steps {
            self.save_as(run, &state(*step, best), 100).unwrap();
        }
    }

    fn step(&self, step: u64) -> PathBuf {
        self.dir().join(format!("checkpoints/step-{step:08}"))
    }
}

/// A new run, set up at once.
fn create_run(
    dir: &Path,
    config: &str,
    command: &str,
    environment: &Map<String, Value>,
) -> Result<RunFolder> {
    NewRun::claim(dir)?.set_up(config, command, environment)
}

fn state(step: u64, best: u64) -> TrainerState {
    let best =
        (best <= step).then_some(BestCheckpoint { step: best, value: 0.1 + 0.2, loss: Some(1.0 / 3.0) });
    TrainerState {
        seed: u64::MAX - 1,
        step,
        skipped: 1,
        tokens: step * 512,
        best,
        elapsed_s: 1.1 * step as f64,
        slab_tokens: Some(4096),
        ..Default::default()
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn names(folder: &Path) -> Vec<String> {
    super::disk::names(folder).unwrap()
}

/// The error's words, which have each of `parts`.
fn assert_says<T>(result: Result<T>, parts: &[&str]) -> Error {
    let error = result.err().expect("an error");
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    error
}
