//! What a slab's forward pass is scored on: token losses, a classification loss, or both.
//!
//! Owns: coefficients, denominators, the step from targets to losses. Never: the order of data, optimizers, files.

use std::ops::Range;
use std::sync::Arc;

use headstart_engine::LossSum;
use headstart_engine::ops::loss::{Targets, best_class};
use headstart_engine::{Tape, Tensor, Value};

use crate::batch::{Batch, Label, Slab};
use crate::config::Problem;
use crate::error::Result;
use crate::model::{Inputs, Model};
use crate::ranks::Ranks;
use crate::teacher::{Compared, Distances, States, Teacher};

/// The weights of the losses.
#[derive(Clone, Debug, Default)]
pub struct Objective {
    /// Of the token loss; 0 or less: off.
    pub lm: f64,
    /// Of the classification loss; 0 or less: off.
    pub clf: f64,
    /// Of each class.
    pub class_weights: Option<Vec<f32>>,
    /// The model that is learned from, if one is.
    pub teacher: Option<Arc<Teacher>>,
    /// What training minimises where there is one class of several.
    pub class_loss: ClassLoss,
    /// Of how far two passes over each sequence are from each other, with other dropout, in training; 0: there is one pass.
    pub r_drop: f64,
}

/// What training minimises where there is one class of several. Evaluations always have cross-entropy, so that they compare.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum ClassLoss {
    /// Cross-entropy.
    #[default]
    CrossEntropy,
    /// With this share of each target spread over all classes.
    Smoothed(f32),
    /// The focal loss with this power.
    Focal(f32),
}

/// What a batch's losses are divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Denominators {
    /// Predicted tokens.
    pub lm: f64,
    /// Classified sequences (weighted), or outputs, or numbers.
    pub clf: f64,
    /// What is compared with a teacher's.
    pub teacher: Compared,
}

/// Sums over slabs.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    /// Over predicted tokens.
    pub lm: LossSum,
    /// Over classified sequences.
    pub clf: LossSum,
    /// To a teacher's hidden states.
    pub teacher: Distances,
}

impl Objective {
    /// The denominators of a whole batch, known before its first slab runs.
    pub fn denominators(&self, batch: &Batch) -> Denominators {
        let clf =
            batch.sequences.iter().filter_map(|s| s.label.as_ref()).map(|label| self.weight(label)).sum();
        let teacher = self.teacher.as_ref().map(|teacher| teacher.compared(batch)).unwrap_or_default();
        Denominators { lm: batch.targets() as f64, clf, teacher }
    }

    /// Those of a training step, whose sums are over every pass.
    pub fn training_denominators(&self, batch: &Batch) -> Denominators {
        let Denominators { lm, clf, teacher } = self.denominators(batch);
        let passes = if self.r_drop > 0.0 { 2.0 } else { 1.0 };
        Denominators { lm: passes * lm, clf: passes * clf, teacher }
    }

