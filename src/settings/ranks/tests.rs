//! What launchers say, in tables.

use super::*;

/// What a process is told: variables as `NAME=value`, separated by blanks; `\n` stands for the end of a line.
fn with(variables: &str, flags: &RankArgs, mpi: Mpi) -> Result<Option<Join>, String> {
    let pairs: Vec<(String, String)> = variables
        .split_whitespace()
        .map(|pair| pair.split_once('=').unwrap())
        .map(|(name, value)| (name.to_owned(), value.replace("\\n", "\n")))
        .collect();
    let lookup = |name: &str| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    ranks(flags, &lookup, mpi).map_err(|usage| usage.0)
}

fn flags(rank: Option<usize>, world_size: Option<usize>, rendezvous: Option<&str>) -> RankArgs {
    RankArgs { rank, world_size, rendezvous: rendezvous.map(str::to_owned), comm_timeout: 60.0 }
}

fn none() -> RankArgs {
    flags(None, None, None)
}

/// `rank/size local address`, or `alone`.
fn short(join: Option<Join>) -> String {
    let Some(Join { rank, world_size, local_rank, over, .. }) = join else { return "alone".into() };
    let over = match over {
        Over::Mpi => "mpi".into(),
        Over::Tcp { rendezvous: Rendezvous::Address(address) } => address,
        Over::Tcp { rendezvous: Rendezvous::File(path) } => path.display().to_string(),
    };
    format!("{rank}/{world_size} {local_rank} {over}")
}

const TORCHRUN: &str = "RANK=3 WORLD_SIZE=4 LOCAL_RANK=1 MASTER_ADDR=h MASTER_PORT=29500";
const SRUN: &str = "SLURM_JOB_ID=12 SLURM_STEP_ID=0 SLURM_PROCID=5 SLURM_STEP_NUM_TASKS=8 SLURM_NTASKS=16 SLURM_LOCALID=1 \
                    SLURM_JOB_NODELIST=login,node[007-012] SLURM_STEP_NODELIST=node[009-012]";
const OPEN_MPI: &str =
    "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_RANK=1 PMIX_RANK=1";

#[test]
fn launchers_are_understood() {
    let sky = "SKYPILOT_NODE_RANK=1 SKYPILOT_NUM_NODES=2 SKYPILOT_NODE_IPS=10.0.0.4\\n10.0.0.5";
    let pet = "PET_NNODES=2 PET_NPROC_PER_NODE=auto PET_NODE_RANK=1 PET_MASTER_ADDR=job-0.job PET_MASTER_PORT=29500";
    for (variables, expected) in [
        (String::new(), "alone"),
        (TORCHRUN.into(), "3/4 1 h:29501"),
        ("RANK=1 WORLD_SIZE=2 MASTER_ADDR=fd00::1 MASTER_PORT=1".into(), "1/2 0 [fd00::1]:2"),
        ("RANK=0 WORLD_SIZE=1".into(), "alone"),
        ("WORLD_SIZE=1".into(), "alone"),
        (pet.into(), "1/2 0 job-0.job:29500"),
        (pet.replace("auto", "1"), "1/2 0 job-0.job:29500"),
        ("PET_NNODES=1 PET_NODE_RANK=0 PET_NPROC_PER_NODE=1".into(), "alone"),
        (OPEN_MPI.into(), "1/2 1 mpi"),
        ("MV2_COMM_WORLD_RANK=1 MV2_COMM_WORLD_SIZE=2 MV2_COMM_WORLD_LOCAL_RANK=0".into(), "1/2 0 mpi"),
        ("PMI_RANK=0 PMI_SIZE=2".into(), "0/2 0 mpi"),
        ("PMI_RANK=0 PMI_SIZE=1".into(), "alone"),
        ("FLUX_TASK_RANK=1 FLUX_JOB_SIZE=2 FLUX_TASK_LOCAL_ID=1".into(), "1/2 1 mpi"),
        ("PMIX_RANK=1".into(), "1/0 0 mpi"),
        (SRUN.into(), "5/8 1 node009:20084"),
        (SRUN.replace("SLURM_STEP_NUM_TASKS=8", "A=1"), "5/16 1 node009:20084"),
        (SRUN.replace("SLURM_STEP_NODELIST", "B"), "5/8 1 login:20084"),
        (sky.into(), "1/2 0 10.0.0.4:29501"),
    ] {
        assert_eq!(with(&variables, &none(), Mpi::BuiltIn).map(short), Ok(expected.into()), "{variables}");
    }
}

