//! Texts that are empty, that stand there twice, or almost, and those with two labels.
//!
//! Owns: what that means within a split and across two. Never: how near-duplicates are found (`min_hash`).

use std::collections::{HashMap, HashSet};

use super::{Findings, Kind, Row, Severity, Shown, counted, min_hash, shown};
use crate::data::classification::LabelKind;
use crate::data::split::Split;

/// Rows of one example that are shown.
const MOST_PLACES: usize = 4;

pub(super) fn empty(rows: &[Row<'_>], found: &mut Findings) {
    let empty: Vec<&Row<'_>> = rows.iter().filter(|row| row.is_empty()).collect();
    let what = format!("{} without a character", counted(empty.len(), "text"));
    let fix = "remove these rows, or fill in their text";
    let examples = empty.iter().map(|row| row.shown(""));
    found.add((Kind::EmptyText, Severity::Warning), empty.len(), (what, fix), examples);
}

/// Finds texts that stand there twice. Returns the rows of each text that is not empty, in the order of the first ones.
pub(super) fn exact(rows: &[Row<'_>], kind: LabelKind, found: &mut Findings) -> Vec<Vec<usize>> {
    let mut of_text: HashMap<(&str, Option<&str>), Vec<usize>> = HashMap::new();
    for (at, row) in rows.iter().enumerate().filter(|(_, row)| !row.is_empty()) {
        let key = (row.text.text.trim(), row.text.second.as_deref().map(str::trim));
        of_text.entry(key).or_default().push(at);
    }
    let mut groups: Vec<Vec<usize>> = of_text.into_values().collect();
    groups.sort_unstable();
    let repeated = |group: &[usize]| group.len() - splits_of(rows, group).len();
    let count = groups.iter().map(|group| repeated(group)).sum();
    let what = format!("{} that stand{} there before in the same split", counted(count, "text"), s(count));
    let fix = "keep one of each, unless they are as frequent where the model will be used";
    let within = groups.iter().filter(|group| repeated(group) > 0);
    let examples = within.map(|group| shown_group(rows, group));
    found.add((Kind::Duplicate, Severity::Note), count, (what, fix), examples);
    let same = |one: usize, other: usize| same_label(&rows[one], &rows[other], kind);
    let conflicts: Vec<&Vec<usize>> =
        groups.iter().filter(|group| group.iter().any(|at| !same(group[0], *at))).collect();
    let what = format!("{} with different labels", counted(conflicts.len(), "text"));
    let fix = "decide for one label, or remove them; texts that have several need --problem multi-label";
    let examples = conflicts.iter().map(|group| {
        let other = group.iter().find(|at| !same(group[0], **at)).copied().unwrap_or(group[0]);
        let mut order = vec![group[0], other];
        order.extend(group.iter().copied().filter(|at| *at != group[0] && *at != other));
        shown_group(rows, &order)
    });
    found.add((Kind::ConflictingLabels, Severity::Warning), conflicts.len(), (what, fix), examples);
    leaks(rows, &groups, (Kind::Leak, Severity::Error), found);
    groups
}

/// Finds texts that are almost the same; `groups` are the rows of each text.
pub(super) fn near(rows: &[Row<'_>], groups: &[Vec<usize>], found: &mut Findings) {
    let texts: Vec<String> = groups.iter().map(|group| rows[group[0]].joined()).collect();
    let clusters = min_hash::clusters(&texts);
    // A text's copies have been reported: of each split one stands for them.
    let near: Vec<Vec<usize>> = clusters
        .iter()
        .map(|cluster| {
            let mut one_each: Vec<usize> =
                cluster.iter().flat_map(|&text| one_a_split(rows, &groups[text])).collect();
            one_each.sort_unstable();
            one_each
        })
        .collect();
    let repeated = |group: &[usize]| group.len() - splits_of(rows, group).len();
    let count = near.iter().map(|group| repeated(group)).sum();
    let what = format!("{} almost the same as another of the same split", counted_are(count, "text"));
    let fix = "look at them; keep one of each, unless the difference matters to the label";
    let within = near.iter().filter(|group| repeated(group) > 0);
    let examples = within.map(|group| shown_group(rows, group));
    found.add((Kind::NearDuplicate, Severity::Note), count, (what, fix), examples);
    // What leaks as it is has been reported.
    let leaks_exactly: HashSet<usize> = groups
        .iter()
        .filter(|group| splits_of(rows, group).len() > 1)
        .flat_map(|group| group.iter().copied().filter(|at| rows[*at].split != Split::Train))
        .collect();
    let fresh: Vec<Vec<usize>> = near
        .iter()
        .map(|group| group.iter().copied().filter(|at| !leaks_exactly.contains(at)).collect())
        .collect();
    leaks(rows, &fresh, (Kind::NearLeak, Severity::Warning), found);
}

/// Rows of one split that are in another, too: validation and test texts of training, test texts of validation.
fn leaks(rows: &[Row<'_>], groups: &[Vec<usize>], kind: (Kind, Severity), found: &mut Findings) {
    for (split, other) in
        [(Split::Valid, Split::Train), (Split::Test, Split::Train), (Split::Test, Split::Valid)]
    {
        let has = |group: &[usize], split| group.iter().any(|at| rows[*at].split == split);
        let shared: Vec<&Vec<usize>> =
            groups.iter().filter(|group| has(group, split) && has(group, other)).collect();
        let leaked = |group: &[usize]| group.iter().filter(|at| rows[**at].split == split).count();
        let count = shared.iter().map(|group| leaked(group)).sum();
        let all = rows.iter().filter(|row| row.split == split).count();
        let what = match kind.0 {
            Kind::NearLeak => {
                let are = if count == 1 { "is" } else { "are" };
                format!("{count} of {all} {split} texts {are} almost the same as one of the {other} data")
            }
            _ => format!("{count} of {all} {split} texts stand{} in the {other} data, too", s(count)),
        };
        let fix = "remove them from one of the two: figures on them say how well the model remembers";
        let examples = shared.iter().map(|group| {
            let of = |split| group.iter().copied().filter(move |at| rows[*at].split == split);
            shown_group(rows, &of(split).take(1).chain(of(other)).collect::<Vec<_>>())
        });
        found.add(kind, count, (what, fix), examples);
    }
}

/// The first row of a text in each split.
fn one_a_split(rows: &[Row<'_>], group: &[usize]) -> Vec<usize> {
    let mut seen = Vec::new();
    group
        .iter()
        .copied()
        .filter(|at| {
            let new = !seen.contains(&rows[*at].split);
            seen.push(rows[*at].split);
            new
        })
        .collect()
}

fn splits_of(rows: &[Row<'_>], group: &[usize]) -> Vec<Split> {
    let mut splits = Vec::new();
    for at in group {
        if !splits.contains(&rows[*at].split) {
            splits.push(rows[*at].split);
        }
    }
    splits
}

fn shown_group(rows: &[Row<'_>], group: &[usize]) -> Shown {
    let some: Vec<&Row<'_>> = group.iter().take(MOST_PLACES).map(|at| &rows[*at]).collect();
    let more = group.len() - some.len();
    shown(&some, if more > 0 { format!("and {more} more") } else { String::new() })
}

/// Of numbers, 5 and 5.00 are the same.
fn same_label(one: &Row<'_>, other: &Row<'_>, kind: LabelKind) -> bool {
    let (a, b) = (&one.text.labels, &other.text.labels);
    match kind {
        LabelKind::Single => a == b,
        LabelKind::Multi => {
            let sorted = |labels: &[String]| {
                let mut labels = labels.to_vec();
                labels.sort_unstable();
                labels.dedup();
                labels
            };
            sorted(a) == sorted(b)
        }
        LabelKind::Regression => {
            let number = |labels: &[String]| labels.first().and_then(|label| label.parse::<f64>().ok());
            a == b || (number(a).is_some() && number(a) == number(b))
        }
    }
}

/// The end of a verb.
fn s(count: usize) -> &'static str {
    if count == 1 { "s" } else { "" }
}

fn counted_are(count: usize, what: &str) -> String {
    format!("{} {}", counted(count, what), if count == 1 { "is" } else { "are" })
}
