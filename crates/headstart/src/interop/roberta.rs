//! RoBERTa (Liu et al. 2019): BERT's blocks; its table of positions begins behind the padding token's row.

use serde_json::{Map, Value};

use crate::config::{Arch, ModelConfig};
use crate::error::Result;
use crate::interop::bert;
use crate::interop::names::Names;
use crate::interop::schema::Keys;
use crate::model::{family_layout, layout};

pub(super) const NAMES: Names = Names {
    prefix: "roberta.",
    trunk: &[
        ("transformer.token_embedding", "embeddings.word_embeddings"),
        ("transformer.position_embedding", "embeddings.position_embeddings"),
        ("transformer.token_type_embedding", "embeddings.token_type_embeddings"),
        ("transformer.embedding_norm", "embeddings.LayerNorm"),
    ],
    heads: &[
        ("classification_head.dense", "classifier.dense"),
        ("classification_head", "classifier.out_proj"),
        ("lm_head.dense", "lm_head.dense"),
        ("lm_head.norm", "lm_head.layer_norm"),
        ("lm_head", "lm_head"),
    ],
    copies: &["embeddings.position_ids", "lm_head.decoder.weight", "lm_head.decoder.bias"],
    decoder: "lm_head.decoder.weight",
    ..bert::NAMES
};

pub(super) fn read(keys: &mut Keys<'_>) -> Result<ModelConfig> {
    // Positions are counted from the row behind the padding token's.
    let padding: usize = keys.take("pad_token_id")?.unwrap_or(1);
    let mut config = bert::read(keys, Arch::Roberta)?;
    let offset = padding.saturating_add(1);
    if offset >= config.num_max_positions {
        let (rows, what) = (config.num_max_positions, "no position is left");
        return Err(keys.refuse(
            format!(
                "its `max_position_embeddings` {rows} and `pad_token_id` {padding} do not go together: {what}"
            ),
            "put back the config.json that came with the model",
        ));
    }
    config.num_max_positions -= offset;
    config.layout.position_offset = (offset != family_layout(config.arch).position_offset).then_some(offset);
    Ok(config)
}

pub(super) fn write(config: &ModelConfig) -> Map<String, Value> {
    let offset = layout(config).position_offset;
    let mut map = bert::write(config);
    map.insert("max_position_embeddings".into(), (config.num_max_positions + offset).into());
    map.insert("pad_token_id".into(), offset.saturating_sub(1).into());
    map
}
