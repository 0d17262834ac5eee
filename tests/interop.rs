//! Models of other programs, in and out: vectors as sentence-transformers makes them, folders that `transformers` reads.
//!
//! Owns: what is promised of `features`, `export` and a finished model's folder. Never: the mathematics of a family, which the
//! library's goldens judge.

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
use support::{Place, trunks};

/// A tiny encoder as sentence-transformers 6 saves it.
fn sentences() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sentences")
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

/// Its texts, and their vectors by sentence-transformers in f64.
fn expected() -> (Vec<String>, Vec<Vec<f64>>) {
    let text = fs::read_to_string(sentences().join("expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    let texts = expected["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned());
    (texts.collect(), expected["vectors"].as_array().unwrap().iter().map(numbers).collect())
}

fn lines(texts: &[String]) -> String {
    texts.iter().map(|text| text.clone() + "\n").collect()
}

/// The shape and the numbers of a NumPy array of f32.
fn array(bytes: &[u8]) -> (String, Vec<f32>) {
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = String::from_utf8_lossy(&bytes[10..start]).into_owned();
    assert!(header.contains("'descr': '<f4', 'fortran_order': False") && header.ends_with('\n'), "{header}");
    let shape = header.split("'shape': ").nth(1).unwrap().split(", }").next().unwrap().to_owned();
    let values = bytes[start..].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    (shape, values.collect())
}

fn vectors(jsonl: &str) -> Vec<Vec<f64>> {
    let line = |line: &str| numbers(&serde_json::from_str::<Value>(line).unwrap()["embedding"]);
    jsonl.lines().map(line).collect()
}

#[test]
fn vectors_are_those_of_sentence_transformers() {
    let place = Place::new();
    let (texts, expected) = expected();
    let call = format!("features {}", sentences().display());
    let done = place.feed(&call, lines(&texts).as_bytes());
    done.says(&["10 numbers a text: the mean of the hidden states, scaled to length 1", "up to 16 tokens"]);
    done.says(&["1 texts were longer than 16 tokens and were cut"]);
    let ours = vectors(&done.stdout);
    assert_eq!(ours.len(), expected.len());
    for ((text, ours), theirs) in texts.iter().zip(&ours).zip(&expected) {
        let furthest = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(furthest < 1e-6, "{text:?}: {furthest}");
    }

    // As an array, and in another order: the same bits.
    place.write("texts.txt", lines(&texts));
    place.run(&format!("{call} --input texts.txt --output vectors.npy")).succeeds();
    let (shape, values) = array(&place.bytes("vectors.npy"));
    assert_eq!(shape, format!("({}, 10)", texts.len()));
    let flat: Vec<f32> = ours.iter().flatten().map(|&value| value as f32).collect();
    assert_eq!(values, flat);
    let reversed: Vec<String> = texts.iter().rev().cloned().collect();
    place.write("reversed.txt", lines(&reversed));
    place.run(&format!("{call} --input reversed.txt --output reversed.npy --threads 1")).succeeds();
    let (_, backwards) = array(&place.bytes("reversed.npy"));
    let again: Vec<f32> = backwards.chunks_exact(10).rev().flatten().copied().collect();
    assert_eq!(again, values, "a vector depends on what stands beside its text");
    place.run(&format!("{call} --output vectors.npy")).refuses(2, &["--output vectors.npy: the file exists"]);
}

/// What some folders have behind their pooling (LaBSE, distiluse).
#[test]
fn linears_behind_the_pooling_are_those_of_sentence_transformers() {
    let place = Place::new();
    place.copy(&sentences(), "model");
    place.copy(&sentences().join("linears"), "model");
    let (texts, plain) = expected();
    let known = fs::read_to_string(sentences().join("expected.json")).unwrap();
    let known: Value = serde_json::from_str(&known).unwrap();
    let known: Vec<Vec<f64>> = known["through_linears"].as_array().unwrap().iter().map(numbers).collect();
    let made = |flags: &str| place.feed(&format!("features model {flags}"), lines(&texts).as_bytes());
    let done = made("");
    done.says(&["4 numbers a text: the mean of the hidden states, through a linear to 7, tanh, through a linear to 4, scaled"]);
    let apart = |ours: &[Vec<f64>], theirs: &[Vec<f64>]| {
        assert_eq!((ours.len(), ours[0].len()), (theirs.len(), theirs[0].len()));
        let pairs = ours.iter().zip(theirs).flat_map(|(a, b)| a.iter().zip(b));
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
    };
    let furthest = apart(&vectors(&done.stdout), &known);
    assert!(furthest < 1e-6, "{furthest}");
    // They have learned to read the folder's own pooling, and no other one is sent through them.
    assert_eq!(vectors(&made("--pooling mean").stdout), vectors(&done.stdout));
    assert_eq!(vectors(&made("--pooling cls").stdout)[0].len(), 10);
    // The trunk is one like others; what another program would make of it is not told wrongly.
    place.write("reviews.csv", "text,label\ngood food,1\nbad food,0\na good day,1\na bad day,0\n");
    place.run("finetune --model model --data reviews.csv --max_steps 2 --out tuned").succeeds();
    let export = "export model --to sentence-transformers --output";
    place.run(&format!("{export} out")).refuses(1, &["linears behind the pooling", "--pooling mean"]);
    place.run(&format!("{export} out --pooling mean")).succeeds();
    let trunk = place.feed("features out --normalize", lines(&texts).as_bytes());
    assert!(apart(&vectors(&trunk.stdout), &plain) < 1e-6);
    // What does not fit is named.
    let config = place.path("model/3_Dense/config.json");
    let said = fs::read_to_string(&config).unwrap();
    let refused = |from: &str, to: &str, words: &[&str]| {
        let changed = said.replace(from, to);
        assert!(changed != said, "{from}: {said}");
        fs::write(&config, changed).unwrap();
        let done = place.feed("features model", b"a boat\n");
        assert_eq!(done.code, Some(1), "{}", done.stderr);
        assert!(words.iter().all(|word| done.stderr.contains(word)), "{}", done.stderr);
        fs::write(&config, &said).unwrap();
    };
    refused("\"in_features\": 7", "\"in_features\": 8", &["3_Dense", "`in_features` are 8", "7 columns"]);
    refused("\"out_features\": 4", "\"out_features\": 5", &["linear.weight", "[5, 7]"]);
    refused("\"out_features\": 4", "\"out_features\": -4", &["`out_features` is no size"]);
    refused("linear.Identity", "activation.Mish", &["Mish", "Tanh or Identity"]);
    fs::remove_file(place.path("model/2_Dense/model.safetensors")).unwrap();
    let missing = place.feed("features model", b"a boat\n");
    assert!(missing.code == Some(1) && missing.stderr.contains("2_Dense"), "{}", missing.stderr);
}

#[test]
fn flags_say_how_vectors_are_made_and_rows_keep_their_fields() {
    let place = Place::new();
    let call = format!("features {}", sentences().display());
    let rows = "{\"id\":7,\"text\":\"the river\"}\n{\"id\":8,\"text\":\"a boat\"}\n";
    place.write("rows.jsonl", rows);
    let plain = |flags: &str| {
        let done = place.run(&format!("{call} --input rows.jsonl {flags}"));
        done.succeeds();
        let first: Value = serde_json::from_str(done.stdout.lines().next().unwrap()).unwrap();
        assert_eq!((&first["id"], &first["text"]), (&7.into(), &"the river".into()));
        vectors(&done.stdout)
    };
    let length = |vector: &Vec<f64>| vector.iter().map(|x| x * x).sum::<f64>().sqrt();
    let (mean, cls, largest) =
        (plain("--normalize=false"), plain("--normalize=false --pooling cls"), plain("--pooling max"));
    assert!((length(&plain("")[0]) - 1.0).abs() < 1e-6 && (length(&mean[0]) - 1.0).abs() > 0.1);
    assert!(mean != cls && cls != plain("--normalize=false --pooling last") && largest != mean);
    // What is cut away changes nothing any more.
    place.write("long.txt", "the river\nthe river runs slow\n");
    let cut = place.run(&format!("{call} --input long.txt --max_length 4"));
    cut.says(&["up to 4 tokens", "1 texts were longer than 4 tokens"]);
    let [whole, cut] = &vectors(&cut.stdout)[..] else { panic!("{}", cut.stdout) };
    assert_eq!(whole, cut);

    place.run(&format!("{call} --max_length 19")).refuses(2, &["19 tokens", "18 positions"]);
    place.run(&format!("{call} --pooling pooler")).refuses(2, &["cls, mean, max, last"]);
    place.run(&format!("{call} --output vectors.csv")).refuses(2, &[".npy", ".jsonl"]);
    place.write("bad.jsonl", "{\"text\":\"a boat\"}\n{\"text\":7}\n");
    let bad = place.run(&format!("{call} --input bad.jsonl --output bad.npy"));
    assert_eq!(bad.code, Some(1), "{}", bad.stderr);
    assert!(bad.stderr.contains("bad.jsonl:2") && !place.path("bad.npy").exists(), "{}", bad.stderr);
}

#[test]
fn what_is_exported_is_what_came_in() {
    let place = Place::new();
    let (model, (texts, expected)) = (sentences(), expected());
    place.run(&format!("export {} --to hf --output out/model", model.display())).succeeds();
    place.copy(&model, "model");
    assert_eq!(place.tensors("model/model.safetensors"), place.tensors("out/model/model.safetensors"));
    let config = place.json_file("out/model/config.json");
    assert_eq!((&config["model_type"], &config["architectures"][0]), (&"bert".into(), &"BertModel".into()));
    assert!(!place.path("out/model/modules.json").exists());
    place
        .run(&format!("export {} --to hf --output out/model", model.display()))
        .refuses(2, &["exists already"]);

    // In the other dialect of sentence-transformers: the same vectors.
    let done = place
        .run(&format!("export {} --to sentence-transformers --output out/vectors --json", model.display()));
    assert_eq!(done.json()["architecture"], "BertModel");
    assert_eq!(place.json_file("out/vectors/sentence_bert_config.json")["max_seq_length"], 16);
    assert_eq!(place.json_file("out/vectors/1_Pooling/config.json")["pooling_mode_mean_tokens"], true);
    assert_eq!(place.json_file("out/vectors/modules.json").as_array().unwrap().len(), 3);
    let done = place.feed("features out/vectors", lines(&texts).as_bytes());
    for (ours, theirs) in vectors(&done.succeeds().stdout).iter().zip(&expected) {
        assert!(ours.iter().zip(theirs).all(|(a, b)| (a - b).abs() < 1e-6));
    }
    let other = "--to sentence-transformers --pooling cls --normalize=false --output out/cls";
    place.run(&format!("export {} {other}", model.display())).succeeds();
    assert_eq!(place.json_file("out/cls/1_Pooling/config.json")["pooling_mode_cls_token"], true);
    assert_eq!(place.json_file("out/cls/modules.json").as_array().unwrap().len(), 2);
    let other = "--to hf --pooling cls --output out/none";
    place.run(&format!("export {} {other}", model.display())).refuses(2, &["--pooling"]);
    assert!(!place.path("out/none").exists());
}

#[test]
fn a_finished_classifier_is_a_folder_of_transformers() {
    let place = Place::new();
    let rows: String = (0..40)
        .map(|at| format!("{} the {} boat,{}\n", if at % 2 == 0 { "good" } else { "bad" }, at, at % 2))
        .collect();
    place.write("reviews.csv", format!("text,label\n{}", rows.replace(",0\n", ",\"yes: \"\"so\"\"\"\n")));
    let tune =
        format!("finetune --model {} --data reviews.csv --max_steps 4 --out tuned", sentences().display());
    place.run(&tune).succeeds();
    let config = place.json_file("tuned/final/config.json");
    assert_eq!(config["architectures"][0], "BertForSequenceClassification");
    assert_eq!(config["problem_type"], "single_label_classification");
    let labels = config["id2label"].as_object().unwrap();
    assert!(labels.values().any(|label| label == "yes: \"so\""), "{labels:?}");
    let back = |label: &Value| config["label2id"][label.as_str().unwrap()].as_u64();
    assert!(labels.iter().all(|(id, label)| back(label) == id.parse().ok()));
    assert_eq!(config["layer_norm_eps"].to_string(), "1e-12");
    assert_eq!(config["hidden_dropout_prob"].to_string(), "0.1");

    let tokenizer = &place.json_file("tuned/final/tokenizer.json")["post_processor"];
    assert_eq!(tokenizer["type"], "TemplateProcessing");
    assert_eq!(tokenizer["pair"].as_array().unwrap().len(), 5);
    assert_eq!(tokenizer["special_tokens"]["[SEP]"]["ids"][0], 3);
    let notes = place.json_file("tuned/final/tokenizer_config.json");
    assert_eq!(notes["model_max_length"], 16, "as long as the classifier's inputs were");
    assert_eq!(notes["model_input_names"][1], "token_type_ids");
    assert_eq!(place.json_file("tuned/final/special_tokens_map.json")["cls_token"], "[CLS]");

    let card = String::from_utf8(place.bytes("tuned/final/README.md")).unwrap();
    let front = card.split("---\n").nth(1).unwrap();
    for line in
        ["library_name: transformers", "base_model: \"sentences\"", "- \"reviews.csv\"", "- type: accuracy"]
    {
        assert!(front.contains(line), "{line}: {card}");
    }
    let accuracy = front.split("name: accuracy\n      value: ").nth(1).unwrap().lines().next().unwrap();
    let last = place.metrics("tuned").into_iter().rfind(|(_, kind, _)| *kind == "valid").unwrap();
    let logged = last.2.iter().find(|(name, _)| name == "accuracy").unwrap().1;
    assert_eq!(accuracy, format!("{:.4}", f64::from_bits(logged)));

    // Another program's copy of it, without what only this one wrote, answers the same.
    place.copy(&place.path("tuned/final"), "copy");
    fs::remove_file(place.path("copy/headstart.json")).unwrap();
    // The last one is longer than the classifier's 16 tokens, and shorter than the model's 18 positions.
    let texts = "the good boat\na bad river\nthe the the the the the the the the the the the the the the\n";
    let answers = ["tuned", "copy"]
        .map(|model| place.feed(&format!("predict {model} --precision f32"), texts.as_bytes()));
    assert_eq!(answers[0].succeeds().stdout, answers[1].succeeds().stdout);
    assert!(answers[0].stdout.lines().nth(2).unwrap().contains("truncated"), "{}", answers[0].stdout);
    place.run("export tuned --to sentence-transformers --output vectors").succeeds();
    let done = place.feed("features vectors", b"the good boat\n");
    assert_eq!(done.succeeds().stdout, place.feed("features tuned", b"the good boat\n").stdout);
}

#[test]
fn a_run_of_gpt2s_layout_is_exported_and_the_tutorials_is_not() {
    let (trunks, place) = (trunks("interop"), Place::new());
    let run = |name: &str| trunks.path(name).display().to_string();
    assert_eq!(trunks.json_file("lm/final/config.json")["model_type"], "headstart");
    place.run(&format!("export {} --to hf --output gpt2", run("lm"))).succeeds();
    let config = place.json_file("gpt2/config.json");
    assert_eq!(config["architectures"][0], "GPT2LMHeadModel");
    assert_eq!(config["bos_token_id"], config["eos_token_id"]);
    let generated = [run("lm"), "gpt2".into()].map(|model| {
        let done = place.run_with(&format!("generate {model} --max_new_tokens 12 --prompt"), "the");
        done.succeeds().stdout.clone()
    });
    assert_eq!(generated[0], generated[1]);
    let texts = b"the water is near the town\n\nthe town\n";
    let features = [run("lm"), "gpt2".into()].map(|model| place.feed(&format!("features {model}"), texts));
    assert_eq!(features[0].succeeds().stdout, features[1].succeeds().stdout);
    place.feed(&format!("features {} --pooling cls", run("naacl2019")), texts).succeeds();

    let naacl = format!("export {} --to hf --output naacl", run("naacl2019"));
    place.run(&naacl).refuses(1, &["cannot be exported", "tutorial's family"]);
    let cls = format!("export {} --to sentence-transformers --pooling cls --output naacl", run("lm"));
    place.run(&cls).refuses(1, &["[CLS] stands behind the text"]);
    assert!(!place.path("naacl").exists());
}
