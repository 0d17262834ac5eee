//! One progress for all runs of the quickstart.
//!
//! Owns: what of a run's events passes: its share of the whole, and warnings. Never: a run, or the look of it.

use crate::event::{Event, Listener};

/// Parts of the whole, of which whoever watches is told.
const PARTS: f64 = 100.0;

/// The progress over all runs.
pub(super) struct Overall<'a, 'b> {
    listener: &'a mut Listener<'b>,
    done: f64,
    told: u64,
}

impl<'a, 'b> Overall<'a, 'b> {
    /// Of work that begins.
    pub(super) fn new(listener: &'a mut Listener<'b>) -> Self {
        Self { listener, done: 0.0, told: 0 }
    }

    /// A line for people.
    pub(super) fn say(&mut self, line: &str) {
        (self.listener)(Event::Message(line));
    }

    /// Does a run that is `share` of the whole. What it says stands in its own train.log.
    pub(super) fn run<T>(&mut self, share: f64, work: impl FnOnce(&mut Listener<'_>) -> T) -> T {
        let before = self.done;
        self.done += share;
        let Self { listener, told, .. } = self;
        work(&mut |event| match event {
            Event::Step(record) => {
                let part = record.step as f64 / record.total_steps.max(1) as f64;
                let parts = ((before + share * part) * PARTS) as u64;
                if parts <= *told {
                    return listener(Event::Waiting);
                }
                *told = parts;
                listener(Event::Progress { what: "quickstart", done: parts, total: PARTS as u64 })
            }
            Event::Message(line) if line.starts_with("warning:") => listener(event),
            Event::Message(_)
            | Event::Progress { .. }
            | Event::Evaluation { .. }
            | Event::Saved(_)
            | Event::Waiting => listener(Event::Waiting),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::event::{Signal, StepRecord};

    fn step(step: u64) -> StepRecord {
        StepRecord {
            step,
            total_steps: 4,
            epoch: 0.0,
            loss: 1.0,
            lr: 0.0,
            grad_norm: 1.0,
            tokens_per_s: 1.0,
            elapsed_s: 0.0,
        }
    }

    #[test]
    fn runs_are_shares_of_one_whole_and_keep_their_words() {
        let mut told = Vec::new();
        let mut listener = |event: Event<'_>| {
            match event {
                Event::Progress { what: "quickstart", done, total: 100 } => told.push(done.to_string()),
                Event::Message(line) => told.push(line.to_owned()),
                Event::Waiting => {}
                other => panic!("{other:?}"),
            }
            if told.len() >= 8 { Signal::Stop } else { Signal::Continue }
        };
        let mut overall = Overall::new(&mut listener);
        overall.say("first");
        let mut answers = Vec::new();
        for share in [0.4, 0.01, 0.5] {
            overall.run(share, |listener| {
                listener(Event::Message("hidden"));
                listener(Event::Message("warning: shown"));
                listener(Event::Saved(Path::new("hidden")));
                for at in [2, 4] {
                    answers.push(listener(Event::Step(&step(at))));
                }
            });
        }
        assert_eq!(
            told,
            ["first", "warning: shown", "20", "40", "warning: shown", "41", "warning: shown", "66", "91"]
        );
        use Signal::{Continue, Stop};
        assert_eq!(answers, [Continue, Continue, Continue, Continue, Stop, Stop]);
    }
}
