//! What a classifier may have beside a linear, and blocks that a step leaves out.

use super::*;
use crate::config::{Activation, HeadShape, HiddenLayer};

const IDS: [u32; 6] = [5, 6, 7, 8, 5, 9];

fn with_shape(head_shape: HeadShape) -> ModelConfig {
    ModelConfig { head_shape, dropout: 0.0, ..with_all(&small(Arch::Gpt2)) }
}

/// The hidden states of a training step (of inference for `None`) on sequences with these lengths and numbers.
fn hidden(
    model: &Model,
    values: &[f32],
    step: Option<u64>,
    (lengths, numbers): (&[usize], &[u64]),
) -> Vec<f32> {
    let device = Device::cpu(None, CodePath::Auto).unwrap();
    let weights = Weights::new(values.to_vec());
    let mut gradients = Gradients::new(model.table().trainable_len());
    let packing = Packing::new(lengths, numbers);
    let mut tape = match step {
        Some(step) => Tape::training(&device, &weights, &mut gradients, &packing, Precision::F32, 7, step),
        None => Tape::inference(&device, &weights, &packing, Precision::F32),
    };
    let count: usize = lengths.iter().sum();
    model.trunk(&mut tape, Inputs::new(&IDS[..count]), None).tensor().to_f32_vec()
}

#[test]
fn a_head_has_the_parameters_of_its_shape() {
    let of = |head_shape, pooling| -> Vec<(String, Vec<usize>)> {
        let config = with_shape(head_shape);
        let head = config.head.clone().map(|head| HeadConfig { pooling, ..head });
        let model = Model::new(&ModelConfig { head, ..config }).unwrap();
        let params = model.table().params().iter().filter(|param| param.kind == Kind::Head);
        params.map(|param| (param.name.replace("classification_head.", ""), param.shape.clone())).collect()
    };
    let named = |all: &[(&str, &[usize])]| -> Vec<(String, Vec<usize>)> {
        all.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec())).collect()
    };
    let hidden = Some(HiddenLayer { width: 9, activation: Activation::Gelu });
    assert_eq!(
        of(HeadShape { hidden, layer_mix: true }, HeadPooling::LastMean),
        named(&[
            ("mix.weight", &[4]),
            ("mix.scale", &[1]),
            ("hidden.weight", &[9, 64]),
            ("hidden.bias", &[9]),
            ("hidden.mean.weight", &[9, 64]),
            ("weight", &[6, 9]),
            ("bias", &[6]),
        ])
    );
    let plain = named(&[("weight", &[6, 64]), ("bias", &[6])]);
    assert_eq!(of(HeadShape::default(), HeadPooling::Last), plain);
}

/// A mix starts as the mean of all layers; where the last has all the weight, it is the last.
#[test]
fn a_mix_is_of_all_layers() {
    let model = Model::new(&with_shape(HeadShape { layer_mix: true, ..HeadShape::default() })).unwrap();
    let read = |values: &[f32]| {
        let device = Device::cpu(None, CodePath::Auto).unwrap();
        let (weights, packing) = (Weights::new(values.to_vec()), Packing::new(&[4, 2], &[0, 1]));
        let mut tape = Tape::inference(&device, &weights, &packing, Precision::F32);
        let mut states = Vec::new();
        let (last, read) = model.trunk_for_head(&mut tape, Inputs::new(&IDS), &mut |seen| {
            let Seen::States(layer, h) = seen else { return };
            assert_eq!(layer, states.len());
            states.push(h.tensor().to_f32_vec());
        });
        assert_eq!(states[3], last.tensor().to_f32_vec());
        (states, read.tensor().to_f32_vec())
    };
    let mut values = model.table().initial_values(1);
    let (states, mixed) = read(&values);
    for (at, mixed) in mixed.iter().enumerate() {
        let mean = states.iter().map(|state| state[at]).sum::<f32>() / 4.0;
        assert!((mixed - mean).abs() < 1e-6 * (1.0 + mean.abs()), "{mixed}, {mean}");
    }
    let weights = model.table().params().iter().find(|param| param.name.ends_with("mix.weight")).unwrap();
    values[weights.offset + 3] = 200.0;
    let (states, mixed) = read(&values);
    assert_eq!(states[3], mixed);
}

