//! The flags of `finetune` that say what trains from when on, and how fast.
//!
//! Owns: their names and help. Never: defaults of the library's settings.

use clap::Args;
use headstart::config::Unfreeze;

use super::parsing::one_of;

/// What trains from when on, and how fast.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Rates")]
pub struct RatesArgs {
    /// What begins to train when: all at once, the head first and one more layer at a time from the top (gradual), or the head,
    /// each layer by itself from below, then everything (chain-thaw) [default: none]
    #[arg(long, value_name = "NAME", value_parser = one_of::<Unfreeze>())]
    pub unfreeze: Option<Unfreeze>,
    /// Epochs until the next part does [default: 1, or less where everything would not train for half of the run]
    #[arg(long, value_name = "X")]
    pub unfreeze_every: Option<f64>,
    /// Each layer's rate is so many times that of the one above it: 0.95, or 0.385 for ULMFiT's 2.6th [default: 1]
    #[arg(long, value_name = "X")]
    pub layer_decay: Option<f64>,
    /// Largest rate of what is new: the head and adapters; with --method adapters or lora, of the head [default: lr]
    #[arg(long, value_name = "X")]
    pub head_lr: Option<f64>,
}
