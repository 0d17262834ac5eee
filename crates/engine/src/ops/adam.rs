//! Adam (Kingma and Ba 2015) with coupled L2, and AdamW (Loshchilov and Hutter 2019), over flat buffers.
//!
//! One pass reads gradient, moments and weight and writes moments, weight and a zeroed gradient:
//! g = gradient * clip (+ decay * w when coupled); m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
//! w = w (- lr decay w when decoupled) - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps), as PyTorch computes it.
//!
//! Where gradient and moments are zero and nothing decays, nothing would change, and nothing is written: in fine-tuning
//! that is most of the token embedding. What no gradient ever reached is not even read, once its moments were seen to be zero.
//!
//! Ranges carry their own rate, decay and step count, so freezing and per-layer rates need nothing else.

use crate::collective::{Collective, Shares};
use crate::cpu::shared::SharedSlice;
use crate::cpu::simd::simd;
use crate::cuda::ops::adam::DeviceRange;
use crate::cuda::{self, DeviceBuffer};
use crate::device::Device;
use crate::error::EngineError;
use crate::flat::Flat;
use crate::profile::Work;
use crate::weights::{GRADIENT_BLOCK as BLOCK, Gradients, Weights};

/// Elements that one task handles; fixed, so that the norm's partial sums do not depend on threads or ranks.
pub(crate) const ELEMENTS_PER_TASK: usize = 1 << 16;
const _: () = assert!(ELEMENTS_PER_TASK.is_multiple_of(BLOCK));

/// How weight decay enters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decay {
    /// Added to the gradient: L2, as Adam in the tutorial.
    Coupled,
    /// Taken off the weight: AdamW.
    Decoupled,
}

/// The settings that all parameters share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the denominator.
    pub eps: f32,
    /// How weight decay enters.
    pub decay: Decay,
}

/// A run of parameters that share a rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// First element in the weights.
    pub start: usize,
    /// First element in the gradients.
    pub grad: usize,
    /// First element in the moments: the same number, unless they are shared out among ranks.
    pub moment: usize,
    /// Number of elements.
    pub len: usize,
    /// Learning rate of this step.
    pub lr: f32,
    /// Weight decay.
    pub weight_decay: f32,
    /// How many updates these parameters have had, this one included.
    pub step: u64,
}

/// A sum of squares; on a GPU it may still be computed.
#[derive(Debug)]
pub struct SquaredNorm {
    partial: Partial,
}

#[derive(Debug)]
enum Partial {
    Host(Vec<f64>),
    Device { sums: DeviceBuffer, count: usize },
}

impl SquaredNorm {
    /// The sum, once it is there; not finite if any of the terms is not.
    pub fn wait(self) -> f64 {
        self.partial_sums().iter().sum()
    }

    /// The sum over gradients of which each rank has its own share: the same bits as where one has all.
    ///
    /// # Errors
    /// [`EngineError::Rank`] with the rank that is lost.
    pub fn over_ranks(self, collective: &Collective, shares: &Shares) -> Result<f64, EngineError> {
        let mine = self.partial_sums();
        if collective.is_alone() {
            return Ok(mine.iter().sum());
        }
        let all = collective.gather_equal(bytemuck::cast_slice(&mine))?;
        let sums = |bytes: &Vec<u8>| bytemuck::pod_collect_to_vec::<u8, f64>(bytes);
        let all: Vec<Vec<f64>> = all.iter().map(sums).collect();
        Ok((0..mine.len()).map(|unit| all[shares.owner(unit)][unit]).sum())
    }

    fn partial_sums(self) -> Vec<f64> {
        match self.partial {
            Partial::Host(sums) => sums,
            Partial::Device { sums, count } => {
                let mut partial = vec![0.0; count];
                sums.context().download(&mut partial, sums.ptr());
                partial
            }
        }
    }
}

