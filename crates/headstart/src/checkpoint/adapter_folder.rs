//! What a run trained, saved alone: the parameters that are not those of the model it started from, head included, and the
//! fingerprint of that model, the trunk.
//!
//! Owns: its files, the fingerprint. Never: what a method trains; other programs' adapters (`peft_folder`).
//!
//! It stands in the finished model's folder, so that both are there or neither is, and is a model by itself to every command that is
//! told the trunk. What is trunk is found by comparing, bit by bit, and not by the method: so the two together are the finished model,
//! whatever trained. The fingerprint is of names, shapes and numbers, not of files: the same trunk in another form is the same.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::{Map, Value, json};

use crate::checkpoint::config_file::{ModelFiles, config_json, parse_config};
use crate::checkpoint::disk::{read_file, write_file};
use crate::checkpoint::model_folder::LoadedModel;
use crate::checkpoint::peft_folder::over;
use crate::checkpoint::stored::StoredWeights;
use crate::checkpoint::weights::write_tensors;
use crate::error::{Error, Result};
use crate::files::{FileSum, FileSums, cannot_write, damaged};
use crate::model::Model;
use crate::params::{Param, ParamTable};
use crate::tensors::TensorFile;

/// Its place in a finished model's folder.
pub(super) const FOLDER: &str = "adapter";
const CONFIG: &str = "adapter.json";
const WEIGHTS: &str = "adapter.safetensors";
/// The key of the sum of all others.
const SEAL: &str = "sha256";
/// Counts incompatible changes of the file.
const FORMAT_VERSION: u64 = 1;

/// What stands over a trunk.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// How it was trained.
    method: &'static str,
    /// Where the trunk was.
    trunk: PathBuf,
    fingerprint: String,
    /// Indices into the model's table.
    above: Vec<usize>,
    /// Numbers in those.
    numbers: usize,
}

impl Adapter {
    /// Tells what of a model's weights is not `base`'s.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when `base` cannot be read.
    pub fn of(method: &'static str, base: &LoadedModel, table: &ParamTable, weights: &[f32]) -> Result<Self> {
        let (trunk, stored) = match &base.stored {
            StoredWeights::Over(over) => (&over.folder, &over.below),
            stored => (&base.folder, stored),
        };
        let digest = |param: &Param| -> Result<Option<String>> {
            let ours = &weights[param.offset..][..param.len()];
            let theirs = values_of(stored, param)?;
            let same = theirs
                .is_some_and(|theirs| ours.iter().zip(&theirs).all(|(a, b)| a.to_bits() == b.to_bits()));
            Ok(same.then(|| digest(ours)))
        };
        let digests: Vec<_> = table.params().par_iter().map(digest).collect::<Result<_>>()?;
        let above: Vec<usize> = (0..digests.len()).filter(|&i| digests[i].is_none()).collect();
        let numbers = above.iter().map(|&i| table.params()[i].len()).sum();
        let below = table.params().iter().zip(digests).filter_map(|(param, digest)| Some((param, digest?)));
        Ok(Self { method, trunk: trunk.clone(), fingerprint: fingerprint(below), above, numbers })
    }

    /// Writes it into the finished model's folder.
    pub(super) fn write(
        &self,
        folder: &Path,
        files: &ModelFiles,
        table: &ParamTable,
        weights: &[f32],
    ) -> Result<()> {
        let folder = folder.join(FOLDER);
        fs::create_dir(&folder).map_err(cannot_write(&folder))?;
        let params = self.above.iter().map(|&i| &table.params()[i]);
        let tensors: Vec<_> =
            params.map(|p| (p.name.clone(), &p.shape[..], &weights[p.offset..p.offset + p.len()])).collect();
        let mut sums = FileSums::new();
        sums.insert(WEIGHTS.into(), write_tensors(&folder.join(WEIGHTS), &tensors)?);
        let path = folder.join(CONFIG);
        let unfit = |e: serde_json::Error| damaged(&path, format!("cannot be laid out: {e}"));
        let model: Value = serde_json::from_str(&config_json(files, &sums).map_err(unfit)?).map_err(unfit)?;
        let mut content = json!({
            "format_version": FORMAT_VERSION,
            "method": self.method,
            "trunk": { "path": self.trunk.to_string_lossy(), "sha256": self.fingerprint },
            "model": model,
        });
        content[SEAL] = FileSum::of(content.to_string().as_bytes()).sha256.into();
        write_file(&path, format!("{content:#}\n").as_bytes())?;
        Ok(())
    }

    /// One line about it, as it lies in a finished model's folder.
    pub fn line(&self, finished: &Path) -> String {
        let folder = finished.join(FOLDER);
        let bytes = |name| fs::metadata(folder.join(name)).map_or(0, |found| found.len());
        let size = (bytes(WEIGHTS) + bytes(CONFIG)) as f64 / 1e6;
        format!(
            "what was trained, alone: {}, {size:.2} MB, {} parameters over {} (fingerprint {})",
            folder.display(),
            self.numbers,
            self.trunk.display(),
            short(&self.fingerprint)
        )
    }
}

