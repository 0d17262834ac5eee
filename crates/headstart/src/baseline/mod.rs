//! What a pretrained model must beat: logistic regression on a bag of n-grams, weighted by tf-idf. The same on vectors, which a trunk
//! makes of texts, is in `linear.rs`.
//!
//! Owns: the classifier, and how the strength of its penalty is chosen; the same bits each time and for any number of
//! threads. Never: reads data, or knows of transformers.

mod dense;
mod folder;
mod held_out;
mod linear;
mod linear_bag;
mod logistic;
mod matrix;
mod ridge;
#[cfg(test)]
mod tests;
mod vocabulary;

use std::collections::HashMap;

use rayon::prelude::*;

use logistic::{Problem, columns, to_probabilities};
use matrix::{Matrix, Rows};
use vocabulary::{Row, Vocabulary};

pub use folder::{Bag, BagModel};
pub use linear::{LinearModel, Targets, Vectors};
pub use linear_bag::LinearBag;
pub use vocabulary::NGrams;

/// Parts of the examples that are left out in turn where the strength is chosen.
const FOLDS: usize = 3;
/// More examples than this tell enough with one part left out.
const MANY_EXAMPLES: usize = 10_000;
/// The strengths to choose from, the one that is used where nothing can be chosen, and how well the fits are done.
const STRENGTHS: [f64; 6] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0];
const USUAL_STRENGTH: f64 = 16.0;
const ROUGH: f64 = 3e-2;
const FINE: f64 = 1e-7;

/// Texts with their classes.
#[derive(Clone, Copy, Debug)]
pub struct Examples<'a> {
    /// The texts.
    pub texts: &'a [&'a str],
    /// The class of each, from 0.
    pub classes: &'a [u32],
    /// How many classes there are; some may have no text.
    pub count: usize,
    /// Equal for examples that are left out together; empty: those of one text are.
    pub groups: &'a [u64],
}

/// A fitted classifier.
#[derive(Clone, Debug)]
pub struct BagOfWords {
    vocabulary: Vocabulary,
    /// Which classes have weights: those of the training texts. One alone has none.
    known: Vec<u32>,
    /// Classes of the task.
    count: usize,
    /// A row for each n-gram, and one of constants; a column for each known class, one for two.
    weights: Vec<f32>,
    strength: f64,
}

impl BagOfWords {
    /// Fits a classifier with the strength that does best on parts of the examples that are left out. `None` when
    /// `go_on`, which is asked every so often, said no.
    ///
    /// # Panics
    /// When there are not as many classes as texts.
    pub fn fit(examples: Examples<'_>, ngrams: NGrams, go_on: &mut dyn FnMut() -> bool) -> Option<Self> {
        let prepared = Prepared::new(examples, ngrams);
        let strength = prepared.best_strength(go_on)?;
        prepared.fit(strength, go_on)
    }

    /// Fits a classifier. `strength`: how much an example counts beside the penalty on the weights, as scikit-learn's `C`.
    ///
    /// # Panics
    /// When there are not as many classes as texts.
    pub fn fit_with(
        examples: Examples<'_>,
        ngrams: NGrams,
        strength: f64,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Option<Self> {
        Prepared::new(examples, ngrams).fit(strength, go_on)
    }

    /// What an example counted beside the penalty.
    pub fn strength(&self) -> f64 {
        self.strength
    }

    /// The probability of each class of the task.
    pub fn probabilities(&self, text: &str) -> Vec<f64> {
        let mut all = vec![0.0; self.count];
        let [first, others @ ..] = &self.known[..] else { return all };
        if others.is_empty() {
            all[*first as usize] = 1.0;
            return all;
        }
        let mut scores = self.scores(&self.vocabulary.row(text));
        to_probabilities(&mut scores);
        if let [second] = scores[..] {
            scores = vec![1.0 - second, second];
        }
        for (class, probability) in self.known.iter().zip(scores) {
            all[*class as usize] = probability;
        }
        all
    }

    /// The most likely class of a text; of equal ones the first.
    pub fn predict(&self, text: &str) -> usize {
        let all = self.probabilities(text);
        (1..all.len()).fold(0, |best, class| if all[class] > all[best] { class } else { best })
    }

    /// The share of texts whose class is predicted.
    pub fn accuracy(&self, texts: &[&str], classes: &[u32]) -> f64 {
        let right =
            texts.par_iter().zip(classes).filter(|(text, class)| self.predict(text) == **class as usize);
        right.count() as f64 / texts.len() as f64
    }

    /// [`Self::probabilities`] of many texts.
    pub fn all_probabilities(&self, texts: &[&str]) -> Vec<Vec<f64>> {
        texts.par_iter().map(|text| self.probabilities(text)).collect()
    }

    fn scores(&self, row: &Row) -> Vec<f64> {
        let k = columns(self.known.len());
        let of = |number: usize| self.weights[number * k..][..k].iter().map(|weight| f64::from(*weight));
        let mut scores: Vec<f64> = of(self.vocabulary.count()).collect();
        for &(number, value) in row {
            let value = f64::from(value);
            scores.iter_mut().zip(of(number as usize)).for_each(|(score, weight)| *score += value * weight);
        }
        scores
    }
}

/// Examples as rows.
struct Prepared<'a> {
    examples: Examples<'a>,
    vocabulary: Vocabulary,
    x: Matrix,
    known: Vec<u32>,
    /// The classes as numbers of `known`.
    classes: Vec<u32>,
}

