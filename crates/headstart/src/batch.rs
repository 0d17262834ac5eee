//! From examples to slabs: what a sequence predicts, the order of an epoch, how a global batch is cut.
//!
//! Owns: examples, sequences with their targets, slabs. Never: files, models, which special tokens an input has.
//!
//! A global batch is cut by its data alone into slabs of whole sequences of about as many tokens as the device says; a slab
//! is the unit of reduction, so results depend neither on threads nor on `train_batch_size` against
//! `grad_accum_steps`.

use std::ops::Range;
use std::sync::Arc;

use headstart_engine::collective::tree;
use headstart_engine::{Packing, rng};
use sha2::{Digest, Sha256};

use crate::data::meeting::Spelling;
use crate::data::template::{Encoded, Template};
use crate::files::hex;
use crate::masking::{Masked, Masking};

/// Tokens of the slabs that groups of gradients are made of, whatever the size of a device's own.
pub(crate) const GROUPED_TOKENS: usize = 512;

/// Examples in the order of their data set. An input is put together when its batch is, so that a set of any size
/// takes no more memory than the mapped file of its tokens.
#[derive(Clone, Debug, Default)]
pub struct Examples<'a> {
    /// Token ids of each: whole texts, or blocks of running text.
    pub ids: Vec<&'a [u32]>,
    /// The second text of those that are pairs; empty where none is.
    pub seconds: Vec<Option<&'a [u32]>>,
    /// The label of each; empty for language models.
    pub labels: Vec<Label>,
    /// Equal for those of one group or text, where there are groups; else empty.
    pub groups: Vec<u64>,
    /// How the ids of a text become an input; `None` for blocks, which are inputs.
    pub template: Option<Template>,
    /// Pairs of examples that are compared with each other; empty where each is an item of its own.
    pub pairs: Vec<Pair>,
    /// The same texts in the pieces of a teacher that has others.
    pub in_teachers_pieces: Option<OtherPieces<'a>>,
}

/// The texts of examples in the pieces of another model.
#[derive(Clone, Debug)]
pub struct OtherPieces<'a> {
    /// Token ids of each.
    pub ids: Vec<&'a [u32]>,
    /// As in [`Examples`].
    pub seconds: Vec<Option<&'a [u32]>>,
    /// As in [`Examples`].
    pub template: Option<Template>,
    /// How the model's own pieces are written, and the teacher's, where these are compared.
    pub spelled: Option<[Arc<Spelling>; 2]>,
}

/// An example as a teacher with pieces of its own reads it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TeachersInput {
    /// Token ids.
    pub input_ids: Vec<u32>,
    /// The type of each token; `None` where all are 0.
    pub token_type_ids: Option<Vec<u32>>,
    /// The rows of the model's own input and of this one that end at the same letter of the text, and so are compared.
    pub meeting: Vec<(u32, u32)>,
}

/// A slab as a teacher with pieces of its own reads it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TeachersSlab {
    /// Where its tokens lie.
    pub packing: Packing,
    /// All ids.
    pub input_ids: Vec<u32>,
    /// The types of all tokens; `None` where all are 0.
    pub token_type_ids: Option<Vec<u32>>,
    /// The slab's own rows that are compared.
    pub own_rows: Vec<u32>,
    /// The rows here that they are compared with.
    pub rows: Vec<u32>,
}

/// Two examples that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// One.
    pub first: u32,
    /// The other.
    pub second: u32,
    /// Whether they are of one class.
    pub alike: bool,
}

/// What a sequence is classified as.
#[derive(Clone, Debug, PartialEq)]
pub enum Label {
    /// A class.
    Class(u32),
    /// 0 or 1 per class, or the one number of a regression.
    Values(Vec<f32>),
}

impl<'a> Examples<'a> {
    /// Number of examples.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// What batches are made of: the pairs, or where there are none the examples.
    pub fn items(&self) -> usize {
        if self.pairs.is_empty() { self.len() } else { self.pairs.len() }
    }

