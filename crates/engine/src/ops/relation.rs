//! How far a student's token relations are from its teacher's (MiniLM, Wang et al. 2020; several relation heads, Wang et al. 2021).
//!
//! Shapes: x `[N, 3C]`, the queries, keys and values that attention reads; targets `[N, 3T]`, the teacher's, which have no gradient. Both are
//! cut into H heads, of D = C / H columns and of T / H. A relation of two of the three, a and b, is for each head and token a distribution over the
//! tokens of its sequence, or those up to itself where causal: q = softmax(a b^T / sqrt(D)), the teacher's p likewise.
//! - the sum over relations, heads and tokens of `sum_j p_j (log p_j - log q_j)`, 0 where they agree
//! - `dS = scale (q - p) / sqrt(D)`; `da = dS b`; `db = dS^T a`
//!
//! A relation never exists at once beyond one tile of tokens, so memory grows with the tokens and not with their squares.

use std::cell::RefCell;
use std::ops::Range;

use crate::cpu::gemm::{Buffer, GRAIN, Operand, SmallRight, output_room};
use crate::cpu::math;
use crate::cpu::shared::{SharedSlice, SharedTensor};
use crate::cpu::simd::simd;
use crate::cuda;
use crate::device::Device;
use crate::dtype::{DType, Precision};
use crate::loss_sum::LossSum;
use crate::packing::Packing;
use crate::profile::Work;
use crate::tape::{Tape, Value};
use crate::tensor::Tensor;

/// The most columns that a head of relations has: what a GPU takes.
pub const WIDEST_HEAD: usize = cuda::ops::relation::MOST_DIM;

/// Tokens whose relations exist at once, per thread.
const TILE: usize = GRAIN;

/// Stands for the scores of tokens that are not seen: finite, so that 0 times it is 0.
const UNSEEN: f32 = -1e30;

/// What is related to what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Related {
    /// Queries to keys, as attention has it, and values to values (MiniLM).
    Attention,
    /// Queries, keys and values each to themselves (MiniLMv2).
    Alike,
}

impl Related {
    /// Pairs of parts of a row: q, k and v are 0, 1 and 2. Each part is in one pair.
    fn pairs(self) -> &'static [[usize; 2]] {
        match self {
            Self::Attention => &[[0, 1], [2, 2]],
            Self::Alike => &[[0, 0], [1, 1], [2, 2]],
        }
    }
}

/// Which relations are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relations {
    /// H; divides the columns of both models, into [`WIDEST_HEAD`] at most.
    pub heads: usize,
    /// Of what.
    pub of: Related,
    /// Whether a token is related to none behind it.
    pub causal: bool,
}

impl Tape<'_> {
    /// See the module's header. `scale` (coefficient over the global count) only enters the gradient.
    ///
    /// # Panics
    /// When the shapes do not fit.
    pub fn relation(&mut self, x: &Value, targets: &Tensor, relations: Relations, scale: f32) -> LossSum {
        let device = self.device;
        let _timer = device.time(Work::Other);
        let (rows, heads) = (x.tensor.rows(), relations.heads);
        assert!([&x.tensor, targets].iter().all(|x| x.cols().is_multiple_of(3 * heads)), "{heads} heads");
        assert_eq!((targets.rows(), self.packing.tokens()), (rows, rows), "a row for each token");
        let wanted = self.is_training() && x.id.is_some();
        let mut gradient = wanted.then(|| self.uninit(rows, x.tensor.cols(), DType::F32));
        let sum = if let (Some(cuda), Some(slab)) = (device.cuda(), &self.slab) {
            let pairs = relations.of.pairs();
            let outcomes = self.uninit(pairs.len() * rows * heads, 2, DType::F32);
            let log_sums = [(); 2].map(|()| self.uninit(rows, heads, DType::F32));
            LossSum::pending(cuda::ops::relation::relation(
                cuda,
                slab,
                [&x.tensor, targets],
                pairs,
                (heads, relations.causal),
                scale,
                log_sums.each_ref(),
                &outcomes,
                gradient.as_ref(),
            ))
        } else {
            let both = [&x.tensor, targets];
            let sum = relations.sum(device, &self.packing, self.precision, both, scale, gradient.as_mut());
            LossSum::of(sum, 0)
        };
        if let Some(gradient) = gradient {
            self.record_loss(x, gradient);
        }
        sum
    }
}

