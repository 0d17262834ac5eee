//! Columns times learned factors, those of (IA)3 (Liu et al. 2022): `y[:, first + c] = x[:, first + c] * scale[c]`; columns that no
//! scale stands over are those of x.
//!
//! Shapes: x, y `[N, C]`, each scale `[1, width]` over the columns `first .. first + width`; scales do not overlap. y is in the
//! activation type of the precision (it feeds matmuls and attention). x is kept, not copied.
//! Backward: dx = dy * scale (dy where there is none); dscale = column sums of dy * x.

use crate::cpu::rows::{ROWS_PER_TASK, add_products, multiply};
use crate::cpu::scratch::with_rows;
use crate::cpu::shared::{SharedSlice, SharedTensor};
use crate::cuda;
use crate::dtype::DType;
use crate::profile::Work;
use crate::tape::{Backward, Tape, Value};
use crate::tensor::Tensor;
use crate::weights::View;

/// What some columns are multiplied by.
#[derive(Clone, Copy, Debug)]
pub struct ColumnScale {
    /// `[1, width]`.
    pub factors: View,
    /// The first of the columns.
    pub first: usize,
}

/// What the backward needs.
struct Saved {
    x: Value,
    scales: Vec<ColumnScale>,
}

impl Tape<'_> {
    /// See the module's header.
    ///
    /// # Panics
    /// When a scale reaches beyond the columns of x.
    pub fn scale_columns(&mut self, x: &Value, scales: &[ColumnScale]) -> Value {
        let device = self.device;
        let _timer = device.time(Work::Other);
        let (rows, cols) = (x.tensor.rows(), x.tensor.cols());
        for ColumnScale { factors, first } in scales {
            assert!(factors.rows == 1 && first + factors.cols <= cols, "{factors:?} at {first} of {cols}");
        }
        let kind = self.precision.activation();
        let y = if let Some(cuda) = device.cuda() {
            let y = cuda::ops::elementwise::copy(cuda, device.pool(), &x.tensor, kind);
            for scale in scales {
                let factors = self.weights.device_f32(cuda, scale.factors);
                cuda::ops::column_scale::scale(cuda, &x.tensor, scale.first, factors, scale.factors.cols, &y);
            }
            y
        } else {
            let mut y = self.uninit(rows, cols, kind);
            let out = SharedTensor::new(&mut y);
            let (weights, level) = (self.weights, device.level());
            device.for_each(rows.div_ceil(ROWS_PER_TASK), |task| {
                with_rows(cols, |z, scratch| {
                    for r in task * ROWS_PER_TASK..rows.min((task + 1) * ROWS_PER_TASK) {
                        z.copy_from_slice(x.tensor.row(level, r, scratch));
                        for ColumnScale { factors, first } in scales {
                            multiply(level, &mut z[*first..first + factors.cols], weights.get(*factors));
                        }
                        // SAFETY: every task has rows of its own.
                        unsafe { out.write(level, r, 0, z) };
                    }
                });
            });
            y
        };
        let needs = x.id.is_some() || scales.iter().any(|scale| scale.factors.grad.is_some());
        let saved = Saved { x: x.clone(), scales: scales.to_vec() };
        self.record(y, needs, move |back, dy| saved.backward(back, &dy))
    }
}

impl Saved {
    fn backward(&self, back: &mut Backward<'_>, dy: &Tensor) {
        let device = back.device;
        let _timer = device.time(Work::Other);
        let (rows, cols, kind) = (dy.rows(), dy.cols(), back.precision.activation());
        let Some(cuda) = device.cuda() else {
            let mut dx = self.x.id.map(|_| back.uninit(rows, cols, kind));
            let partial = self.backward_on_cpu(back, dy, dx.as_mut());
            for scale in &self.scales {
                back.add_column_sums(&partial, scale.first, Some(scale.factors));
            }
            if let Some(dx) = dx {
                back.add(self.x.id, dx);
            }
            return;
        };
        let dx = self.x.id.map(|_| cuda::ops::elementwise::copy(cuda, device.pool(), dy, kind));
        for ColumnScale { factors, first } in &self.scales {
            if let Some(dx) = &dx {
                let values = back.weights.device_f32(cuda, *factors);
                cuda::ops::column_scale::scale(cuda, dy, *first, values, factors.cols, dx);
            }
            if factors.grad.is_some() {
                let partial = back.uninit(cuda::ops::row_blocks(rows), factors.cols, DType::F32);
                cuda::ops::column_scale::partial_sums(cuda, &self.x.tensor, dy, *first, &partial);
                back.add_column_sums(&partial, 0, Some(*factors));
            }
        }
        if let Some(dx) = dx {
            back.add(self.x.id, dx);
        }
    }

