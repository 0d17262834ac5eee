//! What was trained on a frozen model, alone: PEFT's folders in and out, a run's own, over the model they are of.
//!
//! Owns: these folders as users have them. Never: what a method computes (the goldens).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

mod support;

use std::fs;

use serde_json::{Value, json};
use support::Place;
use support::published::{folder, put_tensor};

fn place(cases: &[&str]) -> Place {
    let place = Place::new();
    place.topics();
    for case in cases {
        folder(&place, case, case);
    }
    place
}

const TEXTS: &[u8] = b"the old river\na lake in the land\nwater\n";

fn answers(place: &Place, model: &str) -> Vec<Value> {
    let answers = place.feed(&format!("predict {model}"), TEXTS).json_lines();
    assert_eq!(answers.len(), 3);
    answers
}

#[test]
fn folders_of_peft_come_in_and_go_out_the_same() {
    let place = place(&["bert_clf", "gpt2_clf"]);
    for (n, (model, flags)) in [
        ("bert_clf", "--method lora --lora_targets q,v,down --lora_rank 3 --rslora --lora_dropout 0.1"),
        ("bert_clf", "--method ia3"),
        ("gpt2_clf", "--method lora --lora_targets all --lora_rank 2"),
        ("gpt2_clf", "--method ia3 --ia3_targets all"),
        ("gpt2_clf", "--method ia3"),
    ]
    .into_iter()
    .enumerate()
    {
        let [run, out, again, merged, more] =
            ["run", "out", "again", "merged", "more"].map(|name| format!("{name}{n}"));
        place
            .run(&format!(
                "finetune --model {model} --data topics {flags} --lr 2e-2 --max_steps 6 --out {run}"
            ))
            .succeeds();
        place.run(&format!("export {run} --to peft --base {model} --output {out}")).succeeds();
        let config = place.json_file(&format!("{out}/adapter_config.json"));
        assert_eq!(config["peft_type"], if flags.contains("ia3") { "IA3" } else { "LORA" });
        // The base that it names, and the one that is named.
        let trained = answers(&place, &run);
        assert_eq!(answers(&place, &out), trained, "{flags}");
        assert_eq!(answers(&place, &format!("{out} --base {model}")), trained, "{flags}");
        let [a, b] = [&run, &out]
            .map(|model| place.run(&format!("eval {model} --data topics --split train --json")).json());
        assert_eq!(a, b, "{flags}");
        // Out again, the same files.
        place.run(&format!("export {out} --to peft --output {again}")).succeeds();
        for file in ["adapter_model.safetensors", "adapter_config.json"] {
            let [first, second] = [&out, &again].map(|folder| place.bytes(&format!("{folder}/{file}")));
            assert!(first == second, "{flags}: {file}");
        }
        let exported = place.run(&format!("export {out} --to hf --output {merged} --json")).json();
        assert!(exported["merged"].as_f64().unwrap() < 1e-5, "{flags}: {exported}");
        place
            .run(&format!("finetune --model {out} --data topics {flags} --max_steps 2 --out {more}"))
            .says(&["parameters"]);
    }
}

