//! BERT (Devlin et al. 2019): names as in `transformers`' modeling_bert.py, and its config.json.

use serde_json::{Map, Value, json};

use crate::config::{Arch, ModelConfig};
use crate::error::Result;
use crate::interop::names::Names;
use crate::interop::schema::{Keys, activation_name, number, object};
use crate::model::{family_layout, layout};

/// A block, in the names that BERT's relatives share.
pub(super) const IN_BLOCK: &[(&str, &[&str])] = &[
    ("attention.in_proj", &["attention.self.query", "attention.self.key", "attention.self.value"]),
    ("attention.out_proj", &["attention.output.dense"]),
    ("norm_1", &["attention.output.LayerNorm"]),
    ("feed_forward.up", &["intermediate.dense"]),
    ("feed_forward.down", &["output.dense"]),
    ("norm_2", &["output.LayerNorm"]),
];

pub(super) const NAMES: Names = Names {
    prefix: "bert.",
    blocks: "encoder.layer",
    in_block: IN_BLOCK,
    trunk: &[
        ("transformer.token_embedding", "embeddings.word_embeddings"),
        ("transformer.position_embedding", "embeddings.position_embeddings"),
        ("transformer.token_type_embedding", "embeddings.token_type_embeddings"),
        ("transformer.embedding_norm", "embeddings.LayerNorm"),
        ("classification_head.dense", "pooler.dense"),
    ],
    heads: &[
        ("classification_head", "classifier"),
        ("lm_head.dense", "cls.predictions.transform.dense"),
        ("lm_head.norm", "cls.predictions.transform.LayerNorm"),
        ("lm_head", "cls.predictions"),
    ],
    transposed: &[],
    copies: &["embeddings.position_ids", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"],
    decoder: "cls.predictions.decoder.weight",
};

/// What BERT's relatives have in common.
pub(super) fn read(keys: &mut Keys<'_>, arch: Arch) -> Result<ModelConfig> {
    keys.only("position_embedding_type", &[json!("absolute")])?;
    let dropout: f32 = keys.take("hidden_dropout_prob")?.unwrap_or(0.1);
    let attention: f32 = keys.take("attention_probs_dropout_prob")?.unwrap_or(0.1);
    let mut config = ModelConfig {
        arch,
        vocab_size: keys.need("vocab_size")?,
        embed_dim: keys.need("hidden_size")?,
        hidden_dim: keys.need("intermediate_size")?,
        num_max_positions: keys.need("max_position_embeddings")?,
        num_heads: keys.need("num_attention_heads")?,
        num_layers: keys.need("num_hidden_layers")?,
        causal: false,
        dropout,
        attention_dropout: (attention.to_bits() != dropout.to_bits()).then_some(attention),
        initializer_range: keys.take("initializer_range")?.unwrap_or(0.02),
        ..ModelConfig::default()
    };
    let layout = family_layout(config.arch);
    let activation = keys.activation("hidden_act", layout.activation)?;
    config.layout.activation = (activation != layout.activation).then_some(activation);
    let eps: f32 = keys.take("layer_norm_eps")?.unwrap_or(1e-12);
    config.layout.norm_eps = (eps.to_bits() != layout.norm_eps.to_bits()).then_some(eps);
    let types: usize = keys.take("type_vocab_size")?.unwrap_or(2);
    config.layout.token_types = (types != layout.token_types).then_some(types);
    Ok(config)
}

/// [`read`], backwards.
pub(super) fn write(config: &ModelConfig) -> Map<String, Value> {
    let options = layout(config);
    object(json!({
        "vocab_size": config.vocab_size,
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.hidden_dim,
        "hidden_act": activation_name(options.activation),
        "hidden_dropout_prob": number(config.dropout),
        "attention_probs_dropout_prob": number(config.attention_dropout()),
        "max_position_embeddings": config.num_max_positions,
        "type_vocab_size": options.token_types,
        "initializer_range": number(config.initializer_range),
        "layer_norm_eps": number(options.norm_eps),
        "position_embedding_type": "absolute",
        "classifier_dropout": config.head.as_ref().and_then(|head| head.dropout).map(number),
    }))
}
