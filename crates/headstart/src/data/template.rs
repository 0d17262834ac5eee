//! How the token ids of one text, or of two, become the input of a model: which special tokens stand where, which token
//! types they have, how what is too long is cut, which row a classifier reads.
//!
//! Owns: all of that, for training, evaluation and prediction alike, so that they cannot differ. Never: tokenises
//! (caches hold the plain ids of whole texts), knows models.

use crate::config::{Arch, HeadPooling, Truncation};
use crate::error::{Error, Result};
use crate::tokenizer::RoleIds;

/// The layout of an input: plain data, with a constructor for each family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Special tokens before the first text.
    pub before: Vec<u32>,
    /// Special tokens between two texts; they belong to the first.
    pub between: Vec<u32>,
    /// Special tokens behind the last text; they belong to it.
    pub after: Vec<u32>,
    /// The token type of the second text; the first has 0.
    pub second_type: u32,
    /// The row that a classifier reads which reads a single one.
    pub row: Row,
    /// What is kept of a text that is too long.
    pub truncation: Truncation,
    /// The longest input, special tokens included.
    pub max_positions: usize,
    /// Stands for an input that would have no token at all: a model needs a row.
    pub empty: u32,
}

/// A row of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row {
    /// The first, where encoders have their `[CLS]`.
    First,
    /// The last, which has seen all others in a causal model.
    Last,
}

/// An input as it reaches a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The ids, special tokens included; never none.
    pub input_ids: Vec<u32>,
    /// For each text, the length of its segment with the special tokens that belong to it, and its token type.
    pub segments: [(usize, u32); 2],
    /// The row a classifier reads which reads a single one.
    pub classified_row: usize,
    /// How many tokens of the texts were cut.
    pub tokens_cut: usize,
}

impl Encoded {
    /// The token type of each id.
    pub fn token_type_ids(&self) -> impl Iterator<Item = u32> {
        self.segments.iter().flat_map(|&(length, kind)| std::iter::repeat_n(kind, length))
    }

    /// The token types of all ids; `None` where all are 0.
    pub fn types(&self) -> Option<Vec<u32>> {
        let typed = self.segments.iter().any(|&(length, kind)| length > 0 && kind != 0);
        typed.then(|| self.token_type_ids().collect())
    }
}

impl Template {
    /// The tutorial's: `text [CLS]`, and `a [SEP] b [CLS]`. The last row is classified.
    pub fn naacl2019(roles: RoleIds, max_positions: usize) -> Self {
        Self { between: vec![roles.sep], after: vec![roles.cls], ..Self::bare(roles, max_positions) }
    }

    /// BERT's: `[CLS] a [SEP]` and `[CLS] a [SEP] b [SEP]`, the second segment with token type 1 (Devlin et al. 2019).
    pub fn bert(roles: RoleIds, max_positions: usize) -> Self {
        Self {
            before: vec![roles.cls],
            between: vec![roles.sep],
            after: vec![roles.sep],
            second_type: 1,
            row: Row::First,
            ..Self::bare(roles, max_positions)
        }
    }

    /// RoBERTa's: `<s> a </s>` and `<s> a </s></s> b </s>`, without token types (Liu et al. 2019). `roles.cls` is the id
    /// of `<s>`, `roles.sep` that of `</s>`.
    pub fn roberta(roles: RoleIds, max_positions: usize) -> Self {
        Self { between: vec![roles.sep; 2], second_type: 0, ..Self::bert(roles, max_positions) }
    }

    /// GPT-2's: the text as it is, two texts one behind the other. The last token is classified.
    pub fn bare(roles: RoleIds, max_positions: usize) -> Self {
        Self {
            before: Vec::new(),
            between: Vec::new(),
            after: Vec::new(),
            second_type: 0,
            row: Row::Last,
            truncation: Truncation::Head,
            max_positions,
            empty: roles.eos,
        }
    }

