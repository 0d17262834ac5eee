//! Logistic regression with a penalty on the weights, by Newton's method.
//!
//! Owns: the fit, which is the same for any number of threads. Never: texts.
//!
//! The weights minimise `|W|^2 / 2 + strength * sum of the examples' cross-entropies`, each of which may count as much as its class
//! does; the constants bear no penalty. Two
//! classes have one column, as in scikit-learn, more have one each. A step solves with the curvature at hand by conjugate
//! gradients, roughly at first and better as it nears the end, and is halved until the loss falls.

use rayon::prelude::*;

use super::matrix::Rows;

/// Steps of Newton's method, and of the conjugate gradients inside one.
const MOST_STEPS: usize = 100;
const MOST_INNER_STEPS: usize = 250;
/// A sum over a long vector is the sum of the sums of such parts.
const PART: usize = 1 << 14;

/// What is fitted.
pub(super) struct Problem<'a, X> {
    pub x: &'a X,
    /// The class of each row, from 0.
    pub classes: &'a [u32],
    /// Classes; at least 2, each with a row that counts.
    pub count: usize,
    /// The rows that count.
    pub counts: &'a [bool],
    /// How much an example of each class counts, once more; `None`: all alike.
    pub class_weights: Option<&'a [f64]>,
    /// What an example counts beside the penalty: scikit-learn's `C`.
    pub strength: f64,
    /// Where the fit ends: the largest slope, as a share of the largest weight.
    pub tolerance: f64,
}

/// Scores of rows for two classes or more, as probabilities in their place; one score a row is that of the second of two.
pub(super) fn to_probabilities(scores: &mut [f64]) {
    if let [score] = scores {
        *score = 1.0 / (1.0 + (-*score).exp());
        return;
    }
    let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    for score in &mut *scores {
        *score = (*score - highest).exp();
    }
    let sum: f64 = scores.iter().sum();
    for score in scores {
        *score /= sum;
    }
}

/// The columns that so many classes have.
pub(super) fn columns(classes: usize) -> usize {
    if classes == 2 { 1 } else { classes }
}

