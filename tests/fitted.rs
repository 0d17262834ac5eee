//! Heads that are fitted and not trained: on a trunk as it is, on one that was tuned on pairs of a few examples; bags of words that tell
//! labels or numbers; and what is kept of texts that are too long.
//!
//! Owns: what a user gets of `--method features`, `--method contrastive`, `--method bow` beyond classes, `--shots` and `--truncation`. Never: what is computed
//! (`crates/headstart/tests/`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

mod support;

use support::{ONE_STEP, Place, as_two, metric, sentence, trunks};

/// A fine-tuning of the shared trunk on the shared topics, in a place of its own.
fn call(flags: &str) -> String {
    let shared = trunks("fitted").path("").to_str().unwrap().trim_end_matches('/').to_owned();
    let data = if flags.contains("--data") { String::new() } else { format!("--data {shared}/topics") };
    format!("finetune --model {shared}/lm {data} {flags}")
}

fn model(place: &Place, run: &str) -> Vec<u8> {
    place.bytes(&format!("{run}/final/model.safetensors"))
}

#[test]
fn a_frozen_trunk_runs_once_and_its_model_is_like_any_other() {
    let place = Place::new();
    let done = place.run(&call("--method features --json --out a"));
    let result = done.succeeds().json();
    assert!(metric(&result, "test/accuracy") > 0.9, "{result}");
    assert!(result["fitted"]["vectors_s"].is_number() && result["bow"].is_object(), "{result}");
    done.says(&["fitted in", "fine-tuning everything"]);
    // What `eval` computes is what the vectors gave.
    let topics = trunks("fitted").path("topics");
    let found = place.run(&format!("eval a --data {} --json", topics.display())).json();
    for name in ["accuracy", "loss", "macro_f1"] {
        let (here, there) = (metric(&found, name), metric(&result, &format!("test/{name}")));
        assert!((here - there).abs() < 1e-4, "{name}: {here}, {there}");
    }
    let answer = place.feed("predict a", b"the old harbour guards the small river .\n").json();
    assert_eq!(answer["label"], "water");
    place.run("export a --to hf --with-code --output exported").succeeds();
    assert!(place.path("a/report.html").exists() && place.path("a/metrics.jsonl").exists());
    // The trunk is the one it was.
    let (before, after) =
        (trunks("fitted").tensors("lm/final/model.safetensors"), place.tensors("a/final/model.safetensors"));
    let trunk = after.iter().filter(|(name, _)| name.starts_with("transformer."));
    assert!(trunk.into_iter().all(|(name, values)| before[name] == *values));
    // A second start finds the vectors, whatever the number of threads, and ends with the same bits.
    let again = place.run(&call("--method features --json --threads 3 --out b"));
    assert!(again.json()["fitted"].get("vectors_s").is_none());
    assert!(model(&place, "a") == model(&place, "b"));
    let alone = Place::new();
    alone.run(&call("--method features --threads 3 --out a")).succeeds();
    as_two(&alone, &call("--method features --out two"));
    for run in ["a", "two"] {
        assert!(model(&place, "a") == model(&alone, run), "{run}");
    }
    place.run("finetune --resume a").succeeds();
    assert!(model(&place, "a") == model(&place, "b"));
}

