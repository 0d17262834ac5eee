//! A folder of AdapterHub as adapters, low-rank updates, scales and a head of ours.
//!
//! Owns: which keys of `adapter_config.json` and `head_config.json` are understood, and what the tensors beside them are here. Never:
//! its names (`adapterhub`), the model below (`checkpoint`).
//!
//! Both files are read as config.json is: a key is understood, known to change nothing, or refused by its name.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::config::{
    Activation, AdapterKind, AdapterLayout, Arch, HeadPooling, Ia3Config, Ia3Targets, LoraConfig, LoraTarget,
    LoraTargets, ModelConfig, Problem,
};
use crate::error::Result;
use crate::interop::adapterhub::{ADAPTERS, LINEARS, PARTS, adapter_module, model_types, update_module};
use crate::interop::names;
use crate::interop::peft_read::Parameter;
use crate::interop::schema::activation_of;
use crate::interop::settings::Settings;
use crate::tensors::Tensors;

/// What helps where a folder is refused.
const FIX: &str = "use an adapter of the kinds double_seq_bn, seq_bn, par_bn, lora or ia3 of a bert or roberta model, saved by \
                   `save_adapter` of adapters 1.x";

/// Keys of the two files that say what was done, or what the tensors say, too.
const ABOUT: [&str; 5] = ["config_id", "model_class", "model_name", "type", "version"];

/// Keys of a bottleneck that say how it began or what the tensors say, or are of what must be off.
const HARMLESS: [&str; 17] = [
    "adapter_residual_before_ln",
    "dropout",
    "factorized_phm_W",
    "factorized_phm_rule",
    "hypercomplex_nonlinearity",
    "init_weights",
    "init_weights_seed",
    "inv_adapter_reduction_factor",
    "learn_phm",
    "phm_bias",
    "phm_c_init",
    "phm_dim",
    "phm_init_range",
    "phm_rank",
    "reduction_factor",
    "shared_W_phm",
    "shared_phm_rule",
];

/// What a folder of AdapterHub adds to a model.
#[derive(Clone, Debug, Default)]
pub struct HubParts {
    /// The width of its adapters, and where they stand.
    pub adapters: Option<(usize, AdapterLayout)>,
    /// Its updates.
    pub lora: Option<LoraConfig>,
    /// Its scales, but those of inner activations.
    pub ia3: Option<Ia3Config>,
    /// All of these.
    pub parameters: Vec<Parameter>,
    /// What the outputs of each block's first linear of the feed-forward are multiplied by, in front of the activation. There is no
    /// such scale here: it goes into the linear.
    pub inner_scales: Vec<Vec<f32>>,
}

/// What a folder's head is.
#[derive(Clone, Debug)]
pub struct HubHead {
    /// Outputs.
    pub num_classes: usize,
    /// What it reads.
    pub pooling: HeadPooling,
    /// What it is for.
    pub problem: Problem,
    /// Between its two linears, where it has two.
    pub activation: Option<Activation>,
    /// Whether the last linear has a bias.
    pub bias: bool,
    /// Its own dropout.
    pub dropout: Option<f32>,
    /// Names of its outputs; none where the file has none.
    pub labels: Vec<String>,
    /// Its weights.
    pub parameters: Vec<Parameter>,
}

/// The name or path of the base model.
///
/// # Errors
/// [`crate::Error::Checkpoint`] when the file is no JSON object.
pub fn adapterhub_base(path: &Path, text: &[u8]) -> Result<Option<String>> {
    let name: Option<String> = Settings::parse(path, text, FIX)?.take("model_name")?;
    Ok(name.filter(|name| !name.is_empty()))
}

/// What the tensors of a folder are beside a model of this configuration, by what `adapter_config.json` says.
///
/// # Errors
/// [`crate::Error::Checkpoint`] naming the key or the tensor that has no place here.
pub fn read_adapterhub(path: &Path, text: &[u8], tensors: &Tensors, base: &ModelConfig) -> Result<HubParts> {
    let (about, mut settings, name) = opened(path, text, base)?;
    let mut reading =
        Reading { settings: &about, tensors, base, name, used: BTreeSet::new(), parameters: Vec::new() };
    let architecture: Option<String> = settings.take("architecture")?;
    let mut parts = match architecture.as_deref() {
        None => {
            let layout = bottleneck(&mut settings, about_version(text))?;
            HubParts { adapters: Some((reading.adapters(layout.kind)?, layout)), ..HubParts::default() }
        }
        Some("lora") => reading.loras(&mut settings)?,
        Some(other) => {
            let what =
                format!("its `architecture` is `{other}`; bottlenecks (none) and `lora` are supported");
            return Err(settings.refuse(what));
        }
    };
    reading.finish()?;
    parts.parameters = reading.parameters;
    settings.finish(&HARMLESS)?;
    about.finish(&ABOUT)?;
    Ok(parts)
}

