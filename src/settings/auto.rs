//! `headstart auto`.
//!
//! Owns: its layers, and which model is taken where none is named. Never: ranges, or which rungs there are.

use std::path::PathBuf;

use anyhow::Result;
use headstart::config::{AutoConfig, FinetuneConfig};
use headstart::hub;

use super::run::{self, Run};
use super::{data, file, hub_options, model_folder, places_of};
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

/// The settings of `headstart auto`, with a model that is on this machine, if any.
pub fn auto(args: AutoArgs) -> Result<Run<AutoConfig>> {
    let AutoArgs {
        data,
        model,
        out,
        resume,
        max_time,
        thorough,
        seed,
        problem,
        num_classes,
        precision,
        threads,
        device,
        json,
        verbose,
        reading,
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
    let given = LabelledArgs { data, max_train_examples: None, reading, columns, places };
    let mut config = AutoConfig {
        model: model.map(data::absolute_path).or(pace.model),
        data: data::labelled_config(given, pace.data),
        seed: seed.unwrap_or(pace.seed),
        problem: problem.unwrap_or(pace.problem),
        num_classes: num_classes.or(pace.num_classes),
        precision: precision.unwrap_or(pace.precision),
        ..pace
    };
    run::check_continued(allowed.as_ref(), &config)?;
    config.validate()?;
    data::fill_cache_dir(&mut config.data)?;
    let places = places_of(&config.data);
    config.model = match config.model.take() {
        Some(name) => Some(model_folder(name, places)?),
        None if is_new => in_cache(&places)?,
        None => None,
    };
    let writes = RunArgs {
        config: None,
        out,
        resume: resume.map(Some),
        allow_other_groups: false,
        json,
        verbose,
        device: Some(device),
    };
    let (options, telling) = run::options(writes, "auto", &config.data, &Ranks::default())?;
    Ok(Run { config, options, telling })
}

/// The best model that is on this machine.
fn in_cache(places: &PlaceArgs) -> Result<Option<PathBuf>> {
    // Nothing is fetched that nobody asked for.
    let places = PlaceArgs { offline: Some(true), ..places.clone() };
    let options = hub_options(places.clone())?;
    for name in BEST {
        if hub::describe(name, &options)?.is_some_and(|known| known.found.is_some()) {
            progress::say(&format!("no model is named: {name} is taken, which is in the cache"));
            return model_folder(name.into(), places).map(Some);
        }
    }
    Ok(None)
}
