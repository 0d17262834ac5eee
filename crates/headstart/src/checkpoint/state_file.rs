//! Where the loop stands, and trainer_state.json: that state, the sums of the checkpoint's other files, and a sum of all.
//!
//! Owns: the state, its file's form, and the forms that earlier versions wrote. Never: weights or moments (`trainer`).

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::Result;
use crate::files::{FileSum, FileSums, damaged};
use crate::run_log::LogSum;

/// Counts incompatible changes of trainer_state.json.
const FORMAT_VERSION: u64 = 2;

/// Where the loop stands after a step. Randomness is a function of seed and step, so there is no generator to keep.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainerState {
    /// The run's seed.
    pub seed: u64,
    /// Optimizer steps done, the skipped ones included.
    pub step: u64,
    /// Those that changed nothing, because their loss or gradients were not finite.
    pub skipped: u64,
    /// Those skipped since the last update.
    pub skipped_in_a_row: u64,
    /// Passes over the data completed.
    pub epoch: u64,
    /// Sequences already used of the pass that is going on.
    pub sequences_in_epoch: u64,
    /// Sequences used in all.
    pub sequences: u64,
    /// Tokens used in all.
    pub tokens: u64,
    /// Seconds of work, over all the processes the run took.
    pub elapsed_s: f64,
    /// The best evaluation so far.
    pub best: Option<BestCheckpoint>,
    /// Evaluations since the best one, for early stopping.
    pub evaluations_since_best: u64,
    /// Whether the evaluation that is due after this step was stopped, and comes before the next step.
    pub evaluation_is_due: bool,
    /// Updates in each of the phases that what trains is divided into, of which Adam's corrections of what was frozen at times are
    /// made; none where there is one phase.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub phase_updates: Vec<u64>,
    /// Tokens to a slab on a GPU, which the bits depend on; `None` where the processor computed.
    pub slab_tokens: Option<usize>,
    /// SHA-256 of the settings; empty where version 1 kept none.
    pub settings: String,
    /// SHA-256 of the examples of each split; empty where version 1 kept none.
    pub data: BTreeMap<String, String>,
    /// What metrics.jsonl holds until this step.
    pub logged: Option<LogSum>,
}

impl TrainerState {
    /// Updates of the weights: the number of Adam's corrections.
    pub fn updates(&self) -> u64 {
        self.step.saturating_sub(self.skipped)
    }

    /// Counts a step that is done.
    pub(crate) fn count_step(&mut self, was_skipped: bool) {
        self.step += 1;
        if was_skipped {
            self.skipped += 1;
            self.skipped_in_a_row += 1;
        } else {
            self.skipped_in_a_row = 0;
        }
    }
}

/// The best evaluation, and the checkpoint that was made after it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BestCheckpoint {
    /// The optimizer step it was made after.
    pub step: u64,
    /// Its value of the deciding metric; finite.
    pub value: f64,
    /// Its loss, which tells equal values apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
}

/// The text of the file.
pub(super) fn state_json(path: &Path, state: &TrainerState, sums: &FileSums) -> Result<Vec<u8>> {
    let content = json!({ "state": state, "files": sums });
    let sum = FileSum::of(content.to_string().as_bytes()).sha256;
    let whole = json!({ "format_version": FORMAT_VERSION, "content": content, "sha256": sum });
    let text = format!("{whole:#}\n").into_bytes();
    // JSON has no NaN or infinity: a state that could not be read again is not written.
    match parse_state(path, &text) {
        Ok((again, _)) if again == *state => Ok(text),
        _ => Err(damaged(path, "the loop's state holds a number that is not finite")),
    }
}

/// What the text holds, of this version or the one before.
pub(super) fn parse_state(path: &Path, text: &[u8]) -> Result<(TrainerState, FileSums)> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Stored {
        format_version: u64,
        content: Value,
        sha256: String,
    }
    let stored: Stored = serde_json::from_slice(text).map_err(|e| no_state(path, &e))?;
    if !(1..=FORMAT_VERSION).contains(&stored.format_version) {
        let found = stored.format_version;
        return Err(damaged(
            path,
            format!("its format_version is {found}; this program reads 1 to {FORMAT_VERSION}"),
        ));
    }
    if FileSum::of(stored.content.to_string().as_bytes()).sha256 != stored.sha256 {
        return Err(damaged(path, "is altered: its content is not what was written (SHA-256 differs)"));
    }
    if stored.format_version == 1 {
        let (state, files) = content::<StateV1>(path, stored.content)?;
        return Ok((state.into(), files));
    }
    content(path, stored.content)
}

fn content<S: DeserializeOwned>(path: &Path, content: Value) -> Result<(S, FileSums)> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Content<S> {
        state: S,
        files: FileSums,
    }
    let Content { state, files } = serde_json::from_value(content).map_err(|e| no_state(path, &e))?;
    Ok((state, files))
}

fn no_state(path: &Path, e: &serde_json::Error) -> crate::error::Error {
    damaged(path, format!("is no trainer state: {e}"))
}

/// Version 1. Its counts of data, its seconds and its seed were never set; the loop's own were in `extra`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "fields that stood in the file, so that an unknown one is still an error")]
struct StateV1 {
    step: u64,
    epoch: u64,
    sequences_in_epoch: u64,
    sequences: u64,
    tokens: u64,
    best: Option<BestV1>,
    evaluations_since_best: u64,
    elapsed_s: f64,
    seed: u64,
    extra: ExtraV1,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BestV1 {
    step: u64,
    value: f64,
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
struct ExtraV1 {
    best_loss: Option<f64>,
    slab_tokens: Option<usize>,
    skipped: u64,
    skipped_in_a_row: u64,
}

impl From<StateV1> for TrainerState {
    fn from(old: StateV1) -> Self {
        let best =
            |best: BestV1| BestCheckpoint { step: best.step, value: best.value, loss: old.extra.best_loss };
        Self {
            step: old.step,
            skipped: old.extra.skipped,
            skipped_in_a_row: old.extra.skipped_in_a_row,
            best: old.best.map(best),
            evaluations_since_best: old.evaluations_since_best,
            slab_tokens: old.extra.slab_tokens,
            ..Self::default()
        }
    }
}
