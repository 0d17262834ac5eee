//! `headstart eval`. Owns: how the metrics read. Never: the metrics.

use std::process::ExitCode;

use anyhow::Result;
use headstart::checkpoint::ModelPath;
use headstart::data::rows::TextFields;
use headstart::eval::Evaluation;
use headstart::evaluate::{EvaluateConfig, evaluate};

use crate::args::{ComputeArgs, EvalArgs};
use crate::metrics::{sureness, tables};
use crate::output;
use crate::progress::{Progress, Verbosity};
use crate::ranks::{self, Ranks};
use crate::settings;

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
    let (run, base) = ranks.one_first(|| settings::model_and_base(run, below.base, places))?;
    if data.text_column.is_none()
        && let TextFields::Named(columns) = settings::text_fields_of(&run)
    {
        data.text_column = Some(columns);
    }
    let collective = ranks.collective.clone();
    let long_texts = long.long_texts();
    let config = EvaluateConfig {
        data,
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
    let evaluation = evaluate(ModelPath { path: &run, base: base.as_deref() }, &config, &mut |event| {
        progress.listen(&event)
    });
    progress.finish();
    let evaluation = evaluation?;
    if !ranks.collective.leads() {
        return Ok(ExitCode::SUCCESS);
    }
    if json {
        output::json_line(&evaluation)?;
    } else {
        let Evaluation { split, metrics, confusion, labels, examples, intervals, temperature, .. } =
            &evaluation;
        let table = metrics.iter().map(|(name, value)| (format!("{split}/{name}"), *value)).collect();
        let mut text = tables(&table, confusion.as_deref(), labels);
        if let Some(line) = sureness(metrics, intervals, *examples) {
            text.push_str(&format!("{split}: {line}\n"));
        }
        if let Some(temperature) = temperature {
            text.push_str(&format!("..._calibrated: at the temperature of the model, {temperature:.3}\n"));
        }
        output::text(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}
