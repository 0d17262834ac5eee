//! Several runs on a small task: each once, the same bits as alone, and on again where they stopped.

use std::path::{Path, PathBuf};

use headstart_engine::Collective;

use super::task::Task;
use super::{Arm, Statistic, TrialsSummary, check_seeds, run};
use crate::checkpoint::load_model;
use crate::config::{
    Arch, DataConfig, FinetuneConfig, Method, ModelConfig, PretrainConfig, Seeds, TrainConfig, TrialsConfig,
};
use crate::device::DeviceChoice;
use crate::event::{Event, Signal};
use crate::finetune::finetune;
use crate::pretrain::pretrain;
use crate::train::{Place, RunOptions};

fn options(place: Place) -> RunOptions {
    RunOptions {
        place,
        command: "test".into(),
        device: DeviceChoice::default(),
        collective: Collective::alone(),
        allow_other_groups: false,
    }
}

fn quiet(_: Event<'_>) -> Signal {
    Signal::Continue
}

/// A tiny trunk, trained for a moment.
fn trunk(dir: &Path, arch: Arch) -> PathBuf {
    let tokenizer = dir.join("tokenizer.json");
    crate::data::source::starter_tokenizer().unwrap().save(&tokenizer).unwrap();
    let config = PretrainConfig {
        data: DataConfig {
            path: "starter".into(),
            tokenizer: Some(tokenizer.display().to_string()),
            cache_dir: Some(dir.join("cache")),
            ..DataConfig::default()
        },
        model: ModelConfig { arch, ..ModelConfig::preset("micro").unwrap() },
        train: TrainConfig { max_steps: Some(2), threads: 1, ..TrainConfig::default() },
        ..PretrainConfig::default()
    };
    let out = dir.join("trunk");
    pretrain(&config, &options(Place::New(out.clone())), &mut quiet).unwrap();
    out
}

fn settings(dir: &Path) -> FinetuneConfig {
    FinetuneConfig {
        model: Some(trunk(dir, Arch::Gpt2)),
        data: DataConfig {
            path: "starter-questions".into(),
            cache_dir: Some(dir.join("cache")),
            max_train_examples: None,
            ..DataConfig::default()
        },
        train: TrainConfig { max_steps: Some(6), threads: 1, valid_batch_size: 32, ..TrainConfig::default() },
        ..FinetuneConfig::default()
    }
}

fn weights(folder: &Path) -> Vec<u8> {
    assert!(load_model(folder).is_ok());
    std::fs::read(folder.join("final/model.safetensors")).unwrap()
}

fn statistic<'a>(summary: &'a TrialsSummary, metric: &str) -> &'a Statistic {
    summary.statistics.iter().find(|of| of.metric == metric).unwrap()
}

#[test]
fn every_seed_is_the_run_that_it_would_be_alone_and_they_go_on_where_they_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let alone = settings(dir.path());
    let mut config = alone.clone();
    config.trials.seeds = Some(Seeds::List(vec![7, 9]));
    let out = dir.path().join("seeds");
    // Stopped in the second run.
    let mut seconds = 0;
    let stopped = run(&config, &options(Place::New(out.clone())), &mut |event| {
        seconds += u32::from(matches!(event, Event::Message(line) if line.starts_with("2 of 2: seed 9")));
        let step = matches!(event, Event::Step(step) if step.step == 3);
        if seconds == 1 && step { Signal::Stop } else { Signal::Continue }
    })
    .unwrap();
    assert_eq!(
        (stopped.stopped.as_deref(), &stopped.unfinished[..]),
        (Some("signal"), &["seed-9".to_owned()][..])
    );
    assert_eq!((stopped.runs.len(), stopped.final_dir), (1, None));
    let mut again = Vec::new();
    let whole = run(&config, &options(Place::Continued(out.clone())), &mut |event| {
        if let Event::Message(line) = event {
            again.push(line.to_owned());
        }
        Signal::Continue
    })
    .unwrap();
    assert!(!again.iter().any(|line| line.starts_with("1 of 2")), "{again:?}");
    assert_eq!((whole.stopped.as_deref(), whole.runs.len(), whole.unfinished.len()), (None, 2, 0));
    for seed in [7, 9] {
        let folder = dir.path().join(format!("alone-{seed}"));
        let mut one = alone.clone();
        one.train.seed = seed;
        let summary = finetune(&one, &options(Place::New(folder.clone())), &mut quiet).unwrap();
        assert_eq!(weights(&folder), weights(&out.join(format!("seed-{seed}"))));
        let same = whole.runs.iter().find(|run| run.seed == seed).unwrap();
        assert_eq!(same.metrics, summary.metrics);
    }
    let accuracy = statistic(&whole, "test/accuracy");
    let [a, b] = accuracy.each[..] else { panic!("{accuracy:?}") };
    assert!((accuracy.mean - f64::midpoint(a, b)).abs() < 1e-12);
    assert!((accuracy.std - (a - b).abs() / 2_f64.sqrt()).abs() < 1e-12);
    assert!(statistic(&whole, "bow/test_accuracy").mean > 0.3);
    let best = whole.best.as_ref().unwrap();
    assert_eq!(weights(&out), weights(&out.join(best)));
    assert_eq!(whole.final_dir, Some(out.join("final")));
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("seed-9/report.html") && page.contains("test/accuracy"));
    assert!(out.join("summary.json").is_file());
}

