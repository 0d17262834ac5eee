//! Folders of small published models: what `tests/golden/hf` has of a family, in the files that people have.
//!
//! Owns: how such a folder is put together. Never: judges a result.

use std::fs;
use std::path::Path;

use headstart::tensors::{Tensors, write_tensors};
use serde_json::{Map, Value};

use super::Place;

/// Puts the model of a case together in the folder `name`, with a vocabulary of its size that spells every word of
/// lower-case letters.
pub fn folder(place: &Place, name: &str, case: &str) {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/hf");
    place.write(&format!("{name}/config.json"), fs::read(goldens.join(format!("{case}.json"))).unwrap());
    place.write(&format!("{name}/vocab.txt"), vocabulary(97));
    let tensors = Tensors::open_file(&goldens.join(format!("{case}.safetensors"))).unwrap();
    write(place, name, &tensors, |_| true);
}

/// Leaves the tensors that `keep` is true of.
pub fn keep_tensors(place: &Place, name: &str, keep: impl Fn(&str) -> bool) {
    let tensors = Tensors::open_file(&place.path(&format!("{name}/model.safetensors"))).unwrap();
    // The file is read where it lies.
    write(place, &format!("{name}/new"), &tensors, keep);
    fs::rename(
        place.path(&format!("{name}/new/model.safetensors")),
        place.path(&format!("{name}/model.safetensors")),
    )
    .unwrap();
    fs::remove_dir(place.path(&format!("{name}/new"))).unwrap();
}

/// Changes the config.json of a folder.
pub fn configure(place: &Place, name: &str, change: impl FnOnce(&mut Map<String, Value>)) {
    let path = format!("{name}/config.json");
    let mut config = place.json_file(&path).as_object().unwrap().clone();
    change(&mut config);
    place.write(&path, Value::Object(config).to_string());
}

fn write(place: &Place, name: &str, tensors: &Tensors, keep: impl Fn(&str) -> bool) {
    fs::create_dir_all(place.path(name)).unwrap();
    // Beside its weights a golden has what they compute.
    let computed = [
        "hidden",
        "logits",
        "input_ids",
        "token_type_ids",
        "labels",
        "lengths",
        "loss",
        "losses10",
        "grad_norms10",
    ];
    let is_weight =
        |name: &&str| !computed.contains(name) && !name.starts_with("grad.") && !name.starts_with("after10.");
    let read = |name: &str| {
        let shape = tensors.shape(name).unwrap().to_vec();
        let mut values = vec![0.0; shape.iter().product()];
        tensors.copy_to(name, &mut values).unwrap();
        (name.to_owned(), shape, values)
    };
    let kept: Vec<_> = tensors.names().filter(is_weight).filter(|name| keep(name)).map(read).collect();
    let parts: Vec<_> =
        kept.iter().map(|(name, shape, values)| (name.clone(), &shape[..], &values[..])).collect();
    write_tensors(&place.path(&format!("{name}/model.safetensors")), &parts).unwrap();
}

/// A WordPiece vocabulary of so many pieces, one a line.
pub fn vocabulary(pieces: usize) -> String {
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(String::from);
    let letters = ('a'..='z').map(String::from).chain(('a'..='z').map(|letter| format!("##{letter}")));
    let words =
        ["the", "of", "and", "in", "to", "on", "is", "was", ".", ",", "water", "land", "river", "lake"];
    let all = special.into_iter().chain(letters).chain(words.map(String::from));
    let unused = (0..).map(|number| format!("[unused{number}]"));
    all.chain(unused).take(pieces).map(|piece| piece + "\n").collect()
}
