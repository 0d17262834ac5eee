//! What is wrong with a labelled data set, or looks like it, before anybody trains on it.
//!
//! Owns: the findings, their severity and what to do about them. Never: changes or reads data.
//!
//! Everything is linear in the texts: duplicates by hashing, near-duplicates by MinHash with bands, label errors by one
//! cross-validated bag of words.

mod columns;
pub mod confident;
mod duplicates;
mod errors;
mod labels;
mod languages;
mod lengths;
mod min_hash;
mod page;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::time::Instant;

use serde::Serialize;

use crate::data::classification::placed::{PlacedText, PlacedTexts};
use crate::data::split::Split;
use crate::error::Result;
use crate::event::{Event, Listener};

pub use lengths::Reader;

/// Characters of a text that a finding shows.
const SHOWN: usize = 120;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// It costs accuracy, or makes figures say less than they seem to.
    Warning,
    /// Figures of a run on this data would be wrong, or there would be no run.
    Error,
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Validation or test texts that are training texts, too.
    Leak,
    /// Validation or test texts that are almost training texts.
    NearLeak,
    /// A text with two labels.
    ConflictingLabels,
    /// A label that training data has not.
    UnknownLabel,
    /// The labels look like ids or texts.
    LabelIds,
    /// Single labels that look like several names in one field.
    JoinedLabels,
    /// The texts look like ids or numbers.
    TextIds,
    /// Texts without a character.
    EmptyText,
    /// Labels that spell a missing value.
    MissingLabel,
    /// Labels that may be one.
    LookAlikeLabels,
    /// Classes with few training examples.
    FewExamples,
    /// One class is far more frequent than another.
    Imbalance,
    /// Texts that stand there twice in one split.
    Duplicate,
    /// Texts that stand there almost twice in one split.
    NearDuplicate,
    /// Texts longer than the model's inputs.
    TooLong,
    /// Labels that the other examples contradict.
    LabelError,
    /// Texts in another script than most.
    OtherScript,
    /// Texts in another language than most.
    OtherLanguage,
    /// A column, not read, that gives the label away.
    TellingColumn,
    /// A column, not read, that only tells rows apart.
    IdColumn,
}

/// Something found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// What it is about.
    pub kind: Kind,
    /// How bad it is.
    pub severity: Severity,
    /// How many examples, texts, labels or columns.
    pub count: u64,
    /// In words.
    pub what: String,
    /// What to do about it.
    pub fix: String,
    /// The worst or first of them.
    pub examples: Vec<Shown>,
}

/// One example of a finding: where it stands, and what stands there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// File and line, for each place.
    pub places: Vec<Place>,
    /// The text, or its beginning.
    pub text: String,
    /// What there is to say of it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// Where an example stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The split.
    pub split: Split,
    /// The file.
    pub file: String,
    /// Counted from 1; `None` where the file is the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// Its label.
    pub label: String,
}

/// What was looked for and found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lint {
    /// Examples of each split.
    pub splits: Vec<(Split, u64)>,
    /// The classes, with their training examples.
    pub labels: Vec<(String, u64)>,
    /// What was found, the worst first.
    pub findings: Vec<Finding>,
    /// What was not looked for, and why.
    pub left_out: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

/// How much is shown, and what inputs a model takes.
#[derive(Debug, Clone, Copy)]
pub struct LintOptions<'a> {
    /// Examples of each finding.
    pub examples: usize,
    /// What is to read the texts, where it is known.
    pub reader: Option<&'a Reader>,
}

/// One example of a data set.
#[derive(Debug, Clone, Copy)]
struct Row<'a> {
    split: Split,
    files: &'a [std::path::PathBuf],
    text: &'a PlacedText,
}

impl Row<'_> {
    fn label(&self) -> String {
        self.text.labels.join(" | ")
    }

    fn is_empty(&self) -> bool {
        self.text.text.trim().is_empty()
            || self.text.second.as_ref().is_some_and(|second| second.trim().is_empty())
    }

    /// Both texts of a pair as one.
    fn joined(&self) -> String {
        crate::data::classification::joined(&self.text.text, self.text.second.as_deref())
    }

    fn place(&self) -> Place {
        Place {
            split: self.split,
            file: self.files[self.text.file].display().to_string(),
            line: self.text.line,
            label: self.label(),
        }
    }

    fn shown(&self, note: impl Into<String>) -> Shown {
        shown(&[self], note)
    }
}

