//! Tests of reading labelled data in every layout, and of the errors.

mod groups;
mod layouts;
mod measured;
mod pairs;
mod people;

use std::fs;

use super::*;
use crate::event::Signal;
use crate::tokenizer::Case;

fn tokenizer() -> Tokenizer {
    let vocab = "[UNK]\n[CLS]\n[SEP]\n[MASK]\ngood\nbad\nfilm\nwho\nwhere\n,\n\"\n?\n";
    Tokenizer::from_vocab_bytes(vocab.as_bytes(), Case::Keep, Path::new("vocab.txt")).unwrap()
}

/// Writes files into a folder and loads `target` in it ("" for the folder itself).
fn load_with(
    files: &[(&str, &str)],
    target: &str,
    options: &ClassificationOptions,
) -> Result<ClassificationData> {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("data");
    for (name, content) in files {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let path = if target.is_empty() { root } else { root.join(target) };
    let mut options = options.clone();
    options.labels_file = options.labels_file.map(|f| path.with_file_name(f));
    ClassificationData::load(&path, &options, &tokenizer(), &dir.path().join("cache"), &mut |_| {
        Signal::Continue
    })
}

fn load(files: &[(&str, &str)], target: &str) -> Result<ClassificationData> {
    load_with(files, target, &ClassificationOptions::default())
}

fn show(data: &ClassificationData, split: Split) -> Vec<(String, String)> {
    let tokenizer = tokenizer();
    let one = |e: Example| {
        let text = |ids: &[u32]| {
            ids.iter().map(|&id| tokenizer.id_to_piece(id).unwrap()).collect::<Vec<_>>().join(" ")
        };
        let texts: Vec<String> = [e.ids].into_iter().chain(e.second).map(text).collect();
        let label = match e.label {
            Label::Class(class) => data.labels[*class as usize].clone(),
            Label::Classes(classes) => format!("{classes:?}"),
            Label::Value(value) => value.to_string(),
        };
        (label, texts.join(" | "))
    };
    data.get(split).unwrap().iter().map(one).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|&(l, t)| (l.to_owned(), t.to_owned())).collect()
}

fn error(files: &[(&str, &str)], target: &str) -> String {
    load(files, target).unwrap_err().to_string()
}

#[test]
fn every_one_file_format_gives_the_same_examples() {
    let expected = pairs(&[("n", "bad film"), ("p", "good , good film")]);
    let cases = [
        ("a.csv", "Text,Label\nbad film,n\n\"good, good film\",p\n"),
        ("a.csv", "id,sentiment,review\n7,n,bad film\n8,p,\"good,\ngood film\"\n"),
        ("a.csv", "answer,label\nbad film,n\n\"good, good film\",p\n"),
        ("a.tsv", "label\tsentence\nn\tbad film\n\np\tgood, good film\n"),
        (
            "a.jsonl",
            "{\"text\":\"bad film\",\"label\":\"n\"}\n\n{\"label\":\"p\",\"text\":\"good, good film\"}\n",
        ),
        ("a.txt", "__label__n bad film\n__label__p good, good film"),
        ("a.txt", "n:x bad film\np:y good, good film\n"),
        (
            "a.json",
            "[{\"text\":\"bad film\",\"label\":\"n\"},{\"label\":\"p\",\"text\":\"good, good film\"}]",
        ),
        (
            "a.json",
            "[\n  {\n    \"text\": \"bad film\",\n    \"label\": \"n\"\n  },\n  {\"label\": \"p\", \"text\": \"good, good film\"}\n]\n",
        ),
    ];
    for (name, content) in cases {
        let data = load(&[(name, content)], name).unwrap();
        assert_eq!(show(&data, Split::Train), expected, "{content}");
        assert_eq!(data.labels, ["n", "p"]);
        assert!(data.valid.is_none() && data.test.is_none());
    }
    let files = [("a.txt", "bad film\ngood, good film\n"), ("a.labels", "n\np\n")];
    assert_eq!(show(&load(&files, "a.txt").unwrap(), Split::Train), expected);
    let files = [("a.txt", "bad film\ngood, good film\n"), ("other", "n\np\n")];
    let options =
        ClassificationOptions { labels_file: Some("other".into()), ..ClassificationOptions::default() };
    assert_eq!(show(&load_with(&files, "a.txt", &options).unwrap(), Split::Train), expected);
}

