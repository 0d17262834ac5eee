//! Captured graphs: work that is the same in every step is captured once as a CUDA graph and replayed from then on.
//!
//! Owns: the graphs, their inputs, and the decision whether one may be replayed. Never: what the work computes; no op
//! knows of graphs.
//!
//! The work is a function that only queues calls. [`Context::run`] runs it in one of three ways:
//! - **queued**, the first time: every call is made as it comes;
//! - **captured**, the second time that work of the same shape comes: the stream gathers the calls into a graph instead
//!   of making them, and each is written down with its answer. What is uploaded goes into one input area of the graph;
//! - **replayed**, from then on: the function runs on the host alone, and its calls are compared with those of the graph.
//!   An allocation is answered with the captured address, an upload is copied into the input area, and a kernel whose
//!   grid or arguments differ is updated in the graph. If every call agrees, one upload and one launch do all of the
//!   work. If any other call differs, nothing has been launched yet, and the work is queued.
//!
//! So a replayed graph computes exactly what the code asks for. The comparison needs no device, so it may be made ahead,
//! while the device still computes the step before.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;

use super::buffer::{DeviceBuffer, DevicePtr, Home, Pool};
use super::context::Context;
use super::driver::{
    self, Addresses, CUevent, CUfunction, CUgraph, CUgraphExec, CUgraphNode, CUstream, Shape,
};
use super::error::Failure;
use super::launch::Argument;
use super::locked;
use super::pinned::Pinned;
use crate::error::EngineError;

/// The version of CUDA whose driver tells which node was captured last.
const OLDEST_DRIVER: i32 = 12_030;

/// Graphs that are kept: a training step has one shape, or a few.
const MOST_GRAPHS: usize = 8;

/// Runs after which a graph that none of them used makes room for another.
const RUNS_UNUSED: u64 = 64;

/// Captures that may fail before no more are tried. (Some fail because memory is short, and succeed the next time.)
const MOST_FAILED_CAPTURES: u32 = 32;

/// Shapes that are remembered until they come again.
const MOST_SHAPES: usize = 64;

/// Whether work that comes again is replayed from a captured graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replay {
    /// It is.
    #[default]
    On,
    /// Every call is made each time, to see what replaying is worth. The results are the same, bit for bit.
    Off,
}

/// How often work was queued, captured and replayed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GraphCounts {
    /// Call by call.
    pub queued: u64,
    /// Captured as a graph, and launched.
    pub captured: u64,
    /// By one launch of a graph that was captured before.
    pub replayed: u64,
    /// Why no further graph is captured, if so.
    pub disabled: Option<String>,
}

/// Device memory that graphs own. (No [`DeviceBuffer`], which would keep the context alive from inside.)
#[derive(Clone, Copy, Debug)]
struct Area {
    at: DevicePtr,
    bytes: usize,
}

impl Area {
    fn give_back(self, pool: &Pool) {
        pool.give(self.at.0, self.bytes, false);
    }
}

/// A kernel's launch.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kernel {
    /// Module and name.
    pub(super) name: [&'static str; 2],
    pub(super) function: CUfunction,
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 3],
    pub(super) shared_bytes: u32,
    pub(super) arguments: Vec<Argument>,
}

/// One call that the work makes, with its answer where it has one.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Call {
    Allocate { bytes: usize, at: u64 },
    Input { room: usize, offset: usize },
    Kernel(Kernel),
    Matmul { shape: Shape, addresses: Addresses, add: bool },
    Zero { to: u64, bytes: usize },
    Copy { to: u64, from: u64, bytes: usize },
}

/// What happens to the calls that the work makes.
#[derive(Debug, Default)]
enum Mode {
    /// Nothing that could be captured is running: calls are made.
    #[default]
    Outside,
    /// Calls are made; how many bytes were uploaded so far.
    Queued(usize),
    Capturing(Capture),
    Comparing(Comparison),
}

#[derive(Debug)]
struct Capture {
    calls: Vec<Call>,
    /// By the kernel's place among the calls.
    nodes: HashMap<usize, CUgraphNode>,
    inputs: Area,
    /// Bytes of the inputs in use.
    used: usize,
    /// A call was made that a graph cannot hold.
    failed: bool,
}

