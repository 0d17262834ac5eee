//! `headstart data lint`.
//!
//! Owns: its flags. Never: what is looked for.

use std::path::PathBuf;

use clap::Args;
use headstart::config::Problem;

use super::parsing::{count, one_of};
use super::{ColumnArgs, PlaceArgs, ReadingArgs, TokenizerArgs};

/// `headstart data lint`.
#[derive(Debug, Args)]
#[command(after_help = "\
It looks for leaks and duplicates, almost so too, for empty texts, conflicting labels, labels that look alike or that the
other examples contradict, small classes, imbalance, columns of ids, other languages and, with --model or
--tokenizer, texts that are too long. Nothing is changed.
Examples:
  headstart data lint trec
  headstart data lint reviews.csv --model minilm-l6 --report lint.html
  headstart data lint reviews/ --strict --json
Exit codes: 0 looked; with --strict 1 where there are errors or warnings.")]
pub struct DataLintArgs {
    /// A named data set, a file, a folder or an http(s) address
    #[arg(value_name = "DATA")]
    pub data: String,
    /// Examples shown of each finding
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = count::<usize>)]
    pub examples: usize,
    /// Fail with exit code 1 where there are errors or warnings
    #[arg(long)]
    pub strict: bool,
    /// Write the findings as a page, too
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Print the result as one line of JSON
    #[arg(long)]
    pub json: bool,
    /// The model whose inputs the texts have to fit into: a run folder, its final/, or a name of `headstart models list`
    #[arg(long, value_name = "RUN|NAME", conflicts_with = "tokenizer")]
    pub model: Option<PathBuf>,
    /// Tokens of the longest input [default: the model's; 512 with --tokenizer]
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub max_length: Option<usize>,
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
