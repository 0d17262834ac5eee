//! The flags of `finetune` that say what a classifier has between the model and its last linear.
//!
//! Owns: their names and help. Never: their defaults.

use clap::Args;
use headstart::config::{Activation, HeadKind};

use super::parsing::{count, one_of};

/// The classifier's head.
#[derive(Clone, Copy, Debug, Default, Args)]
#[command(next_help_heading = "Fine-tuning")]
pub struct HeadArgs {
    /// The head on the pooled row: a linear, or one with a hidden layer before it (mlp) [default: linear, or what a fine-tuned
    /// model has]
    #[arg(long, value_name = "NAME", value_parser = one_of::<HeadKind>())]
    pub head: Option<HeadKind>,
    /// Width of the hidden layer of --head mlp [default: the model's]
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub head_width: Option<usize>,
    /// What stands behind it [default: tanh]
    #[arg(long, value_name = "NAME", value_parser = one_of::<Activation>())]
    pub head_activation: Option<Activation>,
    /// Have the head read a learned mix of all layers' hidden states, embeddings included, and not the last ones alone (ELMo)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub layer_mix: Option<bool>,
}
