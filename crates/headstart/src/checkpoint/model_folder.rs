//! A model folder: weights, tokenizer and config.json, enough to use the model anywhere.
//!
//! Owns: loading, and how weights find their way into a model that differs. Never: trains or tokenises, the form of
//! config.json (`config_file`).

use std::path::{Path, PathBuf};

use headstart_engine::Weights;
use serde_json::Value;

use crate::checkpoint::config_file::{MODEL_TYPE, ModelFiles, config_json, parse_config};
use crate::checkpoint::disk::{read_file, write_file};
use crate::checkpoint::one_trunk::open_over;
use crate::checkpoint::peft_folder::{is_adapter, load_base};
use crate::checkpoint::published_folder::{Published, is_tutorials, open_published, open_tutorials};
use crate::checkpoint::stored::StoredWeights;
use crate::checkpoint::weights::write_tensors;
use crate::checkpoint::{CONFIG_FILE, MODEL_FILE, OWN_FILE, TOKENIZER_FILE};
use crate::error::{Error, Result};
use crate::files::{FileSum, FileSums, damaged};
use crate::interop::{CODE_MODEL_TYPE, PublishedWeights};
use crate::model::Model;
use crate::params::{Kind, Param, ParamTable};
use crate::tensors::TensorFile;
use crate::tokenizer::Tokenizer;

/// The parameter whose rows are the vocabulary, the only one that may grow.
const TOKEN_EMBEDDING: &str = "transformer.token_embedding.weight";

/// A model from disk, its weights still there.
#[derive(Clone, Debug)]
pub struct LoadedModel {
    /// The model folder.
    pub folder: PathBuf,
    /// Which model of a run it is, for people: "final/", "the best checkpoint (step-00000200)".
    pub chosen: String,
    /// Everything but the weights.
    pub files: ModelFiles,
    /// The weights; all parameters of `files.config` are among them.
    pub stored: StoredWeights,
    /// What else a folder of another program says.
    pub published: Option<Published>,
}

/// Rows added to a parameter behind the stored ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrownRows {
    /// The parameter.
    pub name: String,
    /// Rows in the file, kept.
    pub stored: usize,
    /// Rows in the model.
    pub rows: usize,
}

/// How stored weights and a model's parameters differed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// In the file and not used, in the order of their names.
    pub discarded: Vec<String>,
    /// Not in the file, at their initial values, in table order.
    pub added: Vec<String>,
    /// Kept and extended with initial values.
    pub grown: Vec<GrownRows>,
}

impl LoadReport {
    /// The same for those who do not ask for many names.
    pub fn summary(&self) -> Vec<String> {
        let said = |what, names: &[String]| match names.len() {
            0 => None,
            1 | 2 => Some(format!("parameters {what} the pretrained model: {}", names.join(", "))),
            n => Some(format!("{n} parameters {what} the pretrained model (train.log names them)")),
        };
        let counts = [said("discarded from", &self.discarded), said("added to", &self.added)];
        counts.into_iter().flatten().chain(self.grown.iter().map(GrownRows::line)).collect()
    }

    /// One line per kind of difference, with all names; none when there was none.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (what, names) in [("discarded from", &self.discarded), ("added to", &self.added)] {
            if !names.is_empty() {
                lines.push(format!("parameters {what} the pretrained model: {}", names.join(", ")));
            }
        }
        lines.extend(self.grown.iter().map(GrownRows::line));
        lines
    }
}

impl GrownRows {
    fn line(&self) -> String {
        let Self { name, stored, rows } = self;
        format!("{name}: {stored} rows kept, {} added", rows - stored)
    }
}

