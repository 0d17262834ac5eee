//! Attention over packed sequences: y = drop(softmax(q k^T / sqrt(D) + mask)) v, per head.
//!
//! Shapes: qkv `[N, 3C]` (columns q, k, v, each H heads of D; what a linear padded, too), y `[N, C]`. A query sees the keys of its own
//! sequence, up to its own position when causal, and with a window of w only those at most w positions away. The probabilities never exist at once beyond one tile of
//! queries; the backward recomputes them from the saved log-sum-exp (Dao et al. 2022).
//!
//! With [`Attention::query`] a single query of each sequence attends, and y is `[B, C]`.
//!
//! With a [`KeyValueCache`] (inference, one sequence) the new keys and values are appended to it and the queries
//! attend to all of it: the same op, so generation is not a second forward.
//!
//! Backward, with P the probabilities and m the dropout factors: dv = (P m)^T dy; dP = (dy v^T) m;
//! dS = P (dP - rowsum(dP P)); dq = dS k / sqrt(D); dk = dS^T q / sqrt(D).
//! rowsum(dP P) = rowsum(dy y).

use std::cell::RefCell;
use std::ops::Range;

use crate::cpu::convert;
use crate::cpu::gemm::{Buffer, GRAIN, Operand, ROWS, SmallRight, output_room};
use crate::cpu::math;
use crate::cpu::rows::apply_dropout;
use crate::cpu::shared::{SharedSlice, SharedTensor};
use crate::cpu::simd::{Level, simd};
use crate::cuda;
use crate::cuda::ops::attention::DeviceCache;
use crate::dtype::{DType, Precision};
use crate::matmul;
use crate::packing::{Packing, TokenOf};
use crate::profile::Work;
use crate::rng;
use crate::tape::{ActiveDropout, Backward, Dropout, Tape, Value};
use crate::tensor::Tensor;

/// Queries whose probabilities exist at once, per thread; a multiple of [`GRAIN`], so that little is masked.
const QUERY_TILE: usize = GRAIN;

/// How attention is computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// H.
    pub heads: usize,
    /// D, the columns of a head: C = H D.
    pub dim: usize,
    /// Whether a query sees no later keys.
    pub causal: bool,
    /// The distance to the furthest keys that a query sees; `None`: it sees them all.
    pub window: Option<usize>,
    /// The token of each sequence that alone attends; `None`: all do. Not with a cache.
    pub query: Option<TokenOf>,
    /// On the probabilities.
    pub dropout: Option<Dropout>,
    /// Nothing but linears reads the output: as [`crate::ops::linear::Linear::padded_output`].
    pub padded_output: bool,
}

