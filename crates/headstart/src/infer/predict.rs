//! Classifying texts.
//!
//! Owns: what a prediction says. Never: reads standard input, prints.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use headstart_engine::Precision;
use serde_json::{Map, Value};

use crate::baseline::{Bag, BagModel};
use crate::batch::{Batch, TokenTargets};
use crate::checkpoint::ModelPath;
use crate::config::{HeadConfig, PrecisionName, Problem};
use crate::data::classification::joined;
use crate::data::rows::TextInput;
use crate::data::template::Template;
use crate::data::unknown::UnknownTokens;
use crate::device::{Device, DeviceChoice, in_parts_that_fit};
use crate::error::{Error, Result};
use crate::event::{Listener, Signal};
use crate::infer::windows::logits;
use crate::infer::{Loaded, LongTexts, not_finite, wants_pairs};
use crate::interop::number;
use crate::objective::{mean_probabilities, probabilities};

/// One text's prediction.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Prediction {
    /// The best class; all classes over one half joined by `|` (multi-label); the number's digits (regression).
    pub label: String,
    /// The number (regression).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<f32>,
    /// Class -> probability, in the model's order; empty for regression.
    pub probabilities: Map<String, Value>,
    /// Whether the text was longer than the model's positions and was cut.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// The windows it was read in; 1 for a text that is no longer than an input.
    #[serde(skip)]
    pub windows: usize,
}

impl Prediction {
    /// Of a text that was read whole: what the probabilities of `names`, or the number, come to; `best` is a single label's.
    fn of(problem: Problem, names: &[String], values: &[f32], best: usize) -> Self {
        let label = match problem {
            Problem::SingleLabel => names[best].clone(),
            Problem::MultiLabel => {
                let on = values.iter().zip(names).filter(|(p, _)| **p > 0.5).map(|(_, name)| name.as_str());
                on.collect::<Vec<_>>().join("|")
            }
            Problem::Regression => values[0].to_string(),
        };
        let probabilities = match problem {
            Problem::Regression => Map::new(),
            _ => names.iter().cloned().zip(values.iter().map(|&p| number(p))).collect(),
        };
        let number = (problem == Problem::Regression).then(|| values[0]);
        Self { label, number, probabilities, truncated: false, windows: 1 }
    }
}

/// A loaded classifier: a transformer, or a bag of words.
#[derive(Debug)]
pub struct Predictor {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Transformer(Box<Transformer>),
    Bag(Box<BagModel>),
}

/// A transformer with a classification head.
#[derive(Debug)]
struct Transformer {
    loaded: Loaded,
    head: HeadConfig,
    template: Template,
    precision: Precision,
    long: LongTexts,
    /// Of all texts so far.
    unknown: Mutex<UnknownTokens>,
}