    /// The slabs of a training step.
    pub fn training_slabs<'a>(
        &self,
        batch: &'a Batch,
        sequences: Range<usize>,
        slab_tokens: usize,
    ) -> Vec<Slab<'a>> {
        if self.r_drop > 0.0 {
            batch.slabs_twice(sequences, slab_tokens)
        } else {
            batch.slabs_of(sequences, slab_tokens)
        }
    }

    fn weight(&self, label: &Label) -> f64 {
        match label {
            Label::Class(class) => {
                self.class_weights.as_ref().map_or(1.0, |weights| f64::from(weights[*class as usize]))
            }
            Label::Values(values) => values.len() as f64,
        }
    }

    /// Runs the model over a slab and its losses; returns the sums and, with a head, the logits `[B, K]`.
    /// On a training tape the losses' gradients are those of [`Objective::loss`].
    pub fn forward(
        &self,
        model: &Model,
        tape: &mut Tape<'_>,
        slab: &Slab<'_>,
        denominators: Denominators,
    ) -> (Sums, Option<Tensor>) {
        let mut states = States::default();
        let (hidden, read) = if self.reads_all_tokens(slab) {
            model.trunk_for_head(tape, inputs(model, slab), &mut |seen| {
                if let Some(teacher) = &self.teacher {
                    teacher.keep(&mut states, seen);
                }
            })
        } else {
            let read = model.trunk_for_classifier(tape, inputs(model, slab));
            (read.clone(), read)
        };
        let mut sums = Sums::default();
        if let Some(teacher) = &self.teacher {
            sums.teacher = teacher.distances(model, tape, (&states, &hidden), slab, denominators.teacher);
        }
        if self.scores_tokens(slab) {
            let scale = (self.lm / denominators.lm) as f32;
            sums.lm = model.lm_loss(tape, &hidden, &slab.rows, &slab.targets, scale);
        }
        if self.clf <= 0.0 {
            return (sums, None);
        }
        let scale = (self.clf / denominators.clf) as f32;
        let labels = Labels::of(slab);
        if let (Labels::Values(alike), true) = (&labels, slab.sequences.iter().any(|s| s.with_next)) {
            sums.clf = pair_loss(model, tape, &read, alike, scale);
            return (sums, None);
        }
        let Some(logits) = model.classify(tape, &read) else { return (sums, None) };
        let targets = match &labels {
            Labels::Classes(classes) => {
                let weights = self.class_weights.as_deref();
                match self.class_loss {
                    ClassLoss::Smoothed(share) if tape.is_training() => {
                        Targets::Smoothed(classes, weights, share)
                    }
                    ClassLoss::Focal(gamma) if tape.is_training() => Targets::Focal(classes, weights, gamma),
                    _ => Targets::Classes(classes, weights),
                }
            }
            Labels::Values(values) => match model.config().head.as_ref().map(|h| h.problem) {
                Some(Problem::Regression) => Targets::Regression(values),
                _ => Targets::MultiLabel(values),
            },
        };
        sums.clf = tape.loss(&logits, targets, scale);
        if slab.copies == 2 {
            // The denominators count every sequence twice, and a pair is there once.
            sums.clf.add(&tape.agreement(&logits, (2.0 * self.r_drop) as f32, scale));
        }
        (sums, Some(logits.tensor().clone()))
    }

    fn scores_tokens(&self, slab: &Slab<'_>) -> bool {
        self.lm > 0.0 && !slab.rows.is_empty()
    }

    /// Whether more than the classifier reads what the trunk makes.
    fn reads_all_tokens(&self, slab: &Slab<'_>) -> bool {
        self.teacher.is_some() || self.scores_tokens(slab) || self.clf <= 0.0
    }

    /// The loss of a batch from its sums, once they have been waited for.
    pub fn loss(&self, sums: &Sums, denominators: Denominators) -> f64 {
        let part = |coefficient: f64, sum: f64, count: f64| {
            if coefficient > 0.0 && count > 0.0 { coefficient * sum / count } else { 0.0 }
        };
        let teacher = self.teacher.as_ref();
        let distance = teacher.map_or(0.0, |teacher| teacher.loss(&sums.teacher, denominators.teacher));
        part(self.lm, sums.lm.sum, denominators.lm)
            + part(self.clf, sums.clf.sum, denominators.clf)
            + distance
    }
}

/// The summed squared error of the cosine of each two sequences' rows, as the classifier reads them, against 1 or 0 (the
/// `CosineSimilarityLoss` of sentence-transformers).
pub fn pair_loss(model: &Model, tape: &mut Tape<'_>, hidden: &Value, alike: &[f32], scale: f32) -> LossSum {
    let rows = model.classified_rows(tape, hidden);
    let Some(rows) = rows.first() else { return LossSum::default() };
    let cosines = tape.cosine_of_pairs(rows);
    tape.loss(&cosines, Targets::Regression(alike), scale)
}

/// What a model reads of a slab: token types only where it has more than one.
pub fn inputs<'a>(model: &Model, slab: &'a Slab<'_>) -> Inputs<'a> {
    let token_type_ids = slab.token_type_ids.as_deref().filter(|_| model.layout().token_types >= 2);
    Inputs { input_ids: &slab.input_ids, token_type_ids }
}

impl Denominators {
    /// Those of every rank's batches, in the order of ranks; `None` where any rank has none, because it was stopped.
    ///
    /// # Errors
    /// A rank that is lost.
    pub fn of_ranks(own: Option<&[Self]>, ranks: &Ranks) -> Result<Option<Vec<Self>>> {
        if ranks.collective().is_alone() {
            return Ok(own.map(<[Self]>::to_vec));
        }
        let all = gather_parts(own.map(|own| own.iter().copied().flat_map(Self::to_bits).collect()), ranks)?;
        Ok(all.map(|numbers| numbers.as_chunks().0.iter().map(Self::from_bits).collect()))
    }

    /// What other ranks are told.
    fn to_bits(self) -> DenominatorBits {
        let Compared { tokens, relations, sentences, labels } = self.teacher;
        [self.lm, self.clf, tokens, relations, sentences, labels].map(f64::to_bits)
    }

    fn from_bits(bits: &DenominatorBits) -> Self {
        let [lm, clf, tokens, relations, sentences, labels] = bits.map(f64::from_bits);
        Self { lm, clf, teacher: Compared { tokens, relations, sentences, labels } }
    }
}

/// What ranks tell each other of a [`Denominators`], and of a [`Sums`].
type DenominatorBits = [u64; 6];
type SumBits = [u64; 9];

