//! Everything becomes one `tokenizer.json` value, is checked, gets its missing roles, and is built from that.
//!
//! Owns: the file kinds, the checks on ids, the roles. Never: downloads, guesses case or substitutes a vocabulary.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokenizers::models::bpe::BPE;
use tokenizers::models::unigram::Unigram;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::{
    DecoderWrapper, Model, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    TokenizerImpl,
};

use super::{AddedRole, CRATE, Case, Role, RoleIds, Tokenizer};
use crate::error::{Error, Result};
use crate::files;
use crate::guard::guarded;

/// The names of a padding token.
pub(super) const PAD_NAMES: [&str; 2] = ["[PAD]", "<pad>"];
/// The names of a token between two texts.
pub(super) const SEP_NAMES: [&str; 3] = ["[SEP]", "<sep>", "</s>"];

/// Vocabularies of real tokenizers stay well below this; a larger id is a damaged or hostile file.
const MAX_VOCAB: usize = 1 << 22;

/// What a tokenizer must encode and decode when it is loaded.
const PROBE: &str = "The cat sat, caf\u{e9} \u{fb01}\u{ff21}\u{4e2d}\u{1f600} 12.";

pub(super) fn from_file(path: &Path, case: Case) -> Result<Tokenizer> {
    if path.is_dir() {
        return from_folder(path, case);
    }
    if !path.exists() {
        return Err(missing(path));
    }
    let bytes = files::read_regular(path)?;
    match path.extension().and_then(|e| e.to_str()) {
        Some("txt") => from_vocab_bytes(&bytes, case, path),
        Some("json") if path.file_name().is_some_and(|n| n == "vocab.json") => {
            from_merges(path, &bytes, case)
        }
        Some("json") if case == Case::Lower => Err(Error::Config {
            key: "lowercase".into(),
            what: format!("{} decides itself whether it lower-cases", path.display()),
            fix: "leave `--lowercase` out; it is for a bare vocab.txt".into(),
        }),
        _ => from_json_bytes(&bytes, path),
    }
}

fn from_folder(folder: &Path, case: Case) -> Result<Tokenizer> {
    let json = folder.join("tokenizer.json");
    if json.exists() {
        return from_file(&json, case);
    }
    let names = ["vocab.txt", "vocab.json"];
    let Some(vocab) = names.iter().map(|n| folder.join(n)).find(|p| p.exists()) else {
        return Err(missing(folder));
    };
    // Hugging Face folders of before `tokenizer.json` keep the case beside the vocabulary.
    let config = files::read_regular(&folder.join("tokenizer_config.json")).ok();
    let config = config.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok()).unwrap_or_default();
    let lower = config["do_lower_case"].as_bool() == Some(true);
    from_file(&vocab, if lower { Case::Lower } else { case })
}

pub(super) fn from_json_bytes(bytes: &[u8], name: &Path) -> Result<Tokenizer> {
    from_value(json_value(bytes, name)?, name)
}

/// The content of a tokenizer.json.
pub(super) fn json_value(bytes: &[u8], name: &Path) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|e| {
        let what = format!("is not a tokenizer.json: {e}");
        bad(name, Some(e.line() as u64).filter(|&l| l > 0), what)
    })
}

pub(super) fn from_vocab_bytes(bytes: &[u8], case: Case, name: &Path) -> Result<Tokenizer> {
    from_value(word_piece(&vocab_pieces(bytes, name)?, case), name)
}

/// The pieces of a vocab.txt.
pub(super) fn vocab_pieces(bytes: &[u8], name: &Path) -> Result<Vec<String>> {
    let mut vocab: HashMap<&str, usize> = HashMap::new();
    let mut pieces = Vec::new();
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    for (at, line) in bytes.split(|&b| b == b'\n').enumerate() {
        let number = Some(at as u64 + 1);
        let piece = std::str::from_utf8(line.strip_suffix(b"\r").unwrap_or(line))
            .map_err(|e| bad(name, number, format!("byte {} is not valid UTF-8", e.valid_up_to() + 1)))?;
        let unusable = |what: String| Error::BadInput {
            path: name.to_path_buf(),
            line: number,
            what,
            fix: format!("ids are line numbers, so put a piece of its own there, such as `[unused_{at}]`"),
        };
        if piece.is_empty() {
            return Err(unusable("an empty line in a vocabulary, which is one piece a line".into()));
        }
        if let Some(first) = vocab.insert(piece, at) {
            return Err(unusable(format!("the piece `{piece}` stands on line {} already", first + 1)));
        }
        pieces.push(piece.to_owned());
    }
    Ok(pieces)
}

