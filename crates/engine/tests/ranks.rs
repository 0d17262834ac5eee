//! Ranks as processes, which are killed and stopped.
//!
//! Owns: what only processes can show. Never: what threads can (`src/collective/tests/`).

#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use headstart_engine::collective::{Collective, Join, Over, Rendezvous};

const SIZE: &str = "HEADSTART_TEST_WORLD_SIZE";
const RANK: &str = "HEADSTART_TEST_RANK";
const FILE: &str = "HEADSTART_TEST_FILE";
const TIMEOUT: &str = "HEADSTART_TEST_TIMEOUT";
const LENGTH: &str = "HEADSTART_TEST_LENGTH";

/// How long a rank may be silent, in milliseconds: longer than a busy machine lets a process that can run wait.
const SILENCE: u32 = 5_000;

fn number(name: &str) -> Option<usize> {
    std::env::var(name).ok()?.parse().ok()
}

/// Not a test: a rank of the tests below, which exchanges until there is an error, and prints it.
#[test]
#[ignore = "a process of other tests"]
fn rank() {
    let Some(rank) = number(RANK) else { return };
    let over = Over::Tcp { rendezvous: Rendezvous::File(std::env::var(FILE).unwrap().into()) };
    let timeout = Duration::from_millis(number(TIMEOUT).unwrap() as u64);
    let world_size = number(SIZE).unwrap();
    let join = Join { rank, world_size, local_rank: rank, over, timeout, version: String::new() };
    let collective = Collective::join(&join).unwrap();
    println!("\njoined");
    let mine = vec![rank as u8; number(LENGTH).unwrap()];
    let start = Instant::now();
    while start.elapsed() < Duration::from_mins(1) {
        if let Err(e) = collective.gather_equal(&mine) {
            println!("\nafter the loss: {e}");
            return;
        }
    }
}

struct Rank {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Rank {
    fn signal(&self, signal: i32) {
        // SAFETY: the process is a child that has not been waited for, so the number is its own.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }

    /// What it prints until it ends.
    fn rest(&mut self) -> String {
        let mut text = String::new();
        self.output.read_to_string(&mut text).unwrap();
        self.child.wait().unwrap();
        text
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ranks that have joined and exchange `length` bytes with each other again and again.
fn start(name: &str, world_size: usize, timeout: u32, length: usize) -> Vec<Rank> {
    let file = std::env::temp_dir().join(format!("headstart-processes-{}-{name}", std::process::id()));
    let mut ranks: Vec<Rank> = (0..world_size)
        .map(|rank| {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "rank", "--ignored", "--nocapture"])
                .envs([
                    (SIZE, world_size.to_string()),
                    (RANK, rank.to_string()),
                    (LENGTH, length.to_string()),
                ])
                .envs([(TIMEOUT, timeout.to_string()), (FILE, file.display().to_string())])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let output = BufReader::new(child.stdout.take().unwrap());
            Rank { child, output }
        })
        .collect();
    for rank in &mut ranks {
        let mut line = String::new();
        while line != "joined\n" {
            line.clear();
            assert!(rank.output.read_line(&mut line).unwrap() > 0, "a rank ended before it joined");
        }
    }
    ranks
}

#[test]
fn a_rank_that_is_killed_is_named_by_all_others() {
    for (lost, length) in [(0, 10), (1, 20_000_000), (2, 10)] {
        let mut ranks = start(&format!("killed-{lost}"), 3, 20_000, length);
        std::thread::sleep(Duration::from_millis(100));
        let killed = Instant::now();
        ranks[lost].signal(libc::SIGKILL);
        for (rank, other) in ranks.iter_mut().enumerate().filter(|(rank, _)| *rank != lost) {
            let text = other.rest();
            let expected = format!("after the loss: rank {lost} is gone: its connection was closed\n");
            assert!(text.contains(&expected), "rank {rank}: {text}");
        }
        assert!(killed.elapsed() < Duration::from_secs(5), "noticed after {:?}", killed.elapsed());
    }
}

#[test]
fn a_rank_that_is_stopped_is_named_by_all_others() {
    for (lost, length) in [(0, 10), (2, 20_000_000)] {
        let mut ranks = start(&format!("stopped-{lost}"), 3, SILENCE, length);
        ranks[lost].signal(libc::SIGSTOP);
        for (rank, other) in ranks.iter_mut().enumerate().filter(|(rank, _)| *rank != lost) {
            let text = other.rest();
            let expected = format!("after the loss: rank {lost} was silent for longer than 5 s: ");
            assert!(text.contains(&expected), "rank {rank}: {text}");
        }
        // It finds the others gone when it goes on, and ends as well.
        ranks[lost].signal(libc::SIGCONT);
        assert!(ranks[lost].rest().contains("after the loss: rank "));
    }
}

#[test]
fn ranks_that_are_all_stopped_for_longer_than_any_may_be_silent_go_on() {
    let mut ranks = start("all", 3, SILENCE, 1000);
    for rank in &ranks {
        rank.signal(libc::SIGSTOP);
    }
    std::thread::sleep(Duration::from_millis(u64::from(SILENCE) * 2));
    for rank in &ranks {
        rank.signal(libc::SIGCONT);
    }
    std::thread::sleep(Duration::from_millis(u64::from(SILENCE) * 3 / 2));
    ranks[1].signal(libc::SIGKILL);
    for lost in [0, 2] {
        let text = ranks[lost].rest();
        assert!(text.contains("after the loss: rank 1 is gone: its connection was closed\n"), "{text}");
    }
}
