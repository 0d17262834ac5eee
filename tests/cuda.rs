//! The program on a GPU: the same commands as on the processor, and the same results within stated tolerances.
//!
//! Runs on the emulated CUDA libraries (crates/engine/tests/emulator), which need `g++`, or on a real GPU with
//! `HEADSTART_TEST_CUDA=real` (docs/gpu.md). Without either, the tests say so and pass.
//!
//! Owns: what a user may expect of `--device`. Never: single operations, which the engine's tests compare.

#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

#[path = "../crates/engine/tests/emulator/mod.rs"]
mod emulator;
mod support;

use emulator::Target;
use support::{Done, Place, lines};

/// Largest difference of a loss from the processor's, relative to it, over all steps: sums in another order, carried
/// on by the optimizer. In f32, and with bf16 matmuls.
const F32: f64 = 1e-4;
const BF16: f64 = 5e-3;
/// The same at the first step, where only one pass of sums differs.
const FIRST_F32: f64 = 1e-6;
const FIRST_BF16: f64 = 1e-4;

/// A small model, with dropout.
const SMALL: &str = "--data books --tokenizer tok.json --preset micro --num_max_positions 32 --n_warmup 20 --max_norm 1 \
                     --threads 1";
/// The same in small batches.
const MODEL: &str = "--data books --tokenizer tok.json --preset micro --num_max_positions 32 --n_warmup 20 --max_norm 1 \
                     --threads 1 --train_batch_size 6";

/// A place where programs find a GPU.
fn gpu() -> Option<Place> {
    match emulator::target() {
        Ok(Target::Real) => Some(Place::new()),
        // A search path of one folder, so that no other library of those names is found.
        Ok(Target::Emulated(folder)) => Some(Place::new().with("LD_LIBRARY_PATH", folder.to_str().unwrap())),
        Err(why) => {
            println!("skipped: {why}");
            None
        }
    }
}

/// As [`gpu`], where the emulator can be told to fail.
fn emulated() -> Option<Place> {
    (emulator::target() != Ok(Target::Real)).then(gpu).flatten()
}

/// Steps to take on a GPU, and on the emulator, which is slow.
fn of_steps(real: u32, emulated: u32) -> u32 {
    if emulator::target() == Ok(Target::Real) { real } else { emulated }
}

/// A call with one more environment variable.
fn run_under(place: &Place, name: &str, value: &str, arguments: &str) -> Done {
    Done::new(arguments, place.command(arguments).env(name, value).output().unwrap())
}

/// Losses of the training steps, in their order.
fn losses(place: &Place, run: &str) -> Vec<f64> {
    let steps = place.metrics(run).into_iter().filter(|(_, kind, _)| *kind == "train");
    let loss = |values: &[(String, u64)]| values.iter().find(|(name, _)| name == "loss").unwrap().1;
    steps.map(|(_, _, values)| f64::from_bits(loss(&values))).collect()
}

/// The last validation's mean loss.
fn validated(place: &Place, run: &str) -> f64 {
    let metrics = place.metrics(run);
    let (_, _, values) = metrics.iter().rfind(|(_, kind, _)| *kind == "valid").unwrap();
    f64::from_bits(values.iter().find(|(name, _)| name == "nll").unwrap().1)
}

#[track_caller]
fn overlay(place: &Place, a: &str, b: &str, first: f64, all: f64) {
    let (x, y) = (losses(place, a), losses(place, b));
    assert_eq!(x.len(), y.len(), "{a}, {b}");
    let difference = |(x, y): (&f64, &f64)| (x - y).abs() / x.abs();
    let worst = x.iter().zip(&y).map(difference).fold(0.0, f64::max);
    println!("{a} and {b}: step 1 {:.1e}, largest of {} {worst:.1e}", difference((&x[0], &y[0])), x.len());
    assert!(difference((&x[0], &y[0])) <= first, "{a}, {b}: the first step's losses: {} {}", x[0], y[0]);
    assert!(worst <= all, "{a}, {b}: losses part by {worst}: {x:?} {y:?}");
}

