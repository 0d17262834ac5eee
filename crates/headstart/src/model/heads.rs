//! The heads above the trunk: the language model's, tied to the token embedding, and the classifier's.

use headstart_engine::ops::dropout::DropoutRows;
use headstart_engine::ops::linear::{Activation, Addend, Linear};
use headstart_engine::ops::pool::Pooling;
use headstart_engine::{Dropout, LossSum, Tape, Tensor, TokenOf, Value, View};

use crate::config::{HeadDropout, HeadPooling};
use crate::model::Model;
use crate::model::block::first_site;
use crate::model::feed_forward::activation;
use crate::model::layer_mix::LayerMix;
use crate::model::norm::Norm;
use crate::model::projection::{Builder, Projection};
use crate::params::{Kind, ParamId, ParamTable};

/// A linear, an activation and, where there is one, a norm.
#[derive(Clone, Copy, Debug)]
struct Transform {
    dense: Projection,
    activation: Activation,
    norm: Option<Norm>,
}

impl Transform {
    fn forward(&self, tape: &mut Tape<'_>, table: &ParamTable, x: &Value) -> Value {
        // What a norm reads is f32.
        let dense = Linear {
            activation: self.activation,
            f32_output: self.norm.is_some(),
            ..self.dense.linear(tape, table)
        };
        let y = tape.linear(x, dense, &[]);
        match &self.norm {
            Some(norm) => norm.forward(tape, table, &y),
            None => y,
        }
    }
}

/// What the language model's head has beside the token embedding: a transform of the hidden states, a bias of the logits.
#[derive(Clone, Copy, Debug)]
pub(super) struct LmHead {
    transform: Option<Transform>,
    bias: Option<ParamId>,
}

impl LmHead {
    pub(super) fn new(build: &mut Builder<'_>) -> Self {
        let (config, layout) = (build.config, build.layout);
        let transform = layout.lm_transform.then(|| {
            let width = config.embedding_size();
            let dense = build.block_linear("lm_head.dense", width, config.embed_dim, Kind::LmHead);
            let norm = Some(Norm::of_width(build, "lm_head.norm", width, Kind::LmHead));
            Transform { dense, activation: activation(layout.activation), norm }
        });
        let bias = layout.lm_bias.then(|| build.bias("lm_head", config.vocab_size, Kind::LmHead));
        Self { transform, bias }
    }
}

/// A linear over one row for each sequence, which a pooler or a prediction head may make another of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Classifier {
    pooling: HeadPooling,
    /// On the pooled row below the pooler.
    dropout_below: Option<Dropout>,
    transform: Option<Transform>,
    /// On what the linear reads.
    dropout: Option<Dropout>,
    /// The last one, or that of the hidden layer.
    linear: Projection,
    /// What else is read, each with the columns of the linear that read it.
    beside: [Option<Beside>; 2],
    hidden: Option<Hidden>,
    /// What the poolings are of, where that is not the last layer.
    pub(super) mix: Option<LayerMix>,
}

/// What makes a classifier's linear a hidden layer.
#[derive(Clone, Copy, Debug)]
struct Hidden {
    activation: Activation,
    dropout: Option<Dropout>,
    last: Projection,
}

/// A row beside the first one that a classifier reads.
#[derive(Clone, Copy, Debug)]
struct Beside {
    pooling: HeadPooling,
    dropout: Option<Dropout>,
    linear: Projection,
}

impl Classifier {
    /// `None` for a model without a head.
    pub(super) fn new(build: &mut Builder<'_>) -> Option<Self> {
        let (config, layout) = (build.config, build.layout);
        let head = config.head.as_ref()?;
        let (width, kind) = (config.embed_dim, Kind::Head);
        let has_dense = layout.prediction_head || head.pooling == HeadPooling::Pooler;
        let transform = has_dense.then(|| {
            let dense = build.block_linear("classification_head.dense", width, width, kind);
            let name = if layout.prediction_head { layout.activation } else { layout.pooler };
            let norm = layout
                .prediction_head
                .then(|| Norm::of_width(build, "classification_head.norm", width, kind));
            Transform { dense, activation: activation(name), norm }
        });
        let mix = LayerMix::new(build);
        let shape = config.head_shape.hidden;
        let (prefix, outputs) = match shape {
            Some(hidden) => ("classification_head.hidden", hidden.width),
            None => ("classification_head", head.num_classes),
        };
        let linear = if layout.head_bias || shape.is_some() {
            build.linear(prefix, outputs, width, kind)
        } else {
            build.linear_without_bias(prefix, outputs, width, kind)
        };
        let p = head.dropout.unwrap_or(config.dropout);
        let drop = |place| Some(Dropout { p, site: first_site(config.num_layers) + place });
        let dropout_below =
            if has_dense && layout.head_dropout == HeadDropout::Around { drop(0) } else { None };
        let drops = layout.head_dropout != HeadDropout::None;
        let dropout = if drops { drop(1) } else { None };
        let (first, others) = head.pooling.parts().split_first()?;
        let mut beside = [None, None];
        for (at, (pooling, place)) in others.iter().zip(&mut beside).enumerate() {
            let linear =
                build.linear_without_bias(&format!("{prefix}.{}", pooling.name()), outputs, width, kind);
            let dropout = if drops { drop(2 + at as u32) } else { None };
            *place = Some(Beside { pooling: *pooling, dropout, linear });
        }
        let hidden = shape.map(|hidden| Hidden {
            activation: activation(hidden.activation),
            dropout: if drops { drop(4) } else { None },
            last: build.linear("classification_head", head.num_classes, hidden.width, kind),
        });
        Some(Self { pooling: *first, dropout_below, transform, dropout, linear, beside, hidden, mix })
    }
}

