//! The run folder's life: set up, saved to, interrupted, continued, finished.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;
use crate::checkpoint::{FileSum, NewRun, load_model};

#[test]
fn a_run_is_set_up_and_opened_again() {
    let setup = Setup::new();
    let run = setup.create();
    assert_eq!(
        names(run.dir()),
        ["checkpoints", "command.txt", "config.toml", "environment.json", "run.lock", "tensorboard"]
    );
    assert_eq!(fs::read_to_string(run.dir().join("command.txt")).unwrap(), "headstart pretrain\n");
    assert!(fs::read_to_string(run.dir().join("environment.json")).unwrap().contains("\"cores\": 2"));
    assert!(run.latest().unwrap().is_none());
    assert!(run.best().unwrap().is_none());
    drop(run);
    let run = RunFolder::open(&setup.dir()).unwrap();
    assert!(RunFolder::settings(run.dir()).unwrap().starts_with("seed = 1\n# sha256 "));
    assert_says(load_model(run.dir()), &["has not saved a checkpoint yet"]);
}

#[test]
fn what_is_there_is_never_overwritten() {
    let setup = Setup::new();
    let create = || create_run(&setup.dir(), "", "", &Map::new());
    fs::create_dir(setup.dir()).unwrap();
    fs::write(setup.dir().join("thesis.txt"), "mine").unwrap();
    let error = assert_says(create(), &["not empty", "--resume", "--out"]);
    assert!(error.is_usage());
    assert_eq!(names(&setup.dir()), ["thesis.txt"]);
    assert_says(RunFolder::open(&setup.dir()), &["no run", "config.toml"]);

    fs::remove_file(setup.dir().join("thesis.txt")).unwrap();
    drop(create().unwrap());
    assert_says(create(), &["not empty"]);

    let file = setup.temp.path().join("file");
    fs::write(&file, "").unwrap();
    assert_says(create_run(&file, "", "", &Map::new()), &["is a file"]);
}

#[test]
fn a_place_that_cannot_be_a_run_says_what_to_do() {
    let setup = Setup::new();
    let file = setup.temp.path().join("file");
    fs::write(&file, "mine").unwrap();
    for below in ["run", "runs/deep/run"] {
        let refused = NewRun::claim(&file.join(below));
        assert_says(refused, &[below, "file is a file", "fix: choose another folder", "--out"]);
    }
    if cfg!(target_os = "linux") {
        let refused = create_run(Path::new("/proc/run"), "", "", &Map::new());
        assert_says(refused, &["/proc/run", "cannot be set up as a run folder", "--out"]);
    }
}

#[test]
fn an_interrupted_setup_is_repeated() {
    let setup = Setup::new();
    fs::create_dir_all(setup.dir().join("checkpoints")).unwrap();
    fs::write(setup.dir().join("run.lock"), "").unwrap();
    fs::write(setup.dir().join("command.txt"), "half a").unwrap();
    fs::write(setup.dir().join(".partial-config.toml"), "se").unwrap();
    assert!(!RunFolder::is_run(&setup.dir()));
    let run = setup.create();
    assert!(RunFolder::is_run(run.dir()));
    assert!(!names(run.dir()).iter().any(|name| name.starts_with('.')));
    drop(run);
    assert_says(create_run(&setup.dir(), "", "", &Map::new()), &["--resume"]);
    RunFolder::open(&setup.dir()).unwrap();
}

#[test]
fn a_claim_that_comes_to_nothing_leaves_nothing() {
    let setup = Setup::new();
    let deep = setup.temp.path().join("runs/today/run");
    let claimed = NewRun::claim(&deep).unwrap();
    assert_eq!(names(&deep), ["run.lock"]);
    assert_says(NewRun::claim(&deep), &["another process is starting a run there", "--out"]);
    assert_eq!(names(&deep), ["run.lock"]);
    drop(claimed);
    assert!(names(setup.temp.path()).is_empty());
    // An empty folder of the user's stays.
    fs::create_dir_all(&deep).unwrap();
    drop(NewRun::claim(&deep).unwrap());
    assert!(names(&deep).is_empty());
    // A set-up that failed after its last file was there: half a run would be told to go on, and could not.
    let claimed = NewRun::claim(&deep).unwrap();
    fs::write(deep.join("config.toml"), "seed = 1\n").unwrap();
    fs::create_dir(deep.join("checkpoints")).unwrap();
    drop(claimed);
    assert!(names(&deep).is_empty());
}

#[test]
fn names_that_are_taken_are_numbered() {
    let setup = Setup::new();
    let claim = || NewRun::claim_numbered(&setup.dir()).unwrap();
    let first = claim();
    let second = claim();
    drop(second.set_up("", "", &Map::new()).unwrap());
    let third = claim();
    let last = |run: &NewRun| run.dir().file_name().unwrap().to_str().unwrap().to_owned();
    assert_eq!((last(&first), last(&third)), ("run".to_owned(), "run-3".to_owned()));
}

