//! From what the user named (a data set, a folder, a file, an address, `starter`) to corpora and tokenizers.
//!
//! Owns: the order in which a name is understood. Never: models, the meaning of a label.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::config::DataConfig;
use crate::data::catalog::{self, FileRole, Locations, Resolved};
use crate::data::corpus::TokenStream;
use crate::data::corpus_files::CorpusFiles;
use crate::data::encoding::TextEncoding;
use crate::data::inspect::{RawCorpus, RawCorpusLines};
use crate::data::running_text::{self, Reading, RunningText};
use crate::data::split::Split;
use crate::data::starter;
use crate::error::{Error, Result};
use crate::event::{Event, Listener};
use crate::files;
use crate::tokenizer::{Case, Tokenizer, TokenizerKind, TrainOptions};

/// The name of the embedded corpus.
pub const STARTER_CORPUS: &str = "starter";
/// The name of the embedded classification task.
pub const STARTER_QUESTIONS: &str = "starter-questions";
/// The tokenizer of `naacl2019` when none is named.
const DEFAULT_TOKENIZER: &str = "bert-base-cased";

/// A language-model corpus that is on this machine.
#[derive(Clone, Debug)]
pub struct CorpusSource {
    files: Option<CorpusFiles>,
    reading: Reading,
    cache_dir: PathBuf,
    /// What was used, for the record of the run.
    pub provenance: serde_json::Value,
}

/// Where a data set lies, once its name is understood.
#[derive(Debug)]
pub(crate) enum Located {
    /// Embedded in the program.
    Starter,
    /// A path of the user's.
    Path(PathBuf),
    /// A named set or an address.
    Named(Box<Resolved>),
}

/// Finds a corpus and checks that it has a training text.
///
/// # Errors
/// [`Error::Missing`] when it is nowhere, [`Error::Config`] for an unknown encoding, and what a download can fail with.
pub fn corpus(config: &DataConfig, listener: &mut Listener<'_>) -> Result<CorpusSource> {
    let cache_dir = cache_dir(config);
    let reading = |stated| -> Result<Reading> {
        let encoding = encoding(config, stated)?;
        Ok(Reading { encoding, text_column: config.text_column.clone() })
    };
    match locate(config, listener)? {
        Located::Starter if config.path == STARTER_QUESTIONS => Err(Error::Config {
            key: "data".into(),
            what: format!("`{STARTER_QUESTIONS}` is not a language-model corpus"),
            fix: format!(
                "the built-in corpus is `{STARTER_CORPUS}`; the questions are for `headstart finetune`"
            ),
        }),
        Located::Starter => {
            let provenance = json!({"data": STARTER_CORPUS, "origin": "embedded"});
            Ok(CorpusSource { files: None, reading: reading(None)?, cache_dir, provenance })
        }
        Located::Path(path) => {
            let files = CorpusFiles::find(&path)?;
            if let Some(note) = &files.note {
                listener(Event::Message(note));
            }
            let provenance = json!({"data": path, "origin": "path"});
            Ok(CorpusSource { files: Some(files), reading: reading(None)?, cache_dir, provenance })
        }
        Located::Named(resolved) => {
            if let Some(entry) = resolved.entry.filter(|e| e.kind != catalog::Kind::LanguageModel) {
                return Err(Error::Config {
                    key: "data".into(),
                    what: format!("`{}` is not a language-model corpus", entry.name),
                    fix: "see `headstart data list`; a classification set is for `headstart finetune`".into(),
                });
            }
            let files = if let Some(path) = resolved.file(FileRole::Everything) {
                CorpusFiles::find(path)?
            } else {
                let of = |role| resolved.file(role).into_iter().map(Path::to_path_buf).collect();
                CorpusFiles {
                    train: of(FileRole::Train),
                    valid: of(FileRole::Valid),
                    test: of(FileRole::Test),
                    note: None,
                }
            };
            let reading = reading(resolved.entry.map(|e| e.encoding))?;
            Ok(CorpusSource { files: Some(files), reading, cache_dir, provenance: provenance(&resolved) })
        }
    }
}

