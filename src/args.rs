//! What may be typed: the clap structs.
//!
//! Owns: flag names, aliases, help. Never: reads files, or has defaults of its own where the library has one (the
//! help shows the library's). `settings.rs` turns these structs into the library's configuration.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use headstart::config::{
    Arch, ClassWeights, FinetuneConfig, HeadPooling, Method, Objective, OptimizerName, Positions,
    PrecisionName, PretrainConfig, Problem, Schedule,
};
use headstart::data::Split;
use serde::Serialize;
use serde::de::value::{Error as NameError, StringDeserializer};
use serde::de::{DeserializeOwned, IntoDeserializer};

const EXAMPLES: &str = "\
Examples:
  headstart quickstart
  headstart pretrain --data wikitext-2 --preset small --max_steps 2000 --out runs/trunk
  headstart finetune --model runs/trunk --data trec --out runs/trec
  echo 'Who wrote Hamlet ?' | headstart predict runs/trec

Exit codes: 0 done; 1 failed; 2 called wrongly; 130 stopped by Ctrl-C or SIGTERM, everything saved.
Flags may be written with dashes, too (--max-steps). Progress goes to stderr, results to stdout.";

/// Transfer learning in NLP: pretrain a transformer once, give every later task a head start.
#[derive(Debug, Parser)]
#[command(name = "headstart", version, about, after_help = EXAMPLES, max_term_width = 110)]
#[command(subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Pretrain and fine-tune on the built-in data, with and without the head start (about two minutes)
    Quickstart(QuickstartArgs),
    /// List, fetch and look into data sets
    #[command(subcommand)]
    Data(DataCommand),
    /// Train or convert a tokenizer
    #[command(subcommand)]
    Tokenizer(TokenizerCommand),
    /// Train a language model on text
    Pretrain(Box<PretrainArgs>),
    /// Train a classifier from a pretrained model
    Finetune(Box<FinetuneArgs>),
    /// Measure a model on data
    Eval(EvalArgs),
    /// Classify texts: one a line in, one JSON object a line out
    Predict(PredictArgs),
    /// Continue a text
    Generate(GenerateArgs),
    /// Say what this machine offers
    Doctor(DoctorArgs),
}

/// `headstart quickstart`.
#[derive(Debug, Args)]
#[command(rename_all = "snake_case")]
pub struct QuickstartArgs {
    /// Folder for the runs and the report, which must not exist yet [default: runs/DATE-quickstart]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Worker threads; 0 for all
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,
    /// Seed of the trunk; the fine-tunings take the following ones
    #[arg(long, value_name = "N", default_value_t = 42, value_parser = seed())]
    pub seed: u64,
    /// Print the result as one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// `headstart data ...`.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// List the named data sets and whether they are on this machine
    List(DataListArgs),
    /// Fetch data, and turn it into tokens when a tokenizer is given
    Prepare(DataPrepareArgs),
    /// Count, measure and show samples
    Inspect(DataInspectArgs),
}

