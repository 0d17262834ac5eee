//! Messages between ranks over MPI.
//!
//! Owns: MPI's beginning and end, and its calls, which are unsafe. Never: MPI's own reductions, whose order of sums is theirs.
//!
//! MPI reads and writes only buffers of our own, through which messages travel in pieces: when a rank is lost in the middle
//! of a message, MPI has no way to let go of a buffer for certain, so those it still holds are never freed. It costs a copy
//! of each piece, most of it in the processor's cache.

use std::collections::VecDeque;
use std::ffi::{c_int, c_void};
use std::fmt;
use std::io;
use std::mem::ManuallyDrop;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{sleep, yield_now};
use std::time::{Duration, Instant};

use ::mpi::Threading;
use ::mpi::environment::Universe;
use ::mpi::ffi;
use ::mpi::topology::SimpleCommunicator;
use ::mpi::traits::{Communicator as _, Root as _};

use super::handshake::{Hello, Purpose, Word, say};
use super::interfaces;
use super::join::{Join, NETWORK, PATIENCE, Trouble, trouble};
use super::rendezvous::{At, Place, find, random, to_text};
use super::watch::Watch;
use super::{Collective, Link, Others};
use crate::error::EngineError;

/// Messages are cut into pieces of so many bytes; no more fits some caches.
const PIECE: usize = 512 << 10;
/// As many pieces are on their way to a rank, and from it, at once.
const WINDOW: usize = 4;
/// So often one looks for news before the processor is given away, and before one sleeps.
const SPINS: u32 = 100;
const YIELDS: u32 = 200;
const NAP: Duration = Duration::from_micros(50);
/// The tag of our messages.
const TAG: c_int = 0x48;

/// Joins the ranks that an MPI launcher has started.
pub fn join(join: &Join) -> Result<Collective, Trouble> {
    let (universe, threading) = ::mpi::initialize_with_threading(Threading::Serialized)
        .ok_or_else(|| trouble("MPI was begun before in this process".to_owned(), "join the ranks once"))?;
    if threading < Threading::Serialized {
        let what = format!("MPI lets threads call it only as {threading:?}, not one after the other");
        return Err(trouble(what, "use an MPI built with support for threads"));
    }
    let world = universe.world();
    let (rank, world_size) = (world.rank() as usize, world.size() as usize);
    if world_size == 1 {
        return Ok(Collective::alone()); // and MPI ends with the universe
    }
    // SAFETY: MPI has begun, both handles are its constants. From now on its errors are codes and end no process.
    unsafe { ffi::MPI_Comm_set_errhandler(ffi::RSMPI_COMM_WORLD, ffi::RSMPI_ERRORS_RETURN) };
    let machine = world.split_shared(world.rank());
    let (local_rank, on_machine) = (machine.rank() as usize, machine.size() as usize);
    drop(machine);
    // Where ranks do not come together, MPI is not ended: that could wait forever.
    let universe = ManuallyDrop::new(Some(universe));
    let lines = meet(&world, join, on_machine == world_size)?;
    let broken = |e: io::Error| trouble(format!("a connection broke at once: {e}"), NETWORK);
    let watch = Arc::new(Watch::start(rank, lines, join.timeout).map_err(broken)?);
    let state = Mutex::new(State { universe, pool: Vec::new(), broken: false });
    let link = Box::new(OverMpi { rank, world_size, state, watch: Arc::clone(&watch) });
    let on_one_machine = on_machine == world_size;
    let others = Others { rank, world_size, local_rank, on_one_machine, link, watch };
    Ok(Collective { others: Some(Arc::new(others)) })
}

/// The connections of the watch: rank 0 says over MPI where it waits, the others come.
fn meet(
    world: &SimpleCommunicator,
    join: &Join,
    one_machine: bool,
) -> Result<Vec<(usize, std::net::TcpStream)>, Trouble> {
    let (rank, world_size) = (world.rank() as usize, world.size() as usize);
    let deadline = Instant::now() + join.timeout * PATIENCE;
    let mut place = None;
    let mut text = Ok(String::new());
    if rank == 0 {
        text = open(one_machine).map(|(opened, text)| {
            place = Some(opened);
            text
        });
    }
    let mut bytes = text.as_ref().map_or_else(Trouble::to_text, Clone::clone).into_bytes();
    let mut length = bytes.len() as u64;
    world.process_at_rank(0).broadcast_into(&mut length);
    bytes.resize(length as usize, 0);
    world.process_at_rank(0).broadcast_into(&mut bytes[..]);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    if text.contains('\0') {
        return Err(Trouble::from_text(&text));
    }
    if let Some(mut place) = place {
        let others = place.gather(world_size, &join.version, deadline)?;
        for other in &others {
            let _ = say(other, Word::Places, ""); // the watch hears of it where one is gone already
        }
        return Ok(others.into_iter().enumerate().map(|(i, other)| (i + 1, other)).collect());
    }
    let hello = Hello::new(Purpose::Data, 0, rank, world_size, &join.version);
    let (leader, _) = find(&At::Known(text), &hello, deadline)?;
    Ok(vec![(0, leader)])
}

