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
    } else if reads_cls(config) {
        followed([(piece(roles.cls), roles.cls), (piece(roles.sep), roles.sep)])
    } else if kept["type"] == "ByteLevel" {
        // It moves offsets and adds nothing.
        kept
    } else {
        Value::Null
    };
    whole.insert("post_processor".into(), post_processor);

    let special = special_tokens(config, &tokenizer);
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

/// Whether the model's classifier reads `[CLS]`.
fn reads_cls(config: &ModelConfig) -> bool {
    config.head.as_ref().is_some_and(|head| head.pooling.reads_cls())
}

/// The tutorial's special tokens: `[CLS]` behind the text, `[SEP]` between two.
fn followed([cls, sep]: [(&str, u32); 2]) -> Value {
    let token = |(piece, _): (&str, u32)| json!({"SpecialToken": {"id": piece, "type_id": 0}});
    let text = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
    json!({
        "type": "TemplateProcessing",
        "single": [text("A"), token(cls)],
        "pair": [text("A"), token(sep), text("B"), token(cls)],
        "special_tokens": described([cls, sep]),
    })
}

/// Ids of special tokens, as a template lists them.
fn described(tokens: [(&str, u32); 2]) -> Map<String, Value> {
    let described =
        |(piece, id): (&str, u32)| (piece.to_owned(), json!({"id": piece, "ids": [id], "tokens": [piece]}));
    tokens.map(described).into_iter().collect()
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
    json!({
        "type": "TemplateProcessing",
        "single": [token(cls, 0), text("A", 0), token(sep, 0)],
        "pair": pair,
        "special_tokens": described([cls, sep]),
    })
}

/// The tokens with a role, under the names that `transformers` has for the roles.
fn special_tokens(config: &ModelConfig, tokenizer: &Tokenizer) -> Map<String, Value> {
    let RoleIds { cls, sep, eos, mask, unk, pad } = tokenizer.roles();
    let arch = config.arch;
    let named = match arch {
        // Without a token for padding, the end of a text stands for it: no text is continued behind its end.
        Arch::Gpt2 | Arch::Naacl2019 => {
            let mut named = vec![
                ("bos_token", Some(eos)),
                ("eos_token", Some(eos)),
                ("unk_token", Some(unk)),
                ("pad_token", Some(pad.unwrap_or(eos))),
            ];
            if arch == Arch::Naacl2019 {
                named.extend([
                    ("cls_token", Some(cls)),
                    ("sep_token", Some(sep)),
                    ("mask_token", Some(mask)),
                ]);
            }
            named
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HeadPooling;
    use crate::config::{HeadConfig, Problem};
    use crate::data::template::Template;
    use crate::tokenizer::Case;

    const VOCABULARY: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\ncat\nsat\n";

    fn files(arch: Arch) -> (Tokenizer, TokenizerFiles) {
        let tokenizer =
            Tokenizer::from_vocab_bytes(VOCABULARY.as_bytes(), Case::Lower, Path::new("vocab.txt")).unwrap();
        let head = HeadConfig {
            num_classes: 2,
            pooling: HeadPooling::Mean,
            problem: Problem::SingleLabel,
            max_length: Some(20),
            truncation: None,
            dropout: None,
        };
        let config = ModelConfig { arch, num_max_positions: 30, head: Some(head), ..ModelConfig::default() };
        let files = tokenizer_files(&config, tokenizer.to_json().as_bytes(), tokenizer.roles()).unwrap();
        (tokenizer, files)
    }

    #[test]
    fn the_file_makes_the_inputs_that_a_template_makes() {
        for arch in [Arch::Bert, Arch::Roberta, Arch::Distilbert, Arch::Electra, Arch::Modernbert, Arch::Gpt2]
        {
            let (tokenizer, files) = files(arch);
            let theirs = tokenizers::Tokenizer::from_bytes(&files[0].1).unwrap();
            let template = Template::of(arch, HeadPooling::Mean, tokenizer.roles(), 20);
            let ids = |text: &str| tokenizer.encode(text).unwrap();
            let single = theirs.encode("the cat", true).unwrap();
            assert_eq!(single.get_ids(), template.encode(&ids("the cat"), None).input_ids, "{arch:?}");
            let pair = theirs.encode(("the cat", "sat"), true).unwrap();
            let ours = template.encode(&ids("the cat"), Some(&ids("sat")));
            assert_eq!(pair.get_ids(), ours.input_ids, "{arch:?}");
            if arch.is_encoder() {
                assert_eq!(pair.get_type_ids(), ours.token_type_ids().collect::<Vec<_>>(), "{arch:?}");
            }
        }
    }

    #[test]
    fn the_notes_name_what_a_family_has() {
        let notes = |arch| {
            let (_, [_, (_, settings), (_, special)]) = files(arch);
            let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
            (read(&settings), read(&special))
        };
        let (settings, special) = notes(Arch::Bert);
        assert_eq!(settings["model_max_length"], 20);
        assert_eq!(settings["model_input_names"].as_array().unwrap().len(), 3);
        let roles = ["cls_token", "sep_token", "mask_token", "unk_token", "pad_token"];
        assert_eq!(special.as_object().unwrap().keys().collect::<Vec<_>>(), roles);
        for arch in [Arch::Roberta, Arch::Distilbert, Arch::Modernbert, Arch::Gpt2] {
            assert_eq!(
                notes(arch).0["model_input_names"],
                json!(["input_ids", "attention_mask"]),
                "{arch:?}"
            );
        }
        assert_eq!(notes(Arch::Roberta).1["bos_token"], "[CLS]");
        assert_eq!(notes(Arch::Gpt2).1["eos_token"], "[SEP]");
    }
}
