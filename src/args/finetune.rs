//! The flags of `headstart finetune`. Owns: these. Never: what they lead to.

use std::path::PathBuf;

use clap::Args;

use super::{
    AdaptArgs, HeadArgs, LabelledArgs, PeftArgs, RankArgs, RatesArgs, RegularisationArgs, RunArgs, TrainArgs,
    TrialsArgs, TuningArgs, TutorialArgs,
};

/// `headstart finetune`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstart finetune --data reviews.csv                # from the model in this program
  headstart finetune --model runs/trunk --data trec
  headstart finetune --model runs/trunk --data reviews.csv \\
    --method adapters --adapters_dim 32
  headstart finetune --model runs/trunk --data imdb --lm_loss_coef 0.5
  headstart finetune --model minilm-l6 --data trec --seeds 5 --lr auto
  headstart finetune --model minilm-l6 --data trec --curve 50,200,all
  headstart finetune --resume runs/trec
Flags override the file of --config, the file overrides the defaults.")]
pub struct FinetuneArgs {
    #[command(flatten)]
    pub run: RunArgs,
    #[command(flatten)]
    pub tutorial: TutorialArgs,
    /// Recognised, with guidance
    #[arg(long, value_name = "NAME", hide = true)]
    pub finetuning_model_class: Option<String>,
    /// The pretrained model: a run folder, its final/, a checkpoint, or a name of `headstart models list` [default:
    /// shipped, the one in this program]
    #[arg(long, help_heading = "Fine-tuning", value_name = "RUN|NAME", alias = "model_checkpoint")]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub tuning: TuningArgs,
    #[command(flatten)]
    pub adapt: AdaptArgs,
    #[command(flatten)]
    pub trials: TrialsArgs,
    #[command(flatten)]
    pub peft: PeftArgs,
    #[command(flatten)]
    pub head: HeadArgs,
    #[command(flatten)]
    pub rates: RatesArgs,
    #[command(flatten)]
    pub regularisation: RegularisationArgs,
    #[command(flatten)]
    pub source: LabelledArgs,
    #[command(flatten)]
    pub train: TrainArgs,
    #[command(flatten)]
    pub ranks: RankArgs,
}
