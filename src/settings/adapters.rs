//! The adapters that are named on the command line.
//!
//! Owns: what each is called, and the columns that all of them read. Never: opens one.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use headstart::checkpoint::adapter_in;
use headstart::data::rows::TextFields;

use super::{TrainedColumns, Usage, model_folder, trained_columns};
use crate::args::{AdapterArgs, PlaceArgs};

/// An adapter, by the name that its answers have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedAdapter {
    /// Its name.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
}

/// Adapters and their names, which all differ; none where none is asked for.
pub fn named_adapters(
    args: AdapterArgs,
    base: Option<&Path>,
    places: &PlaceArgs,
) -> Result<Vec<NamedAdapter>> {
    let AdapterArgs { adapters } = args;
    if let Some(base) = base.filter(|_| !adapters.is_empty()) {
        return Err(Usage(format!(
            "--base {}: with --adapter, RUN is the model below\n  fix: name that model as RUN, and leave --base out",
            base.display()
        ))
        .into());
    }
    let mut named: Vec<NamedAdapter> = Vec::new();
    for text in adapters {
        let (name, path) = match text.split_once('=').filter(|_| !Path::new(&text).exists()) {
            Some((name, path)) => (Some(name.to_owned()), PathBuf::from(path)),
            None => (None, PathBuf::from(&text)),
        };
        // A name without an owner is one of a model, and adapters have none.
        if !path.exists() && path.components().count() == 1 {
            return Err(Usage(format!(
                "--adapter {text}: there is no such folder\n  fix: name the folder of an adapter (a run's, its final/adapter, one of PEFT's or \
                 AdapterHub's), or owner/name of the Hugging Face hub"
            ))
            .into());
        }
        let path = model_folder(path, places.clone()).with_context(|| format!("--adapter {text}"))?;
        let name = name.unwrap_or_else(|| name_of(&path));
        if name.is_empty() || named.iter().any(|other| other.name == name) {
            let what = if name.is_empty() { "has no name" } else { "has the name of another one" };
            return Err(Usage(format!(
                "--adapter {text}: it {what}{}\n  fix: give each a name: --adapter NAME={}",
                if name.is_empty() { String::new() } else { format!(", {name}") },
                path.display()
            ))
            .into());
        }
        let folder = adapter_in(&path).unwrap_or(path);
        named.push(NamedAdapter { name, folder });
    }
    Ok(named)
}

/// What a folder is called: itself, or the run that it is in.
fn name_of(path: &Path) -> String {
    let inside = |name: &&str| !matches!(*name, "adapter" | "final" | "." | "..");
    let parts: Vec<&str> = path.iter().filter_map(|part| part.to_str()).collect();
    let own = parts.iter().rev().find(|name| inside(name)).or(parts.last());
    own.map(|name| (*name).to_owned()).unwrap_or_default()
}

/// The columns that the runs of adapters read: the texts' of all of them. Each has a label of its own.
pub fn trained_columns_of_all(adapters: &[NamedAdapter]) -> Result<TrainedColumns> {
    let mut found: Option<(&str, TrainedColumns)> = None;
    for NamedAdapter { name, folder } in adapters {
        let fields = TrainedColumns { label: None, ..trained_columns(folder) };
        if !matches!(fields.text, TextFields::Named(_)) {
            continue;
        }
        match &found {
            Some((other, known)) if *known != fields => {
                return Err(Usage(format!(
                    "--adapter: {other} and {name} were trained on columns of other names\n  fix: name those to read: --text_column"
                ))
                .into());
            }
            _ => found = Some((name, fields)),
        }
    }
    Ok(found.map(|(_, fields)| fields).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(adapters: &[&str]) -> Result<Vec<String>> {
        let folder = tempfile::tempdir()?;
        let path = |text: &&str| text.replace("HERE", &folder.path().display().to_string());
        for text in adapters {
            let path = path(text);
            std::fs::create_dir_all(path.split_once('=').map_or(&*path, |(_, path)| path))?;
        }
        let args = AdapterArgs { adapters: adapters.iter().map(path).collect() };
        let named = named_adapters(args, None, &PlaceArgs::default())?;
        Ok(named.into_iter().map(|adapter| adapter.name).collect())
    }

    #[test]
    fn adapters_are_called_by_their_runs_or_as_one_says() {
        let names = named(&["HERE/topics/final/adapter", "HERE/lora", "HERE/a/final", "b=HERE/a"]).unwrap();
        assert_eq!(names, ["topics", "lora", "a", "b"]);
        let error = named(&["HERE/x/final/adapter", "HERE/x"]).unwrap_err().to_string();
        assert!(error.contains("the name of another one, x") && error.contains("NAME="), "{error}");
        assert!(named(&["=HERE/x"]).unwrap_err().to_string().contains("has no name"));
        let args = AdapterArgs { adapters: vec!["x".into()] };
        let error = named_adapters(args, Some(Path::new("y")), &PlaceArgs::default()).unwrap_err();
        assert!(error.to_string().contains("leave --base out"), "{error}");
        for text in ["nothere", "b=nothere"] {
            let args = AdapterArgs { adapters: vec![text.into()] };
            let error = named_adapters(args, None, &PlaceArgs::default()).unwrap_err().to_string();
            assert!(error.contains(&format!("--adapter {text}: there is no such folder")), "{error}");
        }
    }
}
