//! The one model: a transformer with options, its heads, and nothing else.
//!
//! Owns: which parameters there are and how they are combined on a tape. Never: files, optimizers, ranks, clocks.
//!
//! The tour: [`Model::new`] takes the family's options (`families.rs`) and lists the parameters in a [`ParamTable`]
//! (`projection.rs` says how each starts). [`Model::trunk`] runs ids through the embeddings (`embeddings.rs`) and the
//! blocks (`block.rs`, of `attention.rs`, `feed_forward.rs`, `norm.rs`, adapters from `peft.rs`, scales from
//! `scales.rs`). [`Model::lm_loss`] and
//! [`Model::classify`] are the heads (`heads.rs`, which may read a mix of all layers, `layer_mix.rs`); `flops.rs` counts the work. Inference, adapters and masked LM are
//! options of the same forward.

mod attention;
mod block;
mod embeddings;
mod families;
mod feed_forward;
mod flops;
mod heads;
mod layer_mix;
mod norm;
mod peft;
mod projection;
mod scales;
#[cfg(test)]
mod tests;

use headstart_engine::ops::attention::KeyValueCache;
use headstart_engine::{Tape, TokenOf, Value};

pub use families::{family_layout, layout};

use crate::config::{HeadPooling, Layout, ModelConfig, Positions};
use crate::error::{Error, Result};
use crate::params::{Kind, Param, ParamTable};
use attention::Angles;
use block::Block;
use embeddings::Embeddings;
pub use heads::Toward;
use heads::{Classifier, LmHead, TowardTeacher};
use norm::Norm;
use projection::Builder;

/// A transformer and its heads, over parameters that live elsewhere.
#[derive(Clone, Debug)]
pub struct Model {
    config: ModelConfig,
    layout: Layout,
    table: ParamTable,
    embeddings: Embeddings,
    blocks: Vec<Block>,
    final_norm: Option<Norm>,
    lm_head: LmHead,
    classifier: Option<Classifier>,
    toward_teacher: TowardTeacher,
    /// The probability that a training step leaves a block out.
    layer_drop: f32,
}

/// What a trunk reads: the tape's packed tokens, back to back.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// `[N]`.
    pub input_ids: &'a [u32],
    /// `[N]`: which text of a pair a token belongs to, each below the layout's `token_types`; `None` for a model without token
    /// types. Where a model has them, `None` stands for type 0 throughout.
    pub token_type_ids: Option<&'a [u32]>,
}

