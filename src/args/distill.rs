//! `headstart distill`.
//!
//! Owns: its flags and their help. Never: defaults of the library's settings.

use std::path::PathBuf;

use clap::Args;
use headstart::config::{LayerMap, Linears};

use super::PretrainArgs;
use super::parsing::one_of;

/// `headstart distill`: what pretraining takes, and a teacher.
#[derive(Debug, Args)]
#[command(after_help = "\
The student has its teacher's tokenizer, or learns whole inputs with one of its own, and sizes of its own; its final/ is a trunk
to fine-tune, and to make vectors with.
Examples:
  headstart distill --teacher minilm-l6 --data books/ --arch bert --embed_dim 256 \\
    --hidden_dim 1024 --num_layers 4 --num_heads 4 --out runs/small
  headstart distill --teacher runs/trec --data questions.txt --inputs lines --preset mini
  headstart distill --resume runs/small")]
pub struct DistillArgs {
    #[command(flatten)]
    pub learning: LearningArgs,
    #[command(flatten)]
    pub pretrain: PretrainArgs,
}

/// What is learned of another model.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Teacher")]
pub struct LearningArgs {
    /// The model to learn from: a run folder, its final/, a checkpoint, a published model's folder, or a name of
    /// `headstart models list`
    #[arg(long, value_name = "MODEL")]
    pub teacher: Option<PathBuf>,
    /// Weight of the distance to its hidden states, token by token; 0 for none
    #[arg(long, value_name = "X")]
    pub token_loss: Option<f64>,
    /// Weight of the divergence from its token relations (MiniLM): of the last layer's queries, keys and values; 0 for none
    #[arg(long, value_name = "X")]
    pub relation_loss: Option<f64>,
    /// Heads that both models are cut into for these relations [default: those of attention, as many in both]
    #[arg(long, value_name = "N")]
    pub relation_heads: Option<usize>,
    /// The teacher's layer whose relations the student's last layer learns [default: the last]
    #[arg(long, value_name = "LAYER")]
    pub relation_layer: Option<usize>,
    /// Weight of the distance to its vectors of whole inputs; 0 for none
    #[arg(long, value_name = "X")]
    pub sentence_loss: Option<f64>,
    /// Weight of the divergence from its probabilities; 0 for none [default: 1 for a classifier of single labels]
    #[arg(long, value_name = "X")]
    pub label_loss: Option<f64>,
    /// What these probabilities are softened by
    #[arg(long, value_name = "X")]
    pub temperature: Option<f64>,
    /// Weight of the language model's loss (the objective's) beside them; 0 for none
    #[arg(long, value_name = "X")]
    pub lm_loss: Option<f64>,
    /// Which layers of the student learn of which of the teacher: 2:3,4:6 [default: the last of the last]
    #[arg(long, value_name = "MAP")]
    pub layers: Option<LayerMap>,
    /// How the linears toward the teacher begin with --from: solved (by least squares, on some thousand inputs) or random
    /// [default: solved]
    #[arg(long, value_name = "HOW", value_parser = one_of::<Linears>())]
    pub linears: Option<Linears>,
}
