//! Low-rank updates and scales in the form of PEFT: `adapter_config.json` and the tensors of `adapter_model.safetensors`.
//!
//! Owns: PEFT's names and keys, as they are written. Never: reads them (`peft_read`), files, whether the trunk below is the one
//! that is named (`checkpoint`).

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use crate::config::{Arch, LoraConfig, LoraTarget, ModelConfig, ObjectiveName};
use crate::interop::names;
use crate::interop::weights::{Piece, pieces, prefix};
use crate::params::{Kind, ParamTable};

/// What stands before the names of a model's modules.
pub(super) const ROOT: &str = "base_model.model.";

/// The linears of a block that may have updates, by our names, each with those of its outputs, from above to below.
pub(super) const LINEARS: [(&str, &[LoraTarget]); 4] = [
    ("attention.in_proj", &[LoraTarget::Q, LoraTarget::K, LoraTarget::V]),
    ("attention.out_proj", &[LoraTarget::O]),
    ("feed_forward.up", &[LoraTarget::Up]),
    ("feed_forward.down", &[LoraTarget::Down]),
];

/// Whether scales stand in front of a linear: PEFT's feed-forward modules. Behind the others they are of what these give.
pub(super) fn scaled_in_front(target: LoraTarget) -> bool {
    matches!(target, LoraTarget::O | LoraTarget::Down)
}

/// One of PEFT's modules.
struct Module {
    name: String,
    /// Of an update.
    rank: usize,
    /// Of scales: whether they stand in front of it.
    in_front: bool,
    parts: Vec<Piece<'static>>,
}

/// The updates or scales and the head of a classifier as PEFT has them, for the base model of this name or path.
///
/// # Errors
/// Why PEFT has no form for the model: a sentence.
pub fn peft_form(
    config: &ModelConfig,
    objective: Option<ObjectiveName>,
    table: &ParamTable,
    weights: &[f32],
    base: &str,
) -> Result<(Value, Vec<Piece<'static>>), String> {
    if config.lora.is_none() && config.ia3.is_none() {
        return Err("it has no low-rank updates and no scales (--method lora, --method ia3)".into());
    }
    if config.lora.is_some() && config.ia3.is_some() {
        return Err("it has low-rank updates and scales, and PEFT has one of them in a folder".into());
    }
    if config.head.is_none() {
        return Err("it is no classifier".into());
    }
    let prefix = prefix(config, objective);
    let added = Added { config, table, weights };
    let modules: Vec<Module> =
        (0..config.num_layers).flat_map(|layer| added.of_layer(prefix, layer)).collect();
    let (mut saved, mut parts) = (Vec::new(), Vec::new());
    for param in table.params().iter().filter(|param| param.kind == Kind::Head) {
        let values = &weights[param.offset..][..param.len()];
        let found = pieces(config.arch, prefix, param, values);
        for (name, shape, values) in found.ok_or_else(|| format!("it has no place for `{}`", param.name))? {
            let module = name.rsplit_once('.').map_or(&*name, |(module, _)| module);
            // All of a classifier of several parts; PEFT takes it along by that name unasked.
            let module = if module.starts_with("classifier.") { "classifier" } else { module };
            if !saved.iter().any(|known| known == module) {
                saved.push(module.to_owned());
            }
            parts.push((format!("{ROOT}{name}"), shape, Cow::Owned(values.into_owned())));
        }
    }
    let description = describe(config, base, &modules, &saved);
    parts.extend(modules.into_iter().flat_map(|module| module.parts));
    Ok((description, parts))
}

fn describe(config: &ModelConfig, base: &str, modules: &[Module], saved: &[String]) -> Value {
    let names = |wanted: fn(&Module) -> bool| {
        modules.iter().filter(|module| wanted(module)).map(|module| &module.name).collect::<Vec<_>>()
    };
    let mut description = json!({
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": base,
        "inference_mode": true,
        "target_modules": names(|_| true),
        "modules_to_save": saved,
        "fan_in_fan_out": config.arch == Arch::Gpt2,
    });
    let own = match config.lora {
        Some(lora) => describe_updates(lora, modules),
        None => json!({
            "peft_type": "IA3",
            "feedforward_modules": names(|module| module.in_front),
            "init_ia3_weights": true,
        }),
    };
    if let (Some(description), Value::Object(own)) = (description.as_object_mut(), own) {
        description.extend(own);
    }
    description
}

fn describe_updates(lora: LoraConfig, modules: &[Module]) -> Value {
    let (mut ranks, mut alphas) = (Map::new(), Map::new());
    for Module { name, rank, .. } in modules.iter().filter(|module| module.rank != lora.rank) {
        ranks.insert(name.clone(), json!(rank));
        alphas.insert(name.clone(), json!(alpha_of(lora, *rank)));
    }
    json!({
        "peft_type": "LORA",
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        // As it was given: 0.1, and not the nearest f32 in all its digits.
        "lora_dropout": lora.dropout.to_string().parse::<f64>().unwrap_or_default(),
        "use_rslora": lora.rslora,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "bias": "none",
        "init_lora_weights": true,
    })
}

