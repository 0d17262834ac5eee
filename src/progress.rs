//! What the library reports, on standard error: bars on a terminal, sparse lines elsewhere.
//!
//! Owns: the look of progress, and Ctrl-C / SIGTERM. Never: results, which go to standard output.

mod evaluations;
mod pace;

use std::io::{self, IsTerminal, Write};
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use console::{Term, style};
use headstart::data::download;
use headstart::event::{Event, Signal, StepRecord};
use headstart::{files, signals::keep_ignored};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use self::pace::Pace;
use crate::INTERRUPTED;
use crate::output::{bytes, visible};

/// Between two lines about the same work when nobody watches a terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// The least share of the work between two lines of less than [`SLOW_LINE_EVERY`].
const LINE_SHARE: f64 = 0.1;
/// Between two lines about work that goes slowly.
const SLOW_LINE_EVERY: Duration = Duration::from_mins(1);
/// The most of a message that is shown; a list of classes can be of any length. The run's log has all of it.
const LINE_CHARS: usize = 240;
/// Work that is done before that gets no bar, which would only flicker.
const BAR_AFTER: Duration = Duration::from_secs(1);

/// How often Ctrl-C or SIGTERM arrived.
static SIGNALS: AtomicU32 = AtomicU32::new(0);
/// Whether the work looks at [`SIGNALS`].
static LISTENING: AtomicBool = AtomicBool::new(false);
/// Which of several processes this is; only the first one speaks.
static RANK: AtomicUsize = AtomicUsize::new(0);

/// From now on the first Ctrl-C, SIGTERM or SIGHUP asks the work to save and stop; the second ends the process at once.
/// One that is ignored, as `nohup` has it, stays so.
pub fn stop_on_signal() -> Result<()> {
    LISTENING.store(true, Ordering::SeqCst);
    keep_ignored(|| ctrlc::set_handler(stop)).context("cannot listen for Ctrl-C")
}

/// From now on signals are counted, and nothing else.
pub fn count_signals() -> Result<()> {
    let count = || {
        SIGNALS.fetch_add(1, Ordering::SeqCst);
    };
    keep_ignored(|| ctrlc::set_handler(count)).context("cannot listen for Ctrl-C")
}

/// What a signal does, for whoever asks for a stop in another way.
pub fn stop() {
    if SIGNALS.fetch_add(1, Ordering::SeqCst) > 0 || !LISTENING.load(Ordering::SeqCst) {
        exit_with_nothing_unfinished();
    }
    say("stopping: what is done is kept (a second signal exits at once)");
}

/// How often a signal asked for an end.
pub fn signals() -> u32 {
    SIGNALS.load(Ordering::SeqCst)
}

/// From now on the first Ctrl-C, SIGTERM or SIGHUP ends the process at once, without the file that it was writing.
pub fn exit_on_signal() -> Result<()> {
    keep_ignored(|| ctrlc::set_handler(|| exit_with_nothing_unfinished())).context("cannot listen for Ctrl-C")
}

fn exit_with_nothing_unfinished() -> ! {
    let _nothing = files::remove_unfinished();
    process::exit(i32::from(INTERRUPTED))
}

/// Whether a signal asked for an end.
pub fn interrupted() -> bool {
    signals() > 0
}

/// From now on this is one of several processes. All but the first say only what ends them.
pub fn speak_as(rank: usize) {
    RANK.store(rank, Ordering::SeqCst);
}

fn speaks() -> bool {
    RANK.load(Ordering::SeqCst) == 0
}

/// A line on standard error; that it may be closed is nobody's concern.
pub fn say(line: &str) {
    if speaks() {
        write(line);
    }
}

/// What ends this process, which of several it may be.
pub fn complain(error: &str) {
    match RANK.load(Ordering::SeqCst) {
        0 => write(&format!("error: {error}")),
        rank => write(&format!("rank {rank}: error: {error}")),
    }
}

fn write(line: &str) {
    let columns = io::stderr().is_terminal().then(columns);
    let line = columns.map_or_else(|| line.to_owned(), |columns| wrapped(line, columns));
    let _ = writeln!(io::stderr(), "{}", coloured(&line));
}

/// Those of the terminal on standard error.
fn columns() -> usize {
    usize::from(Term::stderr().size().1).max(20)
}

/// The line with its first word in colour if it is a warning or an error, and nothing in it that a terminal obeys.
fn coloured(line: &str) -> String {
    let line = visible(line);
    if let Some(rest) = line.strip_prefix("warning:") {
        return format!("{}{rest}", style("warning:").yellow().for_stderr());
    }
    match line.strip_prefix("error:") {
        Some(rest) => format!("{}{rest}", style("error:").red().for_stderr()),
        None => line.into_owned(),
    }
}

/// What the library is answered.
fn signal() -> Signal {
    if interrupted() { Signal::Stop } else { Signal::Continue }
}

/// How much is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// What matters.
    Calm,
    /// Each checkpoint, too.
    Full,
}

/// The view of one command's work.
pub struct Progress {
    /// Absent when standard error is no terminal.
    bars: Option<MultiProgress>,
    steps: Option<ProgressBar>,
    work: Option<Work>,
    pace: Pace,
    last_line: Option<Instant>,
    verbosity: Verbosity,
}

