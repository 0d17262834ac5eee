//! Exchange between the GPUs of ranks, through NCCL.
//!
//! Owns: the communicator's life, what is sent to whom, the end of a wait for a rank that is lost. Never: what the bytes
//! mean, or any sum: no reduction of NCCL's is used.
//!
//! An exchange is queued on the context's stream among its other work. A rank that is lost would leave that stream, and
//! with it whatever the host waits for, hanging for ever. So a thread of its own watches the other ranks: it makes
//! the error stick in the context and then aborts the communicator, which ends what NCCL runs on the GPU. No call of NCCL's
//! blocks (the communicator is made so), hence none is waited in with the lock held.
//!
//! An exchange is never part of a captured graph: NCCL queues it on a thread of its own.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::buffer::DevicePtr;
use super::context::Context;
use super::error::Failure;
use super::locked;
use crate::collective::Collective;
use crate::error::EngineError;

mod library;

use library::{Communicator, Library, Progress, UniqueId, version_name};

/// How often the other ranks are looked after.
const WATCH_EVERY: Duration = Duration::from_millis(50);

/// How long it may take until it is known which rank was lost, after NCCL has noticed that one was.
const UNTIL_NAMED: Duration = Duration::from_secs(2);

/// How long the end of a communicator may take; then it is left to the end of the process.
const UNTIL_ENDED: Duration = Duration::from_secs(10);

/// Says whether another rank is lost, at any time and at once.
type Check = Box<dyn Fn() -> Result<(), EngineError> + Send + Sync>;

/// The connection of one rank's GPU to those of the others. Dropping it ends it together with the other ranks.
#[derive(Debug)]
pub(crate) struct Nccl {
    shared: Arc<Shared>,
    world_size: usize,
    watch: Option<JoinHandle<()>>,
}

struct Shared {
    cuda: Context,
    library: Library,
    /// `None` once it was given back.
    communicator: Mutex<Option<Communicator>>,
    check: Check,
    /// `None` once all ranks are connected.
    connecting: Mutex<Option<Connecting>>,
    order: Mutex<Order>,
    ordered: Condvar,
}

/// Ranks that are about to be connected.
#[derive(Debug)]
struct Connecting {
    rank: usize,
    began: Instant,
    timeout: Duration,
    /// Why they cannot be. The context is none the worse for it.
    trouble: Option<EngineError>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("communicator", &self.communicator).finish_non_exhaustive()
    }
}

/// What the watching thread is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Watch,
    /// End the communicator with the other ranks, and itself.
    Finish,
    /// End the communicator without them, and itself.
    GiveUp,
}

impl Nccl {
    /// Connects this rank's GPU with those of the others, which all call it. It fails on every rank if it fails on one, so
    /// that all can go another way.
    ///
    /// # Errors
    /// [`EngineError::Gpu`] when a rank has no NCCL, another version of it, or a GPU that another rank has, too;
    /// [`EngineError::Rendezvous`] when they do not find each other within `timeout`; [`EngineError::Rank`] when one is lost.
    pub(crate) fn join(
        cuda: &Context,
        collective: &Collective,
        timeout: Duration,
    ) -> Result<Self, EngineError> {
        let found = Library::find(&cuda.inner.libraries);
        let version = found.as_ref().map_or(0, |(_, version)| *version);
        let versions = collective.gather_equal(&version.to_le_bytes())?;
        let versions: Vec<i32> =
            versions.iter().map(|b| b.first_chunk().map_or(0, |b| i32::from_le_bytes(*b))).collect();
        let (library, _) = found?;
        agree(&versions)?;
        // Nothing but zeros stands for rank 0's failure, which the others are not to wait for.
        let nothing = [0; UniqueId::BYTES];
        let id = if collective.leads() { library.unique_id() } else { Ok(UniqueId(nothing)) };
        let mut bytes = id.as_ref().map_or(nothing, |id| id.0);
        collective.broadcast_equal(&mut bytes)?;
        id.map_err(|failure| unusable(&failure))?;
        if bytes == nothing {
            return Err(elsewhere(0));
        }
        let watched = collective.clone();
        let check = Box::new(move || watched.check());
        let (rank, world_size) = (collective.rank(), collective.world_size());
        let made = Self::connect(cuda, library, UniqueId(bytes), (rank, world_size), check, timeout);
        let well = collective.gather_equal(&[u8::from(made.is_ok())])?;
        match well.iter().position(|w| w != &[1]) {
            Some(other) if made.is_ok() => Err(elsewhere(other)),
            _ => made,
        }
    }

