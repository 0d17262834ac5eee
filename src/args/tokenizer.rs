//! The flags of `headstart tokenizer ...`. Owns: these. Never: what they lead to.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use headstart::config::{Arch, HeadPooling};

use super::parsing::{count, one_of};
use super::{PlaceArgs, ReadingArgs};

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
    /// Named data sets, text files, tables (CSV, TSV, JSON, Parquet), folders with a train.txt, or http(s) addresses
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
