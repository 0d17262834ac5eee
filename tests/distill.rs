//! `distill`: a student that learns is a trunk like others, and a run of it goes on like others.
//!
//! Owns: what a user of the command meets. Never: the loss (the goldens), ranks and GPUs (ranks.rs, cuda.rs).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

mod support;

use std::fs;

use support::published::folder;
use support::{ONE_STEP, Place, sentences, trunks};

/// A student half as wide as its teacher, which masks nothing.
const STUDENT: &str = "--data books --inputs lines --arch bert --embed_dim 16 --hidden_dim 32 --num_heads 2 --num_layers 2 \
                       --num_max_positions 32 --train_batch_size 8 --lr 1e-2 --n_warmup 2";

fn place() -> Place {
    let place = Place::new();
    place.topics();
    place.write("books/train.txt", sentences(1, 200));
    place.write("books/valid.txt", sentences(2, 20));
    folder(&place, "teacher", "bert_clf");
    place
}

#[test]
fn a_student_comes_nearer_to_its_teacher_and_is_a_trunk_then() {
    let place = place();
    let call = format!(
        "distill --teacher teacher {STUDENT} --label_loss 0 --layers 1:1,2:2 --max_steps 60 --eval_every 20"
    );
    let said = place.run(&format!("{call} --json --out run"));
    let result = said.json();
    for distance in ["valid/token_distance", "valid/sentence_distance"] {
        let found = result["metrics"][distance].as_f64().unwrap();
        assert!(found > 0.0 && found < 0.7, "{distance} {found}: 1 is where nothing is learned");
    }
    let loss = result["metrics"]["valid/loss"].as_f64().unwrap();
    let sum: f64 = ["valid/token_distance", "valid/sentence_distance"]
        .iter()
        .map(|distance| result["metrics"][distance].as_f64().unwrap())
        .sum();
    assert!((loss - sum).abs() < 1e-6 * sum, "{loss} {sum}");
    // What it learned with stays behind.
    let config = place.json_file("run/final/config.json");
    assert_eq!((&config["architectures"][0], &config["hidden_size"]), (&"BertModel".into(), &16.into()));
    let notes = place.json_file("run/final/headstart.json");
    assert_eq!(notes["head_defaults"]["pooling"], "mean", "{notes}");
    let card = String::from_utf8(place.bytes("run/final/README.md")).unwrap();
    assert!(card.contains("pipeline_tag: feature-extraction"), "{card}");
    place.run("finetune --model run --data topics --max_steps 3 --out tuned").succeeds();
    let answers = place.feed("predict tuned", b"the old river\n").json_lines();
    assert!(["water", "land"].contains(&answers[0]["label"].as_str().unwrap()), "{answers:?}");
    let vectors = place.feed("features run", b"the old river\n").json_lines();
    assert_eq!(vectors[0]["embedding"].as_array().unwrap().len(), 16);
}

#[test]
fn token_relations_come_nearer_with_as_many_heads_or_with_heads_of_their_own() {
    let place = place();
    let alone = "--token_loss 0 --sentence_loss 0 --label_loss 0 --json";
    // As many heads as the teacher has; or as many as divide both widths, and an earlier layer.
    for (number, (heads, width, flags)) in [
        ("3", "24", "--relation_loss 2"),
        ("2", "18", "--relation_loss 1 --relation_heads 9 --relation_layer 1"),
    ]
    .iter()
    .enumerate()
    {
        let student = STUDENT
            .replace("--embed_dim 16", &format!("--embed_dim {width}"))
            .replace("--num_heads 2", &format!("--num_heads {heads}"));
        let divergence = |steps: &str, run: &str| {
            let call = format!(
                "distill --teacher teacher {student} {alone} {flags} --max_steps {steps} --out {run}{number}"
            );
            let metrics = place.run(&call).json()["metrics"].clone();
            let [divergence, loss] = ["relation_divergence", "loss"]
                .map(|name| metrics[format!("valid/{name}")].as_f64().unwrap());
            let weight = if number == 0 { 2.0 } else { 1.0 };
            assert!((loss - weight * divergence).abs() < 1e-6 * loss, "{loss} {divergence}");
            divergence
        };
        let (early, late) = (divergence("1", "early"), divergence("60", "late"));
        assert!(late > 0.0 && late < 0.5 * early, "{flags}: {early} {late}");
    }
    let kept = std::fs::read_to_string(place.path("late1/config.toml")).unwrap();
    assert!(kept.contains("relation_heads = 9") && kept.contains("relation_layer = 1"), "{kept}");
    let config = place.json_file("late0/final/config.json");
    assert_eq!(config["num_attention_heads"], 3);
}

