//! Learning-rate schedules: a pure function of the optimizer step. Owns: the curves. Never: time or epochs.

use crate::config::Schedule;

/// The share of a trapezoidal run over which the rate falls.
const TRAPEZOID_FALL: f64 = 0.2;

/// The factor on the learning rate at optimizer step `step` (counted from 1) of `total`: a line from 0 over the
/// first `warmup` steps, then the schedule. A warm-up longer than the run is cut to it.
pub fn factor(schedule: Schedule, warmup: u64, total: u64, step: u64) -> f64 {
    let warmup = warmup.min(total);
    if step <= warmup {
        return step as f64 / warmup as f64;
    }
    let rest = (total - warmup).max(1) as f64;
    let progress = ((step - warmup - 1) as f64 / rest).min(1.0);
    match schedule {
        Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
        Schedule::Linear => 1.0 - progress,
        Schedule::Constant => 1.0,
        Schedule::Trapezoidal => {
            let fall = (total as f64 * TRAPEZOID_FALL).clamp(1.0, rest);
            ((rest * (1.0 - progress)) / fall).min(1.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Schedule; 4] =
        [Schedule::Cosine, Schedule::Linear, Schedule::Constant, Schedule::Trapezoidal];

    #[test]
    fn the_rate_rises_to_one_and_falls_towards_zero() {
        for schedule in ALL {
            let curve: Vec<f64> = (1..=100).map(|s| factor(schedule, 10, 100, s)).collect();
            assert!((curve[0] - 0.1).abs() < 1e-12 && (curve[9] - 1.0).abs() < 1e-12, "{schedule:?}");
            assert!((curve[10] - 1.0).abs() < 1e-12, "{schedule:?}: {}", curve[10]);
            assert!(curve[10..].windows(2).all(|w| w[1] <= w[0]) && curve[99] > 0.0, "{schedule:?}");
            assert_eq!(curve[99] < 0.06, schedule != Schedule::Constant, "{schedule:?}: {}", curve[99]);
        }
        assert!((factor(Schedule::Cosine, 10, 100, 56) - 0.5).abs() < 1e-12);
        assert!((factor(Schedule::Linear, 10, 100, 56) - 0.5).abs() < 1e-12);
        assert!((factor(Schedule::Trapezoidal, 10, 100, 80) - 1.0).abs() < 1e-12);
        assert!((factor(Schedule::Trapezoidal, 10, 100, 91) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn short_runs_and_long_warmups_are_finite() {
        for schedule in ALL {
            for (warmup, total) in [(0, 1), (1, 1), (500, 3), (0, 2), (3, 3)] {
                for step in 1..=total {
                    let f = factor(schedule, warmup, total, step);
                    assert!((0.0..=1.0).contains(&f) && f > 0.0, "{schedule:?} {warmup} {total} {step}: {f}");
                }
            }
        }
    }
}
