//! How ranks find rank 0: it waits at a door, the others look for it until it is there.
//!
//! Owns: addresses, the file with them, who has come and who is wrong. Never: the connections among other ranks.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::handshake::{self, Door, Hello, Purpose, Word, call, hear, say};
use super::interfaces;
use super::join::{Trouble, trouble};

/// How long rank 0 stays to tell those who come late that nothing comes of it.
const LINGER: Duration = Duration::from_secs(2);
/// How long one attempt to connect may take.
const ATTEMPT: Duration = Duration::from_secs(5);
/// How often one looks for news.
pub const TURN: Duration = Duration::from_millis(5);
/// The first line of the file of addresses.
const FILE_HEAD: &str = "headstart ranks 1";

/// Where ranks meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rendezvous {
    /// `HOST:PORT`, at which rank 0 waits.
    Address(String),
    /// A file that all ranks see, into which rank 0 writes where it waits.
    File(PathBuf),
}

impl std::fmt::Display for Rendezvous {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(address) => f.write_str(address),
            Self::File(path) => write!(f, "the file {}", path.display()),
        }
    }
}

/// Where to look for rank 0.
pub enum At {
    Rendezvous(Rendezvous),
    /// What would be in its file.
    #[cfg(feature = "mpi")]
    Known(String),
}

/// Rank 0's door, and the mark by which those know it who read of it.
pub struct Place {
    pub door: Door,
    /// Zero where only an address is known.
    pub mark: u64,
    /// Removed when all have come.
    file: Option<PathBuf>,
}

impl Place {
    /// A door at a listener that is there already.
    pub fn of(listener: TcpListener, mark: u64) -> Result<Self, Trouble> {
        let door = Door::new(listener).map_err(|e| trouble(format!("rank 0 cannot listen: {e}"), NETWORK))?;
        Ok(Self { door, mark, file: None })
    }

    /// Opens the door; a port that is still in use is waited for as long as `patience`.
    pub fn open(rendezvous: &Rendezvous, patience: Duration) -> Result<Self, Trouble> {
        match rendezvous {
            Rendezvous::Address(address) => Self::of(listen(address, patience)?, 0),
            Rendezvous::File(path) => {
                let cannot = |e| trouble(format!("rank 0 cannot listen: {e}"), NETWORK);
                let listener = TcpListener::bind((interfaces::everywhere(), 0)).map_err(cannot)?;
                let mut place = Self::of(listener, random())?;
                let port = place.door.address().map_err(cannot)?.port();
                write_file(path, place.mark, &interfaces::own_addresses(port)).map_err(|e| {
                    trouble(
                        format!("rank 0 cannot write {}: {e}", path.display()),
                        "name a file in a folder that exists and that all ranks see",
                    )
                })?;
                place.file = Some(path.clone());
                Ok(place)
            }
        }
    }

    /// Waits for ranks 1 to `world_size`, which come in any order; the connection of rank r is at r - 1.
    pub fn gather(
        &mut self,
        world_size: usize,
        version: &str,
        deadline: Instant,
    ) -> Result<Vec<TcpStream>, Trouble> {
        let own = Hello::new(Purpose::Data, self.mark, 0, world_size, version);
        let mut seats: Vec<Option<TcpStream>> = (1..world_size).map(|_| None).collect();
        while seats.iter().any(Option::is_none) {
            let mut visitors = self.door.visitors().into_iter();
            while let Some((stream, hello)) = visitors.next() {
                if hello.run != self.mark || hello.purpose != Purpose::Data {
                    continue; // of another run, by an old file
                }
                let wrong = difference(&own, &hello).or_else(|| {
                    let seat = &mut seats[hello.rank - 1];
                    let taken = seat.as_ref().filter(|other| !handshake::is_closed(other)).map(|other| {
                        let [a, b] = [other, &stream].map(address_of);
                        trouble(
                            format!("two processes say that they are rank {}: at {a} and at {b}", hello.rank),
                            SAME_RANK,
                        )
                    });
                    if taken.is_none() {
                        *seat = stream.try_clone().ok();
                    }
                    taken
                });
                if let Some(wrong) = wrong {
                    let mut told: Vec<TcpStream> = seats.into_iter().flatten().collect();
                    told.push(stream);
                    told.extend(visitors.map(|(stream, _)| stream));
                    return Err(self.refuse(told, world_size, wrong));
                }
            }
            for seat in &mut seats {
                if seat.as_ref().is_some_and(handshake::is_closed) {
                    *seat = None; // it may be started again
                }
            }
            if Instant::now() > deadline && seats.iter().any(Option::is_none) {
                let missing: Vec<usize> = (1..world_size).filter(|rank| seats[rank - 1].is_none()).collect();
                let wrong = trouble(
                    format!("{} of {world_size} did not come", ranks(&missing)),
                    "see whether those processes were started, whether they were given the same address, and what they \
                     wrote",
                );
                return Err(self.refuse(seats.into_iter().flatten().collect(), world_size, wrong));
            }
            sleep(TURN);
        }
        if let Some(file) = self.file.take() {
            let _ = std::fs::remove_file(file); // it says nothing to anybody any more
        }
        Ok(seats.into_iter().flatten().collect())
    }