#[derive(Debug)]
struct Comparison {
    graph: Graph,
    /// The call that comes next.
    next: usize,
    /// Kernels that differ, by their place among the calls.
    changed: Vec<(usize, Kernel)>,
    failed: bool,
}

/// A captured graph.
#[derive(Debug)]
struct Graph {
    shape: u64,
    calls: Vec<Call>,
    nodes: HashMap<usize, CUgraphNode>,
    inputs: Area,
    input_bytes: usize,
    captured: CUgraph,
    executable: CUgraphExec,
    /// The number of the run that used it last.
    last_used: u64,
}

/// Work whose calls agreed with those of a graph, ready to be launched.
#[derive(Debug)]
pub(crate) struct Prepared<T> {
    result: T,
    ticket: u64,
    lasting: u64,
}

/// All graphs of a context. Every graph has inputs, so there are transfers wherever there is a graph.
#[derive(Debug, Default)]
pub(super) struct Graphs {
    mode: Mode,
    /// Shapes that ran once, and the bytes they uploaded; the oldest first.
    seen: VecDeque<(u64, usize)>,
    /// The one used last at the end.
    kept: Vec<Graph>,
    transfers: Option<Transfers>,
    /// Only the comparison made last may be launched.
    ticket: u64,
    counts: GraphCounts,
    /// Captures that failed.
    failures: u32,
}

// SAFETY: graphs, nodes, events and streams may be used from any thread whose current context is theirs.
unsafe impl Send for Graphs {}

/// The way of a graph's inputs: gathered in pinned memory, copied to the device beside the work that runs, and taken into
/// place when the graph is launched.
#[derive(Debug)]
struct Transfers {
    stream: CUstream,
    /// One is filled while the other is read.
    pinned: [Pinned; 2],
    /// When each has been read.
    read: [CUevent; 2],
    turn: usize,
    landing: Area,
    /// When the landing area has been taken into place.
    taken: CUevent,
}

impl Transfers {
    fn new(pool: &Pool, bytes: usize, work: CUstream) -> Result<Option<Self>, Failure> {
        let Some(first) = Pinned::new(bytes)? else { return Ok(None) };
        let Some(second) = Pinned::new(bytes)? else {
            first.free();
            return Ok(None);
        };
        let Some(at) = pool.take(bytes, false)? else {
            first.free();
            second.free();
            return Ok(None);
        };
        let taken = driver::event()?;
        // Whoever had the landing area before may still be queued.
        driver::record_event(taken, work)?;
        Ok(Some(Self {
            stream: driver::another_stream()?,
            pinned: [first, second],
            read: [driver::event()?, driver::event()?],
            turn: 0,
            landing: Area { at: DevicePtr(at), bytes },
            taken,
        }))
    }

    /// Takes the other half of the pinned memory, once it has been read.
    fn turn(&mut self) -> Result<(), Failure> {
        self.turn = 1 - self.turn;
        driver::wait_for_event(self.read[self.turn])
    }

    /// Queues the copy to the device, beside its work.
    fn send(&self, bytes: usize) -> Result<(), Failure> {
        driver::wait_in_stream(self.stream, self.taken)?;
        let from = self.pinned[self.turn].slice(0, bytes);
        driver::upload(self.landing.at.0, from, self.stream)?;
        driver::record_event(self.read[self.turn], self.stream)
    }

    /// Queues, among the device's work, that the inputs are taken into place.
    fn take(&self, to: u64, bytes: usize, work: CUstream) -> Result<(), Failure> {
        driver::wait_in_stream(work, self.read[self.turn])?;
        driver::copy(to, self.landing.at.0, bytes, work)?;
        driver::record_event(self.taken, work)
    }

    fn destroy(self, pool: &Pool) -> Result<(), Failure> {
        driver::synchronize(self.stream)?;
        self.landing.give_back(pool);
        let [first, second] = self.pinned;
        first.free();
        second.free();
        for event in self.read.into_iter().chain([self.taken]) {
            driver::destroy_event(event)?;
        }
        driver::destroy_stream(self.stream)
    }
}

