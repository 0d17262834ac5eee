//! Metrics against the textbook, and against scikit-learn and SciPy (`tools/golden_metrics.py`).

use serde_json::Value;

use super::*;

fn scores(problem: Problem, outputs: usize) -> Scores {
    Scores::new(Some(problem), outputs, 100)
}

#[test]
fn class_figures_are_those_of_the_textbook() {
    let mut scores = scores(Problem::SingleLabel, 3);
    for (truth, guess) in [(0, 0), (0, 0), (0, 1), (1, 1), (1, 0)] {
        let mut logits = [0.0; 3];
        logits[guess] = 1.0;
        scores.count(&logits, Some(&Label::Class(truth)), Problem::SingleLabel);
    }
    let labels = vec!["a".into(), "b".into(), "c".into()];
    let found = scores.tell(Evaluation { labels, ..Evaluation::default() });
    let is = |name: &str, value: f64| assert!((found.metrics[name] - value).abs() < 1e-12, "{name}");
    is("accuracy", 0.6);
    is("precision/a", 2.0 / 3.0);
    is("recall/a", 2.0 / 3.0);
    is("precision/b", 0.5);
    is("recall/b", 0.5);
    is("f1/b", 0.5);
    is("macro_f1", f64::midpoint(2.0 / 3.0, 0.5));
    assert!(!found.metrics.contains_key("recall/c"), "a class that is nowhere has no metrics");
    assert_eq!(found.support, [3, 2, 0]);
}

#[test]
fn marks_and_numbers() {
    let mut labels = scores(Problem::MultiLabel, 3);
    labels.count(&[2.0, -2.0, 2.0], Some(&Label::Values(vec![1.0, 1.0, 0.0])), Problem::MultiLabel);
    let found = labels.tell(Evaluation::default());
    let is = |name: &str, value: f64| assert!((found.metrics[name] - value).abs() < 1e-12, "{name}");
    is("accuracy", 1.0 / 3.0);
    is("micro_f1", 0.5);
    is("macro_f1", 1.0 / 3.0);
    is("exact_match", 0.0);
    let mut numbers = scores(Problem::Regression, 1);
    for x in [1.0, 2.0, 4.0] {
        numbers.count(&[x], Some(&Label::Values(vec![3.0 - 2.0 * x])), Problem::Regression);
    }
    let found = numbers.tell(Evaluation::default()).metrics;
    assert!((found["pearson"] + 1.0).abs() < 1e-12 && (found["spearman"] + 1.0).abs() < 1e-12);
}

#[test]
fn two_classes_have_an_f1_each() {
    let mut scores = scores(Problem::SingleLabel, 2);
    scores.confusion = vec![vec![3, 1], vec![2, 4]];
    let found = scores.tell(Evaluation { labels: vec!["0".into(), "1".into()], ..Evaluation::default() });
    assert!((found.metrics["f1/1"] - 8.0 / 11.0).abs() < 1e-12);
    assert!((found.metrics["f1/0"] - 6.0 / 9.0).abs() < 1e-12);
}

