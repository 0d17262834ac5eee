//! A folder of PEFT as low-rank updates, scales and a head of ours.
//!
//! Owns: which keys of `adapter_config.json` are understood, and what the tensors beside it are here. Never: the model below
//! (`checkpoint`).
//!
//! The tensors say which linears have something; the patterns that chose them when they were trained are not asked again. A key that
//! would change what is computed is refused by its name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::config::{Ia3Config, Ia3Targets, LoraConfig, LoraTarget, LoraTargets, ModelConfig};
use crate::error::{Error, Result};
use crate::interop::names;
use crate::interop::peft::{LINEARS, ROOT, alpha_of, scaled_in_front};
use crate::interop::settings::Settings;
use crate::tensors::Tensors;

/// A parameter of ours: name, shape, numbers.
pub type Parameter = (String, Vec<usize>, Vec<f32>);

/// What a folder of PEFT adds to a model.
#[derive(Clone, Debug)]
pub struct PeftParts {
    /// Its updates; `None` where it has scales.
    pub lora: Option<LoraConfig>,
    /// Its scales; `None` where it has updates.
    pub ia3: Option<Ia3Config>,
    /// Updates or scales, and the head, if it has one.
    pub parameters: Vec<Parameter>,
    /// What its update of the head's dense layer (`target_modules="all-linear"` has one of BERT's pooler) adds to the weights below, under
    /// their name: here an update has no place there, and the sum is the same.
    pub head_update: Option<Parameter>,
}

/// What helps where a folder is refused.
const FIX: &str =
    "merge it into its base model with PEFT (merge_and_unload, save_pretrained), and use that folder";

/// The same for virtual tokens, which are no weights.
const FIX_PROMPT: &str = "virtual tokens are no weights that could be merged, and there is no place for them here: use the folder with \
                          PEFT, or train low-rank updates on the same data (finetune --method lora)";

/// Keys that say what was done, or what the tensors say, too.
const HARMLESS: [&str; 14] = [
    "auto_mapping",
    "base_model_name_or_path",
    "exclude_modules",
    "fan_in_fan_out",
    "feedforward_modules",
    "inference_mode",
    "init_ia3_weights",
    "layers_pattern",
    "megatron_core",
    "modules_to_save",
    "peft_version",
    "qalora_group_size",
    "revision",
    "target_modules",
];

/// Kinds of updates that are computed otherwise: they must be off.
const OFF: [&str; 21] = [
    "alora_invocation_tokens",
    "arrow_config",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "kasa_config",
    "layer_replication",
    "layers_to_transform",
    "loftq_config",
    "lora_bias",
    "lora_ga_config",
    "megatron_config",
    "monteclora_config",
    "runtime_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "velora_config",
    "use_lily",
];

/// The head's layer between the model and the last linear: BERT's pooler.
const HEAD_DENSE: &str = "classification_head.dense.weight";

/// The name or path of the base model, with its revision, if there is one.
///
/// # Errors
/// [`Error::Checkpoint`] when the file is no JSON object.
pub fn peft_base(path: &Path, text: &[u8]) -> Result<Option<String>> {
    let mut settings = Settings::parse(path, text, FIX)?;
    let (name, revision): (Option<String>, Option<String>) =
        (settings.take("base_model_name_or_path")?, settings.take("revision")?);
    let name = name.filter(|name| !name.is_empty());
    Ok(name.map(|name| match revision.filter(|_| !Path::new(&name).exists()) {
        Some(revision) => format!("{name}@{revision}"),
        None => name,
    }))
}

