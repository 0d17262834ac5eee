//! What may be typed: the clap structs of the commands.
//!
//! Owns: flag names, aliases, help. Never: reads files, or has defaults of its own where the library has one (the
//! help shows the library's), or lists the values of an enum. `settings.rs` turns these structs into the library's
//! configuration.

mod adapter;
mod answers;
mod auto;
mod bench;
mod data;
mod distill;
mod eval;
mod examples;
mod export;
mod finetune;
mod groups;
mod head;
mod lint;
mod models;
mod parsing;
mod peft;
mod pretrain;
mod ranks;
mod rates;
mod regularisation;
mod runs;
mod tokenizer;
mod trials;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use headstart::device::DeviceName;

pub use adapter::AdapterArgs;
pub use answers::{FeaturesArgs, GenerateArgs, PredictArgs};
pub use auto::AutoArgs;
pub use bench::{BenchArgs, DoctorArgs};
pub use data::{DataCommand, DataInspectArgs, DataKind, DataListArgs, DataPrepareArgs, DataSetArgs};
pub use distill::{DistillArgs, LearningArgs};
pub use eval::EvalArgs;
pub use examples::{ExampleArgs, LongTextArgs};
pub use export::{ExportArgs, ExportTarget};
pub use finetune::FinetuneArgs;
pub use groups::{
    ColumnArgs, ComputeArgs, LabelledArgs, ModelArgs, PaceArgs, PlaceArgs, RankArgs, ReadingArgs, RunArgs,
    SourceArgs, TextsArgs, TokenizerArgs, TrainArgs, TuningArgs, TutorialArgs,
};
pub use head::HeadArgs;
pub use lint::DataLintArgs;
pub use models::{ModelsCommand, ModelsListArgs, ModelsPullArgs, ModelsShowArgs};
#[cfg(test)]
pub use parsing::names;
use parsing::{count, seed};
pub use parsing::{flag_values, flags_of, parse};
pub use peft::{BaseArgs, PeftArgs};
pub use pretrain::PretrainArgs;
pub use ranks::{AssumedArgs, LaunchArgs, PlanArgs, PlanCommand};
pub use rates::RatesArgs;
pub use regularisation::RegularisationArgs;
pub use runs::{RunsCommand, RunsCompareArgs, RunsLsArgs, RunsShowArgs};
pub use tokenizer::{
    TokenizerCommand, TokenizerEncodeArgs, TokenizerImportArgs, TokenizerTrainArgs, VocabularyKind,
};
pub use trials::{AdaptArgs, Rate, TrialsArgs};

/// The version and, where it is known, the commit: `0.1.0 (0123456789ab)`.
pub const VERSION: &str = env!("HEADSTART_VERSION");

const EXAMPLES: &str = "\
Begin with:  headstart quickstart
Then:        headstart finetune --data trec --out runs/trec
             echo 'Who wrote Hamlet ?' | headstart predict runs/trec";

const MORE: &str = "\
Examples:
  headstart quickstart
  headstart pretrain --data wikitext-2 --preset small --max_steps 2000 \\
    --out runs/trunk
  headstart finetune --model runs/trunk --data trec --out runs/trec
  headstart finetune --model minilm-l6 --data trec --out runs/trec
  echo 'Who wrote Hamlet ?' | headstart predict runs/trec

Exit codes: 0 done; 1 failed; 2 called wrongly; 130 stopped by Ctrl-C or SIGTERM, everything saved.
Flags may be written with dashes, too (--max-steps). Progress goes to stderr, results to stdout.";

/// Transfer learning in NLP: pretrain a transformer once, give every later task a head start.
#[derive(Debug, Parser)]
#[command(name = "headstart", version = VERSION, about, after_help = EXAMPLES, after_long_help = MORE, max_term_width = 110)]
#[command(subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The whole job on built-in data, in a minute or two
    Quickstart(QuickstartArgs),
    /// List, fetch and look into data sets
    #[command(subcommand)]
    Data(DataCommand),
    /// List and fetch published models
    #[command(subcommand)]
    Models(ModelsCommand),
    /// List runs, look into one, compare two
    #[command(subcommand)]
    Runs(RunsCommand),
    /// Train or convert a tokenizer
    #[command(subcommand)]
    Tokenizer(TokenizerCommand),
    /// Train a language model on text
    Pretrain(Box<PretrainArgs>),
    /// Train a small model to see text as a larger one does
    Distill(Box<DistillArgs>),
    /// Train a classifier from a pretrained model
    Finetune(Box<FinetuneArgs>),
    /// The best classifier that data are worth: from a bag of words up to fine-tuning everything
    Auto(Box<AutoArgs>),
    /// Measure a model on data
    Eval(EvalArgs),
    /// Start pretrain, distill, finetune or eval as several processes on this machine
    Launch(LaunchArgs),
    /// Say what a run will take, without starting it
    #[command(subcommand)]
    Plan(PlanCommand),
    /// Classify texts: lines, CSV, TSV, JSON or Parquet in; JSONL or a table out
    Predict(PredictArgs),
    /// Turn texts into vectors: lines, CSV, TSV, JSON or Parquet in; a NumPy array or JSONL out
    Features(FeaturesArgs),
    /// Write a model as a folder that transformers or sentence-transformers reads
    Export(ExportArgs),
    /// Continue a text
    Generate(GenerateArgs),
    /// Say what this machine offers
    Doctor(DoctorArgs),
    /// Time training steps, forward passes, predictions, generation
    Bench(Box<BenchArgs>),
}

/// `headstart quickstart`.
#[derive(Debug, Args)]
pub struct QuickstartArgs {
    /// Folder for the runs and the report, which must not exist yet [default: runs/DATE-quickstart]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Worker threads; 0 for all
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = count::<usize>)]
    pub threads: usize,
    /// Where to compute: cpu, cuda, cuda:N, or auto for a GPU if there is one
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    pub device: DeviceName,
    /// Seed of the trunk; the fine-tunings take the following ones
    #[arg(long, value_name = "N", default_value_t = 42, value_parser = seed())]
    pub seed: u64,
    /// Print the result as one line of JSON
    #[arg(long)]
    pub json: bool,
}
