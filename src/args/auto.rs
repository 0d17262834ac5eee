//! The flags of `headstart auto`. Owns: these. Never: what they lead to.

use std::path::PathBuf;

use clap::Args;
use headstart::config::{PrecisionName, Problem};
use headstart::device::DeviceName;

use super::parsing::{count, one_of, seconds, seed};
use super::{ColumnArgs, PlaceArgs, ReadingArgs};

/// `headstart auto`.
#[derive(Debug, Args)]
#[command(after_help = "\
Rungs: a bag of words, a linear head on the model as it is, low-rank updates (with few
examples: pairs of them), everything. Each is judged on validation data; two in a row that
are no better end the climb.
Examples:
  headstart auto reviews.csv --out runs/reviews
  headstart auto trec --model minilm-l6 --max_time 10m --out runs/trec
  headstart auto --resume runs/trec --thorough
  echo 'Who wrote Hamlet ?' | headstart predict runs/trec
docs/auto.md says how rungs are judged and which one is kept.")]
pub struct AutoArgs {
    /// A named data set, a CSV, TSV, JSON, Parquet or text file, a folder, or an http(s) address
    #[arg(value_name = "DATA", required_unless_present = "resume")]
    pub data: Option<String>,
    /// The model to start from: a run folder, its final/, or a name of `headstart models list` [default: the best of that
    /// list in the Hugging Face cache]
    #[arg(long, value_name = "RUN|NAME")]
    pub model: Option<PathBuf>,
    /// Where --model is the folder of an adapter alone (final/adapter of a run, PEFT's, or AdapterHub's): the model it is of
    /// [default: the one that the folder names]
    #[arg(long, value_name = "RUN|NAME")]
    pub base: Option<PathBuf>,
    /// Folder for the rungs, the chosen model and the report, which must not exist yet [default: runs/DATE-auto-NAME]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Go on with the ladder in this folder, with the settings it was started with
    #[arg(long, value_name = "DIR", conflicts_with = "out")]
    pub resume: Option<PathBuf>,
    /// Be done within this time (90s, 10m, 2h, or a number of seconds): a rung that would not fit is not begun [default: no
    /// limit]
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub max_time: Option<f64>,
    /// The metric that rungs and their checkpoints are judged by: accuracy, macro_f1 (several labels at once: micro_f1,
    /// exact_match, too), of numbers mse, pearson, spearman [default: accuracy or mse]
    #[arg(long, value_name = "NAME")]
    pub best_metric: Option<String>,
    /// Climb to the top, also where rungs are no better
    #[arg(long)]
    pub thorough: bool,
    /// Seed of every rung, and of the validation part where the data has none [default: 42]
    #[arg(long, value_name = "N", value_parser = seed())]
    pub seed: Option<u64>,
    /// What the labels are: one class of several, any number of classes, or a number [default: single-label]
    #[arg(long, value_name = "NAME", value_parser = one_of::<Problem>())]
    pub problem: Option<Problem>,
    /// Classes the data must have [default: found from the data]
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub num_classes: Option<usize>,
    /// Products in f32, or with bf16 inputs and f32 sums [default: bf16 where the device is faster with it (GPUs, AMX,
    /// AVX-512 BF16 of AMD's), else f32]
    #[arg(long, value_name = "NAME", value_parser = one_of::<PrecisionName>())]
    pub precision: Option<PrecisionName>,
    /// Worker threads; 0 for all; does not change the result [default: 0]
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub threads: Option<usize>,
    /// Where to compute: cpu, cuda, cuda:N, or auto for a GPU if there is one [default: cpu; with --resume what the ladder
    /// was started with]
    #[arg(long, value_name = "NAME")]
    pub device: Option<DeviceName>,
    /// Print the result as one line of JSON
    #[arg(long)]
    pub json: bool,
    /// Say more on the way: each checkpoint, too
    #[arg(long, short)]
    pub verbose: bool,
    /// Column whose equal values (authors, speakers, threads) stand on one side when validation data is held out
    #[arg(long, value_name = "NAME", help_heading = "Data")]
    pub group_column: Option<String>,
    #[command(flatten)]
    pub reading: ReadingArgs,
    #[command(flatten)]
    pub columns: ColumnArgs,
    #[command(flatten)]
    pub places: PlaceArgs,
}
