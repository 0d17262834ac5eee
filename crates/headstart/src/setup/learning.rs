//! The model that a run learns from.
//!
//! Owns: opening it, what it is compared with where nobody says so, that a run goes on with the same one. Never: a loss (`teacher`).

use std::sync::Arc;

use crate::checkpoint::{FileSum, LoadedModel, load_model};
use crate::config::{
    Arch, DistillConfig, HeadConfig, HeadPooling, LayerMap, ModelConfig, ObjectiveName, PretrainConfig,
    Problem, TeacherHeads, TextUnit,
};
use crate::data::meeting::Spelling;
use crate::error::{Error, Result};
use crate::event::{Event, Listener};
use crate::interop::read_sentence_settings;
use crate::model::Model;
use crate::setup::text::TextInputs;
use crate::teacher::{Learned, LearnedRelations, Teacher};
use crate::tokenizer::Tokenizer;
use crate::train::thousands;

/// A teacher that has been opened.
#[derive(Debug)]
pub(crate) struct Learning {
    pub(crate) loaded: LoadedModel,
    /// How it makes one vector of an input.
    pub(crate) pooling: HeadPooling,
    distill: DistillConfig,
}

/// How a teacher reads that has not the student's pieces.
#[derive(Debug)]
pub(crate) struct OwnReading {
    pub(crate) tokenizer: Tokenizer,
    pub(crate) inputs: TextInputs,
    /// How the student's pieces are written, and these, where hidden states are compared.
    pub(crate) spelled: Option<[Arc<Spelling>; 2]>,
}

impl Learning {
    /// Opens the teacher.
    ///
    /// # Errors
    /// Those of [`load_model`]; [`Error::Config`] for what cannot be learned of it.
    pub(crate) fn open(distill: &DistillConfig) -> Result<Self> {
        let loaded = load_model(&distill.teacher)?;
        let said = read_sentence_settings(&loaded.folder)?;
        let pooling = said.map_or(HeadPooling::Mean, |folder| folder.pooling);
        let learning = Self { loaded, pooling, distill: distill.clone() };
        learning.check_labels()?;
        Ok(learning)
    }

    /// Refuses labels that cannot be learned.
    fn check_labels(&self) -> Result<()> {
        let files = &self.loaded.files;
        let (key, fix) = ("label_loss", "leave label_loss out, or set it to 0");
        let what = match &files.config.head {
            _ if self.label_loss() <= 0.0 => return self.check_something(),
            None => "the teacher is no classifier, and its labels are to be learned",
            Some(head) if head.problem != Problem::SingleLabel => {
                "the teacher tells several labels or a number, and only single labels can be learned"
            }
            Some(_) if files.pairs => "the teacher reads pairs of texts, and there is one text to an input",
            Some(_) => return Ok(()),
        };
        Err(Error::Config { key: key.into(), what: what.into(), fix: fix.into() })
    }

    fn check_something(&self) -> Result<()> {
        if self.distill.learns_states() || self.distill.sentence_loss > 0.0 {
            return Ok(());
        }
        Err(Error::Config {
            key: "token_loss".into(),
            what: "nothing is learned of the teacher".into(),
            fix: "give one of its losses a positive number".into(),
        })
    }

    /// The weight of what a classifier answers.
    fn label_loss(&self) -> f64 {
        let files = &self.loaded.files;
        let single = |head: &HeadConfig| head.problem == Problem::SingleLabel && !files.pairs;
        let usual = if files.config.head.as_ref().is_some_and(single) { 1.0 } else { 0.0 };
        self.distill.label_loss.unwrap_or(usual)
    }

    /// Family and pooling that say how the student's inputs are put together: as the teacher's, where these have special tokens, but for a
    /// student with pieces of its own that is no classifier.
    ///
    /// # Errors
    /// [`Error::Config`] for a student that would not read as its teacher where it learns to classify.
    pub(crate) fn reader(
        &self,
        student: &ModelConfig,
        own: Option<&OwnReading>,
    ) -> Result<Option<(Arch, HeadPooling)>> {
        let ModelConfig { arch, head, .. } = &self.loaded.files.config;
        let classifies = self.label_loss() > 0.0;
        if classifies && arch.is_encoder() != student.arch.is_encoder() {
            return Err(Error::Config {
                key: "arch".into(),
                what: format!(
                    "{} puts the special tokens of a classifier's inputs elsewhere than the teacher ({})",
                    student.arch.name(),
                    arch.name()
                ),
                fix: "give the student the teacher's --arch, or set label_loss to 0".into(),
            });
        }
        let pooling = head.as_ref().filter(|_| classifies).map(|head| head.pooling);
        let as_teacher = classifies || (arch.is_encoder() && own.is_none());
        Ok(as_teacher.then(|| (*arch, pooling.unwrap_or(arch.pooling()))))
    }