#[test]
fn lines_with_a_label_that_stands_there_again_and_again() {
    let six = |line: fn(&str, &str) -> String| {
        (0..6).map(|n| line(["0", "1"][n % 2], &format!("text {n} of 9")) + "\n").collect::<String>()
    };
    let expected: Vec<_> = (0..6).map(|n| (["0", "1"][n % 2].to_owned(), format!("text {n} of 9"))).collect();
    let ways: [fn(&str, &str) -> String; 3] = [
        |label, text| format!("{label} {text}"),
        |label, text| format!("{label}\t{text}"),
        |label, text| format!("{text}\t{label}"),
    ];
    for way in ways {
        let data = load(&[("mpqa.all", &six(way))], "mpqa.all").unwrap();
        assert_eq!(raw_pairs("mpqa.all", &six(way)), expected, "{}", way("label", "text"));
        assert_eq!(data.labels, ["0", "1"]);
    }
    // Numbered lines, and lines of which one has no label, are not of this kind; a table with a header is a table.
    let none = "there are no labels with the texts";
    let numbered: String = (0..9).map(|n| format!("{n} text\n")).collect();
    for content in [numbered, format!("{}so\n", six(ways[1]))] {
        assert!(error(&[("a.txt", &content)], "a.txt").contains(none), "{content}");
    }
    let table = format!("label\ttext\tid\n{}", six(ways[1]));
    assert!(error(&[("a.txt", &table)], "a.txt").contains("a.txt:2: "));
}

/// Labels and texts of a file as they are read.
fn raw_pairs(name: &str, content: &str) -> Vec<(String, String)> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, content).unwrap();
    let data = raw::RawData::read(&path, &ClassificationOptions::default(), 9, &mut |_| Signal::Continue);
    data.unwrap().splits.remove(0).1.samples
}

#[test]
fn folders_of_hugging_face_data_sets_are_read() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/parquet/datasets.parquet");
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("data");
    fs::create_dir(&folder).unwrap();
    fs::copy(golden, folder.join("train-00000-of-00001.parquet")).unwrap();
    for path in [dir.path(), &folder] {
        let data = raw::RawData::read(path, &ClassificationOptions::default(), 2, &mut |_| Signal::Continue);
        let samples = data.unwrap().splits.remove(0).1.samples;
        let expected = [("pos", "a \"good\" film, really"), ("neg", "two\nlines\tand a tab")];
        assert_eq!(samples, pairs(&expected));
    }
}

#[test]
fn labels_beside_texts_are_found_by_name() {
    let files = [
        ("mapping.txt", "0\tbad\n1\tgood\n"),
        ("train_text.txt", "bad film\ngood film\n"),
        ("train_labels.txt", "0\n1\n"),
        ("val_text.txt", "film\n"),
        ("val_labels.txt", "1\n"),
    ];
    let data = load(&files, "").unwrap();
    assert_eq!(show(&data, Split::Train), pairs(&[("0", "bad film"), ("1", "good film")]));
    assert_eq!(show(&data, Split::Valid), pairs(&[("1", "film")]));
    // What is no class makes no classes of the others.
    for other in ["train_text.txt", "my-labels.txt", "Vocab.txt"] {
        let message = error(&[("good.txt", "a\nb\n"), ("bad.txt", "c\n"), (other, "x\n")], "");
        assert!(message.contains("no labelled data in"), "{other}: {message}");
    }
}

#[test]
fn folders_of_classes_are_read_like_imdb() {
    let files = [
        ("train/neg/0_1.txt", "bad film"),
        ("train/pos/0_9.txt", "good film\n"),
        ("train/unsup/0_0.txt", "film"),
        ("train/urls_neg.txt", "http"),
        ("test/neg/1_1.txt", ""),
        ("README", "who"),
    ];
    let data = load(&files, "").unwrap();
    assert_eq!(data.labels, ["pos", "neg"]);
    assert_eq!(show(&data, Split::Train), pairs(&[("neg", "bad film"), ("pos", "good film")]));
    assert_eq!(show(&data, Split::Test), pairs(&[("neg", "")]));
    assert_eq!(data.test.unwrap().empty_texts(), 1);
    let others = [("train/b/1.txt", "bad"), ("train/a/1.txt", "good"), ("train/c/1.txt", "film")];
    assert_eq!(load(&others, "").unwrap().labels, ["a", "b", "c"]);
    assert_eq!(load(&others, "train").unwrap().labels, ["a", "b", "c"]);
    assert!(error(&[("train/a/1.txt", "x"), ("train/b/1.md", "y")], "").contains("no text file"));
}

