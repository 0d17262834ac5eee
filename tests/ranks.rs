//! Several processes: whatever their number, a run has the weights, the metrics and the logs of one process that adds its
//! gradients in as many groups; also where it was stopped or killed, and continued by another number of them.
//!
//! Owns: that promise, and how processes that cannot work together part. Never: what training computes (workflow.rs), how
//! launchers are understood (src/settings/ranks.rs).

#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

mod support;

use std::net::TcpListener;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use support::{Done, Metrics, ONE_STEP, PATIENCE, Place, trunks};

/// More parameters than fit into one rank's share, dropout on, validation that does not divide evenly.
const PRETRAIN: &str = "pretrain --data {}/books --tokenizer {}/tok.json --preset micro --embed_dim 128 --hidden_dim 512 \
                        --num_heads 4 --num_layers 3 --max_steps 8 --lr 1e-3 --train_batch_size 24 --dropout 0.1 \
                        --n_warmup 2 --eval_every 5 --save_every 3 --threads 1 --reduction_groups 4";
const FINETUNE: &str = "finetune --data {}/topics --n_epochs 1 --max_steps 8 --lr 3e-3 --n_warmup 2 --train_batch_size 16 \
                        --dropout 0.1 --eval_every 5 --save_every 3 --threads 1 --reduction_groups 4";

const DISTILL: &str = "distill --data {}/books --inputs lines --preset micro --embed_dim 64 --hidden_dim 256 --num_heads 2 \
                       --lm_loss 0.3 --layers 1:1,2:2 --relation_loss 1 --relation_heads 4 --max_steps 8 --lr 1e-3 --train_batch_size 24 --dropout 0.1 \
                       --n_warmup 2 --eval_every 5 --save_every 3 --threads 1 --reduction_groups 4";

const OWN_PIECES: &str = "distill --data {}/books --inputs lines --preset micro --token_loss 0 --max_steps 8 --lr 1e-3 \
                          --train_batch_size 24 --dropout 0.1 --n_warmup 2 --eval_every 5 --save_every 3 --threads 1 \
                          --reduction_groups 4";

fn filled(call: &str) -> String {
    call.replace("{}", trunks("ranks").path("").to_str().unwrap().trim_end_matches('/'))
}

/// A port that nobody has at the moment.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The call as `world_size` processes, each started by itself.
fn start(place: &Place, call: &str, world_size: usize) -> Vec<Child> {
    let port = free_port();
    let of = |rank| {
        let ranks = format!("--rank {rank} --world_size {world_size} --rendezvous 127.0.0.1:{port}");
        place.command(&format!("{call} {ranks} --comm_timeout 20")).spawn().unwrap()
    };
    (0..world_size).map(of).collect()
}

/// Runs the call as so many processes to its end.
fn run(place: &Place, call: &str, world_size: usize) -> Vec<Done> {
    if world_size == 1 {
        return vec![place.run(call)];
    }
    let running = start(place, call, world_size);
    running.into_iter().map(|child| Done::new(call, child.wait_with_output().unwrap())).collect()
}

/// Waits for the ends of all.
fn ends(running: Vec<Child>) -> Vec<Done> {
    running.into_iter().map(|child| Done::new("", child.wait_with_output().unwrap())).collect()
}