/// What the tensors of a folder are beside a model of this configuration, by what `adapter_config.json` says.
///
/// # Errors
/// [`Error::Checkpoint`] naming the key or the tensor that has no place here.
pub fn read_peft(path: &Path, text: &[u8], tensors: &Tensors, base: &ModelConfig) -> Result<PeftParts> {
    let mut settings = Settings::parse(path, text, FIX)?;
    let kind: String = settings.take("peft_type")?.unwrap_or_default();
    let tasks = ["SEQ_CLS", "FEATURE_EXTRACTION", "CAUSAL_LM"].map(Value::from);
    settings.only("task_type", &tasks)?;
    let lora = match kind.as_str() {
        "LORA" => Some(updates_of(&mut settings)?),
        "IA3" => None,
        other
            if ["PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT"]
                .contains(&other) =>
        {
            return Err(Error::Checkpoint {
                path: path.to_path_buf(),
                what: format!(
                    "its `peft_type` is `{other}`, which puts virtual tokens before the text; LORA and IA3 are supported"
                ),
                fix: FIX_PROMPT.into(),
            });
        }
        other => {
            let what = format!("its `peft_type` is `{other}`; LORA and IA3 are supported");
            return Err(settings.refuse(what));
        }
    };
    let patterns: [Map<String, Value>; 2] = [
        settings.take("rank_pattern")?.unwrap_or_default(),
        settings.take("alpha_pattern")?.unwrap_or_default(),
    ];
    let mut reading =
        Reading { settings: &settings, tensors, base, used: BTreeSet::new(), parameters: Vec::new() };
    let places = reading.places();
    let targets = match lora {
        Some(lora) => {
            reading.check_patterns(&patterns, lora, &places)?;
            reading.updates(lora, &places, &patterns[0])?
        }
        None => reading.scales(&places)?,
    };
    let head_update = lora.map(|lora| reading.head_update(lora)).transpose()?.flatten();
    reading.head()?;
    reading.check_head(head_update.as_ref())?;
    reading.finish()?;
    let parameters = reading.parameters;
    let nothing = || settings.refuse("the tensors beside it hold nothing of its kind".into());
    if targets.is_empty() {
        return Err(nothing());
    }
    let lora = lora.map(|lora| LoraConfig { targets: LoraTargets::of(&targets), ..lora });
    let ia3 = match lora {
        Some(_) => None,
        None => Some(Ia3Config { targets: Ia3Targets::of(&targets).ok_or_else(nothing)? }),
    };
    for key in OFF {
        settings.only(key, &[json!(false), json!({}), json!([])])?;
    }
    settings.finish(&HARMLESS)?;
    Ok(PeftParts { lora, ia3, parameters, head_update })
}

/// The keys of low-rank updates; the targets are left open.
fn updates_of(settings: &mut Settings<'_>) -> Result<LoraConfig> {
    settings.only("bias", &[json!("none")])?;
    // Others change the model below when they start.
    settings
        .only("init_lora_weights", &[json!(true), json!(false), json!("gaussian"), json!("orthogonal")])?;
    let usual = LoraConfig::default();
    let lora = LoraConfig {
        rank: settings.take("r")?.unwrap_or(8),
        alpha: settings.take("lora_alpha")?.unwrap_or(8.0),
        dropout: settings.take("lora_dropout")?.unwrap_or(0.0),
        rslora: settings.take("use_rslora")?.unwrap_or(false),
        ..usual
    };
    lora.validate().map_err(|error| settings.refuse(error.to_string()))?;
    Ok(lora)
}

/// A module of the base model that may have something.
#[derive(Clone, Copy)]
struct Place {
    layer: usize,
    /// `attention` or `feed_forward`.
    sublayer: &'static str,
    targets: &'static [LoraTarget],
}

impl Place {
    fn parameter(self, target: LoraTarget, what: &str) -> String {
        format!("transformer.layers.{}.{}.{}.{what}.weight", self.layer, self.sublayer, target.name())
    }
}

/// What one place has for one target.
struct Found {
    place: Place,
    target: LoraTarget,
    /// Whether it changes anything.
    says: bool,
    parameters: Vec<Parameter>,
}

/// A folder on its way.
struct Reading<'a> {
    settings: &'a Settings<'a>,
    tensors: &'a Tensors,
    base: &'a ModelConfig,
    used: BTreeSet<String>,
    parameters: Vec<Parameter>,
}

