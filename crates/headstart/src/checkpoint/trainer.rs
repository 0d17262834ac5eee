//! A checkpoint: a model folder with moments and the loop's state, from which a run continues bit for bit.
//!
//! Owns: optimizer.safetensors, the loop's state, what a whole checkpoint is. Never: knows which ones are kept, or the
//! form of trainer_state.json (`state_file`).

use std::path::{Path, PathBuf};

use crate::checkpoint::config_file::ModelFiles;
use crate::checkpoint::disk::{NewFolder, read_file, write_file};
use crate::checkpoint::model_folder::{LoadedModel, check_shapes, known_sum, open_around, write_model};
use crate::checkpoint::state_file::{TrainerState, parse_state, state_json};
use crate::checkpoint::weights::write_tensors;
use crate::checkpoint::{CONFIG_FILE, MODEL_FILE, OPTIMIZER_FILE, STATE_FILE, TOKENIZER_FILE};
use crate::error::Result;
use crate::params::{Param, ParamTable};
use crate::tensors::{TensorFile, all_finite};

/// What a checkpoint is made of, borrowed from the loop.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'a> {
    /// Where the loop stands.
    pub state: &'a TrainerState,
    /// The parameters.
    pub table: &'a ParamTable,
    /// Weights in table order.
    pub weights: &'a [f32],
    /// Adam's mean gradients, in the order of the trainable parameters.
    pub first_moment: &'a [f32],
    /// Adam's mean squared gradients, in the same order.
    pub second_moment: &'a [f32],
    /// Everything of the model but its weights.
    pub files: &'a ModelFiles,
}

impl Snapshot<'_> {
    /// What of it is not finite, in words.
    pub(crate) fn not_finite(&self) -> Option<&'static str> {
        let all = [
            ("not all weights are finite", self.weights),
            ("not all of the optimizer's moments are finite", self.first_moment),
            ("not all of the optimizer's moments are finite", self.second_moment),
        ];
        all.into_iter().find(|(_, values)| !all_finite(values)).map(|(what, _)| what)
    }
}

/// A whole checkpoint, every byte of it compared with its sums.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The folder.
    pub folder: PathBuf,
    /// Where the loop stood.
    pub state: TrainerState,
    // Open since they were compared, so that nobody has to compare them again.
    model: TensorFile,
    optimizer: TensorFile,
}

impl Checkpoint {
    /// Opens a checkpoint folder and checks all its files.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] naming the file that is missing, truncated or altered.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(STATE_FILE);
        let (state, sums) = parse_state(&path, &read_file(&path)?)?;
        for name in [CONFIG_FILE, TOKENIZER_FILE] {
            let file = folder.join(name);
            known_sum(&sums, &path, name)?.check(&file, &read_file(&file)?)?;
        }
        let tensors = |name| TensorFile::open(&folder.join(name), Some(known_sum(&sums, &path, name)?));
        let (model, optimizer) = (tensors(MODEL_FILE)?, tensors(OPTIMIZER_FILE)?);
        Ok(Self { folder: folder.to_path_buf(), state, model, optimizer })
    }

    /// The model, for its weights (see [`LoadedModel::exact_weights`]) and files.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] when it is damaged or does not hold together.
    pub fn model(&self) -> Result<LoadedModel> {
        open_around(&self.folder, self.folder.display().to_string(), self.model.clone())
    }

    /// The first and second moments, in the order of the trainable parameters of `table`.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] when the file is damaged, or listing what differs from `table`.
    pub fn load_optimizer(&self, table: &ParamTable) -> Result<(Vec<f32>, Vec<f32>)> {
        let file = &self.optimizer;
        let expected: Vec<_> = ["first", "second"]
            .iter()
            .flat_map(|which| trainable(table).map(move |(p, _)| (moment_name(which, p), &p.shape[..])))
            .collect();
        check_shapes(file, &expected)?;
        let read = |which| -> Result<Vec<f32>> {
            let mut values = vec![0.0; table.trainable_len()];
            for (param, at) in trainable(table) {
                file.copy_to(&moment_name(which, param), &mut values[at..at + param.len()])?;
            }
            Ok(values)
        };
        Ok((read("first")?, read("second")?))
    }
}

/// Writes a checkpoint folder of the name `target`, whole or not at all.
pub(super) fn write_checkpoint(target: &Path, snapshot: &Snapshot<'_>) -> Result<()> {
    let Snapshot { state, table, weights, first_moment, second_moment, files } = *snapshot;
    assert_eq!(first_moment.len(), table.trainable_len(), "moments lie in the order of trainable parameters");
    assert_eq!(
        second_moment.len(),
        table.trainable_len(),
        "moments lie in the order of trainable parameters"
    );
    let folder = NewFolder::create(target)?;
    let mut sums = write_model(folder.path(), files, table, weights)?;
    let mut moments = Vec::new();
    for (which, values) in [("first", first_moment), ("second", second_moment)] {
        let each = trainable(table);
        moments.extend(each.map(|(p, at)| (moment_name(which, p), &p.shape[..], &values[at..at + p.len()])));
    }
    let sum = write_tensors(&folder.path().join(OPTIMIZER_FILE), &moments)?;
    sums.insert(OPTIMIZER_FILE.into(), sum);
    let path = folder.path().join(STATE_FILE);
    write_file(&path, &state_json(&path, state, &sums)?)?;
    folder.commit()
}

fn moment_name(which: &str, param: &Param) -> String {
    format!("{which}_moment.{}", param.name)
}

/// The trainable parameters, each with its place in the moments.
fn trainable(table: &ParamTable) -> impl Iterator<Item = (&Param, usize)> {
    table.params().iter().filter_map(|param| Some((param, param.grad?)))
}
