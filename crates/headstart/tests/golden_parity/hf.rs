//! Reads `tests/golden/hf/*`, models of published families computed by `transformers`, into what other goldens are read into:
//! their weights, and all other numbers that there is one of for each weight, as any published model is read.
//!
//! Owns: the files' names and layout (`docs/goldens.md`), and that parameters go back to the tensors they came from. Never:
//! computes or compares results.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use headstart::config::{HeadConfig, ObjectiveName, Problem};
use headstart::interop::{PublishedWeights, pieces, prefix, read_config};
use headstart::model::Model;
use headstart::tensors::write_tensors;
use serde_json::Value as Json;

use crate::golden::{Golden, Stored, folder, get, names_in, read_tensors};
use crate::task::{Labels, Lm, Optimizer, Task};

/// What a file has beside the weights and what goes with each.
const OTHERS: [&str; 9] = [
    "lengths",
    "input_ids",
    "token_type_ids",
    "labels",
    "hidden",
    "logits",
    "loss",
    "losses10",
    "grad_norms10",
];

fn hf() -> PathBuf {
    folder().join("hf")
}

/// The names of all cases, sorted.
pub fn names() -> Vec<String> {
    names_in(&hf())
}

/// A case: its numbers under the names of other goldens, its task, and PyTorch's own errors.
pub fn read(name: &str) -> (Golden, Task, Json) {
    let (metadata, stored) = read_tensors(&hf().join(format!("{name}.safetensors")));
    let json = |key: &str| -> Json { serde_json::from_str(&metadata[key]).unwrap() };
    let (case, floor) = (json("case"), json("floor"));
    let temporary = tempfile::tempdir().unwrap();
    let [values, gradients, after] = ["", "grad.", "after10."].map(|group| {
        let folder = temporary.path().join(format!("weights{group}"));
        fs::create_dir(&folder).unwrap();
        write_group(&folder, &stored, group);
        folder
    });

    let path = hf().join(format!("{name}.json"));
    let card = read_config(&path, &fs::read(&path).unwrap()).unwrap();
    let mut config = card.config;
    let open = |folder: &Path| PublishedWeights::open(folder, config.arch).unwrap();
    let [values, gradients, after] = [open(&values), open(&gradients), open(&after)];
    let head = values.shape("classification_head.weight").map(|shape| HeadConfig {
        num_classes: shape[0],
        pooling: card.pooling,
        problem: card.problem.unwrap_or(Problem::SingleLabel),
        max_length: None,
        truncation: None,
        dropout: card.head_dropout,
    });
    let classifies = head.is_some();
    config.head = head;
    if classifies {
        // A classifier's file has nothing of the language model's head, GPT-2's no bias.
        (config.layout.lm_transform, config.layout.lm_bias) = (Some(false), Some(false));
        config.layout.head_bias = Some(values.has("classification_head.bias"));
    }
    let model = Model::new(&config).unwrap();
    let table = model.table();
    assert_eq!(values.left_by(table), Vec::<String>::new(), "{name}: nobody reads them");
    let weights = values.copied(table).unwrap();
    let mut tensors: HashMap<String, Vec<f64>> =
        OTHERS.iter().filter_map(|&other| Some((other.into(), stored.get(other)?.values.clone()))).collect();
    // Each of them has a head of some kind, before whose trunk a prefix stands.
    let prefix = prefix(&config, Some(ObjectiveName::of(&config)));
    for param in table.params() {
        assert_eq!(values.shape(&param.name), Some(param.shape.clone()), "{name}: {}", param.name);
        let ours = &weights[param.offset..][..param.len()];
        for (tensor, shape, numbers) in pieces(config.arch, prefix, param, ours).unwrap() {
            assert_eq!(shape, stored[&tensor].shape, "{name}: {tensor} as it is written");
            assert!(numbers.iter().map(|&v| f64::from(v)).eq(stored[&tensor].values.iter().copied()));
        }
        for (group, of) in [("grad.", &gradients), ("after10.", &after)] {
            let mut numbers = vec![0.0; param.len()];
            of.copy_to(&param.name, &mut numbers).unwrap();
            let numbers = numbers.into_iter().map(f64::from).collect();
            tensors.insert(format!("{group}{}", param.name), numbers);
        }
    }
    let head = if classifies { "clf" } else { "lm" };
    for what in ["logits", "loss"] {
        tensors.insert(format!("{head}_{what}"), tensors[what].clone());
    }
    let task = task(&case, model, weights, &tensors);
    (Golden { case, tensors }, task, floor)
}