    /// Connects rank `rank` of `world_size` with those that have the same id.
    fn connect(
        cuda: &Context,
        library: Library,
        id: UniqueId,
        (rank, world_size): (usize, usize),
        check: Check,
        timeout: Duration,
    ) -> Result<Self, EngineError> {
        let began = cuda.attempt(|| Ok(library.begin(id, rank, world_size)));
        let communicator = match began {
            Some(begun) => begun.map_err(|failure| unusable(&failure))?,
            None => return Err(cuda.check_queued().err().unwrap_or_else(|| unusable(&no_context()))),
        };
        let shared = Arc::new(Shared {
            cuda: cuda.clone(),
            library,
            communicator: Mutex::new(Some(communicator)),
            check,
            connecting: Mutex::new(Some(Connecting { rank, began: Instant::now(), timeout, trouble: None })),
            order: Mutex::new(Order::Watch),
            ordered: Condvar::new(),
        });
        let watched = Arc::clone(&shared);
        let watch = thread::Builder::new().name("nccl".to_owned()).spawn(move || watched.watch());
        let watch = watch.map_err(|source| EngineError::Threads { wanted: 1, source })?;
        let made = Self { shared, world_size, watch: Some(watch) };
        match made.shared.settle(Progress::UnderWay) {
            Ok(()) => made.greet(rank),
            Err(failure) => made.shared.fail_after(&failure),
        }
        let trouble = locked(&made.shared.connecting).take().and_then(|connecting| connecting.trouble);
        cuda.check_queued()?;
        trouble.map_or(Ok(made), Err)
    }

    /// Exchanges a first word with each rank: NCCL connects ranks, and takes the memory for it, when they first exchange.
    fn greet(&self, rank: usize) {
        let (cuda, word) = (&self.shared.cuda, size_of::<u64>());
        let expected: Vec<u64> = (0..self.world_size as u64).collect();
        let (mine, all) = (cuda.upload(&[rank as u64]), cuda.upload(&vec![u64::MAX; self.world_size]));
        let sends: Vec<_> = (0..self.world_size).map(|to| (to, mine.ptr(), word)).collect();
        let receives: Vec<_> =
            (0..self.world_size).map(|from| (from, all.ptr().offset(from * word), word)).collect();
        self.exchange(&sends, &receives);
        let mut found = vec![u64::MAX; self.world_size];
        cuda.download(&mut found, all.ptr());
        if found != expected {
            self.shared.fail(EngineError::Gpu {
                what: format!("through NCCL, the ranks {expected:?} arrive as {found:?}"),
                fix: "see whether NCCL_P2P_DISABLE=1 helps; NCCL_DEBUG=INFO says more",
            });
        }
    }

    /// Queues one exchange: sends and receives as (rank, address, bytes), all at once, behind what the stream was given so
    /// far. Messages between two ranks are matched in their order, and both sides know their lengths; where there are
    /// no bytes, there is no message. An error sticks in the context.
    ///
    /// # Panics
    /// When a rank is none of the others' numbers.
    pub(crate) fn exchange(
        &self,
        sends: &[(usize, DevicePtr, usize)],
        receives: &[(usize, DevicePtr, usize)],
    ) {
        let ranks = 0..self.world_size;
        assert!(sends.iter().chain(receives).all(|(rank, ..)| ranks.contains(rank)), "no such rank");
        let raw = |messages: &[(usize, DevicePtr, usize)]| -> Vec<(usize, u64, usize)> {
            messages
                .iter()
                .filter(|(_, _, bytes)| *bytes > 0)
                .map(|&(rank, at, bytes)| (rank, at.0, bytes))
                .collect()
        };
        let (sends, receives) = (raw(sends), raw(receives));
        let cuda = &self.shared.cuda;
        if sends.is_empty() && receives.is_empty() || cuda.is_unfit_for_graph() {
            return;
        }
        if let Some(Err(failure)) = cuda.attempt(|| Ok(self.shared.queue(sends, receives))) {
            self.shared.fail_after(&failure);
            self.shared.order(Order::GiveUp);
        }
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        // What was queued is done; the watch goes on meanwhile.
        self.shared.cuda.synchronize();
        let whole = !self.shared.cuda.is_broken() && !thread::panicking();
        self.shared.order(if whole { Order::Finish } else { Order::GiveUp });
        let Some(watch) = self.watch.take() else { return };
        let began = Instant::now();
        while !watch.is_finished() && began.elapsed() < 2 * UNTIL_ENDED {
            thread::sleep(Duration::from_millis(1));
        }
        if watch.is_finished() {
            let _: thread::Result<()> = watch.join();
        }
    }
}

