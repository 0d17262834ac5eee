//! `headstart auto`: which rungs are climbed, which is kept, and that nothing is lost when it is stopped.
//!
//! Owns: what a user sees of the ladder. Never: the rule by which a rung is chosen (`crates/headstart/src/auto/choice.rs`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

mod support;

use serde_json::Value;
use support::{Place, copy_folder, lines, topics, trunks};

/// The shared trunk.
fn model() -> String {
    format!("--model {} --threads 2", trunks("auto").path("lm").display())
}

/// The shared topics.
fn data() -> String {
    trunks("auto").path("topics").display().to_string()
}

fn names(result: &Value) -> Vec<&str> {
    result["rungs"].as_array().unwrap().iter().map(|rung| rung["name"].as_str().unwrap()).collect()
}

fn weights(place: &Place, run: &str) -> Vec<u8> {
    place.bytes(&format!("{run}/final/model.safetensors"))
}

#[test]
fn it_climbs_until_rungs_are_no_better_and_goes_on_where_it_is_told_to() {
    let place = Place::new();
    let done = place.run(&format!("auto {} {} --json --out a", data(), model()));
    let result = done.json();
    // The words say all of it, so two rungs above them are enough.
    assert_eq!(names(&result), ["1-bow", "2-features", "3-lora"], "{result}");
    assert_eq!((&result["chosen"], &result["stopped"]), (&"1-bow".into(), &Value::Null));
    assert!(result["why_stopped"].as_str().unwrap().contains("--thorough climbs on"), "{result}");
    assert!(result["why_chosen"].as_str().unwrap().starts_with("1-bow is chosen"), "{result}");
    for rung in result["rungs"].as_array().unwrap() {
        for key in ["seconds", "ms_per_text", "model_bytes"] {
            assert!(rung[key].as_f64().unwrap() > 0.0, "{key}: {rung}");
        }
        assert!(rung["metrics"]["valid/ece"].is_number(), "{rung}");
        assert!(rung["intervals"]["valid/accuracy"].is_array(), "{rung}");
        // Test data are told of the chosen one only.
        let all = rung["metrics"].as_object().unwrap();
        assert!(all.keys().all(|name| name.starts_with("valid/")), "{rung}");
        let summary = place.json_file(&format!("a/{}/summary.json", rung["name"].as_str().unwrap()));
        assert!(summary["examples"].get("test").is_none(), "{summary}");
    }
    assert_eq!(result["rungs"][2]["gain"]["over"], "1-bow");
    assert!(result["rungs"][2]["estimated_s"].is_number() && result["rungs"][0]["gain"].is_null());
    assert!(result["metrics"]["test/accuracy"].as_f64().unwrap() > 0.9, "{result}");
    done.says(&[
        "the ladder, with rough times: 1-bow (less than a second), 2-features (",
        "ms/text",
        "acc. %",
    ]);
    let answer = place.feed("predict a", b"the old harbour guards the small river .\n").json();
    assert_eq!(answer["label"], "water");
    let found = place.run(&format!("eval a --data {} --json", data())).json();
    assert_eq!(found["metrics"]["accuracy"], result["metrics"]["test/accuracy"]);
    let listed = place.run("runs ls a --json").json_lines();
    let whole = listed.iter().find(|run| run["method"] == "auto").unwrap();
    assert_eq!((listed.len(), &whole["metric"]["name"]), (4, &"test/accuracy".into()));
    let page = String::from_utf8(place.bytes("a/report.html")).unwrap();
    assert!(page.contains("3-lora/report.html") && page.contains("1-bow is chosen"));
    // Climbing on repeats nothing.
    let before: Vec<Vec<u8>> =
        ["1-bow", "2-features", "3-lora"].map(|rung| place.bytes(&format!("a/{rung}/summary.json"))).into();
    let more = place.run("auto --resume a --thorough --json");
    assert_eq!(names(&more.json()), ["1-bow", "2-features", "3-lora", "4-full"]);
    assert!(!more.stderr.contains("evaluating a/final"), "test data are looked at once: {}", more.stderr);
    let after: Vec<Vec<u8>> =
        ["1-bow", "2-features", "3-lora"].map(|rung| place.bytes(&format!("a/{rung}/summary.json"))).into();
    assert!(before == after);
    // A rung is the run that it would be alone.
    let alone = format!("finetune --data {} {} --method lora --out alone", data(), model());
    place.run(&alone).succeeds();
    assert!(weights(&place, "a/3-lora") == weights(&place, "alone"));
    place.run("auto --resume a --seed 7").refuses(2, &["--seed 7", "keeps its settings"]);
}

