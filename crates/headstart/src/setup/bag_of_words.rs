//! `finetune --method bow`: a bag of words as a run of its own, with a folder, a report and a finished model.
//!
//! Owns: the order of that run, and what is said of it. Never: the fit (`baseline`), the metrics (`bar.rs`).

use std::collections::BTreeMap;
use std::time::Instant;

use crate::baseline::{Bag, BagModel};
use crate::checkpoint::RunFolder;
use crate::config::{Arch, DataConfig, FinetuneConfig, HeadPooling, Problem};
use crate::data::classification::Measured;
use crate::data::split::Split;
use crate::device::DeviceName;
use crate::error::{Error, Result};
use crate::eval::Evaluation;
use crate::event::{Event, Listener};
use crate::predictions::Line;
use crate::report::{Report, Table};
use crate::run_log::{Kind, Record, RunLog, read_metrics};
use crate::setup::bar::{Compared, evaluated, fitted};
use crate::setup::classifier::{check_numbers, with_columns};
use crate::setup::labelled::DataRequest;
use crate::setup::run::{OpenRun, ranks_of, to_toml};
use crate::train::{
    OriginsOf, RunOptions, Summary, add_verdict, record_predictions, summarise, thousands, unix_seconds,
    write_summary,
};

/// Fits one to the data of `config` and saves it. A run that goes on is made again: nothing of it is kept on the way.
///
/// # Errors
/// Data that is missing or unusable, a run folder that is taken, a disk that is full; [`Error::Interrupted`] when the listener
/// said stop.
pub(crate) fn run(
    config: &FinetuneConfig,
    options: &RunOptions,
    compared: Compared,
    listener: &mut Listener<'_>,
) -> Result<Summary> {
    let clock = Instant::now();
    let ranks = ranks_of(options, config, &config.train, listener)?;
    let run = OpenRun::open(&options.place, &ranks, listener)?;
    let mut summary = Summary { steps: 1, total_steps: 1, metrics_step: Some(1), ..Summary::default() };
    let made = ranks.of_leader(|| {
        let (mut data, provenance) = request(config).read_texts(None, Some(config.train.seed), listener)?;
        if compared == Compared::OnValidation {
            data.test = None;
        }
        check_numbers(&config.data, data.train.labels.iter())?;
        if let Some(most) = config.data.max_train_examples.filter(|most| *most < data.train.texts.len()) {
            return Err(Error::Config {
                key: "max_train_examples".into(),
                what: format!("a bag of words is fitted to all examples, and {most} are asked for"),
                fix: "leave it out, or give it a file with fewer examples".into(),
            });
        }
        let config = &FinetuneConfig {
            data: with_columns(&config.data, &data.text_columns, data.label_column.as_deref()),
            ..config.clone()
        };
        data.notes.iter().for_each(|note| {
            listener(Event::Message(note));
        });
        let most = config.train.max_time.map(|most| most - clock.elapsed().as_secs_f64());
        let stopped = || match most {
            Some(most) if clock.elapsed().as_secs_f64() >= most => out_of_time(),
            _ => interrupted(),
        };
        let bag = fitted(&data, config.problem, most, listener).ok_or_else(stopped)?;
        let model = BagModel { bag, labels: data.labels.clone(), pairs: data.train.pairs };
        let seconds = clock.elapsed().as_secs_f64();
        let folder =
            run.begin_without_model(&to_toml(config)?, &options.command, DeviceName::Cpu, &provenance)?;
        let mut log = RunLog::open(folder.dir(), 0, None, unix_seconds())?;
        let mut last = None;
        for (split, kind, part) in
            [(Split::Valid, Kind::Valid, &data.valid), (Split::Test, Kind::Test, &data.test)]
        {
            let Some(part) = part else { continue };
            let mut evaluation = evaluated(&model.bag, &model.labels, split, part);
            evaluation.add_intervals();
            let record = Record::new(kind, 1, unix_seconds());
            let metrics = &evaluation.metrics;
            log.log(
                &metrics.iter().fold(record, |record, (name, value)| record.with(name.as_str(), *value)),
            )?;
            summarise(&mut summary, &evaluation);
            summary.labels.clone_from(&evaluation.labels);
            last = Some((split, evaluation));
        }
        log.flush()?;
        let line = format!(
            "fitted to {} texts in {seconds:.1} s, {} chosen by cross-validation",
            thousands(data.train.texts.len()),
            chosen(model.bag.strengths())
        );
        listener(Event::Message(&line));
        summary.final_dir = Some(folder.write_final_with(&readme(&model, &line), |dir| model.write(dir))?);
        let title = format!("Headstart run {}", folder.dir().file_name().unwrap_or_default().display());
        let mut report = Report::of_run(&read_metrics(folder.dir())?, Some(1), title, vec![line.clone()]);
        report.tables.insert(0, about(config, &line, &folder.command()));
        let mistakes = mistakes_of(config, last, &folder, &mut summary, listener)?;
        add_verdict(&mut report, &summary, &mistakes);
        report.write(&folder.report_html())?;
        folder.dir().clone_into(&mut summary.run_dir);
        write_summary(&folder, &summary, clock.elapsed().as_secs_f64())?;
        Ok(folder.dir().to_path_buf())
    })?;
    summary.run_dir = made;
    Ok(summary)
}

