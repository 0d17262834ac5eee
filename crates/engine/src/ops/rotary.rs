//! Rotary positions (Su et al. 2021): queries and keys are turned by angles that grow with their positions.
//!
//! Shapes: qkv and y `[N, 3C]` (columns q, k, v, each H heads of D), y in the type of qkv. Columns i and i + D/2 of a head are a
//! pair ("rotate half"), with the angle a = position * theta^(-2i / D):
//! `y[i] = x[i] cos a - x[i + D/2] sin a; y[i + D/2] = x[i + D/2] cos a + x[i] sin a`. Values pass as they are.
//!
//! Backward: the gradient, turned back.

use std::sync::Arc;

use crate::cpu::rows::ROWS_PER_TASK;
use crate::cpu::scratch::with_rows;
use crate::cpu::shared::SharedTensor;
use crate::cpu::simd::simd;
use crate::cuda::{self, Context, DeviceBuffer};
use crate::device::Device;
use crate::profile::Work;
use crate::tape::{Tape, Value};
use crate::tensor::Tensor;

/// The angles of a tape's tokens, which its layers share.
#[derive(Clone, Debug)]
pub struct Rotary {
    /// The position of each token, from that of the table's first row on.
    rows: Arc<[u32]>,
    /// A row of D per position: the cosines of its D/2 angles, then their sines.
    table: Arc<[f32]>,
    dim: usize,
    /// The same on a GPU.
    device: Option<Arc<OnDevice>>,
}

#[derive(Debug)]
struct OnDevice {
    rows: DeviceBuffer,
    table: DeviceBuffer,
}

/// Which way.
#[derive(Clone, Copy)]
enum Turn {
    Forward,
    Back,
}

impl Turn {
    /// What sines are multiplied by.
    fn sign(self) -> f32 {
        match self {
            Self::Forward => 1.0,
            Self::Back => -1.0,
        }
    }
}

impl Tape<'_> {
    /// The angles for heads of `dim` columns.
    ///
    /// # Panics
    /// When `dim` is odd.
    pub fn rotary(&self, dim: usize, theta: f32) -> Rotary {
        assert!(dim.is_multiple_of(2), "a head of {dim} columns has no halves");
        let rates = (0..dim / 2).map(|i| f64::from(theta).powf(-2.0 * i as f64 / dim as f64));
        let rates: Vec<f64> = rates.collect();
        let positions = || self.packing.rows().map(|(_, position)| position);
        let (first, end) = (positions().min().unwrap_or(0), positions().max().map_or(0, |last| last + 1));
        let mut table = Vec::new();
        for position in first..end {
            let angles = || rates.iter().map(|rate| position as f64 * rate);
            table.extend(angles().map(|angle| angle.cos() as f32));
            table.extend(angles().map(|angle| angle.sin() as f32));
        }
        let rows: Arc<[u32]> = positions().map(|position| (position - first) as u32).collect();
        let on_device = |cuda: &Context| OnDevice { rows: cuda.upload(&rows), table: cuda.upload(&table) };
        let device = self.device.cuda().map(|cuda| Arc::new(on_device(cuda)));
        Rotary { rows, table: table.into(), dim, device }
    }

    /// See the module's header.
    ///
    /// # Panics
    /// When the shapes do not fit.
    pub fn rotate(&mut self, qkv: &Value, rotary: &Rotary) -> Value {
        let (rows, cols) = (qkv.tensor.rows(), qkv.tensor.cols());
        let dim = rotary.dim;
        assert!(
            rows == rotary.rows.len() && cols.is_multiple_of(3 * dim),
            "heads of {dim} in {cols} columns"
        );
        let y = turn(self.device, &qkv.tensor, rotary, Turn::Forward);
        let (id, rotary) = (qkv.id, rotary.clone());
        self.record(y, id.is_some(), move |back, dy| {
            let gradient = turn(back.device, &dy, &rotary, Turn::Back);
            back.add(id, gradient);
        })
    }
}

fn turn(device: &Device, x: &Tensor, rotary: &Rotary, turn: Turn) -> Tensor {
    let _timer = device.time(Work::Other);
    let (rows, cols, dim) = (x.rows(), x.cols(), rotary.dim);
    let mut y = Tensor::uninit(device.pool(), rows, cols, x.dtype());
    if let (Some(cuda), Some(OnDevice { rows, table })) = (device.cuda(), rotary.device.as_deref()) {
        cuda::ops::rotary::turn(cuda, x, rows, table, dim, turn.sign(), &y);
        return y;
    }
    let level = device.level();
    let out = SharedTensor::new(&mut y);
    device.for_each(rows.div_ceil(ROWS_PER_TASK), |task| {
        with_rows(cols, |z, scratch| {
            for r in task * ROWS_PER_TASK..rows.min((task + 1) * ROWS_PER_TASK) {
                z.copy_from_slice(x.row(level, r, scratch));
                let at = rotary.rows[r] as usize * dim;
                let table = &rotary.table[at..at + dim];
                turn_row(level, &mut z[..cols / 3 * 2], table, turn.sign());
                // SAFETY: every task has rows of its own.
                unsafe { out.write(level, r, 0, z) };
            }
        });
    });
    y
}

simd! {
    /// Turns the heads of a row of queries and keys.
    fn turn_row(row: &mut [f32], table: &[f32], sign: f32) {
        let (cosines, sines) = table.split_at(table.len() / 2);
        for head in row.chunks_exact_mut(table.len()) {
            let (a, b) = head.split_at_mut(cosines.len());
            let angles = cosines.iter().zip(sines);
            for ((a, b), (&cos, &sin)) in a.iter_mut().zip(b).zip(angles) {
                let sin = sign * sin;
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::Gradcheck;

    #[test]
    fn gradcheck() {
        for (heads, dim, theta) in [(1, 2, 10_000.0), (3, 8, 160_000.0), (2, 42, 10_000.0), (1, 64, 500.0)] {
            for lengths in [vec![1], vec![5, 1, 9], vec![67]] {
                let rows = lengths.iter().sum();
                let positions: Vec<usize> = lengths.iter().flat_map(|&length| 0..length).collect();
                Gradcheck::new("rotary", &[("qkv", rows, 3 * heads * dim)], &[]).lengths(&lengths).run(
                    |tape, x, _| {
                        let rotary = tape.rotary(dim, theta);
                        tape.rotate(&x[0], &rotary)
                    },
                    |x, _| {
                        let mut y = x[0].clone();
                        for (at, (y, x)) in y.chunks_mut(dim).zip(x[0].chunks(dim)).enumerate() {
                            let (row, head) = (at / (3 * heads), at % (3 * heads));
                            for i in (0..dim / 2).filter(|_| head < 2 * heads) {
                                let rate = f64::from(theta).powf(-2.0 * i as f64 / dim as f64);
                                let (sin, cos) = (positions[row] as f64 * rate).sin_cos();
                                let (a, b) = (x[i], x[i + dim / 2]);
                                (y[i], y[i + dim / 2]) = (a * cos - b * sin, b * cos + a * sin);
                            }
                        }
                        y
                    },
                );
            }
        }
    }
}