#[test]
fn a_student_with_a_vocabulary_of_its_own_learns_whole_inputs() {
    let lm = trunks("distill");
    let place = Place::new();
    let call = format!(
        "finetune --model {} --data {} --n_epochs 3 --lr 3e-3 --out teacher",
        lm.path("lm").display(),
        lm.path("topics").display()
    );
    place.run(&call).succeeds();
    place.write("texts/train.txt", sentences(3, 400));
    place.write("texts/valid.txt", sentences(4, 60));
    place.run("tokenizer train texts/train.txt --vocab_size 120 --out own.json").succeeds();
    let learn = "distill --teacher teacher --tokenizer own.json --data texts --inputs lines --preset micro --embed_dim 24 \
                 --num_heads 2 --token_loss 0 --dropout 0.05 --lr 1e-2 --n_warmup 5 --train_batch_size 8 --n_epochs 4";
    let whole = place.run(&format!("{learn} --json --save_every 20 --out whole")).json();
    let metric = |name: &str| whole["metrics"][format!("valid/{name}")].as_f64().unwrap();
    assert!(metric("label_agreement") > 0.8, "{whole}");
    assert!(metric("sentence_distance") < 0.7, "{whole}");
    // What was stopped goes on, reading the text in both models' pieces.
    place.run(&format!("{learn} --save_every 20 --max_steps 30 --out run")).succeeds();
    let stopped = place.run(&format!("{learn} --save_every 20 {ONE_STEP} --json --out stopped")).json();
    assert_eq!(stopped["stopped"], "max_time");
    place.run("distill --resume stopped --max_time 1000").succeeds();
    let weights = |run: &str| place.bytes(&format!("{run}/final/model.safetensors"));
    assert!(weights("whole") == weights("stopped") && weights("whole") != weights("run"));
    assert_eq!(place.metrics("whole"), place.metrics("stopped"));
    // It answers from its own pieces alone.
    fs::remove_file(place.path("own.json")).unwrap();
    fs::remove_dir_all(place.path("teacher")).unwrap();
    let answers = place.feed("predict whole", b"the old river\n").json_lines();
    assert!(["water", "land"].contains(&answers[0]["label"].as_str().unwrap()), "{answers:?}");
}

#[test]
fn hidden_states_are_learned_across_vocabularies_where_pieces_end_together() {
    let lm = trunks("distill");
    let place = Place::new();
    place.write("texts/train.txt", sentences(3, 400));
    place.write("texts/valid.txt", sentences(4, 60));
    place.run("tokenizer train texts/train.txt --vocab_size 60 --out own.json").succeeds();
    let distance = |steps: &str, run: &str| {
        let call = format!(
            "distill --teacher {} --tokenizer own.json --data texts --inputs lines --preset micro --embed_dim 24 --num_heads 2 \
             --sentence_loss 0 --label_loss 0 --dropout 0 --lr 1e-2 --n_warmup 5 --train_batch_size 8 --max_steps {steps} --json --out {run}",
            lm.path("lm").display()
        );
        place.run(&call).json()["metrics"]["valid/token_distance"].as_f64().unwrap()
    };
    let (early, late) = (distance("1", "early"), distance("80", "late"));
    assert!(late < 0.7 * early, "{early} {late}");
}

