//! `headstart tokenizer train|import`. Owns: finding the text to learn from. Never: how a vocabulary is learned.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use headstart::data::Split;
use headstart::data::catalog::{self, FileRole, Locations};
use headstart::data::corpus::{self, CorpusFiles};
use headstart::data::encoding::TextEncoding;
use headstart::data::{source, starter};
use headstart::tokenizer::{Case, Tokenizer, TokenizerKind, TokenizerTrainer, TrainOptions};
use serde_json::json;

use crate::args::{ReadingArgs, TokenizerCommand, TokenizerImportArgs, TokenizerTrainArgs, VocabularyKind};
use crate::output;
use crate::progress::{self, Progress, Verbosity};
use crate::settings::{self, Usage};

/// Runs it.
pub fn run(command: TokenizerCommand) -> Result<ExitCode> {
    match command {
        TokenizerCommand::Train(args) => train(args),
        TokenizerCommand::Import(args) => import(args),
    }
}

fn train(args: TokenizerTrainArgs) -> Result<ExitCode> {
    let TokenizerTrainArgs { data, out, kind, vocab_size, lowercase, reading, places, json } = args;
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
        let files: Result<Vec<PathBuf>> =
            data.iter().map(|name| training_text(name, &locations, &mut progress)).collect();
        let mut counting = |done, total| progress.bytes("counting words", done, total);
        corpus::train_tokenizer(&files?, encoding, options, &mut counting)?
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

/// The file with the training text of what the user named.
fn training_text(name: &str, locations: &Locations, progress: &mut Progress) -> Result<PathBuf> {
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
                train: resolved.file(FileRole::Train).map(Path::to_path_buf),
                ..CorpusFiles::default()
            },
        }
    };
    Ok(files.get(Split::Train)?.to_path_buf())
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
