//! Adapters, low-rank updates, scales and heads in the form of AdapterHub's library `adapters`: its names, and how its files are
//! written.
//!
//! Owns: its names and keys. Never: reads them (`adapterhub_read`), files, whether the model below is the one that is named
//! (`checkpoint`).

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::config::{
    AdapterKind, Arch, HeadConfig, HeadPooling, LoraConfig, LoraTarget, ModelConfig, Problem,
};
use crate::interop::names;
use crate::interop::schema::{activation_name, number};
use crate::interop::weights::Piece;
use crate::model::layout;
use crate::params::{Kind, Param, ParamTable};

/// What its files say of the program that wrote them: that with which this form was compared.
const VERSION: &str = "adapters.1.3.0";

/// The adapters of a block: ours, and the module that has theirs.
pub(super) const ADAPTERS: [(&str, &str); 3] = [
    ("adapter_attention", "attention.output"),
    ("adapter_feed_forward", "output"),
    ("adapter_parallel", "output"),
];

/// The linears of an adapter: ours, theirs.
pub(super) const PARTS: [(&str, &str); 2] = [("down", "adapter_down.0"), ("up", "adapter_up")];

/// The linears of a block that may have updates or scales: ours, where it stands in ours, theirs.
pub(super) const LINEARS: [(LoraTarget, &str, &str); 5] = [
    (LoraTarget::Q, "attention", "attention.self.query"),
    (LoraTarget::K, "attention", "attention.self.key"),
    (LoraTarget::V, "attention", "attention.self.value"),
    (LoraTarget::Up, "feed_forward", "intermediate.dense"),
    (LoraTarget::Down, "feed_forward", "output.dense"),
];

/// The families whose modules have these names, and what AdapterHub calls them.
pub(super) fn model_types(arch: Arch) -> &'static [&'static str] {
    match arch {
        Arch::Bert => &["bert"],
        Arch::Roberta => &["roberta", "xlm-roberta"],
        _ => &[],
    }
}

/// An adapter's module of a block, up to its name.
pub(super) fn adapter_module(arch: Arch, prefix: &str, layer: usize, module: &str, name: &str) -> String {
    format!("{prefix}{}.{layer}.{module}.adapters.{name}", names::of(arch).blocks)
}

/// The module of an update or of scales.
pub(super) fn update_module(arch: Arch, prefix: &str, layer: usize, module: &str, name: &str) -> String {
    format!("{prefix}{}.{layer}.{module}.loras.{name}", names::of(arch).blocks)
}

/// The files of a folder: settings and tensors of an adapter, and of its head.
#[derive(Debug)]
pub struct HubForm {
    /// `adapter_config.json`.
    pub adapter_config: Value,
    /// The adapter's tensors.
    pub adapter: Vec<Piece<'static>>,
    /// `head_config.json`.
    pub head_config: Value,
    /// The head's tensors.
    pub head: Vec<Piece<'static>>,
}

