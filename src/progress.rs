//! What the library reports, on standard error: bars on a terminal, sparse lines elsewhere.
//!
//! Owns: the look of progress, and Ctrl-C / SIGTERM. Never: results, which go to standard output.

use std::io::{self, IsTerminal, Write};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use headstart::data::download::{self, Stage};
use headstart::event::{Event, Signal, StepRecord};
use headstart::run_log::Record;
use headstart::signals;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::INTERRUPTED;
use crate::output::{bytes, duration, figure};

/// Between two lines about the same work when nobody watches a terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Work that is done before that gets no bar, which would only flicker.
const BAR_AFTER: Duration = Duration::from_secs(1);
/// Weight of the past in the smoothed loss.
const SMOOTHING: f64 = 0.98;

/// How often Ctrl-C or SIGTERM arrived.
static SIGNALS: AtomicU32 = AtomicU32::new(0);

/// From now on the first Ctrl-C, SIGTERM or SIGHUP asks the work to save and stop; the second ends the process at once.
/// One that is ignored, as `nohup` has it, stays so.
pub fn stop_on_signal() -> Result<()> {
    let handler = || {
        if SIGNALS.fetch_add(1, Ordering::SeqCst) > 0 {
            process::exit(i32::from(INTERRUPTED));
        }
        say("stopping: this step is finished and saved (a second signal exits at once)");
    };
    signals::keep_ignored(|| ctrlc::set_handler(handler)).context("cannot listen for Ctrl-C")
}

/// Whether a signal asked for an end.
pub fn interrupted() -> bool {
    SIGNALS.load(Ordering::SeqCst) > 0
}

/// A line on standard error; that it may be closed is nobody's concern.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// The view of one command's work.
pub struct Progress {
    /// Absent when standard error is no terminal.
    bars: Option<MultiProgress>,
    steps: Option<ProgressBar>,
    work: Option<Work>,
    pace: Pace,
    last_line: Option<Instant>,
}