#[test]
fn what_is_hidden_for_a_language_model_is_not_hidden_from_the_student_that_is_measured() {
    let place = place();
    // A student that is its teacher has the same relations between tokens.
    let call = "distill --teacher teacher --from teacher --data books --inputs lines --lm_loss 0.5 --label_loss 0 --token_loss 0 \
                --sentence_loss 0 --relation_loss 1 --precision f32 --n_epochs 0 --json --out same";
    let found = place.run(call).json();
    let metric = |name: &str| found["metrics"][name].as_f64().unwrap_or_else(|| panic!("no {name}: {found}"));
    let (divergence, nll) = (metric("valid/relation_divergence"), metric("valid/nll"));
    assert!(divergence.abs() < 1e-6 && nll > 1.0, "{found}");
    assert!((metric("valid/loss") - divergence - 0.5 * nll).abs() < 1e-6 * nll, "{found}");
}

#[test]
fn a_student_that_has_learned_begins_near_its_teacher() {
    let place = place();
    // It is its teacher, and only the linears between them are new.
    let call = "distill --teacher teacher --from teacher --data books --inputs lines --label_loss 0 --precision f32 --json";
    let distances = |flags: &str, run: &str| {
        let said = place.run(&format!("{call} {flags} --out {run}"));
        let found = said.json();
        let metric =
            |name: &str| found["metrics"][name].as_f64().unwrap_or_else(|| panic!("no {name}: {found}"));
        [metric("valid/token_distance"), metric("valid/sentence_distance")]
    };
    let solved = distances("--n_epochs 0", "solved");
    assert!(solved.iter().all(|&distance| distance < 0.02), "{solved:?}");
    let random = distances("--n_epochs 0 --linears random", "random");
    assert!(random.iter().all(|&distance| distance > 0.5), "{random:?}");
    // How they began is kept, and told.
    let kept = String::from_utf8(place.bytes("random/config.toml")).unwrap();
    assert!(kept.contains("linears = \"random\""), "{kept}");
    let told = String::from_utf8(place.bytes("solved/train.log")).unwrap();
    assert!(told.contains("the linears toward the teacher, solved on"), "{told}");
    // Ranks solve the same, and a run that goes on keeps what it has.
    distances("--max_steps 6 --train_batch_size 8 --lr 1e-4", "whole");
    let call = format!("{call} --max_steps 6 --train_batch_size 8 --lr 1e-4");
    place.run(&format!("launch --nproc 2 -- {call} --out ranks")).succeeds();
    assert_eq!(place.metrics("whole"), place.metrics("ranks"));
    let stopped = format!("{call} {ONE_STEP} --out run");
    assert_eq!(place.run(&stopped).json()["stopped"], "max_time");
    place.run("distill --resume run --max_time 1000").succeeds();
    assert_eq!(place.metrics("whole"), place.metrics("run"));
}

#[test]
fn a_run_that_was_stopped_goes_on_with_the_same_bits_and_the_same_teacher() {
    let place = place();
    let call = format!(
        "distill --teacher teacher {STUDENT} --lm_loss 0.5 --relation_loss 1 --relation_heads 1 --dropout 0.1 --max_steps 40 \
         --save_every 3"
    );
    place.run(&format!("{call} --out whole")).succeeds();
    let stopped = place.run(&format!("{call} {ONE_STEP} --json --out run")).json();
    assert_eq!(stopped["stopped"], "max_time");
    // Another teacher is none to go on with.
    place.copy(&place.path("teacher"), "kept");
    let stored = place.path("teacher/model.safetensors");
    let mut bytes = fs::read(&stored).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    fs::write(&stored, bytes).unwrap();
    place.run("distill --resume run").refuses(2, &["teacher", "not those that the run began with", "fix: "]);
    fs::copy(place.path("kept/model.safetensors"), &stored).unwrap();
    place.run("distill --resume run --max_time 1000").succeeds();
    assert_eq!(place.metrics("whole"), place.metrics("run"));
    let weights = |run: &str| place.bytes(&format!("{run}/final/model.safetensors"));
    assert!(weights("whole") == weights("run"));
}