/// predictions.jsonl of the split that was evaluated last; returns the worst mistakes.
fn mistakes_of(
    config: &FinetuneConfig,
    last: Option<(Split, Evaluation)>,
    folder: &RunFolder,
    summary: &mut Summary,
    listener: &mut Listener<'_>,
) -> Result<Vec<Line>> {
    let Some((split, evaluation)) = last else { return Ok(Vec::new()) };
    let known = Some(evaluation.labels.clone()).filter(|labels| !labels.is_empty());
    let origins = OriginsOf::new(|_, listener| {
        request(config).origins(split, known.clone(), Some(config.train.seed), listener)
    });
    record_predictions(folder, &evaluation, &origins, summary, listener)
}

/// The metrics of a bag of words, in a model folder, on data.
///
/// # Errors
/// Data that is missing or unusable, a label the model does not know.
pub(crate) fn evaluate(
    model: &BagModel,
    data: &DataConfig,
    measured: &Measured,
    listener: &mut Listener<'_>,
) -> Result<Option<Evaluation>> {
    let problem = match model.bag {
        Bag::SingleLabel(_) => Problem::SingleLabel,
        Bag::MultiLabel(_) => Problem::MultiLabel,
        Bag::Regression(_) => Problem::Regression,
    };
    let config = FinetuneConfig { data: data.clone(), problem, ..FinetuneConfig::default() };
    let known = Some(model.labels.clone());
    let texts = request(&config).read_texts_measured(known, measured.clone(), listener)?;
    let train = Some(texts.train).filter(|train| !train.texts.is_empty());
    for split in &measured.order {
        let part = match split {
            Split::Train => &train,
            Split::Valid => &texts.valid,
            Split::Test => &texts.test,
        };
        if let Some(part) = part {
            if model.pairs != part.pairs {
                return Err(crate::infer::wants_pairs());
            }
            return Ok(Some(evaluated(&model.bag, &model.labels, *split, part)));
        }
    }
    Ok(None)
}

fn request(config: &FinetuneConfig) -> DataRequest<'_> {
    // The family is of no account without tokens.
    DataRequest {
        config: &config.data,
        problem: config.problem,
        arch: Arch::Gpt2,
        pooling: HeadPooling::Cls,
        positions: usize::MAX,
        truncation: None,
    }
}

/// Strengths for people.
fn chosen(strengths: &[f64]) -> String {
    let low = strengths.iter().copied().fold(f64::INFINITY, f64::min);
    let high = strengths.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if low < high { format!("strengths {low} to {high}") } else { format!("strength {low}") }
}

fn readme(model: &BagModel, line: &str) -> String {
    let names = model.labels.join(", ");
    let (what, told) = match &model.bag {
        Bag::SingleLabel(_) => ("Logistic regression", format!("Classes: {names}.")),
        Bag::MultiLabel(_) => (
            "A logistic regression for each label",
            format!("Labels, of which a text has any number: {names}."),
        ),
        Bag::Regression(_) => ("Ridge regression", "It tells a number.".to_owned()),
    };
    format!("# A bag of words\n\n{what} on n-grams, by `headstart finetune --method bow`: {line}. {told}\n")
}

fn about(config: &FinetuneConfig, line: &str, command: &str) -> Table {
    let rows = BTreeMap::from([("command", command), ("data", &config.data.path), ("method", line)]);
    Table {
        title: "This run".into(),
        rows: rows.into_iter().map(|(name, what)| vec![name.to_owned(), what.to_owned()]).collect(),
        ..Table::default()
    }
}

fn out_of_time() -> Error {
    Error::Interrupted {
        what: "the time of max_time was over before the bag of words was fitted, and nothing is kept".into(),
        fix: "give it more time: its fit takes longer with more classes and more text".into(),
    }
}

pub(crate) fn interrupted() -> Error {
    Error::Interrupted {
        what: "the fit was stopped before it was whole, and nothing is kept".into(),
        fix: "call it again".into(),
    }
}