fn golden() -> Value {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/metrics.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn rows(value: &Value) -> Vec<Vec<f32>> {
    value.as_array().unwrap().iter().map(|row| numbers(row).into_iter().map(|x| x as f32).collect()).collect()
}

/// What the script's case of this problem comes to.
fn evaluated(case: &Value, problem: Problem) -> Evaluation {
    let rows = rows(&case["logits"]);
    let mut scores = Scores::new(Some(problem), rows[0].len(), rows.len());
    for (row, truth) in rows.iter().zip(case["truth"].as_array().unwrap()) {
        let label = match problem {
            Problem::SingleLabel => Label::Class(truth.as_u64().unwrap() as u32),
            _ => Label::Values(numbers(truth).into_iter().map(|x| x as f32).collect()),
        };
        scores.count(row, Some(&label), problem);
    }
    let mut found = scores.tell(Evaluation { examples: rows.len() as u64, ..Evaluation::default() });
    found.add_intervals();
    found
}

fn assert_metrics(case: &Value, found: &Evaluation) {
    for (name, expected) in case["metrics"].as_object().unwrap() {
        let (found, expected) = (found.metrics[name], expected.as_f64().unwrap());
        assert!((found - expected).abs() < 1e-9, "{name}: {found}, scikit-learn {expected}");
    }
    for (name, expected) in case["intervals"].as_object().unwrap() {
        // Both are draws: the ends of a thousand of ours, and of twenty thousand of the script's.
        let (found, expected) = (found.intervals[name], numbers(expected));
        let far = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        let width = expected[1] - expected[0];
        assert!(far < 0.12 * width, "{name}: {found:?}, {expected:?}");
    }
}

#[test]
fn single_labels_are_judged_as_scikit_learn_does() {
    let golden = golden();
    for case in golden["single"].as_array().unwrap() {
        let mut found = evaluated(case, Problem::SingleLabel);
        assert_metrics(case, &found);
        let calibration = Calibration::fitted(found.answers.as_ref().unwrap()).unwrap();
        let is = |found: f64, name: &str, precise: f64| {
            let expected = case["calibration"][name].as_f64().unwrap();
            assert!((found - expected).abs() < precise, "{name}: {found}, SciPy {expected}");
        };
        is(calibration.temperature, "temperature", 1e-5);
        is(calibration.nll_before, "nll_before", 1e-9);
        is(calibration.nll_after, "nll_after", 1e-9);
        is(calibration.ece_after, "ece_after", 1e-5);
        found.calibrate(Some(calibration.temperature));
        assert!((found.metrics["nll_calibrated"] - calibration.nll_after).abs() < 1e-12);
    }
}

#[test]
fn several_labels_and_numbers_are_judged_as_scikit_learn_and_scipy_do() {
    let golden = golden();
    assert_metrics(&golden["multi"], &evaluated(&golden["multi"], Problem::MultiLabel));
    assert_metrics(&golden["regression"], &evaluated(&golden["regression"], Problem::Regression));
}

#[test]
fn where_all_is_right_there_is_no_temperature_and_no_false_certainty() {
    let mut scores = scores(Problem::SingleLabel, 2);
    for i in 0..40 {
        let right = (i % 2) as usize;
        let mut logits = [0.0; 2];
        logits[right] = 1.0;
        scores.count(&logits, Some(&Label::Class(right as u32)), Problem::SingleLabel);
    }
    let mut found = scores.tell(Evaluation::default());
    found.add_intervals();
    assert_eq!(Calibration::fitted(found.answers.as_ref().unwrap()), None);
    let [low, high] = found.intervals["accuracy"];
    assert!((0.91..0.92).contains(&low) && (high - 1.0).abs() < 1e-15, "{low}");
    assert!(!found.intervals.contains_key("macro_f1"));
    assert!((found.metrics["auc"] - 1.0).abs() < 1e-15);
}

/// A classifier of two that is `sureness` sure of itself, and right in the examples that are said.
fn sure(sureness: f32, right: impl Fn(usize) -> bool) -> Answers {
    let mut scores = scores(Problem::SingleLabel, 2);
    for example in 0..60 {
        let told = example / 2 % 2;
        let mut logits = [0.0; 2];
        logits[told] = sureness;
        let truth = if right(example) { told } else { 1 - told };
        scores.count(&logits, Some(&Label::Class(truth as u32)), Problem::SingleLabel);
    }
    scores.tell(Evaluation::default()).answers.unwrap()
}

#[test]
fn a_temperature_is_kept_where_it_helps_examples_that_it_was_not_fitted_to() {
    let mut said = Vec::new();
    let mut listener = |event: Event<'_>| {
        if let Event::Message(line) = event {
            said.push(line.to_owned());
        }
        Signal::Continue
    };
    // 98 % sure, and right in three of four: in both halves alike.
    let too_sure = sure(4.0, |example| example / 2 % 4 != 3);
    assert!(Calibration::gain_on_others(&too_sure) > 0.1);
    let kept = Calibration::kept(&too_sure, &mut listener).unwrap();
    assert_eq!(Some(kept), Calibration::fitted(&too_sure));
    // 73 % sure, which is so: what one half is off by, the other is off by in the other direction.
    let sound = sure(1.0, |example| example % 4 != 1 || example > 56);
    let found = Calibration::fitted(&sound).unwrap();
    assert!(Calibration::gain_on_others(&sound) < 0.0, "{found:?}");
    assert_eq!(Calibration::kept(&sound, &mut listener), None);
    assert!(
        matches!(&said[..], [line] if line.contains("no temperature is kept") && line.contains("60")),
        "{said:?}"
    );
}