/// Many starts at once for one folder: one run, whole, of one of them.
#[test]
fn of_many_starts_one_wins_and_the_others_touch_nothing() {
    let setup = Setup::new();
    let dir = setup.dir();
    let barrier = std::sync::Barrier::new(8);
    let start = |i: u64| {
        barrier.wait();
        let claimed = NewRun::claim(&dir).ok()?;
        std::thread::sleep(Duration::from_millis(20 * i));
        Some((i, claimed.set_up(&format!("seed = {i}"), &format!("seed {i}"), &Map::new()).unwrap()))
    };
    let start = &start;
    let winners: Vec<_> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..8).map(|i| scope.spawn(move || start(i))).collect();
        all.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    });
    let [(winner, _)] = &winners[..] else { panic!("{} winners", winners.len()) };
    assert!(RunFolder::settings(&dir).unwrap().starts_with(&format!("seed = {winner}\n")));
    assert_eq!(fs::read_to_string(dir.join("command.txt")).unwrap(), format!("seed {winner}\n"));
}

#[test]
fn a_run_has_one_writer() {
    let setup = Setup::new();
    let run = setup.create();
    assert_says(RunFolder::open(&setup.dir()), &["another process", "--out"]);
    drop(run);
    RunFolder::open(&setup.dir()).unwrap();
}

#[test]
fn a_checkpoint_comes_back_bit_for_bit() {
    let mut setup = Setup::new();
    for (value, bits) in setup.weights.iter_mut().zip([1, 0x8000_0000, 0x7f7f_ffff, 0x0080_0000, 0xff7f_ffff])
    {
        *value = f32::from_bits(bits);
    }
    setup.first[1] = -0.0;
    let run = setup.create();
    let state = state(12, 12);
    let folder = setup.save_as(&run, &state, 3).unwrap();
    assert_eq!(folder, setup.step(12));
    assert_eq!(
        names(&folder),
        ["config.json", "model.safetensors", "optimizer.safetensors", "tokenizer.json", "trainer_state.json"]
    );
    drop(run);

    let run = RunFolder::open(&setup.dir()).unwrap();
    let checkpoint = run.latest().unwrap().unwrap();
    assert_eq!(checkpoint.state, state);
    let [first, second] = setup.moments_of(&checkpoint).unwrap();
    assert_eq!((bits(&first), bits(&second)), (bits(&setup.first), bits(&setup.second)));
    let model = checkpoint.model().unwrap();
    assert_eq!(bits(&model.exact_weights(setup.table()).unwrap()), bits(&setup.weights));
    assert_eq!(model.files, setup.files);
}

/// Puts the state of version 1 into a checkpoint, as that version wrote it.
fn as_version_1(folder: &Path, state: &str) {
    let path = folder.join("trainer_state.json");
    let mut whole: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    whole["format_version"] = 1.into();
    whole["content"]["state"] = serde_json::from_str(state).unwrap();
    whole["sha256"] = FileSum::of(whole["content"].to_string().as_bytes()).sha256.into();
    fs::write(path, format!("{whole:#}\n")).unwrap();
}

#[test]
fn checkpoints_of_version_1_are_continued() {
    let setup = Setup::new();
    let run = setup.create();
    let folder = setup.save_as(&run, &state(12, 12), 3).unwrap();
    as_version_1(
        &folder,
        r#"{"step": 12, "epoch": 0, "sequences_in_epoch": 0, "sequences": 0, "tokens": 0,
            "best": {"step": 8, "value": 0.25}, "evaluations_since_best": 1, "elapsed_s": 0.0, "seed": 0,
            "extra": {"best_loss": 1.5, "slab_tokens": 2048, "skipped": 3, "skipped_in_a_row": 2}}"#,
    );
    let best = Some(BestCheckpoint { step: 8, value: 0.25, loss: Some(1.5) });
    let expected = TrainerState {
        step: 12,
        skipped: 3,
        skipped_in_a_row: 2,
        best,
        evaluations_since_best: 1,
        slab_tokens: Some(2048),
        ..TrainerState::default()
    };
    let read = run.latest().unwrap().unwrap().state;
    assert_eq!((read.updates(), read), (9, expected));
    as_version_1(
        &folder,
        r#"{"step": 12, "epoch": 0, "sequences_in_epoch": 0, "sequences": 0, "tokens": 0, "best": null,
            "evaluations_since_best": 0, "elapsed_s": 0.0, "seed": 0, "extra": {"other": 1}}"#,
    );
    assert_says(run.latest(), &["trainer_state.json", "`other`"]);
}

