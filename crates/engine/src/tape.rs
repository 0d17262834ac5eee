//! The tape: ops run as they are called, each leaves what its backward needs, `backward` walks back.
//!
//! Owns: the order of things, gradients of values, what is recorded. Never: the mathematics of an op (`ops/`).
//!
//! A value carries the id of its gradient only if something trainable lies below it; an op none of whose inputs
//! do (and which has no trainable parameter) records nothing, so frozen layers cost no backward time or memory.
//! What is recorded is the op's backward itself, a closure: an op without one cannot record.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::cpu::rows::{self, ROWS_PER_TASK, apply_dropout};
use crate::cpu::scratch::with_rows;
use crate::cpu::shared::SharedTensor;
use crate::cuda::Slab;
use crate::cuda::ops::{DeviceDropout, elementwise};
use crate::device::Device;
use crate::dtype::{DType, Precision};
use crate::matmul::{ByWeight, Direction};
use crate::ops::dropout::DropoutRows;
use crate::packing::{Packing, TokenOf};
use crate::profile::Work;
use crate::rng::{self, DropRate};
use crate::tensor::Tensor;
use crate::weights::{Gradients, View, Weights};

/// A matrix on the tape.
#[derive(Clone, Debug)]
pub struct Value {
    pub(crate) tensor: Tensor,
    /// On a GPU perhaps the same as matmuls take it, with zeros behind its columns.
    pub(crate) operand: Option<Tensor>,
    /// Where its gradient is gathered; `None` when nothing below it is trainable.
    pub(crate) id: Option<usize>,
}

impl Value {
    /// The content.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// What matmuls read.
    pub(crate) fn operand(&self) -> &Tensor {
        self.operand.as_ref().unwrap_or(&self.tensor)
    }

    /// Whether a gradient flows through it.
    pub fn needs_gradient(&self) -> bool {
        self.id.is_some()
    }
}

/// Dropout at one place of a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Probability of dropping, in `[0, 1)`.
    pub p: f32,
    /// Which place: every place of a model has a number of its own.
    pub site: u32,
}

/// Hears from which element on the gradients are complete.
pub type Tell<'a> = dyn FnMut(usize, &Gradients) + 'a;

/// An op's backward, with what the op left behind for it.
struct Recorded(Box<dyn FnOnce(&mut Backward<'_>)>);

impl fmt::Debug for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recorded")
    }
}

/// What turns a forward pass into a training pass.
#[derive(Debug)]
struct Training<'a> {
    gradients: &'a mut Gradients,
    seed: u64,
    /// The optimizer step.
    step: u64,
    /// One dropout key per token.
    row_keys: Arc<[u64]>,
    /// That of each sequence's first token.
    sequence_keys: Arc<[u64]>,
}

/// One slab's forward (and backward) pass.
#[derive(Debug)]
pub struct Tape<'a> {
    pub(crate) device: &'a Device,
    pub(crate) weights: &'a Weights,
    pub(crate) packing: Cow<'a, Packing>,
    pub(crate) precision: Precision,
    /// What ops on a GPU share; `None` on the processor.
    pub(crate) slab: Option<Arc<Slab>>,
    training: Option<Training<'a>>,
    /// In the order of the forward pass.
    recorded: Vec<Recorded>,
    values: usize,
    /// Whether `backward` tells how far the gradients are complete.
    tells: bool,
}

impl<'a> Tape<'a> {
    /// A tape that records nothing: evaluation, prediction, generation. Dropout is off.
    pub fn inference(
        device: &'a Device,
        weights: &'a Weights,
        packing: &'a Packing,
        precision: Precision,
    ) -> Self {
        let slab = device.cuda().map(|cuda| Arc::new(Slab::new(cuda, packing, None)));
        Self {
            device,
            weights,
            packing: Cow::Borrowed(packing),
            precision,
            slab,
            training: None,
            recorded: Vec::new(),
            values: 0,
            tells: false,
        }
    }

    /// A tape that records. Gradients are added to `gradients`; dropout masks follow from `seed`, the optimizer
    /// `step`, and the packing's sequence ids and positions.
    pub fn training(
        device: &'a Device,
        weights: &'a Weights,
        gradients: &'a mut Gradients,
        packing: &'a Packing,
        precision: Precision,
        seed: u64,
        step: u64,
    ) -> Self {
        let row_keys: Arc<[u64]> = packing.rows().map(|(s, p)| rng::row_key(seed, step, s, p)).collect();
        let first = |sequence| row_keys[packing.range(sequence).start];
        let sequence_keys: Arc<[u64]> = (0..packing.sequences()).map(first).collect();
        let keys = [&row_keys[..], &sequence_keys];
        let slab = device.cuda().map(|cuda| Arc::new(Slab::new(cuda, packing, Some(keys))));
        let training = Some(Training { gradients, seed, step, row_keys, sequence_keys });
        Self {
            device,
            weights,
            packing: Cow::Borrowed(packing),
            precision,
            slab,
            training,
            recorded: Vec::new(),
            values: 0,
            tells: false,
        }
    }

