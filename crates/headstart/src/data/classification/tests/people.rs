//! Tests of files as people have them: other columns, separators and labels than one would like.

use super::*;
use crate::config::TextColumns;
use crate::event::Signal;

/// Notes on how files were read, without that on the small vocabulary of these tests.
fn told(notes: &[String]) -> usize {
    notes.iter().filter(|note| !note.contains("unknown to the tokenizer")).count()
}

#[test]
fn columns_of_well_known_tables_are_found() {
    for (table, columns) in [
        (
            "Class Index,Title,Description\n1,x,calm sea\n2,y,old hill\n",
            "text in column `Description`, label in `Class Index`",
        ),
        (
            "id,comment_text,label\n1,calm sea,x\n2,old hill,y\n",
            "text in column `comment_text`, label in `label`",
        ),
        (
            "qid,question_text,target\n1,calm sea,0\n2,old hill,1\n",
            "text in column `question_text`, label in `target`",
        ),
        ("statement,emotion\ncalm sea,x\nold hill,y\n", "text in column `statement`, label in `emotion`"),
        ("name,gender\nAnna,f\nOtto,m\n", "text in column `name`, label in `gender`"),
        // Kaggle's SMS spam, and names that are written in other ways.
        ("v1,v2,,,\nham,calm sea,,,\nspam,old hill,,,\n", "text in column `v2`, label in `v1`"),
        (
            "Age,Review Text,Rating\n3,calm sea,5\n4,old hill,1\n",
            "text in column `Review Text`, label in `Rating`",
        ),
        (
            "reviewerID,reviewText,overall\na,calm sea,5\nb,old hill,1\n",
            "text in column `reviewText`, label in `overall`",
        ),
    ] {
        let data = load(&[("train.csv", table)], "").unwrap();
        assert!(data.notes[0].contains(columns), "{table}: {}", data.notes[0]);
    }
    // Measurements are no texts.
    let message = error(&[("train.csv", "Time,V1,V2,V3,Class\n1,-1.3,0.2,2.5,0\n2,1.1,0.3,0.1,1\n")], "");
    assert!(message.contains("no column looks like the text"), "{message}");
}

#[test]
fn every_split_has_the_columns_of_training() {
    // As GLUE's SST-2 is distributed: the test file has row numbers, and no labels.
    let glue = [
        ("train.tsv", "sentence\tlabel\nbad film\t0\ngood film\t1\n"),
        ("dev.tsv", "sentence\tlabel\ngood\t1\n"),
        ("test.tsv", "index\tsentence\n0\tbad\n1\tgood\n"),
    ];
    let data = load(&glue, "").unwrap();
    assert_eq!(show(&data, Split::Valid), pairs(&[("1", "good")]));
    assert!(data.test.is_none());
    let note = data.notes.iter().find(|note| note.starts_with("test: 2 rows")).unwrap();
    assert!(note.contains("test.tsv") && note.contains("they have no labels"), "{note}");
    let note = &data.notes[0];
    assert!(
        note.contains("train: 2 rows of") && note.contains("text in column `sentence`, label in `label`")
    );
    // Alone, row numbers are no label.
    let message = error(&glue[2..], "test.tsv");
    assert!(message.contains("no column looks like the label; the columns are index, sentence"), "{message}");

    let other_order = [
        ("train.csv", "text,note,label\nbad,x,n\ngood,y,p\n"),
        ("valid.csv", "Label,NOTE,Text,sentiment\nn,good,bad,p\n"),
        ("test.csv", "note,text,label\nx,bad,\ny,good,\n"),
    ];
    let mut options =
        ClassificationOptions { text_column: Some(TextColumns::Typed("note".into())), ..Default::default() };
    assert_eq!(show(&load_with(&other_order, "", &options).unwrap(), Split::Valid), pairs(&[("n", "good")]));
    options.text_column = None;
    let data = load_with(&other_order, "", &options).unwrap();
    assert_eq!(show(&data, Split::Valid), pairs(&[("n", "bad")]));
    assert!(data.test.is_none(), "a column of empty labels is none");
    let json = [
        ("train.jsonl", "{\"text\":\"bad\",\"label\":\"n\"}\n{\"text\":\"good\",\"label\":\"p\"}\n"),
        ("valid.jsonl", "{\"text\":\"bad\"}\n{\"text\":\"good\",\"label\":\"p\"}\n"),
    ];
    let message = error(&json, "");
    assert!(message.contains("valid.jsonl:1: the label is missing"), "{message}");
    let json = [json[0], ("valid.jsonl", "{\"text\":\"bad\",\"label\":null}\n{\"text\":\"good\"}\n")];
    assert!(load(&json, "").unwrap().valid.is_none());
    let message = error(&[glue[0], ("test.tsv", "index\tphrase\n0\tbad\n")], "");
    assert!(
        message.contains("test.tsv:1: no text column `sentence`, which the training data has"),
        "{message}"
    );
}

