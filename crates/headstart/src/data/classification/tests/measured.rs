//! Tests of data that a finished model is measured on.

use super::*;

/// What a model of the labels `a` and `b` is measured on, which was trained with the column `target`.
fn measured(order: &[Split]) -> ClassificationOptions {
    ClassificationOptions {
        known_labels: Some(vec!["a".into(), "b".into()]),
        measured: Some(Measured { order: order.to_vec(), label_column: Some("target".into()) }),
        ..ClassificationOptions::default()
    }
}

#[test]
fn a_model_is_measured_on_the_column_it_was_trained_with() {
    let order = [Split::Test, Split::Valid, Split::Train];
    let files = [("a.csv", "text,label,target\nbad,x,b\ngood,y,a\n")];
    let data = load_with(&files, "a.csv", &measured(&order)).unwrap();
    assert_eq!(show(&data, Split::Train), pairs(&[("b", "bad"), ("a", "good")]));
    assert_eq!(data.label_column.as_deref(), Some("target"));
    let files = [
        ("a.csv", "text,label\nbad,b\n"),
        ("b.csv", "text,x,y\nbad,b,1\n"),
        ("answered.csv", "text,target,probability,error\nbad,b,0.9,\n"),
        ("others.csv", "text,label,probability,error\nbad,b,0.9,\n"),
        ("answered.jsonl", "{\"text\":\"bad\",\"target\":\"b\",\"probabilities\":{\"b\":0.9}}\n"),
    ];
    let error = |name: &str| load_with(&files, name, &measured(&order)).unwrap_err().to_string();
    let message = error("a.csv");
    assert!(message.contains("`target`, which the model was trained with; there is one called `label`"));
    assert!(message.contains("--label_column label"), "{message}");
    assert!(error("b.csv").contains("the columns are text, x, y"), "{}", error("b.csv"));
    for name in ["answered.csv", "others.csv", "answered.jsonl"] {
        let message = error(name);
        assert!(message.contains("holds the answers of a model") && message.contains("--label_column"));
    }
    // Whoever names a column means it.
    for (name, column) in [("a.csv", "label"), ("answered.csv", "target"), ("answered.jsonl", "target")] {
        let options = ClassificationOptions { label_column: Some(column.into()), ..measured(&order) };
        assert_eq!(show(&load_with(&files, name, &options).unwrap(), Split::Train), pairs(&[("b", "bad")]));
    }
}

#[test]
fn labels_of_what_is_not_measured_are_of_no_account() {
    let files = [
        ("train.csv", "text,target\nbad,other\ngood,more\n"),
        ("test.csv", "text,target\nbad,b\n"),
        ("dev.csv", "text\nfilm\n"),
    ];
    let data = load_with(&files, "", &measured(&[Split::Test, Split::Train])).unwrap();
    assert_eq!(show(&data, Split::Test), pairs(&[("b", "bad")]));
    assert!(data.train.is_none() && data.valid.is_none());
    let message = load_with(&files, "", &measured(&[Split::Train])).unwrap_err().to_string();
    assert!(message.contains("train.csv:2: unknown label `other`"), "{message}");
    // What has no labels is not measured.
    let data = load_with(&files, "", &measured(&[Split::Valid])).unwrap();
    assert!([data.train, data.valid, data.test].iter().all(Option::is_none));
}

#[test]
fn objects_have_keys_and_no_header() {
    let of = |content: &str| load(&[("a.jsonl", content)], "a.jsonl").unwrap_err().to_string();
    let message = of("{\"id\":1,\"words\":\"bad\",\"kind\":2}\n");
    assert!(message.contains("no key looks like the text; the keys are id, words, kind"), "{message}");
    assert!(message.contains("--text_column") && !message.contains("--header"), "{message}");
    let message = of("{\"text\":{\"en\":\"bad\",\"de\":\"x\"},\"label\":2}\n");
    assert!(message.contains("an object under `text`, with the keys en, de"), "{message}");
    assert!(message.contains("nested fields are not read"), "{message}");
    let message = of("{\"text\":{\"0\":\"bad\",\"1\":\"x\"},\"label\":2}\n");
    assert!(message.contains("to_json"), "{message}");
}
