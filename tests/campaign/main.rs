//! Runs that cannot be lost: killed, refused by the disk, damaged, started twice, at numbered and at random moments.
//!
//! A short form with every run of the tests. For longer:
//!
//! ```text
//! HEADSTART_CAMPAIGN_SECONDS=600 cargo test --release --test campaign -- --nocapture
//! ```
//!
//! gives each part (or the one called HEADSTART_CAMPAIGN_PART) so many seconds; HEADSTART_CAMPAIGN_RUNS=N gives it N cases.
//! A case follows from its number; the first is HEADSTART_CAMPAIGN_FIRST, or 0. What a case found is printed with the call
//! that repeats it, and its folder is kept in the build folder.
//!
//! Owns: the parts, who works on which case, what is counted. Never: knows what a run leaves (`works`).

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

use std::collections::BTreeMap;
use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use disk_calls::DiskCalls;
use support::Place;
use works::Works;

mod damage;
mod disk_calls;
mod processes;
mod ranks;
mod shim;
#[path = "../support/mod.rs"]
mod support;
mod works;

/// What happens in a case; an error is something found.
type Found = Result<(), String>;

/// What was done, by name.
#[derive(Default)]
struct Counts(Mutex<BTreeMap<String, u64>>);

impl Counts {
    fn add(&self, what: impl Into<String>) {
        *self.0.lock().unwrap().entry(what.into()).or_default() += 1;
    }
}

/// What to do in the case of a number, in a place of its own.
type Case<'a> = Box<dyn Fn(u64, &Place, &Counts) -> Found + Sync + 'a>;

/// A part of the campaign.
struct Part<'a> {
    name: &'static str,
    /// Cases of the short form.
    cases: u64,
    case: Case<'a>,
}

#[test]
fn no_run_is_lost() {
    let (works, of_ranks) = (LazyLock::new(Works::make), LazyLock::new(Works::of_ranks));
    let long =
        ["SECONDS", "RUNS"].iter().any(|name| env::var_os(format!("HEADSTART_CAMPAIGN_{name}")).is_some());
    let shim = shim::build().inspect_err(|why| {
        assert_ne!(env::var("CI").as_deref(), Ok("true"), "{why}");
        println!("SKIPPED: whatever needs calls of the disk to go wrong: {why}");
    });
    let hosts = ranks::hosts_can_be();
    let only = env::var("HEADSTART_CAMPAIGN_PART").ok();
    let (counts, mut found) = (Counts::default(), Vec::new());
    for (name, cases) in [("disk", 600), ("damage", 300), ("processes", 48), ("ranks", 20), ("hosts", 0)] {
        if only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        let case: Case<'_> = match (name, &shim) {
            ("disk", Ok(shim)) => {
                let calls = DiskCalls::trace(&works, shim.clone());
                Box::new(move |number, place, counts| calls.case(number, place, counts))
            }
            ("disk", Err(_)) => continue,
            ("damage", _) => damage::part(&works),
            ("processes", _) => processes::part(&works),
            ("ranks", shim) => ranks::part(&of_ranks, shim.clone().ok()),
            // Only on demand: it makes network interfaces.
            _ if !long => continue,
            _ => match &hosts {
                Ok(()) => ranks::part_of_hosts(&of_ranks),
                Err(why) => {
                    println!("SKIPPED: the part `hosts`: {why}");
                    continue;
                }
            },
        };
        found.extend(try_part(&Part { name, cases, case }, &counts));
    }
    let counted = counts.0.lock().unwrap();
    println!("{} found", found.len());
    counted.iter().for_each(|(what, n)| println!("{n:8}  {what}"));
    assert!(found.is_empty(), "{} cases failed:\n\n{}", found.len(), found.join("\n\n"));
}

/// Goes through the cases of a part, one on each processor. What was found.
fn try_part(part: &Part<'_>, counts: &Counts) -> Vec<String> {
    let number = |name: &str| env::var(name).ok().map(|n| n.parse::<u64>().expect("a number"));
    let seconds = number("HEADSTART_CAMPAIGN_SECONDS");
    let first = number("HEADSTART_CAMPAIGN_FIRST").unwrap_or(0);
    let cases = number("HEADSTART_CAMPAIGN_RUNS").unwrap_or(part.cases);
    let (began, next, found) = (Instant::now(), AtomicU64::new(first), Mutex::new(Vec::new()));
    let worker = || loop {
        let case = next.fetch_add(1, Ordering::Relaxed);
        let goes_on = match seconds {
            Some(seconds) => began.elapsed() < Duration::from_secs(seconds),
            None => case < first + cases,
        };
        if !goes_on || found.lock().unwrap().len() >= 20 {
            break;
        }
        if let Err(what) = try_case(part, case, counts) {
            let repeat = format!(
                "HEADSTART_CAMPAIGN_PART={} HEADSTART_CAMPAIGN_FIRST={case} HEADSTART_CAMPAIGN_RUNS=1 \
                 cargo test --release --test campaign -- --nocapture",
                part.name
            );
            println!("{} {case}: {what}\n{repeat}", part.name);
            found.lock().unwrap().push(format!("{} {case}: {what}\n{repeat}", part.name));
        }
        counts.add(format!("{} cases", part.name));
    };
    let workers = thread::available_parallelism().map_or(1, |n| n.get().min(4));
    thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(worker))));
    println!("{}: {:.1} s", part.name, began.elapsed().as_secs_f64());
    found.into_inner().unwrap()
}

/// One case in a place of its own, which is kept if something was found.
fn try_case(part: &Part<'_>, case: u64, counts: &Counts) -> Found {
    // Files that live for a moment belong into memory.
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { Place::within(memory) } else { Place::new() };
    let place = place.with("HEADSTART_CACHE", Works::cache().display().to_string());
    let done = catch_unwind(AssertUnwindSafe(|| (part.case)(case, &place, counts)));
    let result = done.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default())
    });
    result.map_err(|what| {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("campaign-{}-{case}", part.name));
        let _ = std::fs::remove_dir_all(&kept);
        support::copy_folder(&place.path(""), &kept);
        format!("{what}\n  kept in {}", kept.display())
    })
}