#[test]
fn the_first_of_several_launchers_counts() {
    let sky = "SKYPILOT_NODE_RANK=1 SKYPILOT_NUM_NODES=2 SKYPILOT_NODE_IPS=a";
    for (variables, mpi, expected) in [
        (format!("{TORCHRUN} {SRUN} {sky}"), Mpi::Absent, "3/4 1 h:29501"),
        (format!("{OPEN_MPI} {SRUN}"), Mpi::BuiltIn, "1/2 1 mpi"),
        (format!("{SRUN} {sky}"), Mpi::Absent, "5/8 1 node009:20084"),
        // What `srun --mpi=pmix` says is enough to do without MPI.
        (format!("PMIX_RANK=5 {SRUN}"), Mpi::Absent, "5/8 1 node009:20084"),
        (format!("PMI_RANK=5 PMI_SIZE=8 {SRUN}"), Mpi::Absent, "5/8 1 node009:20084"),
        (format!("PMIX_RANK=5 {SRUN}"), Mpi::BuiltIn, "5/8 0 mpi"),
        // Batch scripts export it for programs that make their rank of SLURM_PROCID.
        (format!("WORLD_SIZE=8 MASTER_ADDR=a MASTER_PORT=1 {SRUN}"), Mpi::Absent, "5/8 1 node009:20084"),
    ] {
        assert_eq!(with(&variables, &none(), mpi).map(short), Ok(expected.into()), "{variables}");
    }
}

#[test]
fn what_is_no_step_of_slurm_is_alone() {
    // A batch script, and a shell of `salloc` that passes on what belongs to the job.
    let batch = "SLURM_JOB_ID=7 SLURM_NTASKS=4 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_GTIDS=0 SLURM_JOB_NODELIST=a[1-4]";
    for variables in [
        batch.to_owned(),
        format!("{batch} SLURM_STEP_ID=4294967290 SLURM_STEP_NUM_TASKS=4"),
        format!("{batch} SLURM_STEP_ID=4294967291"),
    ] {
        assert_eq!(with(&variables, &none(), Mpi::Absent).map(short), Ok("alone".into()), "{variables}");
    }
}

#[test]
fn flags_come_first() {
    let meet = Some("node1:5000");
    for (variables, flags, expected) in [
        ("", flags(Some(1), Some(2), meet), "1/2 1 node1:5000"),
        ("", flags(Some(1), Some(2), Some("/shared/meet")), "1/2 1 /shared/meet"),
        ("LOCAL_RANK=0", flags(Some(1), Some(2), meet), "1/2 0 node1:5000"),
        ("", flags(Some(0), Some(1), None), "alone"),
        (TORCHRUN, flags(None, Some(1), None), "alone"),
        (TORCHRUN, flags(Some(0), Some(2), meet), "0/2 1 node1:5000"),
        // Only where they meet is another than the launcher says.
        (TORCHRUN, flags(None, None, meet), "3/4 1 node1:5000"),
        ("RANK=0 WORLD_SIZE=2", flags(None, None, meet), "0/2 0 node1:5000"),
        (OPEN_MPI, flags(None, None, meet), "1/2 1 node1:5000"),
        (SRUN, flags(None, None, Some("./meet")), "5/8 1 ./meet"),
    ] {
        for mpi in [Mpi::Absent, Mpi::BuiltIn] {
            assert_eq!(with(variables, &flags, mpi).map(short), Ok(expected.into()), "{variables} {flags:?}");
        }
    }
}

