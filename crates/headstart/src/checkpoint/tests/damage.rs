//! Damaged, altered and hostile files, and disks that refuse: an error that names the file, never a panic.

use std::fs;
use std::io::Write as _;

use serde_json::Value;

use super::*;
use crate::checkpoint::disk::write_file;
use crate::checkpoint::{Checkpoint, FileSum, TensorFile, load_model};

/// A way to damage a file's content.
type Damage = fn(&mut Vec<u8>);

const DAMAGES: [(&str, Damage); 4] = [
    ("cut", |bytes| bytes.truncate(bytes.len() / 2)),
    ("empty", Vec::clear),
    ("flipped", |bytes| *bytes.iter_mut().rev().nth(40).unwrap() ^= 1),
    ("longer", |bytes| bytes.push(b'x')),
];

#[test]
fn every_damaged_file_of_a_checkpoint_is_named() {
    let setup = Setup::new();
    let run = setup.create();
    setup.save(&run, &[10, 20, 30], 10);
    for name in
        ["model.safetensors", "optimizer.safetensors", "config.json", "tokenizer.json", "trainer_state.json"]
    {
        let path = setup.step(30).join(name);
        let good = fs::read(&path).unwrap();
        for (how, damage) in DAMAGES {
            let mut bad = good.clone();
            // The tokenizer of the test is short.
            bad.resize(bad.len().max(41), b' ');
            damage(&mut bad);
            fs::write(&path, bad).unwrap();
            let parts = [name, "step-00000020 is whole", "step-00000030", "resume again"];
            let error = assert_says(run.latest(), &parts);
            assert!(matches!(error, Error::Checkpoint { .. }), "{name} {how}: {error}");
        }
        fs::remove_file(&path).unwrap();
        assert_says(run.latest(), &[name, "missing", "step-00000020 is whole"]);
        fs::write(&path, good).unwrap();
        assert_eq!(run.latest().unwrap().unwrap().state.step, 30);
    }
}

#[test]
fn the_older_checkpoint_offered_is_itself_whole() {
    let setup = Setup::new();
    let run = setup.create();
    setup.save(&run, &[10, 20, 30], 99);
    let damage = |step| fs::write(setup.step(step).join("optimizer.safetensors"), "x").unwrap();
    damage(30);
    damage(20);
    assert_says(run.latest(), &["step-00000030/optimizer.safetensors", "step-00000010 is whole"]);
    damage(10);
    assert_says(
        run.latest(),
        &["step-00000030/optimizer.safetensors", "no older checkpoint is whole", "--out"],
    );
    // The way out that the message shows.
    setup.save(&run, &[10], 99);
    fs::rename(setup.step(30), setup.temp.path().join("30")).unwrap();
    fs::rename(setup.step(20), setup.temp.path().join("20")).unwrap();
    assert_eq!(run.latest().unwrap().unwrap().state, state(10, 99));
    fs::rename(setup.step(10), setup.step(11)).unwrap();
    assert_says(run.latest(), &["step-00000011", "holds the checkpoint of step 10"]);
}

#[test]
fn every_damaged_file_of_a_model_is_named() {
    let setup = Setup::new();
    let run = setup.create();
    let folder = run.write_final(&setup.files, setup.table(), &setup.weights, "").unwrap();
    setup.save(&run, &[10], 10);
    for name in ["model.safetensors", "tokenizer.json"] {
        let path = folder.join(name);
        let good = fs::read(&path).unwrap();
        let mut altered = good.clone();
        altered[good.len() - 1] ^= 1;
        // A damaged final model is never passed over for a checkpoint.
        for bad in [&good[..good.len() - 1], &[], &altered] {
            fs::write(&path, bad).unwrap();
            assert_says(load_model(run.dir()), &[name, "altered"]);
        }
        fs::remove_file(&path).unwrap();
        assert_says(load_model(run.dir()), &[name, "missing"]);
        fs::write(&path, good).unwrap();
    }
    fs::remove_file(folder.join("config.json")).unwrap();
    assert_says(load_model(run.dir()), &["config.json", "missing"]);
    fs::remove_dir_all(&folder).unwrap();
    fs::write(run.checkpoints().join("best.json"), "10").unwrap();
    assert_says(load_model(run.dir()), &["best.json", "does not name"]);
}

/// A config.json of this content, with the sum that goes with it.
fn sealed(mut content: Map<String, Value>) -> String {
    content.remove("sha256");
    let sum = FileSum::of(Value::Object(content.clone()).to_string().as_bytes()).sha256;
    content.insert("sha256".into(), sum.into());
    Value::Object(content).to_string()
}