/// What a classifier has beyond the model below as AdapterHub has it, under the name `name`, for the base model of this name or path
/// and type.
///
/// # Errors
/// Why it has no form for the model: a sentence.
pub fn adapterhub_form(
    config: &ModelConfig,
    labels: &[String],
    (table, weights): (&ParamTable, &[f32]),
    [base, model_type]: [&str; 2],
    name: &str,
) -> Result<HubForm, String> {
    let Some(head) = &config.head else { return Err("it is no classifier".into()) };
    if !model_types(config.arch).contains(&model_type) {
        return Err(format!(
            "adapters of {model_type} are not written for AdapterHub, those of bert and roberta are"
        ));
    }
    let kinds = [config.adapters_dim.is_some(), config.lora.is_some(), config.ia3.is_some()];
    if kinds.iter().filter(|there| **there).count() != 1 {
        return Err(
            "it has not one of adapters, low-rank updates and scales (--method adapters, lora, ia3)".into()
        );
    }
    let settings = match (config.lora, config.ia3) {
        (Some(lora), _) => updates(lora)?,
        (None, Some(ia3)) => {
            let scaled = |target| ia3.targets.has(target);
            loras([1.0, 1.0, 0.0], "scale", scaled)
        }
        (None, None) => bottleneck(config),
    };
    let head_config = head_settings(config, head, labels)?;
    let values = |param: &Param| Cow::Owned(weights[param.offset..][..param.len()].to_vec());
    let mut adapter = Vec::new();
    for param in table.params() {
        if matches!(param.kind, Kind::Adapter | Kind::Lora | Kind::Ia3) {
            let theirs = tensor_of(config.arch, &param.name, name)?;
            // A scale is a matrix of one column there.
            let shape = if param.kind == Kind::Ia3 { vec![param.len(), 1] } else { param.shape.clone() };
            adapter.push((theirs, shape, values(param)));
        }
    }
    let mut parts = Vec::new();
    for param in table.params().iter().filter(|param| param.kind == Kind::Head) {
        let known = param.name.strip_prefix("classification_head.");
        let known = known.filter(|rest| ["dense.weight", "dense.bias", "weight", "bias"].contains(rest));
        let rest = known.ok_or_else(|| format!("it has no place for `{}`", param.name))?;
        // Behind a dropout each, and an activation.
        let place = match rest.strip_prefix("dense.") {
            Some(ending) => format!("1.{ending}"),
            None if head.pooling == HeadPooling::Pooler => format!("4.{rest}"),
            None => format!("1.{rest}"),
        };
        parts.push((format!("heads.{name}.{place}"), param.shape.clone(), values(param)));
    }
    let about = |settings: Value| {
        json!({
            "config": settings,
            "hidden_size": config.embed_dim,
            "model_class": if config.arch == Arch::Bert { "BertAdapterModel" } else { "RobertaAdapterModel" },
            "model_name": base,
            "model_type": model_type,
            "name": name,
            "version": VERSION,
        })
    };
    Ok(HubForm { adapter_config: about(settings), adapter, head_config: about(head_config), head: parts })
}

/// The tensor of a parameter of an adapter, an update or a scale.
fn tensor_of(arch: Arch, param: &str, name: &str) -> Result<String, String> {
    let prefix = names::of(arch).prefix;
    let no_place = || {
        let why = if param.contains(".ia3.") {
            ": it scales inner activations in front of their function, this program behind it (export --to peft has them)"
        } else {
            ""
        };
        format!("it has no place for `{param}`{why}")
    };
    let inside = param.strip_prefix("transformer.layers.").and_then(|rest| rest.split_once('.'));
    let (layer, inside) = inside.ok_or_else(no_place)?;
    let layer: usize = layer.parse().map_err(|_| no_place())?;
    let adapter = inside.split_once('.').and_then(|(place, rest)| {
        let (_, module) = ADAPTERS.iter().find(|(ours, _)| *ours == place)?;
        let (part, ending) = rest.split_once('.')?;
        let (_, part) = PARTS.iter().find(|(ours, _)| *ours == part)?;
        Some(format!("{}.{part}.{ending}", adapter_module(arch, prefix, layer, module, name)))
    });
    let update = || {
        LINEARS.iter().find_map(|(target, place, module)| {
            let what = inside.strip_prefix(&format!("{place}.{}.", target.name()))?;
            let what = match what {
                "lora_a.weight" => "lora_A",
                "lora_b.weight" => "lora_B",
                // It scales what a linear gives; here the last one's scales stand in front.
                "ia3.weight" if *target != LoraTarget::Down => "lora_B",
                _ => return None,
            };
            Some(format!("{}.{what}", update_module(arch, prefix, layer, module, name)))
        })
    };
    adapter.or_else(update).ok_or_else(no_place)
}

