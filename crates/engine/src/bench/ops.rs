//! Single ops of the training step, forward and backward, at the sizes of the tutorial's model.
//!
//! Owns: the cases and their comparison between code paths. Never: a clock for others; no op uses this.

use std::time::{Duration, Instant};

use crate::cpu::convert::round_bf16;
use crate::device::Device;
use crate::dtype::{DType, Precision};
use crate::ops::attention::Attention;
use crate::ops::embedding::Embedding;
use crate::ops::linear::{Activation, Linear};
use crate::ops::norm::LayerNorm;
use crate::packing::Packing;
use crate::rng::Stream;
use crate::tape::{Dropout, Tape, Value};
use crate::tensor::Tensor;
use crate::weights::{Gradients, View, Weights};

/// Tokens of the slab: two sequences.
const LENGTHS: [usize; 2] = [256, 256];
const ROWS: usize = 512;
const EMBED: usize = 410;
const HIDDEN: usize = 2_100;
const HEADS: usize = 10;
const CLASSES: usize = 28_996;

/// An op with everything around its matmul.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Token and position rows, dropout.
    Embedding,
    /// 410 columns.
    Norm,
    /// 410 to 2,100 with bias, nothing else.
    Linear,
    /// 410 to 2,100 with bias and ReLU.
    LinearRelu,
    /// 410 to 2,100 with bias and GELU.
    LinearGelu,
    /// 410 to 410 with bias.
    LinearSmall,
    /// 410 to 410 with bias, dropout and a residual.
    LinearResidual,
    /// 2 sequences of 256 tokens, 10 heads of 41, causal, dropout 0.1.
    Attention,
    /// 512 rows of 410 into 28,996 classes.
    LinearCrossEntropy,
}

impl Op {
    /// All of them, in the order of a training step.
    pub const ALL: [Self; 9] = [
        Self::Embedding,
        Self::Norm,
        Self::Linear,
        Self::LinearRelu,
        Self::LinearGelu,
        Self::LinearSmall,
        Self::LinearResidual,
        Self::Attention,
        Self::LinearCrossEntropy,
    ];

    /// (rows, columns) of the weight, columns of the input, columns of the output.
    fn sizes(self) -> ((usize, usize), usize, usize) {
        match self {
            Self::Norm => ((1, EMBED), EMBED, EMBED),
            Self::Linear | Self::LinearRelu | Self::LinearGelu => ((HIDDEN, EMBED), EMBED, HIDDEN),
            Self::LinearSmall | Self::LinearResidual => ((EMBED, EMBED), EMBED, EMBED),
            Self::Attention => ((1, 1), 3 * EMBED, EMBED),
            Self::Embedding | Self::LinearCrossEntropy => ((CLASSES, EMBED), EMBED, EMBED),
        }
    }
}

/// One op with operands of random numbers, ready to run again and again.
#[derive(Debug)]
pub struct OpRun<'a> {
    device: &'a Device,
    precision: Precision,
    op: Op,
    packing: Packing,
    weights: Weights,
    gradients: Gradients,
    weight: View,
    bias: View,
    x: Tensor,
    residual: Tensor,
    dy: Tensor,
    ids: Vec<u32>,
}

impl<'a> OpRun<'a> {
    /// The op with its inputs as the step has them: what only feeds matmuls in the precision's activation type.
    pub fn new(device: &'a Device, precision: Precision, op: Op) -> Self {
        let mut stream = Stream::new(1);
        let ((weight_rows, weight_cols), inputs, outputs) = op.sizes();
        let (weight_len, bias_len) = (weight_rows * weight_cols, ROWS * outputs);
        let values: Vec<f32> = (0..weight_len + bias_len).map(|_| 0.05 * stream.normal() as f32).collect();
        let weight = View { offset: 0, rows: weight_rows, cols: weight_cols, grad: Some(0) };
        let bias = View { offset: weight_len, rows: 1, cols: outputs, grad: Some(weight_len) };
        let mut draw = |cols: usize, dtype: DType| {
            let values: Vec<f32> = (0..ROWS * cols).map(|_| stream.normal() as f32).collect();
            let mut tensor = Tensor::uninit(device.pool(), ROWS, cols, dtype);
            match dtype {
                DType::F32 => tensor.f32_mut().copy_from_slice(&values),
                DType::Bf16 => {
                    tensor.bf16_mut().iter_mut().zip(values).for_each(|(t, v)| *t = round_bf16(v));
                }
            }
            tensor
        };
        let x = draw(inputs, if op == Op::Attention { precision.activation() } else { DType::F32 });
        let residual = draw(outputs, DType::F32);
        let narrow = !matches!(op, Op::Norm | Op::Embedding | Op::LinearResidual);
        let dy = draw(outputs, if narrow { precision.activation() } else { DType::F32 });
        let ids = (0..ROWS).map(|_| stream.below(weight_rows) as u32).collect();
        let gradients = Gradients::new(weight_len + bias_len);
        let packing = Packing::new(&LENGTHS, &[0, 1]);
        let weights = Weights::new(values);
        Self { device, precision, op, packing, weights, gradients, weight, bias, x, residual, dy, ids }
    }

