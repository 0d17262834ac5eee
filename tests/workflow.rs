//! The tutorial's workflow from text to answers: every objective and method on small data, and what is promised of
//! the results: which parameters change, which bits do not depend on how a run was computed, what a run leaves.
//!
//! Owns: the workflow as a user runs it. Never: interruptions (resume.rs), mistakes (bad_input.rs).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::{Done, Place, TRUNK, metric, trunks};

/// The shared place, and one of its own for what a test writes.
fn places() -> (&'static Place, Place) {
    (trunks("workflow"), Place::new())
}

/// A path below the shared place.
fn shared(name: &str) -> String {
    trunks("workflow").path(name).to_str().unwrap().to_owned()
}

/// Settings of a short fine-tuning on the topics.
fn tune(place: &Place, trunk: &str, flags: &str, out: &str) -> Done {
    let call = format!("finetune --model {} --data {} --json --max_norm 1", shared(trunk), shared("topics"));
    let usual = [("--lr", "5e-3"), ("--n_epochs", "4"), ("--n_warmup", "5")];
    let usual = usual.iter().filter(|(flag, _)| !flags.contains(flag));
    let usual: String = usual.map(|(flag, value)| format!("{flag} {value} ")).collect();
    let done = place.run(&format!("{call} {usual} {flags} --out {out}"));
    done.succeeds();
    done
}

/// Mean training loss of the first and of the last `n` steps.
fn fall(place: &Place, run: &str, n: usize) -> (f64, f64) {
    let losses: Vec<f64> = place
        .metrics(run)
        .iter()
        .filter(|(_, kind, _)| *kind == "train")
        .map(|(_, _, values)| f64::from_bits(values.iter().find(|(name, _)| name == "loss").unwrap().1))
        .collect();
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    (mean(&losses[..n]), mean(&losses[losses.len() - n..]))
}

#[test]
fn pretraining_learns_and_leaves_a_whole_run_folder() {
    let place = trunks("workflow");
    for run in ["lm", "mlm", "naacl2019"] {
        let (first, last) = fall(place, run, 5);
        assert!(first > 4.0 && last < 0.8 * first, "{run}: {first} -> {last}");

        let there = place.names(run);
        for name in
            ["config.toml", "command.txt", "environment.json", "metrics.jsonl", "train.log", "tensorboard"]
        {
            assert!(there.contains(&name.to_owned()), "{run} has no {name}: {there:?}");
        }
        let model = ["README.md", "config.json", "model.safetensors", "tokenizer.json"];
        assert_eq!(place.names(&format!("{run}/final")), model);
        let best = &place.json_file(&format!("{run}/checkpoints/best.json"))["best"];
        let best = format!("step-{:08}", best["step"].as_u64().unwrap());
        assert_eq!(
            place.names(&format!("{run}/checkpoints/{best}")),
            [
                "config.json",
                "model.safetensors",
                "optimizer.safetensors",
                "tokenizer.json",
                "trainer_state.json"
            ]
        );
        let command = String::from_utf8(place.bytes(&format!("{run}/command.txt"))).unwrap();
        assert!(command.contains("pretrain --objective ") && command.contains(run), "{command}");
        let data = &place.json_file(&format!("{run}/environment.json"))["data"]["data"];
        assert!(data.as_str().is_some_and(|path| Path::new(path).is_absolute() && path.ends_with("books")));
        if place.path(run).join("report.html").exists() {
            let report = String::from_utf8(place.bytes(&format!("{run}/report.html"))).unwrap();
            assert!(!report.contains("http://") && !report.contains("https://"), "the report loads things");
        }
    }
}

#[test]
fn both_logs_hold_the_same_metrics() {
    let place = trunks("workflow");
    for run in ["lm", "mlm"] {
        let metrics = place.metrics(run);
        let flat: Vec<(u64, String, u32)> = metrics
            .iter()
            .flat_map(|(step, kind, values)| {
                let single = |bits: u64| (f64::from_bits(bits) as f32).to_bits();
                values.iter().map(move |(name, bits)| (*step, format!("{kind}/{name}"), single(*bits)))
            })
            .collect();
        assert_eq!(place.scalars(run), flat, "{run}");
        let steps: Vec<u64> = metrics.iter().filter(|f| f.1 == "train").map(|f| f.0).collect();
        assert_eq!(steps, (1..=steps.len() as u64).collect::<Vec<_>>(), "{run}: a line for every step");
        let evaluated: Vec<u64> = metrics.iter().filter(|f| f.1 == "valid").map(|f| f.0).collect();
        let epoch = steps.len() as u64 / 5;
        assert_eq!(evaluated, [1, 2, 3, 4, 5].map(|n| n * epoch), "{run}: one at the end of every epoch");
    }
}

