//! The bag of words against scikit-learn's probabilities.
//!
//! Owns: that comparison; `tools/bag_of_words.py` writes what is compared with. Never: how it is fitted.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::path::Path;

use headstart::baseline::{BagOfWords, Examples, NGrams};
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
        let examples = Examples { texts: &texts, classes: &classes, count: case.classes as usize };
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
