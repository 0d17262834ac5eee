//! The threads of the CPU: a small pool that starts on the tasks of one parallel section within a microsecond.
//!
//! Owns: the workers, how they wait, who takes which task. Never: decides how work is cut (its caller does, by the data).
//!
//! A training step has some two thousand parallel sections, a generated token a hundred. A general-purpose pool takes tens of
//! microseconds to start one, for its workers sleep in between and its caller waits outside. Here the caller works along,
//! workers look for the next section for a while before they sleep, and a section that ends before a sleeping worker has
//! woken up does not wait for it.
//!
//! Every thread starts on a run of neighbouring tasks and then helps the others with theirs.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread::JoinHandle;

/// How often a worker looks for a new section before it sleeps: some fifty microseconds.
const LOOKS: u32 = 2_000;

/// In [`Shared::state`]: the section is open to threads who are not inside yet.
const OPEN: u64 = 1 << 31;
/// In [`Shared::state`]: one section later.
const NEXT: u64 = 1 << 32;

/// The caller and its workers.
#[derive(Debug)]
pub(crate) struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held by the caller of the section that runs.
    busy: Mutex<()>,
}

struct Shared {
    /// Number of the section, whether it is open, how many workers are inside.
    state: AtomicU64,
    /// The section's task. Written while it is closed and nobody is inside, read by those inside.
    task: UnsafeCell<Option<Task>>,
    /// The run of tasks each thread starts with.
    runs: Vec<Run>,
    /// Which workers sleep.
    asleep: Vec<AtomicBool>,
    stop: AtomicBool,
    /// What a worker's task panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// A borrowed task whose lifetime is that of its section.
#[derive(Clone, Copy)]
struct Task(&'static (dyn Fn(usize) + Sync));

/// The tasks that one thread starts with; on a cache line of its own.
#[repr(align(64))]
#[derive(Default)]
struct Run {
    next: AtomicUsize,
    end: AtomicUsize,
}

// SAFETY: `task` is written by the caller alone, while the section is closed and nobody is inside; everything else is
// atomic or behind a lock. The task itself may be called from any thread (`Sync`).
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("threads", &self.runs.len()).finish_non_exhaustive()
    }
}

impl ThreadPool {
    /// A caller and `threads - 1` workers.
    ///
    /// # Errors
    /// When the system grants no such thread.
    pub(crate) fn new(threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            task: UnsafeCell::new(None),
            runs: (0..threads.max(1)).map(|_| Run::default()).collect(),
            asleep: (1..threads).map(|_| AtomicBool::new(false)).collect(),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let mut pool = Self { shared, workers: Vec::new(), busy: Mutex::new(()) };
        for thread in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let builder = std::thread::Builder::new().name(format!("headstart-{thread}"));
            // On an error `pool` is dropped, which ends the workers there are.
            pool.workers.push(builder.spawn(move || shared.work(thread))?);
        }
        Ok(pool)
    }

    /// Runs `task(0..tasks)`, each once, and returns when all are done. Within a task, and while another thread's
    /// section runs, the calling thread does its tasks alone.
    pub(crate) fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let busy = match self.busy.try_lock() {
            _ if tasks <= 1 || self.workers.is_empty() => None,
            Ok(busy) => Some(busy),
            // A section whose task panicked left nothing behind.
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        if busy.is_none() {
            (0..tasks).for_each(task);
            return;
        }
        let shared = &*self.shared;
        let threads = shared.runs.len();
        for (thread, run) in shared.runs.iter().enumerate() {
            run.next.store(tasks * thread / threads, Ordering::Relaxed);
            run.end.store(tasks * (thread + 1) / threads, Ordering::Relaxed);
        }
        // Left over when the caller's own task panicked in the same section as a worker's.
        shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        // SAFETY: the section is closed and nobody is inside; `Section` sees to it that nobody is when this ends.
        unsafe { *shared.task.get() = Some(erased(task)) };
        {
            let _section = Section::open(shared, &self.workers);
            shared.take_tasks(0, task);
        }
        let panic = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in std::mem::take(&mut self.workers) {
            worker.thread().unpark();
            // A worker catches the panics of its tasks; it has none of its own.
            let _ = worker.join();
        }
    }
}

/// Forgets how long a task lives.
///
/// # Safety
/// The result is not used after the borrow ends.
unsafe fn erased<'a>(task: &'a (dyn Fn(usize) + Sync + 'a)) -> Task {
    // SAFETY: only the lifetime changes, which is the caller's contract.
    Task(unsafe {
        std::mem::transmute::<&'a (dyn Fn(usize) + Sync + 'a), &'static (dyn Fn(usize) + Sync)>(task)
    })
}

