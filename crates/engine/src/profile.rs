//! Where the time of a step goes, by kind of work.
//!
//! Owns: the clocks. Never: decides what is worth a line of its own (the ops say what they are doing).
//!
//! Times are those of the thread that runs the tape, and each moment counts for one kind of work only: work inside
//! other work (packing weights inside a linear) is taken off the outer one.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use crate::cuda::Context;

/// Kinds of work, in the order of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Token and position rows, and their gradients.
    Embedding,
    /// Layer norms.
    Norm,
    /// Layer norms, backward.
    NormBackward,
    /// y = x W^T with bias, activation, dropout, residuals.
    Linear,
    /// Attention.
    Attention,
    /// Attention, backward.
    AttentionBackward,
    /// Logits over the vocabulary.
    HeadLogits,
    /// Their softmax, loss and gradient.
    HeadLoss,
    /// From that gradient to the hidden states' and the weight's.
    HeadGradients,
    /// The gradient before the activation; the bias's.
    LinearElementwise,
    /// dX = dZ W.
    LinearInputGradient,
    /// dW = dZ^T X.
    LinearWeightGradient,
    /// Weights in the layout of the matmuls, after each step.
    Packing,
    /// Selecting rows, pooling, classification losses, joining gradients.
    Other,
    /// The gradients' norm.
    GradientNorm,
    /// Adam.
    Optimizer,
}

impl Work {
    /// All, in the order of a step.
    pub const ALL: [Self; 16] = [
        Self::Embedding,
        Self::Norm,
        Self::NormBackward,
        Self::Linear,
        Self::Attention,
        Self::AttentionBackward,
        Self::HeadLogits,
        Self::HeadLoss,
        Self::HeadGradients,
        Self::LinearElementwise,
        Self::LinearInputGradient,
        Self::LinearWeightGradient,
        Self::Packing,
        Self::Other,
        Self::GradientNorm,
        Self::Optimizer,
    ];

    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Norm => "layer norm",
            Self::NormBackward => "layer norm, backward",
            Self::Linear => "linear",
            Self::Attention => "attention",
            Self::AttentionBackward => "attention, backward",
            Self::HeadLogits => "head: logits",
            Self::HeadLoss => "head: cross-entropy",
            Self::HeadGradients => "head: dX and dW",
            Self::LinearElementwise => "linear: before the activation",
            Self::LinearInputGradient => "linear: dX",
            Self::LinearWeightGradient => "linear: dW",
            Self::Packing => "packing weights",
            Self::Other => "other ops",
            Self::GradientNorm => "gradient norm",
            Self::Optimizer => "optimizer",
        }
    }
}

/// Time and number of calls of each kind of work, once switched on.
#[derive(Debug, Default)]
pub struct Profile {
    on: AtomicBool,
    nanoseconds: [AtomicU64; Work::ALL.len()],
    calls: [AtomicU64; Work::ALL.len()],
    /// Time of the work inside the work that runs now.
    inner: AtomicU64,
}

impl Profile {
    /// Starts counting, from zero.
    pub fn start(&self) {
        for counter in self.nanoseconds.iter().chain(&self.calls) {
            counter.store(0, Ordering::Relaxed);
        }
        self.on.store(true, Ordering::Relaxed);
    }

    /// Whether it counts.
    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Seconds and calls of each kind of work since the start.
    pub fn read(&self) -> Vec<(Work, f64, u64)> {
        let of = |work: Work| {
            let nanoseconds = self.nanoseconds[work as usize].load(Ordering::Relaxed);
            (work, nanoseconds as f64 * 1e-9, self.calls[work as usize].load(Ordering::Relaxed))
        };
        Work::ALL.into_iter().map(of).collect()
    }

    /// Counts the time until the guard is dropped.
    pub(crate) fn time<'a>(&'a self, work: Work, cuda: Option<&'a Context>) -> Option<Timer<'a>> {
        self.is_on().then(|| {
            // What was queued before belongs to others.
            if let Some(cuda) = cuda {
                cuda.synchronize();
            }
            Timer {
                profile: self,
                work,
                began: Instant::now(),
                outer: self.inner.swap(0, Ordering::Relaxed),
                cuda,
            }
        })
    }
}

/// Work that runs.
#[derive(Debug)]
pub(crate) struct Timer<'a> {
    profile: &'a Profile,
    work: Work,
    began: Instant,
    /// What had been counted inside the work around this one.
    outer: u64,
    /// A GPU that is waited for, so that its time is counted and not that of queueing.
    cuda: Option<&'a Context>,
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        if let Some(cuda) = self.cuda {
            cuda.synchronize();
        }
        let all = self.began.elapsed().as_nanos() as u64;
        let inside = self.profile.inner.swap(self.outer + all, Ordering::Relaxed);
        let own = all.saturating_sub(inside);
        self.profile.nanoseconds[self.work as usize].fetch_add(own, Ordering::Relaxed);
        self.profile.calls[self.work as usize].fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn each_moment_counts_once() {
        let profile = Profile::default();
        assert!(profile.time(Work::Linear, None).is_none(), "off until started");
        profile.start();
        let began = Instant::now();
        {
            let _outer = profile.time(Work::Linear, None);
            for _ in 0..2 {
                let _inner = profile.time(Work::Packing, None);
                std::thread::sleep(Duration::from_millis(4));
            }
        }
        let all = began.elapsed().as_secs_f64();
        let found = profile.read();
        let of = |work: Work| found[work as usize];
        assert_eq!((of(Work::Linear).2, of(Work::Packing).2, of(Work::Norm).2), (1, 2, 0));
        assert!(of(Work::Packing).1 >= 0.008);
        assert!(of(Work::Linear).1 + of(Work::Packing).1 <= all);
        assert!(Work::ALL.iter().enumerate().all(|(i, &work)| work as usize == i));
    }
}
