//! Sections: work that comes again and again, recorded as a CUDA graph and replayed.
//!
//! Owns: what a section asked of the context, the graphs and their inputs, when which is used. Never: what the work
//! computes; no op knows of graphs.
//!
//! A section is a function that only queues work. It runs in one of three ways:
//! - **queued**, the first time: everything is done as it comes;
//! - **recorded**, the second time that a section of its shape comes: the stream gathers the work into a graph, and every
//!   call is written down with its answer. Uploads go to one area of inputs;
//! - **compared**, from then on: the function runs on the host alone. An allocation is answered with the recorded address,
//!   an upload is gathered, a kernel whose grid or arguments differ is noted; anything else that differs ends the
//!   comparison, nothing has happened, and the section is queued. If all agrees, one copy and one launch do the rest.
//!
//! So a graph can never compute something else than the code asks for, and a comparison may be made ahead, while the
//! device still computes what came before.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;

use super::buffer::{DeviceBuffer, DevicePtr, Home, Pool};
use super::context::Context;
use super::driver::{self, CUevent, CUfunction, CUgraph, CUgraphExec, CUgraphNode, CUstream, Shape};
use super::error::Failure;
use super::launch::Argument;
use super::locked;
use super::pinned::Pinned;
use crate::error::EngineError;

/// The version of CUDA whose driver tells which node was captured last.
const OLDEST_DRIVER: i32 = 12_030;

/// Graphs that are kept: a training step has one shape, or a few.
const MOST_GRAPHS: usize = 8;

/// Sections after which a graph that none of them used makes room for another.
const SECTIONS_UNUSED: u64 = 64;

/// Recordings that may come to nothing before no more are made. (Some do for want of memory, and succeed the next time.)
const MOST_FAILURES: u32 = 32;

/// Shapes that are remembered until they come again.
const MOST_SHAPES: usize = 64;

/// How sections ran so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SectionCounts {
    /// As their work came.
    pub queued: u64,
    /// While a graph was recorded.
    pub recorded: u64,
    /// By one launch of a graph.
    pub replayed: u64,
    /// Why no graph is recorded any more, if so.
    pub refused: Option<String>,
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

/// One thing that a section asks of the context, with the answer where there is one.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Call {
    Allocate { bytes: usize, at: u64 },
    Input { room: usize, offset: usize },
    Kernel(Kernel),
    Product { shape: Shape, addresses: [u64; 3], add: bool },
    Zero { to: u64, bytes: usize },
    Copy { to: u64, from: u64, bytes: usize },
}

/// What happens to what the context is asked for.
#[derive(Debug, Default)]
enum Mode {
    /// No section runs.
    #[default]
    Outside,
    /// All of it is done as it comes; how much is uploaded.
    Queued(usize),
    Recording(Recording),
    Comparing(Comparison),
}

#[derive(Debug)]
struct Recording {
    calls: Vec<Call>,
    /// By the kernel's place among the calls.
    nodes: HashMap<usize, CUgraphNode>,
    inputs: Area,
    /// Bytes of the inputs in use.
    used: usize,
    /// Something was asked for that a graph cannot hold.
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

/// A recorded section.
#[derive(Debug)]
struct Graph {
    shape: u64,
    calls: Vec<Call>,
    nodes: HashMap<usize, CUgraphNode>,
    inputs: Area,
    input_bytes: usize,
    recorded: CUgraph,
    executable: CUgraphExec,
    /// The number of the section that used it last.
    last_used: u64,
}

/// A section whose comparison succeeded, ready to be launched.
#[derive(Debug)]
pub(crate) struct Prepared<T> {
    result: T,
    ticket: u64,
    lasting: u64,
}

/// All of it; part of a context. Graphs have inputs, so there are transfers wherever there is a graph.
#[derive(Debug, Default)]
pub(super) struct Sections {
    mode: Mode,
    /// Shapes that ran once, and the bytes they uploaded; the oldest first.
    seen: VecDeque<(u64, usize)>,
    /// The one used last at the end.
    graphs: Vec<Graph>,
    transfers: Option<Transfers>,
    /// Only the comparison made last may be launched.
    ticket: u64,
    counts: SectionCounts,
    /// Recordings that came to nothing.
    failures: u32,
}

// SAFETY: graphs, nodes, events and streams may be used from any thread whose current context is theirs.
unsafe impl Send for Sections {}

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
        let from = self.pinned[self.turn].part(0, bytes);
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

impl Recording {
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
    /// The recorded call that comes next, unless the comparison failed already.
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
        let _: Result<(), Failure> = driver::destroy_graph(self.recorded);
    }
}