/// `headstart data list`.
#[derive(Debug, Args)]
#[command(rename_all = "snake_case")]
pub struct DataListArgs {
    #[command(flatten)]
    pub places: PlaceArgs,
    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// `headstart data prepare`.
#[derive(Debug, Args)]
#[command(rename_all = "snake_case")]
#[command(after_help = "\
Examples:
  headstart data prepare bert-base-cased
  headstart data prepare wikitext-103 --tokenizer bert-base-cased")]
pub struct DataPrepareArgs {
    #[command(flatten)]
    pub set: DataSetArgs,
    /// Print the result as one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// `headstart data inspect`.
#[derive(Debug, Args)]
#[command(rename_all = "snake_case")]
#[command(after_help = "Example: headstart data inspect reviews.csv --tokenizer tok.json --samples 5")]
pub struct DataInspectArgs {
    /// Samples shown of each split
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub samples: usize,
    #[command(flatten)]
    pub set: DataSetArgs,
    /// Print the result as one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// A data set to look at, of either kind.
#[derive(Debug, Args)]
#[command(rename_all = "snake_case")]
pub struct DataSetArgs {
    /// A named data set, a file, a folder or an http(s) address
    #[arg(value_name = "DATA")]
    pub data: String,
    /// Running text or labelled examples [default: what the catalogue, the file name or the layout says]
    #[arg(long, value_name = "NAME", value_parser = one_of::<DataKind>(&["text", "labelled"]))]
    pub kind: Option<DataKind>,
    /// Tokens of the longest labelled example
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub num_max_positions: usize,
    /// What the labels are: one class of several, any number of marks, or a number
    #[arg(long, value_name = "NAME", default_value = "single-label",
        value_parser = one_of::<Problem>(&["single-label", "multi-label", "regression"]))]
    pub problem: Problem,
    #[command(flatten)]
    pub tokenizer: TokenizerArgs,
    #[command(flatten)]
    pub reading: ReadingArgs,
    #[command(flatten)]
    pub columns: ColumnArgs,
    #[command(flatten)]
    pub places: PlaceArgs,
}

/// What a data set is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataKind {
    /// Language modelling.
    Text,
    /// Classification.
    Labelled,
}

/// `headstart tokenizer ...`.
#[derive(Debug, Subcommand)]
pub enum TokenizerCommand {
    /// Learn a vocabulary from text
    Train(TokenizerTrainArgs),
    /// Write a vocab.txt, vocab.json + merges.txt or tokenizer.json as a complete tokenizer.json
    Import(TokenizerImportArgs),
}

