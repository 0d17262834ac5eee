//! Linear models on vectors: logistic regression with one class of several or any number of classes at once, and ridge regression.
//!
//! Owns: standardising, the choice of the penalty's strength by cross-validation, and one form for all results: weights and biases for the
//! vectors as they came. The same bits for any number of threads. Never: what the vectors are of.

use std::collections::HashMap;

use super::dense::{Dense, Standard};
use super::logistic::{Problem, columns, to_probabilities};
use super::matrix::Rows;
use super::ridge::Ridge;

/// Parts of the examples that are left out in turn where the strength is chosen.
const FOLDS: usize = 3;
/// More examples than this tell enough with one part left out.
const MANY_EXAMPLES: usize = 10_000;
/// What is chosen from for standardised vectors.
const GRID: Grid = Grid {
    classes: &[3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0],
    usual_class: 1e-2,
    numbers: &[3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1],
    usual_number: 1e-3,
    rough: 1e-3,
    fine: 1e-8,
};

/// Strengths, and how well fits are done.
pub(super) struct Grid {
    /// To choose from for classes.
    pub(super) classes: &'static [f64],
    /// The one that is used where nothing can be chosen.
    pub(super) usual_class: f64,
    /// The same for numbers; of one example, as the others.
    pub(super) numbers: &'static [f64],
    pub(super) usual_number: f64,
    /// How well the fits are done between which is chosen, and the one that stays.
    pub(super) rough: f64,
    pub(super) fine: f64,
}

/// Vectors of examples.
#[derive(Clone, Copy, Debug)]
pub struct Vectors<'a> {
    /// All numbers, example by example.
    pub values: &'a [f32],
    /// Numbers to an example.
    pub width: usize,
    /// Equal for examples of one text or group, which are left out together.
    pub texts: &'a [u64],
}