/// The alpha that gives updates of this rank the scale of all others.
pub(super) fn alpha_of(lora: LoraConfig, rank: usize) -> f64 {
    let rank = rank as f64;
    lora.scale() * if lora.rslora { rank.sqrt() } else { rank }
}

/// What a model has beside its linears.
#[derive(Clone, Copy)]
struct Added<'a> {
    config: &'a ModelConfig,
    table: &'a ParamTable,
    weights: &'a [f32],
}

impl Added<'_> {
    /// The modules of a block that have an update or a scale, under their full names.
    fn of_layer(&self, prefix: &str, layer: usize) -> Vec<Module> {
        let mut modules = Vec::new();
        for (linear, targets) in LINEARS {
            let ours = format!("transformer.layers.{layer}.{linear}.weight");
            let source = names::of(self.config.arch).source(prefix, &ours);
            let tensors = source.map(|source| source.tensors).unwrap_or_default();
            let place = linear.split('.').next().unwrap_or_default();
            let each = targets.len() / tensors.len().max(1);
            for (tensor, targets) in tensors.iter().zip(targets.chunks(each.max(1))) {
                let name = tensor.strip_suffix(".weight").unwrap_or(tensor);
                let place = format!("transformer.layers.{layer}.{place}");
                modules.extend(match self.config.lora {
                    Some(lora) => self.updated(name, &place, targets, lora.rank),
                    None => self.scaled(name, &place, targets),
                });
            }
        }
        modules
    }

    fn parameter(&self, place: &str, target: LoraTarget, what: &str) -> Option<(&[usize], &[f32])> {
        let name = format!("{place}.{}.{what}.weight", target.name());
        let param = self.table.params().iter().find(|param| param.name == name)?;
        Some((&param.shape, &self.weights[param.offset..][..param.len()]))
    }

    /// What PEFT has for the updates of some targets in one module. Where the family packs queries, keys and values: their common A
    /// with their Bs one below the other; where they have As of their own, these one below the other, and each B at its own rows, zero
    /// elsewhere.
    fn updated(&self, name: &str, place: &str, targets: &[LoraTarget], rank: usize) -> Option<Module> {
        let found = targets.iter().enumerate().filter_map(|(at, &target)| {
            Some((at, self.parameter(place, target, "lora_a")?, self.parameter(place, target, "lora_b")?))
        });
        let found: Vec<_> = found.collect();
        let (_, (a_shape, first), (b_shape, _)) = found.first()?;
        let same = |values: &[f32]| values.iter().zip(*first).all(|(a, b)| a.to_bits() == b.to_bits());
        let common = found.iter().all(|(_, (_, values), _)| same(values));
        let (columns, outputs) = (a_shape[1], b_shape[0]);
        let all = if common { rank } else { rank * found.len() };
        let mut b = vec![0.0; outputs * targets.len() * all];
        for (nth, (at, _, (_, values))) in found.iter().enumerate() {
            let column = if common { 0 } else { nth * rank };
            for (row, line) in values.chunks_exact(rank).enumerate() {
                b[(at * outputs + row) * all + column..][..rank].copy_from_slice(line);
            }
        }
        let a = found.iter().take(all / rank).flat_map(|(_, (_, values), _)| values.iter().copied());
        let piece = |which: &str, shape, values| {
            (format!("{ROOT}{name}.lora_{which}.weight"), shape, Cow::Owned(values))
        };
        let a = piece("A", vec![all, columns], a.collect());
        let b = piece("B", vec![outputs * targets.len(), all], b);
        Some(Module { name: name.to_owned(), rank: all, in_front: false, parts: vec![a, b] })
    }

    /// The same for scales: where the family packs queries, keys and values, those that have none have ones.
    fn scaled(&self, name: &str, place: &str, targets: &[LoraTarget]) -> Option<Module> {
        let found: Vec<_> = targets.iter().map(|&target| self.parameter(place, target, "ia3")).collect();
        let width = found.iter().flatten().next()?.1.len();
        let ones = vec![1.0; width];
        let values: Vec<f32> =
            found.iter().flat_map(|scale| scale.map_or(&ones[..], |(_, values)| values)).copied().collect();
        let in_front = targets.iter().any(|&target| scaled_in_front(target));
        let shape = if in_front { vec![1, values.len()] } else { vec![values.len(), 1] };
        let part = (format!("{ROOT}{name}.ia3_l"), shape, Cow::Owned(values));
        Some(Module { name: name.to_owned(), rank: 0, in_front, parts: vec![part] })
    }
}