/// What a folder's head is, by what `head_config.json` says.
///
/// # Errors
/// As for [`read_adapterhub`].
pub fn read_adapterhub_head(
    path: &Path,
    text: &[u8],
    tensors: &Tensors,
    base: &ModelConfig,
) -> Result<HubHead> {
    let (about, mut settings, name) = opened(path, text, base)?;
    let mut reading =
        Reading { settings: &about, tensors, base, name, used: BTreeSet::new(), parameters: Vec::new() };
    let kind: String = settings.take("head_type")?.unwrap_or_default();
    let num_classes: usize = settings.take("num_labels")?.unwrap_or(2);
    let problem = match (kind.as_str(), num_classes) {
        ("classification", 1) => Problem::Regression,
        ("classification", _) => Problem::SingleLabel,
        ("multilabel_classification", _) => Problem::MultiLabel,
        (other, _) => {
            let what = format!(
                "its `head_type` is `{other}`; classification and multilabel_classification are supported"
            );
            return Err(settings.refuse(what));
        }
    };
    let layers: usize = settings.take("layers")?.unwrap_or(2);
    let pooled: bool = settings.take("use_pooler")?.unwrap_or(false);
    let activation = activation(&mut settings, "activation_function")?;
    let bias: bool = settings.take("bias")?.unwrap_or(true);
    let (dense, last, pooling) = match (layers, pooled) {
        (2, false) => (Some(1), 4, HeadPooling::Pooler),
        (1, false) => (None, 1, HeadPooling::Cls),
        // The pooler is the trunk's own.
        (1, true) if base.arch == Arch::Bert => (None, 1, HeadPooling::Pooler),
        _ => {
            let what = format!(
                "its `layers` are {layers} and its `use_pooler` is {pooled}: two linears of the first token's row, or one of that or of \
                 BERT's pooler are supported"
            );
            return Err(settings.refuse(what));
        }
    };
    if dense.is_some() && activation.is_none() {
        return Err(settings.refuse("it lacks an `activation_function` between its two linears".into()));
    }
    let width = base.embed_dim;
    if let Some(place) = dense {
        reading.head("classification_head.dense", place, [width, width], true)?;
    }
    reading.head("classification_head", last, [num_classes, width], bias)?;
    reading.finish()?;
    let labels = labels(&mut settings, num_classes)?;
    let dropout = settings.take("dropout_prob")?;
    let parameters = reading.parameters;
    settings.finish(&[])?;
    about.finish(&ABOUT)?;
    let activation = activation.filter(|_| dense.is_some());
    Ok(HubHead { num_classes, pooling, problem, activation, bias, dropout, labels, parameters })
}

/// The two levels of a file and the adapter's name; the model that it is of is of the base's type and width.
fn opened<'a>(
    path: &'a Path,
    text: &[u8],
    base: &ModelConfig,
) -> Result<(Settings<'a>, Settings<'a>, String)> {
    let mut about = Settings::parse(path, text, FIX)?;
    let settings = about.within("config")?;
    let types: Vec<Value> = model_types(base.arch).iter().copied().map(Value::from).collect();
    if types.is_empty() {
        let what =
            format!("the model below is a {}; adapters of bert and roberta are read", base.arch.name());
        return Err(about.refuse(what));
    }
    about.only("model_type", &types)?;
    about.only("hidden_size", &[json!(base.embed_dim)])?;
    let name: Option<String> = about.take("name")?;
    let name = name.ok_or_else(|| about.refuse("it lacks the adapter's `name`".into()))?;
    Ok((about, settings, name))
}

/// Whether a file says which version wrote it: before, activations had other names.
fn about_version(text: &[u8]) -> Naming {
    let file: Map<String, Value> = serde_json::from_slice(text).unwrap_or_default();
    if file.contains_key("version") { Naming::Now } else { Naming::Old }
}