#[test]
fn where_no_model_is_named_one_in_the_cache_is_found_or_else_the_one_in_the_program() {
    let place = Place::new();
    let done = place.run(&format!("auto {} --json --threads 2 --out shipped", data()));
    let result = done.json();
    let model = result["model"].as_str().unwrap();
    assert!(names(&result).starts_with(&["1-bow", "2-features"]) && model.contains("shipped-"), "{result}");
    done.says(&["model: shipped, the one in this program"]);
    let folder = "huggingface/hub/models--prajjwal1--bert-tiny";
    let commit = "0123456789abcdef0123456789abcdef01234567";
    place.write(&format!("{folder}/refs/main"), commit);
    copy_folder(&trunks("auto").path("lm/final"), &place.path(&format!("{folder}/snapshots/{commit}")));
    let done = place.run(&format!("auto {} --json --threads 2 --out found", data()));
    assert_eq!(names(&done.json()), ["1-bow", "2-features", "3-lora"]);
    done.says(&["no model is named: bert-tiny is taken"]);
}

#[test]
fn what_is_stopped_goes_on_to_the_same_models() {
    let place = Place::new();
    let call = format!("auto {} {} --thorough", data(), model());
    place.run(&format!("{call} --out whole")).succeeds();
    let mut running = place.start(&format!("{call} --out cut"));
    let metrics = place.path("cut/3-lora/metrics.jsonl");
    assert!(running.until(|| lines(&metrics) > 3), "{}", running.said());
    running.terminate();
    assert_eq!(running.end().code(), Some(130), "{}", running.said());
    assert!(!place.path("cut/final").exists() && place.path("cut/2-features/final").exists());
    let cut = place.json_file("cut/summary.json");
    assert_eq!((&cut["stopped"], &cut["chosen"]), (&"signal".into(), &Value::Null));
    assert!(cut["best_so_far"].as_str().unwrap().starts_with("cut/"), "{cut}");
    // Which of its runs can be named.
    place.run("predict cut").refuses(1, &["cut/1-bow, cut/2-features", "name one of them"]);
    let result = place.run("auto --resume cut --json").json();
    assert_eq!(names(&result), ["1-bow", "2-features", "3-lora", "4-full"]);
    // Its time is that of both starts, and a third one that finds nothing to do changes it no more.
    let seconds = result["seconds"].as_f64().unwrap();
    assert!(seconds > cut["seconds"].as_f64().unwrap(), "{result}");
    let third = place.run("auto --resume cut --json").json();
    for told in [third, place.json_file("cut/summary.json")] {
        assert!((told["seconds"].as_f64().unwrap() - seconds).abs() < 1e-6, "{told}");
    }
    for run in ["2-features", "3-lora", "4-full"] {
        assert!(weights(&place, &format!("cut/{run}")) == weights(&place, &format!("whole/{run}")), "{run}");
    }
}

#[test]
fn what_does_not_fit_into_the_time_is_not_begun() {
    let place = Place::new();
    let call = format!("auto {} {} --json --out a", data(), model());
    let result = place.run(&format!("{call} --max_time 0.000001")).json();
    assert_eq!((&result["stopped"], &result["chosen"]), (&"max_time".into(), &Value::Null));
    assert!(result["why_stopped"].as_str().unwrap().contains("before 1-bow"), "{result}");
    assert!(!place.path("a/final").exists());
    // What is said to have taken an hour is expected to take hours more.
    let result = place.run("auto --resume a --max_time 3000 --thorough --json").json();
    assert_eq!(result["stopped"], Value::Null, "{result}");
    let mut state = place.json_file("a/auto.json");
    let rungs = state["rungs"].as_array_mut().unwrap();
    rungs.truncate(3);
    rungs[2]["seconds"] = 3_600.0.into();
    rungs[2]["estimated_s"] = 0.5.into();
    place.write("a/auto.json", state.to_string());
    let done = place.run("auto --resume a --max_time 30 --thorough --json");
    let result = done.json();
    assert_eq!(
        (names(&result), &result["stopped"]),
        (vec!["1-bow", "2-features", "3-lora"], &"max_time".into())
    );
    assert!(result["why_stopped"].as_str().unwrap().starts_with("4-full would take about"), "{result}");
    assert!(result["final_dir"].is_string(), "the best so far is there: {result}");
}