#[test]
fn what_peft_computes_otherwise_is_refused_by_name() {
    let place = place(&["bert_clf", "gpt2_clf"]);
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/peft/folders/bert_lora");
    place.copy(&golden, "adapter");
    answers(&place, "adapter --base bert_clf");
    // The name that its folder has is that of no folder elsewhere.
    answers(&place, "adapter");
    let whole = place.json_file("adapter/adapter_config.json");
    for (key, value, words) in [
        ("use_dora", json!(true), &["`use_dora`", "true"][..]),
        ("bias", json!("all"), &["`bias`", "\"all\"", "\"none\""]),
        ("rank_pattern", json!({"query": 4}), &["`rank_pattern`", "query"]),
        ("alpha_pattern", json!({"query": 4}), &["`alpha_pattern`", "query"]),
        ("layers_to_transform", json!([0]), &["`layers_to_transform`"]),
        ("init_lora_weights", json!("pissa"), &["`init_lora_weights`", "pissa"]),
        ("peft_type", json!("ADALORA"), &["`peft_type`", "ADALORA"]),
        ("peft_type", json!("PROMPT_TUNING"), &["PROMPT_TUNING", "virtual tokens", "finetune --method lora"]),
        ("task_type", json!("TOKEN_CLS"), &["`task_type`", "TOKEN_CLS"]),
        ("r", json!(4), &["do not go with its `r`"]),
        ("r", json!(0), &["0 is no rank"]),
        ("lora_rotation", json!(3), &["does not know", "`lora_rotation`"]),
    ] {
        let mut config = whole.clone();
        config[key] = value;
        place.write("adapter/adapter_config.json", config.to_string());
        place.run("predict adapter --base bert_clf").refuses(1, words);
    }
    place.write("adapter/adapter_config.json", "[");
    place.run("predict adapter --base bert_clf").refuses(1, &["adapter_config.json", "no"]);
    place.write("adapter/adapter_config.json", whole.to_string());
    place.run("predict adapter --base gpt2_clf").refuses(1, &["no place in a gpt2", "query"]);
    place.run("predict adapter --base adapter").refuses(2, &["adapter", "whole model"]);
    place.run("predict bert_clf --base gpt2_clf").refuses(2, &["whole model", "fix: leave base out"]);
    fs::rename(place.path("bert_clf"), place.path("away")).unwrap();
    let mut config = whole;
    config["base_model_name_or_path"] = json!("/nowhere/bert_clf");
    place.write("adapter/adapter_config.json", config.to_string());
    place.run("predict adapter").refuses(2, &["/nowhere/bert_clf", "--base MODEL"]);
    fs::remove_file(place.path("adapter/adapter_model.safetensors")).unwrap();
    place.run("predict adapter --base away").refuses(1, &["adapter_model.safetensors", "adapter_model.bin"]);
}

/// As PEFT's `target_modules="all-linear"` has one.
#[test]
fn an_update_of_the_pooler_is_added_to_its_weights() {
    let place = place(&["bert_clf"]);
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/peft/folders/bert_lora");
    place.copy(&golden, "adapter");
    place.copy(&golden, "plain");
    place.copy(&place.path("bert_clf"), "sum");
    let (rank, width) = (3, 27);
    let number = |n: usize| ((n * 37 % 101) as f32 - 50.0) / 100.0;
    let [a, b]: [Vec<f32>; 2] = [0, 7].map(|first| (first..first + rank * width).map(number).collect());
    let (file, module) = ("adapter/adapter_model.safetensors", "base_model.model.bert.pooler.dense");
    put_tensor(&place, file, &format!("{module}.lora_A.weight"), &[rank, width], a.clone());
    put_tensor(&place, file, &format!("{module}.lora_B.weight"), &[width, rank], b.clone());
    // Its alpha is 7.
    let scale = 7.0 / rank as f64;
    let mut weights: Vec<f32> = place.tensors("sum/model.safetensors")["bert.pooler.dense.weight"]
        .iter()
        .map(|bits| f32::from_bits(*bits))
        .collect();
    for (at, weight) in weights.iter_mut().enumerate() {
        let product = |k: usize| f64::from(b[at / width * rank + k]) * f64::from(a[k * width + at % width]);
        *weight += (scale * (0..rank).map(product).sum::<f64>()) as f32;
    }
    put_tensor(&place, "sum/model.safetensors", "bert.pooler.dense.weight", &[width, width], weights);
    let found = answers(&place, "adapter --base bert_clf");
    assert_eq!(found, answers(&place, "plain --base sum"));
    assert_ne!(found, answers(&place, "plain --base bert_clf"));
    // Whole and with an update it would be of two kinds of weights.
    put_tensor(&place, file, &format!("{module}.weight"), &[width, width], vec![0.5; width * width]);
    place.run("predict adapter --base bert_clf").refuses(1, &["`modules_to_save`", "has an update, too"]);
}

