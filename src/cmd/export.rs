//! `headstart export`. Owns: what it says. Never: what is written.

use std::process::ExitCode;

use anyhow::Result;
use headstart::checkpoint::{ExportForm, Exported, export};

use crate::args::{ExportArgs, ExportTarget};
use crate::settings::Usage;
use crate::{output, progress, settings};

/// Runs it.
pub fn run(args: ExportArgs) -> Result<ExitCode> {
    let ExportArgs { run, to, output: folder, with_code, pooling, normalize, places, json } = args;
    let form = match to {
        ExportTarget::Hf if pooling.is_some() || normalize.is_some() => {
            let what = "--pooling and --normalize are of vectors, which --to hf says nothing of\n  fix: leave them out, \
                        or use --to sentence-transformers";
            return Err(Usage(what.into()).into());
        }
        ExportTarget::SentenceTransformers if with_code => {
            let what = "--with-code goes with --to hf\n  fix: leave it out, or use --to hf";
            return Err(Usage(what.into()).into());
        }
        ExportTarget::Hf if with_code => ExportForm::TransformersWithCode,
        ExportTarget::Hf => ExportForm::Transformers,
        ExportTarget::SentenceTransformers => {
            ExportForm::SentenceTransformers { pooling: pooling.map(Into::into), normalize }
        }
    };
    progress::exit_on_signal()?;
    let run = settings::model_folder(run, places)?;
    let exported = export(&run, form, &folder)?;
    if json {
        output::json_line(&exported)?;
    } else {
        let Exported { folder, chosen, architecture, tensors, parameters, merged } = &exported;
        let (folder, whose) = (folder.display(), if chosen.is_empty() { "the model" } else { chosen });
        output::text(&format!(
            "{folder}: {whose} as {architecture}, {parameters} parameters in {tensors} tensors\n"
        ))?;
        if let Some(difference) = merged {
            output::text(&format!(
                "low-rank updates merged; largest difference of an output on a fixed input: {difference:.1e}\n"
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
