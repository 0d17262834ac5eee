//! What a student learns of its teacher: the distance between the two models' hidden states on the same text.
//!
//! Owns: the teacher's forward pass, which is compared with what. Never: which texts, the student's step (`train`).
//!
//! Hidden states are compared by direction (`headstart_engine::ops::distance`), each through a linear of the student's own:
//! token by token, layer by layer as they are mapped (TinyBERT, Jiao et al. 2020, equation 8), and as the vectors of whole inputs
//! (Reimers and Gurevych 2020). A classifier's answers are compared as they are (Hinton et al. 2015). The teacher computes on a tape that records nothing.

use headstart_engine::{Flat, Gradients, LossSum, Precision, Tape, Value, Weights, make_resident};

use crate::batch::{Batch, Slab};
use crate::config::HeadPooling;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::model::{Inputs, Model};

/// A model that is learned from, and what of it.
#[derive(Debug)]
pub struct Teacher {
    model: Model,
    weights: Weights,
    /// How both models make one vector of an input.
    pooling: HeadPooling,
    /// Student's layer and teacher's layer, from 1.
    layers: Vec<(usize, usize)>,
    precision: Precision,
    learned: Learned,
    /// Whether the student's tokens are masked: the teacher reads them as they were.
    masked: bool,
}

/// Sums over slabs of squared distances.
#[derive(Clone, Debug, Default)]
pub struct Distances {
    /// Over tokens, layers and columns.
    pub tokens: LossSum,
    /// Over inputs and columns.
    pub sentences: LossSum,
    /// Over inputs: how far the student's probabilities are from the teacher's, and how often both have one best class.
    pub labels: LossSum,
}

/// What distances are divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Compared {
    /// Tokens, layers and columns.
    pub tokens: f64,
    /// Inputs and columns.
    pub sentences: f64,
    /// Inputs.
    pub labels: f64,
}

/// The weights of what is learned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Learned {
    /// Of the distance token by token; 0: off.
    pub token_loss: f64,
    /// Of the distance of whole inputs; 0: off.
    pub sentence_loss: f64,
    /// Of the divergence from a classifier's probabilities; 0: off.
    pub label_loss: f64,
    /// What these are softened by.
    pub temperature: f32,
}

impl Teacher {
    /// A teacher whose layers, from 1, the student's are compared with. `masked`: whether the student's inputs are.
    ///
    /// # Errors
    /// [`Error::Config`] for a layer that one of the two does not have.
    pub fn new(
        (model, weights): (Model, Weights),
        pooling: HeadPooling,
        layers: Vec<(usize, usize)>,
        precision: Precision,
        learned: Learned,
        masked: bool,
    ) -> Result<Self> {
        let has = model.config().num_layers;
        if let Some((_, layer)) = layers.iter().find(|(_, layer)| *layer > has) {
            return Err(Error::Config {
                key: "layers".into(),
                what: format!("layer {layer} of the teacher is to be compared, and it has {has}"),
                fix: format!("use {has} at most, or leave layers out for the last ones"),
            });
        }
        Ok(Self { model, weights, pooling, layers, precision, learned, masked })
    }

    /// Puts its weights where a GPU computes.
    ///
    /// # Errors
    /// Memory that is full.
    pub fn make_resident(&self, device: &Device) -> Result<()> {
        let (none, gradients) = (Flat::zeros(0), Gradients::new(0));
        Ok(make_resident(device, &self.weights, &gradients, [&none, &none], self.precision)?)
    }

    /// How many distances a batch's are summed of.
    pub fn compared(&self, batch: &Batch) -> Compared {
        let width = self.model.config().embed_dim as f64;
        Compared {
            tokens: (batch.tokens() * self.layers.len()) as f64 * width,
            sentences: batch.sequences.len() as f64 * width,
            labels: batch.sequences.len() as f64,
        }
    }

    /// Whether the student's hidden states after a layer are compared.
    pub fn compares(&self, layer: usize) -> bool {
        self.layers.iter().any(|(student, _)| *student == layer)
    }