#[test]
fn evaluating_a_trunk_gives_the_figures_of_its_run() {
    let (trunks, place) = places();
    for run in ["lm", "mlm"] {
        let metrics = trunks.metrics(run);
        let (_, _, logged) = metrics.iter().rfind(|f| f.1 == "valid").unwrap();
        let call = format!("eval {} --data {} --split valid --json", shared(run), shared("books"));
        let found = place.run(&call).json();
        assert!(logged.iter().any(|(name, _)| name == "nll"));
        assert_eq!(logged.iter().any(|(name, _)| name == "word_ppl"), run == "lm");
        for (name, bits) in logged {
            assert_eq!(metric(&found, name).to_bits(), *bits, "{run} {name}");
        }
        let train = place.run(&call.replace("valid", "train")).json();
        assert!((metric(&train, "nll") - metric(&found, "nll")).abs() > 0.0);
    }
}

#[test]
fn the_saved_settings_repeat_the_run() {
    let (trunks, place) = places();
    trunks.copy(&trunks.path("books"), place.path("books").to_str().unwrap());
    place.write("tok.json", trunks.bytes("tok.json"));
    place.run(&format!("pretrain --config {} --out again", shared("lm/config.toml"))).succeeds();
    assert_eq!(place.bytes("again/final/model.safetensors"), trunks.bytes("lm/final/model.safetensors"));
    assert_eq!(place.metrics("again"), trunks.metrics("lm"));
    let other = format!("pretrain --config {} --seed 43 --out other", shared("lm/config.toml"));
    place.run(&other).succeeds();
    assert_ne!(place.bytes("other/final/model.safetensors"), trunks.bytes("lm/final/model.safetensors"));
}

#[test]
fn the_starter_corpus_and_its_questions_work_from_end_to_end() {
    let place = Place::new();
    place.run("tokenizer train starter --vocab_size 600 --out tok.json").succeeds();
    let flags = "--tokenizer tok.json --preset micro --arch gpt2 --max_steps 30 --n_warmup 3 --lr 1e-2";
    place.run(&format!("pretrain --data starter {flags} --out trunk")).succeeds();
    let (first, last) = fall(&place, "trunk", 3);
    assert!(last < first - 0.3, "{first} -> {last}");
    let flags = "--data starter-questions --max_steps 10 --n_warmup 2 --json --out questions";
    let tuned = place.run(&format!("finetune --model trunk {flags}")).json();
    assert_eq!(tuned["labels"], serde_json::json!(["NUM", "LOC", "HUM", "DESC", "ENTY", "ABBR"]));
    let found = place.run("eval questions --data starter-questions --json").json();
    assert_eq!((&found["split"], &found["confusion"]), (&Value::from("test"), &tuned["confusion"]));
    assert_eq!(metric(&found, "accuracy").to_bits(), metric(&tuned, "test/accuracy").to_bits());
    assert_eq!(
        place.metrics("questions").iter().filter(|f| f.1 == "test").count(),
        1,
        "test is looked at once"
    );
}

/// Each way to fine-tune: the flags, the trunk, whether the trunk's own parameters stay as they are.
const METHODS: [(&str, &str, bool); 13] = [
    ("--method full", "lm", false),
    ("--method full", "mlm", false),
    ("--method head", "lm", true),
    ("--method adapters --adapters_dim 8", "mlm", true),
    ("--adapters_dim 8", "lm", false),
    ("--lm_loss_coef 0.5", "lm", false),
    ("--lm_loss_coef 0.5", "mlm", false),
    ("--from_scratch", "lm", false),
    ("--adapters_dim 8", "naacl2019", false),
    ("--method lora --lora_rank 4 --lora_targets all --lora_dropout 0.1", "naacl2019", true),
    ("--method ia3", "lm", true),
    ("--method adapters --adapters_kind pfeiffer --adapters_reduction 4", "mlm", true),
    ("--method adapters --adapters_kind parallel --adapters_activation relu", "naacl2019", true),
];

