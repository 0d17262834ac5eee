//! What may be typed: the clap structs of the commands.
//!
//! Owns: flag names, aliases, help. Never: reads files, or has defaults of its own where the library has one (the
//! help shows the library's), or lists the values of an enum. `settings.rs` turns these structs into the library's
//! configuration.

mod adapter;
mod auto;
mod distill;
mod examples;
mod groups;
mod head;
mod lint;
mod parsing;
mod peft;
mod rates;
mod regularisation;
mod runs;
mod trials;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use headstart::bench::Work;
use headstart::config::{Arch, HeadPooling, ObjectiveName, Problem, TextUnit};
use headstart::data::Split;
use headstart::device::DeviceName;
use headstart::infer::FeaturePooling;

use crate::answers::AnswerFormat;
pub use adapter::AdapterArgs;
pub use auto::AutoArgs;
pub use distill::{DistillArgs, LearningArgs};
pub use examples::{ExampleArgs, LongTextArgs};
pub use groups::{
    ColumnArgs, ComputeArgs, LabelledArgs, ModelArgs, PaceArgs, PlaceArgs, RankArgs, ReadingArgs, RunArgs,
    SourceArgs, TextsArgs, TokenizerArgs, TrainArgs, TuningArgs, TutorialArgs,
};
pub use head::HeadArgs;
pub use lint::DataLintArgs;
#[cfg(test)]
pub use parsing::names;
use parsing::{count, one_of, seed};
pub use parsing::{flag_values, flags_of, parse};
pub use peft::{BaseArgs, PeftArgs};
pub use rates::RatesArgs;
pub use regularisation::RegularisationArgs;
pub use runs::{RunsCommand, RunsCompareArgs, RunsLsArgs, RunsShowArgs};
pub use trials::{AdaptArgs, Rate, TrialsArgs};

/// The version and, where it is known, the commit: `0.1.0 (0123456789ab)`.
pub const VERSION: &str = env!("HEADSTART_VERSION");

const EXAMPLES: &str = "\
Begin with:  headstart quickstart
Then:        headstart finetune --data trec --out runs/trec
             echo 'Who wrote Hamlet ?' | headstart predict runs/trec";

const MORE: &str = "\
Examples:
  headstart quickstart
  headstart pretrain --data wikitext-2 --preset small --max_steps 2000 \\
    --out runs/trunk
  headstart finetune --model runs/trunk --data trec --out runs/trec
  headstart finetune --model minilm-l6 --data trec --out runs/trec
  echo 'Who wrote Hamlet ?' | headstart predict runs/trec

Exit codes: 0 done; 1 failed; 2 called wrongly; 130 stopped by Ctrl-C or SIGTERM, everything saved.
Flags may be written with dashes, too (--max-steps). Progress goes to stderr, results to stdout.";

/// Transfer learning in NLP: pretrain a transformer once, give every later task a head start.
#[derive(Debug, Parser)]
#[command(name = "headstart", version = VERSION, about, after_help = EXAMPLES, after_long_help = MORE, max_term_width = 110)]
#[command(subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The whole job on built-in data, in a minute or two
    Quickstart(QuickstartArgs),
    /// List, fetch and look into data sets
    #[command(subcommand)]
    Data(DataCommand),
    /// List and fetch published models
    #[command(subcommand)]
    Models(ModelsCommand),
    /// List runs, look into one, compare two
    #[command(subcommand)]
    Runs(RunsCommand),
    /// Train or convert a tokenizer
    #[command(subcommand)]
    Tokenizer(TokenizerCommand),
    /// Train a language model on text
    Pretrain(Box<PretrainArgs>),
    /// Train a small model to see text as a larger one does
    Distill(Box<DistillArgs>),
    /// Train a classifier from a pretrained model
    Finetune(Box<FinetuneArgs>),
    /// The best classifier that data are worth: from a bag of words up to fine-tuning everything
    Auto(Box<AutoArgs>),
    /// Measure a model on data
    Eval(EvalArgs),
    /// Start pretrain, finetune or eval as several processes on this machine
    Launch(LaunchArgs),
    /// Say what a run will take, without starting it
    #[command(subcommand)]
    Plan(PlanCommand),
    /// Classify texts: lines, CSV, TSV or JSONL in; JSONL or a table out
    Predict(PredictArgs),
    /// Turn texts into vectors: lines, CSV, TSV or JSONL in; a NumPy array or JSONL out
    Features(FeaturesArgs),
    /// Write a model as a folder that transformers or sentence-transformers reads
    Export(ExportArgs),
    /// Continue a text
    Generate(GenerateArgs),
    /// Say what this machine offers
    Doctor(DoctorArgs),
    /// Time training steps, forward passes, predictions, generation
    Bench(Box<BenchArgs>),
}

