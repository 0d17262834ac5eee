//! The run folder: how it starts, which checkpoints it has and keeps, the finished model.
//!
//! Owns: the names in it, and that no two processes write to it. Never: reads what other modules write there.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::checkpoint::disk::{
    NewFolder, damaged, names, read_file, recover, remove_folder, replace_file, sync_folder, write_file,
};
use crate::checkpoint::model_folder::{ModelFiles, write_model};
use crate::checkpoint::trainer::{BestCheckpoint, Checkpoint, Snapshot, write_checkpoint};
use crate::checkpoint::{BEST_FILE, CHECKPOINTS_FOLDER, FINAL_FOLDER, RUN_CONFIG_FILE};
use crate::error::{Error, Result};
use crate::params::ParamTable;

/// There while a folder is being set up: what lies beside it is ours, and not yet a run.
const MARKER: &str = ".partial-run";

/// A run's folder, open for writing by this process alone.
#[derive(Debug)]
pub struct RunFolder {
    dir: PathBuf,
    // Locked; the lock goes with the process, however it ends.
    _lock: File,
}

impl RunFolder {
    /// Sets up a new run in `dir`, which is not there or empty. `config_toml` is the resolved configuration,
    /// `command` the command line, `environment` what else tells where the run took place.
    ///
    /// # Errors
    /// [`Error::Config`] when the folder holds anything; [`Error::Checkpoint`] when it cannot be made or written to.
    pub fn create(
        dir: &Path,
        config_toml: &str,
        command: &str,
        environment: &serde_json::Value,
    ) -> Result<Self> {
        Self::check_free(dir)?;
        // Nothing is lost yet, so whatever the disk refuses has the same way out.
        Self::set_up(dir, config_toml, command, environment).map_err(|error| Error::Checkpoint {
            path: dir.to_path_buf(),
            what: format!("cannot be set up as a run folder: {}", reason(error)),
            fix: "choose a folder that can be written to with --out, or make room on its disk".into(),
        })
    }

    fn set_up(dir: &Path, config_toml: &str, command: &str, environment: &serde_json::Value) -> Result<Self> {
        let marker = dir.join(MARKER);
        fs::create_dir_all(dir).map_err(Error::io("create the folder", dir))?;
        write_file(&marker, b"")?;
        sync_folder(dir)?;
        for folder in [CHECKPOINTS_FOLDER, "tensorboard"] {
            let folder = dir.join(folder);
            fs::create_dir_all(&folder).map_err(Error::io("create the folder", &folder))?;
        }
        write_file(&dir.join("command.txt"), format!("{}\n", command.trim_end()).as_bytes())?;
        write_file(&dir.join("environment.json"), format!("{environment:#}\n").as_bytes())?;
        // Last, since its presence makes the folder a run.
        replace_file(&dir.join(RUN_CONFIG_FILE), config_toml.as_bytes())?;
        fs::remove_file(&marker).map_err(Error::io("remove", &marker))?;
        Ok(Self { dir: dir.to_path_buf(), _lock: lock(dir)? })
    }

    /// Whether a new run may be set up in `dir`, asked before the work that comes first.
    ///
    /// # Errors
    /// [`Error::Config`] when the folder holds anything; [`Error::Checkpoint`] when there can be no such folder.
    pub fn check_free(dir: &Path) -> Result<()> {
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
        let interrupted = dir.join(MARKER).exists() && !dir.join(RUN_CONFIG_FILE).exists();
        if holds_anything(dir)? && !interrupted {
            return Err(taken(dir, "exists and is not empty"));
        }
        Ok(())
    }

    /// Whether `dir` holds a run that can be opened; an interrupted [`RunFolder::create`] is none and may be repeated.
    pub fn is_run(dir: &Path) -> bool {
        dir.join(RUN_CONFIG_FILE).is_file()
    }

