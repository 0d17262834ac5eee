//! What a run is asked to do: plain structs that are read from and written to TOML, and checked.
//!
//! Owns: names, defaults, ranges, one file a table. Never: reads files, knows flags (the command line maps one flag to
//! one key).

mod adapters;
mod auto;
mod budget;
mod data;
mod distill;
mod finetune;
mod head;
mod ia3;
mod layout;
mod lora;
mod model;
mod peft;
mod pretrain;
mod rates;
mod recipe;
mod regularisation;
mod train;
mod trials;

pub use adapters::{AdapterKind, AdapterLayout};
pub use auto::{AutoConfig, AutoMethod};
pub use budget::Budget;
pub use data::{DataConfig, TextColumns};
pub use distill::{DistillConfig, LayerMap, Linears};
pub use finetune::{ClassWeights, FinetuneConfig, Method};
pub use head::{HeadChoice, HeadKind, HeadShape, HiddenLayer};
pub use ia3::{Ia3Config, Ia3Targets};
pub use layout::{Activation, HeadDropout, InitScheme, Layout, LayoutChanges, NormPlace};
pub use lora::{LoraConfig, LoraTarget, LoraTargets};
pub use model::{
    Arch, HeadConfig, HeadPooling, ModelConfig, PRESETS, Positions, Problem, TeacherHeads, Truncation,
};
pub use peft::PeftConfig;
pub use pretrain::{ObjectiveName, PretrainConfig, TextUnit};
pub use rates::{RatesConfig, Unfreeze};
pub use recipe::{Amount, Recipe, Task};
pub use regularisation::{Copies, RegularisationConfig, Sampling};
pub use train::{OptimizerName, PrecisionName, Schedule, TrainConfig};
pub use trials::{AdaptConfig, AllExamples, Seeds, Size, Sizes, TASK_TEXTS, TrialsConfig};

use crate::error::{Error, Result};

fn check(key: &str, holds: bool, words: impl FnOnce() -> (String, String)) -> Result<()> {
    if holds {
        return Ok(());
    }
    let (what, fix) = words();
    Err(Error::Config { key: key.into(), what, fix })
}

fn check_positive(key: &str, value: f64) -> Result<()> {
    check(key, value > 0.0 && value.is_finite(), || {
        (format!("{value} is not possible"), "use a positive number".into())
    })
}