#[test]
fn a_quote_that_swallows_rows_is_found() {
    let rows = "text,label\n\"the barn is old,land\nthe sea,water\nthe hill,land\n\"the lake\",water\nthe mill,land\n";
    let message = error(&[("a.csv", rows)], "a.csv");
    assert!(
        message.contains("a.csv:2: a quoted field that begins here goes on over 4 lines")
            && message.contains("`the barn is old,land`"),
        "{message}"
    );
    // A text over several lines is none, even with commas in it.
    let poem = "text,label\n\"the sea, the sea\nthe open\n, sea\",water\n\"hill\nland\",land\n";
    let data = load(&[("a.csv", poem)], "a.csv").unwrap();
    assert_eq!((data.train.unwrap().len(), told(&data.notes)), (2, 1));
    // Where all lines could be rows but have no label of the table, it is said and read.
    let letters = "text,label\n\"Dear all,\nthe sea, the sea\nyours,\nN.\",water\nhill,land\n";
    let data = load(&[("a.csv", letters)], "a.csv").unwrap();
    assert!(data.notes[1].contains("warning: ") && data.notes[1].contains("a.csv:2:"), "{:?}", data.notes);
}

#[test]
fn json_labels_are_marks_lists_or_errors_with_their_line() {
    let multi = ClassificationOptions { label_kind: LabelKind::Multi, ..Default::default() };
    let line = |label: &str| format!("{{\"text\":\"bad\",\"label\":{label}}}\n");
    let lines = |labels: &[&str]| labels.iter().map(|l| line(l)).collect::<String>();
    // As spaCy has them: `fire` is a class although no text has it.
    let marks = lines(&[
        r#"{"fire":0,"water":1,"land":0}"#,
        r#"{"water":true,"land":1.0}"#,
        r#"{"water":0,"land":false}"#,
    ]);
    let data = load_with(&[("a.jsonl", &marks)], "a.jsonl", &multi).unwrap();
    assert_eq!(data.labels, ["fire", "water", "land"]);
    assert_eq!(show(&data, Split::Train), pairs(&[("[1]", "bad"), ("[1, 2]", "bad"), ("[]", "bad")]));
    for (label, says) in [
        (r#"{"water":0.5}"#, "`label` has 0.5 for `water`"),
        (r#"{"water":"yes"}"#, "`label` has \"yes\" for `water`"),
        (r#"[{"name":"x"}]"#, "where a label is expected"),
        ("[null]", "`label` has null where a label is expected"),
        ("[[1]]", "`label` has [1] where a label is expected"),
    ] {
        let content = lines(&["[\"x\"]", label]);
        let message = load_with(&[("a.jsonl", &content)], "a.jsonl", &multi).unwrap_err().to_string();
        assert!(message.contains("a.jsonl:2: ") && message.contains(says), "{message}");
    }
    let message = error(&[("a.jsonl", &lines(&["1", r#"{"water":1}"#]))], "a.jsonl");
    assert!(message.contains("a.jsonl:2: `label` is an object of marks") && message.contains("multi-label"));
    let message =
        load_with(&[("a.jsonl", &lines(&["[]", "[]"]))], "a.jsonl", &multi).unwrap_err().to_string();
    assert!(message.contains("a.jsonl: none of the 2 examples has a label"), "{message}");
    let regression = ClassificationOptions { label_kind: LabelKind::Regression, ..Default::default() };
    for label in ["[1]", "{}", "true", "\"x\"", "\" \""] {
        let content = lines(&["1.5", label]);
        let message = load_with(&[("a.jsonl", &content)], "a.jsonl", &regression).unwrap_err().to_string();
        assert!(message.contains("a.jsonl:2: "), "{message}");
    }
}

/// Tables of comments and of emotions have a column of 0 and 1 for each class.
#[test]
fn a_class_may_have_a_column_of_its_own() {
    let multi = ClassificationOptions { label_kind: LabelKind::Multi, ..Default::default() };
    let named = |columns: &str| ClassificationOptions { label_column: Some(columns.into()), ..multi.clone() };
    let table = "id,comment_text,fire,water,land\na,good,0,1,0\nb,bad,0,1.0,True\nc,film,0,0,FALSE\n";
    let expected = pairs(&[("[1]", "good"), ("[1, 2]", "bad"), ("[]", "film")]);
    let json = r#"[{"comment_text":"good","fire":0,"water":1,"land":false},
                   {"comment_text":"bad","fire":0,"water":true,"land":"1"},
                   {"comment_text":"film","fire":0,"water":0,"land":0}]"#;
    for (name, content) in [("train.csv", table), ("train.json", json)] {
        for options in [&multi, &named("fire, WATER,land")] {
            let data = load_with(&[(name, content)], "", options).unwrap();
            assert_eq!(
                (&data.labels[..], &show(&data, Split::Train)),
                (&["fire", "water", "land"].map(str::to_owned)[..], &expected)
            );
            // So it is found again by whoever measures the model.
            assert_eq!(data.label_column.as_deref(), Some("fire,water,land"));
            assert!(
                data.notes[0].contains("a column for each of 3 classes: fire, water, land"),
                "{:?}",
                data.notes
            );
        }
    }
    let some = load_with(&[("train.csv", table)], "", &named("land,water")).unwrap();
    assert_eq!(some.labels, ["land", "water"]);
    assert_eq!(show(&some, Split::Train)[0].0, "[1]");

    // Another split has the columns of all classes, or of none.
    let valid = |content| load_with(&[("train.csv", table), ("valid.csv", content)], "", &multi);
    let found = valid("land,fire,water,comment_text\n1,0,0,good\n").unwrap();
    assert_eq!(show(&found, Split::Valid), pairs(&[("[2]", "good")]));
    for unlabelled in ["comment_text\ngood\n", "comment_text,fire,water,land\ngood,,,\n"] {
        assert!(valid(unlabelled).unwrap().valid.is_none());
    }
    let message = valid("comment_text,fire\ngood,1\n").unwrap_err().to_string();
    assert!(
        message.contains("valid.csv:1: no column `water` of a class") && message.contains("of none"),
        "{message}"
    );

    let refused = |content: &str, options: &ClassificationOptions| {
        load_with(&[("a.csv", content)], "a.csv", options).unwrap_err().to_string()
    };
    let message = refused("text,author,fire,water\ngood,Ann,0,1\n", &multi);
    assert!(
        message.contains("a.csv:2: `Ann` stands in column `author`")
            && message.contains("--label_column 'fire,water'"),
        "{message}"
    );
    let message = refused(&table.replace("c,film,0,0", "c,film,0,"), &multi);
    assert!(message.contains("a.csv:4: there is nothing in column `water`"), "{message}");
    for (columns, says) in [
        ("fire,smoke", "no label column `smoke`"),
        ("fire,fire", "the column `fire` is named twice"),
        ("fire,comment_text", "the column `comment_text` is named twice"),
    ] {
        let message = refused(table, &named(columns));
        assert!(message.contains(says), "{message}");
    }
    let single = ClassificationOptions { label_column: Some("fire,water".into()), ..Default::default() };
    let message = refused(table, &single);
    assert!(
        message.contains("no label column `fire,water`") && message.contains("--problem multi-label"),
        "{message}"
    );
}

#[test]
fn lists_of_sentences_and_tables_in_text_files_are_read() {
    // Feelings behind a semicolon, phrases of the financial press behind an at sign.
    for (separator, extra) in [(";", "; so"), ("@", " @ home"), ("|", "")] {
        let lines: String =
            (0..12).map(|n| format!("film {n}{extra}{separator}{}\n", ["joy", "very sad"][n % 2])).collect();
        let data = load(&[("train.txt", &lines)], "").unwrap();
        assert_eq!(data.labels, ["joy", "very sad"], "{separator}");
        assert_eq!(data.train.unwrap().labels.len(), 12);
        // A line without the label that all others have is named.
        let many = format!("{}film\n", lines.repeat(4));
        let message = error(&[("train.txt", &many)], "train.txt");
        assert!(message.contains(&format!("train.txt:49: has no `{separator}`")), "{message}");
        assert!(message.contains(&format!("a label and a `{separator}`")), "{message}");
    }
    // Tables.
    let sick = "pair_ID\tsentence_A\tsentence_B\tentailment_label\trelatedness_score\n\
                1\tbad film\tgood film\tNEUTRAL\t2.5\n2\tcalm sea\told hill\tENTAILMENT\t4.5\n";
    let data = load(&[("SICK.txt", sick)], "SICK.txt").unwrap();
    assert_eq!(
        (data.text_columns.as_slice(), data.labels.len()),
        (["sentence_A", "sentence_B"].map(String::from).as_slice(), 2)
    );
    for table in ["text,label\n\"bad, film\",a\ngood film,b\n", "label;text\na;\"bad; film\"\nb;good film\n"]
    {
        let data = load(&[("train.txt", table)], "").unwrap();
        assert_eq!(
            (data.labels.as_slice(), data.text_columns.as_slice()),
            (["a", "b"].map(String::from).as_slice(), ["text".to_owned()].as_slice())
        );
    }
    // A header is none of the labels that stand there again and again.
    for between in [";", "\t"] {
        let rows: String = (0..12).map(|n| format!("film {n}{between}{}\n", ["joy", "sad"][n % 2])).collect();
        let data = load(&[("train.txt", &format!("text{between}emotion\n{rows}"))], "").unwrap();
        assert_eq!(
            (data.labels.as_slice(), data.train.unwrap().labels.len()),
            (["joy", "sad"].map(String::from).as_slice(), 12)
        );
    }
    let asked = ClassificationOptions {
        header: Header::Absent,
        text_column: Some(TextColumns::Typed("2".into())),
        label_column: Some("1".into()),
        ..Default::default()
    };
    let data = load_with(&[("a.txt", "a,bad film\nb,good film\n")], "a.txt", &asked).unwrap();
    assert_eq!(data.labels, ["a", "b"]);
    // Running text is none of these.
    let message = error(&[("a.txt", "bad film; good film\na calm sea\nwho, why\n")], "a.txt");
    assert!(message.contains("no labels with the texts") && message.contains("--text_column"), "{message}");
}

#[test]
fn several_labels_in_one_field_are_separated_as_people_separate_them() {
    let multi = ClassificationOptions { label_kind: LabelKind::Multi, ..Default::default() };
    let none: &[u32] = &[];
    for (fields, told) in [
        (["fire,water", "fire", "water, fire", "water"], "with `,` between them: 2 names"),
        (["fire#water", "fire", "water#fire", "water"], "with `#` between them: 2 names"),
        (["['fire', 'water']", "['fire']", "('water', 'fire')", "{'water'}"], "printed as a list: 2 names"),
        (["fire|water", "fire", "water|fire", "water"], ""),
    ] {
        let rows: Vec<String> = fields.iter().map(|field| format!("good,\"{field}\"\n")).collect();
        let train = format!("text,label\n{}bad,\n", rows.concat());
        // A single row of a form alone tells nothing; training data does.
        let files =
            [("train.csv", train.as_str()), ("test.csv", &format!("text,label\nbad,\"{}\"\n", fields[2]))];
        let data = load_with(&files, "", &multi).unwrap();
        assert_eq!(data.labels, ["fire", "water"], "{told}");
        let expected = [[0, 1].as_slice(), &[0], &[0, 1], &[1], none].map(|c| Label::Classes(c.to_vec()));
        assert_eq!(*data.train.unwrap().labels, expected, "{told}");
        assert_eq!(*data.test.unwrap().labels, [Label::Classes(vec![0, 1])], "{told}");
        assert!(told.is_empty() || data.notes.iter().any(|note| note.contains(told)), "{:?}", data.notes);
        // What a run knows, it finds.
        let known = Some(vec!["water".to_owned(), "fire".to_owned()]);
        let known = ClassificationOptions { known_labels: known, ..multi.clone() };
        let one = load_with(&[("a.csv", &format!("text,label\nbad,\"{}\"\n", fields[0]))], "a.csv", &known)
            .unwrap();
        assert_eq!(*one.train.unwrap().labels, [Label::Classes(vec![0, 1])], "{told}");
    }
    // Names are whole where their parts are nobody's, and where `|` stands between names.
    let names = |content: &str| load_with(&[("a.csv", content)], "a.csv", &multi).unwrap().labels;
    assert_eq!(
        names("text,label\nbad,\"yes, please\"\ngood,\"no, thanks\"\n"),
        ["yes, please", "no, thanks"]
    );
    assert_eq!(names("text,label\nbad,\"a,b|c\"\ngood,\"a,b\"\nfilm,c\n"), ["a,b", "c"]);
    // Single labels that look like several are told, and explain what is unknown.
    let train = "text,label\nbad,a#b\ngood,a#c\nfilm,b#c\nbad film,a\ngood film,b\ncalm,a#b#c\n";
    let data = load(&[("a.csv", train)], "a.csv").unwrap();
    let words = "the labels look like several names in one, with `#` between them (6 kinds of 3 names)";
    assert!(data.notes.iter().any(|note| note.starts_with("warning: ") && note.contains(words)));
    let message = error(&[("train.csv", train), ("test.csv", "text,label\nbad,c#b\n")], "");
    assert!(message.contains("unknown label `c#b`") && message.contains(words), "{message}");
    assert!(message.contains("--problem multi-label"), "{message}");
}

#[test]
fn labels_that_look_alike_or_like_nothing_are_said_with_their_lines() {
    let warnings = |labels: &[&str]| {
        let rows = labels.iter().map(|l| format!("bad,{l}\n")).collect::<String>();
        let data = load(&[("a.csv", &format!("text,label\n{rows}"))], "a.csv").unwrap();
        assert_eq!(data.labels.len(), labels.iter().collect::<std::collections::HashSet<_>>().len());
        data.notes.into_iter().filter(|note| note.starts_with("warning: ")).collect::<Vec<_>>()
    };
    for (one, other) in [
        ("1", "1.0"),
        ("1", "01"),
        ("Land", "land"),
        ("caf\u{e9}", "cafe\u{301}"),
        ("land", "land\u{200b}"),
        ("low land", "low_land"),
    ] {
        let found = warnings(&[one, "sea", other, other]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("separate classes that look alike"), "{found:?}");
        assert!(found[0].contains("(once on line 2)") && found[0].contains("(2 times, first on line 4)"));
    }
    for missing in ["NaN", "None", "NA", "null"] {
        let found = warnings(&["land", missing, "sea"]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains(&format!("`{missing}` (once on line 3) is a class like any other")));
    }
    assert!(warnings(&["land", "water", "1", "2", "-1", "10"]).is_empty());
    let files = [("train.csv", "text,label\nbad,Land\ngood,sea\n"), ("test.csv", "text,label\nbad,land\n")];
    assert!(error(&files, "").contains("test.csv:2: unknown label `land` (it looks like `Land`)"));
}

#[test]
fn class_folders_have_files_of_many_names_and_what_is_skipped_is_said() {
    let files = [
        ("train/a/1.txt", "bad"),
        ("train/a/2.TXT", "good"),
        ("train/a/3", "film"),
        ("train/a/more/4.txt", "who"),
        ("train/a/more/deep/5.text", "where"),
        ("train/b/51119", "film"),
        ("train/b/notes.md", "?"),
        ("train/b/more.md", "?"),
        ("train/b/page.html", "?"),
        ("train/b/.hidden", "?"),
        ("train/b/README", "?"),
        ("train/list.csv", "?"),
    ];
    let data = load(&files, "").unwrap();
    assert_eq!(data.get(Split::Train).unwrap().class_counts(2), [5, 1]);
    let note = data.notes.iter().find(|note| note.starts_with("6 files in ")).unwrap();
    for words in ["2 .md (b/more.md)", "1 .html (b/page.html)", "1 .csv (list.csv)", "2 without an ending"] {
        assert!(note.contains(words), "{note}");
    }
    let news = [
        ("20news-bydate-train/alt.atheism/49960", "bad"),
        ("20news-bydate-train/sci.med/58001", "good"),
        ("20news-bydate-test/sci.med/59000", "film"),
    ];
    let data = load(&news, "").unwrap();
    assert_eq!(data.labels, ["alt.atheism", "sci.med"]);
    assert_eq!(show(&data, Split::Test), pairs(&[("sci.med", "film")]));
    // Without such a pair, a folder is a class, whatever its name.
    let classes = [("blood-test/1.txt", "bad"), ("other/1", "good")];
    assert_eq!(load(&classes, "").unwrap().labels, ["blood-test", "other"]);
}

#[test]
fn files_may_be_a_class_each_with_a_text_a_line() {
    let files = [
        ("neg.txt", "bad\n\n  bad film \n"),
        ("pos.txt", "good\n"),
        ("README.txt", "who"),
        ("list.py", "?"),
        ("unsup.txt", "film\n"),
    ];
    let data = load(&files, "").unwrap();
    assert_eq!(data.labels, ["pos", "neg"]);
    assert_eq!(show(&data, Split::Train), pairs(&[("neg", "bad"), ("neg", "bad film"), ("pos", "good")]));
    assert!(
        data.notes[0].contains("3 texts, one a line, of 2 files that are a class each"),
        "{}",
        data.notes[0]
    );
    assert!(
        data.notes.iter().any(|note| note.contains("1 .py (list.py), 2 .txt (README.txt)")),
        "{:?}",
        data.notes
    );
    // As Pang and Lee distribute sentences of reviews; and in the folders of splits.
    let sentences = [("rt.neg", "bad\n"), ("rt.pos", "good\nfilm\n"), ("about.1.0", "who")];
    assert_eq!(
        show(&load(&sentences, "").unwrap(), Split::Train),
        pairs(&[("neg", "bad"), ("pos", "good"), ("pos", "film")])
    );
    let splits = [
        ("train/de.txt", "bad\n"),
        ("train/en.txt", "good\n"),
        ("test/de.txt", "film\n"),
        ("test/en.txt", "who\n"),
    ];
    let data = load(&splits, "").unwrap();
    assert_eq!(data.labels, ["de", "en"]);
    assert_eq!(show(&data, Split::Test), pairs(&[("de", "film"), ("en", "who")]));
    // One alone is no class, and one without a text has to go.
    assert!(error(&[("notes.txt", "bad\n")], "").contains("for each class a file CLASS.txt"));
    let message = error(&[("a.txt", "bad\n"), ("b.txt", " \n")], "");
    assert!(message.contains("b.txt: the file is empty"), "{message}");
}

#[test]
fn separators_are_found_and_headers_and_several_columns_are_options() {
    let expected = pairs(&[("n", "bad film"), ("p", "good , film")]);
    let semicolons = [("a.csv", "text;label\nbad film;n\ngood, film;p\n")];
    let data = load(&semicolons, "a.csv").unwrap();
    assert_eq!(show(&data, Split::Train), expected);
    assert!(
        data.notes.iter().any(|n| n.contains("columns are read with `;` between them")),
        "{:?}",
        data.notes
    );
    let tabs = [("a.csv", "text\tlabel\nbad film\tn\ngood, film\tp\n")];
    let data = load(&tabs, "a.csv").unwrap();
    assert_eq!(show(&data, Split::Train), expected);
    assert!(data.notes.iter().any(|n| n.contains("with tabs between them")), "{:?}", data.notes);
    let commas = [("a.csv", "text,label\nbad; film,n\nfilm; film; who,p\n")];
    assert_eq!(told(&load(&commas, "a.csv").unwrap().notes), 1);

    let of = |delimiter: Option<u8>, header: Header, text: &str, label: &str| ClassificationOptions {
        delimiter,
        header,
        text_column: Some(TextColumns::Typed(text.into())),
        label_column: Some(label.into()),
        ..Default::default()
    };
    let colons = [("a.csv", "text:label\nbad film:n\ngood, film:p\n")];
    assert!(error(&colons, "a.csv").contains("one column only, `text:label`\n  fix: name what stands"));
    let options = of(Some(b':'), Header::Present, "text", "label");
    assert_eq!(show(&load_with(&colons, "a.csv", &options).unwrap(), Split::Train), expected);
    // AG News: class, title, description, and no header.
    let news = [("a.csv", "\"3\",\"bad\",\"film\"\n\"1\",\"good,\",\"film\"\n")];
    assert!(error(&news, "a.csv").contains("--header false"));
    let data = load_with(&news, "a.csv", &of(None, Header::Absent, "2,3", "1")).unwrap();
    assert_eq!(show(&data, Split::Train), pairs(&[("3", "bad | film"), ("1", "good , | film")]));
    let note = &data.notes[0];
    assert!(
        note.contains("train: 2 rows")
            && note.contains("pairs of texts in columns `2` and `3`, label in `1`"),
        "{note}"
    );
    let message = load_with(&news, "a.csv", &of(None, Header::Absent, "2,4", "1")).unwrap_err().to_string();
    assert!(message.contains("no text column `4`; the columns are 1, 2, 3"), "{message}");
    let titled = [("a.csv", "label,title,body\nn,bad,film\np,\"good,\",film\n")];
    let options = of(None, Header::Present, "title, body", "label");
    let expected = pairs(&[("n", "bad | film"), ("p", "good , | film")]);
    assert_eq!(show(&load_with(&titled, "a.csv", &options).unwrap(), Split::Train), expected);
    let json = [(
        "a.jsonl",
        "{\"label\":\"n\",\"title\":\"bad\",\"body\":\"film\"}\n\
         {\"label\":\"p\",\"title\":\"good,\",\"body\":\"film\"}\n",
    )];
    assert_eq!(show(&load_with(&json, "a.jsonl", &options).unwrap(), Split::Train), expected);
}

#[test]
fn tsv_is_read_quoted_or_not_as_it_is_written() {
    // pandas: quotes around what has line ends, tabs or quotes.
    let pandas = "text\tlabel\n\"good\nfilm\"\tp\n\"bad\t\"\"film\"\"\"\tn\nwho\tp\n";
    let data = load(&[("a.tsv", pandas)], "a.tsv").unwrap();
    let expected = pairs(&[("p", "good film"), ("n", "bad \" film \""), ("p", "who")]);
    assert_eq!(show(&data, Split::Train), expected);
    assert!(data.notes.iter().any(|n| n.contains("quotes hold fields together")), "{:?}", data.notes);
    let doubled = "text\tlabel\n\"good \"\"film\"\"\"\tp\nbad\tn\n";
    let expected = pairs(&[("p", "good \" film \""), ("n", "bad")]);
    assert_eq!(show(&load(&[("a.tsv", doubled)], "a.tsv").unwrap(), Split::Train), expected);
    // GLUE: a quote is a character.
    let plain = "text\tlabel\n\"good film\tp\n\"bad\"\tn\n";
    let data = load(&[("a.tsv", plain)], "a.tsv").unwrap();
    assert_eq!(show(&data, Split::Train), pairs(&[("p", "\" good film"), ("n", "\" bad \"")]));
    assert_eq!(data.notes.len(), 1);
    let message = error(&[("a.tsv", "text\tlabel\nbad\tn\tx\n")], "a.tsv");
    assert!(message.contains("as pandas does"), "{message}");
}

#[test]
fn compressed_tables_and_folders_are_read_by_their_inner_name() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in
        [("train.csv.gz", "text,label\nbad film,n\ngood,p\n"), ("dev.tsv.gz", "text\tlabel\ngood\tp\n")]
    {
        let file = fs::File::create(dir.path().join(name)).unwrap();
        let mut encoder = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        encoder.write_all(content.as_bytes()).unwrap();
        encoder.finish().unwrap();
    }
    let load = |path: &Path| {
        let options = ClassificationOptions::default();
        ClassificationData::load(path, &options, &tokenizer(), &dir.path().join("cache"), &mut |_| {
            Signal::Continue
        })
        .unwrap()
    };
    let data = load(dir.path());
    assert_eq!(show(&data, Split::Train), pairs(&[("n", "bad film"), ("p", "good")]));
    assert_eq!(show(&data, Split::Valid), pairs(&[("p", "good")]));
    assert_eq!(show(&load(&dir.path().join("train.csv.gz")), Split::Train).len(), 2);
}

#[test]
fn a_stop_is_heard_while_a_large_file_is_taken_apart() {
    let rows = |row: &str| row.repeat((3 << 20) / row.len());
    for (name, content) in [
        ("big.csv", "text,label\n".to_owned() + &rows("good film,p\nbad film,n\n")),
        (
            "big.jsonl",
            rows("{\"text\": \"good\", \"label\": \"p\"}\n{\"text\": \"bad\", \"label\": \"n\"}\n"),
        ),
        ("big.txt", rows("__label__p good film\n__label__n bad film\n")),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        for stage in ["reading", "parsing"] {
            let mut seen = Vec::new();
            let mut listener = |event: Event<'_>| match event {
                Event::Progress { what, done, total } if what.starts_with(stage) => {
                    seen.push((done, total));
                    if seen.len() == 2 { Signal::Stop } else { Signal::Continue }
                }
                _ => Signal::Continue,
            };
            let options = ClassificationOptions::default();
            let cache = dir.path().join("cache");
            let loaded = ClassificationData::load(&path, &options, &tokenizer(), &cache, &mut listener);
            assert!(matches!(loaded, Err(Error::Interrupted { .. })), "{name}: {stage}: {loaded:?}");
            assert_eq!(seen.len(), 2);
            assert!(seen[0].0 < seen[1].0 && seen[1].0 <= seen[1].1 && seen[1].1 > 2 << 20, "{seen:?}");
        }
    }
}

#[test]
fn of_very_many_columns_an_error_names_a_few() {
    let columns: Vec<String> = (1..=20_000).map(|at| format!("feature_{at}")).collect();
    let table = columns.join(",") + "\n" + &"1,".repeat(19_999) + "1\n";
    let message = error(&[("train.csv", table.as_str())], "");
    assert!(
        message.contains("feature_20 ... and 19980 more") && !message.contains("feature_21"),
        "{message}"
    );
    assert!(message.len() < 1_000, "{message}");
    let long = format!("{},b,c\n1,2,3\n", "x".repeat(5_000));
    assert!(error(&[("train.csv", long.as_str())], "").len() < 600);
}

#[test]
fn exports_of_spreadsheets_and_databases_are_read() {
    let read =
        |name: &str, content: &str| load(&[(name, content)], name).map(|data| show(&data, Split::Train));
    let both = pairs(&[("p", "good film"), ("n", "bad")]);
    assert_eq!(read("a.csv", "sep=;\r\ntext;label\r\ngood film;p\r\nbad;n\r\n").unwrap(), both);
    let message = error(&[("a.csv", "sep=;\ntext;label\ngood;p\nbad\n")], "a.csv");
    assert!(message.contains("a.csv:4: 1 fields"), "{message}");
    // Backslashes before quotes, and inch marks in fields that are not quoted.
    let mysql = "text,label\n\"good \\\"film\\\", so\",p\n\"bad\",n\n";
    let data = load(&[("a.csv", mysql)], "a.csv").unwrap();
    assert_eq!(data.train.as_ref().unwrap().len(), 2);
    assert!(data.notes.iter().any(|note| note.contains("backslashes before quotes")), "{:?}", data.notes);
    assert_eq!(raw_texts("a.csv", mysql), ["good \"film\", so", "bad"]);
    assert_eq!(raw_texts("a.csv", "text,label\n5\" good,p\n7\" bad,n\n"), ["5\" good", "7\" bad"]);
    let message = error(&[("a.csv", "text,label\n5\" good,p\n7,\"bad\n")], "a.csv");
    assert!(message.contains("a.csv:3: a quoted field that begins here never ends"), "{message}");
}

/// The texts of a file as they are read.
fn raw_texts(name: &str, content: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, content).unwrap();
    let data = raw::RawData::read(&path, &ClassificationOptions::default(), 9, &mut |_| Signal::Continue);
    data.unwrap().splits.remove(0).1.samples.into_iter().map(|(_, text)| text).collect()
}

#[test]
fn labels_that_are_kept_back_are_none() {
    let train = ("train.csv", "text,label\ngood,1\nbad,0\n");
    let data = load(&[train, ("test.csv", "text,label\ngood,-1\nbad,-1\n")], "").unwrap();
    assert!(data.test.is_none());
    assert!(data.notes.iter().any(|note| note.contains("test: every label is -1")), "{:?}", data.notes);
    let message = error(&[train, ("test.csv", "text,label\ngood,-1\nbad,1\n")], "");
    assert!(message.contains("unknown label `-1`"), "{message}");
    let scale = [("train.csv", "text,label\ngood,1\nbad,-1\n"), ("test.csv", "text,label\nbad,-1\n")];
    assert_eq!(show(&load(&scale, "").unwrap(), Split::Test), pairs(&[("-1", "bad")]));
}
