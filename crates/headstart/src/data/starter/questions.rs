//! Writes the question-type task from three files of hand-written frames.
//!
//! Each split has its own frames and its own share of the world's names, so that neither is ever met twice.
//! Never: the corpus.

use super::QUESTION_LABELS;
use super::rng::Rng;
use super::sections;
use super::world::World;
use super::writer::{EntityId, Writer};

/// Questions written from each frame that has a slot.
const PER_FRAME: usize = 2;

/// Which part of the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Split {
    Train,
    Valid,
    Test,
}

/// A question with what it was made from.
pub(super) struct Question {
    pub(super) label: &'static str,
    pub(super) text: String,
    /// The frame it was written from.
    #[cfg_attr(not(test), expect(dead_code, reason = "the tests keep the splits apart by it"))]
    pub(super) frame: &'static str,
    /// What its slots drew from the world.
    #[cfg_attr(not(test), expect(dead_code, reason = "the tests keep the splits apart by it"))]
    pub(super) entities: Vec<EntityId>,
}

impl Split {
    fn frames(self) -> &'static str {
        match self {
            Self::Train => include_str!("text/questions_train.txt"),
            Self::Valid => include_str!("text/questions_valid.txt"),
            Self::Test => include_str!("text/questions_test.txt"),
        }
    }

    /// The remainders modulo 5 of the entities that belong to the split.
    pub(super) fn share(self) -> &'static [usize] {
        match self {
            Self::Train => &[0, 1],
            Self::Valid => &[2],
            Self::Test => &[3, 4],
        }
    }

    fn seed(self) -> u64 {
        0x5eed_c0de_0100 + self as u64
    }
}

/// All questions of a split, shuffled, none twice.
pub(super) fn write(world: &World, split: Split) -> Vec<Question> {
    let mut rng = Rng::new(split.seed());
    let mut questions: Vec<Question> = Vec::new();
    for section in sections::parse(split.frames()) {
        let Some(&label) = QUESTION_LABELS.iter().find(|l| **l == section.name) else { continue };
        for frame in section.lines {
            let before = questions.len();
            // A few tries more than needed: a frame may draw the same name twice, and one without slots has one text.
            for _ in 0..2 * PER_FRAME {
                let mut writer = Writer::new(world, &mut rng, None, Some(split.share()));
                let Some(text) = writer.fill(frame) else { continue };
                if questions.len() < before + PER_FRAME && questions.iter().all(|q| q.text != text) {
                    let entities = writer.drawn().to_vec();
                    questions.push(Question { label, text, frame, entities });
                }
            }
        }
    }
    rng.shuffle(&mut questions);
    questions
}