fn from_merges(vocab_path: &Path, vocab: &[u8], case: Case) -> Result<Tokenizer> {
    from_value(merges_value(vocab_path, vocab, case)?, vocab_path)
}

/// GPT-2's pair of files: the vocabulary as one JSON object and the merges as lines.
pub(super) fn merges_value(vocab_path: &Path, vocab: &[u8], case: Case) -> Result<Value> {
    let vocab: Value = serde_json::from_slice(vocab)
        .map_err(|e| bad(vocab_path, Some(e.line() as u64), format!("is not a vocabulary in JSON: {e}")))?;
    let path = vocab_path.with_file_name("merges.txt");
    let text = String::from_utf8(files::read_regular(&path)?)
        .map_err(|e| bad(&path, None, format!("is not UTF-8: {e}")))?;
    let mut merges = Vec::new();
    for (at, line) in text.lines().enumerate() {
        if line.starts_with("#version") || line.is_empty() {
            continue;
        }
        let Some((left, right)) = line.split_once(' ') else {
            return Err(bad(&path, Some(at as u64 + 1), "a merge is two pieces with a space between".into()));
        };
        merges.push(json!([left, right]));
    }
    Ok(byte_level_bpe(&vocab, &merges, case))
}

/// The `tokenizer.json` of a BERT vocabulary.
pub(super) fn word_piece(pieces: &[String], case: Case) -> Value {
    let vocab: Map<String, Value> = pieces.iter().enumerate().map(|(id, p)| (p.clone(), json!(id))).collect();
    let names = Role::Unk.names();
    let unknown = names.iter().copied().find(|n| vocab.contains_key(*n)).unwrap_or(names[0]);
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": case == Case::Lower,
        },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": null,
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": {
            "type": "WordPiece", "unk_token": unknown, "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab,
        },
    })
}

/// The `tokenizer.json` of a byte-level BPE like GPT-2's.
pub(super) fn byte_level_bpe(vocab: &Value, merges: &[Value], case: Case) -> Value {
    let normalizer = if case == Case::Lower { json!({ "type": "Lowercase" }) } else { Value::Null };
    let byte_level =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": normalizer,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": merges,
        },
    })
}

/// Checks the ids, adds the missing roles and builds the tokenizer.
pub(super) fn from_value(mut value: Value, name: &Path) -> Result<Tokenizer> {
    prepare(&mut value, name)?;
    let had_unknown = ensure_model_unknown(&mut value);
    let (mut pieces, model_unknown) = pieces_and_unknown(&value, name)?;
    let id_of = |pieces: &[String], name: &str| pieces.iter().position(|p| p == name).map(|id| id as u32);
    let mut added = Vec::new();
    if let Some((piece, id)) = had_unknown {
        added.push(AddedRole { role: Role::Unk, piece, id });
    }
    let mut find = |role: Role, known: Option<u32>| {
        let by_name = role.names().iter().find_map(|n| id_of(&pieces, n));
        known.or(by_name).unwrap_or_else(|| {
            let (piece, id) = (role.names()[0].to_owned(), pieces.len() as u32);
            pieces.push(piece.clone());
            added.push(AddedRole { role, piece, id });
            id
        })
    };
    let [unk, cls, eos, mask] = Role::ALL.map(|role| find(role, model_unknown.filter(|_| role == Role::Unk)));
    let named = |names: &[&str]| names.iter().find_map(|n| id_of(&pieces, n));
    // A separator is not added: two texts can stand with an end of line between them.
    let (sep, pad) = (named(&SEP_NAMES).unwrap_or(eos), named(&PAD_NAMES));
    let roles = RoleIds { cls, sep, eos, mask, unk, pad };
    declare_special(&mut value, &pieces, roles);
    build(&value, pieces, roles, added, name)
}

