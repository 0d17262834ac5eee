//! How patient one is with a server: how often it is asked, and how long one waits in between.
//!
//! Owns: those numbers, and what a busy server is granted. Never: what is asked.

use std::thread;
use std::time::{Duration, Instant};

use super::connection::{Head, LOOK_EVERY};
use crate::error::{Error, Result};

/// Attempts in a row that yield nothing new before an address is given up.
pub(super) const MAX_FRUITLESS_ATTEMPTS: u32 = 3;
/// The wait after the first fruitless attempt; each further one waits twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait that a server may ask for.
const MAX_WAIT_SECONDS: u64 = 60;

/// Whether the server says that it cannot answer now.
pub(super) fn is_busy(status: u16) -> bool {
    matches!(status, 429 | 500..=599)
}

/// How long a busy server asks to be left alone, where it says so. One that asks for too long is an error.
pub(super) fn asked_wait(url: &str, head: &Head) -> Result<Option<Duration>> {
    match head.retry_after() {
        Some(seconds) if seconds > MAX_WAIT_SECONDS => Err(Error::Download {
            url: url.to_owned(),
            what: busy(head),
            fix: format!("run the same command again in {seconds} seconds, as the server asks"),
        }),
        seconds => Ok(seconds.map(Duration::from_secs)),
    }
}

/// What a busy server has said.
pub(super) fn busy(head: &Head) -> String {
    let why = if head.status == 429 { ": too many requests" } else { "" };
    format!("the server answered {}{why}", head.status)
}

/// Waits after so many fruitless attempts, or as long as the server asks; `go_on` is asked several times a second.
pub(super) fn wait(
    fruitless: u32,
    asked: Option<Duration>,
    go_on: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    let time = asked.unwrap_or(FIRST_WAIT * 2_u32.pow(fruitless.saturating_sub(1)));
    let until = Instant::now() + time;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        go_on()?;
        thread::sleep(left.min(LOOK_EVERY));
    }
    Ok(())
}