    /// The template of a family under a head: that of an encoder, or for the others a final `[CLS]` where the head reads it and
    /// the bare text where it does not.
    pub fn of(arch: Arch, pooling: HeadPooling, roles: RoleIds, max_positions: usize) -> Self {
        match arch {
            Arch::Bert | Arch::Electra | Arch::Distilbert | Arch::Modernbert => {
                Self::bert(roles, max_positions)
            }
            Arch::Roberta => Self::roberta(roles, max_positions),
            Arch::Naacl2019 | Arch::Gpt2 if pooling.reads_cls() => Self::naacl2019(roles, max_positions),
            Arch::Naacl2019 | Arch::Gpt2 => Self::bare(roles, max_positions),
        }
    }

    /// The same that keeps something else of what is too long.
    #[must_use]
    pub fn truncated(self, truncation: Truncation) -> Self {
        Self { truncation, ..self }
    }

    /// Checks that so many texts to an input have room beside the special tokens, a token each.
    ///
    /// # Errors
    /// [`Error::Config`] when they have none.
    pub fn validate(&self, texts: usize) -> Result<()> {
        let special = self.special(texts);
        if self.max_positions >= special + texts {
            return Ok(());
        }
        let text = if texts == 2 { "two texts" } else { "text" };
        Err(Error::Config {
            key: "num_max_positions".into(),
            what: format!(
                "{} positions leave no room for {text} beside {special} special token(s)",
                self.max_positions
            ),
            fix: format!("use at least {}", special + texts),
        })
    }

    /// The special tokens beside so many texts.
    fn special(&self, texts: usize) -> usize {
        self.before.len() + self.after.len() + if texts == 2 { self.between.len() } else { 0 }
    }

    /// The input of one text, or of two. Of two texts that are too long together, the longer one is cut first, and then
    /// both alike (`longest_first` of Hugging Face).
    pub fn encode(&self, first: &[u32], second: Option<&[u32]>) -> Encoded {
        let (lengths, kept) = self.lengths(first.len(), second.map(<[u32]>::len));
        let mut input_ids = Vec::with_capacity(self.max_positions.min(lengths[0] + lengths[1] + 4));
        input_ids.extend_from_slice(&self.before);
        input_ids.extend(self.keep(first, kept[0]).into_iter().flatten());
        let mut first_segment = input_ids.len();
        if let Some(second) = second {
            input_ids.extend_from_slice(&self.between);
            first_segment = input_ids.len();
            input_ids.extend(self.keep(second, kept[1]).into_iter().flatten());
        }
        input_ids.extend_from_slice(&self.after);
        if input_ids.is_empty() {
            input_ids.push(self.empty);
        }
        let last = input_ids.len() - 1;
        let first_segment = if second.is_some() { first_segment } else { input_ids.len() };
        Encoded {
            segments: [(first_segment, 0), (input_ids.len() - first_segment, self.second_type)],
            classified_row: if self.row == Row::First { 0 } else { last },
            tokens_cut: lengths[0] + lengths[1] - kept[0] - kept[1],
            input_ids,
        }
    }

    /// The parts that a text, or two, are read in where nothing is to be cut: windows that overlap by half of what is too long, each beside the
    /// whole of the other text. Where both texts of a pair would be cut, they are one part.
    pub fn windows<'a>(
        &self,
        first: &'a [u32],
        second: Option<&'a [u32]>,
    ) -> Vec<(&'a [u32], Option<&'a [u32]>)> {
        let (lengths, kept) = self.lengths(first.len(), second.map(<[u32]>::len));
        match (kept[0] < lengths[0], kept[1] < lengths[1], second) {
            (true, false, _) => overlapping(first, kept[0]).map(|part| (part, second)).collect(),
            (false, true, Some(second)) => {
                overlapping(second, kept[1]).map(|part| (first, Some(part))).collect()
            }
            _ => vec![(first, second)],
        }
    }

    /// How many tokens of the two texts of a pair stay.
    pub fn kept(&self, first: usize, second: usize) -> [usize; 2] {
        self.lengths(first, Some(second)).1
    }

    /// Where the second text of a pair begins, behind a first one of so many tokens.
    pub fn second_starts(&self, first: usize) -> usize {
        self.before.len() + first + self.between.len()
    }

    /// How many tokens are cut of a text of so many, or of two.
    pub fn tokens_cut(&self, first: usize, second: Option<usize>) -> usize {
        let (lengths, kept) = self.lengths(first, second);
        lengths[0] + lengths[1] - kept[0] - kept[1]
    }

    /// The tokens of both texts, and how many of each stay.
    fn lengths(&self, first: usize, second: Option<usize>) -> ([usize; 2], [usize; 2]) {
        let room = self.max_positions.saturating_sub(self.special(1 + usize::from(second.is_some())));
        let lengths = [first, second.unwrap_or(0)];
        (lengths, share(lengths, room))
    }

    /// The `length` tokens of a text that are kept: its beginning and its end.
    fn keep<'a>(&self, text: &'a [u32], length: usize) -> [&'a [u32]; 2] {
        let head = match self.truncation {
            _ if length == text.len() => length,
            Truncation::Head => length,
            Truncation::Tail => 0,
            // 128 of 510, as Sun et al. have it.
            Truncation::HeadTail => (length + 2) / 4,
        };
        [&text[..head], &text[text.len() - (length - head)..]]
    }
}

