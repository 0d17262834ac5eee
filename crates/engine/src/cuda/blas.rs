//! Matmuls through cuBLASLt.
//!
//! Owns: the translation of row-major matmuls into the library's column-major ones, one plan per shape, the
//! workspace. Never: what is multiplied.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::buffer::DevicePtr;
use super::context::Context;
use super::driver::{self, Addresses, CublasLt, Finish, Plan, Shape};
use super::error::Failure;
use super::graph::Call;
use super::locked;
use crate::activation::Activation;
use crate::dtype::DType;
use crate::tensor::Tensor;

/// What cuBLASLt may use beside the operands.
const WORKSPACE_BYTES: usize = 32 << 20;

/// Plans kept; packed batches have many lengths, and a plan is small and quickly made again.
const MOST_PLANS: usize = 4_096;

/// A row-major matrix in device memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix {
    ptr: DevicePtr,
    rows: usize,
    cols: usize,
    /// Elements from one row to the next.
    stride: usize,
    dtype: DType,
    transposed: bool,
}

impl Matrix {
    /// Rows that follow each other.
    pub(crate) fn new(ptr: DevicePtr, rows: usize, cols: usize, dtype: DType) -> Self {
        Self { ptr, rows, cols, stride: cols, dtype, transposed: false }
    }

    /// Its first element.
    pub(crate) fn ptr(&self) -> DevicePtr {
        self.ptr
    }

    /// The same memory read the other way round.
    pub(crate) fn transposed(self) -> Self {
        Self { rows: self.cols, cols: self.rows, transposed: !self.transposed, ..self }
    }

    /// The largest power of two up to 256 that divides the address and each row's.
    fn alignment(&self) -> u32 {
        let all = self.ptr.0 | (self.stride * self.dtype.size()) as u64 | 256;
        1 << all.trailing_zeros()
    }
}

/// What happens to what the output held before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    /// It is lost.
    Replace,
    /// The matmul is added to it.
    Add,
}

/// What is done to each row of a bf16 product before it is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finished<'a> {
    /// In bf16, a value for each column, at an address that [`Finished::takes`].
    pub(crate) bias: DevicePtr,
    pub(crate) activation: Activation,
    /// Takes the biased product that the activation is computed from; for GELU alone.
    pub(crate) kept: Option<&'a Tensor>,
}

impl Finished<'_> {
    /// Whether the library computes this, for rows of so many columns.
    pub(crate) fn computes(activation: Activation, keeps: bool, cols: usize) -> bool {
        let known = match activation {
            Activation::Identity | Activation::Relu => !keeps,
            Activation::Gelu => true,
            Activation::GeluExact | Activation::Silu | Activation::Tanh => false,
        };
        known && cols.is_multiple_of(8)
    }

    /// Whether it takes a bias from this address.
    pub(crate) fn takes(bias: DevicePtr) -> bool {
        bias.0.is_multiple_of(16)
    }

    fn finish(&self) -> Finish {
        match (self.activation, self.kept) {
            (Activation::Identity, None) => Finish::Bias,
            (Activation::Relu, None) => Finish::BiasRelu,
            (Activation::Gelu, None) => Finish::BiasGelu,
            (Activation::Gelu, Some(_)) => Finish::KeptBiasGelu,
            (activation, _) => unreachable!("cuBLASLt has no {activation:?} here"),
        }
    }
}

/// The library's handle and what is kept between matmuls.
#[derive(Debug)]
pub(super) struct Plans {
    library: CublasLt,
    workspace: (u64, usize),
    /// Held while a matmul is queued.
    queueing: Mutex<()>,
    by_shape: Mutex<HashMap<Shape, Arc<Plan>>>,
}

impl Plans {
    fn new() -> Result<Self, Failure> {
        let library = CublasLt::new()?;
        // Without a workspace there are fewer algorithms to choose from, but there are some.
        let workspace = driver::allocate(WORKSPACE_BYTES)?.map_or((0, 0), |at| (at, WORKSPACE_BYTES));
        Ok(Self { library, workspace, queueing: Mutex::default(), by_shape: Mutex::default() })
    }

