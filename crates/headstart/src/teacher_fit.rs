//! A student's linears toward its teacher, solved in one go before the first step.
//!
//! Owns: least squares over what the linears read, and where the solved numbers go. Never: what is compared (`teacher`), the steps.
//!
//! A model keeps no such linears, so a student that has learned already would begin with random ones: their gradients turn its hidden
//! states away from what they hold until the linears have followed. For fixed states the best linear has a closed form.

use std::cmp::Reverse;

use headstart_engine::rng::Stream;
use headstart_engine::{Precision, Tape, Weights};
use rayon::prelude::*;

use crate::batch::{Batch, Examples, TokenTargets};
use crate::device::{Device, in_parts_that_fit};
use crate::error::Result;
use crate::event::{Event, Listener};
use crate::model::{Model, Toward};
use crate::objective::inputs;
use crate::teacher::{States, Teacher};

/// Inputs at a time; does not change which are read.
const CHUNK: usize = 64;

/// Rows to each column that a linear reads, beyond which more rows tell it little.
const ROWS_PER_COLUMN: usize = 16;

/// Added to the diagonal of the covariance, as a share of its mean: columns that hardly vary decide nothing.
const RIDGE: f64 = 1e-3;

/// What a linear reads of a slab, and what it shall give.
type Rows = (Toward, Vec<f32>, Vec<f32>);

/// A student and what it computes with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Student<'a> {
    pub(crate) device: &'a Device,
    pub(crate) model: &'a Model,
    pub(crate) precision: Precision,
    /// Of which inputs are read.
    pub(crate) seed: u64,
}

impl Student<'_> {
    /// Solves every linear toward the teacher on inputs drawn from the examples, puts them into the weights, and says how near they
    /// come; nothing where nothing is compared by direction.
    ///
    /// # Errors
    /// What goes wrong on the device.
    pub(crate) fn solve_linears(
        self,
        teacher: &Teacher,
        weights: &mut Weights,
        examples: &Examples<'_>,
        listener: &mut Listener<'_>,
    ) -> Result<Option<String>> {
        let columns = self.model.config().embed_dim;
        let wanted = ROWS_PER_COLUMN * columns;
        let mut sums: Vec<(Toward, LeastSquares)> = Vec::new();
        let (mut read, mut places) = (0, Stream::new(self.seed));
        while read < wanted && (sums.is_empty() || sums.iter().any(|(_, sums)| sums.rows < wanted)) {
            read += CHUNK;
            let mut sequences: Vec<_> = (0..CHUNK)
                .map(|_| examples.sequence(places.below(examples.len()), &TokenTargets::None, 0))
                .collect();
            // Inputs of about one length share a slab.
            sequences.sort_by_key(|sequence| Reverse(sequence.input_ids.len()));
            let batch = Batch { sequences };
            let rows = in_parts_that_fit(self.device, listener, |_| self.rows(teacher, weights, &batch))?;
            for (toward, state, target) in rows {
                let at = sums.iter().position(|(of, _)| *of == toward).unwrap_or_else(|| {
                    let outputs = target.len() / (state.len() / columns).max(1);
                    sums.push((toward, LeastSquares::new(columns, outputs)));
                    sums.len() - 1
                });
                if sums[at].1.rows < wanted {
                    sums[at].1.add(&state, &target);
                }
            }
            // Whoever asks to stop is heard at the first step: a run that goes on later must not have begun with half of it.
            listener(Event::Progress {
                what: "solving the linears",
                done: read as u64,
                total: wanted as u64,
            });
        }
        let mut told = Vec::new();
        for (toward, sums) in sums {
            let Some((weight, bias)) = self.model.linear_toward(toward) else { continue };
            let solved = sums.solve();
            weights.values_mut()[weight.offset..][..weight.len()].copy_from_slice(&solved.weight);
            weights.values_mut()[bias.offset..][..bias.len()].copy_from_slice(&solved.bias);
            let of = match toward {
                Toward::Layer(layer) => format!("layer {layer}"),
                Toward::Sentences => "whole inputs".into(),
            };
            told.push(format!("{of} at a distance of {:.3}", solved.distance));
        }
        let line = || format!("the linears toward the teacher, solved on {read} inputs: {}", told.join(", "));
        Ok((!told.is_empty()).then(line))
    }

    /// What the linears read of a batch, slab by slab.
    fn rows(self, teacher: &Teacher, weights: &Weights, batch: &Batch) -> Vec<Rows> {
        let mut rows = Vec::new();
        for slab in batch.slabs(self.device.slab_tokens()) {
            let mut tape = Tape::inference(self.device, weights, &slab.packing, self.precision);
            let mut states = States::default();
            let (last, _) = self.model.trunk_for_head(&mut tape, inputs(self.model, &slab), &mut |seen| {
                teacher.keep(&mut states, seen);
            });
            for (toward, state, target) in teacher.rows(self.model, &mut tape, (&states, &last), &slab) {
                rows.push((toward, state.tensor().to_f32_vec(), target.tensor().to_f32_vec()));
            }
        }
        rows
    }
}

