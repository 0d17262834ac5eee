//! Self-attention: a packed in-projection, softmax(q k' / sqrt(D)) v by heads, and the out-projection.

use headstart_engine::ops::attention::{Attention, KeyValueCache};
use headstart_engine::ops::linear::Linear;
use headstart_engine::{Dropout, Tape, Value};

use crate::model::projection::{Builder, Projection};
use crate::params::{Kind, ParamTable};

/// The attention of one block.
#[derive(Clone, Copy, Debug)]
pub(super) struct SelfAttention {
    in_proj: Projection,
    out_proj: Projection,
    heads: Attention,
}

impl SelfAttention {
    /// `dropout` is on the probabilities.
    pub(super) fn new(build: &mut Builder<'_>, prefix: &str, dropout: Dropout) -> Self {
        let (config, width) = (build.config, build.config.embed_dim);
        let in_proj = build.block_linear(&format!("{prefix}.in_proj"), 3 * width, width, Kind::AttentionIn);
        let out_proj = build.block_linear(&format!("{prefix}.out_proj"), width, width, Kind::AttentionOut);
        let heads = Attention { heads: config.num_heads, causal: config.causal, dropout: Some(dropout) };
        Self { in_proj, out_proj, heads }
    }

    /// All but the out-projection, and that, which takes the residual in its epilogue.
    pub(super) fn forward(
        &self,
        tape: &mut Tape<'_>,
        table: &ParamTable,
        x: &Value,
        cache: Option<&mut KeyValueCache>,
    ) -> (Value, Linear) {
        let in_proj = self.in_proj.linear(tape, table);
        let qkv = tape.linear(x, in_proj, &[]);
        let mixed = tape.attention(&qkv, self.heads, cache);
        (mixed, self.out_proj.linear(tape, table))
    }
}
