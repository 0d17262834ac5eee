//! `headstart pretrain`, and `headstart distill`, which is pretraining with a teacher. Owns: nothing but the order. Never: settings or metrics.

use std::process::ExitCode;

use anyhow::Result;
use headstart::config::PretrainConfig;

use super::report;
use crate::args::{DistillArgs, PretrainArgs};
use crate::progress::{self, Progress};
use crate::ranks::{self, Ranks};
use crate::settings::{self, Run};

/// Runs `headstart pretrain`.
pub fn run(args: PretrainArgs) -> Result<ExitCode> {
    let joining = args.ranks.clone();
    ranks::together(&joining, |ranks| train(settings::pretrain(args, ranks)?, ranks))
}

/// Runs `headstart distill`.
pub fn distill(args: DistillArgs) -> Result<ExitCode> {
    let joining = args.pretrain.ranks.clone();
    ranks::together(&joining, |ranks| train(settings::distill(args, ranks)?, ranks))
}

fn train(run: Run<PretrainConfig>, ranks: &Ranks) -> Result<ExitCode> {
    let Run { mut config, options, telling } = run;
    let places = settings::places_of(&config.data);
    let here = |name| ranks.one_first(|| settings::model_folder(name, places.clone()));
    config.from = config.from.map(here).transpose()?;
    if let Some(distill) = &mut config.distill {
        distill.teacher = here(std::mem::take(&mut distill.teacher))?;
    }
    progress::stop_on_signal()?;
    let mut progress = Progress::new(telling.verbosity);
    let summary = headstart::pretrain::pretrain(&config, &options, &mut |event| progress.listen(&event));
    progress.finish();
    report(&summary?, telling.json, ranks)
}
