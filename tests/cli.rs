//! The program as a user meets it: exit codes, help, guidance, data on stdout, and one small run from end to end.
//!
//! Owns: what is promised about the command line. Never: numbers of a training, which the library's tests judge.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use support::{ONE_STEP, Place};

/// A small tokenizer in tok.json.
fn tokenizer(place: &Place) {
    place.run("tokenizer train starter --vocab_size 600 --out tok.json").succeeds();
}

#[test]
fn help_and_version_go_to_stdout() {
    let place = Place::new();
    let help = place.run("--help");
    for command in [
        "quickstart",
        "data",
        "tokenizer",
        "pretrain",
        "finetune",
        "auto",
        "eval",
        "predict",
        "features",
        "export",
        "generate",
        "doctor",
    ] {
        assert!(help.succeeds().stdout.contains(&format!("\n  {command}")), "{}", help.stdout);
        assert!(
            place.run(&format!("{command} --help")).succeeds().stdout.contains("Usage: headstart"),
            "{command}"
        );
    }
    let version = place.run("--version").succeeds().stdout.clone();
    let commit = version.trim_end().strip_prefix(concat!("headstart ", env!("CARGO_PKG_VERSION"))).unwrap();
    let hash = commit.strip_prefix(" (").and_then(|rest| rest.strip_suffix(')'));
    assert!(commit.is_empty() || hash.is_some_and(|hash| hash.len() == 12), "{version}");
    let head = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    let head = head.ok().filter(|head| head.status.success() && Path::new(".git").exists());
    if let Some(head) = head {
        assert_eq!(hash, Some(String::from_utf8_lossy(&head.stdout).trim()), "{version}");
    }
}

#[test]
fn wrong_calls_end_with_2() {
    let place = Place::new();
    place.run("").refuses(2, &["Usage: headstart"]);
    place.run("train").refuses(2, &["unrecognized subcommand 'train'"]);
    place.run("pretrain --learning_rate 1").refuses(2, &["--learning_rate"]);
    place.run("pretrain --objective clm").refuses(2, &["lm, mlm"]);
    place.run("pretrain --mlm --objective lm").refuses(2, &["cannot be used with"]);
    place.run("pretrain --max-steps 0").refuses(2, &["max_steps", "fix:"]);
    place.run("pretrain --num_heads 7").refuses(2, &["num_heads", "410"]);
    place.run("pretrain --preset huge").refuses(2, &["huge", "naacl2019"]);
    place.run("finetune --data starter-questions").refuses(2, &["model", "pretrain"]);
}

#[test]
fn flags_of_the_tutorial_without_a_key_get_guidance() {
    let place = Place::new();
    for command in ["pretrain", "finetune"] {
        place.run(&format!("{command} --local_rank 0")).refuses(2, &["--local_rank 0", "fix: leave it out"]);
        // What was looked for where there is no driver; which GPUs there are where there is one.
        place.run(&format!("{command} --device cuda:99")).refuses(1, &["cannot use the device", "fix: "]);
        place.run(&format!("{command} --device tpu")).refuses(2, &["no such device"]);
    }
    let class = "finetune --finetuning_model_class TransformerWithAdapters";
    place.run(class).refuses(2, &["--adapters_dim", "--lm_loss_coef"]);
}

/// The values that its scripts have by default, or that people give them.
#[test]
fn values_of_the_tutorial_mean_what_they_meant() {
    let place = Place::new();
    place.write("cache.bin", "");
    // What stands after them is refused by name, so they were understood.
    let refused = |flags: &str, words: &[&str]| {
        let call = format!("finetune --data starter-questions --model none {flags}");
        place.run(&call).refuses(2, words);
    };
    let understood = |flags: &str| refused(&format!("{flags} --lr 0"), &["`lr`: 0 is not possible"]);
    understood("--local_rank -1 --eval_every 0 --adapters_dim 0");
    understood("--eval_every -5 --adapters_dim -3 --lm_loss_coef -1");
    refused("--adapters_dim 65537", &["adapters_dim"]);
    refused("--clf_loss_coef 0", &["clf_loss_coef", "use a positive number"]);
    refused("--clf_loss_coef -1", &["clf_loss_coef", "use a positive number"]);
    refused("--n_epochs -1", &["--n_epochs", "use a whole number, 0 or more"]);
    refused("--max_steps 1e3", &["--max_steps", "use a whole number, 0 or more"]);
    refused("--dataset_cache cache.bin", &["cache.bin", "leave it out, or name a folder"]);
    refused("--seed -1", &["--seed"]);
    let class = |name: &str, flags: &str, words: &[&str]| {
        refused(&format!("--finetuning_model_class TransformerWithClfHead{name} {flags}"), words);
    };
    class("", "--adapters_dim 8", &["fix: leave"]);
    class("AndAdapters", "", &["fix: --adapters_dim 32"]);
    class("AndLMHead", "", &["fix: --lm_loss_coef 0.5"]);
    for (name, flags) in [("", ""), ("AndAdapters", "--adapters_dim 8"), ("AndLMHead", "--lm_loss_coef 0.5")]
    {
        let call = format!(
            "finetune --data starter-questions --model none --finetuning_model_class TransformerWithClfHead{name} {flags}"
        );
        place.run(&call).refuses(1, &["none"]);
    }
}