/// `headstart tokenizer train`.
#[derive(Debug, Args)]
#[command(rename_all = "snake_case")]
#[command(after_help = "Example: headstart tokenizer train wikitext-2 --vocab_size 8000 --out tok.json")]
pub struct TokenizerTrainArgs {
    /// Named data sets, text files, folders with a train.txt, or http(s) addresses
    #[arg(value_name = "DATA", required = true)]
    pub data: Vec<String>,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// The kind of vocabulary
    #[arg(long, default_value = "wordpiece", value_parser = ["wordpiece", "bpe"])]
    pub kind: String,
    /// Pieces, special ones included; a small text may yield fewer
    #[arg(long, value_name = "N", default_value_t = 8_000)]
    pub vocab_size: usize,
    /// Lower-case the text first
    #[arg(long)]
    pub lowercase: bool,
    #[command(flatten)]
    pub reading: ReadingArgs,
    #[command(flatten)]
    pub places: PlaceArgs,
    /// Print the result as one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// `headstart tokenizer import`.
#[derive(Debug, Args)]
#[command(rename_all = "snake_case")]
#[command(after_help = "Example: headstart tokenizer import vocab.txt --out tokenizer.json")]
pub struct TokenizerImportArgs {
    /// A vocab.txt, a vocab.json with merges.txt beside it, a tokenizer.json, or a folder with one of these
    #[arg(value_name = "FILE")]
    pub from: PathBuf,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// The vocabulary is of lower-cased text (only for a vocab.txt without a configuration)
    #[arg(long)]
    pub lowercase: bool,
    /// Print the result as one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// `headstart pretrain`.
#[derive(Debug, Args)]
#[command(rename_all = "snake_case")]
#[command(after_help = "\
Examples:
  headstart pretrain --data wikitext-103                         # the tutorial's model and settings
  headstart pretrain --data wikitext-2 --objective mlm --preset small --max_time 3600
  headstart pretrain --data books/ --tokenizer tok.json --preset mini --out runs/books
  headstart pretrain --resume runs/books
Flags override the file of --config, the file overrides the preset and the defaults.")]
pub struct PretrainArgs {
    #[command(flatten)]
    pub run: RunArgs,
    #[command(flatten)]
    pub tutorial: TutorialArgs,
    /// Next token (lm) or masked tokens (mlm)
    #[arg(long, value_name = "NAME", value_parser = one_of::<Objective>(&["lm", "mlm"]))]
    pub objective: Option<Objective>,
    /// The tutorial's way to say --objective mlm
    #[arg(long, conflicts_with = "objective")]
    pub mlm: bool,
    /// Share of the tokens that masked-LM predicts
    #[arg(long, value_name = "P")]
    pub mlm_probability: Option<f64>,
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub train: TrainArgs,
}

/// `headstart finetune`.
#[derive(Debug, Args)]
#[command(rename_all = "snake_case")]
#[command(after_help = "\
Examples:
  headstart finetune --model runs/trunk --data trec
  headstart finetune --model runs/trunk --data reviews.csv --method adapters --adapters_dim 32
  headstart finetune --model runs/trunk --data imdb --lm_loss_coef 0.5
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
    /// The pretrained model: a run folder, its final/, or a checkpoint
    #[arg(long, value_name = "RUN", alias = "model_checkpoint")]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub tuning: TuningArgs,
    #[command(flatten)]
    pub source: LabelledArgs,
    #[command(flatten)]
    pub train: TrainArgs,
}

/// Where a run's settings come from and where it writes.
#[derive(Debug, Args)]
#[command(rename_all = "snake_case")]
#[command(next_help_heading = "Run")]
pub struct RunArgs {
    /// Settings from a TOML file: one key per flag, in the tables [data], [model] and [train]
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    pub config: Option<PathBuf>,
    /// Run folder, which must not exist yet [default: runs/DATE-NAME]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Continue the run in this folder (or in --out) with the settings it was started with
    #[arg(long, value_name = "RUN", num_args = 0..=1)]
    // Absent, given alone (the folder is --out), or with a folder.
    #[expect(clippy::option_option, reason = "clap's way to tell the three cases apart")]
    pub resume: Option<Option<PathBuf>>,
    /// Print the result as one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of the tutorial that have no key here.
#[derive(Debug, Args)]
#[command(rename_all = "snake_case")]
pub struct TutorialArgs {
    /// Where to compute: cpu, or auto for the best there is (the CPU, in this version)
    #[arg(long, value_name = "NAME")]
    pub device: Option<String>,
    /// Recognised, with guidance
    #[arg(long, value_name = "N", hide = true, allow_hyphen_values = true)]
    pub local_rank: Option<String>,
}

/// Where named data is looked for.
#[derive(Clone, Debug, Args)]
#[command(rename_all = "snake_case")]
#[command(next_help_heading = "Data")]
pub struct PlaceArgs {
    /// Folder for downloads and token caches [default: $HEADSTART_CACHE, or headstart/ in the user's cache folder]
    #[arg(long, value_name = "DIR", alias = "dataset_cache")]
    pub cache_dir: Option<PathBuf>,
    /// Folder of unpacked data sets, searched first and never written (docs/data.md has the layout)
    #[arg(long, value_name = "DIR")]
    pub mirror: Option<PathBuf>,
    /// Never use the network
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub offline: Option<bool>,
}

/// How text files are read.
#[derive(Debug, Args)]
#[command(rename_all = "snake_case")]
#[command(next_help_heading = "Data")]
pub struct ReadingArgs {
    /// Encoding of the files: utf-8, latin1, windows-1252, ... [default: utf-8, or what the catalogue says]
    #[arg(long, value_name = "NAME")]
    pub encoding: Option<String>,
}

/// The tokenizer.
#[derive(Debug, Args)]
#[command(rename_all = "snake_case")]
#[command(next_help_heading = "Data")]
pub struct TokenizerArgs {
    /// A tokenizer.json, a vocab.txt, a folder with one, or a name of the catalogue (bert-base-cased)
    #[arg(long, value_name = "FILE|NAME")]
    pub tokenizer: Option<String>,
    /// Lower-case the text (only for a bare vocab.txt; a tokenizer.json knows itself)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub lowercase: Option<bool>,
}

/// The columns of tables.
#[derive(Debug, Args)]
#[command(rename_all = "snake_case")]
#[command(next_help_heading = "Data")]
pub struct ColumnArgs {
    /// Column with the text, by name [default: detected]
    #[arg(long, value_name = "NAME")]
    pub text_column: Option<String>,
    /// Column with the label, by name [default: detected]
    #[arg(long, value_name = "NAME")]
    pub label_column: Option<String>,
}

/// Text without labels.
#[derive(Debug, Args)]
#[command(rename_all = "snake_case")]
#[command(next_help_heading = "Data")]
pub struct SourceArgs {
    /// A named data set, a text file, a folder with train.txt and valid.txt, or an http(s) address
    #[arg(long, value_name = "DATA", alias = "dataset_path")]
    pub data: Option<String>,
    #[command(flatten)]
    pub tokenizer: TokenizerArgs,
    #[command(flatten)]
    pub reading: ReadingArgs,
    #[command(flatten)]
    pub places: PlaceArgs,
}

/// Labelled text; the tokenizer is the model's.
#[derive(Debug, Args)]
#[command(rename_all = "snake_case")]
#[command(next_help_heading = "Data")]
pub struct LabelledArgs {
    /// A named data set, a CSV, TSV, JSONL or text file, a folder, or an http(s) address
    #[arg(long, value_name = "DATA", alias = "dataset_path")]
    pub data: Option<String>,
    /// Use only so many training examples, drawn evenly over the classes
    #[arg(long, value_name = "N")]
    pub max_train_examples: Option<usize>,
    #[command(flatten)]
    pub reading: ReadingArgs,
    #[command(flatten)]
    pub columns: ColumnArgs,
    #[command(flatten)]
    pub places: PlaceArgs,
}

/// Sizes and options of the model.
#[derive(Debug, Args)]
#[command(rename_all = "snake_case")]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// Sizes for those not given: naacl2019 (50m), gpt2 (124m), small, mini or micro [default: naacl2019]
    #[arg(long, value_name = "NAME")]
    pub preset: Option<String>,
    /// Block layout
    #[arg(long, value_name = "NAME", value_parser = one_of::<Arch>(&["naacl2019", "gpt2"]))]
    pub arch: Option<Arch>,
    /// Width of the model
    #[arg(long, value_name = "N")]
    pub embed_dim: Option<usize>,
    /// Width of the feed-forward
    #[arg(long, value_name = "N")]
    pub hidden_dim: Option<usize>,
    /// Tokens of the longest sequence
    #[arg(long, value_name = "N")]
    pub num_max_positions: Option<usize>,
    /// Attention heads; they divide embed_dim
    #[arg(long, value_name = "N")]
    pub num_heads: Option<usize>,
    /// Layers
    #[arg(long, value_name = "N")]
    pub num_layers: Option<usize>,
    /// Trained positions, or fixed sines and cosines
    #[arg(long, value_name = "NAME", value_parser = one_of::<Positions>(&["learned", "sinusoidal"]))]
    pub positions: Option<Positions>,
    /// The tutorial's way to say --positions sinusoidal
    #[arg(long, conflicts_with = "positions")]
    pub sinusoidal_embeddings: bool,
    /// Dropout after the embeddings and after each sublayer
    #[arg(long, value_name = "P")]
    pub dropout: Option<f32>,
    /// Dropout on attention probabilities [default: the same as dropout]
    #[arg(long, value_name = "P")]
    pub attention_dropout: Option<f32>,
    /// Standard deviation of the initial weights
    #[arg(long, value_name = "X")]
    pub initializer_range: Option<f32>,
}

/// What fine-tuning changes and how it is judged.
#[derive(Debug, Args)]
#[command(rename_all = "snake_case")]
#[command(next_help_heading = "Fine-tuning")]
pub struct TuningArgs {
    /// Keep the model's sizes and tokenizer, but draw its weights afresh
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub from_scratch: Option<bool>,
    /// What is trained: everything, the head, or the head and adapters
    #[arg(long, value_name = "NAME", value_parser = one_of::<Method>(&["full", "head", "adapters"]))]
    pub method: Option<Method>,
    /// Width of the adapters, -1 for none; given without --method adapters, everything is trained
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub adapters_dim: Option<i64>,
    /// Head and adapter tuning train the layer norms, too
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub train_norms: Option<bool>,
    /// Which position is classified
    #[arg(long, value_name = "NAME", value_parser = one_of::<HeadPooling>(&["cls", "last", "mean", "max"]))]
    pub pooling: Option<HeadPooling>,
    /// One class of several, any number of marks, or a number
    #[arg(long, value_name = "NAME",
        value_parser = one_of::<Problem>(&["single-label", "multi-label", "regression"]))]
    pub problem: Option<Problem>,
    /// Classes the data must have [default: found from the data]
    #[arg(long, value_name = "N")]
    pub num_classes: Option<usize>,
    /// Weight of the classification loss
    #[arg(long, value_name = "X")]
    pub clf_loss_coef: Option<f64>,
    /// Weight of the auxiliary language-model loss; 0 or less is off
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub lm_loss_coef: Option<f64>,
    /// Standard deviation of new weights
    #[arg(long, value_name = "X")]
    pub initializer_range: Option<f32>,
    /// Dropout [default: the model's own]
    #[arg(long, value_name = "P")]
    pub dropout: Option<f32>,
    /// Weights of the classes in the loss
    #[arg(long, value_name = "NAME", value_parser = one_of::<ClassWeights>(&["none", "balanced"]))]
    pub class_weights: Option<ClassWeights>,
    /// Stop after so many evaluations without a better one; 0 for never
    #[arg(long, value_name = "N")]
    pub early_stopping: Option<u64>,
}

