//! A labelled data set as texts with labels, for what knows no tokenizer.
//!
//! Owns: that the splits are those that [`ClassificationData`] has of the same data. Never: tokens.

use std::collections::BTreeMap;
use std::path::Path;

use super::columns::Columns;
use super::parsed::TextExample;
use super::{ClassificationData, ClassificationOptions, Label, LabelKind, LabelledSplit};
use super::{examples, labels, lookalikes, read, read_splits};
use crate::data::rows::TextInput;
use crate::data::split::Split;
use crate::error::Result;
use crate::event::{Listener, Signal};

/// A data set in texts; a validation part is held out where it has none.
#[derive(Debug, Clone, Default)]
pub struct ClassTexts {
    /// The names of the classes.
    pub labels: Vec<String>,
    /// The training examples.
    pub train: TextSplit,
    /// The validation examples.
    pub valid: Option<TextSplit>,
    /// The test examples.
    pub test: Option<TextSplit>,
    /// The columns of the training texts, where they stood in a table.
    pub text_columns: Vec<String>,
    /// The column of their labels, where they stood in a table.
    pub label_column: Option<String>,
    /// What people should be told of how the data was read.
    pub notes: Vec<String>,
}

/// The texts of a split.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TextSplit {
    /// The texts, or pairs of texts.
    pub texts: Vec<TextInput>,
    /// What is to be told of each.
    pub labels: Vec<Label>,
    /// Equal for examples of one group or text, where there are groups; else empty.
    pub groups: Vec<u64>,
    /// Whether they are pairs.
    pub pairs: bool,
}

impl ClassTexts {
    /// Reads a data set as [`ClassificationData::load`] does, and holds out validation examples as
    /// [`ClassificationData::hold_out_validation`] does with `seed`, where it is given and there are none.
    ///
    /// # Errors
    /// As for these two.
    pub fn read(
        path: &Path,
        options: &ClassificationOptions,
        seed: Option<u64>,
        listener: &mut Listener<'_>,
    ) -> Result<Self> {
        let (mut texts, mut notes) = read_splits(path, options, listener)?;
        labels::name_numbers(&mut texts, options);
        if let Some(measured) = &options.measured {
            measured.keep(&mut texts);
        }
        let names = match &options.known_labels {
            _ if options.label_kind == LabelKind::Regression => Vec::new(),
            Some(known) => known.clone(),
            None if !options.stated_labels.is_empty() => options.stated_labels.clone(),
            None => labels::discover(&texts, listener)?,
        };
        if options.label_kind != LabelKind::Regression {
            labels::refuse_no_class(&texts, &names)?;
            if let (None, Some(first)) = (&options.known_labels, texts.values().next()) {
                notes.extend(lookalikes::warnings(first, listener)?);
            }
        }
        let how = How { kind: options.label_kind, new: options.known_labels.is_none(), seed };
        Self::of(&texts, (names, notes), &how, listener)
    }

    /// Of texts in memory: for each split, pairs of label and text.
    ///
    /// # Errors
    /// [`crate::Error::BadInput`] when a label is not among `labels`.
    pub fn of_texts(splits: &[(Split, &[(&str, &str)])], labels: &[&str]) -> Result<Self> {
        let texts =
            splits.iter().map(|&(split, pairs)| (split, read::Texts::in_memory(split.names()[0], pairs)));
        let names = labels.iter().map(|&label| label.to_owned()).collect();
        let how = How { kind: LabelKind::Single, new: false, seed: None };
        Self::of(&texts.collect(), (names, Vec::new()), &how, &mut |_| Signal::Continue)
    }

    fn of(
        texts: &BTreeMap<Split, read::Texts>,
        (names, notes): (Vec<String>, Vec<String>),
        how: &How,
        listener: &mut Listener<'_>,
    ) -> Result<Self> {
        let mut data = ClassificationData { notes, ..ClassificationData::without_examples(names, how.kind) };
        for (&split, texts) in texts {
            let resolved = texts.labels(&data.labels, how.kind, listener)?;
            if split == Split::Train && how.new {
                labels::refuse_one_class(texts, &resolved, &data.labels)?;
            }
            *data.slot(split) = Some(LabelledSplit::new(examples::without_tokens(texts), resolved));
        }
        // What is held out are training texts.
        let held = data.valid.is_none();
        if let Some(seed) = how.seed {
            data.hold_out_validation(seed)?;
        }
        let of = |part: Option<&LabelledSplit>, from: Split| {
            Some(TextSplit::of(part?, &texts.get(&from)?.examples)).filter(|part| !part.texts.is_empty())
        };
        let valid_from = if held { Split::Train } else { Split::Valid };
        let columns = texts.get(&Split::Train).and_then(|train| train.columns.as_ref());
        Ok(Self {
            train: of(data.train.as_ref(), Split::Train).unwrap_or_default(),
            valid: of(data.valid.as_ref(), valid_from),
            test: of(data.test.as_ref(), Split::Test),
            text_columns: columns.map(|columns| columns.text.clone()).unwrap_or_default(),
            label_column: columns.and_then(Columns::label_column),
            labels: data.labels,
            notes: data.notes,
        })
    }
}

