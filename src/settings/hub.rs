//! Published models: where the hub and its cache are, from flags and the environment, and a model's name made a folder.
//!
//! Owns: the environment's variables for that, those of `huggingface_hub`, and what is said of a model that was found by
//! its name. Never: what a name means.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use headstart::checkpoint::{adapter_in, base_of};
use headstart::config::{DataConfig, FinetuneConfig, Method};
use headstart::hub::{self, ENDPOINT, HubOptions, Model, Origin, Report, Token};
use headstart::shipped;
use headstart::train::{Place, RunOptions};

use super::{Usage, default_cache_dir};
use crate::args::PlaceArgs;
use crate::progress::{self, Progress, Verbosity};

/// Where models come from, by the flags of a command.
pub fn hub_options(places: PlaceArgs) -> Result<HubOptions> {
    let PlaceArgs { cache_dir, mirror, offline } = places;
    let home = hub_home()?;
    let cache = ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"].into_iter().find_map(path);
    Ok(HubOptions {
        endpoint: endpoint()?,
        cache_dir: cache.unwrap_or_else(|| home.join("hub")),
        records_dir: cache_dir.map_or_else(default_cache_dir, Ok)?.join("hub"),
        token: token(&home)?,
        offline: offline.unwrap_or_else(|| is_set("HF_HUB_OFFLINE") || is_set("TRANSFORMERS_OFFLINE")),
        mirror,
    })
}

/// The folder of a model that is named on the command line, brought here where it has to be. A path stays as it is.
pub fn model_folder(name: PathBuf, places: PlaceArgs) -> Result<PathBuf> {
    // Most are paths, and need to know nothing of a hub. A path that is no text is no name.
    let Some(text) = name.to_str().filter(|_| !name.exists()) else { return Ok(name) };
    let options = hub_options(places)?;
    let mut progress = Progress::new(Verbosity::Calm);
    let model = hub::resolve(text, &options, &mut |report| match report {
        Report::Line(line) => progress.say(line),
        Report::Progress(p) => progress.download(&p),
    });
    progress.finish();
    let model = model?;
    say(&model);
    Ok(model.folder)
}

/// The model in the program, for a new run that needs one and names none.
pub fn model_where_none_is_named(config: &FinetuneConfig, options: &RunOptions) -> Option<PathBuf> {
    let needs_one = matches!(options.place, Place::New(_)) && config.method != Method::Bow;
    needs_one.then(|| PathBuf::from(shipped::NAME))
}

/// [`model_folder`], and the folder of the model below it where it holds an adapter alone: the one that is named, or else the one
/// that it names.
pub fn model_and_base(
    name: PathBuf,
    base: Option<PathBuf>,
    places: PlaceArgs,
) -> Result<(PathBuf, Option<PathBuf>)> {
    let folder = model_folder(name, places.clone())?;
    let base = match base {
        Some(base) => Some(model_folder(base, places)?),
        None => named_base(&folder, places)?,
    };
    Ok((folder, base))
}

/// The model that a run with an adapter of its own started from; `None` where its folder does not say so, or that is gone.
pub fn trunk_of_run(run: &Path, places: PlaceArgs) -> Result<Option<PathBuf>> {
    adapter_in(run).map_or(Ok(None), |adapter| named_base(&adapter, places))
}

/// The model below the adapter in a folder, as that names it.
fn named_base(folder: &Path, places: PlaceArgs) -> Result<Option<PathBuf>> {
    // What is gone from a path is not looked for under its name.
    let is_name = |name: &PathBuf| name.exists() || !(name.is_absolute() || name.starts_with("."));
    let named = base_of(folder)?.map(PathBuf::from).filter(is_name);
    named.map(|base| model_folder(base, places)).transpose()
}

/// Where the data of a configuration is looked for, as flags.
pub fn places_of(data: &DataConfig) -> PlaceArgs {
    let DataConfig { cache_dir, mirror, offline, .. } = data;
    // What is not forbidden by the flag or the file may be forbidden by the environment.
    PlaceArgs { cache_dir: cache_dir.clone(), mirror: mirror.clone(), offline: offline.then_some(true) }
}

/// What a name was found to be.
pub fn say(model: &Model) {
    let Model { folder, origin, repo, commit, files: _, notes } = model;
    if *origin == Origin::Program {
        progress::say("model: shipped, the one in this program (headstart models show shipped)");
    } else if *origin != Origin::Folder {
        let repo = repo.as_deref().unwrap_or_default();
        let commit = commit.as_ref().map(|commit| format!(" at commit {commit}")).unwrap_or_default();
        progress::say(&format!("model: {repo}{commit}, in {}", folder.display()));
    }
    for note in notes {
        progress::say(&format!("warning: {note}"));
    }
}

/// The hub's address.
fn endpoint() -> Result<String> {
    let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
    let endpoint = endpoint.trim().trim_end_matches('/');
    if endpoint.starts_with("https://") || endpoint.starts_with("http://") {
        return Ok(endpoint.to_owned());
    }
    let fix = format!("begin it with https://, as in {ENDPOINT}");
    Err(Usage(format!("HF_ENDPOINT {endpoint}: this is no address of a hub\n  fix: {fix}")).into())
}

/// The folder of everything that `huggingface_hub` keeps.
fn hub_home() -> Result<PathBuf> {
    if let Some(home) = path("HF_HOME") {
        return Ok(home);
    }
    let caches = path("XDG_CACHE_HOME").or_else(|| home().map(|home| home.join(".cache")));
    caches.map(|caches| caches.join("huggingface")).ok_or_else(|| {
        Usage("no home folder for the Hugging Face cache\n  fix: name one with HF_HOME".into()).into()
    })
}

/// The token of the environment, or else of the file that `hf auth login` writes.
fn token(hub_home: &Path) -> Result<Option<Token>> {
    let refused = |whence: &str| {
        Usage(format!(
            "{whence} holds no token (it has characters that no token has, or is empty)\n  fix: set it anew, or unset it"
        ))
    };
    for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
        if let Some(text) = variable(name) {
            return Ok(Some(Token::new(&text).ok_or_else(|| refused(name))?));
        }
    }
    let file = path("HF_TOKEN_PATH").unwrap_or_else(|| hub_home.join("token"));
    // Without the file, or where nobody may read it, one goes without a token.
    let text = fs::read_to_string(&file).unwrap_or_default();
    if text.trim().is_empty() {
        return Ok(None);
    }
    Ok(Some(Token::new(&text).ok_or_else(|| refused(&file.display().to_string()))?))
}

/// A variable that is set to something.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.trim().is_empty())
}

/// A variable that is set to a yes, as `huggingface_hub` understands it.
fn is_set(name: &str) -> bool {
    variable(name).is_some_and(|value| ["1", "ON", "YES", "TRUE"].contains(&&*value.to_ascii_uppercase()))
}

/// A variable that names a folder, `~` being the user's own.
fn path(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env::var_os(name).filter(|value| !value.is_empty())?);
    match path.strip_prefix("~") {
        Ok(inside) => Some(home()?.join(inside)),
        Err(_) => Some(path),
    }
}

fn home() -> Option<PathBuf> {
    let name = if cfg!(windows) { "USERPROFILE" } else { "HOME" };
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
