//! Waiting until a connection can be read or written.
//!
//! Owns: the system's call for it, which is unsafe. Never: reads or writes.

use std::net::TcpStream;
use std::time::Duration;

/// A connection, and what is waited for on it.
pub struct Wanted<'a> {
    pub stream: &'a TcpStream,
    pub read: bool,
    pub write: bool,
}

/// Returns when one of them can be read or written or is broken, or when the time is over.
#[cfg(unix)]
pub fn wait(wanted: &[Wanted<'_>], timeout: Duration) {
    use std::os::fd::AsRawFd as _;

    let mut polled: Vec<libc::pollfd> = wanted
        .iter()
        .map(|one| {
            let read = if one.read { libc::POLLIN } else { 0 };
            let write = if one.write { libc::POLLOUT } else { 0 };
            libc::pollfd { fd: one.stream.as_raw_fd(), events: read | write, revents: 0 }
        })
        .collect();
    let milliseconds = i32::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
    // SAFETY: the pointer and the length are those of one vector, which outlives the call; the descriptors are open as
    // long as the streams are borrowed. A failure (a signal came) only ends the wait early.
    unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, milliseconds) };
}

/// Returns after a short time.
#[cfg(not(unix))]
pub fn wait(_: &[Wanted<'_>], timeout: Duration) {
    std::thread::sleep(timeout.min(Duration::from_millis(1)));
}