/// The keys and values of one layer and one sequence, for generation.
#[derive(Clone, Debug, Default)]
pub struct KeyValueCache {
    /// Rows of `[k | v]`, f32.
    rows: Vec<f32>,
    /// The same on a GPU; one of them is in use.
    device: DeviceCache,
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

/// What the backward needs.
struct Saved {
    /// On a GPU perhaps with zeros behind the columns of each head.
    qkv: Tensor,
    /// Where its gradient goes, and its columns.
    gradient: Option<(usize, usize)>,
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
        mut cache: Option<&mut KeyValueCache>,
    ) -> Value {
        let device = self.device;
        let _timer = device.time(Work::Attention);
        let Attention { heads, dim, query, .. } = attention;
        assert!(query.is_none() || cache.is_none(), "a cache is for all queries");
        if let (Some(token), true) = (query, device.is_cuda()) {
            // The kernels have a block of queries each; what is left behind is a part of one layer's attention.
            let all = self.attention(qkv, Attention { query: None, padded_output: false, ..attention }, None);
            return self.select_rows(&all, &self.packing.rows_of(token));
        }
        let (rows, width, precision) = (qkv.tensor.rows(), heads * dim, self.precision);
        let padded = matmul::columns_for_linears(device, precision, rows, 3 * width);
        assert!(
            qkv.tensor.cols() == 3 * width || (cache.is_none() && qkv.tensor.cols() == padded),
            "attention of {heads} heads of {dim}"
        );
        assert_eq!(rows, self.packing.tokens());
        let dropout = self.active_dropout(attention.dropout);
        let y_cols = if attention.padded_output && qkv.tensor.dtype() == DType::Bf16 {
            matmul::columns_for_linears(device, precision, rows, width)
        } else {
            width
        };
        let y_rows = if query.is_some() { self.packing.sequences() } else { rows };
        let mut y = self.uninit(y_rows, y_cols, precision.activation());
        let mut log_sums = self.uninit(y_rows, heads, DType::F32);
        let mut read = qkv.tensor.clone();
        let past = cache.as_ref().map_or(0, |c| c.len());
        if let Some(cache) = &mut cache {
            assert!(
                !self.is_training() && self.packing.sequences() == 1,
                "a cache is for generating one sequence"
            );
            cache.length += rows;
        }
        if let (Some(cuda), Some(slab)) = (device.cuda(), &self.slab) {
            // A cache keeps heads as they come.
            let spreads = cache.is_none() && qkv.tensor.dtype() == DType::Bf16;
            let pitch = if spreads { matmul::columns_for_linears(device, precision, rows, dim) } else { dim };
            let cached = cache.map(|cache| {
                let offsets = cuda.upload(&[0, (past + rows) as u32]);
                (cache.device.append(cuda, device.pool(), &qkv.tensor, past), offsets)
            });
            let heads = attention.on_device(dropout.as_ref());
            let (pool, made) = (device.pool(), (&y, &log_sums));
            read =
                cuda::ops::attention::forward(cuda, pool, slab, &read, cached.as_ref(), heads, pitch, made);
        } else {
            let cached = cache.map(|cache| {
                cache.append(device.level(), &qkv.tensor);
                &*cache
            });
            let (out, sums) = (SharedTensor::new(&mut y), SharedSlice::new(log_sums.f32_mut()));
            let level = self.device.level();
            self.device.for_each(self.packing.sequences() * heads, |task| {
                let (sequence, head) = (task / heads, task % heads);
                let range = self.packing.range(sequence);
                let Queries { own, past: before, to } = Queries::new(&self.packing, sequence, query);
                let past = past + before;
                let columns = |part: usize| part * width + head * dim..part * width + (head + 1) * dim;
                let q = Operand::new(&qkv.tensor).block(own.clone(), columns(0));
                let [keys, values] = if let Some(cache) = cached {
                    let all = Operand::from_f32(&cache.rows, cache.length, 2 * width);
                    [0, 1].map(|i| all.block(0..cache.length, columns(i)))
                } else {
                    [1, 2].map(|i| Operand::new(&qkv.tensor).block(range.clone(), columns(i)))
                };
                let count = keys.rows;
                SCRATCH.with_borrow_mut(|scratch| {
                    let Scratch { rights: [k_room, v_room, ..], left, p, y: rows_y, .. } = scratch;
                    for Span { queries, keys: seen_keys } in attention.spans(q.rows, past, count) {
                        let (start, uses) = (seen_keys.start, queries.len());
                        let keys = keys.block(seen_keys.clone(), 0..dim).transposed();
                        let keys = SmallRight::new(level, precision, keys, uses, k_room);
                        // Probabilities and their gradients are not rounded: only what is bf16 already is multiplied as such.
                        let values = values.block(seen_keys.clone(), 0..dim);
                        let values = SmallRight::new(level, Precision::F32, values, uses, v_room);
                        for first in queries.clone().step_by(QUERY_TILE) {
                            let tile = QUERY_TILE.min(queries.end - first);
                            let seen = seen(attention.causal, past + first + tile - start, seen_keys.len());
                            let (room, stride) = output_room(tile, seen);
                            resize(p, room * stride);
                            let q = q.block(first..first + tile, 0..dim);
                            keys.multiply(q, seen, p, false, |_| 0..dim, left);
                            for i in 0..tile {
                                let visible = attention.visible(past + first + i, count);
                                let visible = visible.start - start..visible.end - start;
                                let p = &mut p[i * stride..i * stride + whole_vectors(seen)];
                                p[..visible.start].fill(f32::NEG_INFINITY);
                                let sum = softmax_row(level, p, visible.end, scale_of(dim));
                                // SAFETY: (row, head) belongs to this task alone.
                                let slot = unsafe { sums.slice((to.start + first + i) * heads + head, 1) };
                                slot[0] = sum;
                                if let Some(d) = &dropout {
                                    let key = d.head_key(own.start + first + i, head);
                                    apply_dropout(level, &mut p[..visible.end], key, start, d.rate);
                                }
                            }
                            let (room, stride_y) = output_room(tile, dim);
                            resize(rows_y, room * stride_y);
                            let visible =
                                |row| 0..visible_keys(attention.causal, past + first + row - start, seen);
                            let p = matrix(p, tile, seen, stride);
                            values.multiply(p, dim, rows_y, false, visible, left);
                            for (i, y) in rows_y.chunks_exact(stride_y).take(tile).enumerate() {
                                // SAFETY: these rows and columns belong to this task alone.
                                unsafe { out.write(level, to.start + first + i, head * dim, &y[..dim]) };
                            }
                        }
                    }
                });
            });
        }
        let gradient = qkv.id.map(|id| (id, qkv.tensor.cols()));
        let saved = Saved { qkv: read, gradient, y: y.clone(), attention, dropout, log_sums };
        self.record(y, qkv.id.is_some(), move |back, dy| saved.backward(back, &dy))
    }
}

