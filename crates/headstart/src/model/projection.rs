//! A linear's parameters, and how parameters of each kind get into the table and start.
//!
//! Owns: names' endings, initial values. Never: what is computed between two linears.

use headstart_engine::ops::linear::Linear;
use headstart_engine::{Tape, View};

use crate::config::{InitScheme, Layout, ModelConfig};
use crate::params::{Init, Kind, ParamId, ParamTable, Role};

/// Puts the parameters of one place of the model into the table.
pub(super) struct Builder<'a> {
    pub(super) config: &'a ModelConfig,
    pub(super) layout: Layout,
    pub(super) table: &'a mut ParamTable,
    /// The block that is built, if one is.
    pub(super) layer: Option<usize>,
}

impl Builder<'_> {
    /// A weight of the given kind, at its kind's start.
    pub(super) fn weight(&mut self, name: &str, shape: &[usize], kind: Kind) -> ParamId {
        let init = self.start(kind);
        self.table.add(format!("{name}.weight"), shape, init, self.layer, kind, Role::Weight)
    }

    /// A bias, which starts at 0.
    pub(super) fn bias(&mut self, name: &str, len: usize, kind: Kind) -> ParamId {
        self.table.add(format!("{name}.bias"), &[len], Init::Constant(0.0), self.layer, kind, Role::Bias)
    }

    /// The weight of a norm, of whatever kind the parameter is.
    pub(super) fn norm_weight(&mut self, name: &str, len: usize, kind: Kind) -> ParamId {
        let init = self.start(Kind::Norm);
        self.table.add(format!("{name}.weight"), &[len], init, self.layer, kind, Role::Weight)
    }

    /// Whether nothing stands between a block's own ops: no updates, scales or adapters. What one linear leaves to another alone may
    /// then be padded.
    pub(super) fn is_plain(&self) -> bool {
        let config = self.config;
        config.lora.is_none() && config.ia3.is_none() && config.adapters_dim.is_none()
    }

    /// A linear of a block, which has a bias where the layout has biases.
    pub(super) fn block_linear(
        &mut self,
        name: &str,
        outputs: usize,
        inputs: usize,
        kind: Kind,
    ) -> Projection {
        if self.layout.bias {
            self.linear(name, outputs, inputs, kind)
        } else {
            self.linear_without_bias(name, outputs, inputs, kind)
        }
    }

    /// A matrix of a low-rank update, which starts as it is told.
    pub(super) fn low_rank(&mut self, name: &str, outputs: usize, inputs: usize, init: Init) -> Projection {
        let (name, shape) = (format!("{name}.weight"), [outputs, inputs]);
        let weight = self.table.add(name, &shape, init, self.layer, Kind::Lora, Role::Weight);
        Projection { weight, bias: None }
    }

    /// A linear with a bias.
    pub(super) fn linear(&mut self, name: &str, outputs: usize, inputs: usize, kind: Kind) -> Projection {
        let weight = self.weight(name, &[outputs, inputs], kind);
        Projection { weight, bias: Some(self.bias(name, outputs, kind)) }
    }

    /// A linear with a bias, whose weight starts as it is told.
    pub(super) fn linear_from(
        &mut self,
        name: &str,
        [outputs, inputs]: [usize; 2],
        kind: Kind,
        init: Init,
    ) -> Projection {
        let (weight, shape) = (format!("{name}.weight"), [outputs, inputs]);
        let weight = self.table.add(weight, &shape, init, self.layer, kind, Role::Weight);
        Projection { weight, bias: Some(self.bias(name, outputs, kind)) }
    }

    /// A linear without one.
    pub(super) fn linear_without_bias(
        &mut self,
        name: &str,
        outputs: usize,
        inputs: usize,
        kind: Kind,
    ) -> Projection {
        Projection { weight: self.weight(name, &[outputs, inputs], kind), bias: None }
    }

    fn start(&self, kind: Kind) -> Init {
        let range = self.config.initializer_range;
        match (self.layout.init, kind) {
            (_, Kind::TokenOffset) => Init::Constant(0.0),
            (InitScheme::Normal | InitScheme::Shrunk, Kind::Norm) => Init::Constant(1.0),
            (InitScheme::Shrunk, Kind::AttentionOut | Kind::FeedForwardDown) => {
                Init::Normal(range / (2.0 * self.config.num_layers as f32).sqrt())
            }
            (InitScheme::Xavier, Kind::AttentionIn) => Init::XavierUniform,
            _ => Init::Normal(range),
        }
    }
}

/// A linear's parameters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Projection {
    weight: ParamId,
    bias: Option<ParamId>,
}

impl Projection {
    /// Where its weight lies.
    pub(super) fn weight(&self, table: &ParamTable) -> View {
        table.view(self.weight, None)
    }

    /// Where its bias lies, if it has one.
    pub(super) fn bias(&self, table: &ParamTable) -> Option<View> {
        self.bias.map(|id| table.view(id, None))
    }

    /// y = x W^T + b at the tape's step, for an op to add its epilogue to.
    pub(super) fn linear(&self, tape: &Tape<'_>, table: &ParamTable) -> Linear {
        let view = |id| table.view(id, tape.step());
        Linear::new(view(self.weight), self.bias.map(view))
    }
}