#[test]
fn without_a_gpu_the_error_says_what_was_sought() {
    let Some(place) = emulated() else { return };
    place.books();
    let call = format!("pretrain {MODEL} --precision f32 --lr 3e-3 --max_steps 2");
    // Nothing to be found.
    let none = run_under(&place, "LD_LIBRARY_PATH", "", &format!("{call} --device cuda --out a"));
    none.refuses(
        1,
        &["cannot use the device", "libcuda.so", "libnvrtc.so", "libcublasLt.so", "--device cpu"],
    );
    // A driver, but no device behind it.
    let none = run_under(&place, "HEADSTART_EMULATOR_DEVICES", "0", &format!("{call} --device cuda --out a"));
    none.refuses(1, &["cannot use the device", "fix: "]);
    place.run(&format!("{call} --device cuda:7 --out a")).refuses(1, &["cannot use the device", "fix: "]);
    assert!(!place.path("a").exists(), "a run without a device leaves no folder");
    place.run(&format!("{call} --device gpu --out a")).refuses(2, &["gpu", "cpu, cuda, cuda:N or auto"]);
}

#[test]
fn auto_takes_what_is_there_and_says_so() {
    let Some(place) = emulated() else { return };
    place.books();
    let call = format!("pretrain {MODEL} --lr 3e-3 --max_steps 2 --device auto");
    run_under(&place, "LD_LIBRARY_PATH", "", &format!("{call} --out a"))
        .says(&["no GPU", "computing on cpu"]);
    // A GPU is faster in bf16, which is in the run's settings, and so in what it goes on with.
    place.run(&format!("{call} --out b")).says(&["computing on cuda:0", "bf16 products"]);
    assert!(String::from_utf8(place.bytes("b/config.toml")).unwrap().contains("precision = \"bf16\""));
    place.run(&format!("{call} --recipe tutorial --out c")).says(&["f32 products"]);
    let doctor = place.run("doctor");
    assert!(doctor.succeeds().stdout.contains("emulated GPU"), "{}", doctor.stdout);
}

#[test]
fn losses_overlay_those_of_the_processor() {
    let Some(place) = gpu() else { return };
    place.books();
    let steps = of_steps(200, 60);
    for (name, flags, first, all) in [
        // At 3e-3, the fall from the plateau comes a step sooner or later with any change of rounding: in f32 adding up a norm's
        // sums in the other order parts the losses of `lm` by 9e-5.
        ("lm", "--objective lm --arch naacl2019 --precision f32 --lr 1e-3", FIRST_F32, F32),
        ("mlm", "--objective mlm --arch gpt2 --precision f32 --lr 3e-3", FIRST_F32, F32),
        ("bert", "--objective mlm --arch bert --precision f32 --lr 1e-3", FIRST_F32, F32),
        ("bf16", "--objective lm --arch gpt2 --precision bf16 --lr 1e-3", FIRST_BF16, BF16),
    ] {
        let call = format!("pretrain {MODEL} {flags} --max_steps {steps} --eval_every {}", steps / 2);
        place.run(&format!("{call} --device cpu --out {name}-cpu")).succeeds();
        place.run(&format!("{call} --device cuda --out {name}-cuda")).succeeds();
        overlay(&place, &format!("{name}-cpu"), &format!("{name}-cuda"), first, all);
        let (cpu, cuda) =
            (validated(&place, &format!("{name}-cpu")), validated(&place, &format!("{name}-cuda")));
        assert!((cpu - cuda).abs() <= all * cpu, "{name}: validation: {cpu} {cuda}");
    }
}

#[test]
fn steps_are_replayed_as_graphs() {
    let Some(place) = gpu() else { return };
    let call = "bench train --device cuda --preset micro --vocab_size 200 --num_max_positions 32 --batch 4 --seq 32 --steps 18 \
                --warmup 2 --threads 1 --json";
    let transformed = "--precision bf16 --objective mlm --arch bert";
    for kind in ["--precision f32", "--precision bf16", "--precision bf16 --objective mlm", transformed] {
        let found = place.run(&format!("{call} {kind}")).json();
        let replayed = found["replayed"].as_f64().unwrap_or_else(|| panic!("{kind}: {found}"));
        // The first step is done as it comes, the second recorded.
        assert!(replayed >= 0.9, "{kind}: {found}");
        assert!(found.get("not_recorded").is_none(), "{kind}: {found}");
    }
}

