//! `headstart finetune`. Owns: nothing but the order. Never: settings or metrics.

use std::process::ExitCode;

use anyhow::Result;

use super::{report, trials};
use crate::args::FinetuneArgs;
use crate::progress::{self, Progress};
use crate::ranks;
use crate::settings::{self, Run};

/// Runs it.
pub fn run(args: FinetuneArgs) -> Result<ExitCode> {
    let joining = args.ranks.clone();
    ranks::together(&joining, |ranks| {
        let Run { mut config, options, telling } = settings::finetune(args, ranks)?;
        let places = settings::places_of(&config.data);
        let named = config.model.take().or_else(|| settings::model_where_none_is_named(&config, &options));
        if let Some(name) = named {
            let base = config.peft.base.take();
            let (model, base) = ranks.one_first(|| settings::model_and_base(name, base, places))?;
            (config.model, config.peft.base) = (Some(model), base);
        }
        progress::stop_on_signal()?;
        let mut progress = Progress::new(telling.verbosity);
        if config.is_several() {
            let summary = headstart::trials::run(&config, &options, &mut |event| progress.listen(&event));
            progress.finish();
            return trials::report(&summary?, telling.json, ranks);
        }
        let summary = headstart::finetune::finetune(&config, &options, &mut |event| progress.listen(&event));
        progress.finish();
        report(&summary?, telling.json, ranks)
    })
}
