//! What is added to a pretrained block so that little of it has to train: bottleneck adapters, and low-rank updates of linears.
//!
//! Owns: what they compute, their parameters, how updates are merged into the weights they belong to. Never: which parameters
//! train (`method.rs`).

use headstart_engine::ops::dropout::DropoutRows;
use headstart_engine::ops::linear::{Activation, Addend, Linear};
use headstart_engine::{Dropout, Tape, Value};

use crate::config::{AdapterKind, LoraTarget};

use crate::model::feed_forward::activation;
use crate::model::norm::Norm;
use crate::model::projection::{Builder, Projection};
use crate::params::{Init, Kind, ParamTable};

/// A bottleneck adapter, up(activation(down(x))).
#[derive(Clone, Copy, Debug)]
pub(super) struct Adapter {
    down: Projection,
    up: Projection,
    activation: Activation,
    /// What it reads.
    reads: Reads,
}

/// What an adapter reads, and with that what becomes of what it says.
#[derive(Clone, Copy, Debug)]
enum Reads {
    /// What the sublayer gives.
    Output,
    /// That with its residual, through the norm that stands behind it, if one does.
    Sum,
    /// What the sublayer reads; multiplied by this.
    Input(f32),
}

/// The sublayer that an adapter is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sublayer {
    Attention,
    FeedForward,
}

impl Adapter {
    /// `None` where the model has no adapter at this sublayer. One behind a sublayer starts with small weights, near the
    /// identity; one beside it starts as nothing, its second weight at zero and the first as PyTorch starts a linear.
    pub(super) fn new(build: &mut Builder<'_>, block: &str, sublayer: Sublayer) -> Option<Self> {
        let (width, dim, layout) =
            (build.config.embed_dim, build.config.adapters_dim?, build.config.adapters);
        let name = match (layout.kind, sublayer) {
            (AdapterKind::Houlsby, Sublayer::Attention) => "adapter_attention",
            (AdapterKind::Houlsby | AdapterKind::Pfeiffer | AdapterKind::SeqBn, Sublayer::FeedForward) => {
                "adapter_feed_forward"
            }
            (AdapterKind::Parallel, Sublayer::FeedForward) => "adapter_parallel",
            (AdapterKind::Pfeiffer | AdapterKind::SeqBn | AdapterKind::Parallel, Sublayer::Attention) => {
                return None;
            }
        };
        let [down, up] = ["down", "up"].map(|part| format!("{block}.{name}.{part}"));
        let activation = activation(layout.activation.unwrap_or(build.layout.activation));
        if layout.kind == AdapterKind::Parallel {
            let down = build.linear_from(&down, [dim, width], Kind::Adapter, Init::KaimingUniform);
            let up = build.linear_from(&up, [width, dim], Kind::Adapter, Init::Constant(0.0));
            return Some(Self { down, up, activation, reads: Reads::Input(layout.scale as f32) });
        }
        let down = build.linear(&down, dim, width, Kind::Adapter);
        let up = build.linear(&up, width, dim, Kind::Adapter);
        let reads = if layout.kind == AdapterKind::SeqBn { Reads::Sum } else { Reads::Output };
        Some(Self { down, up, activation, reads })
    }

    /// residual and what a sublayer makes of `x` (all of it but its last linear is `inner`), with the adapter of its output (Houlsby et
    /// al. 2019), of that with the residual through the norm `behind` (Pfeiffer et al. 2021) or, beside it, of `x` (He et al. 2022).
    pub(super) fn around(
        &self,
        tape: &mut Tape<'_>,
        table: &ParamTable,
        [x, inner]: [&Value; 2],
        last: Sum,
        residual: &Value,
        behind: Option<&Norm>,
    ) -> Value {
        let scale = match self.reads {
            Reads::Output => return self.add_to(tape, table, inner, last, residual),
            Reads::Sum => return self.add_to_sum(tape, table, inner, &last, residual, behind),
            Reads::Input(scale) => scale,
        };
        let down = Linear { activation: self.activation, ..self.down.linear(tape, table) };
        let bottleneck = tape.linear(x, down, &[]);
        let up = Linear { scale, f32_output: true, ..self.up.linear(tape, table) };
        let beside = tape.linear(&bottleneck, up, &[]);
        last.apply(tape, inner, &[residual, &beside])
    }

    /// s + adapter(norm(s)), s = residual + last(x).
    fn add_to_sum(
        &self,
        tape: &mut Tape<'_>,
        table: &ParamTable,
        x: &Value,
        last: &Sum,
        residual: &Value,
        behind: Option<&Norm>,
    ) -> Value {
        let sum = last.apply(tape, x, &[residual]);
        let normed = behind.map(|norm| norm.forward(tape, table, &sum));
        let down = Linear { activation: self.activation, ..self.down.linear(tape, table) };
        let bottleneck = tape.linear(normed.as_ref().unwrap_or(&sum), down, &[]);
        tape.linear(&bottleneck, self.up.linear(tape, table), &[&sum])
    }

