//! `headstart export`. Owns: what it says. Never: what is written.

use std::process::ExitCode;

use anyhow::Result;
use headstart::checkpoint::{ExportForm, Exported, export, export_peft};

use crate::args::{ExportArgs, ExportTarget};
use crate::settings::Usage;
use crate::{output, progress, settings};

/// Runs it.
pub fn run(args: ExportArgs) -> Result<ExitCode> {
    let ExportArgs { run, to, output: folder, base, with_code, pooling, normalize, places, json } = args;
    check_flags(to, with_code, pooling.is_some() || normalize.is_some(), base.is_some())?;
    progress::exit_on_signal()?;
    let run = settings::model_folder(run, places.clone())?;
    let base = base.map(|base| settings::model_folder(base, places)).transpose()?;
    let exported = match (to, base) {
        (ExportTarget::Peft, Some(base)) => export_peft(&run, &settings::absolute_path(base), &folder)?,
        (ExportTarget::SentenceTransformers, _) => {
            let form = ExportForm::SentenceTransformers { pooling: pooling.map(Into::into), normalize };
            export(&run, form, &folder)?
        }
        _ if with_code => export(&run, ExportForm::TransformersWithCode, &folder)?,
        _ => export(&run, ExportForm::Transformers, &folder)?,
    };
    if json {
        output::json_line(&exported)?;
    } else {
        let Exported { folder, chosen, architecture, tensors, parameters, merged, temperature } = &exported;
        let (folder, whose) = (folder.display(), if chosen.is_empty() { "the model" } else { chosen });
        output::text(&format!(
            "{folder}: {whose} as {architecture}, {parameters} parameters in {tensors} tensors\n"
        ))?;
        if let Some(difference) = merged {
            output::text(&format!(
                "low-rank updates merged; largest difference of an output on a fixed input: {difference:.1e}\n"
            ))?;
        }
        if let Some(temperature) = temperature {
            output::text(&format!(
                "temperature {temperature:.3} is in the classifier's weights: probabilities are those of predict\n"
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses flags that say nothing of what is written.
fn check_flags(to: ExportTarget, with_code: bool, of_vectors: bool, based: bool) -> Result<()> {
    let what = match to {
        ExportTarget::Hf | ExportTarget::Peft if of_vectors => {
            "--pooling and --normalize are of vectors, which --to hf and --to peft say nothing of\n  fix: leave them out, or use \
             --to sentence-transformers"
        }
        ExportTarget::SentenceTransformers | ExportTarget::Peft if with_code => {
            "--with-code goes with --to hf\n  fix: leave it out, or use --to hf"
        }
        ExportTarget::Peft if !based => {
            "PEFT has updates beside the model they are of\n  fix: name the model that the run started from: --base MODEL"
        }
        ExportTarget::Hf | ExportTarget::SentenceTransformers if based => {
            "--base goes with --to peft\n  fix: leave it out, or use --to peft"
        }
        _ => return Ok(()),
    };
    Err(Usage(what.into()).into())
}
