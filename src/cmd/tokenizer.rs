//! `headstart tokenizer train|import|encode`.
//!
//! Owns: finding the text to learn from, how ids are printed. Never: how a vocabulary is learned, what an input looks like.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use headstart::config::TextColumns;
use headstart::data::Split;
use headstart::data::catalog::{self, FileRole, Locations};
use headstart::data::corpus;
use headstart::data::corpus_files::CorpusFiles;
use headstart::data::encoding::TextEncoding;
use headstart::data::rows::{Row, RowContent, RowFormat, Rows, TextFields};
use headstart::data::running_text::{self, Reading};
use headstart::data::template::Template;
use headstart::data::{source, starter};
use headstart::files::remove_abandoned_of;
use headstart::tokenizer::{Case, Tokenizer, TokenizerKind, TokenizerTrainer, TrainOptions};
use serde_json::json;

use super::predict::open;
use crate::args::{
    ReadingArgs, TokenizerCommand, TokenizerEncodeArgs, TokenizerImportArgs, TokenizerTrainArgs,
    VocabularyKind,
};
use crate::output;
use crate::progress::{self, Progress, Verbosity};
use crate::settings::{self, Usage};

/// Lines that are encoded at a time, when so many are there already.
const LINES: usize = 256;

/// Runs it.
pub fn run(command: TokenizerCommand) -> Result<ExitCode> {
    match command {
        TokenizerCommand::Train(args) => train(args),
        TokenizerCommand::Import(args) => import(args),
        TokenizerCommand::Encode(args) => encode(args),
    }
}

fn train(args: TokenizerTrainArgs) -> Result<ExitCode> {
    let TokenizerTrainArgs { data, out, kind, vocab_size, lowercase, text_column, reading, places, json } =
        args;
    refuse_existing(&out)?;
    let kind = match kind {
        VocabularyKind::WordPiece => TokenizerKind::WordPiece,
        VocabularyKind::Bpe => TokenizerKind::ByteLevelBpe,
    };
    let options = TrainOptions { kind, vocab_size, case: case(lowercase) };
    let ReadingArgs { encoding } = reading;
    let encoding = encoding.as_deref().map_or(Ok(TextEncoding::default()), TextEncoding::from_label)?;
    let locations = settings::locations(places)?;
    progress::stop_on_signal()?;
    let mut progress = Progress::new(Verbosity::Calm);
    let trained = if data == [source::STARTER_CORPUS] {
        let mut trainer = TokenizerTrainer::new(options)?;
        trainer.feed(&starter::corpus().train)?;
        trainer.finish()?
    } else {
        let files: Result<Vec<Vec<PathBuf>>> =
            data.iter().map(|name| training_text(name, &locations, &mut progress)).collect();
        let mut counting = |done, total| progress.bytes("counting words", done, total);
        let reading = Reading { encoding, text_column: text_column.map(TextColumns::Typed) };
        let files = files?;
        for files in &files {
            running_text::told(files, &reading)?.iter().for_each(|told| progress::say(told));
        }
        corpus::train_tokenizer(&files, &reading, options, &mut counting)?
    };
    progress.finish();
    trained.notes.iter().for_each(|note| progress::say(note));
    write(&trained.tokenizer, &out, json)
}

fn import(args: TokenizerImportArgs) -> Result<ExitCode> {
    let TokenizerImportArgs { from, out, lowercase, json } = args;
    refuse_existing(&out)?;
    let tokenizer = Tokenizer::from_file(&from, case(lowercase))?;
    for added in tokenizer.added_roles() {
        progress::say(&format!("added `{}` as id {}: the vocabulary had none", added.piece, added.id));
    }
    write(&tokenizer, &out, json)
}

