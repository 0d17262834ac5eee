//! Tests of both logs: what is written, what is read back, what a resume cuts off, what damage does.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::tempdir;

use super::tensorboard::{FOLDER, Scalar, event_files, read_scalars};
use super::*;
use crate::error::Error;

const START_S: f64 = 1_700_000_000.5;

/// Train records of steps 1.. with a validation every other step.
fn records(steps: u64) -> Vec<Record> {
    let mut records = Vec::new();
    for step in 1..=steps {
        let time = START_S + step as f64;
        let train = Record::new(Kind::Train, step, time)
            .with("loss", 10.0 / step as f64)
            .with("lr", 0.00025)
            .with("tokens_per_s", 1234.5);
        records.push(train);
        if step % 2 == 0 {
            records.push(Record::new(Kind::Valid, step, time).with("nll", 0.1 * step as f64));
        }
    }
    records
}

fn write(dir: &Path, records: &[Record]) {
    let mut log = RunLog::open(dir, 0, None, START_S).unwrap();
    for record in records {
        log.log(record).unwrap();
    }
    log.flush().unwrap();
}

fn event_file(dir: &Path) -> PathBuf {
    let files = event_files(&dir.join(FOLDER)).unwrap();
    assert_eq!(files.len(), 1);
    files[0].clone()
}

fn as_scalars(records: &[Record]) -> Vec<Scalar> {
    let scalars = |record: &Record| {
        let record = record.clone();
        record.values.clone().into_iter().map(move |(name, value)| Scalar {
            step: record.step,
            wall_time_s: record.wall_time_s,
            tag: format!("{}/{name}", record.kind.as_str()),
            value: value as f32,
        })
    };
    records.iter().flat_map(scalars).collect()
}

fn assert_logs_hold(dir: &Path, records: &[Record]) {
    assert_eq!(read_metrics(dir).unwrap(), records);
    assert_eq!(read_scalars(&event_file(dir)).unwrap(), as_scalars(records));
}

#[test]
fn what_is_logged_is_read_back() {
    let dir = tempdir().unwrap();
    write(dir.path(), &records(7));
    assert_logs_hold(dir.path(), &records(7));
    let text = fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap();
    let second = r#"{"step":2,"kind":"train","wall_time_s":1700000002.5,"loss":5.0,"lr":0.00025,"tokens_per_s":1234.5}"#;
    assert_eq!(text.lines().nth(1).unwrap(), second);
    assert_eq!(event_file(dir.path()).file_name().unwrap(), "events.out.tfevents.1700000000.headstart.0");
    assert!(is_timing("tokens_per_s") && is_timing("wall_time_s") && !is_timing("loss"));
}

#[test]
fn event_files_hold_the_bytes_that_tensorboard_expects() {
    let dir = tempdir().unwrap();
    write(dir.path(), &[Record::new(Kind::Train, 300, 1.0).with("x", 0.5)]);
    let bytes = fs::read(event_file(dir.path())).unwrap();
    let version = b"\x09\x00\x00\x20\x40\xfc\x54\xd9\x41\x1a\x0dbrain.Event:2";
    assert_eq!(bytes[..8], (version.len() as u64).to_le_bytes());
    assert_eq!(&bytes[12..12 + version.len()], version);
    let event = b"\x09\x00\x00\x00\x00\x00\x00\xf0\x3f\x10\xac\x02\x2a\x10\x0a\x0e\x0a\x07train/x\x15\x00\x00\x00\x3f";
    assert_eq!(&bytes[16 + version.len() + 12..bytes.len() - 4], event);
}

#[test]
fn values_that_are_not_finite_are_null() {
    let dir = tempdir().unwrap();
    let record = Record::new(Kind::Valid, 1, 2.0).with("a", f64::NAN).with("b", f64::INFINITY).with("c", 1.0);
    write(dir.path(), &[record]);
    let text = fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap();
    assert_eq!(text, "{\"step\":1,\"kind\":\"valid\",\"wall_time_s\":2.0,\"a\":null,\"b\":null,\"c\":1.0}\n");
    let read = read_metrics(dir.path()).unwrap();
    assert!(read[0].value("a").unwrap().is_nan() && read[0].value("c") == Some(1.0));
    let scalars = read_scalars(&event_file(dir.path())).unwrap();
    assert!(scalars[0].value.is_nan());
    assert!(scalars[1].value.is_infinite());
}

