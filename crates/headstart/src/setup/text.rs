//! Running text as the inputs of a language model.
//!
//! Owns: how long an input is and what stands around it, what an objective predicts of it. Never: reads files (`data`), the
//! losses (`objective`).

use crate::batch::{Examples, OtherPieces, TokenTargets};
use crate::config::{Arch, HeadPooling, ModelConfig, ObjectiveName, TextUnit};
use crate::data::corpus::{Texts, TokenStream};
use crate::data::template::Template;
use crate::data::unknown::UnknownTokens;
use crate::error::{Error, Result};
use crate::eval::TextSize;
use crate::masking::{Masking, Never};
use crate::setup::learning::OwnReading;
use crate::tokenizer::{RoleIds, Tokenizer};
use crate::train::{EvaluationSplit, thousands};

/// The longest inputs that nobody has asked for: attention in longer ones costs more than it brings.
const LONGEST: usize = 512;

/// The token targets of an objective; `never` are ids that are never masked.
pub(crate) fn token_targets(
    objective: ObjectiveName,
    probability: f64,
    roles: RoleIds,
    vocab_size: usize,
    never: Never,
) -> TokenTargets {
    match objective {
        ObjectiveName::Lm => TokenTargets::Next,
        ObjectiveName::Mlm => {
            TokenTargets::Masked(Masking { probability, mask_id: roles.mask, vocab_size, never })
        }
    }
}

/// What is never masked in running text: an encoder's special tokens, which say nothing of the text.
pub(crate) fn never_in_text(arch: Arch, roles: RoleIds) -> Never {
    if arch.is_encoder() { [Some(roles.cls), Some(roles.sep), roles.pad] } else { [None; 3] }
}

/// What is never masked in a classifier's inputs.
pub(crate) fn never_in_examples(arch: Arch, roles: RoleIds) -> Never {
    if arch.is_encoder() { never_in_text(arch, roles) } else { [Some(roles.cls), None, None] }
}

/// How a language model reads running text: in blocks or lines, which an encoder has its special tokens around, as when it
/// was pretrained.
#[derive(Clone, Debug)]
pub(crate) struct TextInputs {
    /// Tokens of the text in one input.
    block: usize,
    unit: TextUnit,
    /// What stands behind a line in a stream.
    end: u32,
    template: Option<Template>,
}

/// A text in the pieces of a teacher that has others, and how that reads it: by lines.
pub(crate) type Beside<'r, 'a> = Option<(&'r OwnReading, &'a TokenStream)>;

impl TextInputs {
    /// Those of a model; `block_size` is the length of an input, where it was asked for. `teacher`: family and pooling of a model whose
    /// inputs they are to be instead.
    ///
    /// # Errors
    /// [`Error::Config`] when it is longer than the model, or leaves no room for text.
    pub(crate) fn of(
        model: &ModelConfig,
        block_size: Option<usize>,
        unit: TextUnit,
        teacher: Option<(Arch, HeadPooling)>,
        roles: RoleIds,
    ) -> Result<Self> {
        let (end, arch, positions) = (roles.eos, model.arch, model.num_max_positions);
        if let Some(size) = block_size.filter(|&size| size > positions) {
            return Err(Error::Config {
                key: "block_size".into(),
                what: format!("blocks of {size} tokens are asked for, the model has {positions} positions"),
                fix: format!("use {positions} at most, or leave it out"),
            });
        }
        // An encoder has its special tokens around a text, and so has a teacher that expects them.
        let around = teacher.or(arch.is_encoder().then(|| (arch, arch.pooling())));
        let Some((arch, pooling)) = around else {
            if unit == TextUnit::Pairs {
                return Err(Error::Config {
                    key: "inputs".into(),
                    what: format!("{} has nothing between the two texts of a pair", arch.name()),
                    fix: "use lines, or an encoder".into(),
                });
            }
            return Ok(Self { block: block_size.unwrap_or(positions), unit, end, template: None });
        };
        let length = block_size.unwrap_or(positions.min(LONGEST));
        let template = Template::of(arch, pooling, roles, length);
        template.validate(if unit == TextUnit::Pairs { 2 } else { 1 })?;
        let block = length - template.encode(&[], None).input_ids.len();
        Ok(Self { block, unit, end, template: Some(template) })
    }