/// The training loop.
#[derive(Debug, Args)]
#[command(rename_all = "snake_case")]
#[command(next_help_heading = "Training")]
pub struct TrainArgs {
    /// Sequences at a time; only its product with grad_accum_steps matters to the result
    #[arg(long, value_name = "N")]
    pub train_batch_size: Option<usize>,
    /// Sequences at a time in evaluations; does not change the result
    #[arg(long, value_name = "N")]
    pub valid_batch_size: Option<usize>,
    /// Batches to one optimizer step
    #[arg(long, value_name = "N", alias = "gradient_accumulation_steps")]
    pub grad_accum_steps: Option<usize>,
    /// Largest learning rate
    #[arg(long, value_name = "X")]
    pub lr: Option<f64>,
    /// Gradients are scaled down to this global norm; 0 leaves them
    #[arg(long, value_name = "X")]
    pub max_norm: Option<f64>,
    /// Weight decay
    #[arg(long, value_name = "X")]
    pub weight_decay: Option<f64>,
    /// Weight decay as L2 on everything (adam, as the tutorial) or decoupled on matrices (adamw)
    #[arg(long, value_name = "NAME", value_parser = one_of::<OptimizerName>(&["adam", "adamw"]))]
    pub optimizer: Option<OptimizerName>,
    /// Passes over the training data; 0 evaluates only
    #[arg(long, value_name = "N")]
    pub n_epochs: Option<usize>,
    /// End the run, and its schedule, after so many optimizer steps [default: n_epochs decides]
    #[arg(long, value_name = "N")]
    pub max_steps: Option<u64>,
    /// Optimizer steps over which the rate rises from 0; clamped to the run's length
    #[arg(long, value_name = "N", alias = "n_warmup")]
    pub warmup_steps: Option<u64>,
    /// How the rate falls after the warm-up
    #[arg(long, value_name = "NAME",
        value_parser = one_of::<Schedule>(&["cosine", "linear", "constant", "trapezoidal"]))]
    pub schedule: Option<Schedule>,
    /// Evaluate every so many optimizer steps; -1 for the end of each epoch only
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub eval_every: Option<i64>,
    /// Save every so many optimizer steps besides each epoch; 0 for epochs only
    #[arg(long, value_name = "N")]
    pub save_every: Option<u64>,
    /// Checkpoints that stay, besides the best
    #[arg(long, value_name = "N")]
    pub keep: Option<usize>,
    /// Save and stop after so many seconds; the schedule does not bend [default: no limit]
    #[arg(long, value_name = "SECONDS")]
    pub max_time: Option<f64>,
    /// Seed of initial weights, order, masks and dropout
    #[arg(long, value_name = "N", value_parser = seed())]
    pub seed: Option<u64>,
    /// Products in f32, or with bf16 inputs and f32 sums
    #[arg(long, value_name = "NAME", value_parser = precision())]
    pub precision: Option<PrecisionName>,
    /// Worker threads; 0 for all; does not change the result
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
}

