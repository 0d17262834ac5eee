//! `headstart predict`: rows in, answers out, in the same order.
//!
//! Owns: passing a stream of any length on in chunks, and what becomes of a row that cannot be read. Never: the model.

use std::io::{self, Read};
use std::mem;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use headstart::checkpoint::ModelPath;
use headstart::config::TextColumns;
use headstart::data::classification::Header;
use headstart::data::encoding::TextEncoding;
use headstart::data::rows::{self, Row, RowFormat, Rows, TextFields, TextInput};
use headstart::files::remove_abandoned_of;
use headstart::infer::{Prediction, Predictor};

use crate::answers::{AnswerFormat, Answered, Answers, Shape};
use crate::args::{ComputeArgs, PredictArgs, ReadingArgs, TextsArgs};
use crate::progress::{self, Progress, Verbosity};
use crate::settings::{self, TrainedColumns, Usage};

/// Texts classified at a time, when so many are there already.
const CHUNK: usize = 256;

/// What becomes of a row that cannot be read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OnBadRow {
    /// It is answered with an error.
    Answer,
    /// It ends the work.
    Stop,
}

/// What came of all rows.
#[derive(Default)]
struct Counts {
    rows: usize,
    cut: usize,
    /// Read in windows.
    long: usize,
    bad: usize,
    /// Plain lines with a tab in them, which are one text each.
    tabs: usize,
    /// What looks like a table's header, where lines are texts.
    header: Option<(String, &'static str)>,
}

/// Runs it.
pub fn run(args: PredictArgs) -> Result<ExitCode> {
    let PredictArgs {
        run,
        below,
        adapters,
        texts,
        output,
        output_format,
        top_k,
        with_text,
        strict,
        uncalibrated,
        long,
        reading,
        compute,
        places,
    } = args;
    let TextsArgs { input, input_format, header, text_column } = texts;
    let ComputeArgs { precision, threads, device } = compute;
    let ReadingArgs { encoding } = reading;
    let encoding = encoding.as_deref().map_or(Ok(TextEncoding::default()), TextEncoding::from_label)?;
    if top_k == Some(0) {
        let what =
            "--top_k 0: no class would be written\n  fix: give a positive number, or leave it out for all";
        return Err(Usage(what.into()).into());
    }
    let output = output.and_then(file_of);
    let format = output_format.map_or_else(|| AnswerFormat::of_name(output.as_deref()), Ok)?;
    output.as_deref().map_or(Ok(()), begin_file)?;
    let adapters = settings::named_adapters(adapters, below.base.as_deref(), &places)?;
    let (run, base) = settings::model_and_base(run, below.base, places)?;
    let sources = input.iter().map(|path| open(path).map(|source| (path.as_path(), source)));
    let sources: Vec<_> = sources.collect::<Result<_>>()?;
    let choice = settings::devices::choice(device);
    let predictors = if adapters.is_empty() {
        let place = ModelPath { path: &run, base: base.as_deref() };
        vec![Predictor::load(place, precision, &choice, threads)?]
    } else {
        let folders: Vec<PathBuf> = adapters.iter().map(|adapter| adapter.folder.clone()).collect();
        Predictor::load_each(&run, &folders, precision, &choice, threads)?
    };
    let ready = |predictor: Predictor| {
        let predictor = predictor.with_long_texts(long.long_texts());
        if uncalibrated { predictor.uncalibrated() } else { predictor }
    };
    let predictors: Vec<Predictor> = predictors.into_iter().map(ready).collect();
    if let Some(note) = predictors[0].device().and_then(|device| choice.note(device)) {
        progress::say(&note);
    }
    let trained = if adapters.is_empty() {
        settings::trained_columns(&run)
    } else if text_column.is_none() {
        settings::trained_columns_of_all(&adapters)?
    } else {
        TrainedColumns::default()
    }
    .under(header);
    let header = header_of(&trained, header);
    let wanted = match text_column {
        Some(columns) => TextFields::Named(TextColumns::Typed(columns)),
        None => match trained.text {
            TextFields::Named(columns) => TextFields::Named(columns),
            _ if predictors.iter().any(Predictor::reads_pairs) => TextFields::DetectPair,
            found => found,
        },
    };
    let names = adapters.into_iter().map(|adapter| Some(adapter.name)).chain([None]);
    let sources_of_answers: Vec<(Option<String>, Predictor)> = names.zip(predictors).collect();
    let mut answers = Answers::new(Shape { format, top_k, with_text }, output.as_deref())?;
    let on_bad_row = if strict { OnBadRow::Stop } else { OnBadRow::Answer };
    let mut counts = Counts::default();
    // Answers on standard output are progress enough.
    let mut progress = output.is_some().then(|| Progress::new(Verbosity::Calm));
    for (path, source) in sources {
        let format = input_format.unwrap_or_else(|| RowFormat::of_name(path));
        let mut rows = Rows::new(source, path, format, encoding, wanted.clone()).with_header(header);
        pass_on(&mut rows, path, &sources_of_answers, &mut answers, on_bad_row, &mut counts, &mut |rows| {
            if let Some(progress) = &mut progress {
                progress.count("classifying", rows);
            }
        })?;
    }
    progress.iter_mut().for_each(Progress::finish);
    let left_out = answers.left_out;
    answers.finish()?;
    // All read the same texts with the trunk's tokenizer.
    if let Some(warning) = sources_of_answers.iter().find_map(|(_, predictor)| predictor.warning()) {
        progress::say(&warning);
    }
    let Counts { rows, cut, long, bad, tabs, header } = counts;
    if let Some((line, format)) = header {
        progress::say(&format!(
            "the first line, `{line}`, looks like a table's header, but each line was read as one text\n  fix: --input_format {format}"
        ));
    }
    for (said, line) in [
        (cut, format!("{cut} texts were longer than the model's positions and were cut")),
        (long, format!("{long} texts were longer than the model's positions and were read in windows")),
        (bad, format!("{bad} of {rows} rows could not be read; each is answered with an error")),
        (
            tabs,
            format!(
                "{tabs} lines have tabs and were read as one text each; --text_column first,second reads pairs"
            ),
        ),
        (left_out, format!("{left_out} of {rows} rows have fields that the table has no column for")),
    ] {
        if said > 0 {
            progress::say(&line);
        }
    }
    // The process ends here, and gives all memory back at once.
    mem::forget(sources_of_answers);
    Ok(ExitCode::SUCCESS)
}

/// A line that is no sentence but names of columns, one of them that of texts, and the format that has such a header.
fn header_in(line: &str) -> Option<(String, &'static str)> {
    let named = |separator: char| {
        let cells: Vec<&str> =
            line.split(separator).map(|cell| cell.trim_matches(['"', '\u{feff}'])).collect();
        let names = cells.iter().all(|cell| !cell.is_empty() && !cell.contains(char::is_whitespace));
        let text =
            |cell: &&str| ["text", "sentence", "sentence1", "review"].contains(&cell.to_lowercase().as_str());
        cells.len() > 1 && names && cells.iter().any(text)
    };
    [(',', "csv"), ('\t', "tsv")]
        .into_iter()
        .find(|(separator, _)| named(*separator))
        .map(|(_, format)| (line.to_owned(), format))
}

fn pass_on(
    rows: &mut Rows,
    path: &Path,
    predictors: &[(Option<String>, Predictor)],
    answers: &mut Answers,
    on_bad_row: OnBadRow,
    counts: &mut Counts,
    tell: &mut dyn FnMut(usize),
) -> Result<()> {
    loop {
        let rows = rows.next_rows(CHUNK)?;
        if rows.is_empty() {
            return Ok(());
        }
        let first_bad = rows.iter().find_map(|row| Some((row.line, &row.content.as_ref().err()?.what)));
        let ends = first_bad.filter(|_| on_bad_row == OnBadRow::Stop);
        // What stands before a row that ends it all is answered.
        let good = rows.iter().take_while(|row| ends.is_none() || row.content.is_ok()).count();
        let answered = &rows[..good];
        let inputs: Vec<TextInput> =
            answered.iter().filter_map(|row| Some(row.content.as_ref().ok()?.input.clone())).collect();
        let of = |(adapter, predictor): &(Option<String>, Predictor)| {
            let predicted = predictor.predict(&inputs);
            let mut predicted = match adapter {
                Some(name) => predicted.with_context(|| format!("adapter {name}"))?,
                None => predicted?,
            }
            .into_iter();
            let predictions =
                answered.iter().map(|row| row.content.is_ok().then(|| predicted.next()).flatten()).collect();
            Ok(Answered { adapter: adapter.clone(), predictions })
        };
        let all: Vec<Answered> = predictors.iter().map(of).collect::<Result<_>>()?;
        // A text that one adapter has to cut is cut.
        let with = |is: fn(&Prediction) -> bool| {
            let any = |row: &usize| all.iter().any(|one| one.predictions[*row].as_ref().is_some_and(is));
            (0..answered.len()).filter(any).count()
        };
        counts.cut += with(|prediction| prediction.truncated);
        counts.long += with(|prediction| prediction.windows > 1);
        counts.rows += answered.len();
        counts.bad += answered.iter().filter(|row| row.content.is_err()).count();
        let has_tab = |row: &&Row| {
            let content = row.content.as_ref().ok();
            content.is_some_and(|c| {
                c.fields.is_empty() && c.input.second.is_none() && c.input.first.contains('\t')
            })
        };
        counts.tabs += answered.iter().filter(has_tab).count();
        if let Some(Row { line: 1, content: Ok(content), .. }) = answered.first()
            && content.fields.is_empty()
            && content.input.second.is_none()
        {
            counts.header = header_in(&content.input.first);
        }
        answers.write(answered, &all)?;
        tell(counts.rows);
        if let Some((line, what)) = ends {
            return Err(headstart::Error::BadInput {
                path: path.to_path_buf(),
                line: Some(line),
                what: what.clone(),
                fix: "mend the row, or leave --strict out to answer it with an error".into(),
            }
            .into());
        }
    }
}

/// How the first row of a table is read, which is said where it is a row by what the run remembers alone.
pub fn header_of(columns: &TrainedColumns, asked: Option<bool>) -> Header {
    if columns.header != Some(false) {
        return Header::Present;
    }
    if asked.is_none() {
        progress::say(
            "tables are read without a header, as in training; --header true is for those that have one",
        );
    }
    Header::Absent
}

/// The file of an output; `None` for standard output, which `-` names as it names standard input.
pub fn file_of(output: PathBuf) -> Option<PathBuf> {
    Some(output).filter(|path| path != Path::new("-"))
}

/// Refuses a file that exists already, and sees to it that none but a whole one is left: what an earlier process that was
/// killed left of it goes now, and what this one has of it when a signal ends it goes then.
pub fn begin_file(path: &Path) -> Result<()> {
    if path.exists() {
        let path = path.display();
        return Err(
            Usage(format!("--output {path}: the file exists\n  fix: name another, or move it away")).into()
        );
    }
    remove_abandoned_of(path);
    progress::exit_on_signal()
}

/// A file, or standard input.
pub fn open(input: &Path) -> Result<Box<dyn Read>> {
    if input == Path::new("-") {
        return Ok(Box::new(io::stdin()));
    }
    Ok(rows::open(input)?)
}
