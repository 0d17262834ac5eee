//! How much of a text a vocabulary cannot spell, and what that is.
//!
//! Owns: the counts and their warning. Never: decides what becomes of such a text.

use crate::tokenizer::{RoleIds, Tokenizer};

/// A smaller share of unknown tokens is usual: rare characters, names.
const USUAL_SHARE: f64 = 0.03;
/// Pieces that are shown.
const EXAMPLES: usize = 3;
/// Texts that are looked into for them.
const TEXTS: usize = 20;

/// Tokens of some texts, and those among them that stand for what the vocabulary cannot spell.
#[derive(Debug, Default)]
pub struct UnknownTokens {
    tokens: u64,
    unknown: u64,
    looked: usize,
    examples: Vec<String>,
}

impl UnknownTokens {
    /// Counts the tokens `ids` of `text`.
    pub fn add(&mut self, text: &str, ids: &[u32], tokenizer: &Tokenizer) {
        let RoleIds { unk, eos, .. } = tokenizer.roles();
        // GPT-2 has no token for what it cannot spell, for it can spell all, and calls the end of a text so.
        let unknown = if unk == eos { 0 } else { ids.iter().filter(|&&id| id == unk).count() };
        self.tokens += ids.len() as u64;
        self.unknown += unknown as u64;
        if unknown > 0 && self.examples.len() < EXAMPLES && self.looked < TEXTS {
            self.looked += 1;
            for piece in tokenizer.unknown_pieces(text) {
                if self.examples.len() < EXAMPLES && !self.examples.contains(&piece) {
                    self.examples.push(piece);
                }
            }
        }
    }

    /// What people should be told where more than usual is unknown; `whose` names the texts.
    pub fn warning(&self, whose: &str) -> Option<String> {
        let Self { tokens, unknown, examples, .. } = self;
        let share = *unknown as f64 / (*tokens).max(1) as f64;
        let shown: Vec<String> = examples.iter().map(|piece| format!("`{}`", piece.escape_debug())).collect();
        let such = if shown.is_empty() { String::new() } else { format!(", such as {}", shown.join(", ")) };
        (share > USUAL_SHARE).then(|| {
            format!(
                "warning: {unknown} of {tokens} tokens of {whose} ({:.0} %) are unknown to the tokenizer{such}: the model \
                 cannot tell them apart",
                100.0 * share
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::tokenizer::Case;

    #[test]
    fn what_cannot_be_spelled_is_counted_and_shown() {
        let vocab = "[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\ncat\n##s\n";
        let tokenizer = Tokenizer::from_vocab_bytes(vocab.as_bytes(), Case::Keep, Path::new("v")).unwrap();
        let mut tokens = UnknownTokens::default();
        for text in ["the cats", "\u{436}\u{430} the dog", "dog \u{1f600}"] {
            tokens.add(text, &tokenizer.encode(text).unwrap(), &tokenizer);
        }
        let warning = tokens.warning("the training texts").unwrap();
        let expected = "warning: 4 of 8 tokens of the training texts (50 %) are unknown to the tokenizer, such as \
                        `\u{436}\u{430}`, `dog`, `\u{1f600}`: the model cannot tell them apart";
        assert_eq!(warning, expected);
        let mut few = UnknownTokens::default();
        for _ in 0..40 {
            few.add("the cat", &[4, 5], &tokenizer);
        }
        few.add("dog", &[0], &tokenizer);
        assert_eq!(few.warning("it"), None);
    }
}
