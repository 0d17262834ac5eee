//! Flat buffers for parameters and gradients, and the views that name a matrix inside them.
//!
//! Owns: master weights in f32, their derived copies, gradient accumulators. Never: knows what a parameter means.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::cpu::gemm::{Operand, PackedRight};
use crate::cuda::ops::elementwise;
use crate::cuda::{Context, DeviceBuffer, DevicePtr, Matrix};
use crate::device::Device;
use crate::dtype::{DType, Precision};
use crate::error::EngineError;
use crate::file_map::FileMap;
use crate::flat::Flat;
use crate::profile::Work;

/// A matrix (a vector has one row) inside the flat buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// First element in the flat weights.
    pub offset: usize,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// First element of its accumulator in the flat gradients; `None` for a frozen parameter.
    pub grad: Option<usize>,
}

impl View {
    /// Number of elements.
    pub const fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Some rows of it, which are a matrix of their own: one part of a packed weight `[3C, C]`.
    ///
    /// # Panics
    /// When there are not so many rows.
    #[must_use]
    pub fn row_range(self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {self:?}");
        let skipped = rows.start * self.cols;
        Self { offset: self.offset + skipped, rows: rows.len(), grad: self.grad.map(|g| g + skipped), ..self }
    }

    /// Some elements of a vector: the bias of one part of a packed weight.
    ///
    /// # Panics
    /// When it is not a vector, or has not so many elements.
    #[must_use]
    pub fn column_range(self, columns: Range<usize>) -> Self {
        assert!(
            self.rows == 1 && columns.start <= columns.end && columns.end <= self.cols,
            "{columns:?} of {self:?}"
        );
        let skipped = columns.start;
        Self {
            offset: self.offset + skipped,
            cols: columns.len(),
            grad: self.grad.map(|g| g + skipped),
            ..self
        }
    }
}

/// The master weights, f32, in the logical (checkpoint) layout.
#[derive(Debug)]
pub struct Weights {
    values: Values,
    /// How often the values may have changed.
    version: u64,
    packed: Mutex<HashMap<(View, bool), Derived>>,
    /// All values in bf16 on the device, and the version they were made from.
    rounded: Mutex<Option<(u64, DeviceBuffer)>>,
    /// Single parameters in bf16 on the device with zeros behind their rows and columns, likewise.
    padded: Mutex<HashMap<View, (u64, DeviceBuffer)>>,
}

#[derive(Debug)]
enum Values {
    Owned(Flat),
    /// In a file, where inference reads them without a copy; on a GPU with one.
    Mapped {
        map: FileMap,
        bytes: Range<usize>,
        device: OnceLock<DeviceBuffer>,
    },
}

/// A weight as a right operand, and the version of the values it was made from.
#[derive(Debug)]
struct Derived {
    version: u64,
    packed: Arc<PackedRight>,
}

impl Weights {
    /// Takes over the values.
    pub fn new(values: Vec<f32>) -> Self {
        Self::of(Values::Owned(values.into()))
    }

    /// The values at `bytes` of a file, in this machine's byte order. They are read from the file until they are changed.
    /// `None` when the file is too short or the values are not aligned.
    pub fn mapped(map: FileMap, bytes: Range<usize>) -> Option<Self> {
        bytemuck::try_cast_slice::<u8, f32>(map.get(bytes.clone())?).ok()?;
        Some(Self::of(Values::Mapped { map, bytes, device: OnceLock::new() }))
    }

    fn of(values: Values) -> Self {
        Self {
            values,
            version: 0,
            packed: Mutex::default(),
            rounded: Mutex::default(),
            padded: Mutex::default(),
        }
    }

    /// All values; waits for the device where only that has them.
    pub fn values(&self) -> &[f32] {
        match &self.values {
            Values::Owned(values) => values.values(),
            Values::Mapped { map, bytes, .. } => bytemuck::cast_slice(&map[bytes.clone()]),
        }
    }

    /// All values, to be changed. Copies derived from the old values are made again when they are next needed.
    pub fn values_mut(&mut self) -> &mut [f32] {
        self.owned_mut().values_mut()
    }