impl Capture {
    fn input(&mut self, room: usize, bytes: &[u8], transfers: Option<&mut Transfers>) -> Option<u64> {
        let offset = self.used;
        let transfers = transfers.filter(|_| !self.failed && room <= self.inputs.bytes - offset);
        let Some(transfers) = transfers else {
            self.failed = true;
            return None;
        };
        transfers.pinned[transfers.turn].fill(offset, bytes);
        self.used += room;
        self.calls.push(Call::Input { room, offset });
        Some(self.inputs.at.offset(offset).0)
    }
}

impl Comparison {
    /// The captured call that comes next, unless the comparison failed already.
    fn next(&mut self) -> Option<&Call> {
        let call = if self.failed { None } else { self.graph.calls.get(self.next) };
        self.failed = call.is_none();
        self.next += 1;
        call
    }

    fn allocation(&mut self, wanted: usize) -> Option<u64> {
        if let Some(Call::Allocate { bytes, at }) = self.next()
            && *bytes == wanted
        {
            return Some(*at);
        }
        self.failed = true;
        None
    }

    fn input(&mut self, wanted: usize, bytes: &[u8], transfers: Option<&mut Transfers>) -> Option<u64> {
        if let Some(&Call::Input { room, offset }) = self.next()
            && room == wanted
            && let Some(transfers) = transfers
        {
            transfers.pinned[transfers.turn].fill(offset, bytes);
            return Some(self.graph.inputs.at.offset(offset).0);
        }
        self.failed = true;
        None
    }

    fn meet(&mut self, call: Call) {
        let at = self.next;
        match (self.next(), call) {
            (Some(Call::Kernel(old)), Call::Kernel(new)) if old.name == new.name => {
                if *old != new {
                    self.changed.push((at, new));
                }
            }
            (Some(old), new) if *old == new => {}
            _ => self.failed = true,
        }
    }

    fn agrees(&self) -> bool {
        !self.failed && self.next == self.graph.calls.len()
    }
}

impl Graph {
    /// Makes the launches to come those of the changed kernels.
    fn change(&mut self, changed: Vec<(usize, Kernel)>) -> Result<(), Failure> {
        for (at, mut kernel) in changed {
            let Some(&node) = self.nodes.get(&at) else { unreachable!("every kernel has a node") };
            let kept = kernel.clone();
            let mut addresses: Vec<_> = kernel.arguments.iter_mut().map(Argument::address).collect();
            let Kernel { function, grid, block, shared_bytes, .. } = kept;
            // SAFETY: the arguments were compared with the kernel's parameters when it was asked for, and the node is
            // this kernel's.
            unsafe {
                driver::set_kernel(self.executable, node, function, grid, block, shared_bytes, &mut addresses)
            }?;
            self.calls[at] = Call::Kernel(kept);
        }
        Ok(())
    }

    fn destroy(self, pool: &Pool) {
        self.inputs.give_back(pool);
        let _: Result<(), Failure> = driver::destroy_executable(self.executable);
        let _: Result<(), Failure> = driver::destroy_graph(self.captured);
    }
}

impl Graphs {
    /// For a driver that knows this version of CUDA, as 13000 for 13.0.
    pub(super) fn new(driver: i32, replay: Replay) -> Self {
        let why = match replay {
            Replay::Off => Some("graphs are switched off"),
            Replay::On if driver < OLDEST_DRIVER => Some("graphs need a driver for CUDA 12.3 or newer"),
            Replay::On => None,
        };
        let disabled = why.map(str::to_owned);
        Self { counts: GraphCounts { disabled, ..GraphCounts::default() }, ..Self::default() }
    }

    /// Gives back what the driver made. Graphs that still run do so to their end.
    pub(super) fn destroy(&mut self, pool: &Pool) {
        self.forget(pool);
        if let Some(transfers) = self.transfers.take() {
            let _: Result<(), Failure> = transfers.destroy(pool);
        }
    }

    fn forget(&mut self, pool: &Pool) {
        self.kept.drain(..).for_each(|graph| graph.destroy(pool));
        self.ticket += 1;
    }

    /// Bytes that work of this shape uploaded, if it ran already.
    fn seen(&self, shape: u64) -> Option<usize> {
        self.seen.iter().find(|(seen, _)| *seen == shape).map(|(_, bytes)| *bytes)
    }