/// Rank 0's door, and what tells others where it is.
fn open(one_machine: bool) -> Result<(Place, String), Trouble> {
    let cannot = |e: io::Error| trouble(format!("rank 0 cannot listen: {e}"), NETWORK);
    let at = if one_machine { Ipv4Addr::LOCALHOST.into() } else { interfaces::everywhere() };
    let listener = TcpListener::bind((at, 0)).map_err(cannot)?;
    let port = listener.local_addr().map_err(cannot)?.port();
    let place = Place::of(listener, random())?;
    let addresses =
        if one_machine { vec![SocketAddr::new(at, port)] } else { interfaces::own_addresses(port) };
    let text = to_text(place.mark, &addresses);
    Ok((place, text))
}

struct OverMpi {
    rank: usize,
    world_size: usize,
    /// Whoever calls MPI holds the lock, so no two threads do at once.
    state: Mutex<State>,
    watch: Arc<Watch>,
}

impl fmt::Debug for OverMpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OverMpi")
            .field("rank", &self.rank)
            .field("world_size", &self.world_size)
            .finish_non_exhaustive()
    }
}

struct State {
    /// MPI ends with it: only where all is well, for with a rank lost its end could wait forever.
    universe: ManuallyDrop<Option<Universe>>,
    /// Buffers of `PIECE` bytes that MPI does not use now.
    pool: Vec<Box<[u8]>>,
    /// Whether an exchange failed. MPI is not called any more.
    broken: bool,
}

/// Pieces that go one way between this rank and another, in order.
struct Flow<P> {
    other: usize,
    to_do: VecDeque<P>,
    on_their_way: VecDeque<OnItsWay<P>>,
}

/// A piece that MPI has. Its buffer is freed only by `finish`; whatever else happens, it stays.
struct OnItsWay<P> {
    request: ffi::MPI_Request,
    buffer: ManuallyDrop<Box<[u8]>>,
    piece: P,
}

/// An error of MPI's with the rank concerned.
struct Broken(usize, io::Error);

impl<P> Flow<P> {
    fn new(other: usize) -> Self {
        Self { other, to_do: VecDeque::new(), on_their_way: VecDeque::new() }
    }

    fn is_done(&self) -> bool {
        self.to_do.is_empty() && self.on_their_way.is_empty()
    }

    /// Gives MPI what may be on its way now; `begin` is its call.
    fn post(
        &mut self,
        pool: &mut Vec<Box<[u8]>>,
        begin: impl Fn(&P, &mut [u8], c_int, &mut ffi::MPI_Request) -> c_int,
    ) -> Result<bool, Broken> {
        let mut moved = false;
        while self.on_their_way.len() < WINDOW
            && let Some(piece) = self.to_do.pop_front()
        {
            let buffer = pool.pop().unwrap_or_else(|| vec![0; PIECE].into_boxed_slice());
            let mut buffer = ManuallyDrop::new(buffer);
            // SAFETY: reads a constant of MPI's library.
            let mut request = unsafe { ffi::RSMPI_REQUEST_NULL };
            check(self.other, begin(&piece, &mut buffer, self.other as c_int, &mut request))?;
            self.on_their_way.push_back(OnItsWay { request, buffer, piece });
            moved = true;
        }
        Ok(moved)
    }

    /// Takes back what MPI is done with.
    fn finish(&mut self, pool: &mut Vec<Box<[u8]>>, end: impl Fn(P, &[u8])) -> Result<bool, Broken> {
        let mut moved = false;
        while let Some(first) = self.on_their_way.front_mut() {
            let mut done: c_int = 0;
            // SAFETY: the request came from MPI and was not completed before; the status is MPI's constant for none.
            let code =
                unsafe { ffi::MPI_Test(&raw mut first.request, &raw mut done, ffi::RSMPI_STATUS_IGNORE) };
            check(self.other, code)?;
            if done == 0 {
                break;
            }
            if let Some(OnItsWay { buffer, piece, .. }) = self.on_their_way.pop_front() {
                end(piece, &buffer);
                pool.push(ManuallyDrop::into_inner(buffer));
            }
            moved = true;
        }
        Ok(moved)
    }
}

