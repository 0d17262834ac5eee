//! The settings file: `--config run.toml`, and the `config.toml` a run saved.
//!
//! Owns: reading TOML strictly, saying where it is wrong, and laying a file over other settings. Never: flags.

use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::Result;
use headstart::Error;
use headstart::checkpoint::RunFolder;
use headstart::config::{ModelConfig, TextColumns};
use headstart::data::rows::TextFields;
use headstart::files::read_regular;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use toml::de::{DeTable, DeValue};

use super::Usage;

/// A file's keys, checked against a configuration.
struct Settings {
    table: toml::Table,
    preset: Option<String>,
}

/// `base`, then the preset (the flag's, or else the file's), then the file.
pub fn layered<C: Serialize + DeserializeOwned>(
    mut base: C,
    path: Option<&Path>,
    preset: Option<&str>,
    apply_preset: impl FnOnce(&mut C, &ModelConfig),
) -> Result<C> {
    let file = path.map(read::<C>).transpose()?;
    let preset = preset.or_else(|| file.as_ref()?.preset.as_deref());
    if let Some(name) = preset {
        apply_preset(&mut base, &ModelConfig::preset(name)?);
    }
    let Some(file) = file else { return Ok(base) };
    let mut table = toml::Table::try_from(&base)?;
    merge(&mut table, file.table);
    Ok(table.try_into()?)
}

/// The settings that the run in `dir` was started with. `names` are the command that continues it and the other one.
pub fn saved<C: DeserializeOwned, Other: DeserializeOwned>(
    dir: &Path,
    (command, other): (&str, &str),
) -> Result<C> {
    let path = dir.join("config.toml");
    if !path.is_file() {
        return Err(Usage(format!(
            "--resume {}: there is no run in this folder (it has no config.toml)\n  fix: name the folder of a run",
            dir.display()
        ))
        .into());
    }
    let text = RunFolder::settings(dir)?;
    match parse::<C>(&path, &text) {
        Ok(Settings { table, preset: _ }) => Ok(table.try_into()?),
        Err(_) if parse::<Other>(&path, &text).is_ok() => Err(Usage(format!(
            "--resume {}: this is a run of `headstart {other}`\n  fix: headstart {other} --resume {0}",
            dir.display()
        ))
        .into()),
        Err(error) => Err(error.context(format!("cannot `{command}` on from {}", dir.display()))),
    }
}

/// The columns that a model was trained on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrainedColumns {
    /// The fields that hold texts: the columns that its run was told of or found pairs in; for a run without such, one.
    pub text: TextFields,
    /// The label's.
    pub label: Option<String>,
    /// Whether the table's first row named them; `None` where its run was not told.
    pub header: Option<bool>,
}

impl TrainedColumns {
    /// Those that hold for data of which `asked` says whether a first row names columns: a number that stands for a column
    /// without a name says nothing of a table with names, and the other way round.
    pub fn under(self, asked: Option<bool>) -> Self {
        let header = asked.or(self.header);
        if header.unwrap_or(true) == self.header.unwrap_or(true) {
            return Self { header, ..self };
        }
        Self { header, ..Self::default() }
    }
}

/// The columns that the run of a model read. A model is a run's folder, its `final/` or one of its checkpoints; of others
/// nothing is known.
pub fn trained_columns(model: &Path) -> TrainedColumns {
    // What was trained alone stands beside the finished model.
    let model = model
        .parent()
        .filter(|parent| model.ends_with("adapter") && parent.ends_with("final"))
        .unwrap_or(model);
    let run = match model.parent() {
        Some(run) if model.ends_with("final") => run,
        Some(checkpoints) if checkpoints.ends_with("checkpoints") => checkpoints.parent().unwrap_or(model),
        _ => model,
    };
    let text = fs::read_to_string(run.join("config.toml")).ok();
    let Some(mut table) = text.and_then(|text| text.parse::<toml::Table>().ok()) else {
        return TrainedColumns::default();
    };
    let mut data =
        table.remove("data").and_then(|data| data.try_into::<toml::Table>().ok()).unwrap_or_default();
    let columns = data.remove("text_column").and_then(|columns| TextColumns::deserialize(columns).ok());
    TrainedColumns {
        text: columns.map_or(TextFields::DetectOne, TextFields::Named),
        label: data.get("label_column").and_then(|label| label.as_str()).map(str::to_owned),
        header: data.get("header").and_then(toml::Value::as_bool),
    }
}

