//! Every call to the disk goes wrong once: in a new run, in one that goes on, in one that is finished.
//!
//! Owns: which call, and what must hold after it. Never: how it is made to go wrong (`shim`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::shim::{self, Call};
use crate::support::{Place, copy_folder};
use crate::works::{Work, Works, alone, draws, named, said};
use crate::{Counts, Found};

/// Where a run stands before the call that goes wrong.
struct Scene<'a> {
    name: &'static str,
    work: &'a Work,
    /// The folder whose calls are counted.
    under: &'static str,
    /// The folder it stands in; `None`: there is none yet.
    from: Option<Place>,
    /// What happens from there when nothing goes wrong.
    calls: Vec<Call>,
}

/// All scenes.
pub struct DiskCalls<'a> {
    shim: PathBuf,
    scenes: Vec<Scene<'a>>,
}

const RUN: &str = "run";
const CACHE: &str = "cache";

impl<'a> DiskCalls<'a> {
    /// Goes through all scenes once without a fault.
    pub fn trace(works: &'a Works, shim: PathBuf) -> Self {
        let mut scenes = Vec::new();
        for work in &works.works {
            let mut add = |name, under, from: Option<Place>| {
                let place = stand(from.as_ref());
                let output = call(work, &place, &shim, under, None);
                assert!(output.status.success(), "{name}: {}", said(&output));
                let calls = shim::calls(&place.path("calls"));
                scenes.push(Scene { name, work, under, from, calls: calls.clone() });
                (place, calls)
            };
            let (finished, calls) = add("new", RUN, None);
            // Killed in the middle of a save after a good checkpoint, and of the last one.
            let written = |name: &str| -> Vec<usize> {
                let calls = calls.iter().filter(|call| call.name == "write" && call.path.ends_with(name));
                calls.map(|call| call.number).collect()
            };
            let saves = written("/optimizer.safetensors");
            for (name, at) in [
                ("killed while it saves", saves[saves.len() / 2]),
                ("killed at its last save", saves[saves.len() - 1]),
            ] {
                let place = stand(None);
                call(work, &place, &shim, RUN, Some((at, "kill-middle")));
                add(name, RUN, Some(place));
            }
            add("finished", RUN, Some(finished));
            if work.command == "pretrain" {
                add("without a cache", CACHE, None);
            }
            // Asked to end when a step is logged after which it evaluates: that comes first when it goes on.
            let at = written("/metrics.jsonl")[2];
            let stopped = (0..20).map(|_| stand(None)).find(|place| {
                call(work, place, &shim, RUN, Some((at, "stop")));
                let state = place.path("run/checkpoints/step-00000003/trainer_state.json");
                fs::read_to_string(state).is_ok_and(|state| state.contains("\"evaluation_is_due\": true"))
            });
            match stopped {
                Some(place) => drop(add("stopped before it evaluates", RUN, Some(place))),
                None => println!("{}: no evaluation was stopped", work.name),
            }
        }
        let calls: usize = scenes.iter().map(|scene| scene.calls.len()).sum();
        let faults: usize = scenes.iter().map(|scene| scene.faults().count()).sum();
        println!("disk: {} scenes of {calls} calls, {faults} faults", scenes.len());
        Self { shim, scenes }
    }

    /// The scenes take turns. In each, below the number of its faults one of them at a time, in an order that spreads any
    /// number of first ones over all; above, several drawn ones behind each other.
    pub fn case(&self, number: u64, place: &Place, counts: &Counts) -> Found {
        let scene = &self.scenes[number as usize % self.scenes.len()];
        let turn = number as usize / self.scenes.len();
        let faults: Vec<(usize, &str)> = scene.faults().collect();
        let mut stride = faults.len() * 618 / 1000;
        while gcd(stride, faults.len()) != 1 {
            stride += 1;
        }
        let mut draws = draws(number);
        let chosen: Vec<(usize, &str)> = if turn < faults.len() {
            vec![faults[turn * stride % faults.len()]]
        } else {
            (0..2 + draws.below(3)).map(|_| faults[draws.below(faults.len())]).collect()
        };
        if let Some(from) = &scene.from {
            copy_folder(&from.path(RUN), &place.path(RUN));
        }
        let go = || -> Found {
            for (at, fault) in &chosen {
                self.go_wrong(scene, place, *at, fault, counts)?;
            }
            let starts = |place: &Place, call: &str| {
                let mut commands = alone(place, call);
                in_cache(&mut commands[0], place, scene.under);
                commands
            };
            scene.work.ends_as_it_would_have(place, RUN, &starts, counts)
        };
        go().map_err(|what| {
            let chosen: Vec<String> =
                chosen.iter().map(|(at, fault)| format!("{fault} at call {at}")).collect();
            format!("{}, {}, {}: {what}", scene.work.name, scene.name, chosen.join(", "))
        })
    }