fn begin_send(piece: &&[u8], buffer: &mut [u8], to: c_int, request: &mut ffi::MPI_Request) -> c_int {
    buffer[..piece.len()].copy_from_slice(piece);
    let (bytes, count) = (buffer.as_ptr().cast::<c_void>(), piece.len() as c_int);
    // SAFETY: the buffer holds `count` bytes and lives until the request is complete, or forever; handles are constants.
    unsafe { ffi::MPI_Isend(bytes, count, ffi::RSMPI_UINT8_T, to, TAG, ffi::RSMPI_COMM_WORLD, request) }
}

fn begin_receive(piece: &&mut [u8], buffer: &mut [u8], from: c_int, request: &mut ffi::MPI_Request) -> c_int {
    let (bytes, count) = (buffer.as_mut_ptr().cast::<c_void>(), piece.len() as c_int);
    // SAFETY: as above, and nothing else touches the buffer until then; no piece is longer than a buffer.
    unsafe { ffi::MPI_Irecv(bytes, count, ffi::RSMPI_UINT8_T, from, TAG, ffi::RSMPI_COMM_WORLD, request) }
}

fn check(rank: usize, code: c_int) -> Result<(), Broken> {
    if code == 0 {
        return Ok(());
    }
    let mut text = vec![0_u8; 4096];
    let mut length: c_int = 0;
    // SAFETY: the buffer is longer than MPI_MAX_ERROR_STRING of any MPI (256 to 1024).
    unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr().cast(), ptr::from_mut(&mut length)) };
    text.truncate(length.max(0) as usize);
    Err(Broken(rank, io::Error::other(format!("MPI says {}", String::from_utf8_lossy(&text)))))
}

impl OverMpi {
    fn run(
        &self,
        pool: &mut Vec<Box<[u8]>>,
        sends: &mut [Flow<&[u8]>],
        receives: &mut [Flow<&mut [u8]>],
    ) -> Result<(), EngineError> {
        let mut idle = 0;
        loop {
            let mut moved = false;
            let mut turn = || -> Result<(), Broken> {
                for flow in &mut *receives {
                    moved |= flow.post(pool, begin_receive)?;
                    moved |= flow.finish(pool, |into, bytes| into.copy_from_slice(&bytes[..into.len()]))?;
                }
                for flow in &mut *sends {
                    moved |= flow.post(pool, begin_send)?;
                    moved |= flow.finish(pool, |_, _| {})?;
                }
                Ok(())
            };
            if let Err(Broken(rank, e)) = turn() {
                return Err(self.watch.broken(rank, &e));
            }
            if sends.iter().all(Flow::is_done) && receives.iter().all(Flow::is_done) {
                return Ok(());
            }
            idle = if moved { 0 } else { idle + 1 };
            if idle > 0 {
                self.watch.check()?;
                match idle {
                    0..SPINS => std::hint::spin_loop(),
                    SPINS..YIELDS => yield_now(),
                    _ => sleep(NAP),
                }
            }
        }
    }
}

impl Link for OverMpi {
    fn exchange(
        &self,
        sends: &[(usize, &[u8])],
        receives: &mut [(usize, &mut [u8])],
    ) -> Result<(), EngineError> {
        let mut out: Vec<Flow<&[u8]>> = (0..self.world_size).map(Flow::new).collect();
        let mut back: Vec<Flow<&mut [u8]>> = (0..self.world_size).map(Flow::new).collect();
        for (to, bytes) in sends {
            assert!(*to != self.rank, "a rank sends nothing to itself");
            out[*to].to_do.extend(bytes.chunks(PIECE));
        }
        for (from, bytes) in receives {
            assert!(*from != self.rank, "a rank receives nothing from itself");
            back[*from].to_do.extend(bytes.chunks_mut(PIECE));
        }
        out.retain(|flow| !flow.is_done());
        back.retain(|flow| !flow.is_done());
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.broken || state.universe.is_none() {
            self.watch.check()?;
            let e = io::Error::other("an exchange failed before, or this rank has left");
            return Err(self.watch.broken(self.rank, &e));
        }
        let result = self.run(&mut state.pool, &mut out, &mut back);
        state.broken |= result.is_err();
        result
    }

    /// All wait for all first, under the watch: MPI's own end would wait for a lost rank forever.
    fn leave(&self) {
        let mut bytes = vec![0; self.world_size];
        let others = || (0..self.world_size).filter(|&other| other != self.rank);
        let sends: Vec<(usize, &[u8])> = others().map(|to| (to, &[0][..])).collect();
        let mut receives: Vec<(usize, &mut [u8])> = others().zip(bytes.chunks_mut(1)).collect();
        let all_well = self.exchange(&sends, &mut receives).is_ok();
        self.watch.leave();
        if all_well {
            let universe = self.state.lock().unwrap_or_else(PoisonError::into_inner).universe.take();
            drop(universe);
        }
    }
}