impl<X: Rows> Problem<'_, X> {
    fn k(&self) -> usize {
        columns(self.count)
    }

    /// How much an example counts that has this class.
    fn weight(&self, class: u32) -> f64 {
        self.class_weights.map_or(1.0, |weights| weights[class as usize])
    }

    /// Fits, from `weights` on: `k` for each column of the matrix, and `k` constants. `false` when `go_on` said no before
    /// the end.
    pub fn fit(&self, weights: &mut [f64], go_on: &mut dyn FnMut() -> bool) -> bool {
        let k = self.k();
        let mut scores = vec![0.0; self.x.rows() * k];
        self.x.times(weights, k, &mut scores);
        let mut step = vec![0.0; weights.len()];
        let mut step_scores = vec![0.0; scores.len()];
        let mut gradient = vec![0.0; weights.len()];
        let mut first = None;
        for _ in 0..MOST_STEPS {
            if !go_on() {
                return false;
            }
            let probabilities = self.gradient(weights, &scores, &mut gradient);
            if largest(&gradient) <= self.tolerance * largest(weights) {
                break;
            }
            let norm = dot(&gradient, &gradient).sqrt();
            let share = norm / *first.get_or_insert(norm);
            let rest = 0.1_f64.min(share.sqrt()) * norm;
            if !self.solve(&gradient, &probabilities, rest, (&mut step, &mut step_scores), go_on) {
                return false;
            }
            if !self.descend(weights, &mut scores, &step, &step_scores, dot(&gradient, &step)) {
                break;
            }
        }
        true
    }

    /// The gradient at some scores; the result are the rows' probabilities.
    fn gradient(&self, weights: &[f64], scores: &[f64], gradient: &mut [f64]) -> Vec<f64> {
        let k = self.k();
        let mut probabilities = scores.to_vec();
        probabilities.par_chunks_mut(k).with_min_len(1024).for_each(to_probabilities);
        let mut slopes = probabilities.clone();
        slopes.par_chunks_mut(k).with_min_len(1024).zip(self.classes).zip(self.counts).for_each(
            |((slopes, class), counts)| {
                match &mut *slopes {
                    [slope] => *slope -= f64::from(*class),
                    all => all[*class as usize] -= 1.0,
                }
                let strength = if *counts { self.strength * self.weight(*class) } else { 0.0 };
                for slope in slopes {
                    *slope *= strength;
                }
            },
        );
        self.x.transposed_times(&slopes, k, gradient);
        self.add_penalty(weights, gradient);
        probabilities
    }

    /// Adds what has a penalty.
    fn add_penalty(&self, weights: &[f64], sums: &mut [f64]) {
        let penalised = self.x.columns() * self.k();
        add(&mut sums[..penalised], 1.0, &weights[..penalised]);
    }

    /// Solves `H step = -gradient` until what is left is shorter than `rest`; `step_scores` are the scores of the step. `false` when
    /// `go_on` said no before the end: with hundreds of classes one step takes seconds.
    fn solve(
        &self,
        gradient: &[f64],
        probabilities: &[f64],
        rest: f64,
        (step, step_scores): (&mut [f64], &mut [f64]),
        go_on: &mut dyn FnMut() -> bool,
    ) -> bool {
        let k = self.k();
        step.fill(0.0);
        step_scores.fill(0.0);
        let diagonal = self.diagonal(probabilities);
        let mut left: Vec<f64> = gradient.par_iter().map(|slope| -slope).collect();
        let scaled = |left: &[f64], into: &mut Vec<f64>| {
            left.par_iter().zip(&diagonal).map(|(l, d)| l / d).collect_into_vec(into);
        };
        let mut eased = Vec::new();
        scaled(&left, &mut eased);
        let mut direction = eased.clone();
        let mut product = vec![0.0; direction.len()];
        let mut direction_scores = vec![0.0; step_scores.len()];
        let mut bent = vec![0.0; step_scores.len()];
        let mut energy = dot(&left, &eased);
        for _ in 0..MOST_INNER_STEPS {
            if !go_on() {
                return false;
            }
            self.x.times(&direction, k, &mut direction_scores);
            self.bend(probabilities, &direction_scores, &mut bent);
            self.x.transposed_times(&bent, k, &mut product);
            self.add_penalty(&direction, &mut product);
            let curvature = dot(&direction, &product);
            if curvature <= 0.0 || !curvature.is_finite() {
                break;
            }
            let far = energy / curvature;
            add(step, far, &direction);
            add(step_scores, far, &direction_scores);
            add(&mut left, -far, &product);
            if dot(&left, &left).sqrt() <= rest {
                break;
            }
            scaled(&left, &mut eased);
            let before = std::mem::replace(&mut energy, dot(&left, &eased));
            let keep = energy / before;
            direction.par_iter_mut().zip(&eased).with_min_len(PART).for_each(|(d, e)| *d = e + keep * *d);
        }
        true
    }

    /// The curvature of the rows' losses along some scores.
    fn bend(&self, probabilities: &[f64], scores: &[f64], bent: &mut [f64]) {
        let k = self.k();
        let rows = bent.par_chunks_mut(k).zip(probabilities.par_chunks(k)).zip(scores.par_chunks(k));
        let rows = rows.zip(self.counts).zip(self.classes).with_min_len(1024);
        rows.for_each(|((((bent, p), scores), counts), class)| {
            let strength = if *counts { self.strength * self.weight(*class) } else { 0.0 };
            if let ([bent], [p], [score]) = (&mut *bent, p, scores) {
                *bent = strength * p * (1.0 - p) * score;
                return;
            }
            let mean: f64 = p.iter().zip(scores).map(|(p, score)| p * score).sum();
            for ((bent, p), score) in bent.iter_mut().zip(p).zip(scores) {
                *bent = strength * p * (score - mean);
            }
        });
    }

    /// The diagonal of the curvature, which makes the conjugate gradients' steps fewer.
    fn diagonal(&self, probabilities: &[f64]) -> Vec<f64> {
        let k = self.k();
        let mut own: Vec<f64> = probabilities.par_iter().map(|p| self.strength * p * (1.0 - p)).collect();
        own.par_chunks_mut(k).zip(self.counts).zip(self.classes).with_min_len(1024).for_each(
            |((own, counts), class)| {
                let weight = if *counts { self.weight(*class) } else { 0.0 };
                for own in own {
                    *own *= weight;
                }
            },
        );
        let mut diagonal = vec![0.0; (self.x.columns() + 1) * k];
        self.x.squares_times(&own, k, &mut diagonal);
        let (penalised, constants) = diagonal.split_at_mut(self.x.columns() * k);
        penalised.par_iter_mut().with_min_len(PART).for_each(|value| *value += 1.0);
        for value in constants {
            *value = value.max(1e-9);
        }
        diagonal
    }

    /// Goes along a step, or a part of it, to where the loss is lower; `false` where it is nowhere.
    fn descend(
        &self,
        weights: &mut [f64],
        scores: &mut [f64],
        step: &[f64],
        step_scores: &[f64],
        slope: f64,
    ) -> bool {
        let penalised = self.x.columns() * self.k();
        let (w, s) = (&weights[..penalised], &step[..penalised]);
        let (along, length) = (dot(w, s), dot(s, s));
        let before = self.losses(scores);
        let mut part = 1.0;
        for _ in 0..40 {
            let mut there = scores.to_vec();
            add(&mut there, part, step_scores);
            let change = self.losses(&there) - before + part * along + part * part * length / 2.0;
            // Near the end the change drowns in rounding.
            if change <= 1e-4 * part * slope || change.abs() <= 1e-14 * before.abs() {
                add(weights, part, step);
                scores.copy_from_slice(&there);
                return true;
            }
            part /= 2.0;
        }
        false
    }

    /// `strength` times the (weighted) cross-entropies of the rows that count, at some scores.
    pub fn losses(&self, scores: &[f64]) -> f64 {
        let k = self.k();
        let losses: Vec<f64> = scores
            .par_chunks(k)
            .with_min_len(1024)
            .zip(self.classes)
            .zip(self.counts)
            .map(|((scores, class), counts)| match scores {
                _ if !counts => 0.0,
                [score] => {
                    let away = if *class == 1 { -score } else { *score };
                    self.weight(*class) * (away.max(0.0) + (-away.abs()).exp().ln_1p())
                }
                all => {
                    let highest = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let sum: f64 = all.iter().map(|score| (score - highest).exp()).sum();
                    self.weight(*class) * (sum.ln() + highest - all[*class as usize])
                }
            })
            .collect();
        self.strength * losses.iter().sum::<f64>()
    }
}

