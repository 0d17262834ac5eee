//! One small training task: a model, its weights, a batch, an optimizer; and what ten steps of it give.
//!
//! Owns: the losses and the steps of `docs/goldens.md`, over the public API. Never: what the numbers should be.

use headstart::batch::{Batch, Sequence, TeachersInput};
use headstart::config::{HeadPooling, Problem};
use headstart::model::{Inputs, Model};
use headstart::objective::pair_loss;
use headstart::teacher::{Learned, States, Teacher};
use headstart_engine::ops::adam::{self, Adam, Decay, Range};
use headstart_engine::ops::attention::KeyValueCache;
use headstart_engine::ops::loss::Targets;
use headstart_engine::{Device, Flat, Gradients, Packing, Precision, Tape, Value, Weights};

/// What the classification head shall predict.
pub struct Labels {
    pub coef: f64,
    pub classes: Vec<u32>,
    /// Marks or numbers, where the problem is not single-label.
    pub numbers: Vec<f32>,
    /// Whether each two sequences are compared, and 1 or 0 is their cosine to be.
    pub pairs: bool,
}

/// What the language model shall predict: `targets[i]` at the packed row `rows[i]`.
pub struct Lm {
    pub coef: f64,
    pub rows: Vec<u32>,
    pub targets: Vec<u32>,
}

/// Adam with coupled L2 at a constant rate.
#[derive(Clone, Copy)]
pub struct Optimizer {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    pub max_norm: f64,
    pub steps: u64,
}

/// What is learned of another model.
pub struct Lesson {
    pub teacher: Model,
    pub weights: Vec<f32>,
    pub pooling: HeadPooling,
    pub layers: Vec<(usize, usize)>,
    pub learned: Learned,
    /// Lengths and ids of what it reads, where that is something else than the student.
    pub reads: Option<(Vec<usize>, Vec<u32>)>,
    /// The token types there, where it reads pairs.
    pub types: Option<Vec<u32>>,
    /// Then for each two tokens that are the same: of which input, the student's row, and the teacher's.
    pub meeting: Vec<[u32; 3]>,
}

pub struct Task {
    pub model: Model,
    pub weights: Vec<f32>,
    pub lengths: Vec<usize>,
    pub ids: Vec<u32>,
    /// As many as ids, for a model with token types.
    pub token_types: Option<Vec<u32>>,
    pub lm: Option<Lm>,
    pub labels: Option<Labels>,
    pub lesson: Option<Lesson>,
    pub optimizer: Optimizer,
    pub dropout_seed: u64,
}

/// Everything a run gives that a golden holds. Outputs and gradients belong to the first step.
#[derive(Default)]
pub struct Outcome {
    pub hidden: Vec<f32>,
    pub lm_logits: Vec<f32>,
    pub clf_logits: Vec<f32>,
    pub lm_loss: f64,
    pub clf_loss: f64,
    /// Token by token, and of whole inputs.
    pub distances: Vec<f64>,
    /// In the order of the trainable parameters, tied ones joined.
    pub gradients: Vec<f32>,
    pub losses: Vec<f64>,
    pub norms: Vec<f64>,
    /// After the last step.
    pub weights: Vec<f32>,
    /// Ops the tape kept for the backward of the first step.
    pub recorded: usize,
}

impl Lesson {
    fn teacher(&self, precision: Precision) -> Teacher {
        let model = (self.teacher.clone(), Weights::new(self.weights.clone()));
        Teacher::new(model, self.pooling, self.layers.clone(), precision, self.learned, false).unwrap()
    }
}

