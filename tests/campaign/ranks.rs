//! Runs over several ranks, of which some are killed, stopped or cut off; they go on over another number of ranks.
//!
//! Owns: how ranks are started, on one machine and in network namespaces as hosts. Never: what a whole run holds (`works`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::Instant;

use crate::processes::{a_moment, signal};
use crate::shim;
use crate::support::{Draws, Place};
use crate::works::{Starts, Work, Works, draws, named, said, wait};
use crate::{Case, Counts, Found};

/// Numbers of ranks that divide the groups of the reduction.
const WORLDS: [usize; 3] = [1, 2, 4];
/// `--comm_timeout` of ranks that will lose one, and of those that must come to the end.
const SHORT_S: f64 = 1.0;
const LONG_S: f64 = 60.0;
/// Ranks wait ten times as long for each other to come.
const COMING: f64 = 10.0;
/// What a busy machine takes besides.
const SLACK_S: f64 = 15.0;

/// What happens to a rank.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Killed,
    /// It no longer runs, and its connections stay open.
    Halted,
    /// It is asked to end.
    Asked,
    /// Rank 0's disk refuses it, if not others' reasons come first.
    Refused,
}

/// The part: ranks of one machine.
pub fn part(works: &Works, shim: Option<PathBuf>) -> Case<'_> {
    Box::new(move |number, place, counts| {
        let mut draws = draws(number);
        let work = &works.works[draws.below(works.works.len())];
        let mut done = Vec::new();
        let mut go = || -> Found {
            for _ in 0..=draws.below(3) {
                let world = WORLDS[draws.below(3)];
                done.push(world);
                lose_one(work, place, &mut draws, world, shim.as_deref(), counts)?;
                work.whole_checkpoints(place, "run")?;
            }
            if place.path("run").is_dir() {
                work.ask(place, "run", counts)?;
            }
            let world = WORLDS[draws.below(3)];
            done.push(world);
            counts.add(format!("ranks: ended with {world}"));
            work.ends_as_it_would_have(place, "run", &over(world, LONG_S), counts)
        };
        go().map_err(|what| format!("{}, over {done:?} ranks: {what}", work.name))
    })
}

/// The processes of a call over ranks that find each other through a file; one that a killed rank left is no obstacle.
fn over(world: usize, timeout_s: f64) -> Box<Starts> {
    Box::new(move |place, call| {
        let meeting = place.path("meeting").display().to_string();
        let flags = format!("--world_size {world} --rendezvous {meeting} --comm_timeout {timeout_s}");
        (0..world).map(|rank| place.command(&format!("{call} --rank {rank} {flags}"))).collect()
    })
}

/// Starts or continues the run, and something happens to one rank at a random moment: the others end in time, and say
/// why.
fn lose_one(
    work: &Work,
    place: &Place,
    draws: &mut Draws,
    world: usize,
    shim: Option<&Path>,
    counts: &Counts,
) -> Found {
    let mut commands = over(world, SHORT_S)(place, &work.go_on(place, "run"));
    let fates = [Fate::Killed, Fate::Killed, Fate::Halted, Fate::Asked, Fate::Refused];
    let fate = fates[draws.below(if shim.is_some() { 5 } else { 4 })];
    let victim = if fate == Fate::Refused { 0 } else { draws.below(world) };
    let fault = ["EIO", "ENOSPC", "full", "gone", "kill-before"][draws.below(5)];
    let at = 1 + draws.below(260);
    if let Some(shim) = shim.filter(|_| fate == Fate::Refused) {
        let folder = place.path("").canonicalize().unwrap().join("run");
        shim::load(&mut commands[0], shim, &folder, &place.path("calls"), Some((at, fault)));
    }
    let mut children: Vec<Child> = commands.into_iter().map(|mut command| command.spawn().unwrap()).collect();
    // Before they have met, the others wait ten times as long; that is tried, too.
    if world > 1 && draws.below(6) > 0 {
        until_they_meet(place, &mut children[0]);
    }
    let moment = a_moment(draws);
    let met = children[victim].try_wait().unwrap().is_none();
    let began = Instant::now();
    if met {
        counts.add(format!("ranks: {fate:?} of {world}"));
        match fate {
            Fate::Killed => children[victim].kill().unwrap(),
            Fate::Halted => signal(&children[victim], "STOP"),
            Fate::Asked => signal(&children[victim], "TERM"),
            Fate::Refused => {}
        }
    }
    let halted = (met && fate == Fate::Halted).then(|| children.remove(victim));
    let others = wait(children);
    if let Some(mut child) = halted {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let context = |what: String| {
        format!(
            "rank {victim} of {world} {fate:?} after {moment:?} (met: {met}; {fault} at call {at}): {what}"
        )
    };
    let took = began.elapsed().as_secs_f64();
    if took > SHORT_S * COMING + SLACK_S {
        return Err(context(format!("the others took {took:.1} s to end")));
    }
    for output in others.map_err(context)? {
        counts.add("runs");
        match output.status.code() {
            Some(0) => {}
            Some(130) if fate == Fate::Asked => {}
            // The victim; asked before it listens, it ends as any process does.
            None if met || fate == Fate::Refused => {}
            Some(1) if met || world > 1 || fate == Fate::Refused => {
                named(&output, &["rank".into(), "run".into()]).map_err(context)?;
                counts.add("ranks: named errors");
            }
            _ => return Err(context(said(&output))),
        }
    }
    Ok(())
}

/// Waits until the file through which ranks find each other is there, and gone again.
fn until_they_meet(place: &Place, first: &mut Child) {
    let (meeting, began) = (place.path("meeting"), Instant::now());
    let mut came = false;
    while (!came || meeting.exists()) && began.elapsed().as_secs_f64() < SHORT_S {
        came |= meeting.exists();
        if first.try_wait().unwrap().is_some() {
            return;
        }
        thread::yield_now();
    }
}

/// Two hosts: network namespaces with a line between them that is slow and loses packets.
struct Hosts {
    names: [String; 2],
    network: u64,
}

impl Hosts {
    fn new(number: u64) -> Self {
        let network = number % 250;
        let names = ["a", "b"].map(|host| format!("campaign-{}-{number}-{host}", std::process::id()));
        let hosts = Self { names, network };
        let [a, b] = &hosts.names;
        let run = |line: &str| ip(line).unwrap();
        run(&format!("netns add {a}"));
        run(&format!("netns add {b}"));
        run(&format!("link add name line netns {a} type veth peer name line netns {b}"));
        for (host, name) in [(1, a), (2, b)] {
            run(&format!("-n {name} address add 10.213.{network}.{host}/24 dev line"));
            run(&format!("-n {name} link set lo up"));
            run(&format!("-n {name} link set line up"));
        }
        hosts
    }

    /// Packets take so long, and so many of a hundred are lost. Where the kernel cannot do that, the line is narrow and has
    /// a short queue, which comes to the same; says which.
    fn spoil(&self, delay_ms: usize, loss: usize) -> &'static str {
        let both = |line: &str| {
            self.names.iter().all(|name| {
                let mut tc = Command::new("tc");
                tc.args(["-n", name, "qdisc", "replace", "dev", "line", "root"]).args(line.split(' '));
                tc.output().unwrap().status.success()
            })
        };
        if both(&format!("netem delay {delay_ms}ms loss {loss}%")) {
            return "slow and lossy";
        }
        let (megabits, limit) = (1 + 15 - delay_ms, 4_000 * (5 - loss));
        assert!(both(&format!("tbf rate {megabits}mbit burst 4000 limit {limit}")), "tc cannot spoil a line");
        "narrow and lossy"
    }

    fn cut(&self) {
        ip(&format!("-n {} link set line down", self.names[0])).unwrap();
    }

    fn mend(&self) {
        ip(&format!("-n {} link set line up", self.names[0])).unwrap();
    }

    /// The processes of a call, half of them on either host.
    fn over(&self, world: usize, timeout_s: f64) -> Box<Starts> {
        let (names, network) = (self.names.clone(), self.network);
        Box::new(move |place, call| {
            let meeting = format!("10.213.{network}.1:29400");
            let flags = format!("--world_size {world} --rendezvous {meeting} --comm_timeout {timeout_s}");
            let on_host = |rank: usize| {
                let inside = place.command(&format!("{call} --rank {rank} {flags}"));
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &names[2 * rank / world]]).arg(inside.get_program());
                place.prepare({
                    command.args(inside.get_args());
                    command
                })
            };
            (0..world).map(on_host).collect()
        })
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