    /// Tells those who are there, and those who come soon, that nothing comes of it.
    fn refuse(&mut self, mut told: Vec<TcpStream>, world_size: usize, wrong: Trouble) -> Trouble {
        for stream in &told {
            let _ = say(stream, Word::Refused, &wrong.to_text());
        }
        let until = Instant::now() + LINGER;
        while told.len() + 1 < world_size && Instant::now() < until {
            for (stream, _) in self.door.visitors() {
                let _ = say(&stream, Word::Refused, &wrong.to_text());
                told.push(stream);
            }
            sleep(TURN);
        }
        wrong
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            let _ = std::fs::remove_file(file);
        }
    }
}

const NETWORK: &str = "see whether this machine's network works";
const SAME_RANK: &str =
    "give each process a rank of its own, from 0; see whether an earlier run is still there";

/// What keeps a visitor from taking part.
fn difference(own: &Hello, other: &Hello) -> Option<Trouble> {
    let rank = other.rank;
    if own.protocol != other.protocol || own.version != other.version {
        let (a, b) = (&own.version, &other.version);
        let what = if own.version == other.version {
            format!("rank 0 speaks protocol {}, rank {rank} speaks {}", own.protocol, other.protocol)
        } else {
            format!("rank 0 is version {a}, rank {rank} is version {b}")
        };
        return Some(trouble(what, "start the same program on all machines"));
    }
    if own.world_size != other.world_size {
        let (a, b) = (own.world_size, other.world_size);
        return Some(trouble(
            format!("rank 0 was told of {a} ranks, rank {rank} of {b}"),
            "give all ranks the same world size",
        ));
    }
    if rank == 0 {
        return Some(trouble("two processes say that they are rank 0".to_owned(), SAME_RANK));
    }
    (rank >= own.world_size).then(|| {
        trouble(format!("a process says that it is rank {rank} of {}", own.world_size), "count ranks from 0")
    })
}

/// "rank 2", "ranks 1, 3".
fn ranks(all: &[usize]) -> String {
    let names: Vec<String> = all.iter().map(ToString::to_string).collect();
    format!("rank{} {}", if all.len() == 1 { "" } else { "s" }, names.join(", "))
}

fn address_of(stream: &TcpStream) -> String {
    stream.peer_addr().map_or_else(|_| "an unknown address".to_owned(), |a| a.to_string())
}

/// Looks for rank 0 until it is there, and waits with it for the others: the connection to it, and its first frame.
pub fn find(at: &At, hello: &Hello, deadline: Instant) -> Result<(TcpStream, String), Trouble> {
    let mut last = String::from("nothing was tried");
    while Instant::now() < deadline {
        match at.candidates() {
            Err(why) => last = why,
            Ok((run, addresses)) => {
                for address in addresses {
                    match knock(address, &Hello { run, ..hello.clone() }, deadline) {
                        Ok((stream, Word::Places, text)) => return Ok((stream, text)),
                        Ok((_, Word::Refused, text)) => return Err(Trouble::from_text(&text)),
                        Ok(_) => last = format!("{address} does not answer as rank 0 does"),
                        Err(e) => last = format!("{address}: {e}"),
                    }
                }
            }
        }
        sleep(Duration::from_millis(100));
    }
    Err(trouble(
        format!("rank {} did not find rank 0 at {at} ({last})", hello.rank),
        "see whether rank 0 was started, what it wrote, and whether this machine reaches that address",
    ))
}

