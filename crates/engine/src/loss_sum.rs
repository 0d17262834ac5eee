//! A loss that a GPU may still be computing.
//!
//! Owns: when the host waits for it. Never: how a loss is computed (`ops/`).

use std::sync::Arc;

use crate::cuda::DeviceBuffer;

/// A loss summed over rows, not yet divided by anything.
///
/// On a GPU the terms stay there until [`LossSum::wait`]; before it, `sum` and `correct` hold what was waited for so far.
#[derive(Clone, Debug, Default)]
pub struct LossSum {
    /// Sum of negative log likelihoods (nats), or of the loss's own terms.
    pub sum: f64,
    /// Rows whose best class is the target.
    pub correct: u64,
    /// Both, as f64, where a GPU still computes them.
    pending: Vec<Arc<DeviceBuffer>>,
}

impl LossSum {
    /// A loss that is known.
    pub fn of(sum: f64, correct: u64) -> Self {
        Self { sum, correct, pending: Vec::new() }
    }

    /// A loss that is still being computed: two f64 on a GPU, the sum and the number of correct ones.
    pub(crate) fn pending(sums: DeviceBuffer) -> Self {
        Self { pending: vec![Arc::new(sums)], ..Self::default() }
    }

    /// Adds another sum, in this order.
    pub fn add(&mut self, other: &Self) {
        self.sum += other.sum;
        self.correct += other.correct;
        self.pending.extend(other.pending.iter().cloned());
    }

    /// Waits for what is still being computed and adds it.
    pub fn wait(&mut self) {
        for there in self.pending.drain(..) {
            let mut sums = [0.0_f64; 2];
            there.context().download(&mut sums, there.ptr());
            self.sum += sums[0];
            self.correct += sums[1] as u64;
        }
    }
}
