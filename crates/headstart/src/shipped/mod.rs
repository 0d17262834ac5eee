//! The model in the program: a small encoder that everyone has at once (docs/shipped-model.md).
//!
//! Owns: its files, and the folder of the cache they are unpacked to, which is then read as any published model's. Never:
//! how models are read (`checkpoint`), where caches are.

mod packing;

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files::{hex, write_atomic};

pub use packing::pack;

/// What it is called where a model is named.
pub const NAME: &str = "shipped";
/// The packed weights' file, as [`pack`] writes it.
pub const PACKED_FILE: &str = "model.int8.safetensors";
/// The file they become.
const WEIGHTS_FILE: &str = "model.safetensors";
const CARD: &str = include_str!("folder/README.md");
const WEIGHTS: &[u8] = include_bytes!("folder/model.int8.safetensors");
/// All others, by their path in the folder.
const FILES: [(&str, &[u8]); 6] = [
    ("README.md", CARD.as_bytes()),
    ("config.json", include_bytes!("folder/config.json")),
    ("tokenizer.json", include_bytes!("folder/tokenizer.json")),
    ("modules.json", include_bytes!("folder/modules.json")),
    ("sentence_bert_config.json", include_bytes!("folder/sentence_bert_config.json")),
    ("1_Pooling/config.json", include_bytes!("folder/1_Pooling/config.json")),
];

/// Its family, as `config.json` calls it in `model_type`.
pub const FAMILY: &str = "electra";
/// Its licence.
pub const LICENCE: &str = "apache-2.0";

/// Bytes of the packed weights.
pub fn packed_bytes() -> u64 {
    WEIGHTS.len() as u64
}

/// Its parameters.
pub fn parameters() -> u64 {
    packing::parameters(WEIGHTS)
}

/// Its model card: what it is made of, by which commands, and what it achieves.
pub fn card() -> &'static str {
    CARD
}

/// The SHA-256 of the packed weights, in hex.
pub fn sha256() -> String {
    use sha2::{Digest, Sha256};
    hex(&Sha256::digest(WEIGHTS))
}

/// The model's folder below a cache's: `shipped-` and the first figures of its sum, so that the models of different versions
/// of this program do not meet. What is missing there, or is not what this program holds, is written.
///
/// # Errors
/// [`Error::Io`] naming the file that cannot be written.
pub fn unpack(cache: &Path) -> Result<PathBuf> {
    let folder = cache.join(format!("{NAME}-{}", &sha256()[..12]));
    for (name, bytes) in FILES {
        write_where_it_differs(&folder.join(name), bytes)?;
    }
    let weights = packing::unpacked(WEIGHTS).map_err(|what| Error::Config {
        key: "model".into(),
        what: format!("the model in this program is damaged: {what}"),
        fix: "build or install the program anew".into(),
    })?;
    write_where_it_differs(&folder.join(WEIGHTS_FILE), &weights)?;
    Ok(folder)
}

fn write_where_it_differs(path: &Path, bytes: &[u8]) -> Result<()> {
    // Most times all is there; comparing takes some milliseconds.
    let same_length = fs::metadata(path).is_ok_and(|metadata| metadata.len() == bytes.len() as u64);
    if same_length && fs::read(path).is_ok_and(|found| found == bytes) {
        return Ok(());
    }
    write_atomic(path, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::published_name;

    #[test]
    fn it_is_unpacked_once_and_mended_where_it_is_damaged() {
        let cache = tempfile::tempdir().unwrap();
        let folder = unpack(cache.path()).unwrap();
        let weights = folder.join(WEIGHTS_FILE);
        let (whole, written) =
            (fs::read(&weights).unwrap(), fs::metadata(&weights).unwrap().modified().unwrap());
        assert_eq!(unpack(cache.path()).unwrap(), folder);
        assert_eq!(published_name(&folder.to_string_lossy()).as_deref(), Some(NAME));
        assert_eq!(fs::metadata(&weights).unwrap().modified().unwrap(), written, "it is written once");

        let mut damaged = whole.clone();
        damaged[whole.len() / 2] ^= 1;
        fs::write(&weights, damaged).unwrap();
        fs::remove_file(folder.join("config.json")).unwrap();
        unpack(cache.path()).unwrap();
        assert!(fs::read(&weights).unwrap() == whole && folder.join("config.json").is_file());
    }

    #[test]
    fn its_card_is_of_these_weights() {
        let digits = parameters().to_string();
        let split: Vec<&str> =
            digits.as_bytes().rchunks(3).rev().map(|part| std::str::from_utf8(part).unwrap()).collect();
        let (said, size) = (split.join(","), format!("{:.1} MB", packed_bytes() as f64 / 1e6));
        assert!(card().contains(&format!("{said} parameters")) && card().contains(&size), "{said}, {size}");
    }

    #[test]
    fn its_bytes_are_few() {
        let bytes = WEIGHTS.len() + FILES.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        assert!(bytes <= 12_000_000, "{bytes}");
    }
}