    /// The values, about to change, in memory that belongs to this process.
    fn owned_mut(&mut self) -> &mut Flat {
        self.version += 1;
        if let Values::Mapped { .. } = self.values {
            self.values = Values::Owned(self.values().to_vec().into());
        }
        match &mut self.values {
            Values::Owned(values) => values,
            Values::Mapped { .. } => unreachable!("replaced above"),
        }
    }

    /// All values on the device.
    fn device_all(&self, cuda: &Context) -> DevicePtr {
        match &self.values {
            Values::Owned(values) => values.device(cuda),
            Values::Mapped { device, .. } => {
                if let Some(buffer) = device.get() {
                    return buffer.ptr();
                }
                let buffer = cuda.upload_lasting(self.values());
                if buffer.bytes() == 0 { buffer.ptr() } else { device.get_or_init(|| buffer).ptr() }
            }
        }
    }

    /// All values on the device, to be changed there, and their bf16 copy if a current one exists. The copy counts as current
    /// afterwards, so the caller writes every changed value into it, too.
    pub(crate) fn device_step(&mut self, cuda: &Context) -> (DevicePtr, Option<DevicePtr>) {
        let before = self.version;
        let values = self.owned_mut().device_mut(cuda);
        let now = self.version;
        let copy = self.rounded.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut();
        let rounded = copy.filter(|(version, _)| *version == before).map(|(version, buffer)| {
            *version = now;
            buffer.ptr()
        });
        (values, rounded)
    }

    /// After [`Weights::device_step`]: rounds the padded copies again of the parameters that have values in the changed ranges
    /// (start and length), and counts the others as current.
    pub(crate) fn device_stepped(&mut self, cuda: &Context, changed: &[(usize, usize)]) {
        let now = self.version;
        let padded = std::mem::take(self.padded.get_mut().unwrap_or_else(PoisonError::into_inner));
        for (view, (version, buffer)) in &padded {
            let touched = changed
                .iter()
                .any(|&(start, len)| start < view.offset + view.len() && view.offset < start + len);
            if version + 1 == now && touched {
                self.pad(cuda, *view, buffer);
            }
        }
        let kept = padded.into_iter().map(|(view, (version, buffer))| {
            (view, (if version + 1 == now { now } else { version }, buffer))
        });
        *self.padded.get_mut().unwrap_or_else(PoisonError::into_inner) = kept.collect();
    }

    fn pad(&self, cuda: &Context, view: View, to: &DeviceBuffer) {
        let from = (self.device_f32(cuda, view), view.rows, view.cols);
        let to = (to.ptr(), elementwise::padded(view.rows), elementwise::padded(view.cols));
        elementwise::pad(cuda, from, DType::F32, to);
    }

    /// One parameter on the device in bf16, with rows and columns of zeros behind its own, so many that matmuls are fast
    /// ([`elementwise::padded`]). Made at the first use and kept as [`Weights::device_bf16`] is.
    pub(crate) fn device_padded(&self, cuda: &Context, view: View) -> Matrix {
        let (rows, cols) = (elementwise::padded(view.rows), elementwise::padded(view.cols));
        let matrix = |at: DevicePtr| Matrix::new(at, rows, cols, DType::Bf16);
        // The same copy whether the parameter trains at the moment or not.
        let key = View { grad: None, ..view };
        let mut padded = self.padded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((version, buffer)) = padded.get(&key)
            && *version == self.version
        {
            return matrix(buffer.ptr());
        }
        if cuda.is_unfit_for_graph() {
            // Nothing is computed now, so nothing may be marked as computed.
            return matrix(self.device_all(cuda));
        }
        let fresh = || cuda.allocate_lasting(rows * cols * DType::Bf16.size());
        let buffer = padded.remove(&key).map_or_else(fresh, |(_, buffer)| buffer);
        self.pad(cuda, key, &buffer);
        let at = buffer.ptr();
        if !cuda.is_broken() {
            padded.insert(key, (self.version, buffer));
        }
        matrix(at)
    }

    /// All values on the device, to be changed there in part; the bf16 copy is made again from all of them.
    pub(crate) fn device_changed(&mut self, cuda: &Context) -> DevicePtr {
        self.owned_mut().device_mut(cuda)
    }

