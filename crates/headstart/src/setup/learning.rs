//! The model that a run learns from.
//!
//! Owns: opening it, what it is compared with where nobody says so, that a run goes on with the same one. Never: a loss (`teacher`).

use std::sync::Arc;

use crate::batch::Examples;
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
    /// What its inputs are.
    unit: TextUnit,
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
    pub(crate) fn open(distill: &DistillConfig, unit: TextUnit) -> Result<Self> {
        let loaded = load_model(&distill.teacher)?;
        let said = read_sentence_settings(&loaded.folder)?;
        let pooling = said.map_or(HeadPooling::Mean, |folder| folder.pooling);
        let learning = Self { loaded, pooling, distill: distill.clone(), unit };
        learning.check_labels()?;
        learning.check_temperature()?;
        Ok(learning)
    }

    /// Refuses labels that cannot be learned.
    fn check_labels(&self) -> Result<()> {
        let files = &self.loaded.files;
        let fix = "leave label_loss out, or set it to 0";
        let (what, fix) = match &files.config.head {
            _ if self.label_loss() <= 0.0 => return self.check_something(),
            None => ("the teacher is no classifier, and its labels are to be learned", fix),
            Some(head) if head.problem != Problem::SingleLabel => {
                ("the teacher tells several labels or a number, and only single labels can be learned", fix)
            }
            Some(_) if self.reads_otherwise() => (
                "the teacher reads pairs of texts, and there is one text to an input",
                "use --inputs pairs, or set label_loss to 0",
            ),
            Some(_) => return Ok(()),
        };
        Err(Error::Config { key: "label_loss".into(), what: what.into(), fix: fix.into() })
    }

    /// Whether the teacher classifies pairs, and the inputs are none.
    fn reads_otherwise(&self) -> bool {
        self.loaded.files.pairs && self.unit != TextUnit::Pairs
    }

    /// Refuses what nothing is softened by. Older runs may go on with it.
    fn check_temperature(&self) -> Result<()> {
        let (given, usual) = (self.distill.temperature, DistillConfig::default().temperature);
        let is_idle = self.distill.teacher_sha256.is_none() && self.label_loss() <= 0.0;
        if !is_idle || given.total_cmp(&usual).is_eq() {
            return Ok(());
        }
        Err(Error::Config {
            key: "temperature".into(),
            what: "it is of label_loss, which is 0".into(),
            fix: "leave temperature out, or set label_loss".into(),
        })
    }

    /// Refuses inputs of one text for a teacher whose answers are of pairs.
    ///
    /// # Errors
    /// [`Error::Config`] with their number.
    pub(crate) fn check_pairs(&self, examples: &Examples<'_>) -> Result<()> {
        let alone = examples.seconds.iter().filter(|second| second.is_none()).count();
        if alone == 0 || !self.loaded.files.pairs || self.label_loss() <= 0.0 {
            return Ok(());
        }
        Err(Error::Config {
            key: "label_loss".into(),
            what: format!(
                "{} of {} inputs are one line without another, and the teacher classifies pairs",
                thousands(alone),
                thousands(examples.len())
            ),
            fix: "give each line the other of its pair behind it, or set label_loss to 0".into(),
        })
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
        let single = |head: &HeadConfig| head.problem == Problem::SingleLabel && !self.reads_otherwise();
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

    /// Whether the classifier that a student becomes reads pairs.
    pub(crate) fn classifies_pairs(&self) -> bool {
        self.loaded.files.pairs && self.label_loss() > 0.0
    }

    /// The linears of a student with so many layers.
    ///
    /// # Errors
    /// [`Error::Config`] for a layer that it does not have.
    pub(crate) fn heads(&self, layers: usize) -> Result<TeacherHeads> {
        let tokens = self.distill.token_loss > 0.0;
        let own: Vec<usize> = self.map(layers).pairs().iter().filter(|_| tokens).map(|pair| pair.0).collect();
        if let Some(layer) = own.iter().find(|layer| **layer > layers) {
            return Err(Error::Config {
                key: "layers".into(),
                what: format!("layer {layer} of the student is to be compared, and it has {layers}"),
                fix: format!("use {layers} at most, or leave layers out for the last ones"),
            });
        }
        let width = self.loaded.files.config.embed_dim;
        Ok(TeacherHeads { width, layers: own, sentences: self.distill.sentence_loss > 0.0 })
    }

    /// What to say of a student that nobody gave a size, where it is larger than its teacher.
    ///
    /// # Errors
    /// Those of [`Model::new`].
    pub(crate) fn size_warning(&self, config: &PretrainConfig, student: &Model) -> Result<Option<String>> {
        let sizes = |of: &ModelConfig| (of.arch, of.embed_dim, of.hidden_dim, of.num_layers, of.num_heads);
        if config.from.is_some() || sizes(&config.model) != sizes(&ModelConfig::default()) {
            return Ok(None);
        }
        let alone = Model::new(&ModelConfig { teacher_heads: None, ..student.config().clone() })?;
        let [own, there] = [&alone, &Model::new(&self.loaded.files.config)?].map(|model| model.table().len());
        let line = format!(
            "warning: the student has {} parameters and its teacher {}: it has the sizes of the tutorial's model; --preset, or \
             --arch, --embed_dim, --hidden_dim, --num_layers and --num_heads, set others",
            thousands(own),
            thousands(there)
        );
        Ok((own > there).then_some(line))
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
        let head = self.loaded.files.config.head.as_ref();
        let single = head.is_some_and(|head| head.problem == Problem::SingleLabel);
        if single && self.reads_otherwise() && self.distill.label_loss.is_none() {
            let line = "its labels are not learned: they are of pairs of texts, which --inputs pairs reads"
                .to_owned();
            listener(Event::Message(&line));
            notes.push(line);
        }
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
        let precision = config.train.precision();
        let teacher = Teacher::new((model, weights), self.pooling, layers, precision, learned, masked)?;
        Ok((distill, teacher))
    }

    fn map(&self, layers: usize) -> LayerMap {
        let last = || LayerMap::last(layers, self.loaded.files.config.num_layers);
        self.distill.layers.clone().unwrap_or_else(last)
    }
}
