//! The groups of flags that commands share.
//!
//! Owns: their names, aliases, help. Never: defaults of the library's settings, which the help takes from there.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use headstart::config::{
    Arch, Budget, ClassWeights, HeadPooling, LoraTargets, Method, OptimizerName, Positions, PrecisionName,
    Problem, Recipe, Schedule,
};
use headstart::data::rows::RowFormat;
use headstart::device::DeviceName;

use super::Rate;
use super::examples::ExampleArgs;
use super::parsing::{count, one_of, seconds, seed};

/// Where a run's settings come from and where it writes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Run")]
pub struct RunArgs {
    /// Settings from a TOML file: one key per flag, in the tables [data], [model] and [train], those of finetune's headings
    /// Rates and Regularisation in [rates] and [regularisation]
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
    /// Continue a run with a number of processes that cannot keep its rounding
    #[arg(long, requires = "resume")]
    pub allow_other_groups: bool,
    /// Print the result as one line of JSON
    #[arg(long)]
    pub json: bool,
    /// Say more on the way: each checkpoint, too
    #[arg(long, short)]
    pub verbose: bool,
    /// Where to compute: cpu, cuda, cuda:N, or auto for a GPU if there is one [default: cpu; the device a continued
    /// run was started on]
    #[arg(long, value_name = "NAME")]
    pub device: Option<DeviceName>,
}

/// Flags of the tutorial that have no key here.
#[derive(Debug, Args)]
pub struct TutorialArgs {
    /// What launchers of the tutorial's days hand on besides their variables
    #[arg(long, value_name = "N", hide = true, allow_hyphen_values = true)]
    pub local_rank: Option<String>,
}

/// Which of several processes this is. A launcher says it by itself.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Ranks")]
pub struct RankArgs {
    /// Number of this process, from 0 [default: what the launcher says, see docs/distributed.md]
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub rank: Option<usize>,
    /// Number of processes; 1 for a process alone, whatever a launcher says
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub world_size: Option<usize>,
    /// Where the processes find each other: the host of rank 0 and a free port of it, or a file on a disk that all share
    #[arg(long, value_name = "HOST:PORT|FILE")]
    pub rendezvous: Option<String>,
    /// A process that gives no sign of life for so long is lost, and the others stop
    #[arg(long, value_name = "TIME", value_parser = seconds, default_value = "60s")]
    pub comm_timeout: f64,
}

/// Where named data and models are looked for. A continued run may look elsewhere; what is read is compared by content.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Data")]
pub struct PlaceArgs {
    /// Folder for downloads and token caches [default: $HEADSTART_CACHE, or headstart/ in the user's cache folder]
    #[arg(long, value_name = "DIR", alias = "dataset_cache")]
    pub cache_dir: Option<PathBuf>,
    /// Folder of unpacked data sets and models, searched first and never written (docs/data.md and docs/models.md have
    /// the layout)
    #[arg(long, value_name = "DIR")]
    pub mirror: Option<PathBuf>,
    /// Never use the network
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub offline: Option<bool>,
}

/// How text files are read.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Data")]
pub struct ReadingArgs {
    /// Encoding of the files: utf-8, latin1, windows-1252, ... [default: utf-8, or what the catalogue says]
    #[arg(long, value_name = "NAME")]
    pub encoding: Option<String>,
}

/// The tokenizer.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Data")]
pub struct TokenizerArgs {
    /// A tokenizer.json, a vocab.txt, a folder with one, or a name of the catalogue [default: bert-base-cased; for the
    /// data set `starter` one made from it]
    #[arg(long, value_name = "FILE|NAME")]
    pub tokenizer: Option<String>,
    /// Lower-case the text (only for a bare vocab.txt; a tokenizer.json knows itself)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub lowercase: Option<bool>,
}

/// The columns of tables.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Data")]
pub struct ColumnArgs {
    /// What stands between the columns of a table: one character, or tab [default: detected]
    #[arg(long, value_name = "CHARACTER")]
    pub delimiter: Option<String>,
    /// Whether the first row of a table names its columns [default: true]
    #[arg(long, value_name = "true|false")]
    pub header: Option<bool>,
    /// Column with the text, or the two of a pair with a comma between (without a header by number, from 1)
    /// [default: detected]
    #[arg(long, value_name = "NAME")]
    pub text_column: Option<String>,
    /// Column with the label, by name; with --problem multi-label also the columns of 0 and 1, one for each class, with
    /// commas between [default: detected]
    #[arg(long, value_name = "NAME")]
    pub label_column: Option<String>,
}