#[test]
fn vectors_are_of_any_pooling_and_tell_numbers_and_marks() {
    let place = Place::new();
    for pooling in ["last", "max", "cls+mean+max", "last+mean"] {
        let flags = format!("--method features --pooling {pooling} --json --out {pooling}");
        let result = place.run(&call(&flags)).succeeds().json();
        let width = 32 * pooling.split('+').count() as u64;
        assert_eq!(result["fitted"]["width"], width, "{pooling}");
        let topics = trunks("fitted").path("topics");
        let found = place.run(&format!("eval {pooling} --data {} --json", topics.display())).json();
        assert!((metric(&found, "loss") - metric(&result, "test/loss")).abs() < 1e-4, "{pooling}");
    }
    // A head over several poolings is trained like any other, too.
    let flags = "--pooling cls+mean --n_epochs 2 --lr 5e-3 --n_warmup 5 --json --out trained";
    let result = place.run(&call(flags)).succeeds().json();
    assert!(metric(&result, "test/accuracy") > 0.8, "{result}");
    let mut draws = support::Draws::new(11);
    let (mut marks, mut json) = (String::from("text,label\n"), String::new());
    for _ in 0..160 {
        let (text, water) = sentence(&mut draws);
        let mut on = vec![if water { "water" } else { "land" }];
        on.extend(text.contains("old").then_some("aged"));
        marks += &format!("{text},{}\n", on.join("|"));
        let score = if water { 1.5 } else { -0.5 };
        json += &format!("{}\n", serde_json::json!({"text": text, "score": score}));
    }
    place.write("marks.csv", marks);
    place.write("scores.jsonl", json);
    let flags = "--method features --data marks.csv --problem multi-label --json --out marks";
    let result = place.run(&call(flags)).succeeds().json();
    assert!(metric(&result, "valid/micro_f1") > 0.8, "{result}");
    // What a bag of words has of it stands beside it.
    let bar = &result["bow"];
    assert!(bar["metric"] == "micro_f1" && bar["valid"].as_f64().unwrap() > 0.8, "{bar}");
    assert!(bar.get("valid_accuracy").is_none() && bar["seconds"].as_f64().unwrap() > 0.0, "{bar}");
    let answer = place.feed("predict marks", b"the old harbour guards the old river .\n").json();
    assert!(answer["label"].as_str().unwrap().contains("water"), "{answer}");
    let flags =
        "--method features --data scores.jsonl --label_column score --problem regression --json --out scores";
    let result = place.run(&call(flags)).succeeds().json();
    assert!(metric(&result, "valid/pearson") > 0.8, "{result}");
    let bar = &result["bow"];
    assert!(bar["metric"] == "pearson" && bar["valid"].as_f64().unwrap() > 0.8, "{bar}");
}

/// The rows of each split with what `label` says of a sentence and of whether it is about water.
fn splits(place: &Place, folder: &str, label: impl Fn(&str, bool) -> serde_json::Value) {
    for (seed, name, rows) in [(21, "train", 160), (22, "valid", 40), (23, "test", 50)] {
        let mut draws = support::Draws::new(seed);
        let row = |_| {
            let (text, water) = sentence(&mut draws);
            format!("{}\n", serde_json::json!({"text": text, "label": label(&text, water)}))
        };
        place.write(&format!("{folder}/{name}.jsonl"), (0..rows).map(row).collect::<String>());
    }
}

