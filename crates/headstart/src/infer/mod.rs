//! Using a trained model: classify texts, continue a prompt. The same forward as training, on an inference tape.
//!
//! Owns: loading a model folder for use. Never: reads standard input, prints.

mod generate;
mod predict;
mod sampling;
mod streaming;

use std::path::Path;

use headstart_engine::{Device, Weights};

use crate::checkpoint::{self, ModelFiles};
use crate::device::DeviceChoice;
use crate::error::Result;
use crate::model::Model;
use crate::tokenizer::Tokenizer;

pub use generate::{GenerateConfig, Generator};
pub use predict::{Prediction, Predictor};

/// A model folder, loaded for use.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) device: Device,
    pub(crate) model: Model,
    pub(crate) weights: Weights,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) files: ModelFiles,
}

impl Loaded {
    /// Loads a run folder, its `final/`, or a checkpoint; every parameter must be there.
    pub(crate) fn open(path: &Path, device: &DeviceChoice, threads: usize) -> Result<Self> {
        let device = device.open(threads)?;
        let (loaded, tokenizer) = checkpoint::load_model_and_tokenizer(path)?;
        let model = Model::new(&loaded.files.config)?;
        let weights = loaded.mapped_weights(model.table())?;
        Ok(Self { device, model, weights, tokenizer, files: loaded.files })
    }
}
