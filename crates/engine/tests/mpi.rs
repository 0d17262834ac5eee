//! Ranks over MPI, started by mpirun. Needs the feature `mpi`.
//!
//! Owns: what differs from ranks over TCP. Never: runs without mpirun: where it cannot be had, this does not build.

#![cfg(all(unix, feature = "mpi"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use headstart_engine::collective::{Collective, Join, Over};

const SCENE: &str = "HEADSTART_TEST_SCENE";

/// Not a test: a rank of the tests below. What it prints, they read.
#[test]
#[ignore = "a process of other tests"]
fn rank() {
    let Ok(scene) = std::env::var(SCENE) else { return };
    let timeout = Duration::from_secs(5);
    let join =
        Join { rank: 0, world_size: 0, local_rank: 0, over: Over::Mpi, timeout, version: String::new() };
    let collective = Collective::join(&join).unwrap();
    match &scene[..] {
        "exchanges" => exchanges(&collective),
        "time" => time(&collective),
        _ => ends(&collective, &scene),
    }
}

fn say(collective: &Collective, text: &str) {
    // One write, so that lines of ranks are not mixed.
    let mut line = String::new();
    writeln!(line, "\nsaid by rank {}: {}", collective.rank(), text.replace('\n', " ")).unwrap();
    print!("{line}");
}

fn exchanges(collective: &Collective) {
    let (rank, world_size) = (collective.rank(), collective.world_size());
    assert_eq!(collective.local_rank(), rank);
    // Around the size of the pieces in which messages travel, and far beyond it.
    for length in [0, 1, 1000, (512 << 10) - 1, 512 << 10, (512 << 10) + 1, 7_000_003] {
        let brings = |rank: usize| -> Vec<u8> {
            (0..length * (rank + 1) / world_size).map(|i| ((i * (rank + 3) + i / 255) % 253) as u8).collect()
        };
        // MPI is called by one thread and then by another.
        let all =
            std::thread::scope(|scope| scope.spawn(|| collective.gather(&brings(rank))).join().unwrap());
        for (other, bytes) in all.unwrap().into_iter().enumerate() {
            assert!(bytes == brings(other), "what rank {other} brings differs, {length} bytes");
        }
        let mine = if rank == 0 { brings(0) } else { vec![9] };
        assert!(collective.broadcast(&mine).unwrap() == brings(0));
    }
    std::thread::sleep(Duration::from_millis(100 * rank as u64));
    if rank == 0 {
        collective.ask_stop();
    }
    collective.gather_equal(&[1]).unwrap();
    let start = Instant::now();
    while !collective.stop_asked() {
        assert!(start.elapsed() < Duration::from_secs(10));
    }
    collective.leave();
    assert!(collective.gather_equal(&[1]).is_err());
    say(collective, "all is well");
}

/// How long 100 MB each way take.
fn time(collective: &Collective) {
    let mine = vec![1; 100_000_000];
    let mut times = Vec::new();
    for _ in 0..5 {
        collective.gather_equal(&[]).unwrap();
        let start = Instant::now();
        collective.gather_equal(&mine).unwrap();
        times.push(start.elapsed().as_millis());
    }
    say(collective, &format!("{times:?} ms"));
    collective.leave();
}

/// Rank 1 ends somehow in the middle of large messages; the others say what they hear of it.
fn ends(collective: &Collective, scene: &str) {
    let mine = vec![1; 20_000_000];
    collective.gather_equal(&mine).unwrap();
    if collective.rank() == 1 {
        let signal = match scene {
            "killed" => libc::SIGKILL,
            "stopped" => libc::SIGSTOP,
            _ => {
                collective.fail("no space left");
                std::thread::sleep(Duration::from_secs(3));
                return;
            }
        };
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(30));
            // SAFETY: a signal to this process itself.
            unsafe { libc::raise(signal) };
        });
    }
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(20) {
        if let Err(e) = collective.gather_equal(&mine) {
            let again = collective.gather_equal(&mine).unwrap_err();
            assert_eq!(again.to_string(), e.to_string());
            say(collective, &e.to_string());
            // The launcher ends the other ranks as soon as one of them has ended.
            std::thread::sleep(Duration::from_secs(1));
            return;
        }
    }
}

/// What the ranks print.
fn run(scene: &str, ranks: usize, flags: &[&str]) -> String {
    let start = Instant::now();
    let output = Command::new("mpirun")
        .args(["--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", &ranks.to_string()])
        .args(flags)
        .args(["--timeout", "60"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "rank", "--ignored", "--nocapture"])
        .env(SCENE, scene)
        .stdin(Stdio::null())
        .output()
        .expect("mpirun, which comes with an MPI");
    assert!(start.elapsed() < Duration::from_secs(50), "{scene} took {:?}", start.elapsed());
    let [out, errors] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    format!("{out}\n{errors}")
}

#[test]
fn ranks_over_mpi_exchange_what_they_bring() {
    for ranks in [2, 3, 4] {
        let text = run("exchanges", ranks, &[]);
        for rank in 0..ranks {
            assert!(text.contains(&format!("said by rank {rank}: all is well")), "{text}");
        }
    }
    // By itself, with MPI or without.
    let text = run("time", 1, &[]);
    assert!(text.contains("said by rank 0: "), "{text}");
}

#[test]
fn a_rank_over_mpi_that_is_lost_is_named_by_all_others() {
    for (scene, words, flags) in [
        // Else mpirun ends all ranks as soon as one is killed, before they can say a word.
        ("killed", "rank 1 is gone: its connection was closed", &["--enable-recovery"][..]),
        ("stopped", "rank 1 was silent for longer than 5 s", &[]),
        ("failed", "rank 1 failed: no space left", &[]),
    ] {
        let text = run(scene, 3, flags);
        for rank in [0, 2] {
            assert!(text.contains(&format!("said by rank {rank}: {words}")), "{scene}, rank {rank}: {text}");
        }
    }
}
