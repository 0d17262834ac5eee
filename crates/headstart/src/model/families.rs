//! The families of models, each a set of options of the one trunk.
//!
//! Owns: which family has which options. Never: what an option does (`block.rs` and its neighbours).

use crate::config::{Activation, Arch, InitScheme, Layout, ModelConfig, NormPlace};

/// The options of a model: its family's, with what its configuration changes.
pub(super) fn layout(config: &ModelConfig) -> Layout {
    family(config.arch).with(&config.layout)
}

fn family(arch: Arch) -> Layout {
    match arch {
        // The model of the NAACL 2019 tutorial (Ruder, Peters, Swayamdipta, Wolf).
        Arch::Naacl2019 => Layout {
            norm: NormPlace::Stream,
            norm_eps: 1e-12,
            embedding_norm: false,
            final_norm: false,
            activation: Activation::Relu,
            gated: false,
            bias: true,
            norm_bias: true,
            token_types: 0,
            position_offset: 0,
            rotary_theta: 10_000.0,
            local_rotary_theta: 10_000.0,
            window: 0,
            global_every: 0,
            init: InitScheme::Xavier,
        },
        // Radford et al. 2019.
        Arch::Gpt2 => Layout {
            norm: NormPlace::Before,
            norm_eps: 1e-5,
            embedding_norm: false,
            final_norm: true,
            activation: Activation::GeluTanh,
            gated: false,
            bias: true,
            norm_bias: true,
            token_types: 0,
            position_offset: 0,
            rotary_theta: 10_000.0,
            local_rotary_theta: 10_000.0,
            window: 0,
            global_every: 0,
            init: InitScheme::Shrunk,
        },
    }
}
