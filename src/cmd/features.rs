//! `headstart features`: rows in, vectors out, in the same order.
//!
//! Owns: passing a stream of any length on in chunks. Never: the model, the form of what is written (`vectors`).

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use headstart::checkpoint::ModelPath;
use headstart::config::TextColumns;
use headstart::data::encoding::TextEncoding;
use headstart::data::rows::{RowFormat, Rows, TextFields, TextInput};
use headstart::infer::{FeatureExtractor, FeaturesConfig};

use crate::args::{ComputeArgs, FeaturesArgs, ReadingArgs, TextsArgs};
use crate::cmd::predict::{begin_file, file_of, header_of, open};
use crate::progress::{self, Progress, Verbosity};
use crate::settings;
use crate::vectors::{Vectors, check_name};

/// Texts at a time, when so many are there already.
const CHUNK: usize = 1024;

/// Runs it.
pub fn run(args: FeaturesArgs) -> Result<ExitCode> {
    let FeaturesArgs {
        run,
        below,
        texts,
        output,
        pooling,
        normalize,
        max_length,
        prompt,
        reading,
        compute,
        places,
    } = args;
    let TextsArgs { input, input_format, header, text_column } = texts;
    let ComputeArgs { precision, threads, device } = compute;
    let ReadingArgs { encoding } = reading;
    let encoding = encoding.as_deref().map_or(Ok(TextEncoding::default()), TextEncoding::from_label)?;
    let output = output.and_then(file_of);
    if let Some(path) = output.as_deref() {
        check_name(path)?;
        begin_file(path)?;
    }
    let (run, base) = settings::model_and_base(run, below.base, places)?;
    let trained = settings::trained_columns(&run).under(header);
    let header = header_of(&trained, header);
    let wanted = match text_column {
        Some(columns) => TextFields::Named(TextColumns::Typed(columns)),
        None => trained.text,
    };
    let sources = input.iter().map(|path| open(path).map(|source| (path.as_path(), source)));
    let sources: Vec<_> = sources.collect::<Result<_>>()?;
    let device = settings::devices::choice(device);
    let config = FeaturesConfig { pooling, normalize, max_length, prompt, precision, threads, device };
    let mut extractor = FeatureExtractor::load(ModelPath { path: &run, base: base.as_deref() }, &config)?;
    if let Some(note) = config.device.note(extractor.device()) {
        progress::say(&note);
    }
    progress::say(&extractor.describe());
    let mut vectors = Vectors::new(output.as_deref(), extractor.width())?;
    // Vectors on standard output are progress enough.
    let mut progress = output.is_some().then(|| Progress::new(Verbosity::Calm));
    let (mut cut, mut done) = (0, 0);
    for (path, source) in sources {
        let format = input_format.unwrap_or_else(|| RowFormat::of_name(path));
        let mut rows = Rows::new(source, path, format, encoding, wanted.clone()).with_header(header);
        let mut tell = |rows| {
            done += rows;
            if let Some(progress) = &mut progress {
                progress.count("making vectors", done);
            }
        };
        cut += pass_on(&mut rows, path, &mut extractor, &mut vectors, &mut tell)?;
    }
    progress.iter_mut().for_each(Progress::finish);
    vectors.finish()?;
    extractor.warning().iter().for_each(|warning| progress::say(warning));
    if cut > 0 {
        let most = extractor.max_length();
        progress::say(&format!("{cut} texts were longer than {most} tokens and were cut"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns how many texts were cut; `tell` hears of every so many rows.
fn pass_on(
    rows: &mut Rows,
    path: &Path,
    extractor: &mut FeatureExtractor,
    vectors: &mut Vectors,
    tell: &mut dyn FnMut(usize),
) -> Result<usize> {
    let mut cut = 0;
    loop {
        let rows = rows.next_rows(CHUNK)?;
        if rows.is_empty() {
            return Ok(cut);
        }
        // A row that cannot be read ends it all: vectors without one would belong to other rows. What stands before it is
        // written.
        let good = &rows[..rows.iter().take_while(|row| row.content.is_ok()).count()];
        let texts: Vec<TextInput> =
            good.iter().filter_map(|row| Some(row.content.as_ref().ok()?.input.clone())).collect();
        let features = extractor.features(&texts)?;
        cut += features.truncated.iter().filter(|&&truncated| truncated).count();
        vectors.write(good, &features)?;
        tell(good.len());
        if let Some((line, what)) =
            rows.get(good.len()).and_then(|row| Some((row.line, &row.content.as_ref().err()?.what)))
        {
            return Err(headstart::Error::BadInput {
                path: path.to_path_buf(),
                line: Some(line),
                what: what.clone(),
                fix: "mend the row, or take it out: every vector belongs to a row".into(),
            }
            .into());
        }
    }
}
