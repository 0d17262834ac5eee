//! Bad folders of published models: each mistake ends with exit code 1, names the file, the key or the tensor and the way out, and
//! leaves nothing behind.
//!
//! Owns: what a user is told of such a folder. Never: other bad input (bad_input.rs), folders that are good (published.rs).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

mod support;

use std::fs;

use serde_json::{Map, Value, json};
use support::Place;
use support::published::{configure, folder, keep_tensors, replace_tensor, vocabulary};

/// A model of `case` in the folder `model`, and labelled texts.
fn place(case: &str) -> Place {
    let place = Place::new();
    place.topics();
    folder(&place, "model", case);
    place
}

/// Fine-tuning and continued pretraining refuse it alike, and make no run.
#[track_caller]
fn refuses(place: &Place, words: &[&str]) {
    let words = [words, &["fix: "]].concat();
    place.run("finetune --model model --data topics --max_steps 1 --out run").refuses(1, &words);
    place.run("pretrain --from model --data topics/train.csv --max_steps 1 --out run").refuses(1, &words);
    place.run("predict model").refuses(1, &words);
    assert!(!place.path("run").exists(), "a run folder was made for nothing");
}

/// The model with one key of its config.json changed.
fn with(case: &str, key: &str, value: Value) -> Place {
    let place = place(case);
    configure(&place, "model", |config: &mut Map<String, Value>| {
        config.insert(key.into(), value);
    });
    place
}

#[test]
fn a_config_that_is_not_understood_is_refused_by_its_key() {
    for (key, value, words) in [
        ("model_type", json!("t5"), &["config.json", "model_type", "`t5`", "bert, roberta"][..]),
        ("auto_map", json!({"AutoModel": "modeling.X"}), &["config.json", "auto_map", "never run"]),
        (
            "quantization_config",
            json!({"bits": 4}),
            &["config.json", "quantization_config", "F32, F16 or BF16"],
        ),
        ("position_embedding_type", json!("relative_key"), &["position_embedding_type", "relative_key"]),
        ("is_decoder", json!(true), &["is_decoder"]),
        ("hidden_act", json!("mish"), &["hidden_act", "mish"]),
        ("use_alibi", json!(true), &["use_alibi", "may change what the model computes"]),
        ("hidden_size", json!("wide"), &["hidden_size", "wide"]),
        ("hidden_size", Value::Null, &["lacks `hidden_size`"]),
        ("classifier_dropout", json!(7.0), &["head.dropout", "7 is not a probability"]),
        ("id2label", json!({"0": "a", "1": "a", "2": "b"}), &["id2label", "twice"]),
        ("id2label", json!({"0": "a", "7": "b"}), &["id2label"]),
        ("label2id", json!({"LABEL_0": 2, "LABEL_1": 1, "LABEL_2": 0}), &["label2id", "another number"]),
        ("problem_type", json!("ranking"), &["problem_type", "ranking"]),
    ] {
        refuses(&with("bert_clf", key, value), words);
    }
    let place = place("bert_mlm");
    place.write("model/config.json", "{\"model_type\": \"bert\", ");
    refuses(&place, &["config.json"]);
}

#[test]
fn a_config_that_lies_about_sizes_costs_nothing() {
    let huge = 1_u64 << 40;
    for (key, value, words) in [
        ("hidden_size", json!(huge), &["config.json", "1099511627776 is not a possible size"][..]),
        ("num_hidden_layers", json!(1_000_000_000), &["config.json", "num_layers", "1000000000"]),
        ("vocab_size", json!(huge), &["vocab_size", "1099511627776"]),
        ("vocab_size", json!(1 << 24), &["model: does not hold", "word_embeddings", "[97, 27]"]),
        ("intermediate_size", json!(1_000_000), &["intermediate.dense", "[41, 27]"]),
        ("max_position_embeddings", json!(1_000_000), &["position_embeddings", "[39, 27]"]),
        ("num_hidden_layers", json!(3), &["encoder.layer.2", "nothing"]),
        ("num_hidden_layers", json!(4_096), &["encoder.layer.2", "nothing", "more"]),
        ("num_hidden_layers", json!(1), &["config.json", "1 layers", "are of 2"]),
        ("num_attention_heads", json!(5), &["5 heads do not divide"]),
        ("num_attention_heads", json!(0), &["num_heads", "0 is not a possible size"]),
        ("type_vocab_size", json!(u32::MAX), &["token_types"]),
    ] {
        refuses(&with("bert_mlm", key, value), words);
    }
    refuses(&with("gpt2_lm", "n_embd", json!(huge)), &["1099511627776 is not a possible size"]);
    refuses(&with("roberta_mlm", "pad_token_id", json!(u64::MAX)), &["pad_token_id", "no position is left"]);
    refuses(&with("modernbert_mlm", "local_attention", json!(huge)), &["window"]);
}

