//! Logistic regression for several labels at once, and ridge regression, on a bag of n-grams: one column of weights for each label, or
//! one for the number.
//!
//! Owns: that model, and its choice of strengths. Never: reads data, or knows of transformers.

use rayon::prelude::*;

use super::groups;
use super::linear::{Fits, Grid, Targets};
use super::matrix::Matrix;
use super::vocabulary::{NGrams, Vocabulary};

/// Strengths for rows of length 1 and about as many numbers as a text has words.
const GRID: Grid = Grid {
    classes: &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0],
    usual_class: 16.0,
    numbers: &[0.1, 0.3, 1.0, 3.0, 10.0, 30.0],
    usual_number: 1.0,
    rough: 3e-2,
    fine: 1e-7,
};

/// A fitted model.
#[derive(Clone, Debug)]
pub struct LinearBag {
    pub(super) vocabulary: Vocabulary,
    pub(super) outputs: usize,
    /// A row for each n-gram, and one of constants; a column for each output.
    pub(super) weights: Vec<f32>,
    /// What an example counted beside the penalty: scikit-learn's `C` for each label, or 1 over the `alpha` of its `Ridge`.
    pub strengths: Vec<f64>,
}

impl LinearBag {
    /// Fits one with the strengths that do best on parts of the examples that are left out, by cross-entropy or by squared error, or with
    /// the one that is given. `together` is equal for examples that are left out together; empty: those of one text are. `None` when `go_on`, which is asked every so often, said no.
    ///
    /// # Panics
    /// When there are not as many targets as texts.
    pub fn fit(
        (texts, together): (&[&str], &[u64]),
        targets: Targets<'_>,
        ngrams: NGrams,
        strength: Option<f64>,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Option<Self> {
        let (vocabulary, rows) = Vocabulary::of(texts, ngrams);
        let x = Matrix::new(&rows, vocabulary.count());
        let fits = Fits { x: &x, texts: &groups(texts, together), strength, grid: &GRID };
        let (weights, strengths) = fits.fit(targets, go_on)?;
        let outputs = weights.len() / (vocabulary.count() + 1);
        let weights = weights.into_iter().map(|weight| weight as f32).collect();
        Some(Self { vocabulary, outputs, weights, strengths })
    }

    /// How many numbers it tells of a text.
    pub fn count(&self) -> usize {
        self.outputs
    }

    /// What it makes of a text: the logit of each label, or the number.
    pub fn outputs(&self, text: &str) -> Vec<f32> {
        let of = |number: usize| self.weights[number * self.outputs..][..self.outputs].iter();
        let mut sums: Vec<f64> = of(self.vocabulary.count()).map(|weight| f64::from(*weight)).collect();
        for (number, value) in self.vocabulary.row(text) {
            for (sum, weight) in sums.iter_mut().zip(of(number as usize)) {
                *sum += f64::from(value) * f64::from(*weight);
            }
        }
        sums.into_iter().map(|sum| sum as f32).collect()
    }

    /// [`Self::outputs`] of many texts, one behind the other.
    pub fn all_outputs(&self, texts: &[&str]) -> Vec<f32> {
        texts.par_iter().flat_map_iter(|text| self.outputs(text)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_change_no_bit_and_labels_that_are_never_or_always_there_are_no_obstacle() {
        let words = ["calm", "old", "sea", "mill", "hill"];
        let texts: Vec<String> =
            (0..40).map(|n| format!("{} {} x{n}", words[n % 5], words[n * n / 3 % 5])).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let marks: Vec<f32> =
            texts.iter().flat_map(|text| [0.0, f32::from(u8::from(text.contains("calm"))), 1.0]).collect();
        let numbers: Vec<f32> = texts.iter().map(|text| text.matches('l').count() as f32).collect();
        for targets in [Targets::MultiLabel(&marks, 3), Targets::Numbers(&numbers)] {
            let fit = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let fit =
                    || LinearBag::fit((&texts, &[]), targets, NGrams::WordsAndCharacters, None, &mut || true);
                pool.install(fit).unwrap()
            };
            let [one, three] = [1, 3].map(fit);
            assert_eq!((&one.weights, &one.strengths), (&three.weights, &three.strengths));
            let calm = one.outputs("calm sea");
            match targets {
                Targets::MultiLabel(..) => {
                    assert!(calm[0] < -2.0 && calm[1] > 0.0 && calm[2] > 2.0, "{calm:?}");
                }
                _ => assert!((calm[0] - 1.0).abs() < 0.6, "{calm:?}"),
            }
            assert!(LinearBag::fit((&texts, &[]), targets, NGrams::Words, None, &mut || false).is_none());
        }
    }
}
