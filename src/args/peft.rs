//! The flags of methods that train little of a model, beside those of low-rank updates.
//!
//! Owns: their names and help. Never: their defaults.

use std::path::PathBuf;

use clap::Args;
use headstart::config::{Activation, AdapterKind, Ia3Targets};

use super::parsing::{count, one_of};

/// The model below an adapter.
#[derive(Debug, Default, Args)]
pub struct BaseArgs {
    /// Where RUN is the folder of an adapter alone (final/adapter of a run, PEFT's, or AdapterHub's): the model it is of [default: the one
    /// that the folder names]
    #[arg(long, value_name = "MODEL")]
    pub base: Option<PathBuf>,
}

/// What such a method trains.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Fine-tuning")]
pub struct PeftArgs {
    /// Where --model is the folder of an adapter alone (final/adapter of a run, PEFT's, or AdapterHub's): the model it is of [default: the
    /// one that the folder names]
    #[arg(long, value_name = "RUN|NAME")]
    pub base: Option<PathBuf>,
    /// Where adapters stand: behind attention and the feed-forward (houlsby), behind the feed-forward (pfeiffer; seq_bn: of
    /// what its norm gives, as in AdapterHub), beside it (parallel) [default: houlsby]
    #[arg(long, value_name = "NAME", value_parser = one_of::<AdapterKind>())]
    pub adapters_kind: Option<AdapterKind>,
    /// Width of the adapters, as the model's divided by this [default: --adapters_dim says it]
    #[arg(long, value_name = "R", value_parser = count::<usize>)]
    pub adapters_reduction: Option<usize>,
    /// Between their two linears [default: the model's own]
    #[arg(long, value_name = "NAME", value_parser = one_of::<Activation>())]
    pub adapters_activation: Option<Activation>,
    /// What parallel ones are multiplied by [default: 4]
    #[arg(long, value_name = "X")]
    pub adapters_scale: Option<f64>,
    /// The activations that --method ia3 scales: all, or a list of q, k, v (what these linears give), o and down (what these
    /// read) [default: k,v,down]
    #[arg(long, value_name = "NAMES")]
    pub ia3_targets: Option<Ia3Targets>,
}
