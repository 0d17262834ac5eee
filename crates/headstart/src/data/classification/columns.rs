//! Which columns of a table hold the text and the label.
//!
//! Owns: the names such columns have. Never: rows.

use std::collections::HashMap;
use std::path::Path;

use super::{ClassificationOptions, LabelKind};
use crate::config::TextColumns;
use crate::error::{Error, Result, bad};

/// Columns that an error lists.
const LISTED: usize = 20;
/// Characters of a column's name that it shows.
const LISTED_CHARS: usize = 40;
/// Names of a text column, the likeliest first.
const TEXT_COLUMNS: [&str; 25] = [
    "text",
    "sentence",
    "review",
    "question",
    "content",
    "comment",
    "tweet",
    "message",
    "body",
    "document",
    "utterance",
    "query",
    "comment_text",
    "question_text",
    "sms",
    "statement",
    "headline",
    "description",
    "title",
    "review_text",
    "review_body",
    "tweet_text",
    "original_tweet",
    "verified_reviews",
    "news",
];
/// Names of the two text columns of a pair: GLUE's, SNLI's, SICK's, and their like.
const PAIR_COLUMNS: [[&str; 2]; 8] = [
    ["sentence1", "sentence2"],
    ["sentence_a", "sentence_b"],
    ["premise", "hypothesis"],
    ["question1", "question2"],
    ["question", "sentence"],
    ["text_a", "text_b"],
    ["text1", "text2"],
    ["#1 string", "#2 string"],
];
/// Names of a label column, the likeliest first.
const LABEL_COLUMNS: [&str; 34] = [
    "label",
    "labels",
    "class",
    "category",
    "target",
    "sentiment",
    "intent",
    "topic",
    "polarity",
    "rating",
    "score",
    "stars",
    "type",
    "gold_label",
    "is_duplicate",
    "quality",
    "class index",
    "emotion",
    "genre",
    "language",
    "gender",
    "star_rating",
    "overall",
    "airline_sentiment",
    "is_spam",
    "entailment_label",
    "entailment_judgment",
    "intents",
    "topics",
    "categories",
    "emotions",
    "genres",
    "classes",
    "tags",
];
/// Names of a column that only tells rows apart, which is never the text or the label unless it is named.
const ID_COLUMNS: [&str; 14] = [
    "",
    "#",
    "id",
    "idx",
    "index",
    "row",
    "row_id",
    "rowid",
    "guid",
    "uid",
    "uuid",
    "number",
    "no",
    "unnamed: 0",
];

/// The columns of a table that are read, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Columns {
    /// The text: one column, or the two of a pair.
    pub text: Vec<String>,
    /// The label; with several at once maybe a column of marks for each class, which is called like it; none in a table without.
    pub label: Vec<String>,
    /// What examples belong together by; `None` where that was not asked for.
    pub group: Option<String>,
}

/// What the columns of a table are called by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Called {
    /// The names in its first row.
    Names,
    /// Their numbers, counted from 1: it has no first row of names.
    Numbers,
    /// The keys of objects of JSON, or the names in a Parquet file.
    Keys,
}

impl Columns {
    /// The label's column as `--label_column` names it; those of classes with commas between.
    pub fn label_column(&self) -> Option<String> {
        Some(self.label.join(",")).filter(|_| !self.label.is_empty())
    }

    /// The classes that have a column each.
    pub fn classes(&self) -> Vec<String> {
        if self.label.len() > 1 { self.label.clone() } else { Vec::new() }
    }

    /// The columns of a table with such a header: of training data by their names, of another split those of training,
    /// the label only where there is one.
    pub fn choose(
        path: &Path,
        (header, called): (&[String], Called),
        options: &ClassificationOptions,
        training: Option<&Self>,
    ) -> Result<Self> {
        match training {
            None => guess(path, (header, called), options),
            Some(training) => {
                let text = training.text.iter().map(|name| {
                    find(header, name).map(str::to_owned).ok_or_else(|| {
                        let columns = listed(header);
                        let what = format!(
                            "no text column `{name}`, which the training data has; the columns are {columns}"
                        );
                        let fix = "give the columns the names that they have in the training data";
                        bad(path, Some(1), what, fix)
                    })
                });
                let there = training.label.iter().filter_map(|name| find(header, name));
                let label: Vec<String> = there.map(str::to_owned).collect();
                if let Some(missing) = training.label.iter().find(|name| find(header, name).is_none())
                    && !label.is_empty()
                {
                    let columns = listed(header);
                    let what = format!(
                        "no column `{missing}` of a class, which the training data has; the columns are {columns}"
                    );
                    return Err(bad(path, Some(1), what, "give it the columns of all classes, or of none"));
                }
                let group = training.group.as_deref().and_then(|group| find(header, group));
                let text = text.collect::<Result<_>>()?;
                Ok(Self { text, label, group: group.map(str::to_owned) })
            }
        }
    }
}

