//! Labelled texts as the examples of a classifier.
//!
//! Owns: which labelled data a run reads and what it says of it. Never: reads files (`data`), what is trained.

use std::path::PathBuf;

use serde_json::json;

use crate::batch::{Examples, Label};
use crate::config::{Arch, DataConfig, HeadPooling, Problem, Truncation};
use crate::data::catalog::FileRole;
use crate::data::classification::placed::PlacedTexts;
use crate::data::classification::raw::RawData;
use crate::data::classification::{
    self, ClassTexts, ClassificationData, ClassificationOptions, Header, LabelKind, LabelledSplit, Measured,
    Origins,
};
use crate::data::source::{self, Located};
use crate::data::split::Split;
use crate::data::starter;
use crate::data::template::Template;
use crate::error::{Error, Result};
use crate::event::{Event, Listener, Signal};
use crate::memory;
use crate::tokenizer::Tokenizer;
use crate::train::{EvaluationSplit, thousands};

/// More classes than a data set has that somebody has labelled, unless every class has several examples.
const MANY_CLASSES: usize = 1000;

/// Which labelled data to read, and how.
pub struct DataRequest<'a> {
    /// Where it lies and how it is written.
    pub config: &'a DataConfig,
    /// What the labels are.
    pub problem: Problem,
    /// The model's family and what its head reads, which decide the template.
    pub arch: Arch,
    /// See `arch`.
    pub pooling: HeadPooling,
    /// The longest input, in tokens.
    pub positions: usize,
    /// What is kept of a text that is longer; `None`: its beginning.
    pub truncation: Option<Truncation>,
}

/// Data that was found.
struct Found {
    path: PathBuf,
    options: ClassificationOptions,
    provenance: serde_json::Value,
}

/// Labelled data with the template of its inputs.
#[derive(Debug)]
pub struct Labelled {
    /// The texts' plain tokens, and their labels.
    pub data: ClassificationData,
    /// How a text becomes an input.
    pub template: Template,
    /// What a run records of where the data came from.
    pub provenance: serde_json::Value,
    /// Where it lies, for messages.
    path: PathBuf,
    /// What was said while it was read.
    told: Vec<String>,
}

