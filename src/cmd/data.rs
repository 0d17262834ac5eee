//! `headstart data list|prepare|inspect`; `lint` has a file of its own. Owns: how data sets and their summaries read. Never: reads text itself.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use headstart::config::{Arch, DataConfig, HeadPooling, Problem};
use headstart::data::Split;
use headstart::data::catalog::{self, Kind};
use headstart::data::classification;
use headstart::data::classification::raw::{Conflict, RawData, RawSplit};
use headstart::data::content::plain_name;
use headstart::data::corpus_files::CorpusFiles;
use headstart::data::encoding::TextEncoding;
use headstart::data::inspect::{
    CorpusSummary, LengthSummary, RawCorpus, SplitSummary, summarize_corpus, summarize_split,
};
use headstart::data::source;
use headstart::setup::labelled::{DataRequest, Labelled};
use serde::Serialize;
use serde_json::json;

use crate::args::{DataCommand, DataInspectArgs, DataKind, DataListArgs, DataPrepareArgs, DataSetArgs};
use crate::output::{self, bytes, shortened, visible};
use crate::progress::{self, Progress, Verbosity};
use crate::settings::{self, Usage};

/// Classes of a split that are shown to people.
const CLASSES_SHOWN: usize = 50;
/// Places of a text with different labels.
const PLACES_SHOWN: usize = 8;
/// Characters of a sample.
const SAMPLE_CHARS: usize = 200;

/// A data set in numbers, split by split.
enum Summaries {
    Text(Vec<(Split, CorpusSummary)>),
    Labelled(Vec<(Split, SplitSummary)>),
    /// Without a tokenizer.
    RawText(Vec<(Split, RawCorpus)>),
    /// Without a tokenizer.
    RawLabelled(RawData),
}

/// What to read and how.
struct Request {
    config: DataConfig,
    kind: DataKind,
    /// For labelled data.
    positions: usize,
    /// For labelled data.
    problem: Problem,
}

/// Runs it.
pub fn run(command: DataCommand) -> Result<ExitCode> {
    match command {
        DataCommand::List(args) => list(args),
        DataCommand::Prepare(args) => prepare(args),
        DataCommand::Inspect(args) => inspect(args),
        DataCommand::Lint(args) => super::lint::run(args),
    }
}

