//! Runs as they lie on disk, made by hand.

use std::fs;

use serde_json::json;

use super::*;

/// A run's folder with a summary, and predictions of three examples.
fn run(root: &Path, name: &str, told: [&str; 3], sha256: &str) -> PathBuf {
    let dir = root.join(name);
    fs::create_dir_all(dir.join("final")).unwrap();
    fs::write(dir.join("environment.json"), "{\"headstart\": \"0.1.0\"}").unwrap();
    fs::write(
        dir.join("config.toml"),
        "model = \"runs/trunk\"\nmethod = \"lora\"\nproblem = \"single-label\"\n[data]\npath = \"trec\"\n[train]\nseed = 7\n",
    )
    .unwrap();
    let evaluated = json!({"split": "test", "examples": 3, "sha256": sha256});
    let metrics = json!({"test/accuracy": 0.5, "valid/accuracy": 0.25, "test/f1/a": 0.5});
    let summary = json!({
        "stopped": null, "total_steps": 5, "seconds": 61.5, "metrics": metrics,
        "intervals": {"test/accuracy": [0.25, 0.75]}, "evaluated": evaluated,
    });
    fs::write(dir.join("summary.json"), summary.to_string()).unwrap();
    let line = |(at, told): (usize, &&str)| {
        let truth = ["a", "b", "a"][at];
        json!({"line": at + 2, "label": truth, "predicted": told, "probabilities": {*told: 0.75}, "text": format!("text {at}")})
            .to_string()
            + "\n"
    };
    let lines: String = told.iter().enumerate().map(line).collect();
    fs::write(dir.join("predictions.jsonl"), lines).unwrap();
    dir
}

#[test]
fn runs_are_found_and_told_in_a_line() {
    let root = tempfile::tempdir().unwrap();
    let dir = run(root.path(), "sweep/seed-1", ["a", "b", "a"], "x");
    let stopped = run(root.path(), "other", ["a", "b", "a"], "x");
    fs::remove_dir(stopped.join("final")).unwrap();
    fs::write(stopped.join("summary.json"), "{\"stopped\": \"signal\", \"total_steps\": 5}").unwrap();
    let failed = run(root.path(), "third", ["a", "b", "a"], "x");
    fs::remove_dir(failed.join("final")).unwrap();
    fs::remove_file(failed.join("summary.json")).unwrap();
    fs::create_dir(root.path().join("damaged")).unwrap();
    fs::write(root.path().join("damaged/config.toml"), "method = ").unwrap();
    let (runs, left_out) = list(root.path()).unwrap();
    assert_eq!((runs.len(), left_out), (3, 1));
    let of = |dir: &Path| runs.iter().find(|run| run.dir == dir).unwrap();
    let found = of(&dir);
    assert_eq!(
        (found.state, of(&stopped).state, of(&failed).state),
        (State::Finished, State::Stopped, State::Failed)
    );
    assert_eq!((&*found.method, &*found.model, &*found.data), ("lora", "runs/trunk", "trec"));
    let metric = found.metric.as_ref().unwrap();
    assert_eq!((&*metric.name, metric.interval), ("test/accuracy", Some([0.25, 0.75])));
    let shown = show(&dir).unwrap();
    let keys: Vec<&str> = shown.settings.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["data.path", "method", "model", "train.seed"], "the others are the defaults");
    assert_eq!(shown.metrics.len(), 2, "classes are not told");
    assert_eq!(folder_of(&dir.join("final")).unwrap(), fs::canonicalize(&dir).unwrap());
    assert!(folder_of(root.path()).unwrap_err().to_string().contains("runs ls"));
}

