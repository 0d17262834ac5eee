//! What a student learns of its teacher: the distance between the two models' hidden states on the same text.
//!
//! Owns: the teacher's forward pass, which is compared with what. Never: which texts, the student's step (`train`).
//!
//! Hidden states are compared by direction (`headstart_engine::ops::distance`), each through a linear of the student's own:
//! token by token, layer by layer as they are mapped (TinyBERT, Jiao et al. 2020, equation 8), and as the vectors of whole inputs
//! (Reimers and Gurevych 2020). A classifier's answers are compared as they are (Hinton et al. 2015), and so are token relations, head by head
//! (`headstart_engine::ops::relation`; Wang et al. 2020). The teacher computes on a tape that records nothing, and reads what the student
//! reads, or where their vocabularies differ the same texts in pieces of its own: then the states of those pieces are compared that end at
//! one letter of the text (`data::meeting`).

use headstart_engine::ops::relation::{Related, Relations, WIDEST_HEAD};
use headstart_engine::{Flat, Gradients, LossSum, Precision, Tape, Value, Weights, make_resident};

use crate::batch::{Batch, Slab};
use crate::config::{HeadPooling, ModelConfig};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::model::{Inputs, Model, Seen, Toward};

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

/// Sums over slabs of squared distances and of divergences.
#[derive(Clone, Debug, Default)]
pub struct Distances {
    /// Over tokens, layers and columns.
    pub tokens: LossSum,
    /// Over tokens, heads and relations: how far the student's are from the teacher's.
    pub relations: LossSum,
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
    /// Tokens and heads: of several relations the divergences add up.
    pub relations: f64,
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
    /// Of the divergence of token relations; `None`: off.
    pub relations: Option<LearnedRelations>,
    /// Of the distance of whole inputs; 0: off.
    pub sentence_loss: f64,
    /// Of the divergence from a classifier's probabilities; 0: off.
    pub label_loss: f64,
    /// What these are softened by.
    pub temperature: f32,
}

/// What is learned of token relations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearnedRelations {
    /// The weight of their divergence.
    pub weight: f64,
    /// Which.
    pub relations: Relations,
    /// The teacher's layer, from 1, that the student's last one is compared with.
    pub layer: usize,
}

impl LearnedRelations {
    /// Those of two models: with so many `heads` for both queries, keys and values each to themselves, else as their attention has them.
    ///
    /// # Errors
    /// [`Error::Config`] for heads or a layer that they do not have.
    pub fn new(
        weight: f64,
        [student, teacher]: [&ModelConfig; 2],
        heads: Option<usize>,
        layer: Option<usize>,
    ) -> Result<Self> {
        let widths = [student, teacher].map(|config| config.embed_dim);
        let own = [student, teacher].map(|config| config.num_heads);
        let refuse_heads = |what: String| {
            let fix = match best_heads(widths) {
                Some(heads) => format!("give another number, such as {heads}"),
                None => "learn something else, or choose another width for the student".into(),
            };
            Err(Error::Config { key: "relation_heads".into(), what, fix })
        };
        let (heads, of) = match heads {
            Some(heads) if divide(widths, heads) => (heads, Related::Alike),
            Some(heads) => {
                let [own, there] = widths;
                return refuse_heads(format!(
                    "{heads} heads do not divide both {own} columns of the student and {there} of the teacher"
                ));
            }
            None if own[0] == own[1] => (own[0], Related::Attention),
            None => {
                let [own, there] = own;
                return refuse_heads(format!(
                    "the student has {own} heads of attention and the teacher {there}, and they are compared head by head"
                ));
            }
        };
        if let Some(wide) = widths.iter().map(|width| width / heads).find(|&columns| columns > WIDEST_HEAD) {
            return refuse_heads(format!("heads of {wide} columns are compared, and can have {WIDEST_HEAD}"));
        }
        let (layer, has) = (layer.unwrap_or(teacher.num_layers), teacher.num_layers);
        if !(1..=has).contains(&layer) {
            return Err(Error::Config {
                key: "relation_layer".into(),
                what: format!("layer {layer} of the teacher is to be compared, and it has {has}"),
                fix: format!("use {has} at most, or leave it out for the last one"),
            });
        }
        // A token of either may know nothing of those behind it.
        let relations = Relations { heads, of, causal: student.causal || teacher.causal };
        Ok(Self { weight, relations, layer })
    }
}

