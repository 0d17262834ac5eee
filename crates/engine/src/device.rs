//! The device: where kernels run, with how many threads, on which code path. Chosen once, at start-up.
//!
//! Owns: the threads, the buffer pool, the choice of instruction set or GPU. Never: knows what is computed.

use std::num::NonZeroUsize;
use std::sync::Arc;

use crate::buffers::Pool;
use crate::cpu::simd::Level;
use crate::cpu::thread_pool::ThreadPool;
use crate::cuda::{self, Context, CudaOptions, GraphCounts};
use crate::error::EngineError;
use crate::profile::{Profile, Timer, Work};

/// The first compute capability with bf16 in its tensor cores (CUDA C++ Programming Guide, "Compute Capabilities").
const FIRST_WITH_BF16: (i32, i32) = (8, 0);

/// Which instructions the CPU kernels may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CodePath {
    /// The best this processor has.
    #[default]
    Auto,
    /// Plain Rust only: what runs where nothing special is there, and what tests compare with.
    Portable,
}

/// A handle to the device; cheap to clone.
#[derive(Clone, Debug)]
pub struct Device {
    inner: Arc<Inner>,
}

/// Work that [`Device::prepare`] made ready to be started.
#[derive(Debug)]
pub struct Prepared<T>(cuda::Prepared<T>);

#[derive(Debug)]
struct Inner {
    thread_pool: ThreadPool,
    thread_count: usize,
    level: Level,
    pool: Pool,
    profile: Profile,
    cuda: Option<Context>,
}

impl Device {
    /// The processor, with `threads` worker threads (default: all the system grants).
    ///
    /// Results do not depend on the number of threads: work is cut by the data, sums have a fixed order.
    ///
    /// # Errors
    /// [`EngineError::Threads`] when the threads cannot be started.
    pub fn cpu(threads: Option<NonZeroUsize>, code_path: CodePath) -> Result<Self, EngineError> {
        Self::new(threads, code_path, None)
    }

    /// GPU `ordinal`, with the processor for what is not computed on it.
    ///
    /// # Errors
    /// [`EngineError::Gpu`] that says what was looked for and where, when there is no such GPU.
    pub fn gpu(
        ordinal: usize,
        threads: Option<NonZeroUsize>,
        options: &CudaOptions,
    ) -> Result<Self, EngineError> {
        Self::new(threads, CodePath::Auto, Some(Context::open(ordinal, options)?))
    }

    fn new(
        threads: Option<NonZeroUsize>,
        code_path: CodePath,
        cuda: Option<Context>,
    ) -> Result<Self, EngineError> {
        let wanted =
            threads.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
        let level = match code_path {
            CodePath::Auto => Level::detect(),
            CodePath::Portable => Level::Portable,
        };
        Self::with(wanted, level, cuda)
    }

    /// The processor, with a level that it has.
    #[cfg(test)]
    pub(crate) fn of_level(level: Level, threads: usize) -> Self {
        assert!(level <= Level::detect());
        Self::with(threads, level, None).unwrap()
    }

