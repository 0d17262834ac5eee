//! Interrupted runs: however a run is stopped or killed, continued to its end it has the weights, the metrics and
//! the logs of the run that nobody touched.
//!
//! Owns: that promise. Never: what training computes (workflow.rs), damaged files (bad_input.rs).

#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use support::{Draws, Metrics, ONE_STEP, Place, Running, lines, trunks};

/// A pretraining and a fine-tuning long enough to be met in the middle; dropout is on, checkpoints come between
/// evaluations, and not every step has one.
const PRETRAIN: &str = "pretrain --data {}/books --tokenizer {}/tok.json --preset micro --arch naacl2019 --max_steps 60 --lr 1e-2 \
                        --train_batch_size 8 --max_norm 0.25 --embed_dim 64 --hidden_dim 256 --num_layers 3 --n_warmup 10 --eval_every 25 --save_every 7";
const FINETUNE: &str = "finetune --model {}/lm --data {}/topics --lm_loss_coef 0.5 --adapters_dim 8 --n_epochs 2 \
                        --lr 3e-3 --n_warmup 5 --eval_every 11 --save_every 7";
/// Optimizer steps of each.
const STEPS: usize = 60;
const TUNING_STEPS: usize = 50;

fn filled(call: &str) -> String {
    call.replace("{}", trunks("resume").path("").to_str().unwrap().trim_end_matches('/'))
}

/// What a run left that must not depend on interruptions.
#[derive(PartialEq)]
struct Left {
    /// The files of `final/`, and of the adapter in it.
    model: Vec<(String, Vec<u8>)>,
    best: serde_json::Value,
    metrics: Vec<Metrics>,
    scalars: Vec<(u64, String, u32)>,
}

impl Left {
    fn of(place: &Place, run: &str) -> Self {
        Self {
            model: place.finished(run),
            best: place.json_file(&format!("{run}/checkpoints/best.json")),
            metrics: place.metrics(run),
            scalars: place.scalars(run),
        }
    }
}

/// The run in `place` is, in the end, the one nobody touched.
fn assert_untouched(expected: &Left, place: &Place, run: &str, what: &str) {
    let found = Left::of(place, run);
    for ((name, expected), (other, found)) in expected.model.iter().zip(&found.model) {
        assert!(name == other && expected == found, "{what}: final/{name} differs");
    }
    assert_eq!(expected.model.len(), found.model.len(), "{what}");
    for (expected, found) in expected.metrics.iter().zip(&found.metrics) {
        assert_eq!(expected, found, "{what}: metrics.jsonl differs");
    }
    assert_eq!(expected.metrics.len(), found.metrics.len(), "{what}: lines of metrics.jsonl");
    assert!(expected.scalars == found.scalars, "{what}: the TensorBoard files differ");
    assert!(*expected == found, "{what}: another best checkpoint");
    let rests: Vec<String> =
        ["", "/checkpoints"].iter().flat_map(|at| place.names(&format!("{run}{at}"))).collect();
    assert!(rests.iter().all(|name| !name.starts_with('.')), "{what}: left behind: {rests:?}");
}

fn pretrained() -> &'static Left {
    static LEFT: OnceLock<Left> = OnceLock::new();
    LEFT.get_or_init(|| untouched(PRETRAIN))
}

fn finetuned() -> &'static Left {
    static LEFT: OnceLock<Left> = OnceLock::new();
    LEFT.get_or_init(|| untouched(FINETUNE))
}

fn untouched(call: &str) -> Left {
    let place = Place::new();
    place.run(&format!("{} --out run", filled(call))).succeeds();
    Left::of(&place, "run")
}

/// Starts the run, or continues it where it stands.
fn go_on(place: &Place, call: &str) -> Running {
    let command = call.split_whitespace().next().unwrap();
    if place.path("run/config.toml").exists() {
        place.start(&format!("{command} --resume run"))
    } else {
        place.start(&format!("{} --out run", filled(call)))
    }
}

/// Goes on to the end.
fn to_the_end(place: &Place, call: &str) {
    let mut running = go_on(place, call);
    let status = running.end();
    assert!(status.success(), "{}", running.said());
}

