//! The flags of methods that train little of a model, beside those of low-rank updates.
//!
//! Owns: their names and help. Never: their defaults.

use clap::Args;
use headstart::config::Ia3Targets;

/// What such a method trains.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Fine-tuning")]
pub struct PeftArgs {
    /// The activations that --method ia3 scales: all, or a list of q, k, v (what these linears give), o and down (what these
    /// read) [default: k,v,down]
    #[arg(long, value_name = "NAMES")]
    pub ia3_targets: Option<Ia3Targets>,
}
