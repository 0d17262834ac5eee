//! The first words on a connection between ranks, and the door at which they are heard.
//!
//! Owns: the greeting, frames while ranks come together, and that whoever else connects (a scanner of ports, another
//! program) does no harm. Never: who is waited for.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// What every greeting and frame begins with.
const MAGIC: [u8; 8] = *b"HSranks\n";
/// Grows when the words change. It and all before it stay where they are.
const PROTOCOL: u32 = 1;
/// Magic, protocol, length of the rest.
const HEAD: usize = 14;
/// No rest of a greeting and no frame is longer.
const LONGEST: usize = 1 << 20;
/// Whoever connects and does not greet for so long is sent away.
const SHY: Duration = Duration::from_secs(10);
/// No more connections than this wait for their greeting.
const MOST_GUESTS: usize = 1024;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The messages of [`super::Link::exchange`].
    Data = 0,
    /// Signs of life.
    Watch = 1,
}

/// A greeting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    pub protocol: u32,
    pub purpose: Purpose,
    /// Which run of the ranks it belongs to; zero where it is not known yet.
    pub run: u64,
    pub rank: usize,
    pub world_size: usize,
    pub version: String,
}

impl Hello {
    pub fn new(purpose: Purpose, run: u64, rank: usize, world_size: usize, version: &str) -> Self {
        Self { protocol: PROTOCOL, purpose, run, rank, world_size, version: version.to_owned() }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let version = &self.version.as_bytes()[..self.version.len().min(1000)];
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.protocol.to_le_bytes());
        bytes.extend((17 + version.len() as u16).to_le_bytes());
        bytes.push(self.purpose as u8);
        bytes.extend(self.run.to_le_bytes());
        bytes.extend((self.rank as u32).to_le_bytes());
        bytes.extend((self.world_size as u32).to_le_bytes());
        bytes.extend(version);
        bytes
    }

    /// `None` while more must come.
    fn from_bytes(bytes: &[u8]) -> Result<Option<Self>, NotARank> {
        let known = bytes.len().min(MAGIC.len());
        if bytes[..known] != MAGIC[..known] {
            return Err(NotARank);
        }
        if bytes.len() < HEAD {
            return Ok(None);
        }
        let protocol = u32::from_le_bytes(array(&bytes[8..]));
        let length = usize::from(u16::from_le_bytes(array(&bytes[12..])));
        if bytes.len() < HEAD + length {
            return Ok(None);
        }
        let rest = &bytes[HEAD..HEAD + length];
        if bytes.len() > HEAD + length || length < 17 {
            return Err(NotARank); // whoever connects waits for an answer before it goes on
        }
        let purpose = if rest[0] == 0 { Purpose::Data } else { Purpose::Watch };
        let number = |at: usize| u32::from_le_bytes(array(&rest[at..])) as usize;
        let version = String::from_utf8_lossy(&rest[17..]).into_owned();
        let run = u64::from_le_bytes(array(&rest[1..]));
        Ok(Some(Self { protocol, purpose, run, rank: number(9), world_size: number(13), version }))
    }
}

/// The first `N` bytes, of which there are enough.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut first = [0; N];
    first.copy_from_slice(&bytes[..N]);
    first
}

#[derive(Debug)]
struct NotARank;

/// Where connections arrive.
pub struct Door {
    listener: TcpListener,
    guests: Vec<Guest>,
}

/// Somebody who has not finished greeting.
struct Guest {
    stream: TcpStream,
    bytes: Vec<u8>,
    since: Instant,
}

impl Door {
    pub fn new(listener: TcpListener) -> std::io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener, guests: Vec::new() })
    }

    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Those who have greeted since the last call; does not wait. The connections block.
    pub fn visitors(&mut self) -> Vec<(TcpStream, Hello)> {
        while self.guests.len() < MOST_GUESTS {
            let Ok((stream, _)) = self.listener.accept() else { break };
            if stream.set_nonblocking(true).is_ok() {
                self.guests.push(Guest { stream, bytes: Vec::new(), since: Instant::now() });
            }
        }
        let mut greeted = Vec::new();
        for mut guest in std::mem::take(&mut self.guests) {
            match guest.listen() {
                Ok(None) if guest.since.elapsed() < SHY => self.guests.push(guest),
                Ok(None) | Err(NotARank) => {}
                Ok(Some(hello)) => {
                    if prepare(&guest.stream).is_ok() {
                        greeted.push((guest.stream, hello));
                    }
                }
            }
        }
        greeted
    }
}

impl Guest {
    fn listen(&mut self) -> Result<Option<Hello>, NotARank> {
        let mut buffer = [0; 2048];
        match self.stream.read(&mut buffer) {
            Ok(0) => return Err(NotARank),
            Ok(n) => self.bytes.extend(&buffer[..n]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(None),
            Err(_) => return Err(NotARank),
        }
        Hello::from_bytes(&self.bytes)
    }
}

/// A connection as the ranks want them: blocking, and small messages go at once.
fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)
}

/// Connects and greets.
pub fn call(address: SocketAddr, hello: &Hello, patience: Duration) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    if stream.local_addr()? == stream.peer_addr()? {
        // A port that nobody listens at, and that the system chose as ours: we would talk to ourselves.
        return Err(ErrorKind::ConnectionRefused.into());
    }
    prepare(&stream)?;
    stream.write_all(&hello.to_bytes())?;
    Ok(stream)
}

/// What ranks tell each other while they come together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// They do not come together: what and fix.
    Refused = 0,
    /// The number of the run, and where rank 0 sees each rank.
    Places = 1,
    /// Where a rank listens, or where all do.
    Ports = 2,
    /// A rank has all its connections.
    Ready = 3,
    /// All ranks have.
    Go = 4,
}

const WORDS: [Word; 5] = [Word::Refused, Word::Places, Word::Ports, Word::Ready, Word::Go];

/// Sends a frame.
pub fn say(mut stream: &TcpStream, word: Word, text: &str) -> std::io::Result<()> {
    let mut bytes = MAGIC.to_vec();
    bytes.push(word as u8);
    bytes.extend((text.len() as u32).to_le_bytes());
    bytes.extend(text.as_bytes());
    stream.write_all(&bytes)
}

/// Receives a frame. The error is of kind `InvalidData` where it is none, and `TimedOut` after the deadline.
pub fn hear(stream: &TcpStream, deadline: Instant) -> std::io::Result<(Word, String)> {
    let mut head = [0; 13];
    read_until(stream, &mut head, deadline)?;
    let length = u32::from_le_bytes(array(&head[9..])) as usize;
    let word = WORDS.get(usize::from(head[8])).filter(|_| head[..8] == MAGIC && length <= LONGEST);
    let word = *word.ok_or(ErrorKind::InvalidData)?;
    let mut text = vec![0; length];
    read_until(stream, &mut text, deadline)?;
    Ok((word, String::from_utf8(text).map_err(|_| ErrorKind::InvalidData)?))
}

fn read_until(mut stream: &TcpStream, mut bytes: &mut [u8], deadline: Instant) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(bytes) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => bytes = &mut bytes[n..],
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            Err(e) => return Err(e),
        }
    }
    stream.set_read_timeout(None)
}

/// Whether the other side has closed the connection, on which it is not its turn to speak.
pub fn is_closed(stream: &TcpStream) -> bool {
    if stream.set_nonblocking(true).is_err() {
        return true;
    }
    let closed = match stream.peek(&mut [0]) {
        Ok(n) => n == 0,
        Err(e) => !matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
    };
    closed || stream.set_nonblocking(false).is_err()
}

/// An address of version 4 in the clothes of version 6, undressed.
pub fn plain(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}