/// The columns with the text: those that are asked for, or else the two that are called like a pair, or the one that is called
/// like a text; `None` where no column is. `label` is never one of them unless it is asked for.
///
/// # Errors
/// What is wrong with those that are asked for.
pub(in crate::data) fn text_columns<'a>(
    all: &'a [String],
    wanted: Option<&TextColumns>,
    label: Option<&str>,
) -> std::result::Result<Option<Vec<&'a str>>, String> {
    match wanted {
        Some(wanted) => named(all, wanted).map(Some),
        None => Ok(usual_pair(all, label).or_else(|| text_column(all, label).map(|column| vec![column]))),
    }
}

/// The names of a header's columns, each of which is another: the second `text` is `text.1`, as pandas has it.
pub(in crate::data) fn distinct(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let (mut all, mut seen): (Vec<String>, HashMap<String, usize>) = (Vec::new(), HashMap::new());
    for name in names {
        let mut free = name.clone();
        while seen.contains_key(&free) {
            let number = seen.entry(name.clone()).or_default();
            *number += 1;
            free = format!("{name}.{number}");
        }
        seen.insert(free.clone(), 0);
        all.push(free);
    }
    all
}

/// Columns as an error names them: of very many only the first.
pub(in crate::data) fn listed(columns: &[String]) -> String {
    let short = |name: &String| match name.char_indices().nth(LISTED_CHARS) {
        Some((at, _)) => format!("{}...", &name[..at]),
        None => name.clone(),
    };
    let mut text = columns.iter().take(LISTED).map(short).collect::<Vec<_>>().join(", ");
    if columns.len() > LISTED {
        text += &format!(" ... and {} more", columns.len() - LISTED);
    }
    text
}

/// The one column that is called like a text.
pub(in crate::data) fn text_column<'a>(all: &'a [String], label: Option<&str>) -> Option<&'a str> {
    let found = usual(all, &TEXT_COLUMNS, label);
    found.or_else(|| label_and_text(all).map(|[_, text]| text).filter(|text| Some(*text) != label))
}

/// `v1` and `v2`, as Kaggle has the SMS spam collection, and hundreds of copies; in a table of measurements there are more of them.
fn label_and_text(all: &[String]) -> Option<[&str; 2]> {
    let [label, text, third] = ["v1", "v2", "v3"].map(|name| usual(all, &[name], None));
    label.zip(text).filter(|_| third.is_none()).map(|(label, text)| [label, text])
}

/// The first two columns whose names go together.
fn usual_pair<'a>(all: &'a [String], label: Option<&str>) -> Option<Vec<&'a str>> {
    PAIR_COLUMNS.iter().find_map(|pair| pair.iter().map(|name| usual(all, &[name], label)).collect())
}

/// The columns of these names.
fn named<'a>(all: &'a [String], wanted: &TextColumns) -> std::result::Result<Vec<&'a str>, String> {
    let names: Vec<&str> = match wanted {
        TextColumns::Typed(name) if find(all, name).is_some() => vec![name],
        TextColumns::Typed(names) => names.split(',').map(str::trim).collect(),
        TextColumns::Listed(names) => names.iter().map(String::as_str).collect(),
    };
    if !(1..=2).contains(&names.len()) {
        return Err(format!("{} text columns are named, and an example is one text or a pair", names.len()));
    }
    let missing = |name: &str| format!("no text column `{name}`; the columns are {}", listed(all));
    let found = names.iter().map(|name| find(all, name).ok_or_else(|| missing(name)));
    match found.collect::<std::result::Result<Vec<_>, _>>()?[..] {
        [one, other] if one == other => Err(format!("the text column `{one}` is named twice")),
        ref columns => Ok(columns.to_vec()),
    }
}

/// A column as it is written, else whatever its case.
fn find<'a>(columns: &'a [String], name: &str) -> Option<&'a str> {
    let mut columns = columns.iter().map(String::as_str);
    let exact = columns.clone().find(|c| *c == name);
    exact.or_else(|| columns.find(|c| c.trim().eq_ignore_ascii_case(name)))
}

