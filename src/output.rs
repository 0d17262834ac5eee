//! Data on standard output: text for people, one line of JSON for programs.
//!
//! Owns: that a closed pipe (`| head`) ends the program quietly. Never: progress, which goes to standard error.

pub mod wrap;

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};

use anyhow::{Context, Result};
use headstart::train::fixed;
use serde::Serialize;

/// Whoever read our output has gone; not a failure.
#[derive(Debug)]
pub struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output was closed")
    }
}

impl std::error::Error for Closed {}

/// Writes text for people; control characters of their data do not reach the terminal.
pub fn text(text: &str) -> Result<()> {
    raw(&visible(text))
}

/// Writes text as it is and flushes it.
pub fn raw(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(Closed.into()),
        result => result.context("cannot write to standard output"),
    }
}

/// Writes a value as one line of JSON.
pub fn json_line(value: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_string(value).context("cannot write the result as JSON")?;
    line.push('\n');
    raw(&line)
}

/// A measured number for people: four places, one for large ones, powers of ten for tiny ones.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 || (1e-3..1e2).contains(&size) {
        fixed(value, 4)
    } else if (1e2..1e9).contains(&size) {
        format!("{value:.1}")
    } else {
        format!("{value:.2e}")
    }
}

/// Seconds for people: `12s`, `3m 05s`, `2h 07m`.
pub fn duration(seconds: f64) -> String {
    let s = seconds.max(0.0).round() as u64;
    match s {
        0..60 => format!("{s}s"),
        60..3_600 => format!("{}m {:02}s", s / 60, s % 60),
        _ => format!("{}h {:02}m", s / 3_600, s / 60 % 60),
    }
}

/// Bytes for people, in powers of 1,000.
pub fn bytes(count: u64) -> String {
    match count {
        0..1_000 => format!("{count} B"),
        1_000..1_000_000 => format!("{:.1} KB", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", count as f64 / 1e6),
        _ => format!("{:.1} GB", count as f64 / 1e9),
    }
}

/// The text as a terminal may be given it: what would move its cursor, colour it or write its title is spelled out.
pub fn visible(text: &str) -> Cow<'_, str> {
    let controls = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(controls) {
        return Cow::Borrowed(text);
    }
    let spelled = |c: char| if controls(c) { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(spelled).collect())
}

/// One line of at most so many characters.
pub fn shortened(text: &str, most: usize) -> String {
    // More than can be shown need not be looked at: a label can be a whole file.
    let start: String = text.chars().take(most + 1).collect();
    let line = visible(&start).replace(['\n', '\t'], " ");
    if line.chars().count() <= most {
        return line;
    }
    line.chars().take(most.saturating_sub(3)).chain("...".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(
            [0.0, 0.5, 61.23456, 532.0798, 12345.67, 2.5e-4, f64::NAN].map(number),
            ["0.0000", "0.5000", "61.2346", "532.1", "12345.7", "2.50e-4", "NaN"]
        );
        assert_eq!([0.4, 61.0, 7_620.0].map(duration), ["0s", "1m 01s", "2h 07m"]);
        assert_eq!([999, 1_500, 2_000_000_000].map(bytes), ["999 B", "1.5 KB", "2.0 GB"]);
    }

    #[test]
    fn control_characters_are_spelled_out() {
        assert_eq!(visible("a\tb\nc \u{e9}"), "a\tb\nc \u{e9}");
        assert_eq!(visible("\u{1b}[2J\u{9b}\r\u{7f}"), r"\u{1b}[2J\u{9b}\r\u{7f}");
        assert_eq!(shortened("two\nlines", 9), "two lines");
        assert_eq!(shortened("two\nlines", 8), "two l...");
    }
}