/// Several rows as one example, with the text of the first.
fn shown(rows: &[&Row<'_>], note: impl Into<String>) -> Shown {
    let text = rows.first().map(|row| shortened(&row.joined())).unwrap_or_default();
    Shown { places: rows.iter().map(|row| row.place()).collect(), text, note: note.into() }
}

fn shortened(text: &str) -> String {
    let mut line: String =
        text.trim().chars().take(SHOWN + 1).map(|c| if c.is_whitespace() { ' ' } else { c }).collect();
    if line.chars().count() > SHOWN {
        line = line.chars().take(SHOWN - 3).chain("...".chars()).collect();
    }
    line
}

/// Looks for everything.
///
/// # Errors
/// [`crate::Error::Interrupted`] where `listener` asks for a stop; a text that a tokenizer fails on.
pub fn lint(data: &PlacedTexts, options: LintOptions<'_>, listener: &mut Listener<'_>) -> Result<Lint> {
    let clock = Instant::now();
    let rows: Vec<Row<'_>> = data
        .splits
        .iter()
        .flat_map(|split| {
            split.texts.iter().map(|text| Row { split: split.split, files: &split.files, text })
        })
        .collect();
    let mut found = Findings { most: options.examples, all: Vec::new(), left_out: Vec::new() };
    let go_on = |listener: &mut Listener<'_>, what| {
        listener(Event::Progress { what, done: 0, total: 0 }).or_interrupted("looking into the data")
    };
    go_on(listener, "looking for empty texts and duplicates")?;
    duplicates::empty(&rows, &mut found);
    let groups = duplicates::exact(&rows, data.label_kind, &mut found);
    go_on(listener, "looking for near-duplicates")?;
    duplicates::near(&rows, &groups, &mut found);
    go_on(listener, "looking at labels and columns")?;
    labels::look(data, &rows, &mut found);
    columns::look(data, &rows, &mut found);
    languages::look(&rows, &mut found);
    if let Some(reader) = options.reader {
        go_on(listener, "counting tokens")?;
        lengths::look(&rows, reader, &mut found)?;
    } else {
        found.left_out.push("lengths in tokens: no --model or --tokenizer is named".into());
    }
    errors::look(data, &rows, &mut found, listener)?;
    let Findings { mut all, left_out, .. } = found;
    all.sort_by_key(|finding| (std::cmp::Reverse(finding.severity), finding.kind));
    let mut trained: HashMap<&str, u64> = HashMap::new();
    for label in rows.iter().filter(|row| row.split == Split::Train).flat_map(|row| &row.text.labels) {
        *trained.entry(label).or_default() += 1;
    }
    let count = |label: &String| trained.get(label.as_str()).copied().unwrap_or(0);
    Ok(Lint {
        splits: data.splits.iter().map(|split| (split.split, split.texts.len() as u64)).collect(),
        labels: data.labels.iter().take(labels::MOST_CLASSES).map(|l| (l.clone(), count(l))).collect(),
        findings: all,
        left_out,
        seconds: clock.elapsed().as_secs_f64(),
    })
}

impl Lint {
    /// The worst severity; `None` where nothing was found.
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(|finding| finding.severity).max()
    }
}

/// What has been found so far.
struct Findings {
    /// Examples of each that are shown.
    most: usize,
    all: Vec<Finding>,
    left_out: Vec<String>,
}

impl Findings {
    /// Adds a finding, unless it is about nothing.
    fn add(
        &mut self,
        (kind, severity): (Kind, Severity),
        count: usize,
        (what, fix): (String, &str),
        examples: impl IntoIterator<Item = Shown>,
    ) {
        if count > 0 {
            let examples = examples.into_iter().take(self.most).collect();
            self.all.push(Finding {
                kind,
                severity,
                count: count as u64,
                what,
                fix: fix.to_owned(),
                examples,
            });
        }
    }
}

/// `1 text`, `2 texts`.
fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}
