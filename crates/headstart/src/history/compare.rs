//! Two finished runs on the same examples.
//!
//! Owns: that they are the same, and where the two differ. Never: the tests (`eval`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::checkpoint::RunFolder;
use crate::config::Problem;
use crate::error::{Error, Result};
use crate::eval::{self, Comparison, Outcomes};
use crate::history::settings;
use crate::predictions::{self, Evaluated, Line, Told};

/// An example that the two answer differently.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Differing {
    /// Where it stands.
    pub place: String,
    /// The beginning of its text.
    pub text: String,
    /// What is true.
    pub label: String,
    /// What the first says.
    pub first: String,
    /// How sure it is.
    pub first_probability: Option<f64>,
    /// What the second says.
    pub second: String,
    /// How sure it is.
    pub second_probability: Option<f64>,
}

/// What lies between two runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// The first.
    pub first: PathBuf,
    /// The second.
    pub second: PathBuf,
    /// The examples.
    pub evaluated: Evaluated,
    /// Metrics and tests.
    #[serde(flatten)]
    pub comparison: Comparison,
    /// Examples that they answer differently; those come first that only one has right, or where one number is much nearer.
    pub differing: Vec<Differing>,
}

/// Compares the runs in two folders by what they said of the same examples.
///
/// # Errors
/// [`Error::Missing`] where one has no predictions, or the examples are not the same; [`Error::BadInput`] where its file is damaged.
pub fn compare(first: &Path, second: &Path) -> Result<Compared> {
    let (problem, evaluated, ours) = predictions_of(first)?;
    let (_, other, theirs) = predictions_of(second)?;
    same_examples((first, &evaluated), (second, &other))?;
    let agree = |(a, b): (&Line, &Line)| (&a.label, &a.text, a.line) == (&b.label, &b.text, b.line);
    let whole = |lines: &[Line]| lines.len() as u64 == evaluated.examples;
    if !whole(&ours) || !whole(&theirs) || !ours.iter().zip(&theirs).all(agree) {
        return Err(Error::Missing {
            what: format!(
                "the predictions in {} and {} are not of the same examples, although they were when they were written",
                first.display(),
                second.display()
            ),
            fix: "continue both runs with --resume, which writes them again".into(),
        });
    }
    let comparison = match problem {
        Problem::SingleLabel => of_classes(&ours, &theirs),
        Problem::MultiLabel => {
            let labels: Option<Vec<String>> = RunFolder::summary(first)
                .and_then(|summary| serde_json::from_value(summary["labels"].clone()).ok());
            of_labels(&labels.unwrap_or_default(), &ours, &theirs)
        }
        Problem::Regression => of_numbers(&ours, &theirs),
    };
    let mut differing: Vec<(f64, Differing)> = ours
        .iter()
        .zip(&theirs)
        .filter(|(a, b)| a.predicted != b.predicted)
        .map(|(a, b)| (-matters(a, b), differing(a, b)))
        .collect();
    differing.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    Ok(Compared {
        first: first.to_path_buf(),
        second: second.to_path_buf(),
        comparison,
        evaluated,
        differing: differing.into_iter().map(|(_, example)| example).collect(),
    })
}

/// How much more right one of two answers is.
fn matters(a: &Line, b: &Line) -> f64 {
    match (&a.label, &a.predicted, &b.predicted) {
        (Told::Number(truth), Told::Number(a), Told::Number(b)) => {
            ((truth - a).abs() - (truth - b).abs()).abs()
        }
        (truth, a, b) => f64::from(u8::from(truth == a || truth == b)),
    }
}

fn of_classes(ours: &[Line], theirs: &[Line]) -> Comparison {
    let mut classes = BTreeMap::new();
    let mut class_of = |told: &Told| {
        let next = classes.len() as u32;
        *classes.entry(told.to_string()).or_insert(next)
    };
    let mut column = |lines: &[Line], of: fn(&Line) -> &Told| -> Vec<u32> {
        lines.iter().map(|line| class_of(of(line))).collect()
    };
    let truths = column(ours, |line| &line.label);
    let (first, second) = (column(ours, |line| &line.predicted), column(theirs, |line| &line.predicted));
    eval::compare_classes(Outcomes { truths: &truths, first: &first, second: &second }, classes.len())
}

