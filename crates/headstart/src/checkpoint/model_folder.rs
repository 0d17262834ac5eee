//! A model folder: weights, tokenizer and config.json, enough to use the model anywhere.
//!
//! Owns: config.json, loading, and how weights find their way into a model that differs. Never: trains or tokenises.

use std::path::{Path, PathBuf};

use headstart_engine::Weights;
use serde_json::{Map, Value, json};

use crate::checkpoint::disk::{FileSum, FileSums, damaged, read_file, write_file};
use crate::checkpoint::run_folder::{RunFolder, newest_step_folder};
use crate::checkpoint::tensors::{TensorFile, write_tensors};
use crate::checkpoint::{
    CHECKPOINTS_FOLDER, CONFIG_FILE, FINAL_FOLDER, MODEL_FILE, RUN_CONFIG_FILE, TOKENIZER_FILE,
};
use crate::config::{ModelConfig, Objective, Problem};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::params::{Kind, Param, ParamTable};
use crate::tokenizer::{RoleIds, Tokenizer};

/// Says whose config.json it is, where Hugging Face names the architecture.
const MODEL_TYPE: &str = "headstart";
/// Counts incompatible changes of config.json; the reader still takes version 1, whose special_ids had other names.
const FORMAT_VERSION: u64 = 2;
/// The parameter whose rows are the vocabulary, the only one that may grow.
const TOKEN_EMBEDDING: &str = "transformer.token_embedding.weight";

/// Everything of a model but its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelFiles {
    /// Sizes and options.
    pub config: ModelConfig,
    /// What the trunk was pretrained to predict; `None` when it was not.
    pub objective: Option<Objective>,
    /// The share of tokens that a masked language model was pretrained to predict; older folders and other models have none.
    pub mlm_probability: Option<f64>,
    /// Class names in the order of the head's outputs; empty without a head, and for regression.
    pub labels: Vec<String>,
    /// Ids of the tokens with a role.
    pub special_ids: RoleIds,
    /// The content of tokenizer.json.
    pub tokenizer_json: Vec<u8>,
}

impl ModelFiles {
    /// The share of tokens a masked language model predicts: its own, or the one that was the only one before it was kept.
    pub fn masked_share(&self) -> f64 {
        self.mlm_probability.unwrap_or(0.15)
    }
}

/// A model from disk, its weights still there.
#[derive(Debug)]
pub struct LoadedModel {
    /// The model folder.
    pub folder: PathBuf,
    /// Which model of a run it is, for people: "final/", "the best checkpoint (step-00000200)".
    pub chosen: String,
    /// Everything but the weights.
    pub files: ModelFiles,
    /// The weights by name; they are exactly the parameters of `files.config`.
    pub tensors: TensorFile,
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
    /// The same in a few words each, for those who do not ask for names.
    pub fn summary(&self) -> Vec<String> {
        let count = |what, names: &[String]| match names.len() {
            0 => None,
            1 => Some(format!("1 parameter {what} the pretrained model (train.log names it)")),
            n => Some(format!("{n} parameters {what} the pretrained model (train.log names them)")),
        };
        let counts = [count("discarded from", &self.discarded), count("added to", &self.added)];
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

/// Opens the model of `path`: a run folder (its `final/`, else its best, else its latest checkpoint), a checkpoint
/// folder, or a model folder.
///
/// # Errors
/// [`Error::Missing`] when `path` is none of these, saying what was looked for; [`Error::Checkpoint`] when the model
/// is damaged, altered or does not hold together.
pub fn load_model(path: &Path) -> Result<LoadedModel> {
    let (folder, chosen) = find_model(path)?;
    open_folder(&folder, chosen)
}

/// [`load_model`] with the model's tokenizer, which is made while the weights are checked.
///
/// # Errors
/// As for [`load_model`] and [`LoadedModel::tokenizer`].
pub fn load_model_and_tokenizer(path: &Path) -> Result<(LoadedModel, Tokenizer)> {
    let (folder, chosen) = find_model(path)?;
    let (model, tokenizer) = open_while(&folder, chosen, |files| tokenizer_of(&folder, files))?;
    Ok((model, tokenizer?))
}

/// The model folder of `path`, and which model of a run it is.
fn find_model(path: &Path) -> Result<(PathBuf, String)> {
    if !path.is_dir() {
        return Err(no_model(path));
    }
    if path.join(CONFIG_FILE).is_file() {
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
    } else if path.join(RUN_CONFIG_FILE).is_file() {
        let what = format!("the run {shown} has not saved a checkpoint yet");
        (what, "wait for it, or continue it with --resume")
    } else {
        let what = format!(
            "{shown} is neither a run folder nor a checkpoint or model folder: it has no {CONFIG_FILE}, \
             {FINAL_FOLDER}/ or {CHECKPOINTS_FOLDER}/step-*"
        );
        (what, "name a run folder, its final/, or one of its checkpoints")
    };
    Error::Missing { what, fix: fix.into() }
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
        check_exact(&self.tensors, table)?;
        self.tensors.copied(table)
    }

    /// [`LoadedModel::exact_weights`] to be used as they are: they stay in the file.
    ///
    /// # Errors
    /// As for [`LoadedModel::exact_weights`].
    pub fn mapped_weights(&self, table: &ParamTable) -> Result<Weights> {
        check_exact(&self.tensors, table)?;
        self.tensors.weights(table)
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
            self.tensors.copy_to(&param.name, &mut weights[param.offset..param.offset + param.len()])?;
        }
        Ok((weights, report))
    }