#[test]
fn frozen_parameters_have_no_moments() {
    let mut setup = Setup::new();
    setup.model.freeze_except(|param| param.kind == crate::params::Kind::Head);
    let len = setup.table().trainable_len();
    assert_eq!(len, 3 * 4 + 3);
    setup.first.truncate(len);
    setup.second.truncate(len);
    let run = setup.create();
    setup.save(&run, &[1], 1);
    let checkpoint = run.latest().unwrap().unwrap();
    assert_eq!(setup.moments_of(&checkpoint).unwrap(), [setup.first.clone(), setup.second.clone()]);
    // A rank's share begins and ends within parameters.
    let [first, second] = setup.moments_at(&checkpoint, &[1..5, 5..6, 11..14]).unwrap();
    let picked = |all: &[f32]| [&all[1..6], &all[11..14]].concat();
    assert_eq!([first, second], [picked(&setup.first), picked(&setup.second)]);
    setup.model.freeze_except(|_| true);
    let error = setup.moments_of(&checkpoint);
    assert_says(error, &["optimizer.safetensors", "first_moment.transformer", "found nothing", "more"]);

    setup.model.freeze_except(|_| false);
    (setup.first, setup.second) = (Vec::new(), Vec::new());
    setup.save(&run, &[2], 1);
    let checkpoint = run.latest().unwrap().unwrap();
    assert_eq!(setup.moments_of(&checkpoint).unwrap(), [Vec::<f32>::new(), Vec::new()]);
}

#[test]
fn the_last_ones_and_the_best_stay() {
    let setup = Setup::new();
    let run = setup.create();
    for step in [10, 20, 30, 40, 50] {
        setup.save_as(&run, &state(step, 20), 2).unwrap();
    }
    let left = ["best.json", "step-00000020", "step-00000040", "step-00000050"];
    assert_eq!(names(&run.checkpoints()), left);
    assert_eq!(run.best().unwrap().unwrap(), setup.step(20));
    assert_eq!(load_model(run.dir()).unwrap().chosen, "the best checkpoint (step-00000020)");

    // A best evaluation without a checkpoint leaves the mark where it is.
    setup.save_as(&run, &state(60, 55), 2).unwrap();
    assert_eq!(run.best().unwrap().unwrap(), setup.step(20));
    setup.save_as(&run, &state(70, 70), 0).unwrap();
    assert_eq!(names(&run.checkpoints()), ["best.json", "step-00000070"]);
}

#[test]
fn the_same_step_is_replaced() {
    let mut setup = Setup::new();
    let run = setup.create();
    setup.save(&run, &[10], 10);
    setup.weights.fill(0.5);
    setup.save(&run, &[10], 10);
    assert_eq!(names(&run.checkpoints()), ["best.json", "step-00000010"]);
    let model = run.latest().unwrap().unwrap().model().unwrap();
    assert_eq!(model.exact_weights(setup.table()).unwrap(), setup.weights);
}

#[test]
fn interruptions_are_put_right() {
    let setup = Setup::new();
    let run = setup.create();
    setup.save(&run, &[10, 20], 10);
    drop(run);
    let at = |name: &str| setup.dir().join("checkpoints").join(name);
    // Half-written and half-removed folders, a half-written mark; a name that is nobody's business here.
    for name in [".partial-step-00000030", ".partial-step-00000005", ".partial-mine"] {
        fs::create_dir(at(name)).unwrap();
        fs::write(at(name).join("model.safetensors"), "half").unwrap();
    }
    fs::write(at(".partial-best.json"), "{").unwrap();
    fs::create_dir(setup.dir().join(".partial-final")).unwrap();
    fs::write(setup.dir().join(".report.html.1-0.tmp"), "half").unwrap();
    fs::write(setup.dir().join(".mine.1-0.tmp"), "").unwrap();
    // Between the two renames of a replacement, and after both.
    fs::rename(setup.step(20), at(".old-step-00000020")).unwrap();
    fs::create_dir(at(".old-step-00000010")).unwrap();

    let run = RunFolder::open(&setup.dir()).unwrap();
    assert_eq!(names(&run.checkpoints()), [".partial-mine", "best.json", "step-00000010", "step-00000020"]);
    let hidden = names(&setup.dir()).into_iter().filter(|name| name.starts_with('.'));
    assert_eq!(hidden.collect::<Vec<_>>(), [".mine.1-0.tmp"]);
    assert_eq!(run.latest().unwrap().unwrap().state, state(20, 10));
}