    /// Keeps the examples at these places, in this order, and no pairs.
    pub fn keep(&mut self, places: &[usize]) {
        fn pick<T: Clone>(all: &mut Vec<T>, places: &[usize]) {
            *all = places.iter().filter_map(|&i| all.get(i).cloned()).collect();
        }
        pick(&mut self.ids, places);
        pick(&mut self.seconds, places);
        pick(&mut self.labels, places);
        pick(&mut self.groups, places);
        if let Some(others) = &mut self.in_teachers_pieces {
            pick(&mut others.ids, places);
            pick(&mut others.seconds, places);
        }
        self.pairs.clear();
    }

    /// SHA-256 of all ids and labels: the same for the same examples, wherever they were read from.
    pub fn content_sum(&self) -> String {
        let mut sum = Sha256::new();
        sum.update((self.ids.len() as u64).to_le_bytes());
        for ids in &self.ids {
            sum.update((ids.len() as u64).to_le_bytes());
            sum.update(bytemuck::cast_slice::<u32, u8>(ids));
        }
        let others = self.in_teachers_pieces.as_ref();
        let beside = others
            .iter()
            .flat_map(|others| others.ids.iter().map(|&ids| Some(ids)).chain(others.seconds.iter().copied()));
        for ids in self.seconds.iter().copied().chain(beside) {
            // No text has so many.
            sum.update(ids.map_or(u64::MAX, |ids| ids.len() as u64).to_le_bytes());
            sum.update(bytemuck::cast_slice::<u32, u8>(ids.unwrap_or_default()));
        }
        for label in &self.labels {
            match label {
                Label::Class(class) => sum.update(class.to_le_bytes()),
                Label::Values(values) => sum.update(bytemuck::cast_slice::<f32, u8>(values)),
            }
        }
        for Pair { first, second, alike } in &self.pairs {
            sum.update(first.to_le_bytes());
            sum.update(second.to_le_bytes());
            sum.update([u8::from(*alike)]);
        }
        hex(&sum.finalize())
    }

    /// Number of tokens of the input of example `index`.
    pub fn input_len(&self, index: usize) -> usize {
        self.input(index).map_or_else(|| self.ids[index].len(), |input| input.input_ids.len())
    }

    /// Number of tokens of the inputs of item `index`.
    pub fn item_len(&self, index: usize) -> usize {
        match self.pairs.get(index) {
            Some(pair) => self.input_len(pair.first as usize) + self.input_len(pair.second as usize),
            None => self.input_len(index),
        }
    }

    /// Number of tokens of all items.
    pub fn item_tokens(&self) -> usize {
        (0..self.items()).map(|index| self.item_len(index)).sum()
    }

    /// The sequences of item `index`: one, or the two of a pair, of which the first has 1 or 0 as its label; `key` seeds the masks.
    pub fn item(&self, index: usize, targets: &TokenTargets, key: u64) -> impl Iterator<Item = Sequence> {
        let (first, second) = match self.pairs.get(index) {
            Some(pair) => {
                let alike = Label::Values(vec![f32::from(u8::from(pair.alike))]);
                let of = |example: u32| self.sequence(example as usize, targets, key);
                let first = Sequence { label: Some(alike), with_next: true, ..of(pair.first) };
                (first, Some(Sequence { label: None, ..of(pair.second) }))
            }
            None => (self.sequence(index, targets, key), None),
        };
        std::iter::once(first).chain(second)
    }

