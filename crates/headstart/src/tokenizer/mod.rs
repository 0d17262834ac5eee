//! Text becomes token ids and back, over Hugging Face `tokenizers`.
//!
//! Owns: what Headstart asks of a tokenizer — plain text in, ids out, four roles that always exist. Never: knows
//! where vocabularies come from, splits files into examples, touches a model.

mod load;
mod published;
mod spelling;
mod train;

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::files;
use crate::guard::guarded;

pub use spelling::Spelled;
pub use train::{TokenizerKind, TokenizerTrainer, TrainOptions, Trained};

/// What language-model data writes for a word outside its vocabulary (WikiText, SimpleBooks).
const UNKNOWN_WORD: &str = "<unk>";

/// What encodes and decodes.
const CRATE: &str = "tokenizers";

/// Characters of a piece that are shown.
const SHOWN_CHARS: usize = 20;

/// Bytes of text for each thread in a batch of short texts.
const BATCH_BYTES: usize = 1 << 17;

/// Longer texts are tokenised in pieces of at most so many bytes.
const LONG_TEXT_BYTES: usize = 1 << 18;

/// Whether letters keep their case on the way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Case {
    /// As written (bert-base-cased).
    #[default]
    Keep,
    /// Lower-cased and, with WordPiece, stripped of accents (bert-base-uncased).
    Lower,
}

/// What a token is used for, beside standing for text: the roles that every tokenizer has, added where they are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Stands for what the vocabulary cannot spell, and for `<unk>` in language-model data: `[UNK]`.
    Unk,
    /// What a classifier reads: `[CLS]`.
    Cls,
    /// Ends every line of language-model data: `[SEP]`, `</s>`, `<|endoftext|>`.
    Eos,
    /// Stands where a token is hidden in masked language modelling: `[MASK]`.
    Mask,
}

impl Role {
    /// All roles, in the order in which missing ones are added.
    pub const ALL: [Self; 4] = [Self::Unk, Self::Cls, Self::Eos, Self::Mask];

    /// The names under which a vocabulary may have the role; a missing one is added under the first.
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Unk => &["[UNK]", "<unk>"],
            Self::Cls => &["[CLS]", "<cls>"],
            Self::Eos => &["[SEP]", "</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "[EOS]", "<sep>"],
            Self::Mask => &["[MASK]", "<mask>"],
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unk => "unknown",
            Self::Cls => "classification",
            Self::Eos => "end-of-line",
            Self::Mask => "mask",
        })
    }
}

/// The ids of the tokens with a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleIds {
    /// [`Role::Cls`].
    pub cls: u32,
    /// Stands between two texts and behind the last; where a vocabulary has no token for that, the one in `eos`.
    pub sep: u32,
    /// [`Role::Eos`]. In BERT's vocabularies the same token as `sep`, in others not.
    pub eos: u32,
    /// [`Role::Mask`].
    pub mask: u32,
    /// [`Role::Unk`].
    pub unk: u32,
    /// The padding token, where the vocabulary has one; Headstart packs and never needs it.
    pub pad: Option<u32>,
}

/// A role the vocabulary did not have: a row appended behind its last one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedRole {
    /// The role.
    pub role: Role,
    /// The piece added for it.
    pub piece: String,
    /// Its id.
    pub id: u32,
}

