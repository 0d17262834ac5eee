//! `headstart auto`.
//!
//! Owns: its layers, and which model is taken where none is named. Never: ranges, or which rungs there are.

use std::path::{Path, PathBuf};

use anyhow::Result;
use headstart::config::{AutoConfig, FinetuneConfig};
use headstart::hub;
use headstart::shipped;

use super::run::{self, Run};
use super::{Usage, data, file, hub_options, model_and_base, model_folder, places_of};
use crate::args::{AutoArgs, LabelledArgs, PlaceArgs, RunArgs};
use crate::progress;
use crate::ranks::Ranks;

/// Models to start from where none is named, the first that is in the cache: those that are made to compare texts, then the larger
/// and the better trained ones. Others of the list only continue texts.
const BEST: [&str; 11] = [
    "minilm-l6",
    "e5-small-v2",
    "modernbert-base",
    "roberta-base",
    "electra-base",
    "bert-base-uncased",
    "bert-base-cased",
    "distilbert",
    "minilm-l12",
    "electra-small",
    "bert-tiny",
];

/// The settings of `headstart auto`, with a model that is on this machine.
pub fn auto(args: AutoArgs) -> Result<Run<AutoConfig>> {
    let AutoArgs {
        data,
        model,
        base: below,
        out,
        resume,
        max_time,
        thorough,
        best_metric,
        seed,
        problem,
        num_classes,
        precision,
        threads,
        device,
        json,
        verbose,
        reading,
        group_column,
        columns,
        places,
    } = args;
    let saved = resume
        .as_deref()
        .map(|dir| file::saved::<AutoConfig, FinetuneConfig>(dir, ("auto", "finetune")))
        .transpose()?;
    let is_new = saved.is_none();
    let base = saved.clone().unwrap_or_default();
    let moved = LabelledArgs { data: data.clone(), places: places.clone(), ..LabelledArgs::default() };
    let pace = AutoConfig {
        thorough: thorough || base.thorough,
        threads: threads.unwrap_or(base.threads),
        max_time: max_time.or(base.max_time),
        ..base
    };
    let allowed = saved
        .is_some()
        .then(|| AutoConfig { data: data::labelled_config(moved, pace.data.clone()), ..pace.clone() });
    let given = LabelledArgs { data, max_train_examples: None, group_column, reading, columns, places };
    let mut config = AutoConfig {
        base: match (&model, below) {
            (_, Some(below)) => Some(data::absolute_path(below)),
            // Another model has another one below it.
            (Some(_), None) => None,
            (None, None) => pace.base,
        },
        model: model.map(data::absolute_path).or(pace.model),
        data: data::labelled_config(given, pace.data),
        seed: seed.unwrap_or(pace.seed),
        problem: problem.unwrap_or(pace.problem),
        num_classes: num_classes.or(pace.num_classes),
        best_metric: best_metric.or(pace.best_metric),
        precision: precision.or(pace.precision),
        ..pace
    };
    run::check_continued(allowed.as_ref(), &config)?;
    config.validate()?;
    data::fill_cache_dir(&mut config.data)?;
    let places = places_of(&config.data);
    (config.model, config.base) = match (config.model.take(), config.base.take()) {
        (Some(name), base) => {
            let (model, base) = model_and_base(name, base, places)?;
            (Some(model), base)
        }
        (None, Some(base)) => return Err(nothing_above(&base)),
        (None, None) if is_new => (Some(at_hand(&places)?), None),
        (None, None) => (None, None),
    };
    let writes = RunArgs {
        config: None,
        out,
        resume: resume.map(Some),
        allow_other_groups: false,
        json,
        verbose,
        device,
    };
    let (options, telling) = run::options(writes, "auto", &config.data, &Ranks::default())?;
    Ok(Run { config, options, telling })
}

/// A base without what stands above it.
fn nothing_above(base: &Path) -> anyhow::Error {
    let base = base.display();
    Usage(format!("--base {base}: no adapter is named that it is below\n  fix: name that: --model ADAPTER; or name the whole model alone: --model {base}")).into()
}

/// The best model that is on this machine: one in the cache, or else the one in the program.
fn at_hand(places: &PlaceArgs) -> Result<PathBuf> {
    // Nothing is fetched that nobody asked for.
    let places = PlaceArgs { offline: Some(true), ..places.clone() };
    let options = hub_options(places.clone())?;
    for name in BEST {
        if hub::describe(name, &options)?.is_some_and(|known| known.found.is_some()) {
            progress::say(&format!("no model is named: {name} is taken, which is in the cache"));
            return model_folder(name.into(), places);
        }
    }
    model_folder(shipped::NAME.into(), places)
}
