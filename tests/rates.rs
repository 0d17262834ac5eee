//! What trains when and how fast, and what regularises, as one types it: the same bits however often a run is stopped and by however
//! many processes it is done, frozen weights untouched, words that say so, wrong settings refused.
//!
//! Owns: these promises for `--unfreeze`, `--layer_decay`, `--head_lr`, `--l2_sp`, `--ema`, `--sampling`, `--best_metric` and the losses.
//! Never: the formulas (unit tests of `rates`, `schedule`, `optim` and the engine's losses).

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

use support::{Metrics, Place, as_two, trunks};

/// Everything at once; dropout is on, phases begin within epochs.
const ALL: &str = "finetune --data {}/topics --model {}/lm --lm_loss_coef 0.5 --n_epochs 1 --max_steps 14 --lr 3e-3 --train_batch_size 16 \
                   --dropout 0.1 --eval_every 5 --threads 1 --unfreeze gradual --layer_decay 0.9 --head_lr 5e-3 --label_smoothing 0.1 \
                   --sampling balanced --l2_sp 0.1 --ema 0.9 --best_metric macro_f1 --schedule slanted-triangular";
const THAW: &str = "finetune --data {}/topics --model {}/lm --n_epochs 1 --max_steps 14 --lr 3e-3 --train_batch_size 16 --dropout 0.1 \
                    --eval_every 5 --threads 1 --method lora --unfreeze chain-thaw --focal_gamma 2 --r_drop 1 --lr_floor 0.1 --warmup_ratio 0.2";

fn filled(call: &str) -> String {
    call.replace("{}", trunks("rates").path("").to_str().unwrap().trim_end_matches('/'))
}

/// What a run left that must not depend on how it came about.
#[derive(PartialEq)]
struct Left {
    model: BTreeMap<String, Vec<u32>>,
    best: serde_json::Value,
    metrics: Vec<Metrics>,
}

fn left(place: &Place, run: &str) -> Left {
    Left {
        model: place.tensors(&format!("{run}/final/model.safetensors")),
        best: place.json_file(&format!("{run}/checkpoints/best.json")),
        metrics: place.metrics(run),
    }
}

fn state(place: &Place, run: &str, step: u64) -> serde_json::Value {
    let file = place.json_file(&format!("{run}/checkpoints/step-{step:08}/trainer_state.json"));
    file["content"]["state"].clone()
}

#[test]
fn a_run_goes_on_from_any_step_of_any_phase_with_the_same_bits() {
    for call in [ALL, THAW] {
        let place = Place::new();
        let call = filled(&format!("{call} --save_every 1 --keep 100"));
        place.run(&format!("{call} --out run")).succeeds();
        let expected = left(&place, "run");
        // Every phase has had its updates, and they are all there are.
        let updates: Vec<u64> =
            serde_json::from_value(state(&place, "run", 14)["phase_updates"].clone()).unwrap();
        assert!(updates.len() > 3 && updates.iter().all(|n| *n > 0), "{updates:?}");
        assert_eq!(updates.iter().sum::<u64>(), 14);
        for last in [1, 2, 3, 5, 8, 13] {
            let again = Place::new();
            again.copy(&place.path("run"), "run");
            fs::remove_dir_all(again.path("run/final")).unwrap();
            for step in last + 1..=14 {
                fs::remove_dir_all(again.path(&format!("run/checkpoints/step-{step:08}"))).unwrap();
            }
            again.run("finetune --resume run").succeeds();
            assert!(left(&again, "run") == expected, "continued after step {last}: {call}");
        }
    }
}

#[test]
fn the_bits_do_not_depend_on_how_many_processes_there_are() {
    for call in [ALL, THAW] {
        let place = Place::new();
        let call = filled(&format!("{call} --reduction_groups 2 --save_every 4 --keep 100"));
        place.run(&format!("{call} --out one")).succeeds();
        as_two(&place, &format!("{call} --out two"));
        assert!(left(&place, "one") == left(&place, "two"), "two processes: {call}");
        // What two have begun, one ends, and the other way round.
        for (from, processes) in [("one", 2), ("two", 1)] {
            let again = format!("{from}-again");
            place.copy(&place.path(from), &again);
            fs::remove_dir_all(place.path(&format!("{again}/final"))).unwrap();
            let keep = format!("{again}/checkpoints/step-00000004");
            for name in place.names(&format!("{again}/checkpoints")) {
                if name.starts_with("step-") && !keep.ends_with(&name) {
                    fs::remove_dir_all(place.path(&format!("{again}/checkpoints/{name}"))).unwrap();
                }
            }
            let resume = format!("finetune --resume {again}");
            if processes == 2 {
                as_two(&place, &resume);
            } else {
                place.run(&resume).succeeds();
            }
            assert!(left(&place, "one") == left(&place, &again), "continued by {processes}: {call}");
        }
    }
}

