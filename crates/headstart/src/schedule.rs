//! Learning-rate schedules: a pure function of the optimizer step. Owns: the curves. Never: time or epochs.

use crate::config::{Schedule, TrainConfig};

/// The share of a trapezoidal run over which the rate falls.
const TRAPEZOID_FALL: f64 = 0.2;

/// The share of the peak that slanted triangles begin and end at: Howard and Ruder's ratio of 32.
const SLANTED_FLOOR: f64 = 1.0 / 32.0;

/// How a run's learning rate rises and falls.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Curve {
    /// How it falls.
    pub schedule: Schedule,
    /// Steps over which it rises.
    pub warmup: u64,
    /// The share of the peak that it falls to.
    pub floor: f64,
}

impl Curve {
    /// A run's.
    pub fn of(config: &TrainConfig) -> Self {
        let (schedule, warmup) = (config.curve(), config.warmup());
        let usual = if schedule == Schedule::SlantedTriangular { SLANTED_FLOOR } else { 0.0 };
        Self { schedule, warmup, floor: config.lr_floor.unwrap_or(usual) }
    }

    /// The factor on the learning rate at optimizer step `step` (counted from 1) of `total`: a line from 0 over the
    /// first steps, the warm-up, then the schedule. A warm-up longer than the run is cut to it.
    pub fn factor(&self, total: u64, step: u64) -> f64 {
        let Self { schedule, floor, .. } = *self;
        let warmup = self.warmup.min(total);
        if matches!(schedule, Schedule::TutorialCosine | Schedule::TutorialLinear) {
            return tutorial_factor(schedule, warmup, total, step - 1);
        }
        if schedule == Schedule::SlantedTriangular {
            return above(floor, slanted_triangle(warmup, total, step));
        }
        if step <= warmup {
            return step as f64 / warmup as f64;
        }
        let rest = (total - warmup).max(1) as f64;
        let progress = ((step - warmup - 1) as f64 / rest).min(1.0);
        match schedule {
            Schedule::Cosine | Schedule::TutorialCosine => above(floor, half_cosine(progress)),
            Schedule::Linear | Schedule::TutorialLinear | Schedule::SlantedTriangular => {
                above(floor, 1.0 - progress)
            }
            Schedule::Constant => 1.0,
            Schedule::Trapezoidal => {
                let fall = (total as f64 * TRAPEZOID_FALL).clamp(1.0, rest);
                above(floor, ((rest * (1.0 - progress)) / fall).min(1.0))
            }
        }
    }
}

/// What is left of a factor from 1 to 0 where the rate falls to a share of its peak.
fn above(floor: f64, factor: f64) -> f64 {
    floor + (1.0 - floor) * factor
}

/// Howard and Ruder (2018), equation 3: p = t / cut up to the cut, then 1 - (t - cut) / (cut (1 / cut_frac - 1)), where t is
/// the step and cut_frac the share that the cut is of all steps; 0.1, unless another warm-up is asked for. Their rate is
/// (1 + p (ratio - 1)) / ratio of the peak, which is this p above a floor of 1 / ratio.
fn slanted_triangle(cut: u64, total: u64, step: u64) -> f64 {
    let cut = cut.max(1);
    if step < cut {
        return step as f64 / cut as f64;
    }
    1.0 - (step - cut) as f64 / total.saturating_sub(cut).max(1) as f64
}

/// The original's curves, which ask for the rate before a step is counted: the first step has index 0 and rate 0. Its
/// cosine begins after the warm-up and is as long as the whole run, so the run ends before it does.
fn tutorial_factor(schedule: Schedule, warmup: u64, total: u64, index: u64) -> f64 {
    if index < warmup {
        return index as f64 / warmup as f64;
    }
    let after = (index - warmup) as f64;
    if schedule == Schedule::TutorialCosine {
        half_cosine(after / total as f64)
    } else {
        1.0 - after / (total - warmup).max(1) as f64
    }
}