/// The largest magnitude.
pub(super) fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |most, value| value.abs().max(most))
}

/// The same sum for any number of threads.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let part = |(a, b): (&[f64], &[f64])| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    a.par_chunks(PART).zip(b.par_chunks(PART)).map(part).collect::<Vec<_>>().iter().sum()
}

/// Adds `factor` times some values.
pub(super) fn add(sums: &mut [f64], factor: f64, values: &[f64]) {
    sums.par_iter_mut().zip(values).with_min_len(PART).for_each(|(sum, value)| *sum += factor * value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baseline::matrix::Matrix;

    #[test]
    fn the_fit_is_the_minimum() {
        for count in [2, 3] {
            let rows: Vec<_> =
                (0..30_u32).map(|row| vec![(row % 7, 0.6), (7 + row % 5, 0.8 + 0.01 * row as f32)]).collect();
            let classes: Vec<u32> = (0..30).map(|row| (row * row / 7) % count).collect();
            let (x, counts) = (Matrix::new(&rows, 12), [true; 30]);
            let problem = Problem {
                x: &x,
                classes: &classes,
                count: count as usize,
                counts: &counts,
                class_weights: None,
                strength: 5.0,
                tolerance: 1e-12,
            };
            let k = problem.k();
            let mut weights = vec![0.0; 13 * k];
            assert!(problem.fit(&mut weights, &mut || true));
            let loss = |weights: &[f64]| {
                let mut scores = vec![0.0; 30 * k];
                x.times(weights, k, &mut scores);
                problem.losses(&scores) + dot(&weights[..12 * k], &weights[..12 * k]) / 2.0
            };
            let lowest = loss(&weights);
            for at in 0..weights.len() {
                for by in [-1e-3, 1e-3] {
                    let mut other = weights.clone();
                    other[at] += by;
                    assert!(loss(&other) > lowest, "{count} classes, weight {at}");
                }
            }
            assert!(!problem.fit(&mut weights, &mut || false));
            // It is heard within a step, too.
            let mut asked = 0;
            let mut twice = || {
                asked += 1;
                asked < 3
            };
            assert!(!problem.fit(&mut vec![0.0; 13 * k], &mut twice));
            assert_eq!(asked, 3);
        }
    }
}