    /// One parameter on the device, as an operand of matmuls of a type.
    pub(crate) fn device_matrix(&self, cuda: &Context, view: View, dtype: DType) -> Matrix {
        let values = match dtype {
            DType::F32 => self.device_f32(cuda, view),
            DType::Bf16 => self.device_bf16(cuda, view),
        };
        Matrix::new(values, view.rows, view.cols, dtype)
    }

    /// The values of one parameter on the device, f32.
    pub(crate) fn device_f32(&self, cuda: &Context, view: View) -> DevicePtr {
        self.device_all(cuda).offset(view.offset * DType::F32.size())
    }

    /// The values of one parameter on the device, in bf16. All values are rounded at the first use and whenever the host
    /// changed one; an optimizer step on the device rounds the values that it changes.
    pub(crate) fn device_bf16(&self, cuda: &Context, view: View) -> DevicePtr {
        let mut rounded = self.rounded.lock().unwrap_or_else(PoisonError::into_inner);
        let current = rounded.as_ref().filter(|(version, _)| *version == self.version);
        let start = if let Some((_, buffer)) = current {
            buffer.ptr()
        } else {
            if cuda.is_unfit_for_graph() {
                // Nothing is computed now, so nothing may be marked as computed.
                return self.device_all(cuda);
            }
            let n = self.values_len();
            let fresh = || cuda.allocate_lasting(n * DType::Bf16.size());
            let buffer = rounded.take().map_or_else(fresh, |(_, buffer)| buffer);
            elementwise::narrow(cuda, self.device_all(cuda), buffer.ptr(), n);
            let at = buffer.ptr();
            if !cuda.is_broken() {
                *rounded = Some((self.version, buffer));
            }
            at
        };
        start.offset(view.offset * DType::Bf16.size())
    }

    fn values_len(&self) -> usize {
        match &self.values {
            Values::Owned(values) => values.len(),
            Values::Mapped { bytes, .. } => bytes.len() / DType::F32.size(),
        }
    }

    /// The values of one parameter.
    pub fn get(&self, view: View) -> &[f32] {
        &self.values()[view.offset..view.offset + view.len()]
    }

    /// `view` (or its transpose) as the right operand of matmuls in bf16, packed at first use and kept until
    /// the weights change.
    pub(crate) fn packed(&self, device: &Device, view: View, transposed: bool) -> Arc<PackedRight> {
        // The same copy whether the parameter trains at the moment or not.
        let key = (View { grad: None, ..view }, transposed);
        let mut packed = self.packed.lock().unwrap_or_else(PoisonError::into_inner);
        let plain = Operand::from_f32(self.get(view), view.rows, view.cols);
        let operand = if transposed { plain.transposed() } else { plain };
        let copy = packed.entry(key).or_insert_with(|| Derived {
            version: self.version,
            packed: Arc::new(PackedRight::new(device, operand)),
        });
        if copy.version != self.version {
            let _timer = device.time(Work::Packing);
            match Arc::get_mut(&mut copy.packed) {
                Some(unshared) => unshared.repack(device, operand),
                None => copy.packed = Arc::new(PackedRight::new(device, operand)),
            }
            copy.version = self.version;
        }
        Arc::clone(&copy.packed)
    }
}

/// Numbers that are followed together in [`Gradients`].
pub(crate) const GRADIENT_BLOCK: usize = 256;

/// Gradient accumulators, f32. All uses of a tied parameter add to the same accumulator, in the order of the tape.
///
/// In fine-tuning most rows of the token embedding have no gradient in a step, and many never have one: what was not reached
/// is known to be zero, and neither the norm nor the optimizer reads it. On the processor alone.
#[derive(Debug)]
pub struct Gradients {
    values: Flat,
    /// Of each block, whether something was added to it since it was zero.
    reached: Vec<bool>,
    /// Of each block, whether its moments may be anything but zero; see `ops/adam.rs`.
    moved: Vec<bool>,
    /// Whether all blocks are marked.
    everywhere: bool,
}

impl Gradients {
    /// `len` zeros.
    pub fn new(len: usize) -> Self {
        let blocks = len.div_ceil(GRADIENT_BLOCK);
        let (reached, moved) = (vec![false; blocks], vec![true; blocks]);
        Self { values: Flat::zeros(len), reached, moved, everywhere: false }
    }