/// How labels are read.
struct How {
    kind: LabelKind,
    /// Whether the labels are found from the data.
    new: bool,
    /// What validation examples are held out with.
    seed: Option<u64>,
}

impl TextSplit {
    fn of(split: &LabelledSplit, all: &[TextExample]) -> Self {
        Self {
            texts: split.rows.iter().map(|row| all[*row as usize].input()).collect(),
            labels: split.rows.iter().map(|row| split.labels[*row as usize].clone()).collect(),
            groups: split.groups(),
            pairs: all.first().is_some_and(|example| example.second.is_some()),
        }
    }

    /// Each text, or both of a pair as one.
    pub fn joined(&self) -> Vec<String> {
        self.texts.iter().map(|text| joined(&text.first, text.second.as_deref())).collect()
    }

    /// Keeps the examples of these places, which ascend.
    pub(crate) fn keep(&mut self, places: &[usize]) {
        fn keep<T>(all: &mut Vec<T>, places: &[usize]) {
            let mut at = 0..all.len();
            all.retain(|_| at.next().is_some_and(|at| places.binary_search(&at).is_ok()));
        }
        keep(&mut self.texts, places);
        keep(&mut self.labels, places);
        keep(&mut self.groups, places);
    }
}

/// A text, or a pair as one: behind each other, with a line's end between.
pub fn joined(first: &str, second: Option<&str>) -> String {
    second.map_or_else(|| first.to_owned(), |second| format!("{first}\n{second}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_examples_are_held_out_as_of_tokens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.csv");
        let rows: String =
            (0..60).map(|n| format!("text {},{}\n", n * 7 % 50, ["a", "b"][n * 7 % 2])).collect();
        std::fs::write(&path, format!("text,label\n{rows}")).unwrap();
        let (options, mut silent) =
            (ClassificationOptions::default(), |_: crate::event::Event<'_>| Signal::Continue);
        let texts = ClassTexts::read(&path, &options, Some(3), &mut silent).unwrap();
        let tokenizer = crate::data::source::starter_tokenizer().unwrap();
        let mut data =
            ClassificationData::load(&path, &options, &tokenizer, dir.path(), &mut silent).unwrap();
        data.hold_out_validation(3).unwrap();
        for (texts, split) in [(Some(&texts.train), &data.train), (texts.valid.as_ref(), &data.valid)] {
            let (texts, split) = (texts.unwrap(), split.as_ref().unwrap());
            assert_eq!(texts.texts.len(), split.len());
            for ((text, label), example) in texts.texts.iter().zip(&texts.labels).zip(split.iter()) {
                assert_eq!(tokenizer.encode(&text.first).unwrap(), example.ids);
                assert_eq!(example.label, label);
            }
        }
        assert_eq!(texts.text_columns, ["text"]);
    }

    #[test]
    fn groups_go_with_their_examples() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.csv");
        let rows: String =
            (0..40).map(|n| format!("text {n},{},author {}\n", ["a", "b"][n % 2], n / 4)).collect();
        std::fs::write(&path, format!("text,label,who\n{rows}")).unwrap();
        let options =
            ClassificationOptions { group_column: Some("who".into()), ..ClassificationOptions::default() };
        let mut train = ClassTexts::read(&path, &options, Some(3), &mut |_| Signal::Continue).unwrap().train;
        let author = |text: &TextInput| text.first["text ".len()..].parse::<usize>().unwrap() / 4;
        let belong = |train: &TextSplit| {
            assert_eq!(train.groups.len(), train.texts.len());
            let all = || train.texts.iter().map(author).zip(&train.groups);
            all().all(|(who, group)| all().all(|(other_who, other)| (who == other_who) == (group == other)))
        };
        assert!(train.texts.len() > 8 && belong(&train), "{:?}", train.groups);
        train.keep(&[0, 3, 6, 7]);
        assert!(train.texts.len() == 4 && belong(&train), "{:?}", train.groups);
    }

    #[test]
    fn both_texts_of_a_pair_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.csv");
        std::fs::write(&path, "text,text2,label\na,b,0\nc,\"d\ne\",1\n").unwrap();
        let text_column = Some(crate::config::TextColumns::Typed("text,text2".into()));
        let options = ClassificationOptions { text_column, ..ClassificationOptions::default() };
        let texts = ClassTexts::read(&path, &options, None, &mut |_| Signal::Continue).unwrap();
        let pair = |first: &str, second: &str| TextInput { first: first.into(), second: Some(second.into()) };
        assert_eq!(texts.train.texts, [pair("a", "b"), pair("c", "d\ne")]);
        assert_eq!(texts.train.joined(), ["a\nb", "c\nd\ne"]);
    }
}
