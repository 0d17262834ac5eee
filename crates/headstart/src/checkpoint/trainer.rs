//! A checkpoint: a model folder with moments and the loop's state, from which a run continues bit for bit.
//!
//! Owns: optimizer.safetensors, the loop's state, what a whole checkpoint is. Never: knows which ones are kept, or the
//! form of trainer_state.json (`state_file`).

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::checkpoint::config_file::ModelFiles;
use crate::checkpoint::disk::{NewFolder, read_file, write_file};
use crate::checkpoint::model_folder::{LoadedModel, check_shapes, known_sum, open_around, write_model};
use crate::checkpoint::state_file::{TrainerState, parse_state, state_json};
use crate::checkpoint::{CONFIG_FILE, MODEL_FILE, OPTIMIZER_FILE, STATE_FILE, TOKENIZER_FILE};
use crate::error::Result;
use crate::files::cannot_write;
use crate::params::{Param, ParamTable};
use crate::tensors::{TensorFile, TensorWriter};

/// The optimizer's values, wherever they are: hands those of one kind, in the order of the trainable parameters, piece by piece to
/// its second argument.
pub type KeptValues<'a> = dyn Fn(Kept, &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> + 'a;

/// What a checkpoint keeps of each trainable parameter besides the model's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Adam's first moment: mean gradients.
    FirstMoment,
    /// Adam's second moment: mean squared gradients.
    SecondMoment,
    /// Where it began, of a run that pulls weights there.
    Start,
    /// The weight that is trained, where the model has a running mean of it.
    Trained,
}

impl Kept {
    /// Of a run that keeps nothing special.
    pub const MOMENTS: [Self; 2] = [Self::FirstMoment, Self::SecondMoment];

    /// The name of its tensor for a parameter.
    fn name(self, param: &Param) -> String {
        let which = match self {
            Self::FirstMoment => "first_moment",
            Self::SecondMoment => "second_moment",
            Self::Start => "start",
            Self::Trained => "trained",
        };
        format!("{which}.{}", param.name)
    }
}

/// What a checkpoint is made of, borrowed from the loop.
#[derive(Clone, Copy)]
pub struct Snapshot<'a> {
    /// Where the loop stands.
    pub state: &'a TrainerState,
    /// The parameters.
    pub table: &'a ParamTable,
    /// Weights in table order.
    pub weights: &'a [f32],
    /// What is kept besides, in the order in which it is written.
    pub kept: &'a [Kept],
    /// Its values.
    pub values: &'a KeptValues<'a>,
    /// Everything of the model but its weights.
    pub files: &'a ModelFiles,
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

    /// The kinds of values that it holds are these, for every trainable parameter of `table`.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] when the file is damaged, or listing what differs.
    pub fn check_kept(&self, table: &ParamTable, kept: &[Kept]) -> Result<()> {
        check_shapes(&self.optimizer, &arrays(table, kept))
    }

    /// The values of one kind at these places, one after the other, in the order of the trainable parameters of `table`.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] when the file is damaged.
    pub fn load_kept(&self, table: &ParamTable, places: &[Range<usize>], which: Kept) -> Result<Vec<f32>> {
        let file = &self.optimizer;
        let mut values = vec![0.0; places.iter().map(Range::len).sum()];
        let mut rest = &mut values[..];
        for place in places {
            let overlapping =
                trainable(table).filter(|(p, at)| *at < place.end && place.start < at + p.len());
            for (param, at) in overlapping {
                let (from, to) = (place.start.max(at), place.end.min(at + param.len()));
                let (part, behind) = rest.split_at_mut(to - from);
                file.copy_part(&which.name(param), from - at, part)?;
                rest = behind;
            }
        }
        Ok(values)
    }
}

/// Writes a checkpoint folder of the name `target`, whole or not at all.
pub(super) fn write_checkpoint(target: &Path, snapshot: &Snapshot<'_>) -> Result<()> {
    let Snapshot { state, table, weights, kept, values, files } = *snapshot;
    let folder = NewFolder::create(target)?;
    let mut sums = write_model(folder.path(), files, table, weights)?;
    let path = folder.path().join(OPTIMIZER_FILE);
    let mut writer = TensorWriter::create(&path, &arrays(table, kept)).map_err(cannot_write(&path))?;
    for &which in kept {
        values(which, &mut |values| writer.write(values).map_err(cannot_write(&path)))?;
    }
    sums.insert(OPTIMIZER_FILE.into(), writer.finish().map_err(cannot_write(&path))?);
    let path = folder.path().join(STATE_FILE);
    write_file(&path, &state_json(&path, state, &sums)?)?;
    folder.commit()
}

/// Names and shapes of the tensors that hold these.
fn arrays<'a>(table: &'a ParamTable, kept: &[Kept]) -> Vec<(String, &'a [usize])> {
    let of = |which: &Kept| {
        let which = *which;
        trainable(table).map(move |(p, _)| (which.name(p), &p.shape[..]))
    };
    kept.iter().flat_map(of).collect()
}

/// The trainable parameters, each with its place in the moments.
fn trainable(table: &ParamTable) -> impl Iterator<Item = (&Param, usize)> {
    table.params().iter().filter_map(|param| Some((param, param.grad?)))
}