impl Sections {
    /// For a driver that knows this version of CUDA, as 13000 for 13.0.
    pub(super) fn new(driver: i32) -> Self {
        let refused =
            (driver < OLDEST_DRIVER).then(|| "graphs need a driver that knows CUDA 12.3".to_owned());
        Self { counts: SectionCounts { refused, ..SectionCounts::default() }, ..Self::default() }
    }

    /// Gives back what the driver made. Graphs that still run do so to their end.
    pub(super) fn destroy(&mut self, pool: &Pool) {
        self.forget(pool);
        if let Some(transfers) = self.transfers.take() {
            let _: Result<(), Failure> = transfers.destroy(pool);
        }
    }

    fn forget(&mut self, pool: &Pool) {
        self.graphs.drain(..).for_each(|graph| graph.destroy(pool));
        self.ticket += 1;
    }

    /// Bytes that a section of this shape uploads, if one ran already.
    fn seen(&self, shape: u64) -> Option<usize> {
        self.seen.iter().find(|(seen, _)| *seen == shape).map(|(_, bytes)| *bytes)
    }

    /// A recording came to nothing. An error in it is not one of the work, which is done once more without; what it was may
    /// be past then (a kernel of cuBLASLt that is loaded at its first use), so that it is tried again.
    fn recording_failed(&mut self, error: Option<EngineError>) {
        self.failures += 1;
        if self.failures == MOST_FAILURES {
            let unfit = || "the work asks for what a graph cannot hold".to_owned();
            self.counts.refused = Some(error.map_or_else(unfit, |error| error.to_string()));
        }
    }

    /// The number of this section.
    fn now(&self) -> u64 {
        self.counts.queued + self.counts.recorded + self.counts.replayed
    }

    /// Whether there is a place for one more graph; makes it if it can.
    fn has_room(&mut self, pool: &Pool) -> bool {
        let now = self.now();
        if self.graphs.len() >= MOST_GRAPHS
            && let Some(unused) = self.graphs.iter().position(|g| now - g.last_used > SECTIONS_UNUSED)
        {
            self.graphs.remove(unused).destroy(pool);
            self.ticket += 1;
        }
        self.graphs.len() < MOST_GRAPHS
    }
}