impl Sums {
    /// Adds another slab's, in slab order.
    pub fn add(&mut self, other: &Self) {
        self.lm.add(&other.lm);
        self.clf.add(&other.clf);
        self.teacher.add(&other.teacher);
    }

    /// What other ranks are told, once it has been waited for.
    fn to_bits(&self) -> SumBits {
        let Distances { tokens, relations, sentences, labels } = &self.teacher;
        [
            self.lm.sum.to_bits(),
            self.lm.correct,
            self.clf.sum.to_bits(),
            self.clf.correct,
            tokens.sum.to_bits(),
            relations.sum.to_bits(),
            sentences.sum.to_bits(),
            labels.sum.to_bits(),
            labels.correct,
        ]
    }

    fn from_bits(bits: &SumBits) -> Self {
        let [lm, lm_correct, clf, clf_correct, tokens, relations, sentences, labels, agreed] = *bits;
        let sum = |bits, correct| LossSum::of(f64::from_bits(bits), correct);
        Self {
            lm: sum(lm, lm_correct),
            clf: sum(clf, clf_correct),
            teacher: Distances {
                tokens: sum(tokens, 0),
                relations: sum(relations, 0),
                sentences: sum(sentences, 0),
                labels: sum(labels, agreed),
            },
        }
    }

    /// Waits for what a device still computes of them.
    pub fn wait(&mut self) {
        self.lm.wait();
        self.clf.wait();
        self.teacher.wait();
    }
}

enum Labels {
    Classes(Vec<u32>),
    Values(Vec<f32>),
}

impl Labels {
    fn of(slab: &Slab<'_>) -> Self {
        let (mut classes, mut values) = (Vec::new(), Vec::new());
        let all = (0..slab.copies).flat_map(|_| slab.sequences);
        for label in all.filter_map(|s| s.label.as_ref()) {
            match label {
                Label::Class(class) => classes.push(*class),
                Label::Values(v) => values.extend_from_slice(v),
            }
        }
        if values.is_empty() { Self::Classes(classes) } else { Self::Values(values) }
    }
}

/// The sums of every slab, in the order of ranks, so that they are added as one process adds them; `None` where any rank has
/// none, because it was stopped.
///
/// # Errors
/// A rank that is lost.
pub fn sums_of_ranks(own: Option<&[Sums]>, ranks: &Ranks) -> Result<Option<Vec<Sums>>> {
    if ranks.collective().is_alone() {
        return Ok(own.map(<[Sums]>::to_vec));
    }
    let all = gather_parts(own.map(|own| own.iter().flat_map(Sums::to_bits).collect()), ranks)?;
    Ok(all.map(|numbers| numbers.as_chunks().0.iter().map(Sums::from_bits).collect()))
}

/// The numbers of all ranks, in the order of ranks; `None` where any rank has none.
fn gather_parts(own: Option<Vec<u64>>, ranks: &Ranks) -> Result<Option<Vec<u64>>> {
    let is_there = u64::from(own.is_some());
    let mine: Vec<u64> = std::iter::once(is_there).chain(own.unwrap_or_default()).collect();
    let all = ranks.collective().gather(bytemuck::cast_slice(&mine))?;
    let all: Vec<Vec<u64>> = all.iter().map(|bytes| bytemuck::pod_collect_to_vec(bytes)).collect();
    let all_there = all.iter().all(|numbers| numbers.first() == Some(&1));
    Ok(all_there.then(|| all.iter().flat_map(|numbers| &numbers[1..]).copied().collect()))
}

/// The mean of [`probabilities`] over the rows of several parts of one text, and its best class.
pub fn mean_probabilities(rows: &[&[f32]], problem: Problem) -> (Vec<f32>, usize) {
    if let [row] = rows {
        return probabilities(row, problem);
    }
    let mut sums = vec![0.0_f64; rows.first().map_or(0, |row| row.len())];
    for row in rows {
        let (values, _) = probabilities(row, problem);
        sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += f64::from(value));
    }
    let values: Vec<f32> = sums.iter().map(|sum| (sum / rows.len() as f64) as f32).collect();
    let best = best_class(&values);
    (values, best)
}

/// Probabilities (single- and multi-label) or numbers (regression) of one row of logits, and its label's index
/// for a single label.
pub fn probabilities(logits: &[f32], problem: Problem) -> (Vec<f32>, usize) {
    let best = best_class(logits);
    let values = match problem {
        Problem::SingleLabel => {
            let exps: Vec<f32> = logits.iter().map(|z| (z - logits[best]).exp()).collect();
            let sum: f32 = exps.iter().sum();
            exps.into_iter().map(|e| e / sum).collect()
        }
        Problem::MultiLabel => logits.iter().map(|z| 1.0 / (1.0 + (-z).exp())).collect(),
        Problem::Regression => logits.to_vec(),
    };
    (values, best)
}
