//! Published models through the program: fine-tuned by every method, their pretraining continued, and what comes of bad folders.
//!
//! Owns: folders of other programs as users have them. Never: what a family computes (the goldens).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use support::published::{configure, folder, keep_tensors, vocabulary};
use support::{Place, sentences};

/// A place with labelled texts, running text, and a model of each case in a folder of its name.
fn place(cases: &[&str]) -> Place {
    let place = Place::new();
    place.topics();
    place.write("books/train.txt", sentences(1, 60));
    place.write("books/valid.txt", sentences(2, 20));
    for case in cases {
        folder(&place, case, case);
    }
    place
}

/// What a finished model's own notes say.
fn notes(place: &Place, run: &str) -> Value {
    place.json_file(&format!("{run}/final/headstart.json"))
}

#[test]
fn every_family_goes_on_with_its_pretraining_and_is_fine_tuned_from_there() {
    let place = place(&["bert_mlm", "roberta_mlm", "distilbert_mlm", "electra_mlm", "modernbert_mlm"]);
    for family in ["bert", "roberta", "distilbert", "electra", "modernbert"] {
        let model = format!("{family}_mlm");
        let call =
            format!("pretrain --from {model} --data books --max_steps 3 --block_size 24 --out {family}");
        place.run(&call).says(&[
            &format!("model: {family}, "),
            "tensors used, 0 left, 0 added; max_length 24",
            "continued pretraining",
        ]);
        let config = place.json_file(&format!("{family}/final/config.json"));
        assert_eq!(config["model_type"], family);
        assert!(config["architectures"][0].as_str().unwrap().ends_with("ForMaskedLM"), "{config}");
        assert_eq!(notes(&place, family)["objective"], "mlm");
        let result = place.run(&format!("eval {family} --data books --json")).json();
        assert!(result["metrics"]["ppl"].as_f64().unwrap() > 1.0, "{result}");
        let call = format!("finetune --model {family} --data topics --max_steps 3 --out {family}-tuned");
        place.run(&call).succeeds();
        let answers = place.feed(&format!("predict {family}-tuned"), b"the old river\n").json_lines();
        assert!(["water", "land"].contains(&answers[0]["label"].as_str().unwrap()), "{answers:?}");
    }
}

#[test]
fn continued_pretraining_is_resumed_to_the_same_bits() {
    let place = place(&["bert_mlm"]);
    let call = "pretrain --from bert_mlm --data books --max_steps 6 --save_every 3 --eval_every 2 --block_size 24 --out";
    place.run(&format!("{call} whole")).succeeds();
    place.copy(&place.path("whole"), "cut");
    fs::remove_dir_all(place.path("cut/final")).unwrap();
    fs::remove_dir_all(place.path("cut/checkpoints/step-00000006")).unwrap();
    fs::remove_file(place.path("cut/checkpoints/best.json")).unwrap();
    // The model it came from is not needed any more.
    fs::rename(place.path("bert_mlm"), place.path("away")).unwrap();
    place.run("pretrain --resume cut").succeeds();
    assert_eq!(place.bytes("cut/final/model.safetensors"), place.bytes("whole/final/model.safetensors"));
    assert_eq!(place.metrics("cut"), place.metrics("whole"));
    // A run that goes on keeps what it was started with.
    place.run("pretrain --resume cut --block_size 12").refuses(2, &["--block_size 12", "started with 24"]);
}

/// A folder of sentence-transformers without an LM head.
fn sentence_model(place: &Place) {
    folder(place, "minilm", "bert_mlm");
    keep_tensors(place, "minilm", |name| !name.starts_with("cls."));
    place.write(
        "minilm/modules.json",
        json!([
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        ])
        .to_string(),
    );
    place.write("minilm/1_Pooling/config.json", json!({"pooling_mode_mean_tokens": true}).to_string());
    place.write("minilm/sentence_bert_config.json", json!({"max_seq_length": 20}).to_string());
    configure(place, "minilm", |config| {
        config.insert("classifier_dropout".into(), json!(0.25));
    });
}

