//! What a linear padded, without its padding: `y[:, c] = x[:, c]` for the first columns.
//!
//! Shapes: x `[N, C]`, or `[N, more]` with zeros behind (only on a GPU; [`crate::ops::linear::Linear::padded_output`]), y `[N, C]` in the
//! type of x. Backward: dx is dy with zeros behind.

use crate::cuda::ops::elementwise;
use crate::profile::Work;
use crate::tape::{Tape, Value};

impl Tape<'_> {
    /// The first `cols` columns of x: x itself where it has no others.
    ///
    /// # Panics
    /// When x is narrower, or wider and on the processor.
    pub fn own_columns(&mut self, x: &Value, cols: usize) -> Value {
        let device = self.device;
        if x.tensor.cols() == cols {
            return x.clone();
        }
        let _timer = device.time(Work::Other);
        let padded = device.is_cuda() && elementwise::padded(cols) == x.tensor.cols();
        assert!(padded, "{cols} columns of {}", x.tensor.cols());
        let Some(cuda) = device.cuda() else { return x.clone() };
        let y = self.uninit(x.tensor.rows(), cols, x.tensor.dtype());
        elementwise::copy_columns(cuda, &x.tensor, 0, &y);
        let id = x.id;
        self.record(y, id.is_some(), move |back, dy| {
            if let Some(cuda) = back.device.cuda() {
                back.add(id, elementwise::pad_columns(cuda, back.device.pool(), &dy));
            }
        })
    }
}