/// Text without labels.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Data")]
pub struct SourceArgs {
    /// A named data set, a text file, a table (CSV, TSV, JSON, Parquet), a folder with train.txt and valid.txt, or an http(s)
    /// address
    #[arg(long, value_name = "DATA", alias = "dataset_path")]
    pub data: Option<String>,
    /// Column of a table with the text, or the two of a pair with a comma between [default: detected]
    #[arg(long, value_name = "NAME")]
    pub text_column: Option<String>,
    #[command(flatten)]
    pub tokenizer: TokenizerArgs,
    #[command(flatten)]
    pub reading: ReadingArgs,
    #[command(flatten)]
    pub places: PlaceArgs,
}

/// Labelled text; the tokenizer is the model's.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Data")]
pub struct LabelledArgs {
    /// A named data set, a CSV, TSV, JSON, Parquet or text file, a folder, or an http(s) address
    #[arg(long, value_name = "DATA", alias = "dataset_path")]
    pub data: Option<String>,
    /// Use only so many training examples, drawn evenly over the classes
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub max_train_examples: Option<usize>,
    /// Column whose equal values (authors, speakers, threads) stand on one side when validation data is held out
    #[arg(long, value_name = "NAME")]
    pub group_column: Option<String>,
    #[command(flatten)]
    pub reading: ReadingArgs,
    #[command(flatten)]
    pub columns: ColumnArgs,
    #[command(flatten)]
    pub places: PlaceArgs,
}

/// Sizes and options of the model.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// Layout and sizes for those not given. naacl2019 (50m): the tutorial's, 410 wide, 16 layers, 256 positions. The
    /// others have gpt2's layout: gpt2 (124m) 768 wide, 12 layers, 1,024 positions; small 256, 6, 256; mini 128, 4, 128;
    /// micro 32, 2, 64 [default: naacl2019]
    #[arg(long, value_name = "NAME")]
    pub preset: Option<String>,
    /// Block layout
    #[arg(long, value_name = "NAME", value_parser = one_of::<Arch>())]
    pub arch: Option<Arch>,
    /// Width of the model
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub embed_dim: Option<usize>,
    /// Width of the embeddings, where a linear widens them to embed_dim (electra) [default: embed_dim]
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub embedding_size: Option<usize>,
    /// Width of the feed-forward
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub hidden_dim: Option<usize>,
    /// Tokens of the longest sequence
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub num_max_positions: Option<usize>,
    /// Attention heads; they divide embed_dim
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub num_heads: Option<usize>,
    /// Layers
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub num_layers: Option<usize>,
    /// Trained positions, fixed sines and cosines, or rotary ones
    #[arg(long, value_name = "NAME", value_parser = one_of::<Positions>())]
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
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Fine-tuning")]
pub struct TuningArgs {
    /// Keep the model's sizes and tokenizer, but draw its weights afresh
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub from_scratch: Option<bool>,
    /// What is trained: everything, or the head alone, or with adapters, low-rank updates (LoRA), scales ((IA)3) or all biases
    /// (BitFit); nothing, and a linear head is fitted to the vectors that the model makes (features), or to those of a model
    /// that was tuned on pairs of a few examples (contrastive); or no transformer but a bag of words (bow)
    #[arg(long, value_name = "NAME", value_parser = one_of::<Method>())]
    pub method: Option<Method>,
    /// Width of the adapters, -1 for none [default: 32 with --method adapters]; given without --method adapters, everything is trained
    #[arg(long, value_name = "N")]
    pub adapters_dim: Option<i64>,
    /// Rank of the updates of --method lora [default: 8]
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub lora_rank: Option<usize>,
    /// Their scale is this over their rank [default: 16]
    #[arg(long, value_name = "X")]
    pub lora_alpha: Option<f64>,
    /// Dropout on what they read [default: 0]
    #[arg(long, value_name = "P")]
    pub lora_dropout: Option<f32>,
    /// The linears of each block that have one: attention, all, or a list of q, k, v, o, up, down [default: attention]
    #[arg(long, value_name = "NAMES")]
    pub lora_targets: Option<LoraTargets>,
    /// Scale them by alpha over the root of their rank
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub rslora: Option<bool>,
    /// What freezes the model trains its layer norms, too
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub train_norms: Option<bool>,
    /// Which position is classified, or several side by side [default: the model family's own; for the methods features and
    /// contrastive, and for head with an encoder, mean]
    #[arg(long, value_name = "NAME", value_parser = one_of::<HeadPooling>())]
    pub pooling: Option<HeadPooling>,
    /// Tokens of the longest input; what is longer is cut [default: what the model was made for, up to 512]
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub max_length: Option<usize>,
    #[command(flatten)]
    pub examples: ExampleArgs,
    /// One class of several, any number of classes, or a number
    #[arg(long, value_name = "NAME", value_parser = one_of::<Problem>())]
    pub problem: Option<Problem>,
    /// Classes the data must have [default: found from the data]
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub num_classes: Option<usize>,
    /// Weight of the classification loss
    #[arg(long, value_name = "X")]
    pub clf_loss_coef: Option<f64>,
    /// Weight of the auxiliary language-model loss; 0 or less is off
    #[arg(long, value_name = "X")]
    pub lm_loss_coef: Option<f64>,
    /// Standard deviation of new weights
    #[arg(long, value_name = "X")]
    pub initializer_range: Option<f32>,
    /// Dropout [default: the model's own]
    #[arg(long, value_name = "P")]
    pub dropout: Option<f32>,
    /// Weights of the classes in the loss
    #[arg(long, value_name = "NAME", value_parser = one_of::<ClassWeights>())]
    pub class_weights: Option<ClassWeights>,
    /// Stop after so many evaluations without a better one; 0 for never
    #[arg(long, value_name = "N", value_parser = count::<u64>)]
    pub early_stopping: Option<u64>,
}

