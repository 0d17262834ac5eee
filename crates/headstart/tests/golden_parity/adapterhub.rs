//! Reads `tests/golden/adapterhub/*`: folders as AdapterHub's library saves them, over the models of `tests/golden/hf`, with the logits
//! that it computes, and the gradients of some.
//!
//! Owns: the files' names and layout (`docs/goldens.md`). Never: the models below the adapters (`hf.rs`), computes or compares
//! results.

use std::collections::HashMap;

use headstart::model::Model;
use headstart::params::Kind;

use crate::golden::{folder, read_tensors};
use crate::hf;
use crate::peft::over;
use crate::task::{Labels, Task};

/// The folders, and the case of the model below each.
pub const SAVED: [(&str, &str); 8] = [
    ("houlsby", "bert_clf"),
    ("pfeiffer", "bert_clf"),
    ("behind", "bert_clf"),
    ("parallel", "bert_clf"),
    ("lora", "bert_clf"),
    ("ia3", "bert_clf"),
    ("roberta_pfeiffer", "roberta_clf"),
    ("roberta_lora", "roberta_clf"),
];

/// A folder over its model, where the adapter and the head train, and what AdapterHub computes: `logits`, `grad.NAME`.
pub fn saved(name: &str, model: &str) -> (Task, HashMap<String, Vec<f64>>) {
    let adapter = folder().join(format!("adapterhub/{name}"));
    let loaded = over(&adapter, model);
    let below = hf::read(model).1;
    let mut model = Model::new(&loaded.files.config).unwrap();
    let weights = loaded.exact_weights(model.table()).unwrap();
    model.freeze_except(|param| matches!(param.kind, Kind::Adapter | Kind::Lora | Kind::Ia3 | Kind::Head));
    let classes = loaded.files.config.head.unwrap().num_classes as u32;
    let labels = below.labels.map(|labels| Labels {
        classes: labels.classes.iter().map(|class| class % classes).collect(),
        ..labels
    });
    let (_, expected) = read_tensors(&adapter.join("expected.safetensors"));
    let expected = expected.into_iter().map(|(name, tensor)| (name, tensor.values)).collect();
    (Task { model, weights, labels, ..below }, expected)
}