/// Windows of `size` tokens over a longer text, half a window apart; the last ends with the text.
fn overlapping(text: &[u32], size: usize) -> impl Iterator<Item = &[u32]> {
    let (size, last) = (size.max(1), text.len() - size.max(1));
    let step = size.div_ceil(2);
    (0..=last.div_ceil(step)).map(move |window| &text[(window * step).min(last)..][..size])
}

/// How many tokens of two texts stay where there is room for so many: the shorter text is left whole as long as it does
/// not take more than half.
fn share([a, b]: [usize; 2], room: usize) -> [usize; 2] {
    if a + b <= room {
        return [a, b];
    }
    let (half, rest) = (room / 2, room - room / 2);
    let short = a.min(b);
    match (short <= half, a <= b) {
        (true, true) => [a, room - a],
        (true, false) => [room - b, b],
        // An odd token goes to the longer one, to the second of two equal ones.
        (false, true) => [half, rest],
        (false, false) => [rest, half],
    }
}

#[cfg(test)]
mod tests {
    use tokenizers::processors::bert::BertProcessing;
    use tokenizers::processors::roberta::RobertaProcessing;
    use tokenizers::utils::truncation::{
        TruncationDirection, TruncationParams, TruncationStrategy, truncate_encodings,
    };
    use tokenizers::{Encoding, PostProcessor, Token};

    use super::*;

    const ROLES: RoleIds = RoleIds { cls: 101, sep: 102, eos: 103, mask: 104, unk: 105, pad: None };

    fn parts(encoded: &Encoded) -> (&[u32], Vec<u32>, usize, usize) {
        let types = encoded.token_type_ids().collect();
        (&encoded.input_ids, types, encoded.classified_row, encoded.tokens_cut)
    }

    #[test]
    fn the_tutorials_text_ends_with_its_classified_token() {
        let template = Template::naacl2019(ROLES, 6);
        assert_eq!(parts(&template.encode(&[1, 2], None)), (&[1, 2, 101][..], vec![0; 3], 2, 0));
        assert_eq!(
            parts(&template.encode(&[1, 2, 3, 4, 5, 6, 7], None)),
            (&[1, 2, 3, 4, 5, 101][..], vec![0; 6], 5, 2)
        );
        assert_eq!(parts(&template.encode(&[], None)), (&[101][..], vec![0], 0, 0));
        let pair = template.encode(&[1, 2], Some(&[3, 4, 5]));
        assert_eq!(parts(&pair), (&[1, 2, 102, 3, 4, 101][..], vec![0; 6], 5, 1));
    }

    #[test]
    fn berts_inputs_have_token_types_and_their_first_row_classified() {
        let template = Template::bert(ROLES, 8);
        assert_eq!(parts(&template.encode(&[1, 2], None)), (&[101, 1, 2, 102][..], vec![0; 4], 0, 0));
        assert_eq!(
            parts(&template.encode(&[1, 2, 3, 4, 5, 6, 7], None)),
            (&[101, 1, 2, 3, 4, 5, 6, 102][..], vec![0; 8], 0, 1)
        );
        let pair = template.encode(&[1, 2, 3, 4], Some(&[5, 6, 7]));
        let types = vec![0, 0, 0, 0, 0, 1, 1, 1];
        assert_eq!(parts(&pair), (&[101, 1, 2, 3, 102, 5, 6, 102][..], types, 0, 2));
        let empty = template.encode(&[1], Some(&[]));
        assert_eq!(parts(&empty), (&[101, 1, 102, 102][..], vec![0, 0, 0, 1], 0, 0));
    }

