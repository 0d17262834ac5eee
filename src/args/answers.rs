//! The flags of `headstart predict`, `features` and `generate`. Owns: these. Never: what they lead to.

use std::path::PathBuf;

use clap::Args;
use headstart::infer::FeaturePooling;

use super::parsing::{count, one_of, seed};
use super::{AdapterArgs, BaseArgs, ComputeArgs, LongTextArgs, PlaceArgs, ReadingArgs, TextsArgs};
use crate::answers::AnswerFormat;

/// `headstart predict`.
#[derive(Debug, Args)]
#[command(after_help = "\
Answers are {\"label\": ..., \"probabilities\": {class: number}}, or columns of a table,
in the order of the input and behind its own fields.
A row that cannot be read is answered with an error.
A model of pairs reads two columns, or lines with a tab between the two texts.
With --adapter each row has an answer of every adapter, which is named in it.
Examples:
  headstart predict runs/trec --input questions.txt > answers.jsonl
  headstart predict runs/reviews --input new.csv --output answered.csv --top_k 3
  headstart predict runs/trunk --adapter runs/topics --adapter runs/mood --input new.csv")]
pub struct PredictArgs {
    /// A run folder, its final/, a checkpoint, the folder of an adapter, or a name of `headstart models list`
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    #[command(flatten)]
    pub below: BaseArgs,
    #[command(flatten)]
    pub adapters: AdapterArgs,
    #[command(flatten)]
    pub texts: TextsArgs,
    /// File for the answers, which must not exist yet and is there when all are [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// How answers are written [default: what the end of --output says; jsonl]
    #[arg(long, value_name = "NAME", value_parser = one_of::<AnswerFormat>())]
    pub output_format: Option<AnswerFormat>,
    /// Write the N most probable classes only [default: all; the best one in a table]
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub top_k: Option<usize>,
    /// Repeat each text in its answer (tables and JSON objects keep all their fields)
    #[arg(long)]
    pub with_text: bool,
    /// Stop at the first row that cannot be read
    #[arg(long)]
    pub strict: bool,
    /// Probabilities without the temperature that was found on validation data
    #[arg(long)]
    pub uncalibrated: bool,
    #[command(flatten)]
    pub long: LongTextArgs,
    #[command(flatten)]
    pub compute: ComputeArgs,
    #[command(flatten)]
    pub reading: ReadingArgs,
    #[command(flatten)]
    pub places: PlaceArgs,
}

/// `headstart features`.
#[derive(Debug, Args)]
#[command(after_help = "\
A vector is made of the hidden states of a text: by default as a folder of sentence-transformers says,
else their mean. Lines are {\"embedding\": [...]}, behind the fields of a table or of a JSON object.
A row that cannot be read ends the work.
Examples:
  headstart features runs/trunk --input sentences.txt --output sentences.npy
  headstart features runs/trunk --input reviews.csv --pooling cls --output vectors.jsonl")]
pub struct FeaturesArgs {
    /// A run folder, its final/, a checkpoint, a published model's folder, or a name of `headstart models list`
    #[arg(value_name = "MODEL")]
    pub run: PathBuf,
    #[command(flatten)]
    pub below: BaseArgs,
    #[command(flatten)]
    pub texts: TextsArgs,
    /// A NumPy array (.npy) or JSON lines (.jsonl), which must not exist yet and is there when all are [default: JSON
    /// lines on standard output]
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// How the hidden states of a text become one vector [default: what the folder says; mean]
    #[arg(long, value_name = "NAME", value_parser = one_of::<FeaturePooling>())]
    pub pooling: Option<FeaturePooling>,
    /// Scale every vector to length 1 [default: what the folder says; false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub normalize: Option<bool>,
    /// Tokens of the longest input; longer texts are cut [default: what the folder or its tokenizer says; all positions]
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub max_length: Option<usize>,
    /// The name of a prompt of the folder's, which stands before every text [default: what the folder says]
    #[arg(long, value_name = "NAME")]
    pub prompt: Option<String>,
    #[command(flatten)]
    pub compute: ComputeArgs,
    #[command(flatten)]
    pub reading: ReadingArgs,
    #[command(flatten)]
    pub places: PlaceArgs,
}

/// `headstart generate`.
#[derive(Debug, Args)]
#[command(after_help = "Example: headstart generate runs/trunk --prompt 'The river' --temperature 0.7")]
pub struct GenerateArgs {
    /// A run folder, its final/, a checkpoint, or a name of `headstart models list`: a causal language model
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    #[command(flatten)]
    pub below: BaseArgs,
    /// The text to continue (write --prompt=-x for one that begins with a dash)
    #[arg(long, value_name = "TEXT")]
    pub prompt: String,
    /// Tokens to add
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = count::<usize>)]
    pub max_new_tokens: usize,
    /// Below 1 safer, above 1 wilder; 0 for the best token always
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub temperature: f64,
    /// Draw from the best N tokens only; 0 for all
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = count::<usize>)]
    pub top_k: usize,
    /// Draw from the best tokens that together have this probability; 1 for all
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    pub top_p: f64,
    /// Seed of the draws
    #[arg(long, value_name = "N", default_value_t = 42, value_parser = seed())]
    pub seed: u64,
    #[command(flatten)]
    pub compute: ComputeArgs,
    #[command(flatten)]
    pub places: PlaceArgs,
    /// Print prompt and text as one line of JSON, at the end
    #[arg(long)]
    pub json: bool,
}