impl LoadedModel {
    /// The model's tokenizer.
    ///
    /// # Errors
    /// [`Error::BadInput`] when it is unusable; [`Error::Checkpoint`] when the model has other ids.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        tokenizer_of(&self.folder, &self.files)
    }

    /// The weights of the very model that was stored.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] listing what differs from `table`.
    pub fn exact_weights(&self, table: &ParamTable) -> Result<Vec<f32>> {
        self.check(table)?;
        self.stored.copied(table)
    }

    /// [`LoadedModel::exact_weights`] to be used as they are: they stay in the file.
    ///
    /// # Errors
    /// As for [`LoadedModel::exact_weights`].
    pub fn mapped_weights(&self, table: &ParamTable) -> Result<Weights> {
        self.check(table)?;
        self.stored.weights(table)
    }

    fn check(&self, table: &ParamTable) -> Result<()> {
        match &self.stored {
            StoredWeights::Own(tensors) => check_exact(tensors, table),
            StoredWeights::Published(_) | StoredWeights::Over(_) => check_present(&self.stored, table),
        }
    }

    /// The weights of a model that builds on the stored one: parameters the file lacks start at the initial values
    /// of `seed`; parameters the model lacks are discarded; so is a classification head of another shape; the token
    /// embedding may have more rows than stored.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] listing the parameters whose shapes do not go together.
    pub fn weights_for(&self, table: &ParamTable, seed: u64) -> Result<(Vec<f32>, LoadReport)> {
        let (taken, report) = self.compare(table)?;
        let fresh = |param: &Param| {
            report.added.contains(&param.name) || report.grown.iter().any(|grown| grown.name == param.name)
        };
        let mut weights = vec![0.0; table.len()];
        table.initialise(seed, &mut weights, fresh);
        for param in taken {
            self.stored.copy_to(&param.name, &mut weights[param.offset..param.offset + param.len()])?;
        }
        Ok((weights, report))
    }

    /// Which parameters are read, and what is reported about the others.
    fn compare<'a>(&self, table: &'a ParamTable) -> Result<(Vec<&'a Param>, LoadReport)> {
        let mut report = LoadReport::default();
        let mut taken = Vec::new();
        let mut unfit = Vec::new();
        for param in table.params() {
            let stored = self.stored.shape(&param.name);
            match stored.as_deref() {
                None => report.added.push(param.name.clone()),
                Some(_) if self.stored.fits(&param.name, &param.shape) => taken.push(param),
                Some(_) if param.kind == Kind::Head => {
                    report.added.push(param.name.clone());
                    report.discarded.push(param.name.clone());
                }
                Some(&[rows, cols])
                    if grows(param, &[rows, cols]) && self.stored.fits(&param.name, &[rows, cols]) =>
                {
                    let name = param.name.clone();
                    report.grown.push(GrownRows { name, stored: rows, rows: param.shape[0] });
                    taken.push(param);
                }
                Some(_) => {
                    unfit.push(difference(&self.stored.describe(&param.name), &param.name, &param.shape));
                }
            }
        }
        report.discarded.extend(self.stored.left_by(table));
        report.discarded.sort();
        if unfit.is_empty() {
            return Ok((taken, report));
        }
        Err(Error::Checkpoint {
            path: self.stored.path().to_path_buf(),
            what: format!("does not fit the model:{}", listed(&unfit)),
            fix: "give the model the sizes and the tokenizer of the stored one".into(),
        })
    }
}

/// Whether the vocabulary only got more rows.
fn grows(param: &Param, stored: &[usize; 2]) -> bool {
    param.name == TOKEN_EMBEDDING && stored[1] == param.shape[1] && stored[0] < param.shape[0]
}

fn difference(found: &str, name: &str, shape: &[usize]) -> String {
    format!("`{name}`: expected {shape:?}, found {found}")
}

/// The first few of a list, one a line.
fn listed(lines: &[String]) -> String {
    const MOST: usize = 8;
    let shown = lines[..lines.len().min(MOST)].join("\n    ");
    let more = lines.len().saturating_sub(MOST);
    if more == 0 { format!("\n    {shown}") } else { format!("\n    {shown}\n    and {more} more") }
}

/// Checks that a published model has all parameters of a table; what it has beyond them is left.
pub(super) fn check_present(stored: &StoredWeights, table: &ParamTable) -> Result<()> {
    let unfit = table.params().iter().filter(|param| !stored.fits(&param.name, &param.shape));
    let lines: Vec<_> =
        unfit.map(|param| difference(&stored.describe(&param.name), &param.name, &param.shape)).collect();
    if lines.is_empty() {
        return Ok(());
    }
    let what = format!("does not hold what its configuration describes:{}", listed(&lines));
    Err(Error::Checkpoint {
        path: stored.path().to_path_buf(),
        what,
        fix: "fetch the whole folder of the model again: weights and configuration go together".into(),
    })
}