/// `labels` are those of the data, of which some may be nowhere.
fn of_labels(labels: &[String], ours: &[Line], theirs: &[Line]) -> Comparison {
    let column = |lines: &[Line], of: fn(&Line) -> &Told| -> Vec<String> {
        lines.iter().map(|line| of(line).to_string()).collect()
    };
    let truths = column(ours, |line| &line.label);
    let (first, second) = (column(ours, |line| &line.predicted), column(theirs, |line| &line.predicted));
    let told = [&truths, &first, &second].into_iter().flatten().flat_map(|all| labels_in(all));
    let names: BTreeSet<&str> = labels.iter().map(String::as_str).chain(told).collect();
    let flags = |column: &[String]| -> Vec<bool> {
        let on = |all: &String| {
            let all: BTreeSet<&str> = labels_in(all).collect();
            names.iter().map(|name| all.contains(name)).collect::<Vec<bool>>()
        };
        column.iter().flat_map(on).collect()
    };
    let [truths, first, second] = [&truths, &first, &second].map(|column| flags(column));
    eval::compare_labels(Outcomes { truths: &truths, first: &first, second: &second }, names.len())
}

fn of_numbers(ours: &[Line], theirs: &[Line]) -> Comparison {
    let number = |told: &Told| match told {
        Told::Number(number) => *number,
        Told::Class(_) => f64::NAN,
    };
    let truths: Vec<f64> = ours.iter().map(|line| number(&line.label)).collect();
    let [first, second] =
        [ours, theirs].map(|lines| lines.iter().map(|line| number(&line.predicted)).collect::<Vec<f64>>());
    eval::compare_numbers(Outcomes { truths: &truths, first: &first, second: &second })
}

/// The names of several labels.
fn labels_in(told: &str) -> impl Iterator<Item = &str> {
    told.split('|').filter(|name| !name.is_empty())
}

fn differing(a: &Line, b: &Line) -> Differing {
    Differing {
        place: a.place(),
        text: a.text.clone(),
        label: a.label.to_string(),
        first: a.predicted.to_string(),
        first_probability: a.probability(),
        second: b.predicted.to_string(),
        second_probability: b.probability(),
    }
}

/// What a run said, and of which examples.
fn predictions_of(dir: &Path) -> Result<(Problem, Evaluated, Vec<Line>)> {
    let settings = settings(dir)?;
    // Fine-tuning alone measures a classifier on labels and keeps its answers.
    if settings.contains_key("distill") && !dir.join("predictions.jsonl").is_file() {
        return Err(Error::Missing {
            what: format!(
                "{} learned from a teacher, on text without labels: it was not measured on a test split, and has no \
                 predictions to compare",
                dir.display()
            ),
            fix: "measure each of the two on the same labelled data: headstart eval RUN --data DATA".into(),
        });
    }
    let problem = settings.get("problem").cloned().and_then(|problem| problem.try_into().ok());
    let lines = predictions::read(&dir.join("predictions.jsonl"))?;
    let evaluated = RunFolder::summary(dir).map(|summary| summary["evaluated"].clone());
    let evaluated = evaluated.filter(Value::is_object).and_then(|value| serde_json::from_value(value).ok());
    let evaluated = evaluated.ok_or_else(|| Error::Missing {
        what: format!("{} does not say which examples its predictions are of", dir.display()),
        fix: "continue it with --resume, which writes its summary.json again".into(),
    })?;
    Ok((problem.unwrap_or_default(), evaluated, lines))
}

fn same_examples(first: (&Path, &Evaluated), second: (&Path, &Evaluated)) -> Result<()> {
    let ((a, ours), (b, theirs)) = (first, second);
    let words = |dir: &Path, of: &Evaluated| {
        let path = of.path.as_ref().map(|path| format!(" of {path}")).unwrap_or_default();
        format!("{}: {} {} examples{path}", dir.display(), of.examples, of.split)
    };
    if (&ours.split, ours.examples, &ours.sha256) == (&theirs.split, theirs.examples, &theirs.sha256) {
        return Ok(());
    }
    Err(Error::Missing {
        what: format!(
            "these runs were not evaluated on the same examples ({}; {}): their texts or labels differ",
            words(a, ours),
            words(b, theirs)
        ),
        fix: "fine-tune both on the same data, with a test file or with the same --seed, which holds out the same examples"
            .into(),
    })
}