    #[test]
    fn robertas_pairs_have_two_separators_and_one_type() {
        let template = Template::roberta(ROLES, 9);
        assert_eq!(parts(&template.encode(&[1], None)), (&[101, 1, 102][..], vec![0; 3], 0, 0));
        let pair = template.encode(&[1, 2], Some(&[3, 4, 5, 6]));
        assert_eq!(parts(&pair), (&[101, 1, 2, 102, 102, 3, 4, 5, 102][..], vec![0; 9], 0, 1));
    }

    #[test]
    fn bare_texts_have_nothing_added_and_an_empty_one_still_a_row() {
        let template = Template::bare(ROLES, 3);
        assert_eq!(parts(&template.encode(&[1, 2], None)), (&[1, 2][..], vec![0; 2], 1, 0));
        assert_eq!(parts(&template.encode(&[1, 2, 3, 4], None)), (&[1, 2, 3][..], vec![0; 3], 2, 1));
        assert_eq!(parts(&template.encode(&[1, 2], Some(&[3, 4]))), (&[1, 3, 4][..], vec![0; 3], 2, 1));
        assert_eq!(parts(&template.encode(&[], None)), (&[103][..], vec![0], 0, 0));
    }

    #[test]
    fn the_head_or_the_tail_is_kept() {
        let template = Template::bert(ROLES, 5).truncated(Truncation::Tail);
        assert_eq!(template.encode(&[1, 2, 3, 4], None).input_ids, [101, 2, 3, 4, 102]);
        assert_eq!(template.encode(&[1, 2], Some(&[3, 4])).input_ids, [101, 2, 102, 4, 102]);
        assert_eq!([3, 4].map(|length| template.tokens_cut(length, None)), [0, 1]);
        assert_eq!((template.tokens_cut(2, Some(2)), template.tokens_cut(0, Some(2))), (2, 0));
    }

    #[test]
    fn a_quarter_of_the_head_and_three_of_the_tail_are_kept() {
        let template = Template::bert(ROLES, 6).truncated(Truncation::HeadTail);
        assert_eq!(template.encode(&[1, 2, 3, 4], None).input_ids, [101, 1, 2, 3, 4, 102]);
        assert_eq!(template.encode(&[1, 2, 3, 4, 5, 6, 7], None).input_ids, [101, 1, 5, 6, 7, 102]);
        let long: Vec<u32> = (0..1000).collect();
        let encoded = Template::bert(ROLES, 512).truncated(Truncation::HeadTail).encode(&long, None);
        let expected: Vec<u32> =
            [101].into_iter().chain(0..128).chain(1000 - 382..1000).chain([102]).collect();
        assert_eq!((encoded.input_ids, encoded.tokens_cut), (expected, 490));
        // Of a pair the text that is cut alone; a whole one stays as it is.
        let template = Template::bert(ROLES, 9).truncated(Truncation::HeadTail);
        let pair = template.encode(&[1, 2], Some(&long[10..30]));
        assert_eq!(pair.input_ids, [101, 1, 2, 102, 10, 27, 28, 29, 102]);
    }

    #[test]
    fn windows_overlap_by_half_and_leave_nothing_out() {
        let template = Template::bert(ROLES, 6);
        let text: Vec<u32> = (0..11).collect();
        assert_eq!(template.windows(&text[..4], None), [(&text[..4], None)]);
        let windows = template.windows(&text, None);
        let expected = [&text[..4], &text[2..6], &text[4..8], &text[6..10], &text[7..]];
        assert_eq!(windows, expected.map(|part| (part, None)));
        assert!(windows.iter().all(|(part, _)| template.encode(part, None).tokens_cut == 0));
        // Of a pair the longer one; two long ones are cut as ever.
        let template = Template::bert(ROLES, 9);
        let pairs = template.windows(&text[..2], Some(&text[..8]));
        assert_eq!(pairs, [&text[..4], &text[2..6], &text[4..8]].map(|part| (&text[..2], Some(part))));
        assert_eq!(template.windows(&text[..8], Some(&text)).len(), 1);
        for length in 5..60 {
            let text: Vec<u32> = (0..length).collect();
            let windows = Template::roberta(ROLES, 7).windows(&text, None);
            let ends: Vec<(u32, u32)> =
                windows.iter().map(|(part, _)| (part[0], part[part.len() - 1])).collect();
            assert!(ends[0].0 == 0 && ends[ends.len() - 1].1 == length - 1);
            assert!(ends.windows(2).all(|two| two[1].0 <= two[0].1 && two[1].0 > two[0].0), "{ends:?}");
        }
    }