/// Kills a run once at a moment of its own, then goes on; `moment` may be past the last step: in the last
/// evaluations or while the model is written.
fn killed_at(call: &str, expected: &Left, moment: usize, spin: usize) {
    let place = Place::new();
    let mut running = go_on(&place, call);
    let metrics = place.path("run/metrics.jsonl");
    let met = running.until(|| lines(&metrics) >= moment);
    // A little later, so that it is not always the moment a line was written.
    (0..spin).for_each(|_| std::hint::spin_loop());
    running.kill();
    to_the_end(&place, call);
    assert_untouched(expected, &place, "run", &format!("killed at line {moment} (met: {met})"));
}

/// How many random moments to try: HEADSTART_TEST_KILLS, or 3.
fn kills() -> u64 {
    std::env::var("HEADSTART_TEST_KILLS").map_or(3, |n| n.parse().unwrap())
}

#[test]
fn a_run_killed_at_any_moment_ends_with_the_weights_it_would_have_had() {
    for seed in 0..kills() {
        let mut draws = Draws::new(seed * 7 + 1);
        let (moment, spin) = (draws.below(STEPS + 3), draws.below(400_000));
        killed_at(PRETRAIN, pretrained(), moment, spin);
    }
}

#[test]
fn a_fine_tuning_killed_at_any_moment_does_so_too() {
    for seed in 0..kills().div_ceil(2) {
        let mut draws = Draws::new(seed * 11 + 5);
        let (moment, spin) = (draws.below(TUNING_STEPS + 6), draws.below(400_000));
        killed_at(FINETUNE, finetuned(), moment, spin);
    }
}

/// Killed again and again, each time while a checkpoint or the final model is being written.
#[test]
fn a_run_killed_while_it_saves_loses_nothing() {
    let writes = |folder: &Path| {
        fs::read_dir(folder).is_ok_and(|mut entries| {
            entries.any(|e| e.is_ok_and(|e| e.file_name().to_string_lossy().starts_with(".partial-")))
        })
    };
    for (call, expected) in [(PRETRAIN, pretrained()), (FINETUNE, finetuned())] {
        let place = Place::new();
        let (run, checkpoints) = (place.path("run"), place.path("run/checkpoints"));
        let (mut met, mut torn) = (0, 0);
        for _ in 0..6 {
            let mut running = go_on(&place, call);
            // What the last kill left is cleared away first.
            let started = running.until(|| running_since(&place));
            if !started || !running.until(|| writes(&checkpoints) || (run.is_dir() && writes(&run))) {
                break;
            }
            running.kill();
            met += 1;
            torn += usize::from(writes(&checkpoints) || writes(&run));
        }
        assert!(met > 0, "no save was met");
        // Whatever the kills left, half a folder and half a line on top of it are no obstacle either.
        if run.join("config.toml").exists() {
            let half = checkpoints.join(".partial-step-00000056");
            fs::create_dir_all(&half).unwrap();
            fs::write(half.join("model.safetensors"), b"half").unwrap();
            fs::create_dir_all(run.join(".partial-final")).unwrap();
            let mut metrics = fs::read(run.join("metrics.jsonl")).unwrap();
            metrics.extend(b"{\"step\":9,\"kind\":\"tr");
            fs::write(run.join("metrics.jsonl"), metrics).unwrap();
        }
        to_the_end(&place, call);
        assert_untouched(expected, &place, "run", &format!("killed at {met} saves, {torn} of them torn"));
    }
}

/// Whether the program has got as far as its first words about the steps to come.
fn running_since(place: &Place) -> bool {
    fs::read_to_string(place.path("said.txt")).is_ok_and(|said| said.contains(" steps an epoch, "))
}

#[test]
fn a_signal_saves_and_ends_and_the_run_goes_on() {
    for (call, expected, steps) in
        [(PRETRAIN, pretrained(), STEPS as u64), (FINETUNE, finetuned(), TUNING_STEPS as u64)]
    {
        let place = Place::new();
        let mut stops = Vec::new();
        for more in [4, 9] {
            let metrics = place.path("run/metrics.jsonl");
            let mut running = go_on(&place, call);
            assert!(running.until(|| running_since(&place)), "{}", running.said());
            let before = lines(&metrics);
            assert!(running.until(|| lines(&metrics) >= before + more), "{}", running.said());
            running.terminate();
            assert_eq!(running.end().code(), Some(130), "{}", running.said());
            assert!(running.said().contains("stopping: "), "{}", running.said());
            // It stands where its logs end, and has no final model yet.
            let at = place.metrics("run").last().unwrap().0;
            assert!(at < steps, "the signal came too late");
            let state = place.json_file(&format!("run/checkpoints/step-{at:08}/trainer_state.json"));
            assert_eq!(state["content"]["state"]["step"], at);
            assert!(!place.path("run/final").exists());
            stops.push(at);
        }
        assert!(stops[0] < stops[1], "{stops:?}");
        to_the_end(&place, call);
        assert_untouched(expected, &place, "run", &format!("stopped at {stops:?}"));
    }
}