/// One head of one sequence.
struct Task<'a> {
    device: &'a Device,
    precision: Precision,
    range: Range<usize>,
    head: usize,
    scale: f32,
}

impl Relations {
    /// On the processor; fills the gradient where there is one.
    fn sum(
        self,
        device: &Device,
        packing: &Packing,
        precision: Precision,
        both: [&Tensor; 2],
        scale: f32,
        gradient: Option<&mut Tensor>,
    ) -> f64 {
        let mut terms = vec![0.0_f64; packing.sequences() * self.heads];
        let count = terms.len();
        let (sums, out) = (SharedSlice::new(&mut terms), gradient.map(SharedTensor::new));
        device.for_each(count, |task| {
            let (sequence, head) = (task / self.heads, task % self.heads);
            let part = Task { device, precision, range: packing.range(sequence), head, scale };
            let term = SCRATCH.with_borrow_mut(|scratch| self.of_head(&part, both, scratch, out.as_ref()));
            // SAFETY: every task has a place of its own.
            let place = unsafe { sums.slice(task, 1) };
            place[0] = term;
        });
        // In the order of tasks, whoever computed them.
        terms.iter().sum()
    }

    fn of_head(
        self,
        task: &Task<'_>,
        both: [&Tensor; 2],
        scratch: &mut Scratch,
        out: Option<&SharedTensor<'_>>,
    ) -> f64 {
        let Task { device, precision, range, head, scale } = task;
        let (level, count) = (device.level(), range.len());
        let [dim, t_dim] = both.map(|x| x.cols() / 3 / self.heads);
        let [score_scale, t_score_scale] = [dim, t_dim].map(|dim| 1.0 / (dim as f32).sqrt());
        let Scratch { rights: [own_room, their_room, b_room, a_room], left, scores, t_scores, gradients } =
            scratch;
        let (room, stride_out) = output_room(count, dim);
        for gradient in gradients.iter_mut().filter(|_| out.is_some()) {
            gradient.clear();
            gradient.resize(room * stride_out, 0.0);
        }
        let mut total = 0.0;
        for &pair in self.of.pairs() {
            let [[a, b], [t_a, t_b]] = both.map(|x| {
                let (width, dim) = (x.cols() / 3, x.cols() / 3 / self.heads);
                pair.map(|part| {
                    let first = part * width + head * dim;
                    Operand::new(x).block(range.clone(), first..first + dim)
                })
            });
            let own = SmallRight::new(level, *precision, b.transposed(), count, own_room);
            let theirs = SmallRight::new(level, *precision, t_b.transposed(), count, their_room);
            // Gradients are not rounded: only what is bf16 already is multiplied as such.
            let others = out.map(|_| SmallRight::new(level, Precision::F32, b, count, b_room));
            for first in (0..count).step_by(TILE) {
                let tile = TILE.min(count - first);
                let seen =
                    if self.causal { (first + tile).next_multiple_of(GRAIN).min(count) } else { count };
                let (room, stride) = output_room(tile, seen);
                for buffer in [&mut *scores, &mut *t_scores] {
                    buffer.resize(buffer.len().max(room * stride), 0.0);
                }
                let (a, t_a) =
                    (a.block(first..first + tile, 0..dim), t_a.block(first..first + tile, 0..t_dim));
                own.multiply(a, seen, scores, false, |_| 0..dim, left);
                theirs.multiply(t_a, seen, t_scores, false, |_| 0..t_dim, left);
                for i in 0..tile {
                    let visible = if self.causal { first + i + 1 } else { count };
                    let at = i * stride..i * stride + seen.next_multiple_of(16);
                    let (scores, t_scores) = (&mut scores[at.clone()], &mut t_scores[at]);
                    let factors = [score_scale, t_score_scale, scale * score_scale];
                    total += f64::from(relation_row(level, scores, t_scores, visible, factors));
                }
                let Some(others) = &others else { continue };
                let ds = Operand::from_f32(&scores[..tile * stride], tile, stride).block(0..tile, 0..seen);
                others.multiply(
                    ds,
                    dim,
                    &mut gradients[pair[0]][first * stride_out..],
                    true,
                    |_| 0..seen,
                    left,
                );
                let a = SmallRight::new(level, Precision::F32, a, seen, a_room);
                a.multiply(ds.transposed(), dim, &mut gradients[pair[1]], true, |_| 0..tile, left);
            }
        }
        for (part, rows) in gradients.iter().enumerate() {
            let Some(out) = out else { break };
            let first = part * (both[0].cols() / 3) + head * dim;
            for (i, values) in rows.chunks_exact(stride_out).take(count).enumerate() {
                // SAFETY: these rows and columns belong to this task alone.
                unsafe { out.write(level, range.start + i, first, &values[..dim]) };
            }
        }
        total
    }
}