impl DataRequest<'_> {
    /// Reads it, with the labels a trained model knows where there are some.
    ///
    /// # Errors
    /// Positions that leave no room for text, data that is missing or cannot be fetched, and everything
    /// [`ClassificationData::load`] refuses.
    pub fn load(
        &self,
        tokenizer: &Tokenizer,
        known_labels: Option<Vec<String>>,
        listener: &mut Listener<'_>,
    ) -> Result<Labelled> {
        self.load_of(tokenizer, known_labels, None, listener)
    }

    /// As [`Self::load`], for a finished model that is measured: the split that is, and no other.
    ///
    /// # Errors
    /// As there, and for data without the label column that the model was trained with.
    pub fn load_measured(
        &self,
        tokenizer: &Tokenizer,
        known_labels: Option<Vec<String>>,
        measured: Measured,
        listener: &mut Listener<'_>,
    ) -> Result<Labelled> {
        self.load_of(tokenizer, known_labels, Some(measured), listener)
    }

    fn load_of(
        &self,
        tokenizer: &Tokenizer,
        known_labels: Option<Vec<String>>,
        measured: Option<Measured>,
        listener: &mut Listener<'_>,
    ) -> Result<Labelled> {
        let template = Template::of(self.arch, self.pooling, tokenizer.roles(), self.positions)
            .truncated(self.truncation.unwrap_or_default());
        template.validate(1)?;
        let Some(Found { path, options, provenance }) = self.find(known_labels, listener)? else {
            let provenance = json!({"data": source::STARTER_QUESTIONS, "origin": "embedded"});
            let data = starter_questions(tokenizer)?;
            let path = source::STARTER_QUESTIONS.into();
            return Ok(Labelled { data, template, provenance, path, told: Vec::new() });
        };
        let options = ClassificationOptions { measured, ..options };
        let cache = source::cache_dir(self.config).join("tokens");
        let mut data = ClassificationData::load(&path, &options, tokenizer, &cache, listener)?;
        if let Some(split) = [&data.train, &data.valid, &data.test].into_iter().flatten().next() {
            template.validate(split.texts_per_example())?;
        }
        let told = std::mem::take(&mut data.notes);
        for note in &told {
            listener(Event::Message(note));
        }
        Ok(Labelled { data, template, provenance, path, told })
    }

    /// Reads it as it is written, without a tokenizer, with up to `samples` examples of each split.
    ///
    /// # Errors
    /// Data that is missing or cannot be fetched, and everything [`RawData::read`] refuses.
    pub fn read_raw(&self, samples: usize, listener: &mut Listener<'_>) -> Result<RawData> {
        if let Some(Found { path, options, .. }) = self.find(None, listener)? {
            return RawData::read(&path, &options, samples, listener);
        }
        let questions = starter::questions();
        let [train, valid, test] = pairs(&questions);
        let splits: [(Split, &[(&str, &str)]); 3] =
            [(Split::Train, &train), (Split::Valid, &valid), (Split::Test, &test)];
        Ok(RawData::of_texts(&splits, &starter::QUESTION_LABELS, samples))
    }

    /// Reads it as it is written, every text with its place.
    ///
    /// # Errors
    /// Data that is missing or cannot be fetched, and everything [`PlacedTexts::read`] refuses.
    pub fn read_placed(&self, listener: &mut Listener<'_>) -> Result<PlacedTexts> {
        if let Some(Found { path, options, .. }) = self.find(None, listener)? {
            return PlacedTexts::read(&path, &options, listener);
        }
        let questions = starter::questions();
        let [train, valid, test] = pairs(&questions);
        let splits: [(Split, &[(&str, &str)]); 3] =
            [(Split::Train, &train), (Split::Valid, &valid), (Split::Test, &test)];
        Ok(PlacedTexts::of_texts(&splits, &starter::QUESTION_LABELS))
    }

    /// Reads its texts, with the validation part that [`ClassificationData::hold_out_validation`] holds out with `seed`.
    ///
    /// # Errors
    /// As for [`Self::read_raw`]; [`Error::Config`] for the built-in questions, which have one class each, where that is not asked for.
    pub fn read_texts(
        &self,
        known_labels: Option<Vec<String>>,
        seed: Option<u64>,
        listener: &mut Listener<'_>,
    ) -> Result<(ClassTexts, serde_json::Value)> {
        self.read_texts_of(known_labels, seed, None, listener)
    }

    /// As [`Self::read_texts`], for a finished model that is measured: the split that is, and no other.
    ///
    /// # Errors
    /// As there, and for data without the label column that the model was trained with.
    pub fn read_texts_measured(
        &self,
        known_labels: Option<Vec<String>>,
        measured: Measured,
        listener: &mut Listener<'_>,
    ) -> Result<ClassTexts> {
        self.read_texts_of(known_labels, None, Some(measured), listener).map(|(texts, _)| texts)
    }

    fn read_texts_of(
        &self,
        known_labels: Option<Vec<String>>,
        seed: Option<u64>,
        measured: Option<Measured>,
        listener: &mut Listener<'_>,
    ) -> Result<(ClassTexts, serde_json::Value)> {
        if let Some(Found { path, options, provenance }) = self.find(known_labels, listener)? {
            let options = ClassificationOptions { measured, ..options };
            return Ok((ClassTexts::read(&path, &options, seed, listener)?, provenance));
        }
        if self.problem != Problem::SingleLabel {
            return Err(Error::Config {
                key: "problem".into(),
                what: format!(
                    "`{}` has single labels, not several at once and no numbers",
                    source::STARTER_QUESTIONS
                ),
                fix: "leave --problem out, or use other data".into(),
            });
        }
        let questions = starter::questions();
        let [train, valid, test] = pairs(&questions);
        let splits: [(Split, &[(&str, &str)]); 3] =
            [(Split::Train, &train), (Split::Valid, &valid), (Split::Test, &test)];
        let texts = ClassTexts::of_texts(&splits, &starter::QUESTION_LABELS)?;
        Ok((texts, json!({"data": source::STARTER_QUESTIONS, "origin": "embedded"})))
    }

    /// Where the examples of a split stand, with their texts: those that [`Self::load`] and a validation part held out with `seed` have.
    ///
    /// # Errors
    /// As for [`Self::read_raw`].
    pub fn origins(
        &self,
        split: Split,
        known_labels: Option<Vec<String>>,
        seed: Option<u64>,
        listener: &mut Listener<'_>,
    ) -> Result<Option<Origins>> {
        // What there is to say of the data has been said.
        let mut quiet = |event: Event<'_>| match event {
            Event::Message(_) => Signal::Continue,
            other => listener(other),
        };
        if let Some(Found { path, options, .. }) = self.find(known_labels, &mut quiet)? {
            return Origins::read(&path, &options, split, seed, &mut quiet);
        }
        let questions = starter::questions();
        let [train, valid, test] = pairs(&questions);
        let splits: [(Split, &[(&str, &str)]); 3] =
            [(Split::Train, &train), (Split::Valid, &valid), (Split::Test, &test)];
        Origins::of_texts(&splits, &starter::QUESTION_LABELS, split)
    }

    /// Where it lies and how to read it; `None` where it is in the program.
    fn find(&self, known_labels: Option<Vec<String>>, listener: &mut Listener<'_>) -> Result<Option<Found>> {
        let located = source::locate(self.config, listener)?;
        let (path, entry, provenance) = match &located {
            Located::Starter if self.config.path == source::STARTER_CORPUS => {
                return Err(Error::Config {
                    key: "data".into(),
                    what: format!("`{}` is running text without labels", source::STARTER_CORPUS),
                    fix: format!("the built-in classification task is `{}`", source::STARTER_QUESTIONS),
                });
            }
            Located::Starter => return Ok(None),
            Located::Path(path) => (path.as_path(), None, json!({"data": path, "origin": "path"})),
            Located::Named(resolved) => {
                let path = resolved.file(FileRole::Everything).unwrap_or(&resolved.folder);
                (path, resolved.entry, source::provenance(resolved))
            }
        };
        let options = ClassificationOptions {
            label_kind: match self.problem {
                Problem::SingleLabel => LabelKind::Single,
                Problem::MultiLabel => LabelKind::Multi,
                Problem::Regression => LabelKind::Regression,
            },
            delimiter: self.config.delimiter.as_deref().map(delimiter).transpose()?,
            header: if self.config.header == Some(false) { Header::Absent } else { Header::Present },
            text_column: self.config.text_column.clone(),
            label_column: self.config.label_column.clone(),
            group_column: self.config.group_column.clone(),
            labels_file: None,
            encoding: source::encoding(self.config, entry.map(|e| e.encoding))?,
            known_labels,
            measured: None,
            stated_labels: entry.map_or(&[][..], |e| e.labels).iter().map(|&l| l.to_owned()).collect(),
        };
        Ok(Some(Found { path: path.to_path_buf(), options, provenance }))
    }
}