impl CorpusSource {
    /// The token stream of a split, from the cache where it was made before; `None` when the corpus has no such
    /// split.
    ///
    /// # Errors
    /// As [`TokenStream::load`].
    pub fn stream(
        &self,
        split: Split,
        tokenizer: &Tokenizer,
        listener: &mut Listener<'_>,
    ) -> Result<Option<TokenStream>> {
        let Some(files) = &self.files else {
            let corpus = starter::corpus();
            let text = match split {
                Split::Train => corpus.train,
                Split::Valid => corpus.valid,
                Split::Test => return Ok(None),
            };
            return TokenStream::from_text(&text, tokenizer, "the starter corpus").map(Some);
        };
        let files = if split == Split::Train { files.get(split)? } else { files.of(split) };
        if files.is_empty() {
            return Ok(None);
        }
        if let Some(told) = running_text::told(files, &self.reading)? {
            listener(Event::Message(&format!("{split}: {told}")));
        }
        let what = format!("tokenising {split}");
        let mut progress = |done, total| listener(Event::Progress { what: &what, done, total });
        TokenStream::load(files, &self.reading, tokenizer, &self.cache_dir.join("tokens"), &mut progress)
            .map(Some)
    }
}

impl CorpusSource {
    /// Refuses a table with one text in each row where pairs of texts are to be read: its rows are no pairs.
    ///
    /// # Errors
    /// [`Error::Config`]; as for reading the table.
    pub fn refuse_lone_texts(&self) -> Result<()> {
        for path in self.files.iter().flat_map(CorpusFiles::all) {
            let columns = running_text::text_columns(&[path.to_path_buf()], &self.reading)?;
            if let Some([only]) = columns.as_deref() {
                return Err(Error::Config {
                    key: "inputs".into(),
                    what: format!("{} has one text in a row, `{only}`, and no pairs", path.display()),
                    fix: "name the columns of both texts with --text_column a,b, or use --inputs lines"
                        .into(),
                });
            }
        }
        Ok(())
    }

    /// A split as it is written, with up to `samples` lines; `None` when the corpus has no such split.
    ///
    /// # Errors
    /// As for reading the text.
    pub fn raw(
        &self,
        split: Split,
        samples: usize,
        listener: &mut Listener<'_>,
    ) -> Result<Option<RawCorpus>> {
        let mut raw = RawCorpusLines::default();
        let Some(files) = &self.files else {
            let corpus = starter::corpus();
            let text = match split {
                Split::Train => corpus.train,
                Split::Valid => corpus.valid,
                Split::Test => return Ok(None),
            };
            raw.add(&text, samples);
            return Ok(Some(raw.summary()));
        };
        let files = if split == Split::Train { files.get(split)? } else { files.of(split) };
        if files.is_empty() {
            return Ok(None);
        }
        let mut text = RunningText::open(files, &self.reading)?;
        let (mut done, total) = (0, text.total_bytes());
        while let Some((block, bytes)) = text.next_block()? {
            raw.add(&block, samples);
            done += bytes;
            listener(Event::Progress { what: "reading", done, total }).or_interrupted("reading the text")?;
        }
        Ok(Some(raw.summary()))
    }
}

/// A tokenizer of the embedded corpus' own words, as it takes nothing from anywhere.
///
/// # Errors
/// None that the embedded text has cause for.
pub(crate) fn starter_tokenizer() -> Result<Tokenizer> {
    const PIECES: usize = 4_096;
    let options = TrainOptions { kind: TokenizerKind::WordPiece, vocab_size: PIECES, case: Case::Keep };
    Tokenizer::train(&starter::corpus().train, options)
}

