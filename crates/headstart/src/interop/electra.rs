//! ELECTRA (Clark et al. 2020), the discriminator: BERT's blocks, over embeddings that may be narrower.

use serde_json::{Map, Value};

use crate::config::{Arch, ModelConfig};
use crate::error::Result;
use crate::interop::bert;
use crate::interop::names::Names;
use crate::interop::schema::Keys;

pub(super) const NAMES: Names = Names {
    prefix: "electra.",
    trunk: &[
        ("transformer.token_embedding", "embeddings.word_embeddings"),
        ("transformer.position_embedding", "embeddings.position_embeddings"),
        ("transformer.token_type_embedding", "embeddings.token_type_embeddings"),
        ("transformer.embedding_norm", "embeddings.LayerNorm"),
        ("transformer.embedding_projection", "embeddings_project"),
    ],
    heads: &[
        ("classification_head.dense", "classifier.dense"),
        ("classification_head", "classifier.out_proj"),
        ("lm_head.dense", "generator_predictions.dense"),
        ("lm_head.norm", "generator_predictions.LayerNorm"),
        ("lm_head", "generator_lm_head"),
    ],
    copies: &["embeddings.position_ids", "generator_lm_head.weight"],
    decoder: "generator_lm_head.weight",
    ..bert::NAMES
};

pub(super) fn read(keys: &mut Keys<'_>) -> Result<ModelConfig> {
    let mut config = bert::read(keys, Arch::Electra)?;
    let size: usize = keys.take("embedding_size")?.unwrap_or(128);
    config.embedding_size = (size != config.embed_dim).then_some(size);
    // Of another head than the classifier's.
    keys.skip(&["summary_type", "summary_use_proj", "summary_activation", "summary_last_dropout"]);
    Ok(config)
}

pub(super) fn write(config: &ModelConfig) -> Map<String, Value> {
    let mut map = bert::write(config);
    map.insert("embedding_size".into(), config.embedding_size().into());
    map
}