/// The folder of a case's model, with a vocabulary of its size.
pub fn write_model(folder: &Path, name: &str) {
    let (_, stored) = read_tensors(&hf().join(format!("{name}.safetensors")));
    write_group(folder, &stored, "");
    let config = fs::read(hf().join(format!("{name}.json"))).unwrap();
    fs::write(folder.join("config.json"), &config).unwrap();
    let config: Json = serde_json::from_slice(&config).unwrap();
    let pieces = config["vocab_size"].as_u64().unwrap();
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(String::from);
    let vocabulary = special.into_iter().chain((0..).map(|n| format!("p{n}"))).take(pieces as usize);
    fs::write(folder.join("vocab.txt"), vocabulary.map(|piece| piece + "\n").collect::<String>()).unwrap();
}

/// The numbers of a group, under the names of the weights they belong to, as a model's folder has its weights.
fn write_group(folder: &Path, stored: &HashMap<String, Stored>, group: &str) {
    let rounded = |tensor: &Stored| tensor.values.iter().map(|&v| v as f32).collect::<Vec<f32>>();
    let mut tensors = Vec::new();
    for (name, tensor) in stored {
        let found = ["grad.", "after10."].into_iter().find(|group| name.starts_with(group)).unwrap_or("");
        if found == group && !OTHERS.contains(&name.as_str()) {
            tensors.push((name[group.len()..].to_owned(), &tensor.shape[..], rounded(tensor)));
        }
    }
    let tensors: Vec<_> = tensors.iter().map(|(name, shape, v)| (name.clone(), *shape, &v[..])).collect();
    write_tensors(&folder.join("model.safetensors"), &tensors).unwrap();
}

fn task(case: &Json, model: Model, weights: Vec<f32>, tensors: &HashMap<String, Vec<f64>>) -> Task {
    let ids = |name: &str| -> Vec<u32> { tensors[name].iter().map(|&v| v as u32).collect() };
    let has_types = tensors.contains_key("token_type_ids");
    let classifies = model.config().head.is_some();
    let lengths: Vec<usize> = tensors["lengths"].iter().map(|&v| v as usize).collect();
    let optimizer = &case["optimizer"];
    let betas: [f64; 2] = get(&optimizer["betas"]);
    Task {
        ids: ids("input_ids"),
        token_types: has_types.then(|| ids("token_type_ids")),
        lm: (!classifies).then(|| targets(&tensors["labels"], &lengths, model.config().causal)),
        labels: classifies.then(|| Labels {
            coef: 1.0,
            classes: ids("labels"),
            numbers: Vec::new(),
            pairs: false,
        }),
        model,
        weights,
        lengths,
        optimizer: Optimizer {
            lr: get(&optimizer["lr"]),
            beta1: betas[0],
            beta2: betas[1],
            eps: get(&optimizer["eps"]),
            weight_decay: get(&optimizer["weight_decay"]),
            max_norm: f64::INFINITY,
            steps: get(&optimizer["steps"]),
        },
        lesson: None,
        dropout_seed: 0,
    }
}

/// What a language model predicts: labels stand where they are predicted; a causal model's, one row later.
fn targets(labels: &[f64], lengths: &[usize], causal: bool) -> Lm {
    let (mut rows, mut targets, mut start) = (Vec::new(), Vec::new(), 0);
    let later = usize::from(causal);
    for length in lengths {
        for row in start..start + length - later {
            if labels[row + later] >= 0.0 {
                rows.push(row as u32);
                targets.push(labels[row + later] as u32);
            }
        }
        start += length;
    }
    Lm { coef: 1.0, rows, targets }
}
