//! The bag of words against scikit-learn's probabilities, logits and numbers.
//!
//! Owns: that comparison; `tools/bag_of_words.py` writes what is compared with. Never: how it is fitted.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::path::Path;

use headstart::baseline::{Bag, BagModel, BagOfWords, Examples, LinearBag, NGrams, Targets};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    texts: Vec<String>,
    classes: Vec<u32>,
    asked: Vec<String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    characters: bool,
    classes: u32,
    strength: f64,
    probabilities: Vec<Vec<f64>>,
}

#[test]
fn probabilities_are_scikit_learns() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/bag_of_words.json");
    let golden: Golden = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(golden.cases.len(), 8);
    for case in &golden.cases {
        let kept = golden.texts.iter().zip(&golden.classes).filter(|(_, class)| **class < case.classes);
        let (texts, classes): (Vec<&str>, Vec<u32>) =
            kept.map(|(text, class)| (text.as_str(), *class)).unzip();
        let examples =
            Examples { texts: &texts, classes: &classes, count: case.classes as usize, groups: &[] };
        let ngrams = if case.characters { NGrams::WordsAndCharacters } else { NGrams::Words };
        let bag = BagOfWords::fit_with(examples, ngrams, case.strength, &mut || true).unwrap();
        for (text, expected) in golden.asked.iter().zip(&case.probabilities) {
            for (p, expected) in bag.probabilities(text).iter().zip(expected) {
                let name = (case.characters, case.classes, case.strength);
                assert!((p - expected).abs() < 1e-6, "{name:?}, `{text}`: {p}, scikit-learn {expected}");
            }
        }
    }
}

#[derive(Deserialize)]
struct GoldenTargets {
    texts: Vec<String>,
    marks: Vec<Vec<f32>>,
    numbers: Vec<f32>,
    asked: Vec<String>,
    cases: Vec<TargetCase>,
}

#[derive(Deserialize)]
struct TargetCase {
    characters: bool,
    strength: f64,
    logits: Vec<Vec<f64>>,
    numbers: Vec<f64>,
}

/// The same as it comes back from a model folder.
fn stored(bag: Bag, labels: Vec<String>) -> LinearBag {
    let folder = tempfile::tempdir().unwrap();
    BagModel { bag, labels, pairs: false }.write(folder.path()).unwrap();
    match BagModel::open(folder.path()).unwrap().bag {
        Bag::MultiLabel(bag) | Bag::Regression(bag) => bag,
        Bag::SingleLabel(_) => unreachable!("was written as another"),
    }
}

#[test]
fn several_labels_at_once_and_numbers_are_scikit_learns() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/bag_of_targets.json");
    let golden: GoldenTargets = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let texts: Vec<&str> = golden.texts.iter().map(String::as_str).collect();
    let marks = golden.marks.concat();
    assert_eq!(golden.cases.len(), 4);
    for case in &golden.cases {
        let ngrams = if case.characters { NGrams::WordsAndCharacters } else { NGrams::Words };
        let fit = |targets| {
            LinearBag::fit((&texts, &[]), targets, ngrams, Some(case.strength), &mut || true).unwrap()
        };
        let labels = ["a", "b", "c"].map(str::to_owned).to_vec();
        let several = stored(Bag::MultiLabel(fit(Targets::MultiLabel(&marks, 3))), labels);
        let number = stored(Bag::Regression(fit(Targets::Numbers(&golden.numbers))), Vec::new());
        for ((text, logits), expected) in golden.asked.iter().zip(&case.logits).zip(&case.numbers) {
            let name = (case.characters, case.strength);
            for (found, expected) in several.outputs(text).iter().zip(logits) {
                let found = f64::from(*found);
                assert!(
                    (found - expected).abs() < 1e-5,
                    "{name:?}, `{text}`: {found}, scikit-learn {expected}"
                );
            }
            let found = f64::from(number.outputs(text)[0]);
            assert!((found - expected).abs() < 1e-5, "{name:?}, `{text}`: {found}, scikit-learn {expected}");
        }
    }
}
