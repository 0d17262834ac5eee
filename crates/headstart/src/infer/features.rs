//! Texts as vectors: the hidden states of a model's trunk, pooled.
//!
//! Owns: what a vector is made of where nobody says it, and that it does not depend on the texts beside it. Never: reads
//! standard input, writes files.

use std::cmp::Reverse;

use headstart_engine::{Precision, Tape};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::batch::{Batch, TokenTargets};
use crate::checkpoint::ModelPath;
use crate::config::{HeadPooling, PrecisionName};
use crate::data::rows::TextInput;
use crate::data::template::{Encoded, Template};
use crate::data::unknown::UnknownTokens;
use crate::device::{Device, DeviceChoice, in_parts_that_fit};
use crate::error::{Error, Result};
use crate::event::Signal;
use crate::infer::{Loaded, not_finite};
use crate::interop::{SentenceLinear, SentenceSettings, read_sentence_settings};
use crate::objective::inputs;

/// How the hidden states of a text become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FeaturePooling {
    /// That of `[CLS]`, wherever the family has it.
    Cls,
    /// Their mean.
    Mean,
    /// The largest of each column.
    Max,
    /// That of the last token.
    Last,
}

impl From<FeaturePooling> for HeadPooling {
    fn from(pooling: FeaturePooling) -> Self {
        match pooling {
            FeaturePooling::Cls => Self::Cls,
            FeaturePooling::Mean => Self::Mean,
            FeaturePooling::Max => Self::Max,
            FeaturePooling::Last => Self::Last,
        }
    }
}

/// What the vectors are to be, and how they are computed.
#[derive(Clone, Debug)]
pub struct FeaturesConfig {
    /// `None`: what a sentence-transformers folder says, else the mean.
    pub pooling: Option<FeaturePooling>,
    /// Whether vectors are scaled to length 1. `None`: what a sentence-transformers folder says, else no.
    pub normalize: Option<bool>,
    /// The longest input, in tokens. `None`: what the folder says, else what the model has positions for.
    pub max_length: Option<usize>,
    /// The name of the prompt that stands before every text. `None`: the folder's default, where it has one.
    pub prompt: Option<String>,
    /// f32 or bf16 products. `None`: what the model was trained with, f32 for published ones.
    pub precision: Option<PrecisionName>,
    /// Worker threads; 0: all.
    pub threads: usize,
    /// Where to compute.
    pub device: DeviceChoice,
}

/// Vectors of some texts.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    /// `[texts, width]`, in the order of the texts.
    pub values: Vec<f32>,
    /// Whether each text was longer than the longest input and was cut.
    pub truncated: Vec<bool>,
}

/// A model that makes vectors.
#[derive(Debug)]
pub struct FeatureExtractor {
    loaded: Loaded,
    pooling: HeadPooling,
    /// What the folder has behind its pooling.
    linears: Vec<Rendering>,
    /// Whether vectors have length 1 before columns are cut off, and behind that.
    normalize: [bool; 2],
    /// Numbers that are kept of each.
    width: usize,
    /// Stands before every text.
    prompt: String,
    template: Template,
    precision: Precision,
    /// Of all texts so far.
    unknown: UnknownTokens,
}