#[test]
fn a_settings_file_is_read_strictly() {
    let place = Place::new();
    place.write("run.toml", "objective = \"lm\"\n\n[train]\nn_epoch = 3\n");
    place.run("pretrain --config run.toml").refuses(2, &["run.toml:4", "`n_epoch`", "`n_epochs`"]);
    place.run("pretrain --config none.toml").refuses(2, &["cannot read the settings none.toml", "fix: "]);
    place.write("latin1.toml", b"# a\n# caf\xE9\n");
    let words = ["cannot read the settings latin1.toml: line 2 is not UTF-8", "fix: save"];
    place.run("pretrain --config latin1.toml").refuses(2, &words);
    place.write("large.toml", "# a\n[model]\nnum_layers = 9223372036854775808\n");
    place.run("pretrain --config large.toml").refuses(2, &["large.toml:3", "too large", "fix: "]);
    place.run("pretrain --config .").refuses(2, &["is a folder, not a file", "fix: "]);
    place.run("pretrain --resume runs/none").refuses(2, &["runs/none", "no run in this folder"]);
}

#[test]
fn data_that_is_not_here_is_named_with_its_place() {
    let place = Place::new();
    tokenizer(&place);
    let arguments = "pretrain --data wikitext-2 --tokenizer tok.json --offline --out r";
    place.run(arguments).refuses(1, &["wikitext-2", "--mirror", "wikitext-2-v1.zip"]);
    place.write("some.txt", "some text of one's own\n");
    let arguments = "pretrain --data some.txt --offline --out r";
    place.run(arguments).refuses(1, &["bert-base-cased", "--mirror", "--tokenizer", "tokenizer train"]);
    place.run("pretrain --data nothing --tokenizer tok.json").refuses(1, &["nothing"]);
    assert!(!place.path("r").exists(), "a run folder was made for nothing");
    let arguments = "pretrain --data starter --tokenizer tok.json --out tok.json/r";
    place.run(arguments).refuses(1, &["tok.json/r", "tok.json is a file", "fix: choose another folder"]);
}

#[test]
fn the_list_of_data_is_readable_and_parsable() {
    let place = Place::new();
    place.write("mirror/trec/train_5500.label", "HUM:ind Who wrote it ?\nNUM:count How many are there ?\n");
    place.write("mirror/trec/TREC_10.label", "HUM:ind Who ?\n");
    let text = place.run("data list");
    assert!(text.succeeds().stdout.contains("wikitext-103") && text.stdout.contains("starter-questions"));
    let lines = place.run("data list --json --mirror mirror");
    let lines: Vec<Value> =
        lines.succeeds().stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let trec = lines.iter().find(|line| line["name"] == "trec").unwrap();
    assert_eq!((&trec["origin"], &trec["kind"]), (&Value::from("mirror"), &Value::from("labelled")));
    assert_eq!(lines.iter().find(|line| line["name"] == "imdb").unwrap()["origin"], Value::Null);
    place.run("data prepare wikitext-2 --offline").refuses(1, &["wikitext-2-v1.zip"]);
}

