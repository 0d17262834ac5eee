//! Labelled texts as the examples of a classifier.
//!
//! Owns: which labelled data a run reads and what it says of it. Never: reads files (`data`), what is trained.

use serde_json::json;

use crate::batch::Label;
use crate::config::{DataConfig, HeadPooling, Problem};
use crate::data::catalog::Role;
use crate::data::classification::{
    self, ClassificationData, ClassificationOptions, LabelKind, LabelledSplit,
};
use crate::data::source::{self, Located};
use crate::data::split::Split;
use crate::data::starter;
use crate::error::{Error, Result};
use crate::eval::Examples;
use crate::event::{Event, Listener};
use crate::tokenizer::Tokenizer;
use crate::train::{EvaluationSplit, thousands};

/// Which labelled data to read, and how.
pub struct DataRequest<'a> {
    /// Where it lies and how it is written.
    pub config: &'a DataConfig,
    /// What the labels are.
    pub problem: Problem,
    /// Whether a final `[CLS]` is appended.
    pub pooling: HeadPooling,
    /// The longest example, in tokens.
    pub positions: usize,
}

impl DataRequest<'_> {
    /// Reads it, with the labels a trained model knows where there are some; also what the run records of it.
    ///
    /// # Errors
    /// Data that is missing or cannot be fetched, and everything [`ClassificationData::load`] refuses.
    pub fn load(
        &self,
        tokenizer: &Tokenizer,
        known_labels: Option<Vec<String>>,
        listener: &mut Listener<'_>,
    ) -> Result<(ClassificationData, serde_json::Value)> {
        // Without a final [CLS] to read, that position is the text's.
        let max_positions = self.positions + usize::from(self.pooling != HeadPooling::Cls);
        let located = source::locate(self.config, listener)?;
        let (path, known_encoding, provenance) = match &located {
            Located::Starter if self.config.path == source::STARTER_CORPUS => {
                return Err(Error::Config {
                    key: "data".into(),
                    what: format!("`{}` is running text without labels", source::STARTER_CORPUS),
                    fix: format!("the built-in classification task is `{}`", source::STARTER_QUESTIONS),
                });
            }
            Located::Starter => {
                let provenance = json!({"data": source::STARTER_QUESTIONS, "origin": "embedded"});
                return Ok((starter_questions(tokenizer, max_positions)?, provenance));
            }
            Located::Path(path) => (path.as_path(), None, json!({"data": path, "origin": "path"})),
            Located::Named(resolved) => {
                let encoding = resolved.entry.map(|e| e.encoding);
                let path = resolved.file(Role::Everything).unwrap_or(&resolved.folder);
                (path, encoding, source::provenance(resolved))
            }
        };
        let options = ClassificationOptions {
            label_kind: match self.problem {
                Problem::SingleLabel => LabelKind::Single,
                Problem::MultiLabel => LabelKind::Multi,
                Problem::Regression => LabelKind::Regression,
            },
            text_column: self.config.text_column.clone(),
            label_column: self.config.label_column.clone(),
            labels_file: None,
            encoding: source::encoding(self.config, known_encoding)?,
            max_positions,
            known_labels,
        };
        let cache = source::cache_dir(self.config).join("tokens");
        let mut progress = |done, total| {
            listener(Event::Progress { what: "tokenising", done, total });
        };
        let data = ClassificationData::load(path, &options, tokenizer, &cache, &mut progress)?;
        Ok((data, provenance))
    }
}

fn starter_questions(tokenizer: &Tokenizer, max_positions: usize) -> Result<ClassificationData> {
    let questions = starter::questions();
    let [train, valid, test] = [&questions.train, &questions.valid, &questions.test]
        .map(|texts| texts.iter().map(|t| (t.label, t.text.as_str())).collect::<Vec<_>>());
    let splits: [(Split, &[(&str, &str)]); 3] =
        [(Split::Train, &train), (Split::Valid, &valid), (Split::Test, &test)];
    ClassificationData::from_texts(&splits, &classification::TREC_LABELS, tokenizer, max_positions)
}

/// The examples of a split; without a `[CLS]` to classify, the one that loading appended is left out again.
pub(crate) fn examples(
    split: &LabelledSplit,
    problem: Problem,
    classes: usize,
    pooling: HeadPooling,
) -> Examples<'_> {
    let mut examples = Examples::default();
    for example in split.iter() {
        let text = example.ids.len() - 1;
        let ids = if pooling == HeadPooling::Cls || text == 0 { example.ids } else { &example.ids[..text] };
        examples.ids.push(ids);
        examples.labels.push(match (example.label, problem) {
            (classification::Label::Class(class), _) => Label::Class(*class),
            (classification::Label::Classes(on), _) => {
                let mut marks = vec![0.0; classes];
                for &class in on {
                    marks[class as usize] = 1.0;
                }
                Label::Values(marks)
            }
            (classification::Label::Value(value), _) => Label::Values(vec![*value]),
        });
    }
    examples
}

pub(crate) fn evaluated_split(
    split: &LabelledSplit,
    problem: Problem,
    classes: usize,
    pooling: HeadPooling,
) -> EvaluationSplit<'_> {
    EvaluationSplit { examples: examples(split, problem, classes, pooling), text: None }
}

/// Tells what each split holds, and returns the lines.
pub(crate) fn describe(data: &ClassificationData, listener: &mut Listener<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, split) in [("train", &data.train), ("valid", &data.valid), ("test", &data.test)] {
        let Some(split) = split else { continue };
        let counts = split.class_counts(data.labels.len());
        let classes: Vec<String> = data.labels.iter().zip(counts).map(|(l, n)| format!("{l} {n}")).collect();
        let cut = match split.truncated() {
            0 => String::new(),
            n => format!("; {} texts longer than the model's positions were cut", thousands(n)),
        };
        let empty = match split.empty_texts() {
            0 => String::new(),
            n => format!("; {n} texts are empty"),
        };
        let (count, classes) = (thousands(split.len()), classes.join(", "));
        let line = format!("{name}: {count} examples ({classes}){cut}{empty}");
        listener(Event::Message(&line));
        lines.push(line);
    }
    lines
}