/// `headstart quickstart`.
#[derive(Debug, Args)]
pub struct QuickstartArgs {
    /// Folder for the runs and the report, which must not exist yet [default: runs/DATE-quickstart]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Worker threads; 0 for all
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = count::<usize>)]
    pub threads: usize,
    /// Where to compute: cpu, cuda, cuda:N, or auto for a GPU if there is one
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    pub device: DeviceName,
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
    /// Look for what is wrong with labelled data: leaks, duplicates, wrong labels, and more
    Lint(DataLintArgs),
}

/// `headstart data list`.
#[derive(Debug, Args)]
pub struct DataListArgs {
    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub places: PlaceArgs,
}

/// `headstart data prepare`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstart data prepare bert-base-cased
  headstart data prepare wikitext-103 --tokenizer bert-base-cased")]
pub struct DataPrepareArgs {
    /// Print the result as one line of JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub set: DataSetArgs,
}

/// `headstart data inspect`.
#[derive(Debug, Args)]
#[command(after_help = "Example: headstart data inspect reviews.csv --tokenizer tok.json --samples 5")]
pub struct DataInspectArgs {
    /// Samples shown of each split
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = count::<usize>)]
    pub samples: usize,
    /// Print the result as one line of JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub set: DataSetArgs,
}

/// A data set to look at, of either kind.
#[derive(Debug, Args)]
pub struct DataSetArgs {
    /// A named data set, a file, a folder or an http(s) address
    #[arg(value_name = "DATA")]
    pub data: String,
    /// Running text or labelled examples [default: what the catalogue, the file name or the layout says]
    #[arg(long, value_name = "NAME", value_parser = one_of::<DataKind>())]
    pub kind: Option<DataKind>,
    /// Tokens of the longest labelled example
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = count::<usize>)]
    pub num_max_positions: usize,
    /// What the labels are: one class of several, any number of classes, or a number
    #[arg(long, value_name = "NAME", default_value = "single-label", value_parser = one_of::<Problem>())]
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

/// `headstart models ...`.
#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// List the models that have a short name and whether they are on this machine
    List(ModelsListArgs),
    /// Say what a model is, its files and their sums, and where it is on this machine
    Show(ModelsShowArgs),
    /// Bring a model into the Hugging Face cache as the hub has it now, compare its sums, print its folder
    Pull(ModelsPullArgs),
}

/// `headstart models list`.
#[derive(Debug, Args)]
pub struct ModelsListArgs {
    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub places: PlaceArgs,
}

/// `headstart models show`.
#[derive(Debug, Args)]
#[command(after_help = "Example: headstart models show minilm-l6")]
pub struct ModelsShowArgs {
    /// A short name, or owner/name[@revision] of the Hugging Face hub
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Compute a text's vector with it, and compare with the published program's where that is known
    #[arg(long)]
    pub check: bool,
    /// Print the result as one line of JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub places: PlaceArgs,
}

/// `headstart models pull`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstart models pull minilm-l6
  headstart models pull prajjwal1/bert-tiny@main
HF_TOKEN (or the file of `hf auth login`), HF_ENDPOINT, HF_HOME, HF_HUB_CACHE and
HF_HUB_OFFLINE of the environment are honoured.")]
pub struct ModelsPullArgs {
    /// A short name, or owner/name[@revision] of the Hugging Face hub
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Print the result as one line of JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub places: PlaceArgs,
}