/// A tokenizer: any `tokenizer.json`, a BERT `vocab.txt`, GPT-2's `vocab.json` + `merges.txt`, or a trained one.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    pieces: Vec<String>,
    roles: RoleIds,
    added: Vec<AddedRole>,
    // What errors call it.
    name: PathBuf,
    // Ids that plain text must never become: every special token but the unknown one.
    reserved: HashSet<u32>,
    // The canonical text and its sum, when first asked for: to use a model takes neither.
    json: OnceLock<(String, String)>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`, a `vocab.txt`, a `vocab.json` with `merges.txt` beside it, or a folder with one of
    /// these (in this order). `case` says how a bare vocabulary is meant; a `tokenizer.json` knows itself.
    ///
    /// # Errors
    /// [`Error::Missing`] when nothing is there; [`Error::Io`]; [`Error::BadInput`] when the content is unusable;
    /// [`Error::Config`] when a `tokenizer.json` is asked to lower-case against its own word.
    pub fn from_file(path: &Path, case: Case) -> Result<Self> {
        load::from_file(path, case)
    }

    /// Reads a `tokenizer.json` from memory. `name` is what errors call it.
    ///
    /// # Errors
    /// [`Error::BadInput`] when the content is unusable.
    pub fn from_json_bytes(bytes: &[u8], name: &Path) -> Result<Self> {
        load::from_json_bytes(bytes, name)
    }

    /// Reads the tokenizer that a model was published with, from its folder: a `tokenizer.json`, a `vocab.txt`, or a
    /// `vocab.json` with `merges.txt`, with what `tokenizer_config.json` and its like say beside them. Nothing is added: a role
    /// that the vocabulary has no token for is played by another of its special tokens, as in GPT-2 all of them are by
    /// `<|endoftext|>`. Its text comes back as [`Self::to_json`], its roles as [`Self::roles`]; both together are
    /// [`Self::from_json_bytes_with_roles`].
    ///
    /// # Errors
    /// [`Error::Missing`] when the folder has no vocabulary; [`Error::Io`]; [`Error::BadInput`] when a file is unusable, or no
    /// special token is known.
    pub fn published(folder: &Path) -> Result<Self> {
        published::from_folder(folder)
    }

    /// Reads a `tokenizer.json` from memory whose roles are known. Nothing is added.
    ///
    /// # Errors
    /// [`Error::BadInput`] when the content is unusable, or a role's id is outside the vocabulary.
    pub fn from_json_bytes_with_roles(bytes: &[u8], name: &Path, roles: RoleIds) -> Result<Self> {
        load::with_roles(load::json_value(bytes, name)?, name, |_, _| Ok(roles))
    }

    /// Reads a BERT `vocab.txt`, one piece a line, from memory. `name` is what errors call it.
    ///
    /// # Errors
    /// [`Error::BadInput`] when a line is empty, repeated or not UTF-8.
    pub fn from_vocab_bytes(bytes: &[u8], case: Case, name: &Path) -> Result<Self> {
        load::from_vocab_bytes(bytes, case, name)
    }

    /// The ids of `text`, without any special token. What looks like a special token in `text` is plain text.
    ///
    /// # Errors
    /// [`Error::BadInput`] when the tokenizer itself fails, which a loaded one should not.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_watched(text, &mut || Ok(()))
    }

    /// As [`Self::encode`]; of a long text `go_on` is asked again and again, and its error ends the work.
    ///
    /// # Errors
    /// As for [`Self::encode`], and those of `go_on`.
    pub fn encode_watched(&self, text: &str, go_on: &mut dyn FnMut() -> Result<()>) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        self.encode_into(text, &mut ids, go_on)?;
        Ok(ids)
    }

    /// As [`Self::encode`] for one line of language-model data, where `<unk>` is the unknown token. The line's end
    /// is not appended: see [`RoleIds::eos`].
    ///
    /// # Errors
    /// As for [`Self::encode`].
    pub fn encode_corpus_line(&self, line: &str, ids: &mut Vec<u32>) -> Result<()> {
        self.encode_corpus_line_watched(line, ids, &mut || Ok(()))
    }

    /// As [`Self::encode_corpus_line`], watched as by [`Self::encode_watched`].
    ///
    /// # Errors
    /// As for [`Self::encode_watched`].
    pub fn encode_corpus_line_watched(
        &self,
        line: &str,
        ids: &mut Vec<u32>,
        go_on: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        for (at, part) in line.split(UNKNOWN_WORD).enumerate() {
            if at > 0 {
                ids.push(self.roles.unk);
            }
            self.encode_into(part, ids, go_on)?;
        }
        Ok(())
    }

    fn encode_into(
        &self,
        text: &str,
        ids: &mut Vec<u32>,
        go_on: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        if text.len() <= LONG_TEXT_BYTES {
            return self.encode_piece(text, ids);
        }
        // A tokenizer takes about a hundred times the memory of its text.
        let pieces: Vec<&str> = pieces_of_long_text(text).collect();
        for pieces in pieces.chunks(rayon::current_num_threads()) {
            go_on()?;
            let encoded = pieces.par_iter().map(|piece| {
                let mut ids = Vec::new();
                self.encode_piece(piece, &mut ids)?;
                Ok(ids)
            });
            for part in encoded.collect::<Result<Vec<_>>>()? {
                ids.extend(part);
            }
        }
        Ok(())
    }

    fn encode_piece(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let encoding = guarded(CRATE, || self.inner.encode_fast(text, false));
        let encoding = encoding.unwrap_or_else(|reason| Err(reason.into())).map_err(|e| Error::BadInput {
            path: self.name.clone(),
            line: None,
            what: format!("this tokenizer cannot encode a text: {e}"),
            fix: "use another tokenizer, or train one with `headstart tokenizer train`".into(),
        })?;
        // Vocabularies that list special tokens among the ordinary ones can still spell them out of plain text.
        let plain = |&id: &u32| if self.reserved.contains(&id) { self.roles.unk } else { id };
        ids.extend(encoding.get_ids().iter().map(plain));
        Ok(())
    }

    /// The text of `ids`: pieces joined as the tokenizer does (`##` glued on), the end-of-line token as a line end.
    /// Ids outside the vocabulary are left out.
    pub fn decode(&self, ids: &[u32]) -> String {
        let lines = ids.split(|&id| id == self.roles.eos);
        lines.map(|line| self.decode_line(line)).collect::<Vec<_>>().join("\n")
    }

    /// The text of ids without an end of line.
    fn decode_line(&self, ids: &[u32]) -> String {
        guarded(CRATE, || self.inner.decode(ids, false).unwrap_or_default()).unwrap_or_default()
    }

    /// What of a text the vocabulary cannot spell, as it is written; of a long text only the beginning is looked at.
    pub fn unknown_pieces(&self, text: &str) -> Vec<String> {
        let text = pieces_of_long_text(text).next().unwrap_or_default();
        let encoding = guarded(CRATE, || self.inner.encode(text, false));
        let Ok(Ok(encoding)) = encoding else { return Vec::new() };
        let tokens = encoding.get_ids().iter().zip(encoding.get_offsets());
        let unknown = tokens.filter(|(id, _)| **id == self.roles.unk || self.reserved.contains(id));
        unknown.filter_map(|(_, &(start, end))| text.get(start..end)).map(shortened).collect()
    }

    /// The piece of an id as the vocabulary spells it (`##ing`, `Ġthe`), or `None` outside the vocabulary.
    pub fn id_to_piece(&self, id: u32) -> Option<&str> {
        self.pieces.get(id as usize).map(String::as_str)
    }

    /// The id of a piece of the vocabulary.
    pub fn piece_to_id(&self, piece: &str) -> Option<u32> {
        self.inner.token_to_id(piece)
    }

    /// The number of ids, added roles included: the rows of the token embedding.
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    /// Whether all of these are ids of the vocabulary.
    pub fn knows(&self, ids: &[u32]) -> bool {
        ids.iter().all(|&id| (id as usize) < self.pieces.len())
    }

    /// The ids of the roles.
    pub fn roles(&self) -> RoleIds {
        self.roles
    }

    /// The roles that had to be appended when the tokenizer was loaded, for the user to be told.
    pub fn added_roles(&self) -> &[AddedRole] {
        &self.added
    }

    /// The tokenizer as a `tokenizer.json`, canonical: the same tokenizer gives the same text.
    pub fn to_json(&self) -> &str {
        &self.canonical().0
    }

    /// SHA-256 of [`Self::to_json`], and of the roles where they are not those that the names say, in lower-case hexadecimal.
    pub fn content_hash(&self) -> &str {
        &self.canonical().1
    }

    fn canonical(&self) -> &(String, String) {
        self.json.get_or_init(|| {
            // What was read from JSON has a JSON form.
            let json = guarded(CRATE, || self.inner.to_string(false).unwrap_or_default()).unwrap_or_default();
            let mut sum = Sha256::new_with_prefix(&json);
            if load::roles_by_name(&self.pieces, Some(self.roles.unk)) != Some(self.roles) {
                sum.update(serde_json::to_vec(&self.roles).unwrap_or_default());
            }
            (json, files::hex(&sum.finalize()))
        })
    }

    /// Writes the `tokenizer.json`, whole or not at all. A file that says the same already is left alone.
    ///
    /// # Errors
    /// [`Error::BadInput`] when the file exists with other content; [`Error::Io`] when writing fails.
    pub fn save(&self, path: &Path) -> Result<()> {
        match std::fs::read(path) {
            Ok(old) if old == self.to_json().as_bytes() => Ok(()),
            Ok(_) => Err(Error::BadInput {
                path: path.to_path_buf(),
                line: None,
                what: "exists already, with another tokenizer".into(),
                fix: "name another file, or move this one away".into(),
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                files::write_atomic(path, self.to_json().as_bytes())
            }
            Err(e) => Err(Error::io("read", path)(e)),
        }
    }
}