fn read<C: DeserializeOwned>(path: &Path) -> Result<Settings> {
    let unreadable = |why: String, fix: &str| {
        Usage(format!("cannot read the settings {}: {why}\n  fix: {fix}", path.display()))
    };
    // A pipe would be waited for without end.
    let bytes = read_regular(path).map_err(|e| match e {
        Error::Io { source, .. } => unreadable(source.to_string(), "name a file like a run's config.toml"),
        other => Usage(other.to_string()),
    })?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let whole = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = whole.iter().filter(|byte| **byte == b'\n').count() + 1;
        unreadable(format!("line {line} is not UTF-8"), "save the file as UTF-8")
    })?;
    parse::<C>(path, &text)
}

fn parse<C: DeserializeOwned>(path: &Path, text: &str) -> Result<Settings> {
    let wrong = |span: Option<Range<usize>>, what: &str| {
        let line = span.map(|s| text.get(..s.start).unwrap_or_default().matches('\n').count());
        let line = line.map(|before| format!(":{}", before + 1)).unwrap_or_default();
        Usage(format!(
            "{}{line}: {}\n  fix: a key is called like its flag; see `headstart pretrain --help` and \
             `headstart finetune --help`",
            path.display(),
            what.trim_end()
        ))
    };
    let mut root = DeTable::parse(text).map_err(|e| wrong(e.span(), e.message()))?;
    let preset = take_preset(root.get_mut()).map_err(|span| wrong(Some(span), "`preset` is a name"))?;
    let checked = C::deserialize(toml::Deserializer::from(root));
    checked.map_err(|e| wrong(e.span(), e.message()))?;
    // A table of values takes less than the types do: no number of more than 63 bits.
    let mut table: toml::Table = text.parse().map_err(|e: toml::de::Error| wrong(e.span(), e.message()))?;
    if let Some(toml::Value::Table(model)) = table.get_mut("model") {
        model.remove("preset");
    }
    Ok(Settings { table, preset })
}

/// `preset` of the table `[model]`: a flag with a key, but no setting of its own, since it stands for sizes.
fn take_preset(root: &mut DeTable<'_>) -> Result<Option<String>, Range<usize>> {
    let Some(model) = root.get_mut("model") else { return Ok(None) };
    let DeValue::Table(model) = model.get_mut() else { return Ok(None) };
    match model.remove("preset") {
        None => Ok(None),
        Some(value) => match value.get_ref() {
            DeValue::String(name) => Ok(Some(name.to_string())),
            _ => Err(value.span()),
        },
    }
}

fn merge(base: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(base)), toml::Value::Table(over)) => merge(base, over),
            (_, value) => drop(base.insert(key, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_says_which_columns_it_read() {
        let folder = tempfile::tempdir().unwrap();
        let of = |settings: &str| {
            fs::write(folder.path().join("config.toml"), settings).unwrap();
            trained_columns(&folder.path().join("final"))
        };
        let typed = |name: &str| TextFields::Named(TextColumns::Typed(name.to_owned()));
        let numbers = of("[data]\nheader = false\ntext_column = \"1\"\nlabel_column = \"2\"\n");
        assert_eq!(numbers.text, typed("1"));
        assert_eq!((numbers.label.as_deref(), numbers.header), (Some("2"), Some(false)));
        assert_eq!(numbers.clone().under(None), numbers);
        // Numbers say nothing of a table with names.
        let other = TrainedColumns { header: Some(true), ..TrainedColumns::default() };
        assert_eq!(numbers.under(Some(true)), other);
        // Runs of before kept no label.
        let old = of("[data]\npath = \"a.csv\"\n");
        let one = TrainedColumns { text: TextFields::DetectOne, ..TrainedColumns::default() };
        assert_eq!(old, one);
        let other = TrainedColumns { header: Some(false), ..TrainedColumns::default() };
        assert_eq!(old.under(Some(false)), other);
        assert_eq!(trained_columns(Path::new("nowhere")), TrainedColumns::default());
    }
}