/// The sum of squares of gradients (f64 partial sums in a fixed order).
pub fn squared_norm(device: &Device, gradients: &Gradients) -> SquaredNorm {
    let _timer = device.time(Work::GradientNorm);
    if let Some(cuda) = device.cuda() {
        let gradients = gradients.flat();
        let (sums, count) = cuda::ops::adam::squared_norm(cuda, gradients.device(cuda), gradients.len());
        return SquaredNorm { partial: Partial::Device { sums, count } };
    }
    let (gradients, reached) = (gradients.values(), gradients.reached());
    let tasks = gradients.len().div_ceil(ELEMENTS_PER_TASK);
    let mut partial = vec![0.0_f64; tasks];
    let level = device.level();
    {
        let partial = SharedSlice::new(&mut partial);
        device.for_each(tasks, |task| {
            let start = task * ELEMENTS_PER_TASK;
            let part = &gradients[start..gradients.len().min(start + ELEMENTS_PER_TASK)];
            // SAFETY: every task has an element of its own.
            let slot = unsafe { partial.slice(task, 1) };
            slot[0] = sum_of_squares(level, part, &reached[start / BLOCK..]);
        });
    }
    SquaredNorm { partial: Partial::Host(partial) }
}

/// What a step multiplies by, the same for all parameters of a range.
#[derive(Clone, Copy, Debug)]
struct Rates {
    /// lr / (1 - b1^t).
    step_size: f32,
    /// 1 / sqrt(1 - b2^t).
    root: f32,
    /// Decay that is added to the gradient.
    coupled: f32,
    /// What is left of a weight after its decay.
    shrink: f32,
}

impl Adam {
    /// The corrections are made in f64, as PyTorch makes them, then used in f32.
    fn rates(&self, range: &Range) -> Rates {
        let correction = |beta: f32| 1.0 - f64::from(beta).powi(range.step.min(i32::MAX as u64) as i32);
        let (coupled, shrink) = match self.decay {
            Decay::Coupled => (range.weight_decay, 1.0),
            Decay::Decoupled => (0.0, (1.0 - f64::from(range.lr) * f64::from(range.weight_decay)) as f32),
        };
        Rates {
            step_size: (f64::from(range.lr) / correction(self.beta1)) as f32,
            root: (1.0 / correction(self.beta2).sqrt()) as f32,
            coupled,
            shrink,
        }
    }

    /// One step: applies the gradients times `clip` and leaves all of them zero. Parameters outside the ranges do not train
    /// now: their weights and moments stay as they are, their gradients are forgotten.
    ///
    /// # Panics
    /// When a range lies outside the buffers.
    pub fn step(
        &self,
        device: &Device,
        weights: &mut Weights,
        gradients: &mut Gradients,
        first_moment: &mut Flat,
        second_moment: &mut Flat,
        ranges: &[Range],
        clip: f32,
    ) {
        let _timer = device.time(Work::Optimizer);
        let idle = idle(ranges, gradients.flat().len());
        if let Some(cuda) = device.cuda() {
            let table = ranges.iter().map(|range| {
                let Rates { step_size, root, coupled, shrink } = self.rates(range);
                DeviceRange::new(
                    [range.start, range.grad, range.moment],
                    range.len,
                    [step_size, root, coupled, shrink],
                )
            });
            let (values, rounded) = weights.device_step(cuda);
            let buffers = cuda::ops::adam::Buffers {
                values,
                rounded,
                gradients: gradients.flat_mut().device_mut(cuda),
                first_moment: first_moment.device_mut(cuda),
                second_moment: second_moment.device_mut(cuda),
            };
            for idle in idle {
                let start = buffers.gradients.offset(idle.start * size_of::<f32>());
                cuda.zero(start, idle.len() * size_of::<f32>());
            }
            let constants = [clip, self.beta1, self.beta2, self.eps];
            cuda::ops::adam::step(cuda, table.collect(), &buffers, constants);
            let changed: Vec<_> = ranges.iter().map(|range| (range.start, range.len)).collect();
            return weights.device_stepped(cuda, &changed);
        }
        let (gradients, reached, moved) = gradients.taken();
        for idle in idle {
            gradients[idle].fill(0.0);
        }
        let level = device.level();
        let weights = SharedSlice::new(weights.values_mut());
        let gradients = SharedSlice::new(gradients);
        let (was_reached, moved) = (&*reached, SharedSlice::new(moved));
        let (first, second) =
            (SharedSlice::new(first_moment.values_mut()), SharedSlice::new(second_moment.values_mut()));
        let mut chunks = Vec::new();
        for range in ranges {
            // Cut where blocks end, so that a block is whole in one task unless a range ends in it.
            let (mut at, end) = (range.grad, range.grad + range.len);
            while at < end {
                let next = end.min((at / ELEMENTS_PER_TASK + 1) * ELEMENTS_PER_TASK);
                chunks.push((range, at..next));
                at = next;
            }
        }
        device.for_each(chunks.len(), |i| {
            let (range, ref chunk) = chunks[i];
            let stays = |block: usize| {
                let is_whole = chunk.start <= block * BLOCK && (block + 1) * BLOCK <= chunk.end;
                // SAFETY: a block that is whole in one task is no other's.
                is_whole
                    && range.weight_decay <= 0.0
                    && !was_reached[block]
                    && !unsafe { moved.slice(block, 1) }[0]
            };
            let mut at = chunk.start;
            while at < chunk.end {
                let first_block = at / BLOCK;
                let mut end = at;
                while end < chunk.end && !stays(end / BLOCK) {
                    end = chunk.end.min((end / BLOCK + 1) * BLOCK);
                }
                if end == at {
                    at = (first_block + 1) * BLOCK;
                    continue;
                }
                let whole = at.div_ceil(BLOCK)..end / BLOCK;
                // SAFETY: ranges of distinct parameters are disjoint, and so are their chunks and their whole blocks.
                let (w, g, m, v, moved) = unsafe {
                    (
                        weights.slice(at - range.grad + range.start, end - at),
                        gradients.slice(at, end - at),
                        first.slice(at - range.grad + range.moment, end - at),
                        second.slice(at - range.grad + range.moment, end - at),
                        moved.slice(whole.start, whole.len()),
                    )
                };
                update(level, self, range, clip, w, g, m, v, whole.start * BLOCK - at, moved);
                at = end;
            }
        });
        reached.fill(false);
    }
}