/// Which of a student's linears toward its teacher.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Toward {
    /// The one from the hidden states after this layer of its own, from 1.
    Layer(usize),
    /// The one from vectors of whole inputs.
    Sentences,
}

/// A student's linears to its teacher's hidden states.
#[derive(Clone, Debug, Default)]
pub(super) struct TowardTeacher {
    /// With the layer, from 1, that each reads.
    tokens: Vec<(usize, Projection)>,
    sentences: Option<Projection>,
}

impl TowardTeacher {
    pub(super) fn new(build: &mut Builder<'_>) -> Self {
        let Some(heads) = &build.config.teacher_heads else { return Self::default() };
        let width = build.config.embed_dim;
        let mut linear = |name: &str| build.linear(name, heads.width, width, Kind::Head);
        let tokens =
            heads.layers.iter().map(|&layer| (layer, linear(&format!("teacher_heads.{layer}")))).collect();
        let sentences = heads.sentences.then(|| linear("teacher_heads.sentences"));
        Self { tokens, sentences }
    }

    fn linear(&self, toward: Toward) -> Option<&Projection> {
        match toward {
            Toward::Layer(layer) => self.tokens.iter().find(|(at, _)| *at == layer).map(|(_, linear)| linear),
            Toward::Sentences => self.sentences.as_ref(),
        }
    }
}

impl Model {
    /// A student's rendering `[R, T]` of its teacher's vectors, from its own `[R, C]`; `None` where these are not compared.
    pub fn toward_teacher(&self, tape: &mut Tape<'_>, x: &Value, toward: Toward) -> Option<Value> {
        let linear = self.toward_teacher.linear(toward)?;
        let linear = Linear { f32_output: true, ..linear.linear(tape, &self.table) };
        Some(tape.linear(x, linear, &[]))
    }

    /// Where such a linear's weight `[T, C]` and bias lie.
    pub fn linear_toward(&self, toward: Toward) -> Option<(View, View)> {
        let linear = self.toward_teacher.linear(toward)?;
        Some((linear.weight(&self.table), linear.bias(&self.table)?))
    }

    /// The summed LM loss of `rows` of the hidden states against `targets`; its gradient is scaled by `scale`.
    ///
    /// # Panics
    /// For a model that [`Model::check_lm_head`] refuses.
    pub fn lm_loss(
        &self,
        tape: &mut Tape<'_>,
        hidden: &Value,
        rows: &[u32],
        targets: &[u32],
        scale: f32,
    ) -> LossSum {
        let view = |id| self.table.view(id, tape.step());
        let (weight, bias) = (view(self.embeddings.tokens()), self.lm_head.bias.map(view));
        let Some(transform) = &self.lm_head.transform else {
            return tape.linear_cross_entropy(hidden, rows, targets, weight, bias, scale);
        };
        let picked = tape.select_rows_padded(hidden, rows);
        let transformed = transform.forward(tape, &self.table, &picked);
        let all: Vec<u32> = (0..rows.len() as u32).collect();
        tape.linear_cross_entropy(&transformed, &all, targets, weight, bias, scale)
    }

    /// LM logits `[R, V]` of some rows, for generation.
    ///
    /// # Panics
    /// As [`Model::lm_loss`].
    pub fn lm_logits(&self, tape: &mut Tape<'_>, hidden: &Value, rows: &[u32]) -> Tensor {
        let mut x = tape.select_rows(hidden, rows);
        if let Some(transform) = &self.lm_head.transform {
            x = transform.forward(tape, &self.table, &x);
        }
        let view = |id| self.table.view(id, tape.step());
        let (weight, bias) = (view(self.embeddings.tokens()), self.lm_head.bias.map(view));
        let linear = Linear { f32_output: true, ..Linear::new(weight, bias) };
        tape.linear(&x, linear, &[]).tensor().clone()
    }

