//! A gated activation (Shazeer 2020): y = act(first half of the columns) * second half. With GELU it is GeGLU, with SiLU
//! SwiGLU.
//!
//! Shapes: x `[N, 2F]`, y `[N, F]` in the activation type of the precision (it feeds matmuls). x is kept, not copied.
//! Backward, with a and b the halves of x: da = dy * b * act'(a); db = dy * act(a).

use crate::activation::{Activation, activate, derive};
use crate::cpu::rows::{ROWS_PER_TASK, multiply};
use crate::cpu::scratch::with_rows;
use crate::cpu::shared::SharedTensor;
use crate::cuda;
use crate::device::Device;
use crate::profile::Work;
use crate::tape::{Tape, Value};
use crate::tensor::Tensor;

impl Tape<'_> {
    /// See the module's header.
    ///
    /// # Panics
    /// When x has an odd number of columns.
    pub fn gate(&mut self, x: &Value, activation: Activation) -> Value {
        let device = self.device;
        let _timer = device.time(Work::Other);
        let (rows, cols) = (x.tensor.rows(), x.tensor.cols() / 2);
        assert_eq!(x.tensor.cols(), 2 * cols, "the columns of a gate have two halves");
        let mut y = self.uninit(rows, cols, self.precision.activation());
        if let Some(cuda) = device.cuda() {
            cuda::ops::gate::forward(cuda, &x.tensor, activation, &y);
        } else {
            forward_on_cpu(device, &x.tensor, activation, &mut y);
        }
        let x = x.clone();
        self.record(y, x.id.is_some(), move |back, dy| {
            let device = back.device;
            let _timer = device.time(Work::Other);
            let mut dx = back.uninit(rows, 2 * cols, back.precision.activation());
            if let Some(cuda) = device.cuda() {
                cuda::ops::gate::backward(cuda, &x.tensor, activation, &dy, &dx);
            } else {
                backward_on_cpu(device, &x.tensor, activation, &dy, &mut dx);
            }
            back.add(x.id, dx);
        })
    }
}

fn forward_on_cpu(device: &Device, x: &Tensor, activation: Activation, y: &mut Tensor) {
    let (rows, cols, level) = (y.rows(), y.cols(), device.level());
    let out = SharedTensor::new(y);
    device.for_each(rows.div_ceil(ROWS_PER_TASK), |task| {
        with_rows(2 * cols, |z, scratch| {
            for r in task * ROWS_PER_TASK..rows.min((task + 1) * ROWS_PER_TASK) {
                z.copy_from_slice(x.row(level, r, scratch));
                let (a, b) = z.split_at_mut(cols);
                activate(level, activation, a);
                multiply(level, a, b);
                // SAFETY: every task has rows of its own.
                unsafe { out.write(level, r, 0, a) };
            }
        });
    });
}

fn backward_on_cpu(device: &Device, x: &Tensor, activation: Activation, dy: &Tensor, dx: &mut Tensor) {
    let (rows, cols, level) = (dy.rows(), dy.cols(), device.level());
    let out = SharedTensor::new(dx);
    device.for_each(rows.div_ceil(ROWS_PER_TASK), |task| {
        with_rows(2 * cols, |z, scratch| {
            for r in task * ROWS_PER_TASK..rows.min((task + 1) * ROWS_PER_TASK) {
                z.copy_from_slice(x.row(level, r, scratch));
                let d = dy.row(level, r, scratch);
                let (a, b) = z.split_at_mut(cols);
                // b becomes da, then a becomes db.
                multiply(level, b, d);
                // (ReLU's derivative asks for the sign of its output, which is that of its input.)
                derive(level, activation, b, a);
                activate(level, activation, a);
                multiply(level, a, d);
                // SAFETY: every task has rows of its own.
                unsafe {
                    out.write(level, r, 0, b);
                    out.write(level, r, cols, a);
                }
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use crate::ops::linear::{Activation, reference::activate};
    use crate::testing::{Gradcheck, ODD_SIZES};

    #[test]
    fn gradcheck() {
        for (i, cols) in ODD_SIZES.into_iter().enumerate() {
            let activations = [Activation::GeluExact, Activation::Silu, Activation::Relu, Activation::Gelu];
            let activation = activations[i % activations.len()];
            Gradcheck::new("gate", &[("x", ODD_SIZES[(i + 3) % 8], 2 * cols)], &[]).run(
                |tape, x, _| tape.gate(&x[0], activation),
                |x, _| {
                    let row = |row: &[f64]| {
                        let (a, b) = row.split_at(cols);
                        a.iter().zip(b).map(|(&a, b)| activate(a, activation) * b).collect::<Vec<_>>()
                    };
                    x[0].chunks(2 * cols).flat_map(row).collect()
                },
            );
        }
    }
}
