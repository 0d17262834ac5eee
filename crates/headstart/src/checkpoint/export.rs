//! A model as a folder of another program.
//!
//! Owns: what goes into such a folder, and that it is whole or not there. Never: what its files say (`interop`).

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use crate::checkpoint::OWN_FILE;
use crate::checkpoint::config_file::ModelFiles;
use crate::checkpoint::disk::{NewFolder, write_file};
use crate::checkpoint::find::{ModelPath, load_model};
use crate::checkpoint::model_folder::LoadedModel;
use crate::checkpoint::published_folder::{code_form, published_form, without_lm_head, write_published};
use crate::checkpoint::stored::StoredWeights;
use crate::config::{Arch, HeadConfig, HeadPooling, HeadShape, ModelConfig, ObjectiveName, Problem};
use crate::error::{Error, Result};
use crate::files::cannot_write;
use crate::interop::{
    CODE_FILES, Piece, SentenceSettings, pieces, read_sentence_settings, sentence_files, write_code_config,
    write_config,
};
use crate::merge::merge_updates;
use crate::model::Model;
use crate::params::ParamTable;

/// The longest model card that is taken along, in bytes.
const CARD_BYTES: u64 = 1 << 20;

/// The form of an exported model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportForm {
    /// What `from_pretrained` of `transformers` reads, head and all.
    Transformers,
    /// The same for a family that `transformers` has not: with code of ours beside it, which it runs if it is told to.
    TransformersWithCode,
    /// The trunk, with what sentence-transformers makes vectors by.
    SentenceTransformers {
        /// `None`: as the folder says that the model comes from, else the mean.
        pooling: Option<HeadPooling>,
        /// Whether vectors are scaled to length 1. `None`: as that folder says, else no.
        normalize: Option<bool>,
    },
}

/// What was exported.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Exported {
    /// The new folder.
    pub folder: PathBuf,
    /// Which model of a run it is, for people.
    pub chosen: String,
    /// The class of `transformers` that reads it.
    pub architecture: String,
    /// Tensors in it.
    pub tensors: usize,
    /// Numbers in them.
    pub parameters: usize,
    /// Where low-rank updates or scales were merged into the weights: the largest difference that it makes to an output on a fixed input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merged: Option<f32>,
    /// The temperature that the classifier's last weights and biases were divided by, so that another program's probabilities are those of
    /// `predict`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// The names of tensors that the model has and the new folder has not: heads that its class has no place for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<String>,
}