impl Task {
    /// Trains for all steps, one slab each.
    pub fn run(&self, device: &Device, precision: Precision) -> Outcome {
        let table = self.model.table();
        let packing = self.packing();
        let mut weights = Weights::new(self.weights.clone());
        let mut gradients = Gradients::new(table.trainable_len());
        let mut moments = [Flat::zeros(table.trainable_len()), Flat::zeros(table.trainable_len())];
        let mut outcome = Outcome::default();
        for step in 0..self.optimizer.steps {
            let mut tape = Tape::training(
                device,
                &weights,
                &mut gradients,
                &packing,
                precision,
                self.dropout_seed,
                step,
            );
            let mut states = States::default();
            let inputs = self.inputs(0..self.ids.len());
            let teacher = self.lesson.as_ref().map(|lesson| lesson.teacher(precision));
            // The first step shows all states; the others compute what they need, as the program does.
            let (hidden, read) = if step == 0 || self.reads_all_tokens() {
                self.model.trunk_for_head(&mut tape, inputs, &mut |seen| {
                    if let Some(teacher) = &teacher {
                        teacher.keep(&mut states, seen);
                    }
                })
            } else {
                let read = self.model.trunk_for_classifier(&mut tape, inputs);
                (read.clone(), read)
            };
            let (distance, distances) = self.distances(&mut tape, teacher.as_ref(), (&states, &hidden));
            let lm_loss = self.lm_loss(&mut tape, &hidden, 0..self.ids.len());
            let clf = self.clf_loss(&mut tape, &read, 0..self.lengths.len());
            if step == 0 {
                outcome.hidden = hidden.tensor().to_f32_vec();
                outcome.lm_loss = lm_loss;
                outcome.distances = distances;
                outcome.recorded = tape.recorded();
                (outcome.clf_loss, outcome.clf_logits) = clf.clone();
                if self.lm.is_some() {
                    outcome.lm_logits = self.lm_logits(device, &weights, precision, &hidden);
                }
            }
            outcome.losses.push(self.total(lm_loss, clf.0) + distance);
            tape.backward();
            if step == 0 {
                outcome.gradients = gradients.values().to_vec();
            }
            let norm = adam::squared_norm(device, &gradients).wait().sqrt();
            outcome.norms.push(norm);
            let clip = (self.optimizer.max_norm / (norm + 1e-6)).min(1.0);
            self.update(device, &mut weights, &mut gradients, &mut moments, step + 1, clip as f32);
        }
        outcome.weights = weights.values().to_vec();
        outcome
    }

    /// The gradients of the first step, computed one sequence after the other.
    pub fn gradients_by_sequence(&self, device: &Device, precision: Precision) -> Vec<f32> {
        let table = self.model.table();
        let weights = Weights::new(self.weights.clone());
        let mut gradients = Gradients::new(table.trainable_len());
        let whole = self.packing();
        let together = if self.labels.as_ref().is_some_and(|labels| labels.pairs) { 2 } else { 1 };
        for s in (0..self.lengths.len()).step_by(together) {
            let (end, last) = (s + together, s + together - 1);
            let names: Vec<u64> = (s as u64..end as u64).collect();
            let packing = Packing::new(&self.lengths[s..end], &names);
            let seed = self.dropout_seed;
            let mut tape = Tape::training(device, &weights, &mut gradients, &packing, precision, seed, 0);
            let rows = whole.range(s).start..whole.range(last).end;
            let inputs = self.inputs(rows.clone());
            let (hidden, read) = if self.reads_all_tokens() {
                self.model.trunk_for_head(&mut tape, inputs, &mut |_| ())
            } else {
                let read = self.model.trunk_for_classifier(&mut tape, inputs);
                (read.clone(), read)
            };
            self.lm_loss(&mut tape, &hidden, rows);
            self.clf_loss(&mut tape, &read, s..end);
            tape.backward();
        }
        gradients.values().to_vec()
    }

    /// Hidden states `[N, C]` without dropout.
    pub fn evaluate(&self, device: &Device, precision: Precision) -> Vec<f32> {
        let (weights, packing) = (Weights::new(self.weights.clone()), self.packing());
        let mut tape = Tape::inference(device, &weights, &packing, precision);
        self.model.trunk(&mut tape, self.inputs(0..self.ids.len()), None).tensor().to_f32_vec()
    }