    /// Counts a failed capture. An error in it is not an error of the work, which is then queued without a graph; the cause
    /// may be gone the next time (a kernel of cuBLASLt that is loaded at its first use), so the capture is tried again.
    fn capture_failed(&mut self, error: Option<EngineError>) {
        self.failures += 1;
        if self.failures == MOST_FAILED_CAPTURES {
            let unfit = || "the work asks for what a graph cannot hold".to_owned();
            self.counts.disabled = Some(error.map_or_else(unfit, |error| error.to_string()));
        }
    }

    /// The number of this run.
    fn now(&self) -> u64 {
        self.counts.queued + self.counts.captured + self.counts.replayed
    }

    /// Whether there is a place for one more graph; makes it if it can.
    fn has_room(&mut self, pool: &Pool) -> bool {
        let now = self.now();
        if self.kept.len() >= MOST_GRAPHS
            && let Some(unused) = self.kept.iter().position(|g| now - g.last_used > RUNS_UNUSED)
        {
            self.kept.remove(unused).destroy(pool);
            self.ticket += 1;
        }
        self.kept.len() < MOST_GRAPHS
    }
}

impl Context {
    fn graphs(&self) -> std::sync::MutexGuard<'_, Graphs> {
        locked(&self.inner.graphs)
    }

    /// How work ran so far.
    pub(crate) fn graph_counts(&self) -> GraphCounts {
        self.graphs().counts.clone()
    }

    /// Runs work as the module's header says. `shape` is the same number for work that is likely to make the same calls.
    /// The device memory of the result is valid until the next run.
    pub(crate) fn run<T>(&self, shape: u64, work: &mut dyn FnMut() -> T) -> T {
        if let Some(prepared) = self.prepare(shape, work)
            && let Some(result) = self.start(prepared)
        {
            return result;
        }
        if let Some(result) = self.capture(shape, work) {
            return result;
        }
        self.graphs().mode = Mode::Queued(0);
        let result = work();
        let mut graphs = self.graphs();
        if let Mode::Queued(bytes) = std::mem::take(&mut graphs.mode) {
            graphs.counts.queued += 1;
            graphs.seen.retain(|(seen, _)| *seen != shape);
            graphs.seen.push_back((shape, bytes));
            if graphs.seen.len() > MOST_SHAPES {
                graphs.seen.pop_front();
            }
        }
        result
    }

    /// Compares work with the graphs of its shape, on the host alone; `None` where none fits. When this returns, the inputs
    /// are on their way to the device.
    pub(crate) fn prepare<T>(&self, shape: u64, work: &mut dyn FnMut() -> T) -> Option<Prepared<T>> {
        let candidates = self.graphs().kept.iter().filter(|g| g.shape == shape).count();
        for _ in 0..candidates {
            if self.is_broken() || !self.begin_comparison(shape) {
                return None;
            }
            let result = work();
            let mut graphs = self.graphs();
            let Mode::Comparing(comparison) = std::mem::take(&mut graphs.mode) else { return None };
            let agrees = comparison.agrees();
            let Comparison { mut graph, changed, .. } = comparison;
            if !agrees {
                // Before the others: the next candidate is the next one from the end.
                graphs.kept.insert(0, graph);
                continue;
            }
            let bytes = graph.input_bytes;
            let sent = self.attempt(|| {
                graph.change(changed)?;
                graphs.transfers.as_ref().map_or(Ok(()), |transfers| transfers.send(bytes))
            });
            graphs.kept.push(graph);
            graphs.ticket += 1;
            let lasting = self.inner.lasting.load(Ordering::Relaxed);
            return sent.map(|()| Prepared { result, ticket: graphs.ticket, lasting });
        }
        None
    }

    /// Takes the shape's graph that was used last out of the list, to be compared with.
    fn begin_comparison(&self, shape: u64) -> bool {
        let mut graphs = self.graphs();
        let Some(at) = graphs.kept.iter().rposition(|g| g.shape == shape) else { return false };
        let turned = self.attempt(|| graphs.transfers.as_mut().map_or(Ok(()), Transfers::turn));
        if turned.is_none() {
            return false;
        }
        graphs.ticket += 1; // what was prepared before has lost its place
        let graph = graphs.kept.remove(at);
        graphs.mode = Mode::Comparing(Comparison { graph, next: 0, changed: Vec::new(), failed: false });
        true
    }

    /// Launches what was prepared; `None`, and nothing has happened, when that can no longer be done.
    pub(crate) fn start<T>(&self, prepared: Prepared<T>) -> Option<T> {
        let Prepared { result, ticket, lasting } = prepared;
        let mut graphs = self.graphs();
        if graphs.ticket != ticket
            || self.inner.lasting.load(Ordering::Relaxed) != lasting
            || self.is_broken()
        {
            return None;
        }
        graphs.ticket += 1;
        graphs.counts.replayed += 1;
        self.launch_last(&mut graphs);
        Some(result)
    }

    /// Launches the graph at the end of the list, whose inputs have been sent.
    fn launch_last(&self, graphs: &mut Graphs) {
        let now = graphs.now();
        let (Some(graph), Some(transfers)) = (graphs.kept.last_mut(), &graphs.transfers) else {
            return;
        };
        graph.last_used = now;
        self.attempt(|| {
            transfers.take(graph.inputs.at.0, graph.input_bytes, self.stream())?;
            driver::launch_graph(graph.executable, self.stream())
        });
    }

    /// Captures work whose shape ran before, and launches the graph; `None`, and nothing has been launched, where that is
    /// not possible.
    fn capture<T>(&self, shape: u64, work: &mut dyn FnMut() -> T) -> Option<T> {
        let inputs = self.inputs_for(shape)?;
        let began = self.attempt(|| driver::begin_capture(self.stream()));
        let failed = began.is_none();
        let capture = Capture { calls: Vec::new(), nodes: HashMap::new(), inputs, used: 0, failed };
        self.graphs().mode = Mode::Capturing(capture);
        let result = work();
        let mut graphs = self.graphs();
        let Mode::Capturing(capture) = std::mem::take(&mut graphs.mode) else { return None };
        let Capture { calls, nodes, inputs, used, failed } = capture;
        // The capture is to be ended whatever happened in it.
        let ended = began.map(|()| self.inner.bind().and_then(|()| driver::end_capture(self.stream())));
        let made = match ended {
            Some(Ok(graph)) if failed || self.is_broken() => driver::destroy_graph(graph).map(|()| None),
            Some(Ok(graph)) => driver::instantiate(graph).map(|executable| Some((graph, executable))),
            Some(Err(failure)) => Err(failure),
            None => Ok(None),
        };
        let made = made.unwrap_or_else(|failure| {
            self.fail(failure.into());
            None
        });
        let Some((captured, executable)) = made else {
            inputs.give_back(self.pool());
            graphs.capture_failed(self.forget_error());
            return None;
        };
        let last_used = graphs.now();
        let graph = Graph { shape, calls, nodes, inputs, input_bytes: used, captured, executable, last_used };
        graphs.kept.push(graph);
        graphs.ticket += 1;
        graphs.counts.captured += 1;
        self.attempt(|| graphs.transfers.as_ref().map_or(Ok(()), |transfers| transfers.send(used)));
        self.launch_last(&mut graphs);
        Some(result)
    }

    /// Room for the inputs of work that may be captured now.
    fn inputs_for(&self, shape: u64) -> Option<Area> {
        let mut graphs = self.graphs();
        let bytes = Pool::round(graphs.seen(shape)?.max(1));
        if self.is_broken() || graphs.counts.disabled.is_some() || !graphs.has_room(self.pool()) {
            return None;
        }
        let inputs = self.attempt(|| self.pool().take(bytes, false))??;
        let inputs = Area { at: DevicePtr(inputs), bytes };
        let large_enough = graphs.transfers.as_ref().is_some_and(|t| t.landing.bytes >= bytes);
        let ready = self.attempt(|| {
            if !large_enough {
                if let Some(smaller) = graphs.transfers.take() {
                    driver::synchronize(self.stream())?;
                    smaller.destroy(self.pool())?;
                }
                // A comparison that was made ahead has lost its inputs.
                graphs.ticket += 1;
                graphs.transfers = Transfers::new(self.pool(), bytes, self.stream())?;
            }
            graphs.transfers.as_mut().map_or(Ok(()), Transfers::turn)
        });
        if ready.is_some() && graphs.transfers.is_some() {
            return Some(inputs);
        }
        // An error here is not an error of the work either, which is queued now.
        let error = self.forget_error();
        let none = || "no memory for the inputs of a graph".to_owned();
        graphs.counts.disabled = Some(error.map_or_else(none, |error| error.to_string()));
        graphs.forget(self.pool()); // there is no way left to send inputs to those there are
        inputs.give_back(self.pool());
        None
    }

    /// Forgets all graphs, so that their memory can be given back.
    pub(super) fn forget_graphs(&self) {
        self.graphs().forget(self.pool());
    }

    /// Tells graphs that memory they may refer to is no longer what it was.
    pub(super) fn lasting_memory_changed(&self) {
        self.inner.lasting.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether calls are being captured or compared now rather than made. The capture or comparison then fails, because the
    /// caller is about to do something that a graph cannot hold, and the work is queued instead.
    pub(crate) fn is_unfit_for_graph(&self) -> bool {
        match &mut self.graphs().mode {
            Mode::Outside | Mode::Queued(_) => false,
            Mode::Capturing(capture) => {
                capture.failed = true;
                true
            }
            Mode::Comparing(comparison) => {
                comparison.failed = true;
                true
            }
        }
    }

    /// Whether a call is to be made; a comparison only takes note of it.
    pub(super) fn is_made(&self, call: impl FnOnce() -> Call) -> bool {
        match &mut self.graphs().mode {
            Mode::Outside | Mode::Queued(_) => true,
            Mode::Capturing(capture) => {
                if !capture.failed {
                    capture.calls.push(call());
                }
                !capture.failed
            }
            Mode::Comparing(comparison) => {
                comparison.meet(call());
                false
            }
        }
    }

    /// Keeps the node of the kernel that was just captured, if one was.
    pub(super) fn keep_node(&self) -> Result<(), Failure> {
        if let Mode::Capturing(capture) = &mut self.graphs().mode {
            let node = driver::captured_node(self.stream())?;
            capture.nodes.insert(capture.calls.len() - 1, node);
        }
        Ok(())
    }

    /// Memory for work that is being captured or compared; elsewhere, which kind of memory is to be taken from the pool.
    pub(super) fn captured_memory(&self, bytes: usize) -> Result<DeviceBuffer, Home> {
        let found = match &mut self.graphs().mode {
            Mode::Outside => return Err(Home::Plain),
            Mode::Queued(_) => return Err(Home::Capturable),
            Mode::Capturing(capture) => {
                // The driver gives no memory during a capture, and need not: the work ran once already.
                let at = if capture.failed { None } else { self.pool().take_waiting(bytes) };
                capture.failed = at.is_none();
                capture.calls.extend(at.map(|at| Call::Allocate { bytes, at }));
                at.map(|at| (at, Home::Capturable))
            }
            Mode::Comparing(comparison) => comparison.allocation(bytes).map(|at| (at, Home::Graph)),
        };
        Ok(match found {
            Some((at, home)) => DeviceBuffer::new(self.clone(), at, bytes, home),
            None => DeviceBuffer::none(self.clone()),
        })
    }

    /// Where an upload stands among the inputs of work that is being captured or compared; `None` where it is to be made
    /// as usual.
    pub(super) fn captured_input(&self, room: usize, bytes: &[u8]) -> Option<DeviceBuffer> {
        let mut graphs = self.graphs();
        let Graphs { mode, transfers, .. } = &mut *graphs;
        let at = match mode {
            Mode::Outside => return None,
            Mode::Queued(uploaded) => {
                *uploaded += room;
                return None;
            }
            Mode::Capturing(capture) => capture.input(room, bytes, transfers.as_mut()),
            Mode::Comparing(comparison) => comparison.input(room, bytes, transfers.as_mut()),
        };
        Some(match at {
            Some(at) => DeviceBuffer::new(self.clone(), at, room, Home::Graph),
            None => DeviceBuffer::none(self.clone()),
        })
    }
}

#[cfg(test)]
mod tests;
