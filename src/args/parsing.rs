//! From words to clap structs: both spellings of flags, names of library enums, defaults in the help.
//!
//! Owns: how arguments are read, and how flags are spelled: as their fields, with underscores. Never: which arguments
//! there are.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::str::FromStr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{CommandFactory, FromArgMatches};
use headstart::config::{Budget, FinetuneConfig, PretrainConfig};
use serde::de::value::{Error as NameError, StringDeserializer};
use serde::de::{DeserializeOwned, Error as _, IntoDeserializer, Visitor};
use serde::{Deserializer, Serialize, forward_to_deserialize_any};

use super::{Cli, Command};

/// Parses a command line, program name included.
///
/// # Errors
/// clap's, which also stands for `--help` and `--version`.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, clap::Error> {
    let matches = command().try_get_matches_from(arguments.into_iter().map(underscored))?;
    Ok(Cli::from_arg_matches(&matches)?.command)
}

/// The whole command, with flags spelled as their fields and the library's defaults in the help texts.
fn command() -> clap::Command {
    let with_all_defaults = |command: clap::Command| {
        command
            .mut_subcommand("pretrain", |c| with_defaults(c, &PretrainConfig::default()))
            .mut_subcommand("finetune", |c| with_defaults(c, &FinetuneConfig::default()))
    };
    with_all_defaults(with_underscores(Cli::command())).mut_subcommand("plan", with_all_defaults)
}

/// Spells every flag as the key it is, where clap's own habit is dashes.
fn with_underscores(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| match arg.get_long().map(|name| name.replace('-', "_")) {
        // A number below 0 is a value, which may be out of range, and no flag.
        Some(name) => arg.long(name).allow_negative_numbers(true),
        None => arg,
    });
    command.mut_subcommands(with_underscores)
}

/// Adds `[default: ...]` to the help of every flag whose key has a default.
fn with_defaults(command: clap::Command, config: &impl Serialize) -> clap::Command {
    let defaults = toml::Table::try_from(config).map(|table| flag_values(&table)).unwrap_or_default();
    command.mut_args(|arg| match (defaults.get(arg.get_id().as_str()), arg.get_help().cloned()) {
        (Some(value), Some(help)) => arg.help(format!("{help} [default: {value}]")),
        _ => arg,
    })
}

/// The values of a configuration by flag: the names of the keys, without their tables.
pub fn flag_values(table: &toml::Table) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    for (key, value) in table {
        let text = match value {
            toml::Value::Table(inner) => {
                let mut inner = flag_values(inner);
                // The one flag that is not called like its key.
                if let (Some(path), "data") = (inner.remove("path"), key.as_str()) {
                    inner.insert("data".into(), path);
                }
                values.extend(inner);
                continue;
            }
            toml::Value::String(text) => text.clone(),
            toml::Value::Float(x) => float(*x),
            other => other.to_string(),
        };
        values.insert(key.clone(), text);
    }
    values
}

/// A float as one would type it: one that was an f32 without the digits that f64 adds.
fn float(x: f64) -> String {
    let short = x as f32;
    if f64::from(short).to_bits() == x.to_bits() { short.to_string() } else { x.to_string() }
}

/// `--max-steps=5` as `--max_steps=5`, so that both spellings of every flag are known.
fn underscored(argument: OsString) -> OsString {
    let Some(flag) = argument.to_str().and_then(|text| text.strip_prefix("--")) else { return argument };
    let (name, value) = flag.split_at(flag.find('=').unwrap_or(flag.len()));
    format!("--{}{value}", name.replace('-', "_")).into()
}

/// A value that is one of the names of an enum.
pub fn one_of<T>() -> impl TypedValueParser<Value = T>
where
    T: DeserializeOwned + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(names::<T>()).try_map(|name| {
        let name: StringDeserializer<NameError> = name.into_deserializer();
        T::deserialize(name)
    })
}

/// The names that a type is read by: the variants of an enum, the keys of a struct.
pub fn names<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut names: &'static [&'static str] = &[];
    // Nothing is there to be read, so it always fails; the names were given in asking.
    drop(T::deserialize(NamesOnly(&mut names)));
    names
}

