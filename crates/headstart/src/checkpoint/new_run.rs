//! A new run's folder: claimed before any work is done for it, set up once there is something to train.
//!
//! Owns: that a folder is free, that one process alone has it, that it is gone again when nothing came of it. Never:
//! writes over what is there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::checkpoint::disk::{names, replace_file, write_file};
use crate::checkpoint::lock::{LOCK_FILE, Lock};
use crate::checkpoint::run_folder::RunFolder;
use crate::checkpoint::settings::{RUN_FORMAT, sealed};
use crate::checkpoint::{CHECKPOINTS_FOLDER, COMMAND_FILE, ENVIRONMENT_FILE, RUN_CONFIG_FILE};
use crate::error::{Error, Result};
use crate::files::{parent, sync_folder};

/// TensorBoard's files.
const TENSORBOARD_FOLDER: &str = "tensorboard";

/// A folder that is this process's, and not yet a run. Dropped, it is as it was before.
#[derive(Debug)]
pub struct NewRun {
    dir: PathBuf,
    // Both are `None` only after `set_up` has taken them.
    lock: Option<Lock>,
    /// The folders that were made for it, the outermost first.
    made: Vec<PathBuf>,
}

impl NewRun {
    /// Claims `dir`, which is not there, or empty, or was claimed by a process that was killed.
    ///
    /// # Errors
    /// [`Error::Config`] when the folder holds anything; [`Error::Checkpoint`] when another process is starting a run
    /// there, or there can be no such folder.
    pub fn claim(dir: &Path) -> Result<Self> {
        check_free(dir)?;
        let missing: Vec<PathBuf> =
            dir.ancestors().take_while(|folder| !folder.exists()).map(Path::to_path_buf).collect();
        // An ancestor of a relative path is the empty one, which is there.
        let made = missing.into_iter().filter(|folder| !folder.as_os_str().is_empty()).rev().collect();
        let mut run = Self { dir: dir.to_path_buf(), lock: None, made };
        let lock = fs::create_dir_all(dir)
            .map_err(Error::io("create the folder", dir))
            .map_err(|error| no_folder(dir, &error))
            .and_then(|()| Lock::take(dir, "starting a run there"));
        match lock {
            Ok(lock) => run.lock = Some(lock),
            Err(error) => {
                // Whatever is there is the other process's.
                if dir.join(LOCK_FILE).exists() {
                    run.made.clear();
                }
                return Err(error);
            }
        }
        // Somebody may have been quicker, and be done.
        if let Err(error) = check_free(dir) {
            run.lock = None;
            run.made.clear();
            return Err(error);
        }
        Ok(run)
    }

