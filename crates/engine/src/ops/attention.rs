//! Attention over packed sequences: y = drop(softmax(q k^T / sqrt(D) + mask)) v, per head.
//!
//! Shapes: qkv `[N, 3C]` (columns q, k, v, each H heads of D), y `[N, C]`. A query sees the keys of its own
//! sequence, up to its own position when causal. The probabilities never exist at once beyond one tile of
//! queries; the backward recomputes them from the saved log-sum-exp (Dao et al. 2022).
//!
//! With a [`KeyValueCache`] (inference, one sequence) the new keys and values are appended to it and the queries
//! attend to all of it: the same op, so generation is not a second forward.
//!
//! Backward, with P the probabilities and m the dropout factors: dv = (P m)^T dy; dP = (dy v^T) m;
//! dS = P (dP - rowsum(dP P)); dq = dS k / sqrt(D); dk = dS^T q / sqrt(D).
//! rowsum(dP P) = rowsum(dy y).

use std::cell::RefCell;

use crate::cpu::gemm::multiply_strided;
use crate::cpu::math;
use crate::cpu::shared::SharedSlice;
use crate::cpu::simd::{Level, simd};
use crate::ops::linear::{SharedOut, apply_dropout, widen_slice};
use crate::rng;
use crate::tape::{ActiveDropout, Backward, Dropout, Node, Tape, Value};
use crate::tensor::{DType, Tensor};

/// Queries that one task of the forward handles.
const QUERY_TILE: usize = 64;

/// How attention is computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// H; divides the columns.
    pub heads: usize,
    /// Whether a query sees no later keys.
    pub causal: bool,
    /// On the probabilities.
    pub dropout: Option<Dropout>,
}

/// The keys and values of one layer and one sequence, for generation.
#[derive(Clone, Debug, Default)]
pub struct KeyValueCache {
    /// Rows of `[k | v]`, f32.
    rows: Vec<f32>,
    length: usize,
}

impl KeyValueCache {
    /// Number of positions held.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

#[derive(Debug)]
pub(crate) struct AttentionNode {
    out: usize,
    qkv: Value,
    y: Tensor,
    attention: Attention,
    dropout: Option<ActiveDropout>,
    /// log sum exp of the scaled scores, `[N, H]`.
    log_sums: Tensor,
}

impl Tape<'_> {
    /// See the module's header.
    ///
    /// # Panics
    /// When the shapes do not fit, or a cache is given on a training tape or for more than one sequence.
    pub fn attention(
        &mut self,
        qkv: &Value,
        attention: Attention,
        cache: Option<&mut KeyValueCache>,
    ) -> Value {
        let (rows, width) = (qkv.tensor.rows(), qkv.tensor.cols() / 3);
        let heads = attention.heads;
        assert!(qkv.tensor.cols() == 3 * width && width.is_multiple_of(heads), "attention of {heads} heads");
        assert_eq!(rows, self.packing.tokens());
        let dropout = self.active_dropout(attention.dropout);
        let mut y = self.uninit(rows, width, self.precision.activation());
        let mut log_sums = self.uninit(rows, heads, DType::F32);
        let past = cache.as_ref().map_or(0, |c| c.len());
        let cached = cache.map(|cache| {
            assert!(
                !self.is_training() && self.packing.sequences() == 1,
                "a cache is for generating one sequence"
            );
            cache.append(&qkv.tensor);
            &*cache
        });
        {
            let (out, sums) = (SharedOut::new(&mut y), SharedSlice::new(log_sums.f32_mut()));
            let level = self.device.level();
            self.device.for_each(self.packing.sequences() * heads, |task| {
                let (sequence, head) = (task / heads, task % heads);
                let range = self.packing.range(sequence);
                let dim = width / heads;
                SCRATCH.with_borrow_mut(|scratch| {
                    let Scratch { q, k, v, p, y: rows_y, .. } = scratch;
                    gather(level, &qkv.tensor, range.clone(), head * dim, dim, q);
                    let (keys, values, stride, count) = if let Some(cache) = cached {
                        (
                            &cache.rows[head * dim..],
                            &cache.rows[width + head * dim..],
                            2 * width,
                            cache.length,
                        )
                    } else {
                        gather(level, &qkv.tensor, range.clone(), width + head * dim, dim, k);
                        gather(level, &qkv.tensor, range.clone(), 2 * width + head * dim, dim, v);
                        (&k[..], &v[..], dim, range.len())
                    };
                    for first in (0..range.len()).step_by(QUERY_TILE) {
                        let tile = QUERY_TILE.min(range.len() - first);
                        let seen = if attention.causal { past + first + tile } else { count };
                        resize(p, tile * seen);
                        resize(rows_y, tile * dim);
                        let q = (&q[first * dim..], dim, 1);
                        multiply_strided(tile, seen, dim, q, (keys, 1, stride), (p, seen), false);
                        for i in 0..tile {
                            let row = range.start + first + i;
                            let visible = if attention.causal { past + first + i + 1 } else { count };
                            let p = &mut p[i * seen..(i + 1) * seen];
                            let sum = softmax_row(level, p, visible, scale_of(dim));
                            // SAFETY: (row, head) belongs to this task alone.
                            let slot = unsafe { sums.part(row * heads + head, 1) };
                            slot[0] = sum;
                            if let Some(d) = &dropout {
                                apply_dropout(level, &mut p[..visible], d.head_key(row, head), 0, d.rate);
                            }
                        }
                        multiply_strided(
                            tile,
                            dim,
                            seen,
                            (p, seen, 1),
                            (values, stride, 1),
                            (rows_y, dim),
                            false,
                        );
                        for i in 0..tile {
                            // SAFETY: these rows and columns belong to this task alone.
                            unsafe {
                                out.write(
                                    level,
                                    range.start + first + i,
                                    head * dim,
                                    &rows_y[i * dim..(i + 1) * dim],
                                );
                            }
                        }
                    }
                });
            });
        }
        let (saved, qkv) = (y.clone(), qkv.clone());
        self.record(y, qkv.id.is_some(), |out| {
            Node::Attention(AttentionNode { out, qkv, y: saved, attention, dropout, log_sums })
        })
    }
}