#[test]
fn runs_are_compared_on_the_same_examples_only() {
    let root = tempfile::tempdir().unwrap();
    let first = run(root.path(), "first", ["a", "a", "b"], "x");
    let second = run(root.path(), "second", ["b", "b", "c"], "x");
    let found = compare(&first, &second).unwrap();
    assert_eq!(found.comparison.examples, 3);
    let test = found.comparison.mcnemar.unwrap();
    assert_eq!((test.only_first, test.only_second, test.exact), (1, 1, true));
    let told: Vec<(&str, &str, &str)> =
        found.differing.iter().map(|d| (&*d.place, &*d.first, &*d.second)).collect();
    assert_eq!(told, [("line 2", "a", "b"), ("line 3", "a", "b"), ("line 4", "b", "c")]);
    let other = run(root.path(), "other", ["a", "b", "a"], "y");
    let said = compare(&first, &other).unwrap_err().to_string();
    assert!(
        said.contains("not evaluated on the same examples") && said.contains("3 test examples"),
        "{said}"
    );
    fs::remove_file(second.join("predictions.jsonl")).unwrap();
    assert!(compare(&first, &second).unwrap_err().to_string().contains("is not there"));
    fs::write(second.join("config.toml"), "[distill]\nteacher = \"runs/large\"\n").unwrap();
    let said = compare(&first, &second).unwrap_err().to_string();
    assert!(said.contains("not measured on a test split") && said.contains("headstart eval"), "{said}");
    assert_eq!(overview(&second).unwrap().method, "distill");
}

/// A run of another problem: what is true of three examples, and what it told.
fn run_of(
    root: &Path,
    name: &str,
    problem: &str,
    lines: [(serde_json::Value, serde_json::Value); 3],
) -> PathBuf {
    let dir = run(root, name, ["a", "b", "a"], "x");
    fs::write(dir.join("config.toml"), format!("problem = \"{problem}\"\n")).unwrap();
    let line =
        |(label, predicted)| json!({"label": label, "predicted": predicted, "text": "t"}).to_string() + "\n";
    fs::write(dir.join("predictions.jsonl"), lines.map(line).concat()).unwrap();
    let mut summary: serde_json::Value =
        serde_json::from_slice(&fs::read(dir.join("summary.json")).unwrap()).unwrap();
    summary["labels"] = json!(["a", "b", "c", "d"]);
    fs::write(dir.join("summary.json"), summary.to_string()).unwrap();
    dir
}

#[test]
fn numbers_and_several_labels_are_compared_too() {
    let root = tempfile::tempdir().unwrap();
    let numbers = |name: &str, told: [f64; 3]| {
        let pairs = [(1.0, told[0]), (2.0, told[1]), (4.0, told[2])];
        run_of(root.path(), name, "regression", pairs.map(|(truth, told)| (truth.into(), told.into())))
    };
    let (first, second) = (numbers("n1", [1.0, 3.0, 4.5]), numbers("n2", [1.5, 0.0, 4.5]));
    let found = compare(&first, &second).unwrap();
    let error = found.comparison.metrics["mse"];
    assert!(
        (error.first - 1.25 / 3.0).abs() < 1e-12 && (error.second - 4.5 / 3.0).abs() < 1e-12,
        "{error:?}"
    );
    // The one that only one is far off comes first; where they say the same, nothing is to be seen.
    let told: Vec<(&str, &str)> = found.differing.iter().map(|d| (&*d.first, &*d.second)).collect();
    assert_eq!(told, [("3", "0"), ("1", "1.5")]);
    let labels = |name: &str, told: [&str; 3]| {
        let pairs = [("a|b", told[0]), ("", told[1]), ("c", told[2])];
        run_of(root.path(), name, "multi-label", pairs.map(|(truth, told)| (truth.into(), told.into())))
    };
    let (first, second) = (labels("l1", ["a", "", "c"]), labels("l2", ["a|b", "c", "c|a"]));
    let found = compare(&first, &second).unwrap().comparison;
    assert!((found.metrics["exact_match"].first - 2.0 / 3.0).abs() < 1e-12);
    // One and two of twelve are wrong: `d` counts, which nobody told.
    let accuracy = found.metrics["accuracy"];
    assert!((accuracy.first - 11.0 / 12.0).abs() < 1e-12 && (accuracy.second - 10.0 / 12.0).abs() < 1e-12);
    let test = found.mcnemar.unwrap();
    assert_eq!((test.only_first, test.only_second), (2, 1));
}