#[test]
fn every_method_trains_what_it_says_and_nothing_else() {
    let (trunks, place) = places();
    for (at, (flags, trunk, frozen)) in METHODS.into_iter().enumerate() {
        let run = format!("run{at}");
        let done = tune(&place, trunk, flags, &run);
        let result = done.json();
        let case = format!("{flags} on {trunk}: {}", done.stderr);
        let (before, after) = (
            trunks.tensors(&format!("{trunk}/final/model.safetensors")),
            place.tensors(&format!("{run}/final/model.safetensors")),
        );
        let kept = before.iter().filter(|(name, values)| after[*name] == **values).count();
        assert_eq!(kept == before.len(), frozen, "{case}");
        assert!(frozen || kept == 0, "{case}: {kept} of {} did not train", before.len());
        let new: Vec<&String> = after.keys().filter(|name| !before.contains_key(*name)).collect();
        assert!(new.iter().any(|name| name.contains("classification_head")), "{case}");
        assert_eq!(new.iter().any(|name| name.contains("adapter")), flags.contains("adapters"), "{case}");
        assert_eq!(new.iter().any(|name| name.contains("cls_offset")), frozen, "{case}");

        // How many parameters train is said, and is what was just seen.
        let all: usize = after.values().map(Vec::len).sum();
        let trained = if frozen { new.iter().map(|name| after[*name].len()).sum() } else { all };
        let said = format!("{all} parameters, {trained} train{}", if frozen { " (" } else { ";" });
        assert!(done.stderr.replace(',', "").contains(&said.replace(',', "")), "no `{said}` in {case}");
        if !flags.contains("scratch") {
            assert!(done.stderr.contains("parameters added to the pretrained model"), "{case}");
        }

        let (first, last) = fall(&place, &run, 3);
        assert!(last < first, "{case}: {first} -> {last}");
        if !frozen && !flags.contains("scratch") && trunk != "naacl2019" {
            assert!(metric(&result, "test/accuracy") > 0.8, "{case}: {result}");
        }
        let found = place.run(&format!("eval {run} --data {} --json", shared("topics"))).json();
        assert_eq!(
            metric(&found, "accuracy").to_bits(),
            metric(&result, "test/accuracy").to_bits(),
            "{case}"
        );
        // Of whole texts, also where the language model's loss hides tokens.
        let (here, there) = (metric(&found, "nll_clf"), metric(&result, "test/nll_clf"));
        assert!((here - there).abs() <= 1e-6 * there, "{case}: {here} {there}");
        assert_eq!(result["metrics"]["test/nll"].is_number(), flags.contains("lm_loss"), "{case}");
        let answers = place.feed(&format!("predict {run}"), b"the old harbour .\n").json();
        assert!(["water", "land"].contains(&answers["label"].as_str().unwrap()), "{case}");
    }
    // The language model is still in there, and can be measured.
    let call =
        |run: &str| format!("eval {run} --language_model --data {} --split valid --json", shared("books"));
    let kept = place.run(&call("run5")).json();
    assert!(metric(&kept, "nll") < 3.0, "{kept}");
}

#[test]
fn frozen_layer_norms_train_when_asked() {
    let (trunks, place) = places();
    tune(&place, "lm", "--method head --train_norms --max_steps 4", "run");
    let (before, after) =
        (trunks.tensors("lm/final/model.safetensors"), place.tensors("run/final/model.safetensors"));
    for (name, values) in &before {
        assert_eq!(after[name] != *values, name.contains("norm"), "{name}");
    }
}

#[test]
fn the_best_checkpoint_is_the_one_that_is_kept() {
    let (_, place) = places();
    // A rate so large that it does not only get better.
    let flags = "--lr 0.05 --n_epochs 2 --eval_every 3 --keep 1";
    let result = tune(&place, "lm", flags, "run").json();
    let best = &place.json_file("run/checkpoints/best.json")["best"];
    assert_eq!(best["value"].as_f64(), Some(metric(&result, "valid/accuracy")));
    let folder = format!("run/checkpoints/step-{:08}", best["step"].as_u64().unwrap());
    assert_eq!(
        place.tensors("run/final/model.safetensors"),
        place.tensors(&format!("{folder}/model.safetensors"))
    );
    let accuracies: Vec<f64> = place
        .metrics("run")
        .iter()
        .filter(|f| f.1 == "valid")
        .map(|f| f64::from_bits(f.2.iter().find(|(name, _)| name == "accuracy").unwrap().1))
        .collect();
    assert_eq!(best["value"].as_f64(), accuracies.iter().copied().reduce(f64::max));
    // With --keep 1: the newest, and the best when that is another.
    assert!(place.names("run/checkpoints").iter().filter(|name| name.starts_with("step-")).count() <= 2);

    let patience = "--lr 1e-9 --n_epochs 50 --eval_every 2 --early_stopping 3";
    let stopped = tune(&place, "lm", patience, "early").json();
    assert_eq!(stopped["stopped"], "early_stopping");
    assert!(stopped["steps"].as_u64() < stopped["total_steps"].as_u64());
    assert!(place.path("early/final/model.safetensors").exists());
}