#[test]
fn a_classifier_teaches_its_answers_on_text_without_labels() {
    let place = place();
    let lm = trunks("distill");
    let topics = lm.path("topics");
    // A decoder, whose classifier reads a [CLS] at the end.
    let call = format!(
        "finetune --model {} --data {} --n_epochs 3 --lr 3e-3 --out teacher2",
        lm.path("lm").display(),
        topics.display()
    );
    place.run(&call).succeeds();
    // Texts of the task, as nobody labelled them.
    let texts = sentences(3, 400);
    place.write("texts/train.txt", &texts);
    place.write("texts/valid.txt", sentences(4, 60));
    let call = "distill --teacher teacher2 --data texts --inputs lines --preset micro --embed_dim 24 --num_heads 2 \
                --token_loss 0 --sentence_loss 0 --dropout 0 --lr 1e-2 --n_warmup 5 --train_batch_size 8 --n_epochs 4 --out run";
    let result = place.run(&format!("{call} --json")).json();
    let agreement = result["metrics"]["valid/label_agreement"].as_f64().unwrap();
    let divergence = result["metrics"]["valid/label_divergence"].as_f64().unwrap();
    assert!(agreement > 0.8 && divergence > 0.0 && divergence < 0.6, "{agreement} {divergence}");
    // It answers as its teacher does, with the teacher's words.
    let answers = |run: &str| place.feed(&format!("predict {run}"), sentences(5, 60).as_bytes()).json_lines();
    let (own, there) = (answers("run"), answers("teacher2"));
    let same = own.iter().zip(&there).filter(|(a, b)| a["label"] == b["label"]).count();
    assert!(own.len() == there.len() && 10 * same > 8 * own.len(), "{same} of {}", own.len());
    place
        .run("distill --teacher teacher2 --data texts --arch bert --preset micro --out other")
        .refuses(2, &["arch", "special tokens", "fix: "]);
}

#[test]
fn a_classifier_of_pairs_teaches_on_pairs() {
    let place = place();
    let (texts, others) = (sentences(3, 80), sentences(4, 80));
    let pairs: Vec<(&str, &str)> = texts.lines().zip(others.lines()).collect();
    let row = |(at, (a, b)): (usize, &(&str, &str))| format!("{a}\t{b}\t{}\n", ["no", "yes"][at % 2]);
    let rows: String = pairs.iter().enumerate().map(row).collect();
    place.write("pairs.tsv", format!("sentence1\tsentence2\tlabel\n{rows}"));
    place.run("finetune --model teacher --data pairs.tsv --max_steps 4 --out teacher2").succeeds();
    let call = format!("distill --teacher teacher2 {STUDENT} --token_loss 0 --sentence_loss 0 --max_steps 2");
    let call = call.replace("--data books --inputs lines", "--data pairs.tsv");
    place
        .run(&format!("{call} --inputs lines --label_loss 1 --out x"))
        .refuses(2, &["label_loss", "reads pairs of texts", "--inputs pairs"]);
    place.run(&format!("{call} --inputs pairs --out run")).succeeds();
    // The student is a classifier of pairs with the teacher's words.
    let answers = place.feed("predict run", b"the barn\tthe waves\n").json_lines();
    assert!(["yes", "no"].contains(&answers[0]["label"].as_str().unwrap()), "{answers:?}");
    // A line without another is none of its inputs.
    place.write("odd/train.txt", "the barn\nthe waves\nalone\n");
    place
        .run(&format!("{call} --inputs pairs --out x").replace("pairs.tsv", "odd"))
        .refuses(2, &["1 of 2 inputs", "classifies pairs"]);
    // Where nothing says so, its labels are passed by, and that is said.
    let idle = format!("{call} --inputs lines --out idle").replace("--token_loss 0", "--token_loss 1");
    let said = place.run(&idle).succeeds().stderr.clone();
    assert!(said.contains("its labels are not learned") && said.contains("--inputs pairs"), "{said}");
}