    /// As [`Task::evaluate`], each sequence in a packing of its own.
    pub fn evaluate_by_sequence(&self, device: &Device, precision: Precision) -> Vec<f32> {
        let (weights, whole) = (Weights::new(self.weights.clone()), self.packing());
        let mut hidden = Vec::new();
        for s in 0..self.lengths.len() {
            let packing = Packing::new(&self.lengths[s..=s], &[0]);
            let mut tape = Tape::inference(device, &weights, &packing, precision);
            let inputs = self.inputs(whole.range(s));
            hidden.extend(self.model.trunk(&mut tape, inputs, None).tensor().to_f32_vec());
        }
        hidden
    }

    /// As [`Task::evaluate_by_sequence`], with key-value caches: `prompt` tokens at once, then one at a time.
    pub fn evaluate_cached(&self, device: &Device, precision: Precision, prompt: usize) -> Vec<f32> {
        let (weights, whole) = (Weights::new(self.weights.clone()), self.packing());
        let mut hidden = Vec::new();
        for s in 0..self.lengths.len() {
            let range = whole.range(s);
            let mut caches = vec![KeyValueCache::default(); self.model.config().num_layers];
            let mut at = 0;
            while at < range.len() {
                let new = if at == 0 { prompt.min(range.len()) } else { 1 };
                let packing = Packing::continued(at, new);
                let mut tape = Tape::inference(device, &weights, &packing, precision);
                let inputs = self.inputs(range.start + at..range.start + at + new);
                let h = self.model.trunk(&mut tape, inputs, Some(&mut caches));
                hidden.extend(h.tensor().to_f32_vec());
                at += new;
            }
            assert!(caches.iter().all(|c| c.len() == range.len()));
        }
        hidden
    }

    /// Whether more than the classifier reads what the trunk makes.
    fn reads_all_tokens(&self) -> bool {
        self.lm.is_some() || self.lesson.is_some()
    }

