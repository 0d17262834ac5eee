//! `finetune`: a pretrained model, labelled texts and a method become a `Run` of the one loop.
//!
//! Owns: putting a fine-tuning run together: labels, head, what trains. Never: the loop (`train`).

use std::time::Instant;

use headstart_engine::{Weights, rng};

use crate::batch::{Examples, Label, TokenTargets};
use crate::checkpoint::{
    self, Checkpoint, LoadedModel, ModelFiles, ModelPath, with_lm_head, without_lm_head,
};
use crate::config::{
    Arch, ClassWeights, DataConfig, FinetuneConfig, HeadConfig, HeadPooling, Method, ModelConfig,
    ObjectiveName, Problem, RatesConfig, RegularisationConfig, Task, TextColumns, Truncation,
};
use crate::data::classification::ClassificationData;
use crate::data::split::Split;
use crate::error::{Error, Result};
use crate::eval::metric_names;
use crate::event::{Event, Listener};
use crate::method::trains;
use crate::model::Model;
use crate::objective::{ClassLoss, Objective};
use crate::params::{Param, ParamTable};
use crate::rates::{Length, Plan};
use crate::setup::base::Base;
use crate::setup::features_method::{FeaturesRun, check_pooler, plain_head};
use crate::setup::labelled::DataRequest;
use crate::setup::pace::{Beginning, tokens_of};
use crate::setup::pairs::pair_up;
use crate::setup::run::{Identity, OpenRun, check_memory, model_files, ranks_of};
use crate::setup::text::{never_in_examples, token_targets};
use crate::setup::{bag_of_words, bar};
use crate::train::{BestBy, Measurement, OriginsOf, RunOptions, Summary, Training, Trunk, thousands};

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
    if config.is_several() {
        return Err(Error::Config {
            key: "seeds".into(),
            what: "several runs, a search for the rate or a model to adapt first are asked for, and this is one run".into(),
            fix: "leave seeds, curve, lr_auto and adapt_on out".into(),
        });
    }
    finetune_compared(config, options, Compared::WithBagOfWords, listener)
}

/// What a run's metrics are shown with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compared {
    /// A bag of words that is fitted to the same examples.
    WithBagOfWords,
    /// Nothing: who calls compares.
    ByCaller,
    /// Nothing, and test data are left alone: who calls compares by what is told of validation data.
    OnValidation,
}