/// Writes the model of `path` (see [`load_model`]) as the new folder `output`.
///
/// # Errors
/// [`Error::Config`] when `output` exists; those of [`load_model`]; [`Error::Checkpoint`] when the other program has no form for the
/// model, saying why, or the disk refuses. Nothing is left behind.
pub fn export<'a>(model: impl Into<ModelPath<'a>>, form: ExportForm, output: &Path) -> Result<Exported> {
    is_new(output)?;
    let model = model.into();
    let path = model.path;
    let mut loaded = load_model(model)?;
    // What an unfinished student has for its teacher.
    loaded.files.config.teacher_heads = None;
    let arch = loaded.files.config.arch;
    let no_form = |why: String| no_form(path, &why, arch);
    let notes = match form {
        ExportForm::Transformers | ExportForm::TransformersWithCode => Vec::new(),
        ExportForm::SentenceTransformers { pooling, normalize } => {
            let settings = sentence_settings(&loaded, pooling, normalize)?;
            keep_trunk(&mut loaded);
            let ModelConfig { embed_dim, num_max_positions, .. } = loaded.files.config;
            sentence_files(&settings, embed_dim, num_max_positions).map_err(no_form)?
        }
    };
    let mut model = Model::new(&loaded.files.config)?;
    let mut left = loaded.stored.left_by(model.table());
    // Nothing is added: all of its parameters were there when it was opened.
    let (mut weights, _) = loaded.weights_for(model.table(), 0)?;
    let mut merged = None;
    let ModelConfig { lora, ia3, .. } = &mut loaded.files.config;
    if lora.take().is_some() | ia3.take().is_some() {
        let difference;
        (model, weights, difference) = merge_updates(&model, weights)?;
        merged = Some(difference);
    }
    let temperature = loaded.files.temperature.take();
    if let Some(temperature) = temperature {
        fold_temperature(model.table(), &mut weights, temperature);
    }
    let with_code = form == ExportForm::TransformersWithCode;
    let form_of = if with_code { code_form } else { published_form };
    let (config, mut parts) = form_of(&loaded.files, model.table(), &weights).map_err(no_form)?;
    parts.extend(spare_pooler(&loaded)?);
    // A pooler that is taken along has its name, behind the trunk's prefix where it had one.
    left.retain(|name| !parts.iter().any(|(written, _, _)| name.ends_with(written.as_str())));
    let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        fs::create_dir_all(parent).map_err(Error::io("create the folder", parent))?;
    }
    let exported = Exported {
        folder: output.to_path_buf(),
        chosen: loaded.chosen.clone(),
        architecture: config["architectures"][0].as_str().unwrap_or_default().to_owned(),
        tensors: parts.len(),
        merged,
        temperature,
        left,
        parameters: parts.iter().map(|(_, _, values)| values.len()).sum(),
    };
    let card = card(&loaded.folder, form);
    let write = || {
        let folder = NewFolder::create(output)?;
        write_published(folder.path(), &loaded.files, config, &parts)?;
        for (name, content) in notes {
            let path = folder.path().join(name);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(cannot_write(parent))?;
            }
            write_file(&path, format!("{content:#}\n").as_bytes())?;
        }
        for (name, code) in CODE_FILES.iter().filter(|_| with_code) {
            write_file(&folder.path().join(name), code.as_bytes())?;
        }
        if let Some(card) = card {
            write_file(&folder.path().join("README.md"), card.as_bytes())?;
        }
        folder.commit()
    };
    write().map_err(nothing_to_resume)?;
    Ok(exported)
}

/// Refuses to write where something is.
pub(super) fn is_new(output: &Path) -> Result<()> {
    if fs::symlink_metadata(output).is_err() {
        return Ok(());
    }
    Err(Error::Config {
        key: "output".into(),
        what: format!("{} exists already", output.display()),
        fix: "name a new folder, or move that one away".into(),
    })
}

/// How a finished model gets to `transformers`, which does not read its folder as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WayOut {
    /// Exported: its family lies there otherwise.
    Exported,
    /// Exported with code: `transformers` does not have its family.
    ExportedWithCode,
}

/// The way of the finished model in a folder; `None` where its folder is read as it is, or there is no way.
///
/// # Errors
/// Those of [`load_model`].
pub fn way_to_transformers(folder: &Path) -> Result<Option<WayOut>> {
    if folder.join(OWN_FILE).is_file() {
        return Ok(None);
    }
    let ModelFiles { mut config, labels, special_ids, objective, .. } = load_model(folder)?.files;
    // Updates and scales are merged.
    (config.lora, config.ia3) = (None, None);
    let masked = objective == Some(ObjectiveName::Mlm) && config.head.is_none();
    if write_config(&config, &labels, special_ids, masked).is_ok() {
        return Ok(Some(WayOut::Exported));
    }
    let coded = write_code_config(&config, &labels, special_ids, objective);
    Ok(coded.is_ok().then_some(WayOut::ExportedWithCode))
}

/// The error of a disk that refuses what is exported: there is no run to go on with.
pub(super) fn nothing_to_resume(error: Error) -> Error {
    match error {
        Error::Checkpoint { path, what, .. } => Error::Checkpoint {
            path,
            what,
            fix: "make room on its disk and see that it can be written to, or name an --output elsewhere; nothing is left of \
                  this try, and the model is as it was"
                .into(),
        },
        other => other,
    }
}

/// Divides what makes the logits by the temperature.
fn fold_temperature(table: &ParamTable, weights: &mut [f32], temperature: f64) {
    for param in table.params() {
        if ["classification_head.weight", "classification_head.bias"].contains(&param.name.as_str()) {
            for weight in &mut weights[param.offset..][..param.len()] {
                *weight = (f64::from(*weight) / temperature) as f32;
            }
        }
    }
}