impl Shared {
    /// Gives the watching thread an order; giving up is never taken back.
    fn order(&self, order: Order) {
        let mut current = locked(&self.order);
        if *current != Order::GiveUp {
            *current = order;
        }
        self.ordered.notify_all();
    }

    /// Waits for the next order, or until it is time to look again.
    fn next_order(&self) -> Order {
        let order = locked(&self.order);
        if *order != Order::Watch {
            return *order;
        }
        let (order, _) =
            self.ordered.wait_timeout(order, WATCH_EVERY).unwrap_or_else(PoisonError::into_inner);
        *order
    }

    fn watch(&self) {
        // NCCL sets its device itself; a thread without a context is none of its cases all the same.
        let _: Result<(), Failure> = self.cuda.inner.bind();
        loop {
            match self.next_order() {
                Order::Watch => {}
                Order::Finish => return self.finish(),
                Order::GiveUp => return self.abort(),
            }
            let lost = match (self.check)() {
                Err(lost) => Some(lost),
                Ok(()) => self.state().err().map(|failure| self.name(&failure)).or_else(|| self.overdue()),
            };
            if let Some(lost) = lost {
                // First the error: what waits for the GPU goes on as soon as the communicator is gone.
                self.fail(lost);
                return self.abort();
            }
        }
    }

    /// The state of the communicator; an error once it was given back.
    fn state(&self) -> Result<Progress, Failure> {
        locked(&self.communicator).map_or_else(|| Err(given_up()), |own| self.library.state(own))
    }

    /// An error that nothing mends: it sticks in the context, unless the ranks are not connected yet.
    fn fail(&self, error: EngineError) {
        match &mut *locked(&self.connecting) {
            Some(connecting) => {
                connecting.trouble.get_or_insert(error);
            }
            None => self.cuda.cut_off(error),
        }
    }

    /// A call of NCCL's failed: an error, unless the watching thread knows better already.
    fn fail_after(&self, failure: &Failure) {
        let known = locked(&self.connecting).as_ref().is_some_and(|connecting| connecting.trouble.is_some());
        if !known && !self.cuda.is_broken() {
            self.fail(self.name(failure));
        }
    }

    /// Connecting takes too long.
    fn overdue(&self) -> Option<EngineError> {
        let connecting = locked(&self.connecting);
        let Connecting { rank, began, timeout, .. } = connecting.as_ref()?;
        (began.elapsed() > *timeout).then(|| EngineError::Rendezvous {
            what: format!("rank {rank} waited {} s for NCCL to connect the GPUs", timeout.as_secs_f32()),
            fix: "see that the ranks reach each other: NCCL_DEBUG=INFO says what NCCL tries, NCCL_SOCKET_IFNAME=NAME which \
                  network to use, NCCL_P2P_DISABLE=1 to go through the host's memory"
                .to_owned(),
        })
    }

    /// What is behind an error of NCCL's: a rank that is lost, or else NCCL's own words.
    fn name(&self, failure: &Failure) -> EngineError {
        let connecting = locked(&self.connecting).is_some();
        let own = || if connecting { unusable(failure) } else { failure.clone().into() };
        self.lost_rank().unwrap_or_else(own)
    }

