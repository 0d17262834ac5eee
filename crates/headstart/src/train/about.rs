//! What a run's report says of where its metrics come from: data, method, model, rate, duration, command.
//!
//! Owns: these words. Never: the metrics, or how the page looks (`report`).

use crate::checkpoint::RunFolder;
use crate::config::{ModelConfig, TrainConfig};
use crate::error::Result;
use crate::files::published_name;
use crate::report::Table;
use crate::train::{Running, Summary, Training, share, thousands};

impl Training<'_> {
    /// The table of the report.
    pub(super) fn about(&self, running: &Running<'_>, summary: &Summary) -> Result<Table> {
        // What differs between pretraining and fine-tuning stands in the settings, and is the same in a continued run.
        let settings = RunFolder::settings(self.folder.dir())?;
        let settings: toml::Table = toml::from_str(&settings).unwrap_or_default();
        let table = self.model.table();
        let seconds = running.elapsed_before_s + running.started.elapsed().as_secs_f64();
        let rows = [
            ("data", self.data_line(running)),
            ("method", method(&settings)),
            ("started from", origin(&settings)),
            ("model", model(&self.files.config)),
            (
                "parameters",
                format!(
                    "{}, {} trained{}",
                    thousands(table.len()),
                    thousands(table.trainable_len()),
                    share(table.trainable_len(), table.len())
                ),
            ),
            ("learning rate", rate(self.config)),
            ("batch", batch(self.config)),
            (
                "duration",
                format!("{}, {} threads, {}", duration(seconds), self.device.threads(), self.device_name()),
            ),
            ("a bag of words", summary.bow.map_or_else(String::new, |bar| bar.to_string())),
            ("command", command(&self.folder.command())),
        ];
        let rows = rows.into_iter().filter(|(_, what)| !what.is_empty());
        Ok(Table {
            title: "This run".into(),
            rows: rows.map(|(name, what)| vec![name.to_owned(), what]).collect(),
            ..Table::default()
        })
    }

    fn data_line(&self, running: &Running<'_>) -> String {
        let splits = [
            ("validation", self.valid.as_ref().map(|split| split.examples.len())),
            ("test", self.test.as_ref().map(|split| split.examples.len())),
        ];
        let mut line =
            format!("{}: {} training", last_part(&self.data), thousands(running.batches.train().len()));
        for (name, count) in splits {
            if let Some(count) = count {
                line = format!("{line}, {} {name}", thousands(count));
            }
        }
        // A text is cut into blocks, an example of its own is not.
        line + if self.files.config.head.is_some() { " examples" } else { " blocks of text" }
    }

    /// The device's name, as in the line a run begins with.
    pub(super) fn device_name(&self) -> String {
        if self.device.is_cuda() { self.device.name() } else { self.device.code_path().to_owned() }
    }
}

fn method(settings: &toml::Table) -> String {
    let word = |key: &str| settings.get(key).and_then(toml::Value::as_str).unwrap_or_default();
    match (word("method"), word("objective")) {
        ("", "mlm") => "pretraining: masked tokens".to_owned(),
        ("", _) => "pretraining: next token".to_owned(),
        ("full", _) => "fine-tuning: all parameters".to_owned(),
        ("head", _) => "fine-tuning: the head on a frozen model".to_owned(),
        ("lora", _) => "fine-tuning: low-rank updates and head on a frozen model".to_owned(),
        ("ia3", _) => "fine-tuning: scales and head on a frozen model".to_owned(),
        ("bitfit", _) => "fine-tuning: biases and head of a model".to_owned(),
        ("contrastive", _) => {
            "fine-tuning: the trunk on pairs of texts, then a linear head on its vectors".to_owned()
        }
        (other, _) => format!("fine-tuning: {other} and head on a frozen model"),
    }
}

/// The model a fine-tuning builds on.
fn origin(settings: &toml::Table) -> String {
    let parent = settings.get("model").and_then(toml::Value::as_str).map(named);
    let scratch = settings.get("from_scratch").and_then(toml::Value::as_bool) == Some(true);
    match parent {
        None => "random weights".to_owned(),
        Some(parent) if scratch => format!("random weights, with the sizes of {parent}"),
        Some(parent) => parent,
    }
}

