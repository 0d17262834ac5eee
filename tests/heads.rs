//! Classifiers with a hidden layer, of a learned mix of all layers, and training that leaves out blocks.
//!
//! Owns: what a user gets of `--head mlp`, `--layer_mix` and `--layer_drop`. Never: what is computed (`crates/headstart/tests/`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

mod support;

use serde_json::{Value, json};
use support::published::folder;
use support::{ONE_STEP, Place, as_two, metric, trunks};

/// A batch at once.
const BATCH: &str = "--train_batch_size 16";
const PACE: &str = "--n_epochs 3 --lr 5e-3 --n_warmup 5 --save_every 20 --reduction_groups 2 --dropout 0.1";

/// A fine-tuning of the shared trunk on the shared topics, in a place of its own.
fn call(flags: &str) -> String {
    let shared = trunks("heads").path("").to_str().unwrap().trim_end_matches('/').to_owned();
    let batch = if flags.contains("_batch_size") { "" } else { BATCH };
    format!("finetune --model {shared}/lm --data {shared}/topics {PACE} {batch} {flags}")
}

fn model(place: &Place, run: &str) -> Vec<u8> {
    place.bytes(&format!("{run}/final/model.safetensors"))
}

/// Neither threads, nor how a batch is cut, nor ranks, nor an interruption change a bit of a run with these flags, which is there
/// as `run`.
fn holds_its_bits(place: &Place, flags: &str) {
    let cut = "--threads 3 --train_batch_size 4 --grad_accum_steps 4";
    place.run(&call(&format!("{flags} {cut} --out threads"))).succeeds();
    as_two(place, &call(&format!("{flags} --out two")));
    place.run(&call(&format!("{flags} {ONE_STEP} --out stopped"))).succeeds();
    assert!(!place.path("stopped/final").exists());
    place.run("finetune --resume stopped --max_time 1000").succeeds();
    for run in ["threads", "two", "stopped"] {
        assert!(model(place, run) == model(place, "run"), "{run}");
    }
    for run in ["two", "stopped"] {
        assert_eq!(place.metrics(run), place.metrics("run"), "{run}");
    }
}

#[test]
fn a_hidden_layer_over_a_mix_of_layers_is_trained_saved_and_used_like_any_head() {
    let place = Place::new();
    let shape = "--head mlp --head_width 24 --head_activation gelu --layer_mix --pooling last+mean";
    let result = place.run(&call(&format!("{shape} --json --out run"))).succeeds().json();
    assert!(metric(&result, "test/accuracy") > 0.9, "{result}");
    holds_its_bits(&place, shape);
    let config = place.json_file("run/final/config.json");
    let expected = json!({"hidden": {"width": 24, "activation": "gelu"}, "layer_mix": true});
    assert_eq!(config["head_shape"], expected, "{config}");
    let topics = trunks("heads").path("topics");
    let found = place.run(&format!("eval run --data {} --json", topics.display())).json();
    for name in ["accuracy", "loss"] {
        let (here, there) = (metric(&found, name), metric(&result, &format!("test/{name}")));
        assert!((here - there).abs() < 1e-6, "{name}: {here}, {there}");
    }
    let text = b"the old harbour guards the small river .\n";
    assert_eq!(place.feed("predict run", text).json()["label"], "water");
    // All weights of the mix have moved from where they began, each by itself.
    let tensors = place.tensors("run/final/model.safetensors");
    let mix = &tensors["classification_head.mix.weight"];
    assert!(mix.iter().all(|bits| *bits != 0) && mix.windows(2).all(|two| two[0] != two[1]), "{mix:?}");
    // What is trained further keeps it, unless it is told otherwise.
    let further = |flags: &str, out: &str| {
        let call = format!("finetune --model run --data {} {flags} --out {out}", topics.display());
        place.run(&call).succeeds();
        place.json_file(&format!("{out}/final/config.json"))["head_shape"].clone()
    };
    assert_eq!(further("--max_steps 2", "kept"), expected);
    let linear = "--max_steps 2 --head linear --layer_mix=false --pooling last";
    assert_eq!(further(linear, "plain"), Value::Null);
    assert_eq!(further("--method features", "fitted"), Value::Null);
    // No other program has such a head.
    let refused = |flags: &str, words: &[&str]| {
        place.run(&format!("export run {flags} --output other")).refuses(1, words);
        assert!(!place.path("other").exists());
    };
    refused("--to hf", &["cannot be exported", "a learned mix of all layers", "--pooling pooler"]);
    refused("--to hf --with-code", &["cannot be exported", "hidden layer"]);
    place.run("export plain --to hf --with-code --output other").succeeds();
}

