//! What has to be known of model and data before the first rung, and a short measure of the model.
//!
//! Owns: that whatever is wrong with either is found before there is a folder; estimates. Never: trains.

use std::time::Instant;

use super::rung::Rung;
use crate::checkpoint::{ModelPath, load_model};
use crate::config::{
    self, Amount, Arch, AutoConfig, DataConfig, HeadPooling, ModelConfig, PrecisionName, TrainConfig,
};
use crate::data::classification::LabelledSplit;
use crate::data::rows::TextInput;
use crate::data::split::Split;
use crate::device::DeviceChoice;
use crate::error::{Error, Result};
use crate::event::{Event, Listener, Signal};
use crate::infer::{FeatureExtractor, FeaturesConfig};
use crate::setup::bar;
use crate::setup::classifier::{check_numbers, with_columns};
use crate::setup::labelled::DataRequest;
use crate::setup::pairs::to_each_text;

/// Texts that the model is timed on.
const TIMED: usize = 32;
/// A step takes forward, and backward through activations and weights; low-rank updates leave the last one out.
const FULL_WORK: f64 = 3.0;
const LORA_WORK: f64 = 2.2;

/// The task of all rungs.
pub(super) struct Task {
    /// Training examples, without those that are held out for validation.
    pub examples: usize,
    /// Their tokens, where there is a model to have some.
    pub tokens: usize,
    /// Validation examples.
    pub validation: usize,
    /// Classes.
    pub classes: usize,
    /// Whether an example is two texts.
    pub pairs: bool,
    /// Whether there are test data.
    pub has_test: bool,
    /// Where they lie, with the columns that were found.
    pub data: DataConfig,
    /// The texts of the validation examples, or of some.
    pub texts: Vec<TextInput>,
    /// The sizes of the model.
    pub(super) model: Option<ModelConfig>,
}