/// `headstart tokenizer ...`.
#[derive(Debug, Subcommand)]
pub enum TokenizerCommand {
    /// Learn a vocabulary from text
    Train(TokenizerTrainArgs),
    /// Write a vocab.txt, vocab.json + merges.txt or tokenizer.json as a complete tokenizer.json
    Import(TokenizerImportArgs),
    /// Print the token ids of texts
    Encode(TokenizerEncodeArgs),
}

/// `headstart tokenizer train`.
#[derive(Debug, Args)]
#[command(after_help = "Example: headstart tokenizer train wikitext-2 --vocab_size 8000 --out tok.json")]
pub struct TokenizerTrainArgs {
    /// Named data sets, text files, tables (CSV, TSV, JSONL), folders with a train.txt, or http(s) addresses
    #[arg(value_name = "DATA", required = true)]
    pub data: Vec<String>,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// The kind of vocabulary
    #[arg(long, default_value = "wordpiece", value_parser = one_of::<VocabularyKind>())]
    pub kind: VocabularyKind,
    /// Pieces, special ones included; a small text may yield fewer
    #[arg(long, value_name = "N", default_value_t = 8_000, value_parser = count::<usize>)]
    pub vocab_size: usize,
    /// Lower-case the text first
    #[arg(long)]
    pub lowercase: bool,
    /// Column of tables with the text, or two with a comma between [default: detected]
    #[arg(long, value_name = "NAME")]
    pub text_column: Option<String>,
    /// Print the result as one line of JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub reading: ReadingArgs,
    #[command(flatten)]
    pub places: PlaceArgs,
}

/// The vocabularies that can be learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VocabularyKind {
    /// BERT's.
    WordPiece,
    /// GPT-2's, over bytes.
    Bpe,
}

/// `headstart tokenizer encode`.
#[derive(Debug, Args)]
#[command(after_help = "\
A line of JSON for each line of text: input_ids, token_type_ids and tokens.
Example: headstart tokenizer encode runs/trec/final --arch bert --num_max_positions 128 < texts.txt")]
pub struct TokenizerEncodeArgs {
    /// A model's folder, which is read as it was published, or a tokenizer's file
    #[arg(value_name = "FOLDER|FILE")]
    pub from: PathBuf,
    /// Texts, one a line; - for standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub input: PathBuf,
    /// A line is two texts with a tab between
    #[arg(long)]
    pub pairs: bool,
    /// Add the special tokens of this family's classifiers [default: the bare text]
    #[arg(long, value_name = "NAME", value_parser = one_of::<Arch>())]
    pub arch: Option<Arch>,
    /// What the classifier reads, which decides whether a decoder's text ends with [CLS] [default: the family's]
    #[arg(long, value_name = "NAME", requires = "arch", value_parser = one_of::<HeadPooling>())]
    pub pooling: Option<HeadPooling>,
    /// Cut to so many tokens, special ones included [default: nothing is cut]
    #[arg(long, value_name = "N", requires = "arch", value_parser = count::<usize>)]
    pub num_max_positions: Option<usize>,
}

/// `headstart tokenizer import`.
#[derive(Debug, Args)]
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
#[command(after_help = "\
Examples:
  headstart pretrain --data wikitext-103                         # the tutorial's model and settings
  headstart pretrain --data wikitext-2 --objective mlm --preset small --max_time 3600
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
  headstart finetune --model minilm-l6 --data trec --curve 50,200,1000
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