impl Context {
    fn sections(&self) -> std::sync::MutexGuard<'_, Sections> {
        locked(&self.inner.sections)
    }

    /// How sections ran so far.
    pub(crate) fn section_counts(&self) -> SectionCounts {
        self.sections().counts.clone()
    }

    /// Runs a section: see the module's header. `shape` is the same for sections that are likely to ask for the same.
    /// The result's device memory is valid until the next section runs.
    pub(crate) fn section<T>(&self, shape: u64, work: &mut dyn FnMut() -> T) -> T {
        if let Some(prepared) = self.prepare(shape, work)
            && let Some(result) = self.start(prepared)
        {
            return result;
        }
        if let Some(result) = self.record(shape, work) {
            return result;
        }
        self.sections().mode = Mode::Queued(0);
        let result = work();
        let mut sections = self.sections();
        if let Mode::Queued(bytes) = std::mem::take(&mut sections.mode) {
            sections.counts.queued += 1;
            sections.seen.retain(|(seen, _)| *seen != shape);
            sections.seen.push_back((shape, bytes));
            if sections.seen.len() > MOST_SHAPES {
                sections.seen.pop_front();
            }
        }
        result
    }

    /// Compares a section with the graphs of its shape, on the host alone; `None` where there is none that fits. Its inputs
    /// are on their way when this returns.
    pub(crate) fn prepare<T>(&self, shape: u64, work: &mut dyn FnMut() -> T) -> Option<Prepared<T>> {
        let candidates = self.sections().graphs.iter().filter(|g| g.shape == shape).count();
        for _ in 0..candidates {
            if self.is_broken() || !self.begin_comparison(shape) {
                return None;
            }
            let result = work();
            let mut sections = self.sections();
            let Mode::Comparing(comparison) = std::mem::take(&mut sections.mode) else { return None };
            let agrees = comparison.agrees();
            let Comparison { mut graph, changed, .. } = comparison;
            if !agrees {
                // Before the others: the next candidate is the next one from the end.
                sections.graphs.insert(0, graph);
                continue;
            }
            let bytes = graph.input_bytes;
            let sent = self.attempt(|| {
                graph.change(changed)?;
                sections.transfers.as_ref().map_or(Ok(()), |transfers| transfers.send(bytes))
            });
            sections.graphs.push(graph);
            sections.ticket += 1;
            let lasting = self.inner.lasting.load(Ordering::Relaxed);
            return sent.map(|()| Prepared { result, ticket: sections.ticket, lasting });
        }
        None
    }

    /// Takes the shape's graph that was used last out of the list, to be compared with.
    fn begin_comparison(&self, shape: u64) -> bool {
        let mut sections = self.sections();
        let Some(at) = sections.graphs.iter().rposition(|g| g.shape == shape) else { return false };
        let turned = self.attempt(|| sections.transfers.as_mut().map_or(Ok(()), Transfers::turn));
        if turned.is_none() {
            return false;
        }
        sections.ticket += 1; // what was prepared before has lost its place
        let graph = sections.graphs.remove(at);
        sections.mode = Mode::Comparing(Comparison { graph, next: 0, changed: Vec::new(), failed: false });
        true
    }

    /// Launches what was prepared; `None`, and nothing has happened, when that can no longer be done.
    pub(crate) fn start<T>(&self, prepared: Prepared<T>) -> Option<T> {
        let Prepared { result, ticket, lasting } = prepared;
        let mut sections = self.sections();
        if sections.ticket != ticket
            || self.inner.lasting.load(Ordering::Relaxed) != lasting
            || self.is_broken()
        {
            return None;
        }
        sections.ticket += 1;
        sections.counts.replayed += 1;
        self.launch_last(&mut sections);
        Some(result)
    }

    /// Launches the graph at the end of the list, whose inputs have been sent.
    fn launch_last(&self, sections: &mut Sections) {
        let now = sections.now();
        let (Some(graph), Some(transfers)) = (sections.graphs.last_mut(), &sections.transfers) else {
            return;
        };
        graph.last_used = now;
        self.attempt(|| {
            transfers.take(graph.inputs.at.0, graph.input_bytes, self.stream())?;
            driver::launch_graph(graph.executable, self.stream())
        });
    }

    /// Records a section whose shape ran before, and launches it; `None`, and nothing has happened, where that cannot
    /// be done.
    fn record<T>(&self, shape: u64, work: &mut dyn FnMut() -> T) -> Option<T> {
        let inputs = self.inputs_for(shape)?;
        let began = self.attempt(|| driver::begin_capture(self.stream()));
        let failed = began.is_none();
        let recording = Recording { calls: Vec::new(), nodes: HashMap::new(), inputs, used: 0, failed };
        self.sections().mode = Mode::Recording(recording);
        let result = work();
        let mut sections = self.sections();
        let Mode::Recording(recording) = std::mem::take(&mut sections.mode) else { return None };
        let Recording { calls, nodes, inputs, used, failed } = recording;
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
        let Some((recorded, executable)) = made else {
            inputs.give_back(self.pool());
            sections.recording_failed(locked(&self.inner.error).take());
            return None;
        };
        let last_used = sections.now();
        let graph = Graph { shape, calls, nodes, inputs, input_bytes: used, recorded, executable, last_used };
        sections.graphs.push(graph);
        sections.ticket += 1;
        sections.counts.recorded += 1;
        self.attempt(|| sections.transfers.as_ref().map_or(Ok(()), |transfers| transfers.send(used)));
        self.launch_last(&mut sections);
        Some(result)
    }

    /// Room for the inputs of a section that may be recorded now.
    fn inputs_for(&self, shape: u64) -> Option<Area> {
        let mut sections = self.sections();
        let bytes = Pool::round(sections.seen(shape)?.max(1));
        if self.is_broken() || sections.counts.refused.is_some() || !sections.has_room(self.pool()) {
            return None;
        }
        let inputs = self.attempt(|| self.pool().take(bytes, false))??;
        let inputs = Area { at: DevicePtr(inputs), bytes };
        let large_enough = sections.transfers.as_ref().is_some_and(|t| t.landing.bytes >= bytes);
        let ready = self.attempt(|| {
            if !large_enough {
                if let Some(smaller) = sections.transfers.take() {
                    driver::synchronize(self.stream())?;
                    smaller.destroy(self.pool())?;
                }
                // A comparison that was made ahead has lost its inputs.
                sections.ticket += 1;
                sections.transfers = Transfers::new(self.pool(), bytes, self.stream())?;
            }
            sections.transfers.as_mut().map_or(Ok(()), Transfers::turn)
        });
        if ready.is_some() && sections.transfers.is_some() {
            return Some(inputs);
        }
        // An error here is not one of the work either, which is queued now.
        let error = locked(&self.inner.error).take();
        let none = || "no memory for the inputs of a graph".to_owned();
        sections.counts.refused = Some(error.map_or_else(none, |error| error.to_string()));
        sections.forget(self.pool()); // those there are have lost the way of their inputs
        inputs.give_back(self.pool());
        None
    }

    /// Forgets all graphs, so that their memory can be given back.
    pub(super) fn forget_graphs(&self) {
        self.sections().forget(self.pool());
    }

    /// Tells graphs that memory they may refer to is no longer what it was.
    pub(super) fn lasting_memory_changed(&self) {
        self.inner.lasting.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether what is asked for now is not done at once, but recorded or compared; then the section fails as such, because a
    /// graph cannot hold what the caller is about to do, and is queued instead.
    pub(crate) fn is_unfit_for_graph(&self) -> bool {
        match &mut self.sections().mode {
            Mode::Outside | Mode::Queued(_) => false,
            Mode::Recording(recording) => {
                recording.failed = true;
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
        match &mut self.sections().mode {
            Mode::Outside | Mode::Queued(_) => true,
            Mode::Recording(recording) => {
                if !recording.failed {
                    recording.calls.push(call());
                }
                !recording.failed
            }
            Mode::Comparing(comparison) => {
                comparison.meet(call());
                false
            }
        }
    }

    /// Keeps the node of the kernel that was just recorded, if one was.
    pub(super) fn keep_node(&self) -> Result<(), Failure> {
        if let Mode::Recording(recording) = &mut self.sections().mode {
            let node = driver::captured_node(self.stream())?;
            recording.nodes.insert(recording.calls.len() - 1, node);
        }
        Ok(())
    }

    /// Memory as a recorded or compared section has it; elsewhere, what memory that is to be had as usual is for.
    pub(super) fn section_memory(&self, bytes: usize) -> Result<DeviceBuffer, Home> {
        let found = match &mut self.sections().mode {
            Mode::Outside => return Err(Home::Plain),
            Mode::Queued(_) => return Err(Home::Section),
            Mode::Recording(recording) => {
                // The driver gives no memory during a capture, and need not: the section ran once already.
                let at = if recording.failed { None } else { self.pool().take_waiting(bytes) };
                recording.failed = at.is_none();
                recording.calls.extend(at.map(|at| Call::Allocate { bytes, at }));
                at.map(|at| (at, Home::Section))
            }
            Mode::Comparing(comparison) => comparison.allocation(bytes).map(|at| (at, Home::Graph)),
        };
        Ok(match found {
            Some((at, home)) => DeviceBuffer::new(self.clone(), at, bytes, home),
            None => DeviceBuffer::none(self.clone()),
        })
    }

    /// The place of an upload among a recorded or compared section's inputs; `None` where it is to be made as usual.
    pub(super) fn section_input(&self, room: usize, bytes: &[u8]) -> Option<DeviceBuffer> {
        let mut sections = self.sections();
        let Sections { mode, transfers, .. } = &mut *sections;
        let at = match mode {
            Mode::Outside => return None,
            Mode::Queued(uploaded) => {
                *uploaded += room;
                return None;
            }
            Mode::Recording(recording) => recording.input(room, bytes, transfers.as_mut()),
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
