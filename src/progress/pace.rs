//! How fast a run goes and how far it is.
//!
//! Owns: what is smoothed, and how. Never: prints.

use std::time::Instant;

use headstart::event::StepRecord;

use crate::output::{duration, number};

/// Weight of the past in what is smoothed.
const SMOOTHING: f64 = 0.98;

/// Smoothed loss, speed and time left of a row of steps.
#[derive(Default)]
pub struct Pace {
    first: Option<(u64, Instant)>,
    loss: f64,
    loss_weight: f64,
    speed: f64,
    weight: f64,
}

impl Pace {
    /// Adds a step and says how things stand.
    pub fn add(&mut self, record: &StepRecord) -> String {
        let now = Instant::now();
        if self.first.is_none_or(|(step, _)| record.step < step) {
            *self = Self { first: Some((record.step, now)), ..Self::default() };
        }
        // A skipped step's would stay in the sum for ever.
        if record.loss.is_finite() {
            self.loss = SMOOTHING * self.loss + (1.0 - SMOOTHING) * record.loss;
            self.loss_weight = SMOOTHING * self.loss_weight + (1.0 - SMOOTHING);
        }
        self.speed = SMOOTHING * self.speed + (1.0 - SMOOTHING) * record.tokens_per_s;
        self.weight = SMOOTHING * self.weight + (1.0 - SMOOTHING);
        let (loss, speed) = (self.loss / self.loss_weight, self.speed / self.weight);
        let left = self.first.and_then(|(first, since)| {
            let done = record.step.checked_sub(first).filter(|&n| n > 0)?;
            let per_step = now.duration_since(since).as_secs_f64() / done as f64;
            Some(per_step * record.total_steps.saturating_sub(record.step) as f64)
        });
        let left = left.map(|s| format!("  {} left", duration(s))).unwrap_or_default();
        format!("loss {}  {speed:.0} tokens/s{left}", number(loss))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(step: u64, loss: f64) -> StepRecord {
        StepRecord {
            step,
            total_steps: 10,
            epoch: 0.0,
            loss,
            lr: 0.0,
            grad_norm: 0.0,
            tokens_per_s: 100.0,
            elapsed_s: 0.0,
        }
    }

    #[test]
    fn the_smoothed_loss_starts_at_the_first_and_moves_slowly() {
        let mut pace = Pace::default();
        assert_eq!(pace.add(&record(1, 4.0)), "loss 4.0000  100 tokens/s");
        let second = pace.add(&record(2, 2.0));
        assert!(second.starts_with("loss 2.98") && second.ends_with("left"), "{second}");
    }

    #[test]
    fn a_skipped_step_leaves_the_smoothed_loss_as_it_is() {
        let mut pace = Pace::default();
        assert_eq!(pace.add(&record(1, f64::NAN)), "loss NaN  100 tokens/s");
        for (step, loss) in [(2, 4.0), (3, f64::INFINITY)] {
            let said = pace.add(&record(step, loss));
            assert!(said.starts_with("loss 4.0000  100 tokens/s"), "{said}");
        }
    }

    #[test]
    fn another_run_starts_afresh() {
        let mut pace = Pace::default();
        pace.add(&record(9, 1.0));
        assert_eq!(pace.add(&record(1, 4.0)), "loss 4.0000  100 tokens/s");
    }
}