/// How a finished model computes.
#[derive(Debug, Args)]
#[command(rename_all = "snake_case")]
pub struct ComputeArgs {
    /// Products in f32, or with bf16 inputs and f32 sums
    #[arg(long, value_name = "NAME", default_value = "f32", value_parser = precision())]
    pub precision: PrecisionName,
    /// Worker threads; 0 for all
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,
}

/// `headstart eval`.
#[derive(Debug, Args)]
#[command(rename_all = "snake_case")]
#[command(after_help = "Example: headstart eval runs/trec --data trec")]
pub struct EvalArgs {
    /// A run folder, its final/, or a checkpoint
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// A named data set, a file, a folder or an http(s) address
    #[arg(long, value_name = "DATA", alias = "dataset_path", required = true)]
    pub data: String,
    /// Which part is measured [default: test, or else valid, or else train]
    #[arg(long, value_name = "NAME", value_parser = one_of::<Split>(&["train", "valid", "test"]))]
    pub split: Option<Split>,
    /// Measure the language model of a fine-tuned model instead of its classifier
    #[arg(long)]
    pub language_model: bool,
    #[command(flatten)]
    pub reading: ReadingArgs,
    #[command(flatten)]
    pub columns: ColumnArgs,
    #[command(flatten)]
    pub places: PlaceArgs,
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// Print the result as one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// `headstart predict`.
#[derive(Debug, Args)]
#[command(rename_all = "snake_case")]
#[command(after_help = "\
Each line of output is {\"label\": ..., \"probabilities\": {class: number}}, in the order of the input.
Example: headstart predict runs/trec --input questions.txt > answers.jsonl")]
pub struct PredictArgs {
    /// A run folder, its final/, or a checkpoint
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// Texts in UTF-8, one a line; - for standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub input: PathBuf,
    /// Repeat each text in its line of output
    #[arg(long)]
    pub with_text: bool,
    #[command(flatten)]
    pub compute: ComputeArgs,
}

/// `headstart generate`.
#[derive(Debug, Args)]
#[command(rename_all = "snake_case")]
#[command(after_help = "Example: headstart generate runs/trunk --prompt 'The river' --temperature 0.7")]
pub struct GenerateArgs {
    /// A run folder, its final/, or a checkpoint, of a model pretrained with --objective lm
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// The text to continue (write --prompt=-x for one that begins with a dash)
    #[arg(long, value_name = "TEXT")]
    pub prompt: String,
    /// Tokens to add
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub max_new_tokens: usize,
    /// Below 1 safer, above 1 wilder; 0 for the best token always
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub temperature: f64,
    /// Draw from the best N tokens only; 0 for all
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub top_k: usize,
    /// Draw from the best tokens that together have this probability; 1 for all
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    pub top_p: f64,
    /// Seed of the draws
    #[arg(long, value_name = "N", default_value_t = 42, value_parser = seed())]
    pub seed: u64,
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// Print prompt and text as one line of JSON, at the end
    #[arg(long)]
    pub json: bool,
}

/// `headstart doctor`.
#[derive(Debug, Args)]
#[command(rename_all = "snake_case")]
pub struct DoctorArgs {
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// Parses a command line, program name included.
///
/// # Errors
/// clap's, which also stands for `--help` and `--version`.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, clap::Error> {
    let matches = command().try_get_matches_from(arguments.into_iter().map(underscored))?;
    Ok(Cli::from_arg_matches(&matches)?.command)
}

/// The whole command, with the library's defaults in the help texts.
fn command() -> clap::Command {
    Cli::command()
        .mut_subcommand("pretrain", |c| with_defaults(c, &PretrainConfig::default()))
        .mut_subcommand("finetune", |c| with_defaults(c, &FinetuneConfig::default()))
}

/// Adds `[default: ...]` to the help of every flag whose key has a default.
fn with_defaults(command: clap::Command, config: &impl Serialize) -> clap::Command {
    let defaults = toml::Table::try_from(config).map(|table| flag_values(&table)).unwrap_or_default();
    command.mut_args(|arg| match (defaults.get(arg.get_id().as_str()), arg.get_help().cloned()) {
        (Some(value), Some(help)) => arg.help(format!("{help} [default: {value}]")),
        _ => arg,
    })
}

/// The values of a configuration by flag: the names of the keys, without their tables.
pub fn flag_values(table: &toml::Table) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) => {
                values.extend(flag_values(inner).into_iter().map(|(inner_key, v)| {
                    // The one flag that is not called like its key.
                    if (key.as_str(), inner_key.as_str()) == ("data", "path") {
                        ("data".into(), v)
                    } else {
                        (inner_key, v)
                    }
                }))
            }
            toml::Value::String(text) => drop(values.insert(key.clone(), text.clone())),
            toml::Value::Float(x) => drop(values.insert(key.clone(), float(*x))),
            other => drop(values.insert(key.clone(), other.to_string())),
        }
    }
    values
}