/// A step without a finite loss changes nothing but the count, and is no obstacle to going on.
#[test]
fn a_skipped_step_leaves_all_as_it_was_and_an_interrupted_run_the_same() {
    let data = Place::new();
    data.scores();
    let call = format!(
        "finetune --model {{}}/lm --data {} --problem regression --n_epochs 1 --lr 3e-3 --n_warmup 5 --save_every 1 \
         --keep 100",
        data.path("scores").display()
    );
    let place = Place::new();
    let done = place.run(&format!("{} --out run", filled(&call)));
    done.says(&["is skipped: its training loss is not finite"]);
    assert!(done.stdout.starts_with("10 of 10 steps, 1 skipped\n"), "{}", done.stdout);
    let expected = Left::of(&place, "run");
    let skipped = place.skipped("run");
    let [at] = skipped[..] else { panic!("skipped: {skipped:?}") };
    assert!((2..10).contains(&at), "the seed makes it step {at}: there are to be updates on both sides");
    let values =
        |step: u64, name: &str| expected.metrics[step as usize - 1].2.iter().find(|v| v.0 == name).unwrap().1;
    assert!(f64::from_bits(values(at, "loss")).is_nan() && values(at, "skipped") == 1.0_f64.to_bits());

    let saved =
        |step: u64, file: &str| place.tensors(&format!("run/checkpoints/step-{step:08}/{file}.safetensors"));
    for file in ["model", "optimizer"] {
        assert!(saved(at - 1, file) == saved(at, file), "a skipped step changed {file}");
    }
    // The next update is Adam's, of the number of updates and not of steps.
    let (old, new, moments) = (saved(at, "model"), saved(at + 1, "model"), saved(at + 1, "optimizer"));
    let lr = f64::from_bits(values(at + 1, "lr"));
    let [first, second] = [0.9_f64, 0.999].map(|beta| 1.0 - beta.powi(at as i32));
    for (name, old) in old {
        let of = |tensors: &BTreeMap<String, Vec<u32>>, name: &str, i: usize| {
            f64::from(f32::from_bits(tensors[name][i]))
        };
        for (i, old) in old.into_iter().enumerate() {
            let [m, v] = ["first", "second"].map(|which| of(&moments, &format!("{which}_moment.{name}"), i));
            let update = lr * (m / first) / ((v / second).sqrt() + 1e-8);
            let found = f64::from(f32::from_bits(old)) - of(&new, &name, i);
            assert!(
                (found - update).abs() < 1e-3 * update.abs() + 2e-7,
                "{name}[{i}]: {found}, not {update}"
            );
        }
    }

    // Ended right before and right after it, and somewhere around it.
    for last in [at - 1, at] {
        let again = Place::new();
        again.copy(&place.path("run"), "run");
        fs::remove_dir_all(again.path("run/final")).unwrap();
        for step in last + 1..=10 {
            fs::remove_dir_all(again.path(&format!("run/checkpoints/step-{step:08}"))).unwrap();
        }
        to_the_end(&again, &call);
        assert_untouched(&expected, &again, "run", &format!("continued after step {last}; {at} was skipped"));
    }
    killed_at(&call, &expected, at as usize, 0);
}

#[test]
fn a_second_signal_ends_at_once() {
    let place = Place::new();
    // A step that would take very long.
    let call =
        "--train_batch_size 100000 --embed_dim 256 --hidden_dim 2048 --num_layers 12 --threads 1 --out run";
    let flags = filled("pretrain --data starter --tokenizer {}/tok.json --preset micro");
    let mut running = place.start(&format!("{flags} {call}"));
    assert!(running.until(|| running_since(&place)), "{}", running.said());
    running.terminate();
    let said = place.path("said.txt");
    assert!(running.until(|| fs::read_to_string(&said).unwrap().contains("stopping: ")));
    running.terminate();
    assert_eq!(running.end().code(), Some(130));
    assert!(place.names("run/checkpoints").is_empty(), "the step was waited for");
}

