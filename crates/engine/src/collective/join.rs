//! How a process joins the ranks that train together.
//!
//! Owns: [`Join`], who connects to whom, in which order, and that all ranks succeed or all fail for the same reason.
//! Never: what is sent afterwards.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::handshake::{self, Door, Hello, Purpose, Word, call, hear, say};
use super::rendezvous::{At, Place, Rendezvous, TURN, find, random};
use super::tcp::Mesh;
use super::watch::Watch;
use super::{Collective, Others};
use crate::error::EngineError;

/// Ranks are waited for this many times as long as a rank may be silent later: machines start at different times.
pub const PATIENCE: u32 = 10;

/// What a process knows of itself and the others before it joins them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// The number of this process, from 0.
    pub rank: usize,
    /// The number of processes.
    pub world_size: usize,
    /// The number of this process among those of its machine, from 0.
    pub local_rank: usize,
    /// How bytes travel.
    pub over: Over,
    /// A rank that is silent for longer is lost. Ranks come together within ten times as long.
    pub timeout: Duration,
    /// What must be the same on all ranks: the program's version.
    pub version: String,
}

/// How bytes travel between ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Over {
    /// Over connections of our own.
    Tcp {
        /// Where the ranks meet.
        rendezvous: Rendezvous,
    },
    /// Over MPI, which also knows rank and world size.
    Mpi,
}

/// Why ranks do not come together, as it is told to all of them.
#[derive(Clone, Debug)]
pub struct Trouble {
    what: String,
    fix: String,
}

/// A [`Trouble`].
pub fn trouble(what: String, fix: &str) -> Trouble {
    Trouble { what, fix: fix.to_owned() }
}

impl Trouble {
    pub fn to_text(&self) -> String {
        format!("{}\0{}", self.what, self.fix)
    }

    pub fn from_text(text: &str) -> Self {
        let (what, fix) = text.split_once('\0').unwrap_or((text, "see what rank 0 wrote"));
        trouble(what.to_owned(), fix)
    }
}

impl From<Trouble> for EngineError {
    fn from(trouble: Trouble) -> Self {
        Self::Rendezvous { what: trouble.what, fix: trouble.fix }
    }
}

impl Collective {
    /// Joins the others; returns when all ranks have joined. One process by itself joins nobody.
    ///
    /// # Errors
    /// [`EngineError::Rendezvous`] on all ranks: ranks that did not come, two that say they are the same, other versions
    /// or world sizes.
    pub fn join(join: &Join) -> Result<Self, EngineError> {
        match &join.over {
            Over::Tcp { rendezvous } => {
                if join.rank >= join.world_size {
                    let what = format!("this is rank {} of {}", join.rank, join.world_size);
                    return Err(trouble(what, "count ranks from 0").into());
                }
                if join.world_size == 1 {
                    return Ok(Self::alone());
                }
                Ok(over_tcp(join, rendezvous, None)?)
            }
            Over::Mpi => Ok(over_mpi(join)?),
        }
    }

    /// As many ranks as threads of this process, for tests.
    ///
    /// # Errors
    /// As [`Self::join`].
    #[doc(hidden)]
    pub fn in_threads(world_size: usize) -> Result<Vec<Self>, EngineError> {
        Self::in_threads_with(world_size, Duration::from_mins(1))
    }

    /// [`Self::in_threads`] where a rank may be silent for `timeout`.
    ///
    /// # Errors
    /// As [`Self::join`].
    #[doc(hidden)]
    pub fn in_threads_with(world_size: usize, timeout: Duration) -> Result<Vec<Self>, EngineError> {
        if world_size < 2 {
            return Ok(vec![Self::alone()]);
        }
        let cannot = |e: std::io::Error| trouble(format!("no port: {e}"), "free one");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?.to_string();
        let rendezvous = Rendezvous::Address(address);
        let mut listener = Some(listener);
        std::thread::scope(|scope| {
            let joining: Vec<_> = (0..world_size)
                .map(|rank| {
                    let over = Over::Tcp { rendezvous: rendezvous.clone() };
                    let version = "test".to_owned();
                    let join = Join { rank, world_size, local_rank: rank, over, timeout, version };
                    let (rendezvous, listener) = (&rendezvous, listener.take());
                    scope.spawn(move || over_tcp(&join, rendezvous, listener))
                })
                .collect();
            let died = || trouble("a thread has died".to_owned(), "see above").into();
            joining.into_iter().map(|one| one.join().map_or_else(|_| Err(died()), |c| Ok(c?))).collect()
        })
    }
}

#[cfg(feature = "mpi")]
use super::mpi::join as over_mpi;