/// The byte that a name of a separator stands for.
fn delimiter(name: &str) -> Result<u8> {
    match name.as_bytes() {
        _ if ["tab", "\\t"].contains(&name) => Ok(b'\t'),
        [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\n' | b'\r') => Ok(*byte),
        _ => Err(Error::Config {
            key: "delimiter".into(),
            what: format!("`{}` cannot stand between columns", name.escape_debug()),
            fix: "use one character such as `;` or `|`, or `tab`; left out, it is detected".into(),
        }),
    }
}

fn starter_questions(tokenizer: &Tokenizer) -> Result<ClassificationData> {
    let questions = starter::questions();
    let [train, valid, test] = pairs(&questions);
    let splits: [(Split, &[(&str, &str)]); 3] =
        [(Split::Train, &train), (Split::Valid, &valid), (Split::Test, &test)];
    ClassificationData::from_texts(&splits, &starter::QUESTION_LABELS, tokenizer)
}

/// Label and text of the questions of each split.
fn pairs(questions: &starter::Questions) -> [Vec<(&str, &str)>; 3] {
    [&questions.train, &questions.valid, &questions.test]
        .map(|texts| texts.iter().map(|t| (t.label, t.text.as_str())).collect())
}

/// A label as a model is told it, of so many classes.
pub(crate) fn label_of(label: &classification::Label, classes: usize) -> Label {
    match label {
        classification::Label::Class(class) => Label::Class(*class),
        classification::Label::Classes(on) => {
            let mut values = vec![0.0; classes];
            for &class in on {
                values[class as usize] = 1.0;
            }
            Label::Values(values)
        }
        classification::Label::Value(value) => Label::Values(vec![*value]),
    }
}

impl Labelled {
    /// The examples of a split.
    pub(crate) fn examples<'a>(&self, split: &'a LabelledSplit) -> Examples<'a> {
        let classes = self.data.labels.len();
        Examples {
            ids: split.iter().map(|example| example.ids).collect(),
            seconds: split.iter().filter_map(|example| example.second).map(Some).collect(),
            labels: split.iter().map(|example| label_of(example.label, classes)).collect(),
            groups: split.groups(),
            template: Some(self.template.clone()),
            pairs: Vec::new(),
            in_teachers_pieces: None,
        }
    }

    /// The examples of a split that is evaluated, where the data has it.
    pub(crate) fn evaluated<'a>(&self, split: Option<&'a LabelledSplit>) -> Option<EvaluationSplit<'a>> {
        split.map(|split| EvaluationSplit { examples: self.examples(split), text: None })
    }

    /// Refuses a label column that is none: nearly every row has a label of its own, and there are thousands. `stated` is
    /// how many classes the user expects.
    ///
    /// # Errors
    /// [`Error::BadInput`] naming some of the labels, unless there are as many as stated; [`Error::Config`] where the
    /// counts of classes against classes do not fit into memory.
    pub(crate) fn check_label_column(&self, stated: Option<usize>) -> Result<()> {
        let (labels, examples) = (&self.data.labels, self.data.train.as_ref().map_or(0, LabelledSplit::len));
        let (classes, first) = (labels.len(), labels.iter().take(3).cloned().collect::<Vec<_>>());
        if classes > MANY_CLASSES && 2 * classes > examples && stated != Some(classes) {
            return Err(Error::BadInput {
                path: self.path.clone(),
                line: None,
                what: format!(
                    "its {} training examples have {} different labels (`{}`, ...): the label column looks like ids or text",
                    thousands(examples),
                    thousands(classes),
                    first.join("`, `").escape_debug()
                ),
                fix: format!(
                    "name the right column with `--label_column`; if these are classes, say so with `--num_classes {classes}`"
                ),
            });
        }
        let pairs = (classes as u64).saturating_mul(classes as u64);
        memory::check_fits(&format!("counting {} classes against each other", thousands(classes)), pairs * 8)
    }

    /// Tells what each split holds and which share texts; returns all that was said of the data.
    pub(crate) fn describe(&self, listener: &mut Listener<'_>) -> Vec<String> {
        let Self { data, template, .. } = self;
        let mut lines = data.notes.clone();
        for (name, split) in [("train", &data.train), ("valid", &data.valid), ("test", &data.test)] {
            let Some(split) = split else { continue };
            let counts = split.class_counts(data.labels.len());
            let classes: Vec<String> =
                data.labels.iter().zip(counts).map(|(l, n)| format!("{l} {n}")).collect();
            let texts = texts_or_pairs(split);
            let cut = match split.lengths().filter(|&(a, b)| template.tokens_cut(a, b) > 0).count() {
                0 => String::new(),
                n => format!(
                    "; {} {texts} longer than {} tokens were cut{}{}",
                    thousands(n),
                    thousands(template.max_positions),
                    match template.truncation {
                        Truncation::Head => "",
                        Truncation::Tail => ", their ends kept",
                        Truncation::HeadTail =>
                            ", a quarter of their beginnings and three of their ends kept",
                    },
                    lost(split, template)
                ),
            };
            let empty = match split.empty_texts() {
                0 => String::new(),
                n if split.texts_per_example() == 2 => format!("; {n} pairs have an empty text"),
                n => format!("; {n} texts are empty"),
            };
            let (count, classes) = (thousands(split.len()), classes.join(", "));
            lines.push(format!("{name}: {count} examples ({classes}){cut}{empty}"));
        }
        lines.extend(shared_texts(data));
        for line in &lines {
            listener(Event::Message(line));
        }
        [self.told.clone(), lines].concat()
    }
}