    /// Claims the first free folder of `first`, `first-2`, `first-3`, ...
    ///
    /// # Errors
    /// As for [`NewRun::claim`], but for folders that are taken.
    pub fn claim_numbered(first: &Path) -> Result<Self> {
        for dir in numbered(first) {
            if dir.exists() {
                continue;
            }
            match Self::claim(&dir) {
                // Another process took it in the meantime.
                Err(_) if dir.exists() => {}
                claimed => return claimed,
            }
        }
        Err(taken(first, "and thousands of folders numbered after it are taken"))
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes it a run. `config_toml` is the resolved configuration, `command` the command line, `environment` what else
    /// tells where the run took place.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when it cannot be written to.
    pub fn set_up(
        mut self,
        config_toml: &str,
        command: &str,
        environment: &Map<String, Value>,
    ) -> Result<RunFolder> {
        let dir = self.dir.clone();
        let mut environment = environment.clone();
        environment.insert("run_format".into(), RUN_FORMAT.into());
        let environment = Value::Object(environment);
        let write = || -> Result<()> {
            // The lock, by which a set-up that was interrupted is known, is there before anything else.
            sync_folder(&dir)?;
            for folder in [CHECKPOINTS_FOLDER, TENSORBOARD_FOLDER] {
                let folder = dir.join(folder);
                fs::create_dir_all(&folder).map_err(Error::io("create the folder", &folder))?;
            }
            write_file(&dir.join(COMMAND_FILE), format!("{}\n", command.trim_end()).as_bytes())?;
            write_file(&dir.join(ENVIRONMENT_FILE), format!("{environment:#}\n").as_bytes())?;
            sync_folder(&dir)?;
            // Last, since its presence makes the folder a run.
            replace_file(&dir.join(RUN_CONFIG_FILE), sealed(config_toml).as_bytes())
        };
        // Nothing is lost yet, so whatever the disk refuses has the same way out.
        write().map_err(|error| no_folder(&dir, &error))?;
        for folder in &self.made {
            // It is not ours, and may be one that cannot be read.
            let _ = sync_folder(parent(folder));
        }
        self.made.clear();
        match self.lock.take() {
            Some(lock) => RunFolder::locked(dir, lock),
            None => unreachable!("a claimed folder is locked"),
        }
    }
}

impl Drop for NewRun {
    fn drop(&mut self) {
        if self.lock.is_none() && self.made.is_empty() {
            return; // it has become a run, or never was ours
        }
        // What cannot be removed is no obstacle to the next start.
        if self.lock.is_some() {
            // First what makes it a run; where that stays, it is a whole one without a step, which goes on.
            let config = self.dir.join(RUN_CONFIG_FILE);
            if fs::remove_file(&config).is_err() && config.exists() {
                return;
            }
            for name in SET_UP {
                let path = self.dir.join(name);
                let _ = if path.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) };
            }
        }
        for folder in self.made.iter().rev() {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// `first`, `first-2`, `first-3`, and thousands more.
pub fn numbered(first: &Path) -> impl Iterator<Item = PathBuf> {
    const MOST: u32 = 10_000;
    (1..MOST).map(|number| {
        let mut name = first.file_name().unwrap_or_default().to_owned();
        if number > 1 {
            name.push(format!("-{number}"));
        }
        first.with_file_name(name)
    })
}

/// What stands in a folder that is being set up. The lock is the last to go.
const SET_UP: [&str; 6] = [
    CHECKPOINTS_FOLDER,
    TENSORBOARD_FOLDER,
    COMMAND_FILE,
    ENVIRONMENT_FILE,
    ".partial-config.toml",
    LOCK_FILE,
];

/// Whether a new run may be set up in `dir`.
fn check_free(dir: &Path) -> Result<()> {
    if fs::metadata(dir).is_ok_and(|found| !found.is_dir()) {
        return Err(taken(dir, "is a file"));
    }
    let above = dir.ancestors().skip(1).find(|folder| folder.exists());
    if let Some(file) = above.filter(|above| !above.is_dir()) {
        return Err(Error::Checkpoint {
            path: dir.to_path_buf(),
            what: format!("cannot be a folder: {} is a file", file.display()),
            fix: "choose another folder with --out".into(),
        });
    }
    if !holds_anything(dir)? {
        return Ok(());
    }
    // A set-up that was killed left its lock, and nothing that is not its own.
    let found = names(dir)?;
    let interrupted = found.iter().any(|name| name == LOCK_FILE)
        && found.iter().all(|name| SET_UP.contains(&name.as_str()));
    if interrupted { Ok(()) } else { Err(taken(dir, "exists and is not empty")) }
}

fn taken(dir: &Path, what: &str) -> Error {
    Error::Config {
        key: "out".into(),
        what: format!("{} {what}", dir.display()),
        fix: "continue the run there with --resume, or choose another folder with --out".into(),
    }
}

fn no_folder(dir: &Path, error: &Error) -> Error {
    // Without the way out of other situations.
    let reason = match error {
        Error::Checkpoint { path, what, .. } => format!("{}: {what}", path.display()),
        other => other.to_string(),
    };
    Error::Checkpoint {
        path: dir.to_path_buf(),
        what: format!("cannot be set up as a run folder: {reason}"),
        fix: "choose a folder that can be written to with --out, or make room on its disk".into(),
    }
}

/// Whether a folder holds anything, whatever its name.
fn holds_anything(dir: &Path) -> Result<bool> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io("list", dir)(e)),
    }
}
