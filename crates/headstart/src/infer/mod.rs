//! Using a trained model: classify texts, continue a prompt, texts as vectors. The same forward as training, on an inference tape.
//!
//! Owns: loading a model folder for use. Never: reads standard input, prints.

mod features;
mod generate;
mod predict;
mod sampling;
mod streaming;
pub(crate) mod windows;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use headstart_engine::{Precision, Weights};

use crate::checkpoint::{self, LoadedModel, ModelFiles, ModelPath};
use crate::config::PrecisionName;
use crate::device::{Device, DeviceChoice};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::tokenizer::Tokenizer;

pub use features::{FeatureExtractor, FeaturePooling, Features, FeaturesConfig};
pub use generate::{GenerateConfig, Generator};
pub use predict::{Prediction, Predictor};
pub use windows::LongTexts;

/// A model folder, loaded for use.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) device: Arc<Device>,
    pub(crate) model: Model,
    pub(crate) weights: Arc<Weights>,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) files: ModelFiles,
    /// The folder, for messages.
    pub(crate) folder: PathBuf,
    /// Which model of a run it is, for people.
    pub(crate) chosen: String,
    /// What it has for a head that is not computed here: a sentence.
    pub(crate) other_head: Option<String>,
}

impl Loaded {
    /// Loads a run folder, its `final/`, or a checkpoint; every parameter must be there.
    pub(crate) fn open(path: ModelPath<'_>, device: &DeviceChoice, threads: usize) -> Result<Self> {
        let device = device.open(threads)?;
        let (loaded, tokenizer) = checkpoint::load_model_and_tokenizer(path)?;
        let model = Model::new(&loaded.files.config)?;
        let weights = loaded.mapped_weights(model.table())?;
        let LoadedModel { files, folder, chosen, published, .. } = loaded;
        let (device, weights) = (Arc::new(device), Arc::new(weights));
        let other_head = published.and_then(|published| published.other_head);
        Ok(Self { device, model, weights, tokenizer, files, folder, chosen, other_head })
    }

    /// The products that are asked for, or else those that the model was trained with, where the device is not slower with them.
    pub(crate) fn precision(&self, asked: Option<PrecisionName>) -> Precision {
        let own = if self.device.prefers_bf16() { self.files.precision } else { PrecisionName::F32 };
        asked.unwrap_or(own).into()
    }

    /// Loads adapters over one trunk, which is in memory once.
    pub(crate) fn open_each(
        trunk: &Path,
        adapters: &[PathBuf],
        device: &DeviceChoice,
        threads: usize,
    ) -> Result<Vec<Self>> {
        let device = Arc::new(device.open(threads)?);
        let loaded = checkpoint::load_adapters(trunk, adapters)?;
        let (models, weights) = checkpoint::share_trunk(&loaded)?;
        let weights = Arc::new(weights);
        let together = |(loaded, model): (LoadedModel, Model)| {
            let tokenizer = loaded.tokenizer()?;
            let LoadedModel { files, folder, chosen, .. } = loaded;
            let (device, weights) = (Arc::clone(&device), Arc::clone(&weights));
            Ok(Self { device, model, weights, tokenizer, files, folder, chosen, other_head: None })
        };
        loaded.into_iter().zip(models).map(together).collect()
    }
}

/// A single text for a model that was trained on pairs of them.
pub(crate) fn wants_pairs() -> Error {
    Error::Config {
        key: "text_column".into(),
        what: "the model was trained on pairs of texts, and here is one text at a time".into(),
        fix: "name two columns, as in `--text_column sentence1,sentence2`; on a plain line a tab stands between the texts"
            .into(),
    }
}

/// A model whose outputs are no numbers: nothing is made of them.
pub(crate) fn not_finite(model: &Path) -> Error {
    Error::Checkpoint {
        path: model.to_path_buf(),
        what: "its outputs are not finite (NaN or infinity)".into(),
        fix: "its training diverged: train it again with a smaller --lr, or use an earlier checkpoint of the run".into(),
    }
}
