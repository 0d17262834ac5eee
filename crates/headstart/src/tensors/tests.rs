//! Folders and files of other programs: what is read, what is refused and how.

use std::fs;
use std::path::Path;

use super::{Dtype, Tensors, write_tensors};
use crate::error::Result;

/// Says each of `parts`.
fn assert_says<T>(result: Result<T>, parts: &[&str]) {
    let Err(error) = result else { panic!("no error, but expected {parts:?}") };
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

/// A safetensors file: its header as text, and its data.
fn write_raw(path: &Path, header: &str, data: &[u8]) {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    fs::write(path, bytes).unwrap();
}

fn write(path: &Path, name: &str, values: &[f32]) {
    let shape = [values.len()];
    write_tensors(path, &[(name.to_owned(), &shape[..], values)]).unwrap();
}

#[test]
fn a_header_of_any_length_is_safetensors() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("model.safetensors");
    let header = r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    for length in 8..200 {
        write_raw(&path, &format!("{header:w$}", w = 8 * length), &1.5_f32.to_le_bytes());
        let tensors = Tensors::open(temp.path()).unwrap();
        assert_eq!(tensors.names().collect::<Vec<_>>(), ["x"], "{length}");
    }
}

#[test]
fn every_floating_point_type_of_safetensors_is_read() {
    let temp = tempfile::tempdir().unwrap();
    let header = r#"{"__metadata__":{"format":"pt"},
        "d":{"dtype":"F64","shape":[1],"data_offsets":[0,8]},
        "f":{"dtype":"F32","shape":[2,1],"data_offsets":[8,16]},
        "h":{"dtype":"F16","shape":[2],"data_offsets":[16,20]},
        "b":{"dtype":"BF16","shape":[],"data_offsets":[20,22]},
        "ids":{"dtype":"I64","shape":[1],"data_offsets":[22,30]},
        "q":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[30,32]},
        "none":{"dtype":"F32","shape":[0,7],"data_offsets":[32,32]}}"#;
    let mut data = 0.1_f64.to_le_bytes().to_vec();
    data.extend(bytemuck::cast::<[f32; 2], [u8; 8]>([1.5, -2.5]));
    data.extend([0x00, 0x3c, 0x01, 0x00]);
    data.extend([0x80, 0x3f]);
    data.extend([0; 10]);
    write_raw(&temp.path().join("model.safetensors"), header, &data);
    let tensors = Tensors::open(temp.path()).unwrap();
    assert_eq!(tensors.path(), temp.path());
    assert_eq!(tensors.path_of("f"), temp.path().join("model.safetensors"));
    assert_eq!(tensors.names().collect::<Vec<_>>(), ["b", "d", "f", "h", "ids", "none", "q"]);
    assert_eq!((tensors.shape("f"), tensors.dtype("b")), (Some(&[2, 1][..]), Some(&Dtype::Bf16)));
    let read = |name, n| {
        let mut values = vec![0.0; n];
        tensors.copy_to(name, &mut values).map(|()| values)
    };
    assert_eq!(read("d", 1).unwrap(), [0.1]);
    assert_eq!(read("f", 2).unwrap(), [1.5, -2.5]);
    assert_eq!(read("h", 2).unwrap(), [1.0, 2_f32.powi(-24)]);
    assert_eq!(read("b", 1).unwrap(), [1.0]);
    assert_eq!(read("none", 0).unwrap(), [0.0; 0]);
    let mut row = [0.0];
    tensors.copy_rows_to("f", 1..2, &mut row).unwrap();
    assert_eq!(row.map(f32::to_bits), [-2.5_f32].map(f32::to_bits));
    for (name, n, parts) in [
        ("ids", 1, ["`ids` is stored as I64", "model.safetensors"]),
        ("q", 2, ["`q` is stored as F8_E4M3", "before it was quantised"]),
        ("f", 3, ["`f`: expected 3 numbers in rows 0..2", "found [2, 1]"]),
        ("x", 1, ["there is no tensor `x`", "use a model that has it"]),
    ] {
        assert_says(read(name, n), &parts);
    }
    #[expect(clippy::reversed_empty_ranges, reason = "what is refused")]
    for rows in [1..3, 2..1, 3..3, 0..usize::MAX] {
        assert_says(tensors.copy_rows_to("f", rows, &mut []), &["`f`: expected 0 numbers"]);
    }
}

#[test]
fn a_shape_that_no_memory_has_is_refused_even_where_there_is_nothing_in_it() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("a.safetensors");
    let header = r#"{"none":{"dtype":"F32","shape":[0,18446744073709551615,2],"data_offsets":[0,0]}}"#;
    write_raw(&path, header, &[]);
    assert_says(
        Tensors::open_file(&path),
        &["a.safetensors", "`none` cannot have the shape [0, 18446744073709551615, 2]"],
    );
}

#[test]
fn numbers_that_are_not_finite_are_named() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("a.safetensors");
    write(&path, "w", &[1.0, f32::INFINITY, 2.0]);
    let tensors = Tensors::open_file(&path).unwrap();
    assert_says(
        tensors.copy_to("w", &mut [0.0; 3]),
        &["a.safetensors", "`w` holds numbers that are not finite"],
    );
    assert_says(tensors.in_place("w"), &["`w` holds numbers that are not finite"]);
    tensors.copy_rows_to("w", 2..3, &mut [0.0]).unwrap();
    // Too large for f32.
    write_raw(&path, r#"{"d":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}"#, &1e300_f64.to_le_bytes());
    let tensors = Tensors::open_file(&path).unwrap();
    assert_says(tensors.copy_to("d", &mut [0.0]), &["`d` holds numbers that are not finite"]);
}

