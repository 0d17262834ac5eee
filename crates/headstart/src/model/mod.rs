//! The one model: a transformer with options, its heads, and nothing else.
//!
//! Owns: which parameters there are and how they are combined on a tape. Never: files, optimizers, ranks, clocks.
//!
//! [`Model::new`] lists the parameters in a [`ParamTable`]; [`Model::trunk`] runs ids through the blocks;
//! [`Model::lm_loss`] and [`Model::classify`] are the heads. Inference, adapters and masked LM are options of
//! the same forward.

mod block;
mod transformer;

use headstart_engine::ops::attention::KeyValueCache;
use headstart_engine::ops::linear::Linear;
use headstart_engine::ops::linear_cross_entropy::LossSum;
use headstart_engine::ops::pool::Pooling;
use headstart_engine::{Tape, Tensor, Value};

use crate::config::{HeadPooling, ModelConfig};
use crate::error::Result;
use crate::params::{Group, Init, ParamId, ParamTable};
use transformer::Transformer;

/// A transformer and its heads, over parameters that live elsewhere.
#[derive(Clone, Debug)]
pub struct Model {
    config: ModelConfig,
    table: ParamTable,
    transformer: Transformer,
    head: Option<(ParamId, ParamId)>,
}

impl Model {
    /// Lists the parameters of `config`; all of them train.
    ///
    /// # Errors
    /// [`crate::Error::Config`] when a size is not possible.
    pub fn new(config: &ModelConfig) -> Result<Self> {
        config.validate()?;
        let mut table = ParamTable::default();
        let transformer = Transformer::new(config, &mut table);
        let head = config.head.as_ref().map(|head| {
            let shape = [head.num_classes, config.embed_dim];
            let init = Init::Normal(config.initializer_range);
            let weight = table.add("classification_head.weight", &shape, init, Group::Head);
            let bias = table.add("classification_head.bias", &shape[..1], Init::Constant(0.0), Group::Head);
            (weight, bias)
        });
        table.tie(transformer.token_embedding());
        table.freeze_except(|_| true);
        Ok(Self { config: config.clone(), table, transformer, head })
    }

    /// Freezes every parameter whose group does not train.
    pub fn freeze_except(&mut self, trains: impl Fn(Group) -> bool) {
        self.table.freeze_except(trains);
    }

    /// The sizes and options.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The parameters.
    pub fn table(&self) -> &ParamTable {
        &self.table
    }

    /// The hidden states `[N, C]` of the tape's packed tokens. With `caches` (one per layer; inference of one
    /// sequence) the tokens continue the sequence the caches hold.
    ///
    /// # Panics
    /// When an id or position is outside its table.
    pub fn trunk(&self, tape: &mut Tape<'_>, ids: &[u32], caches: Option<&mut [KeyValueCache]>) -> Value {
        self.transformer.forward(tape, &self.table, &self.config, ids, caches)
    }

    /// The summed LM loss of `rows` of the hidden states against `targets`; its gradient is scaled by `scale`.
    pub fn lm_loss(
        &self,
        tape: &mut Tape<'_>,
        hidden: &Value,
        rows: &[u32],
        targets: &[u32],
        scale: f32,
    ) -> LossSum {
        let weight = self.table.tied_view(self.transformer.token_embedding());
        tape.linear_cross_entropy(hidden, rows, targets, weight, scale)
    }

    /// LM logits `[R, V]` of some rows, for generation.
    pub fn lm_logits(&self, tape: &mut Tape<'_>, hidden: &Value, rows: &[u32]) -> Tensor {
        let picked = tape.select_rows(hidden, rows);
        let weight = self.table.tied_view(self.transformer.token_embedding());
        let linear = Linear { f32_output: true, ..Linear::new(weight, None) };
        tape.linear(&picked, linear, &[]).tensor().clone()
    }

    /// Classification logits `[B, K]`, one row per packed sequence; `None` for a model without a head.
    pub fn classify(&self, tape: &mut Tape<'_>, hidden: &Value) -> Option<Value> {
        let (weight, bias) = self.head?;
        let pooled = match self.config.head.as_ref()?.pooling {
            HeadPooling::Cls | HeadPooling::Last => {
                let rows: Vec<u32> = tape.packing().last_rows().collect();
                tape.select_rows(hidden, &rows)
            }
            HeadPooling::Mean => tape.pool(hidden, Pooling::Mean),
            HeadPooling::Max => tape.pool(hidden, Pooling::Max),
        };
        let (weight, bias) = (self.table.view(weight), self.table.view(bias));
        let linear = Linear { f32_output: true, ..Linear::new(weight, Some(bias)) };
        Some(tape.linear(&pooled, linear, &[]))
    }
}
