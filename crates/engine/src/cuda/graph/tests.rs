//! Replayed work against the same work queued, on a GPU, real or emulated: the same bits.

use crate::loss_sum::LossSum;
use std::num::NonZeroUsize;

use crate::ops::adam::{Adam, Decay, Range, SquaredNorm, squared_norm};
use crate::ops::attention::Attention;
use crate::ops::embedding::Embedding;
use crate::ops::linear::Linear;
use crate::ops::norm::LayerNorm;
use crate::rng::Stream;
use crate::testing::gpu;
use crate::{
    CudaOptions, Device, Dropout, Flat, Gradients, GraphCounts, Packing, Precision, Replay, Tape, Tensor,
    View, Weights,
};

const WIDTH: usize = 12;
const CLASSES: usize = 23;

/// A small model in training.
struct Trained {
    device: Device,
    views: Vec<View>,
    weights: Weights,
    gradients: Gradients,
    moments: [Flat; 2],
    precision: Precision,
}

/// One batch: sequences of fixed lengths, other tokens and other predicted rows each time.
struct Batch {
    number: u64,
    ids: Vec<u32>,
    rows: Vec<u32>,
    targets: Vec<u32>,
}

const LENGTHS: [usize; 3] = [9, 14, 7];

impl Batch {
    fn new(number: u64, predicted: usize) -> Self {
        let mut stream = Stream::new(number);
        let tokens: usize = LENGTHS.iter().sum();
        let mut draw = |n: usize| (0..n).map(|_| stream.below(CLASSES) as u32).collect::<Vec<u32>>();
        let (ids, targets) = (draw(tokens), draw(predicted));
        let rows = (0..tokens as u32).filter(|r| (r * 7 + number as u32).is_multiple_of(3));
        let mut rows: Vec<u32> =
            rows.chain((0..tokens as u32).filter(|r| !(r * 7 + number as u32).is_multiple_of(3))).collect();
        rows.truncate(predicted);
        Self { number, ids, rows, targets }
    }
}

impl Trained {
    fn new(precision: Precision) -> Option<Self> {
        let device = gpu()?;
        let shapes = [
            (CLASSES, WIDTH),
            (20, WIDTH),
            (1, WIDTH),
            (1, WIDTH),
            (1, WIDTH),
            (3 * WIDTH, WIDTH),
            (1, 3 * WIDTH),
            (WIDTH, WIDTH),
        ];
        let mut stream = Stream::new(3);
        let (mut views, mut values) = (Vec::new(), Vec::new());
        for (rows, cols) in shapes {
            views.push(View { offset: values.len(), rows, cols, grad: Some(values.len()) });
            values.extend((0..rows * cols).map(|_| 0.3 * stream.normal() as f32));
        }
        let n = values.len();
        Some(Self {
            device,
            views,
            weights: Weights::new(values),
            gradients: Gradients::new(n),
            moments: [Flat::zeros(n), Flat::zeros(n)],
            precision,
        })
    }

    /// Forward and backward of two slabs, which hold the same tokens.
    fn work(&mut self, batch: &Batch) -> LossSum {
        let mut sum = LossSum::default();
        for first in [0, 3] {
            let w = &self.views;
            let packing = Packing::new(&LENGTHS, &[first, first + 1, first + 2]);
            let mut tape = Tape::training(
                &self.device,
                &self.weights,
                &mut self.gradients,
                &packing,
                self.precision,
                5,
                batch.number,
            );
            let drop = |site| Some(Dropout { p: 0.2, site });
            let tables = Embedding {
                positions: Some(w[1]),
                offset: Some((2, w[2])),
                dropout: drop(1),
                ..Embedding::new(w[0])
            };
            let h = tape.embedding(&batch.ids, tables);
            let normed =
                tape.norm(&h, LayerNorm { dropout: drop(7), ..LayerNorm::new(w[3], Some(w[4]), 1e-5) });
            let qkv = tape.linear(&normed, Linear::new(w[5], Some(w[6])), &[]);
            let mixed = tape.attention(
                &qkv,
                Attention {
                    heads: 2,
                    dim: WIDTH / 2,
                    causal: true,
                    window: None,
                    query: None,
                    dropout: drop(2),
                    padded_output: false,
                },
                None,
            );
            let out = Linear { dropout: drop(3), ..Linear::new(w[7], None) };
            let h = tape.linear(&mixed, out, &[&h]);
            let scale = 0.5 / batch.rows.len() as f32;
            sum.add(&tape.linear_cross_entropy(&h, &batch.rows, &batch.targets, w[0], None, scale));
            tape.backward();
        }
        sum
    }

    /// What a step leaves: the loss, the norm, the weights. The norm is queued behind the work, which may be a graph.
    fn finish(&mut self, sum: LossSum, number: u64) -> (f64, f64, Vec<f32>) {
        let norm = squared_norm(&self.device, &self.gradients);
        self.update(sum, norm, number)
    }

    fn update(&mut self, mut sum: LossSum, norm: SquaredNorm, number: u64) -> (f64, f64, Vec<f32>) {
        let norm = norm.wait();
        sum.wait();
        let adam = Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: Decay::Coupled };
        let n = self.moments[0].len();
        let range = Range { start: 0, grad: 0, moment: 0, len: n, lr: 1e-2, weight_decay: 0.0, step: number };
        let [first, second] = &mut self.moments;
        adam.step(&self.device, &mut self.weights, &mut self.gradients, first, second, &[range], 0.7);
        self.device.check().unwrap();
        (sum.sum, norm, self.weights.values().to_vec())
    }

    fn queued(&mut self, batch: &Batch) -> (f64, f64, Vec<f32>) {
        let sum = self.work(batch);
        self.finish(sum, batch.number)
    }

    fn run(&mut self, batch: &Batch) -> (f64, f64, Vec<f32>) {
        let device = self.device.clone();
        let sum = device.run(1, || self.work(batch));
        self.finish(sum, batch.number)
    }

    fn counts(&self) -> GraphCounts {
        self.device.graph_counts().unwrap()
    }
}