#[test]
fn a_log_that_is_not_what_a_checkpoint_knows_is_noticed() {
    let dir = tempdir().unwrap();
    let mut log = RunLog::open(dir.path(), 0, None, START_S).unwrap();
    for record in records(3) {
        log.log(&record).unwrap();
    }
    let known = log.flush().unwrap();
    for record in &records(5)[records(3).len()..] {
        log.log(record).unwrap();
    }
    let path = dir.path().join("metrics.jsonl");
    let whole = fs::read(&path).unwrap();
    let open = || RunLog::open(dir.path(), 3, Some(&known), START_S);
    for at in 0..known.bytes as usize {
        let mut other = whole.clone();
        other[at] ^= 1;
        fs::write(&path, &other).unwrap();
        let error = open().unwrap_err().to_string();
        let said = error.contains("metrics.jsonl:") || error.contains("until the checkpoint of step 3");
        assert!(said, "byte {at}: {error}");
        assert_eq!(fs::read(&path).unwrap(), other, "it is left as it is");
        fs::write(&path, &whole[..at]).unwrap();
        assert!(open().is_err(), "cut at {at}");
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(open().unwrap().flush().unwrap(), known);
    assert_logs_hold(dir.path(), &records(3));
    fs::remove_file(&path).unwrap();
    open().unwrap();
}

#[test]
fn an_event_file_that_is_not_what_a_checkpoint_knows_is_noticed() {
    let dir = tempdir().unwrap();
    let mut log = RunLog::open(dir.path(), 0, None, START_S).unwrap();
    for record in records(3) {
        log.log(&record).unwrap();
    }
    let known = log.flush().unwrap();
    for record in &records(5)[records(3).len()..] {
        log.log(record).unwrap();
    }
    let path = event_file(dir.path());
    let whole = fs::read(&path).unwrap();
    let open = || RunLog::open(dir.path(), 3, Some(&known), START_S + 9.0);
    for at in 0..known.tensorboard.unwrap().bytes as usize {
        let mut other = whole.clone();
        other[at] ^= 1;
        fs::write(&path, &other).unwrap();
        let error = open().unwrap_err().to_string();
        assert!(error.contains("tfevents"), "byte {at}: {error}");
        assert_eq!(fs::read(&path).unwrap(), other, "it is left as it is");
        fs::write(&path, &whole[..at]).unwrap();
        let error = open().unwrap_err().to_string();
        assert!(error.contains("tfevents") && error.contains("checkpoint of step 3"), "cut at {at}: {error}");
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(open().unwrap().flush().unwrap(), known);
    assert_logs_hold(dir.path(), &records(3));
    // A checkpoint of before there were such sums.
    let older = LogSum { tensorboard: None, ..known.clone() };
    let text = serde_json::to_string(&older).unwrap();
    assert!(!text.contains("tensorboard") && serde_json::from_str::<LogSum>(&text).unwrap() == older);
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    RunLog::open(dir.path(), 3, Some(&older), START_S).unwrap();
    // Moved away, it is begun anew.
    fs::remove_file(&path).unwrap();
    let again = open().unwrap().flush().unwrap();
    assert_eq!(event_file(dir.path()).metadata().unwrap().len(), again.tensorboard.unwrap().bytes);
}

/// An evaluation that was stopped is made up for after the checkpoint of its step; killed before the next checkpoint, it is
/// made up for again.
#[test]
fn a_record_of_the_checkpoints_step_that_came_after_it_is_cut_off() {
    let dir = tempdir().unwrap();
    let mut log = RunLog::open(dir.path(), 0, None, START_S).unwrap();
    let all = records(4);
    for record in &all[..5] {
        log.log(record).unwrap();
    }
    let known = log.flush().unwrap();
    for round in 0..2 {
        let mut log = RunLog::open(dir.path(), 4, Some(&known), START_S).unwrap();
        assert_logs_hold(dir.path(), &all[..5]);
        log.log(&all[5]).unwrap();
        assert_logs_hold(dir.path(), &all);
        assert_eq!((all[5].step, all[5].kind), (4, Kind::Valid), "{round}");
    }
}

#[test]
fn a_resume_cuts_back_to_the_checkpoint_and_continues() {
    for checkpoint in 0..=9 {
        let dir = tempdir().unwrap();
        write(dir.path(), &records(7));
        let mut log = RunLog::open(dir.path(), checkpoint, None, START_S + 100.0).unwrap();
        let (kept, again): (Vec<_>, Vec<_>) = records(12).into_iter().partition(|r| r.step <= checkpoint);
        assert_logs_hold(dir.path(), &kept.into_iter().filter(|r| r.step <= 7).collect::<Vec<_>>());
        for record in &again {
            log.log(record).unwrap();
        }
        if checkpoint <= 7 {
            assert_logs_hold(dir.path(), &records(12));
        }
    }
}

#[test]
fn a_torn_end_is_cut_off_wherever_it_is_torn() {
    let dir = tempdir().unwrap();
    write(dir.path(), &records(3));
    let metrics = dir.path().join("metrics.jsonl");
    let events = event_file(dir.path());
    let (metrics_bytes, event_bytes) = (fs::read(&metrics).unwrap(), fs::read(&events).unwrap());
    for cut in 1..60 {
        fs::write(&metrics, &metrics_bytes[..metrics_bytes.len() - cut]).unwrap();
        fs::write(&events, &event_bytes[..event_bytes.len() - cut]).unwrap();
        assert!(read_scalars(&events).is_err(), "the checked reader does not overlook it");
        RunLog::open(dir.path(), 3, None, START_S).unwrap();
        assert_logs_hold(dir.path(), &records(3)[..3]);
    }
    // Nothing is left but a piece of the very first record.
    fs::write(&metrics, b"{").unwrap();
    fs::write(&events, &event_bytes[..5]).unwrap();
    let mut log = RunLog::open(dir.path(), 3, None, START_S).unwrap();
    for record in &records(3) {
        log.log(record).unwrap();
    }
    assert_eq!(fs::read(&events).unwrap(), event_bytes);
    assert_eq!(fs::read(&metrics).unwrap(), metrics_bytes);
    // A machine without power may leave zeros.
    fs::write(&metrics, [&metrics_bytes[..], b"\0\0\0\n"].concat()).unwrap();
    fs::write(&events, [&event_bytes[..], &[0; 40]].concat()).unwrap();
    RunLog::open(dir.path(), 3, None, START_S).unwrap();
    assert_logs_hold(dir.path(), &records(3));
}

#[test]
fn damage_in_the_middle_is_an_error_that_names_the_place() {
    let dir = tempdir().unwrap();
    write(dir.path(), &records(3));
    let events = event_file(dir.path());
    let good = fs::read(&events).unwrap();
    for position in 0..good.len() {
        let mut bad = good.clone();
        bad[position] ^= 0x10;
        fs::write(&events, &bad).unwrap();
        let error = read_scalars(&events).unwrap_err();
        assert!(matches!(error, Error::Checkpoint { .. }), "byte {position}: {error}");
    }
    let mut bad = good.clone();
    bad[20] ^= 1;
    fs::write(&events, &bad).unwrap();
    assert!(RunLog::open(dir.path(), 3, None, START_S).unwrap_err().to_string().contains("tfevents"));
    assert_eq!(fs::read(&events).unwrap(), bad, "a damaged file is left as it is");
    fs::write(&events, &good).unwrap();

    let metrics = dir.path().join("metrics.jsonl");
    let text = fs::read_to_string(&metrics).unwrap();
    for line in ["rubbish", "[]", "{}", r#"{"step":-1,"kind":"train","wall_time_s":1}"#, r#"{"step":1}"#] {
        let lines: Vec<_> = text.lines().collect();
        fs::write(&metrics, [lines[0], line, lines[2], ""].join("\n")).unwrap();
        let error = RunLog::open(dir.path(), 3, None, START_S).unwrap_err().to_string();
        assert!(error.contains("metrics.jsonl:2"), "{error}");
    }
}

#[test]
fn a_log_that_was_deleted_is_started_again() {
    let dir = tempdir().unwrap();
    write(dir.path(), &records(2));
    fs::remove_dir_all(dir.path().join(FOLDER)).unwrap();
    let mut log = RunLog::open(dir.path(), 2, None, START_S).unwrap();
    log.log(&records(4)[3]).unwrap();
    assert_eq!(read_scalars(&event_file(dir.path())).unwrap(), as_scalars(&records(4)[3..4]));
    assert_eq!(read_metrics(dir.path()).unwrap(), records(4)[..4]);
}