#[test]
fn what_was_trained_is_saved_alone_and_goes_with_its_trunk_only() {
    let place = place(&["bert_clf", "distilbert_mlm"]);
    // A trunk of ours, whose [CLS] is new.
    place.copy(&support::trunks(env!("CARGO_BIN_EXE_headstart")).path("lm"), "lm");
    let calls = [
        ("bert_clf", "--method lora --lora_targets all"),
        ("bert_clf", "--method ia3 --train_norms"),
        ("distilbert_mlm", "--method bitfit"),
        ("distilbert_mlm", "--method head"),
        ("lm", "--method adapters --adapters_dim 4"),
        ("lm", "--method lora --lm_loss_coef 0.5"),
    ];
    for (n, (model, flags)) in calls.into_iter().enumerate() {
        let run = format!("run{n}");
        place
            .run(&format!("finetune --model {model} --data topics {flags} --max_steps 4 --out {run}"))
            .says(&["what was trained, alone", "final/adapter", "MB", "fingerprint"]);
        let adapter = format!("{run}/final/adapter");
        let [alone, all] = [&adapter, &format!("{run}/final")].map(|folder| {
            let files = place.names(folder).into_iter().filter(|name| name.ends_with(".safetensors"));
            files.map(|name| place.bytes(&format!("{folder}/{name}")).len()).sum::<usize>()
        });
        assert!(alone < all, "{flags}: {alone} of {all}");
        let whole = answers(&place, &run);
        assert_eq!(answers(&place, &adapter), whole, "{flags}");
        // Somewhere else it is told its trunk.
        place.copy(&place.path(&adapter), &format!("moved{n}"));
        assert_eq!(answers(&place, &format!("moved{n} --base {model}")), whole, "{flags}");
        for other in ["bert_clf", "distilbert_mlm", "lm"].into_iter().filter(|other| *other != model) {
            place
                .run(&format!("predict moved{n} --base {other}"))
                .refuses(1, &["is of another trunk", "fingerprint", other, "--base MODEL"]);
        }
    }
    // Trained on from there, and evaluated.
    place.run("eval moved0 --base bert_clf --data topics --split train --json").json();
    let call = "finetune --model moved0 --base bert_clf --data topics --method lora --lora_targets all --max_steps 2";
    place.run(&format!("{call} --out more")).says(&["what was trained, alone"]);
    assert_eq!(answers(&place, "more/final/adapter --base bert_clf"), answers(&place, "more"));
    // Nothing is left alone where everything trains.
    place.run("finetune --model bert_clf --data topics --max_steps 2 --out full").succeeds();
    assert!(!place.path("full/final/adapter").exists());
    // Damage is noticed.
    let text = String::from_utf8(place.bytes("moved0/adapter.json")).unwrap();
    place.write("moved0/adapter.json", text.replace("\"lora\"", "\"head\""));
    place.run("predict moved0 --base bert_clf").refuses(1, &["adapter.json", "altered"]);
    place.write("moved0/adapter.json", text);
    let mut weights = place.bytes("moved0/adapter.safetensors");
    *weights.last_mut().unwrap() ^= 1;
    place.write("moved0/adapter.safetensors", weights);
    place.run("predict moved0 --base bert_clf").refuses(1, &["adapter.safetensors", "altered"]);
}