/// Which tokens of a sequence attend.
struct Queries {
    /// Their rows.
    own: Range<usize>,
    /// Tokens of the sequence before them.
    past: usize,
    /// The rows of the output.
    to: Range<usize>,
}

impl Queries {
    fn new(packing: &Packing, sequence: usize, query: Option<TokenOf>) -> Self {
        let range = packing.range(sequence);
        let Some(token) = query else { return Self { own: range.clone(), past: 0, to: range } };
        let row = packing.row_of(sequence, token);
        Self { own: row..row + 1, past: row - range.start, to: sequence..sequence + 1 }
    }
}

/// Some queries of a sequence, and the keys that any of them sees.
struct Span {
    queries: Range<usize>,
    keys: Range<usize>,
}

impl Attention {
    /// The keys of `count` that the query at a position sees.
    fn visible(self, query: usize, count: usize) -> Range<usize> {
        let end = if self.causal { query + 1 } else { count };
        match self.window {
            Some(window) => query.saturating_sub(window)..end.min(query + window + 1),
            None => 0..end,
        }
    }

    /// All queries, `past` positions behind the first of `count` keys, in order: at once, or with a window tile by tile, so that
    /// only near keys are multiplied.
    fn spans(self, queries: usize, past: usize, count: usize) -> impl Iterator<Item = Span> {
        let of_span = if self.window.is_some() { QUERY_TILE } else { queries.max(1) };
        (0..queries).step_by(of_span).map(move |first| {
            let end = queries.min(first + of_span);
            let keys = match self.window {
                Some(window) => {
                    // Whole groups of rows, as matmuls write them.
                    let start = (past + first).saturating_sub(window) / ROWS * ROWS;
                    start..count.min((past + end + window).next_multiple_of(ROWS))
                }
                None => 0..count,
            };
            Span { queries: first..end, keys }
        })
    }

    fn on_device(self, dropout: Option<&ActiveDropout>) -> cuda::ops::attention::Heads {
        let dropout = dropout.and_then(ActiveDropout::on_device);
        let Self { heads: count, dim, causal, window, .. } = self;
        cuda::ops::attention::Heads { count, dim, causal, window, dropout }
    }
}

