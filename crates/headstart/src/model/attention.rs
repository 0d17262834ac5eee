//! Self-attention: a packed in-projection, softmax(q k' / sqrt(D)) v by heads, and the out-projection.

use headstart_engine::ops::attention::{Attention, KeyValueCache};
use headstart_engine::ops::rotary::Rotary;
use headstart_engine::{Dropout, Tape, TokenOf, Value};

use crate::config::{Layout, LoraTarget, ModelConfig, Positions};
use crate::model::peft::{Part, Sum, Updated};
use crate::model::projection::Builder;
use crate::model::scales::Scales;
use crate::params::{Kind, ParamTable};

/// The attention of one block.
#[derive(Clone, Debug)]
pub(super) struct SelfAttention {
    in_proj: Updated,
    out_proj: Updated,
    /// Of queries, keys and values.
    scales_in: Scales,
    /// Of what the out-projection reads.
    scales_out: Scales,
    heads: Attention,
}

/// The angles that turn queries and keys, where positions are rotary.
#[derive(Clone, Debug, Default)]
pub(super) struct Angles {
    global: Option<Rotary>,
    /// Of layers with a window.
    local: Option<Rotary>,
}

impl Angles {
    /// Of the tape's tokens, for all layers.
    pub(super) fn new(tape: &Tape<'_>, config: &ModelConfig, layout: &Layout) -> Self {
        if config.positions != Positions::Rotary {
            return Self::default();
        }
        let angles = |theta| tape.rotary(config.head_dim(), theta);
        let local = (layout.window > 0).then(|| angles(layout.local_rotary_theta));
        Self { global: Some(angles(layout.rotary_theta)), local }
    }
}

impl SelfAttention {
    /// `dropout` is on the probabilities.
    pub(super) fn new(build: &mut Builder<'_>, prefix: &str, dropout: Dropout) -> Self {
        let (config, width) = (build.config, build.config.embed_dim);
        let in_proj = build.block_linear(&format!("{prefix}.in_proj"), 3 * width, width, Kind::AttentionIn);
        let out_proj = build.block_linear(&format!("{prefix}.out_proj"), width, width, Kind::AttentionOut);
        let part =
            |target: LoraTarget| Part { target, name: format!("{prefix}.{}", target.name()), outputs: width };
        let of_in = [LoraTarget::Q, LoraTarget::K, LoraTarget::V].map(part);
        let in_proj = Updated::new(build, in_proj, width, of_in);
        let out_proj = Updated::new(build, out_proj, width, [part(LoraTarget::O)]);
        let scales_in = Scales::new(build, [LoraTarget::Q, LoraTarget::K, LoraTarget::V].map(part));
        let scales_out = Scales::new(build, [part(LoraTarget::O)]);
        let window = build.layer.and_then(|layer| build.layout.window_of(layer));
        let heads = Attention {
            heads: config.num_heads,
            dim: config.head_dim(),
            causal: config.causal,
            window,
            query: None,
            dropout: Some(dropout),
            padded_output: build.is_plain(),
        };
        Self { in_proj, out_proj, scales_in, scales_out, heads }
    }

    /// All but the out-projection, and that, which takes the residual in its epilogue. With `only`, one token of each sequence attends, and
    /// the tape is of these from there on. `watch` is shown queries, keys and values, perhaps padded ([`Tape::own_columns`]).
    pub(super) fn forward(
        &self,
        tape: &mut Tape<'_>,
        table: &ParamTable,
        x: &Value,
        angles: &Angles,
        cache: Option<&mut KeyValueCache>,
        only: Option<TokenOf>,
        watch: &mut dyn FnMut(&Value),
    ) -> (Value, Sum) {
        let mut in_proj = self.in_proj.of(tape, table, x);
        let angles = if self.heads.window.is_some() { &angles.local } else { &angles.global };
        in_proj.linear.padded_output = self.heads.padded_output && angles.is_none() && cache.is_none();
        let qkv = in_proj.apply(tape, x, &[]);
        let mut qkv = self.scales_in.of(tape, table, qkv);
        if let Some(angles) = angles {
            qkv = tape.rotate(&qkv, angles);
        }
        watch(&qkv);
        let mixed = tape.attention(&qkv, Attention { query: only, ..self.heads }, cache);
        if let Some(token) = only {
            tape.keep_one_token(token);
        }
        let mixed = self.scales_out.of(tape, table, mixed);
        let last = self.out_proj.of(tape, table, &mixed);
        (mixed, last)
    }

    /// Makes the weights those of the layer without updates and scales.
    pub(super) fn merge(&self, table: &ParamTable, weights: &mut [f32]) {
        self.in_proj.merge(table, weights);
        self.out_proj.merge(table, weights);
        self.scales_in.merge_behind(self.in_proj.linear(), table, weights);
        self.scales_out.merge_before(self.out_proj.linear(), table, weights);
    }
}