/// An open section; closes it and waits for those inside when it is dropped, also by a panic of the caller's task.
struct Section<'a>(&'a Shared);

impl<'a> Section<'a> {
    fn open(shared: &'a Shared, workers: &[JoinHandle<()>]) -> Self {
        let last = shared.state.load(Ordering::Relaxed);
        shared.state.store((last & !(NEXT - 1)).wrapping_add(NEXT) | OPEN, Ordering::SeqCst);
        for (asleep, worker) in shared.asleep.iter().zip(workers) {
            if asleep.load(Ordering::SeqCst) && asleep.swap(false, Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        Self(shared)
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        self.0.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut looks = 0_u32;
        while !self.0.state.load(Ordering::Acquire).is_multiple_of(OPEN) {
            looks += 1;
            if looks.is_multiple_of(LOOKS) {
                std::thread::yield_now(); // more threads than processors: let the one inside finish
            }
            std::hint::spin_loop();
        }
    }
}

impl Shared {
    /// A worker's life.
    fn work(&self, thread: usize) {
        let mut seen = 0;
        while let Some(section) = self.wait(thread, seen) {
            seen = section;
            // SAFETY: this worker is inside, so the caller does not write.
            if let Some(Task(task)) = unsafe { *self.task.get() }
                && let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.take_tasks(thread, task)))
            {
                *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
            }
            self.state.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits for a section after `seen` and enters it; `None` when the pool is dropped.
    fn wait(&self, thread: usize, seen: u64) -> Option<u64> {
        let mut looks = 0;
        loop {
            let state = self.state.load(Ordering::SeqCst);
            let section = state / NEXT;
            if section != seen && state & OPEN != 0 {
                let entered =
                    self.state.compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed);
                if entered.is_ok() {
                    return Some(section);
                }
                continue;
            }
            if self.stop.load(Ordering::SeqCst) {
                return None;
            }
            looks += 1;
            if looks < LOOKS {
                std::hint::spin_loop();
                continue;
            }
            // Whoever opens a section after this line sees the flag; what was opened before it is seen here.
            let asleep = &self.asleep[thread - 1];
            asleep.store(true, Ordering::SeqCst);
            let state = self.state.load(Ordering::SeqCst);
            let nothing_new = state / NEXT == seen || state & OPEN == 0;
            if nothing_new && !self.stop.load(Ordering::SeqCst) {
                std::thread::park();
            }
            asleep.store(false, Ordering::SeqCst);
            looks = 0;
        }
    }

    /// Takes tasks until none is left: first those of the thread's own run, then the others'.
    fn take_tasks(&self, thread: usize, task: &(dyn Fn(usize) + Sync)) {
        let threads = self.runs.len();
        for other in 0..threads {
            let run = &self.runs[(thread + other) % threads];
            let end = run.end.load(Ordering::Relaxed);
            loop {
                let index = run.next.fetch_add(1, Ordering::Relaxed);
                if index >= end {
                    break;
                }
                task(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_whoever_sleeps() {
        for threads in [1, 2, 3, 8] {
            let pool = ThreadPool::new(threads).unwrap();
            for (round, tasks) in [0, 1, 2, 3, 7, 64, 1_000].into_iter().cycle().take(300).enumerate() {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, &|i| {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(
                    counts.iter().all(|c| c.load(Ordering::Relaxed) == 1),
                    "{threads} threads, {tasks} tasks"
                );
                if round % 50 == 49 {
                    std::thread::sleep(std::time::Duration::from_millis(2)); // long enough to fall asleep
                }
            }
        }
    }

    #[test]
    fn sections_inside_sections_and_from_two_threads_are_done_alone() {
        let pool = ThreadPool::new(3).unwrap();
        let sum = AtomicUsize::new(0);
        let all = |pool: &ThreadPool| {
            pool.run(10, &|i| {
                pool.run(10, &|j| {
                    sum.fetch_add(10 * i + j, Ordering::Relaxed);
                });
            });
        };
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..100).for_each(|_| all(&pool)));
            }
        });
        assert_eq!(sum.load(Ordering::Relaxed), 200 * (0..100).sum::<usize>());
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_goes_on() {
        let pool = ThreadPool::new(2).unwrap();
        for bad in [0, 63] {
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                pool.run(64, &|i| {
                    std::thread::sleep(std::time::Duration::from_micros(50)); // so that both threads take some
                    assert!(i != bad, "task {i}");
                });
            }));
            assert!(panicked.is_err());
            let done = AtomicUsize::new(0);
            pool.run(5, &|_| {
                done.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(done.load(Ordering::Relaxed), 5);
        }
    }
}
