//! Reads `tests/golden/distill/*`: a student's weights, and what comes of learning from a model of `tests/golden/hf`.
//!
//! Owns: the files' names and layout. Never: computes or compares results.

use std::collections::HashMap;

use headstart::config::{Arch, HeadPooling, LayerMap, ModelConfig, TeacherHeads};
use headstart::model::Model;
use headstart::teacher::{Learned, LearnedRelations};
use serde_json::Value as Json;

use crate::golden::{Golden, folder, get, names_in, read_tensors};
use crate::hf;
use crate::task::{Lesson, Task};

/// The names of all cases, sorted.
pub fn names() -> Vec<String> {
    names_in(&folder().join("distill"))
}

/// A case: its numbers, and its task.
pub fn read(name: &str) -> (Golden, Task) {
    let (metadata, stored) = read_tensors(&folder().join(format!("distill/{name}.safetensors")));
    let case: Json = serde_json::from_str(&metadata["case"]).unwrap();
    let (_, teacher, _) = hf::read(case["teacher"].as_str().unwrap());
    let tensors: HashMap<String, Vec<f64>> =
        stored.into_iter().map(|(name, tensor)| (name, tensor.values)).collect();
    let map: Option<LayerMap> = case.get("layers").map(get);
    let layers = map.map_or_else(Vec::new, |map| map.pairs().to_vec());
    let weight = |key: &str| case.get(key).map_or(0.0, get);
    let of_teacher = teacher.model.config().clone();
    let model = Model::new(&ModelConfig {
        arch: Arch::Bert,
        vocab_size: case.get("vocab_size").map_or(of_teacher.vocab_size, get),
        embed_dim: get(&case["embed_dim"]),
        hidden_dim: get(&case["hidden_dim"]),
        num_heads: get(&case["num_heads"]),
        num_layers: get(&case["num_layers"]),
        teacher_heads: Some(TeacherHeads {
            width: of_teacher.embed_dim,
            layers: layers.iter().map(|pair| pair.0).collect(),
            sentences: weight("sentence_loss") > 0.0,
        }),
        layout: headstart::config::LayoutChanges {
            lm_transform: Some(false),
            lm_bias: Some(false),
            ..Default::default()
        },
        head: of_teacher.head.clone().filter(|_| weight("label_loss") > 0.0),
        ..of_teacher.clone()
    })
    .unwrap();
    let mut weights = Vec::new();
    for param in model.table().params() {
        weights.extend(tensors[&param.name].iter().map(|&v| v as f32));
        assert_eq!(weights.len(), param.offset + param.len(), "{}", param.name);
    }
    let ids =
        |name: &str| -> Option<Vec<u32>> { Some(tensors.get(name)?.iter().map(|&v| v as u32).collect()) };
    let lengths = |name: &str| -> Option<Vec<usize>> {
        Some(ids(name)?.into_iter().map(|length| length as usize).collect())
    };
    let relations = (weight("relation_loss") > 0.0).then(|| {
        let [heads, layer] = ["relation_heads", "relation_layer"].map(|key| case.get(key).map(get));
        LearnedRelations::new(weight("relation_loss"), [model.config(), &of_teacher], heads, layer).unwrap()
    });
    let task = Task {
        ids: ids("input_ids").unwrap(),
        token_types: ids("token_types"),
        lm: None,
        labels: None,
        lengths: lengths("lengths").unwrap(),
        lesson: Some(Lesson {
            teacher: teacher.model,
            weights: teacher.weights,
            pooling: HeadPooling::Mean,
            layers,
            learned: Learned {
                token_loss: weight("token_loss"),
                relations,
                sentence_loss: weight("sentence_loss"),
                label_loss: weight("label_loss"),
                temperature: case.get("temperature").map_or(1.0, get),
            },
            reads: lengths("teacher_lengths").zip(ids("teacher_ids")),
            types: ids("teacher_types"),
            meeting: ids("meeting").unwrap_or_default().as_chunks().0.to_vec(),
        }),
        model,
        weights,
        optimizer: teacher.optimizer,
        dropout_seed: 0,
    };
    (Golden { case, tensors }, task)
}
