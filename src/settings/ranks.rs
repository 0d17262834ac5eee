//! Which of several processes this is: from flags, and from the variables of the launcher that started it.
//!
//! Owns: what each launcher's variables mean, and their order. Never: joins the others (src/ranks.rs), or reads the
//! environment other than through the function that it is given.
//!
//! What each launcher sets is told in docs/distributed.md, with how to start under it.

use std::path::PathBuf;
use std::time::Duration;

use headstart::collective::{Join, Over, Rendezvous};

use super::Usage;
use crate::args::{RankArgs, VERSION};

/// The port beside SkyPilot's, which says no port: the one behind torchrun's own.
const SKYPILOT_PORT: u16 = 29_501;
/// Ports of Slurm's jobs: below those that systems give to connections.
const SLURM_PORTS: (u64, u64) = (20_000, 12_000);
/// Slurm numbers from here the steps that are no `srun` of the user's: batch scripts, shells of `salloc`.
const SLURM_SPECIAL_STEPS: u64 = 0xffff_fff0;

/// Whether this program can use MPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mpi {
    /// It was built with the feature `mpi`.
    BuiltIn,
    /// It was not.
    Absent,
}

impl Mpi {
    /// This program's.
    pub const HERE: Self = if cfg!(feature = "mpi") { Self::BuiltIn } else { Self::Absent };
}

/// The variables of the environment; what is set to nothing is not set.
pub type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What a launcher says.
#[derive(Debug)]
struct Told {
    rank: Number,
    /// `None`: only MPI knows.
    size: Option<Number>,
    local_rank: usize,
    /// How they meet where no flag says it, or why that is not known.
    over: Result<Over, Usage>,
}

/// A number, and what it was called.
#[derive(Clone, Debug)]
struct Number {
    name: &'static str,
    value: usize,
}

/// How this process joins others; `None` where it is alone.
///
/// # Errors
/// What contradicts itself, is no number, or is there by half, by name.
pub fn ranks(flags: &RankArgs, variables: Variables<'_>, mpi: Mpi) -> Result<Option<Join>, Usage> {
    let RankArgs { rank, world_size, rendezvous, comm_timeout } = flags;
    let timeout = timeout(*comm_timeout)?;
    let rendezvous = rendezvous.as_deref().map(parse_rendezvous).transpose()?;
    let told = match (*rank, *world_size) {
        (Some(rank), Some(size)) => Some(Told {
            rank: Number { name: "--rank", value: rank },
            size: Some(Number { name: "--world_size", value: size }),
            local_rank: number(variables, "LOCAL_RANK")?.map_or(rank, |local| local.value),
            over: Err(Usage(format!(
                "--rank {rank} --world_size {size}: where the processes find each other is not said\n  \
                 fix: add --rendezvous HOST:PORT, with the host of rank 0 and a free port of it, the same on all"
            ))),
        }),
        (Some(_), None) => return Err(by_half("--rank", "--world_size")),
        (None, Some(1)) => return Ok(None),
        (None, Some(_)) => return Err(by_half("--world_size", "--rank")),
        (None, None) => launched(variables, mpi)?,
    };
    let Some(Told { rank, size, local_rank, over }) = told else {
        return match rendezvous {
            None => Ok(None),
            Some(_) => Err(Usage(
                "--rendezvous: which of how many processes this is, neither flags nor a launcher say\n  \
                 fix: add --rank and --world_size, or start with a launcher (docs/distributed.md lists them)"
                    .into(),
            )),
        };
    };
    match &size {
        Some(Number { name, value: 0 }) => {
            return Err(Usage(format!(
                "{name} 0: there is at least one process\n  fix: {name} 1 is a process alone"
            )));
        }
        Some(size) if rank.value >= size.value => {
            let (last, Number { name, value }) = (size.value - 1, &rank);
            let size = format!("{} {}", size.name, size.value);
            return Err(Usage(format!(
                "{name} {value} with {size}: ranks are counted from 0, so that the last is {last}\n  \
                 fix: give each process a rank of its own from 0 to {last}"
            )));
        }
        Some(Number { value: 1, .. }) => return Ok(None),
        _ => {}
    }
    let over = match (rendezvous, size.is_some()) {
        (Some(rendezvous), true) => Over::Tcp { rendezvous },
        (Some(_), false) => return Err(by_half("--rendezvous", "--world_size")),
        (None, _) => over?,
    };
    // MPI says the number of processes itself where no variable does.
    let world_size = size.map_or(0, |size| size.value);
    Ok(Some(Join { rank: rank.value, world_size, local_rank, over, timeout, version: VERSION.into() }))
}