impl Reading<'_> {
    /// The modules of all blocks, by their names in files, with and without what stands before a trunk's names.
    fn places(&self) -> BTreeMap<String, Place> {
        let names = names::of(self.base.arch);
        let mut places = BTreeMap::new();
        for prefix in [names.prefix, ""] {
            for layer in 0..self.base.num_layers {
                for (linear, targets) in LINEARS {
                    let ours = format!("transformer.layers.{layer}.{linear}.weight");
                    let tensors =
                        names.source(prefix, &ours).map(|source| source.tensors).unwrap_or_default();
                    let sublayer = linear.split('.').next().unwrap_or_default();
                    let each = (targets.len() / tensors.len().max(1)).max(1);
                    for (tensor, targets) in tensors.iter().zip(targets.chunks(each)) {
                        let name = tensor.strip_suffix(".weight").unwrap_or(tensor).to_owned();
                        places.insert(name, Place { layer, sublayer, targets });
                    }
                }
            }
        }
        places
    }

    /// Ranks and alphas of single modules: only where a family packs three linears, as this program writes them.
    fn check_patterns(
        &self,
        [ranks, alphas]: &[Map<String, Value>; 2],
        lora: LoraConfig,
        places: &BTreeMap<String, Place>,
    ) -> Result<()> {
        for (name, rank) in ranks {
            let packs = places.get(name).is_some_and(|place| place.targets.len() > 1);
            let rank = rank.as_u64().unwrap_or_default() as usize;
            let alpha = alphas.get(name).and_then(Value::as_f64).unwrap_or(lora.alpha);
            let same_scale = (alpha / alpha_of(lora, rank) - 1.0).abs() < 1e-9;
            if !packs || !rank.is_multiple_of(lora.rank) || rank == 0 || !same_scale {
                let what = format!(
                    "its `rank_pattern` has other ranks for some modules (`{name}`): all have one here"
                );
                return Err(self.settings.refuse(what));
            }
        }
        match alphas.keys().find(|name| !ranks.contains_key(*name)) {
            Some(name) => {
                let what = format!(
                    "its `alpha_pattern` has other scales for some modules (`{name}`): all have one here"
                );
                Err(self.settings.refuse(what))
            }
            None => Ok(()),
        }
    }

    /// Takes a tensor, if it is there.
    fn take(&mut self, name: &str) -> Result<Option<(Vec<usize>, Vec<f32>)>> {
        let name = format!("{ROOT}{name}");
        let Some(shape) = self.tensors.shape(&name).map(<[usize]>::to_vec) else { return Ok(None) };
        let mut values = vec![0.0; shape.iter().product()];
        self.tensors.copy_to(&name, &mut values)?;
        self.used.insert(name);
        Ok(Some((shape, values)))
    }

    /// The updates as parameters; which targets have one.
    fn updates(
        &mut self,
        lora: LoraConfig,
        places: &BTreeMap<String, Place>,
        ranks: &Map<String, Value>,
    ) -> Result<Vec<LoraTarget>> {
        let mut found = Vec::new();
        for (name, place) in places {
            let (Some((a_shape, a)), Some((b_shape, b))) =
                (self.take(&format!("{name}.lora_A.weight"))?, self.take(&format!("{name}.lora_B.weight"))?)
            else {
                continue;
            };
            let parts = place.targets.len();
            let rank = ranks.get(name).and_then(Value::as_u64).map_or(lora.rank, |rank| rank as usize);
            let ([a_rank, inputs], [outputs, b_rank]) = (&a_shape[..], &b_shape[..]) else {
                return Err(self.unfit(name, &a_shape, &b_shape));
            };
            if (*a_rank, *b_rank) != (rank, rank) || !outputs.is_multiple_of(parts) {
                return Err(self.unfit(name, &a_shape, &b_shape));
            }
            let (inputs, outputs) = (*inputs, outputs / parts);
            for (at, &target) in place.targets.iter().enumerate() {
                let rows = &b[at * outputs * rank..][..outputs * rank];
                let Some(first) = own_columns(rows, rank, lora.rank, at, parts) else {
                    let what = format!(
                        "its `rank_pattern` for `{name}` has an update of queries, keys and values together"
                    );
                    return Err(self.settings.refuse(what));
                };
                let a = a[first * inputs..][..lora.rank * inputs].to_vec();
                let b: Vec<f32> = rows
                    .chunks_exact(rank)
                    .flat_map(|row| row[first..][..lora.rank].iter().copied())
                    .collect();
                let says = b.iter().any(|v| v.to_bits() << 1 != 0);
                let a = (place.parameter(target, "lora_a"), vec![lora.rank, inputs], a);
                let b = (place.parameter(target, "lora_b"), vec![outputs, lora.rank], b);
                found.push(Found { place: *place, target, says, parameters: vec![a, b] });
            }
        }
        self.same_in_all(found)
    }

    fn unfit(&self, name: &str, a: &[usize], b: &[usize]) -> Error {
        self.settings
            .refuse(format!("the update of `{name}` has A {a:?} and B {b:?}, which do not go with its `r`"))
    }

    /// The scales as parameters; which targets have one.
    fn scales(&mut self, places: &BTreeMap<String, Place>) -> Result<Vec<LoraTarget>> {
        let mut found = Vec::new();
        for (name, place) in places {
            let Some((shape, values)) = self.take(&format!("{name}.ia3_l"))? else { continue };
            let parts = place.targets.len();
            let in_front = scaled_in_front(place.targets[0]);
            let fits = match shape[..] {
                [1, _] => in_front,
                [rows, 1] => !in_front && rows.is_multiple_of(parts) && place.targets != [LoraTarget::Up],
                _ => false,
            };
            if !fits {
                let what = format!(
                    "the scales of `{name}` are {shape:?}: here those of queries, keys and values stand behind their linears, those \
                     of the out-projection and of the feed-forward's second linear in front, and others nowhere"
                );
                return Err(self.settings.refuse(what));
            }
            let width = values.len() / parts;
            for (target, values) in place.targets.iter().zip(values.chunks_exact(width.max(1))) {
                let says = values.iter().any(|v| v.to_bits() != 1.0_f32.to_bits());
                let parameters = vec![(place.parameter(*target, "ia3"), vec![width], values.to_vec())];
                found.push(Found { place: *place, target: *target, says, parameters });
            }
        }
        self.same_in_all(found)
    }

    /// Takes what was found, and says at which targets, which all blocks must have alike. Of packed queries, keys and values those are
    /// left out that say nothing in any block.
    fn same_in_all(&mut self, mut found: Vec<Found>) -> Result<Vec<LoraTarget>> {
        let saying: BTreeSet<usize> =
            found.iter().filter(|one| one.says).map(|one| one.target as usize).collect();
        let packed = |one: &Found| one.place.targets.len() > 1;
        if found.iter().any(|one| packed(one) && one.says) {
            found.retain(|one| !packed(one) || saying.contains(&(one.target as usize)));
        }
        let mut by_layer = vec![BTreeSet::new(); self.base.num_layers];
        for one in &found {
            by_layer[one.place.layer].insert(one.target as usize);
        }
        let first = by_layer.first().cloned().unwrap_or_default();
        if let Some(layer) = by_layer.iter().position(|targets| *targets != first) {
            let what = format!(
                "block {layer} has updates or scales at other places than block 0 (`target_modules`, `layers_to_transform`): \
                 here all blocks are alike"
            );
            return Err(self.settings.refuse(what));
        }
        self.parameters.extend(found.into_iter().flat_map(|one| one.parameters));
        Ok(LoraTarget::ALL.into_iter().filter(|&target| first.contains(&(target as usize))).collect())
    }

    /// The update of the head's dense layer as what it adds: its scale times B A.
    fn head_update(&mut self, lora: LoraConfig) -> Result<Option<Parameter>> {
        let names = names::of(self.base.arch);
        for prefix in [names.prefix, ""] {
            let Some(source) = names.source(prefix, HEAD_DENSE).filter(|source| !source.transposed) else {
                continue;
            };
            let name = source.tensors[0].strip_suffix(".weight").unwrap_or(&source.tensors[0]);
            let (Some((a_shape, a)), Some((b_shape, b))) =
                (self.take(&format!("{name}.lora_A.weight"))?, self.take(&format!("{name}.lora_B.weight"))?)
            else {
                continue;
            };
            let ([a_rank, inputs], [outputs, b_rank]) = (&a_shape[..], &b_shape[..]) else {
                return Err(self.unfit(name, &a_shape, &b_shape));
            };
            if (*a_rank, *b_rank) != (lora.rank, lora.rank) {
                return Err(self.unfit(name, &a_shape, &b_shape));
            }
            let mut added = vec![0.0_f64; outputs * inputs];
            for (row, b) in added.chunks_exact_mut((*inputs).max(1)).zip(b.chunks_exact(lora.rank)) {
                for (b, a) in b.iter().zip(a.chunks_exact((*inputs).max(1))) {
                    row.iter_mut().zip(a).for_each(|(sum, a)| *sum += f64::from(*b) * f64::from(*a));
                }
            }
            let added = added.into_iter().map(|sum| (lora.scale() * sum) as f32).collect();
            return Ok(Some((HEAD_DENSE.into(), vec![*outputs, *inputs], added)));
        }
        Ok(None)
    }

    /// Refuses an update of what the folder has whole, too: it would be of other weights than those below.
    fn check_head(&self, update: Option<&Parameter>) -> Result<()> {
        match update {
            Some((name, ..)) if self.parameters.iter().any(|(whole, ..)| whole == name) => Err(self
                .settings
                .refuse("its `modules_to_save` has the head's dense layer, which has an update, too".into())),
            _ => Ok(()),
        }
    }

    /// The head's parameters that are there.
    fn head(&mut self) -> Result<()> {
        const HEAD: [&str; 5] = ["dense.weight", "dense.bias", "norm.weight", "weight", "bias"];
        let names = names::of(self.base.arch);
        for part in HEAD {
            let ours = format!("classification_head.{part}");
            for prefix in [names.prefix, ""] {
                let Some(source) = names.source(prefix, &ours) else { continue };
                if let Some((shape, values)) = self.take(&source.tensors[0])? {
                    self.parameters.push((ours.clone(), shape, values));
                    break;
                }
            }
        }
        Ok(())
    }

    /// Refuses tensors that nobody took.
    fn finish(&self) -> Result<()> {
        let left: Vec<&str> = self.tensors.names().filter(|name| !self.used.contains(*name)).collect();
        if left.is_empty() {
            return Ok(());
        }
        let (first, arch) =
            (left.iter().take(4).copied().collect::<Vec<_>>().join("`, `"), self.base.arch.name());
        let more = if left.len() > 4 { format!(" and {} more", left.len() - 4) } else { String::new() };
        Err(self.settings.refuse(format!(
            "{} tensors beside it have no place in a {arch} of {} blocks: `{first}`{more}",
            left.len(),
            self.base.num_layers
        )))
    }
}

/// The first of the columns of B that a part of a packed module has to itself: all it has where there is one rank for all; `None`
/// where it has none to itself.
fn own_columns(rows: &[f32], rank: usize, own: usize, at: usize, parts: usize) -> Option<usize> {
    if rank == own {
        return Some(0);
    }
    let block_has = |block: usize| {
        rows.chunks_exact(rank).any(|row| row[block * own..][..own].iter().any(|v| v.to_bits() << 1 != 0))
    };
    let blocks: Vec<usize> = (0..rank / own).filter(|&block| block_has(block)).collect();
    match blocks[..] {
        // What says nothing yet is at its place if all have one.
        [] if rank / own == parts => Some(at * own),
        [] => Some(0),
        [block] => Some(block * own),
        _ => None,
    }
}