#[test]
fn the_mark_of_the_best_is_made_good() {
    let setup = Setup::new();
    let run = setup.create();
    setup.save(&run, &[10, 20], 20);
    fs::write(run.checkpoints().join("best.json"), "{\"step\": 10, \"value\": 1.0}").unwrap();
    run.latest().unwrap();
    assert_eq!(run.best().unwrap().unwrap(), setup.step(20));
    fs::remove_file(run.checkpoints().join("best.json")).unwrap();
    let chosen = load_model(run.dir()).unwrap().chosen;
    assert_eq!(chosen, "the latest checkpoint (step-00000020); none is marked as the best");
}

#[test]
fn the_final_model_is_written_and_replaced() {
    let mut setup = Setup::new();
    let run = setup.create();
    setup.save(&run, &[10], 10);
    for value in [1.5, 2.5] {
        setup.weights.fill(value);
        let folder = run.write_final(&setup.files, setup.table(), &setup.weights, "# A model\n").unwrap();
        assert_eq!(names(&folder), ["README.md", "config.json", "model.safetensors", "tokenizer.json"]);
        for path in [folder.as_path(), run.dir()] {
            let model = load_model(path).unwrap();
            assert_eq!(model.folder, folder);
            assert_eq!(model.exact_weights(setup.table()).unwrap(), setup.weights);
        }
    }
    assert_eq!(load_model(run.dir()).unwrap().chosen, "final/");
    assert!(!names(run.dir()).iter().any(|name| name.starts_with('.')));
    let chosen = load_model(&setup.step(10)).unwrap().chosen;
    assert!(chosen.ends_with("step-00000010"), "{chosen}");
}

/// Which run the process of [`saves_until_killed`] writes to.
const CHILD_RUN: &str = "HEADSTART_TEST_CHILD_RUN";

/// Not a test: saves for ever when [`a_kill_at_any_moment_leaves_whole_checkpoints`] starts it.
#[test]
#[ignore = "the other half of a_kill_at_any_moment_leaves_whole_checkpoints"]
fn saves_until_killed() {
    let Some(dir) = std::env::var_os(CHILD_RUN) else { return };
    let mut setup = Setup::new();
    let run = RunFolder::open(Path::new(&dir)).unwrap();
    let start = run.latest().unwrap().map_or(0, |checkpoint| checkpoint.state.step);
    for step in start + 1.. {
        setup.weights.fill(step as f32);
        setup.first.fill(-(step as f32));
        setup.save_as(&run, &state(step, step / 3 * 3), 2).unwrap();
        // Every other one twice, so that replacing is interrupted as well.
        if step % 2 == 0 {
            setup.save_as(&run, &state(step, step / 3 * 3), 2).unwrap();
        }
        run.write_final(&setup.files, setup.table(), &setup.weights, "").unwrap();
    }
}

#[test]
fn a_kill_at_any_moment_leaves_whole_checkpoints() {
    let setup = Setup::new();
    drop(setup.create());
    let mut reached = 0;
    for delay in 0..8 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["checkpoint::tests::run::saves_until_killed", "--exact", "--ignored"])
            .env(CHILD_RUN, setup.dir())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // It runs until it has saved something new; then any moment will do.
        while newest(&setup) == reached {
            assert!(child.try_wait().unwrap().is_none(), "the child ended");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(delay * 3));
        child.kill().unwrap();
        child.wait().unwrap();

        let run = RunFolder::open(&setup.dir()).unwrap();
        let checkpoint = run.latest().unwrap().unwrap();
        let step = checkpoint.state.step;
        assert!(step > reached);
        reached = step;
        assert_eq!(checkpoint.state, state(step, step / 3 * 3));
        let weights = checkpoint.model().unwrap().exact_weights(setup.table()).unwrap();
        assert!(weights.iter().all(|w| w.to_bits() == (step as f32).to_bits()));
        let [first, _] = setup.moments_of(&checkpoint).unwrap();
        assert!(first.iter().all(|w| w.to_bits() == (-(step as f32)).to_bits()));
        load_model(run.dir()).unwrap();
        for folder in [run.dir().to_path_buf(), run.checkpoints()] {
            assert!(!names(&folder).iter().any(|name| name.starts_with('.')), "{:?}", names(&folder));
        }
    }
}

/// The newest checkpoint by name, 0 for none; the folder changes while it is read.
fn newest(setup: &Setup) -> u64 {
    let steps = names(&setup.dir().join("checkpoints"));
    steps.iter().filter_map(|name| name.strip_prefix("step-")?.parse().ok()).max().unwrap_or(0)
}

/// A reader beside a run that keeps one checkpoint: it finds a whole one every time.
#[test]
fn a_model_can_be_read_while_the_run_saves() {
    let setup = Setup::new();
    let run = setup.create();
    setup.save_as(&run, &state(1, 1), 1).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut read = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                load_model(&setup.dir()).unwrap();
                read += 1;
            }
            read
        });
        for step in 2..60 {
            setup.save_as(&run, &state(step, step), 1).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
}