/// The training loop.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Training")]
pub struct TrainArgs {
    /// Who chooses what is left out of lr, train_batch_size, n_epochs, max_norm, warmup_steps and schedule: the task, the
    /// method, the model's layout and its size (auto), or the original tutorial, with its curves
    #[arg(long, value_name = "NAME", value_parser = one_of::<Recipe>())]
    pub recipe: Option<Recipe>,
    /// Sequences at a time; only its product with grad_accum_steps matters to the result [default: the recipe's]
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub train_batch_size: Option<usize>,
    /// Batches to one optimizer step
    #[arg(long, value_name = "N", alias = "gradient_accumulation_steps", value_parser = count::<usize>)]
    pub grad_accum_steps: Option<usize>,
    /// Groups in which gradients are added: a power of two, on which the bits depend and not on the ranks
    /// [default: the number of ranks]
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub reduction_groups: Option<usize>,
    /// Largest learning rate; finetune takes auto, too: short runs choose it [default: the recipe's]
    #[arg(long, value_name = "X", value_parser = Rate::from_str)]
    pub lr: Option<Rate>,
    /// Gradients are scaled down to this global norm; 0 leaves them [default: the recipe's]
    #[arg(long, value_name = "X")]
    pub max_norm: Option<f64>,
    /// Weight decay
    #[arg(long, value_name = "X")]
    pub weight_decay: Option<f64>,
    /// Weight decay as L2 on everything (adam, as the tutorial) or decoupled on matrices (adamw)
    #[arg(long, value_name = "NAME", value_parser = one_of::<OptimizerName>())]
    pub optimizer: Option<OptimizerName>,
    /// Passes over the training data; 0 evaluates only [default: the recipe's, or what max_steps needs]
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub n_epochs: Option<usize>,
    /// End the run, and its schedule, after so many optimizer steps [default: n_epochs decides]
    #[arg(long, value_name = "N", value_parser = count::<u64>)]
    pub max_steps: Option<u64>,
    /// Take as many steps as fit into this time, and fit the schedule to them: 90s, 10m, 2h; counted once, from a short
    /// measurement when the run begins
    #[arg(long, value_name = "TIME", value_parser = Budget::from_str)]
    pub budget: Option<Budget>,
    /// Optimizer steps over which the rate rises from 0; clamped to the run's length [default: the recipe's; a tenth of
    /// the run]
    #[arg(long, value_name = "N", alias = "n_warmup", value_parser = count::<u64>)]
    pub warmup_steps: Option<u64>,
    /// The same as a share of the run: 0.1 is a tenth of its steps
    #[arg(long, value_name = "SHARE", conflicts_with = "warmup_steps")]
    pub warmup_ratio: Option<f64>,
    /// How the rate falls after the warm-up [default: the recipe's; cosine to pretrain, linear to fine-tune]
    #[arg(long, value_name = "NAME", value_parser = one_of::<Schedule>())]
    pub schedule: Option<Schedule>,
    /// The share of the largest rate that it falls to [default: 0; of slanted-triangular 1/32]
    #[arg(long, value_name = "SHARE")]
    pub lr_floor: Option<f64>,
    /// Evaluate and keep a running mean of the weights with this decay, such as 0.99 [default: none is made]
    #[arg(long, value_name = "X")]
    pub ema: Option<f64>,
    /// Evaluate every so many optimizer steps; -1 for the end of each epoch only [default: that; finetune also within
    /// long epochs, four times each]
    #[arg(long, value_name = "N")]
    pub eval_every: Option<i64>,
    /// Seed of initial weights, order, masks and dropout
    #[arg(long, value_name = "N", value_parser = seed())]
    pub seed: Option<u64>,
    /// Products in f32, or with bf16 inputs and f32 sums [default: bf16 where the device is faster with it (GPUs, AMX,
    /// AVX-512 BF16 of AMD's), else f32]
    #[arg(long, value_name = "NAME", value_parser = one_of::<PrecisionName>())]
    pub precision: Option<PrecisionName>,
    #[command(flatten)]
    pub pace: PaceArgs,
}

