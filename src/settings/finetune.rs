//! `headstart finetune`.
//!
//! Owns: its layers, and the keys outside the tables. Never: ranges.

use std::path::PathBuf;

use anyhow::Result;
use headstart::config::{
    AdaptConfig, FinetuneConfig, HeadChoice, PeftConfig, PretrainConfig, RatesConfig, RegularisationConfig,
    TASK_TEXTS, TrialsConfig,
};

use super::run::{self, Run};
use super::{data, file, train, tutorial};
use crate::args::{
    AdaptArgs, ExampleArgs, FinetuneArgs, HeadArgs, LabelledArgs, PeftArgs, Rate, RatesArgs,
    RegularisationArgs, TrainArgs, TrialsArgs, TuningArgs,
};
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
        adapt,
        trials,
        peft,
        head,
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
        head: head_choice(head, &base.head),
        rates: rates_config(&rates, &base.rates),
        best_metric: regularisation.best_metric.clone().or(base.best_metric),
        regularisation: regularisation_config(&regularisation, &base.regularisation),
        ..base
    };
    let mut config = finetune_config(model, &tuning, (adapt, trials, peft), source, &train, base);
    run::check_continued(allowed.as_ref(), &config)?;
    config.validate()?;
    if let Some(class) = finetuning_model_class {
        tutorial::check_model_class(&class, &config)?;
    }
    data::fill_cache_dir(&mut config.data)?;
    let (options, telling) = run::options(run, "finetune", &config.data, ranks)?;
    Ok(Run { config, options, telling })
}

/// The text to adapt on: a file's path as it is from anywhere; the task's own texts are no file.
fn adapt_text(name: String) -> String {
    if name == TASK_TEXTS { name } else { data::absolute(name) }
}

fn finetune_config(
    model: Option<PathBuf>,
    tuning: &TuningArgs,
    (adapt, trials, peft): (AdaptArgs, TrialsArgs, PeftArgs),
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
        examples: ExampleArgs { truncation, shots, pairs_per_text },
        problem,
        num_classes,
        clf_loss_coef,
        lm_loss_coef,
        initializer_range,
        dropout,
        class_weights,
        early_stopping,
    } = *tuning;
    let AdaptArgs { adapt_on, adapt_steps, adapt_epochs } = adapt;
    let TrialsArgs { seeds, curve, lr_auto } = trials;
    let lr_auto = lr_auto.or((train.lr == Some(Rate::Auto)).then_some(true));
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
        peft: peft_config(peft, base.peft),
        head: base.head,
        train_norms: train_norms.unwrap_or(base.train_norms),
        pooling: pooling.or(base.pooling),
        max_length: max_length.or(base.max_length),
        truncation: truncation.or(base.truncation),
        shots: shots.or(base.shots),
        pairs_per_text: pairs_per_text.or(base.pairs_per_text),
        problem: problem.unwrap_or(base.problem),
        num_classes: num_classes.or(base.num_classes),
        clf_loss_coef: clf_loss_coef.unwrap_or(base.clf_loss_coef),
        lm_loss_coef: lm_loss_coef.unwrap_or(base.lm_loss_coef),
        initializer_range: initializer_range.unwrap_or(base.initializer_range),
        dropout: dropout.or(base.dropout),
        class_weights: class_weights.unwrap_or(base.class_weights),
        early_stopping: early_stopping.unwrap_or(base.early_stopping),
        adapt: AdaptConfig {
            adapt_on: adapt_on.map(adapt_text).or(base.adapt.adapt_on),
            adapt_steps: adapt_steps.or(base.adapt.adapt_steps),
            adapt_epochs: adapt_epochs.or(base.adapt.adapt_epochs),
        },
        trials: TrialsConfig {
            seeds: seeds.or(base.trials.seeds),
            curve: curve.or(base.trials.curve),
            lr_auto: lr_auto.or(base.trials.lr_auto),
        },
        best_metric: base.best_metric,
        regularisation: base.regularisation,
        rates: base.rates,
        train: train::train_config(train, &base.train),
    }
}

fn peft_config(peft: PeftArgs, base: PeftConfig) -> PeftConfig {
    let PeftArgs {
        base: below,
        adapters_kind,
        adapters_reduction,
        adapters_activation,
        adapters_scale,
        ia3_targets,
    } = peft;
    PeftConfig {
        base: below.map(data::absolute_path).or(base.base),
        adapters_kind: adapters_kind.or(base.adapters_kind),
        adapters_reduction: adapters_reduction.or(base.adapters_reduction),
        adapters_activation: adapters_activation.or(base.adapters_activation),
        adapters_scale: adapters_scale.or(base.adapters_scale),
        ia3_targets: ia3_targets.or(base.ia3_targets),
    }
}

fn head_choice(args: HeadArgs, base: &HeadChoice) -> HeadChoice {
    let HeadArgs { head, head_width, head_activation, layer_mix } = args;
    HeadChoice {
        head: head.or(base.head),
        head_width: head_width.or(base.head_width),
        head_activation: head_activation.or(base.head_activation),
        layer_mix: layer_mix.or(base.layer_mix),
    }
}

fn regularisation_config(args: &RegularisationArgs, base: &RegularisationConfig) -> RegularisationConfig {
    let RegularisationArgs {
        label_smoothing,
        focal_gamma,
        r_drop,
        sampling,
        l2_sp,
        layer_drop,
        best_metric: _,
    } = *args;
    RegularisationConfig {
        label_smoothing: label_smoothing.or(base.label_smoothing),
        focal_gamma: focal_gamma.or(base.focal_gamma),
        r_drop: r_drop.or(base.r_drop),
        sampling: sampling.unwrap_or(base.sampling),
        l2_sp: l2_sp.or(base.l2_sp),
        layer_drop: layer_drop.or(base.layer_drop),
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