    /// Some of the packed rows.
    fn inputs(&self, range: std::ops::Range<usize>) -> Inputs<'_> {
        let token_type_ids = self.token_types.as_ref().map(|types| &types[range.clone()]);
        Inputs { input_ids: &self.ids[range], token_type_ids }
    }

    fn packing(&self) -> Packing {
        let sequence_ids: Vec<u64> = (0..self.lengths.len() as u64).collect();
        Packing::new(&self.lengths, &sequence_ids)
    }

    /// What a step minimises.
    fn total(&self, lm_loss: f64, clf_loss: f64) -> f64 {
        let lm = self.lm.as_ref().map_or(0.0, |lm| lm.coef * lm_loss);
        lm + self.labels.as_ref().map_or(0.0, |labels| labels.coef * clf_loss)
    }

    /// The loss of what is learned of another model, and the distances it is made of.
    fn distances(
        &self,
        tape: &mut Tape<'_>,
        teacher: Option<&Teacher>,
        states: (&States, &Value),
    ) -> (f64, Vec<f64>) {
        let Some(teacher) = teacher else { return (0.0, Vec::new()) };
        let whole = self.packing();
        let others = self.lesson.as_ref().and_then(|lesson| lesson.reads.as_ref());
        let sequence = |s| Sequence {
            input_ids: self.ids[whole.range(s)].to_vec(),
            token_type_ids: self.token_types.as_ref().map(|types| types[whole.range(s)].to_vec()),
            in_teachers_pieces: others.map(|(lengths, ids)| {
                let start: usize = lengths[..s].iter().sum();
                let range = start..start + lengths[s];
                let meeting = self.lesson.iter().flat_map(|lesson| &lesson.meeting);
                let types = self.lesson.as_ref().and_then(|lesson| lesson.types.as_ref());
                TeachersInput {
                    input_ids: ids[range.clone()].to_vec(),
                    token_type_ids: types.map(|types| types[range].to_vec()),
                    meeting: meeting.filter(|m| m[0] as usize == s).map(|m| (m[1], m[2])).collect(),
                }
            }),
            ..Sequence::default()
        };
        let batch = Batch { sequences: (0..self.lengths.len()).map(sequence).collect() };
        let compared = teacher.compared(&batch);
        let sums = teacher.distances(&self.model, tape, states, &batch.slabs(usize::MAX)[0], compared);
        let parts = teacher.metrics(&sums, compared).into_iter().map(|(_, value)| value).collect();
        (teacher.loss(&sums, compared), parts)
    }

    /// The share of the mean LM loss that lies in `range` of the packed rows, which `hidden` holds.
    fn lm_loss(&self, tape: &mut Tape<'_>, hidden: &Value, range: std::ops::Range<usize>) -> f64 {
        let Some(lm) = &self.lm else { return 0.0 };
        let count = lm.rows.len() as f64;
        let inside = |r: &u32| range.contains(&(*r as usize));
        let picked = lm.rows.iter().zip(&lm.targets).filter(|(r, _)| inside(r));
        let (rows, targets): (Vec<u32>, Vec<u32>) =
            picked.map(|(&r, &t)| (r - range.start as u32, t)).unzip();
        let scale = (lm.coef / count) as f32;
        self.model.lm_loss(tape, hidden, &rows, &targets, scale).sum / count
    }

    /// The share of the mean classification loss that lies in some sequences, which `read` holds; their logits.
    fn clf_loss(
        &self,
        tape: &mut Tape<'_>,
        read: &Value,
        sequences: std::ops::Range<usize>,
    ) -> (f64, Vec<f32>) {
        let Some(labels) = &self.labels else { return (0.0, Vec::new()) };
        if labels.pairs {
            let alike = &labels.numbers[sequences.start / 2..sequences.end / 2];
            let count = labels.numbers.len() as f64;
            let rows = self.model.classified_rows(tape, read);
            let cosines = tape.cosine_of_pairs(&rows[0]).tensor().to_f32_vec();
            let loss = pair_loss(&self.model, tape, read, alike, (labels.coef / count) as f32);
            return (loss.sum / count, cosines);
        }
        let head = self.model.config().head.as_ref().expect("labels need a head");
        let logits = self.model.classify(tape, read).expect("a model with a head");
        let numbers = sequences.start * head.num_classes..sequences.end * head.num_classes;
        let mut count = self.lengths.len() as f64;
        let targets = match head.problem {
            Problem::SingleLabel => Targets::Classes(&labels.classes[sequences], None),
            Problem::MultiLabel => {
                count *= head.num_classes as f64; // the mean is over examples and classes
                Targets::MultiLabel(&labels.numbers[numbers])
            }
            Problem::Regression => Targets::Regression(&labels.numbers[numbers]),
        };
        let loss = tape.loss(&logits, targets, (labels.coef / count) as f32).sum / count;
        (loss, logits.tensor().to_f32_vec())
    }

    /// LM logits of every row; on a tape of their own, which leaves the training tape as it is.
    fn lm_logits(
        &self,
        device: &Device,
        weights: &Weights,
        precision: Precision,
        hidden: &Value,
    ) -> Vec<f32> {
        let packing = self.packing();
        let mut tape = Tape::inference(device, weights, &packing, precision);
        let rows: Vec<u32> = (0..self.ids.len() as u32).collect();
        self.model.lm_logits(&mut tape, hidden, &rows).to_f32_vec()
    }

    fn update(
        &self,
        device: &Device,
        weights: &mut Weights,
        gradients: &mut Gradients,
        moments: &mut [Flat; 2],
        step: u64,
        clip: f32,
    ) {
        let o = self.optimizer;
        let ranges: Vec<Range> = self
            .model
            .table()
            .params()
            .iter()
            .filter_map(|p| {
                let (lr, weight_decay) = (o.lr as f32, o.weight_decay as f32);
                let (start, grad) = (p.offset, p.grad?);
                Some(Range { start, grad, moment: grad, len: p.len(), lr, weight_decay, step })
            })
            .collect();
        let adam =
            Adam { beta1: o.beta1 as f32, beta2: o.beta2 as f32, eps: o.eps as f32, decay: Decay::Coupled };
        let [first, second] = moments;
        adam.step(device, weights, gradients, first, second, &ranges, clip);
    }
}