/// What the first launcher says whose variables are there.
fn launched(variables: Variables<'_>, mpi: Mpi) -> Result<Option<Told>, Usage> {
    if let Some(told) = torchrun(variables)? {
        return Ok(Some(told));
    }
    if let Some(told) = kubeflow(variables)? {
        return Ok(Some(told));
    }
    let slurm = slurm(variables)?;
    if let Some(told) = mpirun(variables, mpi, slurm.as_ref())? {
        return Ok(Some(told));
    }
    if slurm.is_some() {
        return Ok(slurm);
    }
    if let Some(told) = skypilot(variables)? {
        return Ok(Some(told));
    }
    // Scripts export it beside what `srun` says; by itself it is half of torchrun's.
    match number(variables, "WORLD_SIZE")? {
        Some(size) if size.value > 1 => Err(by_half("WORLD_SIZE", "RANK")),
        _ => Ok(None),
    }
}

/// RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT: also Ray's, and those of Kubeflow's first operator.
fn torchrun(variables: Variables<'_>) -> Result<Option<Told>, Usage> {
    let Some(rank) = number(variables, "RANK")? else { return Ok(None) };
    let size = number(variables, "WORLD_SIZE")?.ok_or_else(|| by_half("RANK", "WORLD_SIZE"))?;
    // The launcher itself may serve MASTER_PORT.
    let over = address(variables, "RANK", ["MASTER_ADDR", "MASTER_PORT"], 1);
    Ok(Some(Told { local_rank: local_rank(variables, "LOCAL_RANK")?, rank, size: Some(size), over }))
}

/// PET_*, which are meant for torchrun: nodes are counted, not processes.
fn kubeflow(variables: Variables<'_>) -> Result<Option<Told>, Usage> {
    let Some(rank) = number(variables, "PET_NODE_RANK")? else { return Ok(None) };
    let size = number(variables, "PET_NNODES")?.ok_or_else(|| by_half("PET_NODE_RANK", "PET_NNODES"))?;
    let processes = variables("PET_NPROC_PER_NODE").unwrap_or_else(|| "1".into());
    if !["1", "auto", "cpu"].contains(&processes.as_str()) {
        return Err(Usage(format!(
            "PET_NPROC_PER_NODE {processes}: several processes a node are asked for, and nothing has started them\n  \
             fix: let `torchrun --no-python headstart ...` be the command, or set numProcPerNode to 1"
        )));
    }
    let over = address(variables, "PET_NODE_RANK", ["PET_MASTER_ADDR", "PET_MASTER_PORT"], 0);
    Ok(Some(Told { rank, size: Some(size), local_rank: 0, over }))
}

/// Names of rank, size and rank on the machine: Open MPI's, MVAPICH's, PMI's (MPICH, Intel MPI, Cray), Flux's, and PMIx's,
/// which does not say the size.
const MPI_NAMES: [(&str, &str, &str); 5] = [
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    ("FLUX_TASK_RANK", "FLUX_JOB_SIZE", "FLUX_TASK_LOCAL_ID"),
    ("PMIX_RANK", "", "PMIX_LOCAL_RANK"),
];

