//! A folder of PEFT: a model's low-rank updates or scales and its head, without the model below them.
//!
//! Owns: its files, that the model below is the one that is named, what of the two is one model. Never: what the files say
//! (`interop`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::checkpoint::OWN_FILE;
use crate::checkpoint::adapter_folder::{is_alone, trunk_of};
use crate::checkpoint::adapterhub_folder::is_adapterhub;
use crate::checkpoint::config_file::{ModelFiles, config_json, parse_config};
use crate::checkpoint::disk::{NewFolder, read_file, write_file};
use crate::checkpoint::export::{Exported, is_new, no_form, nothing_to_resume};
use crate::checkpoint::find::{ModelPath, load_model};
use crate::checkpoint::model_folder::{LoadedModel, check_present};
use crate::checkpoint::stored::{Over, StoredWeights};
use crate::checkpoint::weights::write_tensors;
use crate::config::{Arch, HeadConfig, HeadShape, ModelConfig, Problem};
use crate::error::{Error, Result};
use crate::files::{FileSums, damaged};
use crate::interop::{
    Parameter, PeftParts, Piece, adapterhub_base, peft_base, peft_form, read_peft, write_config,
};
use crate::model::Model;
use crate::params::{Kind, ParamTable};
use crate::tensors::Tensors;

pub(super) const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT wrote before it wrote safetensors.
const OLD_WEIGHTS: &str = "adapter_model.bin";

/// Whether a folder holds an adapter alone: of a run of ours, PEFT's, or AdapterHub's.
pub fn is_adapter(folder: &Path) -> bool {
    is_alone(folder) || folder.join(CONFIG).is_file()
}

/// The name or path of the model below an adapter, as its folder says; `None` for the folder of a whole model.
///
/// # Errors
/// [`Error::Checkpoint`] when the folder's description cannot be read.
pub fn base_of(folder: &Path) -> Result<Option<String>> {
    if is_alone(folder) {
        return trunk_of(folder);
    }
    if !is_adapter(folder) {
        return Ok(None);
    }
    let path = folder.join(CONFIG);
    let read = if is_adapterhub(folder) { adapterhub_base } else { peft_base };
    read(&path, &read_file(&path)?)
}

/// Opens such a folder over the model below it.
pub(super) fn open_peft(folder: &Path, chosen: String, below: LoadedModel) -> Result<LoadedModel> {
    let path = folder.join(CONFIG);
    let weights =
        [WEIGHTS, OLD_WEIGHTS].map(|name| folder.join(name)).into_iter().find(|path| path.is_file());
    let weights = weights.ok_or_else(|| Error::Missing {
        what: format!("{} has no {WEIGHTS} and no {OLD_WEIGHTS}", folder.display()),
        fix: "fetch the folder again, whole".into(),
    })?;
    let tensors = Tensors::open_file(&weights)?;
    let PeftParts { lora, ia3, mut parameters, head_update } =
        read_peft(&path, &read_file(&path)?, &tensors, &below.files.config)?;
    parameters.extend(head_update.map(|update| merged(&path, update, &below)).transpose()?);
    if below.files.config.lora.is_some() || below.files.config.ia3.is_some() {
        return Err(Error::Checkpoint {
            path: below.folder,
            what: format!(
                "has low-rank updates or scales already, and those of {} are of a plain model",
                folder.display()
            ),
            fix: "merge them first: headstart export MODEL --to hf --output DIR".into(),
        });
    }
    let mut files = below.files.clone();
    (files.config.lora, files.config.ia3) = (lora, ia3);
    read_head(folder, &parameters, &mut files)?;
    let above = parameters.into_iter().map(|(name, shape, values)| (name, (shape, values)));
    let trunk = below.folder.clone();
    let model = LoadedModel { folder: folder.to_path_buf(), chosen, files, ..below };
    over(model, weights, trunk, above.collect())
}

/// The weights below with what an update adds to them.
fn merged(path: &Path, (name, shape, added): Parameter, below: &LoadedModel) -> Result<Parameter> {
    if !below.stored.fits(&name, &shape) {
        return Err(Error::Checkpoint {
            path: path.to_path_buf(),
            what: format!(
                "has an update {shape:?} of the layer between model and classifier (the pooler), and {} has none of that size",
                below.folder.display()
            ),
            fix: "name the model that it was trained on: --base MODEL".into(),
        });
    }
    let mut values = vec![0.0_f32; added.len()];
    below.stored.copy_to(&name, &mut values)?;
    values.iter_mut().zip(&added).for_each(|(value, added)| *value += added);
    Ok((name, shape, values))
}

