//! Where the examples of a split stand, and their texts, for lists that people read.
//!
//! Owns: that they are those of [`ClassificationData`], in its order. Never: tokens, metrics.

use std::collections::BTreeMap;
use std::path::Path;

use super::parsed::TextExample;
use super::sources::Format;
use super::{ClassificationData, ClassificationOptions, LabelKind, LabelledSplit};
use super::{examples, labels, read, read_splits};
use crate::data::rows::TextInput;
use crate::data::split::Split;
use crate::error::Result;
use crate::event::{Listener, Signal};

/// Where an example stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Its text, or both of a pair.
    pub input: TextInput,
    /// Its file, where every example has its own.
    pub file: Option<String>,
    /// Its line, counted from 1, where a line is an example.
    pub line: Option<u64>,
}

/// The examples of a split.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins {
    /// The file of all of them, or the folder of their files; `None` for what is in the program.
    pub path: Option<String>,
    /// One by one.
    pub examples: Vec<Origin>,
}

impl Origins {
    /// Those of a split, as [`ClassificationData::load`] reads it; validation examples that there are none of are held out with `seed`.
    /// `None` where there are none.
    ///
    /// # Errors
    /// As for that.
    pub fn read(
        path: &Path,
        options: &ClassificationOptions,
        split: Split,
        seed: Option<u64>,
        listener: &mut Listener<'_>,
    ) -> Result<Option<Self>> {
        let (mut texts, _) = read_splits(path, options, listener)?;
        labels::name_numbers(&mut texts, options);
        let names = match (&options.known_labels, options.label_kind) {
            (_, LabelKind::Regression) => Vec::new(),
            (Some(known), _) => known.clone(),
            (None, _) if !options.stated_labels.is_empty() => options.stated_labels.clone(),
            (None, _) => labels::discover(&texts, listener)?,
        };
        Self::of(&texts, names, options.label_kind, split, seed, listener)
    }

    /// Of texts in memory: for each split, pairs of label and text.
    ///
    /// # Errors
    /// None of its own.
    pub fn of_texts(
        splits: &[(Split, &[(&str, &str)])],
        labels: &[&str],
        split: Split,
    ) -> Result<Option<Self>> {
        let texts =
            splits.iter().map(|&(split, pairs)| (split, read::Texts::in_memory(split.names()[0], pairs)));
        let names = labels.iter().map(|&label| label.to_owned()).collect();
        let found =
            Self::of(&texts.collect(), names, LabelKind::Single, split, None, &mut |_| Signal::Continue)?;
        Ok(found.map(|found| Self { path: None, ..found }))
    }

    fn of(
        texts: &BTreeMap<Split, read::Texts>,
        names: Vec<String>,
        kind: LabelKind,
        split: Split,
        seed: Option<u64>,
        listener: &mut Listener<'_>,
    ) -> Result<Option<Self>> {
        if let Some(texts) = texts.get(&split) {
            let rows: Vec<u32> = (0..texts.examples.len() as u32).collect();
            return Ok(Some(Self::of_rows(texts, &rows)));
        }
        let (Some(train), Some(seed), Split::Valid) = (texts.get(&Split::Train), seed, split) else {
            return Ok(None);
        };
        let mut data = ClassificationData::without_examples(names, kind);
        let resolved = train.labels(&data.labels, kind, listener)?;
        data.train = Some(LabelledSplit::new(examples::without_tokens(train), resolved));
        data.hold_out_validation(seed)?;
        Ok(data.valid.map(|held| Self::of_rows(train, &held.rows)))
    }

    fn of_rows(texts: &read::Texts, rows: &[u32]) -> Self {
        let many = texts.format.has_many_files() || texts.files.len() > 1;
        let origin = |example: &TextExample| Origin {
            input: example.input(),
            file: many.then(|| texts.files[example.file].display().to_string()),
            line: example.line,
        };
        let file = &*texts.files[0];
        let path = match texts.format {
            Format::ClassFolders => file.parent().and_then(Path::parent),
            Format::FilePerClass => file.parent(),
            _ if many => file.parent(),
            _ => Some(file),
        };
        Self {
            path: path.map(|path| path.display().to_string()),
            examples: rows.iter().map(|&row| origin(&texts.examples[row as usize])).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_examples_are_held_out_and_keep_their_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.csv");
        let rows: String = (0..60).map(|n| format!("text {n},{}\n", ["a", "b"][n * 7 % 2])).collect();
        std::fs::write(&path, format!("text,label\n{rows}")).unwrap();
        let (options, mut silent) =
            (ClassificationOptions::default(), |_: crate::event::Event<'_>| Signal::Continue);
        let held = Origins::read(&path, &options, Split::Valid, Some(3), &mut silent).unwrap().unwrap();
        let texts = super::super::ClassTexts::read(&path, &options, Some(3), &mut silent).unwrap();
        let found: Vec<&str> = held.examples.iter().map(|origin| origin.input.first.as_str()).collect();
        assert_eq!(found, texts.valid.unwrap().joined());
        for origin in &held.examples {
            let number: u64 = origin.input.first.strip_prefix("text ").unwrap().parse().unwrap();
            assert_eq!((origin.line, &origin.file), (Some(number + 2), &None), "the header is line 1");
        }
        assert_eq!(held.path.as_deref(), path.to_str());
        assert_eq!(Origins::read(&path, &options, Split::Test, Some(3), &mut silent).unwrap(), None);
    }
}
