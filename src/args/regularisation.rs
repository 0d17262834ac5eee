//! The flags of `finetune` that keep a classifier from its training data's accidents, and the one that says which model is best.
//!
//! Owns: their names and help. Never: defaults of the library's settings.

use clap::Args;
use headstart::config::Sampling;

use super::parsing::one_of;

/// What keeps a classifier from its training data's accidents.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Regularisation")]
pub struct RegularisationArgs {
    /// Spread this share of every target evenly over all classes in training [default: 0]
    #[arg(long, value_name = "SHARE")]
    pub label_smoothing: Option<f32>,
    /// The focal loss: weigh an example by this power of what its class lacks of certainty in training [default: 0]
    #[arg(long, value_name = "X")]
    pub focal_gamma: Option<f32>,
    /// R-Drop: read every example twice, with other dropout, and weigh so much how far the answers are from each other [default: 0]
    #[arg(long, value_name = "X")]
    pub r_drop: Option<f64>,
    /// Which examples an epoch takes: each once (natural), or as many of each class (balanced) [default: natural]
    #[arg(long, value_name = "NAME", value_parser = one_of::<Sampling>())]
    pub sampling: Option<Sampling>,
    /// Pull the model's own weights to where they began instead of to 0, so strongly (L2-SP, decoupled) [default: 0]
    #[arg(long, value_name = "X")]
    pub l2_sp: Option<f64>,
    /// LayerDrop: leave out each block of the model with this probability, anew in each training step [default: 0]
    #[arg(long, value_name = "P")]
    pub layer_drop: Option<f32>,
    /// The metric that says which checkpoint is the best, and when to stop early: any that evaluations of the task have
    /// [default: accuracy, or of numbers mse]
    #[arg(long, value_name = "NAME")]
    pub best_metric: Option<String>,
}