    /// A stream as inputs; the tail that fills no block is dropped, and what of a line is longer than an input.
    pub(crate) fn examples<'a>(
        &self,
        stream: &'a TokenStream,
        beside: Beside<'_, 'a>,
    ) -> Result<Examples<'a>> {
        let template = self.template.clone();
        let pairs = self.unit == TextUnit::Pairs;
        if let Some((OwnReading { inputs, spelled, .. }, other)) = beside {
            let both = stream.texts_beside(self.end, (other, inputs.end), pairs)?;
            let (ids, seconds) = self.cut(both.iter().map(|both| both[0]));
            let there = inputs.cut(both.iter().map(|both| both[1]));
            let others = OtherPieces {
                ids: there.0,
                seconds: there.1,
                template: inputs.template.clone(),
                spelled: spelled.clone(),
            };
            let in_teachers_pieces = Some(others);
            return Ok(Examples { ids, seconds, template, in_teachers_pieces, ..Examples::default() });
        }
        let (ids, seconds) = match self.unit {
            TextUnit::Lines | TextUnit::Pairs => self.cut(stream.texts(self.end, pairs)?.into_iter()),
            TextUnit::Blocks => {
                let blocks = stream.blocks(self.block)?;
                ((0..blocks.count()).map(|i| blocks.get(i)).collect(), Vec::new())
            }
        };
        Ok(Examples { ids, seconds, template, ..Examples::default() })
    }

    /// First and second texts, each cut to what an input has room for.
    fn cut<'a>(&self, texts: impl Iterator<Item = Texts<'a>>) -> (Vec<&'a [u32]>, Vec<Option<&'a [u32]>>) {
        let cut = |(first, second): Texts<'a>| match (second, &self.template) {
            (Some(second), Some(template)) => {
                let [kept, kept_of_second] = template.kept(first.len(), second.len());
                (&first[..kept], Some(&second[..kept_of_second]))
            }
            _ => (&first[..first.len().min(self.block)], None),
        };
        let (firsts, seconds): (_, Vec<_>) = texts.map(cut).unzip();
        (firsts, if self.unit == TextUnit::Pairs { seconds } else { Vec::new() })
    }

    /// How many lines are longer than an input has room for; `None` where none is. `name` is what they are called.
    ///
    /// # Errors
    /// Those of [`TokenStream::texts`].
    pub(crate) fn cut_note(&self, name: &str, stream: &TokenStream) -> Result<Option<String>> {
        if self.unit == TextUnit::Blocks {
            return Ok(None);
        }
        let texts = stream.texts(self.end, self.unit == TextUnit::Pairs)?;
        let (cut, most) = match &self.template {
            Some(template) => {
                let is_cut = |(first, second): &&Texts<'_>| {
                    template.tokens_cut(first.len(), second.map(<[u32]>::len)) > 0
                };
                (texts.iter().filter(is_cut).count(), template.max_positions)
            }
            None => (texts.iter().filter(|(line, _)| line.len() > self.block).count(), self.block),
        };
        let what = if self.unit == TextUnit::Pairs { "lines and pairs" } else { "lines" };
        let [said, all, most] = [cut, texts.len(), most].map(thousands);
        Ok((cut > 0).then(|| format!("{name}: {said} of {all} {what} were cut to {most} tokens")))
    }

    /// A split that is evaluated, where there is one.
    pub(crate) fn evaluated<'a>(
        &self,
        stream: Option<&'a TokenStream>,
        beside: Beside<'_, 'a>,
    ) -> Result<Option<EvaluationSplit<'a>>> {
        let Some(stream) = stream else { return Ok(None) };
        let counts = stream.counts();
        let text = TextSize { words: counts.words, bytes: counts.bytes, tokens: stream.ids().len() as u64 };
        Ok(Some(EvaluationSplit { examples: self.examples(stream, beside)?, text: Some(text) }))
    }
}