/// What activations are called.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Naming {
    Now,
    /// `gelu` is the one with tanh, `gelu_orig` the exact one.
    Old,
}

fn activation(settings: &mut Settings<'_>, key: &str) -> Result<Option<Activation>> {
    let Some(name) = settings.take::<String>(key)? else { return Ok(None) };
    let found = activation_of(&name.to_lowercase());
    found.map(Some).ok_or_else(|| {
        settings.refuse(format!("its `{key}` is `{name}`; gelu, gelu_new, relu, silu and tanh are supported"))
    })
}

/// Where adapters stand, and what they are.
fn bottleneck(settings: &mut Settings<'_>, naming: Naming) -> Result<AdapterLayout> {
    let off = [json!(false)];
    for (key, values) in [
        ("phm_layer", &off[..]),
        ("ln_before", &off),
        ("ln_after", &off),
        ("use_gating", &off),
        ("cross_adapter", &off),
        ("inv_adapter", &[]),
        ("leave_out", &[json!([])]),
        ("original_ln_after", &[json!(true)]),
        ("stochastic_depth", &[json!(0.0), json!(0)]),
    ] {
        settings.only(key, values)?;
    }
    let mut yes = |key: &str, usual| settings.take::<bool>(key).map(|found| found.unwrap_or(usual));
    let [attention, output, parallel, normed] = [
        yes("mh_adapter", false)?,
        yes("output_adapter", true)?,
        yes("is_parallel", false)?,
        yes("original_ln_before", false)?,
    ];
    let kind = match (attention, output, parallel, normed) {
        (false, true, true, _) => AdapterKind::Parallel,
        (true, true, false, false) => AdapterKind::Houlsby,
        (false, true, false, false) => AdapterKind::Pfeiffer,
        (false, true, false, true) => AdapterKind::SeqBn,
        _ => {
            let what = format!(
                "its `mh_adapter` {attention}, `output_adapter` {output}, `is_parallel` {parallel} and `original_ln_before` {normed} do \
                 not go together here: adapters stand behind both sublayers, behind the feed-forward, or beside it"
            );
            return Err(settings.refuse(what));
        }
    };
    // Where nothing is normed first, it makes no difference what the residual is taken from.
    let residuals = [json!(true), json!(false)];
    settings
        .only("residual_before_ln", if kind == AdapterKind::SeqBn { &residuals[..1] } else { &residuals })?;
    let scaling: Value = settings.take("scaling")?.unwrap_or(json!(1.0));
    let scale = scaling
        .as_f64()
        .filter(|scale| kind == AdapterKind::Parallel || scale.to_bits() == 1.0_f64.to_bits());
    let Some(scale) = scale else {
        let what = format!(
            "its `scaling` is {scaling}; a number is supported, and 1 alone where adapters are not parallel"
        );
        return Err(settings.refuse(what));
    };
    let found = activation(settings, "non_linearity")?;
    let found = found.ok_or_else(|| settings.refuse("it lacks a `non_linearity`".into()))?;
    let activation = match (naming, found) {
        (Naming::Old, Activation::Gelu) => Activation::GeluTanh,
        _ => found,
    };
    Ok(AdapterLayout { kind, activation: Some(activation), scale })
}

/// The names of a head's outputs, in their order.
fn labels(settings: &mut Settings<'_>, count: usize) -> Result<Vec<String>> {
    let ids: Option<std::collections::BTreeMap<String, usize>> = settings.take("label2id")?;
    let Some(ids) = ids.filter(|ids| !ids.is_empty()) else { return Ok(Vec::new()) };
    let mut names = vec![String::new(); count];
    for (name, id) in &ids {
        match names.get_mut(*id) {
            Some(place) if place.is_empty() => place.clone_from(name),
            _ => {
                return Err(
                    settings.refuse(format!("its `label2id` gives `{name}` the id {id}, of {count} outputs"))
                );
            }
        }
    }
    if ids.len() != count {
        return Err(settings.refuse(format!("its `label2id` has {} names of {count} outputs", ids.len())));
    }
    Ok(names)
}

/// A folder on its way.
struct Reading<'a> {
    settings: &'a Settings<'a>,
    tensors: &'a Tensors,
    base: &'a ModelConfig,
    name: String,
    used: BTreeSet<String>,
    parameters: Vec<Parameter>,
}

