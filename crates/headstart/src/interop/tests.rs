//! What goes out comes in again, and what could change the mathematics is refused by name.

use std::collections::HashSet;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::*;
use crate::config::{Arch, HeadConfig, HeadPooling, Ia3Config, LoraConfig, ModelConfig, Positions, Problem};
use crate::error::Result;
use crate::model::Model;
use crate::params::Kind;
use crate::tensors::{Tensors, write_tensors};
use crate::tokenizer::RoleIds;

const ROLES: RoleIds = RoleIds { cls: 1, sep: 2, eos: 2, mask: 3, unk: 4, pad: Some(0) };
const FAMILIES: [Arch; 6] =
    [Arch::Bert, Arch::Roberta, Arch::Distilbert, Arch::Electra, Arch::Gpt2, Arch::Modernbert];

/// A small model of a family with a head of its own.
fn model(arch: Arch) -> ModelConfig {
    let pooling = if arch == Arch::Gpt2 { HeadPooling::Last } else { arch.pooling() };
    let head = HeadConfig {
        num_classes: 3,
        pooling,
        problem: Problem::SingleLabel,
        max_length: None,
        truncation: None,
        dropout: Some(0.25),
    };
    let mut config = ModelConfig {
        arch,
        vocab_size: 11,
        embed_dim: 12,
        embedding_size: (arch == Arch::Electra).then_some(8),
        hidden_dim: 20,
        num_max_positions: 30,
        num_heads: 3,
        num_layers: 4,
        causal: arch == Arch::Gpt2,
        positions: if arch == Arch::Modernbert { Positions::Rotary } else { Positions::Learned },
        dropout: if arch == Arch::Modernbert { 0.0 } else { 0.1 },
        head: Some(head),
        ..ModelConfig::default()
    };
    config.layout.head_bias = (arch == Arch::Gpt2).then_some(false);
    config
}

fn written(config: &ModelConfig) -> std::result::Result<Map<String, Value>, String> {
    write_config(config, &["a".into(), "b".into(), "c".into()], ROLES, false)
}

fn read(config: &Map<String, Value>) -> Result<Card> {
    read_config(Path::new("config.json"), Value::Object(config.clone()).to_string().as_bytes())
}

#[test]
fn what_is_written_of_a_family_is_read_back() {
    for arch in FAMILIES {
        let config = model(arch);
        let map = written(&config).unwrap();
        let card = read(&map).unwrap();
        let mut trunk = ModelConfig { head: None, ..config.clone() };
        trunk.layout.head_bias = None;
        assert_eq!(card.config, trunk, "{arch:?}");
        assert_eq!(
            (card.labels, card.problem),
            (vec!["a".into(), "b".into(), "c".into()], Some(Problem::SingleLabel))
        );
        assert_eq!(Some(card.pooling), config.head.map(|head| head.pooling), "{arch:?}");
        if arch != Arch::Gpt2 {
            assert_eq!(card.head_dropout, Some(0.25), "{arch:?}");
        }
        assert_eq!(map["initializer_range"].to_string(), "0.02", "as it is written");
    }
}

#[test]
fn what_no_config_json_can_say_is_not_written() {
    let refused = |change: fn(&mut ModelConfig)| {
        let mut config = model(Arch::Bert);
        change(&mut config);
        written(&config).unwrap_err()
    };
    assert!(refused(|config| config.arch = Arch::Naacl2019).contains("tutorial's family"));
    assert!(refused(|config| config.adapters_dim = Some(4)).contains("adapters"));
    assert!(refused(|config| config.layout.gated = Some(true)).contains("options of the layout"));
    assert!(
        refused(|config| config.head.as_mut().unwrap().pooling = HeadPooling::Max)
            .contains("reads the largest over the tokens")
    );
    assert!(refused(|config| config.layout.head_bias = Some(false)).contains("bert has a bias"));
    let mut gpt2 = model(Arch::Gpt2);
    gpt2.layout.head_bias = None;
    assert!(written(&gpt2).unwrap_err().contains("gpt2 has no bias"));
}

