//! Evaluations, a line each: the figure that decides which checkpoint is best, the loss, and whether it is the best.
//!
//! Owns: which figures are said while a run goes on; all of them are in its logs. Never: decides anything of the run.

use console::style;
use headstart::run_log::{Kind, Record};

use crate::output::figure;

/// The evaluations of one run.
#[derive(Default)]
pub struct Evaluations {
    /// Whether all of them were seen: the best of a continued run may be from before.
    complete: bool,
    best: Option<(f64, f64)>,
}

impl Evaluations {
    /// Of a run that begins.
    pub fn of_new_run() -> Self {
        Self { complete: true, best: None }
    }

    /// Adds one and says what matters of it.
    pub fn add(&mut self, record: &Record) -> String {
        let loss = record.value("loss").unwrap_or(f64::NAN);
        let loss_text = format!("loss {}", figure(loss));
        // The library goes by these, in this order, and by the loss where they are equal.
        let (score, figures) = match (record.value("accuracy"), record.value("mse"), record.value("ppl")) {
            (Some(accuracy), _, _) => (accuracy, format!("accuracy {}  {loss_text}", figure(accuracy))),
            (_, Some(error), _) => (-error, format!("mse {}  {loss_text}", figure(error))),
            (_, _, Some(perplexity)) => (-loss, format!("{loss_text}  perplexity {}", figure(perplexity))),
            _ => (-loss, loss_text),
        };
        if record.kind != Kind::Valid {
            return format!("{}: {figures}", record.kind.as_str());
        }
        let line = format!("step {}  {}: {figures}", record.step, record.kind.as_str());
        let better = score.is_finite()
            && self.best.is_none_or(|(best, at)| score > best || (score >= best && loss < at));
        if better {
            self.best = Some((score, loss));
        }
        if better && self.complete {
            format!("{line}  {}", style("best so far").green().for_stderr())
        } else {
            line
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(step: u64, figures: &[(&str, f64)]) -> Record {
        figures.iter().fold(Record::new(Kind::Valid, step, 0.0), |r, (name, value)| r.with(*name, *value))
    }

    #[test]
    fn a_line_says_what_decides_and_whether_it_is_best() {
        let mut seen = Evaluations::of_new_run();
        let mut add = |step, accuracy, loss| {
            seen.add(&record(
                step,
                &[("accuracy", accuracy), ("loss", loss), ("precision/a", 1.0), ("seconds_s", 1.0)],
            ))
        };
        assert_eq!(add(5, 0.5, 1.0), "step 5  valid: accuracy 0.5000  loss 1.0000  best so far");
        assert_eq!(add(6, 0.5, 1.0), "step 6  valid: accuracy 0.5000  loss 1.0000");
        assert_eq!(add(7, 0.5, 0.9), "step 7  valid: accuracy 0.5000  loss 0.9000  best so far");
        assert_eq!(add(8, f64::NAN, f64::NAN), "step 8  valid: accuracy NaN  loss NaN");
        assert_eq!(add(9, 0.6, 2.0), "step 9  valid: accuracy 0.6000  loss 2.0000  best so far");
    }

    #[test]
    fn lower_is_better_where_it_is_an_error() {
        let mut seen = Evaluations::of_new_run();
        let mut add = |mse| seen.add(&record(1, &[("loss", mse), ("mse", mse)])).ends_with("best so far");
        assert_eq!([2.0, 3.0, 1.0].map(&mut add), [true, false, true]);
        let language = record(3, &[("loss", 2.0), ("nll", 2.0), ("ppl", 7.389)]);
        let said = Evaluations::of_new_run().add(&language);
        assert_eq!(said, "step 3  valid: loss 2.0000  perplexity 7.3890  best so far");
    }

    #[test]
    fn the_best_of_a_continued_run_is_not_known() {
        let said = Evaluations::default().add(&record(9, &[("accuracy", 1.0), ("loss", 0.0)]));
        assert_eq!(said, "step 9  valid: accuracy 1.0000  loss 0.0000");
    }
}
