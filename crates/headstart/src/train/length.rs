//! How long a run is, in steps and in time.
//!
//! Owns: what is said of it at the start. Never: how long it is (`config`).

use std::time::Instant;

use super::{Training, thousands};
use crate::event::{Event, Listener};

/// Runs that take longer than this many seconds are told of.
const LONG_S: f64 = 3_600.0;
/// Steps are timed for this many seconds at least.
const TIMED_S: f64 = 1.0;

/// The first steps, timed to say when the run ends.
pub(super) struct Estimate {
    /// When the first step of this process was done, and which it was.
    first: Option<(u64, Instant)>,
    tokens: usize,
    said: bool,
}

impl Estimate {
    pub(super) fn new() -> Self {
        Self { first: None, tokens: 0, said: false }
    }

    /// Takes a step down. Once enough are, gives the seconds that the steps left take, and the tokens a second.
    fn add(&mut self, step: u64, total_steps: u64, tokens: usize) -> Option<(f64, f64)> {
        // The first step makes room for itself and compiles kernels.
        let &mut (first, since) = self.first.get_or_insert((step, Instant::now()));
        let elapsed = since.elapsed().as_secs_f64();
        if step > first {
            self.tokens += tokens;
        }
        if self.said || step == first || elapsed < TIMED_S {
            return None;
        }
        self.said = true;
        let per_step = elapsed / (step - first) as f64;
        Some((per_step * total_steps.saturating_sub(step) as f64, self.tokens as f64 / elapsed))
    }
}

impl Training<'_> {
    /// Says, once, where the settings do not mean what they seem to.
    pub(super) fn announce_length(
        &self,
        steps_per_epoch: u64,
        total_steps: u64,
        listener: &mut Listener<'_>,
    ) {
        let all = steps_per_epoch.saturating_mul(self.config.epochs() as u64);
        if let Some(most) = self.config.max_steps.filter(|most| *most > all) {
            let epochs = self.config.epochs();
            let line = format!("n_epochs {epochs} ends the run after {all} steps, before max_steps {most}");
            listener(Event::Message(&line));
        }
        let warmup = self.config.warmup();
        if warmup >= total_steps && total_steps > 0 {
            let line = format!(
                "the warm-up of {warmup} steps takes the whole run of {total_steps}: the learning rate only rises"
            );
            listener(Event::Message(&line));
        }
    }

    /// Says, once the first steps are done, that the run takes long, if it does, and what would be done sooner.
    pub(super) fn announce_time(
        &self,
        estimate: &mut Estimate,
        (step, total_steps): (u64, u64),
        tokens: usize,
        listener: &mut Listener<'_>,
    ) {
        let Some((left_s, tokens_per_s)) = estimate.add(step, total_steps, tokens) else { return };
        if left_s < LONG_S {
            return;
        }
        // Only a language model is of any size one likes.
        let smaller = if self.keep_best { "" } else { "--preset small or mini for a smaller model, " };
        let line = format!(
            "this run takes about {} at {} tokens/s; for less, try --budget 10m (as many steps as fit), {smaller}or \
             --max_time to save and stop",
            span(left_s),
            thousands(tokens_per_s as usize),
        );
        listener(Event::Message(&line));
    }
}

/// Seconds in words: "40 seconds", "3 hours", "4 months".
pub(crate) fn span(seconds: f64) -> String {
    const UNITS: [(&str, f64); 6] = [
        ("year", 31_557_600.0),
        ("month", 2_629_800.0),
        ("day", 86_400.0),
        ("hour", 3_600.0),
        ("minute", 60.0),
        ("second", 1.0),
    ];
    // The largest unit of which there are about two.
    let fits = |&&(_, length): &&(&str, f64)| seconds >= 1.5 * length;
    let &(name, length) = UNITS.iter().find(fits).unwrap_or(&UNITS[5]);
    let count = (seconds / length).round().max(1.0);
    format!("{count} {name}{}", if count > 1.0 { "s" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_said_in_the_unit_that_suits() {
        for (seconds, words) in [
            (0.2, "1 second"),
            (40.0, "40 seconds"),
            (100.0, "2 minutes"),
            (5_000.0, "83 minutes"),
            (3.0 * 3_600.0, "3 hours"),
            (10.5e6, "4 months"),
            (1e9, "32 years"),
        ] {
            assert_eq!(span(seconds), words, "{seconds}");
        }
    }
}