/// What people should be told of a text of which the tokenizer knows little.
pub(crate) fn unknown_warning(stream: &TokenStream, tokenizer: &Tokenizer) -> Option<String> {
    let mut unknown = UnknownTokens::default();
    unknown.add("", stream.ids(), tokenizer);
    unknown.warning("the text")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::tokenizer::Case;

    const ROLES: RoleIds = RoleIds { cls: 1, sep: 2, eos: 2, mask: 3, unk: 4, pad: Some(0) };

    fn model(arch: Arch, num_max_positions: usize) -> ModelConfig {
        ModelConfig { arch, num_max_positions, ..ModelConfig::default() }
    }

    #[test]
    fn an_encoder_reads_blocks_between_its_special_tokens() {
        let lengths = |arch, positions, asked| {
            let inputs =
                TextInputs::of(&model(arch, positions), asked, TextUnit::Blocks, None, ROLES).unwrap();
            (inputs.block, inputs.template.map(|template| template.encode(&[7, 8], None).input_ids))
        };
        assert_eq!(lengths(Arch::Gpt2, 1_024, None), (1_024, None));
        assert_eq!(lengths(Arch::Naacl2019, 256, Some(64)), (64, None));
        let bert = Some(vec![1, 7, 8, 2]);
        assert_eq!(lengths(Arch::Bert, 128, None), (126, bert.clone()));
        assert_eq!(lengths(Arch::Modernbert, 8_192, None), (510, bert.clone()));
        assert_eq!(lengths(Arch::Roberta, 512, Some(100)), (98, bert));
        let refused = |asked| {
            TextInputs::of(&model(Arch::Bert, 16), Some(asked), TextUnit::Blocks, None, ROLES).unwrap_err()
        };
        let long = refused(17).to_string();
        assert!(long.contains("block_size") && long.contains("16 positions"), "{long}");
        assert!(refused(2).to_string().contains("no room for text"));
    }

    #[test]
    fn pairs_are_cut_together_and_have_token_types() {
        let vocab = "[PAD]\n[CLS]\n[SEP]\n[MASK]\n[UNK]\na\nb\nc\n";
        let tokenizer =
            Tokenizer::from_vocab_bytes(vocab.as_bytes(), Case::Keep, Path::new("vocab.txt")).unwrap();
        let text = "a a a a a\nb b\nc c c c c c c c c\n\n";
        let stream = TokenStream::from_text(text, &tokenizer, "text").unwrap();
        let of = |arch, unit| TextInputs::of(&model(arch, 8), None, unit, None, tokenizer.roles());
        let examples = of(Arch::Bert, TextUnit::Pairs).unwrap().examples(&stream, None).unwrap();
        let sequences: Vec<_> = (0..2).map(|i| examples.sequence(i, &TokenTargets::None, 0)).collect();
        assert_eq!(sequences[0].input_ids, [1, 5, 5, 5, 2, 6, 6, 2]);
        assert_eq!(sequences[0].token_type_ids.as_deref(), Some(&[0, 0, 0, 0, 0, 1, 1, 1][..]));
        assert_eq!(
            (&sequences[1].input_ids[..], &sequences[1].token_type_ids),
            (&[1, 7, 7, 7, 7, 7, 7, 2][..], &None)
        );
        assert_eq!(examples.len(), 2);
        let lines = of(Arch::Bert, TextUnit::Lines).unwrap().examples(&stream, None).unwrap();
        assert_eq!((lines.len(), lines.seconds.len()), (3, 0));
        // What is cut is said, with the length of a whole input.
        let note = |arch, unit| of(arch, unit).unwrap().cut_note("train", &stream).unwrap();
        let pairs = "train: 2 of 2 lines and pairs were cut to 8 tokens";
        assert_eq!(note(Arch::Bert, TextUnit::Pairs).as_deref(), Some(pairs));
        let lines = "train: 1 of 3 lines were cut to 8 tokens";
        assert_eq!(note(Arch::Bert, TextUnit::Lines).as_deref(), Some(lines));
        assert_eq!(note(Arch::Gpt2, TextUnit::Lines).as_deref(), Some(lines));
        assert_eq!(note(Arch::Bert, TextUnit::Blocks), None);
        let refused = of(Arch::Gpt2, TextUnit::Pairs).unwrap_err().to_string();
        assert!(refused.contains("inputs") && refused.contains("gpt2 has nothing between"), "{refused}");
        let short = TextInputs::of(&model(Arch::Bert, 4), None, TextUnit::Pairs, None, tokenizer.roles());
        assert!(short.unwrap_err().to_string().contains("two texts"));
    }

    #[test]
    fn special_tokens_of_an_encoder_are_never_masked() {
        let masked = |arch, never: fn(Arch, RoleIds) -> Never| {
            let targets = token_targets(ObjectiveName::Mlm, 1.0, ROLES, 9, never(arch, ROLES));
            targets.sequence(&[1, 7, 2, 0, 4, 8], None, 3).rows
        };
        assert_eq!(masked(Arch::Bert, never_in_text), [1, 4, 5]);
        assert_eq!(masked(Arch::Electra, never_in_examples), [1, 4, 5]);
        assert_eq!(masked(Arch::Gpt2, never_in_text), [0, 1, 2, 3, 4, 5]);
        assert_eq!(masked(Arch::Gpt2, never_in_examples), [1, 2, 3, 4, 5]);
    }
}