/// Compares a file with a table: the same names, shapes and F32.
pub(super) fn check_exact(tensors: &TensorFile, table: &ParamTable) -> Result<()> {
    let shapes =
        table.params().iter().map(|param| (param.name.clone(), &param.shape[..])).collect::<Vec<_>>();
    check_shapes(tensors, &shapes)
}

/// Compares a file with names and shapes, all of them and no others.
pub(super) fn check_shapes(tensors: &TensorFile, expected: &[(String, &[usize])]) -> Result<()> {
    let unfit = expected.iter().filter(|(name, shape)| !tensors.fits(name, shape));
    let mut lines: Vec<_> =
        unfit.map(|(name, shape)| difference(&tensors.describe(name), name, shape)).collect();
    let known: std::collections::HashSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
    for name in tensors.names().filter(|name| !known.contains(name)) {
        lines.push(format!("`{name}`: expected nothing, found {}", tensors.describe(name)));
    }
    if lines.is_empty() {
        return Ok(());
    }
    let what = format!("does not hold the expected parameters:{}", listed(&lines));
    Err(damaged(tensors.path(), what))
}

/// Writes the three files of a model into an existing folder.
pub(super) fn write_model(
    folder: &Path,
    files: &ModelFiles,
    table: &ParamTable,
    weights: &[f32],
) -> Result<FileSums> {
    assert_eq!(weights.len(), table.len(), "weights lie in table order");
    let tensors: Vec<_> = table
        .params()
        .iter()
        .map(|p| (p.name.clone(), &p.shape[..], &weights[p.offset..p.offset + p.len()]))
        .collect();
    let mut sums = FileSums::new();
    let sum = write_tensors(&folder.join(MODEL_FILE), &tensors)?;
    sums.insert(MODEL_FILE.into(), sum);
    sums.insert(TOKENIZER_FILE.into(), write_file(&folder.join(TOKENIZER_FILE), &files.tokenizer_json)?);
    let path = folder.join(CONFIG_FILE);
    let text = config_json(files, &sums).map_err(|e| damaged(&path, format!("cannot be laid out: {e}")))?;
    // What could not be read again is not written: a number that is not finite, parameters of another model.
    let (again, _) = parse_config(&path, text.as_bytes())?;
    let other = Model::new(&again.config)?;
    let same = |(a, b): (&Param, &Param)| a.name == b.name && a.shape == b.shape;
    let (these, those) = (table.params(), other.table().params());
    if these.len() != those.len() || !these.iter().zip(those).all(same) {
        return Err(damaged(&path, "the model's configuration does not describe its parameters"));
    }
    sums.insert(CONFIG_FILE.into(), write_file(&path, text.as_bytes())?);
    Ok(sums)
}

/// Opens a model folder and checks that its three files belong together; that of an adapter with the model `base` below it.
pub(super) fn open_folder(folder: &Path, chosen: String, base: Option<&Path>) -> Result<LoadedModel> {
    Ok(open_while(folder, chosen, base, |_| ())?.0)
}

/// [`open_folder`] with something to do while the weights are checked. What is wrong with the weights comes first.
pub(super) fn open_while<T: Send>(
    folder: &Path,
    chosen: String,
    base: Option<&Path>,
    meanwhile: impl FnOnce(&ModelFiles) -> T + Send,
) -> Result<(LoadedModel, T)> {
    if is_adapter(folder) {
        let model = open_over(folder, chosen, load_base(folder, base)?)?;
        let other = meanwhile(&model.files);
        return Ok((model, other));
    }
    let tutorials = is_tutorials(folder);
    if tutorials || !is_own(folder)? {
        let open = if tutorials { open_tutorials } else { open_published };
        let model = open(folder, chosen)?;
        let other = meanwhile(&model.files);
        return Ok((model, other));
    }
    let (files, sums) = read_files(folder)?;
    let path = folder.join(MODEL_FILE);
    let open = || TensorFile::open(&path, sums.get(MODEL_FILE));
    let (tensors, other) = rayon::join(open, || meanwhile(&files));
    let tensors = tensors?;
    // What stands beside code of ours has this program's names, too.
    if !folder.join(OWN_FILE).is_file() || has_code(folder)? {
        return Ok((put_together(folder, chosen, files, tensors)?, other));
    }
    let stored = StoredWeights::Published(PublishedWeights::of_file(&tensors, files.config.arch)?);
    check_present(&stored, Model::new(&files.config)?.table())?;
    Ok((LoadedModel { folder: folder.to_path_buf(), chosen, files, stored, published: None }, other))
}

