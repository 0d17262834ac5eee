//! A tokenizer as `transformers` wants it beside a model, so that it makes the inputs that this program makes.
//!
//! Owns: tokenizer.json's special tokens around texts, tokenizer_config.json, special_tokens_map.json. Never: what a text
//! becomes between them, which tokenizer.json says already.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::config::{Arch, ModelConfig};
use crate::error::{Error, Result};
use crate::interop::schema::object;
use crate::model::layout;
use crate::tokenizer::{RoleIds, Tokenizer};

/// Names and contents of a tokenizer's files.
pub type TokenizerFiles = [(&'static str, String); 3];

/// The files for a model of these sizes.
///
/// # Errors
/// [`Error::BadInput`] when the tokenizer is unusable.
pub fn tokenizer_files(
    config: &ModelConfig,
    tokenizer_json: &[u8],
    roles: RoleIds,
) -> Result<TokenizerFiles> {
    let name = Path::new("tokenizer.json");
    let tokenizer = Tokenizer::from_json_bytes_with_roles(tokenizer_json, name, roles)?;
    let mut whole: Map<String, Value> =
        serde_json::from_slice(tokenizer_json).map_err(|e| Error::BadInput {
            path: name.to_path_buf(),
            line: None,
            what: format!("is not a tokenizer.json: {e}"),
            fix: "put back the tokenizer.json that came with the model".into(),
        })?;
    let piece = |id: u32| tokenizer.id_to_piece(id).unwrap_or_default();
    let kept = whole.remove("post_processor").unwrap_or_default();
    let post_processor = if config.arch.is_encoder() {
        surrounded(config.arch, [(piece(roles.cls), roles.cls), (piece(roles.sep), roles.sep)])
    } else if kept["type"] == "ByteLevel" {
        // It moves offsets and adds nothing.
        kept
    } else {
        Value::Null
    };
    whole.insert("post_processor".into(), post_processor);

    let special = special_tokens(config.arch, &tokenizer);
    let mut settings = object(json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.max_length(),
        "padding_side": "right",
        "truncation_side": "right",
        "clean_up_tokenization_spaces": false,
        "model_input_names": input_names(config),
    }));
    settings.extend(special.clone());
    let text = |map: Map<String, Value>| format!("{:#}\n", Value::Object(map));
    Ok([
        ("tokenizer.json", Value::Object(whole).to_string()),
        ("tokenizer_config.json", text(settings)),
        ("special_tokens_map.json", text(special)),
    ])
}

/// What a model reads. One without token types would refuse them.
fn input_names(config: &ModelConfig) -> Value {
    if layout(config).token_types >= 2 {
        json!(["input_ids", "token_type_ids", "attention_mask"])
    } else {
        json!(["input_ids", "attention_mask"])
    }
}

/// An encoder's special tokens around one text and around two: BERT's, or RoBERTa's with two separators between and no types.
fn surrounded(arch: Arch, [cls, sep]: [(&str, u32); 2]) -> Value {
    let roberta = arch == Arch::Roberta;
    let second = u32::from(!roberta);
    let token = |(piece, _): (&str, u32), kind: u32| json!({"SpecialToken": {"id": piece, "type_id": kind}});
    let text = |name: &str, kind: u32| json!({"Sequence": {"id": name, "type_id": kind}});
    let mut pair = vec![token(cls, 0), text("A", 0), token(sep, 0)];
    if roberta {
        pair.push(token(sep, 0));
    }
    pair.extend([text("B", second), token(sep, second)]);
    let tokens = [cls, sep]
        .map(|(piece, id)| (piece.to_owned(), json!({"id": piece, "ids": [id], "tokens": [piece]})));
    json!({
        "type": "TemplateProcessing",
        "single": [token(cls, 0), text("A", 0), token(sep, 0)],
        "pair": pair,
        "special_tokens": Map::from_iter(tokens),
    })
}

/// The tokens with a role, under the names that `transformers` has for the roles.
fn special_tokens(arch: Arch, tokenizer: &Tokenizer) -> Map<String, Value> {
    let RoleIds { cls, sep, eos, mask, unk, pad } = tokenizer.roles();
    let named = match arch {
        // Without a token for padding, the end of a text stands for it: no text is continued behind its end.
        Arch::Gpt2 | Arch::Naacl2019 => vec![
            ("bos_token", Some(eos)),
            ("eos_token", Some(eos)),
            ("unk_token", Some(unk)),
            ("pad_token", Some(pad.unwrap_or(eos))),
        ],
        Arch::Bert | Arch::Roberta | Arch::Distilbert | Arch::Electra | Arch::Modernbert => {
            let mut named = vec![
                ("cls_token", Some(cls)),
                ("sep_token", Some(sep)),
                ("mask_token", Some(mask)),
                ("unk_token", Some(unk)),
                ("pad_token", pad),
            ];
            if arch == Arch::Roberta {
                named.extend([("bos_token", Some(cls)), ("eos_token", Some(sep))]);
            }
            named
        }
    };
    let piece = |id: Option<u32>| tokenizer.id_to_piece(id?).map(Value::from);
    named.into_iter().filter_map(|(key, id)| Some((key.to_owned(), piece(id)?))).collect()
}
