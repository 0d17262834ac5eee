//! A web server on the loopback for the tests: one file, and the ways in which servers misbehave.
//!
//! Owns: just enough HTTP/1.1. Never: leaves this machine.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// How the server behaves.
#[derive(Debug, Clone, Default)]
pub(crate) struct Behaviour {
    /// Ignores `Range`.
    pub no_ranges: bool,
    /// Closes the first connections after so many bytes of body each.
    pub cuts: Vec<usize>,
    /// Answers with this status instead.
    pub status: Option<u16>,
    /// Sends no ETag.
    pub no_etag: bool,
    /// Answers the first requests with 503, and asks to wait so many seconds.
    pub busy: usize,
    /// See [`Self::busy`].
    pub retry_after: Option<u64>,
    /// What it answers to `Range` instead.
    pub range: Option<RangeFault>,
    /// Sends nothing more behind what `cuts` allows, and keeps the connection.
    pub stalls: bool,
    /// The length that it says the file has, where that is another.
    pub announces: Option<u64>,
}

/// How a range can be answered wrongly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RangeFault {
    /// 416, although there is more.
    Refused,
    /// The part from the file's beginning.
    Misplaced,
    /// The right place, of a file that ends soon after it.
    Shortened,
}

/// A running server; it ends with the test process.
pub(crate) struct TestServer {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl TestServer {
    pub fn start(content: &[u8], behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requests);
        let content = content.to_vec();
        thread::spawn(move || {
            for (index, stream) in listener.incoming().flatten().enumerate() {
                // A client that goes away early is its own business.
                let _ = answer(stream, index, &content, &behaviour, &log);
            }
        });
        Self { address, requests }
    }

    pub fn url(&self, file: &str) -> String {
        format!("http://{}/{file}", self.address)
    }

    /// The value of `Range` of every request so far, empty where it had none.
    pub fn ranges(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn answer(
    mut stream: TcpStream,
    index: usize,
    content: &[u8],
    behaviour: &Behaviour,
    log: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let (mut range, mut if_range) = (String::new(), String::new());
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("range: ") {
            value.clone_into(&mut range);
        }
        if let Some(value) = line.strip_prefix("if-range: ") {
            value.clone_into(&mut if_range);
        }
    }
    log.lock().unwrap().push(range.clone());
    let etag = format!("\"{}\"", &super::sha256_bytes(content)[..8]);
    let same_file = if_range.is_empty() || if_range == etag;
    let asked = range.strip_prefix("bytes=").and_then(|r| r.strip_suffix('-')).and_then(|r| r.parse().ok());
    let start = asked.filter(|_| same_file && !behaviour.no_ranges).unwrap_or(0usize);
    let status = behaviour.status.or((index < behaviour.busy).then_some(503));
    let fault = behaviour.range.filter(|_| start > 0 && start < content.len());
    let (status, body) = match status {
        None if fault == Some(RangeFault::Refused) => (416, &b""[..]),
        None if fault == Some(RangeFault::Misplaced) => (206, &content[..content.len() - start]),
        None if fault == Some(RangeFault::Shortened) => (206, &content[start..start + 10]),
        Some(status) => (status, &b"no"[..]),
        None if start > 0 && start >= content.len() => (416, &b""[..]),
        None if start > 0 => (206, &content[start..]),
        None => (200, content),
    };
    let announced = behaviour.announces.unwrap_or(body.len() as u64);
    write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {announced}\r\nConnection: close\r\n")?;
    match status {
        206 if fault == Some(RangeFault::Misplaced) => {
            write!(stream, "Content-Range: bytes 0-{}/{}\r\n", body.len() - 1, content.len())?;
        }
        206 if fault == Some(RangeFault::Shortened) => {
            write!(stream, "Content-Range: bytes {start}-{}/{}\r\n", start + 9, start + 10)?;
        }
        503 => {
            if let Some(seconds) = behaviour.retry_after {
                write!(stream, "Retry-After: {seconds}\r\n")?;
            }
        }
        206 => write!(stream, "Content-Range: bytes {start}-{}/{}\r\n", content.len() - 1, content.len())?,
        416 => write!(stream, "Content-Range: bytes */{}\r\n", content.len())?,
        _ => {}
    }
    if !behaviour.no_etag {
        write!(stream, "ETag: {etag}\r\n")?;
    }
    stream.write_all(b"\r\n")?;
    let send = behaviour.cuts.get(index).map_or(body.len(), |cut| *cut.min(&body.len()));
    stream.write_all(&body[..send])?;
    stream.flush()?;
    if behaviour.stalls && send < body.len() {
        thread::sleep(std::time::Duration::from_mins(10));
    }
    Ok(())
}
