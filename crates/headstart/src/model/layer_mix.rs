//! A learned mix of all layers' hidden states, which a classifier reads in place of the last ones (ELMo, Peters et al. 2018).
//!
//! Owns: its parameters, and that it starts as the mean. Never: what is pooled of it (`heads.rs`).

use headstart_engine::ops::mix::Mix;
use headstart_engine::{Tape, Value};

use crate::model::projection::Builder;
use crate::params::{Init, Kind, ParamId, ParamTable, Role};

/// A weight for each layer, whose softmax the layers are mixed by, and a scale of the whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct LayerMix {
    weights: ParamId,
    scale: ParamId,
}

impl LayerMix {
    /// `None` where the head reads the last layer alone.
    pub(super) fn new(build: &mut Builder<'_>) -> Option<Self> {
        if !build.config.head_shape.layer_mix {
            return None;
        }
        let mut add = |name: &str, len, start| {
            let (name, start) = (format!("classification_head.mix.{name}"), Init::Constant(start));
            build.table.add(name, &[len], start, None, Kind::Head, Role::Weight)
        };
        // Those of the embeddings are the first.
        let layers = build.config.num_layers + 1;
        Some(Self { weights: add("weight", layers, 0.0), scale: add("scale", 1, 1.0) })
    }

    /// `[N, C]` of the hidden states `[N, C]` below the first block and behind each.
    pub(super) fn of(&self, tape: &mut Tape<'_>, table: &ParamTable, states: &[Value]) -> Value {
        let view = |id| table.view(id, tape.step());
        let mix = Mix { weights: view(self.weights), scale: view(self.scale) };
        tape.mix(states, mix)
    }
}