    pub(super) fn destroy(self) {
        locked(&self.by_shape).clear();
        if self.workspace.1 > 0 {
            let _: Result<(), Failure> = driver::free(self.workspace.0);
        }
        let _: Result<(), Failure> = self.library.destroy();
    }

    fn plan(&self, shape: &Shape, addresses: &Addresses) -> Result<Arc<Plan>, Failure> {
        let mut plans = locked(&self.by_shape);
        if let Some(plan) = plans.get(shape) {
            return Ok(Arc::clone(plan));
        }
        if plans.len() >= MOST_PLANS {
            plans.clear();
        }
        let plan = Arc::new(self.library.plan(shape, addresses, self.workspace.1)?);
        plans.insert(*shape, Arc::clone(&plan));
        Ok(plan)
    }
}

impl Context {
    /// Queues `out = a b` or `out += a b`. Sums are f32; f32 operands are multiplied as f32.
    ///
    /// # Panics
    /// When the shapes or the operands' types do not fit.
    pub(crate) fn matmul(&self, a: Matrix, b: Matrix, out: Matrix, write: Write) {
        self.queue_matmul(a, b, out, write, None);
    }

    /// Queues `out = act(a b + bias)`, in bf16.
    ///
    /// # Panics
    /// When the shapes or the operands' types do not fit, or this is not what [`Finished::computes`] and [`Finished::takes`].
    pub(crate) fn matmul_finished(&self, a: Matrix, b: Matrix, out: Matrix, finished: Finished<'_>) {
        let Finished { bias, activation, kept } = finished;
        assert!(
            out.dtype == DType::Bf16
                && a.cols > 0
                && kept
                    .is_none_or(|k| k.dtype() == DType::Bf16 && k.cols() == out.cols && k.rows() == out.rows)
                && Finished::computes(activation, kept.is_some(), out.cols)
                && Finished::takes(bias),
            "{finished:?} of {out:?}"
        );
        self.queue_matmul(a, b, out, Write::Replace, Some(finished));
    }

    fn queue_matmul(&self, a: Matrix, b: Matrix, out: Matrix, write: Write, finished: Option<Finished<'_>>) {
        assert!(
            a.cols == b.rows && out.rows == a.rows && out.cols == b.cols,
            "{a:?} times {b:?} into {out:?}"
        );
        assert!(a.dtype == b.dtype && !out.transposed, "{a:?} times {b:?} into {out:?}");
        if out.rows == 0 || out.cols == 0 || self.is_broken() {
            return;
        }
        if a.cols == 0 {
            if write == Write::Replace {
                self.zero(out.ptr, out.rows * out.stride * out.dtype.size());
            }
            return;
        }
        // A row-major matrix is its own transpose in column-major, so out^T = b^T a^T: the operands change places.
        let shape = Shape {
            m: out.cols,
            n: out.rows,
            k: a.cols,
            transposed: [b.transposed, a.transposed],
            ld: [b.stride, a.stride, out.stride],
            bf16: [a.dtype == DType::Bf16, out.dtype == DType::Bf16],
            alignment: [b.alignment(), a.alignment(), out.alignment()],
            finish: finished.map_or(Finish::Nothing, |finished| finished.finish()),
        };
        let addresses = Addresses {
            operands: [b.ptr.0, a.ptr.0, out.ptr.0],
            bias: finished.map_or(0, |finished| finished.bias.0),
            kept: finished.and_then(|finished| finished.kept).map_or(0, |kept| kept.device_ptr().0),
        };
        let add = write == Write::Add;
        if !self.is_made(|| Call::Matmul { shape, addresses, add }) {
            return;
        }
        self.attempt(|| {
            let plans = if let Some(plans) = self.inner.plans.get() {
                plans
            } else {
                let made = Plans::new()?;
                self.inner.plans.get_or_init(|| made)
            };
            let plan = plans.plan(&shape, &addresses)?;
            let _queueing = locked(&plans.queueing);
            // SAFETY: the shapes fit each other, and whoever made the matrices knows their memory.
            unsafe { plans.library.run(&plan, &addresses, add, plans.workspace, self.stream()) }
                .map_err(|failure| Failure { text: format!("{} for {shape:?}", failure.text), ..failure })
        });
    }
}