/// The gradients that no range lists.
fn idle(ranges: &[Range], len: usize) -> Vec<std::ops::Range<usize>> {
    if ranges.iter().map(|range| range.len).sum::<usize>() == len {
        return Vec::new();
    }
    let mut listed: Vec<_> = ranges.iter().map(|range| range.grad..range.grad + range.len).collect();
    listed.sort_unstable_by_key(|range| range.start);
    let mut idle = Vec::new();
    let mut end = 0;
    for range in listed.into_iter().chain(std::iter::once(len..len)) {
        if end < range.start {
            idle.push(end..range.start);
        }
        end = range.end.max(end);
    }
    idle
}

simd! {
    fn sum_of_squares(x: &[f32], reached: &[bool]) -> f64 {
        let mut lanes = [0.0_f64; 16];
        // A block that was not reached is zero and would add nothing.
        for (block, _) in x.chunks(BLOCK).zip(reached).filter(|(_, reached)| **reached) {
            let (chunks, rest) = block.as_chunks::<16>();
            for chunk in chunks {
                for (lane, &x) in lanes.iter_mut().zip(chunk) {
                    *lane += f64::from(x) * f64::from(x);
                }
            }
            for (lane, &x) in lanes.iter_mut().zip(rest) {
                *lane += f64::from(x) * f64::from(x);
            }
        }
        lanes.iter().sum()
    }
}

