//! The flags of `headstart models ...`. Owns: these. Never: what they lead to.

use clap::{Args, Subcommand};

use super::PlaceArgs;

/// `headstart models ...`.
#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// List the models that have a short name and whether they are on this machine
    List(ModelsListArgs),
    /// Say what a model is, its files and their sums, and where it is on this machine
    Show(ModelsShowArgs),
    /// Bring a model into the Hugging Face cache as the hub has it now, compare its sums, print its folder
    Pull(ModelsPullArgs),
}

/// `headstart models list`.
#[derive(Debug, Args)]
pub struct ModelsListArgs {
    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub places: PlaceArgs,
}

/// `headstart models show`.
#[derive(Debug, Args)]
#[command(after_help = "Example: headstart models show minilm-l6")]
pub struct ModelsShowArgs {
    /// A short name, owner/name[@revision] of the Hugging Face hub, or the folder of a model or run
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Compute a text's vector with it, and compare with the published program's where that is known
    #[arg(long)]
    pub check: bool,
    /// Print the result as one line of JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub places: PlaceArgs,
}

/// `headstart models pull`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstart models pull minilm-l6
  headstart models pull prajjwal1/bert-tiny@main
HF_TOKEN (or the file of `hf auth login`), HF_ENDPOINT, HF_HOME, HF_HUB_CACHE and
HF_HUB_OFFLINE of the environment are honoured.")]
pub struct ModelsPullArgs {
    /// A short name, or owner/name[@revision] of the Hugging Face hub
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Print the result as one line of JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub places: PlaceArgs,
}
