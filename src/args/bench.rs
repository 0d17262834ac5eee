//! The flags of `headstart bench` and `headstart doctor`. Owns: these. Never: what they lead to.

use std::path::PathBuf;

use clap::Args;
use headstart::bench::Work;
use headstart::config::ObjectiveName;

use super::parsing::{count, one_of};
use super::{ComputeArgs, ModelArgs, SourceArgs};

/// `headstart doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// `headstart bench`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstart bench train --preset naacl2019 --precision bf16 --json
  headstart bench forward --preset gpt2 --batch 4 --seq 512 --profile
  headstart bench finetune --data trec --tokenizer bert-base-cased
  headstart bench predict --model runs/trec
train and forward use random tokens and weights. The share is that of the processor's register peak.")]
pub struct BenchArgs {
    /// What to time
    #[arg(value_name = "WORK", value_parser = one_of::<Work>())]
    pub work: Work,
    /// Sequences a step [default: 8; 4 for the preset gpt2; 16 for finetune, 32 for features]
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub batch: Option<usize>,
    /// Tokens a sequence [default: 256; 512 for the preset gpt2]
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub seq: Option<usize>,
    /// Steps that are timed: batches, texts (predict) or tokens (generate)
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub steps: Option<usize>,
    /// Steps before them
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = count::<usize>)]
    pub warmup: usize,
    /// Next token (lm) or masked tokens (mlm)
    #[arg(long, value_name = "NAME", default_value = "lm", value_parser = one_of::<ObjectiveName>())]
    pub objective: ObjectiveName,
    /// Pieces of the vocabulary [default: 28,996; 50,257 for the preset gpt2]
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub vocab_size: Option<usize>,
    /// The processor's peak, where it is known to be higher than what is measured
    #[arg(long, value_name = "GFLOPS")]
    pub stated_peak: Option<f64>,
    /// The model to predict, make vectors or generate with, or to time fine-tuning of (sizes and tokenizer are its own then): a
    /// run folder, its final/, a checkpoint, or a name of `headstart models list`
    #[arg(long, value_name = "RUN|NAME")]
    pub model: Option<PathBuf>,
    /// Say where the time of a step goes
    #[arg(long)]
    pub profile: bool,
    /// Print the result as one line of JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub compute: ComputeArgs,
    #[command(flatten)]
    pub sizes: ModelArgs,
    #[command(flatten)]
    pub source: SourceArgs,
}
