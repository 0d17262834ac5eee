//! The run folder: how it starts, which checkpoints it has and keeps, the finished model.
//!
//! Owns: the names in it, and that no two processes write to it. Never: reads what other modules write there.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::checkpoint::adapter_folder::Adapter;
use crate::checkpoint::config_file::ModelFiles;
use crate::checkpoint::disk::{
    NewFolder, names, read_file, recover, remove_folder, replace_file, write_file,
};
use crate::checkpoint::lock::{self, Lock};
use crate::checkpoint::model_folder::write_model;
use crate::checkpoint::published_folder::{finished_form, write_published};
use crate::checkpoint::settings::{read_settings, settings_sum};
use crate::checkpoint::state_file::BestCheckpoint;
use crate::checkpoint::trainer::{Checkpoint, Snapshot, write_checkpoint};
use crate::checkpoint::{
    BEST_FILE, CHECKPOINTS_FOLDER, COMMAND_FILE, FINAL_FOLDER, METRICS_FILE, PREDICTIONS_FILE, RANKS_FOLDER,
    REPORT_FILE, RUN_CONFIG_FILE, SUMMARY_FILE,
};
use crate::error::{Error, Result};
use crate::files::{FileSum, damaged, remove_temporary};
use crate::params::ParamTable;

/// A run's folder, open for writing by this process alone; or one that another rank writes to.
#[derive(Debug)]
pub struct RunFolder {
    dir: PathBuf,
    settings_sum: String,
    rank: usize,
    _lock: Option<Lock>,
}

impl RunFolder {
    /// A folder that was just set up, or is put right.
    pub(super) fn locked(dir: PathBuf, lock: Lock) -> Result<Self> {
        let (_, settings_sum) = read_settings(&dir)?;
        Ok(Self { dir, settings_sum, rank: 0, _lock: Some(lock) })
    }

    /// The folder of a new run that rank 0 writes to, as another rank sees it: it may be on another machine. `config_toml` are
    /// the settings as this rank has them.
    pub(crate) fn followed(dir: &Path, rank: usize, config_toml: &str) -> Self {
        Self { dir: dir.to_path_buf(), settings_sum: settings_sum(config_toml), rank, _lock: None }
    }

    /// The folder of a run that rank 0 continues, as another rank sees it.
    ///
    /// # Errors
    /// As for [`RunFolder::settings`].
    pub(crate) fn followed_on(dir: &Path, rank: usize) -> Result<Self> {
        Self::settings(dir)?;
        let (_, settings_sum) = read_settings(dir)?;
        Ok(Self { dir: dir.to_path_buf(), settings_sum, rank, _lock: None })
    }

    /// A checkpoint that rank 0 found, for another rank.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when it is not there or damaged.
    pub(crate) fn checkpoint_of(dir: &Path, step: u64) -> Result<Checkpoint> {
        open_step(&dir.join(CHECKPOINTS_FOLDER).join(step_name(step)), step)
    }

    /// Whether `dir` holds a run that can be opened; an interrupted set-up is none and may be repeated.
    pub fn is_run(dir: &Path) -> bool {
        dir.join(RUN_CONFIG_FILE).is_file()
    }

    /// Whether a process works on the run in `dir`.
    pub fn is_running(dir: &Path) -> bool {
        lock::is_held(dir)
    }

    /// How the run in `dir` ended, as [`RunFolder::summary_json`] says; `None` where it has not, or was of an earlier version.
    pub fn summary(dir: &Path) -> Option<Value> {
        serde_json::from_slice(&read_file(&dir.join(SUMMARY_FILE)).ok()?).ok()
    }

    /// Where the parts of the run in `dir` are that are there, with what they are.
    pub fn places(dir: &Path) -> Vec<(&'static str, PathBuf)> {
        let places = [
            ("model", FINAL_FOLDER),
            ("report", REPORT_FILE),
            ("predictions", PREDICTIONS_FILE),
            ("metrics", METRICS_FILE),
            ("checkpoints", CHECKPOINTS_FOLDER),
        ];
        let there = places.map(|(what, name)| (what, dir.join(name)));
        there.into_iter().filter(|(_, path)| path.exists()).collect()
    }

    /// The settings that the run in `dir` was started with, as TOML.
    ///
    /// # Errors
    /// [`Error::Missing`] when there is no run; [`Error::Checkpoint`] when they are not what was written.
    pub fn settings(dir: &Path) -> Result<String> {
        if !Self::is_run(dir) {
            return Err(Error::Missing {
                what: format!("there is no run in {} (looked for {RUN_CONFIG_FILE})", dir.display()),
                fix: "check the folder's name, or leave --resume out to start a new run".into(),
            });
        }
        Ok(read_settings(dir)?.0)
    }

    /// Opens a run to continue it, and puts right what an interruption left.
    ///
    /// # Errors
    /// As for [`RunFolder::settings`]; [`Error::Checkpoint`] when another process writes to the run; [`Error::Io`] when
    /// the disk refuses.
    pub fn open(dir: &Path) -> Result<Self> {
        Self::settings(dir)?;
        let lock = Lock::take(dir, "writing to this run")?;
        recover(dir, |name| [FINAL_FOLDER, RUN_CONFIG_FILE].contains(&name))?;
        remove_temporary(dir, |name| [REPORT_FILE, SUMMARY_FILE, PREDICTIONS_FILE].contains(&name));
        let run = Self::locked(dir.to_path_buf(), lock)?;
        recover(&run.checkpoints(), |name| name == BEST_FILE || step_of(name).is_some())?;
        Ok(run)
    }

