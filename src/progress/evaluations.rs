//! Evaluations, a line each: the metric that decides which checkpoint is best, the loss, and whether it is the best.
//!
//! Owns: which metrics are said while a run goes on; all of them are in its logs. Never: decides anything of the run.

use console::style;
use headstart::run_log::{Kind, Record};

use crate::output::number;

/// What matters of an evaluation. `metric`: the metric that decides.
pub fn line(record: &Record, metric: &str, best_so_far: bool) -> String {
    let value = |name: &str| record.value(name).unwrap_or(f64::NAN);
    let mut metrics = format!("{metric} {}", number(value(metric)));
    // Where there is one objective, the loss is the deciding metric once more.
    if value("loss").to_bits() != value(metric).to_bits() {
        metrics = format!("{metrics}  loss {}", number(value("loss")));
    }
    if let Some(perplexity) = record.value("ppl") {
        metrics = format!("{metrics}  perplexity {}", number(perplexity));
    }
    if record.kind != Kind::Valid {
        return format!("{}: {metrics}", record.kind.as_str());
    }
    let best =
        if best_so_far { format!("  {}", style("best so far").green().for_stderr()) } else { String::new() };
    format!("step {}  {}: {metrics}{best}", record.step, record.kind.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: Kind, metrics: &[(&str, f64)]) -> Record {
        metrics.iter().fold(Record::new(kind, 5, 0.0), |r, (name, value)| r.with(*name, *value))
    }

    #[test]
    fn a_line_says_what_decides_and_whether_it_is_best() {
        let metrics = [("accuracy", 0.5), ("loss", 1.0), ("precision/a", 1.0), ("seconds_s", 1.0)];
        let valid = record(Kind::Valid, &metrics);
        assert_eq!(
            line(&valid, "accuracy", true),
            "step 5  valid: accuracy 0.5000  loss 1.0000  best so far"
        );
        assert_eq!(line(&valid, "accuracy", false), "step 5  valid: accuracy 0.5000  loss 1.0000");
        assert_eq!(
            line(&record(Kind::Test, &metrics), "accuracy", false),
            "test: accuracy 0.5000  loss 1.0000"
        );
        let ruined = record(Kind::Valid, &[("accuracy", f64::NAN), ("loss", f64::INFINITY)]);
        assert_eq!(line(&ruined, "accuracy", false), "step 5  valid: accuracy NaN  loss inf");
    }

    #[test]
    fn a_loss_that_is_the_figure_is_not_said_twice() {
        let regression = record(Kind::Valid, &[("loss", 2.0), ("mse", 2.0), ("pearson", 0.5)]);
        assert_eq!(line(&regression, "mse", false), "step 5  valid: mse 2.0000");
        let language = record(Kind::Valid, &[("loss", 2.0), ("nll", 2.0), ("ppl", 7.389)]);
        assert_eq!(line(&language, "nll", true), "step 5  valid: nll 2.0000  perplexity 7.3890  best so far");
    }
}
