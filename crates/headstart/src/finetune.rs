//! `finetune`: a pretrained model, labelled texts and a method become a `Run` of the one loop.
//!
//! Owns: putting a fine-tuning run together: labels, head, what trains. Never: the loop (`train`).

use std::time::Instant;

use headstart_engine::Weights;

use crate::batch::TokenTargets;
use crate::checkpoint::{self, Checkpoint, LoadedModel, ModelFiles, ModelPath};
use crate::config::{
    Copies, FinetuneConfig, Method, ObjectiveName, Problem, RatesConfig, RegularisationConfig, Task,
};
use crate::data::split::Split;
use crate::error::{Error, Result};
use crate::eval::metric_names;
use crate::event::{Event, Listener};
use crate::method::trains;
use crate::model::Model;
use crate::objective::{ClassLoss, Objective};
use crate::params::ParamTable;
use crate::rates::{Length, Plan};
use crate::setup::bag_of_words;
use crate::setup::bar::{self, Compared};
use crate::setup::base::Base;
use crate::setup::classifier::{
    Reading, check_biases, check_classes, check_numbers, check_passes, check_updates, class_names,
    model_config, with_columns,
};
use crate::setup::examples::{class_weights, few};
use crate::setup::features_method::{FeaturesRun, check_pooler};
use crate::setup::labelled::DataRequest;
use crate::setup::pace::{Beginning, amount_of, tokens_of};
use crate::setup::pace_by_phase::Unfreezing;
use crate::setup::pairs::pair_up;
use crate::setup::run::{Identity, OpenRun, check_memory, model_files, ranks_of};
use crate::setup::text::{never_in_examples, token_targets};
use crate::train::{BestBy, Measurement, OriginsOf, RunOptions, Summary, Training, Trunk};

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
    // The fitted head of frozen features is no product of bf16: rounded, it answers otherwise than it was fitted to.
    let bf16 = device.prefers_bf16() && config.method != Method::Features;
    let train = ranks.of_leader(|| Ok(config.train.with_precision(bf16)))?;
    let config = &FinetuneConfig { train, ..config.clone() };
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
    check_numbers(&config.data, train.iter().map(|example| example.label))?;

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
    let copies = Copies { start: config.regularisation.keeps_start(), mean: config.train.ema.is_some() };
    check_memory(&model, &device, copies, |param| trains(config.method, config.train_norms, param))?;
    let start = Base { loaded: &base, seed: config.train.seed, max_length, pooling: Some(pooling) };
    let weights = if config.from_scratch {
        start.fresh(&model, &mut notes, listener)
    } else {
        start.weights(&model, &mut notes, listener)?
    };
    let (method, norms) = (config.method, config.train_norms);
    model.freeze_except(|param| trains(method, norms, param));
    model.set_layer_drop(config.regularisation.layer_drop.unwrap_or(0.0));
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
        precision: config.train.precision.unwrap_or_default(),
        ..model_files(&model_config, predicts, class_names(data, config.problem), &tokenizer)
    };
    let mut train_examples = labelled.examples(train);
    let kept = few(config, &mut train_examples, &data.labels, &mut notes, listener)?;
    if config.method == Method::Contrastive {
        pair_up(config, pooling, &mut train_examples, &mut notes, listener)?;
    }
    // Its file is mapped, and what is mapped counts as memory.
    drop(base);
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
        amount: amount_of(&train_examples),
        evaluated: tokens_of([valid.as_ref(), test.as_ref()]),
        unfreezing: Unfreezing::of(&config.rates, method, model.table()),
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
        data: with_columns(&config.data, &data.text_columns, data.label_column.as_deref()),
        ..config.clone()
    };
    let [valid_examples, test_examples] =
        [&valid, &test].map(|split| split.as_ref().map(|split| &split.examples));
    let identity = Identity {
        splits: [Some(&train_examples), valid_examples, test_examples],
        tokenizer: &tokenizer,
        weights: &weights,
    };
    let fitting = Instant::now();
    let bar = if ranks.leads() && bar == Compared::WithBagOfWords {
        let tokens = train_examples.tokens();
        bar::measured(config, &request, &data.labels, train.len(), kept.as_deref(), tokens, listener)?
    } else {
        None
    };
    let before_s = fitting.elapsed().as_secs_f64();
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
        before_s,
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

/// The metric that says which checkpoint is the best.
fn best_by(config: &FinetuneConfig, labels: &[String]) -> Result<BestBy> {
    let name = config.best_metric.as_deref().unwrap_or(config.problem.judged_by());
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
