//! A causal or tutorial-like model of ours as `transformers` reads it with code of ours beside it.
//!
//! Owns: that code, and the config.json which it reads. Never: code of others, which is neither run nor passed on.

use serde_json::{Map, Value, json};

use crate::config::{Activation, HeadPooling, ModelConfig, ObjectiveName};
use crate::interop::config_json::describe_head;
use crate::model::layout;
use crate::tokenizer::RoleIds;

/// Names and contents of the files with the code.
pub const CODE_FILES: [(&str, &str); 2] = [
    ("configuration_headstart.py", include_str!("code/configuration_headstart.py")),
    ("modeling_headstart.py", include_str!("code/modeling_headstart.py")),
];

/// What such a config.json calls the model.
pub const CODE_MODEL_TYPE: &str = "headstart_decoder";

/// The classes in it that `transformers` finds by the class that a user names.
const CLASSES: [(&str, &str); 5] = [
    ("AutoConfig", "configuration_headstart.HeadstartConfig"),
    ("AutoModel", "modeling_headstart.HeadstartModel"),
    ("AutoModelForSequenceClassification", "modeling_headstart.HeadstartForSequenceClassification"),
    ("AutoModelForCausalLM", "modeling_headstart.HeadstartForCausalLM"),
    ("AutoModelForMaskedLM", "modeling_headstart.HeadstartForMaskedLM"),
];

/// The config.json of a model, for that code.
///
/// # Errors
/// Why the code has no form for the model: a sentence.
pub fn write_code_config(
    config: &ModelConfig,
    labels: &[String],
    roles: RoleIds,
    objective: Option<ObjectiveName>,
) -> Result<Map<String, Value>, String> {
    if config.arch.is_encoder() {
        return Err("code is written for models of the families naacl2019 and gpt2 only".into());
    }
    let options = layout(config);
    let pooled = config.head.as_ref().map(|head| head.pooling);
    let without = [
        (config.head_shape.hidden.is_some(), "hidden layer in its classifier"),
        (config.head_shape.layer_mix, "learned mix of all layers"),
        (options.token_types > 0, "token types"),
        (options.lm_transform || options.lm_bias, "a language model's head with parameters of its own"),
        (options.prediction_head || pooled == Some(HeadPooling::Pooler), "a linear below the classifier's"),
        (pooled.is_some_and(|pooled| pooled.parts().len() > 1), "several poolings side by side"),
        (options.cls_first, "[CLS] in the first place"),
        (config.embedding_size() != config.embed_dim, "embeddings of another width"),
        (
            !config.adapters.is_usual(),
            "adapters but those behind both sublayers, with the model's activation",
        ),
    ];
    if let Some((_, what)) = without.iter().find(|(has, _)| *has) {
        return Err(format!("the code that goes with it has no {what}"));
    }
    let class = match (&config.head, objective) {
        (Some(_), _) => "ForSequenceClassification",
        (None, Some(ObjectiveName::Lm)) => "ForCausalLM",
        (None, Some(ObjectiveName::Mlm)) => "ForMaskedLM",
        (None, None) => "Model",
    };
    let Value::Object(mut map) = json!({
        "model_type": CODE_MODEL_TYPE,
        "architectures": [format!("Headstart{class}")],
        "auto_map": CLASSES.map(|(name, class)| (name.to_owned(), Value::from(class))).into_iter().collect::<Map<_, _>>(),
        "vocab_size": config.vocab_size,
        "hidden_size": config.embed_dim,
        "intermediate_size": config.hidden_dim,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "max_position_embeddings": config.num_max_positions,
        "positions": config.positions,
        "causal": config.causal,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout(),
        "initializer_range": config.initializer_range,
        "adapters_dim": config.adapters_dim,
        "offset_token": config.offset_token,
        "pooling": pooled.unwrap_or_default(),
        "norm": options.norm,
        "norm_eps": options.norm_eps,
        "embedding_norm": options.embedding_norm,
        "final_norm": options.final_norm,
        "first_norm": options.first_norm,
        "activation": activation(options.activation),
        "gated": options.gated,
        "bias": options.bias,
        "norm_bias": options.norm_bias,
        "head_bias": options.head_bias,
        "position_offset": options.position_offset,
        "rotary_theta": options.rotary_theta,
        "local_rotary_theta": options.local_rotary_theta,
        "window": options.window,
        "global_every": options.global_every,
        "bos_token_id": roles.eos,
        "eos_token_id": roles.eos,
        "pad_token_id": roles.pad.unwrap_or(roles.eos),
        "torch_dtype": "float32",
    }) else {
        return Err("its settings are no JSON object".into());
    };
    if let Some(head) = &config.head {
        describe_head(&mut map, head, labels);
    }
    Ok(map)
}

