//! `pretrain`: text, tokenizer and sizes, or a model to go on with, become a `Run` of the one loop.
//!
//! Owns: putting a pretraining run together. Never: the loop (`train`), the metrics (`eval`).

use std::sync::Arc;
use std::time::Instant;

use headstart_engine::Weights;

use crate::batch::{Examples, TokenTargets};
use crate::checkpoint::{
    Checkpoint, HeadDefaults, LoadedModel, ModelFiles, load_model, with_lm_head, without_lm_head,
};
use crate::config::{
    Copies, HeadShape, Linears, ModelConfig, ObjectiveName, PretrainConfig, RegularisationConfig, Task,
    TextUnit,
};
use crate::data::corpus::TokenStream;
use crate::data::source::{self, CorpusSource};
use crate::data::split::Split;
use crate::error::{Error, Result};
use crate::event::{Event, Listener};
use crate::model::Model;
use crate::objective::Objective;
use crate::setup::base::Base;
use crate::setup::learning::Learning;
use crate::setup::pace::{Beginning, amount_of, tokens_of};
use crate::setup::run::{Identity, OpenRun, check_memory, model_files, ranks_of};
use crate::setup::text::{TextInputs, never_in_text, token_targets};
use crate::teacher_fit::Student;
use crate::tokenizer::Tokenizer;
use crate::train::{BestBy, Measurement, RunOptions, Summary, Training, thousands};

