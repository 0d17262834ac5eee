//! The flags of `headstart pretrain`. Owns: these. Never: what they lead to.

use std::path::PathBuf;

use clap::Args;
use headstart::config::{ObjectiveName, TextUnit};

use super::parsing::{count, one_of};
use super::{ModelArgs, RankArgs, RunArgs, SourceArgs, TrainArgs, TutorialArgs};

/// `headstart pretrain`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstart pretrain --data wikitext-103                         # the tutorial's model and settings
  headstart pretrain --data wikitext-2 --objective mlm --preset small --max_time 1h
  headstart pretrain --data books/ --tokenizer tok.json --preset mini --out runs/books
  headstart pretrain --from runs/books --data letters/ --out runs/letters
  headstart pretrain --resume runs/books
Flags override the file of --config, the file overrides the preset and the defaults.")]
pub struct PretrainArgs {
    #[command(flatten)]
    pub run: RunArgs,
    #[command(flatten)]
    pub tutorial: TutorialArgs,
    /// Go on with the pretraining of this model, on text of another kind: a run folder, its final/, a checkpoint, or a name
    /// of `headstart models list`; family, sizes and tokenizer are the model's
    #[arg(long, value_name = "RUN|NAME", help_heading = "Model")]
    pub from: Option<PathBuf>,
    /// Next token (lm) or masked tokens (mlm) [default: what the model is made for: lm, or mlm for encoders such as bert]
    #[arg(long, value_name = "NAME", help_heading = "Objective", value_parser = one_of::<ObjectiveName>())]
    pub objective: Option<ObjectiveName>,
    /// The tutorial's way to say --objective mlm
    #[arg(long, help_heading = "Objective", conflicts_with = "objective")]
    pub mlm: bool,
    /// Share of the tokens that masked-LM predicts
    #[arg(long, help_heading = "Objective", value_name = "P")]
    pub mlm_probability: Option<f64>,
    /// Tokens of a training input [default: the model's positions; for encoders up to 512]
    #[arg(long, help_heading = "Objective", value_name = "N", value_parser = count::<usize>)]
    pub block_size: Option<usize>,
    /// What becomes an input: so many tokens of the text (blocks), or each line of it, cut where it is longer (lines), or lines two by two as the texts of a pair (pairs)
    #[arg(long, help_heading = "Objective", value_name = "NAME", value_parser = one_of::<TextUnit>())]
    pub inputs: Option<TextUnit>,
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub train: TrainArgs,
    #[command(flatten)]
    pub ranks: RankArgs,
}