/// Per-thread work space.
#[derive(Default)]
struct Scratch {
    rights: [Buffer; 4],
    left: Buffer,
    scores: Vec<f32>,
    t_scores: Vec<f32>,
    /// Of the queries, keys and values of one head.
    gradients: [Vec<f32>; 3],
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

simd! {
    /// The term of a row from the scores of both models, of which the first `visible` count; turns `scores` into their gradient, 0 beyond. The
    /// factors are those of the scores, the teacher's, the gradient.
    fn relation_row(scores: &mut [f32], t_scores: &mut [f32], visible: usize, factors: [f32; 3]) -> f32 {
        let [scale, t_scale, slope] = factors;
        // Up to a whole vector, without a slow remainder: what is beyond the visible becomes exactly 0.
        let (scores, later) = scores.split_at_mut(visible.next_multiple_of(16));
        later.fill(0.0);
        let t_scores = &mut t_scores[..scores.len()];
        scores[visible..].fill(UNSEEN);
        t_scores[visible..].fill(UNSEEN);
        let (largest, t_largest) = (math::max(scores) * scale, math::max(t_scores) * t_scale);
        let all = math::sum([scores], |[s]| math::exp_nonpositive(s * scale - largest)).ln() + largest;
        let t_all = math::sum([t_scores], |[t]| math::exp_nonpositive(t * t_scale - t_largest)).ln() + t_largest;
        let term = math::sum([scores, t_scores], |[s, t]| {
            let (log_q, log_p) = (s * scale - all, t * t_scale - t_all);
            math::exp_nonpositive(log_p) * (log_p - log_q)
        });
        for (s, t) in scores.iter_mut().zip(t_scores.iter()) {
            let (q, p) = (math::exp_nonpositive(*s * scale - all), math::exp_nonpositive(*t * t_scale - t_all));
            *s = slope * (q - p);
        }
        term
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{close, shared_gpu};
    use crate::{CodePath, Gradients, Weights, rng::Stream};
    use std::num::NonZeroUsize;

    /// The plain reference, in f64.
    fn reference(x: &[f64], targets: &[f64], lengths: &[usize], relations: Relations) -> f64 {
        let tokens: usize = lengths.iter().sum();
        let (columns, t_columns) = (x.len() / tokens, targets.len() / tokens);
        let log_softmax =
            |rows: &[f64], columns: usize, pair: [usize; 2], head: usize, i: usize, seen: Range<usize>| {
                let (width, dim) = (columns / 3, columns / 3 / relations.heads);
                let at =
                    |row: usize, part: usize, c: usize| rows[row * columns + part * width + head * dim + c];
                let score = |j: usize| {
                    (0..dim).map(|c| at(i, pair[0], c) * at(j, pair[1], c)).sum::<f64>() / (dim as f64).sqrt()
                };
                let scores: Vec<f64> = seen.map(score).collect();
                let all = scores.iter().map(|s| s.exp()).sum::<f64>().ln();
                scores.into_iter().map(move |s| s - all).collect::<Vec<f64>>()
            };
        let (mut total, mut start) = (0.0, 0);
        for &length in lengths {
            for (pair, head) in
                relations.of.pairs().iter().flat_map(|&pair| (0..relations.heads).map(move |h| (pair, h)))
            {
                for i in start..start + length {
                    let seen = start..if relations.causal { i + 1 } else { start + length };
                    let q = log_softmax(x, columns, pair, head, i, seen.clone());
                    let p = log_softmax(targets, t_columns, pair, head, i, seen);
                    total += p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
                }
            }
            start += length;
        }
        total
    }

    fn once(
        device: &Device,
        (x, targets): (&[f32], &[f32]),
        lengths: &[usize],
        relations: Relations,
        precision: Precision,
    ) -> (f64, Vec<f32>) {
        let tokens: usize = lengths.iter().sum();
        let names: Vec<u64> = (0..lengths.len() as u64).collect();
        let (nothing, packing) = (Weights::new(Vec::new()), Packing::new(lengths, &names));
        let mut gradients = Gradients::new(0);
        let mut tape = Tape::training(device, &nothing, &mut gradients, &packing, precision, 0, 0);
        let value = tape.leaf(Tensor::from_f32(device.pool(), tokens, x.len() / tokens, x));
        let there = Tensor::from_f32(device.pool(), tokens, targets.len() / tokens, targets);
        let mut out = tape.relation(&value, &there, relations, 0.5);
        out.wait();
        let found = tape.backward_from(Vec::new(), None)[0].as_ref().unwrap().to_f32_vec();
        device.check().unwrap();
        (out.sum, found)
    }

    fn check(relations: Relations, [dim, t_dim]: [usize; 2], lengths: &[usize]) {
        let tokens: usize = lengths.iter().sum();
        let mut stream = Stream::new((dim + 31 * t_dim) as u64);
        let mut numbers = |dim: usize| -> Vec<f32> {
            // Exact in bf16, so that only what the op itself rounds is measured.
            (0..tokens * 3 * relations.heads * dim)
                .map(|_| (4.0 * stream.normal()).round() as f32 / 8.0)
                .collect()
        };
        let (x, targets) = (numbers(dim), numbers(t_dim));
        let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|&x| f64::from(x)).collect() };
        let (x64, t64) = (wide(&x), wide(&targets));
        let exact = reference(&x64, &t64, lengths, relations);
        let mut places = Stream::new(tokens as u64);
        let at: Vec<usize> = (0..40).map(|_| places.below(x.len())).collect();
        let slope = |&i: &usize| {
            let moved = |h: f64| {
                let mut x = x64.clone();
                x[i] += h;
                0.5 * reference(&x, &t64, lengths, relations)
            };
            (moved(1e-5) - moved(-1e-5)) / 2e-5
        };
        let slopes: Vec<f64> = at.iter().map(slope).collect();
        let processor = |threads, path| Device::cpu(NonZeroUsize::new(threads), path).unwrap();
        let devices = [(1, CodePath::Auto), (3, CodePath::Auto), (1, CodePath::Portable)]
            .map(|(n, path)| processor(n, path));
        for precision in [Precision::F32, Precision::Bf16] {
            let mut all: Vec<(f64, Vec<f32>)> = Vec::new();
            for device in devices.iter().chain(shared_gpu()) {
                let (sum, found) = once(device, (&x, &targets), lengths, relations, precision);
                close(&[sum as f32], &[exact], 1e-5, "relation");
                let picked: Vec<f32> = at.iter().map(|&i| found[i]).collect();
                close(&picked, &slopes, 2e-5, &format!("gradient {relations:?} {dim} {t_dim} {lengths:?}"));
                if let Some((_, first)) = all.first() {
                    close(&found, &wide(first), 1e-5, "between devices");
                }
                all.push((sum, found));
            }
            assert!(all[0] == all[1], "threads change bits");
        }
    }

    #[test]
    fn gradcheck() {
        for of in [Related::Attention, Related::Alike] {
            for causal in [false, true] {
                for (heads, dims) in [(1, [1, 1]), (2, [7, 5]), (3, [8, 31]), (1, [41, 128]), (5, [16, 3])] {
                    for lengths in [&[2][..], &[5, 1, 9], &[67, 2]] {
                        check(Relations { heads, of, causal }, dims, lengths);
                    }
                }
            }
        }
    }

    #[test]
    fn a_student_that_is_its_teacher_has_nothing_to_learn() {
        let device = Device::cpu(None, CodePath::Auto).unwrap();
        let mut stream = Stream::new(3);
        let x: Vec<f32> = (0..50 * 3 * 8).map(|_| stream.normal() as f32).collect();
        let relations = Relations { heads: 2, of: Related::Alike, causal: false };
        let (sum, gradient) = once(&device, (&x, &x), &[20, 30], relations, Precision::F32);
        assert!(sum.abs() < 1e-6 && gradient.iter().all(|d| *d == 0.0), "{sum}");
    }
}