#[cfg(not(feature = "mpi"))]
fn over_mpi(_: &Join) -> Result<Collective, Trouble> {
    let fix = "build it with `cargo build --release --features mpi`, which needs an MPI with its headers, and libclang";
    Err(trouble("this program was built without MPI".to_owned(), fix))
}

/// Joins over TCP; rank 0 may bring the listener of its door.
fn over_tcp(
    join: &Join,
    rendezvous: &Rendezvous,
    listener: Option<TcpListener>,
) -> Result<Collective, Trouble> {
    let deadline = Instant::now() + join.timeout * PATIENCE;
    let (peers, lines) = if join.rank == 0 {
        let mut place = match listener {
            Some(listener) => Place::of(listener, 0)?,
            None => Place::open(rendezvous, join.timeout)?,
        };
        lead(join, &mut place, deadline)?
    } else {
        follow(join, rendezvous, deadline)?
    };
    let broken = |e: std::io::Error| trouble(format!("a connection broke at once: {e}"), NETWORK);
    let watch = Arc::new(Watch::start(join.rank, lines, join.timeout).map_err(broken)?);
    let is_here = |peer: &TcpStream| peer.peer_addr().is_ok_and(|address| address.ip().is_loopback());
    let on_one_machine = peers.iter().flatten().all(is_here);
    let link = Box::new(Mesh::new(join.rank, peers, Arc::clone(&watch)).map_err(broken)?);
    let (rank, world_size, local_rank) = (join.rank, join.world_size, join.local_rank);
    let others = Others { rank, world_size, local_rank, on_one_machine, link, watch };
    Ok(Collective { others: Some(Arc::new(others)) })
}

pub const NETWORK: &str =
    "see whether the network between the machines works, and what the other ranks wrote";

/// The connections of data, by rank (none to itself), and those of the watch.
type Connections = (Vec<Option<TcpStream>>, Vec<(usize, TcpStream)>);

/// Rank 0's part: waits for all, tells each where the others are, waits until all are connected.
fn lead(join: &Join, place: &mut Place, deadline: Instant) -> Result<Connections, Trouble> {
    let others = place.gather(join.world_size, &join.version, deadline)?;
    let deadline = Instant::now() + join.timeout;
    let result = introduce(join, place, &others, deadline);
    if let Err(trouble) = &result {
        for other in &others {
            let _ = say(other, Word::Refused, &trouble.to_text());
        }
    }
    let lines = result?;
    Ok((std::iter::once(None).chain(others.into_iter().map(Some)).collect(), lines))
}

fn introduce(
    join: &Join,
    place: &mut Place,
    others: &[TcpStream],
    deadline: Instant,
) -> Result<Vec<(usize, TcpStream)>, Trouble> {
    let to_all = |word, text: &str| {
        for (i, other) in others.iter().enumerate() {
            say(other, word, text).map_err(|e| broke(i + 1, &e))?;
        }
        Ok(())
    };
    let from_all = |word| -> Result<Vec<String>, Trouble> {
        others.iter().enumerate().map(|(i, other)| expect(other, i + 1, word, deadline)).collect()
    };
    let run = random();
    let mut places = format!("{run}");
    for (i, other) in others.iter().enumerate() {
        let seen = other.peer_addr().map_err(|e| broke(i + 1, &e))?;
        places.push_str(&format!(" {}", handshake::plain(seen.ip())));
    }
    to_all(Word::Places, &places)?;
    to_all(Word::Ports, &from_all(Word::Ports)?.join(" "))?;
    let expected: Vec<usize> = (1..join.world_size).collect();
    let lines = receive(&mut place.door, Purpose::Watch, run, &expected, deadline)?;
    from_all(Word::Ready)?;
    to_all(Word::Go, "")?;
    Ok(lines)
}

/// The part of every other rank.
fn follow(join: &Join, rendezvous: &Rendezvous, deadline: Instant) -> Result<Connections, Trouble> {
    let hello = Hello::new(Purpose::Data, 0, join.rank, join.world_size, &join.version);
    let (leader, places) = find(&At::Rendezvous(rendezvous.clone()), &hello, deadline)?;
    let deadline = Instant::now() + join.timeout;
    let result = connect(join, &leader, &places, deadline);
    if let Err(trouble) = &result {
        let _ = say(&leader, Word::Refused, &trouble.to_text()); // rank 0 tells the others
    }
    let (mut peers, line) = result?;
    peers[0] = Some(leader);
    Ok((peers, vec![(0, line)]))
}