/// Pretrains a model as configured, or resumes the run in the folder.
///
/// # Errors
/// Bad settings, data that is missing or unusable, a run folder that exists, losses that stay not finite, a disk
/// that is full: each as its own [`Error`].
pub fn pretrain(
    config: &PretrainConfig,
    options: &RunOptions,
    listener: &mut Listener<'_>,
) -> Result<Summary> {
    let since = Instant::now();
    config.validate()?;
    let ranks = ranks_of(options, config, &config.train, listener)?;
    let run = OpenRun::open(&options.place, &ranks, listener)?;
    let device = options.device.open(config.train.threads)?;
    if let Some(note) = options.device.note(&device) {
        listener(Event::Message(&note));
    }
    let train = ranks.of_leader(|| Ok(config.train.with_precision(device.prefers_bf16())))?;
    let config = &PretrainConfig { train, ..config.clone() };
    let learned = config.distill.as_ref();
    let learned = learned.map(|distill| Learning::open(distill, config.inputs)).transpose()?;
    let corpus = ranks.leader_first(|| source::corpus(&config.data, listener))?;
    if config.inputs == TextUnit::Pairs {
        corpus.refuse_lone_texts()?;
    }
    let checkpoint = run.newest_checkpoint()?;
    let mut start =
        ranks.leader_first(|| Start::of(config, checkpoint.as_ref(), learned.as_ref(), listener))?;
    let Start { ref tokenizer, model: ref model_config, predicts, .. } = start;
    let own = learned.as_ref().map(|learned| learned.own_reading(tokenizer, config)).transpose()?.flatten();
    let reader =
        learned.as_ref().map(|learned| learned.reader(model_config, own.as_ref())).transpose()?.flatten();
    let inputs = TextInputs::of(model_config, config.block_size, config.inputs, reader, tokenizer.roles())?;
    let mut notes = Vec::new();
    let [train, valid, test] =
        ranks.leader_first(|| read_text(&corpus, tokenizer, "", &mut notes, listener))?;
    let there = match &own {
        Some(own) => {
            let of = ", in the teacher's pieces";
            ranks.leader_first(|| read_text(&corpus, &own.tokenizer, of, &mut notes, listener))?
        }
        None => [None, None, None],
    };
    tell_cut(&inputs, "", [&train, &valid, &test], &mut notes, listener)?;
    if let Some(own) = &own {
        let [train, valid, test] = &there;
        tell_cut(&own.inputs, ", in the teacher's pieces", [train, valid, test], &mut notes, listener)?;
    }
    let beside = [0, 1, 2].map(|split| own.as_ref().zip(there.get(split).and_then(Option::as_ref)));

    // Before the folder is made, for a text may be too short.
    let Some(train) = &train else {
        let (what, fix) = ("the corpus has no training text".into(), "add a train.txt".into());
        return Err(Error::Missing { what, fix });
    };
    let train = inputs.examples(train, beside[0])?;
    let [valid, test] =
        [inputs.evaluated(valid.as_ref(), beside[1])?, inputs.evaluated(test.as_ref(), beside[2])?];
    if let Some(learned) = &learned {
        for examples in [Some(&train), valid.as_ref().map(|split| &split.examples)].into_iter().flatten() {
            learned.check_pairs(examples)?;
        }
    }
    let model = Model::new(model_config)?;
    let sizes = learned.as_ref().map(|learned| learned.size_warning(config, &model)).transpose()?.flatten();
    if let Some(line) = sizes {
        listener(Event::Message(&line));
        notes.push(line);
    }
    let lm = config.distill.as_ref().map_or(1.0, |distill| distill.lm_loss);
    if lm > 0.0 {
        model.check_lm_head()?;
    }
    let copies = Copies { start: false, mean: config.train.ema.is_some() };
    check_memory(&model, &device, copies, |_| true)?;
    let mut weights = start.weights(&model, config.train.seed, &train, &mut notes, listener)?;
    let (task, known_head) = (start.task(config), start.known().and_then(|model| model.files.head_defaults));
    // Files of theirs are mapped, and what is mapped counts as memory.
    (start.stored, start.base) = (None, None);
    let never = never_in_text(model_config.arch, tokenizer.roles());
    let targets = if lm > 0.0 {
        token_targets(predicts, config.mlm_probability, tokenizer.roles(), tokenizer.vocab_size(), never)
    } else {
        TokenTargets::None
    };
    let labels =
        learned.as_ref().and_then(Learning::classifier).map(|(_, labels)| labels).unwrap_or_default();
    let pairs = learned.as_ref().is_some_and(Learning::classifies_pairs);
    let (distill, pooling) = match learned {
        None => (None, None),
        Some(learned) => {
            learned.tell(&mut notes, listener);
            let pooling = learned.pooling;
            let (distill, teacher) = learned.teacher(config, &model, predicts)?;
            teacher.make_resident(&device)?;
            if distill.linears == Linears::Solved && config.from.is_some() && checkpoint.is_none() {
                let (precision, seed) = (config.train.precision(), config.train.seed);
                let student = Student { device: &device, model: &model, precision, seed };
                if let Some(line) = student.solve_linears(&teacher, &mut weights, &train, listener)? {
                    listener(Event::Message(&line));
                    notes.push(line);
                }
            }
            (Some((distill, Arc::new(teacher))), Some(pooling))
        }
    };
    let (distill, teacher) = distill.unzip();
    let objective = Objective { lm, teacher, ..Objective::default() };
    let beginning = Beginning {
        task,
        model: model_config,
        amount: amount_of(&train),
        evaluated: tokens_of([valid.as_ref(), test.as_ref()]),
        unfreezing: None,
        since,
    };
    let measurement = Measurement {
        config: &config.train,
        device: &device,
        model: &model,
        objective: &objective,
        targets,
        train: &train,
    };
    let settled = beginning.settings(&run, &ranks, &measurement, &mut notes, listener)?;
    let as_settings = ModelConfig { vocab_size: config.model.vocab_size, ..model_config.clone() };
    let config = &PretrainConfig {
        objective: Some(predicts),
        model: as_settings,
        train: settled,
        distill,
        ..config.clone()
    };
    let files = ModelFiles {
        mlm_probability: (predicts == ObjectiveName::Mlm).then_some(config.mlm_probability),
        block_size: config.block_size,
        head_defaults: match (known_head, pooling) {
            // What was learned of the teacher is how it makes one vector of an input.
            (None, Some(pooling)) => Some(HeadDefaults { pooling, dropout: None, max_length: None }),
            (known, _) => known,
        },
        objective: Some(predicts).filter(|_| lm > 0.0),
        pairs,
        precision: config.train.precision.unwrap_or_default(),
        ..model_files(model_config, predicts, labels, tokenizer)
    };
    let [valid_examples, test_examples] =
        [&valid, &test].map(|split| split.as_ref().map(|split| &split.examples));
    let identity = Identity {
        splits: [Some(&train), valid_examples, test_examples],
        tokenizer,
        weights: weights.values(),
    };
    let folder = run.begin(config, &options.command, &device, &ranks, &identity, &corpus.provenance)?;
    let training = Training {
        config: &config.train,
        device,
        ranks,
        model,
        weights,
        objective,
        targets,
        train,
        valid,
        test,
        best_by: BestBy::metric(if config.distill.is_some() { "loss" } else { "nll" }),
        keep_best: false,
        bar: None,
        rates: Vec::new(),
        regularisation: RegularisationConfig::default(),
        early_stopping: 0,
        before_s: 0.0,
        notes,
        files,
        trunk: None,
        folder,
        data: config.data.path.clone(),
        origins: None,
        checkpoint,
    };
    training.run(listener)
}

