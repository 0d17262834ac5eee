//! Ops on a GPU, real or emulated, against the processor: all of them in a row, and the dropout masks. (Each by itself:
//! the gradcheck of its own file.)

use std::num::NonZeroUsize;

use crate::ops::attention::Attention;
use crate::ops::dropout::DropoutRows;
use crate::ops::embedding::Embedding;
use crate::ops::linear::{Activation, Linear};
use crate::ops::loss::Targets;
use crate::ops::norm::LayerNorm;
use crate::ops::pool::Pooling;
use crate::ops::relation::{Related, Relations};
use crate::rng::Stream;
use crate::testing::{between_devices, close, shared_gpu};
use crate::{
    CodePath, Device, Dropout, Gradients, Packing, Precision, Tape, Tensor, TokenOf, Value, View, Weights,
};

/// A table of parameters: their views, and all values.
struct Table {
    views: Vec<View>,
    values: Vec<f32>,
}

impl Table {
    fn new(shapes: &[(usize, usize)], frozen: &[usize]) -> Self {
        let mut stream = Stream::new(8);
        let (mut views, mut values) = (Vec::new(), Vec::new());
        for (i, &(rows, cols)) in shapes.iter().enumerate() {
            let offset = values.len();
            views.push(View { offset, rows, cols, grad: (!frozen.contains(&i)).then_some(offset) });
            values.extend((0..rows * cols).map(|_| 0.4 * stream.normal() as f32));
        }
        Self { views, values }
    }
}

/// The losses' sums and numbers of correct terms, and all gradients, of a small model.
fn all_ops(device: &Device, table: &Table, precision: Precision, training: bool) -> (Vec<f64>, Vec<f32>) {
    let weights = Weights::new(table.values.clone());
    let mut gradients = Gradients::new(table.values.len());
    let packing = Packing::new(&[9, 1, 36], &[4, 0, 2]);
    let ids: Vec<u32> = (0..46).map(|i| i * 7 % 19).collect();
    let w = &table.views;
    let mut tape = if training {
        Tape::training(device, &weights, &mut gradients, &packing, precision, 5, 2)
    } else {
        Tape::inference(device, &weights, &packing, precision)
    };
    let drop = |site| Some(Dropout { p: 0.2, site });
    let tables = Embedding {
        positions: Some(w[1]),
        offset: Some((3, w[2])),
        dropout: drop(1),
        ..Embedding::new(w[0])
    };
    let h = tape.embedding(&ids, tables);
    let normed = tape.norm(&h, LayerNorm { dropout: drop(7), ..LayerNorm::new(w[3], Some(w[4]), 1e-5) });
    let qkv = tape.linear(&normed, Linear { padded_output: true, ..Linear::new(w[5], Some(w[6])) }, &[]);
    let own = tape.own_columns(&qkv, 3 * 14);
    let attention = Attention {
        heads: 2,
        dim: 7,
        causal: true,
        window: None,
        query: None,
        dropout: drop(2),
        padded_output: true,
    };
    let mixed = tape.attention(&qkv, attention, None);
    let mut stream = Stream::new(3);
    let target: Vec<f32> = (0..46 * 42).map(|_| stream.normal() as f32).collect();
    let target = Tensor::from_f32(device.pool(), 46, 42, &target);
    let relations = Relations { heads: 2, of: Related::Alike, causal: false };
    let related = tape.relation(&own, &target, relations, 0.02);
    // The normed rows are used twice: their gradients add up.
    let out = Linear { dropout: drop(3), ..Linear::new(w[7], Some(w[8])) };
    let h = tape.linear(&mixed, out, &[&normed]);
    let up = Linear { activation: Activation::Gelu, padded_output: true, ..Linear::new(w[9], Some(w[10])) };
    let hidden = tape.linear(&h, up, &[]);
    let h = tape.linear(&hidden, Linear::new(w[11], None), &[&h, &normed]);
    let rows: Vec<u32> = (0..46).filter(|r| r % 4 != 2).collect();
    let targets: Vec<u32> = rows.iter().map(|r| r * 3 % 19).collect();
    let words = tape.linear_cross_entropy(&h, &rows, &targets, w[0], Some(w[13]), 0.03);
    let mean = tape.pool(&h, Pooling::Mean);
    let mean = tape.dropout(&mean, Dropout { p: 0.2, site: 8 }, DropoutRows::Sequences);
    let logits = Linear { f32_output: true, ..Linear::new(w[12], None) };
    let scores = tape.linear(&mean, logits, &[]);
    let classes = tape.loss(&scores, Targets::Classes(&[2, 0, 1], Some(&[0.5, 1.0, 2.0])), 0.3);
    let chosen = tape.select_rows(&h, &[8, 8, 45]);
    let scores = tape.linear(&chosen, logits, &[]);
    let numbers = tape.loss(&scores, Targets::Regression(&[0.25; 9]), 0.1);
    // One token of each sequence attends once more, and goes on alone.
    let last = tape.attention(&qkv, Attention { query: Some(TokenOf::End), ..attention }, None);
    let rows = tape.packing().rows_of(TokenOf::End);
    let before = tape.select_rows(&h, &rows);
    tape.keep_one_token(TokenOf::End);
    let h = tape.linear(&last, out, &[&before]);
    let h = tape.norm(&h, LayerNorm { dropout: drop(10), ..LayerNorm::new(w[3], Some(w[4]), 1e-5) });
    let h = tape.dropout(&h, Dropout { p: 0.2, site: 8 }, DropoutRows::Sequences);
    let scores = tape.linear(&h, logits, &[]);
    let alone = tape.loss(&scores, Targets::Classes(&[1, 0, 1], None), 0.2);
    if training {
        tape.backward();
    }
    let mut sums = Vec::new();
    for mut loss in [related, words, classes, numbers, alone] {
        loss.wait();
        sums.extend([loss.sum, loss.correct as f64]);
    }
    device.check().unwrap();
    (sums, gradients.values().to_vec())
}