#[test]
fn a_curve_has_three_arms_and_no_size_beyond_the_data() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = settings(dir.path());
    config.trials.curve = Some("all,12".parse().unwrap());
    let out = dir.path().join("curve");
    let summary = run(&config, &options(Place::New(out.clone())), &mut quiet).unwrap();
    let curve = summary.curve.unwrap();
    let points: Vec<(usize, Arm)> = curve.points.iter().map(|point| (point.size, point.arm)).collect();
    let arms = [Arm::HeadStart, Arm::Scratch, Arm::BagOfWords];
    assert_eq!(points, [12, 312].map(|size| arms.map(|arm| (size, arm))).concat());
    assert_eq!((curve.metric.as_str(), summary.final_dir, summary.runs.len()), ("test/accuracy", None, 4));
    // On the same examples as a run of that size, and none of its weights are kept.
    let mut one = config.clone();
    one.trials = TrialsConfig::default();
    one.data.max_train_examples = Some(12);
    let alone = finetune(&one, &options(Place::New(dir.path().join("alone"))), &mut quiet).unwrap();
    assert_eq!(summary.runs[0].metrics, alone.metrics);
    assert_eq!(summary.runs[0].bow.map(|bow| bow.test_accuracy), alone.bow.map(|bow| bow.test_accuracy));
    assert!(!out.join("size-12/final").exists() && out.join("size-12/report.html").is_file());
    let scratch = std::fs::read_to_string(out.join("size-12-scratch/config.toml")).unwrap();
    assert!(scratch.contains("from_scratch = true") && scratch.contains("max_train_examples = 12"));
    assert!(std::fs::read_to_string(out.join("curve.json")).unwrap().contains("\"bag-of-words\""));
    assert!(std::fs::read_to_string(out.join("config.toml")).unwrap().contains("curve = [12, 312]"));
    config.trials.curve = Some("312,all".parse().unwrap());
    let out = dir.path().join("twice");
    let error = run(&config, &options(Place::New(out.clone())), &mut quiet).unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("312 is listed twice"), "{error}");
    assert!(!out.exists());
    config.trials.curve = Some("12,1000000".parse().unwrap());
    let out = dir.path().join("too-long");
    let error = run(&config, &options(Place::New(out.clone())), &mut quiet).unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("and the data has"), "{error}");
    assert!(!out.exists());
}