impl AttentionNode {
    pub(crate) fn backward(self, back: &mut Backward<'_>) {
        let Some(dy) = back.take(self.out) else { return };
        let (rows, width, heads) = (dy.rows(), dy.cols(), self.attention.heads);
        let mut gradient = back.uninit(rows, 3 * width, self.qkv.tensor.dtype());
        {
            let out = SharedOut::new(&mut gradient);
            let packing = back.packing;
            let level = back.device.level();
            back.device.for_each(packing.sequences() * heads, |task| {
                let (sequence, head) = (task / heads, task % heads);
                SCRATCH.with_borrow_mut(|scratch| {
                    self.head_backward(level, packing.range(sequence), head, &dy, scratch, &out);
                });
            });
        }
        back.add(self.qkv.id, gradient);
    }

    /// One head of one sequence.
    fn head_backward(
        &self,
        level: Level,
        range: std::ops::Range<usize>,
        head: usize,
        dy: &Tensor,
        scratch: &mut Scratch,
        out: &SharedOut<'_>,
    ) {
        let (width, heads) = (dy.cols(), self.attention.heads);
        let (dim, count) = (width / heads, range.len());
        let Scratch { q, k, v, p, y, dy: d_y, dp, dq, dk, dv, kept } = scratch;
        for (part, to) in [&mut *q, &mut *k, &mut *v].into_iter().enumerate() {
            gather(level, &self.qkv.tensor, range.clone(), part * width + head * dim, dim, to);
        }
        gather(level, &self.y, range.clone(), head * dim, dim, y);
        gather(level, dy, range.clone(), head * dim, dim, d_y);
        for sums in [&mut *dk, &mut *dv] {
            sums.clear();
            sums.resize(count * dim, 0.0);
        }
        resize(dq, count * dim);
        for first in (0..count).step_by(QUERY_TILE) {
            let tile = QUERY_TILE.min(count - first);
            let seen = if self.attention.causal { first + tile } else { count };
            for buffer in [&mut *p, &mut *dp, &mut *kept] {
                resize(buffer, tile * seen);
            }
            let (q, d_y) = (&q[first * dim..(first + tile) * dim], &d_y[first * dim..(first + tile) * dim]);
            multiply_strided(tile, seen, dim, (q, dim, 1), (k, 1, dim), (p, seen), false);
            multiply_strided(tile, seen, dim, (d_y, dim, 1), (v, 1, dim), (dp, seen), false);
            for i in 0..tile {
                let row = range.start + first + i;
                let visible = if self.attention.causal { first + i + 1 } else { count };
                let at = i * seen..(i + 1) * seen;
                let kept = &mut kept[at.clone()];
                kept.fill(1.0);
                if let Some(d) = &self.dropout {
                    apply_dropout(level, &mut kept[..visible], d.head_key(row, head), 0, d.rate);
                }
                let (y, d_y) = (&y[(first + i) * dim..(first + i + 1) * dim], &d_y[i * dim..(i + 1) * dim]);
                let log_sum = self.log_sums.f32()[row * heads + head];
                score_gradient_row(
                    level,
                    &mut p[at.clone()],
                    &mut dp[at],
                    kept,
                    visible,
                    scale_of(dim),
                    log_sum,
                    y,
                    d_y,
                );
            }
            // `kept` now holds P m, `dp` holds dS scaled.
            multiply_strided(seen, dim, tile, (kept, 1, seen), (d_y, dim, 1), (dv, dim), true);
            multiply_strided(seen, dim, tile, (dp, 1, seen), (q, dim, 1), (dk, dim), true);
            multiply_strided(
                tile,
                dim,
                seen,
                (dp, seen, 1),
                (k, dim, 1),
                (&mut dq[first * dim..], dim),
                false,
            );
        }
        for (part, values) in [dq, dk, dv].into_iter().enumerate() {
            for (i, values) in values.chunks_exact(dim).take(count).enumerate() {
                // SAFETY: these rows and columns belong to this task alone.
                unsafe { out.write(level, range.start + i, part * width + head * dim, values) };
            }
        }
    }
}

