//! What `torch.save` writes, read by a machine that can make tensors and plain values and nothing else.
//!
//! A pickle is a program for a stack machine whose `REDUCE` calls whatever function the file names. Here it names one of
//! about ten ([`value::Callable`]), none of which does anything but describe data; any other name is an error.
//!
//! Owns: state dicts and the settings saved beside them. Never: executes anything, or takes more memory than a small
//! multiple of the file's list of tensors.

mod legacy;
mod machine;
mod numbers;
mod state_dict;
mod value;
mod zipped;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use headstart_engine::FileMap;

use crate::error::Result;
use crate::files::open_regular;
use crate::tensors::foreign::unusable;
use crate::tensors::place::Place;
use machine::Pickle;

/// The way out of a file that is damaged, or holds more than tensors.
const PLAIN: &str = "fetch the file again, or save the weights alone in Python: as safetensors, or with \
                     `torch.save(model.state_dict(), path)`";

/// A pickle and where its storages lie in the file, by key.
struct Saved<'a> {
    pickle: Pickle<'a>,
    storages: BTreeMap<&'a str, Range<usize>>,
}

/// Whether a file begins like one of `torch.save`. The length that a safetensors file begins with can look like a pickle's
/// first byte, but JSON stands behind it.
pub(super) fn is_torch(file: &[u8]) -> bool {
    zipped::is_zip(file) || (file.starts_with(&[machine::PROTO]) && file.get(size_of::<u64>()) != Some(&b'{'))
}

/// Each tensor of a file's state dict, and where it lies.
pub(super) fn places(path: &Path, file: &[u8]) -> Result<Vec<(String, Place)>> {
    let bad = |what: String| unusable(path, what, PLAIN);
    let saved = open(file).map_err(bad)?;
    state_dict::places(&saved).map_err(bad)
}

/// The settings that a training program saved with `torch.save`: an `argparse.Namespace`, or a dict with text as keys, of
/// numbers, texts, lists and dicts of these. Tuples become lists, and a `torch.device` its name.
///
/// # Errors
/// [`crate::Error::Io`] and [`crate::Error::BadInput`] when there is no such file; [`crate::Error::Checkpoint`] when it
/// holds anything else or is damaged.
pub fn plain_values(path: &Path) -> Result<BTreeMap<String, serde_json::Value>> {
    open_regular(path)?;
    let file = FileMap::open(path)?;
    let fix = "give the settings by their flags";
    plain_values_of(&file).map_err(|what| unusable(path, what, fix))
}

fn plain_values_of(file: &[u8]) -> Result<BTreeMap<String, serde_json::Value>, String> {
    if !is_torch(file) {
        return Err("is no file of torch.save".into());
    }
    open(file)?.pickle.plain_values()
}

fn open(file: &[u8]) -> Result<Saved<'_>, String> {
    if zipped::is_zip(file) { zipped::open(file) } else { legacy::open(file) }
}

#[cfg(test)]
mod tests;