fn bottleneck(config: &ModelConfig) -> Value {
    let (width, dim, adapters) = (config.embed_dim, config.adapters_dim.unwrap_or(1).max(1), config.adapters);
    // A quotient whose whole part is the width here, whatever f64 makes of it.
    let reduction =
        if width.is_multiple_of(dim) { (width / dim) as f64 } else { width as f64 / (dim as f64 + 0.5) };
    json!({
        "mh_adapter": adapters.kind == AdapterKind::Houlsby,
        "output_adapter": true,
        "is_parallel": adapters.kind == AdapterKind::Parallel,
        "original_ln_before": adapters.kind == AdapterKind::SeqBn,
        "original_ln_after": true,
        "residual_before_ln": true,
        "adapter_residual_before_ln": false,
        "reduction_factor": whole(reduction),
        "non_linearity": activation_name(adapters.activation.unwrap_or(layout(config).activation)),
        // Its readers take a float alone.
        "scaling": if adapters.kind == AdapterKind::Parallel { adapters.scale } else { 1.0 },
        "dropout": 0.0,
        "init_weights": if adapters.kind == AdapterKind::Parallel { "mam_adapter" } else { "bert" },
        "init_weights_seed": null,
        "inv_adapter": null,
        "inv_adapter_reduction_factor": null,
        "cross_adapter": false,
        "leave_out": [],
        "ln_before": false,
        "ln_after": false,
        "phm_layer": false,
        "stochastic_depth": 0.0,
        "use_gating": false,
    })
}

/// The settings of low-rank updates, whose alpha gives the scale that they have here.
fn updates(lora: LoraConfig) -> Result<Value, String> {
    if lora.targets.has(LoraTarget::O) {
        return Err(
            "it has no updates of attention's out-projection (--lora_targets o; export --to peft has)".into(),
        );
    }
    let alpha = lora.scale() * lora.rank as f64;
    Ok(loras([lora.rank as f64, alpha, f64::from(lora.dropout)], "add", |target| lora.targets.has(target)))
}

fn loras([rank, alpha, dropout]: [f64; 3], mode: &str, has: impl Fn(LoraTarget) -> bool) -> Value {
    let attention: Vec<&str> = [LoraTarget::Q, LoraTarget::K, LoraTarget::V]
        .into_iter()
        .filter(|t| has(*t))
        .map(LoraTarget::name)
        .collect();
    json!({
        "architecture": "lora",
        "selfattn_lora": !attention.is_empty(),
        "intermediate_lora": has(LoraTarget::Up),
        "output_lora": has(LoraTarget::Down),
        "attn_matrices": attention,
        "r": whole(rank),
        "alpha": whole(alpha),
        "dropout": number(dropout as f32),
        "composition_mode": mode,
        "init_weights": if mode == "add" { "lora" } else { "ia3" },
        "init_weights_seed": null,
        "leave_out": [],
        "use_gating": false,
        "use_dora": false,
        "vera_b": null,
        "vera_d": null,
        "dtype": null,
    })
}

fn head_settings(config: &ModelConfig, head: &HeadConfig, labels: &[String]) -> Result<Value, String> {
    let options = layout(config);
    let layers = match head.pooling {
        HeadPooling::Pooler => 2,
        HeadPooling::Cls => 1,
        other => {
            return Err(format!(
                "its heads read the first token, and this one's pooling is {}",
                other.name()
            ));
        }
    };
    let several = head.problem == Problem::MultiLabel;
    let ids: serde_json::Map<String, Value> =
        labels.iter().enumerate().map(|(id, label)| (label.clone(), id.into())).collect();
    Ok(json!({
        "head_type": if several { "multilabel_classification" } else { "classification" },
        "num_labels": head.num_classes,
        "layers": layers,
        "activation_function": activation_name(options.pooler),
        "label2id": if ids.is_empty() { Value::Null } else { ids.into() },
        "use_pooler": false,
        "bias": options.head_bias,
        "dropout_prob": head.dropout.map(number),
    }))
}

/// A number as an integer where it is one.
fn whole(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e9 { json!(value as i64) } else { json!(value) }
}
