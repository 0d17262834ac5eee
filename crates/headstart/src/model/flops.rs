//! How many floating-point operations a forward pass takes.
//!
//! A multiplication and an addition count as two operations, those of matmuls alone: softmax, norms and activations
//! count as none.

use headstart_engine::TokenOf;

use crate::model::Model;
use crate::params::{Kind, Param};

impl Model {
    /// The operations of one forward pass over sequences of these lengths, of which `predicted` tokens are scored by the
    /// LM head: every linear the table has, and attention as far as it is visible. Where none is scored, as
    /// [`Model::trunk_for_classifier`] does it.
    pub fn forward_flops(&self, lengths: impl IntoIterator<Item = usize>, predicted: usize) -> f64 {
        let (config, params) = (&self.config, self.table.params());
        let only = self.classified_token().filter(|_| predicted == 0);
        let behind = |param: &Param| {
            only.is_some() && param.layer == Some(config.num_layers - 1) && !makes_heads(&param.name)
        };
        // The operations for one row of the linears' inputs.
        let linears = |is: &dyn Fn(&Param) -> bool| {
            let weights = params.iter().filter(|param| param.shape.len() == 2 && is(param));
            2.0 * weights.map(Param::len).sum::<usize>() as f64
        };
        let (mut tokens, mut sequences, mut scores) = (0.0, 0.0, 0.0);
        for length in lengths {
            sequences += 1.0;
            tokens += length as f64;
            let layers = config.num_layers - usize::from(only.is_some());
            scores += (0..layers).map(|layer| self.visible_pairs(layer, length)).sum::<f64>();
            scores += only.map_or(0.0, |token| self.visible_keys(layers, length, token));
        }
        let attention = 4.0 * config.embed_dim as f64 * scores;
        let of_tokens = linears(&|param| of_every_token(param.kind) && !behind(param)) * tokens;
        let of_predicted = linears(&|param| matches!(param.kind, Kind::TokenEmbedding | Kind::LmHead));
        let of_sequences = linears(&|param| param.kind == Kind::Head || behind(param));
        of_tokens + attention + of_predicted * predicted as f64 + of_sequences * sequences
    }

    /// How many keys the queries of a sequence see in a layer.
    fn visible_pairs(&self, layer: usize, length: usize) -> f64 {
        // A query sees itself and up to `window` others on a side.
        let window = self.layout.window_of(layer).unwrap_or(length).min(length.saturating_sub(1));
        let (length, window) = (length as f64, window as f64);
        let on_a_side = window * length - window * (window + 1.0) / 2.0;
        length + on_a_side * if self.config.causal { 1.0 } else { 2.0 }
    }

    /// How many keys one query of a sequence sees in a layer.
    fn visible_keys(&self, layer: usize, length: usize, token: TokenOf) -> f64 {
        let first_of_causal = self.config.causal && token == TokenOf::Start;
        let window = self.layout.window_of(layer).map_or(length, |window| window + 1);
        if first_of_causal { 1.0 } else { window.min(length) as f64 }
    }
}

/// Whether a parameter of a block is of what its attention reads: all tokens', whoever attends.
fn makes_heads(name: &str) -> bool {
    [".in_proj.", ".q.", ".k.", ".v."].iter().any(|part| name.contains(&format!(".attention{part}")))
}

/// Whether a kind's weights are multiplied with the hidden state of every token.
fn of_every_token(kind: Kind) -> bool {
    match kind {
        Kind::EmbeddingProjection
        | Kind::AttentionIn
        | Kind::AttentionOut
        | Kind::FeedForwardUp
        | Kind::FeedForwardDown
        | Kind::Adapter
        | Kind::Lora => true,
        Kind::TokenEmbedding
        | Kind::PositionEmbedding
        | Kind::TokenTypeEmbedding
        | Kind::TokenOffset
        | Kind::Norm
        | Kind::Ia3
        | Kind::LmHead
        | Kind::Head => false,
    }
}