    /// The second text of example `index`, where it is a pair.
    pub fn second(&self, index: usize) -> Option<&'a [u32]> {
        self.seconds.get(index).copied().flatten()
    }

    /// What the template makes of the texts of example `index`; `None` for a block.
    fn input(&self, index: usize) -> Option<Encoded> {
        let template = self.template.as_ref()?;
        Some(template.encode(self.ids[index], self.second(index)))
    }

    /// Number of tokens of all inputs.
    pub fn tokens(&self) -> usize {
        (0..self.len()).map(|index| self.input_len(index)).sum()
    }

    /// The input of example `index` with its label and targets; `key` seeds the masks.
    pub fn sequence(&self, index: usize, targets: &TokenTargets, key: u64) -> Sequence {
        let label = self.labels.get(index).cloned();
        let sequence = match self.input(index) {
            Some(input) => targets.sequence_of(&input, label, key),
            None => targets.sequence(self.ids[index], label, key),
        };
        Sequence { in_teachers_pieces: self.teachers_input(index), ..sequence }
    }

    /// What a teacher with pieces of its own reads of example `index`.
    fn teachers_input(&self, index: usize) -> Option<TeachersInput> {
        let OtherPieces { ids: others, seconds, template, spelled } = self.in_teachers_pieces.as_ref()?;
        let texts = [self.ids[index], *others.get(index)?];
        let seconds = [self.second(index), seconds.get(index).copied().flatten()];
        let (input_ids, token_type_ids) = match template {
            Some(template) => {
                let input = template.encode(texts[1], seconds[1]);
                let types = input.types();
                (input.input_ids, types)
            }
            None => (texts[1].to_vec(), None),
        };
        let mut meeting = Vec::new();
        if let Some([own, other]) = spelled {
            let templates = [self.template.as_ref(), template.as_ref()];
            let before = templates.map(|template| template.map_or(0, |t| t.before.len() as u32));
            // The special tokens that both have before a text.
            meeting.extend((0..before[0].min(before[1])).map(|row| (row, row)));
            let mut compare = |[ids, there]: [&[u32]; 2], starts: [u32; 2]| {
                let met = own.meeting(ids, other, there).into_iter();
                meeting.extend(met.map(|(row, there)| (starts[0] + row, starts[1] + there)));
            };
            compare(texts, before);
            if let ([Some(own), Some(there)], [Some(ours), Some(theirs)]) = (seconds, templates) {
                let starts = [ours.second_starts(texts[0].len()), theirs.second_starts(texts[1].len())];
                compare([own, there], starts.map(|start| start as u32));
            }
        }
        Some(TeachersInput { input_ids, token_type_ids, meeting })
    }
}

/// A sequence and everything it predicts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sequence {
    /// Token ids, masked where the objective masks.
    pub input_ids: Vec<u32>,
    /// The type of each token; `None` where all are 0.
    pub token_type_ids: Option<Vec<u32>>,
    /// Rows whose hidden state predicts a token.
    pub rows: Vec<u32>,
    /// The tokens they predict.
    pub targets: Vec<u32>,
    /// The class.
    pub label: Option<Label>,
    /// Whether it is compared with the sequence behind it, from which it is never cut.
    pub with_next: bool,
    /// The same text as a teacher with pieces of its own reads it.
    pub in_teachers_pieces: Option<TeachersInput>,
}

/// What the language-model part of a loss predicts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TokenTargets {
    /// Nothing.
    None,
    /// The next token.
    Next,
    /// Masked tokens.
    Masked(Masking),
}

impl TokenTargets {
    /// The sequence of `ids` with its targets; `key` seeds the masks.
    pub fn sequence(&self, ids: &[u32], label: Option<Label>, key: u64) -> Sequence {
        match self {
            Self::None => Sequence { input_ids: ids.to_vec(), label, ..Sequence::default() },
            Self::Next => Sequence {
                input_ids: ids.to_vec(),
                rows: (0..ids.len().saturating_sub(1) as u32).collect(),
                targets: ids.get(1..).unwrap_or_default().to_vec(),
                label,
                ..Sequence::default()
            },
            Self::Masked(masking) => {
                let Masked { input_ids, rows, targets } = masking.apply(ids, key);
                Sequence { input_ids, rows, targets, label, ..Sequence::default() }
            }
        }
    }

    /// The sequence of an input with its targets and token types; `key` seeds the masks.
    pub fn sequence_of(&self, input: &Encoded, label: Option<Label>, key: u64) -> Sequence {
        Sequence { token_type_ids: input.types(), ..self.sequence(&input.input_ids, label, key) }
    }
}

