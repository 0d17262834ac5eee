//! Several processes as a user starts them: what launchers say, `headstart launch`, `headstart plan`, and how they end.
//!
//! Owns: that they find each other, who speaks, exit codes, and that none is left. Never: the numbers that they compute.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

mod support;

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use support::{PATIENCE, Place};

/// A small model in `trunk`, and in `long.txt` a text whose evaluation takes a while.
fn trunk(place: &Place) {
    place.books();
    place
        .run("pretrain --data books --tokenizer tok.json --preset micro --max_steps 1 --out trunk")
        .succeeds();
}

fn long_text(place: &Place) {
    let book = fs::read_to_string(place.path("books/train.txt")).unwrap();
    place.write("long.txt", book.repeat(4_000_000 / book.len()));
}

/// A port that is free, with a free one before it.
fn free_port() -> u16 {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    taken.local_addr().unwrap().port()
}

#[test]
fn what_contradicts_itself_is_named_before_anything_is_written() {
    let pretrain = "pretrain --data starter --max_steps 1 --out run";
    for (variables, words) in [
        (&[("RANK", "0")][..], &["RANK is set and WORLD_SIZE is not", "fix:"][..]),
        (&[("RANK", "2"), ("WORLD_SIZE", "2")], &["RANK 2 with WORLD_SIZE 2"]),
        (&[("PET_NODE_RANK", "x")], &["PET_NODE_RANK x"]),
    ] {
        let place = variables.iter().fold(Place::new(), |place, &(name, value)| place.with(name, value));
        place.run(pretrain).refuses(2, words);
        assert!(!place.path("run").exists());
    }
    let place = Place::new();
    place.run(&format!("{pretrain} --rank 1 --world_size 2")).refuses(2, &["--rendezvous HOST:PORT"]);
    place.run(&format!("{pretrain} --comm_timeout 0")).refuses(2, &["--comm_timeout 0"]);
    assert!(!place.path("run").exists());
}

#[cfg(not(feature = "mpi"))]
#[test]
fn started_by_mpi_without_mpi_it_stops_before_anything_is_written() {
    let place = Place::new().with("OMPI_COMM_WORLD_RANK", "1").with("OMPI_COMM_WORLD_SIZE", "2");
    let words = ["one of 2 processes", "without MPI", "--features mpi", "--rendezvous"];
    place.run("pretrain --data starter --max_steps 1 --out run").refuses(2, &words);
    assert!(!place.path("run").exists());
    place.run("launch --mpi --nproc 2 -- eval x --data y").refuses(2, &["--mpi", "--features mpi"]);
    // Alone there is nobody to find.
    let alone = Place::new().with("OMPI_COMM_WORLD_RANK", "0").with("OMPI_COMM_WORLD_SIZE", "1");
    alone.run("eval nowhere --data starter").refuses(1, &["nowhere"]);
}

#[test]
fn two_ranks_find_each_other_and_one_speaks() {
    let place = Place::new();
    trunk(&place);
    let port = free_port();
    let (before, job) = ((port - 1).to_string(), format!("{}", std::process::id()));
    let port = port.to_string();
    let call = "eval trunk --data books/valid.txt --json";
    let torchrun = [("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", &*before)];
    let pet = [("PET_NNODES", "2"), ("PET_MASTER_ADDR", "127.0.0.1"), ("PET_MASTER_PORT", &*port)];
    let slurm = [("SLURM_JOB_ID", &*job), ("SLURM_STEP_ID", "0"), ("SLURM_STEP_NUM_TASKS", "2")];
    let nodes = [("SLURM_STEP_NODELIST", "127.0.0.1"), ("SLURM_LOCALID", "0")];
    for (rank_is, variables) in [
        ("RANK", &torchrun[..]),
        ("PET_NODE_RANK", &pet),
        ("SLURM_PROCID", &[&slurm[..], &nodes].concat()),
        ("--rank", &[]),
    ] {
        let start = |rank: &str| {
            let mut command = match rank_is {
                "--rank" => place.command(&format!(
                    "{call} --rank {rank} --world_size 2 --rendezvous {}",
                    place.path("meet").display()
                )),
                _ => place.command(call),
            };
            command.envs(variables.iter().copied()).env(rank_is, rank);
            command.spawn().unwrap()
        };
        let ranks = [start("0"), start("1")].map(|child| child.wait_with_output().unwrap());
        let [first, second] = ranks.map(|output| {
            assert!(output.status.success(), "{rank_is}: {}", String::from_utf8_lossy(&output.stderr));
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
        });
        assert!(first.0.contains("\"nll\"") && first.1.contains("ranks: 2 over TCP, 2 of them"), "{first:?}");
        assert_eq!(second, (String::new(), String::new()), "{rank_is}");
    }
    assert!(!place.path("meet").exists());
}

#[test]
fn launch_says_once_what_is_wrong() {
    let place = Place::new();
    for (call, words) in [
        ("launch --nproc 3 -- pretrain --learning_rate 1", "--learning_rate"),
        ("launch --nproc 3 -- predict x", "only pretrain, distill, finetune and eval"),
        ("launch --nproc 3 -- eval x --data y --rank 0", "--rank"),
        ("launch --nproc 0 -- eval x --data y", "--nproc 0"),
    ] {
        let refused = place.run(call);
        refused.refuses(2, &[words]);
        assert_eq!(refused.stderr.matches("error:").count(), 1, "{}", refused.stderr);
    }
    assert!(place.run("launch --nproc 2 -- eval --help").succeeds().stdout.contains("Usage: headstart eval"));
}

