//! Sizes, starts, freezing; that options do what they say.

mod heads;
mod parts;

use headstart_engine::{CodePath, Device, Gradients, Packing, Precision, Weights};
use serde_json::json;

use super::*;
use crate::config::{
    AdapterKind, AdapterLayout, Arch, HeadConfig, HeadPooling, Ia3Config, InitScheme, LayoutChanges,
    LoraConfig, NormPlace, Positions, Problem,
};
use crate::params::{Kind, Role};

fn small(arch: Arch) -> ModelConfig {
    ModelConfig {
        arch,
        vocab_size: 300,
        embed_dim: 64,
        hidden_dim: 160,
        num_max_positions: 50,
        num_heads: 4,
        num_layers: 3,
        ..ModelConfig::default()
    }
}

fn with_all(config: &ModelConfig) -> ModelConfig {
    let head = HeadConfig {
        num_classes: 6,
        pooling: HeadPooling::Cls,
        problem: Problem::SingleLabel,
        max_length: None,
        truncation: None,
        dropout: None,
    };
    ModelConfig { adapters_dim: Some(8), head: Some(head), offset_token: Some(7), ..config.clone() }
}

/// The initial values of every parameter whose name `wanted` accepts.
fn start(config: &ModelConfig, wanted: impl Fn(&str) -> bool) -> Vec<f32> {
    let model = Model::new(config).unwrap();
    let values = model.table().initial_values(42);
    let of = |p: &Param| values[p.offset..p.offset + p.len()].to_vec();
    let found: Vec<f32> = model.table().params().iter().filter(|p| wanted(&p.name)).flat_map(of).collect();
    assert!(!found.is_empty());
    found
}

/// Holds if `values` look drawn from a normal around 0.
fn assert_normal(values: &[f32], deviation: f64, what: &str) {
    let n = values.len() as f64;
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let found = (values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n).sqrt();
    // Four standard errors of a mean and of a deviation.
    assert!(mean.abs() < 4.0 * deviation / n.sqrt(), "{what}: mean {mean}");
    assert!((found / deviation - 1.0).abs() < 4.0 / (2.0 * n).sqrt(), "{what}: deviation {found}");
}

#[test]
fn the_full_models_have_their_published_sizes() {
    let tutorial =
        ModelConfig { vocab_size: 28_996, positions: Positions::Sinusoidal, ..ModelConfig::default() };
    let model = Model::new(&tutorial).unwrap();
    assert_eq!((model.table().len(), model.table().trainable_len()), (50_396_360, 50_291_400));
    let learned = ModelConfig { positions: Positions::Learned, ..tutorial };
    assert_eq!(Model::new(&learned).unwrap().table().trainable_len(), 50_396_360);
    let gpt2 = ModelConfig { vocab_size: 50_257, ..ModelConfig::preset("gpt2").unwrap() };
    assert_eq!(Model::new(&gpt2).unwrap().table().trainable_len(), 124_439_808);
    // With the language model's head: bert-base-uncased, roberta-base, distilbert-base-uncased, ModernBERT-base.
    let base = |arch, vocab_size| ModelConfig {
        vocab_size,
        num_max_positions: 512,
        causal: false,
        arch,
        ..ModelConfig::preset("gpt2").unwrap()
    };
    let half = ModelConfig { num_layers: 6, ..base(Arch::Distilbert, 30_522) };
    let modern = ModelConfig {
        num_layers: 22,
        hidden_dim: 1_152,
        positions: Positions::Rotary,
        ..base(Arch::Modernbert, 50_368)
    };
    for (config, size) in [
        (base(Arch::Bert, 30_522), 109_514_298),
        (base(Arch::Roberta, 50_265), 124_697_433),
        (half, 66_985_530),
        (modern, 149_655_232),
    ] {
        assert_eq!(Model::new(&config).unwrap().table().len(), size, "{:?}", config.arch);
    }
    // electra-small-discriminator with a classifier of two, and what the generator's head has beside its table.
    let pooler =
        HeadConfig { pooling: HeadPooling::Pooler, ..with_all(&base(Arch::Electra, 1)).head.unwrap() };
    let small = ModelConfig {
        embed_dim: 256,
        embedding_size: Some(128),
        hidden_dim: 1_024,
        num_heads: 4,
        head: Some(HeadConfig { num_classes: 2, ..pooler }),
        ..base(Arch::Electra, 30_522)
    };
    let of_generator = 128 * 256 + 3 * 128 + 30_522;
    assert_eq!(Model::new(&small).unwrap().table().len(), 13_549_314 + of_generator);
}