/// The model below an adapter.
pub(super) fn load_base(folder: &Path, base: Option<&Path>) -> Result<LoadedModel> {
    let named = if base.is_some() { None } else { base_of(folder)? };
    let base = match (base, &named) {
        (Some(base), _) => base,
        (None, Some(name)) if Path::new(name).is_dir() => Path::new(name),
        (None, name) => {
            let of = name.as_ref().map(|name| format!(", {name}, which is not here")).unwrap_or_default();
            return Err(Error::Config {
                key: "base".into(),
                what: format!(
                    "{} holds an adapter alone, and needs the model it is of{of}",
                    folder.display()
                ),
                fix: "name that model, a run or a folder: --base MODEL".into(),
            });
        }
    };
    if is_adapter(base) {
        return Err(Error::Config {
            key: "base".into(),
            what: format!("{} holds an adapter alone, and no model to stand below another", base.display()),
            fix: "name the whole model".into(),
        });
    }
    load_model(ModelPath { path: base, base: None })
}

/// A model, the parameters `above` of a file over those that it has in the folder `folder`.
pub(super) fn over(
    model: LoadedModel,
    path: PathBuf,
    folder: PathBuf,
    above: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
) -> Result<LoadedModel> {
    let table = Model::new(&model.files.config).map_err(|error| damaged(&path, error.to_string()))?;
    let stored = StoredWeights::Over(Arc::new(Over { path, folder, above, below: model.stored }));
    check_present(&stored, table.table())?;
    Ok(LoadedModel { stored, ..model })
}

/// What this program wrote beside another program's adapter of what that has no place for, into the description of the model below;
/// whether it did.
pub(super) fn read_notes(folder: &Path, files: &mut ModelFiles) -> Result<bool> {
    let notes = folder.join(OWN_FILE);
    if !notes.is_file() {
        return Ok(false);
    }
    let (own, sums) = parse_config(&notes, &read_file(&notes)?)?;
    for (name, sum) in &sums {
        let path = folder.join(name);
        sum.check(&path, &read_file(&path)?)?;
    }
    files.config.head = own.config.head;
    (files.config.dropout, files.config.attention_dropout) =
        (own.config.dropout, own.config.attention_dropout);
    (files.labels, files.pairs) = (own.labels, own.pairs);
    (files.temperature, files.precision) = (own.temperature, own.precision);
    Ok(true)
}

/// The head that is among the parameters, into the description of the model below.
fn read_head(folder: &Path, parameters: &[Parameter], files: &mut ModelFiles) -> Result<()> {
    let classes = parameters.iter().find(|(name, ..)| name == "classification_head.weight");
    let Some(&classes) = classes.and_then(|(_, shape, _)| shape.first()) else { return Ok(()) };
    if classes == 0 {
        return Err(damaged(&folder.join(WEIGHTS), "its classifier has no outputs"));
    }
    files.config.head_shape = HeadShape::default();
    if read_notes(folder, files)? {
        // All of the head is said there.
    } else if files.config.head.as_ref().is_none_or(|head| head.num_classes != classes) {
        let defaults = files.head_defaults;
        let problem = if classes == 1 { Problem::Regression } else { Problem::SingleLabel };
        let positions = files.config.num_max_positions;
        files.config.head = Some(HeadConfig {
            num_classes: classes,
            pooling: defaults.map_or_else(|| files.config.arch.pooling(), |defaults| defaults.pooling),
            problem,
            max_length: defaults
                .and_then(|defaults| defaults.max_length)
                .filter(|length| (2..positions).contains(length)),
            truncation: None,
            dropout: defaults.and_then(|defaults| defaults.dropout),
        });
        files.labels = match problem {
            Problem::Regression => Vec::new(),
            _ => (0..classes).map(|class| format!("LABEL_{class}")).collect(),
        };
    }
    if files.config.arch == Arch::Gpt2 {
        let bias = parameters.iter().any(|(name, ..)| name == "classification_head.bias");
        files.config.layout.head_bias = Some(bias);
    }
    Ok(())
}