#[test]
fn weights_that_are_not_whole_are_named() {
    let good = place("bert_mlm");
    let whole = good.bytes("model/model.safetensors");
    good.write("model/model.safetensors", &whole[..whole.len() / 2]);
    refuses(&good, &["model.safetensors", "not a whole safetensors file"]);
    fs::remove_file(good.path("model/model.safetensors")).unwrap();
    refuses(&good, &["holds no weights", "model.safetensors", "pytorch_model.bin"]);
    // Of two parts the second is missing.
    good.write("model/model-00001-of-00002.safetensors", &whole);
    let index = json!({"weight_map": {
        "bert.embeddings.word_embeddings.weight": "model-00001-of-00002.safetensors",
        "cls.predictions.bias": "model-00002-of-00002.safetensors",
    }});
    good.write("model/model.safetensors.index.json", index.to_string());
    refuses(&good, &["model-00002-of-00002.safetensors", "is missing"]);
    good.write("model/model-00002-of-00002.safetensors", &whole[..1000]);
    refuses(&good, &["model-00002-of-00002.safetensors"]);
    // One tensor is missing.
    let place = place("bert_mlm");
    keep_tensors(&place, "model", |name| name != "bert.encoder.layer.1.output.dense.bias");
    refuses(&place, &["model: does not hold", "bert.encoder.layer.1.output.dense.bias", "nothing"]);
    // Those of another family.
    configure(&place, "model", |config| {
        config.insert("model_type".into(), "roberta".into());
    });
    refuses(&place, &["roberta.embeddings"]);
}

#[test]
fn other_programs_formats_are_named() {
    for (file, words) in [
        ("model-q4.gguf", &["model-q4.gguf", "GGUF"][..]),
        ("model.onnx", &["model.onnx", "ONNX"]),
        ("tf_model.h5", &["tf_model.h5"]),
    ] {
        let place = place("bert_mlm");
        fs::rename(place.path("model/model.safetensors"), place.path(&format!("model/{file}"))).unwrap();
        refuses(&place, &[&["holds no weights"], words].concat());
    }
    // The same, and no config.json either.
    let place = place("bert_mlm");
    fs::remove_file(place.path("model/config.json")).unwrap();
    refuses(&place, &["model.safetensors", "no config.json", "fetch the config.json"]);
    fs::rename(place.path("model/model.safetensors"), place.path("model/model.gguf")).unwrap();
    refuses(&place, &["model.gguf", "no config.json", "in safetensors"]);
}

/// A model of one layer whose vocabulary has so many rows, beside a tokenizer of 97 pieces.
fn place_with_rows(rows: usize) -> Place {
    let place = place("bert_mlm");
    configure(&place, "model", |config| {
        config.insert("vocab_size".into(), rows.into());
    });
    replace_tensor(&place, "model", "bert.embeddings.word_embeddings.weight", &[rows, 27]);
    replace_tensor(&place, "model", "cls.predictions.bias", &[rows]);
    place
}

#[test]
fn a_tokenizer_that_is_not_the_models_is_named() {
    let place = place("bert_mlm");
    place.write("model/vocab.txt", vocabulary(120));
    refuses(&place, &["120 pieces", "97 rows"]);
    let far_fewer = place_with_rows(2_000);
    refuses(&far_fewer, &["97 pieces", "2000 rows"]);
    fs::remove_file(place.path("model/vocab.txt")).unwrap();
    refuses(&place, &["tokenizer"]);
    place.write("model/tokenizer.json", "{}");
    refuses(&place, &["tokenizer.json"]);
}

#[test]
fn a_head_that_does_not_fit_is_named() {
    // A classifier of three outputs.
    let labels = json!({"0": "a", "1": "b"});
    refuses(&with("bert_clf", "id2label", labels), &["config.json", "2 labels", "3 outputs"]);
    // A causal model's LM head is part of it, and that of this one's is not the token embedding.
    refuses(&with("gpt2_lm", "tie_word_embeddings", json!(false)), &["LM head", "matrix of its own"]);
}

#[test]
fn a_head_that_is_not_computed_here_leaves_the_trunk() {
    let features = |place: &Place| {
        place.feed("features model", b"the river\n").succeeds();
        place.feed("predict model", b"the river\n")
    };
    for class in ["BertForTokenClassification", "BertForMultipleChoice"] {
        let place = with("bert_clf", "architectures", json!([class]));
        features(&place).refuses(1, &["no classifier of texts", class, "fix: "]);
        let call = "finetune --model model --data topics --max_steps 1 --out run";
        place.run(call).says(&[class, "the trunk is used", "a new head for the task"]);
        // What is written is what was read.
        let written = place.run("export model --to hf --output out --json").json();
        assert_eq!(written["architecture"], "BertModel");
        assert_eq!(written["left"], json!(["classifier.bias", "classifier.weight"]));
    }
    // Without a pooler, as token classifiers are saved, it is whole, too.
    let place = with("bert_clf", "architectures", json!(["BertForTokenClassification"]));
    keep_tensors(&place, "model", |name| !name.contains("pooler"));
    features(&place).refuses(1, &["no classifier of texts"]);
    // The LM head's matrix is not the token embedding.
    let place = with("bert_mlm", "tie_word_embeddings", json!(false));
    features(&place).refuses(1, &["no classifier of texts", "matrix of its own"]);
    let call = "pretrain --from model --data topics/train.csv --max_steps 1 --out run";
    place.run(call).says(&["matrix of its own", "the trunk is used"]);
}

#[test]
fn texts_and_models_of_other_lengths_are_told() {
    let place = place("bert_clf");
    // More labels than the head has: the head is made anew, and the run says so.
    let call = "finetune --model model --data topics --max_steps 1 --out run";
    place.run(call).says(&["2 left, 2 added", "max_length 39", "texts longer than 39 tokens were cut"]);
    // A text that is too long to be answered whole is answered, and the run says how many were cut.
    let long = "the quiet harbour ".repeat(30) + "\n";
    place.feed("predict run", long.as_bytes()).succeeds();
    // A model that is longer than the text there is.
    place.write("short.txt", "the river .\n");
    place
        .run("pretrain --from model --data short.txt --max_steps 1 --out more")
        .refuses(1, &["short.txt", "less than one block of 37", "--block_size", "fix: "]);
    assert!(!place.path("more").exists());
}