#[test]
fn a_bag_of_words_that_does_not_fit_is_given_up_and_the_next_rung_is_begun() {
    let place = Place::new();
    // Ten classes of long texts.
    let table = |seed: u64, lines: usize| {
        let row = |(n, line): (usize, &str)| {
            let (text, _) = line.split_once(',').unwrap();
            format!("{},class{}\n", text.repeat(24), n % 10)
        };
        let rows: String = topics(seed, lines).lines().skip(1).enumerate().map(row).collect();
        format!("text,label\n{rows}")
    };
    place.write("long/train.csv", table(9, 400));
    place.write("long/valid.csv", table(10, 40));
    let done = place.run(&format!("auto long {} --json --max_time 8 --out a", model()));
    done.says(&["1-bow would take about"]);
    assert!(!names(&done.json()).contains(&"1-bow"));
    assert_eq!(place.json_file("a/auto.json")["given_up"], serde_json::json!(["bow"]));
    let again = place.run("auto --resume a --max_time 1 --json");
    again.says(&["no 1-bow: it did not fit into the time"]);
    assert!(!place.path("a/1-bow").exists());
}

#[test]
fn few_examples_numbers_and_several_labels_have_rungs_of_their_own() {
    let place = Place::new();
    place.write("few/train.csv", topics(3, 24));
    place.write("few/valid.csv", topics(4, 40));
    let result = place.run(&format!("auto few {} --json --thorough --out few-run", model())).json();
    assert_eq!(names(&result), ["1-bow", "2-features", "3-contrastive", "4-full"]);
    assert!(result["metrics"].get("test/accuracy").is_none());
    let scores = |seed, lines| topics(seed, lines).replace(",water", ",1.5").replace(",land", ",-0.5");
    place.write("scores/train.csv", scores(3, 120));
    place.write("scores/test.csv", scores(5, 40));
    let call = format!("auto scores {} --problem regression --json --thorough --out numbers", model());
    let result = place.run(&call).json();
    let rungs = vec!["1-bow", "2-features", "3-lora", "4-full"];
    assert_eq!((names(&result), &result["metric"]), (rungs.clone(), &"valid/mse".into()));
    assert!(result["rungs"][1]["gain"]["interval"].is_array(), "{result}");
    assert!(result["metrics"]["test/mse"].as_f64().unwrap() < 0.9, "{result}");
    let marks = |seed, lines| topics(seed, lines).replace(",water", ",wet|deep").replace(",land", ",dry");
    place.write("marks/train.csv", marks(3, 120));
    let call = format!("auto marks {} --problem multi-label --json --thorough --out marks-run", model());
    let result = place.run(&call).json();
    assert_eq!((names(&result), &result["metric"]), (rungs, &"valid/micro_f1".into()));
    let gain = result["rungs"][1]["gain"]["gain"].as_f64().unwrap();
    let f1 = |rung: usize| result["rungs"][rung]["metrics"]["valid/micro_f1"].as_f64().unwrap();
    assert!((gain - (f1(1) - f1(0))).abs() < 1e-9, "{result}");
}

/// By the metric that is asked for: the gains, the choice, the checkpoints of the rungs, and what is told.
#[test]
fn rungs_are_judged_by_the_metric_that_is_asked_for() {
    let place = Place::new();
    // Nine of ten are of one class.
    let rare: String = std::iter::once("text,label\n".to_owned())
        .chain((0..200).map(|i| {
            let (word, label) =
                if i % 10 == 0 { ("kelp and reef", "water") } else { ("sand and stone", "land") };
            format!("{word} number {},{label}\n", i * 7 % 13)
        }))
        .collect();
    place.write("rare.csv", &rare);
    let call = format!("auto rare.csv {} --best_metric macro_f1 --thorough --out a", model());
    let told = place.run(&call);
    assert!(
        told.stdout.contains("rung") && told.stdout.find("F1 %") < told.stdout.find("acc. %"),
        "{}",
        told.stdout
    );
    let summary = place.json_file("a/summary.json");
    assert_eq!(summary["metric"], "valid/macro_f1");
    let f1 = |rung: usize| summary["rungs"][rung]["metrics"]["valid/macro_f1"].as_f64().unwrap();
    let gain = &summary["rungs"][1]["gain"];
    let over = names(&summary).iter().position(|name| gain["over"] == *name).unwrap();
    assert!((gain["gain"].as_f64().unwrap() - (f1(1) - f1(over))).abs() < 1e-9, "{summary}");
    let settings = std::fs::read_to_string(place.path("a/4-full/config.toml")).unwrap();
    assert!(settings.contains("best_metric = \"macro_f1\""), "{settings}");
    place
        .run(&format!("auto rare.csv {} --best_metric f1 --out b", model()))
        .refuses(2, &["best_metric", "cannot be judged by `f1`", "fix: use one of accuracy, macro_f1"]);
    assert!(!place.path("b").exists());
    place.run("auto --resume a --best_metric accuracy").refuses(2, &["best_metric"]);
}

