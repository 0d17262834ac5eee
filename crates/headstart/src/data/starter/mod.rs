//! The starter data embedded in the binary: a small invented world told in English, and questions about it.
//!
//! Everything here was written for this project. The text files hold word lists and sentence templates; the code
//! draws a world from them with a fixed seed (who was born where, how long each river is) and tells it in many
//! documents. The bytes are the same on every platform. `docs/starter-data.md` describes the result.
//! Never: files, tokenizers, models, randomness other than its own fixed seed.

mod corpus;
mod questions;
mod rng;
mod sections;
mod spelling;
mod world;
mod writer;

#[cfg(test)]
mod tests;

/// The six question types, in the order of the class ids 0..5 that TREC has here.
pub const QUESTION_LABELS: [&str; 6] = ["NUM", "LOC", "HUM", "DESC", "ENTY", "ABBR"];

/// A language-modelling corpus: one paragraph per line, each document begun by a line `= Title =`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corpus {
    /// The training documents, about 1.5 MB.
    pub train: String,
    /// Other documents about the same world, about 7 % of the whole.
    pub valid: String,
}

/// One line of text and its class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelledText {
    /// One of [`QUESTION_LABELS`].
    pub label: &'static str,
    /// The question.
    pub text: String,
}

/// The question-type task. No question frame and no named entity is in two splits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Questions {
    /// For training, shuffled.
    pub train: Vec<LabelledText>,
    /// For choosing settings, shuffled.
    pub valid: Vec<LabelledText>,
    /// To be looked at once, shuffled.
    pub test: Vec<LabelledText>,
}

/// Writes the corpus; always the same bytes.
pub fn corpus() -> Corpus {
    let (train, valid) = corpus::write(&world::build());
    Corpus { train, valid }
}

/// Writes the questions; always the same.
pub fn questions() -> Questions {
    let world = world::build();
    let plain = |split| {
        let written = questions::write(&world, split);
        written.into_iter().map(|q| LabelledText { label: q.label, text: q.text }).collect()
    };
    Questions {
        train: plain(questions::Split::Train),
        valid: plain(questions::Split::Valid),
        test: plain(questions::Split::Test),
    }
}
