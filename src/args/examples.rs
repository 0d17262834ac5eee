//! The flags of which examples fine-tuning takes, and what of their texts.
//!
//! Owns: their names, help. Never: defaults of the library's settings, which the help takes from there.

use clap::Args;
use headstart::config::Truncation;
use headstart::infer::LongTexts;

use super::parsing::{count, one_of};

/// How long texts are read by a finished classifier.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct LongTextArgs {
    /// Read texts that are longer than the model's inputs in windows that overlap by half, and average their probabilities
    /// [default: they are cut as in training]
    #[arg(long)]
    pub windows: bool,
}

impl LongTextArgs {
    /// For the library.
    pub fn long_texts(self) -> LongTexts {
        if self.windows { LongTexts::Windows } else { LongTexts::Cut }
    }
}

/// Which examples, and what of them.
#[derive(Clone, Copy, Debug, Default, Args)]
#[command(next_help_heading = "Fine-tuning")]
pub struct ExampleArgs {
    /// What is kept of a text that is longer than max_length: its head, its tail, or a quarter of its head and three
    /// quarters of its tail [default: what the model was trained with; head-tail with encoders, else head]
    #[arg(long, value_name = "NAME", value_parser = one_of::<Truncation>())]
    pub truncation: Option<Truncation>,
    /// Use only so many training examples of each class, drawn with the seed
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub shots: Option<usize>,
    /// Pairs with a text of the same class, and as many with one of another, that --method contrastive makes of each
    /// text [default: chosen by how many texts there are]
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub pairs_per_text: Option<usize>,
}