#[test]
fn trec_has_its_own_order_and_encoding() {
    let files =
        [("train_5500.label", "HUM:ind who ?\nNUM:date where\n"), ("TREC_10.label", "LOC:x where ?\n")];
    let data = load(&files, "").unwrap();
    assert_eq!(data.labels, TREC_LABELS);
    assert_eq!(show(&data, Split::Train), pairs(&[("HUM", "who ?"), ("NUM", "where")]));
    assert_eq!(show(&data, Split::Test), pairs(&[("LOC", "where ?")]));
}

#[test]
fn labels_of_other_splits_must_be_known() {
    let files =
        [("train.csv", "text,label\nbad,b\ngood,a\n"), ("dev.csv", "text,label\nbad,b\n\n\nfilm,c\n")];
    let message = error(&files, "");
    assert!(message.contains("dev.csv:5: unknown label `c`; the known labels are b, a"), "{message}");
    let amounts = ["train.csv", "dev.csv"].map(|name| (name, "text,label\nbad,0.5\ngood,4.0\n"));
    let amounts = [amounts[0], (amounts[1].0, "text,label\nfine,3.8\n")];
    assert!(error(&amounts, "").contains("`--problem regression`"));
    let known = ["a", "b", "c"].map(str::to_owned).to_vec();
    let options = ClassificationOptions { known_labels: Some(known), ..ClassificationOptions::default() };
    let data = load_with(&files, "", &options).unwrap();
    assert_eq!(data.labels, ["a", "b", "c"]);
    assert_eq!(data.get(Split::Valid).unwrap().class_counts(3), [0, 1, 1]);
    let files = [("only.csv", "text,label\nbad,b\n")];
    assert_eq!(show(&load_with(&files, "only.csv", &options).unwrap(), Split::Train).len(), 1);
}

#[test]
fn several_labels_and_numbers_are_options() {
    let multi = ClassificationOptions { label_kind: LabelKind::Multi, ..ClassificationOptions::default() };
    let csv = [("a.csv", "text,labels\nbad,x|y\ngood,\nfilm,z | x\n")];
    let data = load_with(&csv, "a.csv", &multi).unwrap();
    assert_eq!(data.labels, ["x", "y", "z"]);
    let expected = pairs(&[("[0, 1]", "bad"), ("[]", "good"), ("[0, 2]", "film")]);
    assert_eq!(show(&data, Split::Train), expected);
    let json =
        [("a.jsonl", "{\"text\":\"bad\",\"labels\":[\"x\",\"y\"]}\n{\"text\":\"film\",\"labels\":[]}")];
    assert_eq!(show(&load_with(&json, "a.jsonl", &multi).unwrap(), Split::Train)[0].0, "[0, 1]");
    let fast = [("a.txt", "__label__x __label__y bad")];
    assert_eq!(show(&load_with(&fast, "a.txt", &multi).unwrap(), Split::Train)[0].0, "[0, 1]");
    let message = error(&fast, "a.txt");
    assert!(message.contains("a.txt:1: 2 labels where one is expected"), "{message}");

    let regression =
        ClassificationOptions { label_kind: LabelKind::Regression, ..ClassificationOptions::default() };
    let csv = [("a.csv", "text,score\nbad,-1.5\ngood,4\n")];
    let data = load_with(&csv, "a.csv", &regression).unwrap();
    assert!(data.labels.is_empty());
    assert_eq!(show(&data, Split::Train), pairs(&[("-1.5", "bad"), ("4", "good")]));
    for wrong in ["high", "NaN", "inf"] {
        let csv = [("a.csv", format!("text,score\nbad,{wrong}\n"))];
        let message = load_with(&[(csv[0].0, &csv[0].1)], "a.csv", &regression).unwrap_err().to_string();
        assert!(message.contains("a.csv:2: the label") && message.contains(wrong), "{message}");
    }
}

