//! What a classifier said of every example it was evaluated on: predictions.jsonl of a run, written and read back.
//!
//! Owns: that file's form, and which answers were surest and wrong. Never: computes an answer, reads data.

use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::config::Problem;
use crate::error::{Error, Result, bad};
use crate::eval::{Answers, Evaluation};
use crate::files::{AtomicFile, hex, read_regular};

pub use crate::data::classification::{Origin, Origins};

/// The surest wrong answers that a report lists.
pub const MISTAKES: usize = 20;
/// Of more classes only the most probable are written.
const MOST_CLASSES: usize = 20;
/// So many of them.
const BEST: usize = 5;
/// Characters of a text that are written.
const TEXT_CHARS: usize = 200;

/// An answer, or the truth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Told {
    /// A number.
    Number(f64),
    /// A class; all classes of several joined by `|`.
    Class(String),
}

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Class(class) => f.write_str(class),
        }
    }
}

/// A line of predictions.jsonl.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Its file, where every example has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The line it stands in, counted from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// What is true.
    pub label: Told,
    /// What was told.
    pub predicted: Told,
    /// Class -> probability, as `predict` tells it; of many classes the most probable ones.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub probabilities: Map<String, Value>,
    /// The beginning of the text, or of both of a pair with a tab between.
    pub text: String,
}

impl Line {
    /// Where it stands, for people.
    pub fn place(&self) -> String {
        match (&self.file, self.line) {
            (Some(file), _) => file.clone(),
            (None, Some(line)) => format!("line {line}"),
            (None, None) => String::new(),
        }
    }

    /// The probability of what was told.
    pub fn probability(&self) -> Option<f64> {
        match &self.predicted {
            Told::Class(class) => self.probabilities.get(class)?.as_f64(),
            Told::Number(_) => None,
        }
    }

    /// How wrong it is: the probability of a wrong class, how far a number is off; `None` where it is right, or is several labels.
    fn wrong_by(&self) -> Option<f64> {
        match (&self.label, &self.predicted) {
            (Told::Number(truth), Told::Number(told)) => Some((truth - told).abs()),
            (truth, told) if truth == told => None,
            _ => self.probability(),
        }
    }
}

/// Which examples were evaluated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evaluated {
    /// The split.
    pub split: String,
    /// How many there are.
    pub examples: u64,
    /// SHA-256 of their texts and labels, in their order.
    pub sha256: String,
    /// Their file, or the folder of their files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// Writes what `evaluation` was told of the examples at `origins`; returns which they are, and the [`MISTAKES`] that are furthest off. `None`
/// where there is nothing to write, or the data are others by now.
///
/// # Errors
/// [`Error::Io`] naming the file the disk refused.
pub fn record(
    path: &Path,
    evaluation: &Evaluation,
    origins: &Origins,
) -> Result<Option<(Evaluated, Vec<Line>)>> {
    let Some(answers) = &evaluation.answers else { return Ok(None) };
    if answers.len() != origins.examples.len() {
        return Ok(None);
    }
    let temperature = evaluation.temperature.unwrap_or(1.0);
    let (mut sum, mut mistakes) = (Sha256::new(), Vec::new());
    let mut file = AtomicFile::create(path)?;
    for (example, origin) in origins.examples.iter().enumerate() {
        let line = line(answers, &evaluation.labels, example, temperature, origin);
        sum.update(origin.input.shown());
        // A byte that no text has.
        sum.update([0xFF]);
        sum.update(line.label.to_string());
        sum.update([0xFF]);
        let text = serde_json::to_string(&line).unwrap_or_default() + "\n";
        file.write_with(|writer| writer.write_all(text.as_bytes()))?;
        if line.wrong_by().is_some() {
            mistakes.push(line);
            if mistakes.len() > 64 * MISTAKES {
                keep_worst(&mut mistakes);
            }
        }
    }
    file.commit()?;
    keep_worst(&mut mistakes);
    let evaluated = Evaluated {
        split: evaluation.split.clone(),
        examples: answers.len() as u64,
        sha256: hex(&sum.finalize()),
        path: origins.path.clone(),
    };
    Ok(Some((evaluated, mistakes)))
}

fn keep_worst(mistakes: &mut Vec<Line>) {
    let wrong = |line: &Line| line.wrong_by().unwrap_or(0.0);
    // The order of the data where they are equal.
    mistakes.sort_by(|a, b| wrong(b).total_cmp(&wrong(a)));
    mistakes.truncate(MISTAKES);
}

