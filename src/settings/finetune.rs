//! `headstart finetune`.
//!
//! Owns: its layers, and the keys outside the tables. Never: ranges.

use std::path::PathBuf;

use anyhow::Result;
use headstart::config::{FinetuneConfig, PretrainConfig, RatesConfig, RegularisationConfig};

use super::run::{self, Run};
use super::{data, file, train, tutorial};
use crate::args::{FinetuneArgs, LabelledArgs, RatesArgs, RegularisationArgs, TrainArgs, TuningArgs};
use crate::ranks::Ranks;

/// The settings of `headstart finetune`.
pub fn finetune(args: FinetuneArgs, ranks: &Ranks) -> Result<Run<FinetuneConfig>> {
    // The ranks have joined already.
    let FinetuneArgs {
        run,
        tutorial,
        finetuning_model_class,
        model,
        tuning,
        rates,
        regularisation,
        source,
        train,
        ranks: _,
    } = args;
    tutorial::refuse(tutorial, ranks)?;
    let saved = run::saved_config::<FinetuneConfig, PretrainConfig>(&run, ("finetune", "pretrain"))?;
    let allowed = saved.clone().map(|saved| FinetuneConfig {
        data: data::labelled_config(source.free(), saved.data),
        train: train::train_config(&train.free(), &saved.train),
        ..saved
    });
    let base = file::layered(saved.unwrap_or_default(), run.config.as_deref(), None, |_, _| ())?;
    let base = FinetuneConfig {
        rates: rates_config(&rates, &base.rates),
        best_metric: regularisation.best_metric.clone().or(base.best_metric),
        regularisation: regularisation_config(&regularisation, &base.regularisation),
        ..base
    };
    let mut config = finetune_config(model, &tuning, source, &train, base);
    run::check_continued(allowed.as_ref(), &config)?;
    config.validate()?;
    if let Some(class) = finetuning_model_class {
        tutorial::check_model_class(&class, &config)?;
    }
    data::fill_cache_dir(&mut config.data)?;
    let (options, telling) = run::options(run, "finetune", &config.data, ranks)?;
    Ok(Run { config, options, telling })
}

fn finetune_config(
    model: Option<PathBuf>,
    tuning: &TuningArgs,
    source: LabelledArgs,
    train: &TrainArgs,
    base: FinetuneConfig,
) -> FinetuneConfig {
    let TuningArgs {
        from_scratch,
        method,
        adapters_dim,
        lora_rank,
        lora_alpha,
        lora_dropout,
        lora_targets,
        rslora,
        train_norms,
        pooling,
        max_length,
        problem,
        num_classes,
        clf_loss_coef,
        lm_loss_coef,
        initializer_range,
        dropout,
        class_weights,
        early_stopping,
    } = *tuning;
    FinetuneConfig {
        model: model.map(data::absolute_path).or(base.model),
        from_scratch: from_scratch.unwrap_or(base.from_scratch),
        data: data::labelled_config(source, base.data),
        method: method.unwrap_or(base.method),
        adapters_dim: adapters_dim.map_or(base.adapters_dim, train::none_below_one),
        lora_rank: lora_rank.or(base.lora_rank),
        lora_alpha: lora_alpha.or(base.lora_alpha),
        lora_dropout: lora_dropout.or(base.lora_dropout),
        lora_targets: lora_targets.or(base.lora_targets),
        rslora: rslora.or(base.rslora),
        train_norms: train_norms.unwrap_or(base.train_norms),
        pooling: pooling.or(base.pooling),
        max_length: max_length.or(base.max_length),
        problem: problem.unwrap_or(base.problem),
        num_classes: num_classes.or(base.num_classes),
        clf_loss_coef: clf_loss_coef.unwrap_or(base.clf_loss_coef),
        lm_loss_coef: lm_loss_coef.unwrap_or(base.lm_loss_coef),
        initializer_range: initializer_range.unwrap_or(base.initializer_range),
        dropout: dropout.or(base.dropout),
        class_weights: class_weights.unwrap_or(base.class_weights),
        early_stopping: early_stopping.unwrap_or(base.early_stopping),
        best_metric: base.best_metric,
        regularisation: base.regularisation,
        rates: base.rates,
        train: train::train_config(train, &base.train),
    }
}

fn regularisation_config(args: &RegularisationArgs, base: &RegularisationConfig) -> RegularisationConfig {
    let RegularisationArgs { label_smoothing, focal_gamma, r_drop, sampling, l2_sp, best_metric: _ } = *args;
    RegularisationConfig {
        label_smoothing: label_smoothing.or(base.label_smoothing),
        focal_gamma: focal_gamma.or(base.focal_gamma),
        r_drop: r_drop.or(base.r_drop),
        sampling: sampling.unwrap_or(base.sampling),
        l2_sp: l2_sp.or(base.l2_sp),
    }
}

fn rates_config(args: &RatesArgs, base: &RatesConfig) -> RatesConfig {
    let RatesArgs { unfreeze, unfreeze_every, layer_decay, head_lr } = *args;
    RatesConfig {
        unfreeze: unfreeze.unwrap_or(base.unfreeze),
        unfreeze_every: unfreeze_every.or(base.unfreeze_every),
        layer_decay: layer_decay.or(base.layer_decay),
        head_lr: head_lr.or(base.head_lr),
    }
}