    /// Which parameters are read, and what is reported about the others.
    fn compare<'a>(&self, table: &'a ParamTable) -> Result<(Vec<&'a Param>, LoadReport)> {
        let mut report = LoadReport::default();
        let mut taken = Vec::new();
        let mut unfit = Vec::new();
        for param in table.params() {
            let stored = self.tensors.shape(&param.name);
            match stored {
                None => report.added.push(param.name.clone()),
                Some(_) if self.tensors.fits(&param.name, &param.shape) => taken.push(param),
                Some(_) if param.kind == Kind::Head => {
                    report.added.push(param.name.clone());
                    report.discarded.push(param.name.clone());
                }
                Some(&[rows, cols])
                    if grows(param, &[rows, cols]) && self.tensors.fits(&param.name, &[rows, cols]) =>
                {
                    let name = param.name.clone();
                    report.grown.push(GrownRows { name, stored: rows, rows: param.shape[0] });
                    taken.push(param);
                }
                Some(_) => unfit.push(difference(&self.tensors, &param.name, &param.shape)),
            }
        }
        let known = |name: &str| table.params().iter().any(|param| param.name == name);
        report.discarded.extend(self.tensors.names().filter(|name| !known(name)).map(String::from));
        report.discarded.sort();
        if unfit.is_empty() {
            return Ok((taken, report));
        }
        Err(Error::Checkpoint {
            path: self.tensors.path().to_path_buf(),
            what: format!("does not fit the model:{}", listed(&unfit)),
            fix: "give the model the sizes and the tokenizer of the stored one".into(),
        })
    }
}

/// Whether the vocabulary only got more rows.
fn grows(param: &Param, stored: &[usize; 2]) -> bool {
    param.name == TOKEN_EMBEDDING && stored[1] == param.shape[1] && stored[0] < param.shape[0]
}

fn difference(tensors: &TensorFile, name: &str, shape: &[usize]) -> String {
    format!("`{name}`: expected {shape:?}, found {}", tensors.describe(name))
}

