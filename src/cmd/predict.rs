//! `headstart predict`: lines in, JSON lines out, in the same order.
//!
//! Owns: reading line by line in chunks, so that a stream of any length passes. Never: the model.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use headstart::infer::{Prediction, Predictor};
use serde::Serialize;

use crate::args::{ComputeArgs, PredictArgs};
use crate::output;
use crate::{progress, settings};

/// Texts classified at a time, when so many are there already.
const CHUNK: usize = 256;
/// Bytes read at a time.
const BUFFER_BYTES: usize = 1 << 16;

/// A line of output.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(flatten)]
    prediction: &'a Prediction,
}

/// Runs it.
pub fn run(args: PredictArgs) -> Result<ExitCode> {
    let PredictArgs { run, input, with_text, compute } = args;
    let ComputeArgs { precision, threads, device } = compute;
    let mut reader = open(&input)?;
    let choice = settings::devices::choice(device);
    let predictor = Predictor::load(&run, precision, &choice, threads)?;
    if let Some(note) = choice.note(predictor.device()) {
        progress::say(&note);
    }
    let (mut first_line, mut cut) = (1, 0);
    loop {
        let texts = next_texts(&mut reader, &input, first_line)?;
        if texts.is_empty() {
            break;
        }
        first_line += texts.len();
        let mut lines = String::new();
        for (text, prediction) in texts.iter().zip(&predictor.predict(&texts)?) {
            cut += usize::from(prediction.truncated);
            let line = Line { text: with_text.then_some(text.as_str()), prediction };
            lines.push_str(&serde_json::to_string(&line)?);
            lines.push('\n');
        }
        output::raw(&lines)?;
    }
    if cut > 0 {
        progress::say(&format!("{cut} texts were longer than the model's positions and were cut"));
    }
    Ok(ExitCode::SUCCESS)
}

fn open(input: &Path) -> Result<BufReader<Box<dyn Read>>> {
    let source: Box<dyn Read> = if input == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(input).with_context(|| format!("cannot read {}", input.display()))?)
    };
    Ok(BufReader::with_capacity(BUFFER_BYTES, source))
}

/// The lines that are there: at least one, unless the input ends; more only while no waiting is needed.
fn next_texts(reader: &mut BufReader<Box<dyn Read>>, input: &Path, first_line: usize) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    while texts.len() < CHUNK && (texts.is_empty() || reader.buffer().contains(&b'\n')) {
        let mut bytes = Vec::new();
        let read = reader.read_until(b'\n', &mut bytes);
        if read.with_context(|| format!("cannot read {}", input.display()))? == 0 {
            break;
        }
        let line = first_line + texts.len();
        let mut text = String::from_utf8(bytes).map_err(|e| headstart::Error::BadInput {
            path: input.to_path_buf(),
            line: Some(line as u64),
            what: format!("byte {} of the line is not valid UTF-8", e.utf8_error().valid_up_to() + 1),
            fix: "convert the file to UTF-8".into(),
        })?;
        text.truncate(text.trim_end_matches(['\n', '\r']).len());
        if line == 1 && text.starts_with('\u{feff}') {
            text.remove(0);
        }
        texts.push(text);
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(bytes: &[u8]) -> BufReader<Box<dyn Read>> {
        BufReader::new(Box::new(io::Cursor::new(bytes.to_vec())))
    }

    #[test]
    fn every_line_is_a_text_and_keeps_its_place() {
        let mut reader = reader("\u{feff}one\r\n\n three\nfour".as_bytes());
        let mut all = Vec::new();
        loop {
            let texts = next_texts(&mut reader, Path::new("-"), all.len() + 1).unwrap();
            if texts.is_empty() {
                break;
            }
            all.extend(texts);
        }
        assert_eq!(all, ["one", "", " three", "four"]);
    }

    #[test]
    fn a_chunk_has_its_limit() {
        let mut reader = reader(&b"x\n".repeat(CHUNK + 1));
        assert_eq!(next_texts(&mut reader, Path::new("-"), 1).unwrap().len(), CHUNK);
        assert_eq!(next_texts(&mut reader, Path::new("-"), CHUNK + 1).unwrap().len(), 1);
    }

    #[test]
    fn invalid_text_is_named_with_its_line() {
        let error =
            next_texts(&mut reader(b"fine\nbad \xff\n"), Path::new("in.txt"), 1).unwrap_err().to_string();
        assert!(error.contains("in.txt:2: byte 5 of the line"), "{error}");
    }
}