fn connect(
    join: &Join,
    leader: &TcpStream,
    places: &str,
    deadline: Instant,
) -> Result<(Vec<Option<TcpStream>>, TcpStream), Trouble> {
    let odd = || trouble("rank 0 sends addresses that are none".to_owned(), NETWORK);
    let mut words = places.split(' ');
    let run: u64 = words.next().and_then(|run| run.parse().ok()).ok_or_else(odd)?;
    let seen: Vec<IpAddr> = words.map(str::parse).collect::<Result<_, _>>().map_err(|_| odd())?;
    if seen.len() + 1 != join.world_size {
        return Err(odd());
    }
    let rank = join.rank;
    let lead = leader.peer_addr().map_err(|e| broke(0, &e))?;
    let here = leader.local_addr().map_err(|e| broke(0, &e))?.ip();
    let wide = seen.iter().any(|ip| !ip.is_loopback());
    // Whom rank 0 sees as its own machine, others find at the address of rank 0.
    let at = if wide && here.is_loopback() { anywhere(here) } else { here };
    let cannot = |e: std::io::Error| trouble(format!("rank {rank} cannot listen: {e}"), NETWORK);
    let mut door = TcpListener::bind((at, 0)).and_then(Door::new).map_err(cannot)?;
    let port = door.address().map_err(cannot)?.port();
    say(leader, Word::Ports, &port.to_string()).map_err(|e| broke(0, &e))?;
    // Rank 0 waits for all until the deadline, and then says who is late.
    let patient = deadline + join.timeout;
    let ports = expect(leader, 0, Word::Ports, patient)?;
    let ports: Vec<u16> = ports.split(' ').map(str::parse).collect::<Result<_, _>>().map_err(|_| odd())?;
    if ports.len() != seen.len() {
        return Err(odd());
    }
    let greet = |purpose, to: usize, address: SocketAddr| {
        let hello = Hello::new(purpose, run, rank, join.world_size, &join.version);
        let left = deadline.saturating_duration_since(Instant::now()).max(TURN);
        call(address, &hello, left).map_err(|e| {
            trouble(format!("rank {rank} cannot connect to rank {to} at {address}: {e}"), NETWORK)
        })
    };
    let mut peers: Vec<Option<TcpStream>> = (0..join.world_size).map(|_| None).collect();
    for to in 1..rank {
        let ip = if seen[to - 1].is_loopback() { lead.ip() } else { seen[to - 1] };
        peers[to] = Some(greet(Purpose::Data, to, SocketAddr::new(ip, ports[to - 1]))?);
    }
    let line = greet(Purpose::Watch, 0, lead)?;
    let expected: Vec<usize> = (rank + 1..join.world_size).collect();
    for (from, stream) in receive(&mut door, Purpose::Data, run, &expected, deadline)? {
        peers[from] = Some(stream);
    }
    say(leader, Word::Ready, "").map_err(|e| broke(0, &e))?;
    expect(leader, 0, Word::Go, patient)?;
    Ok((peers, line))
}

/// All addresses of the same kind.
fn anywhere(ip: IpAddr) -> IpAddr {
    if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() }
}

/// One connection from each of the `expected`, in any order.
fn receive(
    door: &mut Door,
    purpose: Purpose,
    run: u64,
    expected: &[usize],
    deadline: Instant,
) -> Result<Vec<(usize, TcpStream)>, Trouble> {
    let mut found: Vec<(usize, TcpStream)> = Vec::new();
    loop {
        for (stream, hello) in door.visitors() {
            let fits = hello.run == run && hello.purpose == purpose && expected.contains(&hello.rank);
            if fits && found.iter().all(|(rank, _)| *rank != hello.rank) {
                found.push((hello.rank, stream));
            }
        }
        if found.len() == expected.len() {
            return Ok(found);
        }
        if Instant::now() > deadline {
            let late = expected.iter().find(|&rank| found.iter().all(|(other, _)| other != rank));
            let late = late.copied().unwrap_or_default();
            return Err(trouble(format!("rank {late} did not connect to all others in time"), NETWORK));
        }
        sleep(TURN);
    }
}

fn expect(stream: &TcpStream, rank: usize, word: Word, deadline: Instant) -> Result<String, Trouble> {
    match hear(stream, deadline) {
        Ok((Word::Refused, text)) => Err(Trouble::from_text(&text)),
        Ok((heard, text)) if heard == word => Ok(text),
        Ok((heard, _)) => Err(trouble(format!("rank {rank} says {heard:?} where {word:?} was due"), NETWORK)),
        Err(e) => Err(broke(rank, &e)),
    }
}

fn broke(rank: usize, error: &std::io::Error) -> Trouble {
    let what = match error.kind() {
        ErrorKind::TimedOut => format!("rank {rank} came and was silent then"),
        ErrorKind::UnexpectedEof => format!("rank {rank} came and is gone: its connection was closed"),
        _ => format!("rank {rank} came and is gone: {error}"),
    };
    trouble(what, NETWORK)
}
