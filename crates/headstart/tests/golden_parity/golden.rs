//! Reads `tests/golden/*.safetensors` into a [`Task`] and the numbers it should give.
//!
//! Owns: the files' names and layout (`docs/goldens.md`). Never: computes or compares.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use headstart::config::{
    Activation, AdapterLayout, Arch, HeadConfig, HeadShape, LayoutChanges, ModelConfig, Positions, Problem,
};
use headstart::model::Model;
use headstart::params::Kind;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value as Json;

use crate::task::{Labels, Lm, Optimizer, Task};

/// One file.
pub struct Golden {
    pub case: Json,
    /// Every tensor, widened.
    pub tensors: HashMap<String, Vec<f64>>,
}

/// Where the files are.
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden")
}

/// The names of all cases, sorted.
pub fn names() -> Vec<String> {
    names_in(&folder())
}

/// The names of all cases in a folder, sorted.
pub fn names_in(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|ending| ending == "safetensors"));
    let mut names: Vec<String> =
        files.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// A tensor of a file.
pub struct Stored {
    pub shape: Vec<usize>,
    /// Widened.
    pub values: Vec<f64>,
}

/// The texts of a file, and every tensor.
pub fn read_tensors(path: &Path) -> (HashMap<String, String>, HashMap<String, Stored>) {
    let bytes = fs::read(path).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.tensors().into_iter().map(|(name, t)| {
        let data = t.data();
        let values = match t.dtype() {
            Dtype::F32 => numbers(data, |b| f64::from(f32::from_le_bytes(b))),
            Dtype::F64 => numbers(data, f64::from_le_bytes),
            Dtype::I32 => numbers(data, |b| f64::from(i32::from_le_bytes(b))),
            other => panic!("{name} is {other:?}"),
        };
        (name, Stored { shape: t.shape().to_vec(), values })
    });
    (metadata.metadata().clone().unwrap_or_default(), tensors.collect())
}

impl Golden {
    pub fn read(name: &str) -> Self {
        let (metadata, tensors) = read_tensors(&folder().join(format!("{name}.safetensors")));
        let tensors = tensors.into_iter().map(|(name, tensor)| (name, tensor.values)).collect();
        Self { tensors, case: serde_json::from_str(&metadata["case"]).unwrap() }
    }

    /// The task of the file. Names, order and freezing of the parameters must be the file's.
    pub fn task(&self) -> Task {
        let case = &self.case;
        let mut model = Model::new(&self.config()).unwrap();
        // These follow from the layout in Headstart; the goldens say them once more.
        let layout = model.layout();
        assert_eq!(get::<Activation>(&case["activation"]), layout.activation);
        let adapters = model.config().adapters.activation.unwrap_or(layout.activation);
        assert_eq!(get::<Activation>(&case["adapter_activation"]), adapters);
        assert_eq!(get::<f32>(&case["layer_norm_eps"]).to_bits(), layout.norm_eps.to_bits());
        if case["cls_offset"] == true {
            model.freeze_except(|p| matches!(p.kind, Kind::Adapter | Kind::Head | Kind::TokenOffset));
        }
        let pairs = case["head"]["problem"] == "pairs";
        if pairs {
            model.freeze_except(|p| p.kind != Kind::Head);
        }
        let trainable: Vec<&str> =
            model.table().params().iter().filter(|p| p.grad.is_some()).map(|p| p.name.as_str()).collect();
        assert_eq!(trainable, get::<Vec<&str>>(&case["trainable"]));
        let mut weights = Vec::new();
        for param in model.table().params() {
            let values = &self.tensors[&param.name];
            assert_eq!(values.len(), param.len(), "{}", param.name);
            assert_eq!(weights.len(), param.offset);
            weights.extend(values.iter().map(|&v| v as f32));
        }
        let o = &case["optimizer"];
        let betas: [f64; 2] = get(&o["betas"]);
        let optimizer = Optimizer {
            lr: get(&o["lr"]),
            beta1: betas[0],
            beta2: betas[1],
            eps: get(&o["eps"]),
            weight_decay: get(&o["weight_decay"]),
            max_norm: get(&o["max_norm"]),
            steps: get(&o["steps"]),
        };
        Task {
            model,
            weights,
            lengths: get(&case["lengths"]),
            ids: self.ids("input_ids"),
            token_types: (layout.token_types > 0).then(|| self.ids("token_type_ids")),
            lm: (!case["lm"].is_null()).then(|| Lm {
                coef: get(&case["lm"]["coef"]),
                rows: self.ids("target_positions"),
                targets: self.ids("target_ids"),
            }),
            labels: (!case["head"].is_null()).then(|| Labels {
                coef: get(&case["head"]["coef"]),
                classes: self.ids("labels"),
                numbers: self.tensors["labels"].iter().map(|&v| v as f32).collect(),
                pairs,
            }),
            optimizer,
            lesson: None,
            dropout_seed: case["dropout"]["seed"].as_u64().unwrap_or(0),
        }
    }

    fn config(&self) -> ModelConfig {
        let case = &self.case;
        let arch: Arch = get(&case["arch"]);
        let adapters_dim: usize = get(&case["adapters_dim"]);
        let head = &case["head"];
        let config = ModelConfig {
            arch,
            vocab_size: get(&case["vocab_size"]),
            embed_dim: get(&case["embed_dim"]),
            hidden_dim: get(&case["hidden_dim"]),
            num_max_positions: get(&case["num_max_positions"]),
            num_heads: get(&case["num_heads"]),
            num_layers: get(&case["num_layers"]),
            positions: get::<Positions>(&case["positions"]),
            causal: get(&case["causal"]),
            dropout: case["dropout"]["p"].as_f64().unwrap_or(0.0) as f32,
            adapters_dim: (adapters_dim > 0).then_some(adapters_dim),
            adapters: case.get("adapters").map_or_else(AdapterLayout::default, get),
            head: (!head.is_null()).then(|| HeadConfig {
                num_classes: get(&head["num_classes"]),
                pooling: get(&head["pooling"]),
                problem: match head["problem"].as_str().unwrap() {
                    "pairs" => Problem::Regression,
                    problem => get(&Json::from(problem.replace('_', "-"))),
                },
                max_length: None,
                truncation: None,
                dropout: None,
            }),
            head_shape: HeadShape {
                hidden: head.get("hidden").map(get),
                layer_mix: head["layer_mix"] == true,
            },
            offset_token: (case["cls_offset"] == true).then(|| get(&case["cls_id"])),
            layout: case.get("layout").map_or_else(LayoutChanges::default, get),
            ..ModelConfig::default()
        };
        assert_eq!(config.head_dim(), get::<usize>(&case["head_dim"]));
        config
    }

    fn ids(&self, name: &str) -> Vec<u32> {
        self.tensors[name].iter().map(|&v| v as u32).collect()
    }
}

fn numbers<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    bytes.chunks_exact(N).map(|b| read(b.try_into().unwrap())).collect()
}

pub fn get<'a, T: serde::Deserialize<'a>>(json: &'a Json) -> T {
    T::deserialize(json).unwrap()
}