/// Whether a folder is one of these.
pub(super) fn is_alone(folder: &Path) -> bool {
    folder.join(CONFIG).is_file()
}

/// Where its trunk was.
pub(super) fn trunk_of(folder: &Path) -> Result<Option<String>> {
    Ok(Some(Description::read(folder)?.trunk))
}

/// Opens such a folder over its trunk.
pub(super) fn open_alone(folder: &Path, chosen: String, below: LoadedModel) -> Result<LoadedModel> {
    let Description { trunk, fingerprint: expected, files, sums } = Description::read(folder)?;
    let path = folder.join(WEIGHTS);
    let tensors =
        TensorFile::open(&path, Some(super::model_folder::known_sum(&sums, &folder.join(CONFIG), WEIGHTS)?))?;
    let model = Model::new(&files.config)?;
    let found = fingerprint_of(&below.stored, model.table(), &tensors)?;
    if found != expected {
        return Err(Error::Checkpoint {
            path: folder.to_path_buf(),
            what: format!(
                "is of another trunk: of {trunk}, fingerprint {}, and {} has {}",
                short(&expected),
                below.folder.display(),
                short(&found)
            ),
            fix: "name the model that its run started from: --base MODEL".into(),
        });
    }
    let mut above = std::collections::BTreeMap::new();
    for name in tensors.names() {
        let shape = tensors.shape(name).unwrap_or_default().to_vec();
        let mut values = vec![0.0; shape.iter().product()];
        tensors.copy_to(name, &mut values)?;
        above.insert(name.to_owned(), (shape, values));
    }
    let files = ModelFiles { tokenizer_json: below.files.tokenizer_json.clone(), ..files };
    let trunk = below.folder.clone();
    over(LoadedModel { folder: folder.to_path_buf(), chosen, files, ..below }, path, trunk, above)
}

/// What its file says.
struct Description {
    trunk: String,
    fingerprint: String,
    files: ModelFiles,
    sums: FileSums,
}

impl Description {
    fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(CONFIG);
        let text = read_file(&path)?;
        let mut map: Map<String, Value> = serde_json::from_slice(&text)
            .map_err(|e| damaged(&path, format!("is not a JSON object: {e}")))?;
        let seal = map.remove(SEAL);
        let content = Value::Object(map);
        if content["format_version"] != FORMAT_VERSION {
            let found = &content["format_version"];
            return Err(damaged(
                &path,
                format!("its format_version is {found}; this program reads {FORMAT_VERSION}"),
            ));
        }
        if seal != Some(FileSum::of(content.to_string().as_bytes()).sha256.into()) {
            return Err(damaged(&path, "is altered: its content is not what was written (SHA-256 differs)"));
        }
        let text = |what: &str| {
            let found = content["trunk"][what].as_str();
            found.map(String::from).ok_or_else(|| damaged(&path, format!("it lacks `trunk.{what}`")))
        };
        let (files, sums) = parse_config(&path, content["model"].to_string().as_bytes())?;
        Ok(Self { trunk: text("path")?, fingerprint: text("sha256")?, files, sums })
    }
}

/// The fingerprint of what stored weights have of a model, without what stands over them.
fn fingerprint_of(stored: &StoredWeights, table: &ParamTable, above: &TensorFile) -> Result<String> {
    let below: Vec<&Param> = table.params().iter().filter(|p| above.shape(&p.name).is_none()).collect();
    let digest = |param: &&Param| -> Result<String> {
        Ok(values_of(stored, param)?.map_or_else(|| "none".into(), |values| digest(&values)))
    };
    let digests: Vec<String> = below.par_iter().map(digest).collect::<Result<_>>()?;
    Ok(fingerprint(below.into_iter().zip(digests)))
}

/// The numbers that are stored for a parameter; `None` where it is not there in its shape.
fn values_of(stored: &StoredWeights, param: &Param) -> Result<Option<Vec<f32>>> {
    if !stored.fits(&param.name, &param.shape) {
        return Ok(None);
    }
    let mut values = vec![0.0; param.len()];
    stored.copy_to(&param.name, &mut values)?;
    Ok(Some(values))
}

/// The sum of a parameter's numbers, by parts on all threads.
fn digest(values: &[f32]) -> String {
    const PART: usize = 1 << 18;
    let parts: Vec<String> =
        values.par_chunks(PART).map(|part| FileSum::of(bytemuck::cast_slice(part)).sha256).collect();
    parts.concat()
}

/// The sum of parameters with their digests, in the order of their table.
fn fingerprint<'a>(params: impl Iterator<Item = (&'a Param, String)>) -> String {
    let mut text = String::new();
    for (param, digest) in params {
        let _ = writeln!(text, "{} {:?} {digest}", param.name, param.shape);
    }
    FileSum::of(text.as_bytes()).sha256
}

/// As much of a fingerprint as people compare.
fn short(fingerprint: &str) -> &str {
    fingerprint.get(..16).unwrap_or(fingerprint)
}
