//! What a data set looks like in numbers: counts, lengths, label balance, samples with their pieces.
//!
//! Owns: the sums. Never: prints them.

use serde::Serialize;

use super::classification::{ClassificationData, Label, LabelledSplit};
use super::corpus::{CorpusCounts, TokenStream, count_words};
use super::template::Template;
use crate::tokenizer::Tokenizer;

/// How some lengths are distributed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct LengthSummary {
    /// How many lengths there are.
    pub count: u64,
    /// The smallest.
    pub min: u64,
    /// Their average.
    pub mean: f64,
    /// Half of them are at most this.
    pub median: u64,
    /// Nine in ten are at most this.
    pub p90: u64,
    /// Ninety-nine in a hundred are at most this.
    pub p99: u64,
    /// The largest.
    pub max: u64,
}

impl LengthSummary {
    /// Summarises lengths; of none, everything is zero.
    pub fn new(mut lengths: Vec<u64>) -> Self {
        lengths.sort_unstable();
        let (Some(&min), Some(&max)) = (lengths.first(), lengths.last()) else { return Self::default() };
        // The nearest rank: the smallest value that so many hundredths do not exceed.
        let rank = |percent: usize| lengths[(lengths.len() * percent).div_ceil(100).saturating_sub(1)];
        Self {
            count: lengths.len() as u64,
            min,
            mean: lengths.iter().sum::<u64>() as f64 / lengths.len() as f64,
            median: rank(50),
            p90: rank(90),
            p99: rank(99),
            max,
        }
    }
}

/// One split of a corpus in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CorpusSummary {
    /// Lines, words and bytes.
    pub counts: CorpusCounts,
    /// Tokens, line ends included.
    pub tokens: u64,
    /// Tokens that stand for what the vocabulary cannot spell.
    pub unknown_tokens: u64,
    /// Tokens of the lines that are not empty, line ends left out.
    pub line_lengths: LengthSummary,
    /// The pieces of the first lines that are not empty.
    pub samples: Vec<Vec<String>>,
}

/// Summarises a corpus, with up to `samples` lines.
pub fn summarize_corpus(stream: &TokenStream, tokenizer: &Tokenizer, samples: usize) -> CorpusSummary {
    let roles = tokenizer.roles();
    let lines = || stream.ids().split(|&id| id == roles.eos).filter(|line| !line.is_empty());
    CorpusSummary {
        counts: stream.counts(),
        tokens: stream.ids().len() as u64,
        unknown_tokens: stream.ids().iter().filter(|&&id| id == roles.unk).count() as u64,
        line_lengths: LengthSummary::new(lines().map(|line| line.len() as u64).collect()),
        samples: lines().take(samples).map(|line| pieces(line, tokenizer)).collect(),
    }
}

/// One split of a corpus as it is written, in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RawCorpus {
    /// Lines, words and bytes.
    pub counts: CorpusCounts,
    /// Words of the lines that are not empty.
    pub words: LengthSummary,
    /// Characters of the lines that are not empty.
    pub characters: LengthSummary,
    /// The first lines that are not empty.
    pub samples: Vec<String>,
}

/// Lines that are being summed up.
#[derive(Debug, Default)]
pub(super) struct RawCorpusLines {
    counts: CorpusCounts,
    words: Vec<u64>,
    characters: Vec<u64>,
    samples: Vec<String>,
}

impl RawCorpusLines {
    /// Adds whole lines; of all lines so far, `samples` are kept.
    pub fn add(&mut self, text: &str, samples: usize) {
        for line in text.split_inclusive('\n') {
            let content = line.strip_suffix('\n').unwrap_or(line);
            self.counts += CorpusCounts { lines: 1, words: count_words(content), bytes: line.len() as u64 };
            if content.trim().is_empty() {
                continue;
            }
            self.words.push(content.split_whitespace().count() as u64);
            self.characters.push(content.chars().count() as u64);
            if self.samples.len() < samples {
                self.samples.push(content.to_owned());
            }
        }
    }

    /// What they come to.
    pub fn summary(self) -> RawCorpus {
        let Self { counts, words, characters, samples } = self;
        RawCorpus {
            counts,
            words: LengthSummary::new(words),
            characters: LengthSummary::new(characters),
            samples,
        }
    }
}

/// One split of a classification data set in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SplitSummary {
    /// Examples.
    pub examples: u64,
    /// The labels in order, with the number of examples that have each.
    pub label_balance: Vec<(String, u64)>,
    /// Tokens of the whole texts, both of a pair together, without special tokens.
    pub text_lengths: LengthSummary,
    /// Texts, or pairs, cut to fit the positions.
    pub truncated: u64,
    /// Examples with a text without a single token.
    pub empty_texts: u64,
    /// Tokens that stand for what the vocabulary cannot spell.
    pub unknown_tokens: u64,
    /// The first examples.
    pub samples: Vec<SampleExample>,
}

/// An example as it reaches the model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SampleExample {
    /// Its label: a name, names with ` | ` between them, or a number.
    pub label: String,
    /// Its pieces.
    pub pieces: Vec<String>,
}

