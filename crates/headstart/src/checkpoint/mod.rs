//! What a run leaves on disk, and how it comes back: the only place that knows the layout of the run folder.
//!
//! Owns: file names and formats of runs, checkpoints and model folders; their atomic writing, their checking.
//! Never: decides when to save, looks at a clock, computes with weights.
//!
//! ```text
//! runs/<name>/
//!   config.toml                           the settings and their sum
//!   command.txt  environment.json  metrics.jsonl  train.log  report.html
//!   summary.json                          how it ended: metrics, intervals, temperature
//!   predictions.jsonl                     what a finished classifier said of each test (or else validation) example
//!   run.lock                              locked by the process that writes to the run
//!   tensorboard/
//!   ranks/rank-0001.log                   what the other ranks of a distributed run said
//!   checkpoints/
//!     best.json                           which of them is the best
//!     step-00001000/                      a model folder, and what resuming needs besides
//!       model.safetensors  tokenizer.json  config.json
//!       optimizer.safetensors  trainer_state.json
//!   final/                                a model folder: the finished model
//!     model.safetensors  tokenizer.json  config.json  README.md
//!     headstart.json  ...                 where it is in the form of `transformers` (`published_folder`)
//!     adapter/                            what was trained on a frozen model, alone (`adapter_folder`)
//!       adapter.safetensors  adapter.json
//! ```
//!
//! Folders are written under the name `.partial-<name>` and renamed when every byte is on the disk. A folder that
//! replaces an older one pushes that aside as `.old-<name>` for the moment between two renames.
//! [`RunFolder::open`] puts right what an interruption left of either. So a folder under its proper name is always
//! complete; sizes and sums tell whether it was altered afterwards: CRC-32C, which is quick, and SHA-256 for people and
//! for folders of before there was the other.

mod adapter_folder;
mod adapterhub_folder;
mod config_file;
mod disk;
mod export;
mod find;
mod lock;
mod model_folder;
mod new_run;
mod one_trunk;
mod peft_folder;
mod published_folder;
mod run_folder;
mod settings;
mod state_file;
mod stored;
mod trainer;
mod weights;

pub use adapter_folder::Adapter;
pub use adapterhub_folder::export_adapterhub;
pub use config_file::{HeadDefaults, ModelFiles};
pub use export::{ExportForm, Exported, WayOut, export, way_to_transformers};
pub use find::{ModelPath, load_model, load_model_and_tokenizer};
pub use model_folder::{GrownRows, LoadReport, LoadedModel};
pub use new_run::{NewRun, numbered};
pub(crate) use one_trunk::share_trunk;
pub use one_trunk::{adapter_in, load_adapters};
pub use peft_folder::{base_of, export_peft, is_adapter};
pub use published_folder::Published;
pub(crate) use published_folder::{is_published_form, with_lm_head, without_lm_head};
pub use run_folder::RunFolder;
pub use state_file::{BestCheckpoint, TrainerState};
pub use stored::StoredWeights;
pub use trainer::{Checkpoint, Kept, KeptValues, Snapshot};

pub use crate::files::{FileSum, FileSums};
pub use crate::tensors::TensorFile;

/// Weights, one tensor per parameter under its name.
const MODEL_FILE: &str = "model.safetensors";
/// Moments, two tensors per trainable parameter, and what else the optimizer needs.
const OPTIMIZER_FILE: &str = "optimizer.safetensors";
/// Sizes, options, labels, ids.
const CONFIG_FILE: &str = "config.json";
/// What `transformers` has no place for, beside its config.json, in a model folder of its form that this program wrote.
const OWN_FILE: &str = "headstart.json";
/// The tokenizer in the format of Hugging Face `tokenizers`.
const TOKENIZER_FILE: &str = "tokenizer.json";
/// Where the loop stands.
const STATE_FILE: &str = "trainer_state.json";
/// Which checkpoint is the best.
const BEST_FILE: &str = "best.json";
/// The finished model's folder.
const FINAL_FOLDER: &str = "final";
/// What other ranks than 0 said.
const RANKS_FOLDER: &str = "ranks";
/// The checkpoints' folder.
const CHECKPOINTS_FOLDER: &str = "checkpoints";
/// The resolved configuration; its presence makes a folder a run folder.
const RUN_CONFIG_FILE: &str = "config.toml";
/// The command line of a run.
const COMMAND_FILE: &str = "command.txt";
/// The report for a browser.
const REPORT_FILE: &str = "report.html";
/// The metrics, one JSON object a line.
const METRICS_FILE: &str = "metrics.jsonl";
/// How a run ended.
const SUMMARY_FILE: &str = "summary.json";
/// What a finished classifier said.
const PREDICTIONS_FILE: &str = "predictions.jsonl";
/// Where the run took place.
const ENVIRONMENT_FILE: &str = "environment.json";

#[cfg(test)]
mod tests;