impl Saved {
    fn backward(&self, back: &mut Backward<'_>, dy: &Tensor) {
        let device = back.device;
        let _timer = device.time(Work::AttentionBackward);
        let Some((id, cols)) = self.gradient else { return };
        let (rows, heads) = (dy.rows(), self.attention.heads);
        let mut gradient = back.uninit(self.qkv.rows(), cols, self.qkv.dtype());
        if let (Some(cuda), Some(slab)) = (device.cuda(), &back.slab) {
            let delta = back.uninit(rows, heads, DType::F32);
            let heads = self.attention.on_device(self.dropout.as_ref());
            let (pool, forward) = (device.pool(), (&self.qkv, &self.y, &self.log_sums));
            cuda::ops::attention::backward(cuda, pool, slab, forward, heads, dy, &delta, &gradient);
        } else {
            let out = SharedTensor::new(&mut gradient);
            let packing = &*back.packing;
            let (level, precision) = (device.level(), back.precision);
            device.for_each(packing.sequences() * heads, |task| {
                let (sequence, head) = (task / heads, task % heads);
                let (range, queries) =
                    (packing.range(sequence), Queries::new(packing, sequence, self.attention.query));
                SCRATCH.with_borrow_mut(|scratch| {
                    self.head_backward(level, precision, (range, queries), head, dy, scratch, &out);
                });
            });
        }
        back.add(Some(id), gradient);
    }

    /// One head of one sequence.
    fn head_backward(
        &self,
        level: Level,
        precision: Precision,
        (range, Queries { own, past, to }): (Range<usize>, Queries),
        head: usize,
        dy: &Tensor,
        scratch: &mut Scratch,
        out: &SharedTensor<'_>,
    ) {
        let (width, heads) = (dy.cols(), self.attention.heads);
        let (dim, count) = (width / heads, range.len());
        let Scratch { rights, tile_rights, left, p, dp, kept, y, dy: rows_dy, dq, dk, dv } = scratch;
        let [k_room, kt_room, vt_room] = rights;
        let [q_room, dy_room] = tile_rights;
        let part = |part: usize, rows: &Range<usize>| {
            let first = part * width + head * dim;
            Operand::new(&self.qkv).block(rows.clone(), first..first + dim)
        };
        let [q, k, v] = [part(0, &own), part(1, &range), part(2, &range)];
        let d_y = Operand::new(dy).block(to.clone(), head * dim..(head + 1) * dim);
        gather(level, &self.y, to.clone(), head * dim, dim, y);
        gather(level, dy, to.clone(), head * dim, dim, rows_dy);
        let (room, stride) = output_room(count, dim);
        for sums in [&mut *dq, &mut *dk, &mut *dv] {
            sums.clear();
            sums.resize(room * stride, 0.0);
        }
        for Span { queries, keys: seen_keys } in self.attention.spans(own.len(), past, count) {
            let (start, uses) = (seen_keys.start, queries.len());
            let [k, v] = [k, v].map(|x| x.block(seen_keys.clone(), 0..dim));
            let keys = SmallRight::new(level, Precision::F32, k, uses, k_room);
            let keys_turned = SmallRight::new(level, precision, k.transposed(), uses, kt_room);
            let values_turned = SmallRight::new(level, precision, v.transposed(), uses, vt_room);
            for first in queries.clone().step_by(QUERY_TILE) {
                let tile = QUERY_TILE.min(queries.end - first);
                let causal = self.attention.causal;
                let position = past + first;
                let seen = seen(causal, position + tile - start, seen_keys.len());
                let (room, stride_p) = output_room(tile, seen);
                for buffer in [&mut *p, &mut *dp, &mut *kept] {
                    resize(buffer, room * stride_p);
                }
                let (q, d_y) = (q.block(first..first + tile, 0..dim), d_y.block(first..first + tile, 0..dim));
                keys_turned.multiply(q, seen, p, false, |_| 0..dim, left);
                values_turned.multiply(d_y, seen, dp, false, |_| 0..dim, left);
                for i in 0..tile {
                    let visible = self.attention.visible(position + i, count);
                    let visible = visible.start - start..visible.end - start;
                    let at = i * stride_p..i * stride_p + whole_vectors(seen);
                    let kept = &mut kept[at.clone()];
                    kept.fill(1.0);
                    if let Some(d) = &self.dropout {
                        let key = d.head_key(own.start + first + i, head);
                        apply_dropout(level, &mut kept[..visible.end], key, start, d.rate);
                    }
                    let p = &mut p[at.clone()];
                    p[..visible.start].fill(f32::NEG_INFINITY);
                    let at_y = (first + i) * dim..(first + i + 1) * dim;
                    score_gradient_row(
                        level,
                        p,
                        &mut dp[at],
                        kept,
                        visible.end,
                        scale_of(dim),
                        self.log_sums.f32()[(to.start + first + i) * heads + head],
                        &y[at_y.clone()],
                        &rows_dy[at_y],
                    );
                }
                // `kept` now holds P m, `dp` holds dS scaled.
                let (kept, ds) = (matrix(kept, tile, seen, stride_p), matrix(dp, tile, seen, stride_p));
                let visible = |row| 0..visible_keys(causal, position + row - start, seen);
                // Of the keys from `key` on, only later queries know.
                let seeing = |key: usize| {
                    if causal { (start + key).saturating_sub(position).min(tile)..tile } else { 0..tile }
                };
                let (kept_turned, ds_turned) = (kept.transposed(), ds.transposed());
                let at_keys = start * stride;
                let d_y = SmallRight::new(level, Precision::F32, d_y, seen, dy_room);
                d_y.multiply(kept_turned, dim, &mut dv[at_keys..], true, seeing, left);
                let q = SmallRight::new(level, Precision::F32, q, seen, q_room);
                q.multiply(ds_turned, dim, &mut dk[at_keys..], true, seeing, left);
                keys.multiply(ds, dim, &mut dq[first * stride..], false, visible, left);
            }
        }
        let write = |row: usize, part: usize, values: &[f32]| {
            // SAFETY: these rows and columns belong to this task alone.
            unsafe { out.write(level, row, part * width + head * dim, values) };
        };
        for (part, rows, first) in [(0, dq, own.start), (1, dk, range.start), (2, dv, range.start)] {
            let rows = rows.chunks_exact(stride).map(|row| &row[..dim]);
            let count = if part == 0 { own.len() } else { count };
            rows.take(count).enumerate().for_each(|(i, values)| write(first + i, part, values));
        }
        // Queries that did not attend have no gradient.
        y[..dim].fill(0.0);
        range.filter(|row| !own.contains(row)).for_each(|row| write(row, 0, &y[..dim]));
    }
}