/// Whether so many heads cut both widths.
fn divide(widths: [usize; 2], heads: usize) -> bool {
    heads > 0 && widths.iter().all(|width| width.is_multiple_of(heads))
}

/// As many heads as can be that are no narrower than models have them.
fn best_heads(widths: [usize; 2]) -> Option<usize> {
    let wide = |heads: usize| widths.iter().all(|width| (16..=WIDEST_HEAD).contains(&(width / heads)));
    (1..=widths[0]).rev().find(|&heads| divide(widths, heads) && wide(heads))
}

/// What of a student's forward pass is compared.
#[derive(Clone, Debug, Default)]
pub struct States {
    /// The hidden states after each layer that is compared, in their order.
    hidden: Vec<Value>,
    /// The last layer's queries, keys and values, where relations are learned.
    heads: Option<Value>,
}

/// The teacher's forward pass over a slab.
struct Answers<'a> {
    tape: Tape<'a>,
    /// The hidden states after each layer that is compared, in their order.
    layers: Vec<Option<Value>>,
    /// Queries, keys and values, where relations are learned.
    heads: Option<Value>,
    hidden: Value,
    /// What a classifier reads.
    read: Value,
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
        let other = batch.sequences.iter().filter_map(|s| s.in_teachers_pieces.as_ref());
        let rows = other.map(|there| there.meeting.len()).reduce(|a, b| a + b);
        Compared {
            tokens: (rows.unwrap_or_else(|| batch.tokens()) * self.layers.len()) as f64 * width,
            relations: self
                .learned
                .relations
                .map_or(0.0, |learned| (batch.tokens() * learned.relations.heads) as f64),
            sentences: batch.sequences.len() as f64 * width,
            labels: batch.sequences.len() as f64,
        }
    }

    /// Keeps of the student's forward pass what is compared.
    pub fn keep(&self, states: &mut States, seen: Seen<'_>) {
        match seen {
            Seen::States(layer, hidden) if self.layers.iter().any(|(student, _)| *student == layer) => {
                states.hidden.push(hidden.clone());
            }
            // The last one stays.
            Seen::Heads(_, qkv) if self.learned.relations.is_some() => states.heads = Some(qkv.clone()),
            _ => {}
        }
    }

    /// The distances of a slab: of what [`Teacher::keep`] kept, and of the student's `last` hidden states. On a training tape their gradients are
    /// those of [`Teacher::loss`].
    ///
    /// # Panics
    /// For a student without the linears.
    pub fn distances(
        &self,
        student: &Model,
        tape: &mut Tape<'_>,
        (states, last): (&States, &Value),
        slab: &Slab<'_>,
        compared: Compared,
    ) -> Distances {
        let original = self.original_ids(slab);
        let mut own = self.answers(tape.device(), slab, original.as_deref());
        let Learned { token_loss, relations, sentence_loss, label_loss, temperature } = self.learned;
        let mut sums = Distances::default();
        for (toward, state, target) in self.compared_rows(student, tape, (states, last), slab, &mut own) {
            let Some(rendered) = student.toward_teacher(tape, &state, toward) else { continue };
            let (sum, weight, count) = match toward {
                Toward::Layer(_) => (&mut sums.tokens, token_loss, compared.tokens),
                Toward::Sentences => (&mut sums.sentences, sentence_loss, compared.sentences),
            };
            sum.add(&tape.distance(&rendered, target.tensor(), (weight / count) as f32));
        }
        if let (Some(learned), Some(states), Some(there)) = (relations, &states.heads, &own.heads) {
            let scale = (learned.weight / compared.relations) as f32;
            let [of_student, of_teacher] = [student, &self.model].map(|model| 3 * model.config().embed_dim);
            let heads = tape.own_columns(states, of_student);
            let target = own.tape.own_columns(there, of_teacher);
            sums.relations = tape.relation(&heads, target.tensor(), learned.relations, scale);
        }
        if label_loss > 0.0 {
            let scale = (label_loss / compared.labels) as f32;
            let answers = self.model.classify(&mut own.tape, &own.read);
            if let (Some(answers), Some(logits)) = (answers, student.classify(tape, last)) {
                sums.labels = tape.soft_labels(&logits, answers.tensor(), temperature, scale);
            }
        }
        sums
    }

    /// What the student's linears read of a slab, as [`Teacher::distances`] has it, and the teacher's rows that they shall come near to.
    pub fn rows(
        &self,
        student: &Model,
        tape: &mut Tape<'_>,
        kept: (&States, &Value),
        slab: &Slab<'_>,
    ) -> Vec<(Toward, Value, Value)> {
        let original = self.original_ids(slab);
        let mut own = self.answers(tape.device(), slab, original.as_deref());
        self.compared_rows(student, tape, kept, slab, &mut own)
    }

    /// The teacher's forward pass over a slab, or over the same texts in its own pieces; `original` are the ids before they were masked.
    fn answers<'t>(
        &'t self,
        device: &'t headstart_engine::Device,
        slab: &'t Slab<'_>,
        original: Option<&'t [u32]>,
    ) -> Answers<'t> {
        let typed = self.model.layout().token_types >= 2;
        let (packing, input_ids, types) = match &slab.in_teachers_pieces {
            Some(there) => (&there.packing, &there.input_ids[..], &there.token_type_ids),
            None => (&slab.packing, original.unwrap_or(&slab.input_ids), &slab.token_type_ids),
        };
        let inputs = Inputs { input_ids, token_type_ids: types.as_deref().filter(|_| typed) };
        let mut tape = Tape::inference(device, &self.weights, packing, self.precision);
        let (mut layers, mut heads) = (vec![None; self.layers.len()], None);
        let relations = self.learned.relations;
        let (hidden, read) = self.model.trunk_for_head(&mut tape, inputs, &mut |seen| match seen {
            Seen::States(layer, h) => {
                let compared = layers.iter_mut().zip(&self.layers);
                for (kept, _) in compared.filter(|(_, (_, teacher))| *teacher == layer) {
                    *kept = Some(h.clone());
                }
            }
            Seen::Heads(layer, qkv) if relations.is_some_and(|learned| learned.layer == layer) => {
                heads = Some(qkv.clone());
            }
            Seen::Heads(..) => {}
        });
        Answers { tape, layers, heads, hidden, read }
    }

    /// The rows that are compared by direction: of the student, of the teacher, and through which linear.
    fn compared_rows(
        &self,
        student: &Model,
        tape: &mut Tape<'_>,
        (states, last): (&States, &Value),
        slab: &Slab<'_>,
        own: &mut Answers<'_>,
    ) -> Vec<(Toward, Value, Value)> {
        let mut rows = Vec::new();
        if self.learned.token_loss > 0.0 {
            for ((state, (layer, _)), target) in
                states.hidden.iter().zip(&self.layers).zip(own.layers.iter().flatten())
            {
                let (state, target) = match &slab.in_teachers_pieces {
                    None => (state.clone(), target.clone()),
                    Some(there) if there.rows.is_empty() => continue,
                    Some(there) => {
                        (tape.select_rows(state, &there.own_rows), own.tape.select_rows(target, &there.rows))
                    }
                };
                rows.push((Toward::Layer(*layer), state, target));
            }
        }
        if self.learned.sentence_loss > 0.0 {
            let target = self.model.pooled(&mut own.tape, &own.hidden, self.pooling);
            rows.push((Toward::Sentences, student.pooled(tape, last, self.pooling), target));
        }
        rows
    }

    /// The loss of a batch from its sums, once they have been waited for.
    pub fn loss(&self, sums: &Distances, compared: Compared) -> f64 {
        let part = |weight: f64, sum: f64, count: f64| {
            if weight > 0.0 && count > 0.0 { weight * sum / count } else { 0.0 }
        };
        part(self.learned.token_loss, sums.tokens.sum, compared.tokens)
            + part(self.relation_loss(), sums.relations.sum, compared.relations)
            + part(self.learned.sentence_loss, sums.sentences.sum, compared.sentences)
            + part(self.learned.label_loss, sums.labels.sum, compared.labels)
    }

    fn relation_loss(&self) -> f64 {
        self.learned.relations.map_or(0.0, |learned| learned.weight)
    }

    /// The metrics of the sums: mean squared distances, 1 where nothing is learned and vectors are 0; mean divergences (nats), 0 where
    /// relations and answers agree, and the share of inputs with the teacher's best class.
    pub fn metrics(&self, sums: &Distances, compared: Compared) -> Vec<(&'static str, f64)> {
        let Learned { token_loss, sentence_loss, label_loss, .. } = self.learned;
        let parts = [
            // Where pieces differ, a text may have none that are compared.
            ("token_distance", token_loss, sums.tokens.sum / compared.tokens.max(1.0)),
            ("relation_divergence", self.relation_loss(), sums.relations.sum / compared.relations),
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
        self.relations.add(&other.relations);
        self.sentences.add(&other.sentences);
        self.labels.add(&other.labels);
    }

    /// Waits for what a device still computes of them.
    pub fn wait(&mut self) {
        self.tokens.wait();
        self.relations.wait();
        self.sentences.wait();
        self.labels.wait();
    }
}

