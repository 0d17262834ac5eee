//! Tests of examples that belong together by a column: no group is divided where validation data is held out.

use std::collections::BTreeSet;

use super::*;

fn by(column: &str) -> ClassificationOptions {
    ClassificationOptions { group_column: Some(column.into()), ..Default::default() }
}

/// The groups of a split's examples, which their texts tell.
fn groups(data: &ClassificationData, split: Split, of: impl Fn(u32) -> usize) -> BTreeSet<usize> {
    data.get(split).unwrap().rows.iter().map(|&row| of(row)).collect()
}

#[test]
fn no_group_stands_on_both_sides() {
    // 200 texts by 20 authors, each of whom writes of both classes.
    let author = |row: u32| row as usize * 7 % 20;
    let row = |n: u32| format!("text {n},{},a{}\n", ["x", "y"][n as usize / 3 % 2], author(n));
    let table = format!("text,label,author\n{}", (0..200).map(row).collect::<String>());
    let line = |n: u32| {
        format!(
            "{{\"text\":\"text {n}\",\"label\":\"{}\",\"author\":{}}}\n",
            ["x", "y"][n as usize / 3 % 2],
            author(n)
        )
    };
    let lines: String = (0..200).map(line).collect();
    for (name, content) in [("a.csv", table.as_str()), ("a.jsonl", &lines)] {
        let mut notes = BTreeSet::new();
        for seed in 0..5 {
            let mut data = load_with(&[(name, content)], name, &by("author")).unwrap();
            let held = data.hold_out_validation(seed).unwrap();
            assert!((10..=40).contains(&held), "{held} of 200");
            let [train, valid] = [Split::Train, Split::Valid].map(|split| groups(&data, split, author));
            assert!(train.is_disjoint(&valid) && !valid.is_empty(), "{train:?} {valid:?}");
            assert!(data.notes.iter().any(|note| note.contains("in whole groups")), "{:?}", data.notes);
            notes.insert(valid);
        }
        assert!(notes.len() > 1, "the seed chooses");
    }
    // Without it the same data is divided by its texts alone, as ever.
    let mut data = load(&[("a.csv", &table)], "a.csv").unwrap();
    assert_eq!(data.hold_out_validation(0).unwrap(), 20);
    let [train, valid] = [Split::Train, Split::Valid].map(|split| groups(&data, split, author));
    assert!(!train.is_disjoint(&valid));
}

#[test]
fn texts_and_groups_keep_each_other_together() {
    // "same" is by a and b, so a and b are one; what has no group stands alone.
    let table =
        "text,label,who\nsame,x,a\nsame,x,b\none,y,a\ntwo,y,b\nthree,x,\nfour,y,\nfive,x,c\nsix,y,d\n";
    let data = load_with(&[("a.csv", table)], "a.csv", &by("WHO")).unwrap();
    let together: Vec<u64> = data.train.as_ref().unwrap().iter().map(|example| example.together).collect();
    assert_eq!(together[..4], [together[0]; 4]);
    assert_eq!(together.iter().collect::<BTreeSet<_>>().len(), 5);
}

#[test]
fn a_column_that_is_not_there_is_named() {
    let table = "text,label,who\ngood,x,a\nbad,y,b\n";
    let message = load_with(&[("a.csv", table)], "a.csv", &by("author")).unwrap_err().to_string();
    assert!(message.contains("no group column `author`; the columns are text, label, who"), "{message}");
    let lines = "__label__x good\n__label__y bad\n";
    let message = load_with(&[("a.txt", lines)], "a.txt", &by("author")).unwrap_err().to_string();
    assert!(message.contains("group_column") && message.contains("no table"), "{message}");
    let one = "text,label,who\ngood,x,a\nbad,y,a\nfilm,x,a\n";
    let mut data = load_with(&[("a.csv", one)], "a.csv", &by("who")).unwrap();
    assert_eq!(data.hold_out_validation(1).unwrap(), 0);
    assert!(data.notes.iter().any(|note| note.contains("of two groups")), "{:?}", data.notes);
}
