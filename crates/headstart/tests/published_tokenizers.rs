//! Tokenizers as models are published with them: ids equal to those of `transformers`, which `tools/interop.py` wrote.
//!
//! Owns: the comparison, and that what is saved of such a tokenizer is the same one. Never: makes a vocabulary.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests; a panic is their report

use std::path::{Path, PathBuf};

use headstart::config::{Arch, HeadPooling};
use headstart::data::template::Template;
use headstart::tokenizer::{RoleIds, Tokenizer};
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tokenizers")
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Ids and token types of an input; where the second text has type 1, the file says where it begins.
fn input(value: &Value) -> (Vec<u32>, Vec<u32>) {
    let ids = ids(&value[0]);
    let second = value[1].as_u64().map_or(ids.len(), |at| at as usize);
    let types = (0..ids.len()).map(|at| u32::from(at >= second)).collect();
    (ids, types)
}

#[test]
fn ids_are_those_of_transformers() {
    let text = std::fs::read_to_string(folder().join("ids.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let texts: Vec<&str> = golden["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    let cut: Vec<usize> = ids(&golden["cut"]).into_iter().map(|n| n as usize).collect();
    assert!(texts.len() > 40);
    for (name, arch) in [
        ("bert_uncased", Arch::Bert),
        ("bert_cased", Arch::Bert),
        ("roberta", Arch::Roberta),
        ("gpt2", Arch::Gpt2),
    ] {
        let opened = Tokenizer::published(&folder().join(name)).unwrap();
        let json = opened.to_json().as_bytes();
        let saved = Tokenizer::from_json_bytes_with_roles(json, Path::new("saved"), opened.roles()).unwrap();
        assert_eq!((saved.to_json(), saved.content_hash()), (opened.to_json(), opened.content_hash()));
        assert_eq!((saved.roles(), saved.vocab_size()), (opened.roles(), opened.vocab_size()));
        for tokenizer in [opened, saved] {
            let plain: Vec<Vec<u32>> = texts.iter().map(|text| tokenizer.encode(text).unwrap()).collect();
            let template = |most| Template::of(arch, HeadPooling::Last, tokenizer.roles(), most);
            let (alone, pair) = (template(cut[0]), template(cut[1]));
            for (at, text) in texts.iter().enumerate() {
                let expected = |case: &str| input(&golden[name][case][at]);
                assert_eq!(plain[at], expected("bare").0, "{name}: {text:?}");
                let found = |template: &Template, second: Option<&Vec<u32>>| {
                    let encoded = template.encode(&plain[at], second.map(Vec::as_slice));
                    let types = encoded.token_type_ids().collect();
                    (encoded.input_ids, types)
                };
                // A model needs a row: what is empty in a family without special tokens is one token here.
                if !expected("single, cut").0.is_empty() {
                    assert_eq!(found(&alone, None), expected("single, cut"), "{name}: {text:?}");
                }
                let second = &plain[(at + 1) % plain.len()];
                assert_eq!(
                    found(&pair, Some(second)),
                    expected("pair, cut"),
                    "{name}: {text:?} and the next"
                );
            }
        }
    }
}

#[test]
fn no_piece_is_added_and_roles_are_played_by_what_there_is() {
    let open = |name: &str| Tokenizer::published(&folder().join(name)).unwrap();
    let roles = RoleIds { pad: Some(0), unk: 1, cls: 2, sep: 3, eos: 3, mask: 4 };
    for name in ["bert_uncased", "bert_cased"] {
        assert_eq!(open(name).roles(), roles, "{name}");
    }
    let gpt2 = open("gpt2");
    assert_eq!(gpt2.roles(), RoleIds { pad: None, unk: 0, cls: 0, sep: 0, eos: 0, mask: 0 });
    let pieces = std::fs::read_to_string(folder().join("gpt2/vocab.json")).unwrap();
    let pieces: serde_json::Map<String, Value> = serde_json::from_str(&pieces).unwrap();
    assert_eq!((gpt2.vocab_size(), gpt2.added_roles()), (pieces.len(), &[][..]));
    let roles = RoleIds { cls: 0, pad: Some(1), sep: 2, eos: 2, unk: 3, mask: 4 };
    assert_eq!(open("roberta").roles(), roles);
}
