//! The files of `torch.save` before PyTorch 1.6: four pickles, a list of storages, and the storages.
//!
//! Owns: their order and the lengths of the storages. Never: what is in the pickles.

use std::collections::BTreeMap;

use super::Saved;
use super::machine::{self, Pickle};
use super::value::{Node, Value};

/// `0x1950a86a20f9469cfc6c`, by which PyTorch knows its files.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// The only version of this form.
const VERSION: i64 = 1001;

/// Opens such a file.
pub(super) fn open(file: &[u8]) -> Result<Saved<'_>, String> {
    let mut at = 0;
    let mut next = || {
        let pickle = machine::run(&file[at..])?;
        at += pickle.end;
        Ok::<_, String>(pickle)
    };
    if next()?.value != Value::Long(&MAGIC) {
        return Err("is a pickle, but none of torch.save".into());
    }
    if next()?.value != Value::Int(VERSION) {
        return Err(format!("is of another version than {VERSION} of the older form of torch.save"));
    }
    if !is_little_endian(&next()?) {
        return Err("was saved in another byte order".into());
    }
    let (pickle, keys) = (next()?, next()?);
    let mut lengths = BTreeMap::new();
    for storage in pickle.storages() {
        let size = storage.numbers.map_or(1, |numbers| numbers.size);
        let bytes = storage.count.checked_mul(size).ok_or("a storage is longer than any file")?;
        if lengths.insert(storage.key, (storage.count, bytes)).is_some_and(|(_, other)| other != bytes) {
            return Err(format!("the storage {:?} has two lengths", storage.key));
        }
    }
    let Some(Node::List(keys)) = keys.node(keys.value) else {
        return Err("its list of storages is no list".into());
    };
    let mut storages = BTreeMap::new();
    for key in keys {
        let Value::Text(key) = key else { return Err("its list of storages is no list of names".into()) };
        let (count, bytes) =
            lengths.remove(key).ok_or_else(|| format!("the storage {key:?} is used nowhere, or twice"))?;
        let (head, rest) = file[at..].split_first_chunk::<8>().ok_or("ends before its last storage")?;
        if u64::from_le_bytes(*head) != count as u64 {
            return Err(format!("the storage {key:?} has another length than its tensors expect: {count}"));
        }
        if bytes > rest.len() {
            let found = rest.len();
            return Err(format!("is truncated: the storage {key:?} has {bytes} bytes, and {found} are left"));
        }
        storages.insert(*key, at + head.len()..at + head.len() + bytes);
        at += head.len() + bytes;
    }
    if let Some(key) = lengths.keys().next() {
        return Err(format!("the storage {key:?} is missing"));
    }
    Ok(Saved { pickle, storages })
}

fn is_little_endian(about: &Pickle<'_>) -> bool {
    let Some(Node::Dict(items)) = about.node(about.value) else { return false };
    items.contains(&(Value::Text("little_endian"), Value::Bool(true)))
}