#[test]
fn what_a_folder_says_of_classifiers_is_kept_by_what_is_trained_from_it() {
    let place = place(&[]);
    sentence_model(&place);
    // Its LM head is new.
    let call = "pretrain --from minilm --data books --max_steps 2 --out adapted";
    place.run(call).says(&["model: bert", "0 left, 5 added (a new language-model head)", "max_length 39"]);
    let log = String::from_utf8(place.bytes("adapted/train.log")).unwrap();
    assert!(log.contains("lm_head.dense.weight") && log.contains("passed over: "), "{log}");
    for (from, run) in [("minilm", "straight"), ("adapted", "tuned"), ("tuned", "again")] {
        let call = format!("finetune --model {from} --data topics --max_steps 2 --out {run}");
        place.run(&call).says(&["were cut"]);
        let head = notes(&place, run)["head"].clone();
        assert_eq!(
            (&head["max_length"], &head["dropout"], &head["pooling"]),
            (&json!(20), &json!(0.25), &json!("pooler"))
        );
        assert_eq!(notes(&place, run)["objective"], Value::Null, "its LM head is gone");
    }
    place
        .run("finetune --model minilm --data topics --max_steps 1 --out x")
        .says(&["max_length 20, pooling pooler"]);
    // A head that is there keeps what it reads.
    place
        .run("finetune --model minilm --data topics --max_steps 1 --pooling mean --max_length 12 --out mean")
        .succeeds();
    place.run("finetune --model mean --data topics --max_steps 1 --out mean-again").succeeds();
    // `transformers` has no BERT with this pooling.
    let head = place.json_file("mean-again/final/config.json")["head"].clone();
    assert_eq!((&head["max_length"], &head["pooling"]), (&json!(12), &json!("mean")));
    place.run("eval tuned --data books --language_model").refuses(1, &["no language model", "--from"]);
}

#[test]
fn what_sentence_transformers_does_behind_the_pooling_is_done_and_written_again() {
    let place = place(&[]);
    sentence_model(&place);
    let general = json!({
        "prompts": {"query": "the ", "passage": "old "}, "default_prompt_name": "query", "truncate_dim": 10,
    });
    place.write("minilm/config_sentence_transformers.json", general.to_string());
    let vectors = |flags: &str| -> Vec<f64> {
        let done = place.feed(&format!("features {flags}"), b"river\n");
        done.says(&["10 numbers a text", "the first 10 of 27"]);
        serde_json::from_value(done.json_lines()[0]["embedding"].clone()).unwrap()
    };
    place.run("export minilm --to sentence-transformers --output out").succeeds();
    let written = place.json_file("out/config_sentence_transformers.json");
    for key in ["prompts", "default_prompt_name", "truncate_dim"] {
        assert_eq!(written[key], general[key], "{key}");
    }
    let [default, query, passage] =
        ["minilm", "minilm --prompt query", "minilm --prompt passage"].map(vectors);
    assert_eq!((default.len(), &default), (10, &query));
    assert_ne!(default, passage);
    assert_eq!(vectors("out --prompt passage"), passage);
    let length = |vector: &[f64]| vector.iter().map(|value| value * value).sum::<f64>().sqrt();
    assert!((length(&vectors("minilm --normalize")) - 1.0).abs() < 1e-6);
    // The folder's own scaling comes before columns are cut off.
    let modules = place.json_file("minilm/modules.json");
    let mut modules = modules.as_array().unwrap().clone();
    modules.push(json!({"idx": 2, "name": "2", "path": "2_Normalize", "type": "a.Normalize"}));
    place.write("minilm/modules.json", Value::from(modules).to_string());
    assert!(length(&vectors("minilm")) < 0.99);
    let shown = place.run("models show minilm --json").json();
    assert_eq!((&shown["config"]["arch"], &shown["labels"]), (&json!("bert"), &json!([])));
    assert_eq!(shown["vectors"]["prompts"], general["prompts"]);
    place.feed("features minilm --prompt x", b"river\n").refuses(2, &["no prompt `x`", "`passage`, `query`"]);
}