/// A frozen trunk records nothing, mixed or not.
#[test]
fn a_mix_of_a_frozen_trunk_records_itself_alone() {
    let recorded = |layer_mix| {
        let mut model = Model::new(&with_shape(HeadShape { layer_mix, ..HeadShape::default() })).unwrap();
        model.freeze_except(|param| param.kind == Kind::Head);
        let device = Device::cpu(None, CodePath::Auto).unwrap();
        let weights = Weights::new(model.table().initial_values(1));
        let mut gradients = Gradients::new(model.table().trainable_len());
        let packing = Packing::new(&[4, 2], &[0, 1]);
        let mut tape = Tape::training(&device, &weights, &mut gradients, &packing, Precision::F32, 0, 1);
        let (_, read) = model.trunk_for_head(&mut tape, Inputs::new(&IDS), &mut |_| ());
        assert_eq!(tape.recorded(), usize::from(layer_mix));
        model.classify(&mut tape, &read).unwrap();
        tape.recorded()
    };
    // Beside the last linear: the mix, and the rows that are picked from it.
    assert_eq!([false, true].map(recorded), [1, 3]);
}

/// A step without some blocks is a step of the model that has only the others.
#[test]
fn a_block_that_is_left_out_is_as_if_it_were_not_there() {
    let config = with_shape(HeadShape::default());
    let mut model = Model::new(&config).unwrap();
    let values = model.table().initial_values(3);
    let (all, first) = ((&[4, 2][..], &[0, 1][..]), (&[4][..], &[0][..]));
    let whole = hidden(&model, &values, Some(1), all);
    model.set_layer_drop(0.5);
    assert_eq!(hidden(&model, &values, None, all), whole, "nothing is left out in inference");
    let mut seen = std::collections::BTreeSet::new();
    for step in 1..40 {
        let kept: Vec<usize> = {
            let device = Device::cpu(None, CodePath::Auto).unwrap();
            let (weights, packing) = (Weights::new(Vec::new()), Packing::new(&[1], &[0]));
            let mut gradients = Gradients::new(0);
            let tape = Tape::training(&device, &weights, &mut gradients, &packing, Precision::F32, 7, step);
            (0..3).filter(|&layer| !tape.leaves_out(0.5, layer as u64)).collect()
        };
        let found = hidden(&model, &values, Some(step), all);
        // The same on every slab of a batch.
        assert_eq!(found[..4 * 64], hidden(&model, &values, Some(step), first));
        assert!(
            seen.contains(&kept) || kept.is_empty() || {
                let others = Model::new(&ModelConfig { num_layers: kept.len(), ..config.clone() }).unwrap();
                let mut of_others = Vec::new();
                for param in others.table().params() {
                    let name = match param.layer {
                        Some(layer) => param
                            .name
                            .replace(&format!("layers.{layer}."), &format!("layers.{}.", kept[layer])),
                        None => param.name.clone(),
                    };
                    let from = model.table().params().iter().find(|from| from.name == name).unwrap();
                    of_others.extend_from_slice(&values[from.offset..][..from.len()]);
                }
                hidden(&others, &of_others, Some(step), all) == found
            }
        );
        seen.insert(kept);
    }
    assert!(seen.len() == 8, "{seen:?}");
}

/// How often a block is left out, and that its neighbours and other steps do not follow it.
#[test]
fn blocks_are_left_out_at_the_rate_that_is_asked_for() {
    let device = Device::cpu(None, CodePath::Auto).unwrap();
    let (weights, packing) = (Weights::new(Vec::new()), Packing::new(&[1], &[0]));
    let draws: Vec<[f64; 2]> = (0..4_000)
        .map(|step| {
            let mut gradients = Gradients::new(0);
            let tape = Tape::training(&device, &weights, &mut gradients, &packing, Precision::F32, 11, step);
            assert!(!tape.leaves_out(0.0, 0));
            [0, 1].map(|part| f64::from(u8::from(tape.leaves_out(0.2, part))))
        })
        .collect();
    let n = draws.len() as f64;
    let mean = |of: fn(&[f64; 2]) -> f64| draws.iter().map(of).sum::<f64>() / n;
    let error = 4.0 * (0.2 * 0.8 / n).sqrt();
    assert!((mean(|draw| draw[0]) - 0.2).abs() < error && (mean(|draw| draw[1]) - 0.2).abs() < error);
    assert!((mean(|draw| draw[0] * draw[1]) - 0.04).abs() < error);
    let next = draws.windows(2).map(|two| two[0][0] * two[1][0]).sum::<f64>() / n;
    assert!((next - 0.04).abs() < error, "{next}");
}

