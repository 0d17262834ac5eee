//! `headstart plan`.
//!
//! Owns: what is assumed where no flag says it. Never: the sums, or anything of the settings that are planned.

use std::path::Path;

use anyhow::Result;
use headstart::config::DataConfig;
use headstart::plan::Assumptions;
use headstart::tokenizer::{Case, Tokenizer};

use crate::args::{AssumedArgs, RankArgs};

/// Of `bert-base-cased`, the tokenizer where none is named.
const VOCAB_SIZE: usize = 28_996;

/// What is assumed of a run on this data.
pub fn assumptions(args: &AssumedArgs, ranks: &RankArgs, data: &DataConfig) -> Result<Assumptions> {
    let AssumedArgs { examples, tokens_per_example, vocab_size, gflops, bandwidth, latency } = *args;
    let vocab_size = match vocab_size {
        Some(size) => size,
        None => data.tokenizer.as_deref().map_or(Ok(VOCAB_SIZE), vocab_size_of)?,
    };
    Ok(Assumptions {
        ranks: ranks.world_size.unwrap_or(1),
        examples,
        tokens_per_example,
        vocab_size,
        gflops,
        bandwidth_gbit: bandwidth,
        latency_us: latency,
    })
}

/// That of a tokenizer which is here; nothing is fetched.
fn vocab_size_of(tokenizer: &str) -> Result<usize> {
    let path = Path::new(tokenizer);
    let tokenizer = match () {
        () if path.is_file() => Tokenizer::from_file(path, Case::Keep)?,
        () if path.is_dir() => Tokenizer::published(path)?,
        () => return Ok(VOCAB_SIZE),
    };
    Ok(tokenizer.vocab_size())
}
