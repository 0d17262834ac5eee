//! `headstart eval`. Owns: how the metrics read. Never: the metrics.

use std::process::ExitCode;

use anyhow::Result;
use headstart::checkpoint::ModelPath;
use headstart::data::rows::TextFields;
use headstart::data::source::is_local;
use headstart::eval::Evaluation;
use headstart::evaluate::{EvaluateConfig, evaluate, evaluate_each};
use serde::Serialize;

use crate::args::{ComputeArgs, EvalArgs};
use crate::metrics::{sureness, tables};
use crate::output;
use crate::progress::{Progress, Verbosity};
use crate::ranks::{self, Ranks};
use crate::settings::{self, TrainedColumns};

/// Runs it.
pub fn run(args: EvalArgs) -> Result<ExitCode> {
    let joining = args.ranks.clone();
    ranks::together(&joining, |ranks| measure(args, ranks))
}

fn measure(args: EvalArgs, ranks: &Ranks) -> Result<ExitCode> {
    // The ranks have joined already.
    let EvalArgs {
        run,
        below,
        adapters,
        data,
        split,
        language_model,
        uncalibrated,
        long,
        reading,
        columns,
        places,
        compute,
        json,
        ranks: _,
    } = args;
    let ComputeArgs { precision, threads, device } = compute;
    let device = settings::devices::choice_of_rank(device, ranks);
    let mut data = settings::data_config(data, None, reading, columns, places.clone())?;
    let adapters = ranks.one_first(|| settings::named_adapters(adapters, below.base.as_deref(), &places))?;
    let (run, base) = ranks.one_first(|| settings::model_and_base(run, below.base, places))?;
    let trained = if adapters.is_empty() {
        settings::trained_columns(&run)
    } else if data.text_column.is_none() {
        settings::trained_columns_of_all(&adapters)?
    } else {
        TrainedColumns::default()
    };
    let asked = data.header;
    // A named data set is written as its makers wrote it.
    if is_local(&data.path) {
        data.header = asked.or(trained.header);
    }
    let header = Some(data.header.unwrap_or(true));
    let label = |columns: TrainedColumns| columns.under(header).label;
    let label_columns = if adapters.is_empty() {
        vec![label(trained.clone())]
    } else {
        adapters.iter().map(|adapter| label(settings::trained_columns(&adapter.folder))).collect()
    };
    if data.text_column.is_none()
        && let TextFields::Named(columns) = trained.under(header).text
    {
        data.text_column = Some(columns);
    }
    let collective = ranks.collective.clone();
    let long_texts = long.long_texts();
    let config = EvaluateConfig {
        data,
        label_columns,
        split,
        language_model,
        uncalibrated,
        long_texts,
        precision,
        threads,
        device,
        collective,
    };
    let mut progress = Progress::new(Verbosity::Calm);
    let mut listen = |event: headstart::event::Event<'_>| progress.listen(&event);
    let evaluations = if adapters.is_empty() {
        let place = ModelPath { path: &run, base: base.as_deref() };
        evaluate(place, &config, &mut listen).map(|one| vec![(None, one)])
    } else {
        let folders: Vec<_> = adapters.iter().map(|adapter| adapter.folder.clone()).collect();
        let named = |all: Vec<Evaluation>| {
            adapters.iter().map(|adapter| Some(&*adapter.name)).zip(all).collect::<Vec<_>>()
        };
        evaluate_each(&run, &folders, &config, &mut listen).map(named)
    };
    progress.finish();
    let evaluations = evaluations?;
    if !ranks.collective.leads() {
        return Ok(ExitCode::SUCCESS);
    }
    for (adapter, evaluation) in &evaluations {
        if json {
            output::json_line(&Named { adapter: *adapter, evaluation })?;
        } else {
            let head = adapter.map(|name| format!("adapter {name}\n")).unwrap_or_default();
            output::text(&(head + &text_of(evaluation)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// An evaluation as a program reads it.
#[derive(Serialize)]
struct Named<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    adapter: Option<&'a str>,
    #[serde(flatten)]
    evaluation: &'a Evaluation,
}

/// An evaluation as people read it.
fn text_of(evaluation: &Evaluation) -> String {
    let Evaluation { split, metrics, confusion, labels, examples, intervals, temperature, .. } = evaluation;
    let table = metrics.iter().map(|(name, value)| (format!("{split}/{name}"), *value)).collect();
    let mut text = tables(&table, confusion.as_deref(), labels);
    if let Some(line) = sureness(metrics, intervals, *examples) {
        text.push_str(&format!("{split}: {line}\n"));
    }
    if let Some(temperature) = temperature {
        text.push_str(&format!("..._calibrated: at the temperature of the model, {temperature:.3}\n"));
    }
    text
}
