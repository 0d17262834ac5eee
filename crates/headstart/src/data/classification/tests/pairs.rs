//! Tests of pairs of texts: which columns they are, and that both texts count in everything that is said of them.

use super::*;
use crate::config::TextColumns;

const MRPC: &str = "\u{feff}Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n\
                    1\t7\t8\tgood \"film\t\" good film\n0\t7\t9\twho\twhere ?\n1\t1\t2\tbad\t\n";

fn named(columns: &str) -> ClassificationOptions {
    ClassificationOptions { text_column: Some(TextColumns::Typed(columns.into())), ..Default::default() }
}

#[test]
fn glues_files_are_pairs_row_for_row() {
    let glue = [
        ("train.tsv", MRPC),
        ("test.tsv", "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t1\t2\tbad\tgood\n"),
    ];
    let data = load(&glue, "").unwrap();
    let expected = [("1", "good \" film | \" good film"), ("0", "who | where ?"), ("1", "bad | ")];
    assert_eq!(show(&data, Split::Train), pairs(&expected));
    assert_eq!(data.text_columns, ["#1 String", "#2 String"]);
    assert!(
        data.notes[0].contains("pairs of texts in columns `#1 String` and `#2 String`, label in `Quality`"),
        "{:?}",
        data.notes
    );
    let train = data.get(Split::Train).unwrap();
    assert_eq!((train.texts_per_example(), train.empty_texts()), (2, 1));
    assert_eq!(train.lengths().collect::<Vec<_>>(), [(3, Some(3)), (1, Some(2)), (1, Some(0))]);

    let regression = ClassificationOptions { label_kind: LabelKind::Regression, ..Default::default() };
    let sts = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n\
               0\tnews\tx\t2012\t1\tn\tn\tgood\tbad\t3.8\n";
    let data = load_with(&[("a.tsv", sts)], "a.tsv", &regression).unwrap();
    assert_eq!(show(&data, Split::Train), pairs(&[("3.8", "good | bad")]));
    let rte = "index\tsentence1\tsentence2\tlabel\n0\tgood\tbad\tentailment\n1\tbad\tbad\tnot_entailment\n";
    assert_eq!(load(&[("a.tsv", rte)], "a.tsv").unwrap().labels, ["entailment", "not_entailment"]);
}

#[test]
fn headers_that_name_a_pair_are_pairs_and_others_are_as_ever() {
    let of = |header: &str| load(&[("a.csv", &format!("{header}\ngood,bad,x\nbad,film,y\n"))], "a.csv");
    for header in [
        "premise,hypothesis,label",
        "question1,question2,is_duplicate",
        "question,sentence,label",
        "TEXT_A,Text_B,gold_label",
    ] {
        let data = of(header).unwrap();
        assert_eq!(show(&data, Split::Train)[0], ("x".into(), "good | bad".into()), "{header}");
    }
    for (header, text) in [("sentence1,text,label", "bad"), ("sentence,question1,label", "good")] {
        let data = of(header).unwrap();
        assert_eq!(show(&data, Split::Train)[0], ("x".into(), text.into()), "{header}");
        assert_eq!(data.get(Split::Train).unwrap().texts_per_example(), 1);
    }
    // A column that is named as the label is no text.
    let options = ClassificationOptions { label_column: Some("sentence".into()), ..Default::default() };
    let files = [("a.csv", "sentence,question,n\ngood,bad,1\nbad,film,2\n")];
    assert_eq!(
        show(&load_with(&files, "a.csv", &options).unwrap(), Split::Train)[0],
        ("good".into(), "bad".into())
    );
}

#[test]
fn columns_of_pairs_that_cannot_be_are_said_with_those_there_are() {
    let files = [("a.csv", "a,b,c,label\ngood,bad,film,x\nbad,good,film,y\n")];
    for (columns, what) in [
        ("a,d", "no text column `d`; the columns are a, b, c, label"),
        ("a,a", "the text column `a` is named twice"),
        ("a,b,c", "3 text columns are named, and an example is one text or a pair"),
    ] {
        let message = load_with(&files, "a.csv", &named(columns)).unwrap_err().to_string();
        assert!(
            message.contains(&format!("a.csv:1: {what}")) && message.contains("--text_column"),
            "{message}"
        );
    }
    let message = load_with(&files, "a.csv", &named("a,label")).unwrap_err().to_string();
    assert!(message.contains("no column looks like the label"), "{message}");
    let listed = TextColumns::Listed(vec!["b".into(), "a".into()]);
    let options = ClassificationOptions { text_column: Some(listed), ..Default::default() };
    assert_eq!(show(&load_with(&files, "a.csv", &options).unwrap(), Split::Train)[0].1, "bad | good");
    let other = [
        ("train.csv", "text_a,text_b,label\ngood,bad,x\nbad,bad,y\n"),
        ("valid.csv", "text_a,label\ngood,x\n"),
    ];
    assert!(error(&other, "").contains("valid.csv:1: no text column `text_b`, which the training data has"));
    let json =
        [("a.jsonl", "{\"text_a\":\"a\",\"text_b\":\"b\",\"label\":1}\n{\"text_a\":\"a\",\"label\":2}\n")];
    assert!(error(&json, "a.jsonl").contains("a.jsonl:2: there is no text under `text_b`"));
}

#[test]
fn a_pair_is_the_same_when_both_texts_are() {
    let train = "text_a,text_b,label\ngood,bad,x\ngood,film,y\ngood , bad,x\ngood,bad ,x\n";
    let valid = "text_a,text_b,label\nbad,good,x\ngood,bad,x\ngood,who,y\n,,y\n";
    let data = load(&[("train.csv", train), ("valid.csv", valid)], "").unwrap();
    let (train, valid) = (data.get(Split::Train).unwrap(), data.get(Split::Valid).unwrap());
    assert_eq!(valid.shared_with(train), 1);
    let fingerprints: Vec<u64> = train.iter().map(|e| e.fingerprint).collect();
    assert!(fingerprints[0] == fingerprints[2] && fingerprints[0] == fingerprints[3]);
    assert_ne!(fingerprints[0], fingerprints[1]);
}

#[test]
fn caches_of_pairs_are_not_those_of_their_texts() {
    let dir = tempfile::tempdir().unwrap();
    let load = |name: &str, content: &str| {
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        let (options, cache) = (ClassificationOptions::default(), dir.path().join("cache"));
        ClassificationData::load(&path, &options, &tokenizer(), &cache, &mut |_| Signal::Continue).unwrap()
    };
    let both = "text_a,text_b,label\ngood,bad,x\nfilm,,y\n";
    let first = load("pairs.csv", both);
    assert_eq!(first.cache_use, CacheUse::Built);
    let again = load("pairs.csv", both);
    assert_eq!((again.cache_use, show(&again, Split::Train)), (CacheUse::Hit, show(&first, Split::Train)));
    let single = load("single.csv", "text,label\ngood,x\nbad,y\nfilm,x\n\"\",y\n");
    assert_eq!((single.cache_use, single.get(Split::Train).unwrap().len()), (CacheUse::Built, 4));
}
