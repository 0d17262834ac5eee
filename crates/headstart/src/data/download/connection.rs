//! One HTTP request on a thread of its own, so that whoever waits for it can be stopped at any time.
//!
//! Owns: HTTP, how long silence may last. Never: files, or what an answer means for one.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use crate::error::Result;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Silence, not slowness, ends an attempt: large files over slow lines may take hours.
const SILENCE_TIMEOUT: Duration = Duration::from_mins(1);
/// How often the watcher is asked whether to go on.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(200);
const BUFFER_BYTES: usize = 1 << 16;
/// Buffers that may wait to be written.
const BUFFERS: usize = 4;

/// What a server says before the content.
#[derive(Debug, Default)]
pub(super) struct Head {
    pub status: u16,
    pub etag: Option<String>,
    pub last_modified: Option<String>,
    pub content_range: Option<String>,
    pub content_length: Option<u64>,
    /// Seconds to wait before the next request.
    pub retry_after: Option<u64>,
}

/// What comes of a request, in this order.
#[derive(Debug)]
pub(super) enum Arrival {
    Head(Head),
    Bytes(Vec<u8>),
    /// The server closed the connection as if all had been sent.
    End,
    Failed(String),
}

/// A request under way. Dropped, it ends with the next bytes that arrive, or with the process.
pub(super) struct Connection {
    arrivals: Receiver<Arrival>,
}

impl Connection {
    pub fn open(url: &str, headers: Vec<(&'static str, String)>) -> Self {
        let (sender, arrivals) = sync_channel(BUFFERS);
        let url = url.to_owned();
        let failed = sender.clone();
        let fetch = move || {
            // Nobody listens any more once sending fails.
            let _ = fetch(&url, headers, &sender);
        };
        if let Err(e) = thread::Builder::new().name("download".into()).spawn(fetch) {
            let _ = failed.try_send(Arrival::Failed(e.to_string()));
        }
        Self { arrivals }
    }

    /// What comes next; `go_on` is asked while nothing does.
    pub fn next(&self, go_on: &mut dyn FnMut() -> Result<()>) -> Result<Arrival> {
        loop {
            match self.arrivals.recv_timeout(LOOK_EVERY) {
                Ok(arrival) => return Ok(arrival),
                Err(RecvTimeoutError::Timeout) => go_on()?,
                Err(RecvTimeoutError::Disconnected) => {
                    return Ok(Arrival::Failed("the connection ended".into()));
                }
            }
        }
    }
}

type Sent = std::result::Result<(), std::sync::mpsc::SendError<Arrival>>;

fn fetch(url: &str, headers: Vec<(&'static str, String)>, sender: &SyncSender<Arrival>) -> Sent {
    let mut request = agent(url).get(url);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let response = match request.call() {
        Ok(response) => response,
        Err(e) => return sender.send(Arrival::Failed(e.to_string())),
    };
    let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.trim().to_owned());
    sender.send(Arrival::Head(Head {
        status: response.status().as_u16(),
        etag: header("etag"),
        last_modified: header("last-modified"),
        content_range: header("content-range"),
        content_length: response.body().content_length(),
        retry_after: header("retry-after").and_then(|seconds| seconds.parse().ok()),
    }))?;
    let mut body = response.into_body().into_reader();
    loop {
        let mut buffer = vec![0; BUFFER_BYTES];
        match body.read(&mut buffer) {
            Ok(0) => return sender.send(Arrival::End),
            Ok(n) => {
                buffer.truncate(n);
                sender.send(Arrival::Bytes(buffer))?;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return sender.send(Arrival::Failed(e.to_string())),
        }
    }
}

fn agent(url: &str) -> ureq::Agent {
    let mut config = ureq::Agent::config_builder();
    // A proxy of the environment's is honoured, but it cannot know this machine's own ports.
    if ["http://127.0.0.1", "http://localhost", "http://[::1]"].iter().any(|own| url.starts_with(own)) {
        config = config.proxy(None);
    }
    config
        .http_status_as_error(false)
        // Some mirrors refuse the user agents of libraries.
        .user_agent(concat!("headstart/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(SILENCE_TIMEOUT))
        .timeout_per_read(Some(SILENCE_TIMEOUT))
        .build()
        .new_agent()
}