impl Compared {
    /// Adds another batch's.
    pub fn add(&mut self, other: &Self) {
        self.tokens += other.tokens;
        self.relations += other.relations;
        self.sentences += other.sentences;
        self.labels += other.labels;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(embed_dim: usize, num_heads: usize) -> ModelConfig {
        ModelConfig { embed_dim, num_heads, num_layers: 6, causal: false, ..ModelConfig::default() }
    }

    #[test]
    fn relations_have_heads_that_both_models_have() {
        let of = |student: &ModelConfig, heads, layer| {
            LearnedRelations::new(1.0, [student, &sizes(384, 12)], heads, layer)
        };
        let own = of(&sizes(192, 12), None, None).unwrap();
        assert_eq!(
            (own.relations, own.layer),
            (Relations { heads: 12, of: Related::Attention, causal: false }, 6)
        );
        let more = of(&ModelConfig { causal: true, ..sizes(256, 4) }, Some(16), Some(2)).unwrap();
        assert_eq!(
            (more.relations, more.layer),
            (Relations { heads: 16, of: Related::Alike, causal: true }, 2)
        );
        for (student, heads, layer, words) in [
            (sizes(256, 4), None, None, &["relation_heads", "4 heads", "such as 16"][..]),
            (sizes(256, 4), Some(12), None, &["do not divide", "256", "384"]),
            (sizes(256, 4), Some(0), None, &["do not divide"]),
            (sizes(256, 4), Some(1), None, &["256 columns", "can have 128"]),
            (sizes(251, 1), Some(3), None, &["another width"]),
            (sizes(192, 12), None, Some(7), &["relation_layer", "it has 6"]),
            (sizes(192, 12), None, Some(0), &["relation_layer"]),
        ] {
            let refused = of(&student, heads, layer).unwrap_err().to_string();
            for word in words {
                assert!(refused.contains(word), "{word}: {refused}");
            }
        }
    }
}
