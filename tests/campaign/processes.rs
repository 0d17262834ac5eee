//! Several processes on one folder, and processes that end at random moments.
//!
//! Owns: who starts when, and who is killed when. Never: what is on the disk at that moment (`disk_calls`).

use std::process::{Child, Command, Output};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Draws, Place};
use crate::works::{Left, Starts, Work, Works, alone, draws, named, said, wait};
use crate::{Case, Counts, Found};

/// Seeds of rival starts; what each of them leaves is made when it is first needed.
const SEEDS: usize = 4;
type Known = Mutex<Vec<Vec<Option<Left>>>>;

/// The part: in the case of a number rivals start together, or a run is ended at random moments.
pub fn part(works: &Works) -> Case<'_> {
    let nothing = || (0..SEEDS).map(|_| None).collect();
    let known: Known = Mutex::new(works.works.iter().map(|_| nothing()).collect());
    Box::new(move |number, place, counts| {
        let mut draws = draws(number);
        let which = draws.below(works.works.len());
        let work = &works.works[which];
        let done = match number % 4 {
            0 => rival_starts(work, place, &mut draws, &known, which, counts),
            1 => rival_resumes(work, place, &mut draws, counts),
            _ => ended_at_random(work, place, &mut draws, &alone, counts),
        };
        done.map_err(|what| format!("{}: {what}", work.name))
    })
}

/// Starts of different seeds on one folder: one wins, the others touch nothing.
fn rival_starts(
    work: &Work,
    place: &Place,
    draws: &mut Draws,
    known: &Known,
    which: usize,
    counts: &Counts,
) -> Found {
    let seeds = 2 + draws.below(SEEDS - 1);
    let call = |seed: usize, out: &str| work.start(out).replace("--seed 42", &format!("--seed {seed}"));
    let outputs = together(seeds, draws, |seed| place.command(&call(seed, "run")));
    counts.add("double starts");
    let won: Vec<usize> = (0..seeds).filter(|seed| outputs[*seed].status.success()).collect();
    let [winner] = won[..] else {
        return Err(format!("{won:?} of {seeds} starts won: {}", said(&outputs[0])));
    };
    for (_, output) in outputs.iter().enumerate().filter(|(seed, _)| *seed != winner) {
        named(output, &["another process is".into(), "exists and is not empty".into()])?;
    }
    let mut known = known.lock().unwrap();
    let expected = known[which][winner].get_or_insert_with(|| {
        let alone = Place::new().with("HEADSTART_CACHE", Works::cache().display().to_string());
        alone.run(&call(winner, "run")).succeeds();
        Left::of(&alone, "run")
    });
    expected.same(&Left::of(place, "run")).map_err(|what| format!("seed {winner} won: {what}"))?;
    let settings = String::from_utf8(place.bytes("run/config.toml")).unwrap();
    let command = String::from_utf8(place.bytes("run/command.txt")).unwrap();
    if !settings.contains(&format!("seed = {winner}\n")) || !command.contains(&format!("--seed {winner}")) {
        return Err(format!("seed {winner} won: the settings or the command are another's"));
    }
    counts.add("same-bit comparisons");
    Ok(())
}

/// Several go on with one run: whoever is refused has touched nothing.
fn rival_resumes(work: &Work, place: &Place, draws: &mut Draws, counts: &Counts) -> Found {
    end_once(work, place, draws, &alone, counts)?;
    let n = 2 + draws.below(3);
    let call = work.go_on(place, "run");
    let outputs = together(n, draws, |_| place.command(&call));
    counts.add("double resumes");
    let won = outputs.iter().filter(|output| output.status.success()).count();
    if won == 0 {
        return Err(format!("nobody went on: {}", said(&outputs[0])));
    }
    for output in outputs.iter().filter(|output| !output.status.success()) {
        named(output, &["another process is".into(), "exists and is not empty".into()])?;
    }
    work.same(place, "run")?;
    counts.add("same-bit comparisons");
    Ok(())
}

/// Ends a run, and the runs that go on with it, a few times.
fn ended_at_random(work: &Work, place: &Place, draws: &mut Draws, starts: &Starts, counts: &Counts) -> Found {
    for _ in 0..=draws.below(4) {
        end_once(work, place, draws, starts, counts)?;
        work.whole_checkpoints(place, "run")?;
    }
    if place.path("run").is_dir() {
        work.ask(place, "run", counts)?;
    }
    work.ends_as_it_would_have(place, "run", starts, counts)
}

/// Starts or continues the run and ends one of its processes at a random moment, if it is not done by then: mostly as
/// `kill -9` does, sometimes by asking.
fn end_once(work: &Work, place: &Place, draws: &mut Draws, starts: &Starts, counts: &Counts) -> Found {
    let commands = starts(place, &work.go_on(place, "run"));
    let mut children: Vec<Child> = commands.into_iter().map(|mut command| command.spawn().unwrap()).collect();
    let asks = draws.below(3) == 0;
    let victim = draws.below(children.len());
    let wait_s = a_moment(draws);
    if children[victim].try_wait().unwrap().is_none() {
        counts.add(if asks { "processes: asked to end" } else { "kills" });
        if asks {
            signal(&children[victim], "TERM");
        } else {
            children[victim].kill().unwrap();
        }
    }
    for (rank, output) in wait(children)?.into_iter().enumerate() {
        counts.add("runs");
        let ended = output.status.success() || output.status.code() == Some(130);
        // Asked before it listens, it ends as any process does.
        let killed = output.status.code().is_none() && rank == victim;
        if !ended && !killed {
            named(&output, &[]).map_err(|what| format!("after {wait_s:?}: {what}"))?;
        }
    }
    Ok(())
}

/// Waits for a random time; small ones are met as often as large ones.
pub fn a_moment(draws: &mut Draws) -> Duration {
    let wait = Duration::from_micros(1 << (8 + draws.below(10))) * (1 + draws.below(16) as u32) / 8;
    wait_for(wait);
    wait
}

pub fn signal(child: &Child, name: &str) {
    Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status().unwrap();
}

fn wait_for(time: Duration) {
    let began = Instant::now();
    while began.elapsed() < time {
        thread::yield_now();
    }
}

/// Starts `n` processes within a few milliseconds of each other.
fn together(n: usize, draws: &mut Draws, command: impl Fn(usize) -> Command) -> Vec<Output> {
    let mut children = Vec::new();
    for i in 0..n {
        children.push(command(i).spawn().unwrap());
        if draws.below(2) == 0 {
            wait_for(Duration::from_micros(draws.below(20_000) as u64));
        }
    }
    children.into_iter().map(|child| child.wait_with_output().unwrap()).collect()
}
