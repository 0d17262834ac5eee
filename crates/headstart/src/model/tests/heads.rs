//! The heads of the families: their parameters, what they read, where they drop, what they cost.

use super::*;
use crate::config::{Activation, HeadDropout};

/// A small model of a family with its own classifier.
fn classifier(arch: Arch) -> ModelConfig {
    let head = HeadConfig {
        num_classes: 3,
        pooling: arch.pooling(),
        problem: Problem::SingleLabel,
        max_length: None,
        truncation: None,
        dropout: None,
    };
    let positions = if arch == Arch::Modernbert { Positions::Rotary } else { Positions::Learned };
    ModelConfig { head: Some(head), positions, causal: !arch.is_encoder(), ..small(arch) }
}

fn names(model: &Model) -> Vec<&str> {
    model.table().params().iter().map(|param| param.name.as_str()).collect()
}

/// Logits for sequences of three, one and two tokens.
fn logits(model: &Model, step: Option<u64>) -> Vec<f32> {
    let device = Device::cpu(None, CodePath::Auto).unwrap();
    let weights = Weights::new(model.table().initial_values(1));
    let mut gradients = Gradients::new(model.table().trainable_len());
    let packing = Packing::new(&[3, 1, 2], &[0, 1, 2]);
    let mut tape = match step {
        Some(step) => Tape::training(&device, &weights, &mut gradients, &packing, Precision::F32, 0, step),
        None => Tape::inference(&device, &weights, &packing, Precision::F32),
    };
    let hidden = model.trunk(&mut tape, Inputs::new(&[5, 6, 7, 8, 5, 9]), None);
    model.classify(&mut tape, &hidden).unwrap().tensor().to_f32_vec()
}

#[test]
fn a_family_has_the_parameters_of_its_heads() {
    let of = |arch: Arch| -> Vec<String> {
        let model = Model::new(&classifier(arch)).unwrap();
        let above = |name: &&str| name.starts_with("lm_head") || name.starts_with("classification_head");
        names(&model).into_iter().filter(above).map(str::to_owned).collect()
    };
    let own = ["classification_head.weight", "classification_head.bias"];
    assert_eq!(of(Arch::Naacl2019), own);
    assert_eq!(of(Arch::Gpt2), own);
    let lm = ["lm_head.dense.weight", "lm_head.dense.bias", "lm_head.norm.weight", "lm_head.norm.bias"];
    let pooler = ["classification_head.dense.weight", "classification_head.dense.bias"];
    for arch in [Arch::Bert, Arch::Roberta, Arch::Distilbert, Arch::Electra] {
        assert_eq!(of(arch), [&lm[..], &["lm_head.bias"], &pooler, &own].concat(), "{arch:?}");
    }
    let lm = ["lm_head.dense.weight", "lm_head.norm.weight", "lm_head.bias"];
    let head = ["classification_head.dense.weight", "classification_head.norm.weight"];
    assert_eq!(of(Arch::Modernbert), [&lm[..], &head, &own].concat());
    let layout = LayoutChanges { head_bias: Some(false), ..Default::default() };
    let model = Model::new(&ModelConfig { layout, ..classifier(Arch::Gpt2) }).unwrap();
    assert!(!names(&model).contains(&"classification_head.bias"));
}

#[test]
fn the_norms_of_heads_start_at_one() {
    let norms =
        start(&classifier(Arch::Modernbert), |name| name.contains("head.norm") && name.ends_with("weight"));
    assert!(norms.len() == 2 * 64 && norms.iter().all(|v| (v - 1.0).abs() < f32::EPSILON));
    assert_normal(&start(&classifier(Arch::Bert), |name| name.ends_with("head.dense.weight")), 0.02, "dense");
}

#[test]
fn only_the_first_block_can_lack_a_norm() {
    let model = Model::new(&classifier(Arch::Modernbert)).unwrap();
    let norms: Vec<&str> = names(&model).into_iter().filter(|name| name.contains(".norm_1")).collect();
    assert_eq!(norms, ["transformer.layers.1.norm_1.weight", "transformer.layers.2.norm_1.weight"]);
}

#[test]
fn narrow_embeddings_are_widened_and_score_hidden_states_through_a_transform() {
    let config = ModelConfig { embedding_size: Some(24), ..classifier(Arch::Electra) };
    let model = Model::new(&config).unwrap();
    let shape = |name: &str| &model.table().params().iter().find(|param| param.name == name).unwrap().shape;
    for table in ["token_embedding", "position_embedding", "token_type_embedding"] {
        assert_eq!(shape(&format!("transformer.{table}.weight"))[1], 24);
    }
    assert_eq!(*shape("transformer.embedding_norm.weight"), [24]);
    assert_eq!(*shape("transformer.embedding_projection.weight"), [64, 24]);
    assert_eq!(*shape("lm_head.dense.weight"), [24, 64]);
    assert!(logits(&model, None).iter().all(|z| z.is_finite()));
    assert!(model.check_lm_head().is_ok());
    // A discriminator has a classifier and no language model's head.
    let layout = LayoutChanges { lm_transform: Some(false), lm_bias: Some(false), ..Default::default() };
    let model = Model::new(&ModelConfig { layout, ..config }).unwrap();
    assert!(logits(&model, None).iter().all(|z| z.is_finite()));
    let error = model.check_lm_head().unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("embeddings of 24"), "{error}");
}

