//! What the tutorial's flags without a key here ask for.
//!
//! Owns: that they mean what they meant there, or that the error says what to use. Never: flags of our own.

use anyhow::Result;
use headstart::config::FinetuneConfig;

use super::Usage;
use crate::args::TutorialArgs;
use crate::ranks::Ranks;

/// Refuses a rank that no launcher has told of otherwise: alone it is too little to go by. -1 is the tutorial's word for
/// one process.
pub fn refuse(args: TutorialArgs, ranks: &Ranks) -> Result<()> {
    let TutorialArgs { local_rank } = args;
    let Some(rank) = local_rank.filter(|rank| rank != "-1" && !ranks.launched) else { return Ok(()) };
    Err(Usage(format!(
        "--local_rank {rank}: one of several processes is also told RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as \
         torchrun does, and they are not set\n  \
         fix: leave it out: one process uses all processors by itself (--threads N sets the number of threads); \
         `headstart launch --nproc N -- pretrain ...` starts several (docs/distributed.md)"
    ))
    .into())
}

/// Checks that the settings make the model that the tutorial's class of this name is.
pub fn check_model_class(class: &str, config: &FinetuneConfig) -> Result<()> {
    let (adapters, lm) = (config.adapters(1).is_some(), config.lm_loss_coef > 0.0);
    let fix = match class {
        "TransformerWithClfHead" if adapters => "leave --finetuning_model_class or the adapters out",
        "TransformerWithClfHead" if lm => "leave --finetuning_model_class or --lm_loss_coef out",
        "TransformerWithClfHeadAndAdapters" if !adapters => "--adapters_dim 32 adds adapters",
        "TransformerWithClfHeadAndLMHead" if !lm => "--lm_loss_coef 0.5 adds the language-model loss",
        "TransformerWithClfHead"
        | "TransformerWithClfHeadAndAdapters"
        | "TransformerWithClfHeadAndLMHead" => return Ok(()),
        _ => {
            "leave it out; --adapters_dim N adds adapters, --lm_loss_coef X adds the language-model loss, --method says \
             what is trained"
        }
    };
    Err(Usage(format!(
        "--finetuning_model_class {class}: there are no classes to choose from; one model has options, and those given \
         make another one\n  fix: {fix}"
    ))
    .into())
}