#[test]
fn a_time_limit_stops_without_bending_the_schedule() {
    let place = Place::new();
    let mut call = format!("{} --out run", filled(PRETRAIN));
    for steps in 1..=10 {
        let result = place.run(&format!("{call} {ONE_STEP} --json")).json();
        let found = (&result["stopped"], &result["steps"], &result["total_steps"], &result["final_dir"]);
        let expected = (&"max_time".into(), &steps.into(), &STEPS.into(), &serde_json::Value::Null);
        assert_eq!(found, expected);
        call = "pretrain --resume run".into();
    }
    place.run(&format!("{call} --max_time 1000")).succeeds();
    assert_untouched(pretrained(), &place, "run", "in 11 parts");
}

#[test]
fn a_finished_run_continued_is_the_same_run() {
    for (call, expected) in [(PRETRAIN, pretrained()), (FINETUNE, finetuned())] {
        let place = Place::new();
        to_the_end(&place, call);
        to_the_end(&place, call);
        assert_untouched(expected, &place, "run", "continued after its end");
    }
}

#[test]
fn an_evaluation_continued_is_logged_once() {
    let place = Place::new();
    place.run(&format!("{} --n_epochs 0 --out run", filled(PRETRAIN))).succeeds();
    let metrics = place.metrics("run");
    place.run("pretrain --resume run").succeeds();
    assert_eq!(place.metrics("run"), metrics);
}

#[test]
fn a_continued_run_may_use_other_threads_and_no_longer_needs_the_model_it_came_from() {
    let place = Place::new();
    // Under its own name, which the model card says.
    place.copy(&trunks("resume").path("lm"), "lm");
    let call = FINETUNE.replace("{}/lm", "lm");
    let limited = place.run(&format!("{} {ONE_STEP} --threads 1 --out run", filled(&call)));
    limited.succeeds();
    fs::remove_dir_all(place.path("lm")).unwrap();
    let resume =
        "finetune --resume run --threads 2 --max_time 1000 --save_every 5 --valid_batch_size 7 --json";
    place.run(resume).json();
    assert_untouched(finetuned(), &place, "run", "continued with other threads");
}

#[test]
fn low_rank_updates_go_on_with_the_same_bits() {
    let call = "finetune --model {}/lm --data {}/topics --method lora --lora_targets all --lora_dropout 0.2 --rslora \
                --n_epochs 1 --lr 3e-3 --n_warmup 5 --eval_every 11 --save_every 7";
    let place = Place::new();
    place.run(&format!("{} {ONE_STEP} --out run", filled(call))).succeeds();
    place.run("finetune --resume run --max_time 1000 --json").json();
    assert_untouched(&untouched(call), &place, "run", "updates");
}

#[test]
fn scales_and_parallel_adapters_go_on_with_the_same_bits() {
    for flags in
        ["--method ia3 --ia3_targets all", "--method adapters --adapters_kind parallel --adapters_scale 2"]
    {
        let call = format!(
            "finetune --model {{}}/lm --data {{}}/topics {flags} --n_epochs 1 --lr 3e-3 --n_warmup 5 --eval_every 11 --save_every 7"
        );
        let place = Place::new();
        place.run(&format!("{} {ONE_STEP} --out run", filled(&call))).succeeds();
        place.run("finetune --resume run --max_time 1000 --json").json();
        assert_untouched(&untouched(&call), &place, "run", flags);
    }
}

#[test]
fn an_early_stop_stays_one() {
    let place = Place::new();
    let flags = "--n_epochs 50 --lr 1e-9 --eval_every 2 --early_stopping 2 --json --out run";
    let call = filled("finetune --model {}/lm --data {}/topics");
    let result = place.run(&format!("{call} {flags}")).json();
    assert_eq!(result["stopped"], "early_stopping");
    let left = Left::of(&place, "run");
    fs::remove_dir_all(place.path("run/final")).unwrap();
    let again = place.run("finetune --resume run --json").json();
    assert_eq!(again["steps"], result["steps"], "an early stop is not undone");
    assert_untouched(&left, &place, "run", "continued after an early stop");
}
