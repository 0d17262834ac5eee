//! How many floating-point operations a forward pass takes.
//!
//! A multiplication and an addition count as two operations, those of matmuls alone: softmax, norms and activations
//! count as none.

use crate::model::Model;
use crate::params::{Kind, Param};

impl Model {
    /// The operations of one forward pass over sequences of these lengths, of which `predicted` tokens are scored by the
    /// LM head: every linear the table has, and attention as far as it is visible.
    pub fn forward_flops(&self, lengths: impl IntoIterator<Item = usize>, predicted: usize) -> f64 {
        let (config, params) = (&self.config, self.table.params());
        // A linear's operations for one row of its input.
        let linears = |is: fn(Kind) -> bool| {
            let weights = params.iter().filter(|param| param.shape.len() == 2 && is(param.kind));
            2.0 * weights.map(Param::len).sum::<usize>() as f64
        };
        let (mut tokens, mut sequences, mut scores) = (0.0, 0.0, 0.0);
        for length in lengths {
            sequences += 1.0;
            tokens += length as f64;
            scores += self.visible_pairs(length);
        }
        let attention = 4.0 * config.embed_dim as f64 * scores;
        let of_tokens = linears(of_every_token) * tokens;
        let of_predicted =
            linears(|kind| matches!(kind, Kind::TokenEmbedding | Kind::LmHead)) * predicted as f64;
        of_tokens + attention + of_predicted + linears(|kind| kind == Kind::Head) * sequences
    }

    /// How many keys the queries of a sequence see, over all layers.
    fn visible_pairs(&self, length: usize) -> f64 {
        let of_layer = |layer| {
            // A query sees itself and up to `window` others on a side.
            let window = self.layout.window_of(layer).unwrap_or(length).min(length.saturating_sub(1));
            let (length, window) = (length as f64, window as f64);
            let on_a_side = window * length - window * (window + 1.0) / 2.0;
            length + on_a_side * if self.config.causal { 1.0 } else { 2.0 }
        };
        (0..self.config.num_layers).map(of_layer).sum()
    }
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
