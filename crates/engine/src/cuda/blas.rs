//! Matmuls through cuBLASLt.
//!
//! Owns: the translation of row-major matmuls into the library's column-major ones, one plan per shape, the
//! workspace. Never: what is multiplied.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::buffer::DevicePtr;
use super::context::Context;
use super::driver::{self, CublasLt, Plan, Shape};
use super::error::Failure;
use super::graph::Call;
use super::locked;
use crate::dtype::DType;

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

/// The library's handle and what is kept between matmuls.
#[derive(Debug)]
pub(super) struct Plans {
    library: CublasLt,
    workspace: (u64, usize),
    by_shape: Mutex<HashMap<Shape, Arc<Plan>>>,
}

impl Plans {
    fn new() -> Result<Self, Failure> {
        let library = CublasLt::new()?;
        // Without a workspace there are fewer algorithms to choose from, but there are some.
        let workspace = driver::allocate(WORKSPACE_BYTES)?.map_or((0, 0), |at| (at, WORKSPACE_BYTES));
        Ok(Self { library, workspace, by_shape: Mutex::default() })
    }

    pub(super) fn destroy(self) {
        locked(&self.by_shape).clear();
        if self.workspace.1 > 0 {
            let _: Result<(), Failure> = driver::free(self.workspace.0);
        }
        let _: Result<(), Failure> = self.library.destroy();
    }

    fn plan(&self, shape: &Shape) -> Result<Arc<Plan>, Failure> {
        let mut plans = locked(&self.by_shape);
        if let Some(plan) = plans.get(shape) {
            return Ok(Arc::clone(plan));
        }
        if plans.len() >= MOST_PLANS {
            plans.clear();
        }
        let plan = Arc::new(self.library.plan(shape, self.workspace.1)?);
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
        };
        let (addresses, add) = ([b.ptr.0, a.ptr.0, out.ptr.0], write == Write::Add);
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
            let plan = plans.plan(&shape)?;
            // SAFETY: the shapes fit each other, and whoever made the matrices knows their memory.
            unsafe { plans.library.run(&plan, addresses, add, plans.workspace, self.stream()) }
                .map_err(|failure| Failure { text: format!("{} for {shape:?}", failure.text), ..failure })
        });
    }
}
