//! One transformer block for all families: attention and feed-forward, each with its norm, its residual and its adapter.
//!
//! Owns: where the norms stand and the residuals leave, the places of dropout. Never: what a family is (`families.rs`).

use headstart_engine::ops::attention::KeyValueCache;
use headstart_engine::{Dropout, Tape, TokenOf, Value};

use crate::config::NormPlace;
use crate::model::attention::{Angles, SelfAttention};
use crate::model::feed_forward::FeedForward;
use crate::model::norm::Norm;
use crate::model::peft::{Adapter, Sublayer, Sum};
use crate::model::projection::Builder;
use crate::params::ParamTable;

/// Attention and feed-forward.
#[derive(Clone, Debug)]
pub(super) struct Block {
    attention: SelfAttention,
    around_attention: Around,
    feed_forward: FeedForward,
    around_feed_forward: Around,
}

/// What stands around a sublayer.
#[derive(Clone, Copy, Debug)]
struct Around {
    place: NormPlace,
    /// `None` where the layout leaves out the first block's.
    norm: Option<Norm>,
    /// On what the sublayer adds.
    dropout: Dropout,
    adapter: Option<Adapter>,
}

/// The first dropout site of a layer: site 0 is the embedding's, each block has three after it, the classifier those after
/// the last block.
pub(super) fn first_site(layer: usize) -> u32 {
    1 + 3 * layer as u32
}

impl Block {
    /// `layer` counts from 0.
    pub(super) fn new(build: &mut Builder<'_>, layer: usize) -> Self {
        let (config, place) = (build.config, build.layout.norm);
        let prefix = format!("transformer.layers.{layer}");
        build.layer = Some(layer);
        let drop = |p, place| Dropout { p, site: first_site(layer) + place };
        let has_norm = layer > 0 || build.layout.first_norm;
        let norm_1 = has_norm.then(|| Norm::new(build, &format!("{prefix}.norm_1")));
        let probabilities = drop(config.attention_dropout(), 0);
        let attention = SelfAttention::new(build, &format!("{prefix}.attention"), probabilities);
        let adapter = Adapter::new(build, &prefix, Sublayer::Attention);
        let around_attention = Around { place, norm: norm_1, dropout: drop(config.dropout, 1), adapter };
        let norm_2 = Some(Norm::new(build, &format!("{prefix}.norm_2")));
        let feed_forward = FeedForward::new(build, &format!("{prefix}.feed_forward"));
        let adapter = Adapter::new(build, &prefix, Sublayer::FeedForward);
        let around_feed_forward = Around { place, norm: norm_2, dropout: drop(config.dropout, 2), adapter };
        build.layer = None;
        Self { attention, around_attention, feed_forward, around_feed_forward }
    }

    /// With `only`, behind the attention there is one token of each sequence, and the tape is of these. `watch` is shown the queries, keys
    /// and values.
    pub(super) fn forward(
        &self,
        tape: &mut Tape<'_>,
        table: &ParamTable,
        h: &Value,
        angles: &Angles,
        cache: Option<&mut KeyValueCache>,
        only: Option<TokenOf>,
        watch: &mut dyn FnMut(&Value),
    ) -> Value {
        let attention = |tape: &mut Tape<'_>, x: &Value| {
            self.attention.forward(tape, table, x, angles, cache, only, watch)
        };
        let h = self.around_attention.forward(tape, table, h, only, attention);
        let feed_forward = |tape: &mut Tape<'_>, x: &Value| self.feed_forward.forward(tape, table, x);
        self.around_feed_forward.forward(tape, table, &h, None, feed_forward)
    }

    /// Makes the weights those of the block without updates and scales.
    pub(super) fn merge(&self, table: &ParamTable, weights: &mut [f32]) {
        self.attention.merge(table, weights);
        self.feed_forward.merge(table, weights);
    }
}

impl Around {
    /// The stream behind a sublayer. `sublayer` gives all of itself but its last linear, and that: dropout and residual
    /// run in its epilogue. With `only`, what it gives is of one token of each sequence.
    fn forward<'w>(
        &self,
        tape: &mut Tape<'w>,
        table: &ParamTable,
        h: &Value,
        only: Option<TokenOf>,
        sublayer: impl FnOnce(&mut Tape<'w>, &Value) -> (Value, Sum),
    ) -> Value {
        let (before, after) = match self.place {
            NormPlace::Before | NormPlace::Stream => (self.norm.as_ref(), None),
            NormPlace::After => (None, self.norm.as_ref()),
        };
        let normed = before.map(|norm| norm.forward(tape, table, h));
        let x = normed.as_ref().unwrap_or(h);
        let residual = if self.place == NormPlace::Stream { x } else { h };
        let rows = only.map(|token| tape.packing().rows_of(token));
        let (inner, mut last) = sublayer(tape, x);
        last.linear.dropout = Some(self.dropout);
        let kept = rows.map(|rows| [x, residual].map(|all| tape.select_rows(all, &rows)));
        let [x, residual] = kept.as_ref().map_or([x, residual], |[x, residual]| [x, residual]);
        let sum = match &self.adapter {
            Some(adapter) => adapter.around(tape, table, [x, &inner], last, residual, after),
            None => last.apply(tape, &inner, &[residual]),
        };
        match after {
            Some(norm) => norm.forward(tape, table, &sum),
            None => sum,
        }
    }
}