/// How vectors are made: what was asked for, else what the folder says.
fn sentence_settings(
    loaded: &LoadedModel,
    pooling: Option<HeadPooling>,
    normalize: Option<bool>,
) -> Result<SentenceSettings> {
    let folder = read_sentence_settings(&loaded.folder)?;
    let said = folder.as_ref();
    let config = &loaded.files.config;
    let max_length = said.and_then(|folder| folder.max_length).or(Some(config.max_length()));
    let normalize = normalize.or(said.map(|folder| folder.normalize)).unwrap_or(false);
    if pooling.is_none() && said.is_some_and(|folder| !folder.linears.is_empty()) {
        let what = "its linears behind the pooling are not written".into();
        let fix = "name the pooling to write its trunk alone: --pooling mean".into();
        return Err(Error::Checkpoint { path: loaded.folder.join("modules.json"), what, fix });
    }
    let pooling = pooling.or(said.map(|folder| folder.pooling)).unwrap_or(HeadPooling::Mean);
    if pooling == HeadPooling::Cls && !config.arch.is_encoder() {
        let why = "its [CLS] stands behind the text, and that of sentence-transformers is the first token";
        return Err(no_form(&loaded.folder, why, config.arch));
    }
    Ok(SentenceSettings {
        pooling,
        normalize,
        max_length,
        linears: Vec::new(),
        ..folder.unwrap_or_else(|| SentenceSettings::of(pooling))
    })
}

/// Takes the heads from a model.
fn keep_trunk(loaded: &mut LoadedModel) {
    let files = &mut loaded.files;
    files.config.head = None;
    files.config.head_shape = HeadShape::default();
    files.temperature = None;
    without_lm_head(&mut files.config);
    files.labels.clear();
    if files.config.arch.is_encoder() {
        files.objective = None;
    }
}

/// BERT's pooler beside a trunk without a head: nothing here uses it, and other programs expect it.
fn spare_pooler(loaded: &LoadedModel) -> Result<Vec<Piece<'static>>> {
    let files = &loaded.files;
    let StoredWeights::Published(stored) = &loaded.stored else { return Ok(Vec::new()) };
    if files.config.arch != Arch::Bert || files.config.head.is_some() || files.objective.is_some() {
        return Ok(Vec::new());
    }
    let head = HeadConfig {
        num_classes: 1,
        pooling: HeadPooling::Pooler,
        problem: Problem::Regression,
        max_length: None,
        truncation: None,
        dropout: None,
    };
    let with_pooler = Model::new(&ModelConfig { head: Some(head), ..files.config.clone() })?;
    let mut parts = Vec::new();
    for param in with_pooler.table().params() {
        if param.name.starts_with("classification_head.dense.") && stored.has(&param.name) {
            let mut values = vec![0.0; param.len()];
            stored.copy_to(&param.name, &mut values)?;
            let stored = pieces(Arch::Bert, "", param, &values).into_iter().flatten();
            parts.extend(stored.map(|(name, shape, values)| (name, shape, Cow::Owned(values.into_owned()))));
        }
    }
    Ok(parts)
}

/// The model's own card, with the library that reads the new folder.
fn card(folder: &Path, form: ExportForm) -> Option<String> {
    let path = folder.join("README.md");
    let short = fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() <= CARD_BYTES);
    let text = fs::read_to_string(path).ok().filter(|_| short)?;
    let library = match form {
        ExportForm::Transformers | ExportForm::TransformersWithCode => "transformers",
        ExportForm::SentenceTransformers { .. } => "sentence-transformers",
    };
    let line = |line: &str| {
        if line.starts_with("library_name:") {
            format!("library_name: {library}\n")
        } else {
            format!("{line}\n")
        }
    };
    Some(text.lines().map(line).collect())
}

pub(super) fn no_form(path: &Path, why: &str, arch: Arch) -> Error {
    let with_code = if arch.is_encoder() {
        ""
    } else {
        ", or add --with-code to write code for `transformers` beside it"
    };
    Error::Checkpoint {
        path: path.to_path_buf(),
        what: format!("cannot be exported: {why}"),
        fix: format!(
            "use it where it lies: predict, eval, features and finetune take it as it is{with_code}"
        ),
    }
}
