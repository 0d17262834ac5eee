//! Low-rank updates in the form of PEFT: `adapter_config.json` and the tensors of `adapter_model.safetensors`.
//!
//! Owns: PEFT's names and keys. Never: files, whether the trunk below is the one that is named (`checkpoint`).

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use crate::config::{Arch, LoraConfig, LoraTarget, ModelConfig, ObjectiveName};
use crate::interop::names;
use crate::interop::weights::{Piece, pieces, prefix};
use crate::params::{Kind, ParamTable};

/// The linears of a block that may have updates, by our names, each with those of its outputs, from above to below.
const LINEARS: [(&str, &[LoraTarget]); 4] = [
    ("attention.in_proj", &[LoraTarget::Q, LoraTarget::K, LoraTarget::V]),
    ("attention.out_proj", &[LoraTarget::O]),
    ("feed_forward.up", &[LoraTarget::Up]),
    ("feed_forward.down", &[LoraTarget::Down]),
];

/// One of PEFT's updated modules.
struct Module {
    name: String,
    rank: usize,
    a: Piece<'static>,
    b: Piece<'static>,
}

/// The updates and the head of a classifier as PEFT has them, for the base model of this name or path.
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
    let lora = config.lora.ok_or("it has no low-rank updates (--method lora)")?;
    if config.head.is_none() {
        return Err("it is no classifier".into());
    }
    let prefix = prefix(config, objective);
    let updates = Updates { config, lora, table, weights };
    let modules: Vec<Module> =
        (0..config.num_layers).flat_map(|layer| updates.of_layer(prefix, layer)).collect();
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
            parts.push((format!("base_model.model.{name}"), shape, Cow::Owned(values.into_owned())));
        }
    }
    let description = describe(config, lora, base, &modules, &saved);
    parts.extend(modules.into_iter().flat_map(|module| [module.a, module.b]));
    Ok((description, parts))
}

fn describe(
    config: &ModelConfig,
    lora: LoraConfig,
    base: &str,
    modules: &[Module],
    saved: &[String],
) -> Value {
    let (mut ranks, mut alphas) = (Map::new(), Map::new());
    for Module { name, rank, .. } in modules.iter().filter(|module| module.rank != lora.rank) {
        // Their scale is that of all others.
        let rank_by = *rank as f64;
        let alpha = lora.scale() * if lora.rslora { rank_by.sqrt() } else { rank_by };
        ranks.insert(name.clone(), json!(rank));
        alphas.insert(name.clone(), json!(alpha));
    }
    json!({
        "peft_type": "LORA",
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": base,
        "inference_mode": true,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        // As it was given: 0.1, and not the nearest f32 in all its digits.
        "lora_dropout": lora.dropout.to_string().parse::<f64>().unwrap_or_default(),
        "use_rslora": lora.rslora,
        "target_modules": modules.iter().map(|module| &module.name).collect::<Vec<_>>(),
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "modules_to_save": saved,
        "bias": "none",
        "fan_in_fan_out": config.arch == Arch::Gpt2,
        "init_lora_weights": true,
    })
}

/// A model's updates.
#[derive(Clone, Copy)]
struct Updates<'a> {
    config: &'a ModelConfig,
    lora: LoraConfig,
    table: &'a ParamTable,
    weights: &'a [f32],
}

impl Updates<'_> {
    /// The updated modules of a block, under their full names.
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
                modules.extend(self.module(name, &format!("transformer.layers.{layer}.{place}"), targets));
            }
        }
        modules
    }

    /// What PEFT has for some targets in one module: where the family packs queries, keys and values, their As one below the
    /// other, and each B at its own rows, zero elsewhere.
    fn module(&self, name: &str, place: &str, targets: &[LoraTarget]) -> Option<Module> {
        let matrix = |target: LoraTarget, which: &str| {
            let name = format!("{place}.{}.lora_{which}.weight", target.name());
            let param = self.table.params().iter().find(|param| param.name == name)?;
            Some((&param.shape, &self.weights[param.offset..][..param.len()]))
        };
        let rank = self.lora.rank;
        let found = targets
            .iter()
            .enumerate()
            .filter_map(|(at, &target)| Some((at, matrix(target, "a")?, matrix(target, "b")?)));
        let found: Vec<_> = found.collect();
        let (_, (a_shape, _), (b_shape, _)) = found.first()?;
        let (columns, outputs, all) = (a_shape[1], b_shape[0], rank * found.len());
        let mut b = vec![0.0; outputs * targets.len() * all];
        for (nth, (at, _, (_, values))) in found.iter().enumerate() {
            for (row, line) in values.chunks_exact(rank).enumerate() {
                b[(at * outputs + row) * all + nth * rank..][..rank].copy_from_slice(line);
            }
        }
        let a = found.iter().flat_map(|(_, (_, values), _)| values.iter().copied()).collect::<Vec<f32>>();
        let piece = |which: &str, shape, values| {
            (format!("base_model.model.{name}.lora_{which}.weight"), shape, Cow::Owned(values))
        };
        Some(Module {
            name: name.to_owned(),
            rank: all,
            a: piece("A", vec![all, columns], a),
            b: piece("B", vec![outputs * targets.len(), all], b),
        })
    }
}