#[test]
fn the_rate_is_chosen_once_and_a_model_is_adapted_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = settings(dir.path());
    config.trials.lr_auto = Some(true);
    config.adapt.adapt_on = Some("task".into());
    config.adapt.adapt_steps = Some(3);
    let out = dir.path().join("both");
    let first = run(&config, &options(Place::New(out.clone())), &mut quiet).unwrap();
    let search = first.lr_search.clone().unwrap();
    assert!((3..=4).contains(&search.tried.len()), "{search:?}");
    assert!(search.tried.iter().any(|tried| Some(tried.lr) == search.chosen));
    assert_eq!(first.adapted.as_ref().map(|adapted| adapted.steps), Some(3));
    let settled = std::fs::read_to_string(out.join("run/config.toml")).unwrap();
    assert!(
        settled.contains(&format!("lr = {}", search.chosen.unwrap())) || settled.contains("lr = "),
        "{settled}"
    );
    assert!(settled.contains("adapt"), "{settled}");
    let text = std::fs::read_to_string(out.join("adapt-text/train.txt")).unwrap();
    let questions = crate::data::starter::questions();
    assert!(questions.test.iter().all(|question| !text.contains(&question.text)));
    let mut said = Vec::new();
    let again = run(&config, &options(Place::Continued(out.clone())), &mut |event| {
        if let Event::Message(line) = event {
            said.push(line.to_owned());
        }
        Signal::Continue
    })
    .unwrap();
    assert_eq!((again.lr_search, again.adapted, again.runs), (first.lr_search, first.adapted, first.runs));
    assert!(!said.iter().any(|line| line.contains("choosing") || line.contains("adapting")), "{said:?}");
    assert_eq!(weights(&out), weights(&out.join("run")));
}

#[test]
fn an_encoder_is_adapted_to_short_texts() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = settings(dir.path());
    std::fs::remove_dir_all(dir.path().join("trunk")).unwrap();
    config.model = Some(trunk(dir.path(), Arch::Bert));
    config.adapt.adapt_on = Some("task".into());
    config.adapt.adapt_steps = Some(2);
    let out = dir.path().join("encoder");
    let summary = run(&config, &options(Place::New(out.clone())), &mut quiet).unwrap();
    assert!(summary.adapted.unwrap().metrics.contains_key("valid/nll"));
    let settled = std::fs::read_to_string(out.join("adapt/config.toml")).unwrap();
    assert!(settled.contains("inputs = \"lines\"") && settled.contains("objective = \"mlm\""), "{settled}");
}

#[test]
fn an_encoder_is_adapted_to_both_texts_of_pairs() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = settings(dir.path());
    std::fs::remove_dir_all(dir.path().join("trunk")).unwrap();
    config.model = Some(trunk(dir.path(), Arch::Bert));
    let rows: String =
        (0..60).map(|n| format!("is {n} even?,\"yes,\n {n}\",{}\n", ["a", "b"][n % 2])).collect();
    let path = dir.path().join("pairs.csv");
    std::fs::write(&path, format!("sentence1,sentence2,label\n{rows}")).unwrap();
    config.data.path = path.display().to_string();
    config.adapt.adapt_on = Some("task".into());
    config.adapt.adapt_steps = Some(2);
    let out = dir.path().join("pairs");
    run(&config, &options(Place::New(out.clone())), &mut quiet).unwrap();
    let settled = std::fs::read_to_string(out.join("adapt/config.toml")).unwrap();
    assert!(settled.contains("inputs = \"pairs\""), "{settled}");
    let text = std::fs::read_to_string(out.join("adapt-text/train.txt")).unwrap();
    let lines: Vec<_> = text.lines().collect();
    // Six are held out of sixty; the others are too few to hold out some of them.
    assert_eq!(lines.len(), 2 * 54);
    for pair in lines.chunks(2) {
        let number = pair[0].strip_prefix("is ").unwrap().strip_suffix(" even?").unwrap();
        assert_eq!(pair[1], format!("yes, {number}"));
    }
}

#[test]
fn seeds_are_refused_where_they_change_nothing() {
    let task = |held_out| Task {
        examples: 40,
        arch: Arch::Gpt2,
        pairs: false,
        has_validation: true,
        held_out,
        chosen: TrainConfig::default(),
    };
    let mut config = FinetuneConfig { method: Method::Features, ..FinetuneConfig::default() };
    check_seeds(&config, &task(false)).unwrap();
    config.trials.seeds = Some(Seeds::Count(3));
    let error = check_seeds(&config, &task(false)).unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("has no seed"), "{error}");
    // The examples that are held out, or used, are drawn with it.
    check_seeds(&config, &task(true)).unwrap();
    config.shots = Some(4);
    check_seeds(&config, &task(false)).unwrap();
    (config.shots, config.data.max_train_examples) = (None, Some(40));
    assert!(check_seeds(&config, &task(false)).is_err());
    config.data.max_train_examples = Some(39);
    check_seeds(&config, &task(false)).unwrap();
    (config.data.max_train_examples, config.method) = (None, Method::Full);
    check_seeds(&config, &task(false)).unwrap();
}