/// Takes down the names that a type asks for.
struct NamesOnly<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for NamesOnly<'_> {
    type Error = NameError;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, NameError> {
        Err(NameError::custom("there are only names"))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NameError> {
        *self.0 = variants;
        self.deserialize_any(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NameError> {
        *self.0 = fields;
        self.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map identifier ignored_any
    }
}

/// The flags of a group.
pub fn flags_of<G: clap::Args>() -> Vec<String> {
    let group = G::augment_args(clap::Command::default());
    group.get_arguments().map(|arg| format!("--{}", arg.get_id())).collect()
}

/// A number of something.
pub fn count<N: FromStr>(text: &str) -> Result<N, String> {
    text.parse().map_err(|_| "use a whole number, 0 or more".into())
}

/// A span of time in seconds: `600`, `90s`, `10m`, `2h`, `1d`.
pub fn seconds(text: &str) -> Result<f64, String> {
    text.parse().or_else(|_| text.parse().map(Budget::seconds))
}

/// A seed that a TOML file can hold, whose numbers have a sign.
pub fn seed() -> impl TypedValueParser<Value = u64> {
    clap::value_parser!(u64).range(0..=i64::MAX as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn help(name: &str) -> String {
        let mut command = command();
        command.find_subcommand_mut(name).unwrap().render_long_help().to_string()
    }

    #[test]
    fn the_command_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn help_shows_the_librarys_defaults() {
        let pretrain = help("pretrain");
        for words in ["[default: 410]", "[default: wikitext-103]", "[default: 0.15]"] {
            assert!(pretrain.contains(words), "{words} is not in {pretrain}");
        }
        let finetune = help("finetune");
        for words in ["[default: auto]", "[default: trec]", "[default: 32]", "[default: 0.02]"] {
            assert!(finetune.contains(words), "{words} is not in {finetune}");
        }
    }

    #[test]
    fn dashes_become_underscores_in_names_only() {
        let cases = [
            ("--max-steps=5", "--max_steps=5"),
            ("--prompt=a-b --c-d", "--prompt=a-b --c-d"),
            ("--", "--"),
            ("-1", "-1"),
            ("my-file", "my-file"),
        ];
        for (typed, meant) in cases {
            assert_eq!(underscored(typed.into()), OsString::from(meant));
        }
    }

    fn of_project(file: &str) -> String {
        std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
    }

    /// The commands that a text shows: lines that begin with the program, or pipe into it.
    fn shown_commands(text: &str) -> Vec<Vec<String>> {
        let lines = text.lines().map(|line| line.split(" #").next().unwrap_or_default().trim());
        let ours = lines.filter_map(|line| {
            let line = line.strip_prefix("Example: ").unwrap_or(line);
            // What a launcher starts.
            let launchers = ["mpirun ", "srun ", "torchrun "];
            let line = match line.find("headstart ") {
                Some(at) if launchers.iter().any(|launcher| line.starts_with(launcher)) => &line[at..],
                _ => line,
            };
            let line = line.split(" || ").next().unwrap_or_default();
            let line = line.rsplit_once(" | ").map_or(line, |(_, last)| last);
            let line = line.split(" > ").next().unwrap_or_default();
            let arguments = line.strip_prefix("headstart ");
            let arguments = arguments.or_else(|| line.strip_prefix("cargo run --release -- "))?;
            arguments.starts_with(|c: char| c.is_ascii_lowercase()).then(|| {
                // Every second piece between quotes is quoted.
                let pieces = arguments.split('\'').enumerate();
                pieces.fold(vec!["headstart".to_owned()], |mut words, (at, piece)| {
                    if at % 2 == 1 {
                        words.push(piece.to_owned());
                    } else {
                        words.extend(piece.split_whitespace().map(str::to_owned));
                    }
                    words
                })
            })
        });
        ours.collect()
    }

    #[test]
    fn every_command_in_readme_docs_and_help_is_understood() {
        let mut texts = vec![super::super::EXAMPLES.to_owned()];
        for name in ["pretrain", "finetune", "eval", "launch", "predict", "features", "export", "generate"] {
            texts.push(help(name));
        }
        let mut plan = command();
        let plan =
            plan.find_subcommand_mut("plan").and_then(|plan| plan.find_subcommand_mut("pretrain")).unwrap();
        texts.push(plan.render_long_help().to_string());
        for file in [
            "README.md",
            "docs/data.md",
            "docs/starter-data.md",
            "docs/distributed.md",
            "docs/scaling.md",
            "docs/deploy/headstart.sbatch",
            "docs/deploy/skypilot.yaml",
            "BENCHMARKS.md",
        ] {
            texts.push(of_project(file));
        }
        let commands: Vec<Vec<String>> =
            texts.iter().flat_map(|text| shown_commands(&text.replace("\\\n", " "))).collect();
        assert!(commands.len() > 25, "only {} commands were found", commands.len());
        for command in commands {
            let parsed = parse(command.iter().map(Into::into));
            assert!(parsed.is_ok(), "{}: {}", command.join(" "), parsed.unwrap_err());
        }
    }

    /// The list of `key: [a, "b", c]`.
    fn flow_list(line: &str, key: &str) -> Option<Vec<String>> {
        let list = line.trim().strip_prefix(key)?.strip_prefix(": [")?.strip_suffix(']')?;
        Some(list.split(", ").map(|word| word.trim_matches('"').to_owned()).collect())
    }

    #[test]
    fn what_manifests_start_is_understood() {
        for file in ["docs/deploy/trainjob-torch.yaml", "docs/deploy/trainjob-mpi.yaml"] {
            let text = of_project(file);
            let lines: Vec<&str> = text.lines().collect();
            let mut started = 0;
            for (command, arguments) in lines.iter().zip(&lines[1..]) {
                let Some(mut words) = flow_list(command, "command") else { continue };
                words.extend(flow_list(arguments, "args").unwrap_or_default());
                let Some(at) = words.iter().position(|word| word == "headstart") else { continue };
                started += 1;
                let parsed = parse(words[at..].iter().map(Into::into));
                assert!(parsed.is_ok(), "{file}: {}: {}", words.join(" "), parsed.unwrap_err());
            }
            assert_eq!(started, 1, "{file}");
        }
    }

    /// What of YAML can be told without a parser: two spaces a level, one level at a time, keys with a value or a block.
    #[test]
    fn manifests_are_indented_as_yaml_is() {
        for file in ["trainjob-torch.yaml", "trainjob-mpi.yaml", "skypilot.yaml"] {
            let text = of_project(&format!("docs/deploy/{file}"));
            let (mut before, mut block) = (0, None);
            for (number, line) in text.lines().enumerate().map(|(number, line)| (number + 1, line)) {
                let content = line.trim_start_matches(' ');
                let mut indent = line.len() - content.len();
                if content.is_empty() || content.starts_with('#') || block.is_some_and(|of| indent > of) {
                    continue;
                }
                block = None;
                assert!(
                    !line.contains('\t') && indent % 2 == 0 && indent <= before + 2,
                    "{file}:{number}: {line}"
                );
                let item = content.strip_prefix("- ");
                indent += if item.is_some() { 2 } else { 0 };
                let entry = item.unwrap_or(content);
                let key = entry.split_once(": ").map_or(entry.strip_suffix(':'), |(key, _)| Some(key));
                assert!(key.is_some() || item.is_some() || entry == "---", "{file}:{number}: {line}");
                let opens = entry.ends_with(':');
                if entry.ends_with('|') {
                    block = Some(indent);
                }
                // Only a key without a value has something below it.
                before = if opens || block.is_some() { indent } else { indent.saturating_sub(2) };
            }
        }
    }

    #[test]
    fn names_of_values_are_those_of_the_enums() {
        assert_eq!(names::<headstart::config::Problem>(), ["single-label", "multi-label", "regression"]);
        assert_eq!(names::<super::super::VocabularyKind>(), ["wordpiece", "bpe"]);
        assert!(names::<headstart::config::DataConfig>().contains(&"cache_dir"));
        for (command, words) in
            [("pretrain", "values: naacl2019, gpt2"), ("finetune", "values: cls, pooler, last, mean, max")]
        {
            assert!(help(command).contains(words), "{words}");
        }
    }

    #[test]
    fn every_flag_is_spelled_with_underscores() {
        fn check(command: &clap::Command) {
            for arg in command.get_arguments() {
                let names = arg.get_long().into_iter().chain(arg.get_all_aliases().unwrap_or_default());
                assert!(names.into_iter().all(|name| !name.contains('-')), "{}", arg.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        check(&command());
    }

    #[test]
    fn spans_of_time_are_numbers_of_seconds_or_have_a_unit() {
        for (text, want) in
            [("600", 600.0), ("0.5", 0.5), ("-1", -1.0), ("90s", 90.0), ("4m", 240.0), ("2h", 7_200.0)]
        {
            assert_eq!(seconds(text), Ok(want), "{text}");
        }
        assert!(seconds("4x").unwrap_err().contains("write 90s, 10m, 2h or 1d"));
    }
}