fn encode(args: TokenizerEncodeArgs) -> Result<ExitCode> {
    let TokenizerEncodeArgs { from, input, pairs, arch, pooling, num_max_positions } = args;
    let tokenizer =
        if from.is_dir() { Tokenizer::published(&from)? } else { Tokenizer::from_file(&from, Case::Keep)? };
    let (roles, positions) = (tokenizer.roles(), num_max_positions.unwrap_or(usize::MAX));
    let template =
        arch.map(|arch| Template::of(arch, pooling.unwrap_or_else(|| arch.pooling()), roles, positions));
    template.as_ref().map_or(Ok(()), |template| template.validate(1 + usize::from(pairs)))?;
    let wanted = if pairs {
        TextFields::Named(TextColumns::Listed(vec!["first".into(), "second".into()]))
    } else {
        TextFields::Detect
    };
    let mut rows = Rows::new(open(&input)?, &input, RowFormat::Text, TextEncoding::default(), wanted);
    loop {
        let some = rows.next_rows(LINES)?;
        if some.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        let mut text = String::new();
        for Row { line, content } in some {
            let RowContent { input: texts, .. } = content.map_err(|bad| headstart::Error::BadInput {
                path: input.clone(),
                line: Some(line),
                what: bad.what,
                fix: "give each line the texts that --pairs says it has".into(),
            })?;
            let first = tokenizer.encode(&texts.first)?;
            let second = texts.second.as_ref().map(|text| tokenizer.encode(text)).transpose()?;
            let (ids, types): (Vec<u32>, Vec<u32>) = if let Some(template) = &template {
                let encoded = template.encode(&first, second.as_deref());
                let types = encoded.token_type_ids().collect();
                (encoded.input_ids, types)
            } else {
                let ids = [first, second.unwrap_or_default()].concat();
                let types = vec![0; ids.len()];
                (ids, types)
            };
            let pieces: Vec<_> = ids.iter().filter_map(|&id| tokenizer.id_to_piece(id)).collect();
            let line = json!({"input_ids": ids, "token_type_ids": types, "tokens": pieces});
            text += &format!("{line}\n");
        }
        output::raw(&text)?;
    }
}

/// The files with the training text of what the user named.
fn training_text(name: &str, locations: &Locations, progress: &mut Progress) -> Result<Vec<PathBuf>> {
    if name == source::STARTER_CORPUS {
        let fix = "name it alone";
        return Err(
            Usage(format!("`{name}` is inside the program and mixes with no files\n  fix: {fix}")).into()
        );
    }
    if name == source::STARTER_QUESTIONS {
        return Err(Usage(format!(
            "`{name}` is a classification task, not a text\n  fix: use `{}`",
            source::STARTER_CORPUS
        ))
        .into());
    }
    let files = if Path::new(name).exists() {
        CorpusFiles::find(Path::new(name))?
    } else {
        let resolved = catalog::resolve(name, locations, &mut |p| progress.download(&p))?;
        resolved.warnings.iter().for_each(|warning| progress::say(&format!("warning: {warning}")));
        match resolved.file(FileRole::Everything) {
            Some(path) => CorpusFiles::find(path)?,
            None => CorpusFiles {
                train: resolved.file(FileRole::Train).into_iter().map(Path::to_path_buf).collect(),
                ..CorpusFiles::default()
            },
        }
    };
    files.note.iter().for_each(|note| progress::say(note));
    Ok(files.get(Split::Train)?.to_vec())
}

fn case(lowercase: bool) -> Case {
    if lowercase { Case::Lower } else { Case::Keep }
}

/// Before the work, not after it.
fn refuse_existing(out: &Path) -> Result<()> {
    if out.exists() {
        let out = out.display();
        return Err(
            Usage(format!("--out {out}: the file exists\n  fix: name another, or move it away")).into()
        );
    }
    remove_abandoned_of(out);
    Ok(())
}

fn write(tokenizer: &Tokenizer, out: &Path, json: bool) -> Result<ExitCode> {
    tokenizer.save(out)?;
    if json {
        output::json_line(&json!({
            "file": out, "vocab_size": tokenizer.vocab_size(), "sha256": tokenizer.content_hash(),
        }))?;
    } else {
        output::text(&format!("{}: {} pieces\n", out.display(), tokenizer.vocab_size()))?;
    }
    Ok(ExitCode::SUCCESS)
}