#[test]
fn folders_of_adapterhub_come_in_and_go_out_the_same() {
    let place = place(&["bert_clf", "roberta_clf", "bert_mlm"]);
    for (n, (model, flags, kind)) in [
        ("bert_clf", "--method adapters --adapters_dim 5", "bottleneck"),
        ("bert_mlm", "--method adapters --adapters_kind seq_bn --adapters_reduction 9", "bottleneck"),
        (
            "roberta_clf",
            "--method adapters --adapters_kind parallel --adapters_dim 4 --adapters_scale 2.5",
            "bottleneck",
        ),
        (
            "roberta_clf",
            "--method adapters --adapters_kind pfeiffer --adapters_dim 2 --adapters_activation relu",
            "bottleneck",
        ),
        (
            "bert_clf",
            "--method lora --lora_rank 3 --rslora --lora_targets q,v,up,down --lora_dropout 0.1",
            "LoRA",
        ),
        ("roberta_clf", "--method ia3 --ia3_targets q,k,v", "(IA)3"),
        ("bert_mlm", "--method lora --lora_targets q,k,v --pooling cls", "LoRA"),
    ]
    .into_iter()
    .enumerate()
    {
        let [run, out, more] = ["run", "out", "more"].map(|name| format!("{name}{n}"));
        let call = format!("finetune --model {model} --data topics {flags} --lr 2e-2");
        place.run(&format!("{call} --max_steps 6 --out {run}")).succeeds();
        let exported = place.run(&format!("export {run} --to adapterhub --base {model} --output {out}"));
        assert!(exported.succeeds().stdout.contains(kind), "{}", exported.stdout);
        let trained = answers(&place, &run);
        // The base that it names, and the one that is named.
        assert_eq!(answers(&place, &out), trained, "{flags}");
        assert_eq!(answers(&place, &format!("{out} --base {model}")), trained, "{flags}");
        // Out again, the same files; what is noted of the model below is what could be read of it.
        place.run(&format!("export {out} --to adapterhub --output again/{out}")).succeeds();
        for file in place.names(&out).into_iter().filter(|name| name != "headstart.json") {
            let [first, second] =
                [&out, &format!("again/{out}")].map(|folder| place.bytes(&format!("{folder}/{file}")));
            assert!(first == second, "{flags}: {file}");
        }
        // Without this program's notes the answers are those of the logits alone, and nothing tells how they were trained.
        fs::remove_file(place.path(&format!("{out}/headstart.json"))).unwrap();
        let plain = "--uncalibrated --precision f32";
        let [found, expected] = [&out, &run].map(|model| answers(&place, &format!("{model} {plain}")));
        assert_eq!(found, expected, "{flags}");
        // There is no rsLoRA there: alpha gives the scale.
        let again = flags.replace("--rslora ", "--lora_alpha 27.712812921102042 ");
        let call = format!("finetune --model {out} --data topics {again} --max_steps 2 --out {more}");
        place.run(&call).succeeds();
    }
    let refused = |flags: &str, words: &[&str]| {
        place
            .run(&format!("finetune --model bert_clf --data topics {flags} --max_steps 2 --out no"))
            .succeeds();
        place.run("export no --to adapterhub --base bert_clf --output never").refuses(1, words);
        fs::remove_dir_all(place.path("no")).unwrap();
    };
    refused("--method ia3", &["feed_forward.down.ia3", "--to peft"]);
    refused("--method lora --lora_targets o", &["out-projection", "--to peft"]);
    refused("--method adapters --adapters_dim 2 --pooling mean", &["first token", "mean"]);
    refused("--method bitfit", &["other biases", "no place in this form", "export --to hf takes everything"]);
    refused("--method head", &["not one of adapters, low-rank updates and scales"]);
    place
        .run("export run0 --to adapterhub --base bert_mlm --output never")
        .refuses(1, &["was not trained on", "bert_mlm"]);
    // What a run started from is known.
    place.run("export run0 --to adapterhub --output known").succeeds();
}

