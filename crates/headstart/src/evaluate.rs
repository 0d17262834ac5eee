//! `eval`: the metrics of a model folder on data, for language models and classifiers.
//!
//! Owns: bringing a loaded model and a data set together. Never: the metrics themselves (`eval`).

use std::path::{Path, PathBuf};

use headstart_engine::Collective;

use crate::baseline::BagModel;
use crate::batch::{Examples, TokenTargets};
use crate::checkpoint::{ModelFiles, ModelPath};
use crate::config::{DataConfig, HeadConfig, ObjectiveName, PrecisionName, Problem, TextUnit};
use crate::data::classification::Measured;
use crate::data::source;
use crate::data::split::Split;
use crate::device::DeviceChoice;
use crate::error::{Error, Result};
use crate::eval::{Evaluation, Evaluator, of_logits};
use crate::event::{Event, Listener, Signal};
use crate::infer::windows::by_windows;
use crate::infer::{Loaded, LongTexts, not_finite, wants_pairs};
use crate::objective::Objective;
use crate::ranks::Ranks;
use crate::setup::bag_of_words;
use crate::setup::labelled::DataRequest;
use crate::setup::text::{TextInputs, never_in_text, token_targets, unknown_warning};
use crate::train::{EvaluationSplit, thousands};

/// Sequences an evaluation takes at a time; does not change the result.
const BATCH: usize = 32;

/// What to evaluate, and how.
#[derive(Clone, Debug)]
pub struct EvaluateConfig {
    /// The data.
    pub data: DataConfig,
    /// The label columns that the models were trained with, in their order, where that is known of one; data without it are
    /// refused, unless `data` names another.
    pub label_columns: Vec<Option<String>>,
    /// The split; `None`: test, else valid, else train.
    pub split: Option<Split>,
    /// Evaluate the language model of a fine-tuned model instead of its classifier.
    pub language_model: bool,
    /// Leave the model's temperature out, if it has one.
    pub uncalibrated: bool,
    /// What becomes of texts that are longer than a classifier's inputs.
    pub long_texts: LongTexts,
    /// f32 or bf16 products; `None`: what the model was trained with, f32 for published ones.
    pub precision: Option<PrecisionName>,
    /// Worker threads; 0: all.
    pub threads: usize,
    /// Where to compute.
    pub device: DeviceChoice,
    /// The ranks that share the examples.
    pub collective: Collective,
}

/// Evaluates a run folder, its `final/`, a checkpoint, or an adapter over its model.
///
/// # Errors
/// A damaged model, data that is missing or unusable, a label the model does not know.
pub fn evaluate<'a>(
    model: impl Into<ModelPath<'a>>,
    config: &EvaluateConfig,
    listener: &mut Listener<'_>,
) -> Result<Evaluation> {
    let place = model.into();
    let model = place.path;
    if let Some(folder) = BagModel::folder(model) {
        let bag = BagModel::open(&folder)?;
        let measured = config.measured(0);
        let mut evaluation =
            bag_of_words::evaluate(&bag, &config.data, &measured, listener)?.ok_or_else(no_split)?;
        evaluation.add_intervals();
        return Ok(evaluation);
    }
    let loaded = Loaded::open(place, &config.device, config.threads)?;
    measure(&loaded, model, &config.measured(0), config, listener)
}

/// Evaluates adapters of one trunk, which is in memory once, one after the other.
///
/// # Errors
/// Those of [`evaluate`] and [`crate::checkpoint::load_adapters`].
pub fn evaluate_each(
    trunk: &Path,
    adapters: &[PathBuf],
    config: &EvaluateConfig,
    listener: &mut Listener<'_>,
) -> Result<Vec<Evaluation>> {
    BagModel::refuse(trunk)?;
    let loaded = Loaded::open_each(trunk, adapters, &config.device, config.threads)?;
    let each = loaded.iter().zip(adapters).enumerate();
    each.map(|(at, (loaded, adapter))| measure(loaded, adapter, &config.measured(at), config, listener))
        .collect()
}

impl EvaluateConfig {
    /// What of the data the model of this place is measured on.
    fn measured(&self, at: usize) -> Measured {
        let order = match self.split {
            Some(split) => vec![split],
            None => vec![Split::Test, Split::Valid, Split::Train],
        };
        Measured { order, label_column: self.label_columns.get(at).cloned().flatten() }
    }
}