/// A float as one would type it; those that were f32 without the digits that f64 adds.
fn float(x: f64) -> String {
    let short = (x as f32).to_string();
    if short.parse::<f32>().is_ok_and(|y| f64::from(y) == x || (f64::from(y) - x).abs() < 1e-7 * x.abs()) {
        short
    } else {
        x.to_string()
    }
}

/// `--max-steps=5` as `--max_steps=5`, so that both spellings of every flag are known.
fn underscored(argument: OsString) -> OsString {
    let Some(flag) = argument.to_str().and_then(|text| text.strip_prefix("--")) else { return argument };
    let (name, value) = flag.split_at(flag.find('=').unwrap_or(flag.len()));
    format!("--{}{value}", name.replace('-', "_")).into()
}

/// A value that is one of the names of a library enum.
fn one_of<T>(names: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: DeserializeOwned + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(names).try_map(|name| {
        let name: StringDeserializer<NameError> = name.into_deserializer();
        T::deserialize(name)
    })
}

fn precision() -> impl TypedValueParser<Value = PrecisionName> {
    one_of(&["f32", "bf16"])
}

/// A seed that a TOML file can hold, whose numbers have a sign.
fn seed() -> impl TypedValueParser<Value = u64> {
    clap::value_parser!(u64).range(0..=i64::MAX as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn help(name: &str) -> String {
        let mut command = command();
        command.find_subcommand_mut(name).unwrap().render_long_help().to_string()
    }

    #[test]
    fn the_command_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn help_shows_the_librarys_defaults() {
        let pretrain = help("pretrain");
        for words in ["[default: 410]", "[default: 0.00025]", "[default: wikitext-103]", "[default: -1]"] {
            assert!(pretrain.contains(words), "{words} is not in {pretrain}");
        }
        let finetune = help("finetune");
        for words in ["[default: 0.00006]", "[default: trec]", "[default: 100]", "[default: 0.02]"] {
            assert!(finetune.contains(words), "{words} is not in {finetune}");
        }
    }

    #[test]
    fn dashes_become_underscores_in_names_only() {
        let cases = [
            ("--max-steps=5", "--max_steps=5"),
            ("--prompt=a-b --c-d", "--prompt=a-b --c-d"),
            ("--", "--"),
            ("-1", "-1"),
            ("my-file", "my-file"),
        ];
        for (typed, meant) in cases {
            assert_eq!(underscored(typed.into()), OsString::from(meant));
        }
    }

    #[test]
    fn every_flag_is_spelled_with_underscores() {
        fn check(command: &clap::Command) {
            for arg in command.get_arguments() {
                let names = arg.get_long().into_iter().chain(arg.get_all_aliases().unwrap_or_default());
                assert!(names.into_iter().all(|name| !name.contains('-')), "{}", arg.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        check(&command());
    }
}
