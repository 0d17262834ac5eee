//! The device: where kernels run, with how many threads, on which code path. Chosen once, at start-up.
//!
//! Owns: the threads, the buffer pool, the choice of instruction set. Never: knows what is computed.

use std::num::NonZeroUsize;
use std::sync::Arc;

use crate::cpu::simd::Level;
use crate::cpu::team::Team;
use crate::error::EngineError;
use crate::profile::{Profile, Timer, Work};
use crate::tensor::Pool;

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

#[derive(Debug)]
struct Inner {
    team: Team,
    thread_count: usize,
    level: Level,
    pool: Pool,
    profile: Profile,
}

impl Device {
    /// The processor, with `threads` worker threads (default: all the system grants).
    ///
    /// Results do not depend on the number of threads: work is cut by the data, sums have a fixed order.
    ///
    /// # Errors
    /// [`EngineError::Device`] when the threads cannot be started.
    pub fn cpu(threads: Option<NonZeroUsize>, code_path: CodePath) -> Result<Self, EngineError> {
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
        let inner =
            Inner { team, thread_count: wanted, level, pool: Pool::default(), profile: Profile::default() };
        Ok(Self { inner: Arc::new(inner) })
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
        self.inner.profile.time(work)
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