/// Where a classifier looks at one token, nothing is computed of the others behind the last attention: the logits and every gradient are
/// those of all, whatever is dropped.
#[test]
fn one_token_of_the_last_block_is_as_all_of_them() {
    let device = Device::cpu(None, CodePath::Auto).unwrap();
    let with = |arch, pooling| {
        let positions = if arch == Arch::Modernbert { Positions::Rotary } else { Positions::Learned };
        let causal = matches!(arch, Arch::Gpt2 | Arch::Naacl2019);
        let config = ModelConfig { dropout: 0.3, positions, causal, ..with_all(&small(arch)) };
        ModelConfig { head: config.head.clone().map(|head| HeadConfig { pooling, ..head }), ..config }
    };
    let mut cases: Vec<(ModelConfig, bool)> =
        [Arch::Gpt2, Arch::Bert, Arch::Distilbert, Arch::Modernbert, Arch::Naacl2019]
            .into_iter()
            .map(|arch| (with(arch, HeadPooling::Cls), true))
            .collect();
    cases.push((with(Arch::Bert, HeadPooling::Pooler), true));
    cases.push((with(Arch::Bert, HeadPooling::Last), true));
    cases.push((with(Arch::Bert, HeadPooling::Mean), false));
    cases.push((with(Arch::Bert, HeadPooling::LastMean), false));
    let beside = AdapterLayout { kind: AdapterKind::Parallel, activation: None, scale: 4.0 };
    cases.push((ModelConfig { adapters: beside, ..with(Arch::Bert, HeadPooling::Cls) }, true));
    cases.push((
        ModelConfig { lora: None, ia3: Some(Ia3Config::default()), ..with(Arch::Bert, HeadPooling::Cls) },
        true,
    ));
    for (config, alone) in cases {
        for layer_drop in [0.0, 0.9] {
            let mut model = Model::new(&config).unwrap();
            model.set_layer_drop(layer_drop);
            // Where everything has left its start.
            let mut values = model.table().initial_values(1);
            values.iter_mut().enumerate().for_each(|(i, value)| *value += ((i % 7) as f32 - 3.0) * 0.02);
            let run = |one: bool| {
                let weights = Weights::new(values.clone());
                let mut gradients = Gradients::new(model.table().trainable_len());
                let packing = Packing::new(&[3, 1, 2], &[0, 1, 5]);
                let mut tape =
                    Tape::training(&device, &weights, &mut gradients, &packing, Precision::F32, 3, 1);
                let read = if one {
                    model.trunk_for_classifier(&mut tape, Inputs::new(&IDS))
                } else {
                    model.trunk_for_head(&mut tape, Inputs::new(&IDS), &mut |_| ()).1
                };
                assert_eq!(read.tensor().rows(), if one && alone { 3 } else { 6 });
                let logits = model.classify(&mut tape, &read).unwrap();
                let targets = headstart_engine::ops::loss::Targets::Classes(&[1, 2, 0], None);
                tape.loss(&logits, targets, 1.0);
                let logits = logits.tensor().to_f32_vec();
                tape.backward();
                (logits, gradients.values().to_vec())
            };
            let (all, one) = (run(false), run(true));
            for (all, one) in [(&all.0, &one.0), (&all.1, &one.1)] {
                let largest = all.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
                let apart = all.iter().zip(one).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
                assert!(largest > 0.01 && apart < 1e-5 * largest, "{:?}: {apart} of {largest}", config.arch);
            }
        }
    }
}