/// Whether the code has a place for a parameter.
pub fn has_code(param: &str) -> bool {
    const BLOCK: [&str; 8] = [
        "norm_1",
        "norm_2",
        "attention.in_proj",
        "attention.out_proj",
        "feed_forward.up",
        "feed_forward.down",
        "adapter_attention",
        "adapter_feed_forward",
    ];
    const TRUNK: [&str; 5] =
        ["token_embedding", "position_embedding", "cls_offset", "embedding_norm", "final_norm"];
    let Some(name) = param.strip_suffix(".weight").or_else(|| param.strip_suffix(".bias")) else {
        return false;
    };
    let Some(trunk) = name.strip_prefix("transformer.") else { return name == "classification_head" };
    match trunk.strip_prefix("layers.").and_then(|rest| rest.split_once('.')) {
        Some((_, part)) if part.starts_with("adapter_") => {
            let adapter = part.strip_suffix(".down").or_else(|| part.strip_suffix(".up"));
            adapter.is_some_and(|adapter| BLOCK.contains(&adapter))
        }
        Some((_, part)) => BLOCK.contains(&part),
        None => TRUNK.contains(&trunk),
    }
}

fn activation(activation: Activation) -> &'static str {
    match activation {
        Activation::Relu => "relu",
        Activation::GeluTanh => "gelu_tanh",
        Activation::Gelu => "gelu",
        Activation::Silu => "silu",
        Activation::Tanh => "tanh",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Arch, HeadConfig, LayoutChanges, Problem};
    use crate::model::Model;

    fn roles() -> RoleIds {
        RoleIds { cls: 5, sep: 6, eos: 7, mask: 8, unk: 1, pad: None }
    }

    #[test]
    fn every_parameter_of_the_family_has_its_place_in_the_code() {
        let head = HeadConfig {
            num_classes: 2,
            pooling: HeadPooling::Cls,
            problem: Problem::SingleLabel,
            max_length: None,
            truncation: None,
            dropout: None,
        };
        let config = ModelConfig {
            vocab_size: 30,
            adapters_dim: Some(4),
            offset_token: Some(5),
            head: Some(head),
            layout: LayoutChanges {
                embedding_norm: Some(true),
                final_norm: Some(true),
                ..LayoutChanges::default()
            },
            ..ModelConfig::default()
        };
        let model = Model::new(&config).unwrap();
        assert!(model.table().params().len() > 100);
        for param in model.table().params() {
            assert!(has_code(&param.name), "{}", param.name);
        }
        for other in [
            "transformer.layers.0.attention.lora_a",
            "lm_head.bias",
            "classification_head.dense.weight",
            "x.weight",
        ] {
            assert!(!has_code(other), "{other}");
        }
    }

    #[test]
    fn the_configuration_has_what_the_code_reads() {
        let config = ModelConfig { vocab_size: 30, ..ModelConfig::default() };
        let map = write_code_config(&config, &[], roles(), Some(ObjectiveName::Lm)).unwrap();
        assert_eq!(map["architectures"], json!(["HeadstartForCausalLM"]));
        assert_eq!(
            (&map["norm"], &map["activation"], &map["positions"]),
            (&json!("stream"), &json!("relu"), &json!("learned"))
        );
        let [(_, configuration), (_, modeling)] = CODE_FILES;
        // Each of them is an argument of the class, but for what every class of `transformers` has.
        let common = [
            "model_type",
            "architectures",
            "auto_map",
            "bos_token_id",
            "eos_token_id",
            "pad_token_id",
            "torch_dtype",
        ];
        for key in map.keys().filter(|key| !common.contains(&key.as_str())) {
            assert!(configuration.contains(&format!("\n        {key}=")), "{key}");
            assert!(modeling.contains(&format!("config.{key}")), "{key}");
        }
        assert!(configuration.contains(&format!("model_type = \"{CODE_MODEL_TYPE}\"")));
        for (_, class) in CLASSES {
            let (file, class) = class.split_once('.').unwrap();
            let (_, text) = CODE_FILES.iter().find(|(name, _)| *name == format!("{file}.py")).unwrap();
            assert!(text.contains(&format!("class {class}(")), "{class}");
        }
    }

    #[test]
    fn what_the_code_has_no_form_for_is_refused() {
        let changed = |layout| ModelConfig { vocab_size: 30, layout, ..ModelConfig::default() };
        let types = changed(LayoutChanges { token_types: Some(2), ..LayoutChanges::default() });
        let first = changed(LayoutChanges { cls_first: Some(true), ..LayoutChanges::default() });
        let other = ModelConfig { arch: Arch::Bert, ..ModelConfig::default() };
        for (config, why) in
            [(types, "no token types"), (first, "no [CLS] in the first"), (other, "naacl2019 and gpt2 only")]
        {
            let refused = write_code_config(&config, &[], roles(), None).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
