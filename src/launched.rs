//! What `headstart launch` and the processes that it starts say to each other: over their standard input, which they do not
//! need otherwise.
//!
//! Owns: a line asks for a stop, as a signal does; the end of the input says that the launcher is gone, however it ended.
//! Never: starts processes (cmd/launch.rs).

use std::env;
use std::io::{self, BufRead};
use std::process;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::{INTERRUPTED, progress};

/// Set for those that are started.
pub const VARIABLE: &str = "HEADSTART_LAUNCHED";
/// Each process has an input of its own.
pub const EACH: &str = "each";
/// Only rank 0 has the launcher's, and tells the others: `mpirun` stands between.
pub const RANK_0: &str = "rank 0";
/// The line that asks for a stop.
pub const STOP: &[u8] = b"stop\n";
/// What a process has to save and end once its launcher is gone.
const LAST: Duration = Duration::from_secs(30);

/// Listens, where this process was started by `headstart launch`.
pub fn listen(rank: usize) -> Result<()> {
    let whose = env::var(VARIABLE).unwrap_or_default();
    if whose != EACH && (whose != RANK_0 || rank != 0) {
        return Ok(());
    }
    let listening = move || {
        for line in io::stdin().lock().lines() {
            if line.is_err() {
                break;
            }
            progress::stop();
        }
        if !progress::interrupted() {
            progress::stop();
        }
        thread::sleep(LAST);
        process::exit(i32::from(INTERRUPTED));
    };
    let thread = thread::Builder::new().name("launched".into()).spawn(listening);
    thread.map(drop).context("cannot listen to `headstart launch`")
}