#[test]
fn what_adapterhub_computes_otherwise_is_refused_by_name() {
    let place = place(&["bert_clf", "gpt2_clf", "roberta_clf"]);
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/adapterhub");
    for name in ["pfeiffer", "lora", "ia3"] {
        place.copy(&golden.join(name), name);
        answers(&place, &format!("{name} --base bert_clf"));
    }
    let changed = |folder: &str, file: &str, change: &dyn Fn(&mut Value), words: &[&str]| {
        let whole = place.json_file(&format!("{folder}/{file}"));
        let mut config = whole.clone();
        change(&mut config);
        place.write(&format!("{folder}/{file}"), config.to_string());
        place.run(&format!("predict {folder} --base bert_clf")).refuses(1, words);
        place.write(&format!("{folder}/{file}"), whole.to_string());
    };
    for (folder, key, value, words) in [
        ("pfeiffer", "ln_before", json!(true), &["`ln_before`", "true"][..]),
        ("pfeiffer", "phm_layer", json!(true), &["`phm_layer`"]),
        ("pfeiffer", "inv_adapter", json!("nice"), &["`inv_adapter`", "nice"]),
        ("pfeiffer", "leave_out", json!([0]), &["`leave_out`"]),
        ("pfeiffer", "scaling", json!("learned"), &["`scaling`", "learned"]),
        ("pfeiffer", "scaling", json!(2.0), &["`scaling`", "2.0"]),
        ("pfeiffer", "use_gating", json!(true), &["`use_gating`"]),
        ("pfeiffer", "residual_before_ln", json!("post_add"), &["`residual_before_ln`", "post_add"]),
        ("pfeiffer", "mh_adapter", json!(true), &["`mh_adapter` true", "`original_ln_before` true"]),
        ("pfeiffer", "non_linearity", json!("leakyrelu"), &["`non_linearity`", "leakyrelu"]),
        ("pfeiffer", "architecture", json!("prefix_tuning"), &["`architecture`", "prefix_tuning"]),
        ("pfeiffer", "rotation", json!(1), &["does not know", "`rotation`"]),
        ("lora", "use_dora", json!(true), &["`use_dora`"]),
        ("lora", "vera_d", json!(0.1), &["`vera_d`"]),
        ("lora", "r", json!(4), &["lora_A", "[3, 27]", "[4, 27]"]),
        ("lora", "output_lora", json!(false), &["have no place", "output"]),
        ("lora", "attn_matrices", json!(["q", "o"]), &["`attn_matrices`", "`o`"]),
        ("lora", "composition_mode", json!("mix"), &["`composition_mode`", "mix"]),
        ("ia3", "output_lora", json!(true), &["`output_lora`"]),
    ] {
        changed(folder, "adapter_config.json", &|config| config["config"][key] = value.clone(), words);
    }
    for (key, value, words) in [
        ("hidden_size", json!(28), &["`hidden_size`", "28"][..]),
        ("model_type", json!("roberta"), &["`model_type`", "roberta"]),
        ("config", json!("pfeiffer"), &["`config`", "no object"]),
        ("name", Value::Null, &["`name`"]),
        ("adapters", json!(2), &["does not know", "`adapters`"]),
    ] {
        changed("pfeiffer", "adapter_config.json", &|config| config[key] = value.clone(), words);
    }
    for (key, value, words) in [
        ("head_type", json!("tagging"), &["`head_type`", "tagging"][..]),
        ("layers", json!(3), &["`layers` are 3"]),
        ("use_pooler", json!(true), &["`use_pooler` is true"]),
        ("label2id", json!({"a": 0, "b": 0, "c": 1}), &["`label2id`"]),
        ("num_labels", json!(4), &["heads.task.4.weight", "[4, 27]"]),
    ] {
        changed("pfeiffer", "head_config.json", &|config| config["config"][key] = value.clone(), words);
    }
    place.run("predict pfeiffer --base gpt2_clf").refuses(1, &["gpt2", "bert and roberta"]);
    place.run("predict pfeiffer --base roberta_clf").refuses(1, &["`model_type`", "\"bert\""]);
    place.run("predict pfeiffer").refuses(2, &["--base MODEL"]);
    place.run("predict bert_clf --adapter pfeiffer --adapter lora --adapter ia3").succeeds();
    fs::remove_file(place.path("pfeiffer/model_head.safetensors")).unwrap();
    place
        .run("predict pfeiffer --base bert_clf")
        .refuses(1, &["model_head.safetensors", "pytorch_model_head.bin"]);
    // Without a head it has that of the model below.
    fs::remove_file(place.path("pfeiffer/head_config.json")).unwrap();
    answers(&place, "pfeiffer --base bert_clf");
}

