//! A connection of the watch: what is said on it, and that nobody waits for it.
//!
//! Owns: messages as bytes. Never: what follows from them.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

use crate::collective::poll::Wanted;

/// Tag, rank, length of the text.
const HEAD: usize = 7;

/// What the watches of two ranks tell each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A sign of life.
    Beat,
    /// From rank 0: a rank is lost, and what became of it.
    Lost(usize, String),
    /// To rank 0: its [`Message::Lost`] has arrived.
    Noted,
    /// A stop was asked for.
    Stop,
    /// To rank 0: I fail, and why.
    Failed(String),
    /// To rank 0: a connection of data to that rank broke, and how.
    Accused(usize, String),
    /// A clean end: that the connection closes now is no loss.
    Bye,
}

impl Message {
    fn write(&self, bytes: &mut Vec<u8>) {
        let (tag, rank, text) = match self {
            Self::Beat => (0, 0, ""),
            Self::Lost(rank, what) => (1, *rank, &what[..]),
            Self::Noted => (2, 0, ""),
            Self::Stop => (3, 0, ""),
            Self::Failed(why) => (4, 0, &why[..]),
            Self::Accused(rank, what) => (5, *rank, &what[..]),
            Self::Bye => (6, 0, ""),
        };
        let text = &text.as_bytes()[..text.len().min(usize::from(u16::MAX))];
        bytes.push(tag);
        bytes.extend((rank as u32).to_le_bytes());
        bytes.extend((text.len() as u16).to_le_bytes());
        bytes.extend(text);
    }

    /// The first message and its length; `None` while more must come.
    fn read(bytes: &[u8]) -> Result<Option<(Self, usize)>, Unknown> {
        let Some((&[tag, a, b, c, d, e, f], rest)) = bytes.split_first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let (rank, length) =
            (u32::from_le_bytes([a, b, c, d]) as usize, usize::from(u16::from_le_bytes([e, f])));
        let Some(text) = rest.get(..length) else { return Ok(None) };
        let text = String::from_utf8_lossy(text).into_owned();
        let message = match tag {
            0 => Self::Beat,
            1 => Self::Lost(rank, text),
            2 => Self::Noted,
            3 => Self::Stop,
            4 => Self::Failed(text),
            5 => Self::Accused(rank, text),
            6 => Self::Bye,
            _ => return Err(Unknown),
        };
        Ok(Some((message, HEAD + length)))
    }
}

#[derive(Debug)]
struct Unknown;

/// A connection to the watch of another rank.
#[derive(Debug)]
pub struct Line {
    pub rank: usize,
    stream: TcpStream,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    /// When something came last.
    pub heard: Instant,
    /// Whether it can still be used.
    pub is_open: bool,
}

impl Line {
    pub fn new(rank: usize, stream: TcpStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let (incoming, outgoing) = (Vec::new(), Vec::new());
        Ok(Self { rank, stream, incoming, outgoing, heard: Instant::now(), is_open: true })
    }

    /// Puts a message on its way.
    pub fn say(&mut self, message: &Message) {
        if self.is_open {
            message.write(&mut self.outgoing);
        }
    }

    /// A sign of life, where nothing else is on its way already.
    pub fn beat(&mut self) {
        if self.outgoing.is_empty() {
            self.say(&Message::Beat);
        }
    }

    /// Sends what the system takes, and returns what has arrived. A line that is broken is not open afterwards.
    pub fn turn(&mut self) -> Vec<Message> {
        if self.is_open {
            self.receive(); // first: what arrived before a connection broke counts
            self.flush();
        }
        let mut messages = Vec::new();
        loop {
            match Message::read(&self.incoming) {
                Ok(Some((message, length))) => {
                    self.incoming.drain(..length);
                    messages.push(message);
                }
                Ok(None) => return messages,
                Err(Unknown) => {
                    self.close();
                    return messages;
                }
            }
        }
    }

    /// Sends what the system takes.
    pub fn flush(&mut self) {
        while self.is_open && !self.outgoing.is_empty() {
            match self.stream.write(&self.outgoing) {
                Ok(n) => drop(self.outgoing.drain(..n)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.is_open = false,
            }
        }
    }

    fn receive(&mut self) {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => self.is_open = false,
                Ok(n) => {
                    self.heard = Instant::now();
                    self.incoming.extend(&buffer[..n]);
                    continue;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.is_open = false,
            }
            return;
        }
    }

    /// No word more in either direction.
    pub fn close(&mut self) {
        self.is_open = false;
        self.incoming.clear();
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// What to wait for on it.
    pub fn wanted(&self) -> Option<Wanted<'_>> {
        let write = !self.outgoing.is_empty();
        self.is_open.then_some(Wanted { stream: &self.stream, read: true, write })
    }
}
