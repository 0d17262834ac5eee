//! Every call to the disk goes wrong once: in a new run, in one that goes on, in one that is finished.
//!
//! Owns: which call, and what must hold after it. Never: how it is made to go wrong (`shim`).

use std::path::{Path, PathBuf};
use std::process::Output;

use crate::shim::{self, Call};
use crate::support::{Place, copy_folder};
use crate::works::{Work, Works, alone, draws, named, said};
use crate::{Counts, Found};

/// Where a run stands before the call that goes wrong.
struct Scene<'a> {
    name: &'static str,
    work: &'a Work,
    /// The folder it stands in; `None`: there is none yet.
    from: Option<Place>,
    /// What happens from there when nothing goes wrong.
    calls: Vec<Call>,
}

/// All scenes, and all that can go wrong in them.
pub struct DiskCalls<'a> {
    shim: PathBuf,
    scenes: Vec<Scene<'a>>,
    /// Scene, call, fault.
    faults: Vec<(usize, usize, &'static str)>,
}

const RUN: &str = "run";

impl<'a> DiskCalls<'a> {
    /// Goes through all scenes once without a fault.
    pub fn trace(works: &'a Works, shim: PathBuf) -> Self {
        let mut scenes = Vec::new();
        for work in &works.works {
            let mut add = |name, from: Option<Place>| {
                let place = stand(from.as_ref());
                let output = call(work, &place, &shim, None);
                assert!(output.status.success(), "{name}: {}", said(&output));
                let calls = shim::calls(&place.path("calls"));
                scenes.push(Scene { name, work, from, calls: calls.clone() });
                (place, calls)
            };
            let (finished, calls) = add("new", None);
            // Killed in the middle of a save after a good checkpoint, and of the last one.
            let saves =
                calls.iter().filter(|c| c.name == "write" && c.path.ends_with("optimizer.safetensors"));
            let saves: Vec<usize> = saves.map(|c| c.number).collect();
            for (name, at) in [
                ("killed while it saves", saves[saves.len() / 2]),
                ("killed at its last save", saves[saves.len() - 1]),
            ] {
                let place = stand(None);
                call(work, &place, &shim, Some((at, "kill-middle")));
                add(name, Some(place));
            }
            add("finished", Some(finished));
            // Asked to end when a step is logged after which it evaluates: that comes first when it goes on.
            let logs = calls.iter().filter(|c| c.name == "write" && c.path.ends_with("/metrics.jsonl"));
            let place = stand(None);
            call(work, &place, &shim, Some((logs.map(|c| c.number).nth(2).unwrap(), "stop")));
            add("stopped before it evaluates", Some(place));
        }
        let mut faults = Vec::new();
        for (s, scene) in scenes.iter().enumerate() {
            for (c, call) in scene.calls.iter().enumerate() {
                faults.extend(call.faults().iter().map(|fault| (s, c, *fault)));
            }
        }
        let calls: usize = scenes.iter().map(|scene| scene.calls.len()).sum();
        println!("disk: {} scenes of {calls} calls, {} faults", scenes.len(), faults.len());
        Self { shim, scenes, faults }
    }

    /// Below the number of all faults one of them each, spread over all; above, several drawn ones behind each other.
    pub fn case(&self, number: u64, place: &Place, counts: &Counts) -> Found {
        let total = self.faults.len() as u64;
        if number < total {
            // The golden ratio spreads any number of first cases over all of them.
            let mut stride = (total as f64 * 0.618_033_988) as u64;
            while gcd(stride, total) != 1 {
                stride += 1;
            }
            let (scene, call, fault) = self.faults[(number * stride % total) as usize];
            let scene = &self.scenes[scene];
            if let Some(from) = &scene.from {
                copy_folder(&from.path(RUN), &place.path(RUN));
            }
            self.go_wrong(scene.work, place, scene.calls[call].number, fault, counts)
                .and_then(|()| scene.work.ends_as_it_would_have(place, RUN, &alone, counts))
                .map_err(|what| {
                    format!("{}, {}, {fault} at call {call}: {what}", scene.work.name, scene.name)
                })
        } else {
            let mut draws = draws(number);
            let scene = &self.scenes[draws.below(self.scenes.len())];
            let mut done = Vec::new();
            for _ in 0..2 + draws.below(3) {
                let call = &scene.calls[draws.below(scene.calls.len())];
                let fault = call.faults()[draws.below(call.faults().len())];
                done.push(format!("{fault} at call {}", call.number));
                self.go_wrong(scene.work, place, call.number, fault, counts)
                    .map_err(|what| format!("{}, {}: {what}", scene.work.name, done.join(", ")))?;
            }
            scene
                .work
                .ends_as_it_would_have(place, RUN, &alone, counts)
                .map_err(|what| format!("{}, {}: {what}", scene.work.name, done.join(", ")))
        }
    }

    /// Starts or continues the run, and what must hold after the fault.
    fn go_wrong(&self, work: &Work, place: &Place, at: usize, fault: &str, counts: &Counts) -> Found {
        let before = work.whole_checkpoints(place, RUN)?.pop();
        let output = call(work, place, &self.shim, Some((at, fault)));
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
        } else if fault.starts_with("kill") {
            counts.add("kills");
            if output.status.code().is_some() {
                return Err(format!("it was not killed: {}", said(&output)));
            }
        } else {
            let after_report = calls[..at - 1].iter().rev().find(|call| call.name != "open");
            let after_report = after_report.is_some_and(|call| {
                call.path.ends_with(">report.html") || call.path.ends_with("/report.html")
            });
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
        // The report is in its place by then.
        let report = hit.name == "unlink" && hit.path.contains("/.report.html.");
        let report = report || (hit.name == "fsync" && after_report);
        let harmless = reads || report || hit.path.ends_with("/train.log");
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
        words = vec![RUN.into()];
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

/// The newest checkpoint that was put in its place before the fault.
fn newest_committed(calls: &[Call], at: usize, fault: &str) -> Option<String> {
    let before = calls.iter().filter(|call| call.number < at || (call.number == at && fault == "kill-after"));
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

/// Starts the run, or goes on with it, with the library loaded.
fn call(work: &Work, place: &Place, library: &Path, fault: Option<(usize, &str)>) -> Output {
    let mut command = place.command(&work.go_on(place, RUN));
    let folder = place.path("").canonicalize().unwrap().join(RUN);
    shim::load(&mut command, library, &folder, &place.path("calls"), fault);
    command.output().unwrap()
}

/// A place with a copy of the run of another.
fn stand(from: Option<&Place>) -> Place {
    let place = Place::new().with("HEADSTART_CACHE", Works::cache().display().to_string());
    if let Some(from) = from {
        copy_folder(&from.path(RUN), &place.path(RUN));
    }
    place
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