#[test]
fn a_key_that_could_change_the_mathematics_is_refused_by_name() {
    let bert = written(&model(Arch::Bert)).unwrap();
    for (key, value) in [
        ("auto_map", json!({"AutoModel": "modeling.Own"})),
        ("quantization_config", json!({"bits": 4})),
        ("is_decoder", json!(true)),
        ("position_embedding_type", json!("relative_key")),
        ("hidden_act", json!("quick_gelu")),
        ("hidden_size", json!("wide")),
        ("hidden_size", Value::Null),
        ("id2label", json!({"1": "a"})),
        ("id2label", json!({"0": "a", "1": "a"})),
        ("label2id", json!({"a": 1, "b": 0, "c": 2})),
        ("problem_type", json!("ranking")),
        ("residual_scale", json!(2.0)),
        ("model_type", json!("t5")),
    ] {
        let mut changed = bert.clone();
        changed.insert(key.into(), value);
        let said = read(&changed).unwrap_err().to_string();
        assert!(said.contains("config.json") && said.contains(&format!("`{key}`")), "{key}: {said}");
    }
    let mut harmless = bert;
    harmless.insert("use_cache".into(), json!(true));
    harmless.remove("model_type");
    assert!(
        read(&harmless).unwrap().unused.contains(&"use_cache".to_owned()),
        "and BERT is known by its keys"
    );
    let marked = [b"\xEF\xBB\xBF", Value::Object(harmless).to_string().as_bytes()].concat();
    assert!(read_config(Path::new("config.json"), &marked).is_ok(), "a mark of UTF-8 before it");
}

#[test]
fn classes_with_other_heads_are_told_apart() {
    let mut config = written(&model(Arch::Bert)).unwrap();
    let mut other = |class: Value| {
        config.insert("architectures".into(), class);
        read(&config).unwrap().other_head
    };
    for class in ["BertForTokenClassification", "BertForQuestionAnswering", "BertForNextSentencePrediction"] {
        assert_eq!(other(json!([class])).as_deref(), Some(class));
    }
    for class in
        ["BertForSequenceClassification", "BertForMaskedLM", "BertModel", "BertForPreTraining", "OwnModel"]
    {
        assert_eq!(other(json!([class])), None);
    }
    assert_eq!((other(json!([])), other(Value::Null)), (None, None));
}

#[test]
fn both_dialects_of_modernbert_say_the_same() {
    let old = written(&model(Arch::Modernbert)).unwrap();
    let mut new = old.clone();
    for key in ["global_attn_every_n_layers", "global_rope_theta", "local_rope_theta"] {
        assert!(new.remove(key).is_some());
    }
    let kinds = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"];
    new.insert("layer_types".into(), json!(kinds));
    let rope = |theta: f64| json!({"rope_theta": theta, "rope_type": "default"});
    let ropes = json!({"full_attention": rope(160_000.0), "sliding_attention": rope(10_000.0)});
    new.insert("rope_parameters".into(), ropes);
    assert_eq!(read(&new).unwrap().config, read(&old).unwrap().config);
    new.insert("layer_types".into(), json!(vec!["sliding_attention"; 4]));
    assert!(read(&new).unwrap_err().to_string().contains("layer_types"));
    new.insert("layer_types".into(), json!(kinds));
    new["rope_parameters"]["full_attention"]["rope_type"] = json!("yarn");
    assert!(read(&new).unwrap_err().to_string().contains("rope_type"));
}

#[test]
fn every_parameter_of_a_family_has_tensors_of_its_own() {
    for arch in FAMILIES {
        let classifier = Model::new(&model(arch)).unwrap();
        let language = Model::new(&ModelConfig { head: None, ..model(arch) }).unwrap();
        for table in [classifier.table(), language.table()] {
            let mut taken = HashSet::new();
            for param in table.params() {
                // ModernBERT's two heads share their transform, and a model has one of them.
                if arch == Arch::Modernbert
                    && table == classifier.table()
                    && param.name.starts_with("lm_head")
                {
                    continue;
                }
                let values = vec![0.0; param.len()];
                let parts =
                    pieces(arch, "", param, &values).unwrap_or_else(|| panic!("{arch:?}: {}", param.name));
                assert_eq!(parts.iter().map(|(_, _, part)| part.len()).sum::<usize>(), param.len());
                for (name, ..) in parts {
                    assert!(taken.insert(name.clone()), "{arch:?}: `{name}` twice");
                }
            }
        }
    }
}