/// The first few of a list, one a line.
fn listed(lines: &[String]) -> String {
    const MOST: usize = 8;
    let shown = lines[..lines.len().min(MOST)].join("\n    ");
    let more = lines.len().saturating_sub(MOST);
    if more == 0 { format!("\n    {shown}") } else { format!("\n    {shown}\n    and {more} more") }
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
    let mut lines: Vec<_> = unfit.map(|(name, shape)| difference(tensors, name, shape)).collect();
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

/// The text of config.json, with the sums of the other files.
fn config_json(files: &ModelFiles, sums: &FileSums) -> serde_json::Result<String> {
    let mut map = Map::new();
    map.insert("model_type".into(), MODEL_TYPE.into());
    map.insert("format_version".into(), FORMAT_VERSION.into());
    // By way of text, so that 0.1_f32 becomes 0.1 and not 0.10000000149011612.
    let config: Map<String, Value> = serde_json::from_str(&serde_json::to_string(&files.config)?)?;
    map.extend(config);
    if let Some(head) = &files.config.head {
        let name = match head.problem {
            Problem::SingleLabel => "single_label_classification",
            Problem::MultiLabel => "multi_label_classification",
            Problem::Regression => "regression",
        };
        map.insert("problem_type".into(), name.into());
    }
    map.insert("objective".into(), json!(files.objective));
    if let Some(share) = files.mlm_probability {
        map.insert("mlm_probability".into(), share.into());
    }
    let numbered = || files.labels.iter().enumerate();
    let id2label = numbered().map(|(id, label)| (id.to_string(), label.as_str().into()));
    map.insert("id2label".into(), Value::Object(id2label.collect()));
    let label2id = numbered().map(|(id, label)| (label.clone(), id.into()));
    map.insert("label2id".into(), Value::Object(label2id.collect()));
    map.insert("special_ids".into(), json!(files.special_ids));
    map.insert("files".into(), json!(sums));
    Ok(serde_json::to_string_pretty(&map)? + "\n")
}

/// Opens a model folder and checks that its three files belong together.
pub(super) fn open_folder(folder: &Path, chosen: String) -> Result<LoadedModel> {
    Ok(open_while(folder, chosen, |_| ())?.0)
}

/// [`open_folder`] with something to do while the weights are checked. What is wrong with the weights comes first.
fn open_while<T: Send>(
    folder: &Path,
    chosen: String,
    meanwhile: impl FnOnce(&ModelFiles) -> T + Send,
) -> Result<(LoadedModel, T)> {
    let (files, sums) = read_files(folder)?;
    let path = folder.join(MODEL_FILE);
    let open = || TensorFile::open(&path, sums.get(MODEL_FILE));
    let (tensors, other) = rayon::join(open, || meanwhile(&files));
    Ok((put_together(folder, chosen, files, tensors?)?, other))
}

/// [`open_folder`] for weights that are open and compared with their sum already.
pub(super) fn open_around(folder: &Path, chosen: String, tensors: TensorFile) -> Result<LoadedModel> {
    put_together(folder, chosen, read_files(folder)?.0, tensors)
}

/// Everything but the weights, and the sums.
fn read_files(folder: &Path) -> Result<(ModelFiles, FileSums)> {
    let path = folder.join(CONFIG_FILE);
    let (mut files, sums) = parse_config(&path, &read_file(&path)?)?;
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
    Ok(LoadedModel { folder: folder.to_path_buf(), chosen, files, tensors })
}

fn tokenizer_of(folder: &Path, files: &ModelFiles) -> Result<Tokenizer> {
    let path = folder.join(TOKENIZER_FILE);
    let tokenizer = Tokenizer::from_json_bytes(&files.tokenizer_json, &path)?;
    let (found, expected) = (tokenizer.vocab_size(), files.config.vocab_size);
    if found != expected {
        return Err(Error::Checkpoint {
            path,
            what: format!("has {found} pieces, the model beside it was trained with {expected}"),
            fix: "put back the tokenizer.json that came with the model".into(),
        });
    }
    Ok(tokenizer)
}

/// Reads config.json; the tokenizer's content is left empty.
fn parse_config(path: &Path, text: &[u8]) -> Result<(ModelFiles, FileSums)> {
    let bad = |what: String| damaged(path, what);
    let mut map: Map<String, Value> =
        serde_json::from_slice(text).map_err(|e| bad(format!("is not a JSON object: {e}")))?;
    let found = map.remove("model_type").unwrap_or_default();
    if found != MODEL_TYPE {
        return Err(bad(format!(
            "its model_type is {found}, not \"{MODEL_TYPE}\": no model of this program"
        )));
    }
    let version = map.remove("format_version").unwrap_or_default();
    if version != 1 && version != FORMAT_VERSION {
        return Err(bad(format!(
            "its format_version is {version}; this program reads 1 to {FORMAT_VERSION}"
        )));
    }
    // For other programs' eyes; both say again what is said elsewhere.
    map.remove("problem_type");
    map.remove("label2id");
    let objective = field(path, &mut map, "objective")?;
    let share = map.remove("mlm_probability");
    let mlm_probability = match share.as_ref().map(Value::as_f64) {
        None => None,
        Some(Some(share)) if share > 0.0 && share <= 1.0 => Some(share),
        Some(_) => return Err(bad("its mlm_probability is not a share of the tokens".into())),
    };
    let id2label: Map<String, Value> = field(path, &mut map, "id2label")?;
    let label = |id: usize| id2label.get(&id.to_string()).and_then(Value::as_str).map(String::from);
    let labels: Option<Vec<_>> = (0..id2label.len()).map(label).collect();
    let labels = labels.ok_or_else(|| bad("its id2label does not number names from 0".into()))?;
    if version == 1
        && let Some(Value::Object(ids)) = map.get_mut("special_ids")
    {
        rename_roles(ids);
    }
    let special_ids = field(path, &mut map, "special_ids")?;
    let sums: FileSums = field(path, &mut map, "files")?;
    let config = parse_model_config(path, map)?;
    if let Some(head) = &config.head
        && !labels.is_empty()
        && labels.len() != head.num_classes
    {
        return Err(bad(format!("it has {} labels for {} classes", labels.len(), head.num_classes)));
    }
    let tokenizer_json = Vec::new();
    Ok((ModelFiles { config, objective, mlm_probability, labels, special_ids, tokenizer_json }, sums))
}

/// The special_ids of version 1 under their names of today. Its end of line stood for what separates texts, too.
fn rename_roles(ids: &mut Map<String, Value>) {
    for (old, new) in [("end_of_line", "eos"), ("classification", "cls"), ("unknown", "unk")] {
        if let Some(id) = ids.remove(old) {
            ids.insert(new.into(), id);
        }
    }
    if let Some(id) = ids.get("eos").cloned() {
        ids.insert("sep".into(), id);
    }
}

/// Takes one key out of config.json.
fn field<T: serde::de::DeserializeOwned>(path: &Path, map: &mut Map<String, Value>, key: &str) -> Result<T> {
    let value = map.remove(key).ok_or_else(|| damaged(path, format!("it lacks `{key}`")))?;
    serde_json::from_value(value).map_err(|e| damaged(path, format!("its `{key}`: {e}")))
}

/// The sizes and options, which are all that is left of config.json.
fn parse_model_config(path: &Path, map: Map<String, Value>) -> Result<ModelConfig> {
    // The configuration's defaults are for people who start a run; a stored model says everything.
    let whole = serde_json::to_value(ModelConfig::default()).unwrap_or_default();
    let keys = whole.as_object().into_iter().flat_map(Map::keys);
    if let Some(key) = keys.into_iter().find(|key| !map.contains_key(*key)) {
        return Err(damaged(path, format!("it lacks `{key}`")));
    }
    let config: ModelConfig =
        serde_json::from_value(Value::Object(map)).map_err(|e| damaged(path, e.to_string()))?;
    config.validate().map_err(|e| damaged(path, e.to_string()))?;
    let classes = config.head.as_ref().map_or(1, |head| head.num_classes);
    // What a u32 can number; beyond it, sizes would also overflow when they are multiplied.
    for (key, value) in [("vocab_size", config.vocab_size), ("num_classes", classes)] {
        if !(1..=1 << 31).contains(&value) {
            return Err(damaged(path, format!("its {key} {value} is not possible")));
        }
    }
    if config.offset_token.is_some_and(|id| id as usize >= config.vocab_size) {
        return Err(damaged(path, "its offset_token is outside the vocabulary"));
    }
    Ok(config)
}

/// A file's sum must be known before it is compared.
pub(super) fn known_sum<'a>(sums: &'a FileSums, path: &Path, name: &str) -> Result<&'a FileSum> {
    sums.get(name).ok_or_else(|| damaged(path, format!("it lacks the sum of {name}")))
}