/// An MPI's variables. `srun` sets some of them, too, and says enough to do without MPI.
fn mpirun(variables: Variables<'_>, mpi: Mpi, slurm: Option<&Told>) -> Result<Option<Told>, Usage> {
    for (rank, size, local) in MPI_NAMES {
        let Some(number_of_it) = number(variables, rank)? else { continue };
        let by_srun = slurm.is_some() && !rank.starts_with("OMPI") && !rank.starts_with("MV2");
        if by_srun && mpi == Mpi::Absent {
            return Ok(None);
        }
        let said = match size {
            // The step's, so that a singleton of MPI is found out.
            "" => slurm.and_then(|slurm| slurm.size.clone()),
            size => Some(number(variables, size)?.ok_or_else(|| by_half(rank, size))?),
        };
        let over = match mpi {
            Mpi::BuiltIn => Ok(Over::Mpi),
            Mpi::Absent => Err(without_mpi(rank, said.as_ref())),
        };
        let local_rank = local_rank(variables, local)?;
        return Ok(Some(Told { rank: number_of_it, size: said, local_rank, over }));
    }
    Ok(None)
}

fn without_mpi(name: &str, size: Option<&Number>) -> Usage {
    let many = size.map_or_else(|| "several".into(), |size| size.value.to_string());
    Usage(format!(
        "MPI started this as one of {many} processes ({name} is set), and this program was built without MPI, so that each \
         would make the same run by itself\n  \
         fix: build it with `--features mpi`, or add --rendezvous HOST:PORT (a free port of rank 0's host) to go without \
         MPI; `--world_size 1` is a process alone"
    ))
}

/// SLURM_*, where `srun` started this process. Batch scripts and shells of `salloc` have most of its variables, too, but
/// are no task among others.
fn slurm(variables: Variables<'_>) -> Result<Option<Told>, Usage> {
    let Some(step) = number(variables, "SLURM_STEP_ID")? else { return Ok(None) };
    if step.value as u64 >= SLURM_SPECIAL_STEPS {
        return Ok(None);
    }
    let size = match number(variables, "SLURM_STEP_NUM_TASKS")? {
        Some(size) => size,
        None => number(variables, "SLURM_NTASKS")?.ok_or_else(|| by_half("SLURM_STEP_ID", "SLURM_NTASKS"))?,
    };
    let rank = number(variables, "SLURM_PROCID")?.ok_or_else(|| by_half("SLURM_STEP_ID", "SLURM_PROCID"))?;
    let over = slurm_address(variables, step.value as u64);
    Ok(Some(Told { local_rank: local_rank(variables, "SLURM_LOCALID")?, rank, size: Some(size), over }))
}

/// The first node of the step, which has task 0, and a port that another job hardly has.
fn slurm_address(variables: Variables<'_>, step: u64) -> Result<Over, Usage> {
    let names = ["SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"];
    let Some((name, nodes)) = names.into_iter().find_map(|name| Some((name, variables(name)?))) else {
        return Err(by_half("SLURM_STEP_ID", "SLURM_STEP_NODELIST"));
    };
    let Some(host) = first_node(&nodes) else {
        return Err(Usage(format!(
            "{name} {nodes}: this is no list of nodes\n  fix: add --rendezvous HOST:PORT, with the host of rank 0"
        )));
    };
    let job = number(variables, "SLURM_JOB_ID")?.ok_or_else(|| by_half("SLURM_STEP_ID", "SLURM_JOB_ID"))?;
    let (first, count) = SLURM_PORTS;
    let port = first + (job.value as u64).wrapping_mul(7).wrapping_add(step) % count;
    Ok(Over::Tcp { rendezvous: Rendezvous::Address(format!("{host}:{port}")) })
}