#[test]
fn the_same_run_has_the_same_bits_however_it_was_interrupted() {
    let Some(place) = gpu() else { return };
    place.books();
    let call = format!(
        "pretrain {MODEL} --precision f32 --lr 3e-3 --max_steps 30 --save_every 7 --eval_every 10 --device cuda"
    );
    place.run(&format!("{call} --out one")).succeeds();
    place.run(&format!("{call} --out two")).succeeds();
    let mut running = place.start(&format!("{call} --out killed"));
    let metrics = place.path("killed/metrics.jsonl");
    running.until(|| lines(&metrics) >= 17);
    running.kill();
    place.run("pretrain --resume killed --device cuda").succeeds();
    for other in ["two", "killed"] {
        assert!(place.metrics("one") == place.metrics(other), "{other}: other metrics");
        let model = |run: &str| place.bytes(&format!("{run}/final/model.safetensors"));
        assert!(model("one") == model(other), "{other}: another model");
    }
}

#[test]
fn a_run_goes_from_the_processor_to_the_gpu_and_back() {
    let Some(place) = gpu() else { return };
    place.books();
    let call = format!("pretrain {MODEL} --precision f32 --lr 3e-3 --max_steps 60 --save_every 20");
    place.run(&format!("{call} --device cpu --out stayed")).succeeds();
    // Asked to end, a run saves where it stands.
    let mut running = place.start(&format!("{call} --device cpu --out moved"));
    let metrics = place.path("moved/metrics.jsonl");
    running.until(|| lines(&metrics) >= 15);
    running.terminate();
    running.end();
    let mut running = place.start("pretrain --resume moved --device cuda");
    running.until(|| lines(&metrics) >= 35);
    running.terminate();
    running.end();
    assert!(lines(&metrics) < 60, "it was to be moved once more");
    place.run("pretrain --resume moved --device cpu").succeeds();
    overlay(&place, "stayed", "moved", FIRST_F32, F32);
}

#[test]
fn a_full_memory_halves_the_slab_and_changes_nothing_else() {
    let Some(place) = emulated() else { return };
    place.books();
    // Wide, so that the moments (0.9 MB of 1.7 MB that last) weigh something beside the activations of 512 tokens.
    let call = format!(
        "pretrain {SMALL} --precision f32 --lr 3e-3 --embed_dim 64 --hidden_dim 256 --max_steps 3 --device cuda"
    );
    let within = |bytes: &str, batch_and_out: &str| {
        run_under(
            &place,
            "HEADSTART_EMULATOR_MEMORY",
            bytes,
            &format!("{call} --train_batch_size {batch_and_out}"),
        )
    };
    place.run(&format!("{call} --train_batch_size 16 --out roomy")).succeeds();
    // Room for a whole batch's activations beside weights and gradients, but not with the moments as well (5.0 to 6.4 MB):
    // what lasts comes first, so the first step finds out, and the others have what they need.
    let narrow = within("5800000", "16 --out narrow");
    narrow.says(&["the GPU's memory is full"]);
    let (before, after) = narrow.stderr.split_once("step 1/3").unwrap();
    assert!(before.contains("memory is full") && !after.contains("memory is full"), "{}", narrow.stderr);
    overlay(&place, "roomy", "narrow", FIRST_F32, F32);
    // Where what lasts does not fit, be it all of it or the moments only, no smaller batch is tried or advised.
    for bytes in ["100000", "1300000"] {
        let none = within(bytes, "1 --out none");
        none.refuses(1, &["weights, gradients and the optimizer's moments need 2 MiB", "fix: "]);
        assert!(
            !none.stderr.contains("memory is full") && !none.stderr.contains("step 1/3"),
            "{}",
            none.stderr
        );
        std::fs::remove_dir_all(place.path("none")).unwrap();
    }
}

#[test]
fn a_step_without_a_finite_loss_is_skipped_as_on_the_processor() {
    let Some(place) = gpu() else { return };
    place.books();
    place.scores();
    place.run(&format!("pretrain {MODEL} --precision f32 --lr 3e-3 --max_steps 2 --out lm")).succeeds();
    for device in ["cpu", "cuda"] {
        let call = "finetune --model lm --data scores --problem regression --n_epochs 1 --lr 3e-3 --n_warmup 5 --precision f32";
        place.run(&format!("{call} --device {device} --out {device}")).succeeds();
    }
    let skipped = place.skipped("cuda");
    assert_eq!((skipped.len(), &skipped), (1, &place.skipped("cpu")));
    // The steps after it, too, are the processor's.
    let (cpu, cuda) = (losses(&place, "cpu"), losses(&place, "cuda"));
    let others = cpu.iter().zip(&cuda).filter(|(x, _)| x.is_finite());
    assert!(
        others.clone().count() == cpu.len() - 1 && others.clone().all(|(x, y)| (x - y).abs() <= F32 * x),
        "{cpu:?} {cuda:?}"
    );
}