/// The tokenizer the user named; else the embedded corpus' own for that, and bert-base-cased through the catalogue for others.
///
/// # Errors
/// [`Error::Missing`] naming `--mirror`, `--tokenizer` and `tokenizer train` when it cannot be had.
pub fn tokenizer(config: &DataConfig, listener: &mut Listener<'_>) -> Result<Tokenizer> {
    if config.tokenizer.is_none() && config.path == STARTER_CORPUS {
        let tokenizer = starter_tokenizer()?;
        let pieces = tokenizer.vocab_size();
        listener(Event::Message(&format!(
            "no --tokenizer is named: one of {pieces} pieces is made from this text"
        )));
        return Ok(tokenizer);
    }
    let name = config.tokenizer.as_deref().unwrap_or(DEFAULT_TOKENIZER);
    let case = if config.lowercase || name == "bert-base-uncased" { Case::Lower } else { Case::Keep };
    let path = Path::new(name);
    let tokenizer = if !path.exists() && catalog::is_named(name) {
        let resolved = resolve(name, config, listener)?;
        let file = resolved.file(FileRole::Vocabulary).or_else(|| resolved.file(FileRole::Everything));
        let Some(file) = file else {
            return Err(Error::Config {
                key: "tokenizer".into(),
                what: format!("`{name}` is a data set, not a tokenizer"),
                fix: "name bert-base-cased, a tokenizer.json or a vocab.txt, or train one with `headstart tokenizer train`"
                    .into(),
            });
        };
        Tokenizer::from_file(file, case)?
    } else {
        Tokenizer::from_file(path, case)?
    };
    report_roles(&tokenizer, listener);
    Ok(tokenizer)
}

/// Tells which roles had to be added to a vocabulary.
pub(crate) fn report_roles(tokenizer: &Tokenizer, listener: &mut Listener<'_>) {
    for added in tokenizer.added_roles() {
        let line =
            format!("the vocabulary has no {} token: added `{}` as id {}", added.role, added.piece, added.id);
        listener(Event::Message(&line));
    }
}

/// Understands a data set's name: embedded, a path that exists, a name of the catalogue or an address.
pub(crate) fn locate(config: &DataConfig, listener: &mut Listener<'_>) -> Result<Located> {
    let name = config.path.as_str();
    if name == STARTER_CORPUS || name == STARTER_QUESTIONS {
        return Ok(Located::Starter);
    }
    if name.is_empty() {
        return Err(Error::Config {
            key: "data".into(),
            what: "no data set is named".into(),
            fix: "give a name of `headstart data list`, a file, a folder or an address with --data".into(),
        });
    }
    if is_local(name) {
        let path = PathBuf::from(name);
        if !path.is_dir() {
            files::open_regular(&path)?;
        }
        return Ok(Located::Path(path));
    }
    resolve(name, config, listener).map(|resolved| Located::Named(Box::new(resolved)))
}

/// Whether the name of some data is the path of a file or folder that is there, rather than a data set's or an address.
pub fn is_local(name: &str) -> bool {
    !catalog::is_named(name) && Path::new(name).exists()
}

fn resolve(name: &str, config: &DataConfig, listener: &mut Listener<'_>) -> Result<Resolved> {
    let locations =
        Locations { cache_dir: cache_dir(config), offline: config.offline, mirror: config.mirror.clone() };
    let mut progress = |p: crate::data::download::Progress<'_>| {
        let what = format!("{} {}", p.stage, p.file);
        listener(Event::Progress { what: &what, done: p.done_bytes, total: p.total_bytes.unwrap_or(0) })
    };
    let resolved = catalog::resolve(name, &locations, &mut progress)?;
    for warning in &resolved.warnings {
        listener(Event::Message(&format!("warning: {warning}")));
    }
    Ok(resolved)
}

pub(crate) fn provenance(resolved: &Resolved) -> serde_json::Value {
    json!({
        "data": resolved.name,
        "origin": resolved.origin,
        "files": resolved.provenance,
        "warnings": resolved.warnings,
    })
}

/// The encoding the user named, else the catalogue's, else UTF-8.
pub(crate) fn encoding(config: &DataConfig, known: Option<&str>) -> Result<TextEncoding> {
    TextEncoding::from_label(config.encoding.as_deref().or(known).unwrap_or("utf-8"))
}

/// The cache folder; the command line always names one.
pub(crate) fn cache_dir(config: &DataConfig) -> PathBuf {
    config.cache_dir.clone().unwrap_or_else(|| PathBuf::from(".headstart-cache"))
}