    /// The rank that is behind an error of NCCL's, if it becomes known soon.
    fn lost_rank(&self) -> Option<EngineError> {
        let began = Instant::now();
        while began.elapsed() < UNTIL_NAMED {
            if let Err(lost) = (self.check)() {
                return Some(lost);
            }
            thread::sleep(Duration::from_millis(10));
        }
        None
    }

    /// Queues an exchange, and returns when it stands in the stream.
    fn queue(
        &self,
        sends: Vec<(usize, u64, usize)>,
        receives: Vec<(usize, u64, usize)>,
    ) -> Result<(), Failure> {
        let begun = {
            let communicator = locked(&self.communicator);
            let Some(own) = *communicator else { return Err(given_up()) };
            let (sends, receives) = (sends.into_iter(), receives.into_iter());
            // SAFETY: whoever has the addresses knows the memory behind them, which this context's stream uses.
            unsafe { self.library.exchange(own, sends, receives, self.cuda.stream()) }
        };
        self.settle(begun?)
    }

    /// Waits until NCCL is done with a call. A rank that is lost meanwhile is the watching thread's affair: it gives the
    /// communicator up.
    fn settle(&self, mut progress: Progress) -> Result<(), Failure> {
        let mut pause = Pause::default();
        while progress == Progress::UnderWay {
            pause.wait();
            progress = self.state()?;
        }
        Ok(())
    }

    /// Ends the communicator with the other ranks, or without them if that takes too long.
    fn finish(&self) {
        let Some(own) = *locked(&self.communicator) else { return };
        let began = Instant::now();
        let mut pause = Pause::default();
        let mut progress = self.library.finalize(own);
        while let Ok(Progress::UnderWay) = progress
            && began.elapsed() < UNTIL_ENDED
            && (self.check)().is_ok()
        {
            pause.wait();
            progress = self.state();
        }
        if !matches!(progress, Ok(Progress::Done)) {
            return self.abort();
        }
        if let Some(own) = locked(&self.communicator).take() {
            let _: Result<Progress, Failure> = self.library.destroy(own);
        }
    }

    fn abort(&self) {
        if let Some(own) = locked(&self.communicator).take() {
            // What fails here has no one left to be told.
            let _: Result<Progress, Failure> = self.library.abort(own);
        }
    }
}

/// Ever longer pauses: at first hardly any, because most waits are short.
#[derive(Debug, Default)]
struct Pause(u32);

impl Pause {
    fn wait(&mut self) {
        self.0 += 1;
        if self.0 < 1000 {
            thread::yield_now();
        } else {
            thread::sleep(Duration::from_micros(200));
        }
    }
}

fn given_up() -> Failure {
    Failure {
        call: "ncclGroupStart",
        code: 0,
        text: "the connection to the other ranks was given up".to_owned(),
    }
}

fn no_context() -> Failure {
    Failure { call: "ncclCommInitRankConfig", code: 0, text: "the GPU's context is of no use".to_owned() }
}

/// An error of connecting.
fn unusable(failure: &Failure) -> EngineError {
    EngineError::Gpu {
        what: format!(
            "NCCL cannot connect it with those of the other ranks: {}: {}",
            failure.call, failure.text
        ),
        fix: "see that each rank has a GPU of its own; NCCL_DEBUG=INFO says more",
    }
}

/// Another rank could not connect.
fn elsewhere(rank: usize) -> EngineError {
    let what = format!("rank {rank} could not connect its GPU with those of the other ranks");
    EngineError::Gpu { what, fix: "see what that rank says" }
}

/// All ranks have one version; 0 stands for none.
fn agree(versions: &[i32]) -> Result<(), EngineError> {
    let differing = versions.iter().position(|version| *version != versions[0]);
    let missing = versions.iter().position(|version| *version == 0);
    let what = match (missing, differing) {
        (Some(rank), _) => format!("rank {rank} has no NCCL"),
        (None, Some(rank)) => format!(
            "rank 0 has NCCL {}, rank {rank} has {}",
            version_name(versions[0]),
            version_name(versions[rank])
        ),
        (None, None) => return Ok(()),
    };
    Err(EngineError::Gpu { what, fix: "install the same version of NCCL for every rank" })
}

#[cfg(test)]
mod tests;
