//! What a model said of every example of an evaluation, beside what is true.
//!
//! Owns: keeping it, example by example in the order of the data, whichever rank computed it. Never: a metric.

use headstart_engine::ops::loss::best_class;

use crate::batch::Label;
use crate::config::Problem;
use crate::error::Result;
use crate::ranks::Ranks;

/// Numbers that are kept of one evaluation at most (128 MB): what needs them (areas under curves, calibration, a temperature, the
/// list of predictions) is left out where there are more.
const MOST_NUMBERS: usize = 32 << 20;

/// The outputs of a model for each example, with the truth.
#[derive(Clone, Debug, PartialEq)]
pub struct Answers {
    /// What is told.
    pub problem: Problem,
    /// Numbers to an example: the classes; 1 of regression.
    pub outputs: usize,
    /// Logits, or the numbers of regression.
    ///
    /// # Shapes
    /// [examples, `outputs`]
    pub rows: Vec<f32>,
    /// The true class of each example, of single labels.
    pub classes: Vec<u32>,
    /// The class that was told, of single labels.
    pub told: Vec<u32>,
    /// The true values of the others: 0 or 1 for each label, or a number.
    ///
    /// # Shapes
    /// [examples, `outputs`]
    pub values: Vec<f32>,
}

impl Answers {
    /// None yet. `None` where `examples` would be too many to keep.
    pub fn new(problem: Problem, outputs: usize, examples: usize) -> Option<Self> {
        let fits = problem == Problem::Regression || examples.saturating_mul(outputs) <= MOST_NUMBERS;
        let (rows, classes, told, values) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        fits.then_some(Self { problem, outputs, rows, classes, told, values })
    }

    /// Those of a classifier that tells probabilities.
    pub fn of_probabilities(rows: &[Vec<f64>], told: Vec<u32>, classes: &[u32]) -> Option<Self> {
        let outputs = rows.first().map_or(0, Vec::len);
        let mut answers = Self::new(Problem::SingleLabel, outputs, rows.len())?;
        answers.rows = rows.iter().flatten().map(|p| p.max(f64::MIN_POSITIVE).ln() as f32).collect();
        answers.classes = classes.to_vec();
        answers.told = told;
        Some(answers)
    }

    /// How many examples there are.
    pub fn len(&self) -> usize {
        self.rows.len() / self.outputs.max(1)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The outputs for an example.
    pub fn row(&self, example: usize) -> &[f32] {
        &self.rows[example * self.outputs..(example + 1) * self.outputs]
    }

    /// The probabilities of an example's classes, one class or any number of them, at a temperature.
    pub fn probabilities(&self, example: usize, temperature: f64) -> Vec<f64> {
        let mut values = Vec::new();
        match self.problem {
            Problem::SingleLabel => softmax(self.row(example), 1.0 / temperature, &mut values),
            _ => values.extend(self.row(example).iter().map(|&z| 1.0 / (1.0 + (-f64::from(z)).exp()))),
        }
        values
    }

    /// Every other example of single labels, from the one at `first` on.
    pub(super) fn every_other(&self, first: usize) -> Self {
        let of = |values: &[u32]| values.iter().skip(first).step_by(2).copied().collect();
        let rows = self.rows.chunks_exact(self.outputs.max(1)).skip(first).step_by(2);
        Self {
            rows: rows.flatten().copied().collect(),
            classes: of(&self.classes),
            told: of(&self.told),
            values: Vec::new(),
            ..*self
        }
    }

    pub(super) fn push(&mut self, row: &[f32], label: &Label) {
        match label {
            Label::Class(class) => {
                self.classes.push(*class);
                self.told.push(best_class(row) as u32);
            }
            Label::Values(values) => self.values.extend_from_slice(values),
        }
        self.rows.extend_from_slice(row);
    }

    /// Puts those of all ranks together, in the order of ranks, which is that of the examples.
    pub(super) fn add_other_ranks(&mut self, ranks: &Ranks) -> Result<()> {
        if ranks.collective().is_alone() {
            return Ok(());
        }
        let gather = |mine: &[u8]| ranks.collective().gather(mine);
        let floats =
            |all: Vec<Vec<u8>>| all.iter().flat_map(|b| bytemuck::pod_collect_to_vec::<u8, f32>(b)).collect();
        let words =
            |all: Vec<Vec<u8>>| all.iter().flat_map(|b| bytemuck::pod_collect_to_vec::<u8, u32>(b)).collect();
        self.rows = floats(gather(bytemuck::cast_slice(&self.rows))?);
        self.values = floats(gather(bytemuck::cast_slice(&self.values))?);
        self.classes = words(gather(bytemuck::cast_slice(&self.classes))?);
        self.told = words(gather(bytemuck::cast_slice(&self.told))?);
        Ok(())
    }
}

/// The probabilities of logits times `scale`.
pub(super) fn softmax(logits: &[f32], scale: f64, into: &mut Vec<f64>) {
    let most = logits.iter().fold(f64::NEG_INFINITY, |most, &z| most.max(f64::from(z)));
    into.clear();
    into.extend(logits.iter().map(|&z| ((f64::from(z) - most) * scale).exp()));
    let sum: f64 = into.iter().sum();
    for p in into {
        *p /= sum;
    }
}