fn knock(
    address: SocketAddr,
    hello: &Hello,
    deadline: Instant,
) -> std::io::Result<(TcpStream, Word, String)> {
    let left = deadline.saturating_duration_since(Instant::now());
    let stream = call(address, hello, ATTEMPT.min(left).max(TURN))?;
    // Rank 0 has its own limit, and says who is missing.
    let (word, text) = hear(&stream, deadline + LINGER)?;
    Ok((stream, word, text))
}

impl At {
    /// Where rank 0 may be, and its mark.
    fn candidates(&self) -> Result<(u64, Vec<SocketAddr>), String> {
        match self {
            Self::Rendezvous(Rendezvous::Address(address)) => {
                let found = address.to_socket_addrs().map_err(|e| format!("{address}: {e}"))?;
                Ok((0, found.collect()))
            }
            Self::Rendezvous(Rendezvous::File(path)) => {
                let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
                read_file(&text).ok_or_else(|| format!("{} holds no addresses of ranks", path.display()))
            }
            #[cfg(feature = "mpi")]
            Self::Known(text) => read_file(text).ok_or_else(|| "rank 0 said no address".to_owned()),
        }
    }
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rendezvous(rendezvous) => rendezvous.fmt(f),
            #[cfg(feature = "mpi")]
            Self::Known(_) => f.write_str("the addresses that it told over MPI"),
        }
    }
}

fn read_file(text: &str) -> Option<(u64, Vec<SocketAddr>)> {
    let mut lines = text.lines();
    lines.next().filter(|&head| head == FILE_HEAD)?;
    let mark = u64::from_str_radix(lines.next()?, 16).ok()?;
    let addresses: Vec<SocketAddr> = lines.map_while(|line| line.parse().ok()).collect();
    (!addresses.is_empty()).then_some((mark, addresses))
}

/// What tells others where rank 0 is.
pub fn to_text(mark: u64, addresses: &[SocketAddr]) -> String {
    let lines: String = addresses.iter().map(|address| format!("{address}\n")).collect();
    format!("{FILE_HEAD}\n{mark:x}\n{lines}")
}

fn write_file(path: &Path, mark: u64, addresses: &[SocketAddr]) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{mark:x}"));
    let new = path.with_file_name(name);
    std::fs::write(&new, to_text(mark, addresses))?;
    std::fs::rename(&new, path)
}

/// A number that no other run has.
pub fn random() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one((std::process::id(), std::time::SystemTime::now())) | 1
}

/// Listens at HOST:PORT: at that address where HOST is one, else at all addresses of this machine, for its own name may
/// mean another address here than elsewhere.
fn listen(address: &str, patience: Duration) -> Result<TcpListener, Trouble> {
    let cannot = |e: &dyn std::fmt::Display| {
        trouble(
            format!("rank 0 cannot listen at {address}: {e}"),
            "name HOST:PORT of the machine of rank 0, with a free port",
        )
    };
    let found: Vec<SocketAddr> = address.to_socket_addrs().map_err(|e| cannot(&e))?.collect();
    let Some(&first) = found.first() else { return Err(cannot(&"no such host")) };
    let literal = address.parse::<SocketAddr>().is_ok() || address.starts_with("localhost:");
    let anywhere: IpAddr = match first {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let wanted = if literal { found[0].ip() } else { anywhere };
    let until = Instant::now() + patience;
    loop {
        let bound = TcpListener::bind((wanted, first.port()));
        match bound {
            Ok(listener) => return Ok(listener),
            // An address that is ours only from outside.
            Err(e) if e.kind() == std::io::ErrorKind::AddrNotAvailable => {
                return TcpListener::bind((anywhere, first.port())).map_err(|e| cannot(&e));
            }
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse && Instant::now() < until => {
                sleep(Duration::from_millis(100));
            }
            Err(e) => return Err(cannot(&e)),
        }
    }
}
