//! One HTTP request on a thread of its own, so that whoever waits for it can be stopped at any time.
//!
//! Owns: HTTP, redirects and that a token never follows one to another place, how long silence may last. Never: files,
//! or what an answer means for one.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use ureq::http::HeaderMap;

use super::token::Token;
use crate::error::Result;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Silence, not slowness, ends an attempt: large files over slow lines may take hours.
const SILENCE_TIMEOUT: Duration = Duration::from_mins(1);
/// How often the watcher is asked whether to go on.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(200);
const BUFFER_BYTES: usize = 1 << 16;
/// Buffers that may wait to be written.
const BUFFERS: usize = 4;

/// Redirects that are followed before a server is taken to go round in circles.
const MAX_REDIRECTS: u32 = 10;

/// What is asked of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// The content. Redirects are followed wherever they lead, without the token where that is another place.
    Get,
    /// What is said before the content. A redirect that leads elsewhere is the answer.
    Head,
}

/// A request.
pub(super) struct Request<'a> {
    pub method: Method,
    pub url: &'a str,
    pub headers: Vec<(&'static str, String)>,
    pub token: Option<&'a Token>,
}

/// What a server says before the content.
#[derive(Debug, Default)]
pub(super) struct Head {
    pub status: u16,
    pub headers: HeaderMap,
}

impl Head {
    /// The header of this name, where it is there and text.
    pub fn header(&self, name: &str) -> Option<&str> {
        Some(self.headers.get(name)?.to_str().ok()?.trim())
    }

    pub fn content_length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }

    /// Seconds to wait before the next request.
    pub fn retry_after(&self) -> Option<u64> {
        self.header("retry-after")?.parse().ok()
    }
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
    pub fn open(request: Request<'_>) -> Self {
        let (sender, arrivals) = sync_channel(BUFFERS);
        let Request { method, url, headers, token } = request;
        let (url, token) = (url.to_owned(), token.cloned());
        let failed = sender.clone();
        let fetch = move || {
            // Nobody listens any more once sending fails.
            let _ = fetch(method, &url, &headers, token.as_ref(), &sender);
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

fn fetch(
    method: Method,
    url: &str,
    headers: &[(&'static str, String)],
    token: Option<&Token>,
    sender: &SyncSender<Arrival>,
) -> Sent {
    let response = match follow(method, url, headers, token) {
        Ok(response) => response,
        Err(reason) => return sender.send(Arrival::Failed(reason)),
    };
    let head = Head { status: response.status().as_u16(), headers: response.headers().clone() };
    sender.send(Arrival::Head(head))?;
    if method == Method::Head {
        return sender.send(Arrival::End);
    }
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

type Response = ureq::http::Response<ureq::Body>;

/// The answer behind all redirects. An error does not name the place that a redirect led to: such addresses are often
/// signed, and as good as a password.
fn follow(
    method: Method,
    url: &str,
    headers: &[(&'static str, String)],
    token: Option<&Token>,
) -> Result<Response, String> {
    let mut at = url.to_owned();
    for _ in 0..=MAX_REDIRECTS {
        let mut request = match method {
            Method::Get => agent(&at).get(&at),
            Method::Head => agent(&at).head(&at),
        };
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        if let Some(token) = token.filter(|_| origin(&at) == origin(url)) {
            request = request.header("Authorization", token.bearer());
        }
        let response = request.call().map_err(|e| e.to_string())?;
        let location = response.headers().get("location").and_then(|value| value.to_str().ok());
        match location.filter(|_| matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308)) {
            None => return Ok(response),
            Some(location) => {
                let next = joined(&at, location);
                if method == Method::Head && origin(&next) != origin(url) {
                    return Ok(response);
                }
                at = next;
            }
        }
    }
    Err(format!("the server redirects more than {MAX_REDIRECTS} times"))
}

/// Scheme, host and port of an address: where a token may go.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find(['/', '?', '#', '\\']).map_or(url.len(), |at| host + at);
    &url[..end]
}

/// The address that `location`, as a redirect from `url` gives it, stands for.
fn joined(url: &str, location: &str) -> String {
    let (scheme, _) = url.split_once(':').unwrap_or(("https", ""));
    if location.contains("://") {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{}{location}", origin(url))
    } else {
        let path = url.split(['?', '#']).next().unwrap_or(url);
        let folder = path.rfind('/').filter(|at| *at >= origin(url).len()).map_or(path, |at| &path[..at]);
        format!("{folder}/{location}")
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
        .max_redirects(0)
        // Some mirrors refuse the user agents of libraries.
        .user_agent(concat!("headstart/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(SILENCE_TIMEOUT))
        .timeout_per_read(Some(SILENCE_TIMEOUT))
        .build()
        .new_agent()
}

#[cfg(test)]
mod tests {
    use super::{joined, origin};

    #[test]
    fn a_place_is_scheme_host_and_port() {
        assert_eq!(origin("https://hub.example/a/b?c"), "https://hub.example");
        assert_eq!(origin("http://hub.example:8080"), "http://hub.example:8080");
        assert_ne!(origin("http://hub.example/a"), origin("https://hub.example/a"));
        assert_ne!(origin("https://hub.example/a"), origin("https://hub.example.evil/a"));
        // Someone else's host, with the hub's name as a user's.
        assert_ne!(origin("https://hub.example/a"), origin("https://hub.example@evil/a"));
    }

    #[test]
    fn redirects_are_absolute_or_relative() {
        let url = "https://hub.example/a/b?c=/d";
        assert_eq!(joined(url, "http://other:1/x"), "http://other:1/x");
        assert_eq!(joined(url, "//other/x"), "https://other/x");
        assert_eq!(joined(url, "/x?y"), "https://hub.example/x?y");
        assert_eq!(joined(url, "x"), "https://hub.example/a/x");
        assert_eq!(joined("https://hub.example", "x"), "https://hub.example/x");
    }
}