    /// All accumulators.
    pub fn values(&self) -> &[f32] {
        self.values.values()
    }

    /// All accumulators, to be changed.
    pub fn values_mut(&mut self) -> &mut [f32] {
        self.mark_everything();
        self.values.values_mut()
    }

    /// Makes all of them zero: the step is skipped or repeated.
    pub fn clear(&mut self) {
        self.values.clear();
        self.reached.fill(false);
        self.everywhere = false;
    }

    /// Of each block of [`GRADIENT_BLOCK`], whether it may be anything but zero.
    pub(crate) fn reached(&self) -> &[bool] {
        &self.reached
    }

    /// All accumulators, what was reached of them, and whose moments may be anything but zero. Whoever takes these leaves the
    /// accumulators zero.
    pub(crate) fn taken(&mut self) -> (&mut [f32], &mut [bool], &mut [bool]) {
        self.everywhere = false;
        (self.values.values_mut(), &mut self.reached, &mut self.moved)
    }

    /// All accumulators and what was reached of them, for sums with those of other groups and ranks.
    pub(crate) fn parts_mut(&mut self) -> (&mut [f32], &mut [bool]) {
        self.everywhere = false;
        (self.values.values_mut(), &mut self.reached)
    }

    /// Exchanges the accumulators with those of `other`, of the same length; what is known of the moments stays.
    pub(crate) fn swap_sums(&mut self, other: &mut Self) {
        std::mem::swap(&mut self.values, &mut other.values);
        std::mem::swap(&mut self.reached, &mut other.reached);
        // Each marks anew what it is given.
        (self.everywhere, other.everywhere) = (false, false);
    }

    /// Of each block, whether its moments may be anything but zero.
    pub(crate) fn moved(&self) -> &[bool] {
        &self.moved
    }

    fn mark_everything(&mut self) {
        if !self.everywhere {
            self.reached.fill(true);
            self.moved.fill(true);
            self.everywhere = true;
        }
    }

    fn mark(&mut self, start: usize, len: usize) {
        if len > 0 {
            self.reached[start / GRADIENT_BLOCK..=(start + len - 1) / GRADIENT_BLOCK].fill(true);
        }
    }

    pub(crate) fn flat(&self) -> &Flat {
        &self.values
    }

    pub(crate) fn flat_mut(&mut self) -> &mut Flat {
        self.mark_everything();
        &mut self.values
    }

    /// The accumulator of one parameter on the device, f32; `None` when it is frozen.
    pub(crate) fn device_mut(&mut self, cuda: &Context, view: View) -> Option<DevicePtr> {
        self.mark_everything();
        view.grad.map(|start| self.values.device_mut(cuda).offset(start * DType::F32.size()))
    }

    /// As [`Gradients::device_mut`], for matmuls that add to it.
    pub(crate) fn device_matrix(&mut self, cuda: &Context, view: View) -> Option<Matrix> {
        let start = self.device_mut(cuda, view)?;
        Some(Matrix::new(start, view.rows, view.cols, DType::F32))
    }

    /// As [`Gradients::device_matrix`], with so many rows: those behind the parameter's are other parameters' accumulators. `None` where
    /// there are not as many.
    pub(crate) fn device_matrix_with_rows(
        &mut self,
        cuda: &Context,
        view: View,
        rows: usize,
    ) -> Option<Matrix> {
        let (start, count) = (view.grad?, self.values.len());
        (start + rows * view.cols <= count).then(|| {
            self.mark_everything();
            let at = self.values.device_mut(cuda).offset(start * DType::F32.size());
            Matrix::new(at, rows, view.cols, DType::F32)
        })
    }

    /// The accumulator of one parameter; `None` when it is frozen.
    pub(crate) fn get_mut(&mut self, view: View) -> Option<&mut [f32]> {
        let start = view.grad?;
        self.mark(start, view.len());
        Some(&mut self.values.values_mut()[start..start + view.len()])
    }

    /// As [`Gradients::get_mut`], for adding to some rows alone.
    pub(crate) fn rows_mut(&mut self, view: View, rows: impl Iterator<Item = u32>) -> Option<&mut [f32]> {
        let start = view.grad?;
        for row in rows {
            self.mark(start + row as usize * view.cols, view.cols);
        }
        Some(&mut self.values.values_mut()[start..start + view.len()])
    }
}

