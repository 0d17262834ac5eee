//! Reads `tests/golden/peft/*`: low-rank updates and scales of the models of `tests/golden/hf`, computed by PEFT.
//!
//! Owns: the files' names and layout (`docs/goldens.md`). Never: the models below the updates (`hf.rs`), computes or compares
//! results.

use std::path::Path;

use headstart::checkpoint::{LoadedModel, ModelPath, load_model};
use headstart::config::{Ia3Config, LoraConfig, Method};
use headstart::method::trains;
use headstart::model::Model;
use serde_json::Value as Json;

use crate::golden::{Golden, folder, get, names_in, read_tensors};
use crate::hf;
use crate::task::Task;

/// The names of all cases, sorted.
pub fn names() -> Vec<String> {
    names_in(&folder().join("peft"))
}

/// Folders that PEFT itself saved, by name, and the case of the model below each.
pub const SAVED: [(&str, &str); 5] = [
    ("bert_lora", "bert_clf"),
    ("bert_old", "bert_clf"),
    ("bert_ia3", "bert_clf"),
    ("gpt2_lora", "gpt2_clf"),
    ("gpt2_ia3", "gpt2_clf"),
];

/// A folder of another program over the model of a case; nothing is dropped, for logits are compared.
pub fn over(adapter: &Path, model: &str) -> LoadedModel {
    let temporary = tempfile::tempdir().unwrap();
    hf::write_model(temporary.path(), model);
    let place = ModelPath { path: adapter, base: Some(temporary.path()) };
    let mut loaded = load_model(place).unwrap();
    if let Some(lora) = &mut loaded.files.config.lora {
        lora.dropout = 0.0;
    }
    loaded
}

/// Such a folder over the model of its case, and the logits that PEFT computes.
pub fn saved(name: &str, model: &str) -> (Task, Vec<f64>) {
    let adapter = folder().join(format!("peft/folders/{name}"));
    let loaded = over(&adapter, model);
    let model_below = hf::read(model).1;
    let model = Model::new(&loaded.files.config).unwrap();
    let weights = loaded.exact_weights(model.table()).unwrap();
    let (_, logits) = read_tensors(&adapter.join("logits.safetensors"));
    (Task { model, weights, ..model_below }, logits["logits"].values.clone())
}

/// A case: its numbers under the names of other goldens, and its task.
pub fn read(name: &str) -> (Golden, Task) {
    let (metadata, stored) = read_tensors(&folder().join(format!("peft/{name}.safetensors")));
    let case: Json = serde_json::from_str(&metadata["case"]).unwrap();
    let (_, base, _) = hf::read(case["model"].as_str().unwrap());
    let mut tensors: std::collections::HashMap<String, Vec<f64>> =
        stored.into_iter().map(|(name, tensor)| (name, tensor.values)).collect();
    let loss = vec![tensors["losses10"][0]];
    let logits = tensors["logits"].clone();
    tensors.extend([("loss".into(), loss.clone()), ("clf_loss".into(), loss), ("clf_logits".into(), logits)]);

    let mut config = base.model.config().clone();
    let method = if case["ia3"] == true {
        config.ia3 = Some(Ia3Config { targets: get(&case["targets"]) });
        Method::Ia3
    } else {
        config.lora = Some(LoraConfig {
            rank: get(&case["rank"]),
            alpha: get(&case["alpha"]),
            dropout: 0.0,
            targets: get(&case["targets"]),
            rslora: get(&case["rslora"]),
        });
        Method::Lora
    };
    let mut model = Model::new(&config).unwrap();
    model.freeze_except(|param| trains(method, false, param));
    let below = base.model.table().params();
    let mut weights = Vec::new();
    for param in model.table().params() {
        match below.iter().find(|other| other.name == param.name) {
            Some(other) => weights.extend_from_slice(&base.weights[other.offset..][..other.len()]),
            None => weights.extend(tensors[&param.name].iter().map(|&v| v as f32)),
        }
        assert_eq!(weights.len(), param.offset + param.len(), "{name}: {}", param.name);
    }
    let gradients = tensors.keys().filter(|name| name.starts_with("grad.")).count();
    let trained = model.table().params().iter().filter(|param| param.grad.is_some()).count();
    assert_eq!(gradients, trained, "{name}: something else trains");
    (Golden { case, tensors }, Task { model, weights, ..base })
}
