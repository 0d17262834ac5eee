//! `headstart export`. Owns: what it says. Never: what is written.

use std::process::ExitCode;

use anyhow::Result;
use headstart::checkpoint::{
    ExportForm, Exported, ModelPath, export, export_adapterhub, export_peft, is_adapter,
};

use crate::args::{ExportArgs, ExportTarget};
use crate::settings::Usage;
use crate::{output, progress, settings};

/// Names of tensors that are shown.
const SHOWN: usize = 4;

/// Runs it.
pub fn run(args: ExportArgs) -> Result<ExitCode> {
    let ExportArgs { run, to, output: folder, base, with_code, pooling, normalize, places, json } = args;
    progress::exit_on_signal()?;
    let (run, base) = settings::model_and_base(run, base, places.clone())?;
    let alone = is_adapter(&run);
    // The folder of a run knows what it started from.
    let base = match (to, base) {
        (ExportTarget::Peft | ExportTarget::AdapterHub, None) => settings::trunk_of_run(&run, places)?,
        (_, base) => base,
    };
    let kind = if alone {
        Base::OfAdapter
    } else if base.is_some() {
        Base::Named
    } else {
        Base::Absent
    };
    check_flags(to, with_code, pooling.is_some() || normalize.is_some(), kind)?;
    let model = ModelPath { path: &run, base: base.as_deref().filter(|_| alone) };
    let exported = match (to, &base) {
        (ExportTarget::Peft, Some(base)) => {
            export_peft(&run, &settings::absolute_path(base.clone()), &folder)?
        }
        (ExportTarget::AdapterHub, Some(base)) => {
            export_adapterhub(&run, &settings::absolute_path(base.clone()), &folder)?
        }
        (ExportTarget::SentenceTransformers, _) => {
            let form = ExportForm::SentenceTransformers { pooling: pooling.map(Into::into), normalize };
            export(model, form, &folder)?
        }
        _ if with_code => export(model, ExportForm::TransformersWithCode, &folder)?,
        _ => export(model, ExportForm::Transformers, &folder)?,
    };
    if json {
        output::json_line(&exported)?;
    } else {
        let Exported { folder, chosen, architecture, tensors, parameters, merged, temperature, left } =
            &exported;
        let (folder, whose) = (folder.display(), if chosen.is_empty() { "the model" } else { chosen });
        output::text(&format!(
            "{folder}: {whose} as {architecture}, {parameters} parameters in {tensors} tensors\n"
        ))?;
        if !left.is_empty() {
            let shown: Vec<String> = left.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
            let more = if left.len() > SHOWN { ", ..." } else { "" };
            output::text(&format!(
                "{} tensors of it are left out, for which that has no place: {}{more}\n",
                left.len(),
                shown.join(", ")
            ))?;
        }
        if let Some(difference) = merged {
            output::text(&format!(
                "updates and scales merged; largest difference of an output on a fixed input: {difference:.1e}\n"
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

/// What --base is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Base {
    /// Not given.
    Absent,
    /// Given for a whole model, or known of its run.
    Named,
    /// Given or known, for the folder of an adapter alone.
    OfAdapter,
}

/// Refuses flags that say nothing of what is written.
fn check_flags(to: ExportTarget, with_code: bool, of_vectors: bool, base: Base) -> Result<()> {
    let what = match to {
        ExportTarget::Hf | ExportTarget::Peft | ExportTarget::AdapterHub if of_vectors => {
            "--pooling and --normalize are of vectors, of which --to sentence-transformers alone says something\n  fix: leave them \
             out, or use that"
        }
        ExportTarget::SentenceTransformers | ExportTarget::Peft | ExportTarget::AdapterHub if with_code => {
            "--with-code goes with --to hf\n  fix: leave it out, or use --to hf"
        }
        ExportTarget::Peft | ExportTarget::AdapterHub if base == Base::Absent => {
            "PEFT and AdapterHub have updates beside the model they are of\n  fix: name the model that the run started from: --base MODEL"
        }
        ExportTarget::Hf | ExportTarget::SentenceTransformers if base == Base::Named => {
            "--base goes with --to peft and --to adapterhub\n  fix: leave it out, or use one of these"
        }
        _ => return Ok(()),
    };
    Err(Usage(what.into()).into())
}