    /// Where it computes.
    pub fn device(&self) -> &'a Device {
        self.device
    }

    /// The batch this tape computes.
    pub fn packing(&self) -> &Packing {
        &self.packing
    }

    /// Ops from here on are of one token of each sequence, `[B, C]` where they were `[N, C]`: the tape's packing is of these tokens alone.
    /// What goes on has to be of their rows ([`Packing::rows_of`], [`Tape::select_rows`]). What is dropped of them is what it would have
    /// been beside the others.
    pub fn keep_one_token(&mut self, token: TokenOf) {
        let kept = self.packing.of_one_token(token);
        if let Some(training) = &mut self.training {
            let rows = self.packing.rows_of(token);
            training.row_keys = rows.iter().map(|&row| training.row_keys[row as usize]).collect();
        }
        let slab = self.device.cuda().map(|cuda| {
            let keys =
                self.training.as_ref().map(|training| [&training.row_keys[..], &training.sequence_keys]);
            Arc::new(Slab::new(cuda, &kept, keys))
        });
        let whole = std::mem::replace(&mut self.packing, Cow::Owned(kept)).into_owned();
        let whole_slab = std::mem::replace(&mut self.slab, slab);
        // Where nothing is recorded, nothing will ask.
        if !self.recorded.is_empty() {
            self.record_root(move |back| {
                back.packing = Cow::Owned(whole);
                back.slab = whole_slab;
            });
        }
    }

    /// The optimizer step it computes gradients for; `None` on a tape that records nothing.
    pub fn step(&self) -> Option<u64> {
        self.training.as_ref().map(|training| training.step)
    }

    /// Whether the optimizer step leaves out a whole part of the model, which it does with probability `p`: on every tape of the step
    /// alike. Nothing is left out in inference.
    pub fn leaves_out(&self, p: f32, part: u64) -> bool {
        let Some(training) = self.training.as_ref().filter(|_| p > 0.0) else { return false };
        let draw = rng::part_key(training.seed, training.step, part) >> 11;
        (draw as f64 / (1_u64 << 53) as f64) < f64::from(p)
    }

    /// Has [`Tape::completes_from`] heard by [`Tape::backward_telling`].
    #[must_use]
    pub fn telling(self) -> Self {
        Self { tells: true, ..self }
    }

    /// Ops from here on add to no gradient before element `first`, and ops until here to none behind it: once backward has come
    /// back to here, all from `first` on are complete.
    pub fn completes_from(&mut self, first: usize) {
        if self.tells {
            self.record_root(move |back| {
                if let Some(tell) = &mut back.tell {
                    tell(first, back.gradients);
                }
            });
        }
    }

    /// Runs every recorded op backward, last first, adding to the gradients the tape was given.
    /// Losses were scaled when they were computed.
    pub fn backward(self) {
        self.backward_from(Vec::new(), None);
    }

    /// As [`Tape::backward`]; tells from which element on the gradients are complete, at the end that all are.
    pub fn backward_telling(self, tell: &mut Tell<'_>) {
        self.backward_from(Vec::new(), Some(tell));
    }

    /// As [`Tape::backward`], from given output gradients; returns what reached the values nobody recorded.
    pub(crate) fn backward_from(
        self,
        seeds: Vec<(usize, Tensor)>,
        tell: Option<&mut Tell<'_>>,
    ) -> Vec<Option<Tensor>> {
        let Some(training) = self.training else { return Vec::new() };
        let mut back = Backward {
            device: self.device,
            weights: self.weights,
            packing: self.packing,
            precision: self.precision,
            slab: self.slab,
            gradients: training.gradients,
            // One by one, so that its lifetime may shrink.
            tell: match tell {
                Some(tell) => Some(tell),
                None => None,
            },
            value_gradients: (0..self.values).map(|_| None).collect(),
        };
        for (id, gradient) in seeds {
            back.add(Some(id), gradient);
        }
        for Recorded(backward) in self.recorded.into_iter().rev() {
            backward(&mut back);
        }
        if let Some(tell) = back.tell {
            tell(0, back.gradients);
        }
        back.value_gradients
    }

    /// Whether gradients are wanted at all.
    pub fn is_training(&self) -> bool {
        self.training.is_some()
    }

    /// The accumulators, on a training tape.
    pub(crate) fn gradients(&mut self) -> Option<&mut Gradients> {
        self.training.as_mut().map(|t| &mut *t.gradients)
    }

    /// What is dropped, with the per-token keys; `None` in inference and for p = 0.
    pub(crate) fn active_dropout(&self, dropout: Option<Dropout>) -> Option<ActiveDropout> {
        self.active_dropout_of(DropoutRows::Tokens, dropout)
    }

    /// The same with keys for other rows.
    pub(crate) fn active_dropout_of(
        &self,
        rows: DropoutRows,
        dropout: Option<Dropout>,
    ) -> Option<ActiveDropout> {
        let training = self.training.as_ref()?;
        let dropout = dropout.filter(|d| d.p > 0.0)?;
        let rate = DropRate::new(dropout.p);
        let row_keys = Arc::clone(match rows {
            DropoutRows::Tokens => &training.row_keys,
            DropoutRows::Sequences => &training.sequence_keys,
        });
        Some(ActiveDropout { rate, site: dropout.site, rows, row_keys, slab: self.slab.clone() })
    }

    /// Wraps an op's output. If a gradient is needed, `backward` is recorded, to be called with the finished gradient of
    /// the output; it is not called when nothing downstream used that.
    pub(crate) fn record(
        &mut self,
        tensor: Tensor,
        needs_gradient: bool,
        backward: impl FnOnce(&mut Backward<'_>, Tensor) + 'static,
    ) -> Value {
        if !needs_gradient || !self.is_training() {
            return Value { tensor, operand: None, id: None };
        }
        let id = self.new_id();
        self.record_root(move |back| {
            if let Some(gradient) = back.value_gradients[id].take() {
                backward(back, gradient);
            }
        });
        Value { tensor, operand: None, id: Some(id) }
    }

    /// Records the backward of an op that has no output value: a loss.
    pub(crate) fn record_root(&mut self, backward: impl FnOnce(&mut Backward<'_>) + 'static) {
        self.recorded.push(Recorded(Box::new(backward)));
    }

    fn new_id(&mut self) -> usize {
        self.values += 1;
        self.values - 1
    }

    /// A weight to multiply by.
    pub(crate) fn by_weight(&self, weight: View, direction: Direction) -> ByWeight<'_> {
        let (device, weights, precision) = (self.device, self.weights, self.precision);
        ByWeight { device, weights, precision, weight, direction }
    }

    /// A fresh matrix from the pool, content unspecified.
    pub(crate) fn uninit(&self, rows: usize, cols: usize, dtype: DType) -> Tensor {
        Tensor::uninit(self.device.pool(), rows, cols, dtype)
    }

    /// Number of recorded ops: what freezing saves is tested with it.
    pub fn recorded(&self) -> usize {
        self.recorded.len()
    }

    /// A leaf with a gradient, for tests and benchmarks of single ops.
    pub(crate) fn leaf(&mut self, tensor: Tensor) -> Value {
        let id = Some(self.new_id());
        Value { tensor, operand: None, id }
    }
}

