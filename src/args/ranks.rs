//! The flags of `headstart launch` and `headstart plan`. Owns: these. Never: what they lead to.

use std::ffi::OsString;

use clap::{Args, Subcommand};

use super::parsing::count;
use super::{FinetuneArgs, PretrainArgs};

/// `headstart launch`.
#[derive(Debug, Args)]
#[command(after_help = "\
Ctrl-C stops all of them, everything saved. When one fails, so do the others; the exit code is the first one's.
Examples:
  headstart launch --nproc 4 -- pretrain --data wikitext-2 --preset small
  headstart launch --nproc 2 -- finetune --model runs/trunk --data trec
docs/distributed.md has other launchers, and several machines.")]
pub struct LaunchArgs {
    /// Processes to start; they share the processors evenly, or take a GPU each with --device cuda
    #[arg(long, value_name = "N", alias = "nproc_per_node", value_parser = count::<usize>)]
    pub nproc: usize,
    /// Let mpirun start them, and talk over MPI [default: over TCP]
    #[arg(long)]
    pub mpi: bool,
    /// pretrain, distill, finetune or eval, with its flags
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,
}

/// `headstart plan ...`.
#[derive(Debug, Subcommand)]
pub enum PlanCommand {
    /// What `headstart pretrain` with the same flags takes
    Pretrain(Box<PlanArgs<PretrainArgs>>),
    /// What `headstart finetune` with the same flags takes
    Finetune(Box<PlanArgs<FinetuneArgs>>),
}

/// `headstart plan pretrain` and `headstart plan finetune`: a command's flags, and what nothing but a run would tell.
#[derive(Debug, Args)]
#[command(after_help = "\
Nothing is started, fetched or written, and no data is read.
Examples:
  headstart plan pretrain --preset gpt2 --max_steps 10000 --gflops 500
  headstart plan pretrain --preset gpt2 --world_size 64 --gflops 2000 --bandwidth 100
  headstart plan finetune --model runs/trunk --examples 5452 --gflops 100 --json
docs/scaling.md has the formulas, and what they were compared with.")]
pub struct PlanArgs<Work: Args> {
    #[command(flatten)]
    pub assumed: AssumedArgs,
    #[command(flatten)]
    pub work: Work,
}

/// What is not known before a run.
#[derive(Debug, Args)]
#[command(next_help_heading = "Plan")]
pub struct AssumedArgs {
    /// Training examples; for running text, inputs of the model [default: unknown, --max_steps says the length]
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub examples: Option<usize>,
    /// Tokens of an example [default: as many as one may have]
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub tokens_per_example: Option<usize>,
    /// Pieces of a new model's vocabulary [default: those of --tokenizer, if it is a file here; else 28,996]
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub vocab_size: Option<usize>,
    /// What one process computes, in 10^9 operations a second, as `headstart bench train` measures [default: unknown, no
    /// times are said]
    #[arg(long, value_name = "GFLOPS")]
    pub gflops: Option<f64>,
    /// What the network of one process carries each way, in 10^9 bits a second
    #[arg(long, value_name = "GBIT", default_value_t = 10.0)]
    pub bandwidth: f64,
    /// How long a message takes, in microseconds
    #[arg(long, value_name = "US", default_value_t = 50.0)]
    pub latency: f64,
}
