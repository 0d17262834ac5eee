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
    let tensors = read(&goldens.join(format!("{case}.safetensors")));
    write(&place.path(&format!("{name}/model.safetensors")), &tensors);
}

/// Leaves the tensors that `keep` is true of.
pub fn keep_tensors(place: &Place, name: &str, keep: impl Fn(&str) -> bool) {
    change(place, name, |tensors| tensors.retain(|(tensor, ..)| keep(tensor)));
}

/// Gives a tensor another shape, and zeros.
pub fn replace_tensor(place: &Place, name: &str, tensor: &str, shape: &[usize]) {
    let zeros = (tensor.to_owned(), shape.to_vec(), vec![0.0; shape.iter().product()]);
    change(place, name, |tensors| {
        tensors.retain(|(other, ..)| other != tensor);
        tensors.push(zeros);
    });
}

/// Puts a tensor into a file, in place of the one of its name, if there is one.
pub fn put_tensor(place: &Place, file: &str, tensor: &str, shape: &[usize], values: Vec<f32>) {
    let path = place.path(file);
    let mut tensors = read(&path);
    tensors.retain(|(other, ..)| other != tensor);
    tensors.push((tensor.to_owned(), shape.to_vec(), values));
    write(&path, &tensors);
}

/// Changes the config.json of a folder.
pub fn configure(place: &Place, name: &str, change: impl FnOnce(&mut Map<String, Value>)) {
    let path = format!("{name}/config.json");
    let mut config = place.json_file(&path).as_object().unwrap().clone();
    change(&mut config);
    place.write(&path, Value::Object(config).to_string());
}

/// Name, shape, numbers.
type Tensor = (String, Vec<usize>, Vec<f32>);

fn change(place: &Place, name: &str, change: impl FnOnce(&mut Vec<Tensor>)) {
    let path = place.path(&format!("{name}/model.safetensors"));
    let mut tensors = read(&path);
    change(&mut tensors);
    write(&path, &tensors);
}

fn read(path: &Path) -> Vec<Tensor> {
    let file = Tensors::open_file(path).unwrap();
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
    let tensor = |name: &str| {
        let shape = file.shape(name).unwrap().to_vec();
        let mut values = vec![0.0; shape.iter().product()];
        file.copy_to(name, &mut values).unwrap();
        (name.to_owned(), shape, values)
    };
    file.names().filter(is_weight).map(tensor).collect()
}

fn write(path: &Path, tensors: &[Tensor]) {
    let parts: Vec<_> =
        tensors.iter().map(|(name, shape, values)| (name.clone(), &shape[..], &values[..])).collect();
    // What is replaced may be mapped.
    let new = path.with_extension("new");
    write_tensors(&new, &parts).unwrap();
    fs::rename(new, path).unwrap();
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