#[test]
fn own_data_is_inspected_and_its_faults_are_located() {
    let place = Place::new();
    tokenizer(&place);
    place.write(
        "good.csv",
        "text,label\nThe harbour is calm,calm\n\"Waves, and wind\",wild\nStill water,calm\n",
    );
    // Without a tokenizer there is nothing to fetch.
    let raw = |flags: &str| place.run(&format!("data inspect good.csv --offline {flags}"));
    let found = raw("--json").json();
    assert_eq!((&found["train"]["examples"], &found["train"]["words"]["max"]), (&3.into(), &4.into()));
    assert_eq!(found["train"]["samples"][0], serde_json::json!(["calm", "The harbour is calm"]));
    let shown = raw("--samples 1");
    for words in ["label in `label`", "calm: 2 (66.7 %)", "> calm: The harbour is calm"] {
        assert!(shown.succeeds().stdout.contains(words), "{}", shown.stdout);
    }
    let inspect = |name: &str| place.run(&format!("data inspect {name} --tokenizer tok.json --json"));
    let found = inspect("good.csv").json();
    assert_eq!(found["train"]["examples"], 3);
    assert_eq!(found["train"]["label_balance"], serde_json::json!([["calm", 2], ["wild", 1]]));
    place.write("bad.csv", "text,label\nThe harbour is calm,calm\nno label here,\n");
    inspect("bad.csv").refuses(1, &["bad.csv:3", "fix:"]);
    place.write("latin.csv", b"text,label\nfine,a\ncaf\xe9,b\n");
    inspect("latin.csv").refuses(1, &["latin.csv:3", "byte 4", "--encoding"]);
    place.write("empty.csv", "");
    inspect("empty.csv").refuses(1, &["empty.csv"]);
    place.write("one.csv", "text,label\na,x\nb,x\n");
    inspect("one.csv").refuses(1, &["one.csv"]);
    place.write("books/train.txt", "The harbour is calm .\n\nThe harbour is old .\n");
    let found = inspect("books").json();
    assert_eq!(
        (&found["train"]["counts"]["lines"], &found["train"]["counts"]["words"]),
        (&3.into(), &13.into())
    );
}

#[test]
fn faults_of_labelled_data_are_found_with_their_lines() {
    let place = Place::new();
    place.write("set/train.csv", "text,label\nThe harbour is calm,calm\n\"Waves, and wind\",wild\nStill water,calm\nStill water,wild\n");
    place.write("set/test.csv", "text,label\nthe harbour is calm!,calm\nStill water,calm\n");
    let lint = |flags: &str| place.run(&format!("data lint set --offline {flags}"));
    let found = lint("--json --report lint.html").json();
    let of = |kind: &str| {
        let findings = found["findings"].as_array().unwrap();
        findings.iter().find(|finding| finding["kind"] == kind).unwrap_or_else(|| panic!("{kind}: {found}"))
    };
    assert_eq!((&found["worst"], &found["examples"]["test"]), (&"error".into(), &2.into()));
    assert_eq!(of("leak")["examples"][0]["places"][0]["line"], 3);
    assert_eq!(of("near-leak")["examples"][0]["places"][1]["line"], 2);
    assert_eq!(of("conflicting-labels")["count"], 1);
    assert!(std::fs::read_to_string(place.path("lint.html")).unwrap().contains("Still water"));
    let says = |flags: &str, words: &str| {
        let done = lint(flags);
        assert!(done.succeeds().stdout.contains(words), "{}", done.stdout);
    };
    says("", "error: 1 of 2 test texts stands in the train data, too");
    says("", "test.csv:3 [calm]");
    assert_eq!(lint("--strict").code, Some(1));
    tokenizer(&place);
    says("--tokenizer tok.json --max_length 3", "longer than the 3 tokens");
    lint("--model nothing").refuses(1, &["nothing"]);
    place.write(
        "fine.csv",
        (0..40).fold("text,label\n".to_owned(), |all, at| {
            all + &format!("w{at} x{} y{},{}\n", at * 7, at * at, ["a", "b"][at % 2])
        }),
    );
    assert_eq!(place.run("data lint fine.csv --strict").code, Some(0));
}