#[test]
fn naacl2019_starts_as_the_tutorial() {
    let config = with_all(&small(Arch::Naacl2019));
    let bound = (6.0_f64 / f64::from(4 * 64)).sqrt() as f32;
    let in_proj = start(&config, |name| name.ends_with("in_proj.weight"));
    assert!(in_proj.iter().all(|v| v.abs() <= bound));
    assert!(in_proj.iter().any(|v| *v > 0.99 * bound) && in_proj.iter().any(|v| *v < -0.99 * bound));
    let mean = in_proj.iter().sum::<f32>() / in_proj.len() as f32;
    assert!(mean.abs() < 0.01 * bound);
    assert!(start(&config, |name| name.ends_with("bias")).iter().all(|&v| v == 0.0));
    assert!(start(&config, |name| name.contains("cls_offset")).iter().all(|&v| v == 0.0));
    for part in ["token_embedding", "position_embedding", "norm_", "out_proj", "feed_forward.up"]
        .into_iter()
        .chain(["feed_forward.down", "adapter_attention.down", "adapter_feed_forward.up"])
        .chain(["classification_head"])
    {
        let values = start(&config, |name| name.contains(part) && name.ends_with("weight"));
        assert_normal(&values, 0.02, part);
    }
}

#[test]
fn gpt2_starts_with_norms_at_one_and_shrunk_residuals() {
    let config = ModelConfig { initializer_range: 0.03, ..small(Arch::Gpt2) };
    let norms = start(&config, |name| name.contains("norm") && name.ends_with("weight"));
    assert!(norms.len() == 64 * (2 * 3 + 1) && norms.iter().all(|v| (v - 1.0).abs() < f32::EPSILON));
    assert!(start(&config, |name| name.ends_with("bias")).iter().all(|&v| v == 0.0));
    let shrunk = 0.03 / 6.0_f64.sqrt();
    for (part, deviation) in [
        ("token_embedding.weight", 0.03),
        ("position_embedding.weight", 0.03),
        ("in_proj.weight", 0.03),
        ("feed_forward.up.weight", 0.03),
        ("out_proj.weight", shrunk),
        ("feed_forward.down.weight", shrunk),
    ] {
        assert_normal(&start(&config, |name| name.ends_with(part)), deviation, part);
    }
}

#[test]
fn a_plain_normal_start_has_norms_at_one_and_no_shrunk_weights() {
    let layout = LayoutChanges { init: Some(InitScheme::Normal), ..LayoutChanges::default() };
    let config = ModelConfig { layout, ..small(Arch::Gpt2) };
    let norms = start(&config, |name| name.contains("norm") && name.ends_with("weight"));
    assert!(norms.iter().all(|v| (v - 1.0).abs() < f32::EPSILON));
    for part in ["in_proj.weight", "out_proj.weight", "feed_forward.down.weight", "token_embedding.weight"] {
        assert_normal(&start(&config, |name| name.ends_with(part)), 0.02, part);
    }
}

#[test]
fn without_biases_only_norms_adapters_and_heads_have_one() {
    let layout = LayoutChanges { bias: Some(false), ..LayoutChanges::default() };
    let model = Model::new(&ModelConfig { layout, ..with_all(&small(Arch::Gpt2)) }).unwrap();
    let with: Vec<Kind> =
        model.table().params().iter().filter(|p| p.role == Role::Bias).map(|p| p.kind).collect();
    assert!(with.iter().all(|kind| matches!(kind, Kind::Norm | Kind::Adapter | Kind::Head)));
    assert_eq!(with.len(), 3 * (2 + 4) + 1 + 1);
}

#[test]
fn norms_without_bias_have_a_weight_alone() {
    let layout = LayoutChanges { norm_bias: Some(false), embedding_norm: Some(true), ..Default::default() };
    let model = Model::new(&ModelConfig { layout, ..small(Arch::Gpt2) }).unwrap();
    let norms: Vec<Role> =
        model.table().params().iter().filter(|p| p.kind == Kind::Norm).map(|p| p.role).collect();
    assert_eq!(norms, [Role::Weight; 1 + 2 * 3 + 1]);
}

