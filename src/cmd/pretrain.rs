//! `headstart pretrain`. Owns: nothing but the order. Never: settings or metrics.

use std::process::ExitCode;

use anyhow::Result;

use super::report;
use crate::args::PretrainArgs;
use crate::progress::{self, Progress};
use crate::ranks;
use crate::settings::{self, Run};

/// Runs it.
pub fn run(args: PretrainArgs) -> Result<ExitCode> {
    let joining = args.ranks.clone();
    ranks::together(&joining, |ranks| {
        let Run { mut config, options, telling } = settings::pretrain(args, ranks)?;
        let places = settings::places_of(&config.data);
        let here = |name| ranks.one_first(|| settings::model_folder(name, places));
        config.from = config.from.map(here).transpose()?;
        progress::stop_on_signal()?;
        let mut progress = Progress::new(telling.verbosity);
        let summary = headstart::pretrain::pretrain(&config, &options, &mut |event| progress.listen(&event));
        progress.finish();
        report(&summary?, telling.json, ranks)
    })
}
