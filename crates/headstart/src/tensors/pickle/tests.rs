//! Files that PyTorch wrote (tools/pickle_cases.py), read, damaged, and made hostile.

use std::path::Path;

use serde_json::json;

use super::machine;
use super::value::Value;
use super::{places, plain_values_of};
use crate::tensors::Tensors;

/// A file of the cases.
fn case(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tensors/pickle/cases");
    std::fs::read(folder.join(format!("{name}.bin"))).unwrap()
}

fn opened(name: &str) -> Tensors {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tensors/pickle/cases");
    Tensors::open_file(&folder.join(format!("{name}.bin"))).unwrap()
}

fn refused(file: &[u8]) -> String {
    places(Path::new("a.bin"), file).unwrap_err().to_string()
}

/// What the tool counts up: eighths from -1 on.
fn ramp(numbers: impl IntoIterator<Item = usize>) -> Vec<f32> {
    numbers.into_iter().map(|i| i as f32 / 8.0 - 1.0).collect()
}

#[test]
fn every_way_of_keeping_numbers_is_read() {
    let permuted = (0..4).flat_map(|k| (0..2).flat_map(move |i| (0..3).map(move |j| 12 * i + 4 * j + k)));
    let expected = [
        ("0.weight", "[2, 3]", ramp(0..6)),
        ("0.bias", "[2]", vec![4.0, 4.125]),
        ("half", "F16 [5]", ramp(0..5)),
        ("bfloat16", "BF16 [2, 2]", ramp(0..4)),
        ("double", "F64 [3]", vec![0.1, 1.1, 2.1]),
        ("transposed", "[3, 4]", ramp((0..3).flat_map(|i| (0..4).map(move |j| 3 * j + i)))),
        ("rows", "[2, 3]", ramp(3..9)),
        ("column", "[4]", ramp([2, 5, 8, 11])),
        ("permuted", "[4, 2, 3]", ramp(permuted)),
        ("parameter", "[2]", ramp(0..2)),
        ("number", "[]", vec![2.5]),
        ("none", "[0, 3]", vec![]),
        ("position_ids", "I64 [1, 4]", vec![]),
        ("mask", "BOOL [2]", vec![]),
    ];
    for name in ["state_zip", "state_legacy", "state_zip_4", "state_legacy_4"] {
        let tensors = opened(name);
        let mut names: Vec<_> = expected.iter().map(|(name, ..)| *name).collect();
        names.sort_unstable();
        assert_eq!(tensors.names().collect::<Vec<_>>(), names, "{name}");
        for (tensor, described, numbers) in &expected {
            assert_eq!(tensors.describe(tensor), *described, "{name}: {tensor}");
            let mut found = vec![0.0; numbers.len()];
            let copied = tensors.copy_to(tensor, &mut found);
            if described.starts_with(['I', 'B']) && !described.starts_with("BF") {
                let error = copied.unwrap_err().to_string();
                assert!(
                    error.contains(&format!("`{tensor}` is stored as")) && error.contains(name),
                    "{error}"
                );
            } else {
                copied.unwrap();
                assert_eq!(&found, numbers, "{name}: {tensor}");
            }
        }
        let (map, bytes) = tensors.in_place("rows").unwrap().unwrap();
        assert_eq!(bytemuck::pod_collect_to_vec::<u8, f32>(&map[bytes]), ramp(3..9));
        assert!(tensors.in_place("transposed").unwrap().is_none());
    }
}