/// The sequences of a global batch, with the counts its losses are divided by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// In batch order.
    pub sequences: Vec<Sequence>,
}

impl Batch {
    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.sequences.iter().map(|s| s.input_ids.len()).sum()
    }

    /// Number of predicted tokens.
    pub fn targets(&self) -> usize {
        self.sequences.iter().map(|s| s.targets.len()).sum()
    }

    /// The same for batches whose sequences have the same lengths: what a device may replay.
    pub fn shape(&self) -> u64 {
        let others = self.sequences.iter().filter_map(|s| s.in_teachers_pieces.as_ref());
        let others = others.flat_map(|there| [there.input_ids.len(), there.meeting.len()]);
        let all = self.sequences.iter().map(|s| s.input_ids.len()).chain(others);
        all.fold(0, |shape, length| rng::derive(shape, length as u64))
    }

    /// Cut into slabs of about so many tokens (a slab ends with the sequence that reaches them); each with the
    /// packing of its sequences, numbered within the whole batch.
    pub fn slabs(&self, slab_tokens: usize) -> Vec<Slab<'_>> {
        self.slabs_of(0..self.sequences.len(), slab_tokens)
    }

    /// As [`Batch::slabs`], of some of the sequences.
    pub fn slabs_of(&self, sequences: Range<usize>, slab_tokens: usize) -> Vec<Slab<'_>> {
        let cut = self.cut(sequences, slab_tokens);
        cut.into_iter().map(|part| Slab::new(&self.sequences[part.clone()], &[part.start])).collect()
    }

    /// As [`Batch::slabs_of`], with all sequences of a slab twice, first all and then all again, which as far as dropout can tell are
    /// others.
    pub fn slabs_twice(&self, sequences: Range<usize>, slab_tokens: usize) -> Vec<Slab<'_>> {
        let cut = self.cut(sequences, slab_tokens.div_ceil(2));
        let again = self.sequences.len();
        let slab =
            |part: Range<usize>| Slab::new(&self.sequences[part.clone()], &[part.start, again + part.start]);
        cut.into_iter().map(slab).collect()
    }

    /// The sequences of each of so many groups: neighbouring slabs of 512 tokens, as even in number as can be. The data
    /// alone decide, so every rank knows the groups of all.
    pub fn groups(&self, groups: usize) -> Vec<Range<usize>> {
        let slabs = self.cut(0..self.sequences.len(), GROUPED_TOKENS);
        let start = |slab: usize| slabs.get(slab).map_or(self.sequences.len(), |part| part.start);
        let group = |group| tree::group(slabs.len(), groups, group);
        (0..groups).map(|g| start(group(g).start)..start(group(g).end)).collect()
    }

    fn cut(&self, sequences: Range<usize>, slab_tokens: usize) -> Vec<Range<usize>> {
        let mut slabs = Vec::new();
        let (mut first, mut tokens) = (sequences.start, 0);
        for i in sequences.clone() {
            tokens += self.sequences[i].input_ids.len();
            if i + 1 == sequences.end || (tokens >= slab_tokens && !self.sequences[i].with_next) {
                slabs.push(first..i + 1);
                (first, tokens) = (i + 1, 0);
            }
        }
        slabs
    }
}

/// Some whole sequences of a batch, back to back.
#[derive(Clone, Debug)]
pub struct Slab<'a> {
    /// The sequences.
    pub sequences: &'a [Sequence],
    /// How often they are there, one after the other.
    pub copies: usize,
    /// Where their tokens lie.
    pub packing: Packing,
    /// All ids.
    pub input_ids: Vec<u32>,
    /// The types of all tokens; `None` where all are 0.
    pub token_type_ids: Option<Vec<u32>>,
    /// All predicting rows, numbered within the slab.
    pub rows: Vec<u32>,
    /// All predicted tokens.
    pub targets: Vec<u32>,
    /// The same as a teacher with pieces of its own reads it.
    pub in_teachers_pieces: Option<TeachersSlab>,
}