fn ip(line: &str) -> Result<(), String> {
    let output = Command::new("ip").args(line.split(' ')).output().map_err(|e| e.to_string())?;
    if output.status.success() { Ok(()) } else { Err(format!("ip {line}: {}", said(&output))) }
}

/// Whether there can be hosts here, or why not.
pub fn hosts_can_be() -> Result<(), String> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let root =
        status.lines().any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"));
    if !root {
        return Err("only root may make network namespaces".into());
    }
    let tools = Command::new("tc").arg("-V").output().and_then(|_| Command::new("ip").arg("-V").output());
    tools.map(|_| ()).map_err(|e| format!("there is no `ip` or `tc`: {e}"))
}

/// The part: ranks on two hosts.
pub fn part_of_hosts(works: &Works) -> Case<'_> {
    Box::new(move |number, place, counts| {
        let mut draws = draws(number);
        let work = &works.works[draws.below(works.works.len())];
        let hosts = Hosts::new(number);
        let (delay, loss) = (draws.below(15), draws.below(4));
        let spoilt = hosts.spoil(delay, loss);
        let world = [2, 4][draws.below(2)];
        let line = format!("{}, {world} ranks, {delay} ms, {loss} % lost", work.name);
        let mut go = || -> Found {
            if draws.below(2) == 0 {
                counts.add("hosts: cut off");
                cut_off(work, place, &mut draws, &hosts, world, counts)?;
                work.whole_checkpoints(place, "run")?;
                hosts.mend();
            }
            let world = [2, 4][draws.below(2)];
            counts.add(format!("hosts: {spoilt} with {world} ranks"));
            work.ends_as_it_would_have(place, "run", &hosts.over(world, LONG_S), counts)
        };
        go().map_err(|what| format!("{line}: {what}"))
    })
}

/// The line is cut at a random moment: both sides end in time, and say why.
fn cut_off(
    work: &Work,
    place: &Place,
    draws: &mut Draws,
    hosts: &Hosts,
    world: usize,
    counts: &Counts,
) -> Found {
    let commands = hosts.over(world, 2.0 * SHORT_S)(place, &work.go_on(place, "run"));
    let children: Vec<Child> = commands.into_iter().map(|mut command| command.spawn().unwrap()).collect();
    let moment = a_moment(draws) + a_moment(draws) + a_moment(draws);
    hosts.cut();
    let began = Instant::now();
    let outputs = wait(children)?;
    let took = began.elapsed().as_secs_f64();
    if took > 2.0 * SHORT_S * COMING + SLACK_S {
        return Err(format!("cut off after {moment:?}, the ranks took {took:.1} s to end"));
    }
    for output in outputs {
        counts.add("runs");
        if !output.status.success() {
            named(&output, &["rank".into()]).map_err(|what| format!("cut off after {moment:?}: {what}"))?;
            counts.add("hosts: named errors");
        }
    }
    Ok(())
}