impl Task {
    /// Reads it.
    ///
    /// # Errors
    /// [`Error::Config`] where there is nothing to judge on; what is wrong with model or data.
    pub(super) fn read(config: &AutoConfig, most_texts: usize, listener: &mut Listener<'_>) -> Result<Self> {
        // What there is to say of the data is said by each rung.
        let mut quiet = |event: Event<'_>| match event {
            Event::Message(_) => Signal::Continue,
            other => listener(other),
        };
        let base = place(config).map(load_model).transpose()?;
        let sizes = base.as_ref().map(|base| base.files.config.clone());
        let request = DataRequest {
            config: &config.data,
            problem: config.problem,
            arch: sizes.as_ref().map_or(Arch::Gpt2, |sizes| sizes.arch),
            pooling: sizes.as_ref().map_or(HeadPooling::Cls, |sizes| sizes.arch.pooling()),
            positions: sizes.as_ref().map_or(usize::MAX, |sizes| sizes.num_max_positions),
            truncation: None,
        };
        let mut task = if let Some(base) = base {
            let mut labelled = request.load(&base.tokenizer()?, None, &mut quiet)?;
            labelled.data.hold_out_validation(config.seed)?;
            labelled.check_label_column(config.num_classes)?;
            let data = &labelled.data;
            let train = data.get(Split::Train)?;
            check_numbers(&config.data, train.iter().map(|example| example.label))?;
            Self {
                examples: train.len(),
                tokens: sizes.as_ref().map_or(0, |sizes| train.amount(sizes.num_max_positions).tokens),
                validation: data.valid.as_ref().map_or(0, LabelledSplit::len),
                classes: data.labels.len(),
                pairs: train.texts_per_example() == 2,
                has_test: data.test.is_some(),
                data: with_columns(&config.data, &data.text_columns, data.label_column.as_deref()),
                texts: Vec::new(),
                model: sizes,
            }
        } else {
            let (data, _) = request.read_texts(None, Some(config.seed), &mut quiet)?;
            Self {
                examples: data.train.texts.len(),
                tokens: 0,
                validation: data.valid.as_ref().map_or(0, |valid| valid.texts.len()),
                classes: data.labels.len(),
                pairs: data.train.pairs,
                has_test: data.test.is_some(),
                data: with_columns(&config.data, &data.text_columns, data.label_column.as_deref()),
                texts: Vec::new(),
                model: None,
            }
        };
        task.check()?;
        let origins = request.origins(Split::Valid, None, Some(config.seed), &mut quiet)?;
        let origins = origins.map(|origins| origins.examples).unwrap_or_default();
        task.texts = origins.into_iter().take(most_texts).map(|origin| origin.input).collect();
        Ok(task)
    }

    fn check(&self) -> Result<()> {
        let refused = |what: &str, fix: &str| {
            Err(Error::Config { key: "data".into(), what: what.into(), fix: fix.into() })
        };
        if self.examples == 0 {
            return refused("it has no training examples", "add a train file, or a valid file beside it");
        }
        if self.validation == 0 {
            return refused(
                "there is no validation data, and none can be held out, so no rung can be judged",
                "add a valid file beside the training data, or more examples of each class",
            );
        }
        Ok(())
    }

    /// Seconds that the model takes for a text, measured on a few; `None` without a model, or where it is none for that.
    pub(super) fn measured(&self, config: &AutoConfig, device: &DeviceChoice) -> Option<f64> {
        let bf16_is_faster = device.open(config.threads).ok()?.prefers_bf16();
        let settings = FeaturesConfig {
            pooling: None,
            normalize: None,
            max_length: None,
            prompt: None,
            precision: config.precision.or(Some(PrecisionName::faster(bf16_is_faster))),
            threads: config.threads,
            device: device.clone(),
        };
        let texts = &self.texts[..self.texts.len().min(TIMED)];
        let mut model = FeatureExtractor::load(place(config)?, &settings).ok()?;
        // The first pass has memory to find.
        model.features(texts).ok()?;
        let clock = Instant::now();
        model.features(texts).ok()?;
        Some(clock.elapsed().as_secs_f64() / texts.len().max(1) as f64)
    }

    /// About how many seconds a rung takes where the model takes so many for a text.
    pub(super) fn estimated(&self, rung: Rung, config: &AutoConfig, text_s: Option<f64>) -> Option<f64> {
        if rung == Rung::Bow {
            let bytes: usize = self
                .texts
                .iter()
                .map(|text| text.first.len() + text.second.as_ref().map_or(0, String::len))
                .sum();
            let all = bytes as f64 / self.texts.len().max(1) as f64 * self.examples as f64;
            return Some(bar::about_seconds(all, self.classes));
        }
        let (sizes, text_s) = (self.model.as_ref()?, text_s?);
        let (examples, all) = (self.examples, (self.examples + self.validation) as f64);
        let passes = |items: usize| {
            let task = config::Task::Finetuning { method: rung.method(), from_scratch: false };
            let mut train: TrainConfig = rung.settings(config, self, None).train;
            train.choose(
                task,
                sizes,
                Amount { examples: items, tokens: self.tokens * items / examples.max(1) },
            );
            train.total_steps(items) as f64 / train.steps_per_epoch(items) as f64
        };
        let texts = match rung {
            Rung::Bow => 0.0,
            Rung::Features => all,
            Rung::Contrastive => {
                let pairs = 2 * examples * to_each_text(examples);
                FULL_WORK * passes(pairs) * 2.0 * pairs as f64 + all
            }
            Rung::Lora | Rung::Full => {
                let work = if rung == Rung::Lora { LORA_WORK } else { FULL_WORK };
                let passes = passes(examples);
                passes * (work * examples as f64 + self.validation as f64)
            }
        };
        Some(texts * text_s)
    }
}

/// Where the model lies.
fn place(config: &AutoConfig) -> Option<ModelPath<'_>> {
    let path = config.model.as_deref()?;
    Some(ModelPath { path, base: config.base.as_deref() })
}
