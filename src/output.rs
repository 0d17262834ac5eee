//! Data on standard output: text for people, one line of JSON for programs.
//!
//! Owns: that a closed pipe (`| head`) ends the program quietly. Never: progress, which goes to standard error.

use std::fmt;
use std::io::{self, Write};

use anyhow::{Context, Result};
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

/// Writes text as it is and flushes it.
pub fn text(text: &str) -> Result<()> {
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
    text(&line)
}

/// A measured number for people: four places, fewer for large ones, powers of ten for tiny ones.
pub fn figure(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 || (1e-3..1e3).contains(&size) {
        format!("{value:.4}")
    } else if (1e3..1e9).contains(&size) {
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

/// A confusion matrix with its class names: a row is a true class, a column a predicted one.
pub fn confusion(matrix: &[Vec<u64>], labels: &[String]) -> String {
    let names: Vec<String> =
        (0..matrix.len()).map(|at| labels.get(at).cloned().unwrap_or_else(|| at.to_string())).collect();
    let rows: Vec<Vec<String>> = matrix.iter().map(|row| row.iter().map(u64::to_string).collect()).collect();
    let width = rows.iter().flatten().chain(&names).map(|cell| cell.chars().count()).max().unwrap_or(1);
    let line = |first: &str, cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| format!("{cell:>width$}")).collect();
        format!("{first:>width$}  {}", cells.join(" "))
    };
    let mut text = line("", &names) + "   (columns: predicted)\n";
    for (name, row) in names.iter().zip(&rows) {
        text = text + &line(name, row) + "\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(
            [0.0, 0.5, 61.23456, 12345.67, 2.5e-4, f64::NAN].map(figure),
            ["0.0000", "0.5000", "61.2346", "12345.7", "2.50e-4", "NaN"]
        );
        assert_eq!([0.4, 61.0, 7_620.0].map(duration), ["0s", "1m 01s", "2h 07m"]);
        assert_eq!([999, 1_500, 2_000_000_000].map(bytes), ["999 B", "1.5 KB", "2.0 GB"]);
    }

    #[test]
    fn a_confusion_matrix_names_its_rows_and_columns() {
        let text = confusion(&[vec![10, 2], vec![0, 7]], &["pos".into(), "neg".into()]);
        assert_eq!(text, "     pos neg   (columns: predicted)\npos   10   2\nneg    0   7\n");
    }
}
