//! The device: where kernels run, with how many threads, on which code path. Chosen once, at start-up.
//!
//! Owns: the threads, the buffer pool, the choice of instruction set or GPU. Never: knows what is computed.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::cpu::simd::Level;
use crate::cpu::team::Team;
use crate::cuda::{self, Context, CudaPaths, SectionCounts};
use crate::error::EngineError;
use crate::profile::{Profile, Timer, Work};
use crate::tensor::Pool;

/// Tokens to a slab on the processor.
const SLAB_TOKENS: usize = 512;

/// Tokens to a slab on a GPU to begin with: enough rows to fill its multiprocessors.
const CUDA_SLAB_TOKENS: usize = 16_384;

/// Where halving ends.
const SMALLEST_SLAB_TOKENS: usize = 256;

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

/// What [`Device::prepare`] made.
#[derive(Debug)]
pub struct Prepared<T>(cuda::Prepared<T>);

#[derive(Debug)]
struct Inner {
    team: Team,
    thread_count: usize,
    level: Level,
    pool: Pool,
    profile: Profile,
    cuda: Option<Context>,
    slab_tokens: AtomicUsize,
}

impl Device {
    /// The processor, with `threads` worker threads (default: all the system grants).
    ///
    /// Results do not depend on the number of threads: work is cut by the data, sums have a fixed order.
    ///
    /// # Errors
    /// [`EngineError::Device`] when the threads cannot be started.
    pub fn cpu(threads: Option<NonZeroUsize>, code_path: CodePath) -> Result<Self, EngineError> {
        Self::new(threads, code_path, None)
    }

    /// GPU `ordinal`, with the processor for what is not computed on it.
    ///
    /// # Errors
    /// [`EngineError::Device`] that says what was looked for and where, when there is no such GPU.
    pub fn gpu(
        ordinal: usize,
        threads: Option<NonZeroUsize>,
        paths: &CudaPaths,
    ) -> Result<Self, EngineError> {
        Self::new(threads, CodePath::Auto, Some(Context::open(ordinal, paths)?))
    }

    fn new(
        threads: Option<NonZeroUsize>,
        code_path: CodePath,
        cuda: Option<Context>,
    ) -> Result<Self, EngineError> {
        let wanted =
            threads.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
        let team = Team::new(wanted).map_err(|e| EngineError::Device {
            what: format!("{wanted} threads could not be started: {e}"),
            fix: "ask for fewer with --threads".into(),
        })?;
        let level = match code_path {
            CodePath::Auto => Level::detect(),
            CodePath::Portable => Level::Portable,
        };
        let inner = Inner {
            team,
            thread_count: wanted,
            level,
            pool: cuda.clone().map_or_else(Pool::default, Pool::on),
            profile: Profile::default(),
            slab_tokens: AtomicUsize::new(if cuda.is_some() { CUDA_SLAB_TOKENS } else { SLAB_TOKENS }),
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

    /// Tokens to a slab, about: how much of a batch runs at once. Part of what decides the bits of a result.
    pub fn slab_tokens(&self) -> usize {
        self.inner.slab_tokens.load(Ordering::Relaxed)
    }

    /// Takes over the slab of an interrupted run, whose bits depend on it. The processor's never changes.
    pub fn set_slab_tokens(&self, tokens: usize) {
        if self.is_cuda() {
            self.inner.slab_tokens.store(tokens.max(SMALLEST_SLAB_TOKENS), Ordering::Relaxed);
        }
    }

    /// Halves the slab after the device ran out of memory; `None` when it cannot become smaller.
    pub fn halve_slab(&self) -> Option<usize> {
        let smaller = self.slab_tokens() / 2;
        (self.is_cuda() && smaller >= SMALLEST_SLAB_TOKENS).then(|| {
            self.inner.slab_tokens.store(smaller, Ordering::Relaxed);
            smaller
        })
    }

    /// Waits until everything queued is done, and says what went wrong on the way. On the processor nothing is
    /// queued and nothing goes wrong.
    ///
    /// # Errors
    /// [`EngineError::OutOfMemory`], after which the same work may be tried again in smaller parts, or
    /// [`EngineError::Cuda`], after which the device is of no use.
    pub fn check(&self) -> Result<(), EngineError> {
        self.cuda().map_or(Ok(()), Context::check)
    }

    /// As [`Device::check`], without waiting: only what could not be queued is known.
    ///
    /// # Errors
    /// As [`Device::check`].
    pub fn check_queued(&self) -> Result<(), EngineError> {
        self.cuda().map_or(Ok(()), Context::check_queued)
    }

    /// Runs `work`, which only queues work for the device and may be run more than once. On a GPU, work that comes again
    /// is recorded and replayed as a whole; the results are those of `work`, which stay valid until the next call. `shape`
    /// is a number that is the same for work that is likely to be the same but for its data.
    pub fn run<T>(&self, shape: u64, mut work: impl FnMut() -> T) -> T {
        match self.cuda().filter(|_| !self.inner.profile.is_on()) {
            Some(cuda) => cuda.section(shape, &mut work),
            None => work(),
        }
    }

    /// Does all of [`Device::run`] that needs no device, while that still computes something else. `None` where there is
    /// nothing to be gained by that.
    pub fn prepare<T>(&self, shape: u64, mut work: impl FnMut() -> T) -> Option<Prepared<T>> {
        self.cuda().filter(|_| !self.inner.profile.is_on())?.prepare(shape, &mut work).map(Prepared)
    }

    /// Queues what was prepared last; `None`, and nothing has happened, when that is no longer possible.
    pub fn start<T>(&self, prepared: Prepared<T>) -> Option<T> {
        self.cuda()?.start(prepared.0)
    }

    /// How [`Device::run`] ran so far, on a GPU.
    pub fn section_counts(&self) -> Option<SectionCounts> {
        self.cuda().map(Context::section_counts)
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

    /// Bytes of buffers this device has taken from the system so far (in use or waiting for reuse).
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
        self.inner.team.run(tasks, &task);
    }
}
