//! Running text as the blocks of a language model.
//!
//! Owns: what an objective predicts of a text. Never: reads files (`data`), the losses (`objective`).

use crate::batch::{Examples, TokenTargets};
use crate::config::ObjectiveName;
use crate::data::corpus::TokenStream;
use crate::error::Result;
use crate::eval::TextSize;
use crate::masking::Masking;
use crate::tokenizer::RoleIds;
use crate::train::EvaluationSplit;

/// The token targets of an objective; `never` is an id that is never masked.
pub(crate) fn token_targets(
    objective: ObjectiveName,
    probability: f64,
    roles: RoleIds,
    vocab_size: usize,
    never: Option<u32>,
) -> TokenTargets {
    match objective {
        ObjectiveName::Lm => TokenTargets::Next,
        ObjectiveName::Mlm => {
            TokenTargets::Masked(Masking { probability, mask_id: roles.mask, vocab_size }, never)
        }
    }
}

/// A stream as blocks; the tail that fills none is dropped.
pub(crate) fn examples(stream: &TokenStream, positions: usize) -> Result<Examples<'_>> {
    let blocks = stream.blocks(positions)?;
    Ok(Examples { ids: (0..blocks.count()).map(|i| blocks.get(i)).collect(), ..Examples::default() })
}

pub(crate) fn evaluated(
    stream: Option<&TokenStream>,
    positions: usize,
) -> Result<Option<EvaluationSplit<'_>>> {
    let Some(stream) = stream else { return Ok(None) };
    let counts = stream.counts();
    let text = TextSize { words: counts.words, bytes: counts.bytes, tokens: stream.ids().len() as u64 };
    Ok(Some(EvaluationSplit { examples: examples(stream, positions)?, text: Some(text) }))
}
