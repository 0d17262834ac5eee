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
    /// The whole text: what stood there before, and everything that was handed on.
    whole: String,
}

impl<'t> Shown<'t> {
    /// Everything of `ids` from `first` on counts as shown.
    pub(super) fn new(tokenizer: &'t Tokenizer, ids: &[u32], first: usize) -> Self {
        let end_of_line = tokenizer.roles().eos;
        let line = ids.iter().rposition(|&id| id == end_of_line).map_or(first, |at| first.max(at + 1));
        let whole = tokenizer.decode(&ids[first..]);
        Self { tokenizer, line, text: tokenizer.decode(&ids[line..]), whole }
    }

    /// Hands on what the last of `ids` adds.
    pub(super) fn hand_on(&mut self, ids: &[u32], piece: &mut dyn FnMut(&str)) {
        let Some((last, before)) = ids.split_last() else { return };
        if *last == self.tokenizer.roles().eos {
            self.end_line(before, piece);
            piece("\n");
            self.whole.push('\n');
            (self.line, self.text) = (ids.len(), String::new());
            return;
        }
        // Bytes that follow each other are read together: all of them stand for nothing where one does not fit.
        let line = &ids[self.line..];
        let bytes = line.iter().rev().take_while(|&&id| self.is_byte(id)).count();
        let text = self.tokenizer.decode(&line[..line.len() - bytes]);
        // A token may be a part of a character, which is unreadable before its other parts are there.
        let settled = text.trim_end_matches(char::REPLACEMENT_CHARACTER);
        if settled.starts_with(self.text.as_str()) {
            self.extend(settled, piece);
        }
    }

    /// Hands on what was held back of the line.
    pub(super) fn end_line(&mut self, ids: &[u32], piece: &mut dyn FnMut(&str)) {
        let text = self.tokenizer.decode(&ids[self.line..]);
        self.extend(&text, piece);
    }

    /// The whole text so far: with `new`'s, what all pieces join to.
    pub(super) fn into_text(self) -> String {
        self.whole
    }

    /// Whether a token stands for one byte of a character (`<0xE2>`).
    fn is_byte(&self, id: u32) -> bool {
        let piece = self.tokenizer.id_to_piece(id).unwrap_or_default();
        piece.len() == 6 && piece.starts_with("<0x") && piece.ends_with('>')
    }

    /// Hands on what `text` has more than was handed on. What was handed on stands, even where a tokenizer reads it
    /// otherwise by now.
    fn extend(&mut self, text: &str, piece: &mut dyn FnMut(&str)) {
        let common = self.text.char_indices().zip(text.chars()).take_while(|((_, a), b)| a == b).last();
        let new = common.map_or(text, |((at, c), _)| &text[at + c.len_utf8()..]);
        if !new.is_empty() {
            piece(new);
            self.whole.push_str(new);
            text.clone_into(&mut self.text);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use headstart_engine::rng;

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

    /// Tokenizers of every kind of decoder, with a few pieces each.
    fn tokenizers() -> Vec<Tokenizer> {
        let words = ["\u{2581}the", "\u{2581}sea", "a", "s", ".", "n't", "\u{e9}"];
        let bytes: Vec<String> = (0..=255).map(|byte| format!("<0x{byte:02X}>")).collect();
        let vocabulary = |pieces: &[String]| {
            let entries: Vec<String> =
                pieces.iter().enumerate().map(|(id, piece)| format!("{piece:?}:{id}")).collect();
            format!("{{{}}}", entries.join(","))
        };
        let all: Vec<String> = words.iter().map(|&w| w.to_owned()).chain(bytes).collect();
        let of_bytes = format!(
            r#"{{"version":"1.0","added_tokens":[],"decoder":{{"type":"Sequence","decoders":[
                {{"type":"Replace","pattern":{{"String":"\u2581"}},"content":" "}},{{"type":"ByteFallback"}},{{"type":"Fuse"}},
                {{"type":"Strip","content":" ","start":1,"stop":0}}]}},
                "model":{{"type":"BPE","byte_fallback":true,"fuse_unk":true,"unk_token":null,"vocab":{},"merges":[]}}}}"#,
            vocabulary(&all)
        );
        let scored: Vec<String> =
            ["<unk>"].iter().chain(&words).map(|piece| format!("[{piece:?},-1.0]")).collect();
        let metaspace = format!(
            r#"{{"version":"1.0","added_tokens":[],
                "decoder":{{"type":"Metaspace","replacement":"\u2581","prepend_scheme":"always","split":true}},
                "model":{{"type":"Unigram","unk_id":0,"vocab":[{}]}}}}"#,
            scored.join(",")
        );
        let word_piece = "[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\nsea\n##s\n.\n'\nt\nn\nnot\ndo\n";
        let options = TrainOptions { kind: TokenizerKind::ByteLevelBpe, vocab_size: 262, case: Case::Keep };
        let name = Path::new("tokenizer.json");
        vec![
            Tokenizer::from_json_bytes(of_bytes.as_bytes(), name).unwrap(),
            Tokenizer::from_json_bytes(metaspace.as_bytes(), name).unwrap(),
            Tokenizer::from_vocab_bytes(word_piece.as_bytes(), Case::Keep, name).unwrap(),
            Tokenizer::train("so so so it is\n", options).unwrap(),
        ]
    }

    #[test]
    fn whatever_is_drawn_the_pieces_join_to_the_text_that_the_tokenizer_reads() {
        for (at, tokenizer) in tokenizers().iter().enumerate() {
            let mut draws = rng::Stream::new(7);
            let mut early = 0;
            for _ in 0..300 {
                // Few ids come often, so that characters and runs of bytes become whole at times.
                let few: Vec<u32> = (0..6).map(|_| draws.below(tokenizer.vocab_size()) as u32).collect();
                let smile = tokenizer.encode("\u{1f600}").unwrap_or_default();
                let mut ids = vec![4];
                let prompt = ids.len();
                let mut shown = Shown::new(tokenizer, &ids, 0);
                let mut pieces: Vec<String> = Vec::new();
                for _ in 0..30 {
                    match draws.below(8) {
                        7 => ids.extend(&smile),
                        n => ids.push(few[n % few.len()]),
                    }
                    shown.hand_on(&ids, &mut |piece| pieces.push(piece.to_owned()));
                }
                early += pieces.len();
                shown.end_line(&ids, &mut |piece| pieces.push(piece.to_owned()));
                let whole = shown.into_text();
                assert_eq!(whole, tokenizer.decode(&ids[..prompt]) + &pieces.concat(), "{at}");
                assert_eq!(whole, tokenizer.decode(&ids), "tokenizer {at}: {ids:?}");
            }
            assert!(early > 200, "tokenizer {at} hands on {early} pieces before the end");
        }
    }
}