#[test]
fn parts_are_put_together_as_their_index_says() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    let (first, second) =
        (folder.join("model-00001-of-00002.safetensors"), folder.join("model-00002-of-00002.safetensors"));
    write(&first, "a", &[1.0]);
    write(&second, "b", &[2.0, 3.0]);
    let index = |map: &str| {
        fs::write(
            folder.join("model.safetensors.index.json"),
            format!("{{\"metadata\":{{}},\"weight_map\":{map}}}"),
        )
        .unwrap();
    };
    let good = r#"{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}"#;
    index(good);
    let tensors = Tensors::open(folder).unwrap();
    let mut values = [0.0; 2];
    tensors.copy_to("b", &mut values).unwrap();
    assert_eq!(
        (values.map(f32::to_bits), tensors.path_of("b")),
        ([2.0_f32, 3.0].map(f32::to_bits), &*second)
    );

    for (map, parts) in [
        (
            r#"{"a":"model-00002-of-00002.safetensors"}"#,
            &["index.json", "model-00002-of-00002.safetensors holds `a`", "it does not"][..],
        ),
        (
            r#"{"a":"model-00002-of-00002.safetensors","b":"model-00001-of-00002.safetensors"}"#,
            &["holds `a`", "which is in model-00001-of-00002.safetensors"],
        ),
        (
            r#"{"a":"model-00003-of-00002.safetensors"}"#,
            &["model-00003-of-00002.safetensors", "is missing", "fetch"],
        ),
        (r#"{"a":"../model.safetensors"}"#, &["index.json", "which is no name of a file beside it"]),
        (r#"{"a":"/model.safetensors"}"#, &["which is no name of a file beside it"]),
        (r#"{"a":""}"#, &["which is no name of a file beside it"]),
        (r#"{"a":1}"#, &["is no index of a model's files"]),
        ("[]", &["is no index of a model's files"]),
    ] {
        index(map);
        assert_says(Tensors::open(folder), parts);
    }
    // A tensor in two parts.
    write(&second, "a", &[2.0, 3.0]);
    index(good);
    assert_says(Tensors::open(folder), &["`a` is stored twice", "model-00001-of-00002.safetensors"]);
    // A truncated part.
    write(&second, "b", &[2.0, 3.0]);
    let bytes = fs::read(&second).unwrap();
    fs::write(&second, &bytes[..bytes.len() - 1]).unwrap();
    assert_says(
        Tensors::open(folder),
        &["model-00002-of-00002.safetensors", "8 bytes of data, the file has 7"],
    );
    // One whole file goes before its parts.
    write(&folder.join("model.safetensors"), "whole", &[1.0]);
    assert_eq!(Tensors::open(folder).unwrap().names().collect::<Vec<_>>(), ["whole"]);
}

#[test]
fn pickles_are_found_behind_safetensors() {
    let temp = tempfile::tempdir().unwrap();
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tensors/pickle/cases");
    let copy = |case: &str, name: &str| fs::copy(cases.join(case), temp.path().join(name)).unwrap();
    copy("state_zip.bin", "pytorch_model-00001-of-00001.bin");
    let map = r#"{"weight_map":{"0.bias":"pytorch_model-00001-of-00001.bin"}}"#;
    fs::write(temp.path().join("pytorch_model.bin.index.json"), map).unwrap();
    assert_eq!(Tensors::open(temp.path()).unwrap().shape("0.bias"), Some(&[2][..]));
    copy("wrapped_legacy.bin", "pytorch_model.bin");
    assert_eq!(Tensors::open(temp.path()).unwrap().names().collect::<Vec<_>>(), ["weight"]);
}

#[test]
fn a_header_whose_length_begins_like_a_pickle_is_none() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("model.safetensors");
    // Lengths of 128, of 640 (whose second byte is a pickle's protocol, too), and of more than 64 KiB.
    for length in [0x80, 0x280, 0x1_0280] {
        let header = r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        let header = header.to_owned() + &" ".repeat(length - header.len());
        write_raw(&path, &header, &2.5_f32.to_le_bytes());
        assert!(fs::read(&path).unwrap().starts_with(&[0x80]));
        let mut values = [0.0];
        Tensors::open_file(&path).unwrap().copy_to("x", &mut values).unwrap();
        assert_eq!(values[0].to_bits(), 2.5_f32.to_bits());
    }
}

#[test]
fn a_folder_without_weights_says_what_is_there_instead() {
    let temp = tempfile::tempdir().unwrap();
    assert_says(
        Tensors::open(temp.path()),
        &["holds no weights", "model.safetensors.index.json", "pytorch_model.bin"],
    );
    fs::write(temp.path().join("model.gguf"), "").unwrap();
    assert_says(Tensors::open(temp.path()), &["model.gguf is there, in GGUF format", "safetensors"]);
    fs::write(temp.path().join("a.pth"), "").unwrap();
    assert_says(Tensors::open(temp.path()), &["a.pth is there", "rename a.pth to pytorch_model.bin"]);
    let path = temp.path().join("model.safetensors");
    fs::write(&path, "version https://git-lfs.github.com/spec/v1\noid sha256:0\n").unwrap();
    assert_says(Tensors::open(temp.path()), &["Git LFS pointer", "git lfs pull"]);
    fs::write(&path, "").unwrap();
    assert_says(Tensors::open(temp.path()), &["is not a whole safetensors file", "first 8 bytes", "fetch"]);
    assert_says(Tensors::open_file(temp.path()), &["is not a file"]);
    assert_says(Tensors::open_file(&temp.path().join("gone")), &["gone: is missing"]);
}
