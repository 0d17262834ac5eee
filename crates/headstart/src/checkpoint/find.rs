//! Which model a path means: a run's finished one, its best, its latest, a checkpoint, a model folder.
//!
//! Owns: that choice, also beside a run that goes on. Never: what a model folder holds (`model_folder`).

use std::path::{Path, PathBuf};

use crate::baseline::BagModel;
use crate::checkpoint::disk::names;
use crate::checkpoint::model_folder::{LoadedModel, open_folder, open_while, tokenizer_of};
use crate::checkpoint::peft_folder::is_adapter;
use crate::checkpoint::published_folder::is_tutorials;
use crate::checkpoint::run_folder::{RunFolder, newest_step_folder};
use crate::checkpoint::{CHECKPOINTS_FOLDER, CONFIG_FILE, FINAL_FOLDER, RUN_CONFIG_FILE};
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// Where a model lies: its path, and for what holds an adapter alone the path of the model below it.
#[derive(Clone, Copy, Debug)]
pub struct ModelPath<'a> {
    /// A run folder, a checkpoint, a model folder, or the folder of an adapter.
    pub path: &'a Path,
    /// The model that an adapter is of; `None`: the one that its folder names, if that is there.
    pub base: Option<&'a Path>,
}

impl<'a> From<&'a Path> for ModelPath<'a> {
    fn from(path: &'a Path) -> Self {
        Self { path, base: None }
    }
}

impl<'a> From<&'a PathBuf> for ModelPath<'a> {
    fn from(path: &'a PathBuf) -> Self {
        Self { path, base: None }
    }
}

/// Opens the model of `path`: a run folder (its `final/`, else its best, else its latest checkpoint), a checkpoint
/// folder, or a model folder.
///
/// # Errors
/// [`Error::Missing`] when `path` is none of these, saying what was looked for; [`Error::Checkpoint`] when the model
/// is damaged, altered or does not hold together.
pub fn load_model<'a>(path: impl Into<ModelPath<'a>>) -> Result<LoadedModel> {
    let ModelPath { path, base } = path.into();
    found_and_opened(path, base, |folder, chosen| open_folder(folder, chosen, base))
}

/// [`load_model`] with the model's tokenizer, which is made while the weights are checked.
///
/// # Errors
/// As for [`load_model`] and [`LoadedModel::tokenizer`].
pub fn load_model_and_tokenizer<'a>(path: impl Into<ModelPath<'a>>) -> Result<(LoadedModel, Tokenizer)> {
    let ModelPath { path, base } = path.into();
    let (model, tokenizer) = found_and_opened(path, base, |folder, chosen| {
        open_while(folder, chosen, base, |files| tokenizer_of(folder, files))
    })?;
    Ok((model, tokenizer?))
}

/// Finds the model of `path` and opens it; once more where a run that goes on has removed or replaced it in the meantime.
fn found_and_opened<T>(
    path: &Path,
    base: Option<&Path>,
    mut open: impl FnMut(&Path, String) -> Result<T>,
) -> Result<T> {
    const TRIES: u32 = 5;
    if let Some(base) = base.filter(|_| path.is_dir() && !is_adapter(path)) {
        return Err(Error::Config {
            key: "base".into(),
            what: format!("{} is a whole model, and {} is to stand below it", path.display(), base.display()),
            fix: "leave base out: only what holds an adapter alone needs it".into(),
        });
    }
    let mut tries = 0;
    loop {
        let (folder, chosen) = find_model(path)?;
        tries += 1;
        match open(&folder, chosen) {
            Err(_) if tries < TRIES && moved_on(path, &folder) => {}
            result => return result,
        }
    }
}

/// Whether a run has another model now than the one in `folder`.
fn moved_on(path: &Path, folder: &Path) -> bool {
    !folder.is_dir() || find_model(path).is_ok_and(|(now, _)| now != folder)
}

/// The model folder of `path`, and which model of a run it is.
fn find_model(path: &Path) -> Result<(PathBuf, String)> {
    if !path.is_dir() {
        return Err(no_model(path));
    }
    BagModel::refuse(path)?;
    if is_adapter(path) || path.join(CONFIG_FILE).is_file() || is_tutorials(path) {
        return Ok((path.to_path_buf(), path.display().to_string()));
    }
    let last = path.join(FINAL_FOLDER);
    if last.is_dir() {
        return Ok((last, format!("{FINAL_FOLDER}/")));
    }
    let checkpoints = path.join(CHECKPOINTS_FOLDER);
    if let Some(best) = RunFolder::best_of(&checkpoints)? {
        let name = best.file_name().unwrap_or_default().display().to_string();
        return Ok((best, format!("the best checkpoint ({name})")));
    }
    if let Some(latest) = newest_step_folder(&checkpoints)? {
        let name = latest.file_name().unwrap_or_default().display().to_string();
        return Ok((latest, format!("the latest checkpoint ({name}); none is marked as the best")));
    }
    Err(no_model(path))
}

/// What is wrong with a path that holds no model.
fn no_model(path: &Path) -> Error {
    let shown = path.display();
    let (what, fix) = if !path.exists() {
        (format!("there is no {shown}"), "check the path")
    } else if path.is_file() {
        (format!("{shown} is a file, not a model's folder"), "name the folder it is in")
    } else if let Some(whole) = whole_runs_in(path) {
        let what = format!("{shown} has no model of its own yet; of the runs in it these are whole: {whole}");
        (what, "name one of them, or continue the whole with --resume")
    } else if path.join(RUN_CONFIG_FILE).is_file() {
        let what = format!("the run {shown} has not saved a checkpoint yet");
        (what, "wait for it, or continue it with --resume")
    } else if let Some(weights) = weights_in(path) {
        let what = format!("{shown} holds {weights} but no {CONFIG_FILE}, which says what model it is");
        let fix = if [".gguf", ".onnx"].iter().any(|ending| weights.ends_with(ending)) {
            "use the model's folder in safetensors: its weights, its config.json and its tokenizer"
        } else {
            "fetch the config.json and the tokenizer that came with these weights, too"
        };
        (what, fix)
    } else {
        let what = format!(
            "{shown} is neither a run folder nor a checkpoint or model folder: it has no {CONFIG_FILE}, \
             {FINAL_FOLDER}/ or {CHECKPOINTS_FOLDER}/step-*"
        );
        (what, "name a run folder, its final/, or one of its checkpoints")
    };
    Error::Missing { what, fix: fix.into() }
}

/// The finished ones of several runs in one folder, as of a ladder that was stopped: `runs/a/1-bow, runs/a/2-features`.
fn whole_runs_in(path: &Path) -> Option<String> {
    let mut runs = names(path).unwrap_or_default();
    runs.retain(|name| path.join(name).join(FINAL_FOLDER).is_dir() && RunFolder::is_run(&path.join(name)));
    runs.sort_unstable();
    let shown: Vec<String> = runs.iter().map(|name| path.join(name).display().to_string()).collect();
    (RunFolder::is_run(path) && !shown.is_empty()).then(|| shown.join(", "))
}

/// A file that looks like some program's weights.
fn weights_in(folder: &Path) -> Option<String> {
    const ENDINGS: [&str; 6] = [".safetensors", ".bin", ".pth", ".pt", ".gguf", ".onnx"];
    let is_weights = |name: &String| ENDINGS.iter().any(|ending| name.ends_with(ending));
    names(folder).unwrap_or_default().into_iter().filter(is_weights).min()
}
