//! THE parameter table: every parameter's name, shape, start, layer and kind, and its place in the flat buffers.
//!
//! Owns: the order of parameters, the initial values, what trains in which phase. Never: computes with them.
//!
//! Weights lie in table order. Gradients (and moments) lie in the order of the parameters that will *ever* train;
//! which of them train *now* is a function of the optimizer step, their phase. A tied parameter has one accumulator, to
//! which its uses add in the order in which the tape runs.

use headstart_engine::{View, rng};
use rayon::prelude::*;

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All the same.
    Constant(f32),
    /// Normal with mean 0 and this standard deviation.
    Normal(f32),
    /// Uniform within sqrt(6 / (rows + columns)) of 0 (Glorot and Bengio 2010).
    XavierUniform,
    /// Uniform within 1 / sqrt(columns) of 0: how PyTorch starts a linear, He et al. 2015 with a = sqrt(5).
    KaimingUniform,
    /// sin(p / 10000^(2i / C)) in even columns, the cosine in odd ones (Vaswani et al. 2017).
    Sinusoidal,
}

/// What a parameter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The token embedding, which is the LM head, too.
    TokenEmbedding,
    /// The position embedding.
    PositionEmbedding,
    /// The embedding of token types.
    TokenTypeEmbedding,
    /// What widens the embeddings.
    EmbeddingProjection,
    /// What is added to one token's embedding.
    TokenOffset,
    /// Attention's packed in-projection: the rows of q, k and v.
    AttentionIn,
    /// Attention's out-projection.
    AttentionOut,
    /// The first linear of the feed-forward.
    FeedForwardUp,
    /// The second linear of the feed-forward.
    FeedForwardDown,
    /// A layer norm.
    Norm,
    /// An adapter.
    Adapter,
    /// A low-rank update of a linear.
    Lora,
    /// A scale of activations.
    Ia3,
    /// What the language model's head has beside the token embedding.
    LmHead,
    /// The classification head.
    Head,
}

/// Which of its kind's parameters it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Multiplied with, or looked up.
    Weight,
    /// Added.
    Bias,
}

/// One parameter. What trains, when and how fast, is a function of its layer, kind and role.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// Its name in checkpoints.
    pub name: String,
    /// One or two dimensions.
    pub shape: Vec<usize>,
    /// Where it starts.
    pub init: Init,
    /// The block it is in, from 0; `None` below and above the blocks.
    pub layer: Option<usize>,
    /// What it is for.
    pub kind: Kind,
    /// Weight or bias.
    pub role: Role,
    /// First element in the flat weights.
    pub offset: usize,
    /// First element in the flat gradients and moments; `None` if it never trains.
    pub grad: Option<usize>,
}

impl Param {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether AdamW decays it: matrices, not biases, norms and offsets.
    pub fn decays(&self) -> bool {
        self.shape.len() > 1 && !matches!(self.kind, Kind::Norm | Kind::TokenOffset)
    }

    /// Whether it is computed rather than learned, and no method trains it: sinusoidal positions.
    pub fn is_fixed(&self) -> bool {
        self.init == Init::Sinusoidal
    }
}

/// A parameter's index in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParamId(usize);

/// A span of optimizer steps, up to the next phase, through which every parameter's rate has the same factor.
#[derive(Clone, Debug, PartialEq)]
struct Phase {
    /// Its first optimizer step.
    from: u64,
    /// In table order; 0: frozen.
    factors: Vec<f64>,
}

/// All parameters of a model, in checkpoint order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ParamTable {
    params: Vec<Param>,
    len: usize,
    trainable_len: usize,
    /// In the order of their steps; none: everything with a gradient trains throughout, at the run's rate.
    phases: Vec<Phase>,
}

impl ParamTable {
    /// Adds a parameter; call [`ParamTable::freeze_except`] when all are in.
    pub fn add(
        &mut self,
        name: impl Into<String>,
        shape: &[usize],
        init: Init,
        layer: Option<usize>,
        kind: Kind,
        role: Role,
    ) -> ParamId {
        let (name, shape, offset) = (name.into(), shape.to_vec(), self.len);
        let param = Param { name, shape, init, layer, kind, role, offset, grad: None };
        self.len += param.len();
        self.params.push(param);
        ParamId(self.params.len() - 1)
    }

    /// Which parameters will ever train: lays out their gradients and moments. The others are frozen for good. All that
    /// train do so throughout, until [`ParamTable::set_phases`] says more.
    pub fn freeze_except(&mut self, trains: impl Fn(&Param) -> bool) {
        let mut end = 0;
        for param in &mut self.params {
            let on = !param.is_fixed() && trains(param);
            param.grad = on.then_some(end);
            end += if on { param.len() } else { 0 };
        }
        self.trainable_len = end;
        self.phases.clear();
    }