impl<'a> Slab<'a> {
    /// The sequences as often as there are `firsts`: the number of the first one within the batch.
    fn new(sequences: &'a [Sequence], firsts: &[usize]) -> Self {
        let all = || firsts.iter().flat_map(|_| sequences);
        let lengths: Vec<usize> = all().map(|s| s.input_ids.len()).collect();
        let names = firsts.iter().flat_map(|&first| first..first + sequences.len());
        let names: Vec<u64> = names.map(|i| i as u64).collect();
        let packing = Packing::new(&lengths, &names);
        let others: Option<Vec<&TeachersInput>> = all().map(|s| s.in_teachers_pieces.as_ref()).collect();
        let in_teachers_pieces = others
            .filter(|others| !others.is_empty())
            .map(|others| TeachersSlab::new(&packing, &others, &names));
        let mut rows = Vec::new();
        for (i, sequence) in all().enumerate() {
            let start = packing.range(i).start as u32;
            rows.extend(sequence.rows.iter().map(|r| start + r));
        }
        Self {
            packing,
            token_type_ids: together(all().map(|s| (s.token_type_ids.as_deref(), s.input_ids.len()))),
            input_ids: all().flat_map(|s| s.input_ids.iter().copied()).collect(),
            rows,
            targets: all().flat_map(|s| s.targets.iter().copied()).collect(),
            sequences,
            copies: firsts.len(),
            in_teachers_pieces,
        }
    }
}

impl TeachersSlab {
    /// Inputs beside those of `own`, with the numbers of all within the batch.
    fn new(own: &Packing, inputs: &[&TeachersInput], names: &[u64]) -> Self {
        let lengths: Vec<usize> = inputs.iter().map(|input| input.input_ids.len()).collect();
        let packing = Packing::new(&lengths, names);
        let meeting = inputs.iter().enumerate().flat_map(|(i, input)| {
            let starts = [own, &packing].map(|packing| packing.range(i).start as u32);
            input.meeting.iter().map(move |&(row, there)| (starts[0] + row, starts[1] + there))
        });
        let (own_rows, rows) = meeting.unzip();
        let input_ids = inputs.iter().flat_map(|input| &input.input_ids).copied().collect();
        let types = inputs.iter().map(|input| (input.token_type_ids.as_deref(), input.input_ids.len()));
        Self { packing, input_ids, token_type_ids: together(types), own_rows, rows }
    }
}

/// The token types of inputs of so many tokens each; `None` where all are 0.
fn together<'t>(types: impl Iterator<Item = (Option<&'t [u32]>, usize)> + Clone) -> Option<Vec<u32>> {
    let typed = types.clone().any(|(types, _)| types.is_some());
    typed.then(|| {
        types.flat_map(|(types, length)| types.map_or_else(|| vec![0; length], <[u32]>::to_vec)).collect()
    })
}

/// The order of the examples in an epoch.
pub fn epoch_order(examples: usize, seed: u64, epoch: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..examples as u32).collect();
    rng::Stream::new(rng::derive(rng::derive(seed, 2), epoch)).shuffle(&mut order);
    order
}

/// The masking key of the `index`-th sequence of the global batch of a training step.
pub fn training_mask_key(seed: u64, step: u64, index: usize) -> u64 {
    rng::derive(rng::derive(rng::derive(seed, 3), step), index as u64)
}