/// The first name of a list such as `node[007-012,020],login1`.
fn first_node(nodes: &str) -> Option<String> {
    let mut host = String::new();
    let mut rest = nodes.trim();
    while let Some(next) = rest.chars().next() {
        match next {
            ',' => break,
            '[' => {
                let (inside, after) = rest[1..].split_once(']')?;
                let end = inside.find([',', '-']).unwrap_or(inside.len());
                if end == 0 || !inside[..end].bytes().all(|byte| byte.is_ascii_digit()) {
                    return None;
                }
                host.push_str(&inside[..end]);
                rest = after;
            }
            _ => {
                host.push(next);
                rest = &rest[next.len_utf8()..];
            }
        }
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (!host.is_empty() && host.chars().all(plain)).then_some(host)
}

/// SKYPILOT_*: one process a node.
fn skypilot(variables: Variables<'_>) -> Result<Option<Told>, Usage> {
    let (rank, size) = ("SKYPILOT_NODE_RANK", "SKYPILOT_NUM_NODES");
    let Some(rank) = number(variables, rank)? else { return Ok(None) };
    let size = number(variables, size)?.ok_or_else(|| by_half(rank.name, size))?;
    let over = match variables("SKYPILOT_NODE_IPS").as_deref().and_then(|ips| ips.split_whitespace().next()) {
        Some(ip) => Ok(Over::Tcp { rendezvous: Rendezvous::Address(with_port(ip, SKYPILOT_PORT)) }),
        None => Err(by_half(rank.name, "SKYPILOT_NODE_IPS")),
    };
    Ok(Some(Told { rank, size: Some(size), local_rank: 0, over }))
}

/// Where a launcher says that rank 0 is; the port is so many behind its own.
fn address(
    variables: Variables<'_>,
    because: &str,
    [host, port]: [&'static str; 2],
    behind: u16,
) -> Result<Over, Usage> {
    let host = variables(host).ok_or_else(|| by_half(because, host))?;
    let number = number(variables, port)?.ok_or_else(|| by_half(because, port))?;
    let ours = u16::try_from(number.value).ok().filter(|&n| n > 0).and_then(|n| n.checked_add(behind));
    let Some(ours) = ours else {
        return Err(Usage(format!(
            "{port} {}: this is no port, or none follows it\n  fix: a number from 1 to 65534, or add --rendezvous HOST:PORT",
            number.value
        )));
    };
    Ok(Over::Tcp { rendezvous: Rendezvous::Address(with_port(&host, ours)) })
}

fn with_port(host: &str, port: u16) -> String {
    let bare_v6 = host.contains(':') && !host.starts_with('[');
    if bare_v6 { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn local_rank(variables: Variables<'_>, name: &'static str) -> Result<usize, Usage> {
    Ok(number(variables, name)?.map_or(0, |number| number.value))
}

/// A variable that holds a number.
fn number(variables: Variables<'_>, name: &'static str) -> Result<Option<Number>, Usage> {
    let Some(text) = variables(name) else { return Ok(None) };
    match text.trim().parse() {
        Ok(value) => Ok(Some(Number { name, value })),
        Err(_) => Err(Usage(format!(
            "{name} {text}: a whole number, 0 or more, says which of several processes this is\n  \
             fix: start with the launcher that sets it, or unset it; `--world_size 1` is a process alone"
        ))),
    }
}

fn by_half(there: &str, missing: &str) -> Usage {
    if there.starts_with("--") {
        return Usage(format!(
            "{there} without {missing}\n  fix: give both, or neither: a launcher's variables say it, too"
        ));
    }
    Usage(format!(
        "{there} is set and {missing} is not: one of several processes needs both\n  \
         fix: start with the launcher that sets them, or unset {there}; `--world_size 1` is a process alone"
    ))
}

/// HOST:PORT, or a path.
fn parse_rendezvous(text: &str) -> Result<Rendezvous, Usage> {
    if text.contains(['/', '\\']) {
        return Ok(Rendezvous::File(PathBuf::from(text)));
    }
    let port =
        text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
    match port {
        Some(Ok(port)) if port > 0 => Ok(Rendezvous::Address(text.to_owned())),
        _ => Err(Usage(format!(
            "--rendezvous {text}: neither an address nor a path\n  \
             fix: HOST:PORT, as in node1:29501, or a file on a disk that all share, with a slash: ./meet"
        ))),
    }
}

fn timeout(seconds: f64) -> Result<Duration, Usage> {
    if (1.0..=86_400.0).contains(&seconds) {
        return Ok(Duration::from_secs_f64(seconds));
    }
    Err(Usage(format!("--comm_timeout {seconds}: seconds, from 1 to 86400\n  fix: 60 is the usual")))
}

#[cfg(test)]
mod tests;
