//! The tokenizer of a published model, exactly: no piece is added to its vocabulary.
//!
//! Owns: the files of such a folder and what they say of each other, which tokens play the roles. Never: guesses a vocabulary,
//! applies what a file says of truncation, padding or templates (`data/template.rs` does that).

use std::path::Path;

use serde_json::{Map, Value, json};

use super::load::{self, PAD_NAMES, SEP_NAMES, bad};
use super::{Case, Role, RoleIds, Tokenizer};
use crate::error::{Error, Result};
use crate::files;

const CONFIG: &str = "tokenizer_config.json";
/// Special tokens by their roles, older than their place in tokenizer_config.json.
const SPECIAL: &str = "special_tokens_map.json";
/// Pieces behind those of the vocabulary, older than `added_tokens_decoder` in tokenizer_config.json.
const ADDED: &str = "added_tokens.json";

/// What stands beside a vocabulary.
#[derive(Debug, Default)]
struct Settings {
    config: Map<String, Value>,
    special: Map<String, Value>,
    added: Map<String, Value>,
}

pub(super) fn from_folder(folder: &Path) -> Result<Tokenizer> {
    let settings = Settings::read(folder)?;
    let [json, txt, vocab] = ["tokenizer.json", "vocab.txt", "vocab.json"].map(|name| folder.join(name));
    let (value, name) = if json.exists() {
        (load::json_value(&files::read_regular(&json)?, &json)?, json)
    } else if txt.exists() {
        (settings.word_piece(&load::vocab_pieces(&files::read_regular(&txt)?, &txt)?), txt)
    } else if vocab.exists() {
        (load::merges_value(&vocab, &files::read_regular(&vocab)?, Case::Keep)?, vocab)
    } else {
        return Err(without_vocabulary(folder));
    };
    let mut value = value;
    settings.lay_over(&mut value);
    if !name.ends_with("tokenizer.json") {
        settings.add_tokens(&mut value);
    }
    load::with_roles(value, &name, |pieces, unknown| settings.roles(pieces, unknown, &name))
}

fn without_vocabulary(folder: &Path) -> Error {
    let models = ["spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "spm.model"];
    match models.into_iter().find(|model| folder.join(model).exists()) {
        Some(model) => Error::Missing {
            what: format!("{} has its vocabulary in {model} alone", folder.display()),
            fix: "save the tokenizer with a library that writes a tokenizer.json from it".into(),
        },
        None => load::missing(folder),
    }
}

impl Settings {
    /// Reads what is there.
    fn read(folder: &Path) -> Result<Self> {
        let object = |name: &str| {
            let path = folder.join(name);
            if !path.exists() {
                return Ok(Map::new());
            }
            serde_json::from_slice(&files::read_regular(&path)?).map_err(|e| {
                bad(&path, Some(e.line() as u64).filter(|&l| l > 0), format!("is not a JSON object: {e}"))
            })
        };
        Ok(Self { config: object(CONFIG)?, special: object(SPECIAL)?, added: object(ADDED)? })
    }

    /// A special token by its key (`cls_token`), which is text or an object with its content.
    fn token(&self, key: &str) -> Option<&str> {
        let value = [&self.config, &self.special]
            .into_iter()
            .find_map(|from| from.get(key).filter(|v| !v.is_null()))?;
        value.as_str().or_else(|| value.get("content")?.as_str())
    }

    /// BERT's tokenizer. Where nothing says whether it lower-cases, a vocabulary without a Latin capital does.
    fn word_piece(&self, pieces: &[String]) -> Value {
        let capitals =
            |piece: &String| !piece.starts_with('[') && piece.bytes().any(|byte| byte.is_ascii_uppercase());
        let case = if pieces.iter().any(capitals) { Case::Keep } else { Case::Lower };
        let mut value = load::word_piece(pieces, case);
        if let Some(unknown) = self.token("unk_token").filter(|unknown| pieces.iter().any(|p| p == unknown)) {
            value["model"]["unk_token"] = unknown.into();
        }
        value
    }

    /// What tokenizer_config.json says of the text's way in counts more than a tokenizer.json.
    fn lay_over(&self, value: &mut Value) {
        let said = |key: &str| self.config.get(key).filter(|value| value.is_boolean());
        if let Some(normalizer) = value.get_mut("normalizer").filter(|n| n["type"] == "BertNormalizer") {
            for (key, theirs) in [
                ("lowercase", "do_lower_case"),
                ("strip_accents", "strip_accents"),
                ("handle_chinese_chars", "tokenize_chinese_chars"),
            ] {
                if let Some(on) = said(theirs) {
                    normalizer[key] = on.clone();
                }
            }
        }
        if let Some(splitter) = value.get_mut("pre_tokenizer").filter(|s| s["type"] == "ByteLevel")
            && let Some(on) = said("add_prefix_space")
        {
            splitter["add_prefix_space"] = on.clone();
        }
    }

    /// Puts the pieces that were added to a bare vocabulary behind its own.
    fn add_tokens(&self, value: &mut Value) {
        let known =
            |id: u64| value["model"]["vocab"].as_object().is_some_and(|v| v.values().any(|own| *own == id));
        let plain =
            self.added.iter().filter_map(|(piece, id)| Some((id.as_u64()?, json!({ "content": piece }))));
        let decoder = self.config.get("added_tokens_decoder").and_then(Value::as_object);
        let described =
            decoder.into_iter().flatten().filter_map(|(id, token)| Some((id.parse().ok()?, token.clone())));
        let mut tokens: Vec<Value> = Vec::new();
        for (id, token) in described.chain(plain) {
            if known(id) || tokens.iter().any(|other| other["id"] == id) {
                continue;
            }
            let is = |key: &str| token[key] == true;
            tokens.push(json!({
                "id": id, "content": token["content"], "single_word": is("single_word"), "lstrip": is("lstrip"),
                "rstrip": is("rstrip"), "normalized": token["normalized"] != false, "special": is("special"),
            }));
        }
        value["added_tokens"] = Value::Array(tokens);
    }

    /// Which tokens play the roles: those that the settings name, else those of the usual names, else another special one.
    fn roles(&self, pieces: &[String], unknown: Option<u32>, name: &Path) -> Result<RoleIds> {
        let id = |piece: &str| pieces.iter().position(|p| p == piece).map(|id| id as u32);
        let said = |key: &str| self.token(key).and_then(id);
        let usual = |names: &[&str]| names.iter().find_map(|name| id(name));
        let eos = said("eos_token").or_else(|| usual(Role::Eos.names()));
        let other =
            || said("sep_token").or_else(|| said("bos_token")).or(unknown).or_else(|| said("unk_token"));
        let Some(eos) = eos.or_else(other) else {
            let what =
                "has no special token: none is named in tokenizer_config.json, and none has a usual name";
            return Err(bad(name, None, what.into()));
        };
        let cls = || usual(Role::Cls.names()).or_else(|| usual(&["<s>"])).or_else(|| said("bos_token"));
        let unk = || said("unk_token").or_else(|| usual(Role::Unk.names()));
        Ok(RoleIds {
            cls: said("cls_token").or_else(cls).unwrap_or(eos),
            sep: said("sep_token").or_else(|| usual(&SEP_NAMES)).unwrap_or(eos),
            eos,
            mask: said("mask_token").or_else(|| usual(Role::Mask.names())).unwrap_or(eos),
            unk: unknown.or_else(unk).unwrap_or(eos),
            pad: said("pad_token").or_else(|| usual(&PAD_NAMES)),
        })
    }
}