/// A column by the names that such columns have, however they are written: `Review Text`, `review_text`, `reviewText`.
fn usual<'a>(columns: &'a [String], names: &[&str], other: Option<&str>) -> Option<&'a str> {
    let all = || columns.iter().map(String::as_str).filter(|c| Some(*c) != other);
    let plain = |name: &str| -> String {
        name.trim().chars().filter(|c| ![' ', '_', '-'].contains(c)).map(|c| c.to_ascii_lowercase()).collect()
    };
    names.iter().find_map(|name| all().find(|c| plain(c) == plain(name)))
}

fn guess(
    path: &Path,
    (all, called): (&[String], Called),
    options: &ClassificationOptions,
) -> Result<Columns> {
    let (wanted_text, asked_label) = (options.text_column.as_ref(), options.label_column.as_deref());
    let trained_label = options.measured.as_ref().and_then(|measured| measured.label_column.as_deref());
    // A model is measured on the column that it was trained with, whatever else the table has.
    let wanted_label = asked_label.or(trained_label);
    let text = text_columns(all, wanted_text, wanted_label)
        .map_err(|what| bad(path, Some(1), what, text_fix(called)))?;
    let first = text.as_ref().and_then(|text| text.first().copied());
    let is_multi = options.label_kind == LabelKind::Multi;
    let several = wanted_label.filter(|names| is_multi && names.contains(',') && find(all, names).is_none());
    if let Some(names) = several {
        let marks = names.split(',').map(str::trim).map(|name| {
            let missing = || no_column(path, "label", "--label_column", Some(name), (all, called));
            find(all, name).map(str::to_owned).ok_or_else(missing)
        });
        return of_marks(path, all, text.as_deref(), marks.collect::<Result<_>>()?, called, options);
    }
    let label = match wanted_label {
        Some(name) => find(all, name),
        None => usual(all, &LABEL_COLUMNS, first)
            .or_else(|| label_and_text(all).map(|[label, _]| label).filter(|label| Some(*label) != first)),
    };
    // Where no column is called like a label, all that are left can be those of classes: rows will show whether they are.
    let left = all.iter().filter(|column| {
        let is_other = options.group_column.as_deref().is_some_and(|group| find(all, group) == Some(column));
        let is_text = text.as_ref().is_some_and(|text| text.contains(&column.as_str()));
        !is_other && !is_text && !is_id(column)
    });
    let left: Vec<String> = left.cloned().collect();
    if is_multi && label.is_none() && wanted_label.is_none() && left.len() > 1 && text.is_some() {
        return of_marks(path, all, text.as_deref(), left, called, options);
    }
    // Of two columns, the one that is not the one is the other, unless it only numbers the rows.
    let rest = |known: Option<&str>| match all {
        [a, b] if Some(a.as_str()) == known => Some(b.as_str()),
        [a, b] if Some(b.as_str()) == known => Some(a.as_str()),
        _ => None,
    };
    let rest = |known| rest(known).filter(|c| !is_id(c));
    let text_or_rest =
        text.or_else(|| rest(label).filter(|_| wanted_text.is_none()).map(|column| vec![column]));
    let label_or_rest = label.or_else(|| rest(first).filter(|_| wanted_label.is_none()));
    match (text_or_rest, label_or_rest) {
        (Some(text), Some(label)) if !text.contains(&label) => {
            if asked_label.is_none() && options.measured.is_some() && is_answer(all, label) {
                return Err(answered(path, label));
            }
            let group =
                options.group_column.as_deref().map(|name| group_column(path, all, name)).transpose()?;
            let text = text.into_iter().map(str::to_owned).collect();
            Ok(Columns { text, label: vec![label.to_owned()], group })
        }
        (Some(_), _) if asked_label.is_none() && trained_label.is_some() => {
            let trained = trained_label.unwrap_or_default();
            Err(match usual(all, &LABEL_COLUMNS, first) {
                Some(other) if is_answer(all, other) => answered(path, other),
                other => not_trained_on(path, trained, other, all),
            })
        }
        (Some(_), _) => Err(no_column(path, "label", "--label_column", wanted_label, (all, called))),
        (None, _) => Err(no_column(path, "text", "--text_column", None, (all, called))),
    }
}