/// Dropout that is on: the rate, the site and the rows' keys, one per token unless an op chose among them.
#[derive(Clone, Debug)]
pub(crate) struct ActiveDropout {
    pub(crate) rate: DropRate,
    pub(crate) site: u32,
    rows: DropoutRows,
    row_keys: Arc<[u64]>,
    slab: Option<Arc<Slab>>,
}

impl ActiveDropout {
    /// What kernels are told of it; `None` on the processor.
    pub(crate) fn on_device(&self) -> Option<DeviceDropout> {
        let row_keys = self.slab.as_ref()?.dropout_keys(self.rows)?;
        Some(DeviceDropout { row_keys, site: self.site, rate: self.rate })
    }

    /// The key of a row at this site.
    pub(crate) fn key(&self, row: usize) -> u64 {
        rng::site_key(self.row_keys[row], self.site)
    }

    /// Fills `to` with `from` times the dropout factors, on the processor.
    pub(crate) fn mask(&self, device: &Device, from: &Tensor, to: &mut Tensor) {
        let (rows, cols, level) = (from.rows(), from.cols(), device.level());
        let out = SharedTensor::new(to);
        device.for_each(rows.div_ceil(ROWS_PER_TASK), |task| {
            with_rows(cols, |row, scratch| {
                for r in task * ROWS_PER_TASK..rows.min((task + 1) * ROWS_PER_TASK) {
                    row.copy_from_slice(from.row(level, r, scratch));
                    apply_dropout(level, row, self.key(r), 0, self.rate);
                    // SAFETY: every task has rows of its own.
                    unsafe { out.write(level, r, 0, row) };
                }
            });
        });
    }
}

