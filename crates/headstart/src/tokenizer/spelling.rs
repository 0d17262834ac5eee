//! How the pieces of a vocabulary are written.
//!
//! Owns: the letters of each piece, whether a word can begin with it. Never: compares vocabularies (`data::meeting`).

use std::collections::HashMap;

use tokenizers::{DecoderWrapper, ModelWrapper};

use super::Tokenizer;

/// How a piece is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spelled {
    /// Its letters in lower case, without white space; `None` for what is no text, the unknown token among it.
    pub letters: Option<Box<[u8]>>,
    /// Whether a word can begin with it.
    pub begins: bool,
}

/// How a vocabulary writes where words begin.
enum Style {
    /// What continues a word has this before it.
    Continues(String),
    /// Bytes stand as letters; `Ġ` is the space before a word.
    Bytes,
    /// `▁` is the space before a word.
    Space,
}

impl Tokenizer {
    /// How each piece is written, by its id.
    pub fn spelled(&self) -> Vec<Spelled> {
        let style = match (self.inner.get_model(), self.inner.get_decoder()) {
            (ModelWrapper::WordPiece(pieces), _) => {
                Style::Continues(pieces.continuing_subword_prefix.clone())
            }
            (_, Some(DecoderWrapper::ByteLevel(_))) => Style::Bytes,
            _ => Style::Space,
        };
        let bytes: HashMap<char, u8> = byte_letters().into_iter().zip(0..=u8::MAX).collect();
        let special = |id: u32| self.reserved.contains(&id) || id == self.roles.unk;
        let spelled = |(id, piece): (u32, &String)| {
            let (text, begins) = match &style {
                Style::Continues(before) => match piece.strip_prefix(before.as_str()) {
                    Some(rest) => (rest.as_bytes().to_vec(), false),
                    None => (piece.as_bytes().to_vec(), true),
                },
                Style::Bytes => {
                    (piece.chars().filter_map(|c| bytes.get(&c).copied()).collect(), piece.starts_with('Ġ'))
                }
                Style::Space => (piece.replace('▁', " ").into_bytes(), piece.starts_with('▁')),
            };
            Spelled { letters: (!special(id)).then(|| lower(&text)), begins }
        };
        (0..).zip(&self.pieces).map(spelled).collect()
    }
}

/// In lower case, without white space; of bytes that are no text those of ASCII alone.
fn lower(text: &[u8]) -> Box<[u8]> {
    let lower = match std::str::from_utf8(text) {
        Ok(text) => text.to_lowercase().into_bytes(),
        Err(_) => text.to_ascii_lowercase(),
    };
    lower.into_iter().filter(|byte| !byte.is_ascii_whitespace()).collect()
}

/// The letter that stands for each byte in byte-level vocabularies (Radford et al. 2019): printable ones for themselves, the others
/// from U+0100 on.
fn byte_letters() -> Vec<char> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut others = (0x100_u32..).filter_map(char::from_u32);
    let mut letter = |byte: u8| {
        if printable(byte) { char::from(byte) } else { others.next().unwrap_or(char::REPLACEMENT_CHARACTER) }
    };
    (0..=u8::MAX).map(&mut letter).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::tokenizer::{Case, TokenizerKind, TrainOptions};

    fn spelled(tokenizer: &Tokenizer, piece: &str) -> (Option<String>, bool) {
        let id = tokenizer.piece_to_id(piece).unwrap();
        let Spelled { letters, begins } = tokenizer.spelled().swap_remove(id as usize);
        (letters.map(|letters| String::from_utf8(letters.into()).unwrap()), begins)
    }

    #[test]
    fn pieces_have_their_letters_and_say_where_words_begin() {
        let vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nThe\n##ing";
        let words =
            Tokenizer::from_vocab_bytes(vocabulary.as_bytes(), Case::Keep, Path::new("vocab.txt")).unwrap();
        assert_eq!(spelled(&words, "The"), (Some("the".into()), true));
        assert_eq!(spelled(&words, "##ing"), (Some("ing".into()), false));
        assert_eq!([spelled(&words, "[UNK]").0, spelled(&words, "[CLS]").0], [None, None]);
        let options = TrainOptions { kind: TokenizerKind::ByteLevelBpe, vocab_size: 270, case: Case::Keep };
        let bytes = Tokenizer::train(&"the theme of the thé\n".repeat(30), options).unwrap();
        assert_eq!(spelled(&bytes, "Ġthe"), (Some("the".into()), true));
        assert!(!spelled(&bytes, "e").1);
        let letter = bytes.encode("é").unwrap();
        let spelled = bytes.spelled();
        let both: Vec<u8> =
            letter.iter().flat_map(|&id| spelled[id as usize].letters.clone().unwrap()).collect();
        assert_eq!(both, "é".as_bytes());
    }
}
