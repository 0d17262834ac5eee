//! `finetune`: a pretrained model, labelled texts and a method become a `Run` of the one loop.
//!
//! Owns: putting a fine-tuning run together: labels, head, what trains. Never: the loop (`train`).

use headstart_engine::{Weights, rng};
use serde_json::json;

use crate::batch::{Label, TokenTargets};
use crate::checkpoint::{self, Checkpoint, LoadedModel};
use crate::config::{
    ClassWeights, DataConfig, FinetuneConfig, HeadConfig, HeadPooling, Method, ModelConfig, Problem,
};
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
use crate::model::Model;
use crate::objective::Objective;
use crate::params::Group;
use crate::pretrain::{begin_folder, model_files, newest_checkpoint, open_folder, token_targets};
use crate::tokenizer::Tokenizer;
use crate::train::{Best, EvaluatedSplit, Run, RunOptions, Summary, thousands};

/// Share of tokens masked in the auxiliary loss on a masked-LM trunk, as in pretraining.
const MLM_PROBABILITY: f64 = 0.15;

/// Fine-tunes a model as configured, or resumes the run in the folder.
///
/// # Errors
/// No model (the error says how to get one), bad settings, data that is missing or unusable, a run folder that
/// exists, losses that stay not finite, a disk that is full: each as its own [`Error`].
pub fn finetune(
    config: &FinetuneConfig,
    options: &RunOptions,
    listener: &mut Listener<'_>,
) -> Result<Summary> {
    config.validate()?;
    let device = options.device.open(config.train.threads)?;
    if let Some(note) = options.device.note(&device) {
        listener(Event::Message(&note));
    }
    let folder = open_folder(options)?;
    // A resumed run has its own tokenizer, sizes and (mostly) weights; the model it came from is only needed
    // when it was stopped before its first checkpoint.
    let checkpoint = newest_checkpoint(folder.as_ref())?;
    let own = checkpoint.as_ref().map(Checkpoint::model).transpose()?;
    let begun = own.is_some();
    let base = match own {
        Some(own) => own,
        None => base_model(config)?,
    };
    let tokenizer = base.tokenizer()?;
    let predicts = base.files.objective.unwrap_or_default();
    let positions = base.files.config.num_max_positions;

    let known = Some(base.files.labels.clone()).filter(|_| begun && config.problem != Problem::Regression);
    let request =
        DataRequest { config: &config.data, problem: config.problem, pooling: config.pooling, positions };
    let (mut data, provenance) = request.load(&tokenizer, known, listener)?;
    data.hold_out_validation(config.train.seed)?;
    let train = data.get(Split::Train)?.clone();
    let mut notes = describe(&data, listener);
    check_classes(config, &data)?;

    let model_config = if begun {
        base.files.config.clone()
    } else {
        model_config(config, &base.files.config, &data, tokenizer.roles().classification)
    };
    let mut model = Model::new(&model_config)?;
    let weights = if config.from_scratch {
        model.table().initial_values(config.train.seed)
    } else {
        let (weights, report) = base.weights_for(model.table(), config.train.seed)?;
        for line in report.summary() {
            listener(Event::Message(&line));
        }
        notes.extend(report.lines());
        weights
    };
    let (method, norms) = (config.method, config.train_norms);
    model.freeze_except(|group| trains(method, norms, group));

    let targets = if config.lm_loss_coef > 0.0 {
        let never = Some(tokenizer.roles().classification);
        token_targets(predicts, MLM_PROBABILITY, tokenizer.roles(), tokenizer.vocab_size(), never)
    } else {
        TokenTargets::None
    };
    let files = model_files(&model_config, predicts, class_names(&data, config.problem), &tokenizer);
    let folder = begin_folder(folder, config, options, &device, &provenance)?;
    let pooling = config.pooling;
    let mut train_examples = examples(&train, config.problem, data.labels.len(), pooling);
    if let Some(most) = config.data.max_train_examples {
        subset(&mut train_examples, most, config.train.seed);
    }
    let classes = data.labels.len();
    let objective = Objective {
        lm: config.lm_loss_coef.max(0.0),
        clf: config.clf_loss_coef,
        class_weights: class_weights(config, &train_examples, classes),
    };
    let best = match config.problem {
        Problem::SingleLabel | Problem::MultiLabel => Best::Highest("accuracy"),
        Problem::Regression => Best::Lowest("mse"),
    };
    let run = Run {
        config: &config.train,
        device,
        model,
        weights: Weights::new(weights),
        objective,
        targets,
        train: train_examples,
        valid: data.valid.as_ref().map(|s| evaluated_split(s, config.problem, classes, pooling)),
        test: data.test.as_ref().map(|s| evaluated_split(s, config.problem, classes, pooling)),
        best,
        keep_best: true,
        early_stopping: config.early_stopping,
        readme: readme(config, &data.labels),
        notes,
        files,
        folder,
        checkpoint,
    };
    run.run(options.resume, listener)
}

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

