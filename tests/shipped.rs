//! The model in the program: what it is taken for, and that everything works on it that works on a published one.
//!
//! Owns: what a user meets who names no model, or this one. Never: how good it is (docs/shipped-model.md).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

mod support;

use support::{Place, sentences};

const FEW: &str = "--max_steps 2 --n_warmup 1 --train_batch_size 4 --threads 2";

fn place() -> Place {
    let place = Place::new();
    place.topics();
    place
}

/// The unpacked folder.
fn unpacked(place: &Place) -> String {
    let folders = place.names("cache/hub");
    let folder = folders.iter().find(|name| name.starts_with("shipped-")).unwrap();
    format!("cache/hub/{folder}")
}

#[test]
fn who_names_no_model_starts_from_it_and_is_told() {
    let place = place();
    let done = place.run(&format!("finetune --data topics {FEW} --out tuned"));
    done.says(&["model: shipped, the one in this program"]);
    let page = String::from_utf8(place.bytes("tuned/report.html")).unwrap();
    assert!(page.contains("full, from shipped") || page.contains("shipped"), "{page}");
    let answer = place.feed("predict tuned", b"the old river\n").json();
    assert!(["water", "land"].contains(&answer["label"].as_str().unwrap()), "{answer}");
    // Named, it is the same run; begun afresh, another.
    place.run(&format!("finetune --model shipped --data topics {FEW} --out named")).succeeds();
    place.run(&format!("finetune --from_scratch --data topics {FEW} --out afresh")).succeeds();
    let weights = |run: &str| place.bytes(&format!("{run}/final/model.safetensors"));
    assert!(weights("tuned") == weights("named") && weights("tuned") != weights("afresh"));
    // A run that goes on has its own weights, and a bag of words needs none.
    place.run("finetune --resume tuned").succeeds();
    let bow = place.run("finetune --data topics --method bow --out bow");
    assert!(bow.succeeds().stderr.lines().all(|line| !line.contains("shipped")), "{}", bow.stderr);
}

/// Its own sizes and pieces are timed, not the tutorial's, whose vocabulary would have to be downloaded.
#[test]
fn fine_tuning_of_it_is_timed_with_its_own_sizes() {
    let place = place();
    let call = "bench finetune --data topics --batch 2 --steps 1 --warmup 1 --precision f32";
    let flops = |found: &serde_json::Value| {
        found["gflops"].as_f64().unwrap() * found["tokens"].as_f64().unwrap()
            / found["tokens_per_s"].as_f64().unwrap()
    };
    place.run("tokenizer train starter --vocab_size 600 --out tok.json").succeeds();
    let own = place.run(&format!("{call} --model shipped --json")).json();
    let small = place.run(&format!("{call} --preset micro --tokenizer tok.json --json")).json();
    assert!(flops(&own) > 20.0 * flops(&small), "{own} {small}");
    assert_eq!((&own["preset"], &small["preset"]), (&serde_json::Value::Null, &"micro".into()));
    place.run(&format!("{call} --model shipped --preset micro")).refuses(2, &["--model", "leave one out"]);
    place.run("bench train --model shipped").refuses(2, &["--model shipped", "bench finetune"]);
}

#[test]
fn a_folder_of_its_name_comes_first_and_a_damaged_copy_is_mended() {
    let place = place();
    place.run(&format!("finetune --data topics {FEW} --out tuned")).succeeds();
    let folder = unpacked(&place);
    let weights = format!("{folder}/model.safetensors");
    let whole = place.bytes(&weights);
    place.write(&weights, &whole[..1000]);
    place.run(&format!("finetune --data topics {FEW} --out again")).succeeds();
    assert!(place.bytes(&weights) == whole);
    let final_weights = |run: &str| place.bytes(&format!("{run}/final/model.safetensors"));
    assert!(final_weights("tuned") == final_weights("again"));
    place.write("shipped/readme.txt", "mine");
    place.run(&format!("finetune --model shipped --data topics {FEW} --out mine")).refuses(1, &["shipped"]);
}

#[test]
fn it_is_described_and_its_vectors_tell_likeness() {
    let place = place();
    let listed = place.run("models list --json").json_lines();
    assert_eq!((&listed[0]["name"], &listed[0]["family"]), (&"shipped".into(), &"electra".into()));
    let shown = place.run("models show shipped --json").json();
    assert!(shown["card"].as_str().unwrap().contains("all-MiniLM-L6-v2"), "{shown}");
    assert_eq!(shown["sha256"].as_str().unwrap().len(), 64, "{shown}");
    let texts = "A man plays a guitar.\nSomeone is playing an instrument.\nThe price of wheat fell again.\n";
    let lines = place.feed("features shipped", texts.as_bytes()).json_lines();
    let vectors: Vec<Vec<f64>> = lines
        .iter()
        .map(|line| line["embedding"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect())
        .collect();
    let likeness = |a: &[f64], b: &[f64]| {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    };
    let (near, far) = (likeness(&vectors[0], &vectors[1]), likeness(&vectors[0], &vectors[2]));
    assert!(vectors[0].len() == 256 && near > far + 0.2, "{near} {far}");
}

#[test]
fn what_works_on_published_models_works_on_it() {
    let place = place();
    place.write("books/train.txt", sentences(1, 100));
    place.write("books/valid.txt", sentences(2, 20));
    place.run(&format!("finetune --data topics --method lora {FEW} --out lora")).succeeds();
    place.feed("predict lora/final/adapter --base shipped", b"the old river\n").succeeds();
    place.run("export lora --to peft --base shipped --output peft").succeeds();
    place.run("export lora --to hf --output hf").succeeds();
    assert_eq!(place.json_file("hf/config.json")["model_type"], "electra");
    place.run("finetune --data topics --method features --out features").succeeds();
    let more = "--data books --block_size 16";
    place.run(&format!("pretrain --from shipped {more} {FEW} --out more")).succeeds();
    place.run(&format!("finetune --model more --data topics {FEW} --out adapted")).succeeds();
    place.run("plan finetune --model shipped --examples 100").succeeds();
}
