//! A labelled data set as it is written, before any tokenizer: what is in it, and what contradicts itself.
//!
//! Owns: the sums and the texts with two different labels. Never: tokens, prints.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::Serialize;

use super::{ClassificationOptions, labels, lookalikes, parsed, read, read_splits};
use crate::data::inspect::LengthSummary;
use crate::data::split::Split;
use crate::error::Result;
use crate::event::Listener;

/// Texts with different labels that are listed.
const LISTED_CONFLICTS: usize = 10;

/// A labelled data set in numbers and samples.
#[derive(Debug, Clone, PartialEq)]
pub struct RawData {
    /// Each split that has labels.
    pub splits: Vec<(Split, RawSplit)>,
    /// How it was read, and what looks like a mistake (`warning: ...`).
    pub notes: Vec<String>,
}

/// One split of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RawSplit {
    /// Examples.
    pub examples: u64,
    /// The labels in order, with the number of examples that have each; empty for numbers.
    pub label_balance: Vec<(String, u64)>,
    /// Words of the texts, both of a pair together: what stands between spaces.
    pub words: LengthSummary,
    /// Characters of the texts, both of a pair together.
    pub characters: LengthSummary,
    /// Examples with a text without a character.
    pub empty_texts: u64,
    /// Examples whose text, or pair, stands there before.
    pub duplicates: u64,
    /// How many texts stand there with different labels.
    pub conflicting_texts: u64,
    /// The first of them.
    pub conflicts: Vec<Conflict>,
    /// The first examples: label and text, or both texts with a tab between.
    pub samples: Vec<(String, String)>,
}

/// A text that stands there with different labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Conflict {
    /// The text, or both of a pair with a tab between.
    pub text: String,
    /// Where it stands (a line, or a file of its own), and its label there.
    pub places: Vec<(String, String)>,
}

impl RawData {
    /// Reads a data set as [`super::ClassificationData::load`] does, with up to `samples` examples of each split.
    ///
    /// # Errors
    /// As for [`super::ClassificationData::load`].
    pub fn read(
        path: &Path,
        options: &ClassificationOptions,
        samples: usize,
        listener: &mut Listener<'_>,
    ) -> Result<Self> {
        let (mut texts, mut notes) = read_splits(path, options, listener)?;
        labels::name_numbers(&mut texts, options);
        let kind = options.label_kind;
        let names = if kind == super::LabelKind::Regression {
            Vec::new()
        } else {
            labels::discover(&texts, listener)?
        };
        if kind != super::LabelKind::Regression {
            labels::refuse_no_class(&texts, &names)?;
            if let Some(first) = texts.values().next() {
                notes.extend(lookalikes::warnings(first, listener)?);
            }
        }
        for (split, texts) in &texts {
            let resolved = texts.labels(&names, kind, listener)?;
            if *split == Split::Train {
                labels::refuse_one_class(texts, &resolved, &names)?;
            }
        }
        Ok(Self { splits: summarise(&texts, &names, samples), notes })
    }

    /// Of texts in memory: for each split, pairs of label and text.
    pub fn of_texts(splits: &[(Split, &[(&str, &str)])], labels: &[&str], samples: usize) -> Self {
        let texts =
            splits.iter().map(|&(split, pairs)| (split, read::Texts::in_memory(split.names()[0], pairs)));
        let names: Vec<String> = labels.iter().map(|&l| l.to_owned()).collect();
        Self { splits: summarise(&texts.collect(), &names, samples), notes: Vec::new() }
    }
}

fn summarise(
    texts: &BTreeMap<Split, read::Texts>,
    names: &[String],
    samples: usize,
) -> Vec<(Split, RawSplit)> {
    texts.iter().map(|(&split, texts)| (split, RawSplit::of(texts, names, samples))).collect()
}

