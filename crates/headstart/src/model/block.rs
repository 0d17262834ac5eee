//! One transformer block, in both layouts, with or without adapters.
//!
//! `naacl2019` (Ruder et al. 2019): h = LN1(h); h = h + a(drop(attn(h))); h = LN2(h); h = h + a(drop(ff(h))):
//! the residual leaves after the norm. `gpt2` (Radford et al. 2019): h = h + a(drop(attn(LN1(h)))), and so on.
//! a is the adapter (Houlsby et al. 2019), a(x) = x + up(act(down(x))), or nothing.

use headstart_engine::ops::attention::{Attention, KeyValueCache};
use headstart_engine::ops::linear::{Activation, Linear};
use headstart_engine::{Dropout, Tape, Value};

use crate::config::{Arch, ModelConfig};
use crate::params::{Group, Init, ParamId, ParamTable};

/// Attention and feed-forward with their norms and adapters.
#[derive(Clone, Debug)]
pub(super) struct Block {
    layer: u32,
    norm_1: Norm,
    in_proj: Projection,
    out_proj: Projection,
    adapter_attention: Option<Adapter>,
    norm_2: Norm,
    up: Projection,
    down: Projection,
    adapter_feed_forward: Option<Adapter>,
}

impl Block {
    pub(super) fn new(config: &ModelConfig, table: &mut ParamTable, layer: usize) -> Self {
        let (width, hidden) = (config.embed_dim, config.hidden_dim);
        let prefix = format!("transformer.layers.{layer}");
        let normal = Init::Normal(config.initializer_range);
        // GPT-2 shrinks what is added to the residual stream by the number of additions (Radford et al. 2019).
        let (in_init, residual_init) = match config.arch {
            Arch::Naacl2019 => (Init::XavierUniform, normal),
            Arch::Gpt2 => {
                let shrunk = config.initializer_range / (2.0 * config.num_layers as f32).sqrt();
                (normal, Init::Normal(shrunk))
            }
        };
        let projection = |table: &mut ParamTable, name: &str, outputs: usize, inputs: usize, init: Init| {
            Projection::new(table, &format!("{prefix}.{name}"), outputs, inputs, init, Group::Trunk)
        };
        let adapter = |table: &mut ParamTable, name: &str| {
            config.adapters_dim.map(|dim| Adapter::new(config, table, &format!("{prefix}.{name}"), dim))
        };
        let norm_1 = Norm::new(config, table, &format!("{prefix}.norm_1"));
        let in_proj = projection(table, "attention.in_proj", 3 * width, width, in_init);
        let out_proj = projection(table, "attention.out_proj", width, width, residual_init);
        let adapter_attention = adapter(table, "adapter_attention");
        let norm_2 = Norm::new(config, table, &format!("{prefix}.norm_2"));
        let up = projection(table, "feed_forward.up", hidden, width, normal);
        let down = projection(table, "feed_forward.down", width, hidden, residual_init);
        let adapter_feed_forward = adapter(table, "adapter_feed_forward");
        let layer = layer as u32;
        Self { layer, norm_1, in_proj, out_proj, adapter_attention, norm_2, up, down, adapter_feed_forward }
    }

    pub(super) fn forward(
        &self,
        tape: &mut Tape<'_>,
        table: &ParamTable,
        config: &ModelConfig,
        h: &Value,
        cache: Option<&mut KeyValueCache>,
    ) -> Value {
        let site = |place| 1 + 3 * self.layer + place;
        let drop = |place| Some(Dropout { p: config.dropout, site: site(place) });
        let activation = activation(config);

        let normed = self.norm_1.forward(tape, table, h);
        let residual = residual_of(config, h, &normed);
        let qkv = tape.linear(&normed, self.in_proj.linear(table), &[]);
        let dropout = Some(Dropout { p: config.attention_dropout(), site: site(0) });
        let attention = Attention { heads: config.num_heads, causal: config.causal, dropout };
        let mixed = tape.attention(&qkv, attention, cache);
        let out = Linear { dropout: drop(1), ..self.out_proj.linear(table) };
        let h = add_sublayer(tape, table, &mixed, out, self.adapter_attention.as_ref(), activation, residual);

        let normed = self.norm_2.forward(tape, table, &h);
        let residual = residual_of(config, &h, &normed);
        let hidden = tape.linear(&normed, Linear { activation, ..self.up.linear(table) }, &[]);
        let down = Linear { dropout: drop(2), ..self.down.linear(table) };
        add_sublayer(tape, table, &hidden, down, self.adapter_feed_forward.as_ref(), activation, residual)
    }
}