impl FeatureExtractor {
    /// Loads a run folder, its `final/`, a checkpoint, or a published model.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when the folder is damaged; [`Error::Config`] when inputs are to be longer than the model has
    /// positions for, and for a prompt that it has not.
    pub fn load<'a>(model: impl Into<ModelPath<'a>>, config: &FeaturesConfig) -> Result<Self> {
        let loaded = Loaded::open(model.into(), &config.device, config.threads)?;
        let folder = read_sentence_settings(&loaded.folder)?;
        let sizes = &loaded.files.config;
        let positions = sizes.num_max_positions;
        if let Some(length) = config.max_length.filter(|&length| length > positions) {
            return Err(Error::Config {
                key: "max_length".into(),
                what: format!("inputs of {length} tokens are asked for, the model has {positions} positions"),
                fix: format!("use {positions} at most, or leave it out"),
            });
        }
        let pooling = config.pooling.map(HeadPooling::from);
        let said = folder.as_ref();
        // They have learned to read the folder's own pooling.
        let own = said.filter(|folder| pooling.is_none_or(|asked| asked == folder.pooling));
        let linears = own.map_or(&[][..], |folder| &folder.linears);
        let linears = renderings(linears, sizes.embed_dim)?;
        let pooling = pooling.or(said.map(|folder| folder.pooling)).unwrap_or(HeadPooling::Mean);
        // As sentence-transformers does: the folder's own scaling before columns are cut off, what is asked for behind that.
        let whole = linears.last().map_or(sizes.embed_dim, |linear| linear.bias.len());
        let width = said.and_then(|folder| folder.truncate_dim).unwrap_or(whole).min(whole);
        let first = config.normalize != Some(false) && said.is_some_and(|folder| folder.normalize);
        let normalize = [first, config.normalize == Some(true)];
        let length = config.max_length.or(said.and_then(|folder| folder.max_length));
        let length = length.unwrap_or(sizes.max_length()).min(positions);
        let template = Template::of(sizes.arch, pooling, loaded.tokenizer.roles(), length);
        template.validate(1)?;
        let (precision, unknown) = (loaded.precision(config.precision), UnknownTokens::default());
        let folder = folder.unwrap_or_else(|| SentenceSettings::of(pooling));
        let prompt = folder.prompt(config.prompt.as_deref())?;
        Ok(Self { loaded, pooling, linears, normalize, width, prompt, template, precision, unknown })
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.loaded.device
    }

    /// What products are computed in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Numbers in a vector.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Numbers in a vector before columns are cut off.
    fn whole(&self) -> usize {
        self.linears.last().map_or(self.loaded.files.config.embed_dim, |linear| linear.bias.len())
    }

    /// The longest input, in tokens.
    pub fn max_length(&self) -> usize {
        self.template.max_positions
    }

    /// What the vectors are, for people.
    pub fn describe(&self) -> String {
        let what = self.pooling.in_words();
        let scaled = if self.normalize.contains(&true) { ", scaled to length 1" } else { "" };
        let (all, width) = (self.whole(), self.width());
        let through: String = self
            .linears
            .iter()
            .map(|linear| {
                let activation = if linear.tanh { ", tanh" } else { "" };
                format!(", through a linear to {}{activation}", linear.bias.len())
            })
            .collect();
        let cut = if width < all { format!(", the first {width} of {all} columns") } else { String::new() };
        let prompt =
            if self.prompt.is_empty() { String::new() } else { format!(" behind {:?}", self.prompt) };
        let length = self.max_length();
        format!(
            "{width} numbers a text: {what}{through}{scaled}{cut}; texts of up to {length} tokens{prompt}"
        )
    }

    /// What people should be told of the texts so far, where the tokenizer knows little of them.
    pub fn warning(&self) -> Option<String> {
        self.unknown.warning("the texts")
    }

    /// The vectors of texts, or of pairs of texts. A vector is the same whatever stands beside its text.
    ///
    /// # Errors
    /// [`Error::Config`] where a pair has no room; [`Error::BadInput`] when a text cannot be tokenised; [`Error::Checkpoint`]
    /// when the model's outputs are not finite; what goes wrong on the device.
    pub fn features(&mut self, texts: &[TextInput]) -> Result<Features> {
        let encoded = texts.par_iter().map(|text| self.encode(text)).collect::<Result<Vec<_>>>()?;
        for (TextInput { first, second }, (ids, _)) in texts.iter().zip(&encoded) {
            for (text, ids) in std::iter::once(first).chain(second).zip(ids) {
                self.unknown.add(text, ids, &self.loaded.tokenizer);
            }
        }
        // Texts of about one length share a slab, in whatever order they come.
        let length = |at: &usize| encoded[*at].1.input_ids.len();
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|at| Reverse(length(at)));
        let sequences = order.iter().map(|&at| TokenTargets::None.sequence_of(&encoded[at].1, None, 0));
        let batch = Batch { sequences: sequences.collect() };
        let rows = in_parts_that_fit(self.device(), &mut |_| Signal::Continue, |_| self.pooled(&batch))?;
        if !rows.iter().all(|value| value.is_finite()) {
            return Err(not_finite(&self.loaded.folder));
        }
        let rows = self.linears.iter().fold(rows, |rows, linear| linear.of(&rows));
        let (width, whole) = (self.width(), self.whole());
        let [first, then] = self.normalize;
        let (mut rows, mut values) = (rows, vec![0.0; order.len() * width]);
        for (row, &at) in rows.chunks_exact_mut(whole).zip(&order) {
            if first {
                normalize(row);
            }
            let vector = &mut values[at * width..][..width];
            vector.copy_from_slice(&row[..width]);
            if then {
                normalize(vector);
            }
        }
        Ok(Features { values, truncated: encoded.iter().map(|(_, input)| input.tokens_cut > 0).collect() })
    }

    /// The largest difference between the beginning of a text's vector and what it is known to be.
    ///
    /// # Errors
    /// As for [`Self::features`].
    pub fn difference(&mut self, text: &str, known: &[f32]) -> Result<f32> {
        let Features { values, .. } = self.features(&[TextInput::from(text)])?;
        Ok(values.iter().zip(known).map(|(value, known)| (value - known).abs()).fold(0.0, f32::max))
    }

    /// The tokens of a text, or of two, and the input that they become.
    fn encode(&self, TextInput { first, second }: &TextInput) -> Result<(Vec<Vec<u32>>, Encoded)> {
        self.template.validate(1 + usize::from(second.is_some()))?;
        let prompted = self.prompt.clone() + first;
        let texts = std::iter::once(&prompted).chain(second);
        let tokens = texts.map(|text| self.loaded.tokenizer.encode(text)).collect::<Result<Vec<_>>>()?;
        let input = self.template.encode(&tokens[0], tokens.get(1).map(Vec::as_slice));
        Ok((tokens, input))
    }

    /// A row of hidden states for each sequence.
    fn pooled(&self, batch: &Batch) -> Vec<f32> {
        let Loaded { device, weights, model, .. } = &self.loaded;
        let mut rows = Vec::new();
        for slab in batch.slabs(device.slab_tokens()) {
            let mut tape = Tape::inference(device, weights, &slab.packing, self.precision);
            let vectors = model.trunk_pooled(&mut tape, inputs(model, &slab), self.pooling);
            rows.extend(vectors.tensor().to_f32_vec());
        }
        rows
    }
}