    /// residual + a + adapter(a), a = last(x).
    fn add_to(
        &self,
        tape: &mut Tape<'_>,
        table: &ParamTable,
        x: &Value,
        last: Sum,
        residual: &Value,
    ) -> Value {
        let last = Sum { linear: Linear { f32_output: true, ..last.linear }, ..last };
        let a = last.apply(tape, x, &[]);
        let down = Linear { activation: self.activation, ..self.down.linear(tape, table) };
        let bottleneck = tape.linear(&a, down, &[]);
        let up = self.up.linear(tape, table);
        tape.linear(&bottleneck, up, &[&a, residual])
    }
}

/// The first dropout site of the updates, behind those of as many blocks as a model may have.
const UPDATE_SITES: u32 = 1 << 16;

/// Some columns of a linear's outputs, or inputs: what one of its updates, or scales, is of.
pub(super) struct Part {
    pub(super) target: LoraTarget,
    /// What the parameters are called by.
    pub(super) name: String,
    pub(super) outputs: usize,
}

/// A linear of a block with its low-rank updates (LoRA, Hu et al. 2021): W x + b + scale * B A drop(x), before whatever
/// follows. B starts at zero, so an update starts as nothing.
#[derive(Clone, Debug)]
pub(super) struct Updated {
    linear: Projection,
    updates: Vec<Update>,
}

#[derive(Clone, Copy, Debug)]
struct Update {
    a: Projection,
    b: Projection,
    scale: f32,
    dropout: Dropout,
    /// The first of the linear's outputs that it is added to.
    first: usize,
}

/// A linear that is yet to run, and what is added to its outputs, each from a column on.
pub(super) struct Sum {
    pub(super) linear: Linear,
    addends: Vec<(Value, usize)>,
}

impl Sum {
    pub(super) fn apply(&self, tape: &mut Tape<'_>, x: &Value, residuals: &[&Value]) -> Value {
        let addends: Vec<_> =
            self.addends.iter().map(|&(ref value, first)| Addend { value, first }).collect();
        tape.linear_with(x, self.linear, &addends, residuals)
    }
}

impl Updated {
    /// `parts` are the linear's outputs, in order; those that the configuration names have an update.
    pub(super) fn new(
        build: &mut Builder<'_>,
        linear: Projection,
        inputs: usize,
        parts: impl IntoIterator<Item = Part>,
    ) -> Self {
        let (mut updates, mut first) = (Vec::new(), 0);
        let of_layer = UPDATE_SITES + (LoraTarget::ALL.len() * build.layer.unwrap_or_default()) as u32;
        for Part { target, name, outputs } in parts {
            if let Some(lora) = build.config.lora.filter(|lora| lora.targets.has(target)) {
                let a = build.low_rank(&format!("{name}.lora_a"), lora.rank, inputs, Init::KaimingUniform);
                let b = build.low_rank(&format!("{name}.lora_b"), outputs, lora.rank, Init::Constant(0.0));
                let dropout = Dropout { p: lora.dropout, site: of_layer + target as u32 };
                updates.push(Update { a, b, scale: lora.scale() as f32, dropout, first });
            }
            first += outputs;
        }
        Self { linear, updates }
    }

    /// The linear, with its updates of `x` as addends.
    pub(super) fn of(&self, tape: &mut Tape<'_>, table: &ParamTable, x: &Value) -> Sum {
        let addend = |update: &Update| {
            let x = tape.dropout(x, update.dropout, DropoutRows::Tokens);
            let a = update.a.linear(tape, table);
            let low = tape.linear(&x, a, &[]);
            let b = Linear { scale: update.scale, f32_output: true, ..update.b.linear(tape, table) };
            (tape.linear(&low, b, &[]), update.first)
        };
        let addends = self.updates.iter().map(addend).collect();
        Sum { linear: self.linear.linear(tape, table), addends }
    }

    /// The linear itself.
    pub(super) fn linear(&self) -> &Projection {
        &self.linear
    }

    /// Adds the updates to the linear's own weight.
    pub(super) fn merge(&self, table: &ParamTable, weights: &mut [f32]) {
        for update in &self.updates {
            let [w, a, b] = [self.linear, update.a, update.b].map(|linear| linear.weight(table));
            for row in 0..b.rows {
                for column in 0..a.cols {
                    let products = (0..a.rows).map(|r| {
                        let (left, right) = (b.offset + row * b.cols + r, a.offset + r * a.cols + column);
                        f64::from(weights[left]) * f64::from(weights[right])
                    });
                    let sum = f64::from(update.scale) * products.sum::<f64>();
                    let weight = &mut weights[w.offset + (update.first + row) * w.cols + column];
                    *weight = (f64::from(*weight) + sum) as f32;
                }
            }
        }
    }
}