/// Summarises a split of `data`, with up to `samples` examples.
pub fn summarize_split(
    data: &ClassificationData,
    split: &LabelledSplit,
    tokenizer: &Tokenizer,
    template: &Template,
    samples: usize,
) -> SplitSummary {
    let unknown = tokenizer.roles().unk;
    let counts = split.class_counts(data.labels.len());
    let ids = || split.iter().flat_map(|e| e.ids.iter().chain(e.second.unwrap_or_default()));
    let sample = |example: super::classification::Example| SampleExample {
        label: label_text(example.label, &data.labels),
        pieces: pieces(&template.encode(example.ids, example.second).input_ids, tokenizer),
    };
    SplitSummary {
        examples: split.len() as u64,
        label_balance: data.labels.iter().cloned().zip(counts).collect(),
        text_lengths: LengthSummary::new(split.lengths().map(|(a, b)| (a + b.unwrap_or(0)) as u64).collect()),
        truncated: split.lengths().filter(|&(a, b)| template.tokens_cut(a, b) > 0).count() as u64,
        empty_texts: split.empty_texts() as u64,
        unknown_tokens: ids().filter(|&&id| id == unknown).count() as u64,
        samples: split.iter().take(samples).map(sample).collect(),
    }
}

/// A label as text.
pub fn label_text(label: &Label, names: &[String]) -> String {
    let name = |&class: &u32| names.get(class as usize).map_or("?", String::as_str);
    match label {
        Label::Class(class) => name(class).to_owned(),
        Label::Classes(classes) => classes.iter().map(name).collect::<Vec<_>>().join(" | "),
        Label::Value(value) => value.to_string(),
    }
}

fn pieces(ids: &[u32], tokenizer: &Tokenizer) -> Vec<String> {
    ids.iter().map(|&id| tokenizer.id_to_piece(id).unwrap_or("?").to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::data::Split;
    use crate::data::classification::ClassificationOptions;
    use crate::tokenizer::Case;

    fn tokenizer() -> Tokenizer {
        let vocab = "[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\ncat\n##s\n";
        Tokenizer::from_vocab_bytes(vocab.as_bytes(), Case::Keep, Path::new("vocab.txt")).unwrap()
    }

    #[test]
    fn lengths_use_the_nearest_rank() {
        let summary = LengthSummary::new((1..=10).rev().collect());
        let expected = LengthSummary { count: 10, min: 1, mean: 5.5, median: 5, p90: 9, p99: 10, max: 10 };
        assert_eq!(summary, expected);
        assert_eq!(LengthSummary::new(vec![7]).p99, 7);
        assert_eq!(LengthSummary::new(vec![]), LengthSummary::default());
    }

    #[test]
    fn corpora_are_summed_up() {
        let tokenizer = tokenizer();
        let stream = TokenStream::from_text("the cats\n\ndog\n", &tokenizer, "text").unwrap();
        let summary = summarize_corpus(&stream, &tokenizer, 1);
        assert_eq!((summary.tokens, summary.unknown_tokens, summary.counts.words), (7, 1, 6));
        assert_eq!((summary.line_lengths.count, summary.line_lengths.max), (2, 3));
        assert_eq!(summary.samples, [["the", "cat", "##s"]]);
    }

    #[test]
    fn labelled_data_is_summed_up() {
        let tokenizer = tokenizer();
        let train: &[(&str, &str)] = &[("p", "the cats"), ("n", "dog"), ("p", "")];
        let data = ClassificationData::from_texts(&[(Split::Train, train)], &["n", "p"], &tokenizer).unwrap();
        let template = Template::naacl2019(tokenizer.roles(), 3);
        let summary = summarize_split(&data, data.get(Split::Train).unwrap(), &tokenizer, &template, 1);
        assert_eq!(summary.label_balance, [("n".to_owned(), 1), ("p".to_owned(), 2)]);
        assert_eq!(
            (summary.examples, summary.truncated, summary.empty_texts, summary.unknown_tokens),
            (3, 1, 1, 1)
        );
        assert_eq!(summary.text_lengths.max, 3);
        let pieces = ["the", "cat", "[CLS]"].map(str::to_owned).to_vec();
        assert_eq!(summary.samples, [SampleExample { label: "p".into(), pieces }]);
    }

    #[test]
    fn both_texts_of_a_pair_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.csv");
        std::fs::write(&path, "text_a,text_b,label\nthe cats,dog,p\ncat,,n\n").unwrap();
        let (options, tokenizer) = (ClassificationOptions::default(), tokenizer());
        let cache = dir.path().join("cache");
        let mut go_on = |_: crate::event::Event<'_>| crate::event::Signal::Continue;
        let data = ClassificationData::load(&path, &options, &tokenizer, &cache, &mut go_on).unwrap();
        let template = Template::bert(tokenizer.roles(), 6);
        let summary = summarize_split(&data, data.get(Split::Train).unwrap(), &tokenizer, &template, 2);
        let SplitSummary { text_lengths, truncated, empty_texts, unknown_tokens, samples, .. } = summary;
        assert_eq!((text_lengths.max, truncated, empty_texts, unknown_tokens), (4, 1, 1, 1));
        assert_eq!(samples[0].pieces.join(" "), "[CLS] the cat [SEP] [UNK] [SEP]");
        assert_eq!(samples[1].pieces.join(" "), "[CLS] cat [SEP] [SEP]");
    }
}