impl Predictor {
    /// Loads a run folder, its `final/`, a checkpoint, or an adapter over its model. `precision` `None`: what the model was
    /// trained with. `threads` 0: all.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when the folder is damaged or holds no classifier.
    pub fn load<'a>(
        model: impl Into<ModelPath<'a>>,
        precision: Option<PrecisionName>,
        device: &DeviceChoice,
        threads: usize,
    ) -> Result<Self> {
        let model = model.into();
        let kind = match BagModel::folder(model.path) {
            Some(folder) => Kind::Bag(Box::new(BagModel::open(&folder)?)),
            None => Kind::Transformer(Box::new(Transformer::load(model, precision, device, threads)?)),
        };
        Ok(Self { kind })
    }

    /// Loads adapters of one trunk, which is in memory once: a classifier each.
    ///
    /// # Errors
    /// As for [`Self::load`] and [`crate::checkpoint::load_adapters`].
    pub fn load_each(
        trunk: &Path,
        adapters: &[PathBuf],
        precision: Option<PrecisionName>,
        device: &DeviceChoice,
        threads: usize,
    ) -> Result<Vec<Self>> {
        BagModel::refuse(trunk)?;
        let of = |(loaded, folder): (Loaded, &PathBuf)| {
            let transformer = Transformer::of(loaded, folder, precision)?;
            Ok(Self { kind: Kind::Transformer(Box::new(transformer)) })
        };
        Loaded::open_each(trunk, adapters, device, threads)?.into_iter().zip(adapters).map(of).collect()
    }

    /// Without the model's temperature: with the probabilities that its logits are those of.
    #[must_use]
    pub fn uncalibrated(mut self) -> Self {
        if let Kind::Transformer(transformer) = &mut self.kind {
            transformer.loaded.files.temperature = None;
        }
        self
    }

    /// The same with another treatment of texts that are longer than an input. A bag of words reads all of any text.
    #[must_use]
    pub fn with_long_texts(mut self, long: LongTexts) -> Self {
        if let Kind::Transformer(transformer) = &mut self.kind {
            transformer.long = long;
        }
        self
    }

    /// Where it computes, where there is a choice.
    pub fn device(&self) -> Option<&Device> {
        match &self.kind {
            Kind::Transformer(transformer) => Some(transformer.device()),
            Kind::Bag(_) => None,
        }
    }

    /// What products are computed in; a bag of words has none.
    pub fn precision(&self) -> Option<Precision> {
        match &self.kind {
            Kind::Transformer(transformer) => Some(transformer.precision),
            Kind::Bag(_) => None,
        }
    }

    /// Whether it was trained on pairs of texts.
    pub fn reads_pairs(&self) -> bool {
        match &self.kind {
            Kind::Transformer(transformer) => transformer.loaded.files.pairs,
            Kind::Bag(model) => model.pairs,
        }
    }

    /// The class names, in the order of the probabilities.
    pub fn labels(&self) -> &[String] {
        match &self.kind {
            Kind::Transformer(transformer) => transformer.labels(),
            Kind::Bag(model) => &model.labels,
        }
    }

    /// What people should be told of the texts that were predicted so far, where the tokenizer knows little of them.
    pub fn warning(&self) -> Option<String> {
        match &self.kind {
            Kind::Transformer(transformer) => transformer.warning(),
            Kind::Bag(_) => None,
        }
    }

    /// Classifies texts, or pairs of texts, in order.
    ///
    /// # Errors
    /// [`Error::Config`] where a pair has no room in the model's positions, or the model reads pairs and there is one text; [`Error::BadInput`] when a text cannot be tokenised; [`Error::Checkpoint`] when the model's outputs are not finite;
    /// what goes wrong on the device.
    pub fn predict(&self, inputs: &[TextInput]) -> Result<Vec<Prediction>> {
        match &self.kind {
            Kind::Transformer(transformer) => transformer.predict(inputs),
            Kind::Bag(model) => by_bag(model, inputs),
        }
    }
}

/// What a bag of words says of some texts.
fn by_bag(model: &BagModel, inputs: &[TextInput]) -> Result<Vec<Prediction>> {
    if model.pairs && inputs.iter().any(|input| input.second.is_none()) {
        return Err(wants_pairs());
    }
    let texts: Vec<String> =
        inputs.iter().map(|TextInput { first, second }| joined(first, second.as_deref())).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let (bag, problem) = match &model.bag {
        Bag::SingleLabel(bag) => {
            let prediction = |row: Vec<f64>| {
                // Of equal ones the first.
                let best =
                    (1..row.len()).fold(0, |best, other| if row[other] > row[best] { other } else { best });
                let values: Vec<f32> = row.iter().map(|&p| p as f32).collect();
                Prediction::of(Problem::SingleLabel, &model.labels, &values, best)
            };
            return Ok(bag.all_probabilities(&texts).into_iter().map(prediction).collect());
        }
        Bag::MultiLabel(bag) => (bag, Problem::MultiLabel),
        Bag::Regression(bag) => (bag, Problem::Regression),
    };
    let prediction = |row: &[f32]| {
        let (values, best) = probabilities(row, problem);
        Prediction::of(problem, &model.labels, &values, best)
    };
    Ok(bag.all_outputs(&texts).chunks_exact(bag.count()).map(prediction).collect())
}

impl Transformer {
    fn load(
        model: ModelPath<'_>,
        precision: Option<PrecisionName>,
        device: &DeviceChoice,
        threads: usize,
    ) -> Result<Self> {
        Self::of(Loaded::open(model, device, threads)?, model.path, precision)
    }

