//! THE parameter table: every parameter's name, shape, start, decay, and place in the flat buffers.
//!
//! Owns: the order of parameters, the initial values, what is frozen. Never: computes with them.
//!
//! Weights lie in table order. Gradients (and moments) lie in the order of the *trainable* parameters; a tied
//! parameter has a second accumulator behind all of them, joined into the first once per step.

use headstart_engine::{Gradients, View, rng};

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All the same.
    Constant(f32),
    /// Normal with mean 0 and this standard deviation.
    Normal(f32),
    /// Uniform within sqrt(6 / (rows + columns)) of 0 (Glorot and Bengio 2010).
    XavierUniform,
    /// sin(p / 10000^(2i / C)) in even columns, the cosine in odd ones (Vaswani et al. 2017).
    Sinusoidal,
}

/// What a parameter belongs to, for freezing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Embeddings, projections: what pretraining learns.
    Trunk,
    /// Layer norms of the trunk.
    Norm,
    /// Adapters.
    Adapter,
    /// The classification head.
    Head,
    /// The offset of the [CLS] embedding.
    Offset,
    /// Never trained: sinusoidal positions.
    Fixed,
}

/// One parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// Its name in checkpoints.
    pub name: String,
    /// One or two dimensions.
    pub shape: Vec<usize>,
    /// Where it starts.
    pub init: Init,
    /// What it belongs to.
    pub group: Group,
    /// Whether AdamW decays it (matrices, not biases and norms).
    pub decay: bool,
    /// First element in the flat weights.
    pub offset: usize,
    /// First element in the flat gradients; `None` while frozen.
    pub grad: Option<usize>,
    /// The second accumulator of a tied parameter.
    pub second_grad: Option<usize>,
    tied: bool,
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
}

/// A parameter's index in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParamId(usize);

/// All parameters of a model, in checkpoint order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ParamTable {
    params: Vec<Param>,
    len: usize,
    trainable_len: usize,
    gradient_len: usize,
}

impl ParamTable {
    /// Adds a parameter; call [`ParamTable::freeze_except`] when all are in.
    pub fn add(&mut self, name: impl Into<String>, shape: &[usize], init: Init, group: Group) -> ParamId {
        let decay = shape.len() > 1 && group != Group::Norm;
        let param = Param {
            name: name.into(),
            shape: shape.to_vec(),
            init,
            group,
            decay,
            offset: self.len,
            grad: None,
            second_grad: None,
            tied: false,
        };
        self.len += param.len();
        self.params.push(param);
        ParamId(self.params.len() - 1)
    }

    /// Gives a parameter a second gradient accumulator: it is used in two places.
    pub fn tie(&mut self, id: ParamId) {
        self.params[id.0].tied = true;
    }

    /// Lays out the gradients of the parameters whose group `trains`; the others are frozen.
    pub fn freeze_except(&mut self, trains: impl Fn(Group) -> bool) {
        let mut end = 0;
        for param in &mut self.params {
            let on = param.group != Group::Fixed && trains(param.group);
            param.grad = on.then_some(end);
            end += if on { param.len() } else { 0 };
        }
        self.trainable_len = end;
        for param in &mut self.params {
            let on = param.tied && param.grad.is_some();
            param.second_grad = on.then_some(end);
            end += if on { param.len() } else { 0 };
        }
        self.gradient_len = end;
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

    /// Number of elements that train: the length of the moments.
    pub fn trainable_len(&self) -> usize {
        self.trainable_len
    }

    /// Number of elements of all gradient accumulators.
    pub fn gradient_len(&self) -> usize {
        self.gradient_len
    }

    /// The matrix (or one-row vector) of a parameter, for the engine.
    pub fn view(&self, id: ParamId) -> View {
        let param = &self.params[id.0];
        let (rows, cols) = match param.shape[..] {
            [cols] => (1, cols),
            [rows, cols] => (rows, cols),
            _ => unreachable!("parameters have one or two dimensions"),
        };
        View { offset: param.offset, rows, cols, grad: param.grad }
    }

    /// The same matrix with its second accumulator: the other use of a tied parameter.
    pub fn tied_view(&self, id: ParamId) -> View {
        View { grad: self.params[id.0].second_grad, ..self.view(id) }
    }

    /// Adds the second accumulators of tied parameters to the first and clears them.
    pub fn join_tied(&self, gradients: &mut Gradients) {
        let (first, second) = gradients.values_mut().split_at_mut(self.trainable_len);
        for param in &self.params {
            if let (Some(to), Some(from)) = (param.grad, param.second_grad) {
                let from = &mut second[from - self.trainable_len..][..param.len()];
                for (to, from) in first[to..to + param.len()].iter_mut().zip(from) {
                    *to += *from;
                    *from = 0.0;
                }
            }
        }
    }

    /// The initial weights of a seed: every parameter draws from a stream named by its own name, so adding a
    /// head or adapters changes nothing else.
    pub fn initial_values(&self, seed: u64) -> Vec<f32> {
        let mut values = vec![0.0; self.len];
        for param in &self.params {
            self.initialise(param, seed, &mut values[param.offset..param.offset + param.len()]);
        }
        values
    }

    fn initialise(&self, param: &Param, seed: u64, values: &mut [f32]) {
        let key = param.name.bytes().fold(rng::derive(seed, 1), |key, b| rng::derive(key, u64::from(b)));
        let mut stream = rng::Stream::new(key);
        let cols = param.shape[param.shape.len() - 1];
        match param.init {
            Init::Constant(value) => values.fill(value),
            Init::Normal(deviation) => {
                values.iter_mut().for_each(|v| *v = (stream.normal() * f64::from(deviation)) as f32);
            }
            Init::XavierUniform => {
                let bound = (6.0 / (param.shape.iter().sum::<usize>() as f64)).sqrt();
                values.iter_mut().for_each(|v| *v = ((stream.uniform() * 2.0 - 1.0) * bound) as f32);
            }
            Init::Sinusoidal => {
                for (i, value) in values.iter_mut().enumerate() {
                    let (position, column) = (i / cols, i % cols);
                    let pair = (column / 2 * 2) as f64 / cols as f64;
                    let angle = position as f64 / 10_000_f64.powf(pair);
                    *value = if column % 2 == 0 { angle.sin() } else { angle.cos() } as f32;
                }
            }
        }
    }
}