impl Reading<'_> {
    /// Takes a tensor of this shape.
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        match self.tensors.shape(name) {
            Some(found) if found == shape => {}
            found => {
                let found = found.map_or_else(|| "is not there".into(), |found| format!("is {found:?}"));
                let what = format!("the tensor `{name}` beside it {found}, and {shape:?} is expected");
                return Err(self.settings.refuse(what));
            }
        }
        let mut values = vec![0.0; shape.iter().product()];
        self.tensors.copy_to(name, &mut values)?;
        self.used.insert(name.to_owned());
        Ok(values)
    }

    /// What stands before the trunk's names: it was saved with a head or without.
    fn prefix(&self) -> &'static str {
        let prefix = names::of(self.base.arch).prefix;
        if self.tensors.names().any(|name| name.starts_with(prefix)) { prefix } else { "" }
    }

    /// The adapters as parameters, and their width.
    fn adapters(&mut self, kind: AdapterKind) -> Result<usize> {
        let (arch, width, prefix) = (self.base.arch, self.base.embed_dim, self.prefix());
        let places: &[&str] = match kind {
            AdapterKind::Houlsby => &["adapter_attention", "adapter_feed_forward"],
            AdapterKind::Pfeiffer | AdapterKind::SeqBn => &["adapter_feed_forward"],
            AdapterKind::Parallel => &["adapter_parallel"],
        };
        let mut all = None;
        for layer in 0..self.base.num_layers {
            for (place, module) in ADAPTERS.iter().filter(|(ours, _)| places.contains(ours)) {
                let module = adapter_module(arch, prefix, layer, module, &self.name);
                let bias = format!("{module}.{}.bias", PARTS[0].1);
                let dim = *all.get_or_insert_with(|| match self.tensors.shape(&bias) {
                    Some(&[dim]) => dim,
                    _ => 0,
                });
                for ((part, theirs), [rows, columns]) in PARTS.into_iter().zip([[dim, width], [width, dim]]) {
                    for (ending, shape) in [("weight", vec![rows, columns]), ("bias", vec![rows])] {
                        let values = self.take(&format!("{module}.{theirs}.{ending}"), &shape)?;
                        let ours = format!("transformer.layers.{layer}.{place}.{part}.{ending}");
                        self.parameters.push((ours, shape, values));
                    }
                }
            }
        }
        Ok(all.unwrap_or_default())
    }

    /// Updates or scales.
    fn loras(&mut self, settings: &mut Settings<'_>) -> Result<HubParts> {
        settings.only("use_gating", &[json!(false)])?;
        settings.only("use_dora", &[json!(false)])?;
        settings.only("vera_d", &[])?;
        settings.only("vera_b", &[])?;
        settings.only("leave_out", &[json!([])])?;
        settings.only("dtype", &[json!("float32")])?;
        let (rank, alpha): (usize, f64) =
            (settings.take("r")?.unwrap_or(8), settings.take("alpha")?.unwrap_or(8.0));
        let targets = lora_targets(settings)?;
        let mode: Option<String> = settings.take("composition_mode")?;
        match mode.as_deref().unwrap_or("add") {
            "add" => {
                let dropout = settings.take("dropout")?.unwrap_or(0.0);
                let lora =
                    LoraConfig { rank, alpha, dropout, targets: LoraTargets::of(&targets), rslora: false };
                lora.validate().map_err(|error| settings.refuse(error.to_string()))?;
                self.updates(rank, &targets)?;
                Ok(HubParts { lora: Some(lora), ..HubParts::default() })
            }
            "scale" => {
                if targets.contains(&LoraTarget::Down) {
                    let what = "its `output_lora` scales what a feed-forward gives, and nothing does here";
                    return Err(settings.refuse(what.into()));
                }
                let inner_scales = self.scales(&targets, alpha)?;
                let outer: Vec<LoraTarget> =
                    targets.into_iter().filter(|target| *target != LoraTarget::Up).collect();
                let ia3 = Ia3Targets::of(&outer).map(|targets| Ia3Config { targets });
                Ok(HubParts { ia3, inner_scales, ..HubParts::default() })
            }
            other => {
                Err(settings
                    .refuse(format!("its `composition_mode` is `{other}`; add and scale are supported")))
            }
        }
    }

    fn updates(&mut self, rank: usize, targets: &[LoraTarget]) -> Result<()> {
        for layer in 0..self.base.num_layers {
            for (target, place, module) in LINEARS.iter().filter(|(target, ..)| targets.contains(target)) {
                let module = update_module(self.base.arch, self.prefix(), layer, module, &self.name);
                let [outputs, inputs] = self.sizes(*target);
                for (theirs, ours, shape) in
                    [("lora_A", "lora_a", [rank, inputs]), ("lora_B", "lora_b", [outputs, rank])]
                {
                    let values = self.take(&format!("{module}.{theirs}"), &shape)?;
                    let name = format!("transformer.layers.{layer}.{place}.{}.{ours}.weight", target.name());
                    self.parameters.push((name, shape.to_vec(), values));
                }
            }
        }
        Ok(())
    }

    /// The scales behind queries, keys and values as parameters; those behind the feed-forward's first linear are given back.
    fn scales(&mut self, targets: &[LoraTarget], alpha: f64) -> Result<Vec<Vec<f32>>> {
        let mut inner = Vec::new();
        for layer in 0..self.base.num_layers {
            for (target, place, module) in LINEARS.iter().filter(|(target, ..)| targets.contains(target)) {
                let module = update_module(self.base.arch, self.prefix(), layer, module, &self.name);
                let [outputs, _] = self.sizes(*target);
                let mut values = self.take(&format!("{module}.lora_B"), &[outputs, 1])?;
                for value in &mut values {
                    *value = (f64::from(*value) * alpha) as f32;
                }
                if *target == LoraTarget::Up {
                    inner.push(values);
                } else {
                    let name = format!("transformer.layers.{layer}.{place}.{}.ia3.weight", target.name());
                    self.parameters.push((name, vec![outputs], values));
                }
            }
        }
        Ok(inner)
    }

    /// Outputs and inputs of a linear.
    fn sizes(&self, target: LoraTarget) -> [usize; 2] {
        let (width, hidden) = (self.base.embed_dim, self.base.hidden_dim);
        match target {
            LoraTarget::Up => [hidden, width],
            LoraTarget::Down => [width, hidden],
            LoraTarget::Q | LoraTarget::K | LoraTarget::V | LoraTarget::O => [width, width],
        }
    }

    /// A linear of a head.
    fn head(&mut self, ours: &str, place: usize, [rows, columns]: [usize; 2], bias: bool) -> Result<()> {
        for (ending, shape) in [("weight", vec![rows, columns]), ("bias", vec![rows])] {
            if ending == "weight" || bias {
                let values = self.take(&format!("heads.{}.{place}.{ending}", self.name), &shape)?;
                self.parameters.push((format!("{ours}.{ending}"), shape, values));
            }
        }
        Ok(())
    }

    /// Refuses tensors that nobody took.
    fn finish(&self) -> Result<()> {
        let left: Vec<&str> = self.tensors.names().filter(|name| !self.used.contains(*name)).collect();
        match left.first() {
            None => Ok(()),
            Some(first) => Err(self.settings.refuse(format!(
                "{} tensors beside it have no place in a {} of {} blocks: `{first}`, ...",
                left.len(),
                self.base.arch.name(),
                self.base.num_layers
            ))),
        }
    }
}

/// The linears that have something.
fn lora_targets(settings: &mut Settings<'_>) -> Result<Vec<LoraTarget>> {
    let mut yes = |key: &str, usual| settings.take::<bool>(key).map(|found| found.unwrap_or(usual));
    let (attention, up, down) =
        (yes("selfattn_lora", true)?, yes("intermediate_lora", false)?, yes("output_lora", false)?);
    let matrices: Vec<String> = settings.take("attn_matrices")?.unwrap_or(vec!["q".into(), "v".into()]);
    let mut targets = Vec::new();
    for name in matrices.iter().filter(|_| attention) {
        match [LoraTarget::Q, LoraTarget::K, LoraTarget::V].into_iter().find(|target| target.name() == name) {
            Some(target) => targets.push(target),
            None => {
                return Err(
                    settings.refuse(format!("its `attn_matrices` have `{name}`; q, k and v are supported"))
                );
            }
        }
    }
    targets.extend(
        [(up, LoraTarget::Up), (down, LoraTarget::Down)]
            .iter()
            .filter(|(on, _)| *on)
            .map(|(_, target)| *target),
    );
    if targets.is_empty() {
        return Err(settings.refuse("it has no linear with an update".into()));
    }
    Ok(targets)
}