/// The masking key of an evaluated example: always the same, so that evaluations compare.
pub fn evaluation_mask_key(index: usize) -> u64 {
    rng::derive(4, index as u64)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::tokenizer::{Case, RoleIds, Tokenizer};

    fn batch(lengths: &[usize]) -> Batch {
        let ids = |n: usize| (0..n as u32).collect::<Vec<_>>();
        Batch { sequences: lengths.iter().map(|&n| TokenTargets::Next.sequence(&ids(n), None, 0)).collect() }
    }

    #[test]
    fn slabs_hold_every_sequence_once_and_know_their_place() {
        let lengths = [256, 256, 256, 10, 600, 1, 1];
        let batch = batch(&lengths);
        let slabs = batch.slabs(512);
        let sizes: Vec<Vec<usize>> =
            slabs.iter().map(|s| s.sequences.iter().map(|q| q.input_ids.len()).collect()).collect();
        assert_eq!(sizes, [vec![256, 256], vec![256, 10, 600], vec![1, 1]]);
        assert_eq!(slabs.iter().map(|s| s.targets.len()).sum::<usize>(), batch.targets());
        let third = &slabs[1];
        assert_eq!(third.input_ids[third.rows[255] as usize + 1], third.targets[255]);
        assert_eq!(third.packing, Packing::new(&[256, 10, 600], &[2, 3, 4]));
        assert_eq!(slabs[2].rows.len(), 0);
    }

    #[test]
    fn what_is_there_twice_has_numbers_of_its_own() {
        let batch = batch(&[3, 5, 2, 4]);
        let slabs = batch.slabs_twice(0..4, 16);
        assert_eq!(slabs.iter().map(|slab| slab.sequences.len()).collect::<Vec<_>>(), [2, 2]);
        assert_eq!(slabs[1].packing, Packing::new(&[2, 4, 2, 4], &[2, 3, 6, 7]));
        for slab in &slabs {
            let (ids, rows) = (&slab.input_ids, &slab.rows);
            assert_eq!(ids[..ids.len() / 2], ids[ids.len() / 2..]);
            assert_eq!((slab.copies, rows.len()), (2, slab.targets.len()));
            // The next id of every row but the last of each.
            assert!(rows.iter().zip(&slab.targets).all(|(&row, &id)| ids[row as usize + 1] == id));
        }
    }

    #[test]
    fn groups_are_whole_slabs_in_order() {
        let batch = batch(&[256, 256, 256, 10, 600, 1, 1, 512, 3]);
        let slabs = |range| batch.slabs_of(range, 512).iter().map(|s| s.packing.clone()).collect::<Vec<_>>();
        for groups in [1, 2, 4, 8] {
            let parts = batch.groups(groups);
            assert_eq!(parts.len(), groups);
            assert_eq!(parts.iter().flat_map(Clone::clone).collect::<Vec<_>>(), (0..9).collect::<Vec<_>>());
            let all: Vec<Packing> = parts.into_iter().flat_map(slabs).collect();
            assert_eq!(all, slabs(0..9), "{groups} groups");
        }
        assert_eq!(batch.groups(2), [0..5, 5..9]);
    }

    #[test]
    fn pairs_are_never_cut_and_their_first_has_the_label() {
        let ids: Vec<Vec<u32>> = (1..=4).map(|n| vec![n; 100 * n as usize]).collect();
        let pairs = [(0, 3, true), (2, 1, false), (1, 1, true)];
        let examples = Examples {
            ids: ids.iter().map(Vec::as_slice).collect(),
            labels: vec![Label::Class(7); 4],
            pairs: pairs.map(|(first, second, alike)| Pair { first, second, alike }).to_vec(),
            ..Examples::default()
        };
        assert_eq!((examples.items(), examples.item_len(0), examples.item_tokens()), (3, 500, 1_400));
        let sequences = (0..3).flat_map(|item| examples.item(item, &TokenTargets::None, 0)).collect();
        let batch = Batch { sequences };
        let labels: Vec<Option<f32>> = batch
            .sequences
            .iter()
            .map(|s| match &s.label {
                Some(Label::Values(values)) => Some(values[0]),
                _ => None,
            })
            .collect();
        assert_eq!(labels, [Some(1.0), None, Some(0.0), None, Some(1.0), None]);
        for tokens in [1, 90, 300, 512, 5_000] {
            let slabs = batch.slabs(tokens);
            assert!(slabs.iter().all(|slab| slab.sequences.len().is_multiple_of(2)), "{tokens}");
            assert_eq!(slabs.iter().map(|slab| slab.sequences.len()).sum::<usize>(), 6);
        }
        for groups in [1, 2, 4] {
            assert!(batch.groups(groups).iter().all(|group| group.len().is_multiple_of(2)));
        }
        let (mut kept, before) = (examples.clone(), examples.content_sum());
        kept.pairs.pop();
        assert_ne!(kept.content_sum(), before);
        kept.keep(&[2]);
        assert_eq!((kept.items(), kept.item_len(0)), (1, 300));
    }

    #[test]
    fn token_types_are_there_where_a_template_gives_any_but_0() {
        let roles = RoleIds { cls: 1, sep: 2, eos: 2, mask: 3, unk: 0, pad: None };
        let examples = |template, seconds| Examples {
            ids: vec![&[5, 6][..], &[7]],
            seconds,
            template: Some(template),
            ..Examples::default()
        };
        let sequences = |examples: &Examples<'_>| Batch {
            sequences: (0..2).map(|i| examples.sequence(i, &TokenTargets::None, 0)).collect(),
        };
        let pairs = examples(Template::bert(roles, 9), vec![Some(&[8][..]), Some(&[])]);
        let batch = sequences(&pairs);
        let slab = &batch.slabs(100)[0];
        assert_eq!(slab.input_ids, [1, 5, 6, 2, 8, 2, 1, 7, 2, 2]);
        assert_eq!(slab.token_type_ids.as_deref(), Some(&[0, 0, 0, 0, 1, 1, 0, 0, 0, 1][..]));
        assert_eq!((pairs.input_len(0), pairs.tokens()), (6, 10));
        for plain in [
            examples(Template::bert(roles, 9), Vec::new()),
            examples(Template::roberta(roles, 9), vec![Some(&[8][..]), Some(&[])]),
        ] {
            assert_eq!(sequences(&plain).slabs(100)[0].token_type_ids, None);
        }
        let single = examples(Template::bert(roles, 9), Vec::new());
        assert_ne!(pairs.content_sum(), single.content_sum());
        let mut kept = pairs.clone();
        kept.keep(&[1]);
        assert_eq!((&kept.ids[..], &kept.seconds[..]), (&[&[7][..]][..], &[Some(&[][..])][..]));
    }

    #[test]
    fn a_teacher_with_other_pieces_has_a_packing_of_its_own() {
        let others = |ids| OtherPieces {
            ids,
            seconds: Vec::new(),
            template: Some(Template::bert(
                RoleIds { cls: 91, sep: 92, eos: 92, mask: 93, unk: 90, pad: None },
                9,
            )),
            spelled: None,
        };
        let mut examples = Examples { ids: vec![&[5, 6][..], &[7], &[8, 9]], ..Examples::default() };
        let alone = examples.content_sum();
        examples.in_teachers_pieces = Some(others(vec![&[50][..], &[70, 71, 72], &[80]]));
        assert_ne!(examples.content_sum(), alone);
        let of = |examples: &Examples<'_>, places: &[usize]| Batch {
            sequences: places.iter().map(|&i| examples.sequence(i, &TokenTargets::None, 0)).collect(),
        };
        let batch = of(&examples, &[0, 1, 2]);
        let slabs = batch.slabs(3);
        assert_eq!(slabs[0].input_ids, [5, 6, 7]);
        let there = slabs[0].in_teachers_pieces.as_ref().unwrap();
        assert_eq!(there.input_ids, [91, 50, 92, 91, 70, 71, 72, 92]);
        assert_eq!((&there.packing, there.rows.len()), (&Packing::new(&[3, 5], &[0, 1]), 0));
        assert_eq!(slabs[1].in_teachers_pieces.as_ref().unwrap().packing, Packing::new(&[3], &[2]));
        // What a device may replay has both models' lengths.
        let [first, second, third] = [[0, 1], [2, 1], [1, 0]].map(|places| of(&examples, &places).shape());
        assert!(first == second && first != third);
        examples.in_teachers_pieces = Some(others(vec![&[50, 51][..], &[70], &[80]]));
        assert_ne!(of(&examples, &[0, 1]).shape(), first);
        examples.keep(&[2]);
        assert_eq!(examples.in_teachers_pieces.unwrap().ids, [&[80][..]]);
    }

    #[test]
    fn the_second_texts_of_pairs_are_compared_where_each_model_has_them() {
        let tokenizer = |vocabulary: &str| {
            let all = format!("[PAD]\n[CLS]\n[SEP]\n[MASK]\n[UNK]\n{vocabulary}");
            Tokenizer::from_vocab_bytes(all.as_bytes(), Case::Keep, Path::new("vocab.txt")).unwrap()
        };
        let (own, other) = (tokenizer("the\nplay\n##ing"), tokenizer("the\np\n##lay\n##ing"));
        let texts = ["the play", "playing the"];
        let [[a, b], [c, d]] = [&own, &other].map(|t| texts.map(|text| t.encode(text).unwrap()));
        let examples = Examples {
            ids: vec![&a, &b],
            seconds: vec![Some(&b), None],
            template: Some(Template::bert(own.roles(), 20)),
            in_teachers_pieces: Some(OtherPieces {
                ids: vec![&c, &d],
                seconds: vec![Some(&d), None],
                template: Some(Template::roberta(other.roles(), 20)),
                spelled: Some([&own, &other].map(|tokenizer| Arc::new(Spelling::of(tokenizer)))),
            }),
            ..Examples::default()
        };
        let batch =
            Batch { sequences: (0..2).map(|i| examples.sequence(i, &TokenTargets::None, 0)).collect() };
        // Here [CLS] the play [SEP] play ing the [SEP], there [CLS] the p lay [SEP] [SEP] p lay ing the [SEP].
        assert_eq!(batch.sequences[0].input_ids, [1, 5, 6, 2, 6, 7, 5, 2]);
        let there = batch.sequences[0].in_teachers_pieces.as_ref().unwrap();
        assert_eq!(there.input_ids, [1, 5, 6, 7, 2, 2, 6, 7, 8, 5, 2]);
        assert_eq!(there.meeting, [(0, 0), (1, 1), (2, 3), (4, 7), (5, 8), (6, 9)]);
        assert_eq!(there.token_type_ids, None, "RoBERTa has none");
        let mut as_bert = examples.clone();
        as_bert.in_teachers_pieces.as_mut().unwrap().template = Some(Template::bert(other.roles(), 20));
        let typed: Vec<_> = (0..2).map(|i| as_bert.sequence(i, &TokenTargets::None, 0)).collect();
        let typed = Batch { sequences: typed };
        let slab = typed.slabs(100)[0].in_teachers_pieces.clone().unwrap();
        assert_eq!(slab.token_type_ids, Some([vec![0; 5], vec![1; 5], vec![0; 6]].concat()));
        assert_eq!(slab.own_rows[3..], [4, 5, 6, 8, 9, 10, 11]);
        // A single text, with a pair beside it or without, is another set.
        let mut alone = examples.clone();
        alone.seconds[0] = None;
        assert_ne!(alone.content_sum(), examples.content_sum());
    }

    #[test]
    fn shapes_are_those_of_the_lengths() {
        assert_eq!(batch(&[3, 9]).shape(), batch(&[3, 9]).shape());
        let others = [&[9, 3][..], &[3, 9, 9], &[12], &[3]].map(|lengths| batch(lengths).shape());
        assert!(!others.contains(&batch(&[3, 9]).shape()));
    }

    #[test]
    fn epochs_are_permutations_that_differ() {
        let (a, b) = (epoch_order(100, 7, 0), epoch_order(100, 7, 1));
        assert_ne!(a, b);
        assert_eq!(a, epoch_order(100, 7, 0));
        let mut sorted = b.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
    }
}