/// Waits until something is there.
fn wait_for(what: &str, there: impl Fn() -> bool) {
    let since = Instant::now();
    while !there() {
        assert!(since.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([name, &child.id().to_string()]).status();
    assert!(status.unwrap().success());
}

/// What a run left that must not depend on the processes it took.
#[derive(PartialEq)]
struct Left {
    weights: Vec<u8>,
    best: serde_json::Value,
    metrics: Vec<Metrics>,
    scalars: Vec<(u64, String, u32)>,
}

fn left(place: &Place, run: &str) -> Left {
    Left {
        weights: place.bytes(&format!("{run}/final/model.safetensors")),
        best: place.json_file(&format!("{run}/checkpoints/best.json")),
        metrics: place.metrics(run),
        scalars: place.scalars(run),
    }
}

#[test]
fn the_bits_do_not_depend_on_how_many_processes_there_are() {
    let trunk = filled("--model {}/lm");
    let works = [
        ("lm", filled(PRETRAIN)),
        ("mlm bf16", filled(&format!("{PRETRAIN} --objective mlm --precision bf16"))),
        ("a student", filled(&format!("{DISTILL} --teacher {{}}/lm --precision bf16"))),
        (
            "a student's own pieces",
            filled(&format!("{OWN_PIECES} --teacher {{}}/lm --tokenizer own.json --precision bf16")),
        ),
        ("full", filled(&format!("{FINETUNE} {trunk} --lm_loss_coef 0.5"))),
        ("updates", filled(&format!("{FINETUNE} {trunk} --method lora --lora_dropout 0.1"))),
        ("scales", filled(&format!("{FINETUNE} {trunk} --method ia3"))),
        (
            "adapters bf16",
            filled(&format!(
                "{FINETUNE} {trunk} --method adapters --adapters_kind parallel --precision bf16"
            )),
        ),
    ];
    for (name, work) in works {
        let place = Place::new();
        if work.contains("own.json") {
            place
                .run(&filled("tokenizer train {}/books/train.txt --vocab_size 90 --out own.json"))
                .succeeds();
        }
        for world_size in [1, 2, 4] {
            let call = format!("{work} --out w{world_size}");
            for (rank, done) in run(&place, &call, world_size).into_iter().enumerate() {
                done.succeeds();
                // Only rank 0 speaks.
                assert!(
                    rank == 0 || done.stdout.is_empty() && done.stderr.is_empty(),
                    "{name}: rank {rank} of {world_size}"
                );
            }
            let same = left(&place, "w1") == left(&place, &format!("w{world_size}"));
            assert!(same, "{name}: {world_size} processes");
        }
    }
}

#[test]
fn a_run_that_was_stopped_or_killed_goes_on_with_any_number_of_processes() {
    let place = Place::new();
    let work = filled(PRETRAIN).replace("--max_steps 8", "--max_steps 60");
    run(&place, &format!("{work} --out whole"), 1)[0].succeeds();
    // Stopped on any rank, all of them stop and say so.
    let running = start(&place, &format!("{work} --out run"), 4);
    wait_for("a checkpoint", || place.path("run/checkpoints/step-00000003").is_dir());
    signal(&running[2], "-TERM");
    for done in ends(running) {
        assert_eq!(done.code, Some(130), "{}", done.stderr);
    }
    assert!(!place.path("run/final").exists());
    // One is killed: the others say which.
    let running = start(&place, "pretrain --resume run", 2);
    let reached = place.names("run/checkpoints").len();
    wait_for("another checkpoint", || place.names("run/checkpoints").len() > reached);
    signal(&running[1], "-KILL");
    let done = ends(running);
    assert_eq!((done[0].code, done[1].code), (Some(1), None));
    assert!(done[0].stderr.contains("rank 1 "), "{}", done[0].stderr);
    run(&place, "pretrain --resume run --threads 2", 1)[0].succeeds();
    assert!(left(&place, "whole") == left(&place, "run"));
}

#[test]
fn processes_that_cannot_keep_the_rounding_say_so_or_are_allowed_to() {
    let place = Place::new();
    let work = filled(PRETRAIN).replace(" --reduction_groups 4", "");
    for done in run(&place, &format!("{work} --out three"), 3) {
        done.refuses(2, &["world_size", "3 ranks", "start 2 ranks, or 4"]);
    }
    assert!(!place.path("three").exists());
    place.run(&format!("{work} --reduction_groups 6 --out x")).refuses(2, &["reduction_groups", "use 8"]);
    place.run(&format!("{work} --out one {ONE_STEP}")).succeeds();
    for done in run(&place, "pretrain --resume one", 2) {
        done.refuses(2, &["2 ranks cannot share the 1 reduction_groups", "--allow_other_groups"]);
    }
    let done = run(&place, "pretrain --resume one --max_time 600 --allow_other_groups", 2);
    done[0].says(&["in 2 groups from here on, not in 1"]);
    assert!(place.path("one/final").is_dir());
}

#[test]
fn processes_with_other_settings_or_data_part_before_anything_is_trained() {
    let place = Place::new();
    place.write(
        "a/train.csv",
        "text,label\none apple,fruit\ntwo cows,animal\nthree pears,fruit\na horse,animal\n",
    );
    place.write(
        "b/train.csv",
        "text,label\none apple,fruit\ntwo cows,animal\nthree plums,fruit\na horse,animal\n",
    );
    let call = filled("finetune --model {}/lm --n_epochs 1 --threads 1 --out run");
    let port = free_port();
    let of = |rank: usize, rest: &str| {
        let ranks = format!("--rank {rank} --world_size 2 --rendezvous 127.0.0.1:{port}");
        place.command(&format!("{call} {rest} {ranks}")).spawn().unwrap()
    };
    let differing = [
        ("--data a", "--data b", "train examples"),
        ("--data a --seed 1", "--data a --seed 2", "train.seed"),
    ];
    for (first, second, key) in differing {
        for done in ends(vec![of(0, first), of(1, second)]) {
            assert_eq!(done.code, Some(2), "{}", done.stderr);
            assert!(done.stderr.contains(&format!("`{key}`")), "{}", done.stderr);
            assert!(
                done.stderr.contains("rank 0 has") && done.stderr.contains("rank 1 has"),
                "{}",
                done.stderr
            );
        }
        assert!(!place.path("run").exists());
    }
    // What is missing on one is said on the other.
    let done = ends(vec![of(0, "--data a"), of(1, "--data c")]);
    assert!(done.iter().all(|done| done.code != Some(0)));
    assert!(done[0].stderr.contains("rank 1 failed") && done[0].stderr.contains('c'), "{}", done[0].stderr);
}

#[test]
fn an_evaluation_is_the_same_on_any_number_of_processes() {
    let place = Place::new();
    place.run(&filled("finetune --model {}/lm --data {}/topics --max_steps 5 --out clf")).succeeds();
    for call in [
        filled("eval {}/lm --data {}/books --split valid --json --threads 1"),
        filled("eval clf --data {}/topics --json --threads 1"),
    ] {
        let alone = place.run(&call).json();
        for world_size in [2, 3] {
            let done = run(&place, &call, world_size);
            assert_eq!(done[0].json(), alone, "{world_size} processes");
        }
    }
}