#[test]
fn all_ops_in_a_row_are_the_processors() {
    let Some(gpu) = shared_gpu() else { return };
    let cpu = Device::cpu(NonZeroUsize::new(1), CodePath::Auto).unwrap();
    let (c, f) = (14, 41);
    let shapes = [
        (19, c),
        (40, c),
        (1, c),
        (1, c),
        (1, c),
        (3 * c, c),
        (1, 3 * c),
        (c, c),
        (1, c),
        (f, c),
        (1, f),
        (c, f),
        (3, c),
        (1, 19),
    ];
    for frozen in [&[][..], &[0, 1, 2, 3, 4], &[2, 6, 7, 10, 11]] {
        let table = Table::new(&shapes, frozen);
        for precision in [Precision::F32, Precision::Bf16] {
            for training in [true, false] {
                let (sums, gradients) = all_ops(&cpu, &table, precision, training);
                let (found_sums, found) = all_ops(gpu, &table, precision, training);
                let (again_sums, again) = all_ops(gpu, &table, precision, training);
                assert!(found == again && found_sums == again_sums, "a second run has other bits");
                let (_, unrounded) = all_ops(&cpu, &table, Precision::F32, training);
                let limit = between_devices(precision);
                let found_sums: Vec<f32> = found_sums.iter().map(|&s| s as f32).collect();
                close(&found_sums, &sums, limit, &format!("losses {precision:?}"));
                // (the GPU's, the processor's) errors, by what they are of.
                let mut errors = Vec::new();
                for view in table.views.iter().filter(|v| v.grad.is_some() && training) {
                    let range = view.offset..view.offset + view.len();
                    let (ours, theirs) = (&found[range.clone()], &gradients[range.clone()]);
                    let what = format!("{precision:?} gradient of {view:?}");
                    if precision == Precision::F32 {
                        let exact: Vec<f64> = theirs.iter().map(|&g| f64::from(g)).collect();
                        close(ours, &exact, limit, &what);
                    } else {
                        // A GPU rounds the probabilities of attention and some biases, a processor does not, and what is
                        // rounded early is multiplied by all that comes after: the two are measured from the result without
                        // rounding.
                        let [of_gpu, of_cpu] = [ours, theirs].map(|x| distance(x, &unrounded[range.clone()]));
                        errors.push((of_gpu, of_cpu, what));
                    }
                }
                // By chance a gradient of a few numbers has half the error of its like.
                let mean = |of: fn(&(f64, f64, String)) -> f64| {
                    errors.iter().map(of).sum::<f64>() / errors.len().max(1) as f64
                };
                let [of_gpu, of_cpu] = [mean(|e| e.0), mean(|e| e.1)];
                assert!(of_gpu <= 1.4 * of_cpu, "mean error {of_gpu:.2e}, the processor's {of_cpu:.2e}");
                for (error, of_its_own, what) in &errors {
                    let limit = 2.0 * of_its_own.max(of_cpu);
                    assert!(
                        *error <= limit,
                        "{what}: error {error:.2e}, the processor's {of_its_own:.2e}, {of_cpu:.2e} on average"
                    );
                }
            }
        }
    }
}

