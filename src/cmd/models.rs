//! `headstart models list|show|pull`: the published models that have a name here.
//!
//! Owns: how they are printed. Never: where they are looked for.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use headstart::checkpoint::{LoadedModel, ModelFiles, load_model};
use headstart::config::PrecisionName;
use headstart::device::DeviceChoice;
use headstart::hub::{self, Description, ENTRIES, Entry, Model, Report};
use headstart::infer::{FeatureExtractor, FeaturePooling, FeaturesConfig};
use headstart::interop::SentenceSettings;
use headstart::shipped;
use serde_json::{Value, json};

use crate::args::{ModelsCommand, ModelsListArgs, ModelsPullArgs, ModelsShowArgs};
use crate::output::{self, bytes};
use crate::progress::{self, Progress, Verbosity};
use crate::settings::{self, Usage};

/// Of numbers of about 0.05, which f32 sums in another order reach.
const LARGEST_DIFFERENCE: f32 = 1e-5;

/// Runs it.
pub fn run(command: ModelsCommand) -> Result<ExitCode> {
    match command {
        ModelsCommand::List(args) => list(args),
        ModelsCommand::Show(args) => show(args),
        ModelsCommand::Pull(args) => pull(args),
    }
}

fn list(args: ModelsListArgs) -> Result<ExitCode> {
    let ModelsListArgs { json, places } = args;
    let options = settings::hub_options(places)?;
    let mut text =
        format!("{:<18} {:<11} {:>10} {:>9}  {:<11}\n", "name", "family", "parameters", "", "licence");
    if json {
        output::json_line(&json!({
            "name": shipped::NAME, "family": shipped::FAMILY, "parameters": shipped::parameters(),
            "weights_bytes": shipped::packed_bytes(), "licence": shipped::LICENCE,
        }))?;
    } else {
        let (parameters, size) = (shipped::parameters(), bytes(shipped::packed_bytes()));
        text += &list_line(
            shipped::NAME,
            shipped::FAMILY,
            parameters,
            &size,
            shipped::LICENCE,
            "in this program",
        );
    }
    for entry in ENTRIES {
        // A folder of the same name, in the folder one stands in, is no model of the catalogue.
        let named = format!("{}@{}", entry.repo(), entry.commit.unwrap_or("main"));
        let found = hub::describe(&named, &options)?.and_then(|description| description.found);
        if json {
            let mut line = entry_json(entry);
            line["folder"] = json!(found.map(|model| model.folder));
            output::json_line(&line)?;
            continue;
        }
        let place = found.map_or("not here", |_| "here");
        let size = bytes(entry.weights_bytes);
        text += &list_line(entry.name(), entry.family, entry.parameters, &size, entry.licence, place);
    }
    let others = hub::others(&options)?;
    if json {
        others.iter().try_for_each(|model| output::json_line(&other_json(model)))?;
    } else {
        if !others.is_empty() {
            text += "\nalso in the Hugging Face cache, by the names they have there:\n";
        }
        text.extend(others.iter().map(other_line));
        output::text(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A model without a short name: what it is, or why it cannot be used.
fn other_json(model: &Model) -> Value {
    let mut line =
        json!({"name": model.repo, "repo": model.repo, "commit": model.commit, "folder": model.folder});
    match opened(model) {
        Ok((family, parameters, weights)) => {
            (line["family"], line["parameters"], line["weights_bytes"]) =
                (family.into(), parameters.into(), weights.into());
        }
        Err(why) => line["unusable"] = why.into(),
    }
    line
}

fn other_line(model: &Model) -> String {
    let name = model.repo.as_deref().unwrap_or_default();
    match opened(model) {
        Ok((family, parameters, weights)) => list_line(name, family, parameters, &bytes(weights), "", "here"),
        Err(why) => format!("{name:<18} cannot be used: {why}\n"),
    }
}

/// A model's family, parameters and bytes of weights.
fn opened(model: &Model) -> Result<(&'static str, u64, u64), String> {
    let found = load_model(&model.folder).and_then(|loaded| {
        let parameters = headstart::model::Model::new(&loaded.files.config)?.table().len();
        Ok((loaded.files.config.arch.name(), parameters as u64))
    });
    let (family, parameters) =
        found.map_err(|e| e.to_string().lines().next().unwrap_or_default().to_owned())?;
    let is_weights = |name: &str| [".safetensors", ".bin"].iter().any(|end| name.ends_with(end));
    Ok((
        family,
        parameters,
        model.files.iter().filter(|file| is_weights(&file.name)).map(|file| file.bytes).sum(),
    ))
}

fn list_line(name: &str, family: &str, parameters: u64, size: &str, licence: &str, place: &str) -> String {
    format!("{name:<18} {family:<11} {:>8.1} M {size:>9}  {licence:<11} {place}\n", parameters as f64 / 1e6)
}

fn entry_json(entry: &Entry) -> Value {
    json!({
        "name": entry.name(), "repo": entry.repo(), "family": entry.family, "parameters": entry.parameters,
        "weights_bytes": entry.weights_bytes, "licence": entry.licence, "commit": entry.commit,
    })
}

fn show(args: ModelsShowArgs) -> Result<ExitCode> {
    let ModelsShowArgs { name, check, json, places } = args;
    if name == shipped::NAME && !Path::new(&name).exists() {
        return show_shipped(json);
    }
    let options = settings::hub_options(places)?;
    let Some(description) = hub::describe(&name, &options)? else {
        let folder = Path::new(&name);
        return if folder.is_dir() && !check { show_folder(folder, json) } else { Err(is_a_path(&name)) };
    };
    let checked = description.found.as_ref().filter(|_| check).map(difference).transpose()?.flatten();
    if json {
        let Description { repo, revision, entry, found } = &description;
        let found = found.as_ref();
        output::json_line(&json!({
            "name": name, "repo": repo, "revision": revision, "catalogue": entry.map(entry_json),
            "folder": found.map(|model| &model.folder), "commit": found.and_then(|model| model.commit.as_ref()),
            "files": found.map(|model| &model.files), "golden_difference": checked,
        }))?;
    } else {
        let mut text = description_text(&name, &description);
        match checked {
            Some(difference) => text += &difference_text(difference),
            None if check => {
                text += "not compared: what should come of it is not known, or its files are not those that were published\n";
            }
            None => {}
        }
        output::text(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The card of the model in this program.
fn show_shipped(json: bool) -> Result<ExitCode> {
    if json {
        output::json_line(
            &json!({ "name": shipped::NAME, "sha256": shipped::sha256(), "card": shipped::card() }),
        )?;
    } else {
        output::text(&format!(
            "{}\nsha256 of its packed weights: {}\n",
            shipped::card().trim_end(),
            shipped::sha256()
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What the model of a folder is: a run, or a published one.
fn show_folder(path: &Path, json: bool) -> Result<ExitCode> {
    let LoadedModel { folder, chosen, files, published, .. } = load_model(path)?;
    let ModelFiles { config, labels, pairs, .. } = &files;
    let sentences = published.as_ref().and_then(|published| published.sentences.as_ref());
    let other = published.as_ref().and_then(|published| published.other_head.as_deref());
    let parameters = headstart::model::Model::new(config)?.table().len();
    if json {
        output::json_line(&json!({
            "folder": folder, "chosen": chosen, "parameters": parameters, "config": config, "labels": labels, "pairs": pairs,
            "other_head": other, "unused_keys": published.as_ref().map(|published| &published.unused_keys),
            "vectors": sentences.map(|s| json!({"pooling": s.pooling.name(), "normalize": s.normalize, "prompts": s.prompts})),
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = format!("in {}\n", folder.display());
    if !chosen.is_empty() && Path::new(&chosen) != path {
        let _ = writeln!(text, "{chosen}");
    }
    let _ = writeln!(
        text,
        "{}, {:.1} M parameters: {} layers, {} wide, {} heads, {} positions, {} pieces",
        config.arch.name(),
        parameters as f64 / 1e6,
        config.num_layers,
        config.embed_dim,
        config.num_heads,
        config.num_max_positions,
        config.vocab_size
    );
    if let Some(head) = &config.head {
        let what =
            if labels.is_empty() { "numbers".to_owned() } else { format!("classes: {}", labels.join(", ")) };
        let inputs = if *pairs { "pairs of texts" } else { "texts" };
        let (read, most) = (head.pooling.in_words(), config.max_length());
        let _ = writeln!(text, "answers with {what}; reads {inputs} of up to {most} tokens by {read}");
    }
    if let Some(other) = other {
        let _ = writeln!(text, "{other}");
    }
    if let Some(SentenceSettings { pooling, normalize, prompts, .. }) = sentences {
        let scaled = if *normalize { ", scaled to length 1" } else { "" };
        let _ = writeln!(text, "vectors: {}{scaled}", pooling.in_words());
        for (name, prompt) in prompts.iter().filter(|(_, prompt)| !prompt.is_empty()) {
            let _ = writeln!(text, "prompt {name}: {prompt:?}");
        }
    }
    output::text(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn description_text(name: &str, description: &Description) -> String {
    let Description { repo, revision, entry, found } = description;
    let mut text = format!("{repo} at {revision}\n");
    if let Some(entry) = entry {
        let _ = writeln!(
            text,
            "short name {}; family {}, {:.1} M parameters, {} of weights; licence {}",
            entry.name(),
            entry.family,
            entry.parameters as f64 / 1e6,
            bytes(entry.weights_bytes),
            entry.licence
        );
    }
    let Some(model) = found else {
        let _ = writeln!(text, "not on this machine; to bring it here: headstart models pull {name}");
        for pin in entry.iter().flat_map(|entry| entry.pins) {
            let size = pin.bytes.map_or_else(String::new, bytes);
            let _ = writeln!(text, "  {:<36} {size:>9}  {} (published)", pin.file, pin.sha256);
        }
        return text;
    };
    let commit = model.commit.as_deref().filter(|commit| commit != revision);
    let commit = commit.map(|commit| format!(" (commit {commit})")).unwrap_or_default();
    let _ = writeln!(text, "in {}{commit}", model.folder.display());
    for file in &model.files {
        let sum = file.sha256.as_deref().unwrap_or("not summed up yet");
        let _ = writeln!(text, "  {:<36} {:>9}  {sum}", file.name, bytes(file.bytes));
    }
    text
}

fn pull(args: ModelsPullArgs) -> Result<ExitCode> {
    let ModelsPullArgs { name, json, places } = args;
    let options = settings::hub_options(places)?;
    progress::stop_on_signal()?;
    let mut progress = Progress::new(Verbosity::Calm);
    let model = hub::pull(&name, &options, &mut |report| match report {
        Report::Line(line) => progress.say(line),
        Report::Progress(p) => progress.download(&p),
    });
    progress.finish();
    let model = model?;
    let Model { folder, origin, repo, commit, files, notes } = &model;
    if repo.is_none() {
        return Err(is_a_path(&name));
    }
    let checked = difference(&model)?;
    if json {
        output::json_line(&json!({
            "name": name, "repo": repo, "commit": commit, "folder": folder, "origin": origin, "files": files,
            "notes": notes, "golden_difference": checked,
        }))?;
    } else {
        settings::say_model(&model);
        if let Some(difference) = checked {
            progress::say(difference_text(difference).trim_end());
        }
        output::text(&format!("{}\n", folder.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The largest difference between what a model gives here and what is known to come of it, where that is known.
fn difference(model: &Model) -> Result<Option<f32>> {
    let Some(golden) = model.golden() else { return Ok(None) };
    let config = FeaturesConfig {
        pooling: Some(FeaturePooling::Mean),
        normalize: Some(true),
        max_length: None,
        prompt: None,
        precision: Some(PrecisionName::F32),
        threads: 0,
        device: DeviceChoice::default(),
    };
    Ok(Some(FeatureExtractor::load(&model.folder, &config)?.difference(golden.text, golden.vector)?))
}

fn difference_text(difference: f32) -> String {
    let warning = if difference <= LARGEST_DIFFERENCE { "" } else { "warning: " };
    format!("{warning}largest difference from sentence-transformers' vector of a text: {difference:.1e}\n")
}

fn is_a_path(name: &str) -> anyhow::Error {
    Usage(format!(
        "{name} is a path (or would lie in a folder that is here), not the name of a published model\n  \
         fix: `headstart models list` has the short names; owner/name@main is always a name"
    ))
    .into()
}