/// `headstart eval`.
#[derive(Debug, Args)]
#[command(after_help = "Example: headstart eval runs/trec --data trec")]
pub struct EvalArgs {
    /// A run folder, its final/, a checkpoint, the folder of an adapter, or a name of `headstart models list`
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    #[command(flatten)]
    pub below: BaseArgs,
    #[command(flatten)]
    pub adapters: AdapterArgs,
    /// A named data set, a file, a folder or an http(s) address
    #[arg(long, value_name = "DATA", alias = "dataset_path", required = true)]
    pub data: String,
    /// Which part is measured [default: test, or else valid, or else train]
    #[arg(long, value_name = "NAME", value_parser = one_of::<Split>())]
    pub split: Option<Split>,
    /// Measure the language model of a fine-tuned model instead of its classifier
    #[arg(long)]
    pub language_model: bool,
    /// Leave out what the temperature that was found on validation data changes
    #[arg(long)]
    pub uncalibrated: bool,
    #[command(flatten)]
    pub long: LongTextArgs,
    /// Print the result as one line of JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub compute: ComputeArgs,
    #[command(flatten)]
    pub reading: ReadingArgs,
    #[command(flatten)]
    pub columns: ColumnArgs,
    #[command(flatten)]
    pub places: PlaceArgs,
    #[command(flatten)]
    pub ranks: RankArgs,
}

/// `headstart launch`.
#[derive(Debug, Args)]
#[command(after_help = "\
Ctrl-C stops all of them, everything saved. When one fails, so do the others; the exit code is the first one's.
Examples:
  headstart launch --nproc 4 -- pretrain --data wikitext-2 --preset small
  headstart launch --nproc 2 -- finetune --model runs/trunk --data trec
docs/distributed.md has other launchers, and several machines.")]
pub struct LaunchArgs {
    /// Processes to start; they share the processors evenly, or take a GPU each with --device cuda
    #[arg(long, value_name = "N", alias = "nproc_per_node", value_parser = count::<usize>)]
    pub nproc: usize,
    /// Let mpirun start them, and talk over MPI [default: over TCP]
    #[arg(long)]
    pub mpi: bool,
    /// pretrain, finetune or eval, with its flags
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,
}

/// `headstart plan ...`.
#[derive(Debug, Subcommand)]
pub enum PlanCommand {
    /// What `headstart pretrain` with the same flags takes
    Pretrain(Box<PlanArgs<PretrainArgs>>),
    /// What `headstart finetune` with the same flags takes
    Finetune(Box<PlanArgs<FinetuneArgs>>),
}

/// `headstart plan pretrain` and `headstart plan finetune`: a command's flags, and what nothing but a run would tell.
#[derive(Debug, Args)]
#[command(after_help = "\
Nothing is started, fetched or written, and no data is read.
Examples:
  headstart plan pretrain --preset gpt2 --max_steps 10000 --gflops 500
  headstart plan pretrain --preset gpt2 --world_size 64 --gflops 2000 --bandwidth 100
  headstart plan finetune --model runs/trunk --examples 5452 --gflops 100 --json
docs/scaling.md has the formulas, and what they were compared with.")]
pub struct PlanArgs<Work: Args> {
    #[command(flatten)]
    pub assumed: AssumedArgs,
    #[command(flatten)]
    pub work: Work,
}

/// What is not known before a run.
#[derive(Debug, Args)]
#[command(next_help_heading = "Plan")]
pub struct AssumedArgs {
    /// Training examples; for running text, inputs of the model [default: unknown, --max_steps says the length]
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub examples: Option<usize>,
    /// Tokens of an example [default: as many as one may have]
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub tokens_per_example: Option<usize>,
    /// Pieces of a new model's vocabulary [default: those of --tokenizer, if it is a file here; else 28,996]
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub vocab_size: Option<usize>,
    /// What one process computes, in 10^9 operations a second, as `headstart bench train` measures [default: unknown, no
    /// times are said]
    #[arg(long, value_name = "GFLOPS")]
    pub gflops: Option<f64>,
    /// What the network of one process carries each way, in 10^9 bits a second
    #[arg(long, value_name = "GBIT", default_value_t = 10.0)]
    pub bandwidth: f64,
    /// How long a message takes, in microseconds
    #[arg(long, value_name = "US", default_value_t = 50.0)]
    pub latency: f64,
}

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
    /// Tokens of the longest input; longer texts are cut [default: what the folder says; all positions]
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub max_length: Option<usize>,
    #[command(flatten)]
    pub compute: ComputeArgs,
    #[command(flatten)]
    pub reading: ReadingArgs,
    #[command(flatten)]
    pub places: PlaceArgs,
}