/// What [CLS] is, where it stands, decides; the others are the same row where there is but one.
#[test]
fn cls_is_the_first_row_or_the_last() {
    let with = |cls_first, pooling| {
        let layout =
            LayoutChanges { cls_first: Some(cls_first), prediction_head: Some(true), ..Default::default() };
        let config = classifier(Arch::Bert);
        let head = config.head.clone().map(|head| HeadConfig { pooling, ..head });
        logits(&Model::new(&ModelConfig { head, layout, ..config }).unwrap(), None)
    };
    let (first, last) = (with(true, HeadPooling::Cls), with(false, HeadPooling::Cls));
    assert_eq!(last, with(true, HeadPooling::Last));
    assert_ne!(first[..3], last[..3]);
    assert_eq!(first[3..6], last[3..6], "a sequence of one token");
    assert_ne!(first[6..], last[6..]);
    assert_eq!(first, with(true, HeadPooling::Pooler), "a prediction head is the only linear below the last");
}

#[test]
fn a_head_drops_out_where_its_family_does() {
    let with = |head_dropout, p, step| {
        let layout = LayoutChanges { head_dropout: Some(head_dropout), ..Default::default() };
        let config = classifier(Arch::Bert);
        let head = config.head.clone().map(|head| HeadConfig { dropout: Some(p), ..head });
        let config = ModelConfig { head, layout, dropout: 0.0, ..config };
        logits(&Model::new(&config).unwrap(), step)
    };
    let (none, after, around) = (HeadDropout::None, HeadDropout::After, HeadDropout::Around);
    let exact = with(none, 0.5, None);
    assert_eq!(with(none, 0.5, Some(1)), exact);
    for place in [after, around] {
        assert_eq!(with(place, 0.5, None), exact, "{place:?}");
        assert_eq!(with(place, 0.0, Some(1)), exact, "{place:?}");
        assert_ne!(with(place, 0.5, Some(1)), exact, "{place:?}");
        assert_ne!(with(place, 0.5, Some(1)), with(place, 0.5, Some(2)), "{place:?}");
    }
    assert_ne!(with(after, 0.5, Some(1)), with(around, 0.5, Some(1)));
}

#[test]
fn the_models_dropout_is_the_heads_unless_it_has_its_own() {
    let with = |dropout, of_head| {
        let config = classifier(Arch::Bert);
        let head = config.head.clone().map(|head| HeadConfig { dropout: of_head, ..head });
        let config = ModelConfig { head, dropout, num_layers: 1, attention_dropout: Some(0.0), ..config };
        logits(&Model::new(&config).unwrap(), Some(1))
    };
    assert_eq!(with(0.25, None), with(0.25, Some(0.25)));
    assert_ne!(with(0.25, None), with(0.25, Some(0.5)));
}

#[test]
fn the_activation_of_a_pooler_is_the_layouts() {
    let with = |pooler| {
        let layout = LayoutChanges { pooler: Some(pooler), ..Default::default() };
        logits(&Model::new(&ModelConfig { layout, ..classifier(Arch::Bert) }).unwrap(), None)
    };
    let all = [Activation::Tanh, Activation::Relu, Activation::Gelu].map(with);
    assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2]);
}

/// The loss of the language model is the cross-entropy of its logits, biases and all.
#[test]
fn lm_loss_and_lm_logits_agree() {
    let device = Device::cpu(None, CodePath::Auto).unwrap();
    for arch in [Arch::Bert, Arch::Modernbert, Arch::Gpt2] {
        let model = Model::new(&ModelConfig { head: None, ..classifier(arch) }).unwrap();
        let mut values = model.table().initial_values(1);
        for param in model.table().params().iter().filter(|param| param.name == "lm_head.bias") {
            let bias = &mut values[param.offset..][..param.len()];
            bias.iter_mut().enumerate().for_each(|(i, b)| *b = (i as f32).sin());
        }
        let weights = Weights::new(values);
        let packing = Packing::new(&[4, 2], &[0, 1]);
        let mut tape = Tape::inference(&device, &weights, &packing, Precision::F32);
        let hidden = model.trunk(&mut tape, Inputs::new(&[1, 2, 3, 4, 5, 6]), None);
        let (rows, targets) = ([4, 1, 0], [7, 299, 0]);
        let mut loss = model.lm_loss(&mut tape, &hidden, &rows, &targets, 1.0);
        loss.wait();
        let logits = model.lm_logits(&mut tape, &hidden, &rows).to_f32_vec();
        let nll = |(row, &target): (&[f32], &u32)| {
            let sum: f64 = row.iter().map(|&z| f64::from(z).exp()).sum();
            sum.ln() - f64::from(row[target as usize])
        };
        let expected: f64 = logits.chunks(300).zip(&targets).map(nll).sum();
        assert!((loss.sum - expected).abs() < 1e-5 * expected, "{arch:?}: {} and {expected}", loss.sum);
    }
}

#[test]
#[allow(clippy::float_cmp)] // whole numbers
fn operations_of_heads_are_counted_where_they_are_done() {
    let (c, e, v) = (64.0, 24.0, 300.0);
    let flops = |config: &ModelConfig, predicted| Model::new(config).unwrap().forward_flops([5], predicted);
    let electra = ModelConfig { embedding_size: Some(24), ..classifier(Arch::Electra) };
    assert_eq!(flops(&electra, 4) - flops(&electra, 1), 3.0 * 2.0 * (c * e + e * v));
    let bare = ModelConfig { head: None, ..electra.clone() };
    assert_eq!(flops(&electra, 1) - flops(&bare, 1), 2.0 * (c * c + 3.0 * c));
    let wide = ModelConfig { embedding_size: None, ..bare.clone() };
    assert_eq!(flops(&bare, 0) - flops(&wide, 0), 5.0 * 2.0 * c * e);
}
