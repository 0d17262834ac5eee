//! Tests of folders as programs and people leave them: shards, folders of tables, names with something before the split.

use super::*;

const BAD: &str = "text,label\nbad film,n\n";
const GOOD: &str = "text,label\ngood film,p\n";

#[test]
fn a_split_may_be_in_several_files() {
    let jsonl = |label: &str, text: &str| format!("{{\"text\":\"{text}\",\"label\":\"{label}\"}}\n");
    let (bad, good) = (jsonl("n", "bad film"), jsonl("p", "good film"));
    let layouts: [&[(&str, &str)]; 7] = [
        &[("train-00001-of-00002.csv", GOOD), ("train-00000-of-00002.csv", BAD), ("test.csv", GOOD)],
        &[("train_2.csv", GOOD), ("train_1.csv", BAD), ("test_1.csv", GOOD)],
        &[("train_part1.jsonl", &good), ("train_part0.jsonl", &bad), ("test.jsonl", &good)],
        // As the hub converts data sets, and as Spark writes them.
        &[("train/0000.jsonl", &bad), ("train/0001.jsonl", &good), ("test/0000.jsonl", &good)],
        &[
            ("train/part-00000-3f.c000.csv", BAD),
            ("train/part-00001-3f.c000.csv", GOOD),
            ("train/_SUCCESS.csv", ""),
            ("test/part-00000-7a.c000.csv", GOOD),
        ],
        &[("train/1.csv", BAD), ("train/2.csv", GOOD), ("test.csv", GOOD), ("README.md", "x")],
        &[
            ("train-00000-of-00002.txt", "__label__n bad film"),
            ("train-00001-of-00002.txt", "__label__p good film\n"),
            ("test.txt", "__label__p good film\n"),
        ],
    ];
    for files in layouts {
        let data = load(files, "").unwrap();
        let first = files[0].0;
        assert_eq!(show(&data, Split::Train), pairs(&[("n", "bad film"), ("p", "good film")]), "{first}");
        assert_eq!(show(&data, Split::Test), pairs(&[("p", "good film")]), "{first}");
        assert!(data.notes[0].contains("2 rows of 2 files"), "{}", data.notes[0]);
    }
}

#[test]
fn parts_of_a_split_have_the_columns_of_the_first() {
    let other = "label,id,text\np,good,good film\n";
    let data = load(&[("train_1.csv", BAD), ("train_2.csv", other)], "").unwrap();
    assert_eq!(show(&data, Split::Train), pairs(&[("n", "bad film"), ("p", "good film")]));
    for (second, says) in [
        ("phrase,label\ngood film,p\n", "no text column `text`"),
        ("text,label\ngood film,\n", "train_2.csv: has no labels, where"),
        ("text,label\ngood film,p\nbad,\n", "train_2.csv:3: the label is missing"),
    ] {
        let message = error(&[("train_1.csv", BAD), ("train_2.csv", second)], "");
        assert!(message.contains(says), "{message}");
    }
    let message = error(&[("train-00000-of-00002.csv", BAD)], "");
    assert!(message.contains("number 1 is not there"), "{message}");
    // Errors behind reading name the part, too.
    let test = [
        ("train.csv", &*format!("{BAD}good,p\n")),
        ("test_1.csv", BAD),
        ("test_2.csv", "text,label\ngood,q\n"),
    ];
    let message = error(&test, "");
    assert!(message.contains("test_2.csv:2"), "{message}");
}