fn measure(
    loaded: &Loaded,
    model: &Path,
    measured: &Measured,
    config: &EvaluateConfig,
    listener: &mut Listener<'_>,
) -> Result<Evaluation> {
    if let Some(note) = config.device.note(&loaded.device) {
        let _: Signal = listener(Event::Message(&note));
    }
    let _: Signal = listener(Event::Message(&format!("evaluating {}", loaded.chosen)));
    let head = loaded.files.config.head.clone().filter(|_| !config.language_model);
    let ranks = Ranks::without_groups(&config.collective);
    let evaluator = |objective, targets| Evaluator {
        device: &loaded.device,
        ranks: &ranks,
        model: &loaded.model,
        weights: &loaded.weights,
        precision: loaded.precision(config.precision),
        objective,
        targets,
        batch_size: BATCH,
    };
    if let Some(head) = head {
        let HeadConfig { problem, pooling, truncation, .. } = head;
        let (arch, positions) = (loaded.files.config.arch, loaded.files.config.max_length());
        let request = DataRequest { config: &config.data, problem, arch, pooling, positions, truncation };
        let known = Some(loaded.files.labels.clone()).filter(|l| !l.is_empty());
        let load = || request.load_measured(&loaded.tokenizer, known, measured.clone(), listener);
        let labelled = ranks.leader_first(load)?;
        let objective = Objective { clf: 1.0, ..Objective::default() };
        for &split in &measured.order {
            if let Ok(part) = labelled.data.get(split) {
                if loaded.files.pairs && part.texts_per_example() == 1 {
                    return Err(wants_pairs());
                }
                let examples = labelled.examples(part);
                let labels = &loaded.files.labels;
                if config.long_texts == LongTexts::Windows {
                    let evaluation = windowed(loaded, &examples, (split, problem), config, listener)?;
                    return finite(model, evaluation);
                }
                let evaluator = evaluator(&objective, TokenTargets::None);
                let evaluation = evaluator.run(&split.to_string(), &examples, None, labels, listener)?;
                let mut evaluation = finite(model, evaluation)?;
                evaluation.calibrate(loaded.files.temperature.filter(|_| !config.uncalibrated));
                evaluation.add_intervals();
                return Ok(evaluation);
            }
        }
    } else {
        let (files, roles) = (&loaded.files, loaded.tokenizer.roles());
        let predicts = predicts(model, files)?;
        loaded.model.check_lm_head()?;
        let inputs = TextInputs::of(&files.config, files.block_size, TextUnit::Blocks, None, roles)?;
        let corpus = ranks.leader_first(|| source::corpus(&config.data, listener))?;
        let never = never_in_text(files.config.arch, roles);
        let targets =
            token_targets(predicts, files.masked_share(), roles, loaded.tokenizer.vocab_size(), never);
        let objective = Objective { lm: 1.0, ..Objective::default() };
        for &split in &measured.order {
            let stream = ranks.leader_first(|| corpus.stream(split, &loaded.tokenizer, listener))?;
            if let Some(warning) =
                stream.as_ref().and_then(|stream| unknown_warning(stream, &loaded.tokenizer))
            {
                let _: Signal = listener(Event::Message(&warning));
            }
            if let Some(split_data) = inputs.evaluated(stream.as_ref(), None)? {
                let evaluator = evaluator(&objective, targets);
                let EvaluationSplit { examples, text } = split_data;
                let evaluation = evaluator.run(&split.to_string(), &examples, text, &[], listener)?;
                return finite(model, evaluation);
            }
        }
    }
    Err(no_split())
}

/// The metrics of examples that are read in windows where they are long. Every rank computes all of them.
fn windowed(
    loaded: &Loaded,
    examples: &Examples<'_>,
    (split, problem): (Split, Problem),
    config: &EvaluateConfig,
    listener: &mut Listener<'_>,
) -> Result<Option<Evaluation>> {
    let Some(found) = by_windows(loaded, examples, loaded.precision(config.precision), listener)? else {
        return Ok(None);
    };
    let ((long, windows), all) = (found.long, examples.len());
    let line = format!(
        "{} of {} texts are longer than {} tokens and were read in {} windows",
        thousands(long),
        thousands(all),
        loaded.files.config.max_length(),
        thousands(windows)
    );
    let _: Signal = listener(Event::Message(&line));
    let names = &loaded.files.labels;
    Ok(Some(of_logits(&split.to_string(), &found.logits, &examples.labels, (problem, 1.0), names)))
}

fn no_split() -> Error {
    Error::Missing {
        what: "the data has no such split".into(),
        fix: "leave --split out, or name one the data has".into(),
    }
}

/// What the model's language-model head predicts.
fn predicts(model: &Path, files: &ModelFiles) -> Result<ObjectiveName> {
    let tied_alone = !files.config.arch.is_encoder();
    files.objective.or(tied_alone.then(|| ObjectiveName::of(&files.config))).ok_or_else(|| Error::Missing {
        what: format!("{} has no language model's head to evaluate", model.display()),
        fix: "pretrain it on text like yours with `headstart pretrain --from`, or use a model that was published with \
              its head"
            .into(),
    })
}

/// Metrics of a model that does not compute numbers are none, and neither are those of a part.
fn finite(model: &Path, evaluation: Option<Evaluation>) -> Result<Evaluation> {
    let Some(evaluation) = evaluation else {
        return Err(Error::Interrupted {
            what: "the evaluation was stopped before it was whole".into(),
            fix: "call it again".into(),
        });
    };
    match evaluation.metrics.get("loss") {
        Some(loss) if loss.is_finite() => Ok(evaluation),
        _ => Err(not_finite(model)),
    }
}