/// Places on the GPU everything that lasts through training, so that only activations can fail to fit later, and of those
/// there can be fewer at a time. Does nothing on the processor, or when everything is in place already.
///
/// # Errors
/// [`EngineError::ModelTooLarge`] when it does not fit, else as [`Device::check_queued`].
pub fn make_resident(
    device: &Device,
    weights: &Weights,
    gradients: &Gradients,
    moments: [&Flat; 2],
    precision: Precision,
) -> Result<(), EngineError> {
    let Some(cuda) = device.cuda() else { return Ok(()) };
    let mut needed = weights.values_len() * DType::F32.size();
    weights.device_all(cuda);
    for flat in [gradients.flat(), moments[0], moments[1]] {
        needed += flat.len() * DType::F32.size();
        flat.device(cuda);
    }
    if precision.activation() == DType::Bf16 {
        needed += weights.values_len() * DType::Bf16.size();
        weights.device_bf16(cuda, View { offset: 0, rows: 0, cols: 0, grad: None });
    }
    device.check_queued().map_err(|error| match error {
        // What was placed of it counts as free.
        EngineError::OutOfMemory { device, free, total, .. } => {
            EngineError::ModelTooLarge { device, needed, free: free + cuda.bytes().0, total }
        }
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CodePath;
    use crate::cpu::gemm::{Right, gemm};
    use crate::cpu::shared::SharedSlice;

    #[test]
    fn values_in_a_file_are_copied_when_they_change() {
        let path = std::env::temp_dir().join(format!("headstart-weights-{}", std::process::id()));
        let stored: Vec<f32> = (0..6).map(|i| i as f32).collect();
        std::fs::write(&path, bytemuck::cast_slice::<f32, u8>(&stored)).unwrap();
        let map = FileMap::open(&path).unwrap();
        for unfit in [4..28, 2..10, 4..11] {
            assert!(Weights::mapped(map.clone(), unfit).is_none());
        }
        let mut weights = Weights::mapped(map, 4..24).unwrap();
        assert_eq!(weights.values(), &stored[1..]);
        assert_eq!(weights.get(View { offset: 2, rows: 1, cols: 2, grad: None }), &stored[3..5]);
        weights.values_mut()[0] = 9.0;
        assert_eq!(weights.values()[..2], [9.0, 2.0]);
        assert_eq!(std::fs::read(&path).unwrap(), bytemuck::cast_slice::<f32, u8>(&stored));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn packed_copies_follow_the_values() {
        for path in [CodePath::Auto, CodePath::Portable] {
            let device = Device::cpu(std::num::NonZeroUsize::new(2), path).unwrap();
            let mut weights = Weights::new((0..12).map(|i| i as f32).collect());
            // Two parameters that start at the same place: rows of a matrix, and the matrix.
            let whole = View { offset: 0, rows: 4, cols: 3, grad: None };
            let part = View { rows: 2, ..whole };
            for _ in 0..3 {
                for (view, transposed) in [(whole, false), (part, false), (whole, true), (part, true)] {
                    let packed = weights.packed(&device, view, transposed);
                    let (inner, cols) =
                        if transposed { (view.cols, view.rows) } else { (view.rows, view.cols) };
                    let ones = vec![1.0; inner];
                    let mut sums = vec![0.0; cols];
                    let out = SharedSlice::new(&mut sums);
                    let left = Operand::from_f32(&ones, 1, inner);
                    gemm(&device, Precision::Bf16, left, Right::Packed(&packed), None, |_, col, z| {
                        // SAFETY: the matmul hands out every element once.
                        unsafe { out.slice(col, z.len()) }.copy_from_slice(z);
                    });
                    let values = weights.get(view);
                    let at = |i, c| if transposed { c * view.cols + i } else { i * view.cols + c };
                    let exact = |c| (0..inner).map(|i| values[at(i, c)]).sum::<f32>();
                    assert_eq!(sums, (0..cols).map(exact).collect::<Vec<_>>());
                }
                weights.values_mut().iter_mut().for_each(|v| *v += 2.0);
            }
        }
    }
}
