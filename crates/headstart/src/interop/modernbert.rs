//! ModernBERT (Warner et al. 2024): both dialects of its config.json, the one of its publication and that of `transformers` 5.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::config::{Arch, HeadPooling, ModelConfig, Positions};
use crate::error::Result;
use crate::interop::names::Names;
use crate::interop::schema::{Keys, activation_name, number, object};
use crate::model::{family_layout, layout};

pub(super) const NAMES: Names = Names {
    prefix: "model.",
    blocks: "layers",
    in_block: &[
        ("norm_1", &["attn_norm"]),
        ("attention.in_proj", &["attn.Wqkv"]),
        ("attention.out_proj", &["attn.Wo"]),
        ("norm_2", &["mlp_norm"]),
        ("feed_forward.up", &["mlp.Wi"]),
        ("feed_forward.down", &["mlp.Wo"]),
    ],
    trunk: &[
        ("transformer.token_embedding", "embeddings.tok_embeddings"),
        ("transformer.embedding_norm", "embeddings.norm"),
        ("transformer.final_norm", "final_norm"),
    ],
    // Both heads have the one transform, which no model has twice.
    heads: &[
        ("classification_head.dense", "head.dense"),
        ("classification_head.norm", "head.norm"),
        ("classification_head", "classifier"),
        ("lm_head.dense", "head.dense"),
        ("lm_head.norm", "head.norm"),
        ("lm_head", "decoder"),
    ],
    transposed: &[],
    copies: &["decoder.weight"],
    decoder: "decoder.weight",
};

/// The rotary settings of one kind of layer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rope {
    rope_theta: Option<f32>,
    rope_type: Option<String>,
}

/// The rotary settings of both.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ropes {
    full_attention: Option<Rope>,
    sliding_attention: Option<Rope>,
}

pub(super) fn read(keys: &mut Keys<'_>) -> Result<ModelConfig> {
    let attention: f32 = keys.take("attention_dropout")?.unwrap_or(0.0);
    let mut config = ModelConfig {
        arch: Arch::Modernbert,
        vocab_size: keys.need("vocab_size")?,
        embed_dim: keys.need("hidden_size")?,
        hidden_dim: keys.need("intermediate_size")?,
        num_max_positions: keys.take("max_position_embeddings")?.unwrap_or(8192),
        num_heads: keys.need("num_attention_heads")?,
        num_layers: keys.need("num_hidden_layers")?,
        positions: Positions::Rotary,
        causal: false,
        dropout: 0.0,
        attention_dropout: (attention > 0.0).then_some(attention),
        initializer_range: keys.take("initializer_range")?.unwrap_or(0.02),
        ..ModelConfig::default()
    };
    let layout = family_layout(config.arch);
    let activation = keys.activation("hidden_activation", layout.activation)?;
    config.layout.activation = (activation != layout.activation).then_some(activation);
    keys.only("classifier_activation", &[json!(activation_name(activation))])?;
    let eps: f32 = keys.take("norm_eps")?.unwrap_or(1e-5);
    config.layout.norm_eps = (eps.to_bits() != layout.norm_eps.to_bits()).then_some(eps);
    for key in ["attention_bias", "mlp_bias", "norm_bias", "classifier_bias"] {
        keys.only(key, &[json!(false)])?;
    }
    keys.only("decoder_bias", &[json!(true)])?;
    // Both dropouts are inside sublayers; published models have none.
    for key in ["embedding_dropout", "mlp_dropout"] {
        keys.only(key, &[json!(0.0), json!(0)])?;
    }
    let local: usize = keys.take("local_attention")?.unwrap_or(128);
    let window = local / 2;
    config.layout.window = (window != layout.window).then_some(window);
    let every = global_every(keys, config.num_layers)?;
    config.layout.global_every = (every != layout.global_every).then_some(every);
    let [global, local] = thetas(keys, [layout.rotary_theta, layout.local_rotary_theta])?;
    config.layout.rotary_theta = (global.to_bits() != layout.rotary_theta.to_bits()).then_some(global);
    config.layout.local_rotary_theta =
        (local.to_bits() != layout.local_rotary_theta.to_bits()).then_some(local);
    // layer_norm_eps and position_embedding_type stand in published files and are read by no code.
    keys.skip(&[
        "layer_norm_eps",
        "position_embedding_type",
        "deterministic_flash_attn",
        "reference_compile",
    ]);
    keys.skip(&["repad_logits_with_grad", "sparse_prediction", "sparse_pred_ignore_index"]);
    Ok(config)
}

