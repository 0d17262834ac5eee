//! Flags of `finetune` for more than one run.
//!
//! Owns: their names and help. Never: what they come to.

use std::str::FromStr;

use clap::Args;
use headstart::config::{Seeds, Sizes};

use super::parsing::count;

/// Seeds, a curve, a search for the rate.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Several runs")]
pub struct TrialsArgs {
    /// One run for each seed, with mean, spread, best and worst: a number, from --seed on, or a list such as 1,2,3.
    /// --max_time is for each run
    #[arg(long, value_name = "N|LIST", value_parser = Seeds::from_str)]
    pub seeds: Option<Seeds>,
    /// Train on so many examples each, with the head start, from scratch and with a bag of words: 50,500,all. The smaller
    /// ones are parts of the larger ones, all classes alike; with --seeds the mean over them
    #[arg(long, value_name = "SIZES", value_parser = Sizes::from_str)]
    pub curve: Option<Sizes>,
    /// Let three or four short runs choose the learning rate on validation data; --lr auto says the same
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub lr_auto: Option<bool>,
}

/// Language modelling before the classifier.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Adapting the model first")]
#[expect(clippy::struct_field_names, reason = "flags are named like their keys")]
pub struct AdaptArgs {
    /// Continue the model's language modelling before the classifier: on the task's own training texts (task), a text
    /// file, a folder or a named data set
    #[arg(long, value_name = "task|TEXT")]
    pub adapt_on: Option<String>,
    /// Optimizer steps of that [default: adapt_epochs decides]
    #[arg(long, value_name = "N", value_parser = count::<u64>)]
    pub adapt_steps: Option<u64>,
    /// Passes over that text [default: the recipe's, or what adapt_steps needs]
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub adapt_epochs: Option<usize>,
}

/// A learning rate, or who is to choose it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// Short runs choose it.
    Auto,
    /// This one.
    Value(f64),
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            number => number.parse().map(Self::Value).map_err(|_| "use a number, or auto".into()),
        }
    }
}
