//! A folder of PEFT: a classifier's low-rank updates and its head, without the model below them.
//!
//! Owns: its files, and that the model below is the one that is named. Never: what the files say (`interop`).

use std::fs;
use std::path::Path;

use crate::checkpoint::disk::{NewFolder, write_file};
use crate::checkpoint::export::{Exported, is_new, no_form, nothing_to_resume};
use crate::checkpoint::find::load_model;
use crate::checkpoint::model_folder::LoadedModel;
use crate::checkpoint::stored::StoredWeights;
use crate::checkpoint::weights::write_tensors;
use crate::error::{Error, Result};
use crate::interop::{peft_form, write_config};
use crate::model::Model;
use crate::params::{Kind, ParamTable};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// Writes what the model of `path` has beyond `base`, a folder in the form of `transformers`, as the new folder `output`.
///
/// # Errors
/// [`Error::Config`] when `output` exists; those of [`load_model`]; [`Error::Checkpoint`] when PEFT has no form for the model,
/// `base` is another model than the one below its updates, or the disk refuses. Nothing is left behind.
pub fn export_peft(path: &Path, base: &Path, output: &Path) -> Result<Exported> {
    is_new(output)?;
    let (loaded, below) = (load_model(path)?, load_model(base)?);
    let files = &loaded.files;
    let no_form = |why: String| no_form(path, &why, files.config.arch);
    if !matches!(below.stored, StoredWeights::Published(_)) {
        return Err(Error::Checkpoint {
            path: base.to_path_buf(),
            what: "is in this program's own form, and PEFT reads base models in that of `transformers`"
                .into(),
            fix: "write it so first (headstart export BASE --to hf --output DIR), then name that: --base DIR"
                .into(),
        });
    }
    let plain = crate::config::ModelConfig { lora: None, ..files.config.clone() };
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
        architecture: format!("PEFT's LoRA of {}", class["architectures"][0].as_str().unwrap_or_default()),
        tensors: parts.len(),
        merged: None,
        temperature: None,
        parameters: parts.iter().map(|(_, _, values)| values.len()).sum(),
    };
    if let Some(parent) = output.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(Error::io("create the folder", parent))?;
    }
    let tensors: Vec<_> =
        parts.iter().map(|(name, shape, values)| (name.clone(), &shape[..], &values[..])).collect();
    let write = || {
        let folder = NewFolder::create(output)?;
        write_tensors(&folder.path().join(WEIGHTS), &tensors)?;
        write_file(&folder.path().join(CONFIG), format!("{description:#}\n").as_bytes())?;
        folder.commit()
    };
    write().map_err(nothing_to_resume)?;
    Ok(exported)
}

/// Whether the model below the updates is `below`, number by number: updates say nothing on another one.
fn check_base(loaded: &LoadedModel, below: &LoadedModel, table: &ParamTable, weights: &[f32]) -> Result<()> {
    let trunk = table.params().iter().filter(|param| !matches!(param.kind, Kind::Lora | Kind::Head));
    for param in trunk {
        let ours = &weights[param.offset..][..param.len()];
        let mut theirs = vec![0.0_f32; param.len()];
        let fits = below.stored.fits(&param.name, &param.shape);
        if fits {
            below.stored.copy_to(&param.name, &mut theirs)?;
        }
        if !fits || !ours.iter().zip(&theirs).all(|(a, b)| a.to_bits() == b.to_bits()) {
            return Err(Error::Checkpoint {
                path: loaded.folder.clone(),
                what: format!(
                    "was not trained on {}: its `{}` is another",
                    below.folder.display(),
                    param.name
                ),
                fix: "name the model that the run started from with --base; norms that were trained, too (--train_norms), \
                      have no place in PEFT's form: export --to hf takes everything"
                    .into(),
            });
        }
    }
    Ok(())
}
