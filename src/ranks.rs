//! The processes that do one piece of work together, and this one among them.
//!
//! Owns: joining the others once, what they share of a machine, and how they part. Never: what a launcher's variables mean
//! (settings/ranks.rs), or what the work is.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::process::ExitCode;
use std::thread;

use anyhow::Result;
use headstart::Error;
use headstart::collective::{Collective, Join, Over};

use crate::args::RankArgs;
use crate::output::Closed;
use crate::settings::Usage;
use crate::settings::ranks::{self, Mpi};
use crate::{chain, launched, progress};

/// This process among those that work together.
#[derive(Debug, Default)]
pub struct Ranks {
    /// The others; nobody where it is alone.
    pub collective: Collective,
    /// Its number among those on this machine.
    pub local_rank: usize,
    /// How many threads are its share of this machine; 0: all.
    pub own_threads: usize,
    /// Whether flags or a launcher said which process this is, even if it is the only one.
    pub launched: bool,
}

/// Joins the others, works, and parts from them: in peace, or telling them what went wrong here.
pub fn together(args: &RankArgs, work: impl FnOnce(&Ranks) -> Result<ExitCode>) -> Result<ExitCode> {
    let ranks = Ranks::join(args)?;
    let result = work(&ranks);
    match &result {
        Err(error) if !error.is::<Closed>() => ranks.collective.fail(&chain(error)),
        _ => ranks.collective.leave(),
    }
    result
}

/// A variable of the environment that is set to something.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.trim().is_empty())
}

/// How this process would join others without a flag.
pub fn launched_as() -> Result<Option<Join>, Usage> {
    let flags = RankArgs { rank: None, world_size: None, rendezvous: None, comm_timeout: 60.0 };
    ranks::ranks(&flags, &variable, Mpi::HERE)
}

impl Ranks {
    /// Work that brings something to this machine: rank 0 does it first, so that the others find it there.
    pub fn one_first<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        headstart::ranks::Ranks::without_groups(&self.collective).leader_first(work)
    }

    fn join(args: &RankArgs) -> Result<Self> {
        let Some(join) = ranks::ranks(args, &variable, Mpi::HERE)? else {
            let launched = args.rank.is_some() || variable("RANK").is_some();
            return Ok(Self { launched, ..Self::default() });
        };
        progress::speak_as(join.rank);
        launched::listen(join.rank)?;
        let collective = Collective::join(&join).map_err(Error::Engine)?;
        let (rank, world_size) = (collective.rank(), collective.world_size());
        progress::speak_as(rank);
        check_size(&join, world_size)?;
        let machines = collective.gather(Place::of_this_process().to_text().as_bytes());
        let machines = machines.map_err(Error::Engine)?;
        let places: Vec<Place> =
            machines.iter().map(|text| Place::from_text(&String::from_utf8_lossy(text))).collect();
        let all = thread::available_parallelism().map_or(1, usize::from);
        let Shares { local_rank, local_size, sharing } = Shares::of(rank, &places);
        let own_threads = (all / sharing).max(1);
        let over = if join.over == Over::Mpi { "MPI" } else { "TCP" };
        progress::say(&format!(
            "ranks: {world_size} over {over}, {local_size} of them on this machine; rank 0 has {own_threads} of its {all} \
             processors"
        ));
        Ok(Self { collective, local_rank, own_threads, launched: true })
    }
}

/// An MPI that another one's launcher started takes itself for alone, on every rank.
fn check_size(join: &Join, counted: usize) -> Result<(), Usage> {
    let told = join.world_size;
    if told == 0 || told == counted {
        return Ok(());
    }
    Err(Usage(format!(
        "the launcher started {told} processes, and MPI counts {counted}: it is another MPI than this program was built \
         with\n  fix: use the mpirun of that MPI (under srun: `srun --mpi=pmix`), or add --rendezvous HOST:PORT to go \
         without MPI"
    )))
}

/// Where a process runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Place {
    /// The machine or container.
    machine: String,
    /// The processors it may use, as the system lists them.
    processors: String,
}

impl Place {
    /// Empty where the system does not say: then all are taken to be on one machine.
    fn of_this_process() -> Self {
        let line = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let status = line("/proc/self/status");
        let processors = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        Self {
            machine: format!(
                "{} {}",
                line("/proc/sys/kernel/hostname"),
                line("/proc/sys/kernel/random/boot_id")
            ),
            processors: processors.unwrap_or_default().trim().to_owned(),
        }
    }

    fn to_text(&self) -> String {
        format!("{}\n{}", self.machine, self.processors)
    }

    fn from_text(text: &str) -> Self {
        let (machine, processors) = text.split_once('\n').unwrap_or((text, ""));
        Self { machine: machine.to_owned(), processors: processors.to_owned() }
    }

    /// Whether both may run on one of the same processors.
    fn shares_with(&self, other: &Self) -> bool {
        self.machine == other.machine
            && (self.processors == other.processors
                || !numbers(&self.processors).is_disjoint(&numbers(&other.processors)))
    }
}

/// The numbers of a list such as `0-3,8`.
fn numbers(list: &str) -> BTreeSet<usize> {
    let ends = list.split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some((first.trim().parse::<usize>().ok()?, last.trim().parse::<usize>().ok()?))
    });
    ends.flat_map(|(first, last)| first..=last).collect()
}

/// What a rank has of its machine.
#[derive(Debug, PartialEq, Eq)]
struct Shares {
    /// Its number among the ranks there.
    local_rank: usize,
    /// The number of ranks there.
    local_size: usize,
    /// How many, itself included, use the same processors: a launcher may give each its own.
    sharing: usize,
}

impl Shares {
    fn of(rank: usize, places: &[Place]) -> Self {
        let own = &places[rank];
        let here = |place: &&Place| place.machine == own.machine;
        Self {
            local_rank: places[..rank].iter().filter(here).count(),
            local_size: places.iter().filter(here).count(),
            sharing: places.iter().filter(|place| place.shares_with(own)).count(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_shared_by_those_that_use_its_processors() {
        let places: Vec<Place> =
            ["a\n0-7", "a\n0-7", "b\n0-3", "b\n4-7", "b\n2-5", "c\n"].map(Place::from_text).into();
        let shares = |rank| {
            let Shares { local_rank, local_size, sharing } = Shares::of(rank, &places);
            (local_rank, local_size, sharing)
        };
        assert_eq!(
            [0, 1, 2, 3, 4, 5].map(shares),
            [(0, 2, 2), (1, 2, 2), (0, 3, 2), (1, 3, 2), (2, 3, 3), (0, 1, 1)]
        );
        let here = Place::of_this_process();
        assert_eq!(Place::from_text(&here.to_text()), here);
        assert!(here.shares_with(&here));
        assert_eq!(numbers("0-2,8"), [0, 1, 2, 8].into());
    }

    #[test]
    fn another_mpis_count_is_refused() {
        let join = |world_size| Join {
            rank: 0,
            world_size,
            local_rank: 0,
            over: Over::Mpi,
            timeout: std::time::Duration::from_secs(1),
            version: String::new(),
        };
        check_size(&join(0), 4).unwrap();
        check_size(&join(4), 4).unwrap();
        assert!(check_size(&join(4), 1).unwrap_err().0.contains("started 4 processes, and MPI counts 1"));
    }
}