#[test]
fn something_may_stand_before_the_name_of_a_split() {
    for (train, test) in [
        ("snli_1.0_train.csv", "snli_1.0_test.csv"),
        ("reviews.train.csv", "reviews.test.csv"),
        ("my-data-train.csv.gz", "my-data-test.csv"),
    ] {
        let rows = format!("{BAD}good film,p\n");
        let data = load(&[(train, &rows), (test, GOOD), ("notes.md", "x")], "").unwrap();
        assert_eq!(show(&data, Split::Train).len(), 2, "{train}");
        assert_eq!(show(&data, Split::Test), pairs(&[("p", "good film")]), "{train}");
    }
    let twice = [("a_train.csv", BAD), ("a_train.tsv", "text\tlabel\n")];
    assert!(error(&twice, "").contains("is train data too"));
    // Training data without anything before it is not mixed with others.
    let rows = format!("{BAD}good film,p\n");
    let data = load(&[("train.csv", &rows), ("old_train.csv", "x"), ("old_test.csv", "x")], "").unwrap();
    assert!(data.test.is_none());
    let last = data.notes.iter().find(|note| note.starts_with("not read in ")).unwrap();
    assert!(last.ends_with(": old_test.csv, old_train.csv"), "{last}");
}

#[test]
fn the_only_table_of_a_folder_is_its_data() {
    let rows = format!("{BAD}good film,p\n");
    let data = load(&[("IMDB Dataset.csv", &rows), ("LICENSE", "x"), (".x.csv", "x")], "").unwrap();
    assert_eq!(show(&data, Split::Train).len(), 2);
    assert!(error(&[("a.csv", &rows), ("b.csv", &rows)], "").contains("no labelled data in"));
}

/// As benchmarks of intents and the UCI repository have their data.
#[test]
fn texts_and_labels_of_a_folder_are_found_by_what_they_are_called() {
    let both = |folder: &str| {
        [(format!("{folder}seq.in"), "bad film\ngood film\n"), (format!("{folder}label"), "n\np\n")]
    };
    for (folder, split) in [("", Split::Train), ("train/", Split::Train)] {
        let files = both(folder);
        let mut files: Vec<(&str, &str)> = files.iter().map(|(name, content)| (&**name, *content)).collect();
        let slots = format!("{folder}seq.out");
        files.push((&slots, "O O\nO O\n"));
        let data = load(&files, "").unwrap();
        assert_eq!(show(&data, split), pairs(&[("n", "bad film"), ("p", "good film")]));
    }
    let lines: String = (0..30).map(|n| format!("ham\tbad film {n}\nspam\tgood {n}\n")).collect();
    let data = load(&[("SMSSpamCollection", &lines), ("readme", "what this is")], "").unwrap();
    assert_eq!((data.labels, data.train.unwrap().len()), (vec!["ham".into(), "spam".into()], 60));
    // A few lines that are not like the others are named.
    for (stray, tabs) in [("and on\n", "has no tab"), ("ham\tsee\tbad\n", "has 2 tabs")] {
        let message = error(&[("a.txt", &format!("{lines}\n{stray}"))], "a.txt");
        assert!(
            message.contains(&format!("a.txt:62: {tabs}, where 60 of the first 61 lines have one")),
            "{message}"
        );
    }
}

#[test]
fn of_several_data_sets_in_a_folder_one_is_to_be_named() {
    let rows = format!("{BAD}good film,p\n");
    let one = [("default/train/0000.csv", &*rows), ("default/test/0000.csv", GOOD), ("README.md", "x")];
    assert_eq!(show(&load(&one, "").unwrap(), Split::Test), pairs(&[("p", "good film")]));
    let two = [("plain/train.csv", &*rows), ("extra/train.csv", &rows)];
    let message = error(&two, "");
    assert!(message.contains("several data sets in it: extra, plain"), "{message}");
}

#[test]
fn arrow_files_are_named_with_what_to_do() {
    for files in [
        &[("data-00000-of-00001.arrow", "ARROW1"), ("dataset_info.json", "{}"), ("state.json", "{}")][..],
        &[
            ("train/data-00000-of-00001.arrow", "ARROW1"),
            ("train/state.json", "{}"),
            ("dataset_dict.json", "{}"),
        ],
    ] {
        let message = error(files, "");
        assert!(message.contains(".arrow: is an Arrow file") && message.contains("to_parquet"), "{message}");
    }
}