#[test]
fn a_config_json_that_was_edited_is_noticed() {
    let setup = Setup::new();
    let run = setup.create();
    let folder = run.write_final(&setup.files, setup.table(), &setup.weights, "").unwrap();
    let path = folder.join("config.json");
    let good: Map<String, Value> = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (key, value) in [("causal", json!(false)), ("dropout", json!(0.3)), ("num_heads", json!(1))] {
        let mut other = good.clone();
        assert!(other.insert(key.into(), value.clone()).is_some_and(|before| before != value), "{key}");
        fs::write(&path, Value::Object(other).to_string()).unwrap();
        assert_says(load_model(&folder), &["config.json", "altered"]);
    }
    let mut other = good.clone();
    other["id2label"]["0"] = json!("another");
    fs::write(&path, Value::Object(other).to_string()).unwrap();
    assert_says(load_model(&folder), &["config.json", "altered"]);
    fs::write(&path, Value::Object(good).to_string()).unwrap();
    load_model(&folder).unwrap();
}

#[test]
fn a_config_json_that_is_not_ours_or_not_whole_is_refused() {
    let setup = Setup::new();
    let run = setup.create();
    let folder = run.write_final(&setup.files, setup.table(), &setup.weights, "").unwrap();
    let path = folder.join("config.json");
    let good: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let huge = json!(1_u64 << 62);
    let changes: [(&str, Option<Value>, &str); 17] = [
        ("model_type", None, "model_type"),
        ("model_type", Some(json!("t5")), "its `model_type` is `t5`; the families that can be read are bert"),
        ("model_type", Some(json!("gpt2")), "it lacks `n_embd`"),
        ("format_version", Some(json!(3)), "format_version is 3"),
        ("causal", None, "lacks `causal`"),
        ("special_ids", None, "lacks `special_ids`"),
        ("special_ids", Some(json!({"mask": -1})), "special_ids"),
        ("files", Some(json!([])), "files"),
        ("id2label", Some(json!({"1": "a", "2": "b"})), "id2label"),
        ("id2label", Some(json!({"0": "a"})), "1 labels for 3 classes"),
        ("embed_dim", Some(json!("four")), "invalid type"),
        ("num_heads", Some(json!(3)), "num_heads"),
        ("num_heads", Some(json!(0)), "num_heads"),
        ("vocab_size", Some(huge.clone()), "vocab_size"),
        ("num_layers", Some(json!(4096)), "expected parameters"),
        ("offset_token", Some(json!(7)), "offset_token"),
        ("surprise", Some(json!(1)), "surprise"),
    ];
    for (key, value, says) in changes {
        let mut bad = good.as_object().unwrap().clone();
        match value {
            Some(value) => bad.insert(key.into(), value),
            None => bad.remove(key),
        };
        fs::write(&path, sealed(bad)).unwrap();
        assert_says(load_model(&folder), &[says]);
    }
    let mut bad = good.clone();
    bad["head"]["num_classes"] = huge;
    bad["id2label"] = json!({});
    fs::write(&path, sealed(bad.as_object().unwrap().clone())).unwrap();
    assert_says(load_model(&folder), &["num_classes"]);
    fs::write(&path, "[".repeat(100_000)).unwrap();
    assert_says(load_model(&folder), &["config.json", "JSON"]);
    fs::write(&path, good.to_string()).unwrap();
    load_model(&folder).unwrap();
}

/// A safetensors file of this header and so many bytes of data.
fn tensor_file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