#[test]
fn contradictions_are_named() {
    let set = |variables: &str, change: (&str, &str)| variables.replace(change.0, change.1);
    for (variables, flags, words) in [
        (set(TORCHRUN, ("RANK=3", "RANK=4")), none(), &["RANK 4 with WORLD_SIZE 4", "the last is 3"][..]),
        (set(TORCHRUN, ("RANK=3", "RANK=x")), none(), &["RANK x", "whole number"]),
        (set(TORCHRUN, ("=4", "=-4")), none(), &["WORLD_SIZE -4"]),
        (set(TORCHRUN, ("=4", "=0")), none(), &["WORLD_SIZE 0"]),
        (set(TORCHRUN, ("WORLD_SIZE", "A")), none(), &["RANK is set and WORLD_SIZE is not"]),
        (set(TORCHRUN, ("MASTER_ADDR", "A")), none(), &["MASTER_ADDR is not"]),
        (set(TORCHRUN, ("29500", "65535")), none(), &["MASTER_PORT 65535"]),
        ("WORLD_SIZE=2".into(), none(), &["WORLD_SIZE is set and RANK is not"]),
        ("PET_NODE_RANK=0".into(), none(), &["PET_NNODES is not"]),
        (
            "PET_NODE_RANK=0 PET_NNODES=2 PET_NPROC_PER_NODE=8".into(),
            none(),
            &["PET_NPROC_PER_NODE 8", "torchrun --no-python"],
        ),
        ("PET_NODE_RANK=0 PET_NNODES=1:4".into(), none(), &["PET_NNODES 1:4"]),
        ("OMPI_COMM_WORLD_RANK=0".into(), none(), &["OMPI_COMM_WORLD_SIZE is not"]),
        (OPEN_MPI.into(), none(), &["one of 2 processes", "--features mpi", "--rendezvous HOST:PORT"]),
        ("PMIX_RANK=0".into(), none(), &["one of several processes"]),
        ("PMIX_RANK=0".into(), self::flags(None, None, Some("h:1")), &["--rendezvous without --world_size"]),
        (set(SRUN, ("SLURM_PROCID", "A")), none(), &["SLURM_PROCID is not"]),
        (set(SRUN, ("node[009-012]", "[")), none(), &["SLURM_STEP_NODELIST ["]),
        ("SKYPILOT_NODE_RANK=0 SKYPILOT_NUM_NODES=2".into(), none(), &["SKYPILOT_NODE_IPS is not"]),
        (String::new(), self::flags(Some(0), None, None), &["--rank without --world_size"]),
        (String::new(), self::flags(None, Some(2), None), &["--world_size without --rank"]),
        (
            String::new(),
            self::flags(Some(0), Some(2), None),
            &["--rank 0 --world_size 2", "--rendezvous HOST:PORT"],
        ),
        (String::new(), self::flags(Some(2), Some(2), Some("h:1")), &["--rank 2 with --world_size 2"]),
        (String::new(), self::flags(None, None, Some("h:1")), &["--rendezvous: which"]),
        (String::new(), self::flags(Some(0), Some(2), Some("node1")), &["--rendezvous node1"]),
        (String::new(), self::flags(Some(0), Some(2), Some(":5")), &["--rendezvous :5"]),
        (String::new(), self::flags(Some(0), Some(2), Some("h:0")), &["--rendezvous h:0"]),
    ] {
        let error = with(&variables, &flags, Mpi::Absent).map(short).unwrap_err();
        for word in words.iter().chain(&["\n  fix: "]) {
            assert!(error.contains(word), "{variables} {flags:?}: {word} is not in {error}");
        }
    }
    for seconds in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let flags = RankArgs { comm_timeout: seconds, ..none() };
        assert!(with("", &flags, Mpi::Absent).unwrap_err().contains("--comm_timeout"));
    }
}

#[test]
fn the_first_node_of_a_list_is_found() {
    for (list, first) in [
        ("node1", Some("node1")),
        ("node1,node2", Some("node1")),
        ("node[001-004]", Some("node001")),
        ("node[3,7-9],login1", Some("node3")),
        ("rack[2-3]-node[01-16].cluster", Some("rack2-node01.cluster")),
        ("", None),
        ("node[", None),
        ("node[]", None),
        ("node[a-b]", None),
        ("a b", None),
    ] {
        assert_eq!(first_node(list).as_deref(), first, "{list}");
    }
}