#[test]
fn columns_can_be_named() {
    let files = [("a.csv", "text,other,label,mark\nbad,good,x,1\nbad,film,y,2\n")];
    let mut options = ClassificationOptions {
        text_column: Some(TextColumns::Typed("other".into())),
        label_column: Some("MARK".into()),
        ..ClassificationOptions::default()
    };
    let data = load_with(&files, "a.csv", &options).unwrap();
    assert_eq!(show(&data, Split::Train), pairs(&[("1", "good"), ("2", "film")]));
    options.label_column = Some("nothing".into());
    let message = load_with(&files, "a.csv", &options).unwrap_err().to_string();
    assert!(
        message.contains("no label column `nothing`; the columns are text, other, label, mark"),
        "{message}"
    );
    let message = error(&[("a.csv", "a,b,c\n1,2,3\n")], "a.csv");
    assert!(
        message.contains("no column looks like the text") && message.contains("--text_column"),
        "{message}"
    );
}

#[test]
fn bad_lines_are_named() {
    let cases = [
        ("a.csv", "text,label\nbad,n\ngood,\n", "a.csv:3: the label is missing"),
        ("a.csv", "text,label\n\"bad\nfilm\",n\n\ngood\n", "a.csv:5: 1 fields where the header has 2"),
        (
            "a.csv",
            "text,label\ngood,p\nbad,\"n\ngood,p\n",
            "a.csv:3: a quoted field that begins here never ends",
        ),
        ("a.csv", "text,label\n", "a.csv: there are no examples"),
        ("a.csv", "", "a.csv: the file is empty"),
        ("a.tsv", "text\tlabel\nbad\tn\tx\n", "a.tsv:2: 3 fields where the header has 2"),
        ("a.jsonl", "{\"text\":\"a\",\"label\":1}\n{\"text\":\n", "a.jsonl:2: is not a JSON object"),
        ("a.jsonl", "[1,\n2]\n", "a.jsonl:1: is not a JSON object"),
        (
            "a.json",
            "[{\"text\":\"a\",\"label\":1},\n{\"text\":",
            "a.json:2: the list of objects does not end",
        ),
        ("a.json", "[{\"text\":\"a\",\"label\":1}]\n{}", "a.json:2: the list of objects does not end"),
        (
            "a.json",
            "{\n  \"train\": [],\n  \"test\": []\n}",
            "a.json:1: is one object over many lines, with the keys train, test",
        ),
        (
            "a.json",
            "{\"text\":{\"0\":\"a\"},\"label\":{\"0\":1}}",
            "a.json:1: there are many values under `text`",
        ),
        ("a.jsonl", "{\"text\":\"a\",\"label\":1}\n{\"text\":\"b\"}\n", "a.jsonl:2: the label is missing"),
        (
            "a.jsonl",
            "{\"text\":\"a\",\"label\":1}\n{\"label\":2}\n",
            "a.jsonl:2: there is no text under `text`",
        ),
        ("a.jsonl", "{\"text\":\"a\",\"label\":[1,2]}\n", "a.jsonl:1: `label` is a list, not one label"),
        ("a.txt", "__label__p good\ngood film\n", "a.txt:2: the label is missing"),
        ("a.txt", "LOC:x where\n\nwho ?\n", "a.txt:3: the label is missing"),
        ("a.txt", "just text\n", "a.txt: there are no labels with the texts"),
        ("a.txt", " \n", "a.txt: the file is empty"),
        ("a.csv", "text,label\nbad,n\ngood,n\n", "a.csv: all 2 examples have the label `n`"),
    ];
    for (name, content, expected) in cases {
        let message = error(&[(name, content)], name);
        assert!(message.contains(expected), "{message}");
    }
    let message = error(&[("a.txt", "bad\ngood\n"), ("a.labels", "n\n")], "a.txt");
    assert!(
        message.contains("a.labels: has 1 labels, but") && message.contains("a.txt has 2 texts"),
        "{message}"
    );
    let message = error(&[("a.txt", "bad\ngood\n"), ("a.labels", "n\n\n")], "a.txt");
    assert!(message.contains("a.labels:2: the label is missing"), "{message}");
    assert!(error(&[("x", "")], "nothing").contains("no data at"));
    assert!(error(&[("x", "")], "").contains("no labelled data in"));
    let message = error(&[("train.csv", "text,label\na,b\n"), ("train.tsv", "x")], "");
    assert!(message.contains("train.csv is train data too"), "{message}");
}