/// The bar beside a transformer is this model, and whatever a transformer's run has, it has, too.
#[test]
fn a_bag_of_words_tells_labels_and_numbers_as_a_transformer_does() {
    let place = Place::new();
    splits(&place, "marks", |text, water| {
        let marks = [("water", water), ("old", text.contains("old")), ("never", false)];
        marks.into_iter().map(|(name, on)| (name, u8::from(on))).collect()
    });
    splits(&place, "scores", |text, water| {
        (f64::from(u8::from(water)) - 0.25 * text.matches("old").count() as f64).into()
    });
    for (data, problem, told) in [("marks", "multi-label", "micro_f1"), ("scores", "regression", "pearson")] {
        let flags = format!("--data {data} --problem {problem} --json");
        let beside = place.run(&call(&format!("--method features {flags} --out {data}-vectors"))).json();
        let fit = format!("finetune --method bow {flags}");
        let run = format!("{data}-words");
        let words = place.run(&format!("{fit} --out {run}")).succeeds().json();
        for split in ["valid", "test"] {
            assert_eq!(words["metrics"][format!("{split}/{told}")], beside["bow"][split], "{words}");
            assert!(metric(&words, &format!("{split}/{told}")) > 0.8, "{words}");
        }
        for part in ["metrics", "intervals", "examples"] {
            let names = |result: &serde_json::Value| -> Vec<String> {
                result[part].as_object().unwrap().keys().cloned().collect()
            };
            assert_eq!(names(&words), names(&beside), "{part}");
        }
        assert_eq!((&words["labels"], &words["support"]), (&beside["labels"], &beside["support"]));
        assert_eq!(words["evaluated"], beside["evaluated"]);
        assert_eq!(place.json_file(&format!("{run}/summary.json"))["metrics"], words["metrics"]);
        for split in ["valid", "test"] {
            let found = place.run(&format!("eval {run} --data {data} --split {split} --json")).json();
            for (name, value) in found["metrics"].as_object().unwrap() {
                assert_eq!(*value, words["metrics"][format!("{split}/{name}")], "{name}");
            }
        }
        let said = place.run(&format!("eval {run} --data {data}")).succeeds().stdout.clone();
        assert!(said.contains(told), "{said}");
        let page = String::from_utf8(place.bytes(&format!("{run}/report.html"))).unwrap();
        assert!(page.contains("strength") && page.contains(told), "{page}");
        let readme = String::from_utf8(place.bytes(&format!("{run}/final/README.md"))).unwrap();
        let how = if problem == "regression" { "Ridge" } else { "A logistic regression for each label" };
        assert!(readme.contains(how), "{readme}");

        // What was said of each test example, and is said of its text again, has the fields that a transformer's has.
        let lines = |run: &str| -> Vec<serde_json::Value> {
            let text = String::from_utf8(place.bytes(&format!("{run}/predictions.jsonl"))).unwrap();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        };
        let (own, others) = (lines(&run), lines(&format!("{data}-vectors")));
        assert_eq!((own.len(), others.len()), (50, 50));
        let texts: String = own.iter().map(|line| format!("{}\n", line["text"].as_str().unwrap())).collect();
        let answers = place.feed(&format!("predict {run}"), texts.as_bytes()).json_lines();
        let other = place.feed(&format!("predict {data}-vectors"), texts.as_bytes()).json_lines();
        let fields =
            |line: &serde_json::Value| -> Vec<String> { line.as_object().unwrap().keys().cloned().collect() };
        for (at, answer) in answers.iter().enumerate() {
            assert_eq!((fields(answer), fields(&own[at])), (fields(&other[at]), fields(&others[at])));
            assert_eq!((&own[at]["label"], &own[at]["text"]), (&others[at]["label"], &others[at]["text"]));
            if problem == "regression" {
                let [here, there] = [&answer["label"], &own[at]["predicted"]].map(|told| match told {
                    serde_json::Value::String(number) => number.parse::<f64>().unwrap(),
                    number => number.as_f64().unwrap(),
                });
                assert!((here - there).abs() < 1e-6, "{here} {there}");
            } else {
                assert_eq!(answer["label"], own[at]["predicted"]);
                assert_eq!(answer["probabilities"].as_object().unwrap().len(), 3);
            }
        }

        // The same bits again.
        place.run(&format!("{fit} --out again-{data} --threads 3")).succeeds();
        for name in ["vocabulary.json", "model.safetensors", "bag_of_words.json"] {
            let read = |run: &str| place.bytes(&format!("{run}/final/{name}"));
            assert_eq!(read(&run), read(&format!("again-{data}")), "{name}");
        }
    }
    place.run("eval scores-words --data marks").refuses(1, &["an object of marks"]);
}