fn line(answers: &Answers, labels: &[String], example: usize, temperature: f64, origin: &Origin) -> Line {
    let name = |class: usize| labels.get(class).map_or_else(|| class.to_string(), Clone::clone);
    let several = |on: &dyn Fn(usize) -> bool| {
        Told::Class((0..answers.outputs).filter(|&class| on(class)).map(name).collect::<Vec<_>>().join("|"))
    };
    let probabilities = match answers.problem {
        Problem::Regression => Vec::new(),
        _ => answers.probabilities(example, temperature),
    };
    let first = example * answers.outputs;
    let (label, predicted) = match answers.problem {
        Problem::SingleLabel => (
            Told::Class(name(answers.classes[example] as usize)),
            Told::Class(name(answers.told[example] as usize)),
        ),
        Problem::MultiLabel => (
            several(&|class| answers.values[first + class] > 0.5),
            several(&|class| probabilities[class] > 0.5),
        ),
        Problem::Regression => {
            (Told::Number(shortest(answers.values[first])), Told::Number(shortest(answers.rows[first])))
        }
    };
    let mut classes: Vec<usize> = (0..probabilities.len()).collect();
    if classes.len() > MOST_CLASSES {
        classes.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
        classes.truncate(BEST);
    }
    Line {
        file: origin.file.clone(),
        line: origin.line,
        label,
        predicted,
        probabilities: classes
            .into_iter()
            .map(|class| (name(class), shortest(probabilities[class] as f32).into()))
            .collect(),
        text: origin.input.shown().chars().take(TEXT_CHARS).collect(),
    }
}

/// With the digits that an f32 has.
fn shortest(number: f32) -> f64 {
    number.to_string().parse().unwrap_or(f64::from(number))
}

/// Reads the file back.
///
/// # Errors
/// [`Error::Missing`] where there is none; [`Error::BadInput`] naming the line that is none of these; [`Error::Io`].
pub fn read(path: &Path) -> Result<Vec<Line>> {
    if !path.is_file() {
        return Err(Error::Missing {
            what: format!(
                "{} is not there: the run is not finished, or is none of a classifier",
                path.display()
            ),
            fix: "finish it with --resume, which also writes it for a run of an earlier version".into(),
        });
    }
    let text = String::from_utf8(read_regular(path)?)
        .map_err(|e| bad(path, None, format!("is not UTF-8: {e}"), FIX))?;
    let parse = |(at, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| bad(path, Some(at as u64 + 1), format!("{e}"), FIX))
    };
    text.lines().enumerate().map(parse).collect()
}

const FIX: &str = "continue the run with --resume, which writes it again";

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluation() -> Evaluation {
        let logits = [[2.0, 0.0], [0.0, 3.0], [4.0, 0.0]].concat();
        let answers = Answers {
            problem: Problem::SingleLabel,
            outputs: 2,
            rows: logits,
            classes: vec![0, 0, 1],
            told: vec![0, 1, 0],
            values: Vec::new(),
        };
        Evaluation {
            split: "test".into(),
            labels: vec!["a".into(), "b".into()],
            temperature: Some(2.0),
            answers: Some(answers),
            ..Evaluation::default()
        }
    }

    fn origins(texts: &[&str]) -> Origins {
        let origin = |(at, text): (usize, &&str)| Origin {
            input: (*text).into(),
            file: None,
            line: Some(at as u64 + 2),
        };
        Origins { path: Some("test.csv".into()), examples: texts.iter().enumerate().map(origin).collect() }
    }

    #[test]
    fn what_is_written_is_read_back_and_the_surest_mistake_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("predictions.jsonl");
        let (evaluated, mistakes) =
            record(&path, &evaluation(), &origins(&["one", "two", "three"])).unwrap().unwrap();
        let lines = read(&path).unwrap();
        assert_eq!((evaluated.examples, lines.len()), (3, 3));
        assert_eq!(mistakes, [lines[2].clone(), lines[1].clone()]);
        assert_eq!((lines[2].place(), &*lines[2].text), ("line 4".into(), "three"));
        // The sigmoid of 4 / 2.
        assert!((mistakes[0].probability().unwrap() - 0.880_797).abs() < 1e-6, "{mistakes:?}");
        let sums = |texts: &[&str]| record(&path, &evaluation(), &origins(texts)).unwrap().unwrap().0.sha256;
        assert_ne!(sums(&["one", "two", "three"]), sums(&["one", "two", "other"]));
        assert_eq!(evaluated.sha256, sums(&["one", "two", "three"]));
        assert_eq!(record(&path, &evaluation(), &origins(&["one"])).unwrap(), None);
        std::fs::write(&path, "{\"label\": \"a\"}\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains(":1: missing field"));
    }
}
