//! The feed-forward: down(activation(up(x))), or with a gate down(activation(a) * b), a and b the halves of up(x).

use headstart_engine::ops::linear::Activation;
use headstart_engine::{Tape, Value};

use crate::config::{self, LoraTarget};
use crate::model::peft::{Part, Sum, Updated};
use crate::model::projection::Builder;
use crate::model::scales::Scales;
use crate::params::{Kind, ParamTable};

/// The feed-forward of one block.
#[derive(Clone, Debug)]
pub(super) struct FeedForward {
    up: Updated,
    down: Updated,
    /// Of what the second linear reads.
    scales: Scales,
    activation: Activation,
    gated: bool,
    /// Whether the second linear alone reads what the first makes.
    plain: bool,
}

impl FeedForward {
    pub(super) fn new(build: &mut Builder<'_>, prefix: &str) -> Self {
        let (width, hidden) = (build.config.embed_dim, build.config.hidden_dim);
        let gated = build.layout.gated;
        let inner = if gated { 2 * hidden } else { hidden };
        let up = build.block_linear(&format!("{prefix}.up"), inner, width, Kind::FeedForwardUp);
        let down = build.block_linear(&format!("{prefix}.down"), width, hidden, Kind::FeedForwardDown);
        let part = |target: LoraTarget, outputs| Part {
            target,
            name: format!("{prefix}.{}", target.name()),
            outputs,
        };
        let up = Updated::new(build, up, width, [part(LoraTarget::Up, inner)]);
        let down = Updated::new(build, down, hidden, [part(LoraTarget::Down, width)]);
        let scales = Scales::new(build, [part(LoraTarget::Down, hidden)]);
        Self {
            up,
            down,
            scales,
            activation: activation(build.layout.activation),
            gated,
            plain: build.is_plain(),
        }
    }

    /// All but the second linear, and that, which takes the residual in its epilogue.
    pub(super) fn forward(&self, tape: &mut Tape<'_>, table: &ParamTable, x: &Value) -> (Value, Sum) {
        let mut up = self.up.of(tape, table, x);
        let hidden = if self.gated {
            let halves = up.apply(tape, x, &[]);
            tape.gate(&halves, self.activation)
        } else {
            up.linear.activation = self.activation;
            up.linear.padded_output = self.plain;
            up.apply(tape, x, &[])
        };
        let hidden = self.scales.of(tape, table, hidden);
        let last = self.down.of(tape, table, &hidden);
        (hidden, last)
    }

    /// Makes the weights those of the layer without updates and scales.
    pub(super) fn merge(&self, table: &ParamTable, weights: &mut [f32]) {
        self.up.merge(table, weights);
        self.down.merge(table, weights);
        self.scales.merge_before(self.down.linear(), table, weights);
    }
}

/// The engine's function of that name.
pub(super) fn activation(name: config::Activation) -> Activation {
    match name {
        config::Activation::Relu => Activation::Relu,
        config::Activation::GeluTanh => Activation::Gelu,
        config::Activation::Gelu => Activation::GeluExact,
        config::Activation::Silu => Activation::Silu,
        config::Activation::Tanh => Activation::Tanh,
    }
}
