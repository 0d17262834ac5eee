//! Which files of a folder hold a model's weights.
//!
//! Owns: the names that other programs give them, and the index of weights in several files. Never: what is in a file of
//! weights (`foreign`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::files::read_regular;
use crate::tensors::foreign::{FETCH, Tensors, unusable};

/// One file, or the index of several, in the order in which they are looked for.
const NAMES: [(&str, &str); 2] = [
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
];
/// An index has a line per tensor.
const MOST_INDEX_BYTES: u64 = 64 << 20;

/// `model.safetensors.index.json`: which file holds which tensor.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Opens the weights of a folder, see [`Tensors::open`].
pub(super) fn open(folder: &Path) -> Result<Tensors> {
    for (single, index) in NAMES {
        if folder.join(single).exists() {
            let mut tensors = Tensors::none(folder);
            tensors.add_file(&folder.join(single))?;
            return Ok(tensors);
        }
        if folder.join(index).exists() {
            return open_parts(folder, &folder.join(index));
        }
    }
    Err(nothing(folder))
}

fn open_parts(folder: &Path, index_path: &Path) -> Result<Tensors> {
    let bad = |what: String| unusable(index_path, what, FETCH);
    let length = fs::metadata(index_path).map_err(Error::io("read", index_path))?.len();
    if length > MOST_INDEX_BYTES {
        return Err(bad(format!("has {length} bytes, far more than a list of tensors needs")));
    }
    let index: Index = serde_json::from_slice(&read_regular(index_path)?)
        .map_err(|e| bad(format!("is no index of a model's files: {e}")))?;
    let mut tensors = Tensors::none(folder);
    let parts: BTreeSet<&str> = index.weight_map.values().map(String::as_str).collect();
    let mut held = BTreeMap::new();
    for part in parts {
        // The index may come from anywhere and must not lead out of its folder.
        let plain = !part.is_empty() && !part.starts_with('.') && !part.contains(['/', '\\', ':', '\0']);
        if !plain {
            return Err(bad(format!("names {part:?}, which is no name of a file beside it")));
        }
        for name in tensors.add_file(&folder.join(part))? {
            held.insert(name, part);
        }
    }
    for (name, part) in &index.weight_map {
        if held.get(name) != Some(&part.as_str()) {
            let found = held.get(name).map_or(String::new(), |other| format!(", which is in {other}"));
            return Err(bad(format!("says that {part} holds `{name}`{found}; it does not")));
        }
    }
    Ok(tensors)
}

/// What is said where no weights are, which depends on what is there instead.
fn nothing(folder: &Path) -> Error {
    const OTHERS: [(&str, &str); 7] = [
        (".gguf", "GGUF"),
        (".onnx", "ONNX"),
        (".h5", "TensorFlow's or Keras'"),
        (".msgpack", "Flax'"),
        (".ckpt", "TensorFlow's or Lightning's"),
        (".pth", "PyTorch's"),
        (".pt", "PyTorch's"),
    ];
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names: BTreeSet<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let looked_for = NAMES.map(|(single, index)| format!("{single}, {index}")).join(", ");
    let other = names.iter().find_map(|name| {
        OTHERS.iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, format)| (name, format))
    });
    let (instead, fix) = match other {
        Some((name, &"PyTorch's")) => {
            (format!("; {name} is there"), format!("rename {name} to pytorch_model.bin"))
        }
        Some((name, format)) => (
            format!("; {name} is there, in {format} format"),
            "use a model in safetensors, or save it so with `model.save_pretrained(folder)`".into(),
        ),
        None => (String::new(), "name a folder that holds a model, or fetch its weights, too".into()),
    };
    Error::Missing {
        what: format!("{} holds no weights: looked for {looked_for}{instead}", folder.display()),
        fix,
    }
}