#[test]
fn tokenizers_are_trained_and_imported_but_never_overwritten() {
    let place = Place::new();
    place.write("text.txt", "the cat sat on the mat and the cats sat too\n".repeat(50));
    let train = "tokenizer train text.txt --vocab_size 60 --out tok.json --json";
    let trained = place.run(train).json();
    assert_eq!(trained["file"], "tok.json");
    place.run(train).refuses(2, &["tok.json", "exists"]);
    place.run("tokenizer train text.txt --out small.json --vocab_size 2").refuses(2, &["vocab_size"]);
    place.write("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\nthe\ncat\n");
    let imported = place.run("tokenizer import vocab.txt --out imported.json");
    assert!(imported.succeeds().stderr.contains("`[MASK]`"), "{}", imported.stderr);
    assert_eq!(imported.stdout, "imported.json: 7 pieces\n");
    place.run("tokenizer import nothing --out x.json").refuses(1, &["nothing"]);
}

#[test]
fn the_doctor_reports() {
    let found = Place::new().run("doctor --json").json();
    assert!(found["threads"].as_u64().unwrap() >= 1);
    assert!(found["cache_dir"].as_str().unwrap().ends_with("cache"));
    let precision = found["precision"].as_str().unwrap();
    let computes = format!("in {precision} where nothing else is said");
    let text = Place::new().run("doctor").succeeds().stdout.clone();
    assert!(
        text.contains("processor") && text.contains(&computes) && ["f32", "bf16"].contains(&precision),
        "{text}"
    );
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    let place = Place::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = place.command("data list").stdout(writer).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn one_small_run_from_text_to_answers() {
    let place = Place::new();
    tokenizer(&place);
    let pretrain = "pretrain --data starter --tokenizer tok.json --preset micro --json --warmup_steps 2 \
                    --threads 1 --max_steps 6 --out trunk";
    let trunk = place.run(pretrain).json();
    assert_eq!((&trunk["steps"], &trunk["total_steps"]), (&6.into(), &6.into()));
    assert!(trunk["metrics"]["valid/nll"].as_f64().unwrap() > 0.0);
    place.run(pretrain).refuses(2, &["trunk"]);
    assert!(fs::read_to_string(place.path("trunk/command.txt")).unwrap().contains("--preset micro"));

    let finetune =
        "finetune --model trunk --data starter-questions --max_steps 4 --json --out questions --n_warmup 1";
    let tuned = place.run(finetune).json();
    assert!(tuned["metrics"]["test/accuracy"].as_f64().is_some(), "{tuned}");
    assert_eq!(tuned["confusion"].as_array().unwrap().len(), 6);
    let page = fs::read_to_string(place.path("questions/report.html")).unwrap();
    assert!(page.contains("Headstart run questions") && page.contains("Confusion matrix, test"));
    // Beside it stands the bag of words that is fitted to the same examples.
    assert!(
        page.contains("a bag of words") && tuned["bow"]["valid_accuracy"].as_f64().unwrap() > 0.3,
        "{tuned}"
    );
    let words = place.run("finetune --method bow --data starter-questions --out words --json").json();
    assert_eq!(words["metrics"]["test/accuracy"], tuned["bow"]["test_accuracy"]);

    let evaluated = place.run("eval questions --data starter-questions --json").json();
    assert_eq!(evaluated["split"], "test");
    assert_eq!(evaluated["metrics"]["accuracy"], tuned["metrics"]["test/accuracy"]);
    assert!(place.run("eval trunk --data starter").succeeds().stdout.contains("nll"));

    // What they are worth, and which is better.
    let [low, high] = [0, 1].map(|end| tuned["intervals"]["test/accuracy"][end].as_f64().unwrap());
    let accuracy = tuned["metrics"]["test/accuracy"].as_f64().unwrap();
    assert!(low <= accuracy && accuracy <= high && low < high, "{tuned}");
    assert!(page.contains("Surest mistakes, test") && page.contains("Reliability, test"));
    let predictions = fs::read_to_string(place.path("questions/predictions.jsonl")).unwrap();
    assert_eq!(predictions.lines().count() as u64, tuned["examples"]["test"].as_u64().unwrap());
    let runs = place.run("runs ls . --json").json_lines();
    let of = |name: &str| runs.iter().find(|run| run["dir"].as_str().unwrap().ends_with(name)).unwrap();
    assert_eq!((&of("trunk")["state"], &of("words")["method"]), (&"finished".into(), &"bow".into()));
    assert_eq!(of("questions")["metric"]["value"], tuned["metrics"]["test/accuracy"]);
    let shown = place.run("runs show questions").succeeds().stdout.clone();
    assert!(shown.contains("train.max_steps") && shown.contains("predictions.jsonl"), "{shown}");
    let compared = place.run("runs compare words questions --json").json();
    assert_eq!(compared["accuracy"]["second"], tuned["metrics"]["test/accuracy"]);
    assert_eq!(compared["macro_f1"]["first"], words["metrics"]["test/macro_f1"]);
    assert!(!compared["differing"].as_array().unwrap().is_empty());
    place.run("runs compare words trunk").refuses(1, &["predictions.jsonl", "--resume"]);

    let questions = b"Who is the mayor ?\n\nHow long is the river ?\n";
    let answers = place.feed("predict questions --with_text", questions).json_lines();
    place
        .feed("predict questions", b"Who ?\tWhere ?\n")
        .says(&["1 lines have tabs", "--text_column first,second"]);
    let texts: Vec<&str> = answers.iter().map(|answer| answer["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["Who is the mayor ?", "", "How long is the river ?"]);
    let probabilities = answers[0]["probabilities"].as_object().unwrap();
    assert!((probabilities.values().map(|p| p.as_f64().unwrap()).sum::<f64>() - 1.0).abs() < 1e-4);
    assert!(probabilities.contains_key(answers[0]["label"].as_str().unwrap()));
    place.run("predict trunk").refuses(1, &["trunk", "finetune"]);
    place.run("predict questions --input none.txt").refuses(1, &["none.txt"]);

    let generate = |seed: &str| {
        let arguments = format!("generate trunk --max-new-tokens 8 --seed {seed} --prompt");
        place.run_with(&arguments, "The river").succeeds().stdout.clone()
    };
    assert!(generate("1").starts_with("The river"));
    assert_eq!(generate("1"), generate("1"));
    assert_ne!(generate("1"), generate("2"));
    place.run("generate trunk --prompt x --top_p 2").refuses(2, &["top_p"]);
}

#[test]
fn a_bag_of_words_is_a_model_without_a_model() {
    let place = Place::new();
    place.topics();
    let fit = "finetune --method bow --data topics --out words";
    let said = place.run(fit).succeeds().stdout.clone();
    assert!(said.contains("accuracy") && said.contains("model: words/final"), "{said}");
    let page = fs::read_to_string(place.path("words/report.html")).unwrap();
    assert!(page.contains("strength") && page.contains("Confusion matrix, test"));
    let evaluated = place.run("eval words --data topics --json").json();
    assert!(evaluated["metrics"]["accuracy"].as_f64().unwrap() > 0.9, "{evaluated}");
    place.run("eval words/final --data topics --split valid --json").json();
    let answers = place.feed("predict words --with_text", b"the harbour\n\n").json_lines();
    for answer in &answers {
        let probabilities = answer["probabilities"].as_object().unwrap();
        assert!((probabilities.values().map(|p| p.as_f64().unwrap()).sum::<f64>() - 1.0).abs() < 1e-4);
        assert!(probabilities.contains_key(answer["label"].as_str().unwrap()));
    }
    assert_eq!(answers.len(), 2);
    // The same bits again, whatever the number of threads.
    place.run("finetune --method bow --data topics --out again").succeeds();
    for name in ["vocabulary.json", "model.safetensors", "bag_of_words.json"] {
        let read = |run: &str| fs::read(place.path(run).join("final").join(name)).unwrap();
        assert_eq!(read("words"), read("again"), "{name}");
    }
    place.run(fit).refuses(2, &["words", "--out"]);
    place.run(&format!("{fit}-2 --model words")).refuses(2, &["model", "bag of words"]);
    let questions = "finetune --method bow --data starter-questions --problem multi-label --out questions";
    place.run(questions).refuses(2, &["problem", "single labels"]);
    place.run("generate words --prompt x").refuses(1, &["bag of words", "predict"]);
    let path = place.path("words/final/vocabulary.json");
    let half = fs::read(&path).unwrap();
    fs::write(&path, &half[..half.len() / 2]).unwrap();
    place.feed("predict words", b"the harbour\n").refuses(1, &["vocabulary.json", "truncated"]);
}

/// The first signal ends the run with everything saved, and the run goes on from there to the end it was to have.
#[cfg(unix)]
#[test]
fn a_stopped_run_can_be_continued() {
    let place = Place::new();
    tokenizer(&place);
    let start = "pretrain --data starter --tokenizer tok.json --preset micro --json --n_epochs 1 --out run";
    let mut child = place.command(start).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("step 1/")), "no first step");
    let signal = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(signal.success());
    let said: Vec<String> = lines.map(Result::unwrap).collect();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{said:?}");
    let stopped: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(stopped["stopped"], "signal");
    assert!(said.iter().any(|line| line.contains("stopping")), "{said:?}");

    place.run("pretrain --resume run --lr 0.5").refuses(2, &["--lr 0.5", "0.003"]);
    place.run("finetune --resume run").refuses(2, &["headstart pretrain --resume run"]);
    let limited = place.run(&format!("pretrain --resume run {ONE_STEP} --json")).json();
    assert_eq!(limited["stopped"], "max_time");
    assert!(limited["steps"].as_u64() > stopped["steps"].as_u64());
}

/// A run that stops early leaves a model and its metrics, and goes on as if neither had been asked for.
#[test]
fn a_run_out_of_time_leaves_a_model_and_its_metrics() {
    let place = Place::new();
    tokenizer(&place);
    let call = "pretrain --data starter --tokenizer tok.json --preset micro --threads 1 --max_steps 6";
    let stopped = place.run(&format!("{call} {ONE_STEP} --out run"));
    let words = stopped.succeeds().stdout.clone();
    assert!(words.contains("1 of 6 steps, stopped by max_time") && words.contains("nll  "), "{words}");
    assert!(words.contains("model so far: run ("), "{words}");
    assert!(place.run("eval run --data starter").succeeds().stdout.contains("nll"));
    place.run("pretrain --resume run --max_time 100").succeeds();
    place.run(&format!("{call} --out whole")).succeeds();
    assert!(place.bytes("run/final/model.safetensors") == place.bytes("whole/final/model.safetensors"));
    assert_eq!(place.metrics("run"), place.metrics("whole"));
}

/// What a budget and a recipe come to is settled once, said, and part of the run.
#[test]
fn what_is_left_out_is_settled_when_a_run_begins() {
    let place = Place::new();
    tokenizer(&place);
    let call = "pretrain --data starter --tokenizer tok.json --preset micro --threads 1";
    let run = place.run(&format!("{call} --budget 3s --out run"));
    assert!(run.succeeds().stderr.contains("budget 3s: "), "{}", run.stderr);
    assert!(run.stderr.contains("chosen for pretraining, gpt2 layout, 32 wide"), "{}", run.stderr);
    let settings: toml::Table = fs::read_to_string(place.path("run/config.toml")).unwrap().parse().unwrap();
    let steps = settings["train"]["max_steps"].as_integer().unwrap();
    assert_eq!(settings["train"]["warmup_steps"].as_integer(), Some(steps / 10));
    assert!(run.stdout.starts_with(&format!("{steps} of {steps} steps")), "{}", run.stdout);
    // Its settings make it again, whatever the machine is doing now.
    let again = place.run("pretrain --config run/config.toml --out again");
    assert!(again.succeeds().stderr.contains("nothing is fitted to the budget of 3s"), "{}", again.stderr);
    assert!(place.bytes("run/final/model.safetensors") == place.bytes("again/final/model.safetensors"));

    place.run(&format!("{call} --recipe tutorial --max_steps 2 --out tutorial")).succeeds();
    let settings: toml::Table =
        fs::read_to_string(place.path("tutorial/config.toml")).unwrap().parse().unwrap();
    let train = |key: &str| settings["train"][key].to_string();
    assert_eq!([train("lr"), train("warmup_steps")], ["0.00025", "1000"]);
    assert_eq!([train("schedule"), train("max_norm")], ["\"tutorial-cosine\"", "0.25"]);
    place.run(&format!("{call} --budget soon --out x")).refuses(2, &["soon", "10m"]);
}

/// A masked language model is evaluated with as many masks as it was trained with.
#[test]
fn a_masked_model_keeps_its_share_of_masks() {
    let place = Place::new();
    tokenizer(&place);
    let call =
        "pretrain --data starter --tokenizer tok.json --preset micro --threads 1 --json --max_steps 2 --mlm";
    let trained = place.run(&format!("{call} --mlm_probability 0.4 --out run")).json();
    assert_eq!(place.json_file("run/final/config.json")["mlm_probability"], 0.4);
    let evaluated = place.run("eval run --data starter --split valid --threads 1 --json").json();
    assert_eq!(evaluated["metrics"]["nll"], trained["metrics"]["valid/nll"]);
}

/// Tables in, tables out: own columns stay, a bad row is an entry, a file is whole or not there.
#[test]
fn tables_are_answered_with_their_columns() {
    let place = Place::new();
    tokenizer(&place);
    place
        .run("pretrain --data starter --tokenizer tok.json --preset micro --max_steps 1 --out trunk")
        .succeeds();
    let rows = "old barn,land,1\nhigh waves,water,2\n".repeat(20);
    place.write("train.csv", format!("words,kind,text\n{rows}"));
    let call = "finetune --model trunk --data train.csv --text_column words --label_column kind --max_steps 2 --out run";
    place.run(call).succeeds();
    // The column of the training is remembered, although another one is called like a text.
    place.write(
        "new.csv",
        b"id,words,text,label\n7,\"the barn,\nand more\",x,y\n8,caf\xe9,x,y\n9,waves\n".as_slice(),
    );
    let said = place.run("predict run/final --input new.csv --output out.csv --encoding latin1");
    assert!(said.succeeds().stderr.contains("rows could not be read"), "{}", said.stderr);
    assert_eq!(said.stdout, "");
    let table = fs::read_to_string(place.path("out.csv")).unwrap();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines[0], "id,words,text,label,predicted_label,probability,error");
    assert!(
        lines[1] == "7,\"the barn,"
            && lines[2].starts_with("and more\",x,y,")
            && lines[3].starts_with("8,café,x,y,")
    );
    assert_eq!(lines[4], ",,,,,,line 5: 2 fields where the header has 4");
    let call = "predict run --input new.csv --encoding latin1";
    place.run(&format!("{call} --output out.csv")).refuses(2, &["out.csv", "exists"]);
    place.run(&format!("{call} --output new-out.csv --strict")).refuses(1, &["new.csv:5", "--strict"]);
    assert!(!place.path("new-out.csv").exists());
    assert!(!place.names(".").iter().any(|name| name.contains("new-out")), "{:?}", place.names("."));
    let answers = place.run(&format!("{call} --top_k 1")).json_lines();
    assert_eq!((&answers[0]["id"], answers[0]["probabilities"].as_object().unwrap().len()), (&"7".into(), 1));
    assert_eq!(answers[2]["line"], 5);
    place
        .run("predict run --input new.csv --text_column none")
        .refuses(1, &["`none`", "id, words, text, label"]);
    let objects = b"{\"words\":\"the barn\",\"n\":1}\n";
    let out = place.feed("predict run --input_format jsonl --output_format tsv --top_k 2", objects);
    let header = "words\tn\tlabel\tprobability\tlabel_2\tprobability_2\terror\n";
    assert!(out.succeeds().stdout.starts_with(header), "{}", out.stdout);
    // It is measured on the label that it was trained with, and never on answers.
    place.write("both.csv", "words,kind,label\nold barn,land,water\nhigh waves,water,land\n");
    let said = place.run("eval run --data both.csv");
    assert!(said.succeeds().stderr.contains("label in `kind`"), "{}", said.stderr);
    place.write("answers.csv", "words,predicted_label\nold barn,land\n");
    place.run("eval run --data answers.csv").refuses(1, &["`kind`", "--label_column"]);
    place.run("predict run --input both.csv --top_k 0").refuses(2, &["--top_k 0"]);
    place
        .run("predict run --input both.csv --output p.parquet")
        .refuses(2, &["p.parquet", "--output_format"]);
}