#[test]
fn marks_and_numbers_are_learned_from_tables_and_json() {
    let (_, place) = places();
    let mut draws = support::Draws::new(11);
    let (mut marks, mut json) = (String::from("text,label\n"), String::new());
    for _ in 0..120 {
        let (text, water) = support::sentence(&mut draws);
        let mut on = vec![if water { "water" } else { "land" }];
        on.extend(text.contains("old").then_some("aged"));
        marks += &format!("{text},{}\n", on.join("|"));
        let score = if water { 1.5 } else { -0.5 };
        json += &format!("{}\n", serde_json::json!({"text": text, "score": score}));
    }
    place.write("marks.csv", marks);
    place.write("scores.jsonl", json);
    let call =
        format!("finetune --model {} --n_epochs 12 --lr 5e-3 --n_warmup 5 --max_norm 1 --json", shared("lm"));

    let flags = "--data marks.csv --problem multi-label --out marks";
    let result = place.run(&format!("{call} {flags}")).json();
    assert!(metric(&result, "valid/micro_f1") > 0.8, "{result}");
    assert_eq!(result["labels"].as_array().unwrap().len(), 3);
    let answer = place.feed("predict marks", b"the old harbour guards the old river .\n").json();
    assert!(answer["label"].as_str().unwrap().contains("water"), "{answer}");
    for (name, p) in answer["probabilities"].as_object().unwrap() {
        assert!((0.0..=1.0).contains(&p.as_f64().unwrap()), "{name}");
    }
    let found = place.run("eval marks --data marks.csv --json").json();
    assert!(metric(&found, "micro_f1") > 0.8, "{found}");

    let flags = "--data scores.jsonl --label_column score --problem regression --pooling mean --out scores";
    let result = place.run(&format!("{call} {flags}")).json();
    assert!(metric(&result, "valid/pearson") > 0.8 && metric(&result, "valid/mse") < 0.5, "{result}");
    let answers = place.feed("predict scores", b"the old harbour .\nthe old tower .\n").json_lines();
    let number = |at: usize| answers[at]["label"].as_f64().unwrap();
    assert!(number(0) > number(1), "{answers:?}");
    assert!(answers[0].get("probabilities").is_none(), "{answers:?}");
    // A table's header in what is read as lines is answered like any line, and told of.
    let piped = place.feed("predict scores", b"text,score\nthe old harbour .,1.5\n");
    assert!(piped.json_lines().len() == 2);
    piped.says(&["the first line, `text,score`, looks like a table's header", "fix: --input_format csv"]);
    let lines = place.feed("predict scores", b"the text, and the score\n");
    assert!(!lines.stderr.contains("header"), "{}", lines.stderr);
    place.run("eval scores --data scores.jsonl --label_column score --json").json();
}