/// The state of the walk back.
pub(crate) struct Backward<'a> {
    pub(crate) device: &'a Device,
    pub(crate) weights: &'a Weights,
    pub(crate) packing: Cow<'a, Packing>,
    pub(crate) precision: Precision,
    pub(crate) slab: Option<Arc<Slab>>,
    pub(crate) gradients: &'a mut Gradients,
    /// Hears how far the gradients are complete.
    tell: Option<&'a mut Tell<'a>>,
    value_gradients: Vec<Option<Tensor>>,
}

impl Backward<'_> {
    /// Takes the gradient gathered so far for a value if its buffer may be written, so that an op can add to
    /// it in its own epilogue and put it back with [`Backward::add`].
    pub(crate) fn take_unique_f32(&mut self, id: usize) -> Option<Tensor> {
        let slot = &mut self.value_gradients[id];
        if slot.as_mut().is_some_and(|t| t.dtype() == DType::F32 && t.is_unique()) {
            slot.take()
        } else {
            None
        }
    }

    /// Adds a contribution to the gradient of a value (nothing for a value without one).
    pub(crate) fn add(&mut self, id: Option<usize>, contribution: Tensor) {
        let Some(id) = id else { return };
        let sum = match self.value_gradients[id].take() {
            None => contribution,
            Some(sum) => add_tensors(self.device, sum, contribution),
        };
        self.value_gradients[id] = Some(sum);
    }

    /// Adds the sums of columns of partial sums, from column `first` on, to the gradient of a parameter (nothing for a
    /// frozen one).
    pub(crate) fn add_column_sums(&mut self, partial: &Tensor, first: usize, parameter: Option<View>) {
        let Some(view) = parameter else { return };
        if let Some(cuda) = self.device.cuda() {
            if let Some(to) = self.gradients.device_mut(cuda, view) {
                elementwise::add_column_sums(cuda, partial, first, to, view.len());
            }
        } else if let Some(gradient) = self.gradients.get_mut(view) {
            rows::add_column_sums(self.device.level(), partial, first, gradient);
        }
    }

    /// A gradient times the dropout factors, in f32, on the processor.
    pub(crate) fn masked(&self, gradient: &Tensor, dropout: &ActiveDropout) -> Tensor {
        let mut masked = self.uninit(gradient.rows(), gradient.cols(), DType::F32);
        dropout.mask(self.device, gradient, &mut masked);
        masked
    }

    /// A weight to multiply by.
    pub(crate) fn by_weight(&self, weight: View, direction: Direction) -> ByWeight<'_> {
        let (device, weights, precision) = (self.device, self.weights, self.precision);
        ByWeight { device, weights, precision, weight, direction }
    }

    /// A fresh matrix from the pool, content unspecified.
    pub(crate) fn uninit(&self, rows: usize, cols: usize, dtype: DType) -> Tensor {
        Tensor::uninit(self.device.pool(), rows, cols, dtype)
    }
}

/// a + b in f32, into whichever buffer may be written. The operands keep their order, so do the bits.
fn add_tensors(device: &Device, mut a: Tensor, mut b: Tensor) -> Tensor {
    let _timer = device.time(Work::Other);
    if !(a.dtype() == DType::F32 && a.is_unique()) && b.dtype() == DType::F32 && b.is_unique() {
        std::mem::swap(&mut a, &mut b); // f32 addition commutes bit for bit
    }
    if let Some(cuda) = device.cuda() {
        if !(a.dtype() == DType::F32 && a.is_unique()) {
            a = elementwise::copy(cuda, device.pool(), &a, DType::F32);
        }
        elementwise::add(cuda, &a, &b);
        return a;
    }
    if !(a.dtype() == DType::F32 && a.is_unique()) {
        let mut copy = Tensor::uninit(device.pool(), a.rows(), a.cols(), DType::F32);
        match a.dtype() {
            DType::F32 => copy.f32_mut().copy_from_slice(a.f32()),
            DType::Bf16 => crate::cpu::convert::widen_plain(a.bf16(), copy.f32_mut()),
        }
        a = copy;
    }
    match b.dtype() {
        DType::F32 => a.f32_mut().iter_mut().zip(b.f32()).for_each(|(a, b)| *a += b),
        DType::Bf16 => a.f32_mut().iter_mut().zip(b.bf16()).for_each(|(a, b)| *a += b.to_f32()),
    }
    a
}
