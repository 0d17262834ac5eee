//! Where a run writes, and how one is continued.
//!
//! Owns: default folders, and that a continued run keeps its settings, but for those of `PaceArgs` and `PlaceArgs`.
//! Never: which settings there are.

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use headstart::checkpoint::numbered;
use headstart::config::DataConfig;
use headstart::device::DeviceName;
use headstart::train::{Place, RunOptions};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Usage, devices, file};
use crate::args::{PaceArgs, PlaceArgs, RunArgs, flag_values, flags_of};
use crate::progress::Verbosity;
use crate::ranks::Ranks;

/// A training run, ready to start.
#[derive(Debug)]
pub struct Run<C> {
    /// What to do.
    pub config: C,
    /// Where.
    pub options: RunOptions,
    /// How it is told.
    pub telling: Telling,
}

/// How a run is told: on the way, and its result.
#[derive(Debug)]
pub struct Telling {
    /// How much on the way.
    pub verbosity: Verbosity,
    /// Whether the result is wanted as JSON.
    pub json: bool,
}

/// The settings that the run to be continued was started with, if one is.
pub fn saved_config<C: DeserializeOwned, Other: DeserializeOwned>(
    run: &RunArgs,
    names: (&str, &str),
) -> Result<Option<C>> {
    match resumed(run)? {
        Some(dir) => file::saved::<C, Other>(dir, names).map(Some),
        None => Ok(None),
    }
}

/// The folder of the run to be continued, if one is.
fn resumed(run: &RunArgs) -> Result<Option<&Path>> {
    match (&run.resume, &run.out) {
        (None, _) => Ok(None),
        (Some(Some(dir)), None) | (Some(None), Some(dir)) => Ok(Some(dir)),
        (Some(None), None) => {
            Err(Usage("--resume: which run?\n  fix: name its folder, as in --resume runs/x".into()).into())
        }
        (Some(Some(resume)), Some(out)) if resume == out => Ok(Some(resume)),
        (Some(Some(resume)), Some(out)) => Err(Usage(format!(
            "--resume {} and --out {}: a continued run writes into its own folder\n  fix: leave --out out",
            resume.display(),
            out.display()
        ))
        .into()),
    }
}

/// Refuses to continue a run with other settings than it was started with. `allowed` are those, with what the flags
/// may change.
pub fn check_continued<C: Serialize + PartialEq>(allowed: Option<&C>, wanted: &C) -> Result<()> {
    let Some(allowed) = allowed.filter(|allowed| *allowed != wanted) else { return Ok(()) };
    let (allowed, wanted) = (toml::Table::try_from(allowed)?, toml::Table::try_from(wanted)?);
    let (allowed, wanted) = (flag_values(&allowed), flag_values(&wanted));
    // No layer takes a value away, so whatever differs is among the wanted ones.
    let Some((flag, value)) = wanted.iter().find(|(flag, value)| allowed.get(*flag) != Some(*value)) else {
        return Ok(());
    };
    let before = allowed.get(flag).map_or("not set", String::as_str);
    Err(Usage(format!(
        "--{flag} {value}: the run was started with {before}, and a continued run keeps its settings\n  \
         fix: leave --{flag} out, or start a new run with another --out; these may change: {}",
        free_flags().join(", ")
    ))
    .into())
}

/// The flags that a continued run may be given anew.
pub fn free_flags() -> Vec<String> {
    // The device is no setting: it is not in the configuration.
    // Data of another place must have the same content, which the library compares.
    [vec!["--device".into(), "--data".into()], flags_of::<PaceArgs>(), flags_of::<PlaceArgs>()].concat()
}

/// Where a run of `command` writes, and how it is told.
pub fn options(
    run: RunArgs,
    command: &str,
    data: &DataConfig,
    ranks: &Ranks,
) -> Result<(RunOptions, Telling)> {
    let resumed = resumed(&run)?.map(Path::to_path_buf);
    // The file has been read into the configuration.
    let RunArgs { config: _, out, resume: _, allow_other_groups, json, verbose, device } = run;
    let place = match (resumed, out) {
        (Some(dir), _) => Place::Continued(dir),
        (None, Some(dir)) => Place::New(dir),
        (None, None) => Place::Numbered(default_out(&format!("{command}-{}", short_name(&data.path)))),
    };
    let device = device.unwrap_or_else(|| match &place {
        Place::Continued(dir) => devices::of_run(dir, ranks),
        Place::New(_) | Place::Numbered(_) => DeviceName::Cpu,
    });
    let telling = Telling { verbosity: verbosity(verbose), json };
    let options = RunOptions {
        place,
        command: command_line(),
        device: devices::choice_of_rank(device, ranks),
        collective: ranks.collective.clone(),
        allow_other_groups,
    };
    Ok((options, telling))
}

/// What `--verbose` means.
pub fn verbosity(verbose: bool) -> Verbosity {
    if verbose { Verbosity::Full } else { Verbosity::Calm }
}

/// A run's folder where none is named: `runs/DATE-NAME`.
pub fn default_out(name: &str) -> PathBuf {
    let date = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    Path::new("runs").join(format!("{date}-{name}"))
}

/// Makes the first folder of `first`, `first-2`, `first-3`, ... that is not there.
pub fn new_folder(first: &Path) -> Result<PathBuf> {
    if let Some(above) = first.parent() {
        fs::create_dir_all(above).with_context(|| format!("cannot create the folder {}", above.display()))?;
    }
    for dir in numbered(first) {
        match fs::create_dir(&dir) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            made => {
                made.with_context(|| format!("cannot create the folder {}", dir.display()))?;
                return Ok(dir);
            }
        }
    }
    anyhow::bail!("thousands of folders numbered after {} are taken; name one with --out", first.display())
}

/// A data set's name, or the last part of its path, as part of a folder's name.
pub fn short_name(data: &str) -> String {
    let last = data.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or_default();
    let stem = Path::new(last).file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let clean = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let name: String = stem.chars().map(clean).take(40).collect();
    if name.is_empty() { "data".into() } else { name }
}

/// The command line, quoted so that a shell would read it back.
fn command_line() -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    let quoted = env::args_os().map(|argument| {
        let argument = argument.to_string_lossy().into_owned();
        if !argument.is_empty() && argument.chars().all(plain) {
            argument
        } else {
            format!("'{}'", argument.replace('\'', "'\\''"))
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}