/// What a pair is classified as lies in its second text, and which text is the second one matters.
#[test]
fn pairs_of_texts_are_learned_and_answered() {
    let (_, place) = places();
    let mut draws = support::Draws::new(13);
    let mut rows = String::from("index\tbefore\tafter\tQuality\n");
    for at in 0..160 {
        let ((first, _), (second, water)) = (support::sentence(&mut draws), support::sentence(&mut draws));
        rows += &format!("{at}\t{first}\t\"{second}\t{}\n", i32::from(water));
    }
    place.write("pairs.tsv", &rows);
    let call =
        format!("finetune --model {} --n_epochs 12 --lr 5e-3 --n_warmup 5 --max_norm 1 --json", shared("lm"));
    let flags = "--data pairs.tsv --text_column before,after --out pairs";
    let result = place.run(&format!("{call} {flags}")).json();
    assert!(metric(&result, "valid/accuracy") > 0.8 && metric(&result, "valid/f1/1") > 0.7, "{result}");
    // Its columns are remembered, in both formats.
    let found = place.run("eval pairs --data pairs.tsv --json").json();
    assert!(metric(&found, "accuracy") > 0.8, "{found}");
    let (water, land) = ("the old harbour guards the old river .", "the old tower guards the old hill .");
    let lines = format!("{land}\t\"{water}\n{water}\t\"{land}\n{land}\n");
    let answers = place.feed("predict pairs/final --with_text", lines.as_bytes()).json_lines();
    assert_eq!((&answers[0]["label"], &answers[1]["label"]), (&"1".into(), &"0".into()), "{answers:?}");
    assert_eq!(
        (&answers[0]["text_a"], answers[1]["text_b"].as_str()),
        (&land.into(), Some(&*format!("\"{land}")))
    );
    assert!(answers[2]["error"].as_str().unwrap().contains("0 tabs"), "{answers:?}");
    let object = serde_json::json!({"after": format!("\"{water}"), "before": land});
    let answer = place.feed("predict pairs --input_format jsonl", object.to_string().as_bytes()).json();
    assert_eq!(answer["probabilities"], answers[0]["probabilities"], "{answer}");
    place.write("other.csv", format!("a,b\n{land},\"\"\"{water}\"\n"));
    place
        .run("predict pairs --input other.csv")
        .refuses(1, &["no text column `before`; the columns are a, b"]);
    let answer = place.run("predict pairs --input other.csv --text_column a,b").json();
    assert_eq!(answer["probabilities"], answers[0]["probabilities"], "{answer}");

    // A model knows that it reads pairs, also where its run is not.
    place.copy(&place.path("pairs/final"), "alone");
    let answer = place.feed("predict alone", format!("{land}\t\"{water}\n").as_bytes()).json();
    assert_eq!(answer["probabilities"], answers[0]["probabilities"], "{answer}");
    place.run("predict alone --input other.csv").refuses(1, &["no two columns look like a pair of texts"]);
    let one = ["the model was trained on pairs of texts", "--text_column sentence1,sentence2"];
    place.run("predict alone --input other.csv --text_column a").refuses(2, &one);
    place.run("eval alone --data pairs.tsv --text_column after").refuses(2, &one);

    // By their usual names they are found, and kept.
    place.write("found.tsv", rows.replace("before", "sentence1").replace("after", "sentence2"));
    let calls = ["--max_steps 1 --out found", "--config listed.toml --max_steps 1 --out listed"];
    place.write("listed.toml", "[data]\ntext_column = [\"sentence1\", \"sentence2\"]\n");
    for call in calls {
        let said = place.run(&format!("finetune --model {} --data found.tsv {call}", shared("lm")));
        said.succeeds().says(&["pairs of texts in columns `sentence1` and `sentence2`, label in `Quality`"]);
    }
    for run in ["found", "listed"] {
        let saved = fs::read_to_string(place.path(&format!("{run}/config.toml"))).unwrap();
        assert!(
            saved.contains("text_column = [\"sentence1\", \"sentence2\"]")
                || saved.contains("    \"sentence2\",\n]"),
            "{saved}"
        );
    }
    assert_eq!(place.bytes("found/final/model.safetensors"), place.bytes("listed/final/model.safetensors"));
}

#[test]
fn a_model_computes_in_the_precision_that_it_was_trained_in() {
    let (_, place) = places();
    tune(&place, "lm", "--precision bf16", "bf16");
    let answers = |model: &str, flags: &str| {
        place.feed(&format!("predict {model} {flags}"), b"the old harbour guards the small river .\n").json()
    };
    // Where the machine is slower with it, in f32.
    let faster = place.run("doctor --json").json()["precision"].as_str().unwrap().to_owned();
    let [own, fast, bf16, f32] =
        ["", &format!("--precision {faster}"), "--precision bf16", "--precision f32"]
            .map(|flags| answers("bf16", flags));
    assert!(own == fast && bf16 != f32, "{own} {fast} {f32}");
    let data = shared("topics");
    let found = place.run(&format!("eval bf16 --data {data} --precision bf16 --json")).json();
    let told = place.json_file("bf16/summary.json");
    assert_eq!(
        found["metrics"]["loss"], told["metrics"]["test/loss"],
        "what it was told to be when it was trained"
    );
    // Wherever it goes.
    place.copy(&place.path("bf16/final"), "elsewhere");
    assert_eq!(answers("elsewhere", ""), own);
    tune(&place, "lm", "--precision f32", "f32");
    assert_eq!(answers("f32", ""), answers("f32", "--precision f32"));
    // What nobody names is settled when a run begins.
    tune(&place, "lm", "--max_steps 2", "open");
    let settings = String::from_utf8(place.bytes("open/config.toml")).unwrap();
    assert!(settings.contains(&format!("precision = \"{faster}\"")), "{settings}");
}

