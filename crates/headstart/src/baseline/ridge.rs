//! Linear regression with a penalty on the weights, by conjugate gradients.
//!
//! Owns: the fit, which is the same for any number of threads. Never: texts.
//!
//! The weights minimise `|W|^2 + strength * sum of the squared errors of the rows that count`; the constant bears no penalty. With
//! scikit-learn's `alpha` as 1 / strength it is its `Ridge`.

use super::logistic::{add, dot};
use super::matrix::Rows;

const MOST_STEPS: usize = 2_000;

/// What is fitted.
pub(super) struct Ridge<'a, X> {
    pub x: &'a X,
    /// The number of each row.
    pub numbers: &'a [f64],
    /// The rows that count.
    pub counts: &'a [bool],
    pub strength: f64,
    /// Where the fit ends: what is left of the slope it began with.
    pub tolerance: f64,
}

impl<X: Rows> Ridge<'_, X> {
    /// Fits, from `weights` on: one for each column of the matrix, and the constant. `false` when `go_on` said no before the end.
    pub fn fit(&self, weights: &mut [f64], go_on: &mut dyn FnMut() -> bool) -> bool {
        let mut scores = vec![0.0; self.x.rows()];
        self.x.times(weights, 1, &mut scores);
        let away: Vec<f64> = self.numbers.iter().zip(&scores).map(|(number, score)| number - score).collect();
        let mut left = vec![0.0; weights.len()];
        self.x.transposed_times(&self.counted(&away), 1, &mut left);
        let columns = self.x.columns();
        add(&mut left[..columns], -1.0, &weights[..columns]);
        let mut diagonal = vec![0.0; weights.len()];
        self.x.squares_times(&self.counted(&vec![1.0; self.x.rows()]), 1, &mut diagonal);
        diagonal[..columns].iter_mut().for_each(|value| *value += 1.0);
        let scaled =
            |left: &[f64]| left.iter().zip(&diagonal).map(|(l, d)| l / d.max(1e-12)).collect::<Vec<_>>();
        let mut eased = scaled(&left);
        let mut direction = eased.clone();
        let mut energy = dot(&left, &eased);
        let end = self.tolerance * self.tolerance * energy;
        for _ in 0..MOST_STEPS {
            if energy <= end || energy <= 0.0 {
                break;
            }
            if !go_on() {
                return false;
            }
            self.x.times(&direction, 1, &mut scores);
            let mut product = vec![0.0; weights.len()];
            self.x.transposed_times(&self.counted(&scores), 1, &mut product);
            add(&mut product[..columns], 1.0, &direction[..columns]);
            let far = energy / dot(&direction, &product);
            if !far.is_finite() {
                break;
            }
            add(weights, far, &direction);
            add(&mut left, -far, &product);
            eased = scaled(&left);
            let before = std::mem::replace(&mut energy, dot(&left, &eased));
            let keep = energy / before;
            direction.iter_mut().zip(&eased).for_each(|(d, e)| *d = e + keep * *d);
        }
        true
    }

    /// The values of the rows that count, each with the weight of an example.
    fn counted(&self, values: &[f64]) -> Vec<f64> {
        let strength = |counts: &bool| if *counts { self.strength } else { 0.0 };
        values.iter().zip(self.counts).map(|(value, counts)| strength(counts) * value).collect()
    }
}