impl<'a> Prepared<'a> {
    fn new(examples: Examples<'a>, ngrams: NGrams) -> Self {
        let Examples { texts, classes, count, .. } = examples;
        assert_eq!(texts.len(), classes.len(), "a class for each text");
        let (vocabulary, rows) = Vocabulary::of(texts, ngrams);
        let x = Matrix::new(&rows, vocabulary.count());
        let mut number = vec![None; count];
        for class in classes {
            number[*class as usize] = Some(0);
        }
        let mut known = Vec::new();
        for (class, number) in number.iter_mut().enumerate().filter(|(_, number)| number.is_some()) {
            *number = Some(known.len() as u32);
            known.push(class as u32);
        }
        let classes = classes.iter().filter_map(|class| number[*class as usize]).collect();
        Self { examples, vocabulary, x, known, classes }
    }

    fn problem<'p>(&'p self, counts: &'p [bool], strength: f64, tolerance: f64) -> Problem<'p, Matrix> {
        let count = self.known.len();
        let class_weights = None;
        Problem { x: &self.x, classes: &self.classes, count, counts, class_weights, strength, tolerance }
    }

    fn zeros(&self) -> Vec<f64> {
        vec![0.0; (self.x.columns() + 1) * columns(self.known.len())]
    }

    fn fit(self, strength: f64, go_on: &mut dyn FnMut() -> bool) -> Option<BagOfWords> {
        let mut weights = self.zeros();
        if self.known.len() > 1 {
            let all = vec![true; self.classes.len()];
            if !self.problem(&all, strength, FINE).fit(&mut weights, go_on) {
                return None;
            }
        }
        let Self { examples, vocabulary, known, .. } = self;
        let weights = weights.iter().map(|weight| *weight as f32).collect();
        Some(BagOfWords { vocabulary, known, count: examples.count, weights, strength })
    }

    /// The lowest strength that is no worse than the best by more than a standard error of its count of examples that were
    /// left out and are right. The n-grams' frequencies are those of all examples.
    fn best_strength(&self, go_on: &mut dyn FnMut() -> bool) -> Option<f64> {
        let folds = self.folds(FOLDS);
        let left_out = if folds.len() > MANY_EXAMPLES { 1 } else { FOLDS };
        let has_all = |fold: usize| {
            let mut there = vec![false; self.known.len()];
            let kept = folds.iter().zip(&self.classes).filter(|(of, _)| **of != fold);
            kept.for_each(|(_, class)| there[*class as usize] = true);
            there.iter().all(|there| *there)
        };
        if self.known.len() < 2 || !(0..left_out).all(has_all) {
            return Some(USUAL_STRENGTH);
        }
        let k = columns(self.known.len());
        let mut right = [0_usize; STRENGTHS.len()];
        for fold in 0..left_out {
            let counts: Vec<bool> = folds.iter().map(|of| *of != fold).collect();
            let mut weights = self.zeros();
            for (strength, right) in STRENGTHS.into_iter().zip(&mut right) {
                if !self.problem(&counts, strength, ROUGH).fit(&mut weights, go_on) {
                    return None;
                }
                let mut scores = vec![0.0; self.x.rows() * k];
                self.x.times(&weights, k, &mut scores);
                let rows = scores.chunks_exact(k).zip(&self.classes).zip(&counts);
                *right +=
                    rows.filter(|((scores, class), counts)| !**counts && best(scores) == **class).count();
            }
        }
        let tried = folds.iter().filter(|fold| **fold < left_out).count() as f64;
        let most = right.iter().copied().max().unwrap_or(0) as f64;
        let least = most - (most * (1.0 - most / tried)).sqrt();
        let good = |right: &usize| *right as f64 >= least;
        STRENGTHS.into_iter().zip(&right).find(|(_, right)| good(right)).map(|(strength, _)| strength)
    }

    /// The part that each example is left out with: of every class the same share, the same text or group always in one.
    fn folds(&self, parts: usize) -> Vec<usize> {
        let mut of_group: HashMap<u64, usize> = HashMap::new();
        let mut of_class = vec![0_usize; self.known.len()];
        let groups = groups(self.examples.texts, self.examples.groups);
        groups
            .iter()
            .zip(&self.classes)
            .map(|(group, class)| {
                *of_group.entry(*group).or_insert_with(|| {
                    let next = &mut of_class[*class as usize];
                    *next += 1;
                    (*next - 1) % parts
                })
            })
            .collect()
    }
}

/// What examples are left out by: the groups that are given, or where there are none a number for each text.
///
/// # Panics
/// When there are groups, but not as many as texts.
fn groups(texts: &[&str], given: &[u64]) -> Vec<u64> {
    if !given.is_empty() {
        assert_eq!(texts.len(), given.len(), "a group for each text");
        return given.to_vec();
    }
    let mut known: HashMap<&str, u64> = HashMap::new();
    let mut numbers = Vec::with_capacity(texts.len());
    for text in texts {
        let next = known.len() as u64;
        numbers.push(*known.entry(text.trim()).or_insert(next));
    }
    numbers
}

/// The class with the highest score.
fn best(scores: &[f64]) -> u32 {
    match scores {
        [score] => u32::from(*score > 0.0),
        all => (1..all.len()).fold(0, |best, class| if all[class] > all[best] { class } else { best }) as u32,
    }
}