/// How alike two texts are is a number of a pair.
#[test]
fn a_bag_of_words_tells_numbers_of_pairs() {
    let place = Place::new();
    let mut draws = support::Draws::new(31);
    let mut table = String::from("sentence1\tsentence2\tscore\n");
    for _ in 0..120 {
        let ((first, _), (second, water)) = (sentence(&mut draws), sentence(&mut draws));
        table += &format!("{first}\t{second}\t{}\n", if water { 4.5 } else { 0.5 });
    }
    place.write("pairs/train.tsv", &table);
    place.write("pairs/test.tsv", &table);
    let fit = "finetune --method bow --data pairs --problem regression --json --out words";
    let result = place.run(fit).succeeds().json();
    assert!(metric(&result, "test/pearson") > 0.5 && result["examples"]["test"] == 120, "{result}");
    let config = String::from_utf8(place.bytes("words/config.toml")).unwrap();
    assert!(config.contains("sentence2"), "{config}");
    let found = place.run("eval words --data pairs --json").json();
    assert_eq!(metric(&found, "spearman").to_bits(), metric(&result, "test/spearman").to_bits());
    let pair = b"the old tower .\tthe river guards the lake .\n";
    let [wet, dry] = [&pair[..], b"the old tower .\tthe garden guards the market .\n"].map(|pair| {
        let answer = place.feed("predict words/final", pair).json();
        assert!(answer["probabilities"].as_object().is_none_or(serde_json::Map::is_empty), "{answer}");
        answer["label"].as_f64().unwrap()
    });
    assert!(wet > dry + 1.0, "{wet} {dry}");
    place.write("one.csv", "text,score\nthe old tower,1\n");
    place.run("predict words/final --input one.csv --text_column text").refuses(2, &["pairs of texts"]);
    place.run("eval words --data one.csv --text_column text").refuses(2, &["pairs of texts"]);
}

/// Where one class is rare, weights that make up for it find more of it.
#[test]
fn a_rare_class_may_count_as_much_as_the_others() {
    let place = Place::new();
    let mut draws = support::Draws::new(5);
    let mut table = String::from("text,label\n");
    for row in 0..400 {
        let (text, water) = sentence(&mut draws);
        let rare = !water;
        // Half of what is rare is labelled as the other, so that nothing tells it for certain.
        let label = if rare && row % 10 == 0 { "land" } else { "water" };
        if !rare || row % 5 == 0 {
            table += &format!("{text},{label}\n");
        }
    }
    place.write("rare.csv", table);
    let recall = |method: &str, weights: &str| {
        let out = format!("{}-{weights}", method.split(' ').next().unwrap());
        let flags = format!("--method {method} --data rare.csv --class_weights {weights} --json --out {out}");
        place.run(&call(&flags)).succeeds();
        let topics = trunks("fitted").path("topics");
        let found = place.run(&format!("eval {out} --data {} --json", topics.display())).json();
        metric(&found, "recall/land")
    };
    let [alike, balanced] = ["none", "balanced"].map(|weights| recall("features", weights));
    assert!(balanced > alike, "{alike}, {balanced}");
    let pairs = "contrastive --pairs_per_text 1 --max_steps 2";
    let [alike, balanced] = ["none", "balanced"].map(|weights| recall(pairs, weights));
    assert!(balanced > alike, "{alike}, {balanced}");
}

const CONTRASTIVE: &str =
    "--method contrastive --shots 8 --n_epochs 1 --lr 1e-3 --save_every 9 --reduction_groups 2 --dropout 0.1";