impl RawSplit {
    fn of(texts: &read::Texts, names: &[String], samples: usize) -> Self {
        let all = &texts.examples;
        let mut counts: HashMap<&str, u64> = HashMap::new();
        all.iter().flat_map(|e| &e.labels).for_each(|label| *counts.entry(label).or_default() += 1);
        let mut same_text: HashMap<Vec<&str>, Vec<usize>> = HashMap::new();
        for (at, example) in all.iter().enumerate() {
            same_text.entry(example.texts().map(str::trim).collect()).or_default().push(at);
        }
        // Of numbers, 5 and 5.00 are the same.
        let number = |at: usize| all[at].labels.first().and_then(|label| label.parse::<f64>().ok());
        let same = |a: usize, b: usize| {
            all[a].labels == all[b].labels
                || (names.is_empty() && number(a).is_some() && number(a) == number(b))
        };
        let differ = |rows: &&Vec<usize>| rows.iter().any(|&at| !same(at, rows[0]));
        let mut conflicts: Vec<&Vec<usize>> = same_text.values().filter(differ).collect();
        conflicts.sort_unstable();
        let lengths = |length: fn(&str) -> usize| {
            LengthSummary::new(
                all.iter().map(|example| example.texts().map(length).sum::<usize>() as u64).collect(),
            )
        };
        let label = |example: &parsed::TextExample| example.labels.join(" | ");
        let place = |at: usize| texts.place(&all[at]);
        Self {
            examples: all.len() as u64,
            label_balance: names
                .iter()
                .map(|name| (name.clone(), counts.get(name.as_str()).copied().unwrap_or(0)))
                .collect(),
            words: lengths(|text| text.split_whitespace().count()),
            characters: lengths(|text| text.chars().count()),
            empty_texts: all.iter().filter(|e| e.texts().any(|text| text.trim().is_empty())).count() as u64,
            duplicates: (all.len() - same_text.len()) as u64,
            conflicting_texts: conflicts.len() as u64,
            conflicts: conflicts
                .iter()
                .take(LISTED_CONFLICTS)
                .map(|rows| Conflict {
                    text: all[rows[0]].shown().trim().to_owned(),
                    places: rows.iter().map(|&at| (place(at), label(&all[at]))).collect(),
                })
                .collect(),
            samples: all.iter().take(samples).map(|e| (label(e), e.shown())).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Signal;

    #[test]
    fn what_is_written_is_summed_up_and_contradictions_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.csv");
        std::fs::write(
            &path,
            "text,label\nthe sea,water\nhill,land\nthe sea ,land\nhill,land\n\"\",water\nh\u{e9},Water\n",
        )
        .unwrap();
        let data =
            RawData::read(&path, &ClassificationOptions::default(), 1, &mut |_| Signal::Continue).unwrap();
        let (split, train) = &data.splits[0];
        assert_eq!((*split, train.examples, train.empty_texts, train.duplicates), (Split::Train, 6, 1, 2));
        let balance = [("water".to_owned(), 2), ("land".to_owned(), 3), ("Water".to_owned(), 1)];
        assert_eq!(train.label_balance, balance);
        assert_eq!((train.words.max, train.characters.max, train.characters.min), (2, 8, 0));
        let place = |line: &str, label: &str| (line.to_owned(), label.to_owned());
        let places = vec![place("line 2", "water"), place("line 4", "land")];
        assert_eq!(train.conflicts, [Conflict { text: "the sea".into(), places }]);
        assert_eq!((train.conflicting_texts, &train.samples[..]), (1, &[place("water", "the sea")][..]));
        assert!(data.notes[0].contains("text in column `text`, label in `label`"), "{:?}", data.notes);
        assert!(data.notes[1].contains("look alike"), "{:?}", data.notes);
        let numbers = "sentence1,sentence2,score\na,b,5\na,b ,5.00\na,c,1\nb,a,2\na,c,1.5\n";
        std::fs::write(&path, numbers).unwrap();
        let regression =
            ClassificationOptions { label_kind: super::super::LabelKind::Regression, ..Default::default() };
        let data = RawData::read(&path, &regression, 1, &mut |_| Signal::Continue).unwrap();
        let train = &data.splits[0].1;
        assert_eq!((train.duplicates, train.conflicting_texts, &*train.conflicts[0].text), (2, 1, "a\tc"));
        assert_eq!(train.samples, [place("5", "a\tb")]);
    }
}