/// Reads the splits, and tells what each holds, `of` behind its name. A corpus without text to train on is found out before the others are read.
fn read_text(
    corpus: &CorpusSource,
    tokenizer: &Tokenizer,
    of: &str,
    notes: &mut Vec<String>,
    listener: &mut Listener<'_>,
) -> Result<[Option<TokenStream>; 3]> {
    let mut streams = [None, None, None];
    for (stream, split) in streams.iter_mut().zip([Split::Train, Split::Valid, Split::Test]) {
        *stream = corpus.stream(split, tokenizer, listener)?;
        if stream.is_none() && split == Split::Train {
            return Ok(streams);
        }
    }
    for (split, stream) in ["train", "valid", "test"].into_iter().zip(&streams) {
        let line = match stream {
            Some(s) => format!(
                "{split}{of}: {} words, {} tokens{}",
                thousands(s.counts().words as usize),
                thousands(s.ids().len()),
                s.cache_use().note(),
            ),
            None if of.is_empty() => format!("{split}: none"),
            // Said already.
            None => continue,
        };
        listener(Event::Message(&line));
        notes.push(line);
    }
    Ok(streams)
}

/// Says of each split how many of its lines are longer than an input, `of` behind its name.
fn tell_cut(
    inputs: &TextInputs,
    of: &str,
    streams: [&Option<TokenStream>; 3],
    notes: &mut Vec<String>,
    listener: &mut Listener<'_>,
) -> Result<()> {
    for (name, stream) in ["train", "valid", "test"].into_iter().zip(streams) {
        let Some(stream) = stream else { continue };
        if let Some(line) = inputs.cut_note(&format!("{name}{of}"), stream)? {
            listener(Event::Message(&line));
            notes.push(line);
        }
    }
    Ok(())
}

/// What a run starts from.
struct Start {
    /// Its own newest checkpoint, where it goes on.
    stored: Option<LoadedModel>,
    /// The model that it continues, where that gives the weights: before the first checkpoint.
    base: Option<LoadedModel>,
    tokenizer: Tokenizer,
    model: ModelConfig,
    predicts: ObjectiveName,
}

