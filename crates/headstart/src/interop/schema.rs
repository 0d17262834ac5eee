//! A config.json key by key: every one is used, known to be harmless, or refused by name.
//!
//! Owns: the harmless keys, the refusals. Never: what a key means for a family.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::config::Activation;
use crate::error::{Error, Result};

/// Keys of every family that change nothing of what a model computes: bookkeeping (TinyBERT's among it), memory, ids that the tokenizer says,
/// what sentence-transformers does behind a cross-encoder's number, and the settings of text generation that old versions of `transformers`
/// wrote into every file.
const HARMLESS: &[&str] = &[
    "_name_or_path",
    "_commit_hash",
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_num_labels",
    "attn_implementation",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "cell",
    "chunk_size_feed_forward",
    "cls_token_id",
    "custom_pipelines",
    "decoder_start_token_id",
    "directionality",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "emb_size",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "initializer_cutoff_factor",
    "language",
    "length_penalty",
    "mask_token_id",
    "max_length",
    "min_length",
    "model_max_length",
    "name",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_past",
    "output_scores",
    "pad_token_id",
    "pooler_fc_size",
    "pooler_num_attention_heads",
    "pooler_num_fc_layers",
    "pooler_size_per_head",
    "pooler_type",
    "pre_trained",
    "prefix",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sentence_transformers",
    "sep_token_id",
    "structure",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "training",
    "transformers_version",
    "transformers_weights",
    "typical_p",
    "use_bfloat16",
    "use_cache",
    "unk_token_id",
    "xla_device",
];

/// Keys that must say what everything here is, where they are there.
fn settled() -> [(&'static str, Value); 5] {
    [
        ("is_decoder", json!(false)),
        ("is_encoder_decoder", json!(false)),
        ("add_cross_attention", json!(false)),
        ("cross_attention_hidden_size", Value::Null),
        ("pruned_heads", json!({})),
    ]
}

/// The keys that are left.
pub(super) struct Keys<'a> {
    path: &'a Path,
    map: Map<String, Value>,
    unused: Vec<String>,
}

impl<'a> Keys<'a> {
    /// Reads the file's text.
    pub(super) fn parse(path: &'a Path, text: &[u8]) -> Result<Self> {
        let map = serde_json::from_slice(text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text))
            .map_err(|e| refused(path, format!("is not a JSON object: {e}"), "fetch the file again"))?;
        let mut keys = Self { path, map, unused: Vec::new() };
        if keys.map.contains_key("auto_map") {
            let what = "its `auto_map` asks for the model's own Python code, which is never run here: a model is data";
            return Err(
                keys.refuse(what.into(), "use a model of a family that `headstart models list` names")
            );
        }
        if keys.map.get("quantization_config").is_some_and(|value| !value.is_null()) {
            let what =
                "its weights are quantised (`quantization_config`), and nothing could be trained from them";
            return Err(keys.refuse(what.into(), "use the original model, in F32, F16 or BF16"));
        }
        keys.map.remove("quantization_config");
        for (key, value) in settled() {
            keys.only(key, &[value])?;
        }
        Ok(keys)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// A key that may be missing or null.
    pub(super) fn take<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>> {
        match self.map.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match serde_json::from_value(value.clone()) {
                Ok(taken) => Ok(Some(taken)),
                Err(e) => Err(self.refuse(
                    format!("its `{key}` is {value}: {e}"),
                    "put back the config.json that came with the model",
                )),
            },
        }
    }

    /// A key that must be there.
    pub(super) fn need<T: DeserializeOwned>(&mut self, key: &str) -> Result<T> {
        match self.take(key)? {
            Some(value) => Ok(value),
            None => {
                Err(self
                    .refuse(format!("it lacks `{key}`"), "put back the config.json that came with the model"))
            }
        }
    }

    /// A key that may be missing, and else has one of these values: the others are not computed here.
    pub(super) fn only(&mut self, key: &str, values: &[Value]) -> Result<()> {
        match self.map.remove(key) {
            Some(value) if !values.contains(&value) && !value.is_null() => {
                let known: Vec<String> = values.iter().map(Value::to_string).collect();
                let what = format!("its `{key}` is {value}; only {} is supported", known.join(" or "));
                Err(self.refuse(what, "use another model of the family"))
            }
            _ => Ok(()),
        }
    }

    /// A key of the family that changes nothing here.
    pub(super) fn skip(&mut self, keys: &[&str]) {
        for key in keys {
            if self.map.remove(*key).is_some() {
                self.unused.push((*key).to_owned());
            }
        }
    }

    /// An activation by the name that `transformers` has for it.
    pub(super) fn activation(&mut self, key: &str, default: Activation) -> Result<Activation> {
        let Some(name) = self.take::<String>(key)? else { return Ok(default) };
        activation_of(&name).ok_or_else(|| {
            self.refuse(
                format!("its `{key}` is `{name}`; gelu, gelu_new, relu, silu and tanh are supported"),
                "use another model of the family",
            )
        })
    }

    /// Refuses what nobody asked for; gives the harmless keys that were passed over.
    pub(super) fn finish(mut self) -> Result<Vec<String>> {
        let (harmless, unknown): (Vec<String>, Vec<String>) =
            self.map.keys().cloned().partition(|key| HARMLESS.contains(&key.as_str()));
        if !unknown.is_empty() {
            let what = format!(
                "it has {} this program does not know, and which may change what the model computes: `{}`",
                if unknown.len() == 1 { "a key that" } else { "keys that" },
                unknown.join("`, `")
            );
            return Err(self.refuse(what, "if it changes nothing, copy the model's folder, take it out of config.json there, and name the copy"));
        }
        self.unused.extend(harmless);
        self.unused.sort();
        Ok(self.unused)
    }

    pub(super) fn refuse(&self, what: String, fix: &str) -> Error {
        refused(self.path, what, fix)
    }
}

fn refused(path: &Path, what: String, fix: &str) -> Error {
    Error::Checkpoint { path: path.to_path_buf(), what, fix: fix.into() }
}

/// The activation that has this name in `transformers`.
pub(super) fn activation_of(name: &str) -> Option<Activation> {
    match name {
        "gelu" | "gelu_python" => Some(Activation::Gelu),
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Some(Activation::GeluTanh),
        "relu" => Some(Activation::Relu),
        "silu" | "swish" => Some(Activation::Silu),
        "tanh" => Some(Activation::Tanh),
        _ => None,
    }
}

/// The name that `transformers` has for an activation.
pub(super) fn activation_name(activation: Activation) -> &'static str {
    match activation {
        Activation::Relu => "relu",
        Activation::GeluTanh => "gelu_new",
        Activation::Gelu => "gelu",
        Activation::Silu => "silu",
        Activation::Tanh => "tanh",
    }
}

/// A number as it is written, so that 0.1_f32 becomes 0.1 and not 0.10000000149011612.
pub(crate) fn number(value: f32) -> Value {
    serde_json::from_str(&value.to_string()).unwrap_or_default()
}

/// The map of a JSON object.
pub(super) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