    /// Starts or continues the run, and what must hold after the fault.
    fn go_wrong(&self, scene: &Scene<'_>, place: &Place, at: usize, fault: &str, counts: &Counts) -> Found {
        let work = scene.work;
        let before = work.whole_checkpoints(place, RUN)?.pop();
        let lengths = lengths(&place.path(scene.under));
        let output = call(work, place, &self.shim, scene.under, Some((at, fault)));
        counts.add("runs");
        let calls = shim::calls(&place.path("calls"));
        let Some(hit) = calls.iter().find(|call| call.number == at) else {
            counts.add("disk: faults that were not reached");
            return judge_untouched(work, place, &output);
        };
        counts.add(format!("disk: {fault} at {}", hit.name));
        if fault == "stop" {
            // Asked before it listens, it ends as any process does.
            if !matches!(output.status.code(), Some(0 | 130) | None) {
                return Err(format!("asked to end, it ended with {}", said(&output)));
            }
        } else if fault.starts_with("kill") || fault == "power" {
            counts.add("kills");
            if output.status.code().is_some() {
                return Err(format!("it was not killed: {}", said(&output)));
            }
            if fault == "power" {
                lose_power(&shim::noted(&place.path("calls")), lengths, counts);
            }
        } else {
            let before = calls[..at - 1].iter().rev().find(|call| call.name != "open");
            let after_report = before
                .is_some_and(|call| AT_THE_END.iter().any(|name| call.path.ends_with(&format!("/{name}"))));
            judge(work, place, hit, fault, after_report, &output)?;
        }
        // What was saved before is there, and whole.
        let there = work.whole_checkpoints(place, RUN)?;
        if output.status.success() {
            return Ok(());
        }
        let newest = newest_committed(&calls, at, fault).max(before);
        if newest.as_ref().is_some_and(|newest| !there.contains(newest)) && !pushed_aside(place) {
            return Err(format!("{newest:?} is lost; there are {there:?}"));
        }
        if place.path(RUN).is_dir() { work.ask(place, RUN, counts) } else { Ok(()) }
    }
}

/// What is written when a run ends, once its model is there.
const AT_THE_END: [&str; 3] = ["predictions.jsonl", "report.html", "summary.json"];

/// What a process may say and do after a call of it failed.
fn judge(work: &Work, place: &Place, hit: &Call, fault: &str, after_report: bool, output: &Output) -> Found {
    let heard = |what: String| format!("{what}\n  {} {} in {}", hit.name, fault, hit.path);
    let file = |path: &str| {
        Path::new(path).file_name().unwrap().to_string_lossy().replace(".partial-", "").replace(".old-", "")
    };
    if output.status.success() {
        work.same(place, RUN).map_err(heard)?;
        let tried_again = matches!(fault, "EINTR" | "short");
        // A log for people, and reading what can be made again.
        let reads = ["open", "read", "mmap"].contains(&hit.name.as_str());
        // Each of these is in its place by then.
        let report =
            hit.name == "unlink" && AT_THE_END.iter().any(|name| hit.path.contains(&format!("/.{name}.")));
        let report = report || (hit.name == "fsync" && after_report);
        let harmless = reads
            || report
            || format!("{}/", hit.path).contains("/cache/")
            || hit.path.ends_with("/train.log");
        if tried_again || harmless {
            return Ok(());
        }
        return Err(heard("it went on as if nothing had been".into()));
    }
    // Of a rename either name will do, of what lies in a folder the folder's.
    let mut words = Vec::new();
    for path in hit.path.split('>') {
        words.push(file(path));
        words.extend(Path::new(path).parent().map(|parent| file(&parent.to_string_lossy())));
    }
    // From then on everything fails, and any of it may be what is said.
    if ["full", "gone"].contains(&fault) {
        words = vec![RUN.into(), CACHE.into()];
    }
    named(output, &words).map_err(heard)?;
    if output.status.code() != Some(1) {
        return Err(heard(format!("it ended with {}", said(output))));
    }
    Ok(())
}