fn list(args: DataListArgs) -> Result<ExitCode> {
    let DataListArgs { places, json } = args;
    let listings = catalog::list(&settings::locations(places)?);
    if json {
        for listing in listings {
            let (entry, found) = (listing.entry, listing.found);
            let (origin, path) = found.unzip();
            output::json_line(&json!({
                "name": entry.name, "kind": kind_name(entry.kind), "description": entry.description,
                "licence": entry.licence, "download_bytes": entry.download_bytes, "labels": entry.labels,
                "origin": origin, "path": path,
            }))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = String::new();
    for listing in listings {
        let entry = listing.entry;
        let place = listing.found.map_or_else(
            || format!("to be downloaded, {}", bytes(entry.download_bytes)),
            |(_, path)| path.display().to_string(),
        );
        let _ = writeln!(text, "{:<20} {:<10} {}", entry.name, kind_name(entry.kind), entry.description);
        let _ = writeln!(text, "{:<31} {}; {place}", "", entry.licence);
    }
    let own = "in the program; written for this project";
    let _ = writeln!(text, "{:<20} {:<10} {own}", source::STARTER_CORPUS, "text");
    let _ = writeln!(text, "{:<20} {:<10} {own}", source::STARTER_QUESTIONS, "labelled");
    output::text(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::LanguageModel => "text",
        Kind::Classification => "labelled",
        Kind::Tokenizer => "tokenizer",
    }
}

fn prepare(args: DataPrepareArgs) -> Result<ExitCode> {
    let DataPrepareArgs { set, json } = args;
    let tokenise = set.tokenizer.tokenizer.is_some();
    let name = set.data.clone();
    progress::stop_on_signal()?;
    let mut progress = Progress::new(Verbosity::Calm);
    if catalog::is_named(&name) {
        let locations = settings::locations(set.places.clone())?;
        let resolved = catalog::resolve(&name, &locations, &mut |p| progress.download(&p))?;
        progress.finish();
        resolved.warnings.iter().for_each(|warning| progress::say(&format!("warning: {warning}")));
        if json && !tokenise {
            output::json_line(&json!({
                "name": resolved.name, "folder": resolved.folder, "origin": resolved.origin,
                "files": resolved.provenance, "warnings": resolved.warnings,
            }))?;
        } else if !tokenise {
            output::text(&format!("{}: {}\n", resolved.name, resolved.folder.display()))?;
        }
    } else if !tokenise {
        let fix = "name one to make tokens of it: --tokenizer FILE or --tokenizer bert-base-cased";
        return Err(Usage(format!(
            "{name}: there is nothing to fetch, and no tokenizer is named\n  fix: {fix}"
        ))
        .into());
    }
    if tokenise {
        let summaries = summaries(request(set)?, 0, &mut progress)?;
        print(&summaries, json)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn inspect(args: DataInspectArgs) -> Result<ExitCode> {
    let DataInspectArgs { samples, set, json } = args;
    let mut progress = Progress::new(Verbosity::Calm);
    let request = request(set)?;
    let summaries = if request.config.tokenizer.is_some() {
        summaries(request, samples, &mut progress)?
    } else {
        raw_summaries(request, samples, &mut progress)?
    };
    print(&summaries, json)?;
    Ok(ExitCode::SUCCESS)
}

fn request(args: DataSetArgs) -> Result<Request> {
    let DataSetArgs { data, kind, num_max_positions, problem, tokenizer, reading, columns, places } = args;
    let config = settings::data_config(data.clone(), Some(tokenizer), reading, columns, places)?;
    let label = config.encoding.as_deref();
    let encoding = label.map_or(Ok(TextEncoding::default()), TextEncoding::from_label)?;
    let kind = kind.map_or_else(|| detect(&data, encoding), Ok)?;
    Ok(Request { config, kind, positions: num_max_positions, problem })
}

/// What the catalogue, the end of a file's name or a folder's layout says.
fn detect(name: &str, encoding: TextEncoding) -> Result<DataKind> {
    if let Some(entry) = catalog::find(name) {
        return match entry.kind {
            Kind::LanguageModel => Ok(DataKind::Text),
            Kind::Classification => Ok(DataKind::Labelled),
            Kind::Tokenizer => Err(Usage(format!("`{name}` is a tokenizer, not a data set")).into()),
        };
    }
    let path = Path::new(name);
    let plain = plain_name(path);
    let ending = plain.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    let table = ["csv", "tsv", "json", "jsonl", "ndjson", "parquet", "label"].contains(&ending.as_str());
    // A folder with files of no split's name can be either.
    let is_text = |files: CorpusFiles| !files.are_tables() && files.note.is_none();
    let layout = path.is_dir()
        && match CorpusFiles::find(path) {
            Ok(files) if files.note.is_some() => classification::is_labelled(path, encoding),
            found => !found.is_ok_and(is_text),
        };
    let lines = path.is_file() && classification::is_labelled(path, encoding);
    if name == source::STARTER_QUESTIONS || table || layout || lines {
        Ok(DataKind::Labelled)
    } else {
        Ok(DataKind::Text)
    }
}

fn summaries(request: Request, samples: usize, progress: &mut Progress) -> Result<Summaries> {
    let Request { config, kind, positions, problem } = request;
    let mut listener = |event: headstart::event::Event<'_>| progress.listen(&event);
    let tokenizer = source::tokenizer(&config, &mut listener)?;
    let summaries = match kind {
        DataKind::Text => {
            let corpus = source::corpus(&config, &mut listener)?;
            let mut splits = Vec::new();
            for split in Split::ALL {
                if let Some(stream) = corpus.stream(split, &tokenizer, &mut listener)? {
                    splits.push((split, summarize_corpus(&stream, &tokenizer, samples)));
                }
            }
            Summaries::Text(splits)
        }
        DataKind::Labelled => {
            // Which special tokens are added changes no number.
            let (arch, pooling) = (Arch::default(), HeadPooling::Cls);
            let request =
                DataRequest { config: &config, problem, arch, pooling, positions, truncation: None };
            let Labelled { data, template, .. } = request.load(&tokenizer, None, &mut listener)?;
            let found = |split| data.get(split).ok().map(|examples| (split, examples));
            let summary =
                |(split, examples)| (split, summarize_split(&data, examples, &tokenizer, &template, samples));
            Summaries::Labelled(Split::ALL.into_iter().filter_map(found).map(summary).collect())
        }
    };
    progress.finish();
    Ok(summaries)
}

/// What a data set is as it is written, which takes no tokenizer.
fn raw_summaries(request: Request, samples: usize, progress: &mut Progress) -> Result<Summaries> {
    let Request { config, kind, positions, problem } = request;
    let mut listener = |event: headstart::event::Event<'_>| progress.listen(&event);
    let summaries = match kind {
        DataKind::Text => {
            let corpus = source::corpus(&config, &mut listener)?;
            let mut splits = Vec::new();
            for split in Split::ALL {
                splits.extend(corpus.raw(split, samples, &mut listener)?.map(|raw| (split, raw)));
            }
            Summaries::RawText(splits)
        }
        DataKind::Labelled => {
            let (arch, pooling) = (Arch::default(), HeadPooling::Cls);
            let request =
                DataRequest { config: &config, problem, arch, pooling, positions, truncation: None };
            Summaries::RawLabelled(request.read_raw(samples, &mut listener)?)
        }
    };
    progress.finish();
    Ok(summaries)
}

fn print(summaries: &Summaries, json: bool) -> Result<()> {
    fn by_name<T: Serialize>(splits: &[(Split, T)]) -> serde_json::Map<String, serde_json::Value> {
        splits.iter().map(|(split, summary)| (split.to_string(), json!(summary))).collect()
    }
    if json {
        return output::json_line(&match summaries {
            Summaries::Text(splits) => by_name(splits),
            Summaries::Labelled(splits) => by_name(splits),
            Summaries::RawText(splits) => by_name(splits),
            Summaries::RawLabelled(data) => {
                let mut all = by_name(&data.splits);
                all.insert("notes".into(), json!(data.notes));
                all
            }
        });
    }
    let mut text = String::new();
    match summaries {
        Summaries::Text(splits) => {
            for (split, summary) in splits {
                corpus_text(&mut text, *split, summary);
            }
        }
        Summaries::Labelled(splits) => {
            for (split, summary) in splits {
                labelled_text(&mut text, *split, summary);
            }
        }
        Summaries::RawText(splits) => {
            for (split, raw) in splits {
                raw_corpus_text(&mut text, *split, raw);
            }
        }
        Summaries::RawLabelled(data) => {
            for note in &data.notes {
                let _ = writeln!(text, "{}", visible(note));
            }
            for (split, raw) in &data.splits {
                raw_labelled_text(&mut text, *split, raw);
            }
        }
    }
    output::text(&text)
}

fn corpus_text(text: &mut String, split: Split, summary: &CorpusSummary) {
    let CorpusSummary { counts, tokens, unknown_tokens, line_lengths, samples } = summary;
    let _ = writeln!(
        text,
        "{split}: {} lines, {} words (line ends included), {} bytes, {tokens} tokens, {unknown_tokens} unknown",
        counts.lines, counts.words, counts.bytes
    );
    let _ = writeln!(text, "  tokens of a line: {}", lengths_text(line_lengths));
    for pieces in samples {
        let _ = writeln!(text, "  > {}", pieces.join(" "));
    }
}

fn labelled_text(text: &mut String, split: Split, summary: &SplitSummary) {
    let SplitSummary {
        examples,
        label_balance,
        text_lengths,
        truncated,
        empty_texts,
        unknown_tokens,
        samples,
    } = summary;
    let _ = writeln!(
        text,
        "{split}: {examples} examples, {truncated} cut to fit, {empty_texts} empty, {unknown_tokens} unknown tokens"
    );
    for (label, count) in label_balance {
        let share = *count as f64 * 100.0 / (*examples).max(1) as f64;
        let _ = writeln!(text, "  {label}: {count} ({share:.1} %)");
    }
    let _ = writeln!(text, "  tokens of a text: {}", lengths_text(text_lengths));
    for sample in samples {
        let _ = writeln!(text, "  > {}: {}", sample.label, sample.pieces.join(" "));
    }
}

fn raw_corpus_text(text: &mut String, split: Split, raw: &RawCorpus) {
    let RawCorpus { counts, words, characters, samples } = raw;
    let _ = writeln!(
        text,
        "{split}: {} lines, {} words (line ends included), {} bytes",
        counts.lines, counts.words, counts.bytes
    );
    let _ = writeln!(text, "  words of a line: {}", lengths_text(words));
    let _ = writeln!(text, "  characters of a line: {}", lengths_text(characters));
    for line in samples {
        let _ = writeln!(text, "  > {}", shortened(line, SAMPLE_CHARS));
    }
}

fn raw_labelled_text(text: &mut String, split: Split, raw: &RawSplit) {
    let RawSplit {
        examples,
        label_balance,
        words,
        characters,
        empty_texts,
        duplicates,
        conflicting_texts,
        conflicts,
        samples,
    } = raw;
    let _ = writeln!(
        text,
        "{split}: {examples} examples, {empty_texts} empty, {duplicates} with a text that stands there before"
    );
    for (label, count) in label_balance.iter().take(CLASSES_SHOWN) {
        let share = *count as f64 * 100.0 / (*examples).max(1) as f64;
        let _ = writeln!(text, "  {}: {count} ({share:.1} %)", visible(label));
    }
    if label_balance.len() > CLASSES_SHOWN {
        let _ = writeln!(text, "  ... {} classes in all; --json lists them", label_balance.len());
    }
    let _ = writeln!(text, "  words of a text: {}", lengths_text(words));
    let _ = writeln!(text, "  characters of a text: {}", lengths_text(characters));
    if *conflicting_texts > 0 {
        let _ = writeln!(text, "  {conflicting_texts} texts stand there with different labels:");
    }
    for Conflict { text: conflicting, places } in conflicts {
        let shown = places.iter().take(PLACES_SHOWN).map(|(place, label)| format!("{place}: {label}"));
        let more = places.len().saturating_sub(PLACES_SHOWN);
        let more = (more > 0).then(|| format!("{more} more")).into_iter();
        let places: Vec<String> = shown.chain(more).collect();
        let text_shown = shortened(conflicting, SAMPLE_CHARS);
        let _ = writeln!(text, "    `{text_shown}` ({})", visible(&places.join(", ")));
    }
    for (label, sample) in samples {
        let _ = writeln!(text, "  > {}: {}", visible(label), shortened(sample, SAMPLE_CHARS));
    }
}

fn lengths_text(lengths: &LengthSummary) -> String {
    let LengthSummary { count: _, min, mean, median, p90, p99, max } = lengths;
    format!("{min} to {max}, mean {mean:.1}, median {median}, 90 % up to {p90}, 99 % up to {p99}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let corpus = dir.path().join("corpus");
        let classes = dir.path().join("classes");
        std::fs::create_dir_all(&corpus).unwrap();
        std::fs::create_dir_all(classes.join("train/pos")).unwrap();
        std::fs::write(corpus.join("train.txt"), "text\n").unwrap();
        let lines = dir.path().join("lines.txt");
        std::fs::write(&lines, "__label__a text\n__label__b text\n").unwrap();
        let kind = |path: &Path| detect(path.to_str().unwrap(), TextEncoding::default()).unwrap();
        assert_eq!((kind(&corpus), kind(&classes)), (DataKind::Text, DataKind::Labelled));
        assert_eq!((kind(&lines), kind(&corpus.join("train.txt"))), (DataKind::Labelled, DataKind::Text));
        for (name, expected) in [
            ("wikitext-2", DataKind::Text),
            ("trec", DataKind::Labelled),
            ("starter", DataKind::Text),
            ("starter-questions", DataKind::Labelled),
            ("reviews.CSV", DataKind::Labelled),
            ("book.txt", DataKind::Text),
        ] {
            assert_eq!(detect(name, TextEncoding::default()).unwrap(), expected, "{name}");
        }
        assert!(detect("bert-base-cased", TextEncoding::default()).is_err());
    }
}