    /// The distances of a slab. `states` are the student's hidden states after each layer that is compared, in their order; `last` those
    /// after the last. On a training tape their gradients are those of [`Teacher::loss`].
    ///
    /// # Panics
    /// For a student without the linears.
    pub fn distances(
        &self,
        student: &Model,
        tape: &mut Tape<'_>,
        (states, last): (&[Value], &Value),
        slab: &Slab<'_>,
        compared: Compared,
    ) -> Distances {
        let original = self.original_ids(slab);
        let token_type_ids = slab.token_type_ids.as_deref().filter(|_| self.model.layout().token_types >= 2);
        let inputs = Inputs { input_ids: original.as_deref().unwrap_or(&slab.input_ids), token_type_ids };
        let mut own = Tape::inference(tape.device(), &self.weights, &slab.packing, self.precision);
        let mut there = vec![None; self.layers.len()];
        let (hidden, read) = self.model.trunk_for_head(&mut own, inputs, &mut |layer, h| {
            for (kept, _) in there.iter_mut().zip(&self.layers).filter(|(_, (_, teacher))| *teacher == layer)
            {
                *kept = Some(h.tensor().clone());
            }
        });
        let mut sums = Distances::default();
        let Learned { token_loss, sentence_loss, label_loss, temperature } = self.learned;
        if token_loss > 0.0 {
            let scale = (token_loss / compared.tokens) as f32;
            for ((state, (layer, _)), target) in states.iter().zip(&self.layers).zip(there.iter().flatten()) {
                let Some(rendered) = student.toward_teacher(tape, state, *layer) else { continue };
                sums.tokens.add(&tape.distance(&rendered, target, scale));
            }
        }
        if sentence_loss > 0.0 {
            let scale = (sentence_loss / compared.sentences) as f32;
            let target = self.model.pooled(&mut own, &hidden, self.pooling);
            let pooled = student.pooled(tape, last, self.pooling);
            if let Some(rendered) = student.toward_sentences(tape, &pooled) {
                sums.sentences = tape.distance(&rendered, target.tensor(), scale);
            }
        }
        if label_loss > 0.0 {
            let scale = (label_loss / compared.labels) as f32;
            let answers = self.model.classify(&mut own, &read);
            if let (Some(answers), Some(logits)) = (answers, student.classify(tape, last)) {
                sums.labels = tape.soft_labels(&logits, answers.tensor(), temperature, scale);
            }
        }
        sums
    }

    /// The loss of a batch from its sums, once they have been waited for.
    pub fn loss(&self, sums: &Distances, compared: Compared) -> f64 {
        let part = |weight: f64, sum: f64, count: f64| if weight > 0.0 { weight * sum / count } else { 0.0 };
        part(self.learned.token_loss, sums.tokens.sum, compared.tokens)
            + part(self.learned.sentence_loss, sums.sentences.sum, compared.sentences)
            + part(self.learned.label_loss, sums.labels.sum, compared.labels)
    }

    /// The metrics of the sums: mean squared distances, 1 where nothing is learned and vectors are 0; the mean divergence (nats), 0 where
    /// answers agree, and the share of inputs with the teacher's best class.
    pub fn metrics(&self, sums: &Distances, compared: Compared) -> Vec<(&'static str, f64)> {
        let Learned { token_loss, sentence_loss, label_loss, .. } = self.learned;
        let parts = [
            ("token_distance", token_loss, sums.tokens.sum / compared.tokens),
            ("sentence_distance", sentence_loss, sums.sentences.sum / compared.sentences),
            ("label_divergence", label_loss, sums.labels.sum / compared.labels),
            ("label_agreement", label_loss, sums.labels.correct as f64 / compared.labels),
        ];
        parts
            .into_iter()
            .filter(|(_, weight, _)| *weight > 0.0)
            .map(|(name, _, value)| (name, value))
            .collect()
    }

    /// The ids before they were masked; `None` where they are as they were.
    fn original_ids(&self, slab: &Slab<'_>) -> Option<Vec<u32>> {
        if !self.masked {
            return None;
        }
        let mut ids = slab.input_ids.clone();
        for (&row, &id) in slab.rows.iter().zip(&slab.targets) {
            ids[row as usize] = id;
        }
        Some(ids)
    }
}

impl Distances {
    /// Adds another slab's, in slab order.
    pub fn add(&mut self, other: &Self) {
        self.tokens.add(&other.tokens);
        self.sentences.add(&other.sentences);
        self.labels.add(&other.labels);
    }

    /// Waits for what a device still computes of them.
    pub fn wait(&mut self) {
        self.tokens.wait();
        self.sentences.wait();
        self.labels.wait();
    }
}

impl Compared {
    /// Adds another batch's.
    pub fn add(&mut self, other: &Self) {
        self.tokens += other.tokens;
        self.sentences += other.sentences;
        self.labels += other.labels;
    }
}
