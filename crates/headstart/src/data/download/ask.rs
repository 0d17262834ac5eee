//! A question to a server whose answer is small: kept in memory, asked again where the server is busy.
//!
//! Owns: how much an answer may hold. Never: what a status means, but for a busy server's.

use super::connection::{Arrival, Connection, Head, Method, Request};
use super::retry::{MAX_FRUITLESS_ATTEMPTS, asked_wait, busy, is_busy, wait};
use super::token::Token;
use super::{OnProgress, Progress, Stage};
use crate::error::{Error, Result};

/// 64 MiB.
const MAX_BODY_BYTES: usize = 1 << 26;

/// What a server answered.
#[derive(Debug)]
pub struct Answer {
    head: Head,
    /// The content; empty for [`Method::Head`].
    pub body: Vec<u8>,
}

impl Answer {
    /// HTTP's number.
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// The header of this name, where it is there and text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }
}

/// Asks `url` and waits for the answer, whatever its status. A server that is busy (429, 5xx) is asked a few times,
/// after the time it asks for. `name` is what progress calls it.
///
/// # Errors
/// [`Error::Download`] when the server cannot be reached or stays busy; [`Error::Interrupted`] where the watcher ends it.
pub fn ask(
    method: Method,
    url: &str,
    token: Option<&Token>,
    name: &str,
    on_progress: &mut OnProgress<'_>,
) -> Result<Answer> {
    let mut go_on = || {
        let progress = Progress { stage: Stage::Downloading, file: name, done_bytes: 0, total_bytes: None };
        on_progress(progress).or_interrupted(&format!("the download of {name}"))
    };
    let mut fruitless = 1;
    loop {
        let (reason, asked) = match attempt(method, url, token, &mut go_on)? {
            Ok(answer) if is_busy(answer.status()) => (busy(&answer.head), asked_wait(url, &answer.head)?),
            Ok(answer) => return Ok(answer),
            Err(reason) => (reason, None),
        };
        if fruitless >= MAX_FRUITLESS_ATTEMPTS {
            return Err(Error::Download {
                url: url.to_owned(),
                what: format!("{reason}, {fruitless} times in a row"),
                fix: "check the network connection and the address, or try again later".into(),
            });
        }
        wait(fruitless, asked, &mut go_on)?;
        fruitless += 1;
    }
}

/// One request: the answer, or why there is none.
fn attempt(
    method: Method,
    url: &str,
    token: Option<&Token>,
    go_on: &mut dyn FnMut() -> Result<()>,
) -> Result<std::result::Result<Answer, String>> {
    let connection = Connection::open(Request { method, url, headers: Vec::new(), token });
    let head = match connection.next(go_on)? {
        Arrival::Head(head) => head,
        Arrival::Failed(reason) => return Ok(Err(reason)),
        Arrival::Bytes(_) | Arrival::End => return Ok(Err("the server said nothing".into())),
    };
    let mut body = Vec::new();
    loop {
        match connection.next(go_on)? {
            Arrival::Bytes(bytes) => body.extend(bytes),
            Arrival::End => break,
            Arrival::Failed(reason) => return Ok(Err(reason)),
            Arrival::Head(_) => return Ok(Err("the server answered twice".into())),
        }
        if body.len() > MAX_BODY_BYTES {
            return Ok(Err(format!("the answer is longer than {MAX_BODY_BYTES} bytes")));
        }
    }
    match head.content_length().filter(|_| method == Method::Get) {
        Some(length) if length != body.len() as u64 => Ok(Err("the server closed the connection".into())),
        _ => Ok(Ok(Answer { head, body })),
    }
}