    /// Fills dx; column sums of dy * x, a row of them per task.
    fn backward_on_cpu(&self, back: &Backward<'_>, dy: &Tensor, dx: Option<&mut Tensor>) -> Tensor {
        let (rows, cols, level) = (dy.rows(), dy.cols(), back.device.level());
        let tasks = rows.div_ceil(ROWS_PER_TASK);
        let mut partial = back.uninit(tasks, cols, DType::F32);
        let (x, weights) = (&self.x.tensor, back.weights);
        let out = dx.map(SharedTensor::new);
        let all_sums = SharedSlice::new(partial.f32_mut());
        back.device.for_each(tasks, |task| {
            // SAFETY: every task has a partial row, and rows of dx, of its own.
            let sums = unsafe { all_sums.slice(task * cols, cols) };
            sums.fill(0.0);
            with_rows(cols, |z, scratch| {
                for r in task * ROWS_PER_TASK..rows.min((task + 1) * ROWS_PER_TASK) {
                    z.copy_from_slice(dy.row(level, r, scratch));
                    let x = x.row(level, r, scratch);
                    for ColumnScale { factors, first } in &self.scales {
                        let columns = *first..first + factors.cols;
                        add_products(
                            level,
                            &mut sums[columns.clone()],
                            &z[columns.clone()],
                            &x[columns.clone()],
                        );
                        multiply(level, &mut z[columns], weights.get(*factors));
                    }
                    if let Some(out) = &out {
                        // SAFETY: as above.
                        unsafe { out.write(level, r, 0, z) };
                    }
                }
            });
        });
        partial
    }
}

#[cfg(test)]
mod tests {
    use super::ColumnScale;
    use crate::testing::{Gradcheck, ODD_SIZES};

    /// The plain reference: factors at first columns.
    fn reference(x: &[f64], cols: usize, scales: &[(&[f64], usize)]) -> Vec<f64> {
        let mut y = x.to_vec();
        for row in y.chunks_mut(cols) {
            for (factors, first) in scales {
                for (y, factor) in row[*first..].iter_mut().zip(*factors) {
                    *y *= factor;
                }
            }
        }
        y
    }

    #[test]
    fn gradcheck() {
        for (i, cols) in ODD_SIZES.into_iter().enumerate() {
            let rows = ODD_SIZES[(i + 3) % 8];
            Gradcheck::new("column_scale", &[("x", rows, cols)], &[("factors", 1, cols)]).run(
                |tape, x, w| tape.scale_columns(&x[0], &[ColumnScale { factors: w[0], first: 0 }]),
                |x, w| reference(&x[0], cols, &[(&w[0], 0)]),
            );
        }
    }

    /// Keys and values of packed queries, keys and values.
    #[test]
    fn gradcheck_of_some_columns() {
        for (rows, cols) in [(1, 7), (33, 31), (67, 41)] {
            let params = [("of keys", 1, cols), ("of values", 1, cols)];
            Gradcheck::new("column_scale", &[("x", rows, 3 * cols)], &params).run(
                |tape, x, w| {
                    let of = |factors, first| ColumnScale { factors, first };
                    tape.scale_columns(&x[0], &[of(w[0], cols), of(w[1], 2 * cols)])
                },
                |x, w| reference(&x[0], 3 * cols, &[(&w[0], cols), (&w[1], 2 * cols)]),
            );
        }
    }
}
