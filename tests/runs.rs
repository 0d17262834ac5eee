//! What people do with runs: started twice, continued with other data or settings, driven into infinity.
//!
//! Owns: that nothing of a run is lost or mixed up by it. Never: interruptions (resume.rs), damaged files (bad_input.rs).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

mod support;

use std::fs;
use std::time::Instant;

use support::{ONE_STEP, Place, topics, trunks};

/// A place of its own with a table of 48 rows, and a call that fine-tunes on it.
fn place() -> (Place, String) {
    let place = Place::new();
    place.write("data.csv", topics(3, 48));
    let trunk = trunks("runs").path("lm");
    let call = format!("finetune --model {} --lr 3e-3 --n_warmup 2 --eval_every 2", trunk.display());
    (place, call)
}

fn settings(place: &Place, run: &str) -> String {
    String::from_utf8(place.bytes(&format!("{run}/config.toml"))).unwrap()
}

#[test]
fn of_two_starts_for_one_folder_one_wins_and_the_other_touches_nothing() {
    let (place, call) = place();
    for round in 0..3 {
        let run = format!("same{round}");
        let start = |seed: u64| {
            place
                .command(&format!("{call} --data data.csv --n_epochs 3 --out {run} --seed {seed}"))
                .spawn()
                .unwrap()
        };
        let started = [start(1), start(2)];
        let ended = started.map(|child| child.wait_with_output().unwrap());
        let won: Vec<usize> = (0..2).filter(|i| ended[*i].status.success()).collect();
        let [winner] = won[..] else { panic!("{} of two starts won", won.len()) };
        let loser = &ended[1 - winner];
        let said = String::from_utf8_lossy(&loser.stderr);
        assert!(
            said.contains("another process is") || said.contains("exists and is not empty"),
            "the loser said: {said}"
        );
        assert!(!said.contains("disk"), "the loser said: {said}");
        let seed = format!("seed = {}\n", winner + 1);
        assert!(settings(&place, &run).contains(&seed));
        let command = place.bytes(&format!("{run}/command.txt"));
        assert!(String::from_utf8_lossy(&command).contains(&format!("--seed {}", winner + 1)));
        // The finished model is that seed's.
        place
            .run(&format!("{call} --data data.csv --n_epochs 3 --out alone{round} --seed {}", winner + 1))
            .succeeds();
        let model = |run: &str| place.bytes(&format!("{run}/final/model.safetensors"));
        assert!(model(&run) == model(&format!("alone{round}")), "the model is another seed's");
    }
}

#[test]
fn default_names_are_numbered() {
    let (place, call) = place();
    let start = || place.command(&format!("{call} --data data.csv --n_epochs 1")).spawn().unwrap();
    for child in [start(), start(), start()] {
        assert!(child.wait_with_output().unwrap().status.success());
    }
    let names = place.names("runs");
    assert_eq!(names.len(), 3, "{names:?}");
    let first = names.iter().min_by_key(|name| name.len()).unwrap();
    for name in &names {
        assert!(name == first || [2, 3].iter().any(|n| *name == format!("{first}-{n}")), "{names:?}");
        assert!(place.path(&format!("runs/{name}/final")).is_dir());
    }
}

#[test]
fn a_run_continues_with_its_own_data_alone() {
    let (place, call) = place();
    place.run(&format!("{call} --data data.csv --n_epochs 4 {ONE_STEP} --out run")).succeeds();
    assert!(!place.path("run/final").exists());
    let words = ["train examples", "data.csv", "their content differs", "fix: ", "--out"];
    let original = String::from_utf8(place.bytes("data.csv")).unwrap();
    let swapped = original.replace(",water", ",x").replace(",land", ",water").replace(",x", ",land");
    let fewer: String = original.lines().take(20).map(|line| format!("{line}\n")).collect();
    for other in [&swapped, &fewer] {
        place.write("data.csv", other);
        place.run("finetune --resume run --max_time 100").refuses(2, &words);
        assert!(!place.path("run/final").exists());
    }
    // Another path with equal content is fine.
    place.write("elsewhere/rows.csv", &original);
    place.run("finetune --resume run --data elsewhere/rows.csv --max_time 100").succeeds();
    place.write("data.csv", &original);
    place.run(&format!("{call} --data data.csv --n_epochs 4 --out whole")).succeeds();
    assert!(place.bytes("run/final/model.safetensors") == place.bytes("whole/final/model.safetensors"));
}