#[test]
fn a_student_without_sizes_is_said_to_be_large() {
    let place = place();
    // It is said before what ends these calls early: heads that are not the teacher's.
    let call =
        "distill --teacher teacher --data books --label_loss 0 --relation_loss 1 --num_max_positions 16";
    let said = place.run(&format!("{call} --out run"));
    said.refuses(2, &["warning: the student has", "and its teacher", "--preset", "relation_heads"]);
    let said = place.run(&format!("{call} --preset micro --out run"));
    assert!(said.code == Some(2) && !said.stderr.contains("warning: the student"), "{}", said.stderr);
}

#[test]
fn what_cannot_be_learned_is_refused_before_there_is_a_run() {
    let place = place();
    let lm = trunks("distill");
    folder(&place, "trunk", "bert_mlm");
    fs::copy(lm.path("tok.json"), place.path("tok.json")).unwrap();
    for (flags, words) in [
        ("--data books", &["teacher", "no model is named", "--teacher minilm-l6"][..]),
        (
            "--teacher teacher --data books --token_loss 0 --sentence_loss 0 --label_loss 0",
            &["nothing is learned"],
        ),
        ("--teacher trunk --data books --token_loss 0 --sentence_loss 0", &["nothing is learned"]),
        ("--teacher trunk --data books --label_loss 1", &["label_loss", "no classifier"]),
        ("--teacher trunk --data books --temperature 0", &["temperature"]),
        ("--teacher teacher --data books --token_loss=-1", &["token_loss", "-1 is not a weight"]),
        (
            "--teacher trunk --data books --layers 1:3 --preset micro",
            &["layers", "layer 3 of the teacher", "it has 2"],
        ),
        (
            "--teacher trunk --data books --layers 9:1 --preset micro",
            &["layers", "layer 9 of the student", "it has 2"],
        ),
        ("--teacher trunk --data books --temperature 3", &["temperature", "label_loss, which is 0"]),
        (
            "--teacher teacher --data books --label_loss 0 --temperature 3",
            &["temperature", "label_loss, which is 0"],
        ),
        ("--teacher trunk --data books --mlm_probability 0.3", &["mlm_probability", "lm_loss, which is 0"]),
        ("--teacher trunk --data books --layers 2:1,1:1", &["lowest first"]),
        ("--teacher teacher --data books --token_loss 0 --layers 1:1", &["layers", "token_loss"]),
        (
            "--teacher teacher --data books --tokenizer tok.json --preset micro",
            &["inputs", "vocabulary is not the student's", "--inputs lines"],
        ),
        (
            "--teacher trunk --data books --tokenizer tok.json --token_loss 0 --preset micro",
            &["inputs", "vocabulary is not the student's", "--inputs lines"],
        ),
        (
            "--teacher teacher --data books --tokenizer tok.json --token_loss 0 --relation_loss 1 --inputs lines",
            &["relation_loss", "vocabulary is not the student's", "the same tokens in both"],
        ),
        (
            "--teacher trunk --data books --relation_loss 1 --preset micro",
            &["relation_heads", "the student has 2 heads", "the teacher 3", "give another number, such as 1"],
        ),
        (
            "--teacher trunk --data books --relation_loss 1 --relation_heads 5 --preset micro",
            &["relation_heads", "5 heads do not divide"],
        ),
        (
            "--teacher trunk --data books --relation_loss 1 --relation_heads 1 --relation_layer 3 --preset micro",
            &["relation_layer", "layer 3 of the teacher", "it has 2"],
        ),
        ("--teacher trunk --data books --relation_heads 3", &["relation_heads", "relation_loss, which is 0"]),
        ("--teacher nowhere/at/all --data books", &["nowhere"]),
    ] {
        let done = place.run(&format!("distill {flags} --out run"));
        assert_ne!(done.code, Some(0), "{flags}");
        for word in words {
            assert!(done.stderr.contains(word), "{flags}: {word}: {}", done.stderr);
        }
        assert!(!place.path("run").exists(), "{flags}");
    }
}