/// What is to be told of each example.
#[derive(Clone, Copy, Debug)]
pub enum Targets<'a> {
    /// Its class, of so many.
    Classes(&'a [u32], usize),
    /// Its class, and how much an example of each class counts.
    WeightedClasses(&'a [u32], &'a [f64]),
    /// For each of so many classes whether it is there: 0 or 1.
    MultiLabel(&'a [f32], usize),
    /// A number.
    Numbers(&'a [f32]),
}

/// A fitted model: `W x + b`.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearModel {
    /// `[outputs, width]`.
    pub weights: Vec<f32>,
    /// One for each output.
    pub biases: Vec<f32>,
    /// What an example counted beside the penalty, scikit-learn's `C`, or 1 over the `alpha` of its `Ridge`; one, or one for each class
    /// where there may be several.
    pub strengths: Vec<f64>,
}

impl LinearModel {
    /// Fits one with the strength that does best on parts of the examples that are left out: by cross-entropy, or by squared error. `None`
    /// when `go_on`, which is asked every so often, said no.
    ///
    /// # Panics
    /// When vectors, texts and targets are not as many as each other.
    pub fn fit(vectors: Vectors<'_>, targets: Targets<'_>, go_on: &mut dyn FnMut() -> bool) -> Option<Self> {
        Self::fitted(vectors, targets, None, go_on)
    }

    /// Fits one with a strength that is given.
    ///
    /// # Panics
    /// As [`Self::fit`].
    pub fn fit_with(
        vectors: Vectors<'_>,
        targets: Targets<'_>,
        strength: f64,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Option<Self> {
        Self::fitted(vectors, targets, Some(strength), go_on)
    }

    fn fitted(
        vectors: Vectors<'_>,
        targets: Targets<'_>,
        strength: Option<f64>,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Option<Self> {
        let rows = vectors.texts.len();
        assert_eq!(vectors.values.len(), rows * vectors.width, "a vector for each text");
        let (x, standard) = Dense::standardised(vectors.values, vectors.width);
        let fits = Fits { x: &x, texts: vectors.texts, strength, grid: &GRID };
        let (weights, strengths) = fits.fit(targets, go_on)?;
        Some(raw(&weights, &standard, strengths))
    }

    /// What it makes of a vector.
    pub fn outputs(&self, vector: &[f32]) -> Vec<f32> {
        let rows = self.weights.chunks_exact(vector.len().max(1));
        let output = |(weights, bias): (&[f32], &f32)| {
            let sum: f64 = weights.iter().zip(vector).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
            (sum + f64::from(*bias)) as f32
        };
        rows.zip(&self.biases).map(output).collect()
    }
}

/// The model for vectors that are not standardised: `weights` has a row for each number of a vector and one of constants behind them.
fn raw(weights: &[f64], standard: &Standard, strengths: Vec<f64>) -> LinearModel {
    let width = standard.means.len();
    let outputs = weights.len() / (width + 1);
    let (mut rows, mut biases) = (Vec::with_capacity(width * outputs), Vec::with_capacity(outputs));
    for output in 0..outputs {
        let of_output = |at: usize| weights[at * outputs + output];
        let mut bias = of_output(width);
        for at in 0..width {
            let weight = of_output(at) / standard.deviations[at];
            bias -= weight * standard.means[at];
            rows.push(weight as f32);
        }
        biases.push(bias as f32);
    }
    LinearModel { weights: rows, biases, strengths }
}

/// The fits to one set of rows.
pub(super) struct Fits<'a, X> {
    pub(super) x: &'a X,
    /// Equal for examples of one text.
    pub(super) texts: &'a [u64],
    /// The one that is used; `None`: it is chosen.
    pub(super) strength: Option<f64>,
    pub(super) grid: &'a Grid,
}

impl<X: Rows> Fits<'_, X> {
    /// The weights, a row for each column of the rows and one of constants, with a column for each output; and the strengths that they were
    /// fitted with. `None` when `go_on` said no.
    ///
    /// # Panics
    /// When rows and targets are not as many as each other.
    pub(super) fn fit(
        &self,
        targets: Targets<'_>,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Option<(Vec<f64>, Vec<f64>)> {
        let rows = self.x.rows();
        match targets {
            Targets::Classes(classes, count) => {
                assert_eq!(classes.len(), rows, "a class for each text");
                let (weights, strength) = self.classes(classes, count, None, go_on)?;
                Some((weights, vec![strength]))
            }
            Targets::WeightedClasses(classes, class_weights) => {
                assert_eq!(classes.len(), rows, "a class for each text");
                let count = class_weights.len();
                let (weights, strength) = self.classes(classes, count, Some(class_weights), go_on)?;
                Some((weights, vec![strength]))
            }
            Targets::MultiLabel(marks, count) => {
                assert_eq!(marks.len(), rows * count, "a mark for each class of each text");
                let mut weights = vec![0.0; (self.x.columns() + 1) * count];
                let mut strengths = Vec::with_capacity(count);
                for class in 0..count {
                    let marked: Vec<u32> =
                        marks.iter().skip(class).step_by(count).map(|mark| u32::from(*mark > 0.5)).collect();
                    let (of_class, strength) = self.one_class(&marked, go_on)?;
                    let places = weights.iter_mut().skip(class).step_by(count);
                    places.zip(of_class).for_each(|(to, from)| *to = from);
                    strengths.push(strength);
                }
                Some((weights, strengths))
            }
            Targets::Numbers(numbers) => {
                assert_eq!(numbers.len(), rows, "a number for each text");
                let (weights, strength) = self.numbers(numbers, go_on)?;
                Some((weights, vec![strength]))
            }
        }
    }

    /// One class of several: a column of weights for each of all classes.
    fn classes(
        &self,
        classes: &[u32],
        count: usize,
        class_weights: Option<&[f64]>,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Option<(Vec<f64>, f64)> {
        let mut number = vec![None; count];
        for class in classes {
            number[*class as usize] = Some(0);
        }
        let known: Vec<usize> = (0..count).filter(|class| number[*class].is_some()).collect();
        known.iter().enumerate().for_each(|(at, class)| number[*class] = Some(at as u32));
        let numbered: Vec<u32> = classes.iter().filter_map(|class| number[*class as usize]).collect();
        let width = self.x.columns();
        let mut all = vec![0.0; (width + 1) * count];
        // What is nowhere in the examples is never predicted.
        let never = |all: &mut [f64]| {
            for class in (0..count).filter(|class| number[*class].is_none()) {
                all[width * count + class] = -1e4;
            }
        };
        never(&mut all);
        if known.len() < 2 {
            return Some((all, self.strength.unwrap_or(self.grid.usual_class)));
        }
        let of_known: Option<Vec<f64>> =
            class_weights.map(|weights| known.iter().map(|class| weights[*class]).collect());
        let of_known = of_known.as_deref();
        let (weights, strength) = self.logistic(&numbered, known.len(), of_known, go_on)?;
        let k = columns(known.len());
        for (at, row) in all.chunks_exact_mut(count).enumerate() {
            match &weights[at * k..][..k] {
                // The score of the second of two is shared between them.
                [score] => (row[known[0]], row[known[1]]) = (-score / 2.0, score / 2.0),
                several => known.iter().zip(several).for_each(|(class, weight)| row[*class] = *weight),
            }
        }
        Some((all, strength))
    }

    /// Whether one class is there: a column of weights.
    fn one_class(&self, marked: &[u32], go_on: &mut dyn FnMut() -> bool) -> Option<(Vec<f64>, f64)> {
        let there = marked.iter().filter(|mark| **mark == 1).count();
        if there == 0 || there == marked.len() {
            let mut weights = vec![0.0; self.x.columns() + 1];
            let odds = (there as f64 + 0.5) / ((marked.len() - there) as f64 + 0.5);
            weights[self.x.columns()] = odds.ln();
            return Some((weights, self.strength.unwrap_or(self.grid.usual_class)));
        }
        self.logistic(marked, 2, None, go_on)
    }

    /// Logistic regression of classes that are all there.
    fn logistic(
        &self,
        classes: &[u32],
        count: usize,
        class_weights: Option<&[f64]>,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Option<(Vec<f64>, f64)> {
        let best = |go_on| self.best_of_classes(classes, count, class_weights, go_on);
        let strength = if self.strength.is_some() { self.strength } else { best(go_on) }?;
        let mut weights = vec![0.0; (self.x.columns() + 1) * columns(count)];
        let counts = vec![true; classes.len()];
        let (x, counts, tolerance) = (self.x, &counts[..], self.grid.fine);
        let problem = Problem { x, classes, count, counts, class_weights, strength, tolerance };
        problem.fit(&mut weights, go_on).then_some((weights, strength))
    }

    fn best_of_classes(
        &self,
        classes: &[u32],
        count: usize,
        class_weights: Option<&[f64]>,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Option<f64> {
        let k = columns(count);
        let trial =
            |counts: &[bool], strength: f64, weights: &mut Vec<f64>, go_on: &mut dyn FnMut() -> bool| {
                weights.resize((self.x.columns() + 1) * k, 0.0);
                let (x, tolerance) = (self.x, self.grid.rough);
                let problem = Problem { x, classes, count, counts, class_weights, strength, tolerance };
                if !problem.fit(weights, go_on) {
                    return None;
                }
                let mut scores = vec![0.0; self.x.rows() * k];
                self.x.times(weights, k, &mut scores);
                let loss = |(scores, class): (&mut [f64], &u32)| {
                    to_probabilities(scores);
                    let probability = match scores {
                        [second] if *class == 0 => 1.0 - *second,
                        [second] => *second,
                        all => all[*class as usize],
                    };
                    let weight = class_weights.map_or(1.0, |weights| weights[*class as usize]);
                    weight * -probability.max(1e-300).ln()
                };
                Some(scores.chunks_exact_mut(k).zip(classes).map(loss).collect())
            };
        best(self.grid.classes, self.grid.usual_class, &self.folds(classes, count), trial, go_on)
    }

    fn numbers(&self, numbers: &[f32], go_on: &mut dyn FnMut() -> bool) -> Option<(Vec<f64>, f64)> {
        let numbers: Vec<f64> = numbers.iter().map(|number| f64::from(*number)).collect();
        let strength = self.strength.map_or_else(|| self.best_of_numbers(&numbers, go_on), Some)?;
        let mut weights = vec![0.0; self.x.columns() + 1];
        let counts = vec![true; numbers.len()];
        let ridge =
            Ridge { x: self.x, numbers: &numbers, counts: &counts, strength, tolerance: self.grid.fine };
        ridge.fit(&mut weights, go_on).then_some((weights, strength))
    }

    fn best_of_numbers(&self, numbers: &[f64], go_on: &mut dyn FnMut() -> bool) -> Option<f64> {
        let trial =
            |counts: &[bool], strength: f64, weights: &mut Vec<f64>, go_on: &mut dyn FnMut() -> bool| {
                weights.resize(self.x.columns() + 1, 0.0);
                let ridge = Ridge { x: self.x, numbers, counts, strength, tolerance: self.grid.rough };
                if !ridge.fit(weights, go_on) {
                    return None;
                }
                let mut scores = vec![0.0; self.x.rows()];
                self.x.times(weights, 1, &mut scores);
                Some(scores.iter().zip(numbers).map(|(score, number)| (score - number).powi(2)).collect())
            };
        let folds = self.folds(&vec![0; numbers.len()], 1);
        best(self.grid.numbers, self.grid.usual_number, &folds, trial, go_on)
    }

    /// The part that each example is left out with: of every class the same share, the same text always in one. A class that would be
    /// in one part alone is left out with none (`FOLDS`), so that every fit knows all classes.
    fn folds(&self, classes: &[u32], count: usize) -> Vec<usize> {
        let mut of_text: HashMap<u64, usize> = HashMap::new();
        let mut of_class = vec![0_usize; count];
        let examples = self.texts.iter().zip(classes);
        let mut folds: Vec<usize> = examples
            .map(|(text, class)| {
                *of_text.entry(*text).or_insert_with(|| {
                    let next = &mut of_class[*class as usize];
                    *next += 1;
                    (*next - 1) % FOLDS
                })
            })
            .collect();
        let mut parts = vec![[false; FOLDS]; count];
        folds.iter().zip(classes).for_each(|(fold, class)| parts[*class as usize][*fold] = true);
        for (fold, class) in folds.iter_mut().zip(classes) {
            if parts[*class as usize].iter().filter(|there| **there).count() < 2 {
                *fold = FOLDS;
            }
        }
        folds
    }
}

/// The strength with the least loss on the examples that are left out, summed in their order; the usual one where none can be left out.
/// `None` when a trial was stopped. `trial` fits to the examples that count, from the weights of the strength before, and gives the loss of
/// each example.
fn best(
    strengths: &[f64],
    usual: f64,
    folds: &[usize],
    mut trial: impl FnMut(&[bool], f64, &mut Vec<f64>, &mut dyn FnMut() -> bool) -> Option<Vec<f64>>,
    go_on: &mut dyn FnMut() -> bool,
) -> Option<f64> {
    let parts = if folds.len() > MANY_EXAMPLES { 1 } else { FOLDS };
    let mut losses = vec![0.0; strengths.len()];
    let mut tried = false;
    for part in 0..parts {
        let counts: Vec<bool> = folds.iter().map(|fold| *fold != part).collect();
        if counts.iter().all(|counts| *counts) || !counts.contains(&true) {
            continue;
        }
        tried = true;
        let mut weights = Vec::new();
        for (strength, loss) in strengths.iter().zip(&mut losses) {
            let of_rows = trial(&counts, *strength, &mut weights, go_on)?;
            let left_out = of_rows.iter().zip(&counts).filter(|(_, counts)| !**counts);
            *loss += left_out.map(|(loss, _)| loss).sum::<f64>();
        }
    }
    let least = losses.iter().copied().fold(f64::INFINITY, f64::min);
    let found = strengths.iter().zip(&losses).find(|(_, loss)| **loss <= least && tried);
    Some(found.map_or(usual, |(strength, _)| *strength))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors whose class, and number, a plane tells apart but for noise.
    fn examples(rows: usize, width: usize, count: u32) -> (Vec<f32>, Vec<u32>, Vec<u64>) {
        let value = |n: usize| ((n * 7_919 + 13) % 1_009) as f32 / 504.5 - 1.0;
        let values: Vec<f32> = (0..rows * width).map(|n| 3.0 + value(n) * (1 + n % width) as f32).collect();
        let classes = values.chunks(width).map(|row| {
            let sum: f32 = row.iter().step_by(2).map(|x| x - 3.0).sum();
            (sum.abs() * 2.0) as u32 % count
        });
        let classes = classes.collect();
        (values, classes, (0..rows as u64).collect())
    }

    fn yes() -> bool {
        true
    }

    #[test]
    fn threads_change_no_bit() {
        let (values, classes, texts) = examples(300, 37, 3);
        let vectors = Vectors { values: &values, width: 37, texts: &texts };
        let numbers: Vec<f32> = classes.iter().map(|class| *class as f32).collect();
        let marks: Vec<f32> =
            classes.iter().flat_map(|class| [0, 1].map(|k| f32::from(u8::from(*class == k)))).collect();
        for targets in
            [Targets::Classes(&classes, 3), Targets::MultiLabel(&marks, 2), Targets::Numbers(&numbers)]
        {
            let fit = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| LinearModel::fit(vectors, targets, &mut yes)).unwrap()
            };
            let [one, three] = [1, 3].map(fit);
            assert_eq!(one, three);
            assert!(one.weights.iter().chain(&one.biases).all(|value| value.is_finite()));
            assert!(LinearModel::fit(vectors, targets, &mut || false).is_none());
        }
    }

    #[test]
    fn classes_that_are_rare_or_not_there_are_no_obstacle() {
        let (values, _, texts) = examples(9, 4, 2);
        let vectors = Vectors { values: &values, width: 4, texts: &texts };
        let model =
            LinearModel::fit(vectors, Targets::Classes(&[0, 2, 0, 2, 0, 2, 0, 2, 4], 5), &mut yes).unwrap();
        let predicted = |row: &[f32]| {
            let all = model.outputs(row);
            (0..5).fold(0, |best, class| if all[class] > all[best] { class } else { best })
        };
        assert!(values.chunks(4).all(|row| [0, 2, 4].contains(&predicted(row))));
        let alone = LinearModel::fit(vectors, Targets::Classes(&[1; 9], 3), &mut yes).unwrap();
        let outputs = alone.outputs(&values[..4]);
        assert!(outputs[1] > outputs[0] && outputs[1] > outputs[2]);
        let marks: Vec<f32> = (0..9).flat_map(|n| [0.0, 1.0, f32::from(u8::from(n > 3))]).collect();
        let model = LinearModel::fit(vectors, Targets::MultiLabel(&marks, 3), &mut yes).unwrap();
        let outputs = model.outputs(&values[..4]);
        assert!(outputs[0] < -2.0 && outputs[1] > 2.0, "{outputs:?}");
        let one = Vectors { values: &values[..4], width: 4, texts: &texts[..1] };
        let model = LinearModel::fit(one, Targets::Numbers(&[7.0]), &mut yes).unwrap();
        assert!((model.outputs(&values[..4])[0] - 7.0).abs() < 1e-5);
    }

    #[test]
    fn parts_that_are_left_out_share_no_text_and_leave_every_class() {
        let x = Dense::standardised(&[0.0; 8], 1).0;
        let fits = Fits { x: &x, texts: &[1, 2, 1, 3, 4, 4, 5, 6], strength: None, grid: &GRID };
        assert_eq!(fits.folds(&[0, 0, 0, 0, 1, 1, 2, 2], 3), [0, 1, 0, 2, FOLDS, FOLDS, 0, 1]);
    }
}