    /// SHA-256 of the settings, which a checkpoint keeps.
    pub(crate) fn settings_sum(&self) -> &str {
        &self.settings_sum
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The resolved configuration.
    pub fn config_toml(&self) -> PathBuf {
        self.dir.join(RUN_CONFIG_FILE)
    }

    /// The command line it was started with; empty where it is not known.
    pub(crate) fn command(&self) -> String {
        let command = std::fs::read_to_string(self.dir.join(COMMAND_FILE)).unwrap_or_default();
        command.trim_end().to_owned()
    }

    /// The metrics, one JSON object a line.
    pub fn metrics_jsonl(&self) -> PathBuf {
        self.dir.join(METRICS_FILE)
    }

    /// What was said to people; other ranks than 0 have logs of their own in the folder `ranks`. `None` where a rank does not
    /// see the run's folder.
    pub fn train_log(&self) -> Option<PathBuf> {
        if self.rank == 0 {
            return Some(self.dir.join("train.log"));
        }
        let folder = self.dir.join(RANKS_FOLDER);
        let made = self.dir.is_dir() && std::fs::create_dir_all(&folder).is_ok();
        made.then(|| folder.join(format!("rank-{:04}.log", self.rank)))
    }

    /// The folder of TensorBoard's event files.
    pub fn tensorboard(&self) -> PathBuf {
        self.dir.join("tensorboard")
    }

    /// The report for a browser.
    pub fn report_html(&self) -> PathBuf {
        self.dir.join(REPORT_FILE)
    }

    /// How the run ended, as JSON.
    pub fn summary_json(&self) -> PathBuf {
        self.dir.join(SUMMARY_FILE)
    }

    /// What a finished classifier said of each example that it was evaluated on.
    pub fn predictions_jsonl(&self) -> PathBuf {
        self.dir.join(PREDICTIONS_FILE)
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

    /// Removes all checkpoints of a run that will not be continued.
    ///
    /// # Errors
    /// [`Error::Io`] when the disk refuses.
    pub(crate) fn remove_checkpoints(&self) -> Result<()> {
        let folder = self.checkpoints();
        if folder.is_dir() { remove_folder(&folder) } else { Ok(()) }
    }

    /// Removes the finished model of a run of which only the metrics matter.
    ///
    /// # Errors
    /// [`Error::Io`] when the disk refuses.
    pub(crate) fn remove_final(&self) -> Result<()> {
        let folder = self.final_model();
        if folder.is_dir() { remove_folder(&folder) } else { Ok(()) }
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

    /// The newest checkpoint of a step before `step` that is whole; `None` when there is none.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be listed.
    pub fn newest_before(&self, step: u64) -> Result<Option<Checkpoint>> {
        let steps = steps(&self.checkpoints())?;
        let before = steps.into_iter().rev().filter(|found| *found < step);
        Ok(before.flat_map(|found| open_step(&self.step_folder(found), found)).next())
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
        self.write_final_and_adapter(files, table, weights, readme, None)
    }

    /// [`RunFolder::write_final`] with what of the model was trained in a folder of its own, too.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// As there.
    pub fn write_final_and_adapter(
        &self,
        files: &ModelFiles,
        table: &ParamTable,
        weights: &[f32],
        readme: &str,
        adapter: Option<&Adapter>,
    ) -> Result<PathBuf> {
        self.write_final_with(readme, |folder| {
            if let Some(adapter) = adapter {
                adapter.write(folder, files, table, weights)?;
            }
            match finished_form(files, table, weights) {
                Some((config, parts)) => write_published(folder, files, config, &parts)?,
                None => write_model(folder, files, table, weights)?,
            };
            Ok(())
        })
    }

    /// Writes a finished model of any kind, by `write`, and returns its folder.
    ///
    /// # Errors
    /// Those of `write`; [`Error::Checkpoint`] and [`Error::Io`] naming the file the disk refused.
    pub(crate) fn write_final_with(
        &self,
        readme: &str,
        write: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let folder = NewFolder::create(&self.final_model())?;
        write(folder.path())?;
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
        let content = json!(best);
        let sum = FileSum::of(content.to_string().as_bytes()).sha256;
        let whole = json!({ "best": content, "sha256": sum });
        replace_file(&checkpoints.join(BEST_FILE), format!("{whole:#}\n").as_bytes())
    }

    /// Removes all checkpoints but the newest `keep`, the best, and the marked one.
    pub(crate) fn prune(&self, keep: usize, best: Option<BestCheckpoint>) -> Result<()> {
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

/// The mark of the best checkpoint. The first versions wrote it without a sum.
fn read_best(checkpoints: &Path) -> Result<Option<BestCheckpoint>> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Summed {
        best: Value,
        sha256: String,
    }
    let path = checkpoints.join(BEST_FILE);
    if !path.exists() {
        return Ok(None);
    }
    let bad = |e: serde_json::Error| damaged(&path, format!("does not name the best checkpoint: {e}"));
    let text = read_file(&path)?;
    let best: Value = match serde_json::from_slice::<Summed>(&text) {
        Ok(Summed { best, sha256 }) if FileSum::of(best.to_string().as_bytes()).sha256 == sha256 => best,
        Ok(_) => {
            return Err(damaged(&path, "is altered: its content is not what was written (SHA-256 differs)"));
        }
        Err(_) => serde_json::from_slice(&text).map_err(bad)?,
    };
    serde_json::from_value(best).map(Some).map_err(bad)
}