    /// Opens a run to continue it, and puts right what an interruption left. Returns its configuration as well.
    ///
    /// # Errors
    /// [`Error::Missing`] when there is no run; [`Error::Checkpoint`] when another process writes to it;
    /// [`Error::Io`] when the disk refuses.
    pub fn open(dir: &Path) -> Result<(Self, String)> {
        if !Self::is_run(dir) {
            return Err(Error::Missing {
                what: format!("there is no run in {} (looked for {RUN_CONFIG_FILE})", dir.display()),
                fix: "check the folder's name, or leave --resume out to start a new run".into(),
            });
        }
        let run = Self { dir: dir.to_path_buf(), _lock: lock(dir)? };
        recover(dir, |name| [FINAL_FOLDER, RUN_CONFIG_FILE, "run"].contains(&name))?;
        recover(&run.checkpoints(), |name| name == BEST_FILE || step_of(name).is_some())?;
        let path = run.config_toml();
        let config =
            String::from_utf8(read_file(&path)?).map_err(|e| damaged(&path, format!("is not UTF-8: {e}")))?;
        Ok((run, config))
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The resolved configuration.
    pub fn config_toml(&self) -> PathBuf {
        self.dir.join(RUN_CONFIG_FILE)
    }

    /// The figures, one JSON object a line.
    pub fn metrics_jsonl(&self) -> PathBuf {
        self.dir.join("metrics.jsonl")
    }

    /// What was said to people.
    pub fn train_log(&self) -> PathBuf {
        self.dir.join("train.log")
    }

    /// The folder of TensorBoard's event files.
    pub fn tensorboard(&self) -> PathBuf {
        self.dir.join("tensorboard")
    }

    /// The report for a browser.
    pub fn report_html(&self) -> PathBuf {
        self.dir.join("report.html")
    }

    /// The folder of the checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.dir.join(CHECKPOINTS_FOLDER)
    }

    /// The folder of the finished model.
    pub fn final_model(&self) -> PathBuf {
        self.dir.join(FINAL_FOLDER)
    }

    /// Saves a checkpoint and returns its folder; one of the same step is replaced. Of the others the newest stay,
    /// so that `keep` are left (at least this one), and the one of the best evaluation, `state.best`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] and [`Error::Io`] naming the file the disk refused; what was saved before is intact.
    ///
    /// # Panics
    /// When weights or moments are not as long as the table says.
    pub fn save_checkpoint(&self, snapshot: &Snapshot<'_>, keep: usize) -> Result<PathBuf> {
        let folder = self.step_folder(snapshot.state.step);
        write_checkpoint(&folder, snapshot)?;
        self.mark_best(snapshot.state.best)?;
        self.prune(keep, snapshot.state.best)?;
        Ok(folder)
    }

    /// The newest checkpoint; `None` before the first.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when it is damaged, naming the file, and the older checkpoint to resume from; never that
    /// older one unasked.
    pub fn latest(&self) -> Result<Option<Checkpoint>> {
        let mut steps = steps(&self.checkpoints())?;
        let Some(newest) = steps.pop() else { return Ok(None) };
        let folder = self.step_folder(newest);
        match open_step(&folder, newest) {
            Ok(checkpoint) => {
                // The mark is made after the checkpoint, and an interruption may have come between.
                self.mark_best(checkpoint.state.best)?;
                Ok(Some(checkpoint))
            }
            Err(Error::Checkpoint { path, what, .. }) => {
                let whole = |step: &u64| open_step(&self.step_folder(*step), *step).is_ok();
                let fix = match steps.into_iter().rev().find(whole) {
                    Some(step) => format!(
                        "{} is whole: to continue from there, move {} out of the run folder and resume again",
                        self.step_folder(step).display(),
                        folder.display()
                    ),
                    None => "no older checkpoint is whole: start the run again with another --out".into(),
                };
                Err(Error::Checkpoint { path, what, fix })
            }
            Err(other) => Err(other),
        }
    }

    /// The folder of the checkpoint marked as the best; `None` when there is none.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when the mark is damaged.
    pub fn best(&self) -> Result<Option<PathBuf>> {
        Self::best_of(&self.checkpoints())
    }

    /// [`RunFolder::best`] for those who only read.
    pub(super) fn best_of(checkpoints: &Path) -> Result<Option<PathBuf>> {
        let best = read_best(checkpoints)?.map(|best| checkpoints.join(step_name(best.step)));
        Ok(best.filter(|folder| folder.is_dir()))
    }

    /// Writes the finished model, in place of an earlier one of this run, and returns its folder.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] and [`Error::Io`] naming the file the disk refused.
    ///
    /// # Panics
    /// When the weights are not as long as the table says.
    pub fn write_final(
        &self,
        files: &ModelFiles,
        table: &ParamTable,
        weights: &[f32],
        readme: &str,
    ) -> Result<PathBuf> {
        let folder = NewFolder::create(&self.final_model())?;
        write_model(folder.path(), files, table, weights)?;
        write_file(&folder.path().join("README.md"), readme.as_bytes())?;
        folder.commit()?;
        Ok(self.final_model())
    }

