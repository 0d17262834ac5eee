//! Reads `tests/golden/hf/*`, models of published families computed by `transformers`, into what other goldens are read into.
//!
//! Owns: the families' names and settings, as far as these files need them, written down a second time. Never: computes or
//! compares.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use headstart::config::{Arch, HeadConfig, HeadPooling, LayoutChanges, ModelConfig, Positions, Problem};
use headstart::model::Model;
use headstart::params::Kind;
use serde_json::Value as Json;

use crate::golden::{Golden, folder, get, names_in, read_tensors};
use crate::task::{Labels, Lm, Optimizer, Task};

/// What [`Golden`] has of a case under other names than a parameter's.
const OTHERS: [&str; 11] = [
    "lengths",
    "input_ids",
    "token_type_ids",
    "labels",
    "hidden",
    "logits",
    "loss",
    "losses10",
    "grad_norms10",
    "lm_logits",
    "clf_logits",
];

fn hf() -> PathBuf {
    folder().join("hf")
}

/// The names of all cases, sorted.
pub fn names() -> Vec<String> {
    names_in(&hf())
}

/// A case: its numbers under the names of other goldens, its task, and PyTorch's own errors in bf16.
pub fn read(name: &str) -> (Golden, Task, Json) {
    let (metadata, mut tensors) = read_tensors(&hf().join(format!("{name}.safetensors")));
    let json = |text: &str| -> Json { serde_json::from_str(text).unwrap() };
    let (case, floor) = (json(&metadata["case"]), json(&metadata["floor"]));
    let published = json(&fs::read_to_string(hf().join(format!("{name}.json"))).unwrap());
    let classifies = case["architecture"].as_str().unwrap().ends_with("ForSequenceClassification");
    let mut model = Model::new(&config(&published, classifies)).unwrap();
    if classifies {
        // Their files have nothing of the language model's head.
        model.freeze_except(|param| param.kind != Kind::LmHead);
    }
    let mut weights = model.table().initial_values(1);
    for param in model.table().params().iter().filter(|param| param.grad.is_some()) {
        let (sources, transposed) = sources(model.config().arch, &param.name);
        for group in ["", "grad.", "after10."] {
            let mut values = Vec::new();
            for source in &sources {
                let part = tensors.remove(&format!("{group}{source}"));
                values.extend(part.unwrap_or_else(|| panic!("{name} has no {group}{source}")));
            }
            if transposed {
                let (rows, cols) = (param.shape[0], param.shape[1]);
                values = (0..rows * cols).map(|i| values[i % cols * rows + i / cols]).collect();
            }
            assert_eq!(values.len(), param.len(), "{name}: {}", param.name);
            if group.is_empty() {
                let to = &mut weights[param.offset..][..param.len()];
                to.iter_mut().zip(&values).for_each(|(to, &from)| *to = from as f32);
            } else {
                tensors.insert(format!("{group}{}", param.name), values);
            }
        }
    }
    let head = if classifies { "clf" } else { "lm" };
    for what in ["logits", "loss"] {
        tensors.insert(format!("{head}_{what}"), tensors[what].clone());
    }
    assert_nothing_is_left(name, &model, &tensors);
    let task = task(&case, model, weights, &tensors, classifies);
    (Golden { case, tensors }, task, floor)
}

fn assert_nothing_is_left(name: &str, model: &Model, tensors: &HashMap<String, Vec<f64>>) {
    let known = |tensor: &&String| {
        let ours = tensor.strip_prefix("grad.").or(tensor.strip_prefix("after10."));
        OTHERS.contains(&tensor.as_str())
            || tensor.ends_with("_loss")
            || ours.is_some_and(|ours| model.table().params().iter().any(|param| param.name == ours))
    };
    let left: Vec<&String> = tensors.keys().filter(|tensor| !known(tensor)).collect();
    assert!(left.is_empty(), "{name}: nobody reads {left:?}");
}

fn task(
    case: &Json,
    model: Model,
    weights: Vec<f32>,
    tensors: &HashMap<String, Vec<f64>>,
    classifies: bool,
) -> Task {
    let ids = |name: &str| -> Vec<u32> { tensors[name].iter().map(|&v| v as u32).collect() };
    let has_types = tensors.contains_key("token_type_ids");
    let lengths: Vec<usize> = tensors["lengths"].iter().map(|&v| v as usize).collect();
    let optimizer = &case["optimizer"];
    let betas: [f64; 2] = get(&optimizer["betas"]);
    Task {
        ids: ids("input_ids"),
        token_types: has_types.then(|| ids("token_type_ids")),
        lm: (!classifies).then(|| targets(&tensors["labels"], &lengths, model.config().causal)),
        labels: classifies.then(|| Labels { coef: 1.0, classes: ids("labels"), numbers: Vec::new() }),
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
        dropout_seed: 0,
    }
}

