//! Reads `tests/golden/distill/*`: a student's weights, and what comes of learning the hidden states of a model of `tests/golden/hf`.
//!
//! Owns: the file's names and layout. Never: computes or compares results.

use headstart::config::{Arch, HeadPooling, LayerMap, ModelConfig, TeacherHeads};
use headstart::model::Model;
use headstart::teacher::Learned;
use serde_json::Value as Json;

use crate::golden::{Golden, folder, get, read_tensors};
use crate::hf;
use crate::task::{Lesson, Task};

/// The case: its numbers, and its task.
pub fn read() -> (Golden, Task) {
    let (metadata, stored) = read_tensors(&folder().join("distill/bert.safetensors"));
    let case: Json = serde_json::from_str(&metadata["case"]).unwrap();
    let (_, teacher, _) = hf::read(case["teacher"].as_str().unwrap());
    let tensors: std::collections::HashMap<String, Vec<f64>> =
        stored.into_iter().map(|(name, tensor)| (name, tensor.values)).collect();
    let map: LayerMap = get(&case["layers"]);
    let model = Model::new(&ModelConfig {
        arch: Arch::Bert,
        embed_dim: get(&case["embed_dim"]),
        hidden_dim: get(&case["hidden_dim"]),
        num_heads: get(&case["num_heads"]),
        num_layers: get(&case["num_layers"]),
        teacher_heads: Some(TeacherHeads {
            width: teacher.model.config().embed_dim,
            layers: map.pairs().iter().map(|pair| pair.0).collect(),
            sentences: true,
        }),
        layout: headstart::config::LayoutChanges {
            lm_transform: Some(false),
            lm_bias: Some(false),
            ..Default::default()
        },
        head: None,
        ..teacher.model.config().clone()
    })
    .unwrap();
    let mut weights = Vec::new();
    for param in model.table().params() {
        weights.extend(tensors[&param.name].iter().map(|&v| v as f32));
        assert_eq!(weights.len(), param.offset + param.len(), "{}", param.name);
    }
    let ids = |name: &str| -> Vec<u32> { tensors[name].iter().map(|&v| v as u32).collect() };
    let task = Task {
        ids: ids("input_ids"),
        token_types: None,
        lm: None,
        labels: None,
        lengths: ids("lengths").into_iter().map(|length| length as usize).collect(),
        lesson: Some(Lesson {
            teacher: teacher.model,
            weights: teacher.weights,
            pooling: HeadPooling::Mean,
            layers: map.pairs().to_vec(),
            learned: Learned {
                token_loss: get(&case["token_loss"]),
                sentence_loss: get(&case["sentence_loss"]),
                label_loss: 0.0,
                temperature: 1.0,
            },
        }),
        model,
        weights,
        optimizer: teacher.optimizer,
        dropout_seed: 0,
    };
    (Golden { case, tensors }, task)
}