/// The sums that the best linear from rows `[C]` to the directions of rows `[T]` is solved from.
struct LeastSquares {
    columns: usize,
    outputs: usize,
    rows: usize,
    /// `[C + 1, C + 1]`: of products of what is read, a one behind it; the lower half.
    read: Vec<f64>,
    /// `[C + 1, T]`: of products of what is read with what shall come.
    across: Vec<f64>,
    /// Of squares of what shall come.
    squares: f64,
}

struct Solved {
    /// `[T, C]`
    weight: Vec<f32>,
    bias: Vec<f32>,
    /// The mean squared distance that is left.
    distance: f64,
}

impl LeastSquares {
    fn new(columns: usize, outputs: usize) -> Self {
        let width = columns + 1;
        Self {
            columns,
            outputs,
            rows: 0,
            read: vec![0.0; width * width],
            across: vec![0.0; width * outputs],
            squares: 0.0,
        }
    }

    /// Adds rows; each sum is added up in their order, by whatever thread.
    fn add(&mut self, states: &[f32], targets: &[f32]) {
        let (columns, width) = (self.columns, self.columns + 1);
        let read: Vec<f64> = states
            .chunks_exact(columns)
            .flat_map(|row| row.iter().map(|&x| f64::from(x)).chain([1.0]))
            .collect();
        let shall: Vec<f64> = targets.chunks_exact(self.outputs).flat_map(direction).collect();
        self.rows += read.len() / width;
        self.squares += shall.iter().map(|t| t * t).sum::<f64>();
        self.across.par_chunks_mut(self.outputs).enumerate().for_each(|(i, sums)| {
            for (read, shall) in read.chunks_exact(width).zip(shall.chunks_exact(sums.len())) {
                add_scaled(sums, read[i], shall);
            }
        });
        self.read.par_chunks_mut(width).enumerate().for_each(|(i, sums)| {
            for read in read.chunks_exact(width) {
                add_scaled(&mut sums[..=i], read[i], &read[..=i]);
            }
        });
    }

    /// The linear with the least squared distance, of centred rows, with a ridge.
    fn solve(&self) -> Solved {
        let (columns, outputs, width) = (self.columns, self.outputs, self.columns + 1);
        let count = self.rows.max(1) as f64;
        let mean: Vec<f64> = self.read[columns * width..][..columns].iter().map(|sum| sum / count).collect();
        let mean_shall: Vec<f64> = self.across[columns * outputs..].iter().map(|sum| sum / count).collect();
        let mut covariance = vec![0.0; columns * columns];
        for (i, row) in covariance.chunks_exact_mut(columns).enumerate() {
            for (j, value) in row[..=i].iter_mut().enumerate() {
                *value = self.read[i * width + j] / count - mean[i] * mean[j];
            }
        }
        let trace: f64 = (0..columns).map(|i| covariance[i * columns + i]).sum();
        let ridge = (RIDGE * trace / columns as f64).max(f64::MIN_POSITIVE);
        for i in 0..columns {
            covariance[i * columns + i] += ridge;
        }
        let across: Vec<f64> = (0..columns * outputs)
            .map(|at| self.across[at] / count - mean[at / outputs] * mean_shall[at % outputs])
            .collect();
        let mut linear = across.clone();
        cholesky(&mut covariance, columns);
        substitute(&covariance, columns, &mut linear);
        // With S the covariance, X that across and (S + r) W = X: |t|^2 - 2 W'X + W'S W is |t|^2 - W'X - r |W|^2.
        let explained: f64 = linear.iter().zip(&across).map(|(w, x)| w * x + ridge * w * w).sum();
        let varies = self.squares / count - mean_shall.iter().map(|m| m * m).sum::<f64>();
        let mut bias = mean_shall;
        let mut weight = vec![0.0; outputs * columns];
        for (i, row) in linear.chunks_exact(outputs).enumerate() {
            for (t, value) in row.iter().enumerate() {
                weight[t * columns + i] = *value as f32;
                bias[t] -= mean[i] * value;
            }
        }
        let bias = bias.iter().map(|&value| value as f32).collect();
        Solved { weight, bias, distance: (varies - explained).max(0.0) / outputs as f64 }
    }
}

/// A row at a root mean square of 1, as the distance counts it; a row of zeros stays.
fn direction(row: &[f32]) -> impl Iterator<Item = f64> {
    let squares: f64 = row.iter().map(|&t| f64::from(t) * f64::from(t)).sum();
    let shrink = if squares > 0.0 { (row.len() as f64 / squares).sqrt() } else { 0.0 };
    row.iter().map(move |&t| f64::from(t) * shrink)
}