/// [`finetune`] with a choice of what it is compared with.
pub(crate) fn finetune_compared(
    config: &FinetuneConfig,
    options: &RunOptions,
    bar: Compared,
    listener: &mut Listener<'_>,
) -> Result<Summary> {
    let since = Instant::now();
    config.validate()?;
    if config.method == Method::Bow {
        return bag_of_words::run(config, options, bar, listener);
    }
    let ranks = ranks_of(options, config, &config.train, listener)?;
    let run = OpenRun::open(&options.place, &ranks, listener)?;
    let device = options.device.open(config.train.threads)?;
    if let Some(note) = options.device.note(&device) {
        listener(Event::Message(&note));
    }
    // A resumed run has its own tokenizer, sizes and (mostly) weights; the model it came from is only needed
    // when it was stopped before its first checkpoint.
    let checkpoint = run.newest_checkpoint()?;
    let own = checkpoint.as_ref().map(Checkpoint::model).transpose()?;
    let begun = own.is_some();
    let base = match own {
        Some(own) => own,
        None => base_model(config)?,
    };
    check_updates(config, &base)?;
    let tokenizer = base.tokenizer()?;
    let predicts = base.files.objective.unwrap_or(ObjectiveName::of(&base.files.config));

    let known = Some(base.files.labels.clone()).filter(|_| begun && config.problem != Problem::Regression);
    let reading = Reading::of(config, &base, begun)?;
    let Reading { pooling, max_length, truncation } = reading;
    let (arch, positions) = (base.files.config.arch, max_length);
    let request =
        DataRequest { config: &config.data, problem: config.problem, arch, pooling, positions, truncation };
    let mut labelled = ranks.leader_first(|| request.load(&tokenizer, known, listener))?;
    labelled.data.hold_out_validation(config.train.seed)?;
    labelled.check_label_column(config.num_classes)?;
    if bar == Compared::OnValidation {
        labelled.data.test = None;
    }
    let data = &labelled.data;
    let train = data.get(Split::Train)?;
    let mut notes = labelled.describe(listener);
    check_classes(config, data)?;

    let model_config = if begun {
        base.files.config.clone()
    } else {
        model_config(config, &base, data, reading, tokenizer.roles().cls)
    };
    if config.method.fits_head() {
        check_pooler(pooling, base.stored.shape("classification_head.dense.weight").is_some())?;
    }
    let mut model = Model::new(&model_config)?;
    if config.lm_loss_coef > 0.0 {
        model.check_lm_head()?;
    }
    check_memory(&model, &device, |param| trains(config.method, config.train_norms, param))?;
    let start = Base { loaded: &base, seed: config.train.seed, max_length, pooling: Some(pooling) };
    let weights = if config.from_scratch {
        start.fresh(&model, &mut notes, listener)
    } else {
        start.weights(&model, &mut notes, listener)?
    };
    let (method, norms) = (config.method, config.train_norms);
    model.freeze_except(|param| trains(method, norms, param));
    check_biases(method, &model)?;
    check_passes(config, &model_config)?;

    let targets = if config.lm_loss_coef > 0.0 {
        let never = never_in_examples(model_config.arch, tokenizer.roles());
        token_targets(predicts, base.files.masked_share(), tokenizer.roles(), tokenizer.vocab_size(), never)
    } else {
        TokenTargets::None
    };
    let files = ModelFiles {
        // A head of more than the token embedding is not there without its loss.
        objective: Some(predicts).filter(|_| config.lm_loss_coef > 0.0 || !model_config.arch.is_encoder()),
        mlm_probability: base.files.mlm_probability,
        block_size: base.files.block_size,
        head_defaults: base.files.head_defaults,
        pairs: train.texts_per_example() == 2,
        ..model_files(&model_config, predicts, class_names(data, config.problem), &tokenizer)
    };
    let mut train_examples = labelled.examples(train);
    let kept = few(config, &mut train_examples, &data.labels, &mut notes, listener)?;
    if config.method == Method::Contrastive {
        pair_up(config, pooling, &mut train_examples, &mut notes, listener)?;
    }
    let classes = data.labels.len();
    let objective = Objective {
        lm: config.lm_loss_coef.max(0.0),
        clf: config.clf_loss_coef,
        class_weights: class_weights(config, &train_examples, classes),
        class_loss: class_loss(config),
        r_drop: config.regularisation.r_drop.unwrap_or(0.0),
        teacher: None,
    };
    let best_by = best_by(config, &data.labels)?;
    let [valid, test] = [&data.valid, &data.test].map(|split| labelled.evaluated(split.as_ref()));
    let beginning = Beginning {
        task: Task::Finetuning { method, from_scratch: config.from_scratch },
        model: &model_config,
        examples: train_examples.items(),
        evaluated: tokens_of([valid.as_ref(), test.as_ref()]),
        since,
    };
    let measurement = Measurement {
        config: &config.train,
        device: &device,
        model: &model,
        objective: &objective,
        targets,
        train: &train_examples,
    };
    let settled = if method == Method::Features {
        config.train.clone()
    } else {
        beginning.settings(&run, &ranks, &measurement, &mut notes, listener)?
    };
    let length = Length {
        steps_per_epoch: settled.steps_per_epoch(train_examples.items()),
        total_steps: settled.total_steps(train_examples.items()),
    };
    let rates = chosen_rates(config, model.table(), length, &mut notes, listener);
    let plan = Plan::of(&rates, method, settled.peak_lr(), model.table(), length);
    if let Some(plan) = &plan {
        model.set_phases(&plan.starts(), |param, from| plan.factor(param, from));
    }
    let config = &FinetuneConfig {
        rates,
        train: settled,
        data: DataConfig { text_column: text_columns(config, data), ..config.data.clone() },
        ..config.clone()
    };
    let [valid_examples, test_examples] =
        [&valid, &test].map(|split| split.as_ref().map(|split| &split.examples));
    let identity = Identity {
        splits: [Some(&train_examples), valid_examples, test_examples],
        tokenizer: &tokenizer,
        weights: &weights,
    };
    let bar = if ranks.leads() && bar == Compared::WithBagOfWords {
        let tokens = train_examples.tokens();
        bar::measured(config, &request, &data.labels, train.len(), kept.as_deref(), tokens, listener)?
    } else {
        None
    };
    let folder = run.begin(config, &options.command, &device, &ranks, &identity, &labelled.provenance)?;
    let origins = Some(OriginsOf::new(|split, listener| {
        let known = Some(data.labels.clone()).filter(|labels| !labels.is_empty());
        let split = if split == "test" { Split::Test } else { Split::Valid };
        request.origins(split, known, Some(config.train.seed), listener)
    }));
    if method == Method::Features {
        let train = train_examples;
        let run = FeaturesRun {
            config,
            device,
            ranks,
            model,
            weights,
            train,
            valid,
            test,
            bar,
            notes,
            files,
            folder,
            origins,
            since,
        };
        return run.run(listener);
    }
    let rates = plan.map_or_else(Vec::new, |plan| plan.rows(model.table(), &config.train, length));
    let training = Training {
        config: &config.train,
        device,
        ranks,
        model,
        weights: Weights::new(weights),
        objective,
        targets,
        train: train_examples,
        valid,
        test,
        best_by,
        keep_best: true,
        bar,
        rates,
        regularisation: config.regularisation.clone(),
        early_stopping: config.early_stopping,
        notes,
        files,
        trunk: trunk_of(config),
        folder,
        data: config.data.path.clone(),
        origins,
        checkpoint,
    };
    training.run(listener)
}