/// Every so many layers one sees whole sequences, by either dialect.
fn global_every(keys: &mut Keys<'_>, layers: usize) -> Result<usize> {
    let stated: Option<usize> = keys.take("global_attn_every_n_layers")?;
    let Some(types) = keys.take::<Vec<String>>("layer_types")? else { return Ok(stated.unwrap_or(3)) };
    let is_global: Vec<bool> = types.iter().map(|kind| kind == "full_attention").collect();
    let found = || is_global.iter().skip(1).position(|&global| global).map_or(layers.max(2), |at| at + 1);
    let every = stated.unwrap_or_else(found).max(1);
    let known = types.iter().all(|kind| kind == "full_attention" || kind == "sliding_attention");
    let regular = is_global.iter().enumerate().all(|(layer, &global)| global == layer.is_multiple_of(every));
    if known && regular && types.len() == layers {
        return Ok(every);
    }
    Err(keys.refuse(
        format!("its `layer_types` {types:?} are not {layers} with one of full attention every so many, from the first on"),
        "use another model of the family",
    ))
}

/// The bases of the rotary angles, by either dialect: of layers that see everything, and of the others.
fn thetas(keys: &mut Keys<'_>, defaults: [f32; 2]) -> Result<[f32; 2]> {
    keys.only("rope_scaling", &[])?;
    let global: Option<f32> = keys.take("global_rope_theta")?;
    let local: Option<f32> = keys.take("local_rope_theta")?;
    let ropes: Option<Ropes> = keys.take("rope_parameters")?;
    let (full, sliding) = ropes.map_or((None, None), |ropes| (ropes.full_attention, ropes.sliding_attention));
    let mut thetas = [global.unwrap_or(defaults[0]), local.unwrap_or(defaults[1])];
    for (theta, rope) in thetas.iter_mut().zip([full, sliding]) {
        let Some(Rope { rope_theta, rope_type }) = rope else { continue };
        if let Some(kind) = rope_type.filter(|kind| kind != "default") {
            let what = format!("its `rope_type` is `{kind}`; only `default` is supported");
            return Err(keys.refuse(what, "use another model of the family"));
        }
        *theta = rope_theta.unwrap_or(*theta);
    }
    Ok(thetas)
}

/// What a classifier of this config.json reads.
pub(super) fn pooling(keys: &mut Keys<'_>) -> Result<HeadPooling> {
    match keys.take::<String>("classifier_pooling")?.as_deref() {
        None | Some("cls") => Ok(HeadPooling::Cls),
        Some("mean") => Ok(HeadPooling::Mean),
        Some(other) => Err(keys.refuse(
            format!("its `classifier_pooling` is `{other}`; only cls or mean is supported"),
            "use another model of the family",
        )),
    }
}

pub(super) fn write(config: &ModelConfig) -> Map<String, Value> {
    let options = layout(config);
    let pooling = match config.head.as_ref().map(|head| head.pooling) {
        Some(HeadPooling::Cls) => "cls",
        _ => "mean",
    };
    object(json!({
        "vocab_size": config.vocab_size,
        "hidden_size": config.embed_dim,
        "intermediate_size": config.hidden_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "hidden_activation": activation_name(options.activation),
        "classifier_activation": activation_name(options.activation),
        "max_position_embeddings": config.num_max_positions,
        "initializer_range": number(config.initializer_range),
        "norm_eps": number(options.norm_eps),
        "norm_bias": false,
        "attention_bias": false,
        "mlp_bias": false,
        "classifier_bias": false,
        "decoder_bias": true,
        "attention_dropout": number(config.attention_dropout()),
        "embedding_dropout": 0.0,
        "mlp_dropout": 0.0,
        "classifier_dropout": number(config.head.as_ref().and_then(|head| head.dropout).unwrap_or(0.0)),
        "classifier_pooling": pooling,
        "local_attention": 2 * options.window,
        "global_attn_every_n_layers": options.global_every,
        "global_rope_theta": number(options.rotary_theta),
        "local_rope_theta": number(options.local_rotary_theta),
    }))
}