/// Writes what the model of `path` has beyond `base`, a folder in the form of `transformers`, as the new folder `output`.
///
/// # Errors
/// [`Error::Config`] when `output` exists; those of [`load_model`]; [`Error::Checkpoint`] when PEFT has no form for the model,
/// `base` is another model than the one below its updates, or the disk refuses. Nothing is left behind.
pub fn export_peft(path: &Path, base: &Path, output: &Path) -> Result<Exported> {
    is_new(output)?;
    let below = load_model(base)?;
    let loaded = load_model(ModelPath { path, base: Some(base).filter(|_| is_adapter(path)) })?;
    let files = &loaded.files;
    let no_form = |why: String| no_form(path, &why, files.config.arch);
    check_form(&below)?;
    let plain = ModelConfig { lora: None, ia3: None, ..files.config.clone() };
    let class = write_config(&plain, &files.labels, files.special_ids, false).map_err(no_form)?;
    let model = Model::new(&files.config)?;
    let weights = loaded.exact_weights(model.table())?;
    check_base(&loaded, &below, model.table(), &weights)?;
    let name = base.to_string_lossy();
    let (description, parts) =
        peft_form(&files.config, files.objective, model.table(), &weights, &name).map_err(no_form)?;
    let exported = Exported {
        folder: output.to_path_buf(),
        chosen: loaded.chosen.clone(),
        architecture: format!(
            "PEFT's {} of {}",
            if files.config.lora.is_some() { "LoRA" } else { "IA3" },
            class["architectures"][0].as_str().unwrap_or_default()
        ),
        tensors: parts.len(),
        merged: None,
        temperature: None,
        left: Vec::new(),
        parameters: parts.iter().map(|(_, _, values)| values.len()).sum(),
    };
    write_adapter(output, files, &[(WEIGHTS, &parts)], &[(CONFIG, &description)])?;
    Ok(exported)
}

/// Writes the new folder of an adapter whole or not at all: weights, settings, and what the other program has no place for beside them:
/// labels, pairs, the longest input, the temperature.
pub(super) fn write_adapter(
    output: &Path,
    files: &ModelFiles,
    weights: &[(&str, &[Piece<'_>])],
    settings: &[(&str, &Value)],
) -> Result<()> {
    if let Some(parent) = output.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(Error::io("create the folder", parent))?;
    }
    let write = || {
        let folder = NewFolder::create(output)?;
        let mut sums = FileSums::new();
        for (name, parts) in weights {
            let parts: Vec<_> =
                parts.iter().map(|(name, shape, values)| (name.clone(), &shape[..], &values[..])).collect();
            sums.insert((*name).into(), write_tensors(&folder.path().join(name), &parts)?);
        }
        for (name, content) in settings {
            let text = format!("{content:#}\n");
            sums.insert((*name).into(), write_file(&folder.path().join(name), text.as_bytes())?);
        }
        let notes = folder.path().join(OWN_FILE);
        let text =
            config_json(files, &sums).map_err(|e| damaged(&notes, format!("cannot be laid out: {e}")))?;
        write_file(&notes, text.as_bytes())?;
        folder.commit()
    };
    write().map_err(nothing_to_resume)
}

/// Refuses a base model that other programs could not read.
pub(super) fn check_form(base: &LoadedModel) -> Result<()> {
    if matches!(base.stored, StoredWeights::Published(_)) {
        return Ok(());
    }
    Err(Error::Checkpoint {
        path: base.folder.clone(),
        what: "is in this program's own form, and base models are read in that of `transformers`".into(),
        fix: "write it so first (headstart export BASE --to hf --output DIR), then name that: --base DIR"
            .into(),
    })
}

/// Whether the model below the updates is `below`, number by number: updates say nothing on another one.
pub(super) fn check_base(
    loaded: &LoadedModel,
    below: &LoadedModel,
    table: &ParamTable,
    weights: &[f32],
) -> Result<()> {
    let trunk = table
        .params()
        .iter()
        .filter(|param| !matches!(param.kind, Kind::Adapter | Kind::Lora | Kind::Ia3 | Kind::Head));
    let mut others = Vec::new();
    for param in trunk {
        let ours = &weights[param.offset..][..param.len()];
        let mut theirs = vec![0.0_f32; param.len()];
        let fits = below.stored.fits(&param.name, &param.shape);
        if fits {
            below.stored.copy_to(&param.name, &mut theirs)?;
        }
        if !fits || !ours.iter().zip(&theirs).all(|(a, b)| a.to_bits() == b.to_bits()) {
            others.push(param.name.as_str());
        }
    }
    let Some(first) = others.first() else { return Ok(()) };
    let base = below.folder.display();
    let (what, fix) = if others.iter().all(|name| name.rsplit('.').next() == Some("bias")) {
        (
            format!(
                "has the weights of {base} and other biases, as --method bitfit trains them: these have no place in this form"
            ),
            "export --to hf takes everything; a run's final/adapter/ has biases and head alone, for this program",
        )
    } else {
        (
            format!("was not trained on {base}: its `{first}` is another"),
            "name the model that the run started from with --base; norms that were trained, too (--train_norms), \
             have no place in this form: export --to hf takes everything",
        )
    };
    Err(Error::Checkpoint { path: loaded.folder.clone(), what, fix: fix.into() })
}