/// What trains from when on, with nothing left open.
fn chosen_rates(
    config: &FinetuneConfig,
    table: &ParamTable,
    length: Length,
    notes: &mut Vec<String>,
    listener: &mut Listener<'_>,
) -> RatesConfig {
    let mut rates = config.rates.clone();
    if let Some(line) = rates.choose(table, length) {
        listener(Event::Message(&line));
        notes.push(line);
    }
    rates
}

/// What training minimises where there is one class of several.
fn class_loss(config: &FinetuneConfig) -> ClassLoss {
    let RegularisationConfig { label_smoothing, focal_gamma, .. } = config.regularisation;
    match (label_smoothing.unwrap_or(0.0), focal_gamma.unwrap_or(0.0)) {
        (share, _) if share > 0.0 => ClassLoss::Smoothed(share),
        (_, gamma) if gamma > 0.0 => ClassLoss::Focal(gamma),
        _ => ClassLoss::CrossEntropy,
    }
}

/// Two passes differ by their dropout.
fn check_passes(config: &FinetuneConfig, model: &ModelConfig) -> Result<()> {
    let head = model.head.as_ref().and_then(|head| head.dropout);
    let lora = model.lora.map(|lora| lora.dropout);
    let all = [Some(model.dropout), model.attention_dropout, head, lora];
    let drops = all.into_iter().flatten().any(|p| p > 0.0);
    if drops || config.regularisation.r_drop.is_none_or(|weight| weight <= 0.0) {
        return Ok(());
    }
    Err(Error::Config {
        key: "r_drop".into(),
        what: "two passes without dropout are the same".into(),
        fix: "use --dropout 0.1, or leave r_drop out".into(),
    })
}

/// The metric that says which checkpoint is the best.
fn best_by(config: &FinetuneConfig, labels: &[String]) -> Result<BestBy> {
    let usual = if config.problem == Problem::Regression { "mse" } else { "accuracy" };
    let name = config.best_metric.as_deref().unwrap_or(usual);
    let known = metric_names(config.problem, labels, config.lm_loss_coef > 0.0);
    if known.iter().any(|known| known == name) {
        return Ok(BestBy::metric(name));
    }
    Err(Error::Config {
        key: "best_metric".into(),
        what: format!("evaluations of this task have no `{name}`"),
        fix: format!("use one of {}", known.join(", ")),
    })
}

/// BitFit trains the biases of the blocks, where there are any.
fn check_biases(method: Method, model: &Model) -> Result<()> {
    let in_block = |param: &Param| param.layer.is_some() && param.grad.is_some();
    if method != Method::Bitfit || model.table().params().iter().any(in_block) {
        return Ok(());
    }
    Err(Error::Config {
        key: "method".into(),
        what: format!("`bitfit` trains biases, and this model ({}) has none", model.config().arch.name()),
        fix: "use --method lora, adapters or full".into(),
    })
}

