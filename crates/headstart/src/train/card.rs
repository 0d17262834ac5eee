//! The card of a finished model: what it is, what it was made from, and its figures, as the Hugging Face hub reads them.
//!
//! Owns: these words. Never: a figure, or a path of this machine.

use std::fmt::Write as _;

use serde_json::Value;

use crate::checkpoint::{ModelFiles, RunFolder, is_published_form};
use crate::config::{ObjectiveName, Problem, Truncation};
use crate::error::Result;
use crate::eval::Evaluation;
use crate::params::ParamTable;
use crate::train::about::{last_part, named};
use crate::train::{Running, Training, fixed};

/// The figures that stand on a card, and what the hub calls them.
const FIGURES: [(&str, &str); 13] = [
    ("accuracy", "accuracy"),
    ("macro_f1", "f1"),
    ("mcc", "matthews_correlation"),
    ("auc", "roc_auc"),
    ("micro_f1", "f1"),
    ("pearson", "pearson"),
    ("spearman", "spearmanr"),
    ("mse", "mse"),
    ("nll_clf", "loss"),
    ("nll", "loss"),
    ("ppl", "perplexity"),
    ("word_ppl", "perplexity"),
    ("token_accuracy", "accuracy"),
];

/// What is said of a model, so that the words can be tested without one.
struct Card<'a> {
    name: String,
    /// The hub's name of the task.
    task: &'static str,
    /// "classifier", "masked language model".
    kind: &'static str,
    published: bool,
    base: Option<String>,
    data: String,
    labels: &'a [String],
    /// Of longer texts, in tokens, it was shown another part than their beginning.
    longer: Option<usize>,
    /// What `predict` divides its logits by.
    temperature: Option<f64>,
    /// Of splits in their order.
    figures: Vec<(&'static str, &'a Evaluation)>,
}

/// A finished model, with what its card is made of.
pub(crate) struct Finished<'a> {
    pub(crate) folder: &'a RunFolder,
    pub(crate) files: &'a ModelFiles,
    pub(crate) table: &'a ParamTable,
    pub(crate) weights: &'a [f32],
    /// What the data is called.
    pub(crate) data: &'a str,
    pub(crate) valid: Option<&'a Evaluation>,
    pub(crate) test: Option<&'a Evaluation>,
}

impl Training<'_> {
    /// README.md of the finished model.
    pub(super) fn card(&self, running: &Running<'_>) -> Result<String> {
        let finished = Finished {
            folder: &self.folder,
            files: &self.files,
            table: self.model.table(),
            weights: self.weights.values(),
            data: &self.data,
            valid: running.last_valid.as_ref().map(|(_, evaluation)| evaluation),
            test: running.last_test.as_ref().map(|(_, evaluation)| evaluation),
        };
        finished.card()
    }
}

impl Finished<'_> {
    /// README.md of it.
    pub(crate) fn card(&self) -> Result<String> {
        let settings = RunFolder::settings(self.folder.dir())?;
        let settings: toml::Table = toml::from_str(&settings).unwrap_or_default();
        let base = |key: &str| settings.get(key).and_then(toml::Value::as_str).map(base_name);
        let scratch = settings.get("from_scratch").and_then(toml::Value::as_bool) == Some(true);
        let (task, kind) = match (&self.files.config.head, self.files.objective) {
            (Some(head), _) if head.problem == Problem::Regression => ("text-classification", "regression"),
            (Some(_), _) => ("text-classification", "classifier"),
            (None, Some(ObjectiveName::Mlm)) => ("fill-mask", "masked language model"),
            (None, Some(ObjectiveName::Lm)) => ("text-generation", "language model"),
            (None, None) => ("feature-extraction", "trunk"),
        };
        let splits = [("validation", self.valid), ("test", self.test)];
        let card = Card {
            name: named(&self.folder.dir().to_string_lossy()),
            task,
            kind,
            published: is_published_form(self.files, self.table, self.weights),
            base: base("model").or_else(|| base("from")).filter(|_| !scratch),
            data: last_part(self.data).to_owned(),
            labels: &self.files.labels,
            longer: self.longer(),
            temperature: self.files.temperature,
            figures: splits.into_iter().filter_map(|(name, of)| Some((name, of?))).collect(),
        };
        Ok(card.text())
    }

    fn longer(&self) -> Option<usize> {
        let truncation = self.files.config.head.as_ref()?.truncation?;
        (truncation != Truncation::Head).then(|| self.files.config.max_length())
    }
}

