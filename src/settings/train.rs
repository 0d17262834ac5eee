//! The training loop.
//!
//! Owns: the table `[train]` of `pretrain` and `finetune`. Never: ranges.

use headstart::config::TrainConfig;

use crate::args::{PaceArgs, Rate, TrainArgs};

/// The flags over `base`.
pub fn train_config(args: &TrainArgs, base: &TrainConfig) -> TrainConfig {
    let TrainArgs {
        recipe,
        train_batch_size,
        grad_accum_steps,
        reduction_groups,
        lr,
        max_norm,
        weight_decay,
        optimizer,
        n_epochs,
        max_steps,
        budget,
        warmup_steps,
        warmup_ratio,
        schedule,
        lr_floor,
        ema,
        eval_every,
        seed,
        precision,
        ref pace,
    } = *args;
    // What an earlier share came to is no longer meant.
    let settled =
        if warmup_ratio.is_some() && warmup_ratio != base.warmup_ratio { None } else { base.warmup_steps };
    let PaceArgs { valid_batch_size, save_every, keep, max_time, threads } = *pace;
    TrainConfig {
        recipe: recipe.unwrap_or(base.recipe),
        train_batch_size: train_batch_size.or(base.train_batch_size),
        valid_batch_size: valid_batch_size.unwrap_or(base.valid_batch_size),
        grad_accum_steps: grad_accum_steps.unwrap_or(base.grad_accum_steps),
        reduction_groups: reduction_groups.or(base.reduction_groups),
        lr: match lr {
            Some(Rate::Value(lr)) => Some(lr),
            Some(Rate::Auto) | None => base.lr,
        },
        max_norm: max_norm.or(base.max_norm),
        weight_decay: weight_decay.unwrap_or(base.weight_decay),
        optimizer: optimizer.unwrap_or(base.optimizer),
        n_epochs: n_epochs.or(base.n_epochs),
        max_steps: max_steps.or(base.max_steps),
        budget: budget.or(base.budget),
        warmup_steps: warmup_steps.or(settled),
        warmup_ratio: warmup_ratio.or(base.warmup_ratio.filter(|_| warmup_steps.is_none())),
        schedule: schedule.or(base.schedule),
        lr_floor: lr_floor.or(base.lr_floor),
        ema: ema.or(base.ema),
        eval_every: eval_every.map(none_below_one).or(base.eval_every),
        save_every: save_every.unwrap_or(base.save_every),
        keep: keep.unwrap_or(base.keep),
        max_time: max_time.or(base.max_time),
        seed: seed.unwrap_or(base.seed),
        precision: precision.or(base.precision),
        threads: threads.unwrap_or(base.threads),
    }
}

/// 0 and every number below are the tutorial's ways to say "none", which is -1 here.
pub fn none_below_one(n: i64) -> i64 {
    if n < 1 { -1 } else { n }
}