#[test]
fn what_is_frozen_stays_as_it_is_and_the_table_says_when_it_trains() {
    let place = Place::new();
    let call = "finetune --data {}/topics --model {}/lm --n_epochs 1 --max_steps 8 --lr 3e-3 --train_batch_size 16 --eval_every 100 \
                --save_every 1 --keep 100 --unfreeze gradual --out run";
    let done = place.run(&filled(call));
    let words = [
        "what trains",
        "peak rate",
        "head ",
        "layer 0 ",
        "embeddings ",
        "gradual unfreezing: the next part every",
    ];
    done.says(&words);
    let log = fs::read_to_string(place.path("run/train.log")).unwrap();
    let report = fs::read_to_string(place.path("run/report.html")).unwrap();
    assert!(words[..4].iter().all(|word| log.contains(word)), "{log}");
    assert!(report.contains("What trains when") && report.contains("embeddings"));
    let at = |step: u64| place.tensors(&format!("run/checkpoints/step-{step:08}/model.safetensors"));
    let (first, last) = (at(1), at(8));
    let trunk = trunks("rates").path("lm/final/model.safetensors");
    place.copy(trunk.parent().unwrap(), "trunk");
    let began = place.tensors("trunk/model.safetensors");
    for (name, values) in &began {
        if let (Some(first), Some(last)) = (first.get(name), last.get(name)) {
            assert!(first == values, "{name} is frozen in the first phase");
            assert!(last != values, "{name} trains in the last");
        }
    }
    let plain = place.run(&filled(&call.replace(" --unfreeze gradual --out run", " --out plain")));
    plain.succeeds();
    assert!(!plain.stderr.contains("what trains"), "{}", plain.stderr);
    assert!(state(&place, "plain", 8).get("phase_updates").is_none());
}

#[test]
fn a_checkpoint_of_a_run_with_a_mean_has_the_mean_and_beside_it_what_is_trained() {
    let place = Place::new();
    let call = "finetune --data {}/topics --model {}/lm --n_epochs 1 --max_steps 6 --lr 3e-3 --train_batch_size 16 --eval_every 2 \
                --save_every 1 --keep 100 --ema 0.99 --l2_sp 0.01 --out run";
    place.run(&filled(call)).succeeds();
    let file =
        |step: u64, name: &str| place.tensors(&format!("run/checkpoints/step-{step:08}/{name}.safetensors"));
    for step in 2..=6 {
        let (before, after, kept) = (file(step - 1, "model"), file(step, "model"), file(step, "optimizer"));
        assert_eq!(kept.keys().filter(|name| name.starts_with("trained.")).count(), kept.len() / 4);
        let decay = f64::min(0.99, (1.0 + step as f64) / (10.0 + step as f64));
        for (name, trained) in kept.iter().filter_map(|(name, t)| Some((name.strip_prefix("trained.")?, t))) {
            let (before, after) = (&before[name], &after[name]);
            for ((b, a), t) in before.iter().zip(after).zip(trained) {
                let [b, a, t] = [b, a, t].map(|bits| f64::from(f32::from_bits(*bits)));
                let expected = decay * b + (1.0 - decay) * t;
                assert!((a - expected).abs() < 1e-6 + 1e-6 * expected.abs(), "{name}: {a} {expected}");
            }
        }
    }
    // What was evaluated is what is kept.
    let best = place.json_file("run/checkpoints/best.json")["best"]["step"].as_u64().unwrap();
    assert!(place.tensors("run/final/model.safetensors") == file(best, "model"));
    let pretrain = "pretrain --data {}/books --tokenizer {}/tok.json --preset micro --max_steps 6 --lr 1e-2 --train_batch_size 8 \
                    --n_warmup 2 --save_every 2 --ema 0.9 --out lm";
    place.run(&filled(pretrain)).succeeds();
    let whole = left(&place, "lm");
    fs::remove_dir_all(place.path("lm/final")).unwrap();
    fs::remove_dir_all(place.path("lm/checkpoints/step-00000006")).unwrap();
    place.run("pretrain --resume lm").succeeds();
    assert!(left(&place, "lm") == whole);
}

#[test]
fn what_makes_no_sense_is_refused_with_the_way_out() {
    let place = Place::new();
    let call = filled("finetune --data {}/topics --model {}/lm --n_epochs 1 --out run");
    for (flags, words) in [
        ("--method head --unfreeze gradual", &["`unfreeze`", "the head alone", "--method full"][..]),
        ("--unfreeze_every 2", &["`unfreeze_every`", "--unfreeze gradual"]),
        ("--layer_decay 1.5", &["`layer_decay`", "0.95"]),
        ("--head_lr 0", &["`head_lr`", "positive"]),
        ("--label_smoothing 1", &["`label_smoothing`", "0.1"]),
        ("--label_smoothing 0.1 --focal_gamma 2", &["`focal_gamma`", "label_smoothing"]),
        ("--problem multi-label --sampling balanced", &["`sampling`", "multi-label"]),
        ("--sampling balanced --class_weights balanced", &["`sampling`", "class_weights"]),
        ("--method lora --l2_sp 0.1", &["`l2_sp`", "lora", "--method full"]),
        ("--from_scratch --l2_sp 0.1", &["`l2_sp`", "from_scratch"]),
        ("--dropout 0 --r_drop 1", &["`r_drop`", "--dropout 0.1"]),
        ("--ema 1", &["`ema`", "0.999"]),
        ("--schedule constant --lr_floor 0.1", &["`lr_floor`", "constant", "linear"]),
        ("--lr_floor 2", &["`lr_floor`", "from 0 to 1"]),
        ("--warmup_ratio 0.1 --warmup_steps 5", &["--warmup_ratio", "--warmup_steps"]),
        ("--best_metric accurcy", &["`best_metric`", "accurcy", "accuracy", "macro_f1", "nll_clf"]),
        ("--unfreeze slowly", &["gradual", "chain-thaw"]),
    ] {
        place.run(&format!("{call} {flags}")).refuses(2, words);
        assert!(!place.path("run").exists(), "{flags}");
    }
}