/// As [`from_value`], but no piece is added: the vocabulary has as many as before, and `choose` says which of them play the
/// roles. It is given the pieces by id, and the id of what the model itself says for text it cannot spell.
pub(super) fn with_roles(
    mut value: Value,
    name: &Path,
    choose: impl FnOnce(&[String], Option<u32>) -> Result<RoleIds>,
) -> Result<Tokenizer> {
    prepare(&mut value, name)?;
    if let Some((piece, _)) = ensure_model_unknown(&mut value) {
        return Err(bad(name, None, format!("its unknown token `{piece}` is not in its vocabulary")));
    }
    let (pieces, model_unknown) = pieces_and_unknown(&value, name)?;
    let roles = choose(&pieces, model_unknown)?;
    let RoleIds { cls, sep, eos, mask, unk, pad } = roles;
    let ids = [cls, sep, eos, mask, unk].into_iter().chain(pad);
    if let Some(id) = ids.into_iter().find(|&id| id as usize >= pieces.len()) {
        let what = format!("there are only {} pieces, and a special token has the id {id}", pieces.len());
        return Err(bad(name, None, what));
    }
    declare_special(&mut value, &pieces, roles);
    build(&value, pieces, roles, Vec::new(), name)
}

/// The roles of a vocabulary that has all of them under names of theirs; `unknown` is what its model says it is.
pub(super) fn roles_by_name(pieces: &[String], unknown: Option<u32>) -> Option<RoleIds> {
    let named =
        |names: &[&str]| names.iter().find_map(|n| pieces.iter().position(|p| p == n)).map(|id| id as u32);
    let eos = named(Role::Eos.names())?;
    Some(RoleIds {
        cls: named(Role::Cls.names())?,
        sep: named(&SEP_NAMES).unwrap_or(eos),
        eos,
        mask: named(Role::Mask.names())?,
        unk: unknown.or_else(|| named(Role::Unk.names()))?,
        pad: named(&PAD_NAMES),
    })
}

/// Takes out what would change the ids behind our back (what cuts, pads or drops at random), and fills the holes.
fn prepare(value: &mut Value, name: &Path) -> Result<()> {
    if !value["model"].is_object() {
        return Err(bad(name, None, "is not a tokenizer.json: it has no `model`".into()));
    }
    for key in ["truncation", "padding"] {
        value[key] = Value::Null;
    }
    if value["model"].get("dropout").is_some() {
        value["model"]["dropout"] = Value::Null;
    }
    fill_holes(value, name)
}

/// The pieces by id, and the id of what the model itself says for text it cannot spell.
fn pieces_and_unknown(value: &Value, name: &Path) -> Result<(Vec<String>, Option<u32>)> {
    let pieces = collect_pieces(value, name)?;
    let unknown = model_unknown(value, &value["model"]);
    if let Some(id) = unknown.filter(|&id| id >= pieces.len() as u64) {
        let what = format!("its unknown token has the id {id}, but there are only {} pieces", pieces.len());
        return Err(bad(name, None, what));
    }
    Ok((pieces, unknown.map(|id| id as u32)))
}

/// Gives ids below the highest that no piece has a piece which no text is spelled with, so that ids fill 0..n. Hugging
/// Face leaves such holes where a vocabulary was cut, or where added tokens begin at a round number.
fn fill_holes(value: &mut Value, name: &Path) -> Result<()> {
    let added = value["added_tokens"].as_array().into_iter().flatten();
    let added = added.filter_map(|t| Some((t["id"].as_u64()?, t["content"].as_str()?.to_owned())));
    let added: HashMap<u64, String> = added.collect();
    let vocab = &mut value["model"]["vocab"];
    let mut ids: Vec<u64> = match &vocab {
        Value::Object(vocab) => vocab.values().filter_map(Value::as_u64).collect(),
        Value::Array(scored) => (0..scored.len() as u64).collect(),
        _ => return Ok(()),
    };
    ids.extend(added.keys());
    let Some(&highest) = ids.iter().max() else { return Ok(()) };
    // Of more holes than pieces, the file is not one of a vocabulary.
    let sparse = |pieces: usize| {
        let what = format!("has {pieces} pieces, but ids up to {highest}: most of them stand for nothing");
        Err(bad(name, None, what))
    };
    if highest >= MAX_VOCAB as u64 {
        return sparse(ids.len());
    }
    let mut taken = vec![false; highest as usize + 1];
    for id in ids {
        taken[id as usize] = true;
    }
    let pieces = taken.iter().filter(|taken| **taken).count();
    if highest + 1 > 2 * pieces as u64 {
        return sparse(pieces);
    }
    let is_hole = |id: &u64| !taken[*id as usize];
    // A space never stands inside a word, and no merge makes one of these.
    let piece = |id: u64| format!("[no piece {id}]");
    match vocab {
        Value::Object(vocab) => {
            for id in (0..highest).filter(is_hole) {
                vocab.insert(piece(id), json!(id));
            }
        }
        Value::Array(scored) => {
            // The array's places are its ids, so what stands between it and a hole comes along.
            let last_hole = (0..highest).rev().find(is_hole);
            for id in scored.len() as u64..last_hole.map_or(0, |id| id + 1) {
                scored.push(json!([added.get(&id).cloned().unwrap_or_else(|| piece(id)), -1e9]));
            }
        }
        _ => {}
    }
    Ok(())
}