impl KeyValueCache {
    /// Takes over the keys and values of new rows.
    fn append(&mut self, level: Level, qkv: &Tensor) {
        let width = qkv.cols() / 3;
        let mut scratch = vec![0.0; qkv.cols()];
        for r in 0..qkv.rows() {
            self.rows.extend_from_slice(&qkv.row(level, r, &mut scratch)[width..]);
        }
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
    /// Right operands of a whole sequence, and of one tile of queries.
    rights: [Buffer; 3],
    tile_rights: [Buffer; 2],
    left: Buffer,
    p: Vec<f32>,
    dp: Vec<f32>,
    kept: Vec<f32>,
    y: Vec<f32>,
    dy: Vec<f32>,
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

fn scale_of(dim: usize) -> f32 {
    1.0 / (dim as f32).sqrt()
}

/// How many keys are computed for queries before `end`: whole panels of the matmuls, later keys are masked.
fn seen(causal: bool, end: usize, count: usize) -> usize {
    if causal { end.next_multiple_of(GRAIN).min(count) } else { count }
}

/// How many of the `seen` keys any of the 8 queries from `query` on may see.
fn visible_keys(causal: bool, query: usize, seen: usize) -> usize {
    if causal { (query + 8).min(seen) } else { seen }
}

/// `len` elements in vectors of 16; the row stride of [`output_room`] has room for it.
const fn whole_vectors(len: usize) -> usize {
    len.next_multiple_of(16)
}

/// The first `rows` and `cols` of a row-major matrix.
fn matrix(values: &[f32], rows: usize, cols: usize, stride: usize) -> Operand<'_> {
    Operand::from_f32(&values[..rows * stride], rows, stride).block(0..rows, 0..cols)
}

/// Makes room for `len` elements whose content will be overwritten.
fn resize(buffer: &mut Vec<f32>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
}

/// The columns `first .. first + dim` of some rows, as a dense f32 matrix.
fn gather(level: Level, x: &Tensor, rows: Range<usize>, first: usize, dim: usize, to: &mut Vec<f32>) {
    resize(to, rows.len() * dim);
    for (row, to) in rows.zip(to.chunks_exact_mut(dim)) {
        let at = row * x.cols() + first..row * x.cols() + first + dim;
        match x.dtype() {
            DType::F32 => to.copy_from_slice(&x.f32()[at]),
            DType::Bf16 => convert::widen(level, &x.bf16()[at], to),
        }
    }
}

simd! {
    /// Turns the first `visible` scores into probabilities and the rest into zeros; returns the log-sum-exp.
    fn softmax_row(scores: &mut [f32], visible: usize, scale: f32) -> f32 {
        scores[visible..].fill(f32::NEG_INFINITY);
        // Up to a whole vector: what is beyond the visible becomes exactly 0, and there is no slow remainder.
        let (now, later) = scores.split_at_mut(whole_vectors(visible));
        later.fill(0.0);
        let largest = math::max(now) * scale;
        let sum = math::map_and_sum(now, |s| math::exp_nonpositive(s * scale - largest));
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
        let delta = math::sum([y, dy], |[y, dy]| y * dy);
        // As in `softmax_row`.
        let n = whole_vectors(visible);
        let (scores, dp_now, kept_now) = (&scores[..n], &mut dp[..n], &mut kept[..n]);
        for i in 0..n {
            let p = math::exp_nonpositive(scores[i] * scale - log_sum);
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
        (causal, window): (bool, Option<usize>),
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
                let window = window.unwrap_or(length);
                let visible = (0..length)
                    .filter(|&j| (!causal || j <= i) && i.abs_diff(j) <= window)
                    .collect::<Vec<_>>();
                let score =
                    |j: usize| (0..dim).map(|c| at(i, 0, c) * at(j, 1, c)).sum::<f64>() / (dim as f64).sqrt();
                let weights: Vec<f64> = visible.iter().map(|&j| score(j).exp()).collect();
                let sum: f64 = weights.iter().sum();
                for c in 0..dim {
                    y[(start + i) * width + head * dim + c] = visible
                        .iter()
                        .zip(&weights)
                        .map(|(&j, weight)| weight / sum * factor(start + i, head, j) * at(j, 2, c))
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
    use crate::testing::{Gradcheck, SEED, STEP, close, shared_gpu};
    use crate::{CodePath, Device, Packing, Precision, Weights};

    fn check(sizes: (usize, usize), lengths: &[usize], causal: bool, window: Option<usize>, p: f32) {
        check_queries(sizes, lengths, (causal, window), p, None);
    }

    fn check_queries(
        (heads, dim): (usize, usize),
        lengths: &[usize],
        (causal, window): (bool, Option<usize>),
        p: f32,
        query: Option<TokenOf>,
    ) {
        let rows = lengths.iter().sum();
        let of_sequence = |(s, &l): (usize, &usize)| (0..l).map(move |i| (s as u64, i as u64));
        let sequence_of: Vec<(u64, u64)> = lengths.iter().enumerate().flat_map(of_sequence).collect();
        let attention = Attention {
            heads,
            dim,
            causal,
            window,
            query,
            dropout: Some(Dropout { p, site: 9 }),
            padded_output: false,
        };
        let width = heads * dim;
        let attending = query.map(|token| Packing::new(lengths, &vec![0; lengths.len()]).rows_of(token));
        Gradcheck::new("attention", &[("qkv", rows, 3 * heads * dim)], &[]).lengths(lengths).run(
            |tape, x, _| tape.attention(&x[0], attention, None),
            |x, _| {
                let y = reference::forward(&x[0], lengths, heads, dim, (causal, window), |row, head, key| {
                    if p == 0.0 {
                        return 1.0;
                    }
                    let (s, i) = sequence_of[row];
                    let row = rng::derive(site_key(row_key(SEED, STEP, s, i), 9), head as u64);
                    f64::from(dropout_factor(row, key, DropRate::new(p)))
                });
                match &attending {
                    Some(rows) => {
                        rows.iter().flat_map(|&r| y[r as usize * width..][..width].to_vec()).collect()
                    }
                    None => y,
                }
            },
        );
    }

    #[test]
    fn gradcheck() {
        for sizes in [(1, 1), (2, 7), (3, 8), (1, 31), (2, 41), (1, 64), (1, 128)] {
            for lengths in [&[1][..], &[5, 1, 9], &[67]] {
                for (causal, p) in [(true, 0.0), (false, 0.0), (true, 0.3), (false, 0.2)] {
                    check(sizes, lengths, causal, None, p);
                }
            }
        }
    }

    #[test]
    fn gradcheck_with_a_window() {
        for (sizes, window) in [((2, 7), 3), ((1, 16), 0), ((1, 31), 20), ((2, 8), 64), ((1, 4), 1_000)] {
            for lengths in [&[1][..], &[5, 1, 9], &[131, 50]] {
                for (causal, p) in [(false, 0.0), (true, 0.0), (false, 0.2), (true, 0.3)] {
                    check(sizes, lengths, causal, Some(window), p);
                }
            }
        }
    }

    #[test]
    fn gradcheck_of_one_query_of_each_sequence() {
        for sizes in [(1, 1), (2, 7), (1, 41)] {
            // Limits are relative to the largest output, and there are few: a sequence of one token has its value as it is.
            for lengths in [&[5, 1, 9][..], &[67, 1]] {
                for (seen, p) in [((false, None), 0.2), ((true, None), 0.0), ((false, Some(20)), 0.0)] {
                    for query in [TokenOf::Start, TokenOf::End] {
                        check_queries(sizes, lengths, seen, p, Some(query));
                    }
                }
            }
        }
    }

    #[test]
    fn a_cache_gives_what_the_whole_sequence_gives() {
        for window in [None, Some(3), Some(40)] {
            check_cache(window);
        }
    }

    fn check_cache(window: Option<usize>) {
        let (heads, dim, length) = (2, 7, 70);
        let mut stream = rng::Stream::new(4);
        let qkv: Vec<f32> = (0..length * 3 * heads * dim).map(|_| stream.normal() as f32).collect();
        let wide: Vec<f64> = qkv.iter().map(|&x| f64::from(x)).collect();
        let whole = reference::forward(&wide, &[length], heads, dim, (true, window), |_, _, _| 1.0);
        let processor = Device::cpu(None, CodePath::Auto).unwrap();
        for device in [&processor].into_iter().chain(shared_gpu()) {
            let weights = Weights::new(Vec::new());
            let mut cache = KeyValueCache::default();
            let (mut at, mut found) = (0, Vec::new());
            for step in [5, 1, 1, 60, 2, 1] {
                let packing = Packing::continued(at, step);
                let mut tape = Tape::inference(device, &weights, &packing, Precision::F32);
                let width = 3 * heads * dim;
                let rows =
                    Tensor::from_f32(device.pool(), step, width, &qkv[at * width..(at + step) * width]);
                let x = Value { tensor: rows, operand: None, id: None };
                let attention = Attention {
                    heads,
                    dim,
                    causal: true,
                    window,
                    query: None,
                    dropout: None,
                    padded_output: false,
                };
                // Whoever goes on from a copy leaves the original as it is.
                let mut other = cache.clone();
                tape.attention(&x, attention, Some(&mut other));
                let y = tape.attention(&x, attention, Some(&mut cache));
                found.extend(y.tensor.to_f32_vec());
                at += step;
            }
            device.check().unwrap();
            assert_eq!(cache.len(), length);
            close(&found, &whole, 1e-5, "cached attention");
        }
    }
}