/// A linear behind the pooling, with its numbers.
#[derive(Debug)]
struct Rendering {
    /// `[outputs, inputs]`
    weight: Vec<f32>,
    bias: Vec<f32>,
    tanh: bool,
}

/// The linears of a folder, of which the first reads so many columns.
fn renderings(linears: &[SentenceLinear], mut columns: usize) -> Result<Vec<Rendering>> {
    let mut loaded = Vec::new();
    for linear in linears {
        if linear.inputs != columns {
            return Err(Error::Checkpoint {
                path: linear.folder.join("config.json"),
                what: format!(
                    "its `in_features` are {}, and what it reads has {columns} columns",
                    linear.inputs
                ),
                fix: "fetch the model again".into(),
            });
        }
        let (weight, bias) = linear.load()?;
        loaded.push(Rendering { weight, bias, tanh: linear.tanh });
        columns = linear.outputs;
    }
    Ok(loaded)
}

impl Rendering {
    /// What it makes of rows: a row's result does not depend on those beside it.
    fn of(&self, rows: &[f32]) -> Vec<f32> {
        let inputs = self.weight.len() / self.bias.len();
        let of_row = |row: &[f32]| -> Vec<f32> {
            let output = |(weights, bias): (&[f32], &f32)| {
                let products = weights.iter().zip(row).map(|(w, x)| f64::from(*w) * f64::from(*x));
                let sum = products.sum::<f64>() + f64::from(*bias);
                (if self.tanh { sum.tanh() } else { sum }) as f32
            };
            self.weight.chunks_exact(inputs).zip(&self.bias).map(output).collect()
        };
        rows.par_chunks_exact(inputs).flat_map_iter(of_row).collect()
    }
}

/// Scales a vector to length 1; one of length 0 stays.
fn normalize(vector: &mut [f32]) {
    let squares: f64 = vector.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
    // The bound of PyTorch's `normalize`.
    let length = squares.sqrt().max(1e-12);
    for value in vector {
        *value = (f64::from(*value) / length) as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_scaled_to_length_1_and_nothing_stays_nothing() {
        let mut vector = [3.0, 0.0, -4.0];
        normalize(&mut vector);
        assert_eq!(format!("{vector:?}"), "[0.6, 0.0, -0.8]");
        let mut nothing = [0.0; 3];
        normalize(&mut nothing);
        assert_eq!(format!("{nothing:?}"), "[0.0, 0.0, 0.0]");
    }
}