#[test]
fn what_a_config_says_of_classifiers_is_kept_by_what_has_none() {
    let place = place(&["modernbert_mlm", "distilbert_mlm"]);
    for (model, key, value) in [
        ("modernbert_mlm", "classifier_pooling", json!("cls")),
        ("distilbert_mlm", "seq_classif_dropout", json!(0.375)),
    ] {
        configure(&place, model, |config| {
            config.insert(key.into(), value.clone());
        });
        place.run(&format!("export {model} --to hf --output {model}-out")).succeeds();
        place
            .run(&format!("pretrain --from {model} --data books --max_steps 1 --out {model}-run"))
            .succeeds();
        for folder in [format!("{model}-out"), format!("{model}-run/final")] {
            assert_eq!(place.json_file(&format!("{folder}/config.json"))[key], value, "{folder}");
        }
    }
}

#[test]
fn models_of_the_cache_without_a_short_name_are_listed_by_their_own() {
    let place = place(&["bert_clf"]);
    let commit = "0123456789abcdef0123456789abcdef01234567";
    for name in ["models--someone--small", "models--someone--large", "datasets--someone--texts"] {
        place.write(&format!("huggingface/hub/{name}/refs/main"), commit);
    }
    let of = |name: &str| place.path(&format!("huggingface/hub/models--someone--{name}/snapshots/{commit}"));
    place.copy(&place.path("bert_clf"), of("small").to_str().unwrap());
    fs::create_dir_all(of("large")).unwrap();
    fs::write(of("large").join("config.json"), r#"{"model_type": "llama"}"#).unwrap();
    fs::write(of("large").join("model.safetensors"), "").unwrap();
    let list = place.run("models list").succeeds().stdout.clone();
    let line = |name: &str| {
        list.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {list}"))
    };
    assert!(line("someone/small").contains("bert ") && line("someone/small").ends_with(" here"), "{list}");
    assert!(
        line("someone/large").contains("cannot be used: ") && line("someone/large").contains("llama"),
        "{list}"
    );
    assert!(!list.contains("texts"), "{list}");
    let lines = place.run("models list --json").json_lines();
    let small = lines.iter().find(|line| line["name"] == "someone/small").unwrap();
    assert_eq!((&small["family"], &small["commit"]), (&"bert".into(), &commit.into()));
    let shown = place.run(&format!("models show {}", small["folder"].as_str().unwrap()));
    let parameters = small["parameters"].as_f64().unwrap() / 1e6;
    assert!(shown.succeeds().stdout.contains(&format!("{parameters:.1} M parameters")), "{}", shown.stdout);
}

#[test]
fn a_published_model_is_trained_by_every_method() {
    let place = place(&["bert_clf", "distilbert_mlm"]);
    for (model, flags) in [
        ("bert_clf", "--method head"),
        ("bert_clf", "--method adapters --adapters_dim 4"),
        ("distilbert_mlm", "--method adapters --adapters_dim 4 --train_norms"),
        ("bert_clf", "--method lora --lora_targets all --lora_dropout 0.1"),
        ("bert_clf", "--method lora --lora_targets q,up --lora_rank 3 --rslora --precision bf16"),
        ("distilbert_mlm", "--method bitfit"),
        ("bert_clf", "--lm_loss_coef 0.5"),
        ("distilbert_mlm", "--lm_loss_coef 0.5"),
        ("bert_clf", "--from_scratch"),
    ] {
        for run in ["whole", "cut"] {
            let _ = fs::remove_dir_all(place.path(run));
        }
        let call = format!(
            "finetune --model {model} --data topics --max_steps 4 --save_every 2 {flags} --out whole"
        );
        place.run(&call).says(&["model: "]);
        place.copy(&place.path("whole"), "cut");
        fs::remove_dir_all(place.path("cut/final")).unwrap();
        fs::remove_dir_all(place.path("cut/checkpoints/step-00000004")).unwrap();
        fs::remove_file(place.path("cut/checkpoints/best.json")).unwrap();
        place.run("finetune --resume cut").succeeds();
        assert_eq!(
            place.bytes("cut/final/model.safetensors"),
            place.bytes("whole/final/model.safetensors"),
            "{call}"
        );
        let answers = place.feed("predict whole", b"the old river\n").json_lines();
        assert_eq!(answers.len(), 1, "{call}");
        let config = place.json_file("whole/final/config.json");
        let theirs = config["model_type"] != "headstart";
        assert_eq!(theirs, !flags.contains("adapters") && !flags.contains("lora"), "{flags}: {config}");
    }
}

#[test]
fn low_rank_updates_go_out_merged_or_beside_the_model_they_are_of() {
    let place = place(&["bert_clf", "gpt2_clf"]);
    for (model, all_targets) in [("bert_clf", 12), ("gpt2_clf", 8)] {
        let run = |flags: &str, out: &str| {
            let call = format!(
                "finetune --model {model} --data topics --method lora {flags} --lr 2e-2 --max_steps 9"
            );
            place.run(&format!("{call} --out {out}")).says(&[" train ("]);
        };
        let updated = format!("{model}-updated");
        run("--lora_targets all --lora_rank 3", &updated);
        let merged = place.run(&format!("export {updated} --to hf --output {updated}-merged --json")).json();
        assert!(merged["merged"].as_f64().unwrap() < 1e-5, "{merged}");
        let answers = |name: &str| place.feed(&format!("predict {name}"), b"the old river\n").json_lines();
        let [ours, merged] = [answers(&updated), answers(&format!("{updated}-merged"))];
        assert_eq!(ours[0]["label"], merged[0]["label"], "{model}");

        place.run(&format!("export {updated} --to peft --base {model} --output {updated}-peft")).succeeds();
        let config = place.json_file(&format!("{updated}-peft/adapter_config.json"));
        assert_eq!((&config["peft_type"], &config["r"]), (&json!("LORA"), &json!(3)));
        let modules = config["target_modules"].as_array().unwrap();
        assert_eq!(modules.len(), all_targets, "{config}");
        let path = place.path(&format!("{updated}-peft/adapter_model.safetensors"));
        let tensors = headstart::tensors::Tensors::open_file(&path).unwrap();
        for module in modules {
            let name = module.as_str().unwrap();
            // What is packed has the ranks of its three parts.
            let rank = if name.ends_with("c_attn") { 9 } else { 3 };
            let shape = tensors.shape(&format!("base_model.model.{name}.lora_A.weight")).unwrap();
            assert_eq!(shape[0], rank, "{name}");
            assert_eq!(config["rank_pattern"].get(name).is_some(), rank == 9, "{config}");
        }
        let other = if model == "bert_clf" { "gpt2_clf" } else { "bert_clf" };
        place
            .run(&format!("export {updated} --to peft --base {other} --output other"))
            .refuses(1, &["was not trained on", &updated, other, "--base"]);
        run("--train_norms", &format!("{model}-normed"));
        place
            .run(&format!("export {model}-normed --to peft --base {model} --output other"))
            .refuses(1, &["was not trained on", "norm", "--train_norms"]);
        assert!(!place.path("other").exists());
        place
            .run(&format!("finetune --model {updated} --data topics --method lora --lora_rank 2 --out again"))
            .refuses(2, &["has low-rank updates already, of rank 3", "headstart export"]);
        let same = "--method lora --lora_targets all --lora_rank 3 --max_steps 2";
        place.run(&format!("finetune --model {updated} --data topics {same} --out {model}-more")).succeeds();
    }
    place.run("export bert_clf --to peft --output other").refuses(2, &["--base MODEL"]);
    place
        .run("export bert_clf --to peft --base bert_clf --output other")
        .refuses(1, &["no low-rank updates"]);
    place.run("export bert_clf --to hf --base bert_clf --output other").refuses(2, &["--base goes with"]);
}

#[test]
fn families_are_pretrained_from_scratch_with_sizes_of_ours() {
    let place = place(&[]);
    place.write("vocab.txt", vocabulary(80));
    for family in ["bert", "roberta", "distilbert", "electra", "modernbert"] {
        let sizes = "--preset micro --num_max_positions 32 --max_steps 2";
        let call =
            format!("pretrain --arch {family} {sizes} --data books --tokenizer vocab.txt --out {family}");
        place.run(&call).succeeds();
        let config = place.json_file(&format!("{family}/final/config.json"));
        assert_eq!(config["model_type"], family, "it is in the form of its family");
        assert_eq!(notes(&place, family)["objective"], "mlm");
        let call = format!("finetune --model {family} --data topics --max_steps 1 --out {family}-tuned");
        place.run(&call).succeeds();
    }
    place
        .run("pretrain --arch bert --objective lm --data books")
        .refuses(2, &["objective", "both directions", "fix: use mlm"]);
}

#[test]
fn the_tutorials_own_files_are_a_model_for_every_command() {
    let place = place(&[]);
    place.copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tutorial"), "theirs");
    place.run("generate theirs --prompt the --max_new_tokens 3 --temperature 0").succeeds();
    place.run("eval theirs --data books --json").succeeds();
    place
        .run("pretrain --from theirs --data books --max_steps 2 --out more")
        .says(&["model: naacl2019", "26 tensors used, 0 left, 0 added"]);
    place
        .run("finetune --model theirs --data topics --max_steps 2 --out tuned")
        .says(&["model: naacl2019", "pooling cls"]);
    place.feed("predict tuned", b"the old river\n").succeeds();
}

#[test]
fn what_contradicts_a_model_is_named() {
    let place = place(&["bert_mlm", "gpt2_lm"]);
    for (flags, words) in [
        ("--from bert_mlm --objective lm", &["objective", "lm is asked for", "bert", "fix: use mlm"][..]),
        ("--from gpt2_lm --objective mlm", &["objective", "gpt2", "fix: use lm"]),
        ("--from bert_mlm --embed_dim 64", &["--embed_dim", "--from", "fix: leave --embed_dim out"]),
        ("--from bert_mlm --num_max_positions 64", &["--num_max_positions", "--block_size"]),
        ("--from bert_mlm --tokenizer t.json", &["tokenizer", "fix: leave it out"]),
        ("--from bert_mlm --block_size 64", &["block_size", "39 positions", "fix: use 39"]),
        ("--from bert_mlm --block_size 2", &["2 positions leave no room"]),
    ] {
        place.run(&format!("pretrain --data books --out run {flags}")).refuses(2, words);
        assert!(!place.path("run").exists(), "{flags}");
    }
    place.write("run.toml", "[model]\nembed_dim = 64\n");
    let call = "pretrain --from bert_mlm --data books --config run.toml --out run";
    place.run(call).refuses(2, &["embed_dim", "64 is asked for", "has 27"]);
    place
        .run("finetune --model bert_mlm --data topics --max_length 40 --out run")
        .refuses(2, &["max_length", "39 positions"]);
    assert!(!place.path("run").exists());
}

/// The files of a place whose names are hidden: nobody would look for them.
fn hidden(place: &Place) -> Vec<String> {
    place.names(".").into_iter().filter(|name| name.starts_with('.')).collect()
}

/// `features` into a file, while it waits for more texts, which come to an end with what writes them.
#[cfg(unix)]
fn half_written(place: &Place) -> (std::process::Child, std::process::ChildStdin) {
    let mut command = place.command("features bert_mlm --input - --output vectors.npy");
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    let since = std::time::Instant::now();
    while hidden(place).is_empty() {
        assert!(since.elapsed().as_secs() < 60 && child.try_wait().unwrap().is_none());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    // Taken out, for `wait` closes what it finds: the end of the texts would race with the signal.
    let texts = child.stdin.take().unwrap();
    (child, texts)
}

#[cfg(unix)]
#[test]
fn an_output_is_whole_or_not_there_and_nothing_is_left_beside_it() {
    let place = place(&["bert_mlm"]);
    // Another signal may be ignored where the tests run in the background.
    let (mut child, texts) = half_written(&place);
    let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
    assert!(sent.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    drop(texts);
    assert!(hidden(&place).is_empty() && !place.path("vectors.npy").exists());
    // What leaves no time to tidy up is made up for by whoever writes the same file next.
    let (mut child, _texts) = half_written(&place);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(hidden(&place).len(), 1);
    place.write("bad.jsonl", "{\"text\": \"one\"}\nno object\n");
    place.run("features bert_mlm --input bad.jsonl --output vectors.npy").refuses(1, &["bad.jsonl:2"]);
    assert!(hidden(&place).is_empty() && !place.path("vectors.npy").exists());
    assert_eq!(place.feed("features bert_mlm --output -", b"one\n").json_lines().len(), 1);
    assert!(!place.path("-").exists());
    place.feed("features bert_mlm --output vectors.npy", b"one\n").succeeds();
    assert!(hidden(&place).is_empty() && place.path("vectors.npy").exists());

    let export = "export bert_mlm --to hf --output out";
    let mut shell = Command::new("sh");
    shell.arg("-c").arg("trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\"");
    shell.arg(env!("CARGO_BIN_EXE_headstart")).args(export.split(' '));
    let output = place.prepare(shell).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("File too large") && said.contains("make room on its disk"), "{said}");
    assert!(!said.contains("--resume") && hidden(&place).is_empty() && !place.path("out").exists(), "{said}");
}

#[test]
fn the_tutorials_family_goes_out_with_code_beside_it_and_comes_in_again() {
    let place = place(&["bert_mlm"]);
    place.run("tokenizer train starter --vocab_size 300 --out tok.json").succeeds();
    let trunk = "pretrain --tokenizer tok.json --preset micro --arch naacl2019 --data books --max_steps 2 --out trunk";
    let said = place.run(trunk).succeeds().stdout.clone();
    assert!(
        said.contains("for transformers: headstart export trunk --to hf --with-code --output DIR"),
        "{said}"
    );
    place.run("finetune --model trunk --data topics --adapters_dim 4 --max_steps 2 --out tuned").succeeds();
    for (run, class) in [("trunk", "ForCausalLM"), ("tuned", "ForSequenceClassification")] {
        let folder = format!("{run}-out");
        let call = format!("export {run} --to hf --output {folder}");
        place.run(&call).refuses(1, &["the tutorial's family", "add --with-code"]);
        place.run(&format!("{call} --with-code")).succeeds();
        let config = place.json_file(&format!("{folder}/config.json"));
        assert_eq!(config["architectures"], json!([format!("Headstart{class}")]));
        assert_eq!(config["auto_map"]["AutoConfig"], "configuration_headstart.HeadstartConfig");
        for file in ["configuration_headstart.py", "modeling_headstart.py"] {
            let ours = Path::new("crates/headstart/src/interop/code").join(file);
            assert_eq!(place.bytes(&format!("{folder}/{file}")), fs::read(ours).unwrap(), "{file}");
        }
        // The other program knows no temperature: it is in the classifier's numbers.
        let temperature = place.json_file(&format!("{run}/final/config.json"))["temperature"].as_f64();
        let [out, own] = [format!("{folder}/model.safetensors"), format!("{run}/final/model.safetensors")]
            .map(|file| place.tensors(&file));
        assert!(out.keys().eq(own.keys()));
        for (name, bits) in &own {
            match temperature.filter(|_| name.starts_with("classification_head")) {
                None => assert_eq!(&out[name], bits, "{name}"),
                Some(temperature) => {
                    for (out, own) in out[name].iter().zip(bits) {
                        let [out, own] = [out, own].map(|bits| f64::from(f32::from_bits(*bits)));
                        assert!((out * temperature - own).abs() <= 1e-6 * own.abs(), "{name}: {out} {own}");
                    }
                }
            }
        }
    }
    let answers = |model: &str| {
        place.feed(&format!("predict {model} --precision f32"), b"the old river\nthe hill\n").json_lines()
    };
    for (out, own) in answers("tuned-out").iter().zip(&answers("tuned")) {
        assert_eq!(out["label"], own["label"]);
        let of = |answer: &Value| answer["probabilities"]["water"].as_f64().unwrap();
        assert!((of(out) - of(own)).abs() < 1e-6, "{out} {own}");
    }
    place.run("finetune --model trunk-out --data topics --max_steps 1 --out again").succeeds();
    place.run("export tuned-out --to hf --with-code --output twice").succeeds();
    assert_eq!(place.bytes("twice/model.safetensors"), place.bytes("tuned-out/model.safetensors"));
    place.run("export bert_mlm --to hf --with-code --output no").refuses(1, &["naacl2019 and gpt2 only"]);
    place.run("export tuned --to sentence-transformers --with-code --output no").refuses(2, &["--with-code"]);
    // Without our notes it is a folder with somebody's code.
    fs::remove_file(place.path("tuned-out/headstart.json")).unwrap();
    place.run("predict tuned-out").refuses(1, &["config.json", "fix:"]);
}