#[test]
fn rotary_positions_have_no_table_and_need_even_heads() {
    let config = ModelConfig { positions: Positions::Rotary, ..small(Arch::Gpt2) };
    let model = Model::new(&config).unwrap();
    assert!(model.table().params().iter().all(|p| p.kind != Kind::PositionEmbedding));
    let odd = ModelConfig { embed_dim: 60, ..config };
    let error = Model::new(&odd).unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("heads have 15"), "{error}");
}

#[test]
fn a_gate_doubles_the_first_linear_of_a_feed_forward() {
    let layout = LayoutChanges { gated: Some(true), ..Default::default() };
    let model = Model::new(&ModelConfig { layout, ..small(Arch::Gpt2) }).unwrap();
    let shape = |part: &str| &model.table().params().iter().find(|p| p.name.ends_with(part)).unwrap().shape;
    assert_eq!(*shape("feed_forward.up.weight"), [320, 64]);
    assert_eq!(*shape("feed_forward.up.bias"), [320]);
    assert_eq!(*shape("feed_forward.down.weight"), [64, 160]);
}

#[test]
fn a_head_or_adapters_change_no_other_start() {
    for arch in [Arch::Naacl2019, Arch::Gpt2] {
        let (plain, more) = (small(arch), with_all(&small(arch)));
        let (a, b) = (Model::new(&plain).unwrap(), Model::new(&more).unwrap());
        let (from, to) = (a.table().initial_values(9), b.table().initial_values(9));
        assert!(b.table().params().len() > a.table().params().len());
        for p in a.table().params() {
            let same = b.table().params().iter().find(|other| other.name == p.name).unwrap();
            assert_eq!(from[p.offset..][..p.len()], to[same.offset..][..p.len()], "{} of {arch:?}", p.name);
        }
    }
}

#[test]
fn freezing_keeps_the_chosen_groups_and_shortens_the_tape() {
    let mut model = Model::new(&with_all(&small(Arch::Naacl2019))).unwrap();
    let everything = recorded(&model, 1);
    // Embedding; three blocks of two norms, four products, attention, two adapters; pooling, head, loss.
    assert_eq!(everything, 1 + 3 * (2 + 4 + 1 + 4) + 3);
    model.freeze_except(|p| matches!(p.kind, Kind::Adapter | Kind::Head | Kind::TokenOffset));
    assert!(model.table().params().iter().all(|p| {
        let trains = ["adapter_", "classification_head", "cls_offset"];
        p.grad.is_some() == trains.iter().any(|part| p.name.contains(part))
    }));
    assert_eq!(recorded(&model, 1), everything, "the offset lies below everything");
    model.freeze_except(|p| matches!(p.kind, Kind::Adapter | Kind::Head));
    // Nothing trains below the first adapter: embedding, norm, in_proj, attention, out_proj.
    assert_eq!(recorded(&model, 1), everything - 5);
    model.freeze_except(|p| p.kind == Kind::Head);
    assert_eq!(recorded(&model, 1), 2, "the head and its loss");
    model.freeze_except(|_| false);
    assert_eq!((recorded(&model, 1), model.table().trainable_len()), (0, 0));
    model.freeze_except(|_| true);
    assert_eq!(recorded(&model, 1), everything);
}

/// A model with a head and low-rank updates of these linears.
fn with_updates(targets: &str) -> ModelConfig {
    let lora = LoraConfig { rank: 2, targets: targets.parse().unwrap(), ..LoraConfig::default() };
    ModelConfig { adapters_dim: None, offset_token: None, lora: Some(lora), ..with_all(&small(Arch::Gpt2)) }
}

#[test]
fn low_rank_updates_start_as_nothing_and_shorten_the_tape() {
    let (plain, updated) = (ModelConfig { lora: None, ..with_updates("q") }, with_updates("q,up"));
    let [plain, mut updated] = [plain, updated].map(|config| Model::new(&config).unwrap());
    let everything = recorded(&updated, 1);
    assert_eq!(everything, recorded(&plain, 1) + 3 * 4, "two linears for each of two updates a block");
    let names: Vec<&str> = updated.table().params().iter().map(|param| param.name.as_str()).collect();
    for name in
        ["attention.q.lora_a", "attention.q.lora_b", "feed_forward.up.lora_a", "feed_forward.up.lora_b"]
    {
        assert!(names.contains(&format!("transformer.layers.2.{name}.weight").as_str()), "{names:?}");
    }
    updated.freeze_except(|param| matches!(param.kind, Kind::Lora | Kind::Head));
    // Nothing trains below the first update: embedding, norm.
    assert_eq!(recorded(&updated, 1), everything - 2);
    assert_eq!(logits(&plain), logits(&updated));
}