    /// When and how fast parameters train: from each of the optimizer steps `starts` on, a parameter's rate is the run's
    /// times `factor(parameter, start)`, where 0 means that it is frozen: nothing is recorded or computed for it, and its
    /// weights and moments stay as they are.
    ///
    /// # Panics
    /// When the first start is not 1, the starts do not ascend, or a factor is negative or not finite.
    pub fn set_phases(&mut self, starts: &[u64], factor: impl Fn(&Param, u64) -> f64) {
        assert!(starts.first() == Some(&1) && starts.is_sorted_by(|a, b| a < b), "phases from {starts:?}");
        let phase = |&from: &u64| {
            let of = |param: &Param| if param.grad.is_some() { factor(param, from) } else { 0.0 };
            let factors: Vec<f64> = self.params.iter().map(of).collect();
            assert!(
                factors.iter().all(|f| f.is_finite() && *f >= 0.0),
                "factors of the rate from step {from}"
            );
            Phase { from, factors }
        };
        self.phases = starts.iter().map(phase).collect();
    }

    /// The first steps of all phases; of the only one, where nothing else was said.
    pub fn phase_starts(&self) -> Vec<u64> {
        if self.phases.is_empty() { vec![1] } else { self.phases.iter().map(|phase| phase.from).collect() }
    }

    /// The number of the phase, from 0, that an optimizer step belongs to.
    pub fn phase_of(&self, step: u64) -> usize {
        self.phases.partition_point(|phase| phase.from <= step).saturating_sub(1)
    }

    /// The factor on the rate of the `index`-th parameter in a phase; 0 while it is frozen.
    pub fn factor(&self, index: usize, phase: usize) -> f64 {
        let trains = if self.params[index].grad.is_some() { 1.0 } else { 0.0 };
        self.phases.get(phase).map_or(trains, |phase| phase.factors[index])
    }

    /// Where the gradients of the parameters from a layer on begin: those of layers below lie before it.
    pub fn first_grad_of(&self, layer: usize) -> usize {
        let from = self.params.iter().position(|param| param.layer == Some(layer)).unwrap_or_default();
        self.params[from..].iter().find_map(|param| param.grad).unwrap_or(self.trainable_len)
    }

    /// Where the weights of each parameter lie, in a buffer that holds those of other models, too: for inference alone, for the
    /// gradients stay where they are and the weights are no longer in table order.
    pub(crate) fn place(&mut self, offset: impl Fn(&Param) -> usize) {
        for param in &mut self.params {
            param.offset = offset(param);
        }
    }

    /// All parameters.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// Number of elements of all parameters.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.params.is_empty()
    }

    /// Number of elements that train: the length of the gradients and of the moments.
    pub fn trainable_len(&self) -> usize {
        self.trainable_len
    }

    /// The matrix (or one-row vector) of a parameter, for the engine, at an optimizer step: without a gradient while it
    /// is frozen. Without a step, as evaluation has none, it has the gradient it trains with.
    pub fn view(&self, id: ParamId, step: Option<u64>) -> View {
        let param = &self.params[id.0];
        let (rows, cols) = match param.shape[..] {
            [cols] => (1, cols),
            [rows, cols] => (rows, cols),
            _ => unreachable!("parameters have one or two dimensions"),
        };
        let frozen = step.is_some_and(|step| self.factor(id.0, self.phase_of(step)) <= 0.0);
        View { offset: param.offset, rows, cols, grad: param.grad.filter(|_| !frozen) }
    }

    /// The initial weights of a seed: every parameter draws from a stream named by its own name, so adding a
    /// head or adapters changes nothing else.
    pub fn initial_values(&self, seed: u64) -> Vec<f32> {
        let mut values = vec![0.0; self.len];
        self.initialise(seed, &mut values, |_| true);
        values
    }

    /// Puts [`ParamTable::initial_values`] into `values`, for those parameters that are `wanted`.
    pub(crate) fn initialise(&self, seed: u64, values: &mut [f32], wanted: impl Fn(&Param) -> bool) {
        for param in self.params.iter().filter(|param| wanted(param)) {
            initialise(param, seed, &mut values[param.offset..param.offset + param.len()]);
        }
    }
}