/// Work of known size under way: tokenising, downloading, evaluating.
struct Work {
    what: String,
    since: Instant,
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl Progress {
    /// A view with nothing to show yet.
    pub fn new() -> Self {
        let bars = io::stderr().is_terminal().then(MultiProgress::new);
        Self { bars, steps: None, work: None, pace: Pace::default(), last_line: None }
    }

    /// The library's listener.
    pub fn listen(&mut self, event: &Event<'_>) -> Signal {
        match *event {
            Event::Message(line) => self.line(line),
            Event::Progress { what, done, total } => self.work(what, done, total, false),
            Event::Step(record) => self.step(record),
            Event::Evaluation(record) => self.line(&evaluation_line(record)),
            Event::Saved(path) => self.line(&format!("saved {}", path.display())),
        }
        if interrupted() { Signal::Stop } else { Signal::Continue }
    }

    /// The catalogue's listener.
    pub fn download(&mut self, progress: &download::Progress<'_>) {
        let download::Progress { stage, file, done_bytes, total_bytes } = *progress;
        let what = match stage {
            Stage::Waiting => format!("waiting for another process to fetch {file}"),
            Stage::Downloading => format!("downloading {file}"),
            Stage::Unpacking => format!("unpacking {file}"),
        };
        self.work(&what, done_bytes, total_bytes.unwrap_or(0), true);
    }

    /// Work measured in bytes.
    pub fn bytes(&mut self, what: &str, done: u64, total: u64) {
        self.work(what, done, total, true);
    }

    /// Takes the bars away.
    pub fn finish(&mut self) {
        self.end_work();
        if let Some(bar) = self.steps.take() {
            bar.finish_and_clear();
        }
    }

    fn line(&mut self, line: &str) {
        match &self.bars {
            // A terminal that refuses the line would refuse the complaint, too.
            Some(bars) => drop(bars.println(line)),
            None => say(line),
        }
    }

    fn work(&mut self, what: &str, done: u64, total: u64, in_bytes: bool) {
        if self.work.as_ref().is_none_or(|work| work.what != what) {
            self.end_work();
            let now = Instant::now();
            self.work = Some(Work { what: what.to_owned(), since: now, bar: None, last_line: now });
        }
        let Some(work) = &mut self.work else { return };
        if let Some(bars) = &self.bars {
            if work.bar.is_none() && work.since.elapsed() >= BAR_AFTER {
                work.bar = Some(bars.add(work_bar(what, total, in_bytes)));
            }
            if let Some(bar) = &work.bar {
                bar.set_length(total.max(done));
                bar.set_position(done);
            }
        } else if work.last_line.elapsed() >= LINE_EVERY {
            work.last_line = Instant::now();
            let amount = |n: u64| if in_bytes { bytes(n) } else { n.to_string() };
            let share = if total > 0 { format!("of {}", amount(total)) } else { "so far".into() };
            say(&format!("{what}: {} {share}", amount(done)));
        }
        if total > 0 && done >= total {
            self.end_work();
        }
    }

    fn end_work(&mut self) {
        if let Some(bar) = self.work.take().and_then(|work| work.bar) {
            bar.finish_and_clear();
        }
    }

    fn step(&mut self, record: &StepRecord) {
        self.end_work();
        let pace = self.pace.add(record);
        if let Some(bars) = &self.bars {
            let bar = self.steps.get_or_insert_with(|| bars.add(step_bar(record.total_steps)));
            bar.set_length(record.total_steps);
            bar.set_position(record.step);
            bar.set_message(pace);
            if record.step >= record.total_steps {
                bar.finish_and_clear();
                self.steps = None;
                self.pace = Pace::default();
            }
            return;
        }
        let due = self.last_line.is_none_or(|at| at.elapsed() >= LINE_EVERY);
        let edge = record.step == 1 || record.step >= record.total_steps;
        if due || edge {
            self.last_line = Some(Instant::now());
            let StepRecord { step, total_steps, epoch, lr, grad_norm, .. } = record;
            say(&format!(
                "step {step}/{total_steps}  epoch {epoch:.2}  lr {lr:.2e}  norm {grad_norm:.2}  {pace}"
            ));
        }
        if record.step >= record.total_steps {
            self.pace = Pace::default();
        }
    }
}

/// Smoothed loss, speed and time left of a row of steps.
#[derive(Default)]
struct Pace {
    first: Option<(u64, Instant)>,
    loss: f64,
    loss_weight: f64,
    speed: f64,
    weight: f64,
}

impl Pace {
    /// Adds a step and says how things stand.
    fn add(&mut self, record: &StepRecord) -> String {
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
        format!("loss {}  {speed:.0} tokens/s{left}", figure(loss))
    }
}

fn evaluation_line(record: &Record) -> String {
    let values = record.values.iter().filter(|(name, _)| !headstart::run_log::is_timing(name));
    let values: Vec<String> = values.map(|(name, value)| format!("{name} {}", figure(*value))).collect();
    format!("step {} {}: {}", record.step, record.kind.as_str(), values.join("  "))
}

fn step_bar(total: u64) -> ProgressBar {
    styled(total, "{pos}/{len} [{bar:24}] {msg}")
}

fn work_bar(what: &str, total: u64, in_bytes: bool) -> ProgressBar {
    let template = match (total > 0, in_bytes) {
        (true, true) => "{msg} [{bar:24}] {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left",
        (true, false) => "{msg} [{bar:24}] {pos}/{len}  {eta} left",
        (false, true) => "{msg} {bytes}",
        (false, false) => "{msg} {pos}",
    };
    styled(total, template).with_message(what.to_owned())
}

fn styled(total: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style.progress_chars("=> "))
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

    #[test]
    fn evaluations_are_one_line_without_timings() {
        let record =
            Record::new(headstart::run_log::Kind::Valid, 7, 0.0).with("nll", 4.0).with("seconds_s", 1.0);
        assert_eq!(evaluation_line(&record), "step 7 valid: nll 4.0000");
    }

    #[test]
    fn every_template_is_valid() {
        for template in
            ["{pos}/{len} [{bar:24}] {msg}", "{msg} {bytes}", "{msg} [{bar:24}] {bytes}/{total_bytes}"]
        {
            assert!(ProgressStyle::with_template(template).is_ok());
        }
    }
}