#[test]
fn replayed_work_has_the_bits_of_queued_work() {
    for precision in [Precision::F32, Precision::Bf16] {
        let (Some(mut ours), Some(mut theirs)) = (Trained::new(precision), Trained::new(precision)) else {
            return;
        };
        // Between 17 and 32 rows are filled up to as many; 10 are another shape.
        for (number, predicted) in [30, 30, 27, 19, 10, 10, 24, 11, 30].into_iter().enumerate() {
            let batch = Batch::new(number as u64 + 1, predicted);
            assert!(ours.run(&batch) == theirs.queued(&batch), "step {}", batch.number);
            // An evaluation between two steps takes memory of its own.
            let other = Tensor::zeros(ours.device.pool(), 40, 100, crate::DType::F32);
            assert!(other.to_f32_vec().iter().all(|&x| x == 0.0));
        }
        // The first is queued, the second captured; the first with 10 rows finds no memory waiting for its sizes.
        assert_eq!(ours.counts(), GraphCounts { queued: 2, captured: 2, replayed: 5, disabled: None });
        assert_eq!(theirs.counts(), GraphCounts::default());
    }
}

#[test]
fn what_is_prepared_ahead_is_the_same() {
    for precision in [Precision::F32, Precision::Bf16] {
        let (Some(mut ours), Some(mut theirs)) = (Trained::new(precision), Trained::new(precision)) else {
            return;
        };
        let device = ours.device.clone();
        let batches: Vec<Batch> = (1..9).map(|number| Batch::new(number, 20 + number as usize)).collect();
        let mut prepared = None;
        let mut started = 0;
        for (i, batch) in batches.iter().enumerate() {
            let sum = match prepared.take().and_then(|p| device.start(p)) {
                Some(sum) => {
                    started += 1;
                    sum
                }
                None => device.run(1, || ours.work(batch)),
            };
            // The norm is queued before the next step is prepared, or after it; nothing is waited for until then.
            let norm = (i % 2 == 0).then(|| squared_norm(&device, &ours.gradients));
            prepared = batches.get(i + 1).and_then(|next| device.prepare(1, || ours.work(next)));
            let norm = norm.unwrap_or_else(|| squared_norm(&device, &ours.gradients));
            let found = ours.update(sum, norm, batch.number);
            assert!(found.1 > 0.0 && found == theirs.queued(batch), "step {}", batch.number);
            if i == 4 {
                // What the host writes is somewhere else afterwards: the preparation is of no use.
                ours.weights.values_mut()[0] += 1.0;
                theirs.weights.values_mut()[0] += 1.0;
            }
        }
        assert!(started >= 4, "{started} of {:?}", ours.counts());
    }
}

#[test]
fn graphs_that_are_switched_off_change_no_bit() {
    let (Some(mut ours), Some(mut theirs)) = (Trained::new(Precision::Bf16), Trained::new(Precision::Bf16))
    else {
        return;
    };
    let options = CudaOptions { replay: Replay::Off, ..CudaOptions::default() };
    ours.device = Device::gpu(0, NonZeroUsize::new(1), &options).unwrap();
    for number in 1..5 {
        let batch = Batch::new(number, 20);
        assert!(ours.device.prepare(1, || 0).is_none());
        assert!(ours.run(&batch) == theirs.run(&batch), "step {number}");
    }
    let GraphCounts { queued, captured, replayed, disabled } = ours.counts();
    assert!((queued, captured, replayed) == (4, 0, 0) && disabled.is_some_and(|why| why.contains("off")));
    assert_eq!(theirs.counts().replayed, 2);
}

#[test]
fn work_that_no_graph_can_hold_is_queued() {
    let Some(device) = gpu() else { return };
    let cuda = device.cuda().unwrap();
    for round in 0..40 {
        // It waits for the device in the middle.
        let found = device.run(7, || {
            let there = cuda.upload(&[round; 5]);
            let mut back = [0_u32; 5];
            cuda.download(&mut back, there.ptr());
            back
        });
        assert_eq!(found, [round; 5]);
    }
    let counts = device.graph_counts().unwrap();
    assert_eq!((counts.queued, counts.captured, counts.replayed), (40, 0, 0));
    assert!(counts.disabled.is_some());
    device.check().unwrap();
}

#[test]
fn a_full_memory_costs_the_graphs_and_nothing_else() {
    let (Some(mut ours), Some(mut theirs)) = (Trained::new(Precision::Bf16), Trained::new(Precision::Bf16))
    else {
        return;
    };
    for number in 1..8 {
        if number == 4 {
            drop(Tensor::zeros(ours.device.pool(), 1 << 24, 1 << 20, crate::DType::F32));
            ours.device.check().unwrap_err();
        }
        let batch = Batch::new(number, 20);
        assert!(ours.run(&batch) == theirs.queued(&batch), "step {number}");
    }
    // The fourth finds no memory waiting and is queued again, the fifth captured again.
    let GraphCounts { queued, captured, replayed, disabled } = ours.counts();
    assert_eq!((queued, captured, replayed, disabled), (2, 2, 3, None));
}
