//! Messages between ranks over TCP, one connection for each pair.
//!
//! Owns: sending and receiving at once, on one thread. Never: how ranks find each other, or who is lost; it asks the watch.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use super::Link;
use super::poll::{self, Wanted};
use super::watch::Watch;
use crate::error::EngineError;

/// As much goes one way before another connection has its turn.
const TURN: usize = 4 << 20;
/// How long to wait for a connection before the watch is asked whether somebody is lost.
const TICK: Duration = Duration::from_millis(20);

/// A connection to every other rank.
#[derive(Debug)]
pub struct Mesh {
    rank: usize,
    /// By rank; none to itself.
    peers: Vec<Option<TcpStream>>,
    watch: Arc<Watch>,
}

impl Mesh {
    pub fn new(rank: usize, peers: Vec<Option<TcpStream>>, watch: Arc<Watch>) -> std::io::Result<Self> {
        for peer in peers.iter().flatten() {
            peer.set_nonblocking(true)?;
        }
        Ok(Self { rank, peers, watch })
    }
}

/// What is still to be sent to a rank, and received from it.
#[derive(Default)]
struct Traffic<'a> {
    out: VecDeque<&'a [u8]>,
    back: VecDeque<&'a mut [u8]>,
}

impl Link for Mesh {
    fn exchange(
        &self,
        sends: &[(usize, &[u8])],
        receives: &mut [(usize, &mut [u8])],
    ) -> Result<(), EngineError> {
        let mut traffic: Vec<Traffic<'_>> = self.peers.iter().map(|_| Traffic::default()).collect();
        for &(to, bytes) in sends.iter().filter(|(_, bytes)| !bytes.is_empty()) {
            assert!(to != self.rank, "a rank sends nothing to itself");
            traffic[to].out.push_back(bytes);
        }
        for (from, bytes) in receives.iter_mut().filter(|(_, bytes)| !bytes.is_empty()) {
            assert!(*from != self.rank, "a rank receives nothing from itself");
            traffic[*from].back.push_back(bytes);
        }
        loop {
            let mut moved = 0;
            let mut waiting = Vec::new();
            for (rank, (peer, traffic)) in self.peers.iter().zip(&mut traffic).enumerate() {
                let Some(stream) = peer else { continue };
                // What has arrived is taken even where nothing can be sent any more: the sender may have ended well.
                let received = receive(stream, &mut traffic.back);
                let sent = send(stream, &mut traffic.out);
                match received.and_then(|received| Ok(received + sent?)) {
                    Ok(bytes) => moved += bytes,
                    Err(e) => return Err(self.watch.broken(rank, &e)),
                }
                let (read, write) = (!traffic.back.is_empty(), !traffic.out.is_empty());
                if read || write {
                    waiting.push(Wanted { stream, read, write });
                }
            }
            if waiting.is_empty() {
                return Ok(());
            }
            if moved == 0 {
                // Only who waits asks: what has arrived from a rank that has ended since is as good as any.
                self.watch.check()?;
                poll::wait(&waiting, TICK);
            }
        }
    }

    fn leave(&self) {
        self.watch.leave();
    }
}

/// Sends what the system takes; how much that was.
fn send(mut stream: &TcpStream, out: &mut VecDeque<&[u8]>) -> std::io::Result<usize> {
    let mut sent = 0;
    while sent < TURN
        && let Some(bytes) = out.front_mut()
    {
        match stream.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => {
                sent += n;
                *bytes = &bytes[n..];
                if bytes.is_empty() {
                    out.pop_front();
                }
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => break,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(sent)
}

/// Receives what has arrived; how much that was.
fn receive(mut stream: &TcpStream, back: &mut VecDeque<&mut [u8]>) -> std::io::Result<usize> {
    let mut received = 0;
    while received < TURN
        && let Some(bytes) = back.front_mut()
    {
        match stream.read(bytes) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                received += n;
                *bytes = &mut std::mem::take(bytes)[n..];
                if bytes.is_empty() {
                    back.pop_front();
                }
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => break,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(received)
}