#[test]
fn a_run_that_is_continued_from_another_folder_finds_its_own_data() {
    let (place, call) = place();
    place.run(&format!("{call} --data data.csv --n_epochs 4 {ONE_STEP} --out run")).succeeds();
    // A file of the same relative name, and the call from there.
    place.write("other/data.csv", topics(9, 48));
    let mut command = place.command("finetune --resume ../run --max_time 100");
    let output = command.current_dir(place.path("other")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    place.run(&format!("{call} --data data.csv --n_epochs 4 --out whole")).succeeds();
    assert!(place.bytes("run/final/model.safetensors") == place.bytes("whole/final/model.safetensors"));
}

#[test]
fn a_run_keeps_its_settings() {
    let (place, call) = place();
    place.run(&format!("{call} --data data.csv --n_epochs 4 {ONE_STEP} --out run")).succeeds();
    let original = settings(&place, "run");
    for (edited, what) in [
        (original.replace("seed = 42", "seed = 43"), "a seed"),
        (original.replace("n_epochs = 4", "n_epochs = 40"), "more epochs"),
        (original.lines().take(5).map(|line| format!("{line}\n")).collect(), "cut at a line's end"),
        (String::new(), "emptied"),
    ] {
        assert_ne!(edited, original, "{what}");
        place.write("run/config.toml", &edited);
        let words = ["config.toml", "a continued run keeps its settings", "fix: "];
        place.run("finetune --resume run --max_time 100").refuses(1, &words);
    }
    // The settings of another run, sealed as they are, do not go with the checkpoint.
    place.run(&format!("{call} --data data.csv --n_epochs 4 {ONE_STEP} --seed 7 --out other")).succeeds();
    fs::copy(place.path("other/config.toml"), place.path("run/config.toml")).unwrap();
    place.run("finetune --resume run --max_time 100").refuses(1, &["config.toml", "keeps its settings"]);
    place.write("run/config.toml", &original);
    place.run("finetune --resume run --max_time 100").succeeds();
}

#[test]
fn a_model_that_is_not_finite_is_neither_best_nor_final() {
    let (place, call) = place();
    let diverge = call.replace("--lr 3e-3 --n_warmup 2", "--lr 1e30 --n_warmup 0");
    // Few steps: they end before five are skipped in a row.
    place
        .run(&format!("{diverge} --data data.csv --n_epochs 2 --out short"))
        .refuses(1, &["skipped", "--lr"]);
    assert!(!place.path("short/final").exists());
    assert!(
        !place.path("short/checkpoints/best.json").exists(),
        "an evaluation that is not finite was the best"
    );
    // Many steps.
    let words = ["5 steps in a row were skipped", "there is no good checkpoint"];
    place.run(&format!("{diverge} --data data.csv --n_epochs 20 --out long")).refuses(1, &words);
    assert!(!place.path("long/final").exists());
    // Diverging later, the checkpoint that is named is one that works.
    let slowly = call.replace("--lr 3e-3 --n_warmup 2", "--lr 1e12 --n_warmup 30");
    let done =
        place.run(&format!("{slowly} --data data.csv --n_epochs 30 --save_every 1 --keep 99 --out late"));
    if let Some(named) = done.stderr.split("the last good checkpoint is ").nth(1) {
        let named = named.split(';').next().unwrap();
        place.run(&format!("eval {named} --data data.csv")).succeeds();
    }
    place
        .run(&format!("{call} --data data.csv --max_train_examples 0 --out none"))
        .refuses(2, &["max_train_examples"]);
    // Weights that came out of it are of no use for predictions.
    let ruined = place.names("short/checkpoints");
    let ruined = ruined.iter().rev().find(|name| name.starts_with("step-")).unwrap();
    let folder = format!("short/checkpoints/{ruined}");
    place.feed(&format!("predict {folder}"), b"a text\n").refuses(1, &["not finite", "fix: "]);
    place.run(&format!("eval {folder} --data data.csv")).refuses(1, &["not finite", "fix: "]);
}

#[test]
fn what_the_settings_do_not_mean_is_said_once() {
    let (place, call) = place();
    let call = call.replace("--n_warmup 2", "--n_warmup 99");
    let done = place.run(&format!("{call} --data data.csv --n_epochs 2 --max_steps 500 --out run"));
    done.succeeds();
    for words in ["n_epochs 2 ends the run after 6 steps, before max_steps 500", "the warm-up of 99 steps"] {
        assert_eq!(done.stderr.matches(words).count(), 1, "{words}: {}", done.stderr);
    }
}

/// A long evaluation and a long step do not hold up a signal, and nothing of them is lost.
#[cfg(unix)]
#[test]
fn a_stop_is_heard_in_the_middle_of_a_step_and_of_an_evaluation() {
    let place = Place::new();
    place.write("books/train.txt", support::sentences(1, 1_500));
    place.write("books/valid.txt", support::sentences(2, 4_000));
    place.run("tokenizer train books --vocab_size 200 --out tok.json").succeeds();
    let call = "pretrain --data books --tokenizer tok.json --preset micro --embed_dim 96 --hidden_dim 384 --num_layers 3 \
                --arch gpt2 --threads 1 --lr 1e-3 --n_warmup 1";
    // One step takes all of the text; then one whose evaluation is far longer than its few steps.
    for (flags, name) in [
        ("--train_batch_size 900 --max_steps 3", "step"),
        ("--train_batch_size 4 --max_steps 6 --eval_every 2", "evaluation"),
    ] {
        let mut running = place.start(&format!("{call} {flags} --out {name}"));
        let begun =
            || fs::read_to_string(place.path("said.txt")).is_ok_and(|said| said.contains("steps an epoch"));
        assert!(running.until(begun), "{}", running.said());
        std::thread::sleep(std::time::Duration::from_millis(300));
        let asked = Instant::now();
        running.terminate();
        let status = running.end();
        let waited = asked.elapsed().as_secs_f64();
        assert!(status.code() == Some(130) || status.success(), "{}", running.said());
        // Seconds on an idle machine; here others may be at work.
        assert!(waited < 20.0, "{name}: {waited} s after the signal");
        if !status.success() {
            place.run(&format!("pretrain --resume {name}")).succeeds();
        }
        place.run(&format!("{call} {flags} --out {name}-whole")).succeeds();
        let model = |run: &str| place.bytes(&format!("{run}/final/model.safetensors"));
        assert!(model(name) == model(&format!("{name}-whole")), "{name}: other weights");
        assert_eq!(place.metrics(name), place.metrics(&format!("{name}-whole")), "{name}");
    }
}

#[test]
fn several_runs_lie_in_one_folder_that_goes_on_and_ranks_do_them_together() {
    let place = Place::new();
    place.topics();
    let model = format!("--model {}", trunks("runs").path("lm").display());
    let flags = format!("{model} --data topics --max_steps 4 --reduction_groups 2 --seeds 3,5");
    let found = place.run(&format!("finetune {flags} --out both --json")).json();
    assert_eq!(found["runs"].as_array().map(Vec::len), Some(2));
    assert_eq!((&found["runs"][1]["seed"], &found["final_dir"]), (&5.into(), &"both/final".into()));
    place.run("eval both --data topics").succeeds();
    let again = place.run("finetune --resume both --json").json();
    assert_eq!((&again["runs"], &again["statistics"]), (&found["runs"], &found["statistics"]));
    let shown = place.run("finetune --resume both");
    for words in ["over the seeds", "best on validation: seed-", "report: both/report.html"] {
        assert!(shown.succeeds().stdout.contains(words), "{}", shown.stdout);
    }
    place.run("finetune --resume both --seeds 4").refuses(2, &["--seeds 4", "was started with"]);
    place
        .run(&format!("finetune {model} --data topics --seeds 2,2 --out no"))
        .refuses(2, &["2 is listed twice", "fix:"]);
    place
        .run(&format!("finetune {model} --data topics --curve 10,9999 --out no"))
        .refuses(2, &["`curve`", "has 400", "fix:"]);
    place
        .run(&format!("finetune {model} --data nothing.csv --seeds 2 --out no"))
        .refuses(1, &["nothing.csv"]);
    assert!(!place.path("no").exists());
    // As many groups as ranks, unless told, and saved with the whole: one process goes on with it.
    let flags = flags.replace("--reduction_groups 2 ", "");
    place.run(&format!("launch --nproc 2 -- finetune {flags} --out ranks --json")).succeeds();
    let again = place.run("finetune --resume ranks --json").json();
    assert_eq!(again["statistics"], found["statistics"]);
    for run in ["seed-3", "seed-5"] {
        let weights = |folder: &str| place.bytes(&format!("{folder}/{run}/final/model.safetensors"));
        assert_eq!(weights("both"), weights("ranks"));
    }
    assert_eq!(place.bytes("ranks/final/model.safetensors"), place.bytes("both/final/model.safetensors"));
}
