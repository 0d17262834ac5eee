//! The flag of adapters that are chosen when their trunk is used.
//!
//! Owns: its name and help. Never: what a folder of an adapter is.

use clap::Args;

/// Several answers from one trunk.
#[derive(Debug, Default, Args)]
pub struct AdapterArgs {
    /// RUN is a trunk, and this the adapter of a run on it (the run, its final/, final/adapter), or a folder of PEFT or AdapterHub;
    /// may be given several times, each answers. Called by its folder, or as you say: NAME=DIR
    #[arg(long = "adapter", value_name = "[NAME=]DIR")]
    pub adapters: Vec<String>,
}
