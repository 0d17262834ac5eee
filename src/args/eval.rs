//! The flags of `headstart eval`. Owns: these. Never: what they lead to.

use std::path::PathBuf;

use clap::Args;
use headstart::data::Split;

use super::parsing::one_of;
use super::{AdapterArgs, BaseArgs, ColumnArgs, ComputeArgs, LongTextArgs, PlaceArgs, RankArgs, ReadingArgs};

/// `headstart eval`.
#[derive(Debug, Args)]
#[command(after_help = "Example: headstart eval runs/trec --data trec")]
pub struct EvalArgs {
    /// A run folder, its final/, a checkpoint, the folder of an adapter, or a name of `headstart models list`
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    #[command(flatten)]
    pub below: BaseArgs,
    #[command(flatten)]
    pub adapters: AdapterArgs,
    /// A named data set, a file, a folder or an http(s) address
    #[arg(long, value_name = "DATA", alias = "dataset_path", required = true)]
    pub data: String,
    /// Which part is measured [default: test, or else valid, or else train]
    #[arg(long, value_name = "NAME", value_parser = one_of::<Split>())]
    pub split: Option<Split>,
    /// Measure the language model of a fine-tuned model instead of its classifier
    #[arg(long)]
    pub language_model: bool,
    /// Leave out what the temperature that was found on validation data changes
    #[arg(long)]
    pub uncalibrated: bool,
    #[command(flatten)]
    pub long: LongTextArgs,
    /// Print the result as one line of JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub compute: ComputeArgs,
    #[command(flatten)]
    pub reading: ReadingArgs,
    #[command(flatten)]
    pub columns: ColumnArgs,
    #[command(flatten)]
    pub places: PlaceArgs,
    #[command(flatten)]
    pub ranks: RankArgs,
}