#[test]
fn scales_and_parallel_adapters_start_as_nothing() {
    let plain = ModelConfig { lora: None, ..with_updates("q") };
    let scaled = ModelConfig { ia3: Some(Ia3Config::default()), ..plain.clone() };
    let beside = AdapterLayout { kind: AdapterKind::Parallel, activation: None, scale: 4.0 };
    let beside = ModelConfig { adapters_dim: Some(8), adapters: beside, ..plain.clone() };
    let behind = AdapterLayout { kind: AdapterKind::Pfeiffer, ..AdapterLayout::default() };
    let behind = ModelConfig { adapters_dim: Some(8), adapters: behind, ..plain.clone() };
    let [plain, scaled, beside, behind] =
        [plain, scaled, beside, behind].map(|config| Model::new(&config).unwrap());
    assert_eq!(logits(&plain), logits(&scaled));
    assert_eq!(logits(&plain), logits(&beside));
    let names = |model: &Model, part: &str| {
        model.table().params().iter().filter(|param| param.name.contains(part)).count()
    };
    // Two linears with biases in each of three blocks; a scale for keys, values and inner activations.
    assert_eq!([names(&beside, ".adapter_parallel."), names(&behind, ".adapter_feed_forward.")], [12, 12]);
    assert_eq!([names(&behind, ".adapter_attention."), names(&scaled, ".ia3.weight")], [0, 9]);
    // Near the identity.
    let distance = logits(&plain).iter().zip(logits(&behind)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(distance > 0.0 && distance < 0.05, "{distance}");
}

fn logits(model: &Model) -> Vec<f32> {
    let device = Device::cpu(None, CodePath::Auto).unwrap();
    let (weights, packing) = (Weights::new(model.table().initial_values(1)), Packing::new(&[3], &[0]));
    let mut tape = Tape::inference(&device, &weights, &packing, Precision::F32);
    let hidden = model.trunk(&mut tape, Inputs::new(&[5, 6, 7]), None);
    model.classify(&mut tape, &hidden).unwrap().tensor().to_f32_vec()
}

/// How many ops a training tape keeps for the backward of a classification.
fn recorded(model: &Model, step: u64) -> usize {
    classified(model, step).0
}

/// How many ops a training tape keeps for the backward of a classification, and the gradients it gives.
fn classified(model: &Model, step: u64) -> (usize, Vec<f32>) {
    let device = Device::cpu(None, CodePath::Auto).unwrap();
    let weights = Weights::new(model.table().initial_values(1));
    let mut gradients = Gradients::new(model.table().trainable_len());
    let packing = Packing::new(&[3, 2], &[0, 1]);
    let mut tape = Tape::training(&device, &weights, &mut gradients, &packing, Precision::F32, 0, step);
    let hidden = model.trunk(&mut tape, Inputs::new(&[5, 6, 7, 5, 7]), None);
    let logits = model.classify(&mut tape, &hidden).unwrap();
    tape.loss(&logits, headstart_engine::ops::loss::Targets::Classes(&[1, 2], None), 1.0);
    let recorded = tape.recorded();
    tape.backward();
    (recorded, gradients.values().to_vec())
}

#[test]
fn what_is_frozen_now_costs_nothing_and_its_gradient_stays_zero() {
    let config = ModelConfig { dropout: 0.0, ..with_all(&small(Arch::Gpt2)) };
    let mut model = Model::new(&config).unwrap();
    let (everything, whole) = classified(&model, 1);
    // Gradual unfreezing: the head, from step 5 on the last block and the final norm, from step 9 on the rest.
    model.set_phases(&[1, 5, 9], |param, from| {
        let above =
            param.kind == Kind::Head || (param.layer.is_none() && param.kind == Kind::Norm && from > 1);
        f64::from(u8::from(above || from == 9 || (from == 5 && param.layer == Some(2))))
    });
    assert_eq!(model.table().trainable_len(), whole.len(), "the layout is that of all that will ever train");
    // The head and its loss; then a block's two norms, four linears, attention, two adapters, the final norm, pooling.
    assert_eq!(
        [1, 4, 5, 8, 9].map(|step| recorded(&model, step)),
        [2, 2, 2 + 11 + 2, 2 + 11 + 2, everything]
    );
    for step in [1, 5, 9] {
        let (_, gradients) = classified(&model, step);
        let phase = model.table().phase_of(step);
        for (index, param) in model.table().params().iter().enumerate() {
            let part = param.grad.unwrap()..param.grad.unwrap() + param.len();
            if model.table().factor(index, phase) > 0.0 {
                assert_eq!(gradients[part.clone()], whole[part], "{} at step {step}", param.name);
            } else {
                assert!(gradients[part].iter().all(|&g| g == 0.0), "{} at step {step}", param.name);
            }
        }
    }
}

#[test]
fn every_parameter_knows_its_layer_kind_and_role() {
    let layout = LayoutChanges { token_types: Some(2), embedding_norm: Some(true), ..Default::default() };
    let gpt2 = ModelConfig { positions: Positions::Sinusoidal, layout, ..with_all(&small(Arch::Gpt2)) };
    let gpt2 = Model::new(&gpt2).unwrap();
    assert!(gpt2.table().params().iter().any(|param| param.kind == Kind::TokenTypeEmbedding));
    let modern = ModelConfig {
        embedding_size: Some(24),
        positions: Positions::Rotary,
        ..with_all(&small(Arch::Modernbert))
    };
    let modern = Model::new(&modern).unwrap();
    assert!(modern.table().params().iter().any(|param| param.name == "classification_head.norm.weight"));
    for param in gpt2.table().params().iter().chain(modern.table().params()) {
        let layer = param.name.strip_prefix("transformer.layers.").map(|rest| rest[..1].parse().unwrap());
        let kinds = [
            ("token_embedding", Kind::TokenEmbedding),
            ("position_embedding", Kind::PositionEmbedding),
            ("token_type_embedding", Kind::TokenTypeEmbedding),
            ("cls_offset", Kind::TokenOffset),
            ("in_proj", Kind::AttentionIn),
            ("out_proj", Kind::AttentionOut),
            ("feed_forward.up", Kind::FeedForwardUp),
            ("feed_forward.down", Kind::FeedForwardDown),
            ("norm", Kind::Norm),
            ("adapter", Kind::Adapter),
            ("embedding_projection", Kind::EmbeddingProjection),
            ("lm_head", Kind::LmHead),
            ("classification_head", Kind::Head),
        ];
        // An adapter of the feed-forward is an adapter.
        let kind = kinds.iter().rev().find(|(part, _)| param.name.contains(part)).unwrap().1;
        let role = if param.name.ends_with("bias") { Role::Bias } else { Role::Weight };
        assert_eq!((param.layer, param.kind, param.role), (layer, kind, role), "{}", param.name);
        assert_eq!(param.is_fixed(), param.kind == Kind::PositionEmbedding);
    }
}

#[test]
fn a_familys_name_is_its_options_and_only_changes_are_written() {
    for (arch, name) in [(Arch::Naacl2019, "naacl2019"), (Arch::Gpt2, "gpt2")] {
        let alone: ModelConfig = serde_json::from_value(json!({ "arch": name, "vocab_size": 9 })).unwrap();
        assert_eq!(alone, ModelConfig { arch, vocab_size: 9, ..ModelConfig::default() });
        let written = serde_json::to_value(&alone).unwrap();
        assert!(written["arch"] == name && written.get("layout").is_none());
        assert!(toml::to_string(&alone).unwrap().starts_with(&format!("arch = \"{name}\"\n")));
        let layout =
            LayoutChanges { norm: Some(NormPlace::After), norm_eps: Some(1e-12), ..Default::default() };
        let changed = ModelConfig { layout, ..alone.clone() };
        assert_eq!(serde_json::to_value(&changed).unwrap()["layout"]["norm"], "after");
        let again: ModelConfig = toml::from_str(&toml::to_string(&changed).unwrap()).unwrap();
        assert_eq!(again, changed);
        let (family, model) = (Model::new(&alone).unwrap().layout(), Model::new(&changed).unwrap());
        assert_eq!(model.layout(), Layout { norm: NormPlace::After, norm_eps: 1e-12, ..family });
    }
    for unknown in [json!({ "layout": { "nrm": "after" } }), json!({ "layout": { "norm": "behind" } })] {
        assert!(serde_json::from_value::<ModelConfig>(unknown).is_err());
    }
    for (changes, key) in [
        (LayoutChanges { norm_eps: Some(0.0), ..Default::default() }, "layout.norm_eps"),
        (LayoutChanges { position_offset: Some(1 << 40), ..Default::default() }, "layout.position_offset"),
        (LayoutChanges { token_types: Some(1 << 40), ..Default::default() }, "layout.token_types"),
        (LayoutChanges { window: Some(1 << 40), ..Default::default() }, "layout.window"),
        (LayoutChanges { rotary_theta: Some(-1.0), ..Default::default() }, "layout.rotary_theta"),
    ] {
        let error = Model::new(&ModelConfig { layout: changes, ..small(Arch::Gpt2) }).unwrap_err();
        assert!(error.is_usage() && error.to_string().contains(key), "{error}");
    }
}

/// The hidden states of two tokens.
fn typed(model: &Model, token_type_ids: Option<&[u32]>) -> Vec<f32> {
    let device = Device::cpu(None, CodePath::Auto).unwrap();
    let weights = Weights::new(model.table().initial_values(1));
    let packing = Packing::new(&[2], &[0]);
    let mut tape = Tape::inference(&device, &weights, &packing, Precision::F32);
    let inputs = Inputs { input_ids: &[1, 2], token_type_ids };
    model.trunk(&mut tape, inputs, None).tensor().to_f32_vec()
}

#[test]
fn token_types_count_where_there_is_a_table_and_are_0_unless_given() {
    let layout = LayoutChanges { token_types: Some(2), ..LayoutChanges::default() };
    let model = Model::new(&ModelConfig { layout, ..small(Arch::Gpt2) }).unwrap();
    let untyped = typed(&model, None);
    assert_eq!(untyped, typed(&model, Some(&[0, 0])));
    assert_ne!(untyped, typed(&model, Some(&[0, 1])));
}

#[test]
#[should_panic(expected = "no token types")]
fn token_types_are_refused_where_there_is_no_table() {
    typed(&Model::new(&small(Arch::Gpt2)).unwrap(), Some(&[0, 1]));
}

#[test]
fn a_training_token_of_the_tutorials_model_costs_311_mflop() {
    let model = Model::new(&ModelConfig { vocab_size: 28_996, ..ModelConfig::default() }).unwrap();
    let flops = 3.0 * model.forward_flops([256], 255) / 256.0;
    assert!((flops * 1e-6 - 311.0).abs() < 1.0, "{flops}");
}

#[test]
#[allow(clippy::float_cmp)] // whole numbers
fn operations_are_those_of_the_options() {
    let (c, f, layers, v) = (64, 160, 3, 300);
    let plain = small(Arch::Gpt2);
    let linears = layers * 2 * (4 * c * c + 2 * c * f);
    let attention = layers * 4 * c * (5 * 6 / 2 + 2 * 3 / 2);
    let flops = |config: &ModelConfig| Model::new(config).unwrap().forward_flops([5, 2], 3);
    assert_eq!(flops(&plain), f64::from(7 * linears + attention + 3 * 2 * c * v));
    let more = ModelConfig { causal: false, ..with_all(&plain) };
    let (adapters, attention) = (layers * 2 * 2 * (2 * c * 8), layers * 4 * c * (5 * 5 + 2 * 2));
    assert_eq!(flops(&more), f64::from(7 * (linears + adapters) + attention + 3 * 2 * c * v + 2 * 2 * c * 6));
    // A window of 1 in the second of three layers: 13 of 25 pairs, and all 4 of the short sequence.
    let layout = LayoutChanges { window: Some(1), global_every: Some(2), ..Default::default() };
    let local = ModelConfig { causal: false, layout, ..plain.clone() };
    let attention = 4 * c * (2 * (5 * 5 + 2 * 2) + 13 + 4);
    assert_eq!(flops(&local), f64::from(7 * linears + attention + 3 * 2 * c * v));
    // Where nothing is scored but one token of each of two sequences, they alone pass through what stands behind the last attention:
    // it reads three of its twelve squares of the width.
    let one = Model::new(&ModelConfig { adapters_dim: None, ..more }).unwrap().forward_flops([5, 2], 0);
    let (all, behind) = (7 * (layers - 1), 2 * (c * c + 2 * c * f));
    let linears = all * 2 * (4 * c * c + 2 * c * f) + 7 * 2 * 3 * c * c + 2 * behind;
    let attention = 4 * c * (2 * (5 * 5 + 2 * 2) + 5 + 2);
    assert_eq!(one, f64::from(linears + attention + 2 * 2 * c * 6));
}
