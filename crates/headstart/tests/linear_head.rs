//! Heads that are fitted to vectors against scikit-learn's.
//!
//! Owns: that comparison; `tools/linear_head.py` writes what is compared with. Never: how they are fitted.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::path::Path;

use headstart::baseline::{LinearModel, Targets, Vectors};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    width: usize,
    vectors: Vec<f32>,
    classes: Vec<u32>,
    marks: Vec<f32>,
    numbers: Vec<f32>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    kind: String,
    strength: f64,
    weights: Vec<Vec<f64>>,
    biases: Vec<f64>,
    /// Answers on its own examples that are right.
    right: usize,
}

fn best(outputs: &[f32]) -> u32 {
    (0..outputs.len()).fold(0, |best, at| if outputs[at] > outputs[best] { at } else { best }) as u32
}

#[test]
fn weights_and_answers_are_scikit_learns() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/linear_head.json");
    let golden: Golden = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(golden.cases.len(), 12);
    for case in &golden.cases {
        let strength = &case.strength;
        // All classes alike, or each in inverse proportion to how often it is there.
        let (kind, balanced) = match case.kind.strip_suffix(" balanced") {
            Some(kind) => (kind, true),
            None => (&*case.kind, false),
        };
        let two = kind == "two";
        let kept: Vec<usize> =
            (0..golden.classes.len()).filter(|&row| !two || golden.classes[row] < 2).collect();
        let row = |row: usize| &golden.vectors[row * golden.width..][..golden.width];
        let values: Vec<f32> = kept.iter().flat_map(|&at| row(at).iter().copied()).collect();
        let classes: Vec<u32> = kept.iter().map(|&at| golden.classes[at]).collect();
        let texts: Vec<u64> = (0..kept.len() as u64).collect();
        let count = if two { 2 } else { 3 };
        let of_class = |class: u32| classes.iter().filter(|&&of| of == class).count() as f64;
        let weights: Vec<f64> =
            (0..count).map(|class| classes.len() as f64 / (f64::from(count) * of_class(class))).collect();
        let targets = match kind {
            "three" | "two" if balanced => Targets::WeightedClasses(&classes, &weights),
            "three" | "two" => Targets::Classes(&classes, count as usize),
            "marks" => Targets::MultiLabel(&golden.marks, 3),
            _ => Targets::Numbers(&golden.numbers),
        };
        let vectors = Vectors { values: &values, width: golden.width, texts: &texts };
        let model = LinearModel::fit_with(vectors, targets, *strength, &mut || true).unwrap();
        let outputs: Vec<Vec<f32>> = kept.iter().map(|&at| model.outputs(row(at))).collect();
        // What all classes have in common changes no probability, and where it ends is up to the solver.
        let centred = |outputs: Vec<f64>| {
            let mean = if kind == "three" { outputs.iter().sum::<f64>() / 3.0 } else { 0.0 };
            outputs.into_iter().map(|output| output - mean).collect::<Vec<f64>>()
        };
        for (&at, ours) in kept.iter().zip(&outputs) {
            let theirs = case.weights.iter().zip(&case.biases).map(|(weights, bias)| {
                weights.iter().zip(row(at)).map(|(w, x)| w * f64::from(*x)).sum::<f64>() + bias
            });
            let ours = match ours[..] {
                // One column says how much the second of two is ahead.
                [first, second] if two => vec![f64::from(second) - f64::from(first)],
                _ => ours.iter().map(|output| f64::from(*output)).collect(),
            };
            for (ours, theirs) in centred(ours).iter().zip(centred(theirs.collect())) {
                assert!(
                    (ours - theirs).abs() < 2e-5 * (1.0 + theirs.abs()),
                    "{kind}, {strength}: {ours}, scikit-learn {theirs}"
                );
            }
        }
        for (output, weights) in case.weights.iter().enumerate().filter(|_| !two) {
            let mean = |at: usize| {
                let all = case.weights.iter().map(|weights| weights[at]).sum::<f64>();
                if kind == "three" { all / 3.0 } else { 0.0 }
            };
            for (at, weight) in weights.iter().enumerate() {
                let ours = f64::from(model.weights[output * golden.width + at]);
                let expected = weight - mean(at);
                assert!(
                    (ours - expected).abs() < 2e-5,
                    "{kind}, {strength}, weight {at}: {ours}, {expected}"
                );
            }
        }
        let right = match kind {
            "numbers" => 0,
            "marks" => {
                let marks = golden.marks.iter().map(|mark| *mark > 0.5);
                outputs.iter().flatten().zip(marks).filter(|(output, mark)| (**output > 0.0) == *mark).count()
            }
            _ => outputs.iter().zip(&classes).filter(|(outputs, class)| best(outputs) == **class).count(),
        };
        assert_eq!(right, case.right, "{kind}, {strength}");
    }
}
