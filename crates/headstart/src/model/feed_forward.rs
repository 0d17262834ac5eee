//! The feed-forward: down(activation(up(x))), or with a gate down(activation(a) * b), a and b the halves of up(x).

use headstart_engine::ops::linear::{Activation, Linear};
use headstart_engine::{Tape, Value};

use crate::config;
use crate::model::projection::{Builder, Projection};
use crate::params::{Kind, ParamTable};

/// The feed-forward of one block.
#[derive(Clone, Copy, Debug)]
pub(super) struct FeedForward {
    up: Projection,
    down: Projection,
    activation: Activation,
    gated: bool,
}

impl FeedForward {
    pub(super) fn new(build: &mut Builder<'_>, prefix: &str) -> Self {
        let (width, hidden) = (build.config.embed_dim, build.config.hidden_dim);
        let gated = build.layout.gated;
        let inner = if gated { 2 * hidden } else { hidden };
        let up = build.block_linear(&format!("{prefix}.up"), inner, width, Kind::FeedForwardUp);
        let down = build.block_linear(&format!("{prefix}.down"), width, hidden, Kind::FeedForwardDown);
        Self { up, down, activation: activation(build.layout.activation), gated }
    }

    /// All but the second linear, and that, which takes the residual in its epilogue.
    pub(super) fn forward(&self, tape: &mut Tape<'_>, table: &ParamTable, x: &Value) -> (Value, Linear) {
        let up = self.up.linear(tape, table);
        let hidden = if self.gated {
            let halves = tape.linear(x, up, &[]);
            tape.gate(&halves, self.activation)
        } else {
            tape.linear(x, Linear { activation: self.activation, ..up }, &[])
        };
        (hidden, self.down.linear(tape, table))
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