/// What a language model predicts: labels stand where they are predicted; a causal model's, one row before.
fn targets(labels: &[f64], lengths: &[usize], causal: bool) -> Lm {
    let (mut rows, mut targets, mut start) = (Vec::new(), Vec::new(), 0);
    for length in lengths {
        for row in start..start + length - usize::from(causal) {
            let label = labels[row + usize::from(causal)];
            if label >= 0.0 {
                rows.push(row as u32);
                targets.push(label as u32);
            }
        }
        start += length;
    }
    Lm { coef: 1.0, rows, targets }
}

/// What the configuration of a published model means here.
fn config(published: &Json, classifies: bool) -> ModelConfig {
    let arch: Arch = get(&published["model_type"]);
    let size = |names: &[&str]| {
        let found = names.iter().find_map(|name| published[*name].as_u64());
        found.unwrap_or_else(|| panic!("none of {names:?}")) as usize
    };
    let embed_dim = size(&["hidden_size", "dim", "n_embd"]);
    let embedding_size = published["embedding_size"].as_u64().map(|size| size as usize);
    let mut layout = LayoutChanges::default();
    let mut num_max_positions = size(&["max_position_embeddings", "n_positions"]);
    let mut pooling = arch.pooling();
    match arch {
        // Its table of positions begins behind that of the padding token.
        Arch::Roberta => num_max_positions -= 2,
        Arch::Gpt2 => {
            layout.head_bias = Some(false);
            pooling = HeadPooling::Last;
        }
        Arch::Modernbert => layout.window = Some(size(&["local_attention"]) / 2),
        _ => {}
    }
    let num_classes = published["id2label"].as_object().map_or(2, serde_json::Map::len);
    ModelConfig {
        arch,
        vocab_size: size(&["vocab_size"]),
        embed_dim,
        embedding_size: embedding_size.filter(|&size| size != embed_dim),
        hidden_dim: size(&["intermediate_size", "hidden_dim", "n_inner"]),
        num_max_positions,
        num_heads: size(&["num_attention_heads", "n_heads", "n_head"]),
        num_layers: size(&["num_hidden_layers", "n_layers", "n_layer"]),
        positions: if arch == Arch::Modernbert { Positions::Rotary } else { Positions::Learned },
        causal: !arch.is_encoder(),
        dropout: 0.0,
        head: classifies.then_some(HeadConfig {
            num_classes,
            pooling,
            problem: Problem::SingleLabel,
            max_length: None,
            dropout: None,
        }),
        layout,
        ..ModelConfig::default()
    }
}

/// The tensors whose rows a parameter of ours has, and whether they are transposed.
fn sources(arch: Arch, ours: &str) -> (Vec<String>, bool) {
    let (stem, ending) = ours.rsplit_once('.').unwrap();
    let (layer, part) = match stem.strip_prefix("transformer.layers.") {
        Some(rest) => rest.split_once('.').unwrap(),
        None => ("", stem),
    };
    let names = match arch {
        Arch::Gpt2 => gpt2(layer, part),
        Arch::Modernbert => modernbert(layer, part),
        Arch::Distilbert => distilbert(layer, part),
        _ => bert(arch, layer, part),
    };
    let names: Vec<String> = names.into_iter().map(|name| format!("{name}.{ending}")).collect();
    (names, arch == Arch::Gpt2 && part.contains('.') && !layer.is_empty() && ending == "weight")
}

fn gpt2(layer: &str, part: &str) -> Vec<String> {
    let name = match part {
        "transformer.token_embedding" => "wte",
        "transformer.position_embedding" => "wpe",
        "transformer.final_norm" => "ln_f",
        "classification_head" => return vec!["score".into()],
        "norm_1" => "ln_1",
        "norm_2" => "ln_2",
        "attention.in_proj" => "attn.c_attn",
        "attention.out_proj" => "attn.c_proj",
        "feed_forward.up" => "mlp.c_fc",
        "feed_forward.down" => "mlp.c_proj",
        other => panic!("GPT-2 has no {other}"),
    };
    vec![if layer.is_empty() {
        format!("transformer.{name}")
    } else {
        format!("transformer.h.{layer}.{name}")
    }]
}

