//! DistilBERT (Sanh et al. 2019): BERT without token types and pooler, under names of its own.

use serde_json::{Map, Value, json};

use crate::config::{Arch, ModelConfig};
use crate::error::Result;
use crate::interop::names::Names;
use crate::interop::schema::{Keys, activation_name, number, object};
use crate::model::{family_layout, layout};

pub(super) const NAMES: Names = Names {
    prefix: "distilbert.",
    blocks: "transformer.layer",
    in_block: &[
        ("attention.in_proj", &["attention.q_lin", "attention.k_lin", "attention.v_lin"]),
        ("attention.out_proj", &["attention.out_lin"]),
        ("norm_1", &["sa_layer_norm"]),
        ("feed_forward.up", &["ffn.lin1"]),
        ("feed_forward.down", &["ffn.lin2"]),
        ("norm_2", &["output_layer_norm"]),
    ],
    trunk: &[
        ("transformer.token_embedding", "embeddings.word_embeddings"),
        ("transformer.position_embedding", "embeddings.position_embeddings"),
        ("transformer.embedding_norm", "embeddings.LayerNorm"),
    ],
    heads: &[
        ("classification_head.dense", "pre_classifier"),
        ("classification_head", "classifier"),
        ("lm_head.dense", "vocab_transform"),
        ("lm_head.norm", "vocab_layer_norm"),
        ("lm_head", "vocab_projector"),
    ],
    transposed: &[],
    copies: &["embeddings.position_ids", "vocab_projector.weight"],
    decoder: "vocab_projector.weight",
};

pub(super) fn read(keys: &mut Keys<'_>) -> Result<ModelConfig> {
    let dropout: f32 = keys.take("dropout")?.unwrap_or(0.1);
    let attention: f32 = keys.take("attention_dropout")?.unwrap_or(0.1);
    let mut config = ModelConfig {
        arch: Arch::Distilbert,
        vocab_size: keys.need("vocab_size")?,
        embed_dim: keys.need("dim")?,
        hidden_dim: keys.need("hidden_dim")?,
        num_max_positions: keys.need("max_position_embeddings")?,
        num_heads: keys.need("n_heads")?,
        num_layers: keys.need("n_layers")?,
        causal: false,
        dropout,
        attention_dropout: (attention.to_bits() != dropout.to_bits()).then_some(attention),
        initializer_range: keys.take("initializer_range")?.unwrap_or(0.02),
        ..ModelConfig::default()
    };
    let layout = family_layout(config.arch);
    let activation = keys.activation("activation", layout.activation)?;
    config.layout.activation = (activation != layout.activation).then_some(activation);
    // A table of sines is stored like any other; it was not trained, and would be here.
    keys.skip(&["sinusoidal_pos_embds", "tie_weights_", "qa_dropout"]);
    Ok(config)
}

pub(super) fn write(config: &ModelConfig) -> Map<String, Value> {
    let options = layout(config);
    object(json!({
        "vocab_size": config.vocab_size,
        "dim": config.embed_dim,
        "n_layers": config.num_layers,
        "n_heads": config.num_heads,
        "hidden_dim": config.hidden_dim,
        "activation": activation_name(options.activation),
        "dropout": number(config.dropout),
        "attention_dropout": number(config.attention_dropout()),
        "max_position_embeddings": config.num_max_positions,
        "initializer_range": number(config.initializer_range),
        "sinusoidal_pos_embds": false,
        "seq_classif_dropout": number(config.head.as_ref().and_then(|head| head.dropout).unwrap_or(config.dropout)),
    }))
}
