//! Damaged and hostile files for every parser and guard: never a panic, a hang, or memory without end.
//!
//! A few hundred inputs each with every run of the tests. For longer:
//!
//! ```text
//! HEADSTART_FUZZ_SECONDS=600 cargo test --release --test fuzz -- --nocapture
//! ```
//!
//! gives each target (or the one called HEADSTART_FUZZ_TARGET) so many seconds, goes on after what it finds, and keeps the
//! inputs that failed in the build folder. Inputs are drawn from their numbers, which begin at HEADSTART_FUZZ_FIRST, or at 0.
//! HEADSTART_FUZZ_INPUT=FILE with a target gives it that one input.
//!
//! Owns: a process for each target, with a bound on memory and a limit of time. Never: knows a format.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio, abort};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::{Draws, Place};
use targets::{TARGETS, Target, Work};

mod mutate;
mod seeds;
#[path = "../support/mod.rs"]
mod support;
mod targets;

/// Inputs for each target in a usual run of the tests.
const INPUTS: u64 = 250;
/// One input takes a millisecond; on a machine busy with other things a few.
const PATIENCE: Duration = Duration::from_secs(20);
/// Address space of a target's process, so that it ends before the machine's memory does.
const MOST_KIB: u64 = 2 << 20;
/// Memory that a target may touch. Inputs have 128 KiB at most; the rest is the program, its threads and mapped files.
const MOST_TOUCHED_KIB: u64 = 160 << 10;

#[test]
fn no_input_ends_in_a_panic_a_hang_or_memory_without_end() {
    let seconds: Option<u64> = env::var("HEADSTART_FUZZ_SECONDS").ok().map(|s| s.parse().expect("seconds"));
    let only = env::var("HEADSTART_FUZZ_TARGET").ok();
    let place = Place::new();
    seeds::make(&place);
    let found: Vec<String> = TARGETS
        .iter()
        .filter(|target| only.as_deref().is_none_or(|only| only == target.name))
        .flat_map(|target| try_target(target, &place.path(""), seconds))
        .collect();
    assert!(found.is_empty(), "{} inputs failed:\n\n{}", found.len(), found.join("\n\n"));
}

/// Gives a target inputs in a process of its own, and another process after each that ends badly. What was found.
fn try_target(target: &Target, place: &Path, seconds: Option<u64>) -> Vec<String> {
    let begin = env::var("HEADSTART_FUZZ_FIRST").ok().map(|first| first.parse().expect("a number"));
    let (mut found, mut first) = (Vec::new(), begin.unwrap_or(0));
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(0));
    loop {
        let left = seconds.map(|_| end.saturating_duration_since(Instant::now()).as_secs());
        // Files that live for a millisecond belong into memory.
        let memory = Path::new("/dev/shm");
        let own = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let output = child(target, place, own.path(), first, left);
        let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
        if output.status.success() {
            println!("{}", said.lines().find(|line| line.contains("inputs, ")).unwrap_or("no summary"));
            return found;
        }
        let kept =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{}-{}.bin", target.name, found.len()));
        let _ = fs::copy(own.path().join("input"), &kept);
        let reached = fs::read_to_string(own.path().join("number")).unwrap_or_default();
        first = reached.parse::<u64>().unwrap_or(first) + 1;
        let place = format!("{}, input {} in {}", target.name, first - 1, kept.display());
        let tail: Vec<&str> = said.lines().filter(|line| !line.is_empty()).collect();
        found.push(format!("{place} ({}):\n{}", output.status, tail.join("\n")));
        println!("{}", found[found.len() - 1]);
        if seconds.is_none() || left == Some(0) || found.len() == 20 {
            return found;
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(3000).collect()
}

fn child(target: &Target, place: &Path, own: &Path, first: u64, seconds: Option<u64>) -> Output {
    let myself = env::current_exe().unwrap();
    let mut command = if cfg!(target_os = "linux") {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -v {MOST_KIB}; exec \"$0\" \"$@\"")]).arg(myself);
        command
    } else {
        Command::new(myself)
    };
    command.args(["--exact", "one_target", "--ignored", "--nocapture"]);
    // Each arena of the system's allocator would reserve 64 MiB.
    command.env("MALLOC_ARENA_MAX", "1").env("RUST_BACKTRACE", "1");
    command.env("FUZZ_CHILD", target.name).env("FUZZ_PLACE", place).env("FUZZ_OWN", own);
    command.env("FUZZ_FIRST", first.to_string());
    if let Some(seconds) = seconds {
        command.env("FUZZ_SECONDS", seconds.to_string());
    }
    command.stdin(Stdio::null()).output().unwrap()
}

/// The other half of the test above.
#[test]
#[ignore = "run by the other test, in a process of its own"]
fn one_target() {
    let variable = |name: &str| env::var(name).ok();
    let Some(name) = variable("FUZZ_CHILD") else { return };
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let folder = |name| PathBuf::from(variable(name).unwrap());
    let (place, own) = (folder("FUZZ_PLACE"), folder("FUZZ_OWN"));
    let work = Work { place, own: own.join("work") };
    fs::create_dir(&work.own).unwrap();
    (target.prepare)(&work);
    if let Some(path) = variable("HEADSTART_FUZZ_INPUT") {
        println!("accepted: {}", (target.run)(&work, &fs::read(path).unwrap()));
        return;
    }
    let seeds = (target.seeds)(&work);
    let whole = seeds.iter().filter(|seed| (target.run)(&work, &(target.mend)((*seed).clone()))).count();
    assert!(whole > 0, "not one of the whole files is accepted");
    let first: u64 = variable("FUZZ_FIRST").unwrap().parse().unwrap();
    let seconds: Option<u64> = variable("FUZZ_SECONDS").map(|s| s.parse().unwrap());
    let (start, doing) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    watch(doing.clone());
    let (mut number, mut slowest, mut accepted) = (first, (Duration::ZERO, 0), 0);
    while seconds.map_or(number < first + INPUTS, |s| start.elapsed() < Duration::from_secs(s)) {
        let mut draws = Draws::new(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut input = mutate::damaged(&mut draws, &seeds);
        if number % 2 == 1 {
            input = (target.mend)(input);
        }
        fs::write(own.join("input"), &input).unwrap();
        fs::write(own.join("number"), number.to_string()).unwrap();
        doing.store(number + 1, Ordering::Relaxed);
        let before = Instant::now();
        accepted += u64::from((target.run)(&work, &input));
        slowest = slowest.max((before.elapsed(), number));
        let peak = peak_kib();
        assert!(peak < MOST_TOUCHED_KIB, "input {number} brings memory to {} MiB", peak >> 10);
        number += 1;
    }
    let (inputs, took, peak) = (number - first, start.elapsed().as_secs_f64(), peak_kib() >> 10);
    let (slowest, which) = (slowest.0.as_millis(), slowest.1);
    println!(
        "{name}: {inputs} inputs, {accepted} accepted, {took:.1} s, {slowest} ms for input {which}, {peak} MiB"
    );
}

/// Ends the process when one input takes too long.
fn watch(doing: Arc<AtomicU64>) {
    thread::spawn(move || {
        let (mut last, mut since) = (0, Instant::now());
        loop {
            thread::sleep(Duration::from_millis(200));
            let now = doing.load(Ordering::Relaxed);
            if now != last {
                (last, since) = (now, Instant::now());
            } else if now != 0 && since.elapsed() > PATIENCE {
                eprintln!("input {} takes longer than {} s", now - 1, PATIENCE.as_secs());
                abort();
            }
        }
    });
}

/// The most memory this process has touched; 0 where the system does not say.
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}