    fn step_folder(&self, step: u64) -> PathBuf {
        self.checkpoints().join(step_name(step))
    }

    /// Names the best checkpoint, if it was saved and is not named yet.
    fn mark_best(&self, best: Option<BestCheckpoint>) -> Result<()> {
        let Some(best) = best.filter(|best| self.step_folder(best.step).is_dir()) else { return Ok(()) };
        let checkpoints = self.checkpoints();
        if read_best(&checkpoints).is_ok_and(|marked| marked == Some(best)) {
            return Ok(());
        }
        replace_file(&checkpoints.join(BEST_FILE), format!("{:#}\n", serde_json::json!(best)).as_bytes())
    }

    /// Removes all checkpoints but the newest `keep`, the best, and the marked one.
    fn prune(&self, keep: usize, best: Option<BestCheckpoint>) -> Result<()> {
        // The best evaluation may have had no checkpoint; then the mark still names the best there is.
        let stays = [best, read_best(&self.checkpoints())?].map(|best| best.map(|best| best.step));
        let steps = steps(&self.checkpoints())?;
        for step in &steps[..steps.len().saturating_sub(keep.max(1))] {
            if !stays.contains(&Some(*step)) {
                remove_folder(&self.step_folder(*step))?;
            }
        }
        Ok(())
    }
}

/// The newest checkpoint's folder by its name.
pub(super) fn newest_step_folder(checkpoints: &Path) -> Result<Option<PathBuf>> {
    Ok(steps(checkpoints)?.last().map(|step| checkpoints.join(step_name(*step))))
}

fn open_step(folder: &Path, step: u64) -> Result<Checkpoint> {
    let checkpoint = Checkpoint::open(folder)?;
    if checkpoint.state.step != step {
        return Err(damaged(folder, format!("holds the checkpoint of step {}", checkpoint.state.step)));
    }
    Ok(checkpoint)
}

fn step_name(step: u64) -> String {
    format!("step-{step:08}")
}

/// The step of a checkpoint's name; `None` for other names.
fn step_of(name: &str) -> Option<u64> {
    let step = name.strip_prefix("step-")?.parse().ok()?;
    (step_name(step) == name).then_some(step)
}

/// The steps of the checkpoints there are, ascending.
fn steps(checkpoints: &Path) -> Result<Vec<u64>> {
    let is_dir = |name: &&String| checkpoints.join(name).is_dir();
    let mut steps: Vec<_> = names(checkpoints)?.iter().filter(is_dir).filter_map(|n| step_of(n)).collect();
    steps.sort_unstable();
    Ok(steps)
}

fn read_best(checkpoints: &Path) -> Result<Option<BestCheckpoint>> {
    let path = checkpoints.join(BEST_FILE);
    if !path.exists() {
        return Ok(None);
    }
    let best = serde_json::from_slice(&read_file(&path)?);
    let best = best.map_err(|e| damaged(&path, format!("does not name the best checkpoint: {e}")))?;
    Ok(Some(best))
}

fn taken(dir: &Path, what: &str) -> Error {
    Error::Config {
        key: "out".into(),
        what: format!("{} {what}", dir.display()),
        fix: "continue the run there with --resume, or choose another folder with --out".into(),
    }
}

/// What an error says, without the way out of other situations.
fn reason(error: Error) -> String {
    match error {
        Error::Checkpoint { path, what, .. } => format!("{}: {what}", path.display()),
        other => other.to_string(),
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

/// Locks a run; on file systems without locks it goes unlocked.
///
/// A lock can outlive its holder for a moment: in a process that was just killed, or in a copy of this one that is
/// about to become another program. So it is tried for up to a second.
fn lock(dir: &Path) -> Result<File> {
    const TRIES: u32 = 20;
    let path = dir.join(RUN_CONFIG_FILE);
    let file = File::open(&path).map_err(Error::io("open", &path))?;
    for _ in 0..TRIES {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(std::time::Duration::from_millis(50)),
            _ => return Ok(file),
        }
    }
    Err(Error::Checkpoint {
        path: dir.to_path_buf(),
        what: "another process is writing to this run".into(),
        fix: "wait until it ends or stop it, or choose another folder with --out".into(),
    })
}