impl KeyValueCache {
    /// Takes over the keys and values of new rows.
    fn append(&mut self, qkv: &Tensor) {
        let width = qkv.cols() / 3;
        let mut scratch = vec![0.0; qkv.cols()];
        for r in 0..qkv.rows() {
            self.rows.extend_from_slice(&qkv.row(r, &mut scratch)[width..]);
        }
        self.length += qkv.rows();
    }
}

impl ActiveDropout {
    /// The key of a query row in one head.
    fn head_key(&self, row: usize, head: usize) -> u64 {
        rng::derive(self.key(row), head as u64)
    }
}

/// Per-thread work space.
#[derive(Default)]
struct Scratch {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    p: Vec<f32>,
    y: Vec<f32>,
    dy: Vec<f32>,
    dp: Vec<f32>,
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
    kept: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

fn scale_of(dim: usize) -> f32 {
    1.0 / (dim as f32).sqrt()
}

/// Makes room for `len` elements whose content will be overwritten.
fn resize(buffer: &mut Vec<f32>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
}

/// The columns `first .. first + dim` of some rows, as a dense f32 matrix.
fn gather(
    level: Level,
    x: &Tensor,
    rows: std::ops::Range<usize>,
    first: usize,
    dim: usize,
    to: &mut Vec<f32>,
) {
    resize(to, rows.len() * dim);
    for (row, to) in rows.zip(to.chunks_exact_mut(dim)) {
        let at = row * x.cols() + first..row * x.cols() + first + dim;
        match x.dtype() {
            DType::F32 => to.copy_from_slice(&x.f32()[at]),
            DType::Bf16 => widen_slice(level, &x.bf16()[at], to),
        }
    }
}

simd! {
    /// Turns the first `visible` scores into probabilities and the rest into zeros; returns the log-sum-exp.
    fn softmax_row(scores: &mut [f32], visible: usize, scale: f32) -> f32 {
        let (now, later) = scores.split_at_mut(visible);
        later.fill(0.0);
        let largest = math::max(now) * scale;
        for s in now.iter_mut() {
            *s = math::exp(*s * scale - largest);
        }
        let sum = math::sum(visible, |i| now[i]);
        let inverse = 1.0 / sum;
        for s in now.iter_mut() {
            *s *= inverse;
        }
        largest + sum.ln()
    }
}

simd! {
    /// In: scores, dy v^T, dropout factors. Out: `dp` the gradient of the raw scores, `kept` P m.
    fn score_gradient_row(
        scores: &mut [f32],
        dp: &mut [f32],
        kept: &mut [f32],
        visible: usize,
        scale: f32,
        log_sum: f32,
        y: &[f32],
        dy: &[f32],
    ) {
        let delta = math::sum(y.len(), |i| y[i] * dy[i]);
        let (scores, dp_now, kept_now) = (&scores[..visible], &mut dp[..visible], &mut kept[..visible]);
        for i in 0..visible {
            let p = math::exp(scores[i] * scale - log_sum);
            dp_now[i] = p * (dp_now[i] * kept_now[i] - delta) * scale;
            kept_now[i] *= p;
        }
        dp[visible..].fill(0.0);
        kept[visible..].fill(0.0);
    }
}

/// The plain reference, in f64.
#[cfg(test)]
pub(crate) mod reference {
    /// y from qkv `[N, 3 C]`; `factor(row, head, key)` is the dropout factor of a probability.
    pub(crate) fn forward(
        qkv: &[f64],
        lengths: &[usize],
        heads: usize,
        dim: usize,
        causal: bool,
        factor: impl Fn(usize, usize, usize) -> f64,
    ) -> Vec<f64> {
        let width = heads * dim;
        let rows = qkv.len() / (3 * width);
        let mut y = vec![0.0; rows * width];
        let mut start = 0;
        for &length in lengths {
            for (i, head) in (0..length).flat_map(|i| (0..heads).map(move |h| (i, h))) {
                let at = |row: usize, part: usize, c: usize| {
                    qkv[(start + row) * 3 * width + part * width + head * dim + c]
                };
                let visible = if causal { i + 1 } else { length };
                let score =
                    |j: usize| (0..dim).map(|c| at(i, 0, c) * at(j, 1, c)).sum::<f64>() / (dim as f64).sqrt();
                let weights: Vec<f64> = (0..visible).map(|j| score(j).exp()).collect();
                let sum: f64 = weights.iter().sum();
                for c in 0..dim {
                    y[(start + i) * width + head * dim + c] = (0..visible)
                        .map(|j| weights[j] / sum * factor(start + i, head, j) * at(j, 2, c))
                        .sum();
                }
            }
            start += length;
        }
        y
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{DropRate, dropout_factor, row_key, site_key};
    use crate::testing::{Gradcheck, SEED, STEP, close};
    use crate::{CodePath, Device, Packing, Precision, Weights};

    #[test]
    fn gradcheck() {
        for (heads, dim) in [(1, 1), (2, 7), (3, 8), (1, 31), (2, 41), (1, 64)] {
            for lengths in [vec![1], vec![5, 1, 9], vec![67]] {
                for (causal, p) in [(true, 0.0), (false, 0.0), (true, 0.3), (false, 0.2)] {
                    let rows = lengths.iter().sum();
                    let sequence_of: Vec<(u64, u64)> = lengths
                        .iter()
                        .enumerate()
                        .flat_map(|(s, &l)| (0..l).map(move |i| (s as u64, i as u64)))
                        .collect();
                    let attention = Attention { heads, causal, dropout: Some(Dropout { p, site: 9 }) };
                    Gradcheck::new("attention", &[("qkv", rows, 3 * heads * dim)], &[])
                        .lengths(&lengths)
                        .run(
                            |tape, x, _| tape.attention(&x[0], attention, None),
                            |x, _| {
                                reference::forward(&x[0], &lengths, heads, dim, causal, |row, head, key| {
                                    if p == 0.0 {
                                        return 1.0;
                                    }
                                    let (s, i) = sequence_of[row];
                                    let row =
                                        rng::derive(site_key(row_key(SEED, STEP, s, i), 9), head as u64);
                                    f64::from(dropout_factor(row, key, DropRate::new(p)))
                                })
                            },
                        );
                }
            }
        }
    }

    #[test]
    fn a_cache_gives_what_the_whole_sequence_gives() {
        let (heads, dim, length) = (2, 7, 13);
        let mut stream = rng::Stream::new(4);
        let qkv: Vec<f32> = (0..length * 3 * heads * dim).map(|_| stream.normal() as f32).collect();
        let wide: Vec<f64> = qkv.iter().map(|&x| f64::from(x)).collect();
        let whole = reference::forward(&wide, &[length], heads, dim, true, |_, _, _| 1.0);
        let device = Device::cpu(None, CodePath::Auto).unwrap();
        let weights = Weights::new(Vec::new());
        let mut cache = KeyValueCache::default();
        let (mut at, mut found) = (0, Vec::new());
        for step in [5, 1, 1, 4, 2] {
            let packing = Packing::continued(at, step);
            let mut tape = Tape::inference(&device, &weights, &packing, Precision::F32);
            let width = 3 * heads * dim;
            let rows = Tensor::from_f32(device.pool(), step, width, &qkv[at * width..(at + step) * width]);
            let x = Value { tensor: rows, id: None };
            let y = tape.attention(&x, Attention { heads, causal: true, dropout: None }, Some(&mut cache));
            found.extend(y.tensor.to_f32_vec());
            at += step;
        }
        assert_eq!(cache.len(), length);
        close(&found, &whole, 1e-5, "cached attention");
    }
}
