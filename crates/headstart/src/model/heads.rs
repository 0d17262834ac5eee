//! The heads above the trunk: the language model's, tied to the token embedding, and the classifier's.

use headstart_engine::ops::linear::Linear;
use headstart_engine::ops::pool::Pooling;
use headstart_engine::{LossSum, Tape, Tensor, Value};

use crate::config::HeadPooling;
use crate::model::Model;
use crate::model::projection::{Builder, Projection};
use crate::params::Kind;

/// A linear over one row for each sequence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Classifier {
    pooling: HeadPooling,
    linear: Projection,
}

impl Classifier {
    /// `None` for a model without a head.
    pub(super) fn new(build: &mut Builder<'_>) -> Option<Self> {
        let head = build.config.head.as_ref()?;
        let width = build.config.embed_dim;
        let linear = build.linear("classification_head", head.num_classes, width, Kind::Head);
        Some(Self { pooling: head.pooling, linear })
    }
}

impl Model {
    /// The summed LM loss of `rows` of the hidden states against `targets`; its gradient is scaled by `scale`.
    pub fn lm_loss(
        &self,
        tape: &mut Tape<'_>,
        hidden: &Value,
        rows: &[u32],
        targets: &[u32],
        scale: f32,
    ) -> LossSum {
        let weight = self.table.view(self.embeddings.tokens(), tape.step());
        tape.linear_cross_entropy(hidden, rows, targets, weight, None, scale)
    }

    /// LM logits `[R, V]` of some rows, for generation.
    pub fn lm_logits(&self, tape: &mut Tape<'_>, hidden: &Value, rows: &[u32]) -> Tensor {
        let picked = tape.select_rows(hidden, rows);
        let weight = self.table.view(self.embeddings.tokens(), tape.step());
        let linear = Linear { f32_output: true, ..Linear::new(weight, None) };
        tape.linear(&picked, linear, &[]).tensor().clone()
    }

    /// Classification logits `[B, K]`, one row per packed sequence; `None` for a model without a head.
    pub fn classify(&self, tape: &mut Tape<'_>, hidden: &Value) -> Option<Value> {
        let head = self.classifier?;
        let pooled = match head.pooling {
            HeadPooling::Cls | HeadPooling::Pooler | HeadPooling::Last => {
                let rows: Vec<u32> = tape.packing().last_rows().collect();
                tape.select_rows(hidden, &rows)
            }
            HeadPooling::Mean => tape.pool(hidden, Pooling::Mean),
            HeadPooling::Max => tape.pool(hidden, Pooling::Max),
        };
        let linear = Linear { f32_output: true, ..head.linear.linear(tape, &self.table) };
        Some(tape.linear(&pooled, linear, &[]))
    }
}