#[test]
fn a_gpu_that_fails_ends_the_run_at_its_last_checkpoint() {
    let Some(place) = emulated() else { return };
    place.books();
    let call = format!("pretrain {MODEL} --precision f32 --lr 3e-3 --max_steps 20 --save_every 5");
    place.run(&format!("{call} --device cuda --out whole")).succeeds();
    // Somewhere in the middle; how many launches a step takes is not this test's business.
    let failed = run_under(
        &place,
        "HEADSTART_EMULATOR_FAIL_LAUNCH",
        "500",
        &format!("{call} --device cuda --out run"),
    );
    assert_eq!(failed.code, Some(1), "{}", failed.stderr);
    assert!(failed.stderr.contains("CUDA_ERROR_LAUNCH_FAILED"), "{}", failed.stderr);
    place.run("pretrain --resume run --device cuda").succeeds();
    assert!(
        place.metrics("whole") == place.metrics("run"),
        "continued, it is the run that nothing happened to"
    );
}

#[test]
fn tuning_evaluating_predicting_and_generating() {
    let Some(place) = gpu() else { return };
    place.books();
    place.topics();
    place
        .run(&format!(
            "pretrain {MODEL} --precision f32 --lr 3e-3 --arch gpt2 --max_steps 150 --device cpu --out lm"
        ))
        .succeeds();
    let steps = of_steps(25, 12);
    let tune = format!(
        "finetune --model lm --data topics --n_epochs 1 --max_steps {steps} --lr 3e-3 --n_warmup 5 --threads 1 --precision f32"
    );
    let updates = "--method lora --lora_targets all --lora_dropout 0.1";
    let tuned = "--lm_loss_coef 0.5 --adapters_dim 8";
    let mixed = "--head mlp --layer_mix --layer_drop 0.3 --pooling mean";
    let scaled = "--method ia3 --ia3_targets all";
    for (run, flags) in [("tuned", tuned), ("updated", updates), ("scaled", scaled), ("mixed", mixed)] {
        for device in ["cpu", "cuda"] {
            place.run(&format!("{tune} {flags} --device {device} --out {run}-{device}")).succeeds();
        }
        overlay(&place, &format!("{run}-cpu"), &format!("{run}-cuda"), FIRST_F32, F32);
    }

    let learn = "distill --teacher lm --data books --inputs lines --preset micro --embed_dim 48 --num_heads 2 \
                 --num_max_positions 32 --lr 3e-3 --max_steps 6 --train_batch_size 6 --threads 1 --precision f32 --layers 1:2,2:2 \
                 --relation_loss 1 --relation_heads 4";
    place.run("tokenizer train books/train.txt --vocab_size 90 --out own.json").succeeds();
    let own = learn.replace("--layers 1:2,2:2", "--tokenizer own.json --token_loss 0");
    let own = own.replace("--relation_loss 1 --relation_heads 4", "");
    for (run, call) in [("student", learn), ("own", &own)] {
        for device in ["cpu", "cuda"] {
            place.run(&format!("{call} --device {device} --out {run}-{device}")).succeeds();
        }
        overlay(&place, &format!("{run}-cpu"), &format!("{run}-cuda"), FIRST_F32, F32);
    }

    let metric = |device: &str| {
        let found = place.run(&format!("eval tuned-cpu --data topics --json --device {device}")).json();
        found["metrics"]["loss"].as_f64().unwrap_or_else(|| panic!("no loss in {found}"))
    };
    let (cpu, cuda) = (metric("cpu"), metric("cuda"));
    assert!((cpu - cuda).abs() <= 1e-5 * cpu.abs(), "{cpu} {cuda}");

    place.write("in.txt", "the old river\nthe small garden watches the green tower .\n\nthe quiet lake\n");
    let answers = |device: &str| {
        let done = place.run(&format!("predict tuned-cpu --input in.txt --device {device}"));
        done.json_lines()
    };
    for (cpu, cuda) in answers("cpu").iter().zip(&answers("cuda")) {
        assert_eq!(cpu["label"], cuda["label"]);
    }
    let text = |device: &str| {
        let call = format!("generate lm --max_new_tokens 20 --temperature 0 --device {device} --prompt");
        place.run_with(&call, "the old").succeeds().stdout.clone()
    };
    assert_eq!(text("cpu"), text("cuda"));
}
