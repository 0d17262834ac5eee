//! The names of classes, and how many examples they have.
//!
//! Owns: which names look alike, and what is few. Never: whether an example has the right label (`errors`).

use std::collections::{BTreeMap, HashSet};

use super::{Findings, Kind, Row, Severity, Shown, counted};
use crate::data::classification::placed::PlacedTexts;
use crate::data::classification::{LabelKind, is_missing, joined_names, look_alike_key};
use crate::data::split::Split;

/// Classes that are listed and compared.
pub(super) const MOST_CLASSES: usize = 2000;
/// A class with fewer training examples than this is few: of ten, one is held out.
const FEW: u64 = 8;
/// The commonest class has so many times as many examples as the rarest.
const IMBALANCE: u64 = 10;
/// Shorter names than this are often one letter apart.
const SHORTEST: usize = 4;
/// A name that is one letter apart from another, and has no more than this share of its examples, is a slip.
const SLIP: f64 = 0.2;
/// More classes than this, and more than one for two examples, are ids.
const MANY: usize = 20;

/// How often a label stands in training data, and in all, and where first.
#[derive(Default)]
struct Use {
    trained: u64,
    all: u64,
    first: usize,
}

pub(super) fn look(data: &PlacedTexts, rows: &[Row<'_>], found: &mut Findings) {
    if data.label_kind == LabelKind::Regression {
        return;
    }
    let mut uses: BTreeMap<&str, Use> = BTreeMap::new();
    for (at, row) in rows.iter().enumerate() {
        for label in &row.text.labels {
            let used = uses.entry(label).or_insert_with(|| Use { first: at, ..Use::default() });
            used.all += 1;
            used.trained += u64::from(row.split == Split::Train);
        }
    }
    let first = |label: &str, note: String| -> Shown {
        let unused = || Shown { places: Vec::new(), text: label.to_owned(), note: String::new() };
        uses.get(label).map_or_else(unused, |used| rows[used.first].shown(note))
    };
    let joined = joined_names(&data.labels).filter(|_| data.label_kind == LabelKind::Single);
    if let Some((what, fix)) = joined {
        let examples = data.labels.iter().map(|label| first(label, String::new()));
        found.add((Kind::JoinedLabels, Severity::Warning), data.labels.len(), (what, fix), examples);
    }
    let trained: usize = rows.iter().filter(|row| row.split == Split::Train).count();
    if data.labels.len() > MANY && 2 * data.labels.len() > trained {
        let what = format!("{} classes for {}", data.labels.len(), counted(trained, "training example"));
        let fix = "these look like ids or texts: name the right column with --label_column";
        let examples = data.labels.iter().map(|label| first(label, String::new()));
        found.add((Kind::LabelIds, Severity::Error), data.labels.len(), (what, fix), examples);
        return;
    }
    let missing: Vec<&str> = uses.keys().copied().filter(|label| is_missing(label)).collect();
    let what = format!("{} that spells a missing value", counted(missing.len(), "label"));
    let fix = "remove these rows if the label is missing; otherwise call the class something else";
    let examples = missing.iter().map(|label| first(label, times(uses[label].all)));
    found.add((Kind::MissingLabel, Severity::Warning), missing.len(), (what, fix), examples);
    if uses.len() <= MOST_CLASSES {
        look_alikes(&uses, rows, found);
    }
    counts(data, &uses, rows, found);
}

/// Names that differ in case, spaces or form, and those that one slip of the hand makes of another.
fn look_alikes(uses: &BTreeMap<&str, Use>, rows: &[Row<'_>], found: &mut Findings) {
    let mut of_key: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for label in uses.keys() {
        of_key.entry(look_alike_key(label)).or_default().push(label);
    }
    let mut alike: Vec<(Vec<&str>, &str)> = of_key
        .values()
        .filter(|labels| labels.len() > 1)
        .map(|labels| (labels.clone(), "they differ in case, spaces, signs, form or alphabet"))
        .collect();
    let mut near: Vec<(Vec<&str>, &str)> = Vec::new();
    let usual: Vec<(&String, &str)> = of_key.iter().map(|(key, labels)| (key, labels[0])).collect();
    for (at, (key, label)) in usual.iter().enumerate() {
        for (other_key, other) in &usual[at + 1..] {
            let (a, b) = (uses[label].all as f64, uses[other].all as f64);
            if !one_slip(key, other_key) {
                continue;
            }
            if a.min(b) <= SLIP * a.max(b) {
                alike.push((vec![label, other], "one letter apart, and one is rare"));
            } else {
                near.push((vec![label, other], "one letter apart"));
            }
        }
    }
    let shown = |(labels, why): &(Vec<&str>, &str)| {
        let some: Vec<&Row<'_>> = labels.iter().map(|label| &rows[uses[label].first]).collect();
        let named: Vec<String> = labels
            .iter()
            .map(|label| format!("`{}` {}", label.escape_debug(), times(uses[label].all)))
            .collect();
        Shown { text: named.join(", "), ..super::shown(&some, *why) }
    };
    let what = format!("{} that may be one class each", counted(alike.len(), "group of label"));
    let what =
        what.replace("group of labels", "groups of labels").replace("group of label ", "group of labels ");
    let fix = "write them alike if they are one class: every spelling is a class of its own";
    found.add((Kind::LookAlikeLabels, Severity::Warning), alike.len(), (what, fix), alike.iter().map(shown));
    let what = format!("{} of common classes with almost the same name", counted(near.len(), "pair"));
    let fix = "write them alike if they are one class, or call them by names that nobody mistakes";
    found.add((Kind::LookAlikeLabels, Severity::Note), near.len(), (what, fix), near.iter().map(shown));
}

/// Whether one letter more, less, other, or two exchanged make one name of the other. Digits tell names apart.
fn one_slip(one: &str, other: &str) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    if a.len().min(b.len()) < SHORTEST || a.len().abs_diff(b.len()) > 1 {
        return false;
    }
    let same = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[same..], &b[same..]);
    let differing = a.first().into_iter().chain(b.first());
    if differing.into_iter().any(|c| !c.is_alphabetic() && *c != ' ') {
        return false;
    }
    match a.len().cmp(&b.len()) {
        std::cmp::Ordering::Less => a == &b[1..],
        std::cmp::Ordering::Greater => &a[1..] == b,
        std::cmp::Ordering::Equal => {
            let exchanged = a.len() > 1 && a[0] == b[1] && a[1] == b[0] && a[2..] == b[2..];
            !a.is_empty() && (a[1..] == b[1..] || exchanged)
        }
    }
}