impl Start {
    fn of(
        config: &PretrainConfig,
        checkpoint: Option<&Checkpoint>,
        learned: Option<&Learning>,
        listener: &mut Listener<'_>,
    ) -> Result<Self> {
        let stored = checkpoint.map(Checkpoint::model).transpose()?;
        let base = match (&stored, &config.from) {
            (None, Some(from)) => Some(load_model(from)?),
            _ => None,
        };
        let tokenizer = match stored.as_ref().or(base.as_ref()) {
            Some(model) => model.tokenizer()?,
            None => match learned.filter(|_| config.data.tokenizer.is_none()) {
                Some(learned) => learned.loaded.tokenizer()?,
                None => source::tokenizer(&config.data, listener)?,
            },
        };
        let mut model = match (&stored, &base) {
            (Some(stored), _) if config.from.is_some() => stored.files.config.clone(),
            (_, Some(base)) => continued(config, base)?,
            _ => ModelConfig { vocab_size: tokenizer.vocab_size(), ..config.model.clone() },
        };
        let predicts = config.objective_of(&model);
        model.causal = predicts == ObjectiveName::Lm;
        if let Some((head, _)) = learned.and_then(Learning::classifier) {
            model.head = Some(head);
        }
        model.teacher_heads = learned.map(|learned| learned.heads(model.num_layers)).transpose()?;
        if config.distill.as_ref().is_some_and(|distill| distill.lm_loss <= 0.0) {
            without_lm_head(&mut model);
        }
        Ok(Self { stored, base, tokenizer, model, predicts })
    }

    /// The model on disk that the run starts from.
    fn known(&self) -> Option<&LoadedModel> {
        self.stored.as_ref().or(self.base.as_ref())
    }

    fn task(&self, config: &PretrainConfig) -> Task {
        let new_head = self.base.as_ref().is_some_and(|base| base.files.objective.is_none());
        if config.from.is_some() { Task::Continuing { new_head } } else { Task::Pretraining }
    }

    fn weights(
        &self,
        model: &Model,
        seed: u64,
        train: &Examples<'_>,
        notes: &mut Vec<String>,
        listener: &mut Listener<'_>,
    ) -> Result<Weights> {
        match (&self.stored, &self.base) {
            (Some(stored), _) => stored.mapped_weights(model.table()),
            (None, Some(loaded)) => {
                let max_length = (0..train.len()).map(|index| train.input_len(index)).max().unwrap_or(0);
                let base = Base { loaded, seed, max_length, pooling: None };
                base.weights(model, notes, listener).map(Weights::new)
            }
            (None, None) => Ok(Weights::new(model.table().initial_values(seed))),
        }
    }
}

/// The model of `base` with a language model's head and no other, where the settings do not speak against it.
fn continued(config: &PretrainConfig, base: &LoadedModel) -> Result<ModelConfig> {
    let head_shape = HeadShape::default();
    let mut model = ModelConfig { head: None, head_shape, ..base.files.config.clone() };
    let fit = ObjectiveName::of(&model);
    if let Some(asked) = config.objective.filter(|&asked| asked != fit) {
        let (asked, fit, reads) = match asked {
            ObjectiveName::Lm => (asked.name(), fit.name(), "in both directions"),
            ObjectiveName::Mlm => (asked.name(), fit.name(), "from left to right"),
        };
        return Err(Error::Config {
            key: "objective".into(),
            what: format!(
                "{asked} is asked for, but the model that `from` names ({}) reads {reads}",
                model.arch.name()
            ),
            fix: format!("use {fit}, or leave it out"),
        });
    }
    if base.files.objective.is_none() {
        with_lm_head(&mut model);
    }
    check_sizes(&config.model, &model)?;
    Ok(model)
}

/// Refuses sizes that were asked for and are not the model's.
fn check_sizes(asked: &ModelConfig, model: &ModelConfig) -> Result<()> {
    let [asked, default, model] = [asked, &ModelConfig::default(), model]
        .map(|config| serde_json::to_value(config).unwrap_or_default());
    let free = ["causal", "vocab_size"];
    for (key, value) in asked.as_object().into_iter().flatten() {
        if free.contains(&key.as_str()) || default.get(key) == Some(value) || model.get(key) == Some(value) {
            continue;
        }
        let has = model.get(key).map_or("none".into(), ToString::to_string);
        return Err(Error::Config {
            key: key.clone(),
            what: format!("{value} is asked for, but the model that `from` names has {has}"),
            fix: "leave it out: family, sizes and options come from the model".into(),
        });
    }
    Ok(())
}
