//! config.toml of a run: the settings, sealed with their own sum, so that nothing continues with other ones unnoticed.
//!
//! Owns: the seal. Never: what the settings mean.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::checkpoint::disk::read_file;
use crate::checkpoint::{ENVIRONMENT_FILE, RUN_CONFIG_FILE};
use crate::error::{Error, Result};
use crate::files::damaged;
use crate::files::hex;

/// Which form a run folder has, as environment.json says; there was no seal in the first.
pub(super) const RUN_FORMAT: u64 = 2;
/// Before the sum, in the last line.
const SEAL: &str = "# sha256 of the lines above: ";

/// The settings with their seal.
pub(super) fn sealed(config_toml: &str) -> String {
    let text = format!("{}\n", config_toml.trim_end());
    let sum = sum_of(&text);
    format!("{text}{SEAL}{sum}\n")
}

/// The settings that the run in `dir` was started with, as TOML, and their sum.
///
/// # Errors
/// [`Error::Checkpoint`] when they are not what was written.
pub(super) fn read_settings(dir: &Path) -> Result<(String, String)> {
    let path = dir.join(RUN_CONFIG_FILE);
    let text =
        String::from_utf8(read_file(&path)?).map_err(|e| damaged(&path, format!("is not UTF-8: {e}")))?;
    let sum = match text.rsplit_once(SEAL) {
        Some((settings, seal)) if seal.trim_end() == sum_of(settings) => seal.trim_end().to_owned(),
        None if !has_seals(dir) => sum_of(&text),
        _ => {
            return Err(Error::Checkpoint {
                path: path.clone(),
                what: "is not what the run was started with, and a continued run keeps its settings".into(),
                fix: format!(
                    "undo the change; to train with other settings, start a new run: \
                     --config {} --out ANOTHER_FOLDER",
                    path.display()
                ),
            });
        }
    };
    Ok((text, sum))
}

/// The sum of settings that are not on this rank's disk.
pub(super) fn settings_sum(config_toml: &str) -> String {
    sum_of(&format!("{}\n", config_toml.trim_end()))
}

fn sum_of(settings: &str) -> String {
    hex(&Sha256::digest(settings))
}

/// Whether the run in `dir` was begun by a version that seals its settings.
fn has_seals(dir: &Path) -> bool {
    let environment = read_file(&dir.join(ENVIRONMENT_FILE)).ok();
    let environment: Option<serde_json::Value> = environment.and_then(|e| serde_json::from_slice(&e).ok());
    // What cannot be read was altered, too.
    environment.is_none_or(|environment| environment.get("run_format").is_some())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A run's folder with these settings, of the first form or of this one.
    fn folder(settings: &str, environment: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(RUN_CONFIG_FILE), settings).unwrap();
        fs::write(dir.path().join(ENVIRONMENT_FILE), environment).unwrap();
        dir
    }

    #[test]
    fn no_flipped_bit_and_no_lost_line_goes_unnoticed() {
        let text = sealed("[train]\nseed = 42\ndropout = 0.1\n");
        let read = |text: &[u8]| {
            let dir = folder("", r#"{"run_format": 2}"#);
            fs::write(dir.path().join(RUN_CONFIG_FILE), text).unwrap();
            read_settings(dir.path())
        };
        let (settings, sum) = read(text.as_bytes()).unwrap();
        assert!(settings == text && sum.len() == 64);
        for at in 0..text.len() {
            let mut other = text.clone().into_bytes();
            other[at] ^= 1;
            // Only the very last line end may be another blank.
            assert!(read(&other).is_err() || at + 1 == text.len(), "byte {at}");
            assert!(at + 1 == text.len() || read(&text.as_bytes()[..at]).is_err(), "cut at {at}");
        }
        let error = read(text.replace("42", "43").as_bytes()).unwrap_err().to_string();
        assert!(
            error.contains("a continued run keeps its settings") && error.contains("--config"),
            "{error}"
        );
    }

    #[test]
    fn runs_of_before_the_seal_are_read() {
        let old = folder("seed = 1\n", r#"{"headstart": "0.1.0"}"#);
        assert_eq!(read_settings(old.path()).unwrap().0, "seed = 1\n");
        for environment in [r#"{"run_format": 2}"#, "{", ""] {
            let new = folder("seed = 1\n", environment);
            assert!(read_settings(new.path()).is_err(), "{environment}");
        }
    }
}
