//! Whether probabilities mean what they say, and the temperature that mends them (Guo et al. 2017).
//!
//! Owns: calibration errors, the reliability diagram's numbers, the temperature's fit. Never: changes a weight, or which class is told.

use serde::{Deserialize, Serialize};

use crate::config::Problem;
use crate::eval::answers::{Answers, softmax};
use crate::event::{Event, Listener};

/// Parts of equal width that confidences are sorted into.
pub const BINS: usize = 15;
/// Fewer examples say nothing of a temperature.
const LEAST_EXAMPLES: usize = 20;
/// A best temperature outside of these is none: probabilities would be all the same, or all 0 and 1.
const SOUND: std::ops::RangeInclusive<f64> = 0.05..=20.0;
/// The fit ends when a step changes the inverse temperature by less than this share.
const PRECISE: f64 = 1e-10;

/// A part of a reliability diagram: examples whose told class had a similar probability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// The mean probability of the told class.
    pub confidence: f64,
    /// The share that was right.
    pub accuracy: f64,
    /// How many there are.
    pub examples: u64,
}

/// What the temperature that was found on validation data is, and what it does there.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// What logits are divided by.
    pub temperature: f64,
    /// Validation examples that it was found on.
    pub examples: u64,
    /// The calibration error there before.
    pub ece_before: f64,
    /// And with it.
    pub ece_after: f64,
    /// The negative log-likelihood of the classes there before.
    pub nll_before: f64,
    /// And with it.
    pub nll_after: f64,
}

/// Sums over probabilities of single labels at one temperature.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sureness {
    /// The expected calibration error of the told class, in [`BINS`] parts.
    pub ece: f64,
    /// The mean squared distance between probabilities and truth; of two classes that of one of them, as scikit-learn has it.
    pub brier: f64,
    /// The mean negative log-likelihood of the true class.
    pub nll: f64,
    /// The parts that have examples.
    pub bins: Vec<Bin>,
}

impl Sureness {
    /// Of answers at a temperature; `None` without single labels.
    pub fn of(answers: &Answers, temperature: f64) -> Option<Self> {
        if answers.problem != Problem::SingleLabel || answers.is_empty() {
            return None;
        }
        let n = answers.len() as f64;
        let (mut sums, mut row) = ([(0.0, 0_u64, 0_u64); BINS], Vec::new());
        let (mut brier, mut nll) = (0.0, 0.0);
        for (example, (&truth, &told)) in answers.classes.iter().zip(&answers.told).enumerate() {
            softmax(answers.row(example), 1.0 / temperature, &mut row);
            let confidence = row[told as usize];
            // The parts are closed above.
            let bin = ((confidence * BINS as f64).ceil() as usize).clamp(1, BINS) - 1;
            let (sum, right, all) = &mut sums[bin];
            *sum += confidence;
            *right += u64::from(truth == told);
            *all += 1;
            let away = |(k, p): (usize, &f64)| (p - f64::from(u8::from(k == truth as usize))).powi(2);
            brier += row.iter().enumerate().map(away).sum::<f64>();
            nll -= row[truth as usize].max(f64::MIN_POSITIVE).ln();
        }
        let scale = if answers.outputs == 2 { 0.5 } else { 1.0 };
        let there = sums.iter().filter(|(_, _, all)| *all > 0);
        let bin = |&(sum, right, examples): &(f64, u64, u64)| Bin {
            confidence: sum / examples as f64,
            accuracy: right as f64 / examples as f64,
            examples,
        };
        let bins: Vec<Bin> = there.map(bin).collect();
        let ece = bins.iter().map(|b| b.examples as f64 / n * (b.accuracy - b.confidence).abs()).sum();
        Some(Self { ece, brier: scale * brier / n, nll: nll / n, bins })
    }
}

impl Calibration {
    /// The temperature with the least negative log-likelihood on these answers, and what it does. `None` where there are no single labels,
    /// too few examples, or no such temperature: where every answer is right, the least is at none at all.
    pub fn fitted(answers: &Answers) -> Option<Self> {
        let (before, examples) = (Sureness::of(answers, 1.0)?, answers.len());
        if examples < LEAST_EXAMPLES {
            return None;
        }
        let temperature = 1.0 / inverse_temperature(answers)?;
        let after = Sureness::of(answers, temperature)?;
        Some(Self {
            temperature,
            examples: examples as u64,
            ece_before: before.ece,
            ece_after: after.ece,
            nll_before: before.nll,
            nll_after: after.nll,
        })
    }
}

impl Calibration {
    /// What the negative log-likelihood of a class falls by where the temperature is that of other examples: those at even places are judged
    /// with that of the odd ones, and the other way round. A half that has no temperature has 1.
    pub fn gain_on_others(answers: &Answers) -> f64 {
        let halves = [0, 1].map(|first| answers.every_other(first));
        let gain = |of: &Answers, temperature: f64| {
            let [before, after] = [1.0, temperature].map(|temperature| Sureness::of(of, temperature));
            before.zip(after).map_or(0.0, |(before, after)| of.len() as f64 * (before.nll - after.nll))
        };
        let [even, odd] = halves.each_ref().map(|half| inverse_temperature(half).map_or(1.0, |x| 1.0 / x));
        (gain(&halves[0], odd) + gain(&halves[1], even)) / answers.len().max(1) as f64
    }

    /// The temperature of a finished model: what [`Self::fitted`] finds, where that is worth something on examples it was not fitted to. Of
    /// tens of examples it may be nothing but their accidents. Says so in a sentence, where there is something to say.
    pub(crate) fn kept(answers: &Answers, listener: &mut Listener<'_>) -> Option<Self> {
        let found = Self::fitted(answers)?;
        if Self::gain_on_others(answers) > 0.0 {
            return Some(found);
        }
        listener(Event::Message(&format!(
            "no temperature is kept: {:.2}, that of the {} validation examples, makes the labels no likelier on examples that it was \
             not fitted to (each half with that of the other)",
            found.temperature, found.examples
        )));
        None
    }
}

/// Where the slope of the negative log-likelihood over the inverse temperature is 0: it is convex there, so Newton's steps within a
/// bracket find the one place.
fn inverse_temperature(answers: &Answers) -> Option<f64> {
    let (mut low, mut high) = (1.0 / SOUND.end(), 1.0 / SOUND.start());
    if slope(answers, low).0 >= 0.0 || slope(answers, high).0 <= 0.0 {
        return None;
    }
    let mut at = 1.0;
    for _ in 0..100 {
        let (slope, curvature) = slope(answers, at);
        if !slope.is_finite() {
            return None;
        }
        let end = if slope > 0.0 { &mut high } else { &mut low };
        *end = at;
        let step = at - slope / curvature;
        let next = if step > low && step < high { step } else { f64::midpoint(low, high) };
        if (next - at).abs() <= PRECISE * at {
            return Some(next);
        }
        at = next;
    }
    Some(at)
}

/// The first and second derivative of the mean negative log-likelihood over the inverse temperature.
fn slope(answers: &Answers, inverse: f64) -> (f64, f64) {
    let (mut first, mut second, mut row) = (0.0, 0.0, Vec::new());
    for (example, &truth) in answers.classes.iter().enumerate() {
        let logits = answers.row(example);
        softmax(logits, inverse, &mut row);
        let mean: f64 = row.iter().zip(logits).map(|(p, &z)| p * f64::from(z)).sum();
        first += mean - f64::from(logits[truth as usize]);
        second += row.iter().zip(logits).map(|(p, &z)| p * (f64::from(z) - mean).powi(2)).sum::<f64>();
    }
    let n = answers.len() as f64;
    (first / n, second / n)
}
