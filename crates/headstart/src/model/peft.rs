//! What is added to a pretrained block so that little of it has to train: bottleneck adapters.

use headstart_engine::ops::linear::{Activation, Linear};
use headstart_engine::{Tape, Value};

use crate::model::feed_forward::activation;
use crate::model::projection::{Builder, Projection};
use crate::params::{Kind, ParamTable};

/// A bottleneck adapter (Houlsby et al. 2019), a + up(activation(down(a))); small weights make it start near the identity.
#[derive(Clone, Copy, Debug)]
pub(super) struct Adapter {
    down: Projection,
    up: Projection,
    activation: Activation,
}

impl Adapter {
    /// `None` for a model without adapters.
    pub(super) fn new(build: &mut Builder<'_>, name: &str) -> Option<Self> {
        let (width, dim) = (build.config.embed_dim, build.config.adapters_dim?);
        let down = build.linear(&format!("{name}.down"), dim, width, Kind::Adapter);
        let up = build.linear(&format!("{name}.up"), width, dim, Kind::Adapter);
        Some(Self { down, up, activation: activation(build.layout.activation) })
    }

    /// residual + adapter(last(x)).
    pub(super) fn add_to(
        &self,
        tape: &mut Tape<'_>,
        table: &ParamTable,
        x: &Value,
        last: Linear,
        residual: &Value,
    ) -> Value {
        let a = tape.linear(x, Linear { f32_output: true, ..last }, &[]);
        let down = Linear { activation: self.activation, ..self.down.linear(tape, table) };
        let bottleneck = tape.linear(&a, down, &[]);
        let up = self.up.linear(tape, table);
        tape.linear(&bottleneck, up, &[&a, residual])
    }
}