fn model(config: &ModelConfig) -> String {
    let ModelConfig { num_layers, embed_dim, hidden_dim, num_heads, num_max_positions, vocab_size, .. } =
        config;
    let arch = serde_json::to_value(config.arch).ok();
    let arch = arch.as_ref().and_then(serde_json::Value::as_str).unwrap_or_default();
    format!(
        "{arch} layout, {num_layers} layers, {embed_dim} wide ({hidden_dim} inside), {num_heads} heads, \
         {num_max_positions} positions, vocabulary of {}",
        thousands(*vocab_size)
    )
}

fn rate(config: &TrainConfig) -> String {
    let schedule = config.curve().name();
    let floor = config.lr_floor.map(|floor| format!(" to {floor} of it")).unwrap_or_default();
    format!("{:e} after {} warm-up steps, {schedule} schedule{floor}", config.peak_lr(), config.warmup())
}

fn batch(config: &TrainConfig) -> String {
    let clip = if config.clip() > 0.0 { format!(", clip {}", config.clip()) } else { String::new() };
    format!("{} sequences a step{clip}, seed {}", config.global_batch(), config.seed)
}

/// A command line without the place of the program.
fn command(line: &str) -> String {
    match line.split_once(' ') {
        Some((program, rest)) if !program.contains(['\'', '"']) => format!("{} {rest}", last_part(program)),
        _ => line.to_owned(),
    }
}

/// A run's or a model's name: the last part of its path that is not the same for all of them.
pub(super) fn named(path: &str) -> String {
    if let Some(name) = published_name(path) {
        return name;
    }
    let same_for_all = |part: &&str| ["final", "checkpoints"].contains(part) || part.starts_with("step-");
    let parts: Vec<&str> = path.split(['/', '\\']).filter(|part| !part.is_empty()).collect();
    let start = parts.iter().rposition(|part| !same_for_all(part)).unwrap_or(0);
    parts[start..].join("/")
}

/// The last part of a path.
pub(super) fn last_part(path: &str) -> &str {
    path.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or(path)
}

/// Seconds for people: `12 s`, `3 min 05 s`, `2 h 07 min`.
fn duration(seconds: f64) -> String {
    match seconds.max(0.0).round() as u64 {
        s @ 0..60 => format!("{s} s"),
        s @ 60..3_600 => format!("{} min {:02} s", s / 60, s % 60),
        s => format!("{} h {:02} min", s / 3_600, s / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_named_by_its_last_part_that_says_something() {
        assert_eq!(named("runs/trunk"), "trunk");
        assert_eq!(named("/data/runs/trunk/final/"), "trunk/final");
        assert_eq!(named("runs/a/checkpoints/step-00000200"), "a/checkpoints/step-00000200");
        assert_eq!(named("final"), "final");
        assert_eq!(named("/c/hub/models--a--b/snapshots/0123"), "a/b");
        assert_eq!(
            [last_part("/data/my/rows.csv"), last_part("trec"), last_part("folder/")],
            ["rows.csv", "trec", "folder"]
        );
    }

    #[test]
    fn settings_say_how_a_run_began() {
        let said = |text: &str| {
            let settings = toml::from_str(text).unwrap();
            (method(&settings), origin(&settings))
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            said("objective = 'mlm'\n[model]\n"),
            pair("pretraining: masked tokens", "random weights")
        );
        assert_eq!(
            said("method = 'full'\nmodel = 'runs/trunk'\nfrom_scratch = true"),
            pair("fine-tuning: all parameters", "random weights, with the sizes of trunk")
        );
        assert_eq!(
            said("method = 'adapters'\nmodel = 'runs/trunk'\nfrom_scratch = false"),
            pair("fine-tuning: adapters and head on a frozen model", "trunk")
        );
    }

    #[test]
    fn a_command_is_shown_as_it_was_typed_but_for_the_place_of_the_program() {
        assert_eq!(command("/usr/bin/headstart finetune --data x"), "headstart finetune --data x");
        assert_eq!(command("headstart quickstart"), "headstart quickstart");
        assert_eq!(command("'/my tools/headstart' data"), "'/my tools/headstart' data");
        assert_eq!(command(""), "");
    }

    #[test]
    fn durations_are_readable() {
        assert_eq!([0.4, 61.0, 7_620.0].map(duration), ["0 s", "1 min 01 s", "2 h 07 min"]);
    }
}
