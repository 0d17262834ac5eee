//! `headstart eval`. Owns: how the figures read. Never: the figures.

use std::process::ExitCode;

use anyhow::Result;
use headstart::evaluate::{EvaluateConfig, evaluate};

use super::metrics_text;
use crate::args::{ComputeArgs, EvalArgs};
use crate::output;
use crate::progress::Progress;
use crate::settings;

/// Runs it.
pub fn run(args: EvalArgs) -> Result<ExitCode> {
    let EvalArgs { run, data, split, language_model, reading, columns, places, compute, json } = args;
    let ComputeArgs { precision, threads, device } = compute;
    let device = settings::devices::choice(device);
    let data = settings::data_config(data, None, reading, columns, places)?;
    let config = EvaluateConfig { data, split, language_model, precision, threads, device };
    let mut progress = Progress::new();
    let evaluation = evaluate(&run, &config, &mut |event| progress.listen(&event));
    progress.finish();
    let evaluation = evaluation?;
    if json {
        output::json_line(&evaluation)?;
    } else {
        let mut text = format!("split: {}\n{}", evaluation.split, metrics_text(&evaluation.metrics));
        if let Some(matrix) = &evaluation.confusion {
            text.push_str(&output::confusion(matrix, &evaluation.labels));
        }
        output::text(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}