/// A WordPiece or WordLevel model fails on unknown words unless its own vocabulary has its unknown token. Returns the
/// piece and id where it had to be added.
fn ensure_model_unknown(value: &mut Value) -> Option<(String, u32)> {
    if !matches!(value["model"]["type"].as_str(), Some("WordPiece" | "WordLevel")) {
        return None;
    }
    let unknown = value["model"]["unk_token"].as_str()?.to_owned();
    let vocab = value["model"]["vocab"].as_object_mut()?;
    if vocab.contains_key(&unknown) {
        return None;
    }
    let id = vocab.len() as u32;
    vocab.insert(unknown.clone(), json!(id));
    Some((unknown, id))
}

/// The id of what the model itself says for text it cannot spell. GPT-2's end-of-text token in that place does not
/// count: it is the end of the line.
fn model_unknown(value: &Value, model: &Value) -> Option<u64> {
    match (&model["unk_token"], &model["unk_id"]) {
        (Value::String(piece), _) if !Role::Eos.names().contains(&piece.as_str()) => {
            let in_added = || value["added_tokens"].as_array()?.iter().find(|t| t["content"] == **piece);
            model["vocab"].get(piece).and_then(Value::as_u64).or_else(|| in_added()?["id"].as_u64())
        }
        (_, id) => id.as_u64(),
    }
}

/// The pieces by id: the model's vocabulary and the added tokens, which must fill 0..n without gap or conflict.
fn collect_pieces(value: &Value, name: &Path) -> Result<Vec<String>> {
    let mut entries: Vec<(&str, u64)> = Vec::new();
    let vocab = &value["model"]["vocab"];
    match vocab {
        Value::Object(vocab) => {
            for (piece, id) in vocab {
                let id = id.as_u64();
                entries.push((
                    piece,
                    id.ok_or_else(|| bad(name, None, format!("the id of `{piece}` is not a number")))?,
                ));
            }
        }
        Value::Array(scored) => {
            for (id, entry) in scored.iter().enumerate() {
                let piece = entry.get(0).and_then(Value::as_str);
                entries.push((
                    piece.ok_or_else(|| bad(name, None, format!("piece {id} is not text")))?,
                    id as u64,
                ));
            }
        }
        _ => return Err(bad(name, None, "has no vocabulary (`model.vocab`)".into())),
    }
    let of_model = entries.len();
    for token in value["added_tokens"].as_array().into_iter().flatten() {
        match (token["content"].as_str(), token["id"].as_u64()) {
            (Some(piece), Some(id)) => entries.push((piece, id)),
            _ => return Err(bad(name, None, format!("an added token without `content` or `id`: {token}"))),
        }
    }
    let distinct = |entries: &[(&str, u64)]| entries.iter().map(|e| e.0).collect::<HashSet<_>>().len();
    let count = match vocab {
        // The keys of an object are distinct, so only the few added tokens have to be looked up.
        Value::Object(vocab) => {
            let mut added = entries[of_model..].to_vec();
            added.retain(|(piece, _)| !vocab.contains_key(*piece));
            of_model + distinct(&added)
        }
        _ => distinct(&entries),
    };
    if count == 0 || count > MAX_VOCAB {
        return Err(bad(name, None, format!("has a vocabulary of {count} pieces")));
    }
    let mut pieces: Vec<Option<&str>> = vec![None; count];
    for (piece, id) in entries {
        match pieces.get_mut(id as usize) {
            Some(slot @ None) => *slot = Some(piece),
            Some(Some(other)) if *other == piece => {}
            Some(Some(other)) => {
                return Err(bad(name, None, format!("`{other}` and `{piece}` both have the id {id}")));
            }
            None => {
                let what =
                    format!("`{piece}` has the id {id}, but there are only {count} pieces (0 to n - 1)");
                return Err(bad(name, None, what));
            }
        }
    }
    // As many slots as distinct pieces, and each piece has one: a second id of a piece has met another's above.
    Ok(pieces.into_iter().flatten().map(str::to_owned).collect())
}

