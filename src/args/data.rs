//! The flags of `headstart data ...`. Owns: these. Never: what they lead to.

use clap::{Args, Subcommand};
use headstart::config::Problem;

use super::parsing::{count, one_of};
use super::{ColumnArgs, DataLintArgs, PlaceArgs, ReadingArgs, TokenizerArgs};

/// `headstart data ...`.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// List the named data sets and whether they are on this machine
    List(DataListArgs),
    /// Fetch data, and turn it into tokens when a tokenizer is given
    Prepare(DataPrepareArgs),
    /// Count, measure and show samples
    Inspect(DataInspectArgs),
    /// Look for what is wrong with labelled data: leaks, duplicates, wrong labels, and more
    Lint(DataLintArgs),
}

/// `headstart data list`.
#[derive(Debug, Args)]
pub struct DataListArgs {
    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub places: PlaceArgs,
}

/// `headstart data prepare`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstart data prepare bert-base-cased
  headstart data prepare wikitext-103 --tokenizer bert-base-cased")]
pub struct DataPrepareArgs {
    /// Print the result as one line of JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub set: DataSetArgs,
}

/// `headstart data inspect`.
#[derive(Debug, Args)]
#[command(after_help = "Example: headstart data inspect reviews.csv --tokenizer tok.json --samples 5")]
pub struct DataInspectArgs {
    /// Samples shown of each split
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = count::<usize>)]
    pub samples: usize,
    /// Print the result as one line of JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub set: DataSetArgs,
}

/// A data set to look at, of either kind.
#[derive(Debug, Args)]
pub struct DataSetArgs {
    /// A named data set, a file, a folder or an http(s) address
    #[arg(value_name = "DATA")]
    pub data: String,
    /// Running text or labelled examples [default: what the catalogue, the file name or the layout says]
    #[arg(long, value_name = "NAME", value_parser = one_of::<DataKind>())]
    pub kind: Option<DataKind>,
    /// Tokens of the longest labelled example
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = count::<usize>)]
    pub num_max_positions: usize,
    /// What the labels are: one class of several, any number of classes, or a number
    #[arg(long, value_name = "NAME", default_value = "single-label", value_parser = one_of::<Problem>())]
    pub problem: Problem,
    #[command(flatten)]
    pub tokenizer: TokenizerArgs,
    #[command(flatten)]
    pub reading: ReadingArgs,
    #[command(flatten)]
    pub columns: ColumnArgs,
    #[command(flatten)]
    pub places: PlaceArgs,
}

/// What a data set is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataKind {
    /// Language modelling.
    Text,
    /// Classification.
    Labelled,
}