simd! {
    /// `head` elements come before the first whole block; `moved` says of whole blocks whether their moments are other than zero.
    fn update(
        adam: &Adam,
        range: &Range,
        clip: f32,
        w: &mut [f32],
        g: &mut [f32],
        m: &mut [f32],
        v: &mut [f32],
        head: usize,
        moved: &mut [bool],
    ) {
        let Rates { step_size, root, coupled, shrink } = adam.rates(range);
        let (rest1, rest2) = (1.0 - adam.beta1, 1.0 - adam.beta2);
        let decays = range.weight_decay > 0.0;
        let (mut at, mut block) = (0, 0);
        while at < w.len() {
            let is_whole = at >= head && at + BLOCK <= w.len();
            let end = if at < head { head.min(w.len()) } else { w.len().min(at + BLOCK) };
            let n = end - at;
            let (w, g) = (&mut w[at..end], &mut g[at..end]);
            let (m, v) = (&mut m[at..end], &mut v[at..end]);
            at = end;
            let any = (0..n).fold(0, |bits, i| bits | g[i].to_bits() | m[i].to_bits() | v[i].to_bits());
            let stays = any == 0 && !decays;
            if is_whole {
                moved[block] = !stays;
                block += 1;
            }
            if stays {
                continue;
            }
            for i in 0..n {
                let gradient = g[i] * clip + coupled * w[i];
                m[i] = adam.beta1 * m[i] + rest1 * gradient;
                v[i] = adam.beta2 * v[i] + rest2 * gradient * gradient;
                w[i] = w[i] * shrink - step_size * m[i] / (v[i].sqrt() * root + adam.eps);
                g[i] = 0.0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CodePath;
    use crate::View;
    use crate::rng::Stream;
    use std::num::NonZeroUsize;

    #[test]
    fn steps_follow_the_equations_in_f64_and_threads_change_nothing() {
        let n = 2 * ELEMENTS_PER_TASK + 77;
        for decay in [Decay::Coupled, Decay::Decoupled] {
            let mut outcomes = Vec::new();
            for threads in [1, 3] {
                let device = Device::cpu(NonZeroUsize::new(threads), CodePath::Auto).unwrap();
                let adam = Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay };
                let mut stream = Stream::new(1);
                let start: Vec<f32> = (0..n).map(|_| stream.normal() as f32).collect();
                let mut weights = Weights::new(start.clone());
                let mut gradients = Gradients::new(n);
                let (mut m, mut v) = (Flat::zeros(n), Flat::zeros(n));
                let mut exact: Vec<(f64, f64, f64)> =
                    start.iter().map(|&w| (f64::from(w), 0.0, 0.0)).collect();
                for step in 1..=3 {
                    for (i, g) in gradients.values_mut().iter_mut().enumerate() {
                        *g = stream.normal() as f32;
                        let (w, m, v) = &mut exact[i];
                        let grad =
                            f64::from(*g) * 0.5 + if decay == Decay::Coupled { 0.01 * *w } else { 0.0 };
                        *w *= if decay == Decay::Decoupled { 1.0 - 1e-3 * 0.01 } else { 1.0 };
                        *m = 0.9 * *m + 0.1 * grad;
                        *v = 0.999 * *v + 0.001 * grad * grad;
                        let (c1, c2) = (1.0 - 0.9_f64.powi(step), 1.0 - 0.999_f64.powi(step));
                        *w -= 1e-3 * (*m / c1) / ((*v / c2).sqrt() + 1e-8);
                    }
                    let range = Range {
                        start: 0,
                        grad: 0,
                        moment: 0,
                        len: n,
                        lr: 1e-3,
                        weight_decay: 0.01,
                        step: step as u64,
                    };
                    assert!(squared_norm(&device, &gradients).wait().is_finite());
                    adam.step(&device, &mut weights, &mut gradients, &mut m, &mut v, &[range], 0.5);
                    assert!(gradients.values().iter().all(|&g| g == 0.0));
                }
                for (w, e) in weights.values().iter().zip(&exact) {
                    assert!((f64::from(*w) - e.0).abs() < 2e-6, "{w} {}", e.0);
                }
                outcomes.push(weights.values().iter().map(|w| w.to_bits()).collect::<Vec<_>>());
            }
            assert!(outcomes[0] == outcomes[1]);
        }
    }

    #[test]
    fn what_no_gradient_reaches_decays_or_stays() {
        let device = Device::cpu(None, CodePath::Portable).unwrap();
        for (decay, weight_decay) in
            [(Decay::Coupled, 0.0), (Decay::Decoupled, 0.0), (Decay::Coupled, 0.1), (Decay::Decoupled, 0.1)]
        {
            let adam = Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay };
            let mut weights = Weights::new(vec![1.0; 2 * BLOCK]);
            let (mut m, mut v) = (Flat::zeros(2 * BLOCK), Flat::zeros(2 * BLOCK));
            let mut gradients = Gradients::new(2 * BLOCK);
            gradients.values_mut()[BLOCK + 3] = 1.0;
            let range =
                Range { start: 0, grad: 0, moment: 0, len: 2 * BLOCK, lr: 0.1, weight_decay, step: 1 };
            adam.step(&device, &mut weights, &mut gradients, &mut m, &mut v, &[range], 1.0);
            let w = weights.values();
            assert!(w[BLOCK + 3] < 0.95);
            for other in [0, BLOCK - 1, BLOCK, 2 * BLOCK - 1] {
                assert!(if weight_decay > 0.0 {
                    w[other] < 1.0
                } else {
                    w[other].to_bits() == 1.0_f32.to_bits()
                });
            }
            // A moment alone moves a weight, too.
            let before = w[BLOCK + 3];
            adam.step(
                &device,
                &mut weights,
                &mut gradients,
                &mut m,
                &mut v,
                &[Range { step: 2, ..range }],
                1.0,
            );
            assert!(weights.values()[BLOCK + 3] < before);
        }
    }

    #[test]
    fn what_is_not_read_changes_no_bit() {
        // Rows and ranges that end anywhere in blocks; few rows are reached, some later than others, some never.
        let (rows, cols, rest) = (700, 130, 77);
        let n = rows * cols + rest;
        let device = Device::cpu(NonZeroUsize::new(3), CodePath::Auto).unwrap();
        for weight_decay in [0.0, 0.01] {
            let run = |everywhere: bool| {
                let adam = Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: Decay::Decoupled };
                let mut stream = Stream::new(5);
                let start: Vec<f32> = (0..n).map(|_| stream.normal() as f32).collect();
                let (mut weights, mut gradients) = (Weights::new(start), Gradients::new(n));
                let (mut m, mut v) = (Flat::zeros(n), Flat::zeros(n));
                let mut norms = Vec::new();
                for step in 1..=5_usize {
                    let table = View { offset: 0, rows, cols, grad: Some(0) };
                    let reached: Vec<u32> = (0..9).map(|i| (i * i * step * 7 % 600) as u32).collect();
                    let values = if everywhere {
                        gradients.values_mut()
                    } else {
                        gradients.rows_mut(table, reached.iter().copied()).unwrap();
                        let bias = View { offset: rows * cols, rows: 1, cols: rest, grad: Some(rows * cols) };
                        gradients.get_mut(bias).unwrap();
                        gradients.get_mut(View { rows: 1, cols: 0, ..table }).unwrap();
                        // Marked above; the values lie where they lie.
                        gradients.taken().0
                    };
                    for &row in &reached {
                        values[row as usize * cols..][..cols].fill(stream.normal() as f32);
                    }
                    values[rows * cols..].fill(0.5);
                    norms.push(squared_norm(&device, &gradients).wait().to_bits());
                    let range = |start, len, lr| Range {
                        start,
                        grad: start,
                        moment: start,
                        len,
                        lr,
                        weight_decay,
                        step: step as u64,
                    };
                    let ranges = [range(0, rows * cols, 1e-3), range(rows * cols, rest, 2e-3)];
                    adam.step(&device, &mut weights, &mut gradients, &mut m, &mut v, &ranges, 0.7);
                    assert!(gradients.values().iter().all(|&g| g == 0.0));
                }
                let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                (norms, bits(weights.values()), bits(m.values()), bits(v.values()))
            };
            assert!(run(true) == run(false), "decay {weight_decay}");
        }
    }

    #[test]
    #[allow(clippy::float_cmp)] // exact by construction
    fn the_norm_is_exact_and_sees_what_is_not_finite() {
        let device = Device::cpu(None, CodePath::Auto).unwrap();
        let x: Vec<f32> = (0..100_001).map(|i| (i % 7) as f32).collect();
        let norm = |x: &[f32]| {
            let mut gradients = Gradients::new(x.len());
            gradients.values_mut().copy_from_slice(x);
            squared_norm(&device, &gradients).wait()
        };
        assert_eq!(norm(&x), x.iter().map(|x| f64::from(x * x)).sum::<f64>());
        assert!(!norm(&[1.0, f32::NAN]).is_finite());
        assert!(!norm(&[1.0, f32::INFINITY]).is_finite());
    }
}