/// Updates must fit the model, and a model that has some already goes on with those.
fn check_updates(config: &FinetuneConfig, base: &LoadedModel) -> Result<()> {
    if let Some(lora) = config.lora() {
        lora.check_width(base.files.config.embed_dim)?;
    }
    let (own, asked) = (&base.files.config, config.peft.adapters());
    if own.adapters_dim.is_some() && config.adapters(own.embed_dim).is_some() && own.adapters != asked {
        return Err(Error::Config {
            key: "adapters_kind".into(),
            what: format!(
                "the model has {} adapters already, and others are asked for",
                own.adapters.kind.name()
            ),
            fix: "give the same --adapters_ flags to train those on, or start from a model without".into(),
        });
    }
    if let (Some(asked), Some(own)) = (config.peft.ia3(config.method), base.files.config.ia3) {
        asked.check_same(own)?;
    }
    match (config.lora(), base.files.config.lora) {
        (Some(asked), Some(own)) if asked != own => Err(Error::Config {
            key: "method".into(),
            what: format!(
                "the model has low-rank updates already, of rank {} on {}, alpha {}, and others are asked for",
                own.rank, own.targets, own.alpha
            ),
            fix: "give the same --lora_ flags to train those on, or merge them into its weights first: headstart export"
                .into(),
        }),
        _ => Ok(()),
    }
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
    checkpoint::load_model(ModelPath { path, base: config.peft.base.as_deref() })
}

/// The model that most of what is trained stays.
fn trunk_of(config: &FinetuneConfig) -> Option<Trunk> {
    let freezes = match config.method {
        Method::Head | Method::Adapters | Method::Lora | Method::Ia3 | Method::Bitfit => true,
        Method::Full | Method::Features | Method::Contrastive | Method::Bow => false,
    };
    let model = config.model.clone().filter(|_| freezes && !config.from_scratch)?;
    Some(Trunk { method: config.method.name(), model, base: config.peft.base.clone() })
}

/// The base model's sizes with the head, the adapters and the offset this run adds.
fn model_config(
    config: &FinetuneConfig,
    base: &LoadedModel,
    data: &ClassificationData,
    Reading { pooling, max_length, truncation }: Reading,
    cls: u32,
) -> ModelConfig {
    let (defaults, objective) = (base.files.head_defaults, base.files.objective);
    let base = &base.files.config;
    let num_classes = match config.problem {
        Problem::Regression => 1,
        _ => data.labels.len(),
    };
    let frozen = !matches!(config.method, Method::Full | Method::Features | Method::Contrastive);
    let head = HeadConfig {
        num_classes,
        pooling,
        problem: config.problem,
        max_length: (max_length < base.num_max_positions).then_some(max_length),
        truncation,
        dropout: config.dropout.or(defaults.and_then(|defaults| defaults.dropout)),
    };
    let adapters = config.adapters(base.embed_dim);
    let mut model = ModelConfig {
        adapters_dim: adapters.or(base.adapters_dim),
        adapters: if adapters.is_some() { config.peft.adapters() } else { base.adapters },
        lora: config.lora().or(base.lora),
        ia3: config.peft.ia3(config.method).or(base.ia3),
        head: Some(head),
        // The tutorial's `[CLS]` is new to its trunks.
        offset_token: if frozen && pooling == HeadPooling::Cls && !base.arch.is_encoder() {
            Some(cls)
        } else {
            base.offset_token
        },
        dropout: config.dropout.unwrap_or(base.dropout),
        attention_dropout: if config.dropout.is_some() { None } else { base.attention_dropout },
        initializer_range: config.initializer_range,
        ..base.clone()
    };
    if config.lm_loss_coef <= 0.0 {
        // It would neither train nor be of use.
        without_lm_head(&mut model);
    } else if objective.is_none() {
        with_lm_head(&mut model);
    }
    if config.method.fits_head() {
        plain_head(&mut model, base.head.is_some());
    } else if defaults.is_some() && base.arch == Arch::Gpt2 {
        model.layout.head_bias = Some(false);
    }
    model
}

/// What a head reads of its inputs.
#[derive(Clone, Copy)]
struct Reading {
    pooling: HeadPooling,
    /// The longest input, in tokens.
    max_length: usize,
    /// What is kept of a text that is longer; `None`: its beginning.
    truncation: Option<Truncation>,
}