/// A table without names for its columns is read alike by all commands.
#[test]
fn a_table_without_a_header_is_answered_as_it_was_trained_on() {
    let place = Place::new();
    tokenizer(&place);
    place
        .run("pretrain --data starter --tokenizer tok.json --preset micro --max_steps 1 --out trunk")
        .succeeds();
    place.write("rows.csv", "old barn,land\nhigh waves,water\n".repeat(20));
    let call =
        "finetune --model trunk --data rows.csv --header false --label_column 2 --max_steps 2 --out run";
    place.run(call).succeeds();
    let answers = place.run("predict run --input rows.csv").json_lines();
    assert_eq!((answers.len(), &answers[0]["1"]), (40, &"old barn".into()));
    place.write("named.csv", "text,label\nold barn,land\n");
    let named = place.run("predict run --input named.csv --header true").json_lines();
    assert_eq!((named.len(), &named[0]["text"]), (1, &"old barn".into()));
    let measured = place.run("eval run --data rows.csv --json").json();
    assert_eq!(measured["examples"], 40);
    place.run("eval run --data named.csv --header true").succeeds();
    place.run("features trunk --input rows.csv --header false --text_column 1").succeeds();
}

/// What a person sees of a fine-tuning: short lines without names of tensors, and no label that paints the terminal.
#[test]
fn progress_is_calm_and_labels_do_not_reach_the_terminal() {
    let place = Place::new();
    tokenizer(&place);
    place
        .run("pretrain --data starter --tokenizer tok.json --preset micro --max_steps 1 --out trunk")
        .succeeds();
    let long = "x".repeat(70_000);
    let row = |i: i32| format!("the barn {i} is old,\x1b[2Jred\nwaves and wind {i},{long}\n");
    let rows: String = (0..20).map(row).collect();
    place.write("rows.csv", format!("text,label\n{rows}"));
    let call =
        "finetune --model trunk --data rows.csv --method adapters --max_steps 4 --eval_every 2 --n_warmup 1";
    let calm = place.run(&format!("{call} --out calm"));
    assert!(
        !calm.succeeds().stderr.contains("saved") && !calm.stderr.contains("adapter_"),
        "{}",
        calm.stderr
    );
    let evaluations: Vec<&str> =
        calm.stderr.lines().filter(|line| line.contains("valid: accuracy")).collect();
    assert_eq!(evaluations.len(), 3, "{}", calm.stderr);
    assert!(
        evaluations[0].starts_with("step 2  valid: accuracy ") && evaluations[0].ends_with("  best so far")
    );
    for said in [&calm.stdout, &calm.stderr] {
        assert!(!said.chars().any(|c| c.is_control() && c != '\n'), "{said:?}");
        assert!(said.contains(r"\u{1b}[2Jred") && !said.contains(&"x".repeat(240)), "{said}");
    }
    assert!(calm.stdout.contains("valid, by class  "), "{}", calm.stdout);
    let log = fs::read_to_string(place.path("calm/train.log")).unwrap();
    assert!(log.contains("adapter_attention.down.weight") && log.contains("precision/"), "{log}");
    assert!(place.run(&format!("{call} --out full -v")).succeeds().stderr.contains("saved full/final"));
    let evaluated = place.run("eval calm --data rows.csv --split train");
    assert!(evaluated.succeeds().stdout.contains(r"\u{1b}[2Jred"), "{}", evaluated.stdout);
}