    #[test]
    fn a_head_says_which_template_a_trunk_of_ours_has() {
        let of = |pooling| Template::of(Arch::Gpt2, pooling, ROLES, 9);
        assert_eq!(of(HeadPooling::Cls), Template::naacl2019(ROLES, 9));
        for pooling in [HeadPooling::Last, HeadPooling::Mean, HeadPooling::Max] {
            assert_eq!(of(pooling), Template::bare(ROLES, 9));
        }
        let encoder = |arch| Template::of(arch, HeadPooling::Mean, ROLES, 9);
        assert_eq!(encoder(Arch::Electra), Template::bert(ROLES, 9));
        assert_eq!(encoder(Arch::Roberta), Template::roberta(ROLES, 9));
        assert!(of(HeadPooling::Cls).validate(1).is_ok());
        let message = Template::naacl2019(ROLES, 1).validate(1).unwrap_err();
        assert!(message.is_usage() && message.to_string().contains("1 positions leave no room"), "{message}");
        assert!(
            Template::bert(ROLES, 2).validate(1).is_err() && Template::bare(ROLES, 1).validate(1).is_ok()
        );
        let message = Template::bert(ROLES, 4).validate(2).unwrap_err().to_string();
        assert!(message.contains("4 positions leave no room for two texts beside 3 special"), "{message}");
        assert!(Template::bert(ROLES, 5).validate(2).is_ok());
    }

    fn encoding(ids: std::ops::Range<u32>) -> Encoding {
        Encoding::from_tokens(ids.map(|id| Token::new(id, id.to_string(), (0, 1))).collect(), 0)
    }

    /// The oracle: what the `tokenizers` crate makes of all short pairs in all small rooms.
    #[test]
    fn pairs_are_cut_and_laid_out_as_hugging_face_does() {
        let bert = BertProcessing::new(("[SEP]".into(), 102), ("[CLS]".into(), 101));
        let roberta = RobertaProcessing::new(("</s>".into(), 102), ("<s>".into(), 101));
        for (a, b, room) in (0..7).flat_map(|a| (0..7).flat_map(move |b| (0..12).map(move |r| (a, b, r)))) {
            for (template, special, processor) in [
                (Template::bert(ROLES, room + 3), 3, &bert as &dyn Oracle),
                (Template::roberta(ROLES, room + 4), 4, &roberta),
            ] {
                let params = TruncationParams {
                    direction: TruncationDirection::Right,
                    max_length: room,
                    strategy: TruncationStrategy::LongestFirst,
                    stride: 0,
                };
                let (first, second) =
                    truncate_encodings(encoding(0..a), Some(encoding(50..50 + b)), &params).unwrap();
                let expected = processor.lay_out(first, second.unwrap());
                let (left, right): (Vec<u32>, Vec<u32>) = ((0..a).collect(), (50..50 + b).collect());
                let ours = template.encode(&left, Some(&right));
                let what = format!("{a} and {b} tokens in {room} + {special}");
                assert_eq!(ours.input_ids, expected.get_ids(), "{what}");
                assert_eq!(ours.token_type_ids().collect::<Vec<_>>(), expected.get_type_ids(), "{what}");
                assert_eq!(ours.tokens_cut + ours.input_ids.len(), (a + b) as usize + special, "{what}");
            }
        }
    }

    trait Oracle {
        fn lay_out(&self, first: Encoding, second: Encoding) -> Encoding;
    }

    impl<P: PostProcessor> Oracle for P {
        fn lay_out(&self, first: Encoding, second: Encoding) -> Encoding {
            self.process(first, Some(second), true).unwrap()
        }
    }
}