/// What answers say without the adapter's name, those of one adapter.
fn of_adapter(answers: &[Value], name: &str) -> Vec<Value> {
    let own = answers.iter().filter(|answer| answer["adapter"] == name).cloned();
    own.map(|mut answer| {
        answer.as_object_mut().unwrap().remove("adapter");
        answer
    })
    .collect()
}

#[test]
fn several_adapters_answer_over_one_trunk() {
    let place = place(&["bert_clf", "distilbert_mlm"]);
    let flags = ["lora --lora_rank 2", "ia3", "head", "adapters --adapters_dim 3"];
    for (n, method) in flags.iter().enumerate() {
        let call = format!("finetune --model bert_clf --data topics --method {method} --seed {n} --lr 2e-2");
        place.run(&format!("{call} --max_steps 4 --out run{n}")).succeeds();
    }
    place.run("export run0 --to peft --base bert_clf --output peft").succeeds();
    // The run knows what it started from.
    place.run("export run0 --to peft --output known").succeeds();
    assert!(place.bytes("known/adapter_model.safetensors") == place.bytes("peft/adapter_model.safetensors"));
    assert_eq!(place.json_file("known/adapter_config.json"), place.json_file("peft/adapter_config.json"));
    let adapters =
        "--adapter run0 --adapter run1/final --adapter last=run2/final/adapter --adapter run3 --adapter peft";
    let names = [("run0", "run0"), ("run1", "run1"), ("last", "run2"), ("run3", "run3"), ("peft", "run0")];
    for precision in ["f32", "bf16"] {
        let call = format!("predict bert_clf {adapters} --precision {precision}");
        let all = place.feed(&call, TEXTS).json_lines();
        assert_eq!(all.len(), 3 * names.len());
        for (n, answer) in all.iter().enumerate() {
            assert_eq!(answer["adapter"], names[n % names.len()].0, "a text's answers stand together");
        }
        for (name, run) in names {
            let alone = place.feed(&format!("predict {run} --precision {precision}"), TEXTS).json_lines();
            assert_eq!(of_adapter(&all, name), alone, "{name}");
        }
    }
    let table = place.feed(&format!("predict bert_clf {adapters} --output_format tsv"), TEXTS);
    let table = &table.succeeds().stdout;
    assert!(table.starts_with("text\tadapter\tlabel\tprobability\terror\n"), "{table}");
    assert_eq!(table.lines().count(), 1 + 3 * names.len());
    let data = "--data topics --split train --json";
    let measured = place.run(&format!("eval bert_clf {adapters} {data}")).json_lines();
    assert_eq!(measured.len(), names.len());
    for (name, run) in names {
        let alone = place.run(&format!("eval {run} {data}")).json();
        assert_eq!(of_adapter(&measured, name), [alone], "{name}");
    }
    let said = place.run(&format!("eval bert_clf {adapters} --data topics --split train"));
    assert!(
        said.succeeds().stdout.contains(
            "adapter last
"
        ),
        "{}",
        said.stdout
    );
    // What does not go together.
    let refused =
        |call: &str, code, words: &[&str]| place.run(&format!("predict {call}")).refuses(code, words);
    refused(
        "distilbert_mlm --adapter run1 --adapter run0",
        1,
        &["is of another trunk", "run1", "fingerprint"],
    );
    refused("bert_clf --adapter run0 --adapter run0", 2, &["the name of another one", "NAME="]);
    refused("bert_clf --adapter run0 --base bert_clf", 2, &["--base", "leave --base out"]);
    refused("bert_clf --adapter bert_clf", 2, &["holds no adapter", "final/adapter"]);
    refused("peft --adapter run0", 2, &["no trunk", "whole model"]);
    refused("bert_clf --adapter nowhere/at/all", 2, &["nowhere/at/all"]);
}