#[test]
fn no_epochs_only_evaluate() {
    let (_, place) = places();
    let call = format!("--data {} --tokenizer {} --preset micro", shared("books"), shared("tok.json"));
    let result = place.run(&format!("pretrain {call} --n_epochs 0 --json --out p")).json();
    assert_eq!((&result["steps"], &result["final_dir"]), (&Value::from(0), &Value::Null));
    assert!(metric(&result, "valid/nll") > 4.0, "{result}");
    let kinds: Vec<&str> = place.metrics("p").iter().map(|f| f.1).collect();
    assert_eq!(kinds, ["valid"]);
    assert!(place.names("p/checkpoints").is_empty());

    let call = format!("--model {} --data {} --json", shared("lm"), shared("topics"));
    let result = place.run(&format!("finetune {call} --n_epochs 0 --out f")).json();
    assert!(metric(&result, "valid/accuracy") >= 0.0 && metric(&result, "test/accuracy") >= 0.0);
    let kinds: Vec<&str> = place.metrics("f").iter().map(|f| f.1).collect();
    assert_eq!(kinds, ["valid", "test"]);
}

/// Runs the same call in several ways; all must end with the same weights and the same metrics.
fn same_bits(place: &Place, call: &str, ways: &[&str]) {
    let mut first: Option<(Vec<u8>, Vec<support::Metrics>)> = None;
    for (at, way) in ways.iter().enumerate() {
        let out = format!("way{at}-{}", place.names("").len());
        place.run(&format!("{call} {way} --out {out}")).succeeds();
        let found = (place.bytes(&format!("{out}/final/model.safetensors")), place.metrics(&out));
        match &first {
            None => first = Some(found),
            Some(first) => {
                assert!(first.0 == found.0, "{call}: other weights with {way}");
                assert_eq!(first.1, found.1, "{call}: other metrics with {way}");
            }
        }
    }
}

const THREADS: [&str; 3] = ["--threads 1", "--threads 2", "--threads 4"];
const SPLITS: [&str; 4] = [
    "--train_batch_size 8 --grad_accum_steps 1",
    "--train_batch_size 4 --grad_accum_steps 2",
    "--train_batch_size 2 --gradient_accumulation_steps 4 --threads 1",
    "--train_batch_size 1 --grad_accum_steps 8 --valid_batch_size 3",
];

#[test]
fn the_weights_depend_neither_on_threads_nor_on_how_a_batch_is_cut() {
    let (_, place) = places();
    // Long sequences, so that a batch is several slabs; odd sizes; dropout is on.
    let data = format!("--data {} --tokenizer {}", shared("books"), shared("tok.json"));
    let sizes = "--embed_dim 36 --hidden_dim 70 --num_heads 3 --num_layers 2 --num_max_positions 200";
    for flags in ["--objective lm", "--objective mlm --arch gpt2", "--objective lm --precision bf16"] {
        let call = format!("pretrain {data} {sizes} {flags} --max_steps 3 --lr 1e-2 --n_warmup 1");
        same_bits(&place, &call, &THREADS);
        same_bits(&place, &call, &SPLITS);
    }
}

#[test]
fn fine_tuned_weights_depend_neither_on_threads_nor_on_how_a_batch_is_cut() {
    let (_, place) = places();
    // 32 texts of different lengths to a batch.
    for (flags, trunk) in [("--lm_loss_coef 0.5 --adapters_dim 6", "lm"), ("--lm_loss_coef 0.5", "mlm")] {
        let call = format!("finetune --model {} --data {} {flags}", shared(trunk), shared("topics"));
        let call = format!("{call} --max_steps 3 --lr 1e-2 --n_warmup 1 --eval_every 2");
        same_bits(
            &place,
            &call,
            &THREADS.map(|t| format!("{t} --grad_accum_steps 2")).each_ref().map(|s| &**s),
        );
        same_bits(&place, &call, &SPLITS);
    }
}