fn modernbert(layer: &str, part: &str) -> Vec<String> {
    let name = match part {
        "transformer.token_embedding" => "model.embeddings.tok_embeddings",
        "transformer.embedding_norm" => "model.embeddings.norm",
        "transformer.final_norm" => "model.final_norm",
        "lm_head" => "decoder",
        "lm_head.dense" | "classification_head.dense" => "head.dense",
        "lm_head.norm" | "classification_head.norm" => "head.norm",
        "classification_head" => "classifier",
        "norm_1" => "attn_norm",
        "norm_2" => "mlp_norm",
        "attention.in_proj" => "attn.Wqkv",
        "attention.out_proj" => "attn.Wo",
        "feed_forward.up" => "mlp.Wi",
        "feed_forward.down" => "mlp.Wo",
        other => panic!("ModernBERT has no {other}"),
    };
    vec![if layer.is_empty() { name.into() } else { format!("model.layers.{layer}.{name}") }]
}

fn distilbert(layer: &str, part: &str) -> Vec<String> {
    let name = match part {
        "transformer.token_embedding" => "distilbert.embeddings.word_embeddings",
        "transformer.position_embedding" => "distilbert.embeddings.position_embeddings",
        "transformer.embedding_norm" => "distilbert.embeddings.LayerNorm",
        "lm_head" => "vocab_projector",
        "lm_head.dense" => "vocab_transform",
        "lm_head.norm" => "vocab_layer_norm",
        "classification_head.dense" => "pre_classifier",
        "classification_head" => "classifier",
        "norm_1" => "sa_layer_norm",
        "norm_2" => "output_layer_norm",
        "attention.in_proj" => {
            let name = |which| format!("distilbert.transformer.layer.{layer}.attention.{which}_lin");
            return ["q", "k", "v"].map(name).into();
        }
        "attention.out_proj" => "attention.out_lin",
        "feed_forward.up" => "ffn.lin1",
        "feed_forward.down" => "ffn.lin2",
        other => panic!("DistilBERT has no {other}"),
    };
    vec![if layer.is_empty() { name.into() } else { format!("distilbert.transformer.layer.{layer}.{name}") }]
}

/// BERT, RoBERTa and ELECTRA, whose heads alone have names of their own.
fn bert(arch: Arch, layer: &str, part: &str) -> Vec<String> {
    let (family, lm, lm_norm) = match arch {
        Arch::Roberta => ("roberta", ["lm_head", "lm_head.dense"], "lm_head.layer_norm"),
        Arch::Electra => (
            "electra",
            ["generator_lm_head", "generator_predictions.dense"],
            "generator_predictions.LayerNorm",
        ),
        _ => (
            "bert",
            ["cls.predictions", "cls.predictions.transform.dense"],
            "cls.predictions.transform.LayerNorm",
        ),
    };
    let [dense, last] = match arch {
        Arch::Bert => ["bert.pooler.dense", "classifier"],
        _ => ["classifier.dense", "classifier.out_proj"],
    };
    let name = match part {
        "transformer.token_embedding" => "embeddings.word_embeddings",
        "transformer.position_embedding" => "embeddings.position_embeddings",
        "transformer.token_type_embedding" => "embeddings.token_type_embeddings",
        "transformer.embedding_norm" => "embeddings.LayerNorm",
        "transformer.embedding_projection" => "embeddings_project",
        "lm_head" => return vec![lm[0].into()],
        "lm_head.dense" => return vec![lm[1].into()],
        "lm_head.norm" => return vec![lm_norm.into()],
        "classification_head.dense" => return vec![dense.into()],
        "classification_head" => return vec![last.into()],
        "norm_1" => "attention.output.LayerNorm",
        "norm_2" => "output.LayerNorm",
        "attention.in_proj" => {
            let name = |which| format!("{family}.encoder.layer.{layer}.attention.self.{which}");
            return ["query", "key", "value"].map(name).into();
        }
        "attention.out_proj" => "attention.output.dense",
        "feed_forward.up" => "intermediate.dense",
        "feed_forward.down" => "output.dense",
        other => panic!("{arch:?} has no {other}"),
    };
    vec![if layer.is_empty() {
        format!("{family}.{name}")
    } else {
        format!("{family}.encoder.layer.{layer}.{name}")
    }]
}