/// `headstart export`.
#[derive(Debug, Args)]
#[command(after_help = "\
The folder is there when all of it is. A model that the other program has no form for is refused with the reason.
Examples:
  headstart export runs/trec --to hf --output trec-model
  headstart export runs/books --to sentence-transformers --output books-vectors")]
pub struct ExportArgs {
    /// A run folder, its final/, a checkpoint, a published model's folder, or a name of `headstart models list`
    #[arg(value_name = "MODEL")]
    pub run: PathBuf,
    /// The program that is to read it: transformers (hf), sentence-transformers, PEFT, or AdapterHub's adapters
    #[arg(long, value_name = "NAME", value_parser = one_of::<ExportTarget>())]
    pub to: ExportTarget,
    /// The folder to write, which must not exist yet
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// With --to peft and --to adapterhub: the model that the run started from, which the updates are of; for the folder of an adapter alone: the
    /// model it is of [default: the one that the folder names]
    #[arg(long, value_name = "MODEL")]
    pub base: Option<PathBuf>,
    /// For a model of the families naacl2019 and gpt2 that transformers has no form for: write Python code beside it, with
    /// which `from_pretrained(..., trust_remote_code=True)` loads it
    #[arg(long)]
    pub with_code: bool,
    /// How sentence-transformers is to make one vector of the hidden states [default: what the folder says; mean]
    #[arg(long, value_name = "NAME", value_parser = one_of::<FeaturePooling>())]
    pub pooling: Option<FeaturePooling>,
    /// Whether it is to scale vectors to length 1 [default: what the folder says; false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub normalize: Option<bool>,
    /// Print the result as one line of JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub places: PlaceArgs,
}

/// The programs that models are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExportTarget {
    /// `transformers`, and everything that reads its folders.
    Hf,
    /// sentence-transformers.
    SentenceTransformers,
    /// PEFT: low-rank updates and the head alone.
    Peft,
    /// AdapterHub's library: adapters, low-rank updates or scales, and the head alone.
    #[serde(rename = "adapterhub")]
    AdapterHub,
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

/// `headstart doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// `headstart bench`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstart bench train --preset naacl2019 --precision bf16 --json
  headstart bench forward --preset gpt2 --batch 4 --seq 512 --profile
  headstart bench finetune --data trec --tokenizer bert-base-cased
  headstart bench predict --model runs/trec
train and forward use random tokens and weights. The share is that of the processor's register peak.")]
pub struct BenchArgs {
    /// What to time
    #[arg(value_name = "WORK", value_parser = one_of::<Work>())]
    pub work: Work,
    /// Sequences a step [default: 8; 4 for the preset gpt2; 16 for finetune, 32 for features]
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub batch: Option<usize>,
    /// Tokens a sequence [default: 256; 512 for the preset gpt2]
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub seq: Option<usize>,
    /// Steps that are timed: batches, texts (predict) or tokens (generate)
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub steps: Option<usize>,
    /// Steps before them
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = count::<usize>)]
    pub warmup: usize,
    /// Next token (lm) or masked tokens (mlm)
    #[arg(long, value_name = "NAME", default_value = "lm", value_parser = one_of::<ObjectiveName>())]
    pub objective: ObjectiveName,
    /// Pieces of the vocabulary [default: 28,996; 50,257 for the preset gpt2]
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub vocab_size: Option<usize>,
    /// The processor's peak, where it is known to be higher than what is measured
    #[arg(long, value_name = "GFLOPS")]
    pub stated_peak: Option<f64>,
    /// The model to predict, make vectors or generate with: a run folder, its final/, a checkpoint, or a name of `headstart models list`
    #[arg(long, value_name = "RUN|NAME")]
    pub model: Option<PathBuf>,
    /// Say where the time of a step goes
    #[arg(long)]
    pub profile: bool,
    /// Print the result as one line of JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub compute: ComputeArgs,
    #[command(flatten)]
    pub sizes: ModelArgs,
    #[command(flatten)]
    pub source: SourceArgs,
}