#[test]
fn predictions_keep_the_order_of_the_lines_whatever_is_in_them() {
    let (_, place) = places();
    tune(&place, "lm", "", "run");
    let long = "the old harbour ".repeat(2_000);
    let mut texts: Vec<&str> =
        vec!["the old harbour .", "", "the green tower .", &long, " \t ", "\u{1F30A} [CLS] \u{0} <unk>"];
    // More than are classified at a time.
    let many: Vec<String> =
        (0..600).map(|seed| support::sentence(&mut support::Draws::new(seed)).0).collect();
    texts.extend(many.iter().map(String::as_str));
    let input = texts.join("\n");
    let done = place.feed("predict run --with_text", input.as_bytes());
    let answers = done.says(&["1 texts were longer than the model's positions and were cut"]).json_lines();
    let said: Vec<&str> = answers.iter().map(|answer| answer["text"].as_str().unwrap()).collect();
    assert_eq!(said, texts);
    for answer in &answers {
        let probabilities = answer["probabilities"].as_object().unwrap();
        let keys: Vec<&String> = probabilities.keys().collect();
        assert_eq!(keys.len(), 2);
        let sum: f64 = probabilities.values().map(|p| p.as_f64().unwrap()).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{answer}");
        let best = probabilities[answer["label"].as_str().unwrap()].as_f64().unwrap();
        assert!(probabilities.values().all(|p| p.as_f64().unwrap() <= best), "{answer}");
    }
    assert_eq!(answers[3]["truncated"], true);
    assert_eq!(answers.iter().filter(|answer| answer.get("truncated").is_some()).count(), 1);
    assert_eq!(answers[0]["label"], "water");
    assert_eq!(answers[2]["label"], "land");

    // A line alone gets the answer it gets among others, up to rounding.
    let alone = place.feed("predict run --with_text", texts[8].as_bytes()).json();
    let (alone, among) = (&alone["probabilities"], &answers[8]["probabilities"]);
    assert!((alone["water"].as_f64().unwrap() - among["water"].as_f64().unwrap()).abs() < 1e-5);
    assert_eq!(place.feed("predict run", b"").json_lines(), Vec::<Value>::new());

    // From a file, and from everything that may be named as the model.
    place.write("in.txt", texts[..3].join("\r\n"));
    let expected: Vec<&Value> = answers[..3].iter().map(|answer| &answer["probabilities"]).collect();
    let checkpoint = place.names("run/checkpoints").into_iter().rfind(|n| n.starts_with("step-")).unwrap();
    let checkpoint = format!("run/checkpoints/{checkpoint}");
    let mut first: Option<Vec<Value>> = None;
    for model in ["run", "run/final", "run/", &checkpoint] {
        let found = place.run(&format!("predict {model} --input in.txt --threads 1")).json_lines();
        for (found, expected) in found.iter().zip(&expected) {
            let close = |name: &str| {
                (found["probabilities"][name].as_f64().unwrap() - expected[name].as_f64().unwrap()).abs()
                    < 0.2
            };
            assert!(close("water") && close("land"), "{model}: {found} {expected}");
        }
        if model != checkpoint {
            assert_eq!(&found, first.get_or_insert_with(|| found.clone()), "{model}");
        }
    }
}

#[test]
fn generated_text_follows_from_prompt_and_seed() {
    let (_, place) = places();
    let trunk = shared("lm");
    let generate = |flags: &str, prompt: &str| {
        let call = format!("generate {trunk} --max_new_tokens 12 {flags} --prompt");
        place.run_with(&call, prompt).succeeds().stdout.clone()
    };
    let text = generate("--seed 1", "the old");
    assert!(text.starts_with("the old ") && text.len() > "the old ".len() + 10, "{text}");
    assert_eq!(text, generate("--seed 1 --threads 1", "the old"));
    assert_ne!(text, generate("--seed 2", "the old"));
    let safe = generate("--temperature 0 --seed 1", "the old");
    assert_eq!(safe, generate("--temperature 0 --seed 2", "the old"));
    assert_eq!(safe, generate("--top_k 1 --seed 3", "the old"));
    // What was learned: after a kind comes a thing, and only things do.
    let nouns = ["harbour", "river", "lake", "tower", "garden", "market"];
    let noun = safe.split_whitespace().nth(2).unwrap().trim_end_matches('.');
    assert!(nouns.contains(&noun), "{safe}");
    assert!(!generate("", "").trim().is_empty());
    let call = format!("generate {trunk} --max_new_tokens 3 --seed 1 --json --prompt");
    let found = place.run_with(&call, "the old").json();
    assert!(found.to_string().contains("the old"), "{found}");
    // Longer than the positions: it ends there.
    let most = place.run_with(&format!("generate {trunk} --max_new_tokens 1000 --prompt"), "the");
    assert!(most.succeeds().stdout.split_whitespace().count() <= 64, "{}", most.stdout);
}