/// [`open_folder`] for weights that are open and compared with their sum already.
pub(super) fn open_around(folder: &Path, chosen: String, tensors: TensorFile) -> Result<LoadedModel> {
    put_together(folder, chosen, read_files(folder)?.0, tensors)
}

/// Whether this program wrote the folder.
fn is_own(folder: &Path) -> Result<bool> {
    if folder.join(OWN_FILE).is_file() {
        return Ok(true);
    }
    // What is no JSON at all is this program's to complain of.
    let config: Value = serde_json::from_slice(&read_file(&folder.join(CONFIG_FILE))?).unwrap_or_default();
    Ok(config
        .as_object()
        .is_none_or(|config| config.get("model_type").is_some_and(|found| found == MODEL_TYPE)))
}

/// Whether a folder that this program wrote has code of ours beside the weights, which then have our names.
fn has_code(folder: &Path) -> Result<bool> {
    let config: Value = serde_json::from_slice(&read_file(&folder.join(CONFIG_FILE))?).unwrap_or_default();
    Ok(config["model_type"] == CODE_MODEL_TYPE)
}

/// Everything but the weights, and the sums.
fn read_files(folder: &Path) -> Result<(ModelFiles, FileSums)> {
    let own = folder.join(OWN_FILE);
    let path = if own.is_file() { own } else { folder.join(CONFIG_FILE) };
    let (mut files, sums) = parse_config(&path, &read_file(&path)?)?;
    if let Some(sum) = sums.get(CONFIG_FILE) {
        let path = folder.join(CONFIG_FILE);
        sum.check(&path, &read_file(&path)?)?;
    }
    let tokenizer = folder.join(TOKENIZER_FILE);
    files.tokenizer_json = read_file(&tokenizer)?;
    if let Some(sum) = sums.get(TOKENIZER_FILE) {
        sum.check(&tokenizer, &files.tokenizer_json)?;
    }
    Ok((files, sums))
}

fn put_together(
    folder: &Path,
    chosen: String,
    files: ModelFiles,
    tensors: TensorFile,
) -> Result<LoadedModel> {
    check_exact(&tensors, Model::new(&files.config)?.table())?;
    let stored = StoredWeights::Own(tensors);
    Ok(LoadedModel { folder: folder.to_path_buf(), chosen, files, stored, published: None })
}

pub(super) fn tokenizer_of(folder: &Path, files: &ModelFiles) -> Result<Tokenizer> {
    let path = folder.join(TOKENIZER_FILE);
    let tokenizer = Tokenizer::from_json_bytes_with_roles(&files.tokenizer_json, &path, files.special_ids)?;
    let (found, expected) = (tokenizer.vocab_size(), files.config.vocab_size);
    // Published tables often have more rows than there are pieces, for even sizes.
    if found > expected || (found < expected && !files.config.arch.is_encoder()) {
        return Err(Error::Checkpoint {
            path,
            what: format!("has {found} pieces, the model beside it was trained with {expected}"),
            fix: "put back the tokenizer.json that came with the model".into(),
        });
    }
    Ok(tokenizer)
}

/// A file's sum must be known before it is compared.
pub(super) fn known_sum<'a>(sums: &'a FileSums, path: &Path, name: &str) -> Result<&'a FileSum> {
    sums.get(name).ok_or_else(|| damaged(path, format!("it lacks the sum of {name}")))
}