/// From 1 to 0 as `progress` goes from 0 to 1.
fn half_cosine(progress: f64) -> f64 {
    0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factor(schedule: Schedule, warmup: u64, total: u64, step: u64) -> f64 {
        Curve { schedule, warmup, floor: 0.0 }.factor(total, step)
    }

    const OURS: [Schedule; 4] =
        [Schedule::Cosine, Schedule::Linear, Schedule::Constant, Schedule::Trapezoidal];

    #[test]
    fn the_rate_rises_to_one_and_falls_towards_zero() {
        for schedule in OURS {
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
        for schedule in OURS {
            for (warmup, total) in [(0, 1), (1, 1), (500, 3), (0, 2), (3, 3)] {
                for step in 1..=total {
                    let f = factor(schedule, warmup, total, step);
                    assert!((0.0..=1.0).contains(&f) && f > 0.0, "{schedule:?} {warmup} {total} {step}: {f}");
                }
            }
        }
    }

    /// The original's curves at 50 steps with 10 of warm-up, worked out by hand from what it was built of: a line over
    /// the indices 0 to 9, then (1 + cos(pi (index - 10) / 50)) / 2, or 1 - (index - 10) / 40.
    #[test]
    fn the_tutorials_curves_are_the_originals() {
        let cosine = |step| factor(Schedule::TutorialCosine, 10, 50, step);
        let linear = |step| factor(Schedule::TutorialLinear, 10, 50, step);
        for (step, expected) in [
            (1, 0.0),
            (2, 0.1),
            (10, 0.9),
            (11, 1.0),
            (12, 0.999_013_364_214_135_8), // cos 3.6 degrees
            (36, 0.5),
            (50, 0.114_743_378_612_105_43), // cos 140.4 degrees
        ] {
            assert!((cosine(step) - expected).abs() < 1e-12, "step {step}: {}", cosine(step));
        }
        for (step, expected) in
            [(1, 0.0), (2, 0.1), (10, 0.9), (11, 1.0), (12, 0.975), (31, 0.5), (50, 0.025)]
        {
            assert!((linear(step) - expected).abs() < 1e-12, "step {step}: {}", linear(step));
        }
        // Its own lengths: 50 epochs of 14,490 steps, a thousand of them warm-up; 921 steps with 500.
        assert!((factor(Schedule::TutorialCosine, 1_000, 724_500, 724_500) - 4.710_1e-6).abs() < 1e-9);
        assert!((factor(Schedule::TutorialLinear, 500, 921, 921) - 1.0 / 421.0).abs() < 1e-12);
        for (warmup, total) in [(0, 1), (1, 1), (500, 3), (3, 3)] {
            let short = |schedule| factor(schedule, warmup, total, total);
            assert!((0.0..=1.0).contains(&short(Schedule::TutorialCosine)), "{warmup} {total}");
            assert!((0.0..=1.0).contains(&short(Schedule::TutorialLinear)), "{warmup} {total}");
        }
    }

    #[test]
    fn a_floor_is_where_the_rate_ends_and_changes_nothing_of_the_rise() {
        for schedule in [Schedule::Cosine, Schedule::Linear, Schedule::Trapezoidal] {
            let floored = Curve { schedule, warmup: 10, floor: 0.1 };
            for step in 1..=1_000 {
                let plain = factor(schedule, 10, 1_000, step);
                let expected = if step <= 10 { plain } else { 0.1 + 0.9 * plain };
                assert!((floored.factor(1_000, step) - expected).abs() < 1e-12, "{schedule:?} {step}");
            }
            let last = floored.factor(1_000, 1_000);
            assert!((0.1..0.106).contains(&last), "{schedule:?}: {last}");
        }
    }

    /// The paper's own lines, with t from 1.
    fn howard_and_ruder(t: f64, steps: f64, cut_frac: f64, ratio: f64) -> f64 {
        let cut = (steps * cut_frac).floor();
        let p = if t < cut { t / cut } else { 1.0 - (t - cut) / (cut * (1.0 / cut_frac - 1.0)) };
        (1.0 + p * (ratio - 1.0)) / ratio
    }

    #[test]
    fn slanted_triangles_are_those_of_the_paper() {
        for steps in [10_u64, 100, 1_230] {
            let curve =
                Curve { schedule: Schedule::SlantedTriangular, warmup: steps / 10, floor: 1.0 / 32.0 };
            for step in 1..=steps {
                let expected = howard_and_ruder(step as f64, steps as f64, 0.1, 32.0);
                assert!((curve.factor(steps, step) - expected).abs() < 1e-12, "{step} of {steps}");
            }
            assert!((curve.factor(steps, steps / 10) - 1.0).abs() < 1e-12);
            assert!((curve.factor(steps, steps) - 1.0 / 32.0).abs() < 1e-12);
        }
        // Where the cut is no tenth, the share that it is.
        let curve = Curve { schedule: Schedule::SlantedTriangular, warmup: 25, floor: 0.1 };
        for step in 1..=200 {
            let expected = howard_and_ruder(step as f64, 200.0, 0.125, 10.0);
            assert!((curve.factor(200, step) - expected).abs() < 1e-12, "{step}");
        }
        for (warmup, total) in [(0, 1), (1, 1), (500, 3), (0, 2), (3, 3), (1, 19)] {
            for step in 1..=total {
                let f =
                    Curve { schedule: Schedule::SlantedTriangular, warmup, floor: 0.0 }.factor(total, step);
                assert!((0.0..=1.0).contains(&f), "{warmup} {total} {step}: {f}");
            }
        }
    }
}
