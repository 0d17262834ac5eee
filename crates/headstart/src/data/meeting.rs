//! Two vocabularies' pieces of one text, laid side by side.
//!
//! Owns: where pieces of both end at the same letter. Never: tokenises, special tokens around a text.

use crate::tokenizer::{Spelled, Tokenizer};

/// How the pieces of a vocabulary are written, by their ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spelling(Vec<Spelled>);

impl Spelling {
    /// That of a tokenizer's pieces.
    pub fn of(tokenizer: &Tokenizer) -> Self {
        Self(tokenizer.spelled())
    }

    /// The places in `own` and `there`, one text in the pieces of two vocabularies, that end at the same letter. An unknown token is
    /// passed by with the word that it stands for; behind letters that differ nothing is compared.
    pub fn meeting(&self, own: &[u32], other: &Self, there: &[u32]) -> Vec<(u32, u32)> {
        let mut meeting = Vec::new();
        let (mut i, mut j) = (0, 0);
        while i < own.len() && j < there.len() {
            let (mut a, mut b) = (Vec::new(), Vec::new());
            let next = (i + 1, j + 1);
            let known = self.spell(own, &mut i, &mut a) && other.spell(there, &mut j, &mut b);
            if !(known && self.level((own, &mut i, &mut a), (other, there, &mut j, &mut b))) {
                (i, j) = (i.max(next.0), j.max(next.1));
                self.skip(own, &mut i);
                other.skip(there, &mut j);
            } else if a == b {
                meeting.push(((i - 1) as u32, (j - 1) as u32));
            } else {
                break;
            }
        }
        meeting
    }

    /// Spells on whichever side is behind until both are equally long; false where that is not to be had.
    fn level(
        &self,
        (own, i, a): (&[u32], &mut usize, &mut Vec<u8>),
        (other, there, j, b): (&Self, &[u32], &mut usize, &mut Vec<u8>),
    ) -> bool {
        while a.len() != b.len() {
            let known = if a.len() < b.len() { self.spell(own, i, a) } else { other.spell(there, j, b) };
            if !known {
                return false;
            }
        }
        true
    }

    /// Adds the letters of the next piece, and passes it; false where there is none, or it is no text.
    fn spell(&self, ids: &[u32], at: &mut usize, letters: &mut Vec<u8>) -> bool {
        let Some(&id) = ids.get(*at) else { return false };
        *at += 1;
        let Some(piece) = self.0.get(id as usize).and_then(|piece| piece.letters.as_ref()) else {
            return false;
        };
        letters.extend_from_slice(piece);
        true
    }

    /// To where the next word begins.
    fn skip(&self, ids: &[u32], at: &mut usize) {
        let begins = |id: u32| self.0.get(id as usize).is_some_and(|piece| piece.begins);
        while ids.get(*at).is_some_and(|&id| !begins(id)) {
            *at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::tokenizer::{Case, TokenizerKind, TrainOptions};

    fn word_pieces(vocabulary: &str) -> Tokenizer {
        let all = format!("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n{vocabulary}");
        Tokenizer::from_vocab_bytes(all.as_bytes(), Case::Lower, Path::new("vocab.txt")).unwrap()
    }

    /// The pieces that meet, as both write them.
    fn meeting<'a>(own: &'a Tokenizer, there: &'a Tokenizer, text: &str) -> Vec<(&'a str, &'a str)> {
        let (a, b) = (own.encode(text).unwrap(), there.encode(text).unwrap());
        let met = Spelling::of(own).meeting(&a, &Spelling::of(there), &b);
        let piece = |tokenizer: &'a Tokenizer, id: u32| tokenizer.id_to_piece(id).unwrap();
        met.into_iter().map(|(i, j)| (piece(own, a[i as usize]), piece(there, b[j as usize]))).collect()
    }

    #[test]
    fn pieces_meet_where_both_end_at_one_letter() {
        let own = word_pieces("the\nplay\n##ing\n##er\nriver\n,");
        let there = word_pieces("the\np\n##lay\n##i\n##ng\nriver\n,\nplayer\nbank");
        assert_eq!(
            meeting(&own, &there, "The playing, player"),
            [("the", "the"), ("play", "##lay"), ("##ing", "##ng"), (",", ","), ("##er", "player")]
        );
        // A word that one of them does not know is passed by, and what follows is compared.
        assert_eq!(
            meeting(&own, &there, "the bank, river"),
            [("the", "the"), (",", ","), ("river", "river")]
        );
        assert_eq!(meeting(&there, &own, "zzz the bank"), [("the", "the")]);
        assert_eq!(meeting(&own, &there, "zzz"), []);
    }

    #[test]
    fn byte_level_pieces_meet_word_pieces_and_stop_at_letters_that_differ() {
        let options = TrainOptions { kind: TokenizerKind::ByteLevelBpe, vocab_size: 300, case: Case::Keep };
        let bytes = Tokenizer::train(&"the river plays, the bank\n".repeat(30), options).unwrap();
        let own = word_pieces("the\nriver\nplay\n##s\n,\nbank\ncafe");
        let words = |text| meeting(&own, &bytes, text).into_iter().map(|(own, _)| own).collect::<Vec<_>>();
        let met = words("The river plays, the bank");
        assert!(met.starts_with(&["the", "river"]) && met.ends_with(&["the", "bank"]), "{met:?}");
        assert_eq!(words("the café the bank"), ["the"], "é is no e");
    }

    #[test]
    fn what_was_cut_is_not_compared() {
        let own = word_pieces("play\n##ing\nthe");
        let there = word_pieces("play\n##i\n##n\n##g\nthe");
        let (a, b) = (own.encode("the playing").unwrap(), there.encode("the playing").unwrap());
        let met = |a: &[u32], b: &[u32]| Spelling::of(&own).meeting(a, &Spelling::of(&there), b);
        assert_eq!(met(&a, &b), [(0, 0), (1, 1), (2, 4)]);
        assert_eq!(met(&a, &b[..4]), [(0, 0), (1, 1)]);
        assert_eq!(met(&a[..1], &b), [(0, 0)]);
        assert_eq!(met(&[], &b), []);
        assert_eq!(met(&a, &[900, 4]), [], "no ids of this vocabulary");
    }
}