/// Speed, saving and the time a run may take, none of which changes its weights: a continued run may be given others,
/// and other [`PlaceArgs`]. A setting that belongs here needs nothing else to be one of those.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Training")]
pub struct PaceArgs {
    /// Sequences at a time in evaluations; does not change the result
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub valid_batch_size: Option<usize>,
    /// Save every so many optimizer steps besides each epoch; 0 for epochs only
    #[arg(long, value_name = "N", value_parser = count::<u64>)]
    pub save_every: Option<u64>,
    /// Checkpoints that stay, besides the best
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub keep: Option<usize>,
    /// Save and stop after this time (90s, 10m, 2h, or a number of seconds); the schedule does not bend [default: no
    /// limit]
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub max_time: Option<f64>,
    /// Worker threads; 0 for all; does not change the result
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub threads: Option<usize>,
}

/// How a finished model computes.
#[derive(Debug, Args)]
pub struct ComputeArgs {
    /// Products in f32, or with bf16 inputs and f32 sums [default: what the model was trained with, where the device is not slower
    /// with it, else f32]
    #[arg(long, value_name = "NAME", value_parser = one_of::<PrecisionName>())]
    pub precision: Option<PrecisionName>,
    /// Worker threads; 0 for all
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = count::<usize>)]
    pub threads: usize,
    /// Where to compute: cpu, cuda, cuda:N, or auto for a GPU if there is one
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    pub device: DeviceName,
}

impl SourceArgs {
    /// Only the flags that a continued run may be given anew.
    pub fn free(&self) -> Self {
        Self { data: self.data.clone(), places: self.places.clone(), ..Self::default() }
    }
}

impl LabelledArgs {
    /// Only the flags that a continued run may be given anew.
    pub fn free(&self) -> Self {
        Self { data: self.data.clone(), places: self.places.clone(), ..Self::default() }
    }
}

impl TrainArgs {
    /// Only the flags that a continued run may be given anew.
    pub fn free(&self) -> Self {
        Self { pace: self.pace.clone(), ..Self::default() }
    }
}

/// Texts that a model is used on.
#[derive(Debug, Args)]
pub struct TextsArgs {
    /// Texts, one a line, or a CSV, TSV, JSON or Parquet file; - for standard input; may be given several times
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub input: Vec<PathBuf>,
    /// How the input is written [default: what the end of the file's name says; text]
    #[arg(long, value_name = "NAME", value_parser = one_of::<RowFormat>())]
    pub input_format: Option<RowFormat>,
    /// Whether the first row of CSV and TSV names the columns; without one they have numbers, from 1 [default: as in training;
    /// true]
    #[arg(long, value_name = "true|false")]
    pub header: Option<bool>,
    /// Column with the text, or the two of a pair with a comma between [default: as in training, or detected]
    #[arg(long, value_name = "NAME")]
    pub text_column: Option<String>,
}
