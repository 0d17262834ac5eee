//! A folder of AdapterHub: an adapter, updates or scales of a model and their head, without the model below them.
//!
//! Owns: its files. Never: what they say (`interop`), what any adapter needs of the model below (`peft_folder`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::checkpoint::CONFIG_FILE;
use crate::checkpoint::config_file::ModelFiles;
use crate::checkpoint::disk::read_file;
use crate::checkpoint::export::{Exported, is_new, no_form};
use crate::checkpoint::find::{ModelPath, load_model};
use crate::checkpoint::model_folder::LoadedModel;
use crate::checkpoint::peft_folder::{
    CONFIG, check_base, check_form, is_adapter, over, read_notes, write_adapter,
};
use crate::config::{AdapterLayout, HeadConfig, ModelConfig, Problem};
use crate::error::{Error, Result};
use crate::interop::{HubForm, HubHead, HubParts, adapterhub_form, read_adapterhub, read_adapterhub_head};
use crate::model::{Model, family_layout, layout};
use crate::tensors::Tensors;

const HEAD_CONFIG: &str = "head_config.json";
/// The adapter's weights: as they are written now, as they were written first.
const WEIGHTS: [&str; 2] = ["adapter.safetensors", "pytorch_adapter.bin"];
/// Those of its head.
const HEAD_WEIGHTS: [&str; 2] = ["model_head.safetensors", "pytorch_model_head.bin"];

/// Whether a folder is one of AdapterHub's.
pub(super) fn is_adapterhub(folder: &Path) -> bool {
    folder.join(CONFIG).is_file() && WEIGHTS.iter().any(|name| folder.join(name).is_file())
}

/// The first of some files that is there.
fn one_of(folder: &Path, names: [&str; 2]) -> Result<PathBuf> {
    let found = names.map(|name| folder.join(name)).into_iter().find(|path| path.is_file());
    found.ok_or_else(|| Error::Missing {
        what: format!("{} has no {} and no {}", folder.display(), names[0], names[1]),
        fix: "fetch the folder again, whole".into(),
    })
}

/// Opens such a folder over the model below it.
pub(super) fn open_adapterhub(folder: &Path, chosen: String, below: LoadedModel) -> Result<LoadedModel> {
    let own = &below.files.config;
    if own.lora.is_some() || own.ia3.is_some() || own.adapters_dim.is_some() {
        return Err(Error::Checkpoint {
            path: below.folder.clone(),
            what: format!("has adapters already, and those of {} are of a plain model", folder.display()),
            fix: "name the model that AdapterHub has below them".into(),
        });
    }
    let (path, weights) = (folder.join(CONFIG), one_of(folder, WEIGHTS)?);
    let tensors = Tensors::open_file(&weights)?;
    let parts = read_adapterhub(&path, &read_file(&path)?, &tensors, &below.files.config)?;
    let HubParts { adapters, lora, ia3, mut parameters, inner_scales } = parts;
    let mut files = below.files.clone();
    (files.config.lora, files.config.ia3) = (lora, ia3);
    if let Some((dim, adapters)) = adapters {
        // The model's own is not said.
        let usual = layout(&files.config).activation;
        let activation = adapters.activation.filter(|found| *found != usual);
        (files.config.adapters_dim, files.config.adapters) =
            (Some(dim), AdapterLayout { activation, ..adapters });
    }
    let head = folder.join(HEAD_CONFIG);
    if head.is_file() {
        let tensors = Tensors::open_file(&one_of(folder, HEAD_WEIGHTS)?)?;
        let found = read_adapterhub_head(&head, &read_file(&head)?, &tensors, &below.files.config)?;
        parameters.extend(take_head(found, &mut files));
    }
    read_notes(folder, &mut files)?;
    let mut above: BTreeMap<_, _> =
        parameters.into_iter().map(|(name, shape, values)| (name, (shape, values))).collect();
    above.extend(scaled_linears(&below, &inner_scales)?);
    let trunk = below.folder.clone();
    over(LoadedModel { folder: folder.to_path_buf(), chosen, files, ..below }, weights, trunk, above)
}