/// What examples are called.
fn texts_or_pairs(split: &LabelledSplit) -> &'static str {
    if split.texts_per_example() == 2 { "pairs" } else { "texts" }
}

/// What share of a split's tokens is cut, where it is more than a few percent.
fn lost(split: &LabelledSplit, template: &Template) -> String {
    let (all, cut) = split
        .lengths()
        .fold((0, 0), |(all, cut), (a, b)| (all + a + b.unwrap_or(0), cut + template.tokens_cut(a, b)));
    let share = 100.0 * cut as f64 / all.max(1) as f64;
    if share > 3.0 { format!(" and lost {share:.0} % of all tokens") } else { String::new() }
}

/// A warning for each two splits that have texts in common: metrics on them say less than they seem to.
fn shared_texts(data: &ClassificationData) -> Vec<String> {
    let (train, valid, test) = (("training", &data.train), ("validation", &data.valid), ("test", &data.test));
    let mut lines = Vec::new();
    for ((name, split), (other_name, other)) in [(valid, train), (test, train), (test, valid)] {
        let (Some(split), Some(other)) = (split, other) else { continue };
        let shared = split.shared_with(other);
        if shared > 0 {
            let (shared, all) = (thousands(shared), thousands(split.len()));
            let texts = texts_or_pairs(split);
            lines.push(format!(
                "warning: {shared} of {all} {name} {texts} stand in the {other_name} data, too"
            ));
        }
    }
    lines
}
