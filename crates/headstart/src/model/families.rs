//! The families of models, each a set of options of the one trunk and its heads.
//!
//! Owns: which family has which options. Never: what an option does (`block.rs` and its neighbours), other programs' names of
//! parameters (`interop`).

use crate::config::{Activation, Arch, HeadDropout, InitScheme, Layout, ModelConfig, NormPlace};

/// The options of a model: its family's, with what its configuration changes.
pub fn layout(config: &ModelConfig) -> Layout {
    family_layout(config.arch).with(&config.layout)
}

/// What most encoders have in common.
const ENCODER: Layout = Layout {
    norm: NormPlace::After,
    norm_eps: 1e-12,
    embedding_norm: true,
    final_norm: false,
    activation: Activation::Gelu,
    gated: false,
    bias: true,
    norm_bias: true,
    token_types: 2,
    position_offset: 0,
    rotary_theta: 10_000.0,
    local_rotary_theta: 10_000.0,
    window: 0,
    global_every: 0,
    first_norm: true,
    cls_first: true,
    pooler: Activation::Tanh,
    prediction_head: false,
    head_dropout: HeadDropout::After,
    head_bias: true,
    lm_transform: true,
    lm_bias: true,
    init: InitScheme::Normal,
};

/// What is left of that in a causal model whose classifier reads its last row.
const DECODER: Layout = Layout {
    norm: NormPlace::Before,
    norm_eps: 1e-5,
    embedding_norm: false,
    final_norm: true,
    activation: Activation::GeluTanh,
    token_types: 0,
    cls_first: false,
    head_dropout: HeadDropout::None,
    lm_transform: false,
    lm_bias: false,
    init: InitScheme::Shrunk,
    ..ENCODER
};

/// The options of a family.
pub fn family_layout(arch: Arch) -> Layout {
    match arch {
        // The model of the NAACL 2019 tutorial (Ruder, Peters, Swayamdipta, Wolf).
        Arch::Naacl2019 => Layout {
            norm: NormPlace::Stream,
            norm_eps: 1e-12,
            final_norm: false,
            activation: Activation::Relu,
            init: InitScheme::Xavier,
            ..DECODER
        },
        // Radford et al. 2019.
        Arch::Gpt2 => DECODER,
        // Devlin et al. 2019.
        Arch::Bert => ENCODER,
        // Liu et al. 2019. Its table of positions begins behind that of the padding token.
        Arch::Roberta => Layout {
            norm_eps: 1e-5,
            token_types: 1,
            position_offset: 2,
            head_dropout: HeadDropout::Around,
            ..ENCODER
        },
        // Sanh et al. 2019.
        Arch::Distilbert => Layout { token_types: 0, pooler: Activation::Relu, ..ENCODER },
        // Clark et al. 2020.
        Arch::Electra => Layout { pooler: Activation::Gelu, head_dropout: HeadDropout::Around, ..ENCODER },
        // Warner et al. 2024.
        Arch::Modernbert => Layout {
            norm: NormPlace::Before,
            norm_eps: 1e-5,
            final_norm: true,
            gated: true,
            bias: false,
            norm_bias: false,
            token_types: 0,
            rotary_theta: 160_000.0,
            window: 64,
            global_every: 3,
            first_norm: false,
            prediction_head: true,
            ..ENCODER
        },
    }
}