#[test]
fn hostile_tensor_files_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("hostile.safetensors");
    let one = |dtype: &str, shape: &str, from: &str, to: &str| {
        format!("{{\"a\":{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[{from},{to}]}}}}")
    };
    // Eight arrays whose lengths add up to more than a usize holds.
    let quarter = (1_u64 << 61) - 1;
    let long = |i: u64| {
        let (from, to) = (i * quarter, (i + 1) * quarter);
        format!("\"{i}\":{{\"dtype\":\"U8\",\"shape\":[{quarter}],\"data_offsets\":[{from},{to}]}}")
    };
    let overflowing = (0..8).map(long).collect::<Vec<_>>().join(",");
    let hostile = [
        Vec::new(),
        vec![0; 7],
        vec![0; 8],
        vec![0xff; 64],
        u64::MAX.to_le_bytes().to_vec(),
        100_000_001_u64.to_le_bytes().to_vec(),
        tensor_file("", 0),
        tensor_file("nonsense", 0),
        tensor_file("\u{0}", 4),
        tensor_file("[]", 0),
        tensor_file(&"[".repeat(50_000), 0),
        tensor_file(&one("F32", "[2]", "0", "8"), 7),
        tensor_file(&one("F32", "[2]", "0", "8"), 9),
        tensor_file(&one("F32", "[3]", "0", "8"), 8),
        tensor_file(&one("F32", "[2]", "8", "0"), 8),
        tensor_file(&one("F32", "[2]", "4", "12"), 12),
        tensor_file(&one("F32", "[2]", "-8", "0"), 8),
        tensor_file(&one("F99", "[2]", "0", "8"), 8),
        tensor_file(&one("F32", "[18446744073709551615, 2]", "0", "8"), 8),
        tensor_file(&one("F32", "[18446744073709551616]", "0", "8"), 8),
        tensor_file(&format!("{{{overflowing}}}"), 8),
    ];
    for bytes in hostile {
        fs::write(&path, &bytes).unwrap();
        let error = assert_says(TensorFile::open(&path, None), &["hostile.safetensors"]);
        assert!(matches!(error, Error::Checkpoint { .. }), "{error}");
    }
    assert_says(TensorFile::open(&temp.path().join("gone"), None), &["gone", "missing"]);
}

#[test]
fn no_bytes_make_a_tensor_file_panic() {
    let setup = Setup::new();
    let run = setup.create();
    let folder = run.write_final(&setup.files, setup.table(), &setup.weights, "").unwrap();
    let good = fs::read(folder.join("model.safetensors")).unwrap();
    let path = setup.temp.path().join("random.safetensors");
    let mut stream = headstart_engine::rng::Stream::new(3);
    let mut below = |n: usize| (stream.uniform() * n as f64) as usize;
    for round in 0..400 {
        let mut bytes: Vec<u8> =
            if round % 4 == 0 { (0..below(300)).map(|_| below(256) as u8).collect() } else { good.clone() };
        // Mostly in the header, where it matters.
        for _ in 0..3.min(bytes.len()) {
            let at = below(bytes.len().min(2_000));
            bytes[at] = below(256) as u8;
        }
        fs::write(&path, &bytes).unwrap();
        if let Ok(file) = TensorFile::open(&path, None) {
            let mut values = vec![0.0; 64];
            for name in file.names().map(String::from).collect::<Vec<_>>() {
                let _ = file.copy_to(&name, &mut values);
            }
        }
    }
}

#[test]
fn other_types_of_numbers_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("half.safetensors");
    let header = "{\"a\":{\"dtype\":\"BF16\",\"shape\":[2,2],\"data_offsets\":[0,8]}}";
    fs::write(&path, tensor_file(header, 8)).unwrap();
    let file = TensorFile::open(&path, None).unwrap();
    assert_eq!((file.shape("a"), file.fits("a", &[2, 2])), (Some(&[2, 2][..]), false));
    assert_says(file.copy_to("a", &mut [0.0; 4]), &["half.safetensors", "`a`", "F32", "BF16 [2, 2]"]);
    assert_says(file.copy_to("b", &mut [0.0; 4]), &["`b`", "nothing"]);

    // In a whole model, whose sums are right.
    let setup = Setup::new();
    let run = setup.create();
    let folder = run.write_final(&setup.files, setup.table(), &setup.weights, "").unwrap();
    let path = folder.join("model.safetensors");
    let text = fs::read(&path).unwrap();
    let at = text.windows(5).position(|w| w == b"\"F32\"").unwrap();
    let mut bytes = text.clone();
    bytes[at + 1] = b'I';
    fs::write(&path, &bytes).unwrap();
    let config = folder.join("config.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    json["files"]["model.safetensors"] = json!(FileSum::of(&bytes));
    fs::write(&config, sealed(json.as_object().unwrap().clone())).unwrap();
    assert_says(load_model(&folder), &["model.safetensors", "expected [7, 4], found I32 [7, 4]"]);
}