#[test]
fn the_first_failure_of_a_launch_is_its_own() {
    let place = Place::new();
    let failed = place.run("launch --nproc 2 -- eval nowhere --data starter");
    failed.refuses(
        1,
        &["nowhere", "rank 1: error: ", "failed first\n  rank 0: exit code 1\n  rank 1: exit code 1"],
    );
    trunk(&place);
    let done = place.run("launch --nproc 2 -- eval trunk --data books/valid.txt --json");
    assert_eq!(done.succeeds().stdout.lines().count(), 1, "{}", done.stdout);
    let alone = place.run("launch --nproc 1 -- eval trunk --data books/valid.txt --json");
    assert_eq!(alone.succeeds().stdout.lines().count(), 1, "{}", alone.stdout);
}

/// The processes that a process has started, by their numbers.
#[cfg(target_os = "linux")]
fn children(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_child = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().nth(1).map(str::to_owned));
        after.flatten().is_some_and(|number| number == parent.to_string())
    };
    let mut children: Vec<u32> = numbers.filter(is_child).collect();
    children.sort_unstable();
    children
}

/// Whether a process still runs; one that has ended and was not waited for does not.
#[cfg(target_os = "linux")]
fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

#[cfg(target_os = "linux")]
fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let since = Instant::now();
    while !happened() {
        assert!(since.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A launch of two ranks that have found each other and are at work, and their numbers.
#[cfg(target_os = "linux")]
fn at_work(place: &Place, name: &str) -> (Child, Vec<u32>) {
    let said = place.path(name);
    let mut command = place.command("launch --nproc 2 -- eval trunk --data long.txt --threads 1");
    command.stdout(Stdio::null()).stderr(fs::File::create(&said).unwrap());
    let launch = command.spawn().unwrap();
    wait_until("the ranks did not come together", || {
        fs::read_to_string(&said).unwrap_or_default().contains("ranks: 2 over TCP")
    });
    let ranks = children(launch.id());
    assert_eq!(ranks.len(), 2, "{ranks:?}");
    (launch, ranks)
}

#[cfg(target_os = "linux")]
fn signal(name: &str, pid: u32) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
}

#[cfg(target_os = "linux")]
#[test]
fn no_rank_outlives_its_launch_or_another_rank() {
    let place = Place::new();
    trunk(&place);
    long_text(&place);
    // Asked to stop, all end as one process would.
    let (mut launch, ranks) = at_work(&place, "stopped.txt");
    signal("-TERM", launch.id());
    assert_eq!(
        launch.wait().unwrap().code(),
        Some(130),
        "{}",
        fs::read_to_string(place.path("stopped.txt")).unwrap()
    );
    assert!(!ranks.iter().any(|&pid| runs(pid)));
    // Killed, it cannot ask anybody.
    let (mut launch, ranks) = at_work(&place, "killed.txt");
    launch.kill().unwrap();
    launch.wait().unwrap();
    wait_until("a rank outlived the launch", || !ranks.iter().any(|&pid| runs(pid)));
    // One rank is killed.
    let (mut launch, ranks) = at_work(&place, "rank.txt");
    signal("-KILL", ranks[1]);
    assert_eq!(launch.wait().unwrap().code(), Some(128 + 9));
    let said = fs::read_to_string(place.path("rank.txt")).unwrap();
    assert!(said.contains("of 2 failed first") && said.contains("ended by signal 9"), "{said}");
    assert!(!ranks.iter().any(|&pid| runs(pid)));
}

#[test]
fn a_plan_starts_and_writes_nothing() {
    let place = Place::new();
    let call = "plan pretrain --preset small --vocab_size 1000 --train_batch_size 8 --max_steps 10";
    let plan = place.run(&format!("{call} --world_size 4 --gflops 100 --json")).succeeds().json();
    let parameters = plan["parameters"]["total"].as_u64().unwrap();
    assert_eq!(plan["parameters"]["embeddings"], (1_000 + 256) * 256);
    assert_eq!(plan["traffic_bytes"].as_u64().unwrap(), 6 * parameters);
    assert_eq!((&plan["steps"], &plan["tokens_per_step"]), (&10.into(), &(8 * 256).into()));
    assert!(plan["time"]["efficiency"].as_f64().is_some_and(|share| share > 0.0 && share < 1.0));
    let said = place.run(call);
    for words in ["parameters", "10 steps", "activations about", "--gflops"] {
        assert!(said.succeeds().stdout.contains(words), "{words}: {}", said.stdout);
    }
    assert!(fs::read_dir(place.path("")).unwrap().next().is_none());
    place.run("plan pretrain --world_size 0").refuses(2, &["world_size"]);
    place.run("plan finetune --model minilm-l6").refuses(1, &["a plan fetches nothing", "MiniLM-L6"]);
    trunk(&place);
    let plan = place.run("plan finetune --model trunk --method head --examples 100 --json").succeeds().json();
    assert!(
        plan["parameters"]["trainable"].as_u64().unwrap()
            < plan["parameters"]["total"].as_u64().unwrap() / 10
    );
    assert!(plan["steps"].as_u64().is_some_and(|steps| steps > 0));
}