/// Fills a parameter on all threads. A number's draws follow from its place, so the cut cannot matter.
fn initialise(param: &Param, seed: u64, values: &mut [f32]) {
    const PART: usize = 1 << 14;
    let key = param.name.bytes().fold(rng::derive(seed, 1), |key, b| rng::derive(key, u64::from(b)));
    let cols = param.shape[param.shape.len() - 1];
    values.par_chunks_mut(PART).enumerate().for_each(|(part, values)| {
        let first = part * PART;
        match param.init {
            Init::Constant(value) => values.fill(value),
            Init::Normal(deviation) => {
                let mut stream = rng::Stream::after(key, 2 * first as u64);
                for v in values {
                    *v = (stream.normal() * f64::from(deviation)) as f32;
                }
            }
            Init::XavierUniform | Init::KaimingUniform => {
                let mut stream = rng::Stream::after(key, first as u64);
                let glorot = param.init == Init::XavierUniform;
                let (of, among) = if glorot { (6.0, param.shape.iter().sum::<usize>()) } else { (1.0, cols) };
                let bound = (of / (among as f64)).sqrt();
                for v in values {
                    *v = ((stream.uniform() * 2.0 - 1.0) * bound) as f32;
                }
            }
            Init::Sinusoidal => {
                for (i, value) in values.iter_mut().enumerate() {
                    let (position, column) = ((first + i) / cols, (first + i) % cols);
                    let pair = (column / 2 * 2) as f64 / cols as f64;
                    let angle = position as f64 / 10_000_f64.powf(pair);
                    *value = if column % 2 == 0 { angle.sin() } else { angle.cos() } as f32;
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tied matrix, a norm, a fixed table and a bias of a head.
    fn table() -> (ParamTable, ParamId) {
        let mut table = ParamTable::default();
        let tied = add(&mut table, "tied", &[3, 2], Init::Normal(0.5), Kind::TokenEmbedding);
        add(&mut table, "norm", &[2], Init::Constant(1.0), Kind::Norm);
        add(&mut table, "positions", &[4, 2], Init::Sinusoidal, Kind::PositionEmbedding);
        add(&mut table, "head", &[5], Init::Constant(0.0), Kind::Head);
        (table, tied)
    }

    fn add(table: &mut ParamTable, name: &str, shape: &[usize], init: Init, kind: Kind) -> ParamId {
        table.add(name, shape, init, None, kind, Role::Weight)
    }

    fn grads(table: &ParamTable) -> Vec<Option<usize>> {
        table.params().iter().map(|p| p.grad).collect()
    }

    #[test]
    fn weights_and_gradients_lie_back_to_back() {
        let (mut table, tied) = table();
        table.freeze_except(|_| true);
        let offsets: Vec<usize> = table.params().iter().map(|p| p.offset).collect();
        assert_eq!((offsets, table.len()), (vec![0, 6, 8, 16], 21));
        assert_eq!(grads(&table), [Some(0), Some(6), None, Some(8)], "fixed tables never train");
        assert_eq!(table.trainable_len(), 13);
        assert_eq!(table.view(tied, None), View { offset: 0, rows: 3, cols: 2, grad: Some(0) });
        let decays: Vec<bool> = table.params().iter().map(Param::decays).collect();
        assert_eq!(decays, [true, false, true, false]);
    }

    #[test]
    fn frozen_parameters_have_no_gradient() {
        let (mut table, tied) = table();
        table.freeze_except(|param| param.kind == Kind::Head);
        assert_eq!(grads(&table), [None, None, None, Some(0)]);
        assert_eq!((table.trainable_len(), table.len()), (5, 21));
        assert_eq!(table.view(tied, None).grad, None);
        table.freeze_except(|param| param.kind != Kind::Head);
        assert_eq!(grads(&table), [Some(0), Some(6), None, None], "freezing can be changed");
        assert_eq!(table.trainable_len(), 8);
    }

    #[test]
    #[allow(clippy::float_cmp)] // handed on, not computed
    fn phases_freeze_and_scale_by_step() {
        let (mut table, tied) = table();
        table.freeze_except(|param| param.kind != Kind::Norm);
        assert_eq!((table.phase_starts(), table.phase_of(1), table.phase_of(9)), (vec![1], 0, 0));
        assert_eq!([0, 1, 2, 3].map(|i| table.factor(i, 0)), [1.0, 0.0, 0.0, 1.0], "laid out or not");
        // The head alone, then everything, the embedding at a tenth.
        table.set_phases(&[1, 5], |param, from| match (param.kind, from) {
            (Kind::Head, _) => 1.0,
            (_, 1) => 0.0,
            _ => 0.1,
        });
        assert_eq!([1, 4, 5, 100].map(|step| table.phase_of(step)), [0, 0, 1, 1]);
        assert_eq!([0, 1, 2, 3].map(|i| table.factor(i, 0)), [0.0, 0.0, 0.0, 1.0]);
        assert_eq!(
            [0, 1, 2, 3].map(|i| table.factor(i, 1)),
            [0.1, 0.0, 0.0, 1.0],
            "what never trains has no rate"
        );
        assert_eq!(
            [Some(4), Some(5), None].map(|step| table.view(tied, step).grad),
            [None, Some(0), Some(0)]
        );
        assert_eq!(table.trainable_len(), 11, "the layout is that of what will ever train");
        table.freeze_except(|_| true);
        assert_eq!(table.view(tied, Some(1)).grad, Some(0), "a new layout forgets the phases");
    }

    #[test]
    #[should_panic(expected = "phases from [2, 5]")]
    fn phases_begin_with_the_run() {
        table().0.set_phases(&[2, 5], |_, _| 1.0);
    }

    #[test]
    fn starts_have_their_distributions() {
        let mut table = ParamTable::default();
        add(&mut table, "normal", &[300, 100], Init::Normal(0.02), Kind::FeedForwardUp);
        add(&mut table, "uniform", &[300, 100], Init::XavierUniform, Kind::FeedForwardUp);
        let values = table.initial_values(1);
        let (normal, uniform) = values.split_at(30_000);
        let moments = |x: &[f32]| {
            let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / x.len() as f64;
            (mean, (x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / x.len() as f64).sqrt())
        };
        let (mean, deviation) = moments(normal);
        assert!(mean.abs() < 5e-4 && (deviation / 0.02 - 1.0).abs() < 0.02, "{mean} {deviation}");
        let beyond = normal.iter().filter(|x| x.abs() > 0.04).count() as f64 / 30_000.0;
        assert!((beyond - 0.0455).abs() < 0.006, "{beyond} of a normal lie beyond two deviations");
        let bound = (6.0_f64 / 400.0).sqrt();
        let (mean, deviation) = moments(uniform);
        assert!(mean.abs() < 3e-3 && (deviation * 3.0_f64.sqrt() / bound - 1.0).abs() < 0.02);
        let largest = uniform.iter().fold(0.0_f32, |most, x| x.abs().max(most));
        assert!(f64::from(largest) <= bound && f64::from(largest) > 0.999 * bound);
    }

    #[test]
    fn a_start_is_one_stream_of_draws_whatever_the_threads() {
        let mut table = ParamTable::default();
        add(&mut table, "normal", &[301, 100], Init::Normal(0.5), Kind::FeedForwardUp);
        add(&mut table, "uniform", &[290, 100], Init::XavierUniform, Kind::FeedForwardUp);
        let values = table.initial_values(3);
        let (normal, uniform) = values.split_at(30_100);
        let stream = |name: &str| {
            rng::Stream::new(name.bytes().fold(rng::derive(3, 1), |key, b| rng::derive(key, u64::from(b))))
        };
        let mut draws = stream("normal");
        assert!(normal.iter().all(|&v| v.to_bits() == ((draws.normal() * 0.5) as f32).to_bits()));
        let (mut draws, bound) = (stream("uniform"), (6.0_f64 / 390.0).sqrt());
        let draw = |draws: &mut rng::Stream| ((draws.uniform() * 2.0 - 1.0) * bound) as f32;
        assert!(uniform.iter().all(|&v| v.to_bits() == draw(&mut draws).to_bits()));
        let mut one = vec![0.0; table.len()];
        table.initialise(3, &mut one, |param| param.name == "uniform");
        assert!(one[..30_100].iter().all(|&v| v == 0.0) && one[30_100..] == *uniform);
    }

    #[test]
    fn sinusoids_alternate_by_column() {
        let mut table = ParamTable::default();
        add(&mut table, "positions", &[3, 4], Init::Sinusoidal, Kind::FeedForwardUp);
        let slow = 0.02_f32; // position 2 over 10000^(2/4)
        let row = [2.0_f32.sin(), 2.0_f32.cos(), slow.sin(), slow.cos()];
        let values = table.initial_values(1);
        assert_eq!(values[..4], [0.0, 1.0, 0.0, 1.0]);
        assert!(values[8..].iter().zip(row).all(|(a, b)| (a - b).abs() < 1e-7));
    }

    #[test]
    fn a_start_depends_on_seed_and_name_alone() {
        let (first, _) = table();
        let mut second = ParamTable::default();
        add(&mut second, "other", &[7, 7], Init::Normal(1.0), Kind::FeedForwardUp);
        let id = add(&mut second, "tied", &[3, 2], Init::Normal(0.5), Kind::FeedForwardUp);
        let view = second.view(id, None);
        let (a, b) = (first.initial_values(5), second.initial_values(5));
        assert_eq!(a[..6], b[view.offset..][..6]);
        assert_ne!(a[..6], first.initial_values(6)[..6]);
        assert_ne!(a[..6], b[..6]);
    }
}