#[test]
fn a_state_dict_among_other_things_is_found() {
    for name in ["wrapped_zip", "wrapped_legacy"] {
        assert_eq!(opened(name).names().collect::<Vec<_>>(), ["weight"]);
    }
    for name in ["nested_zip", "nested_legacy"] {
        let error = refused(&case(name));
        assert!(error.contains("`encoder` is no tensor but a dictionary"), "{error}");
        assert!(error.contains(r#"its keys are "encoder", "head""#), "{error}");
    }
}

#[test]
fn a_file_without_tensors_says_so() {
    // The older form: its magic number, its version, the byte order, what was saved, the storages.
    let file = |saved: &[u8]| {
        let about = b"\x80\x02}X\x0d\0\0\0little_endian\x88s.";
        [b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", &about[..], saved, b"\x80\x02]."]
            .concat()
    };
    let error = refused(&file(b"\x80\x02}."));
    assert!(
        error.contains("holds no tensors; it has no keys") && error.contains("fetch the file again"),
        "{error}"
    );
    let error = refused(&file(b"\x80\x02}X\x01\0\0\0aK\x01s."));
    assert!(error.contains("holds no tensors; its keys are \"a\""), "{error}");
    let error = refused(&file(b"\x80\x02}K\x01K\x01s."));
    assert!(error.contains("a tensor's name is no text"), "{error}");
}

#[test]
fn quantised_weights_are_named() {
    let tensors = opened("float8_zip");
    assert_eq!(tensors.describe("weight"), "F8_E4M3 [2]");
    let error = tensors.copy_to("weight", &mut [0.0; 2]).unwrap_err().to_string();
    for part in ["float8_zip.bin", "`weight` is stored as F8_E4M3", "before it was quantised"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn nothing_is_called() {
    for (name, callable) in [
        ("hostile_zip", "posix.system"),
        ("hostile_legacy", "posix.system"),
        ("module_zip", "torch.nn.modules.linear.Linear"),
    ] {
        let error = refused(&case(name));
        let says = format!("would call `{callable}`; nothing in a file is executed here");
        assert!(error.contains(&says) && error.contains("state_dict()"), "{error}");
    }
    // Under the names of what is known, with other arguments than PyTorch's.
    for (program, says) in [
        (&b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R."[..], "would call `os.system`"),
        (b"\x80\x04\x8c\x05posix\x8c\x06system\x93.", "would call `posix.system`"),
        (b"\x80\x02c__builtin__\neval\n.", "would call `__builtin__.eval`"),
        (b"\x80\x02ctorch\nload\n.", "would call `torch.load`"),
        (b"\x80\x02ctorch\n\n.", "would call `torch.`"),
        (b"\x80\x02ccollections\nOrderedDict\n]\x85R.", "other arguments"),
        (b"\x80\x02)]R.", "calls what is no callable"),
        (b"\x80\x02iposix\nsystem\n.", "opcode 0x69 has no part"),
        (b"\x80\x02)oposix\nsystem\n.", "opcode 0x6f has no part"),
        (b"\x80\x02\x82\x01.", "opcode 0x82 has no part"),
        (b"\x80\x01.", "protocol 1"),
        (b"\x80\x02.", "more values than there are"),
        (b"\x80\x02(0.", "more values than there are"),
        (b"\x80\x02t.", "closes what it has not begun"),
        (b"\x80\x02h\x07.", "was not kept"),
        (b"\x80\x02q\x07.", "more values than there are"),
        (b"\x80\x02NNa.", "takes none"),
        (b"\x80\x02}(Nu.", "takes none"),
        (b"\x80\x02N}b.", "what has none"),
        (b"\x80\x02cargparse\nNamespace\n)\x81Nb.", "no dict"),
        (b"\x80\x02X\xff\xff\xff\xffabc", "ends too early"),
        (b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\xff", "ends too early"),
        (b"\x80\x02X\x01\0\0\0\xff.", "not UTF-8"),
        (b"\x80\x02NQ.", "something else than a storage"),
        (b"\x80\x02", "ends too early"),
    ] {
        let error = machine::run(program).unwrap_err();
        assert!(error.contains(says), "{}: {error}", program.escape_ascii());
    }
}

#[test]
fn plain_values_keep_their_kind() {
    let expected = json!({
        "lr": 6.5e-5, "n_epochs": 3, "adam_epsilon": null, "mlm": true, "dataset": "wikitext-103", "device": "cuda:0",
        "dims": [410, 2100], "large": 1_u64 << 40, "negative": -7, "nested": {"a": [1, 2.5, "x"]}, "infinite": "inf",
    });
    for name in ["settings_zip", "settings_legacy"] {
        let found = plain_values_of(&case(name)).unwrap();
        assert_eq!(json!(found), expected, "{name}");
    }
    let error = plain_values_of(&case("state_zip")).unwrap_err();
    assert!(error.contains("but a tensor"), "{error}");
    assert!(refused(&case("settings_zip")).contains("holds no dictionary of tensors"));
}

#[test]
fn integers_have_their_signs() {
    for (program, expected) in [
        (&b"\x80\x02J\xff\xff\xff\xff."[..], Value::Int(-1)),
        (b"\x80\x02M\xff\xff.", Value::Int(65_535)),
        (b"\x80\x02\x8a\x00.", Value::Int(0)),
        (b"\x80\x02\x8a\x01\xff.", Value::Int(-1)),
        (b"\x80\x02\x8a\x02\xff\x00.", Value::Int(255)),
        (b"\x80\x02\x8a\x09\x01\0\0\0\0\0\0\0\0.", Value::Long(&[1, 0, 0, 0, 0, 0, 0, 0, 0])),
        (b"\x80\x02G\x3f\xf8\0\0\0\0\0\0.", Value::Float(1.5)),
    ] {
        assert_eq!(machine::run(program).unwrap().value, expected);
    }
}

/// A pickle of `count` lists, each holding the one before as often as it is told.
fn lists_in_lists(count: usize, times: usize) -> Vec<u8> {
    let mut program = b"\x80\x02]q\0".to_vec();
    for _ in 0..count {
        program.extend(b"](");
        program.extend(b"h\0".repeat(times));
        program.extend(b"eq\0");
    }
    // As a setting.
    program.extend(b"}X\x01\0\0\0ah\0s.");
    program
}

#[test]
fn neither_depth_nor_sharing_nor_a_cycle_is_followed_for_ever() {
    for program in [
        lists_in_lists(100_000, 1),
        lists_in_lists(64, 2),
        lists_in_lists(20, 10),
        // A list that holds itself.
        b"\x80\x02}X\x01\0\0\0a]q\0h\0as.".to_vec(),
        // A dict that holds itself.
        b"\x80\x02}q\0X\x01\0\0\0ah\0s.".to_vec(),
    ] {
        let error = machine::run(&program).unwrap().plain_values().unwrap_err();
        assert!(error.contains("too many or too deep"), "{error}");
    }
    let error = machine::run(&lists_in_lists(2_000_000, 1)).unwrap_err();
    assert!(error.contains("opcodes"), "{error}");
}

#[test]
fn sizes_that_lie_are_seen_before_anything_is_taken() {
    let good = case("state_legacy");
    let at = |part: &[u8]| good.windows(part.len()).position(|w| w == part).unwrap();
    // The shape (2, 3) of the first weight, with its strides (3, 1).
    let shape = at(b"K\x02K\x03\x86");
    for (offset, byte, says) in
        [(1, 200, "leaves its 6 numbers"), (3, 255, "leaves its 6 numbers"), (0, b'J', "ends too")]
    {
        let mut file = good.clone();
        file[shape + offset] = byte;
        let error = refused(&file);
        assert!(error.contains(says) || error.contains("is no pickle that can be read"), "{error}");
    }
    // Cut inside the last storage, and with a storage that says it is longer.
    assert!(refused(&good[..good.len() - 1]).contains("is truncated"));
    let double = at(&0.1_f64.to_le_bytes()) - 8;
    assert_eq!(good[double..double + 8], 3_u64.to_le_bytes());
    let mut file = good.clone();
    file[double] = 4;
    assert!(refused(&file).contains("another length than its tensors expect: 3"));
}

#[test]
fn files_cut_anywhere_and_with_any_bit_turned_are_errors_or_read() {
    for name in
        ["state_zip", "state_legacy", "wrapped_zip", "settings_legacy", "hostile_legacy", "float8_zip"]
    {
        let good = case(name);
        for end in 0..good.len() {
            let cut = &good[..end];
            let whole = places(Path::new("a"), cut).is_ok() || plain_values_of(cut).is_ok();
            assert!(!whole, "{name} cut after {end} bytes");
        }
        // One bit of each byte, each time another.
        for bit in (0..8 * good.len()).step_by(7) {
            let mut file = good.clone();
            file[bit / 8] ^= 1 << (bit % 8);
            let _ = places(Path::new("a"), &file);
            let _ = plain_values_of(&file);
        }
    }
}

#[test]
fn every_bit_of_a_zip_that_numbers_depend_on_is_checked() {
    let good = case("wrapped_zip");
    let before = places(Path::new("a"), &good).unwrap();
    for bit in 0..8 * good.len() {
        let mut file = good.clone();
        file[bit / 8] ^= 1 << (bit % 8);
        if let Ok(after) = places(Path::new("a"), &file) {
            let numbers = |file: &[u8], places: &[(String, crate::tensors::place::Place)]| {
                let mut values = [0.0; 2];
                places[0].1.copy_rows(file, 0..2, &mut values);
                (places[0].0.clone(), values.map(f32::to_bits))
            };
            assert_eq!(numbers(&file, &after), numbers(&good, &before), "bit {bit}");
        }
    }
}