fn add_scaled(sums: &mut [f64], scale: f64, values: &[f64]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += scale * value;
    }
}

/// The lower triangle L with L L' = A, in place of the lower half of A `[N, N]`, which is positive definite.
fn cholesky(a: &mut [f64], n: usize) {
    for i in 0..n {
        let (above, row) = a.split_at_mut(i * n);
        for j in 0..i {
            let other = &above[j * n..][..=j];
            let dot: f64 = row[..j].iter().zip(other).map(|(x, y)| x * y).sum();
            row[j] = (row[j] - dot) / other[j];
        }
        let squares: f64 = row[..i].iter().map(|x| x * x).sum();
        row[i] = (row[i] - squares).max(f64::MIN_POSITIVE).sqrt();
    }
}

/// Solves L L' X = B in place of B `[N, K]`.
fn substitute(l: &[f64], n: usize, b: &mut [f64]) {
    let k = b.len() / n.max(1);
    for i in 0..n {
        let (above, rest) = b.split_at_mut(i * k);
        let row = &mut rest[..k];
        for (j, other) in above.chunks_exact(k).enumerate() {
            add_scaled(row, -l[i * n + j], other);
        }
        for value in row.iter_mut() {
            *value /= l[i * n + i];
        }
    }
    for i in (0..n).rev() {
        let (upto, below) = b.split_at_mut((i + 1) * k);
        let row = &mut upto[i * k..];
        for (other, j) in below.chunks_exact(k).zip(i + 1..) {
            add_scaled(row, -l[j * n + i], other);
        }
        for value in row.iter_mut() {
            *value /= l[i * n + i];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of 5 columns, one of which hardly varies; of 3, nearly linear in them.
    #[test]
    fn no_linear_comes_nearer_than_the_solved_one() {
        let mut stream = Stream::new(7);
        let mut number = || stream.uniform() - 0.5;
        let (columns, outputs, rows) = (5, 3, 400);
        let truth: Vec<f64> = (0..outputs * columns).map(|_| number()).collect();
        let mut sums = LeastSquares::new(columns, outputs);
        let mut seen = Vec::new();
        for _ in 0..rows / 40 {
            let (mut states, mut targets) = (Vec::new(), Vec::new());
            for _ in 0..40 {
                let x = [1.0, 2.0, 1.0, 1e-9, 0.5].map(|spread| 3.0 + number() * spread);
                let y =
                    truth.chunks_exact(columns).map(|w| w.iter().zip(&x).map(|(w, x)| w * x).sum::<f64>());
                targets.extend(y.map(|y| y as f32));
                states.extend(x.map(|x| x as f32));
            }
            sums.add(&states, &targets);
            seen.push((states, targets));
        }
        let solved = sums.solve();
        let distance = |weight: &[f32], bias: &[f32]| {
            let mut total = 0.0;
            for (states, targets) in &seen {
                for (x, t) in states.chunks_exact(columns).zip(targets.chunks_exact(outputs)) {
                    for ((w, b), t) in weight.chunks_exact(columns).zip(bias).zip(direction(t)) {
                        let y: f64 = w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                        total += (y + f64::from(*b) - t).powi(2);
                    }
                }
            }
            total / (rows * outputs) as f64
        };
        let best = distance(&solved.weight, &solved.bias);
        assert!((best - solved.distance).abs() < 1e-5, "{best} {}", solved.distance);
        assert!(best < 0.05, "{best}");
        for at in 0..outputs * columns {
            for step in [-0.05, 0.05] {
                let mut other = solved.weight.clone();
                other[at] += step;
                assert!(distance(&other, &solved.bias) > best - 1e-6, "{at} {step}");
            }
        }
    }

    #[test]
    fn a_system_is_solved() {
        // A = M M' + 1 and B = A X give X back.
        let mut stream = Stream::new(3);
        let mut number = || stream.uniform() - 0.5;
        let (n, k) = (6, 2);
        let m: Vec<f64> = (0..n * n).map(|_| number()).collect();
        let x: Vec<f64> = (0..n * k).map(|_| number()).collect();
        let dot = |i: usize, j: usize| (0..n).map(|c| m[i * n + c] * m[j * n + c]).sum::<f64>();
        let mut a: Vec<f64> =
            (0..n * n).map(|at| dot(at / n, at % n) + if at / n == at % n { 1.0 } else { 0.0 }).collect();
        let mut b: Vec<f64> =
            (0..n * k).map(|at| (0..n).map(|c| a[at / k * n + c] * x[c * k + at % k]).sum()).collect();
        cholesky(&mut a, n);
        substitute(&a, n, &mut b);
        for (found, true_one) in b.iter().zip(&x) {
            assert!((found - true_one).abs() < 1e-12, "{found} {true_one}");
        }
    }
}