#[test]
fn a_trunk_is_tuned_on_pairs_of_a_few_examples() {
    let place = Place::new();
    let done = place.run(&call(&format!("{CONTRASTIVE} --json --out run")));
    let result = done.succeeds().json();
    done.says(&["8 shots: 16 of 400", "320 pairs of one class and 320 of two, 20 of each to a text"]);
    assert_eq!((result["steps"].as_u64(), result["fitted"]["examples"].as_u64()), (Some(40), Some(16)));
    assert!(metric(&result, "test/accuracy") > 0.8, "{result}");
    let losses: Vec<f64> = place
        .metrics("run")
        .iter()
        .filter(|(_, kind, _)| *kind == "train")
        .map(|(_, _, values)| f64::from_bits(values.iter().find(|(name, _)| name == "loss").unwrap().1))
        .collect();
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    assert!(mean(&losses[30..]) < 0.8 * mean(&losses[..10]), "{losses:?}");
    let topics = trunks("fitted").path("topics");
    let found = place.run(&format!("eval run --data {} --json", topics.display())).json();
    assert!((metric(&found, "accuracy") - metric(&result, "test/accuracy")).abs() < 1e-9);
    // Neither threads, ranks nor an interruption change a bit.
    place
        .run(&call(&format!(
            "{CONTRASTIVE} --threads 3 --train_batch_size 8 --grad_accum_steps 2 --out threads"
        )))
        .succeeds();
    as_two(&place, &call(&format!("{CONTRASTIVE} --out two")));
    place.run(&call(&format!("{CONTRASTIVE} {ONE_STEP} --out stopped"))).succeeds();
    assert!(!place.path("stopped/final").exists());
    place.run("finetune --resume stopped --max_time 1000").succeeds();
    for run in ["threads", "two", "stopped"] {
        assert!(model(&place, run) == model(&place, "run"), "{run}");
    }
    for run in ["two", "stopped"] {
        assert_eq!(place.metrics(run), place.metrics("run"), "{run}");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let place = Place::new();
    let refused = |flags: &str, words: &[&str]| place.run(&call(flags)).refuses(2, words);
    refused("--method contrastive --shots 1", &["one text of each", "--shots 2"]);
    refused("--method contrastive --problem regression", &["problem", "--method features"]);
    refused("--method contrastive --pooling mean+max --shots 4", &["several rows", "--pooling mean"]);
    refused("--pairs_per_text 3", &["pairs_per_text", "--method contrastive"]);
    refused("--shots 0", &["train nothing"]);
    refused("--shots 100000", &["there are land", "ask for fewer"]);
    refused("--shots 4 --max_train_examples 9", &["give one of them"]);
    refused("--shots 4 --problem multi-label", &["no single classes"]);
    refused("--method features --lm_loss_coef 0.5", &["no language-model loss"]);
    refused("--method features --n_epochs 0", &["before the head is fitted"]);
    refused("--method features --budget 1m", &["takes no steps"]);
    refused("--method features --lr 1e-3", &["`lr`", "takes no steps", "leave it out"]);
    refused("--method features --lr auto", &["`lr_auto`", "no learning rate"]);
    refused("--method features --seeds 2", &["`seeds`", "has no seed"]);
    refused("--shots 4 --curve 10,20", &["`curve`", "shots"]);
    refused("--method features --pooling pooler", &["brings no pooler"]);
}

#[test]
fn one_number_everywhere_is_refused_and_predictions_of_one_have_no_correlation() {
    let place = Place::new();
    let mut draws = support::Draws::new(31);
    let mut rows = |label: &dyn Fn(usize) -> f64, count: usize| {
        (0..count).fold(String::from("text,label\n"), |table, n| {
            format!("{table}{},{}\n", sentence(&mut draws).0, label(n))
        })
    };
    place.write("one.csv", rows(&|_| 3.5, 40));
    let fit = "finetune --method bow --problem regression --json";
    let words = ["one.csv: all 36 training examples have the number 3.5", "different numbers"];
    place.run(&format!("{fit} --data one.csv --out no")).refuses(1, &words);
    place.run(&call("--method features --problem regression --data one.csv --out no")).refuses(1, &words);
    assert!(!place.path("no").exists());
    place.write("flat/train.csv", rows(&|n| n as f64, 40));
    place.write("flat/valid.csv", rows(&|_| 0.1, 12));
    let done = place.run(&format!("{fit} --data flat --out flat-run"));
    let result = done.json();
    assert!(metric(&result, "valid/mse") > 0.0, "{result}");
    assert!(result["metrics"].get("valid/pearson").is_none(), "{result}");
    assert!(result["intervals"].as_object().is_none_or(serde_json::Map::is_empty), "{result}");
}

#[test]
fn the_time_binds_what_takes_no_steps() {
    let place = Place::new();
    let features = place.run(&call("--method features --max_time 0.000001 --out a"));
    features.refuses(1, &["the time of max_time is over", "before it was whole"]);
    let topics = trunks("fitted").path("topics");
    let bow =
        place.run(&format!("finetune --method bow --data {} --max_time 0.000001 --out b", topics.display()));
    bow.refuses(1, &["the time of max_time was over before the bag of words was fitted", "more time"]);
    let beside = place.run(&call("--method head --max_time 0.000001 --json --out c"));
    beside.says(&[
        "no bag of words is fitted to compare with: it was not done in half of the time of max_time",
    ]);
    assert!(beside.json()["bow"].is_null());
}

#[test]
fn what_is_kept_of_long_texts_is_the_models_own() {
    let place = Place::new();
    // What tells the classes apart stands at the end.
    let mut draws = support::Draws::new(3);
    let mut table = String::from("text,label\n");
    for _ in 0..200 {
        let (text, water) = sentence(&mut draws);
        let filler = "the quiet people and the quiet people ".repeat(8);
        table += &format!("{filler}{text},{}\n", if water { "water" } else { "land" });
    }
    place.write("long.csv", table);
    let run = |name: &str| {
        let flags = format!(
            "--method features --data long.csv --max_length 24 --truncation {name} --json --out {name}"
        );
        let done = place.run(&call(&flags));
        let result = done.succeeds().json();
        done.says(&["longer than 24 tokens were cut"]);
        metric(&result, "valid/accuracy")
    };
    let [head, tail, both] = ["head", "tail", "head-tail"].map(run);
    assert!(head < 0.75 && tail > 0.95 && both > 0.9, "{head}, {tail}, {both}");
    for (name, expected) in [("tail", tail), ("head-tail", both)] {
        let config = String::from_utf8(place.bytes(&format!("{name}/final/config.json"))).unwrap();
        assert!(config.contains(&format!("\"truncation\": \"{name}\"")), "{config}");
        let found = place.run(&format!("eval {name} --data long.csv --split train --json")).json();
        assert!((metric(&found, "accuracy") - expected).abs() < 0.1, "{name}");
    }
    let long = "the quiet people and the quiet people ".repeat(8)
        + "the old lake crosses the small harbour paints the quiet river crosses the old river .\n";
    assert_eq!(place.feed("predict tail", long.as_bytes()).json()["label"], "water");
    // Read in windows, no text is cut; what is no longer than an input is read as ever.
    let windows = place.run("eval tail --data long.csv --split train --windows --json");
    assert!(metric(&windows.json(), "loss").is_finite());
    windows.says(&["200 of 200 texts are longer than 24 tokens and were read in"]);
    let answered = place.feed("predict tail --windows", long.as_bytes());
    assert!(answered.json().get("truncated").is_none());
    answered.says(&["1 texts were longer than the model's positions and were read in windows"]);
    let topics = trunks("fitted").path("topics");
    place.run(&call("--method features --out plain")).succeeds();
    let plain = place.run(&format!("eval plain --data {} --json", topics.display())).json();
    let windows = place.run(&format!("eval plain --data {} --windows --json", topics.display())).json();
    for name in ["accuracy", "loss", "macro_f1"] {
        assert!((metric(&plain, name) - metric(&windows, name)).abs() < 1e-6, "{name}");
    }
    let short = b"the old harbour .\n";
    assert_eq!(place.feed("predict tail --windows", short).json(), place.feed("predict tail", short).json());
    // What is trained further keeps it, unless it is told otherwise.
    let further = "finetune --model tail --data long.csv --method features --json --out further";
    assert!(metric(&place.run(further).json(), "valid/accuracy") > 0.95);
}
