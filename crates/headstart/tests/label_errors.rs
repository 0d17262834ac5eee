//! Labels in doubt against cleanlab's.
//!
//! Owns: that comparison; `tools/label_errors.py` writes what is compared with. Never: where probabilities come from.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::path::Path;

use headstart::lint::confident::doubts;
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    probabilities: Vec<Vec<f64>>,
    labels: Vec<u32>,
    ranked: Vec<usize>,
}

#[test]
fn doubts_are_cleanlabs() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/label_errors.json");
    let golden: Golden = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(golden.cases.len(), 4);
    for case in &golden.cases {
        let found: Vec<usize> =
            doubts(&case.probabilities, &case.labels).iter().map(|doubt| doubt.example).collect();
        assert!(!found.is_empty());
        assert_eq!(found, case.ranked);
    }
}
