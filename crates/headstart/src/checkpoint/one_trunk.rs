//! Several adapters over one trunk, which is read once and lies in memory once.
//!
//! Owns: which form of adapter a folder has, where the weights of all of them lie. Never: what the forms say (`adapter_folder`,
//! `peft_folder`, `adapterhub_folder`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use headstart_engine::Weights;

use crate::checkpoint::adapter_folder::{is_alone, open_alone};
use crate::checkpoint::adapterhub_folder::{is_adapterhub, open_adapterhub};
use crate::checkpoint::find::{ModelPath, load_model};
use crate::checkpoint::model_folder::LoadedModel;
use crate::checkpoint::peft_folder::{is_adapter, open_peft};
use crate::checkpoint::stored::StoredWeights;
use crate::checkpoint::{FINAL_FOLDER, adapter_folder};
use crate::error::{Error, Result};
use crate::model::Model;

/// The adapter of a path: the folder of one, of a finished model that has one beside it, or of a run.
pub fn adapter_in(path: &Path) -> Option<PathBuf> {
    let beside = path.join(adapter_folder::FOLDER);
    let finished = path.join(FINAL_FOLDER).join(adapter_folder::FOLDER);
    [path.to_path_buf(), beside, finished].into_iter().find(|folder| is_adapter(folder))
}

/// Opens the folder of an adapter, of whatever form, over the model below it.
pub(super) fn open_over(folder: &Path, chosen: String, below: LoadedModel) -> Result<LoadedModel> {
    if is_alone(folder) {
        open_alone(folder, chosen, below)
    } else if is_adapterhub(folder) {
        open_adapterhub(folder, chosen, below)
    } else {
        open_peft(folder, chosen, below)
    }
}

/// Opens adapters over one trunk.
///
/// # Errors
/// Those of [`load_model`]; [`Error::Config`] where the trunk is an adapter itself, or a path has none; [`Error::Checkpoint`] naming the
/// adapter that is of another trunk.
pub fn load_adapters(trunk: &Path, adapters: &[PathBuf]) -> Result<Vec<LoadedModel>> {
    if is_adapter(trunk) {
        return Err(Error::Config {
            key: "adapter".into(),
            what: format!("{} holds an adapter alone, and no trunk for others", trunk.display()),
            fix: "name the whole model that they are of, and this one with --adapter, too".into(),
        });
    }
    let below = load_model(ModelPath { path: trunk, base: None })?;
    let open = |path: &PathBuf| {
        let folder = adapter_in(path).ok_or_else(|| Error::Config {
            key: "adapter".into(),
            what: format!("{} holds no adapter", path.display()),
            fix: "name final/adapter of a run that trained on a frozen model, or a folder of PEFT or AdapterHub".into(),
        })?;
        open_over(&folder, folder.display().to_string(), below.clone())
    };
    adapters.iter().map(open).collect()
}

/// The models of adapters of one trunk and the weights of all of them: what they have from the trunk lies there once.
///
/// # Errors
/// [`Error::Checkpoint`] for a damaged file.
pub(crate) fn share_trunk(adapters: &[LoadedModel]) -> Result<(Vec<Model>, Weights)> {
    let (mut weights, mut below) = (Vec::new(), HashMap::<String, usize>::new());
    let mut models = Vec::new();
    for adapter in adapters {
        let mut model = Model::new(&adapter.files.config)?;
        let mut places = HashMap::new();
        for param in model.table().params() {
            let is_own = match &adapter.stored {
                StoredWeights::Over(over) => over.above.contains_key(&param.name),
                StoredWeights::Own(_) | StoredWeights::Published(_) => true,
            };
            let known = below.get(&param.name).copied().filter(|_| !is_own);
            let place = known.unwrap_or(weights.len());
            if known.is_none() {
                weights.resize(place + param.len(), 0.0);
                adapter.stored.copy_to(&param.name, &mut weights[place..])?;
            }
            if !is_own {
                below.insert(param.name.clone(), place);
            }
            places.insert(param.name.clone(), place);
        }
        model.place(|param| places.get(&param.name).copied().unwrap_or_default());
        models.push(model);
    }
    Ok((models, Weights::new(weights)))
}