/// The program, started by a shell that has done something before.
#[cfg(unix)]
fn after(place: &Place, before: &str, call: &str) -> Command {
    let program = place.command(call);
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("{before}; exec \"$0\" \"$@\"")).arg(program.get_program());
    shell.args(program.get_args());
    place.prepare(shell)
}

/// Under `nohup` the terminal may go.
#[cfg(unix)]
#[test]
fn a_signal_that_was_ignored_at_the_start_stays_ignored() {
    let place = Place::new();
    tokenizer(&place);
    let call = "pretrain --data starter --tokenizer tok.json --preset micro --max_steps 20 --json --out run";
    let mut child = after(&place, "trap '' HUP", call).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("step 1/")), "no first step");
    for _ in 0..2 {
        assert!(Command::new("kill").args(["-HUP", &child.id().to_string()]).status().unwrap().success());
    }
    let said: Vec<String> = lines.map(Result::unwrap).collect();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{said:?}");
    let ended: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&ended["steps"], &ended["stopped"]), (&20.into(), &Value::Null));
}

/// As on a full disk: the file is named, and the exit code is a failure's.
#[cfg(unix)]
#[test]
fn a_limit_for_the_size_of_files_is_reported() {
    let place = Place::new();
    tokenizer(&place);
    for call in [
        "tokenizer train starter --vocab_size 600 --out small.json",
        "pretrain --data starter --tokenizer tok.json --preset micro --max_steps 2 --out run",
    ] {
        let output = after(&place, "ulimit -f 8", call).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("File too large") && said.contains("error: "), "{said}");
    }
}
