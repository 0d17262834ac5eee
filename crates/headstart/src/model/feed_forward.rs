//! The feed-forward: down(activation(up(x))).

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
}

impl FeedForward {
    pub(super) fn new(build: &mut Builder<'_>, prefix: &str) -> Self {
        let (width, hidden) = (build.config.embed_dim, build.config.hidden_dim);
        let up = build.block_linear(&format!("{prefix}.up"), hidden, width, Kind::FeedForwardUp);
        let down = build.block_linear(&format!("{prefix}.down"), width, hidden, Kind::FeedForwardDown);
        Self { up, down, activation: activation(build.layout.activation) }
    }

    /// All but the second linear, and that, which takes the residual in its epilogue.
    pub(super) fn forward(&self, tape: &mut Tape<'_>, table: &ParamTable, x: &Value) -> (Value, Linear) {
        let up = Linear { activation: self.activation, ..self.up.linear(tape, table) };
        let hidden = tape.linear(x, up, &[]);
        (hidden, self.down.linear(tape, table))
    }
}

/// The engine's function of that name.
pub(super) fn activation(name: config::Activation) -> Activation {
    match name {
        config::Activation::Relu => Activation::Relu,
        config::Activation::GeluTanh => Activation::Gelu,
    }
}