    /// Classification logits `[B, K]`, one row per packed sequence, of what [`Model::trunk_for_head`] says that a classifier reads; `None`
    /// for a model without a head.
    pub fn classify(&self, tape: &mut Tape<'_>, hidden: &Value) -> Option<Value> {
        let head = self.classifier?;
        let mut x = self.first_row(tape, hidden, &head);
        if let Some(dropout) = head.dropout {
            x = tape.dropout(&x, dropout, DropoutRows::Sequences);
        }
        let mut beside: Vec<Value> = Vec::new();
        for Beside { pooling, dropout, linear } in head.beside.iter().flatten() {
            let mut x = self.pooled(tape, hidden, *pooling);
            if let Some(dropout) = dropout {
                x = tape.dropout(&x, *dropout, DropoutRows::Sequences);
            }
            let linear = Linear { f32_output: true, ..linear.linear(tape, &self.table) };
            let addends: Vec<&Value> = beside.iter().collect();
            beside = vec![tape.linear(&x, linear, &addends)];
        }
        let linear = Linear { f32_output: true, ..head.linear.linear(tape, &self.table) };
        let beside: Vec<&Value> = beside.iter().collect();
        let Some(Hidden { activation, dropout, last }) = head.hidden else {
            return Some(tape.linear(&x, linear, &beside));
        };
        // Before the activation, so that it is one linear over all rows side by side.
        let addends: Vec<Addend<'_>> = beside.into_iter().map(|value| Addend { value, first: 0 }).collect();
        let mut x = tape.linear_with(&x, Linear { activation, f32_output: false, ..linear }, &addends, &[]);
        if let Some(dropout) = dropout {
            x = tape.dropout(&x, dropout, DropoutRows::Sequences);
        }
        let last = Linear { f32_output: true, ..last.linear(tape, &self.table) };
        Some(tape.linear(&x, last, &[]))
    }

    /// What the classifier's last linear reads, `[B, C]` for each of the poolings that stand side by side; empty for a model without a
    /// head. What is dropped before the last linear is dropped behind them.
    pub fn classified_rows(&self, tape: &mut Tape<'_>, hidden: &Value) -> Vec<Value> {
        let Some(head) = self.classifier else { return Vec::new() };
        let mut rows = vec![self.first_row(tape, hidden, &head)];
        rows.extend(head.beside.iter().flatten().map(|beside| self.pooled(tape, hidden, beside.pooling)));
        rows
    }

    /// The classifier's last linear: its weights `[K, C]`, one for each of [`Self::classified_rows`], and its bias; `None` for a model
    /// without a head, or where a hidden layer stands below it.
    pub fn last_linear(&self) -> Option<(Vec<View>, Option<View>)> {
        let head = self.classifier.filter(|head| head.hidden.is_none())?;
        let beside = head.beside.iter().flatten().map(|beside| beside.linear.weight(&self.table));
        let weights = std::iter::once(head.linear.weight(&self.table)).chain(beside).collect();
        Some((weights, head.linear.bias(&self.table)))
    }

    /// The first row that the classifier's last linear reads, before its dropout.
    fn first_row(&self, tape: &mut Tape<'_>, hidden: &Value, head: &Classifier) -> Value {
        let mut x = self.pooled(tape, hidden, head.pooling);
        if let Some(dropout) = head.dropout_below {
            x = tape.dropout(&x, dropout, DropoutRows::Sequences);
        }
        if let Some(transform) = &head.transform {
            x = transform.forward(tape, &self.table, &x);
        }
        x
    }

    /// A row `[B, C]` of each sequence: what a classifier reads before any linear, and what features are made of.
    /// Of several poolings the first.
    pub fn pooled(&self, tape: &mut Tape<'_>, hidden: &Value, pooling: HeadPooling) -> Value {
        match self.token_of(pooling) {
            Some(token) => tape.select_rows(hidden, &tape.packing().rows_of(token)),
            None if pooling.parts()[0] == HeadPooling::Max => tape.pool(hidden, Pooling::Max),
            None => tape.pool(hidden, Pooling::Mean),
        }
    }

    /// The one token of each sequence that a pooling, of several the first, looks at; `None` where it looks at all.
    pub(super) fn token_of(&self, pooling: HeadPooling) -> Option<TokenOf> {
        match pooling.parts()[0] {
            HeadPooling::Mean | HeadPooling::Max => None,
            HeadPooling::Cls | HeadPooling::Pooler if self.layout.cls_first => Some(TokenOf::Start),
            _ => Some(TokenOf::End),
        }
    }

    /// The one token of each sequence that the classifier looks at; `None` where it looks at several, or at several layers, or there is none.
    pub(crate) fn classified_token(&self) -> Option<TokenOf> {
        let head = self.classifier.filter(|head| head.mix.is_none())?;
        let token = self.token_of(head.pooling)?;
        let others = head.beside.iter().flatten();
        others.map(|beside| self.token_of(beside.pooling)).all(|other| other == Some(token)).then_some(token)
    }
}