fn counts(data: &PlacedTexts, uses: &BTreeMap<&str, Use>, rows: &[Row<'_>], found: &mut Findings) {
    let known: HashSet<&str> = data.labels.iter().map(String::as_str).collect();
    let has_training = rows.iter().any(|row| row.split == Split::Train);
    let unknown: Vec<&str> =
        uses.keys().copied().filter(|label| !known.contains(label) && has_training).collect();
    let what = format!("{} that no training example has", counted(unknown.len(), "label"));
    let fix = "correct the label, or add training examples of it: a run refuses it";
    let examples = unknown.iter().map(|label| rows[uses[label].first].shown(times(uses[label].all)));
    found.add((Kind::UnknownLabel, Severity::Error), unknown.len(), (what, fix), examples);
    if !has_training {
        return;
    }
    let trained = |label: &String| uses.get(label.as_str()).map_or(0, |used| used.trained);
    let mut few: Vec<(u64, &String)> =
        data.labels.iter().map(|label| (trained(label), label)).filter(|(count, _)| *count < FEW).collect();
    few.sort_unstable();
    let what = format!("{} with fewer than {FEW} training examples", classes(few.len()));
    let fix =
        "add examples, or join them with another class: so few teach a model little and measure nothing";
    let examples = few.iter().map(|(count, label)| Shown {
        places: uses.get(label.as_str()).map(|used| rows[used.first].place()).into_iter().collect(),
        text: format!("`{}`", label.escape_debug()),
        note: times(*count),
    });
    found.add((Kind::FewExamples, Severity::Warning), few.len(), (what, fix), examples);
    let by_count = |label: &&String| trained(label);
    let ends = data.labels.iter().max_by_key(by_count).zip(data.labels.iter().min_by_key(by_count));
    if let Some((most, least)) =
        ends.filter(|(most, least)| trained(most) >= IMBALANCE * trained(least).max(1))
    {
        let what = format!(
            "`{}` has {} training examples, `{}` {}",
            most.escape_debug(),
            trained(most),
            least.escape_debug(),
            trained(least)
        );
        let fix = "look at macro-F1 and the table of classes, not at accuracy alone; --class_weights balanced may help";
        found.add((Kind::Imbalance, Severity::Note), 1, (what, fix), []);
    }
}

fn times(count: u64) -> String {
    match count {
        0 => "never".into(),
        1 => "once".into(),
        n => format!("{n} times"),
    }
}

fn classes(count: usize) -> String {
    if count == 1 { "1 class".into() } else { format!("{count} classes") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_told_from_names() {
        for (one, other) in
            [("sports", "sport"), ("science", "sceince"), ("business", "bussiness"), ("politics", "polltics")]
        {
            assert!(one_slip(one, other) && one_slip(other, one), "{one} {other}");
        }
        for (one, other) in [
            ("cat", "car"),
            ("level 1", "level 2"),
            ("sports", "spirits"),
            ("sports", "sports"),
            ("grade1", "grade"),
        ] {
            assert!(!one_slip(one, other) && !one_slip(other, one), "{one} {other}");
        }
    }
}
