//! The flags of `headstart export`. Owns: these. Never: what they lead to.

use std::path::PathBuf;

use clap::Args;
use headstart::infer::FeaturePooling;

use super::PlaceArgs;
use super::parsing::one_of;

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