    fn with(wanted: usize, level: Level, cuda: Option<Context>) -> Result<Self, EngineError> {
        let thread_pool =
            ThreadPool::new(wanted).map_err(|source| EngineError::Threads { wanted, source })?;
        let inner = Inner {
            thread_pool,
            thread_count: wanted,
            level,
            pool: cuda.clone().map_or_else(Pool::default, Pool::on),
            profile: Profile::default(),
            cuda,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The GPU that computes, if one does.
    pub(crate) fn cuda(&self) -> Option<&Context> {
        self.inner.cuda.as_ref()
    }

    /// What computes, in words: the GPU's name, or the instruction set.
    pub fn name(&self) -> String {
        match self.cuda() {
            Some(cuda) => format!("cuda:{} {}", cuda.ordinal(), cuda.name()),
            None => format!("cpu {}", self.code_path()),
        }
    }

    /// Whether a GPU computes.
    pub fn is_cuda(&self) -> bool {
        self.cuda().is_some()
    }

    /// Waits until everything queued is done; the first error since the last check. The processor queues nothing and has
    /// no such errors.
    ///
    /// # Errors
    /// [`EngineError::OutOfMemory`], after which the same work may be tried again in smaller parts, or
    /// [`EngineError::Cuda`], after which the device is of no use.
    pub fn check(&self) -> Result<(), EngineError> {
        self.cuda().map_or(Ok(()), Context::check)
    }

    /// As [`Device::check`], without waiting: only errors of queueing are known yet.
    ///
    /// # Errors
    /// As [`Device::check`].
    pub fn check_queued(&self) -> Result<(), EngineError> {
        self.cuda().map_or(Ok(()), Context::check_queued)
    }

    /// Runs `work`, which only queues calls for the device and may run more than once. On a GPU, work that comes again is
    /// captured as a graph and replayed as a whole. Its result stays valid until the next call, and what is queued
    /// afterwards (the norm of the gradients, an update) is computed after it. `shape` is the same number for work that is
    /// likely to be the same but for its data.
    pub fn run<T>(&self, shape: u64, mut work: impl FnMut() -> T) -> T {
        match self.cuda().filter(|_| !self.inner.profile.is_on()) {
            Some(cuda) => cuda.run(shape, &mut work),
            None => work(),
        }
    }

    /// Does the part of a later [`Device::run`] that needs only the host, while the device still computes something else.
    /// `None` where that would gain nothing.
    pub fn prepare<T>(&self, shape: u64, mut work: impl FnMut() -> T) -> Option<Prepared<T>> {
        self.cuda().filter(|_| !self.inner.profile.is_on())?.prepare(shape, &mut work).map(Prepared)
    }

    /// Queues the work that was prepared last; `None`, and nothing has been queued, where that is no longer possible.
    pub fn start<T>(&self, prepared: Prepared<T>) -> Option<T> {
        self.cuda()?.start(prepared.0)
    }

    /// How often [`Device::run`] queued, captured and replayed so far, on a GPU.
    pub fn graph_counts(&self) -> Option<GraphCounts> {
        self.cuda().map(Context::graph_counts)
    }

    /// The most memory the device held at once, in bytes: on the processor, the buffers of tensors.
    pub fn peak_bytes(&self) -> usize {
        self.cuda().map_or_else(|| self.pooled_bytes(), |cuda| cuda.bytes().1)
    }

    /// The number of worker threads.
    pub fn threads(&self) -> usize {
        self.inner.thread_count
    }

    /// The instruction set in use, in words: "AVX-512 + BF16", "AVX2 + FMA", "portable".
    pub fn code_path(&self) -> &'static str {
        self.inner.level.name()
    }

    /// Whether bf16 matmuls run in tile registers (AMX), far faster than memory feeds them.
    pub fn has_tiles(&self) -> bool {
        self.inner.level.has_tiles()
    }

    /// Whether products with bf16 inputs are faster than those in f32.
    pub fn prefers_bf16(&self) -> bool {
        match self.cuda() {
            Some(context) => context.capability() >= FIRST_WITH_BF16,
            None => self.inner.level.prefers_bf16(),
        }
    }

    /// Bytes of buffers that this device holds, in use or waiting for reuse.
    pub fn pooled_bytes(&self) -> usize {
        self.inner.pool.bytes()
    }

    /// Where the time goes; off until it is started.
    pub fn profile(&self) -> &Profile {
        &self.inner.profile
    }

    /// Counts the time until the result is dropped, when the profile is on.
    pub(crate) fn time(&self, work: Work) -> Option<Timer<'_>> {
        self.inner.profile.time(work, self.cuda())
    }

    pub(crate) fn level(&self) -> Level {
        self.inner.level
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.inner.pool
    }

    /// Runs `task(0..tasks)`, each once, on all threads. The caller cuts the work by its data, never by the number
    /// of threads, so the results are the same for any.
    pub(crate) fn for_each(&self, tasks: usize, task: impl Fn(usize) + Sync + Send) {
        self.inner.thread_pool.run(tasks, &task);
    }
}