#[test]
fn an_update_of_the_pooler_is_read_as_what_it_adds() {
    let lora = LoraConfig { rank: 2, alpha: 6.0, targets: "q".parse().unwrap(), ..LoraConfig::default() };
    let config = ModelConfig { lora: Some(lora), ..model(Arch::Bert) };
    let built = Model::new(&config).unwrap();
    let weights: Vec<f32> = (0..built.table().len()).map(|i| (i % 1_009 + 2) as f32 / 8.0).collect();
    let (description, parts) = peft_form(&config, None, built.table(), &weights, "base").unwrap();
    let (width, module) = (config.embed_dim, "base_model.model.bert.pooler.dense");
    let number = |n: usize| (n % 7) as f32 - 3.0;
    let [a, b]: [Vec<f32>; 2] = [0, 5].map(|first| (first..first + 2 * width).map(number).collect());
    let read = |whole: bool| {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("adapter_model.safetensors");
        let mut all: Vec<(String, &[usize], &[f32])> = parts
            .iter()
            .filter(|(name, ..)| whole || !name.contains("pooler"))
            .map(|(name, shape, values)| (name.clone(), &shape[..], &values[..]))
            .collect();
        let shapes = [[2, width], [width, 2]];
        all.push((format!("{module}.lora_A.weight"), &shapes[0], &a));
        all.push((format!("{module}.lora_B.weight"), &shapes[1], &b));
        write_tensors(&file, &all).unwrap();
        let tensors = Tensors::open_file(&file).unwrap();
        let (path, text) = (Path::new("adapter_config.json"), description.to_string());
        read_peft(path, text.as_bytes(), &tensors, &model(Arch::Bert))
    };
    let (name, shape, values) = read(false).unwrap().head_update.unwrap();
    assert_eq!((name.as_str(), &shape[..]), ("classification_head.dense.weight", &[width, width][..]));
    for (at, value) in values.iter().enumerate() {
        let (row, column) = (at / width, at % width);
        // Alpha over the rank is 3.
        let expected = 3.0 * (b[2 * row] * a[column] + b[2 * row + 1] * a[width + column]);
        assert!((value - expected).abs() < 1e-6, "{row}, {column}: {value} {expected}");
    }
    let error = read(true).unwrap_err().to_string();
    assert!(error.contains("`modules_to_save`") && error.contains("has an update, too"), "{error}");
}

#[test]
fn updates_and_scales_of_every_family_come_back_from_peft() {
    let lora = LoraConfig { rank: 2, targets: "all".parse().unwrap(), rslora: true, ..LoraConfig::default() };
    let ia3 = Ia3Config { targets: "all".parse().unwrap() };
    for arch in FAMILIES {
        for (lora, ia3) in [(Some(lora), None), (None, Some(ia3))] {
            let config = ModelConfig { lora, ia3, ..model(arch) };
            let built = Model::new(&config).unwrap();
            let table = built.table();
            let weights: Vec<f32> = (0..table.len()).map(|i| (i % 1_009 + 2) as f32 / 8.0).collect();
            let (description, parts) = peft_form(&config, None, table, &weights, "base").unwrap();
            let temp = tempfile::tempdir().unwrap();
            let file = temp.path().join("adapter_model.safetensors");
            let parts: Vec<_> =
                parts.iter().map(|(name, shape, v)| (name.clone(), &shape[..], &v[..])).collect();
            write_tensors(&file, &parts).unwrap();
            let tensors = Tensors::open_file(&file).unwrap();
            let (path, text) = (Path::new("adapter_config.json"), description.to_string());
            assert_eq!(peft_base(path, text.as_bytes()).unwrap().as_deref(), Some("base"));
            let base = model(arch);
            let found = read_peft(path, text.as_bytes(), &tensors, &base).unwrap();
            assert_eq!((found.lora, found.ia3), (lora, ia3), "{arch:?}");
            let added = |kind| matches!(kind, Kind::Lora | Kind::Ia3 | Kind::Head);
            let expected = table.params().iter().filter(|param| added(param.kind)).count();
            assert_eq!(found.parameters.len(), expected, "{arch:?}");
            for (name, shape, values) in &found.parameters {
                let param = table.params().iter().find(|param| param.name == *name).unwrap();
                assert_eq!(*shape, param.shape, "{arch:?}: {name}");
                assert!(*values == weights[param.offset..][..param.len()], "{arch:?}: {name}");
            }
            // A block less, and tensors are left over, or the ranks of packed ones.
            let small = ModelConfig { num_layers: 3, ..base };
            let error = read_peft(path, text.as_bytes(), &tensors, &small).unwrap_err().to_string();
            let packs = lora.is_some() && matches!(arch, Arch::Gpt2 | Arch::Modernbert);
            assert!(error.contains(if packs { "`rank_pattern`" } else { "of 3 blocks" }), "{error}");
        }
    }
}