/// |a - b| / |b|, of the vectors as wholes: single elements say little of rounding.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let squares = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x) * f64::from(x)).sum::<f64>();
    let apart = squares(&mut a.iter().zip(b).map(|(a, b)| a - b));
    (apart / squares(&mut b.iter().copied()).max(1e-60)).sqrt()
}

/// What is dropped, by three ops: each output is a dropout factor, or one times a number that is not 0.
fn factors(device: &Device) -> [Vec<f32>; 3] {
    let (rows, cols) = (45, 67);
    let ones = View { offset: 0, rows: 1, cols, grad: Some(0) };
    let zeros = View { offset: cols, rows: cols, cols, grad: None };
    let mut values = vec![1.0; cols];
    values.extend(vec![0.0; cols * cols]);
    let (weights, mut gradients) = (Weights::new(values), Gradients::new(cols));
    let packing = Packing::new(&[rows - 3, 3], &[7, 1]);
    let mut tape = Tape::training(device, &weights, &mut gradients, &packing, Precision::F32, 3, 9);
    let dropout = Some(Dropout { p: 0.35, site: 77 });
    let positions = View { offset: cols, rows, cols, grad: None };
    let tables = Embedding { positions: Some(positions), dropout, ..Embedding::new(ones) };
    let embedded = tape.embedding(&vec![0; rows], tables);
    let linear = Linear { dropout, ..Linear::new(zeros, Some(ones)) };
    let from_linear = tape.linear(&embedded, linear, &[]);
    // Every key is as likely, and its value is 1 in a column of its own: the output is the row of probabilities.
    let mut qkv = vec![0.0; rows * 3 * cols];
    for row in 0..rows {
        qkv[row * 3 * cols + 2 * cols + row % (rows - 3)] = 1.0;
    }
    let tensor = Tensor::from_f32(device.pool(), rows, 3 * cols, &qkv);
    let qkv = Value { tensor, operand: None, id: None };
    let attention = Attention {
        heads: 1,
        dim: cols,
        causal: false,
        window: None,
        query: None,
        dropout,
        padded_output: false,
    };
    let from_attention = tape.attention(&qkv, attention, None);
    [embedded, from_linear, from_attention].map(|y| y.tensor().to_f32_vec())
}

#[test]
fn dropout_masks_are_the_processors() {
    let Some(gpu) = shared_gpu() else { return };
    let cpu = Device::cpu(NonZeroUsize::new(1), CodePath::Auto).unwrap();
    let [ours, theirs] = [gpu, &cpu].map(factors);
    assert!(ours[..2] == theirs[..2], "other factors");
    let dropped = |y: &[f32]| y.iter().map(|&y| y == 0.0).collect::<Vec<_>>();
    assert!(dropped(&ours[2]) == dropped(&theirs[2]), "other probabilities are dropped");
    let share = dropped(&ours[2][..42 * 67]).iter().filter(|d| **d).count() as f64 / (42.0 * 67.0);
    assert!((share - (25.0 + 0.35 * 42.0) / 67.0).abs() < 0.03, "{share}");
}