#[test]
fn everything_that_may_be_named_as_the_model_can_be_fine_tuned() {
    let (trunks, place) = places();
    let checkpoints: Vec<String> =
        trunks.names("lm/checkpoints").into_iter().filter(|name| name.starts_with("step-")).collect();
    let newest = format!("lm/checkpoints/{}", checkpoints.last().unwrap());
    let runs: Vec<PathBuf> = ["lm", "lm/final", &newest]
        .iter()
        .enumerate()
        .map(|(at, model)| {
            tune(&place, model, "--max_steps 2", &format!("run{at}"));
            place.path(&format!("run{at}/final/model.safetensors"))
        })
        .collect();
    let bytes: Vec<Vec<u8>> = runs.iter().map(|run| std::fs::read(run).unwrap()).collect();
    assert!(bytes[0] == bytes[1] && bytes[0] == bytes[2]);
    // Once more, from a fine-tuned model to another task: its head is replaced, and that is said.
    place.write(
        "three.csv",
        "text,label\nthe old lake,a\nthe river,b\nthe tower,c\na lake,a\nriver,b\ntower,c\n",
    );
    let again = place.run("finetune --model run0 --data three.csv --n_epochs 1 --out again");
    again.says(&["parameters discarded from the pretrained model: classification_head"]);
    let log = String::from_utf8(place.bytes("again/train.log")).unwrap();
    assert!(log.contains("classification_head"), "{log}");
}

#[test]
fn a_second_start_does_not_tokenise_again() {
    let (trunks, place) = places();
    let call = format!("pretrain {TRUNK} --max_steps 1 --out");
    trunks.copy(&trunks.path("books"), place.path("books").to_str().unwrap());
    place.write("tok.json", trunks.bytes("tok.json"));
    let first = place.run(&format!("{call} one"));
    assert!(!first.says(&["train: 26,208 words"]).stderr.contains("from the cache"), "{}", first.stderr);
    place.run(&format!("{call} two")).says(&["26,208 tokens from the cache"]);
    assert_eq!(place.bytes("one/final/model.safetensors"), place.bytes("two/final/model.safetensors"));
}

#[test]
fn the_texts_of_a_table_are_learned_as_the_same_lines_of_a_text_are() {
    let (trunks, place) = places();
    let mut draws = support::Draws::new(17);
    let (mut text, mut table) = (String::new(), String::from("id,review,stars\n"));
    for at in 0..300 {
        let (sentence, _) = support::sentence(&mut draws);
        text += &format!("{sentence} so\n");
        table += &format!("{at},\"{sentence}\n  so\",{}\n", at % 5);
    }
    for (name, content) in [("texts/train.txt", text.clone()), ("tables/train.csv", table.clone())] {
        fs::create_dir_all(place.path(name).parent().unwrap()).unwrap();
        place.write(name, content);
    }
    place.write("tok.json", trunks.bytes("tok.json"));
    let sizes =
        "--embed_dim 16 --hidden_dim 32 --num_heads 2 --num_layers 1 --num_max_positions 16 --max_steps 2";
    for (data, out) in [("texts", "of-text"), ("tables", "of-table"), ("tables/train.csv", "of-file")] {
        let done = place.run(&format!("pretrain --data {data} --tokenizer tok.json {sizes} --out {out}"));
        assert_eq!(
            done.stderr.contains("train: the texts in `review` of "),
            out != "of-text",
            "{}",
            done.stderr
        );
        assert_eq!(
            place.bytes("of-text/final/model.safetensors"),
            place.bytes(&format!("{out}/final/model.safetensors"))
        );
    }
    place.run("tokenizer train texts --vocab_size 200 --out a.json").succeeds();
    let of_tables = place.run("tokenizer train tables --vocab_size 200 --out b.json");
    of_tables.says(&["the texts in `review` of "]);
    assert_eq!(place.bytes("a.json"), place.bytes("b.json"));
    let other = place.run(&format!(
        "pretrain --data tables --text_column id --tokenizer tok.json {sizes} --out of-numbers"
    ));
    other.says(&["train: the texts in `id` of "]);
    let encoder = "--arch bert --inputs pairs";
    let lone =
        place.run(&format!("pretrain --data tables --tokenizer tok.json {encoder} {sizes} --out lone"));
    lone.refuses(2, &["inputs", "one text in a row, `review`", "--inputs lines"]);
    let wrong = place
        .run(&format!("pretrain --data texts --text_column review --tokenizer tok.json {sizes} --out wrong"));
    wrong.refuses(2, &["text_column", "has no columns", "leave text_column out"]);
    assert!(!place.path("wrong/final").exists());
}
