//! The classifier as a whole: what it learns, and that neither threads nor chance change a bit.
//!
//! Owns: small made-up texts. Never: the parts, which have tests of their own; scikit-learn, which `tests/bag_of_words.rs` compares with.

use super::*;

const TEXTS: [&str; 6] = [
    "Who built the bridge ?",
    "Who owns the old mill ?",
    "Where is the mill ?",
    "Where does the river end ?",
    "How many boats has the town ?",
    "How deep is the river ?",
];
const CLASSES: [u32; 6] = [0, 0, 1, 1, 2, 2];

fn examples(count: usize) -> Examples<'static> {
    Examples { texts: &TEXTS, classes: &CLASSES, count, groups: &[] }
}

#[test]
fn what_was_learned_is_predicted_of_other_texts() {
    let bag = BagOfWords::fit(examples(3), NGrams::WordsAndCharacters, &mut || true).unwrap();
    assert_eq!(["Who sank it ?", "Where ?", "How many ?"].map(|text| bag.predict(text)), [0, 1, 2]);
    assert!((bag.accuracy(&TEXTS, &CLASSES) - 1.0).abs() < 1e-12);
    // Nothing known of a text leaves the constants.
    assert_eq!(bag.probabilities(""), bag.probabilities("qqq"));
    assert!(BagOfWords::fit(examples(3), NGrams::Words, &mut || false).is_none());
}

#[test]
fn a_class_without_a_text_is_never_predicted_and_one_alone_always() {
    let bag = BagOfWords::fit(examples(5), NGrams::Words, &mut || true).unwrap();
    let probabilities = bag.probabilities("Who ?");
    assert_eq!((probabilities.len(), probabilities[3], probabilities[4]), (5, 0.0, 0.0));
    let alone = Examples { texts: &["", "a"], classes: &[1, 1], count: 2, groups: &[] };
    let bag = BagOfWords::fit(alone, NGrams::WordsAndCharacters, &mut || true).unwrap();
    assert_eq!(bag.probabilities("b"), [0.0, 1.0]);
    let empty = Examples { texts: &["", " "], classes: &[0, 1], count: 2, groups: &[] };
    let bag = BagOfWords::fit(empty, NGrams::WordsAndCharacters, &mut || true).unwrap();
    assert_eq!(bag.probabilities("b"), [0.5, 0.5]);
}

#[test]
fn threads_change_no_bit() {
    let texts: Vec<String> = (0..700_u32)
        .map(|n| format!("{} {} word{} {}", n % 13, n * 7 % 31, n * n % 97, TEXTS[n as usize % 6]))
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    for count in [2, 3] {
        let classes: Vec<u32> = (0..700).map(|n: u32| (n * n / 3) % count).collect();
        let fit = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let examples = Examples { texts: &texts, classes: &classes, count: count as usize, groups: &[] };
            pool.install(|| BagOfWords::fit(examples, NGrams::WordsAndCharacters, &mut || true)).unwrap()
        };
        let [one, three] = [1, 3].map(fit);
        assert_eq!((one.weights, one.strength.to_bits()), (three.weights, three.strength.to_bits()));
    }
}

#[test]
fn parts_that_are_left_out_share_no_text() {
    let texts = ["a", "b", "a ", "c", "a", "d", "e", "f"];
    let classes = [0, 0, 0, 0, 1, 1, 1, 1];
    let examples = Examples { texts: &texts, classes: &classes, count: 2, groups: &[] };
    let prepared = Prepared::new(examples, NGrams::Words);
    assert_eq!(prepared.folds(FOLDS), [0, 1, 0, 2, 0, 0, 1, 2]);
}

#[test]
fn a_group_is_left_out_as_a_whole() {
    let texts: Vec<String> = (0..24).map(|n| format!("word{} word{}", n % 6, n % 5)).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let classes: Vec<u32> = (0..24).map(|n| n % 2).collect();
    let of = |groups: &[u64]| {
        let examples = Examples { texts: &texts, classes: &classes, count: 2, groups };
        Prepared::new(examples, NGrams::Words).folds(3)
    };
    let groups: Vec<u64> = (0..24).map(|n| n / 4).collect();
    let (whole, divided) = (of(&groups), of(&[]));
    for part in 0..3 {
        assert!(whole.contains(&part), "{whole:?}");
    }
    for (group, folds) in groups.chunks(4).zip(whole.chunks(4)) {
        assert!(folds.iter().all(|fold| *fold == folds[0]), "{group:?}: {folds:?}");
    }
    assert!(divided.chunks(4).any(|folds| folds.iter().any(|fold| *fold != folds[0])), "{divided:?}");
}