#[test]
fn a_head_on_a_frozen_model_may_read_a_mix_of_its_layers() {
    let place = Place::new();
    let flags = "--method head --layer_mix --head mlp --out run";
    place.run(&call(flags)).succeeds();
    let shared = trunks("heads");
    let (before, after) =
        (shared.tensors("lm/final/model.safetensors"), place.tensors("run/final/model.safetensors"));
    let mut trunk = after.iter().filter(|(name, _)| before.contains_key(*name));
    assert!(trunk.all(|(name, values)| before[name] == *values));
    assert!(after["classification_head.mix.weight"].iter().all(|bits| *bits != 0));
    // What was trained is a model by itself.
    let text = b"the old harbour guards the small river .\n";
    let whole = place.feed("predict run", text).json();
    let base = shared.path("lm");
    let alone = place.feed(&format!("predict run/final/adapter --base {}", base.display()), text).json();
    assert_eq!(whole, alone);
}

/// The folder of an encoder has the form of `transformers`; with such a head it has this program's, and is as good.
#[test]
fn an_encoder_with_such_a_head_keeps_this_programs_form() {
    let place = Place::new();
    place.topics();
    folder(&place, "bert_mlm", "bert_mlm");
    for (flags, own) in [("--pooling pooler", false), ("--head mlp", true), ("--layer_mix", true)] {
        let out = flags.trim_start_matches('-').replace(' ', "-");
        place
            .run(&format!("finetune --model bert_mlm --data topics --max_steps 3 {flags} --out {out}"))
            .succeeds();
        let notes = place.path(&format!("{out}/final/headstart.json"));
        assert_eq!(notes.exists(), !own, "{flags}");
        let answer = place.feed(&format!("predict {out}"), b"the old river\n").json();
        assert!(answer["label"].is_string(), "{answer}");
        let exported = place.run(&format!("export {out} --to hf --output {out}-hf"));
        if own {
            exported.refuses(1, &["cannot be exported: its classifier has a"]);
        } else {
            exported.succeeds();
        }
        // The trunk alone goes out as ever.
        place.run(&format!("export {out} --to sentence-transformers --output {out}-sentences")).succeeds();
        place
            .run(&format!(
                "pretrain --from {out} --data topics/train.csv --max_steps 1 --block_size 16 --out {out}-lm"
            ))
            .succeeds();
    }
}

#[test]
fn blocks_are_left_out_by_seed_and_step_alone() {
    let place = Place::new();
    let flags = "--layer_drop 0.4";
    let result = place.run(&call(&format!("{flags} --json --out run"))).succeeds().json();
    assert!(metric(&result, "test/accuracy") > 0.8, "{result}");
    holds_its_bits(&place, flags);
    // Answers have all blocks: they are as the run evaluated them.
    let topics = trunks("heads").path("topics");
    let found = place.run(&format!("eval run --data {} --json", topics.display())).json();
    assert!((metric(&found, "loss") - metric(&result, "test/loss")).abs() < 1e-6);
    for (flags, out) in [("", "never"), ("--layer_drop 0", "zero"), ("--layer_drop 0.4 --seed 5", "other")] {
        place.run(&call(&format!("{flags} --out {out}"))).succeeds();
    }
    assert!(model(&place, "never") == model(&place, "zero"));
    assert!(model(&place, "never") != model(&place, "run"));
    assert!(model(&place, "other") != model(&place, "run"));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let place = Place::new();
    let refused = |flags: &str, words: &[&str]| place.run(&call(flags)).refuses(2, words);
    refused("--method features --head mlp", &["head", "a linear over one layer", "--method head"]);
    refused("--method contrastive --shots 2 --layer_mix", &["layer_mix", "leave layer_mix out"]);
    refused("--head_width 3", &["head_width", "--head mlp"]);
    refused("--head linear --head_activation gelu", &["head_activation", "--head mlp"]);
    refused("--head mlp --head_width 0", &["head_width"]);
    refused("--method features --layer_drop 0.1", &["layer_drop", "takes no steps"]);
    refused("--layer_drop 1", &["layer_drop", "below 1"]);
    // A run goes on with what it was started with.
    place.run(&call(&format!("--layer_drop 0.4 {ONE_STEP} --out stopped"))).succeeds();
    place.run("finetune --resume stopped --layer_drop 0.2").refuses(2, &["--layer_drop 0.2"]);
    place.run("finetune --resume stopped --head mlp").refuses(2, &["--head mlp"]);
}