/// Work of known size under way: tokenising, downloading, evaluating.
struct Work {
    what: String,
    since: Instant,
    bar: Option<ProgressBar>,
    last_line: Instant,
    /// What was done by then.
    last_done: u64,
}

impl Work {
    /// Whether a line is due when so much is done.
    fn line_is_due(&self, done: u64, total: u64) -> bool {
        let since = self.last_line.elapsed();
        let little = total > 0 && (done.saturating_sub(self.last_done) as f64) < LINE_SHARE * total as f64;
        since >= if little { SLOW_LINE_EVERY } else { LINE_EVERY }
    }
}

impl Progress {
    /// A view with nothing to show yet.
    pub fn new(verbosity: Verbosity) -> Self {
        let bars = (speaks() && io::stderr().is_terminal()).then(MultiProgress::new);
        Self { bars, steps: None, work: None, pace: Pace::default(), last_line: None, verbosity }
    }

    /// The library's listener.
    pub fn listen(&mut self, event: &Event<'_>) -> Signal {
        match *event {
            Event::Message(line) => self.line(line),
            Event::Progress { what, done, total } => self.work(what, done, total, false),
            Event::Step(record) => self.step(record),
            Event::Evaluation { record, metric, best_so_far } => {
                self.print(&evaluations::line(record, metric, best_so_far));
            }
            Event::Saved(path) if self.verbosity == Verbosity::Full => {
                self.line(&format!("saved {}", path.display()));
            }
            Event::Saved(_) | Event::Waiting => {}
        }
        signal()
    }

    /// The catalogue's listener.
    pub fn download(&mut self, progress: &download::Progress<'_>) -> Signal {
        let download::Progress { stage, file, done_bytes, total_bytes } = *progress;
        self.work(&format!("{stage} {file}"), done_bytes, total_bytes.unwrap_or(0), true);
        signal()
    }

    /// A line of the work's, which goes on unless a signal came.
    pub fn say(&mut self, line: &str) -> Signal {
        self.line(line);
        signal()
    }

    /// Work measured in bytes.
    pub fn bytes(&mut self, what: &str, done: u64, total: u64) -> Signal {
        self.work(what, done, total, true);
        signal()
    }

    /// Rows, of nobody knows how many.
    pub fn count(&mut self, what: &str, rows: usize) {
        self.work(what, rows as u64, 0, false);
    }

    /// Takes the bars away.
    pub fn finish(&mut self) {
        self.end_work();
        if let Some(bar) = self.steps.take() {
            bar.finish_and_clear();
        }
    }

    fn line(&mut self, line: &str) {
        let cut = line.char_indices().nth(LINE_CHARS).map(|(at, _)| format!("{}...", &line[..at]));
        let line = cut.as_deref().unwrap_or(line);
        let line = if self.bars.is_some() { wrapped(line, columns()) } else { line.to_owned() };
        self.print(&coloured(&line));
    }

    /// A line with nothing in it but what this program wrote.
    fn print(&mut self, line: &str) {
        match &self.bars {
            // A terminal that refuses the line would refuse the complaint, too.
            Some(bars) => drop(bars.println(line)),
            None if speaks() => drop(writeln!(io::stderr(), "{line}")),
            None => {}
        }
    }

    fn work(&mut self, what: &str, done: u64, total: u64, in_bytes: bool) {
        if self.work.as_ref().is_none_or(|work| work.what != what) {
            self.end_work();
            let now = Instant::now();
            self.work =
                Some(Work { what: what.to_owned(), since: now, bar: None, last_line: now, last_done: 0 });
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
        } else if work.line_is_due(done, total) {
            (work.last_line, work.last_done) = (Instant::now(), done);
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

/// Breaks lines between words where the terminal would break them anywhere; what goes on is indented by two more.
fn wrapped(lines: &str, columns: usize) -> String {
    let wrapped: Vec<String> = lines.split('\n').map(|line| wrapped_line(line, columns)).collect();
    wrapped.join("\n")
}

fn wrapped_line(line: &str, columns: usize) -> String {
    let indent = line.len() - line.trim_start_matches(' ').len() + 2;
    let (mut text, mut width) = (String::new(), 0);
    for word in line.split_inclusive(' ') {
        if width >= indent && width + word.trim_end().chars().count() > columns {
            text.truncate(text.trim_end_matches(' ').len());
            text.push('\n');
            text.extend(std::iter::repeat_n(' ', indent));
            width = indent;
        }
        text.push_str(word);
        width += word.chars().count();
    }
    text
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

    #[test]
    fn long_lines_break_between_words() {
        assert_eq!(wrapped("one two three", 80), "one two three");
        assert_eq!(wrapped("one two three", 8), "one two\n  three");
        assert_eq!(wrapped("a path/that/does/not/fit ends", 10), "a\n  path/that/does/not/fit\n  ends");
        assert_eq!(wrapped("a  b", 80), "a  b");
        assert_eq!(wrapped("one two\n  fix: three four", 12), "one two\n  fix: three\n    four");
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