    /// Runs forward, then backward, and says how long each took.
    pub fn run(&mut self) -> [Duration; 2] {
        self.run_and(|_, _| {})
    }

    /// Runs once and returns the largest difference of output, input gradient and parameter gradients from
    /// `other`'s, relative to the largest magnitude of each.
    ///
    /// # Panics
    /// When `other` is another op.
    pub fn difference(&mut self, other: &mut OpRun<'_>) -> f64 {
        assert_eq!(self.op, other.op, "ops to compare");
        let mut worst = 0.0_f64;
        let [mine, theirs] = [self.outcome(), other.outcome()];
        for (a, b) in mine.iter().zip(&theirs) {
            let largest = b.iter().fold(1e-30_f32, |m, b| m.max(b.abs()));
            let apart = a.iter().zip(b).fold(0.0_f32, |m, (a, b)| m.max((a - b).abs()));
            worst = worst.max(f64::from(apart / largest));
        }
        worst
    }

    /// What one run makes.
    fn outcome(&mut self) -> [Vec<f32>; 3] {
        self.gradients.values_mut().fill(0.0);
        let mut made = [Vec::new(), Vec::new()];
        self.run_and(|y, dx| made = [y, dx].map(|t| t.map_or(Vec::new(), Tensor::to_f32_vec)));
        let [y, dx] = made;
        [y, dx, self.gradients.values().to_vec()]
    }

    fn run_and(&mut self, see: impl FnOnce(Option<&Tensor>, Option<&Tensor>)) -> [Duration; 2] {
        let Self { device, precision, op, packing, weights, weight, bias, ids, .. } = self;
        let (device, weight, bias) = (*device, *weight, *bias);
        let start = Instant::now();
        let mut tape = Tape::training(device, weights, &mut self.gradients, packing, *precision, 7, 3);
        let x = tape.leaf(self.x.clone());
        let dropout = Some(Dropout { p: 0.1, site: 3 });
        let linear = Linear::new(weight, Some(bias));
        let y = match op {
            Op::Embedding => {
                let positions = View { rows: LENGTHS[0], ..bias };
                Some(tape.embedding(
                    ids,
                    Embedding { positions: Some(positions), dropout, ..Embedding::new(weight) },
                ))
            }
            Op::Norm => Some(tape.norm(&x, LayerNorm::new(weight, Some(bias), 1e-12))),
            Op::Linear | Op::LinearSmall => Some(tape.linear(&x, linear, &[])),
            Op::LinearRelu => Some(tape.linear(&x, Linear { activation: Activation::Relu, ..linear }, &[])),
            Op::LinearGelu => Some(tape.linear(&x, Linear { activation: Activation::Gelu, ..linear }, &[])),
            Op::LinearResidual => {
                let residual = Value { tensor: self.residual.clone(), operand: None, id: None };
                Some(tape.linear(&x, Linear { dropout, ..linear }, &[&residual]))
            }
            Op::Attention => Some(tape.attention(
                &x,
                Attention {
                    heads: HEADS,
                    dim: EMBED / HEADS,
                    causal: true,
                    window: None,
                    query: None,
                    dropout,
                    padded_output: false,
                },
                None,
            )),
            Op::LinearCrossEntropy => {
                let rows: Vec<u32> = (0..ROWS as u32).collect();
                tape.linear_cross_entropy(&x, &rows, ids, weight, None, 1.0 / ROWS as f32);
                None
            }
        };
        let forward = start.elapsed();
        let seeds = y.iter().filter_map(|y| Some((y.id?, self.dy.clone()))).collect();
        let start = Instant::now();
        let gradients = tape.backward_from(seeds, None);
        let backward = start.elapsed();
        let dx = x.id.and_then(|id| gradients[id].as_ref());
        see(y.as_ref().map(Value::tensor), dx);
        [forward, backward]
    }
}

/// How long `tasks` empty tasks take: what every parallel section costs.
pub fn fork_and_join(device: &Device, tasks: usize) -> Duration {
    let start = Instant::now();
    device.for_each(tasks, |task| {
        std::hint::black_box(task);
    });
    start.elapsed()
}