/// A run that nothing happened to.
fn judge_untouched(work: &Work, place: &Place, output: &Output) -> Found {
    if !output.status.success() {
        return Err(format!("nothing went wrong, and it ended with {}", said(output)));
    }
    work.same(place, RUN)
}

/// The newest checkpoint that was put in its place before the fault; one that is asked to end goes on for a while.
fn newest_committed(calls: &[Call], at: usize, fault: &str) -> Option<String> {
    let before = calls.iter().filter(|call| {
        fault == "stop" || call.number < at || (call.number == at && ["kill-after", "power"].contains(&fault))
    });
    let committed = before.filter(|call| call.name == "rename").filter_map(|call| {
        let target = call.path.split_once('>')?.1;
        target.rsplit('/').next().filter(|name| name.starts_with("step-")).map(str::to_owned)
    });
    committed.max()
}

/// Whether a checkpoint stands aside for the one that replaces it.
fn pushed_aside(place: &Place) -> bool {
    place.names(&format!("{RUN}/checkpoints")).iter().any(|name| name.starts_with(".old-step-"))
}

/// How long files are, all of it on the disk.
fn lengths(folder: &Path) -> BTreeMap<String, u64> {
    let mut lengths = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path().canonicalize().unwrap();
            if path.is_dir() {
                folders.push(path);
            } else {
                lengths.insert(path.display().to_string(), path.metadata().unwrap().len());
            }
        }
    }
    lengths
}

/// Takes away what a power failure may take: what was written to a file since it was last flushed, and files whose folder
/// was not flushed since they were made.
fn lose_power(noted: &[Call], mut on_disk: BTreeMap<String, u64>, counts: &Counts) {
    let mut new: BTreeSet<String> = BTreeSet::new();
    for call in noted {
        match call.name.as_str() {
            "create" if !on_disk.contains_key(&call.path) => {
                new.insert(call.path.clone());
                on_disk.insert(call.path.clone(), 0);
            }
            "rename" => {
                let (from, to) = call.path.split_once('>').unwrap();
                let moved = |path: &String| path.replacen(from, to, usize::from(path.starts_with(from)));
                on_disk = on_disk.iter().map(|(path, length)| (moved(path), *length)).collect();
                new = new.iter().map(moved).collect();
            }
            length if call.number == 0 => {
                new.retain(|path| Path::new(path).parent() != Some(Path::new(&call.path)));
                if let Some(known) = on_disk.get_mut(&call.path) {
                    *known = length.parse().unwrap();
                }
            }
            _ => {}
        }
    }
    for (path, length) in on_disk {
        if new.contains(&path) {
            counts.add("disk: files gone with the power");
            let _ = fs::remove_file(&path);
        } else if let Ok(file) = fs::OpenOptions::new().write(true).open(&path)
            && file.metadata().unwrap().len() > length
        {
            counts.add("disk: files shorter without power");
            file.set_len(length).unwrap();
        }
    }
}

impl Scene<'_> {
    /// All that can go wrong: calls and faults.
    fn faults(&self) -> impl Iterator<Item = (usize, &'static str)> {
        self.calls.iter().flat_map(|call| call.faults().iter().map(|fault| (call.number, *fault)))
    }
}

/// Starts the run, or goes on with it, with the library loaded.
fn call(work: &Work, place: &Place, library: &Path, under: &str, fault: Option<(usize, &str)>) -> Output {
    let mut command = place.command(&work.go_on(place, RUN));
    in_cache(&mut command, place, under);
    let folder = place.path("").canonicalize().unwrap().join(under);
    shim::load(&mut command, library, &folder, &place.path("calls"), fault);
    command.output().unwrap()
}

/// Where the calls to the cache are counted, it is one of its own.
fn in_cache(command: &mut Command, place: &Place, under: &str) {
    if under == CACHE {
        command.env("HEADSTART_CACHE", place.path(CACHE));
    }
}

/// A place with a copy of the run of another.
fn stand(from: Option<&Place>) -> Place {
    let place = Place::new().with("HEADSTART_CACHE", Works::cache().display().to_string());
    if let Some(from) = from {
        copy_folder(&from.path(RUN), &place.path(RUN));
    }
    place
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
