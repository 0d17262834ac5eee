//! Where text comes from and how it is read.
//!
//! Owns: the table `[data]` of every command, the cache folder and the environment variables for it. Never: reads data.

use std::env;
use std::path::PathBuf;

use anyhow::Result;
use headstart::config::{DataConfig, TextColumns};
use headstart::data::catalog::Locations;
use headstart::data::source::is_local;

use super::Usage;
use crate::args::{ColumnArgs, LabelledArgs, PlaceArgs, ReadingArgs, SourceArgs, TokenizerArgs};

/// The data of `headstart eval` (whose tokenizer is the model's), `data prepare` and `data inspect`.
pub fn data_config(
    data: String,
    tokenizer: Option<TokenizerArgs>,
    reading: ReadingArgs,
    columns: ColumnArgs,
    places: PlaceArgs,
) -> Result<DataConfig> {
    let flags = Flags {
        data: Some(data),
        tokenizer: tokenizer.unwrap_or_default(),
        reading,
        columns,
        max_train_examples: None,
        group_column: None,
        places,
    };
    let mut config = flags.over(DataConfig::default());
    fill_cache_dir(&mut config)?;
    Ok(config)
}

/// Text without labels.
pub fn source_config(args: SourceArgs, base: DataConfig) -> DataConfig {
    let SourceArgs { data, text_column, tokenizer, reading, places } = args;
    let columns = ColumnArgs { text_column, ..ColumnArgs::default() };
    Flags { data, tokenizer, reading, columns, max_train_examples: None, group_column: None, places }
        .over(base)
}

/// Labelled text.
pub fn labelled_config(args: LabelledArgs, base: DataConfig) -> DataConfig {
    let LabelledArgs { data, max_train_examples, group_column, reading, columns, places } = args;
    let tokenizer = TokenizerArgs::default();
    Flags { data, tokenizer, reading, columns, max_train_examples, group_column, places }.over(base)
}

/// What some command can be told about its data.
struct Flags {
    data: Option<String>,
    tokenizer: TokenizerArgs,
    reading: ReadingArgs,
    columns: ColumnArgs,
    max_train_examples: Option<usize>,
    group_column: Option<String>,
    places: PlaceArgs,
}

impl Flags {
    fn over(self, base: DataConfig) -> DataConfig {
        let Self { data, tokenizer, reading, columns, max_train_examples, group_column, places } = self;
        let TokenizerArgs { tokenizer, lowercase } = tokenizer;
        let ReadingArgs { encoding } = reading;
        let ColumnArgs { delimiter, header, text_column, label_column } = columns;
        let PlaceArgs { cache_dir, mirror, offline } = places;
        DataConfig {
            path: data.map_or(base.path, absolute),
            tokenizer: tokenizer.map(absolute).or(base.tokenizer),
            lowercase: lowercase.unwrap_or(base.lowercase),
            encoding: encoding.or(base.encoding),
            cache_dir: cache_dir.or(base.cache_dir),
            mirror: mirror.or(base.mirror),
            offline: offline.unwrap_or(base.offline),
            delimiter: delimiter.or(base.delimiter),
            header: header.or(base.header),
            text_column: text_column.map(TextColumns::Typed).or(base.text_column),
            label_column: label_column.or(base.label_column),
            group_column: group_column.or(base.group_column),
            max_train_examples: max_train_examples.or(base.max_train_examples),
        }
    }
}

/// A file's or folder's path as it is from anywhere, so that a run can be continued from another folder; the name of a
/// data set and an address as they are.
pub fn absolute(name: String) -> String {
    if !is_local(&name) {
        return name;
    }
    // A configuration holds text; a folder whose name is none leaves the path as it was given.
    absolute_path(PathBuf::from(&name)).into_os_string().into_string().unwrap_or(name)
}

/// As [`absolute`], of a file or folder; what is not there stays as it was typed, for the error that follows.
pub fn absolute_path(path: PathBuf) -> PathBuf {
    if path.exists() { std::path::absolute(&path).unwrap_or(path) } else { path }
}

/// Where named data is looked for, by flags alone.
pub fn locations(places: PlaceArgs) -> Result<Locations> {
    let PlaceArgs { cache_dir, mirror, offline } = places;
    let cache_dir = cache_dir.map_or_else(default_cache_dir, Ok)?;
    Ok(Locations { cache_dir, offline: offline.unwrap_or(false), mirror })
}

/// The folder for downloads and token caches when none is named.
pub fn default_cache_dir() -> Result<PathBuf> {
    let variable = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(dir) = variable("HEADSTART_CACHE") {
        return Ok(dir);
    }
    let caches = if cfg!(windows) {
        variable("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        variable("HOME").map(|home| home.join("Library/Caches"))
    } else {
        // A relative path there is to be ignored, says the XDG specification.
        let xdg = variable("XDG_CACHE_HOME").filter(|dir| dir.is_absolute());
        xdg.or_else(|| variable("HOME").map(|home| home.join(".cache")))
    };
    caches.map(|dir| dir.join("headstart")).ok_or_else(|| {
        Usage(
            "no home folder to put a cache into\n  fix: name one with --cache_dir DIR or HEADSTART_CACHE"
                .into(),
        )
        .into()
    })
}

/// Names the cache folder where nothing else does.
pub fn fill_cache_dir(config: &mut DataConfig) -> Result<()> {
    match &config.cache_dir {
        None => config.cache_dir = Some(default_cache_dir()?),
        // The tutorial's cache was a file.
        Some(path) if path.is_file() => {
            return Err(Usage(format!(
                "--cache_dir {}: this is a file, and the cache is a folder\n  fix: leave it out, or name a folder",
                path.display()
            ))
            .into());
        }
        Some(_) => {}
    }
    Ok(())
}
