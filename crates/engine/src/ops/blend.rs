//! Weights and a second copy of them, one of which moves towards the other: x += rate (y - x).
//!
//! [`pull`] moves weights towards values that stay (L2-SP, Xuhong et al. 2018, decoupled as AdamW's decay is), [`follow`] moves a
//! running mean towards the weights. Each element is computed by itself, so neither threads nor ranks change a bit.

use crate::cpu::shared::SharedSlice;
use crate::cpu::simd::simd;
use crate::cuda;
use crate::device::Device;
use crate::flat::Flat;
use crate::ops::adam::ELEMENTS_PER_TASK;
use crate::profile::Work;
use crate::weights::Weights;

/// A run of parameters that move at one rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// First element in the weights.
    pub start: usize,
    /// First element in the copy.
    pub copy: usize,
    /// Number of elements.
    pub len: usize,
    /// How much of the difference is gone afterwards: 0 to 1.
    pub rate: f32,
}

/// Moves the weights towards the copy. Spans are disjoint.
///
/// # Panics
/// When a span lies outside the buffers.
pub fn pull(device: &Device, weights: &mut Weights, copy: &Flat, spans: &[Span]) {
    let _timer = device.time(Work::Optimizer);
    if spans.is_empty() {
        return;
    }
    if let Some(cuda) = device.cuda() {
        let towards = copy.device(cuda);
        let at = weights.device_changed(cuda);
        for span in spans {
            let (from, to) = (towards.offset(span.copy * 4), at.offset(span.start * 4));
            cuda::ops::adam::blend(cuda, to, from, span.len, span.rate);
        }
        return;
    }
    let places = |span: &Span| (span.start, span.copy);
    blend(device, weights.values_mut(), copy.values(), spans, places);
}

/// Moves the copy towards the weights. Spans are disjoint.
///
/// # Panics
/// When a span lies outside the buffers.
pub fn follow(device: &Device, copy: &mut Flat, weights: &Weights, spans: &[Span]) {
    let _timer = device.time(Work::Optimizer);
    if let Some(cuda) = device.cuda() {
        let at = copy.device_mut(cuda);
        for span in spans {
            let view = crate::View { offset: span.start, rows: 1, cols: span.len, grad: None };
            let (from, to) = (weights.device_f32(cuda, view), at.offset(span.copy * 4));
            cuda::ops::adam::blend(cuda, to, from, span.len, span.rate);
        }
        return;
    }
    let places = |span: &Span| (span.copy, span.start);
    blend(device, copy.values_mut(), weights.values(), spans, places);
}

/// `places` are those of a span in x and y.
fn blend(
    device: &Device,
    x: &mut [f32],
    y: &[f32],
    spans: &[Span],
    places: impl Fn(&Span) -> (usize, usize),
) {
    let mut parts = Vec::new();
    for span in spans {
        let (to, from) = places(span);
        for at in (0..span.len).step_by(ELEMENTS_PER_TASK) {
            parts.push((to + at, from + at, ELEMENTS_PER_TASK.min(span.len - at), span.rate));
        }
    }
    let level = device.level();
    let x = SharedSlice::new(x);
    device.for_each(parts.len(), |i| {
        let (to, from, len, rate) = parts[i];
        // SAFETY: spans are disjoint, and so are their parts.
        let x = unsafe { x.slice(to, len) };
        towards(level, x, &y[from..from + len], rate);
    });
}

simd! {
    fn towards(x: &mut [f32], y: &[f32], rate: f32) {
        for (x, y) in x.iter_mut().zip(y) {
            *x += rate * (y - *x);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CodePath;
    use crate::rng::Stream;
    use crate::testing::{close, shared_gpu};

    #[test]
    fn each_moves_towards_the_other_where_spans_say_so() {
        let (n, m) = (3 * ELEMENTS_PER_TASK + 5, 2 * ELEMENTS_PER_TASK + 9);
        let mut stream = Stream::new(3);
        let mut draw = |n: usize| (0..n).map(|_| stream.normal() as f32).collect::<Vec<_>>();
        let (w, c) = (draw(n), draw(m));
        let spans = [
            Span { start: 7, copy: 0, len: 11, rate: 0.25 },
            Span { start: 100, copy: 11, len: m - 20, rate: 1e-3 },
            Span { start: n - 1, copy: m - 1, len: 1, rate: 1.0 },
        ];
        let expected = |x: &[f32], y: &[f32], place: fn(&Span) -> (usize, usize)| {
            let mut exact: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
            for span in &spans {
                let (to, from) = place(span);
                for i in 0..span.len {
                    exact[to + i] += f64::from(span.rate) * (f64::from(y[from + i]) - exact[to + i]);
                }
            }
            exact
        };
        let processor = Device::cpu(None, CodePath::Auto).unwrap();
        for device in [&processor].into_iter().chain(shared_gpu()) {
            let (mut weights, mut copy) = (Weights::new(w.clone()), Flat::from(c.clone()));
            pull(device, &mut weights, &copy, &spans);
            close(weights.values(), &expected(&w, &c, |s| (s.start, s.copy)), 1e-6, "pulled weights");
            let moved = weights.values().to_vec();
            follow(device, &mut copy, &weights, &spans);
            close(copy.values(), &expected(&c, &moved, |s| (s.copy, s.start)), 1e-6, "mean that followed");
        }
    }
}