/// What a trunk shows on the way; layers count from 1.
#[derive(Clone, Copy, Debug)]
pub enum Seen<'a> {
    /// The queries, keys and values `[N, 3C]` that a layer's attention reads.
    Heads(usize, &'a Value),
    /// The hidden states `[N, C]` below the first layer (0) or after one; those after the last are what the trunk returns.
    States(usize, &'a Value),
}

impl<'a> Inputs<'a> {
    /// Tokens without types.
    pub fn new(input_ids: &'a [u32]) -> Self {
        Self { input_ids, token_type_ids: None }
    }
}

impl Model {
    /// Lists the parameters of `config`; all of them train.
    ///
    /// # Errors
    /// [`crate::Error::Config`] when a size is not possible.
    pub fn new(config: &ModelConfig) -> Result<Self> {
        config.validate()?;
        if !(1..=1 << 24).contains(&config.vocab_size) {
            return Err(Error::Config {
                key: "vocab_size".into(),
                what: format!("{} is not a possible number of pieces", config.vocab_size),
                fix: "it follows from the tokenizer; leave it out of settings files".into(),
            });
        }
        let layout = families::layout(config);
        if config.positions == Positions::Rotary && !config.head_dim().is_multiple_of(2) {
            return Err(Error::Config {
                key: "positions".into(),
                what: format!("rotary positions turn pairs of columns, and heads have {}", config.head_dim()),
                fix: "choose embed_dim and num_heads so that their quotient is even".into(),
            });
        }
        let mut table = ParamTable::default();
        let mut build = Builder { config, layout, table: &mut table, layer: None };
        let embeddings = Embeddings::new(&mut build);
        let blocks = (0..config.num_layers).map(|layer| Block::new(&mut build, layer)).collect();
        let final_norm = layout.final_norm.then(|| Norm::new(&mut build, "transformer.final_norm"));
        let lm_head = LmHead::new(&mut build);
        let classifier = Classifier::new(&mut build);
        let toward_teacher = TowardTeacher::new(&mut build);
        table.freeze_except(|_| true);
        Ok(Self {
            config: config.clone(),
            layout,
            table,
            embeddings,
            blocks,
            final_norm,
            lm_head,
            classifier,
            toward_teacher,
            layer_drop: 0.0,
        })
    }

    /// Whether the model has what a language model's loss or logits need: all have, but those whose embeddings are narrower
    /// than their blocks and whose LM head has no transform, such as ELECTRA's discriminators.
    ///
    /// # Errors
    /// [`Error::Config`] where it has not.
    pub fn check_lm_head(&self) -> Result<()> {
        let (columns, width) = (self.config.embedding_size(), self.config.embed_dim);
        if columns == width || self.layout.lm_transform {
            return Ok(());
        }
        Err(Error::Config {
            key: "layout.lm_transform".into(),
            what: format!("embeddings of {columns} columns cannot score hidden states of {width}"),
            fix: "use a model with a language model's head; this one can be fine-tuned as a classifier, with lm_loss_coef 0"
                .into(),
        })
    }

    /// Which parameters will ever train; see [`ParamTable::freeze_except`].
    pub fn freeze_except(&mut self, trains: impl Fn(&Param) -> bool) {
        self.table.freeze_except(trains);
    }

    /// When and how fast they train; see [`ParamTable::set_phases`].
    ///
    /// # Panics
    /// As there.
    pub fn set_phases(&mut self, starts: &[u64], factor: impl Fn(&Param, u64) -> f64) {
        self.table.set_phases(starts, factor);
    }

    /// Has each training step leave out each block with this probability (LayerDrop, Fan et al. 2020): which ones follows from the seed and
    /// the step, so they are the same for the whole global batch. What is left is not scaled, and inference has all blocks.
    pub fn set_layer_drop(&mut self, p: f32) {
        self.layer_drop = p;
    }

    /// Where the weights lie; see [`ParamTable::place`].
    pub(crate) fn place(&mut self, offset: impl Fn(&Param) -> usize) {
        self.table.place(offset);
    }

    /// The same model without low-rank updates and scales, and its weights: each update is added to the weight it belongs to, each
    /// scale multiplied into the linear beside it.
    ///
    /// # Errors
    /// Those of [`Model::new`].
    ///
    /// # Panics
    /// When the weights are not those of this model.
    pub fn merged(&self, weights: &[f32]) -> Result<(Self, Vec<f32>)> {
        let merged = Self::new(&ModelConfig { lora: None, ia3: None, ..self.config.clone() })?;
        let mut summed = weights.to_vec();
        for block in &self.blocks {
            block.merge(&self.table, &mut summed);
        }
        // The parameters that are left stand in the same order.
        let left = self.table.params().iter().filter(|param| !matches!(param.kind, Kind::Lora | Kind::Ia3));
        let values = left.flat_map(|param| summed[param.offset..][..param.len()].iter().copied());
        Ok((merged, values.collect()))
    }

    /// The same model without what a student has for its teacher, and its weights.
    ///
    /// # Errors
    /// Those of [`Model::new`].
    pub fn without_teacher(&self, weights: &[f32]) -> Result<(Self, Vec<f32>)> {
        let alone = Self::new(&ModelConfig { teacher_heads: None, ..self.config.clone() })?;
        // They stand behind all others.
        Ok((alone.clone(), weights[..alone.table.len()].to_vec()))
    }

    /// The sizes and options.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The options of the trunk, those of the family included.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The parameters.
    pub fn table(&self) -> &ParamTable {
        &self.table
    }

    /// The hidden states `[N, C]` of the tape's packed tokens. With `caches` (one per layer; inference of one
    /// sequence) the tokens continue the sequence the caches hold.
    ///
    /// # Panics
    /// When an id, position or token type is outside its table, or there are types for a model without.
    pub fn trunk(
        &self,
        tape: &mut Tape<'_>,
        inputs: Inputs<'_>,
        caches: Option<&mut [KeyValueCache]>,
    ) -> Value {
        self.trunk_watched(tape, inputs, caches, &mut |_| ())
    }

    /// [`Model::trunk`], which shows what every layer makes on the way: the hidden states below the first layer (as 0) and after each
    /// (from 1), and their heads; the states after the last are what it returns.
    ///
    /// # Panics
    /// As there.
    pub fn trunk_watched(
        &self,
        tape: &mut Tape<'_>,
        inputs: Inputs<'_>,
        caches: Option<&mut [KeyValueCache]>,
        watch: &mut dyn FnMut(Seen<'_>),
    ) -> Value {
        self.states(tape, inputs, caches, None, watch)
    }

    /// With `only`, what the last block makes is made of one token of each sequence, and the tape is of these from there on: nothing reads
    /// the other states that it would have.
    fn states(
        &self,
        tape: &mut Tape<'_>,
        inputs: Inputs<'_>,
        mut caches: Option<&mut [KeyValueCache]>,
        only: Option<TokenOf>,
        watch: &mut dyn FnMut(Seen<'_>),
    ) -> Value {
        let mut h = self.embeddings.forward(tape, &self.table, inputs);
        let angles = Angles::new(tape, &self.config, &self.layout);
        watch(Seen::States(0, &h));
        for (layer, block) in self.blocks.iter().enumerate() {
            // What comes before a block has its parameters before the block's.
            tape.completes_from(self.table.first_grad_of(layer));
            let only = only.filter(|_| layer + 1 == self.blocks.len());
            if !tape.leaves_out(self.layer_drop, layer as u64) {
                let cache = caches.as_mut().map(|caches| &mut caches[layer]);
                let mut heads = |qkv: &Value| watch(Seen::Heads(layer + 1, qkv));
                h = block.forward(tape, &self.table, &h, &angles, cache, only, &mut heads);
            } else if let Some(token) = only {
                h = tape.select_rows(&h, &tape.packing().rows_of(token));
                tape.keep_one_token(token);
            }
            if layer + 1 < self.blocks.len() {
                watch(Seen::States(layer + 1, &h));
            }
        }
        if let Some(norm) = &self.final_norm {
            h = norm.forward(tape, &self.table, &h);
        }
        watch(Seen::States(self.blocks.len(), &h));
        h
    }

    /// [`Model::trunk_watched`] for a model with a classifier: the hidden states after the last layer, and what the classifier reads, which
    /// is a learned mix of all layers' or those.
    ///
    /// # Panics
    /// As [`Model::trunk`].
    pub fn trunk_for_head(
        &self,
        tape: &mut Tape<'_>,
        inputs: Inputs<'_>,
        watch: &mut dyn FnMut(Seen<'_>),
    ) -> (Value, Value) {
        let Some(mix) = self.classifier.and_then(|classifier| classifier.mix) else {
            let hidden = self.trunk_watched(tape, inputs, None, watch);
            return (hidden.clone(), hidden);
        };
        let mut states = Vec::with_capacity(self.blocks.len() + 1);
        let hidden = self.trunk_watched(tape, inputs, None, &mut |seen| {
            if let Seen::States(_, h) = seen {
                states.push(h.clone());
            }
            watch(seen);
        });
        (hidden, mix.of(tape, &self.table, &states))
    }

    /// What the classifier reads, where nothing else is read of the trunk: as [`Model::trunk_for_head`], but where the classifier looks at
    /// one token of each sequence, no other is computed behind the last block's attention, and the tape is of those tokens from then on.
    ///
    /// # Panics
    /// As [`Model::trunk`].
    pub fn trunk_for_classifier(&self, tape: &mut Tape<'_>, inputs: Inputs<'_>) -> Value {
        match self.classified_token() {
            Some(token) => self.states(tape, inputs, None, Some(token), &mut |_| ()),
            None => self.trunk_for_head(tape, inputs, &mut |_| ()).1,
        }
    }

    /// A row `[B, C]` of each sequence, where nothing else is read of the trunk: [`Model::pooled`] of [`Model::trunk`], with nothing computed
    /// in vain.
    ///
    /// # Panics
    /// As [`Model::trunk`].
    pub fn trunk_pooled(&self, tape: &mut Tape<'_>, inputs: Inputs<'_>, pooling: HeadPooling) -> Value {
        let hidden = self.states(tape, inputs, None, self.token_of(pooling), &mut |_| ());
        self.pooled(tape, &hidden, pooling)
    }
}