#[test]
fn the_second_load_does_not_tokenise_and_gives_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("train.csv");
    fs::write(&path, "text,label\ngood film,p\nbad,n\n,n\n").unwrap();
    let load = || {
        let (mut calls, options) = (0, ClassificationOptions::default());
        let mut listener = |event: Event<'_>| {
            calls += u32::from(matches!(event, Event::Progress { what: "tokenising", .. }));
            Signal::Continue
        };
        let cache = dir.path().join("cache");
        let data = ClassificationData::load(&path, &options, &tokenizer(), &cache, &mut listener).unwrap();
        (show(&data, Split::Train), data.cache_use, calls)
    };
    let first = load();
    assert_eq!((first.1, first.2), (CacheUse::Built, 1));
    assert_eq!(load(), (first.0.clone(), CacheUse::Hit, 0));
    // Another label needs no new tokens, another text does.
    fs::write(&path, "text,label\ngood film,n\nbad,p\n,n\n").unwrap();
    let relabelled = load();
    assert_eq!((relabelled.1, &relabelled.0[0].0[..]), (CacheUse::Hit, "n"));
    fs::write(&path, "text,label\ngood,p\nbad,n\n,n\n").unwrap();
    assert_eq!(load().1, CacheUse::Built);
}

#[test]
fn held_out_validation_is_stratified_and_seeded() {
    let mut content = String::from("text,label\n");
    for at in 0..200 {
        let label = if at % 10 == 0 { "rare" } else { "common" };
        content.extend(["film ", &at.to_string(), ",", label, "\n"]);
    }
    let split = |seed| {
        let mut data = load(&[("a.csv", &content)], "a.csv").unwrap();
        assert_eq!(data.hold_out_validation(seed).unwrap(), 20);
        let (train, valid) = (data.get(Split::Train).unwrap(), data.get(Split::Valid).unwrap());
        assert_eq!((train.class_counts(2), valid.class_counts(2)), (vec![18, 162], vec![2, 18]));
        assert!(train.rows.iter().all(|row| !valid.rows.contains(row)));
        assert!(valid.rows.is_sorted() && train.rows.is_sorted());
        let rows = valid.rows.clone();
        assert_eq!(data.hold_out_validation(seed + 1).unwrap(), 0);
        rows
    };
    assert_eq!(split(1), split(1));
    assert_ne!(split(1), split(2));
}

#[test]
fn no_class_loses_its_last_example() {
    let hold_out = |content: &str, kind: LabelKind, seed: u64| {
        let options = ClassificationOptions { label_kind: kind, ..ClassificationOptions::default() };
        let mut data = load_with(&[("a.csv", content)], "a.csv", &options).unwrap();
        let held = data.hold_out_validation(seed).unwrap();
        assert!(
            data.notes.iter().any(|note| note.contains("there is no validation data")),
            "{:?}",
            data.notes
        );
        let valid = data.valid.as_ref().map(|v| v.class_counts(data.labels.len()));
        (held, data.train.unwrap().class_counts(data.labels.len()), valid)
    };
    for seed in 0..20 {
        let four = "text,label\nwho,p\nbad,n\ngood,p\nfilm,p\n";
        assert_eq!(hold_out(four, LabelKind::Single, seed), (1, vec![2, 1], Some(vec![1, 0])));
        let two = "text,label\nbad,n\ngood,p\n";
        assert_eq!(hold_out(two, LabelKind::Single, seed), (0, vec![1, 1], None));
        // `z` stands with one text only.
        let multi = "text,labels\nwho,x|y\nbad,x|z\ngood,y\nfilm,y\n";
        let (held, train, _) = hold_out(multi, LabelKind::Multi, seed);
        assert!(held == 1 && train[2] == 1, "{train:?}");
    }
}