/// A table with a column of marks for each class.
fn of_marks(
    path: &Path,
    all: &[String],
    text: Option<&[&str]>,
    label: Vec<String>,
    called: Called,
    options: &ClassificationOptions,
) -> Result<Columns> {
    let Some(text) = text else {
        return Err(no_column(path, "text", "--text_column", None, (all, called)));
    };
    let twice = |(at, name): (usize, &String)| text.contains(&name.as_str()) || label[..at].contains(name);
    if let Some((_, name)) = label.iter().enumerate().find(|named| twice(*named)) {
        let what = format!("the column `{name}` is named twice");
        return Err(bad(path, Some(1), what, "name the text once, and the column of each class once"));
    }
    let group = options.group_column.as_deref().map(|name| group_column(path, all, name)).transpose()?;
    Ok(Columns { text: text.iter().map(|&name| name.to_owned()).collect(), label, group })
}

/// Whether a column is called as those that only tell rows apart.
fn is_id(column: &str) -> bool {
    ID_COLUMNS.contains(&column.trim().to_lowercase().as_str())
}

fn group_column(path: &Path, all: &[String], name: &str) -> Result<String> {
    find(all, name).map(str::to_owned).ok_or_else(|| {
        let what = format!("no group column `{name}`; the columns are {}", listed(all));
        bad(path, Some(1), what, "name one of these with `--group_column`, or leave it out")
    })
}

/// Whether a column holds what `predict` answered: the probability stands right behind it.
fn is_answer(all: &[String], label: &str) -> bool {
    let behind = all.iter().position(|column| column == label).and_then(|at| all.get(at + 1));
    behind.is_some_and(|column| ["probability", "probabilities"].contains(&column.as_str()))
}

fn answered(path: &Path, label: &str) -> Error {
    let what = format!(
        "its column `{label}` holds the answers of a model, with their probabilities beside them, and no true labels"
    );
    let fix = format!(
        "name the column with the true labels with `--label_column`; where `{label}` is that one, name it so, too"
    );
    bad(path, Some(1), what, fix)
}

/// A table without the label column of the model that is measured; `other` is one that is called like a label.
fn not_trained_on(path: &Path, trained: &str, other: Option<&str>, all: &[String]) -> Error {
    let what = format!("no label column `{trained}`, which the model was trained with");
    let (what, fix) = match other {
        Some(other) => (
            format!("{what}; there is one called `{other}`"),
            format!("if that has the same labels, say so with `--label_column {other}`"),
        ),
        None => (
            format!("{what}; the columns are {}", listed(all)),
            "name the column with the same labels with `--label_column`".into(),
        ),
    };
    bad(path, Some(1), what, fix)
}

/// The way out where the columns that are asked for are not those of the table.
fn text_fix(called: Called) -> &'static str {
    match called {
        Called::Names => "name one column with `--text_column`, or the two of a pair with a comma between",
        Called::Keys => "name one key with `--text_column`, or the two of a pair with a comma between",
        Called::Numbers => {
            "name one column with `--text_column` by its number, counted from 1, or the two of a pair with a comma \
             between"
        }
    }
}

fn no_column(
    path: &Path,
    missing: &str,
    flag: &str,
    wanted: Option<&str>,
    (all, called): (&[String], Called),
) -> Error {
    let columns = listed(all);
    // The rows of a Parquet file are read as objects, too.
    let is_parquet = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("parquet"));
    let word = if called == Called::Keys && !is_parquet { "key" } else { "column" };
    let what = match (wanted, all) {
        (Some(name), _) => format!("no {missing} {word} `{name}`; the {word}s are {columns}"),
        (None, [one]) => format!("there is one {word} only, `{one}`"),
        (None, _) => format!("no {word} looks like the {missing}; the {word}s are {columns}"),
    };
    let fix = match (called, all) {
        (Called::Numbers, _) => format!("name the column with `{flag}` by its number, counted from 1"),
        (Called::Keys, [_]) => "give every row a text and a label".into(),
        (Called::Keys, _) => format!("name the {word} with `{flag}`"),
        (Called::Names, [_]) => "name what stands between the columns with `--delimiter`".into(),
        _ if wanted.is_some_and(|name| name.contains(',')) && missing == "label" => format!(
            "name one column with `{flag}`; several, of 0 and 1 for a class each, are read with `--problem multi-label`"
        ),
        (Called::Names, _) => {
            let of_classes = "; if each class has a column of 0 and 1, add `--problem multi-label`";
            let of_classes = if missing == "label" && all.len() > 3 { of_classes } else { "" };
            format!(
                "name the column with `{flag}`; if the first line is a row already, add `--header false` and name \
                 columns by number, counted from 1{of_classes}"
            )
        }
    };
    bad(path, Some(1), what, fix)
}