impl Reading {
    /// That of the run so far; else what was asked for; else that of the head that is there; else what the model's family does.
    fn of(config: &FinetuneConfig, base: &LoadedModel, begun: bool) -> Result<Self> {
        /// Longer ones cost more than they bring, unless somebody wants them.
        const MOST: usize = 512;
        let model = &base.files.config;
        if let Some(head) = model.head.as_ref().filter(|_| begun) {
            let truncation = head.truncation;
            return Ok(Self { pooling: head.pooling, max_length: model.max_length(), truncation });
        }
        let positions = model.num_max_positions;
        if let Some(length) = config.max_length.filter(|&length| length > positions) {
            return Err(Error::Config {
                key: "max_length".into(),
                what: format!("inputs of {length} tokens are asked for, the model has {positions} positions"),
                fix: format!("use {positions} at most, or leave it out"),
            });
        }
        let (head, defaults) = (model.head.as_ref(), base.files.head_defaults);
        let own = head.and_then(|head| head.max_length).or(defaults.and_then(|defaults| defaults.max_length));
        let max_length =
            config.max_length.or(own).unwrap_or(if model.arch.is_encoder() { MOST } else { positions });
        let family = || match defaults {
            // Where nothing trains the row of `[CLS]`, that of all tokens says more.
            _ if config.method.fits_head() => HeadPooling::Mean,
            Some(defaults) => defaults.pooling,
            None => model.arch.pooling(),
        };
        let pooling = config.pooling.or(head.map(|head| head.pooling)).unwrap_or_else(family);
        let truncation = config.truncation.or(head.and_then(|head| head.truncation));
        Ok(Self { pooling, max_length: max_length.min(positions), truncation })
    }
}

/// The columns as they were asked for; those of pairs are kept where they were found, too: a model of pairs reads pairs.
fn text_columns(config: &FinetuneConfig, data: &ClassificationData) -> Option<TextColumns> {
    match data.text_columns.len() {
        2 => Some(TextColumns::Listed(data.text_columns.clone())),
        _ => config.data.text_column.clone(),
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

/// Keeps only as many training examples as are asked for; returns which, and says so.
///
/// # Errors
/// [`Error::Config`] where more are asked for of each class than any has.
fn few(
    config: &FinetuneConfig,
    examples: &mut Examples<'_>,
    labels: &[String],
    notes: &mut Vec<String>,
    listener: &mut Listener<'_>,
) -> Result<Option<Vec<usize>>> {
    let (all, most) = (usize::MAX, config.data.max_train_examples);
    let Some(shots) = config.shots else {
        return Ok(most.map(|most| subset(examples, most, all, config.train.seed)));
    };
    let before = examples.len();
    let kept = subset(examples, all, shots, config.train.seed);
    let mut counts = vec![0_usize; labels.len()];
    for label in &examples.labels {
        if let Label::Class(class) = label {
            counts[*class as usize] += 1;
        }
    }
    let scarce: Vec<String> = labels
        .iter()
        .zip(&counts)
        .filter(|(_, count)| **count < shots)
        .map(|(label, count)| format!("{label} {count}"))
        .collect();
    if scarce.len() == labels.len() {
        return Err(Error::Config {
            key: "shots".into(),
            what: format!(
                "{shots} training examples of each class are asked for, there are {}",
                scarce.join(", ")
            ),
            fix: "ask for fewer, or leave it out to use all examples".into(),
        });
    }
    let fewer = if scarce.is_empty() {
        String::new()
    } else {
        format!("; there are no more of {}", scarce.join(", "))
    };
    let line = format!(
        "{shots} shots: {} of {} training examples are used{fewer}",
        examples.len(),
        thousands(before)
    );
    listener(Event::Message(&line));
    notes.push(line);
    Ok(Some(kept))
}

/// Keeps `most` examples, drawn evenly over the classes, and of each class `of_class` at most; returns which.
fn subset(examples: &mut Examples<'_>, most: usize, of_class: usize, seed: u64) -> Vec<usize> {
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
    ranked.retain(|&(rank, _)| rank <= of_class);
    ranked.sort_by_key(|&(rank, _)| rank);
    let mut kept: Vec<usize> = ranked.into_iter().take(most).map(|(_, i)| i).collect();
    kept.sort_unstable();
    examples.keep(&kept);
    kept
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
