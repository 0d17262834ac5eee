//! What is to read texts, for those who only count tokens.
//!
//! Owns: which special tokens and which length a model's classifier would have. Never: reads texts.

use std::path::Path;

use crate::checkpoint::load_model;
use crate::config::{Arch, DataConfig, HeadPooling};
use crate::data::source;
use crate::data::template::Template;
use crate::error::{Error, Result};
use crate::event::Listener;
use crate::lint::Reader;

/// Longer inputs than this are only read where somebody asks for them.
const USUAL: usize = 512;

/// The reader that a classifier on this model is: its own, if it has one.
///
/// # Errors
/// No model there, one that is damaged, a length that it has not the positions for.
pub fn of_model(path: &Path, max_length: Option<usize>) -> Result<Reader> {
    let model = load_model(path)?;
    let tokenizer = model.tokenizer()?;
    let (config, defaults) = (&model.files.config, model.files.head_defaults);
    let most = config.num_max_positions;
    if let Some(length) = max_length.filter(|&length| length > most) {
        return Err(Error::Config {
            key: "max_length".into(),
            what: format!("inputs of {length} tokens are asked for, the model has {most} positions"),
            fix: format!("use {most} at most, or leave it out"),
        });
    }
    let own = config.head.as_ref().and_then(|head| head.max_length);
    let family = if config.arch.is_encoder() { USUAL } else { most };
    let positions =
        max_length.or(own).or(defaults.and_then(|defaults| defaults.max_length)).unwrap_or(family).min(most);
    let head = config.head.as_ref().map(|head| head.pooling);
    let pooling =
        head.unwrap_or_else(|| defaults.map_or_else(|| config.arch.pooling(), |defaults| defaults.pooling));
    let template = Template::of(config.arch, pooling, tokenizer.roles(), positions);
    template.validate(1)?;
    Ok(Reader { tokenizer, template, positions })
}

/// The reader that a classifier of BERT's kind with this tokenizer is.
///
/// # Errors
/// No tokenizer there; a length that leaves no room for text.
pub fn of_tokenizer(
    config: &DataConfig,
    max_length: Option<usize>,
    listener: &mut Listener<'_>,
) -> Result<Reader> {
    let tokenizer = source::tokenizer(config, listener)?;
    let positions = max_length.unwrap_or(USUAL);
    let template = Template::of(Arch::Bert, HeadPooling::Cls, tokenizer.roles(), positions);
    template.validate(1)?;
    Ok(Reader { tokenizer, template, positions })
}