/// Where the residual leaves: after the norm in the tutorial's layout, before it in GPT-2's.
fn residual_of<'v>(config: &ModelConfig, before: &'v Value, normed: &'v Value) -> &'v Value {
    match config.arch {
        Arch::Naacl2019 => normed,
        Arch::Gpt2 => before,
    }
}

fn activation(config: &ModelConfig) -> Activation {
    match config.arch {
        Arch::Naacl2019 => Activation::Relu,
        Arch::Gpt2 => Activation::Gelu,
    }
}

/// residual + adapter(last(x)).
fn add_sublayer(
    tape: &mut Tape<'_>,
    table: &ParamTable,
    x: &Value,
    last: Linear,
    adapter: Option<&Adapter>,
    activation: Activation,
    residual: &Value,
) -> Value {
    let Some(adapter) = adapter else { return tape.linear(x, last, &[residual]) };
    let a = tape.linear(x, Linear { f32_output: true, ..last }, &[]);
    let bottleneck = tape.linear(&a, Linear { activation, ..adapter.down.linear(table) }, &[]);
    tape.linear(&bottleneck, adapter.up.linear(table), &[&a, residual])
}

/// A layer norm's parameters.
#[derive(Clone, Debug)]
pub(super) struct Norm {
    weight: ParamId,
    bias: ParamId,
    eps: f32,
}

impl Norm {
    pub(super) fn new(config: &ModelConfig, table: &mut ParamTable, name: &str) -> Self {
        // The tutorial draws the norms' weights like all others; GPT-2 starts them at 1.
        let (init, eps) = match config.arch {
            Arch::Naacl2019 => (Init::Normal(config.initializer_range), 1e-12),
            Arch::Gpt2 => (Init::Constant(1.0), 1e-5),
        };
        let shape = [config.embed_dim];
        let weight = table.add(format!("{name}.weight"), &shape, init, Group::Norm);
        let bias = table.add(format!("{name}.bias"), &shape, Init::Constant(0.0), Group::Norm);
        Self { weight, bias, eps }
    }

    pub(super) fn forward(&self, tape: &mut Tape<'_>, table: &ParamTable, x: &Value) -> Value {
        tape.norm(x, table.view(self.weight), table.view(self.bias), self.eps)
    }
}

/// A linear's parameters.
#[derive(Clone, Debug)]
struct Projection {
    weight: ParamId,
    bias: ParamId,
}

impl Projection {
    fn new(
        table: &mut ParamTable,
        name: &str,
        outputs: usize,
        inputs: usize,
        init: Init,
        group: Group,
    ) -> Self {
        let weight = table.add(format!("{name}.weight"), &[outputs, inputs], init, group);
        let bias = table.add(format!("{name}.bias"), &[outputs], Init::Constant(0.0), group);
        Self { weight, bias }
    }

    fn linear(&self, table: &ParamTable) -> Linear {
        Linear::new(table.view(self.weight), Some(table.view(self.bias)))
    }
}

/// A bottleneck adapter; small weights make it start near the identity.
#[derive(Clone, Debug)]
struct Adapter {
    down: Projection,
    up: Projection,
}

impl Adapter {
    fn new(config: &ModelConfig, table: &mut ParamTable, name: &str, dim: usize) -> Self {
        let init = Init::Normal(config.initializer_range);
        let width = config.embed_dim;
        let down = Projection::new(table, &format!("{name}.down"), dim, width, init, Group::Adapter);
        let up = Projection::new(table, &format!("{name}.up"), width, dim, init, Group::Adapter);
        Self { down, up }
    }
}
