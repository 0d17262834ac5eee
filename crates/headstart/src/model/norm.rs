//! A layer norm's parameters.

use headstart_engine::{Tape, Value};

use crate::model::projection::Builder;
use crate::params::{Kind, ParamId, ParamTable};

/// Weight and bias over the model's width.
#[derive(Clone, Copy, Debug)]
pub(super) struct Norm {
    weight: ParamId,
    bias: ParamId,
    eps: f32,
}

impl Norm {
    pub(super) fn new(build: &mut Builder<'_>, name: &str) -> Self {
        let width = build.config.embed_dim;
        let weight = build.weight(name, &[width], Kind::Norm);
        Self { weight, bias: build.bias(name, width, Kind::Norm), eps: build.layout.norm_eps }
    }

    pub(super) fn forward(&self, tape: &mut Tape<'_>, table: &ParamTable, x: &Value) -> Value {
        let view = |id| table.view(id, tape.step());
        let (weight, bias) = (view(self.weight), view(self.bias));
        tape.norm(x, weight, bias, self.eps)
    }
}
