//! The quickstart, with so little training that it takes seconds: what it says, counts, keeps and links.

use super::*;
use crate::event::{Event, Signal};

/// Bytes of all files below.
fn size_of(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries.map(|e| if e.path().is_dir() { size_of(&e.path()) } else { e.metadata().unwrap().len() }).sum()
}

#[test]
fn a_small_one_from_start_to_end() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("quickstart");
    let config = QuickstartConfig { out: out.clone(), threads: 0, device: DeviceChoice::default(), seed: 42 };
    let size = Size { pretraining_epochs: 1, pretraining_steps: Some(2), finetuning_epochs: 1, seeds: 1 };
    let (mut said, mut told) = (Vec::new(), Vec::new());
    let summary = run_sized(&config, &size, &mut |event| {
        match event {
            Event::Message(line) => said.push(line.to_owned()),
            Event::Progress { what, done, total } => told.push((what.to_owned(), done, total)),
            Event::Waiting => {}
            other => panic!("a run's own event: {other:?}"),
        }
        Signal::Continue
    })
    .unwrap();

    for table in page::page(&summary, &[], Vec::new()).tables {
        let widths = table.rows.iter().map(Vec::len);
        assert!(widths.clone().all(|width| width == table.header.len()), "{}: {widths:?}", table.title);
    }

    // One progress, and few words.
    assert!(told.iter().all(|(what, _, total)| what == "quickstart" && *total == 100), "{told:?}");
    assert!(
        told.is_sorted_by(|a, b| a.1 < b.1) && told.len() > 20 && told.last().unwrap().1 >= 99,
        "{told:?}"
    );
    let starts = [
        "1 of 6: pretraining",
        "2 to 3: fine-tuning",
        "4 to 5: the same from random weights",
        "6 to 6: fine-tuning the model in this program",
    ];
    assert!(starts.iter().all(|start| said.iter().any(|line| line.starts_with(start))), "{said:?}");
    assert_eq!(said.len(), 8, "{said:?}");

    let shipped = &summary.shipped;
    assert!(shipped.runs.len() == 1 && shipped.runs[0].test.is_some() && shipped.lr > 0.0, "{shipped:?}");
    // What the models of the chosen rates are good for stays, and nothing else of weights.
    for arm in [&summary.pretrained, &summary.scratch] {
        assert_eq!((arm.runs.len(), arm.accuracies.len(), arm.validation_curve.len()), (2, 1, 1));
        for run in &arm.runs {
            let folder = out.join(&run.name);
            assert!(!folder.join("checkpoints").exists() && folder.join("metrics.jsonl").is_file());
            assert_eq!(run.test.is_some(), folder.join("final").is_dir(), "{}", run.name);
            assert_eq!(run.test.is_some(), run.lr.to_bits() == arm.lr.to_bits(), "{}", run.name);
            assert_eq!(run.step, 20);
        }
    }
    assert!(summary.model.join("final").is_dir() && out.join("trunk/final").is_dir());
    // Three small models and one of 21 MB; of seven runs four keep theirs.
    assert!(size_of(&out) < 54_000_000, "{}", size_of(&out));
    let left = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 1, "beside its folder");

    let page = std::fs::read_to_string(&summary.report).unwrap();
    let links: Vec<&str> =
        page.split("href=\"./").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert_eq!(links.len(), 6);
    assert!(links.iter().all(|link| out.join(link).is_file()), "{links:?}");
    assert!(page.contains("words alone") && page.contains("127 validation questions are nearer"));
    assert!(run_sized(&config, &size, &mut |_| Signal::Continue).is_err(), "the folder is taken");
}

#[test]
fn words_alone_reach_what_the_documentation_says() {
    let words = words_alone(&starter::questions());
    let right = |share: f64, of: f64| (share * of).round() as u64;
    // 54.5 %, and 68.5 %: the page says that the validation questions are nearer to the training questions.
    assert_eq!((right(words.accuracy, 312.0), right(words.validation, 127.0)), (170, 87), "{words:?}");
}