impl Card<'_> {
    fn text(&self) -> String {
        format!("---\n{}---\n\n{}", self.front_matter(), self.words())
    }

    /// The part that the hub reads: YAML, in which text between double quotes is written as in JSON.
    fn front_matter(&self) -> String {
        let Self { name, task, published, base, data, .. } = self;
        let quoted = |text: &str| Value::from(text).to_string();
        let library = if *published { "transformers" } else { "headstart" };
        let mut yaml =
            format!("library_name: {library}\npipeline_tag: {task}\ntags:\n- headstart\n- {task}\n");
        if let Some(base) = base {
            let _ = writeln!(yaml, "base_model: {}", quoted(base));
        }
        let _ = writeln!(yaml, "datasets:\n- {}", quoted(data));
        let Some((split, evaluation)) = self.figures.last() else { return yaml };
        let found: Vec<_> = figures(evaluation).collect();
        if found.is_empty() {
            return yaml;
        }
        let mut kinds: Vec<&str> = found.iter().map(|figure| figure.1).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let _ = writeln!(yaml, "metrics:\n- {}", kinds.join("\n- "));
        let _ = write!(
            yaml,
            "model-index:\n- name: {}\n  results:\n  - task:\n      type: {task}\n    dataset:\n      name: {data}\n      \
             type: {data}\n      split: {split}\n    metrics:\n",
            quoted(name),
            data = quoted(data)
        );
        for (name, kind, value) in found {
            let _ = writeln!(yaml, "    - type: {kind}\n      name: {name}\n      value: {value}");
        }
        yaml
    }

    fn words(&self) -> String {
        let Self { name, task, kind, published, base, data, labels, longer, temperature, figures: splits } =
            self;
        let base = base.as_ref().map_or_else(|| "random weights".to_owned(), |base| format!("`{base}`"));
        let mut text = format!(
            "# {name}\n\nA {kind} that [Headstart](https://crates.io/crates/headstart) trained on `{data}`, from {base}.\n"
        );
        if !labels.is_empty() {
            let _ = writeln!(text, "\nLabels: {}.", labels.join(", "));
        }
        for (split, evaluation) in splits {
            let rows: Vec<_> =
                figures(evaluation).map(|(name, _, value)| format!("| {name} | {value} |\n")).collect();
            if !rows.is_empty() {
                let _ = write!(text, "\n| {split} | |\n|---|---:|\n{}", rows.concat());
            }
        }
        let _ = match *task {
            "text-classification" => {
                writeln!(text, "\n`headstart predict THIS_FOLDER` classifies the lines of standard input.")
            }
            _ => writeln!(
                text,
                "\n`headstart finetune --model THIS_FOLDER --data ...` fine-tunes it, `headstart eval THIS_FOLDER --data ...` evaluates it."
            ),
        };
        if *published {
            let _ = writeln!(
                text,
                "`transformers` reads the folder, too: `pipeline(\"{task}\", \"THIS_FOLDER\")`."
            );
            if let Some(temperature) = temperature {
                let _ = writeln!(
                    text,
                    "`predict` divides the logits by a temperature of {temperature:.2}; other programs' probabilities are those without it, unless \
                     `headstart export --to hf` wrote the folder, which puts it into the weights."
                );
            }
            if let Some(most) = longer {
                let _ = writeln!(
                    text,
                    "Of a text longer than {most} tokens it was shown the end, too; `transformers` keeps the beginning alone, so its \
                     answers to such texts differ."
                );
            }
        }
        text
    }
}

/// Name, the hub's name and value of those of an evaluation's figures that stand on a card.
fn figures(evaluation: &Evaluation) -> impl Iterator<Item = (&'static str, &'static str, String)> {
    let there = |(name, kind)| Some((name, kind, *evaluation.metrics.get::<str>(name)?));
    FIGURES.into_iter().filter_map(there).map(|(name, kind, value)| (name, kind, fixed(value, 4)))
}

/// A model's name as others know it: of one in the hub's cache its owner and name, else its own without the folders it is in.
fn base_name(path: &str) -> String {
    let in_cache = path.split(['/', '\\']).find_map(|part| part.strip_prefix("models--"));
    in_cache.map_or_else(|| named(path), |name| name.replacen("--", "/", 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluation(metrics: &[(&str, f64)]) -> Evaluation {
        Evaluation {
            split: "test".into(),
            metrics: metrics.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
            ..Evaluation::default()
        }
    }

    #[test]
    fn a_card_has_what_the_hub_reads_and_the_figures_of_both_splits() {
        let valid = evaluation(&[("accuracy", 0.5), ("precision/a", 1.0)]);
        let test = evaluation(&[("accuracy", 0.75), ("macro_f1", 0.699_99), ("loss", 1.0)]);
        let card = Card {
            name: "trec: a".into(),
            task: "text-classification",
            kind: "classifier",
            published: true,
            base: Some("owner/name".into()),
            data: "trec".into(),
            labels: &["yes \"no\"".to_owned()],
            longer: Some(256),
            temperature: Some(0.333),
            figures: vec![("validation", &valid), ("test", &test)],
        };
        let text = card.text();
        let front = text.split("---\n").nth(1).unwrap();
        for line in [
            "library_name: transformers\n",
            "base_model: \"owner/name\"\n",
            "datasets:\n- \"trec\"\n",
            "metrics:\n- accuracy\n- f1\n",
            "- name: \"trec: a\"\n",
            "      split: test\n",
            "    - type: accuracy\n      name: accuracy\n      value: 0.7500\n",
            "    - type: f1\n      name: macro_f1\n      value: 0.7000\n",
        ] {
            assert!(front.contains(line), "{line}\n{front}");
        }
        assert!(!front.contains("loss") && !front.contains("0.5"), "{front}");
        assert!(text.contains("| validation | |\n|---|---:|\n| accuracy | 0.5000 |\n"), "{text}");
        assert!(text.contains("Labels: yes \"no\".\n"), "{text}");
        assert!(text.contains("longer than 256 tokens it was shown the end, too"), "{text}");
        assert!(text.contains("by a temperature of 0.33;"), "{text}");
    }

    #[test]
    fn a_base_model_is_named_without_a_path_of_the_machine() {
        let cached = "/data/hub/models--sentence-transformers--all-MiniLM-L6-v2/snapshots/0123456789abcdef";
        assert_eq!(base_name(cached), "sentence-transformers/all-MiniLM-L6-v2");
        assert_eq!(base_name("models--gpt2/snapshots/1"), "gpt2");
        assert_eq!([base_name("/data/runs/trunk"), base_name("runs/a/final")], ["trunk", "a/final"]);
    }
}