#[test]
fn the_same_text_stays_on_one_side() {
    // 40 texts, each of them twice, some with another label the second time.
    let words = ["good", "bad", "film", "who", "where"];
    let line = |at: usize| {
        let text = at / 2;
        let label = if at % 2 == 1 && text.is_multiple_of(7) { "n" } else { ["n", "p"][text % 2] };
        let words: Vec<&str> = (0..3).map(|k| words[text / [1, 5, 25][k] % 5]).collect();
        format!("{},{label}\n", words.join(" "))
    };
    let content = (0..80).fold("text,label\n".to_owned(), |all, at| all + &line(at));
    for seed in 0..20 {
        let mut data = load(&[("a.csv", &content)], "a.csv").unwrap();
        let held = data.hold_out_validation(seed).unwrap();
        let (train, valid) = (data.train.unwrap(), data.valid.unwrap());
        assert_eq!((held, train.len() + valid.len()), (valid.len(), 80));
        assert!((6..=10).contains(&held), "{held}");
        assert_eq!((valid.shared_with(&train), train.shared_with(&valid)), (0, 0));
    }
    // One text, again and again: some of the other class can still be taken.
    let content = format!("text,label\n{}who,p\nwhere,p\nfilm,p\n", "bad,n\n".repeat(30));
    let mut data = load(&[("a.csv", &content)], "a.csv").unwrap();
    assert_eq!(data.hold_out_validation(1).unwrap(), 1);
    assert_eq!(data.valid.unwrap().class_counts(2), [0, 1]);
}

#[test]
fn texts_on_both_sides_are_counted() {
    let files = [
        ("train.csv", "text,label\nbad,n\ngood,p\n,p\n"),
        ("test.csv", "text,label\nbad,n\nfilm,p\nbad,p\n,n\n"),
    ];
    let data = load(&files, "").unwrap();
    let (train, test) = (data.get(Split::Train).unwrap(), data.get(Split::Test).unwrap());
    assert_eq!((test.shared_with(train), train.shared_with(test)), (2, 1));
}

#[test]
fn texts_in_memory_make_a_data_set() {
    let train: &[(&str, &str)] = &[("p", "good"), ("n", "bad film")];
    let splits = [(Split::Train, train), (Split::Test, &train[1..])];
    let data = ClassificationData::from_texts(&splits, &["n", "p"], &tokenizer()).unwrap();
    assert_eq!(show(&data, Split::Train), pairs(&[("p", "good"), ("n", "bad film")]));
    assert_eq!(data.get(Split::Test).unwrap().get(0).unwrap().label, &Label::Class(0));
    let message = ClassificationData::from_texts(&splits, &["p"], &tokenizer()).unwrap_err().to_string();
    assert!(message.contains("train:2: unknown label `n`"), "{message}");
}

#[test]
fn labels_the_catalogue_states_give_order_and_the_names_of_numbers() {
    let stated = ["World", "Sports", "Business"].map(str::to_owned).to_vec();
    let options = ClassificationOptions { stated_labels: stated.clone(), ..ClassificationOptions::default() };
    let named =
        [("train.csv", "text,label\nbad,Sports\ngood,World\n"), ("test.csv", "text,label\nfilm,Business\n")];
    let from_0 = [("train.csv", "text,label\nbad,1\ngood,0\n"), ("test.csv", "text,label\nfilm,2\n")];
    let from_1 = [("train.csv", "text,label\nbad,2\ngood,1\n"), ("test.csv", "text,label\nfilm,3\n")];
    for files in [named, from_0, from_1] {
        let data = load_with(&files, "", &options).unwrap();
        assert_eq!(data.labels, stated);
        assert_eq!(show(&data, Split::Train), pairs(&[("Sports", "bad"), ("World", "good")]));
        assert_eq!(show(&data, Split::Test), pairs(&[("Business", "film")]));
    }
    // A model's labels are the names, too.
    let known = ClassificationOptions { known_labels: Some(stated), ..options.clone() };
    assert_eq!(show(&load_with(&from_1, "", &known).unwrap(), Split::Test), pairs(&[("Business", "film")]));
    for (wrong, label) in [("bad,0\ngood,3\n", "`3`"), ("bad,Sports\ngood,Art\n", "`Art`")] {
        let content = format!("text,label\n{wrong}");
        let message = load_with(&[("a.csv", &content)], "a.csv", &options).unwrap_err().to_string();
        assert!(message.contains("a.csv:3: unknown label") && message.contains(label), "{message}");
    }
}