fn base_model(config: &FinetuneConfig) -> Result<LoadedModel> {
    let Some(path) = &config.model else {
        return Err(Error::Config {
            key: "model".into(),
            what: "fine-tuning starts from a model, and none is named".into(),
            fix: "pretrain one (headstart pretrain --data starter --preset mini --out runs/trunk ...), then name its run \
                  folder: --model runs/trunk"
                .into(),
        });
    };
    checkpoint::load_model(path)
}

/// The base model's sizes with the head, the adapters and the offset this run adds.
fn model_config(
    config: &FinetuneConfig,
    base: &ModelConfig,
    data: &ClassificationData,
    cls: u32,
) -> ModelConfig {
    let num_classes = match config.problem {
        Problem::Regression => 1,
        _ => data.labels.len(),
    };
    let frozen = config.method != Method::Full;
    ModelConfig {
        adapters_dim: config.adapters().or(base.adapters_dim),
        head: Some(HeadConfig { num_classes, pooling: config.pooling, problem: config.problem }),
        offset_token: if frozen && config.pooling == HeadPooling::Cls {
            Some(cls)
        } else {
            base.offset_token
        },
        dropout: config.dropout.unwrap_or(base.dropout),
        attention_dropout: if config.dropout.is_some() { None } else { base.attention_dropout },
        initializer_range: config.initializer_range,
        ..base.clone()
    }
}

/// Whether a method trains a group of parameters.
fn trains(method: Method, norms: bool, group: Group) -> bool {
    match group {
        Group::Fixed => false,
        Group::Head | Group::Offset => true,
        Group::Adapter => method != Method::Head,
        Group::Norm => method == Method::Full || norms,
        Group::Trunk => method == Method::Full,
    }
}

fn class_names(data: &ClassificationData, problem: Problem) -> Vec<String> {
    if problem == Problem::Regression { Vec::new() } else { data.labels.clone() }
}

fn check_classes(config: &FinetuneConfig, data: &ClassificationData) -> Result<()> {
    match config.num_classes {
        Some(wanted) if config.problem != Problem::Regression && wanted != data.labels.len() => {
            Err(Error::Config {
                key: "num_classes".into(),
                what: format!(
                    "{wanted} classes are asked for, the data has {}: {}",
                    data.labels.len(),
                    data.labels.join(", ")
                ),
                fix: "leave num_classes out: it is found from the data".into(),
            })
        }
        _ => Ok(()),
    }
}

/// Tells what each split holds, and returns the lines.
fn describe(data: &ClassificationData, listener: &mut Listener<'_>) -> Vec<String> {
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

fn evaluated_split(
    split: &LabelledSplit,
    problem: Problem,
    classes: usize,
    pooling: HeadPooling,
) -> EvaluatedSplit<'_> {
    EvaluatedSplit { examples: examples(split, problem, classes, pooling), text: None }
}

/// Keeps `most` examples, drawn evenly over the classes.
fn subset(examples: &mut Examples<'_>, most: usize, seed: u64) {
    let mut order: Vec<usize> = (0..examples.len()).collect();
    rng::Stream::new(rng::derive(seed, 5)).shuffle(&mut order);
    let class_of = |i: usize| match &examples.labels[i] {
        Label::Class(class) => *class,
        Label::Values(_) => 0,
    };
    // The n-th example of each class comes before any class's (n+1)-th.
    let mut seen = std::collections::HashMap::new();
    let mut ranked: Vec<(usize, usize)> = order
        .into_iter()
        .map(|i| {
            let rank = seen.entry(class_of(i)).or_insert(0_usize);
            *rank += 1;
            (*rank, i)
        })
        .collect();
    ranked.sort_by_key(|&(rank, _)| rank);
    let mut kept: Vec<usize> = ranked.into_iter().take(most).map(|(_, i)| i).collect();
    kept.sort_unstable();
    examples.ids = kept.iter().map(|&i| examples.ids[i]).collect();
    examples.labels = kept.iter().map(|&i| examples.labels[i].clone()).collect();
}

fn class_weights(config: &FinetuneConfig, train: &Examples<'_>, classes: usize) -> Option<Vec<f32>> {
    if config.class_weights == ClassWeights::None {
        return None;
    }
    let mut counts = vec![0.0_f32; classes];
    for label in &train.labels {
        if let Label::Class(class) = label {
            counts[*class as usize] += 1.0;
        }
    }
    let total: f32 = counts.iter().sum();
    Some(counts.into_iter().map(|n| if n > 0.0 { total / (classes as f32 * n) } else { 0.0 }).collect())
}

fn readme(config: &FinetuneConfig, labels: &[String]) -> String {
    let labels = if labels.is_empty() { "a number".to_owned() } else { labels.join(", ") };
    format!(
        "# A Headstart classifier\n\nFine-tuned on `{}`. Predicts: {labels}.\n\n`headstart predict THIS_FOLDER` classifies the \
         lines of standard input.\n",
        config.data.path
    )
}