    /// How the teacher reads the text of a student that has other pieces; `None` for the same.
    ///
    /// # Errors
    /// [`Error::Config`] for a student whose token relations are to be compared, or whose inputs are blocks.
    pub(crate) fn own_reading(
        &self,
        student: &Tokenizer,
        config: &PretrainConfig,
    ) -> Result<Option<OwnReading>> {
        let tokenizer = self.loaded.tokenizer()?;
        if tokenizer.content_hash() == student.content_hash() {
            return Ok(None);
        }
        let refuse = |key: &str, what: &str, fix: &str| {
            let what = format!("the teacher's vocabulary is not the student's, {what}");
            Err(Error::Config { key: key.into(), what, fix: fix.into() })
        };
        if self.distill.relation_loss > 0.0 {
            let what = "and a relation is between the same tokens in both";
            return refuse(
                "relation_loss",
                what,
                "leave it out: hidden states and whole inputs can be learned",
            );
        }
        if config.inputs == TextUnit::Blocks {
            return refuse(
                "inputs",
                "and their blocks would hold different text",
                "use --inputs lines, or pairs, so that both read the same",
            );
        }
        let model = &self.loaded.files.config;
        let pooling = model.head.as_ref().filter(|_| self.label_loss() > 0.0).map(|head| head.pooling);
        let reads = model.arch.is_encoder() || pooling.is_some();
        let around = reads.then(|| (model.arch, pooling.unwrap_or(model.arch.pooling())));
        let inputs = TextInputs::of(model, None, config.inputs, around, tokenizer.roles())?;
        let both = [student, &tokenizer];
        let spelled = (self.distill.token_loss > 0.0).then(|| both.map(|t| Arc::new(Spelling::of(t))));
        Ok(Some(OwnReading { tokenizer, inputs, spelled }))
    }

    /// The classifier that a student becomes, and its labels, where it learns them.
    pub(crate) fn classifier(&self) -> Option<(HeadConfig, Vec<String>)> {
        let files = &self.loaded.files;
        let head = files.config.head.clone().filter(|_| self.label_loss() > 0.0)?;
        Some((head, files.labels.clone()))
    }

    /// The linears of a student with so many layers.
    pub(crate) fn heads(&self, layers: usize) -> TeacherHeads {
        let tokens = self.distill.token_loss > 0.0;
        TeacherHeads {
            width: self.loaded.files.config.embed_dim,
            layers: if tokens {
                self.map(layers).pairs().iter().map(|pair| pair.0).collect()
            } else {
                Vec::new()
            },
            sentences: self.distill.sentence_loss > 0.0,
        }
    }

    /// Says what is learned of it.
    pub(crate) fn tell(&self, notes: &mut Vec<String>, listener: &mut Listener<'_>) {
        let sizes = &self.loaded.files.config;
        let line = format!(
            "teacher: {}, {} layers, {} wide; vectors of inputs are {}",
            sizes.arch.name(),
            sizes.num_layers,
            thousands(sizes.embed_dim),
            self.pooling.name()
        );
        listener(Event::Message(&line));
        notes.push(line);
    }

    /// The teacher of `student`, and the settings with its sum.
    ///
    /// # Errors
    /// [`Error::Config`] where it is another than the run began with, or has not the layers.
    pub(crate) fn teacher(
        self,
        config: &PretrainConfig,
        student: &Model,
        predicts: ObjectiveName,
    ) -> Result<(DistillConfig, Teacher)> {
        let mut distill = self.distill.clone();
        let map = self.map(student.config().num_layers);
        let model = Model::new(&self.loaded.files.config)?;
        let weights = self.loaded.mapped_weights(model.table())?;
        let sum = FileSum::of(bytemuck::cast_slice(weights.values())).sha256;
        if let Some(begun) = distill.teacher_sha256.as_ref().filter(|begun| **begun != sum) {
            return Err(Error::Config {
                key: "teacher".into(),
                what: format!(
                    "its weights are not those that the run began with (SHA-256 {sum}, not {begun})"
                ),
                fix: "put the teacher back, or begin a new run".into(),
            });
        }
        (distill.teacher_sha256, distill.layers) =
            (Some(sum), Some(map.clone()).filter(|_| distill.token_loss > 0.0));
        let layers = if distill.token_loss > 0.0 { map.pairs().to_vec() } else { Vec::new() };
        distill.label_loss = Some(self.label_loss());
        let relations = match distill.relation_loss {
            weight if weight > 0.0 => {
                let sizes = [student.config(), model.config()];
                Some(LearnedRelations::new(weight, sizes, distill.relation_heads, distill.relation_layer)?)
            }
            _ => None,
        };
        distill.relation_layer = relations.map(|learned| learned.layer);
        let learned = Learned {
            token_loss: distill.token_loss,
            relations,
            sentence_loss: distill.sentence_loss,
            label_loss: self.label_loss(),
            temperature: distill.temperature as f32,
        };
        let masked = distill.lm_loss > 0.0 && predicts == ObjectiveName::Mlm;
        let precision = config.train.precision.into();
        let teacher = Teacher::new((model, weights), self.pooling, layers, precision, learned, masked)?;
        Ok((distill, teacher))
    }

    fn map(&self, layers: usize) -> LayerMap {
        let last = || LayerMap::last(layers, self.loaded.files.config.num_layers);
        self.distill.layers.clone().unwrap_or_else(last)
    }
}