    /// A model that is loaded, of this path.
    fn of(loaded: Loaded, path: &Path, precision: Option<PrecisionName>) -> Result<Self> {
        let Some(head) = loaded.files.config.head.clone() else {
            return Err(Error::Checkpoint {
                path: path.to_path_buf(),
                what: match loaded.other_head {
                    Some(other) => format!("is no classifier of texts: {other}"),
                    None => "is a language model without a classification head".into(),
                },
                fix: "fine-tune it first: headstart finetune --model THIS --data ...".into(),
            });
        };
        let config = &loaded.files.config;
        let roles = loaded.tokenizer.roles();
        let template = Template::of(config.arch, head.pooling, roles, config.max_length())
            .truncated(head.truncation.unwrap_or_default());
        let (precision, long) = (loaded.precision(precision), LongTexts::default());
        Ok(Self { loaded, head, template, precision, long, unknown: Mutex::default() })
    }

    fn device(&self) -> &Device {
        &self.loaded.device
    }

    fn labels(&self) -> &[String] {
        &self.loaded.files.labels
    }

    fn warning(&self) -> Option<String> {
        self.unknown.lock().ok()?.warning("the texts")
    }

    fn predict(&self, inputs: &[TextInput]) -> Result<Vec<Prediction>> {
        let mut parts = Vec::new();
        let mut batch = Batch::default();
        for TextInput { first, second } in inputs {
            if self.loaded.files.pairs && second.is_none() {
                return Err(wants_pairs());
            }
            self.template.validate(1 + usize::from(second.is_some()))?;
            let first = self.ids(first)?;
            let second = second.as_ref().map(|text| self.ids(text)).transpose()?;
            let windows = match self.long {
                LongTexts::Cut => vec![(&first[..], second.as_deref())],
                LongTexts::Windows => self.template.windows(&first, second.as_deref()),
            };
            let mut cut = false;
            for (first, second) in &windows {
                let encoded = self.template.encode(first, *second);
                cut |= encoded.tokens_cut > 0;
                batch.sequences.push(TokenTargets::None.sequence_of(&encoded, None, 0));
            }
            parts.push((windows.len(), cut));
        }
        let compute = |_: &mut Listener<'_>| logits(&self.loaded, &batch, self.precision);
        let logits = in_parts_that_fit(self.device(), &mut |_| Signal::Continue, compute)?;
        if !logits.iter().all(|logit| logit.is_finite()) {
            return Err(not_finite(&self.loaded.folder));
        }
        let mut rows = logits.chunks_exact(self.head.num_classes);
        let prediction = |(windows, cut): (usize, bool)| {
            let rows: Vec<&[f32]> = rows.by_ref().take(windows).collect();
            self.prediction(&rows, cut)
        };
        Ok(parts.into_iter().map(prediction).collect())
    }

    /// The tokens of a text, which count among those that were predicted.
    fn ids(&self, text: &str) -> Result<Vec<u32>> {
        let ids = self.loaded.tokenizer.encode(text)?;
        if let Ok(mut unknown) = self.unknown.lock() {
            unknown.add(text, &ids, &self.loaded.tokenizer);
        }
        Ok(ids)
    }

    fn prediction(&self, windows: &[&[f32]], truncated: bool) -> Prediction {
        // The best class of an input is that of any temperature.
        let (mut values, mut best) = mean_probabilities(windows, self.head.problem);
        if let Some(temperature) = self.loaded.files.temperature {
            let cooled = |row: &&[f32]| row.iter().map(|&z| (f64::from(z) / temperature) as f32).collect();
            let cooled: Vec<Vec<f32>> = windows.iter().map(cooled).collect();
            let rows: Vec<&[f32]> = cooled.iter().map(Vec::as_slice).collect();
            let several = windows.len() > 1;
            let (at_temperature, best_then) = mean_probabilities(&rows, self.head.problem);
            values = at_temperature;
            best = if several { best_then } else { best };
        }
        let prediction = Prediction::of(self.head.problem, self.labels(), &values, best);
        Prediction { truncated, windows: windows.len(), ..prediction }
    }
}
