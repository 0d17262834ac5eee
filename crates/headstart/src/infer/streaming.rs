//! Text that grows token by token, handed on piece by piece.
//!
//! Owns: which part of a text can be shown already. Never: draws tokens, prints.

use crate::tokenizer::Tokenizer;

/// The part of a growing text that was handed on already.
pub(super) struct Shown<'t> {
    tokenizer: &'t Tokenizer,
    /// The first id of the line that grows; what stands before it is settled.
    line: usize,
    /// What was handed on of that line.
    text: String,
}

impl<'t> Shown<'t> {
    /// Everything of `ids` from `first` on counts as shown.
    pub(super) fn new(tokenizer: &'t Tokenizer, ids: &[u32], first: usize) -> Self {
        let end_of_line = tokenizer.roles().eos;
        let line = ids.iter().rposition(|&id| id == end_of_line).map_or(first, |at| first.max(at + 1));
        Self { tokenizer, line, text: tokenizer.decode(&ids[line..]) }
    }

    /// Hands on what the last of `ids` adds.
    pub(super) fn hand_on(&mut self, ids: &[u32], piece: &mut dyn FnMut(&str)) {
        let Some((last, before)) = ids.split_last() else { return };
        if *last == self.tokenizer.roles().eos {
            self.end_line(before, piece);
            piece("\n");
            (self.line, self.text) = (ids.len(), String::new());
            return;
        }
        // A token may be a part of a character, which is unreadable before its other parts are there.
        let text = self.tokenizer.decode(&ids[self.line..]);
        self.extend(text.trim_end_matches(char::REPLACEMENT_CHARACTER), piece);
    }

    /// Hands on what was held back of the line.
    pub(super) fn end_line(&mut self, ids: &[u32], piece: &mut dyn FnMut(&str)) {
        let text = self.tokenizer.decode(&ids[self.line..]);
        self.extend(&text, piece);
    }

    fn extend(&mut self, text: &str, piece: &mut dyn FnMut(&str)) {
        if let Some(new) = text.strip_prefix(self.text.as_str()).filter(|new| !new.is_empty()) {
            piece(new);
            self.text.push_str(new);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::{Case, TokenizerKind, TokenizerTrainer, TrainOptions};

    #[test]
    fn pieces_join_to_the_text_with_no_half_characters() {
        let options = TrainOptions { kind: TokenizerKind::ByteLevelBpe, vocab_size: 265, case: Case::Keep };
        let mut trainer = TokenizerTrainer::new(options).unwrap();
        trainer.feed("so so so it is\n").unwrap();
        let tokenizer = trainer.finish().unwrap().tokenizer;
        let mut ids = tokenizer.encode("so").unwrap();
        let mut shown = Shown::new(&tokenizer, &ids, 0);
        let mut pieces = Vec::new();
        let line = tokenizer.roles().eos;
        let smile = tokenizer.encode("\u{1f600}").unwrap();
        let more =
            [&tokenizer.encode(" it is \u{e9}").unwrap()[..], &[line, line], &smile, &smile[..2]].concat();
        for id in more {
            ids.push(id);
            shown.hand_on(&ids, &mut |piece| pieces.push(piece.to_owned()));
        }
        shown.end_line(&ids, &mut |piece| pieces.push(piece.to_owned()));
        // What is no character at the very end is shown as what it is.
        assert_eq!(pieces.pop().unwrap(), "\u{fffd}");
        assert!(pieces.len() > 5 && pieces.iter().all(|piece| !piece.is_empty()));
        assert_eq!(pieces.concat(), " it is \u{e9}\n\n\u{1f600}");
        assert_eq!(pieces.concat() + "\u{fffd}", tokenizer.decode(&ids)["so".len()..]);
    }
}
