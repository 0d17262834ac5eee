//! The flags of `headstart runs ...`. Owns: these. Never: what they lead to.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `headstart runs ...`.
#[derive(Debug, Subcommand)]
pub enum RunsCommand {
    /// List the runs in a folder: what they are, how good, and what became of them
    Ls(RunsLsArgs),
    /// Say everything of one run: its settings, metrics with intervals, where its parts are
    Show(RunsShowArgs),
    /// Say whether one of two classifiers is better or was lucky, and where they differ
    Compare(RunsCompareArgs),
}

/// `headstart runs ls`.
#[derive(Debug, Args)]
#[command(after_help = "\
A run is running, finished, stopped (it saved what it had: --resume), or failed: it ended without a word.
Example: headstart runs ls runs")]
pub struct RunsLsArgs {
    /// The folder that the runs are in, or folders of them
    #[arg(value_name = "DIR", default_value = "runs")]
    pub dir: PathBuf,
    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// `headstart runs show`.
#[derive(Debug, Args)]
#[command(after_help = "Example: headstart runs show runs/trec")]
pub struct RunsShowArgs {
    /// A run folder
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// Print the result as one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// `headstart runs compare`.
#[derive(Debug, Args)]
#[command(after_help = "\
Both must have been evaluated on the same examples. A bag of words (--method bow) can be one of them.
Example: headstart runs compare runs/trec-words runs/trec")]
pub struct RunsCompareArgs {
    /// A run folder
    #[arg(value_name = "A")]
    pub first: PathBuf,
    /// Another
    #[arg(value_name = "B")]
    pub second: PathBuf,
    /// Print so many examples where they differ; --json has all
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub examples: usize,
    /// Print the result as one line of JSON
    #[arg(long)]
    pub json: bool,
}
