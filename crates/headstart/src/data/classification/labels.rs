//! What labels mean: their order, their numbers, and which of them cannot be used.
//!
//! Owns: class numbers. Never: reads files.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::parsed::EXAMPLES_AT_ONCE;
use super::{ClassificationOptions, Label, LabelKind, lookalikes, parsed, read, several, sources};
use crate::data::split::Split;
use crate::data::watch;
use crate::error::{Result, bad};
use crate::event::Listener;

/// Labels that an error lists.
const MOST_NAMED: usize = 100;

/// Where every label of the data is a number and the catalogue states what the classes are called, puts the names in
/// the numbers' place. Numbers count from 0, or from 1 where there is no 0.
pub(super) fn name_numbers(texts: &mut BTreeMap<Split, read::Texts>, options: &ClassificationOptions) {
    let stated = &options.stated_labels;
    if stated.is_empty() || options.label_kind == LabelKind::Regression {
        return;
    }
    let all = || texts.values().flat_map(|t| &t.examples).flat_map(|e| &e.labels);
    if all().all(|l| stated.contains(l)) {
        return;
    }
    let numbers: Option<Vec<usize>> = all().map(|l| l.parse().ok()).collect();
    let Some(numbers) = numbers else { return };
    let first = usize::from(!numbers.contains(&0));
    // A number beyond the names stays, and is refused as an unknown label.
    for label in texts.values_mut().flat_map(|t| &mut t.examples).flat_map(|e| &mut e.labels) {
        let name = label.parse::<usize>().ok().and_then(|number| stated.get(number.checked_sub(first)?));
        if let Some(name) = name {
            label.clone_from(name);
        }
    }
}

/// The labels of a data set in order: the customary one where the format has one, else that of the training data, else
/// that of the first split there is.
pub(super) fn discover(
    texts: &BTreeMap<Split, read::Texts>,
    listener: &mut Listener<'_>,
) -> Result<Vec<String>> {
    let Some(first) = texts.values().next() else { return Ok(Vec::new()) };
    let mut seen = HashSet::new();
    let mut found: Vec<&str> = Vec::new();
    found.extend(first.declared.iter().map(String::as_str).filter(|l| seen.insert(*l)));
    for some in first.examples.chunks(EXAMPLES_AT_ONCE) {
        watch::go_on(listener)?;
        let labels = some.iter().flat_map(|e| &e.labels).map(String::as_str);
        found.extend(labels.filter(|l| seen.insert(*l)));
    }
    let customary: &[&str] = match first.format {
        sources::Format::Trec => &super::TREC_LABELS,
        sources::Format::ClassFolders | sources::Format::FilePerClass => &["pos", "neg"],
        _ => &[],
    };
    let names = if found.iter().all(|l| customary.contains(l)) { customary } else { &found };
    Ok(names.iter().map(|&l| l.to_owned()).collect())
}

/// Whether a split's labels are kept back, as those of GLUE's test sets are: -1 everywhere, which no text of the training data has.
pub(super) fn are_withheld(texts: &read::Texts, training: Option<&read::Texts>) -> bool {
    let all = |texts: &read::Texts| texts.examples.iter().all(|e| e.labels == ["-1"]);
    let known =
        |texts: &read::Texts| texts.examples.iter().flat_map(|e| &e.labels).any(|label| label == "-1");
    training.is_some_and(|training| all(texts) && !known(training))
}

/// A model without a class has nothing to learn.
pub(super) fn refuse_no_class(texts: &BTreeMap<Split, read::Texts>, names: &[String]) -> Result<()> {
    match texts.values().next() {
        Some(texts) if names.is_empty() => {
            let what = format!("none of the {} examples has a label", texts.examples.len());
            Err(bad(&texts.files[0], None, what, "give at least some of the texts a label"))
        }
        _ => Ok(()),
    }
}

pub(super) fn refuse_one_class(texts: &read::Texts, labels: &[Label], names: &[String]) -> Result<()> {
    let Some(Label::Class(first)) = labels.first() else { return Ok(()) };
    if labels.iter().any(|l| *l != Label::Class(*first)) {
        return Ok(());
    }
    let what = format!("all {} examples have the label `{}`", labels.len(), names[*first as usize]);
    Err(bad(&texts.files[0], None, what, "give examples of at least two classes"))
}

impl read::Texts {
    /// The labels as numbers.
    pub fn labels(
        &self,
        names: &[String],
        kind: LabelKind,
        listener: &mut Listener<'_>,
    ) -> Result<Vec<Label>> {
        let by_name: HashMap<&str, u32> =
            names.iter().enumerate().map(|(id, n)| (n.as_str(), id as u32)).collect();
        let mut labels = Vec::with_capacity(self.examples.len());
        for some in self.examples.chunks(EXAMPLES_AT_ONCE) {
            watch::go_on(listener)?;
            for example in some {
                labels.push(self.label(example, &by_name, names, kind)?);
            }
        }
        Ok(labels)
    }

    fn label(
        &self,
        example: &parsed::TextExample,
        by_name: &HashMap<&str, u32>,
        names: &[String],
        kind: LabelKind,
    ) -> Result<Label> {
        let fail = |what: String, fix: String| Err(bad(&self.files[example.file], example.line, what, fix));
        if kind == LabelKind::Regression {
            return match example.labels.first().map(|l| l.parse::<f32>()) {
                Some(Ok(value)) if value.is_finite() => Ok(Label::Value(value)),
                _ => fail(
                    format!("the label `{}` is not a number", example.labels.join(" ")),
                    "give a number on every line, or leave regression out".into(),
                ),
            };
        }
        let mut classes = Vec::with_capacity(example.labels.len());
        for label in &example.labels {
            let Some(&class) = by_name.get(label.as_str()) else {
                let near = names.iter().find(|name| lookalikes::key(name) == lookalikes::key(label));
                let near = near.map(|name| format!(" (it looks like `{name}`)")).unwrap_or_default();
                let more = if names.len() > MOST_NAMED { ", ..." } else { "" };
                let known =
                    names.iter().take(MOST_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ") + more;
                let joined = || several::joined_names(names).filter(|_| kind == LabelKind::Single);
                let fix = if is_amount(label) && names.iter().any(|name| is_amount(name)) {
                    "amounts are no classes: `--problem regression` learns numbers".into()
                } else if let Some((joined, fix)) = joined() {
                    format!("{joined}: {fix}; or train with data that has this label")
                } else {
                    "correct the label, or train with data that has it".into()
                };
                let label = label.escape_debug();
                return fail(format!("unknown label `{label}`{near}; the known labels are {known}"), fix);
            };
            classes.push(class);
        }
        match (kind, classes.as_slice()) {
            (LabelKind::Multi, _) => {
                classes.sort_unstable();
                classes.dedup();
                Ok(Label::Classes(classes))
            }
            (_, [class]) => Ok(Label::Class(*class)),
            _ => fail(
                format!("{} labels where one is expected", classes.len()),
                "keep one label, or use multi-label classification".into(),
            ),
        }
    }
}

/// Whether a label is a number with decimals, which names of classes seldom are.
fn is_amount(label: &str) -> bool {
    label.contains('.') && label.parse::<f32>().is_ok()
}