#[test]
fn a_disk_that_refuses_leaves_the_older_checkpoint() {
    let setup = Setup::new();
    let run = setup.create();
    setup.save(&run, &[10], 10);
    // The new folder cannot take its place.
    fs::write(setup.step(20), "in the way").unwrap();
    let state = state(20, 20);
    let error = setup.save_as(&run, &state, 1);
    assert_says(error, &["step-00000020", "cannot be written", "--resume"]);
    assert_eq!(names(&run.checkpoints()), ["best.json", "step-00000010", "step-00000020"]);
    assert_eq!(run.latest().unwrap().unwrap().state.step, 10);
    Checkpoint::open(&setup.step(10)).unwrap();

    // The folder of the checkpoints is no folder.
    let aside = setup.temp.path().join("aside");
    fs::rename(run.checkpoints(), &aside).unwrap();
    fs::write(run.checkpoints(), "").unwrap();
    let result = setup.save_as(&run, &state, 1);
    assert_says(result, &["checkpoints/.partial-step-00000020"]);
    Checkpoint::open(&aside.join("step-00000010")).unwrap();
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_an_error_that_names_the_file() {
    let full = Path::new("/dev/full");
    assert_says(write_file(full, b"more"), &["/dev/full", "No space left on device", "make room"]);
    let values = vec![1.0_f32; 1 << 20];
    let tensors = [("a".to_owned(), &[1 << 20][..], &values[..])];
    assert_says(super::super::weights::write_tensors(full, &tensors), &["/dev/full", "No space left"]);
}

#[test]
fn sums_notice_length_and_content() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("file");
    let sum = write_file(&path, b"abc").unwrap();
    assert_eq!(sum.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    sum.check(&path, b"abc").unwrap();
    assert_says(sum.check(&path, b"ab"), &["expected 3 bytes, found 2"]);
    assert_eq!(sum.crc32c.as_deref(), Some("364b3fb7"));
    assert_says(sum.check(&path, b"abd"), &["CRC-32C"]);
    let older = FileSum { crc32c: None, ..sum.clone() };
    older.check(&path, b"abc").unwrap();
    assert_says(older.check(&path, b"abd"), &["SHA-256"]);
    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"d").unwrap();
    assert_says(sum.check(&path, &fs::read(&path).unwrap()), &["found 4"]);
}

#[test]
fn sums_of_large_files_are_put_together_from_parts() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("file");
    let mut content: Vec<u8> = (0..(10 << 20) + 7_u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
    let sum = write_file(&path, &content).unwrap();
    sum.check(&path, &content).unwrap();
    for at in [0, 4 << 20, (8 << 20) - 1, content.len() - 1] {
        content[at] ^= 4;
        assert_says(sum.check(&path, &content), &["CRC-32C differs"]);
        content[at] ^= 4;
    }
    content.swap(5, (5 << 20) + 999);
    assert_says(sum.check(&path, &content), &["CRC-32C differs"]);
}

/// Removes every CRC-32C from a JSON text, as if it was written before there were any.
fn without_crcs(value: &mut Value) {
    if let Value::Object(map) = value {
        map.remove("crc32c");
        map.values_mut().for_each(without_crcs);
    }
}

#[test]
fn folders_of_before_the_crc_open_and_are_checked() {
    let setup = Setup::new();
    let run = setup.create();
    run.write_final(&setup.files, setup.table(), &setup.weights, "").unwrap();
    setup.save(&run, &[10], 10);
    for config in [run.final_model().join("config.json"), setup.step(10).join("config.json")] {
        let mut value: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
        without_crcs(&mut value);
        fs::write(&config, sealed(value.as_object().unwrap().clone())).unwrap();
    }
    let state = setup.step(10).join("trainer_state.json");
    let mut value: Value = serde_json::from_slice(&fs::read(&state).unwrap()).unwrap();
    without_crcs(&mut value);
    let config = FileSum::of(&fs::read(setup.step(10).join("config.json")).unwrap());
    value["content"]["files"]["config.json"] = json!({"bytes": config.bytes, "sha256": config.sha256});
    value["sha256"] = FileSum::of(value["content"].to_string().as_bytes()).sha256.into();
    fs::write(&state, format!("{value:#}\n")).unwrap();
    let checkpoint = run.latest().unwrap().unwrap();
    assert_eq!(checkpoint.model().unwrap().exact_weights(setup.table()).unwrap(), setup.weights);
    assert_eq!(load_model(run.dir()).unwrap().exact_weights(setup.table()).unwrap(), setup.weights);
    for folder in [run.final_model(), setup.step(10)] {
        let path = folder.join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_says(load_model(&folder), &["model.safetensors", "SHA-256 differs"]);
    }
    assert_says(run.latest(), &["model.safetensors", "SHA-256 differs"]);
}