/// A piece of text as it is shown to people.
fn shortened(piece: &str) -> String {
    match piece.char_indices().nth(SHOWN_CHARS) {
        Some((at, _)) => format!("{}...", &piece[..at]),
        None => piece.to_owned(),
    }
}

/// Texts of these lengths in bytes as batches of consecutive ones: large enough for all threads, small enough to be asked
/// several times a second whether to go on. A text that is long is a batch of its own.
pub fn batches(lengths: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let most = BATCH_BYTES * rayon::current_num_threads();
    let mut batches: Vec<Range<usize>> = Vec::new();
    let (mut bytes, mut closed) = (0, true);
    for (at, length) in lengths.enumerate() {
        let long = length > LONG_TEXT_BYTES;
        match batches.last_mut() {
            Some(batch) if !closed && !long && bytes + length <= most => {
                batch.end = at + 1;
                bytes += length;
            }
            _ => {
                batches.push(at..at + 1);
                (bytes, closed) = (length, long);
            }
        }
    }
    batches
}

/// A long text in pieces, each but the first beginning with the space before a word, which is where all tokenizers cut
/// anyway; where there is none for long, at any character. A text that is not long is one piece.
fn pieces_of_long_text(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        if text.len() <= LONG_TEXT_BYTES {
            rest = None;
            return Some(text);
        }
        let end = (0..=LONG_TEXT_BYTES).rev().find(|&at| text.is_char_boundary(at)).unwrap_or_default();
        let word = |b: u8| !b.is_ascii_whitespace() && b.is_ascii();
        let bytes = text.as_bytes();
        let cut =
            (end / 2..end).rev().find(|&at| bytes[at] == b' ' && word(bytes[at - 1]) && word(bytes[at + 1]));
        let (piece, after) = text.split_at(cut.unwrap_or(end));
        rest = Some(after);
        Some(piece)
    })
}

#[cfg(test)]
mod tests;