/// Lists the roles among the added tokens, as special ones, so that text never matches them.
fn declare_special(value: &mut Value, pieces: &[String], roles: RoleIds) {
    let mut tokens: Vec<Value> = match value["added_tokens"].take() {
        Value::Array(tokens) => tokens,
        _ => Vec::new(),
    };
    let wanted = [roles.unk, roles.cls, roles.sep, roles.eos, roles.mask];
    for id in wanted.into_iter().chain(roles.pad) {
        match tokens.iter_mut().find(|t| t["id"].as_u64() == Some(u64::from(id))) {
            Some(token) => token["special"] = json!(true),
            None => tokens.push(json!({
                "id": id, "content": pieces[id as usize], "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true,
            })),
        }
    }
    // The library numbers added tokens in the order in which it meets them.
    tokens.sort_by_key(|t| t["id"].as_u64());
    value["added_tokens"] = Value::Array(tokens);
}

fn build(
    value: &Value,
    pieces: Vec<String>,
    roles: RoleIds,
    added: Vec<AddedRole>,
    name: &Path,
) -> Result<Tokenizer> {
    let unusable = |e: tokenizers::Error| bad(name, None, format!("is not a usable tokenizer: {e}"));
    let inner = guarded(CRATE, || {
        let mut inner = deserialized(value)?;
        inner.set_encode_special_tokens(true);
        // What is wrong with a normalizer or a decoder shows only in its use. That it has no way to say that a character
        // is unknown is no fault of this text's.
        if let Ok(encoded) = inner.encode_fast(PROBE, false) {
            let _ = inner.decode(encoded.get_ids(), false);
        }
        Ok(inner)
    });
    let inner = inner.unwrap_or_else(|reason| Err(reason.into())).map_err(unusable)?;
    let mut reserved = HashSet::new();
    for token in value["added_tokens"].as_array().into_iter().flatten() {
        let (piece, id) = (token["content"].as_str().unwrap_or_default(), token["id"].as_u64());
        if inner.token_to_id(piece).map(u64::from) != id {
            return Err(bad(name, None, format!("the added token `{piece}` does not keep its id {id:?}")));
        }
        if token["special"] == true {
            reserved.extend(id.map(|id| id as u32));
        }
    }
    reserved.remove(&roles.unk);
    Ok(Tokenizer { inner, pieces, roles, added, reserved, name: name.into(), json: OnceLock::new() })
}

/// The tokenizer of a `tokenizer.json`. Of a model that names its kind only that kind is read: what the library does to find
/// the kind out copies the vocabulary twice, half the time of loading it.
fn deserialized(value: &Value) -> std::result::Result<tokenizers::Tokenizer, tokenizers::Error> {
    fn of<'a, M: Model + Into<ModelWrapper> + Deserialize<'a>>(
        value: &'a Value,
    ) -> std::result::Result<tokenizers::Tokenizer, serde_json::Error> {
        type Of<M> =
            TokenizerImpl<M, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;
        Of::<M>::deserialize(value).map(Into::into)
    }
    Ok(match value["model"]["type"].as_str() {
        Some("WordPiece") => of::<WordPiece>(value)?,
        Some("BPE") => of::<BPE>(value)?,
        Some("WordLevel") => of::<WordLevel>(value)?,
        Some("Unigram") => of::<Unigram>(value)?,
        _ => of::<ModelWrapper>(value)?,
    })
}

pub(super) fn bad(path: &Path, line: Option<u64>, what: String) -> Error {
    let fix = "use a tokenizer.json or vocab.txt as Hugging Face writes them, or `headstart tokenizer train`";
    Error::BadInput { path: path.to_path_buf(), line, what, fix: fix.into() }
}

pub(super) fn missing(path: &Path) -> Error {
    Error::Missing {
        what: format!("no tokenizer at {}", path.display()),
        fix: "name a tokenizer.json, a vocab.txt or a folder with one of them, or make one with \
              `headstart tokenizer train`"
            .into(),
    }
}
