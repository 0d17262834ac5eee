//! GPT-2 (Radford et al. 2019): its linears are stored with inputs as rows.

use serde_json::{Map, Value, json};

use crate::config::{Arch, ModelConfig};
use crate::error::Result;
use crate::interop::names::Names;
use crate::interop::schema::{Keys, activation_name, number, object};
use crate::model::{family_layout, layout};

pub(super) const NAMES: Names = Names {
    prefix: "transformer.",
    blocks: "h",
    in_block: &[
        ("norm_1", &["ln_1"]),
        ("attention.in_proj", &["attn.c_attn"]),
        ("attention.out_proj", &["attn.c_proj"]),
        ("norm_2", &["ln_2"]),
        ("feed_forward.up", &["mlp.c_fc"]),
        ("feed_forward.down", &["mlp.c_proj"]),
    ],
    trunk: &[
        ("transformer.token_embedding", "wte"),
        ("transformer.position_embedding", "wpe"),
        ("transformer.final_norm", "ln_f"),
    ],
    heads: &[("classification_head", "score")],
    transposed: &["attention.in_proj", "attention.out_proj", "feed_forward.up", "feed_forward.down"],
    copies: &[".attn.bias", ".attn.masked_bias", "lm_head.weight"],
    decoder: "lm_head.weight",
};

pub(super) fn read(keys: &mut Keys<'_>) -> Result<ModelConfig> {
    let embed_dim: usize = keys.need("n_embd")?;
    let dropout: f32 = keys.take("resid_pdrop")?.unwrap_or(0.1);
    let attention: f32 = keys.take("attn_pdrop")?.unwrap_or(0.1);
    let mut config = ModelConfig {
        arch: Arch::Gpt2,
        vocab_size: keys.need("vocab_size")?,
        embed_dim,
        hidden_dim: keys.take("n_inner")?.unwrap_or(embed_dim.saturating_mul(4)),
        num_max_positions: keys.need("n_positions")?,
        num_heads: keys.need("n_head")?,
        num_layers: keys.need("n_layer")?,
        causal: true,
        dropout,
        attention_dropout: (attention.to_bits() != dropout.to_bits()).then_some(attention),
        initializer_range: keys.take("initializer_range")?.unwrap_or(0.02),
        ..ModelConfig::default()
    };
    let layout = family_layout(config.arch);
    let activation = keys.activation("activation_function", layout.activation)?;
    config.layout.activation = (activation != layout.activation).then_some(activation);
    let eps: f32 = keys.take("layer_norm_epsilon")?.unwrap_or(1e-5);
    config.layout.norm_eps = (eps.to_bits() != layout.norm_eps.to_bits()).then_some(eps);
    keys.only("scale_attn_weights", &[json!(true)])?;
    keys.only("scale_attn_by_inverse_layer_idx", &[json!(false)])?;
    keys.only("reorder_and_upcast_attn", &[json!(false)])?;
    // One rate stands for the two on the stream; n_ctx says n_positions again; the rest is of a head that is not read.
    keys.skip(&[
        "embd_pdrop",
        "n_ctx",
        "vocab_size_or_config_json_file",
        "n_special",
        "predict_special_tokens",
    ]);
    keys.skip(&["summary_type", "summary_use_proj", "summary_activation"]);
    keys.skip(&["summary_proj_to_labels", "summary_first_dropout"]);
    Ok(config)
}

pub(super) fn write(config: &ModelConfig) -> Map<String, Value> {
    let options = layout(config);
    object(json!({
        "vocab_size": config.vocab_size,
        "n_positions": config.num_max_positions,
        "n_embd": config.embed_dim,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_inner": config.hidden_dim,
        "activation_function": activation_name(options.activation),
        "resid_pdrop": number(config.dropout),
        "embd_pdrop": number(config.dropout),
        "attn_pdrop": number(config.attention_dropout()),
        "layer_norm_epsilon": number(options.norm_eps),
        "initializer_range": number(config.initializer_range),
    }))
}