/// The head into the description of the model below; its weights.
fn take_head(found: HubHead, files: &mut ModelFiles) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let HubHead { num_classes, pooling, problem, activation, bias, dropout, labels, parameters } = found;
    let (defaults, positions) = (files.head_defaults, files.config.num_max_positions);
    files.config.head = Some(HeadConfig {
        num_classes,
        pooling,
        problem,
        max_length: defaults
            .and_then(|defaults| defaults.max_length)
            .filter(|length| (2..positions).contains(length)),
        truncation: None,
        dropout: dropout.or(defaults.and_then(|defaults| defaults.dropout)),
    });
    let usual = family_layout(files.config.arch).pooler;
    if let Some(activation) = activation {
        files.config.layout.pooler = Some(activation).filter(|found| *found != usual);
    }
    files.config.layout.head_bias = (!bias).then_some(false);
    files.labels = match problem {
        Problem::Regression => Vec::new(),
        _ if labels.is_empty() => (0..num_classes).map(|class| format!("LABEL_{class}")).collect(),
        _ => labels,
    };
    parameters
}

type Named = (String, (Vec<usize>, Vec<f32>));

/// The first linears of the feed-forwards with what they give multiplied by scales.
fn scaled_linears(below: &LoadedModel, scales: &[Vec<f32>]) -> Result<Vec<Named>> {
    let mut scaled = Vec::new();
    for (layer, factors) in scales.iter().enumerate() {
        for ending in ["weight", "bias"] {
            let name = format!("transformer.layers.{layer}.feed_forward.up.{ending}");
            let Some(shape) = below.stored.shape(&name) else { continue };
            let mut values = vec![0.0; shape.iter().product()];
            below.stored.copy_to(&name, &mut values)?;
            let columns = (values.len() / factors.len().max(1)).max(1);
            for (row, factor) in values.chunks_mut(columns).zip(factors) {
                for value in row {
                    *value *= factor;
                }
            }
            scaled.push((name, (shape, values)));
        }
    }
    Ok(scaled)
}

/// Writes what the model of `path` has beyond `base`, a folder in the form of `transformers`, as the new folder `output`.
///
/// # Errors
/// [`Error::Config`] when `output` exists; those of [`load_model`]; [`Error::Checkpoint`] when AdapterHub has no form for the model,
/// `base` is another model than the one below its adapters, or the disk refuses. Nothing is left behind.
pub fn export_adapterhub(path: &Path, base: &Path, output: &Path) -> Result<Exported> {
    is_new(output)?;
    let below = load_model(base)?;
    let loaded = load_model(ModelPath { path, base: Some(base).filter(|_| is_adapter(path)) })?;
    let files = &loaded.files;
    check_form(&below)?;
    let model = Model::new(&files.config)?;
    let weights = loaded.exact_weights(model.table())?;
    check_base(&loaded, &below, model.table(), &weights)?;
    // What its own library goes by.
    let config: Value =
        serde_json::from_slice(&read_file(&below.folder.join(CONFIG_FILE))?).unwrap_or_default();
    let model_type = config["model_type"].as_str().unwrap_or_default();
    let name = adapter_name(output);
    let place = base.to_string_lossy();
    let HubForm { adapter_config, adapter, head_config, head } =
        adapterhub_form(&files.config, &files.labels, (model.table(), &weights), [&place, model_type], &name)
            .map_err(|why| no_form(path, &why, files.config.arch))?;
    let exported = Exported {
        folder: output.to_path_buf(),
        chosen: loaded.chosen.clone(),
        architecture: format!("AdapterHub's {} of {model_type}", kind_of(&files.config)),
        tensors: adapter.len() + head.len(),
        merged: None,
        temperature: None,
        left: Vec::new(),
        parameters: adapter.iter().chain(&head).map(|(_, _, values)| values.len()).sum(),
    };
    let (weights, settings) = (
        [(WEIGHTS[0], &adapter[..]), (HEAD_WEIGHTS[0], &head[..])],
        [(CONFIG, &adapter_config), (HEAD_CONFIG, &head_config)],
    );
    write_adapter(output, files, &weights, &settings)?;
    Ok(exported)
}

/// What the adapter is called there: the folder's name, without what no module's name may have.
fn adapter_name(output: &Path) -> String {
    let name = output.file_name().unwrap_or_default().to_string_lossy();
    let fit = |c: char| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' };
    let name: String = name.chars().map(fit).collect();
    if name.is_empty() { "adapter".into() } else { name }
}

fn kind_of(config: &ModelConfig) -> &'static str {
    match (config.lora, config.ia3) {
        (Some(_), _) => "LoRA",
        (None, Some(_)) => "(IA)3",
        (None, None) => "bottleneck adapter",
    }
}
