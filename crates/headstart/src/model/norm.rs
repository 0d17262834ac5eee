//! A layer norm's parameters.

use headstart_engine::ops::norm::LayerNorm;
use headstart_engine::{Dropout, Tape, Value};

use crate::model::projection::Builder;
use crate::params::{Kind, ParamId, ParamTable};

/// Weight and, where the layout has one, bias.
#[derive(Clone, Copy, Debug)]
pub(super) struct Norm {
    weight: ParamId,
    bias: Option<ParamId>,
    eps: f32,
    dropout: Option<Dropout>,
}

impl Norm {
    /// Over the model's width.
    pub(super) fn new(build: &mut Builder<'_>, name: &str) -> Self {
        Self::of_width(build, name, build.config.embed_dim, Kind::Norm)
    }

    /// Over `width` columns; it belongs to what `kind` says.
    pub(super) fn of_width(build: &mut Builder<'_>, name: &str, width: usize, kind: Kind) -> Self {
        let weight = build.norm_weight(name, width, kind);
        let bias = build.layout.norm_bias.then(|| build.bias(name, width, kind));
        Self { weight, bias, eps: build.layout.norm_eps, dropout: None }
    }

    /// With dropout behind it.
    pub(super) fn with_dropout(self, dropout: Dropout) -> Self {
        Self { dropout: Some(dropout), ..self }
    }

    pub(super) fn forward(&self, tape: &mut Tape<'_>, table: &ParamTable, x: &Value) -> Value {
        let view = |id| table.view(id, tape.step());
        let Self { weight, bias, eps, dropout } = *self;
        let norm = LayerNorm { dropout, ..LayerNorm::new(view(weight), bias.map(view), eps) };
        tape.norm(x, norm)
    }
}