#[test]
fn a_rung_that_does_not_stay_finite_is_left_out() {
    let place = Place::new();
    let scores = topics(3, 120).replace(",water", ",1e30").replace(",land", ",-1e30");
    place.write("scores.csv", scores);
    let call = format!("auto scores.csv {} --problem regression --json --out a", model());
    let result = place.run(&call).json();
    assert_eq!((names(&result), &result["chosen"]), (vec!["1-bow", "2-features"], &"1-bow".into()));
    let skipped = result["skipped"].as_array().unwrap();
    let said = |why: &Value| why.as_str().unwrap().starts_with("no 4-full: ");
    assert!(skipped.iter().any(said) && result["final_dir"].is_string(), "{result}");
}

#[test]
fn wrong_calls_leave_nothing_behind() {
    let place = Place::new();
    place.run("auto").refuses(2, &["<DATA>"]);
    place.write("taken/file.txt", "mine");
    place.run(&format!("auto {} {} --out taken", data(), model())).refuses(2, &["taken", "not empty"]);
    assert_eq!(place.names("taken"), ["file.txt"]);
    place.run(&format!("auto nowhere.csv {} --out a", model())).refuses(1, &["nowhere.csv"]);
    place.run(&format!("auto {} --model no-such-model --out a", data())).refuses(1, &["no-such-model"]);
    place.write("one.csv", topics(3, 40).replace(",water", ",land"));
    for model in [model(), String::new()] {
        place.run(&format!("auto one.csv {model} --out a")).refuses(1, &["land", "at least two classes"]);
    }
    place.run(&format!("auto {} --max_time -1 --out a", data())).refuses(2, &["max_time"]);
    place.run("auto --resume a").refuses(2, &["no run in this folder"]);
    assert!(!place.path("a").exists());
    let other = format!("finetune --data {} --method bow --out bow", data());
    place.run(&other).succeeds();
    place.run("auto --resume bow").refuses(2, &["headstart finetune --resume bow"]);
}

#[test]
fn an_adapter_over_its_trunk_is_a_model_to_start_from_and_the_device_is_remembered() {
    let place = Place::new();
    let [lm, other] = ["lm", "mlm"].map(|trunk| trunks("auto").path(trunk).display().to_string());
    let call = format!("finetune --model {lm} --data {} --method lora --max_steps 2 --out lora", data());
    place.run(&call).succeeds();
    place.copy(&place.path("lora/final/adapter"), "moved");
    let call = format!("auto {} --model moved --threads 2", data());
    // One that is told no trunk has the one that its folder names; that of another is refused before there is a folder.
    place.run(&format!("{call} --base {other} --out no")).refuses(1, &["is of another trunk", "fingerprint"]);
    place.run(&format!("auto {} --base {lm} --out no", data())).refuses(2, &["--base", "--model ADAPTER"]);
    assert!(!place.path("no").exists());
    let result = place.run(&format!("{call} --base {lm} --json --thorough --out a")).json();
    assert_eq!(names(&result), ["1-bow", "2-features", "4-full"], "{result}");
    assert!(result["skipped"].to_string().contains("the model has some already"), "{result}");
    // The device that it was started with, which a continuation takes unless it is given another.
    assert_eq!(place.json_file("a/environment.json")["device"], "cpu");
    let mut environment = place.json_file("a/environment.json");
    environment["device"] = "cuda:99".into();
    place.write("a/environment.json", environment.to_string());
    let mut state = place.json_file("a/auto.json");
    state["rungs"].as_array_mut().unwrap().truncate(1);
    place.write("a/auto.json", state.to_string());
    place.run("auto --resume a").refuses(1, &["cannot use the device"]);
    place.run("auto --resume a --device cpu --json").json();
}
